//! A5: the permission model against a reference of its own, over random trees, users and modes.

use crate::support::{Rng, World, delete, list, root};
use hadal_namesystem::Caller;
use hadal_proto::FaultClass;
use hadal_proto::client::{Request, Response};
use std::collections::BTreeMap;

/// What the reference knows of an inode.
#[derive(Clone, Debug)]
struct Node {
    owner: String,
    group: String,
    mode: u16,
    dir: bool,
}

/// The reference: paths to nodes, and POSIX rules straight from the book.
#[derive(Clone, Default)]
struct Model(BTreeMap<String, Node>);

fn parent(path: &str) -> String {
    match path.rfind('/') {
        Some(0) | None => "/".into(),
        Some(at) => path[..at].into(),
    }
}

impl Model {
    fn may(&self, who: &Caller, path: &str, bits: u16) -> bool {
        let node = &self.0[path];
        let class = if node.owner == who.user {
            6
        } else if who.groups.contains(&node.group) {
            3
        } else {
            0
        };
        who.superuser || node.mode >> class & bits == bits
    }

    fn search(&self, who: &Caller, path: &str) -> bool {
        let mut at = path.to_string();
        while at != "/" {
            at = parent(&at);
            if self.0.contains_key(&at) && !self.may(who, &at, 1) {
                return false;
            }
        }
        true
    }

    fn ancestor(&self, path: &str) -> String {
        let mut at = parent(path);
        while !self.0.contains_key(&at) {
            at = parent(&at);
        }
        at
    }

    fn sticky(&self, who: &Caller, path: &str) -> bool {
        let above = &self.0[&parent(path)];
        who.superuser
            || above.mode & 0o1000 == 0
            || above.owner == who.user
            || self.0[path].owner == who.user
    }

    fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a String, &'a Node)> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        self.0
            .iter()
            .filter(move |(at, _)| at.starts_with(&prefix) && at.as_str() != "/")
    }

    fn may_remove(&self, who: &Caller, path: &str) -> bool {
        let up = parent(path);
        if !self.search(who, path) || !self.may(who, &up, 2) || !self.sticky(who, path) {
            return false;
        }
        let dirs = self
            .below(path)
            .filter(|(_, node)| node.dir)
            .map(|(at, _)| at.as_str())
            .chain(self.0[path].dir.then_some(path));
        for dir in dirs {
            if self.below(dir).next().is_some() && !self.may(who, dir, 7) {
                return false;
            }
        }
        self.below(path).all(|(at, _)| self.sticky(who, at))
    }
}

fn grow(rng: &mut Rng, world: &mut World) -> Model {
    let mut model = Model::default();
    let root_node = Node {
        owner: "hdfs".into(),
        group: "supergroup".into(),
        mode: *rng.pick(&[0o755, 0o777, 0o1777, 0o775]),
        dir: true,
    };
    world.ok(Request::SetPermission {
        path: "/".into(),
        permission: root_node.mode,
    });
    model.0.insert("/".into(), root_node);
    let mut dirs = vec!["/".to_string()];
    for at in 0..14 {
        let up = rng.pick(&dirs).clone();
        let path = format!("{}/n{at}", up.trim_end_matches('/'));
        let dir = rng.chance(60);
        if dir {
            world.mkdirs(&path);
            dirs.push(path.clone());
        } else {
            world.touch(&path);
        }
        model.0.insert(
            path,
            Node {
                owner: rng.pick(&["alice", "bob", "carol"]).to_string(),
                group: rng.pick(&["staff", "users", "empty"]).to_string(),
                mode: *rng.pick(&[0o755, 0o700, 0o770, 0o1777, 0o777, 0o640, 0o711, 0o007, 0]),
                dir,
            },
        );
    }
    for (path, node) in &model.0 {
        if path == "/" {
            continue;
        }
        world.ok(Request::SetOwner {
            path: path.clone(),
            owner: node.owner.clone(),
            group: node.group.clone(),
        });
        world.ok(Request::SetPermission {
            path: path.clone(),
            permission: node.mode,
        });
    }
    model
}

/// A5, small: 30,000 checks; any difference is a bug in one of the two.
#[test]
fn a5_permissions_agree_with_the_reference() {
    let callers = [
        Caller::user("alice", &["staff"]),
        Caller::user("bob", &["users", "staff"]),
        Caller::user("carol", &[]),
        Caller::user("dave", &["users"]),
        Caller::superuser("hdfs"),
    ];
    let (mut checks, mut refusals) = (0, 0);
    let mut seed = 0;
    while checks < 30_000 {
        seed += 1;
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        let model = grow(&mut rng, &mut world);
        let paths: Vec<_> = model.0.keys().skip(1).cloned().collect();
        for _ in 0..60 {
            let path = rng.pick(&paths).clone();
            for who in &callers {
                let node = &model.0[&path];
                let search = model.search(who, &path);
                let owns = who.superuser || node.owner == who.user;
                let free = format!("{}/free", path.trim_end_matches('/'));
                // Refused calls change nothing and allowed ones are undone, so that each check sees the model's tree.
                let cases = [
                    (
                        Request::GetFileInfo { path: path.clone() },
                        search,
                        "getFileInfo",
                    ),
                    (
                        list(&path, "", 0),
                        search && (!node.dir || model.may(who, &path, 5)),
                        "getListing",
                    ),
                    (
                        Request::GetContentSummary { path: path.clone() },
                        search
                            && (!node.dir || model.may(who, &path, 5))
                            && model
                                .below(&path)
                                .all(|(at, node)| !node.dir || model.may(who, at, 5)),
                        "getContentSummary",
                    ),
                    (
                        Request::SetPermission {
                            path: path.clone(),
                            permission: node.mode,
                        },
                        search && owns,
                        "setPermission",
                    ),
                    (
                        Request::SetOwner {
                            path: path.clone(),
                            owner: String::new(),
                            group: node.group.clone(),
                        },
                        search && owns && (who.superuser || who.groups.contains(&node.group)),
                        "setOwner, group",
                    ),
                    (
                        Request::SetOwner {
                            path: path.clone(),
                            owner: node.owner.clone(),
                            group: String::new(),
                        },
                        search && owns,
                        "setOwner, owner",
                    ),
                    (
                        Request::SetTimes {
                            path: path.clone(),
                            modified_ms: 1,
                            accessed_ms: 1,
                        },
                        search && model.may(who, &path, 2),
                        "setTimes",
                    ),
                ];
                for (request, allowed, what) in cases {
                    checks += 1;
                    refusals += u32::from(!allowed);
                    let outcome = world.call_as(who, 3, request);
                    check(seed, who, &path, what, allowed, outcome.map(|_| ()));
                }
                if node.dir {
                    let allowed = search && model.may(who, &path, 1) && model.may(who, &path, 2);
                    let made = world.call_as(who, 3, crate::support::mkdirs(&free));
                    check(seed, who, &path, "mkdirs", allowed, made.map(|_| ()));
                    if allowed {
                        world.ok(delete(&free, false));
                    }
                    checks += 1;
                }
            }
        }
        // Removal at last, since it changes the tree: one per tree.
        let (path, who) = (rng.pick(&paths).clone(), rng.pick(&callers));
        let allowed = model.may_remove(who, &path);
        let outcome = world.call_as(who, 3, delete(&path, true));
        check(seed, who, &path, "delete", allowed, outcome.map(|_| ()));
    }
    assert!(
        refusals > 5_000,
        "only {refusals} of {checks} were refusals"
    );
}

fn check(
    seed: u64,
    who: &Caller,
    path: &str,
    what: &str,
    allowed: bool,
    outcome: Result<(), hadal_proto::Fault>,
) {
    match outcome {
        Ok(()) => assert!(
            allowed,
            "seed {seed}: {what} {path} by {} went through",
            who.user
        ),
        Err(fault) => {
            assert_eq!(
                fault.class,
                FaultClass::AccessDenied,
                "seed {seed}: {what} {path}: {fault:?}"
            );
            assert!(
                !allowed,
                "seed {seed}: {what} {path} by {}: {}",
                who.user, fault.message
            );
        }
    }
}

/// Delete and rename against the reference, each on a tree of its own.
#[test]
fn a5_removal_agrees_with_the_reference() {
    let (mut yes, mut no) = (0, 0);
    for seed in 10_000..10_600 {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        let model = grow(&mut rng, &mut world);
        let paths: Vec<_> = model.0.keys().skip(1).cloned().collect();
        let path = rng.pick(&paths).clone();
        let user = *rng.pick(&["alice", "bob", "carol"]);
        let who = Caller::user(user, &["staff"]);
        let up = parent(&path);
        let (request, allowed, what) = if rng.chance(50) {
            (delete(&path, true), model.may_remove(&who, &path), "delete")
        } else {
            let to = format!("{}/moved", up.trim_end_matches('/'));
            let allowed =
                model.search(&who, &path) && model.may(&who, &up, 2) && model.sticky(&who, &path);
            (crate::support::rename(&path, &to, false), allowed, "rename")
        };
        let outcome = world.call_as(&who, 3, request);
        check(seed, &who, &path, what, allowed, outcome.map(|_| ()));
        if allowed {
            yes += 1;
        } else {
            no += 1;
        }
        assert!(model.ancestor(&path) == up);
    }
    assert!(yes > 50 && no > 50, "{yes} allowed, {no} refused");
}

/// The texts scripts and people know.
#[test]
fn refusals_read_as_hdfs_words_them() {
    let mut world = World::new();
    world.mkdirs("/home/alice");
    world.ok(Request::SetOwner {
        path: "/home/alice".into(),
        owner: "alice".into(),
        group: "staff".into(),
    });
    let bob = Caller::user("bob", &["users"]);
    let denied = |world: &mut World, request| {
        let fault = world.call_as(&bob, 2, request).unwrap_err();
        assert_eq!(fault.class, FaultClass::AccessDenied);
        fault.message
    };
    assert_eq!(
        denied(&mut world, crate::support::mkdirs("/home/alice/x")),
        "Permission denied: user=bob, access=WRITE, inode=\"/home/alice\":alice:staff:drwxr-xr-x"
    );
    let chmod = Request::SetPermission {
        path: "/home/alice".into(),
        permission: 0,
    };
    assert_eq!(
        denied(&mut world, chmod),
        "Permission denied. user=bob is not the owner of inode=/home/alice"
    );
    let alice = Caller::user("alice", &["staff"]);
    let give = |owner: &str, group: &str| Request::SetOwner {
        path: "/home/alice".into(),
        owner: owner.into(),
        group: group.into(),
    };
    let fault = world.call_as(&alice, 2, give("bob", "")).unwrap_err();
    assert_eq!(
        fault.message,
        "User alice is not a super user (non-super user cannot change owner)."
    );
    let fault = world.call_as(&alice, 2, give("", "wheel")).unwrap_err();
    assert_eq!(fault.message, "User alice does not belong to wheel");
    world.ok(Request::SetPermission {
        path: "/home".into(),
        permission: 0o1777,
    });
    assert_eq!(
        denied(&mut world, delete("/home/alice", true)),
        "Permission denied by sticky bit: user=bob, path=\"/home/alice\":alice:staff:drwxr-xr-x, parent=\"/home\":hdfs:supergroup:drwxrwxrwt"
    );
    let listed = world.call_as(
        &bob,
        2,
        Request::ListOpenFiles {
            after: hadal_types::InodeId(0),
            path: String::new(),
        },
    );
    assert_eq!(listed.unwrap_err().class, FaultClass::AccessDenied);
}

/// Permissions can be switched off as a whole.
#[test]
fn permissions_can_be_disabled() {
    let mut config = crate::support::config();
    config.permissions_enabled = false;
    let mut world = World::with(config);
    let nobody = Caller::user("nobody", &[]);
    let made = world.call_as(&nobody, 2, crate::support::mkdirs("/x"));
    assert_eq!(made, Ok(Response::Flag { value: true }));
    assert_eq!(world.stat("/x").unwrap().owner, "nobody");
    let _ = root();
}
