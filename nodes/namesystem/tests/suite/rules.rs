//! What namespace calls do and refuse, as HDFS does (behaviour 2.1).

use crate::support::{World, create, delete, list, mkdirs, overwrite, rename, root};
use hadal_proto::FaultClass::{
    AlreadyExists, InvalidArgument, IsDirectory, NotEmpty, NotFound, ParentNotDirectory,
};
use hadal_proto::client::{Request, Response};
use hadal_types::InodeId;

const YES: Response = Response::Flag { value: true };
const NO: Response = Response::Flag { value: false };

fn tree() -> World {
    let mut world = World::new();
    world.mkdirs("/d/e");
    world.mkdirs("/empty");
    world.touch("/d/f");
    world.touch("/g");
    world
}

#[test]
fn mkdirs_makes_parents_unless_told_not_to() {
    let mut world = tree();
    world.mkdirs("/x/y/z");
    let status = world.stat("/x/y").unwrap();
    assert!(status.is_dir);
    assert_eq!(
        (status.permission, &status.owner[..], &status.group[..]),
        (0o755, "hdfs", "supergroup")
    );
    assert_eq!(world.ok(mkdirs("/x/y")), YES, "there already");
    assert_eq!(world.ok(mkdirs("/")), YES);
    let single = |path: &str| Request::Mkdirs {
        path: path.into(),
        permission: 0o1711,
        create_parent: false,
    };
    assert_eq!(world.ok(single("/x/w")), YES);
    assert_eq!(world.stat("/x/w").unwrap().permission, 0o1711);
    let (class, message) = world.fails(single("/no/where"));
    assert_eq!(class, NotFound);
    assert_eq!(message, "Parent directory doesn't exist: /no");
    assert_eq!(world.fails(mkdirs("/g")).0, AlreadyExists);
    let (class, message) = world.fails(mkdirs("/g/sub"));
    assert_eq!(class, ParentNotDirectory);
    assert_eq!(message, "/g (is not a directory)");
    assert_eq!(world.fails(mkdirs("/a//b")).0, InvalidArgument);
    assert_eq!(world.fails(mkdirs("/a/../b")).0, InvalidArgument);
}

/// Directories made on the way get u+wx, so that their maker can go on (HDFS addImplicitUwx).
#[test]
fn mkdirs_gives_parents_write_and_search_for_their_owner() {
    let mut world = World::new();
    world.ok(Request::Mkdirs {
        path: "/p/q".into(),
        permission: 0o444,
        create_parent: true,
    });
    assert_eq!(world.stat("/p").unwrap().permission, 0o744);
    assert_eq!(world.stat("/p/q").unwrap().permission, 0o444);
}

#[test]
fn create_answers_the_new_files_status() {
    let mut world = tree();
    let Response::Created { status, .. } = world.ok(create("/new/dir/file")) else {
        panic!("a status");
    };
    assert!(status.under_construction && !status.is_dir);
    assert_eq!((status.length, status.replication), (0, 1));
    assert_eq!(status.block_size, 1 << 20);
    assert_eq!(world.stat("/new/dir/file").as_ref(), Some(&*status));
    assert_eq!(
        world.ok(Request::IsFileClosed {
            path: "/new/dir/file".into()
        }),
        NO
    );
    assert_eq!(world.fails(create("/d")).0, AlreadyExists);
    assert_eq!(world.fails(create("/")).0, AlreadyExists);
    let (class, message) = world.fails(create("/g"));
    assert_eq!(class, AlreadyExists);
    assert!(message.contains("/g for client"), "{message}");
    assert_eq!(world.fails(create("/g/x")).0, ParentNotDirectory);
    assert_eq!(world.fails(overwrite("/no/file")).0, NotFound);
    let before = world.stat("/g").unwrap();
    world.ok(overwrite("/g"));
    let after = world.stat("/g").unwrap();
    assert_ne!(before.inode, after.inode);
    assert_eq!(
        (after.permission, after.replication, after.block_size),
        (0o600, 2, 1 << 21)
    );
}

#[test]
fn create_checks_block_size_and_replication() {
    let mut world = World::new();
    let with = |replication, block_size| Request::Create {
        path: "/f".into(),
        permission: 0o644,
        overwrite: false,
        create_parent: false,
        replication,
        block_size,
        first_block: None,
    };
    for (replication, block_size, why) in [
        (1, 1023, "less than configured minimum"),
        (1, u64::MAX, "more than the maximum"),
        (0, 4096, "less than the required minimum"),
        (513, 4096, "exceeds maximum"),
    ] {
        let (class, message) = world.fails(with(replication, block_size));
        assert_eq!(class, InvalidArgument);
        assert!(message.contains(why), "{message}");
    }
    assert!(world.stat("/f").is_none());
}

#[test]
fn delete_wants_recursive_for_full_directories() {
    let mut world = tree();
    let (class, message) = world.fails(delete("/d", false));
    assert_eq!(class, NotEmpty);
    assert!(message.contains("/d is non empty"), "{message}");
    assert_eq!(world.ok(delete("/nothing", true)), NO);
    assert_eq!(world.ok(delete("/empty", false)), YES);
    assert_eq!(world.ok(delete("/g", false)), YES);
    assert_eq!(world.fails(delete("/", true)).0, InvalidArgument);
    assert_eq!(world.ok(delete("/d", true)), YES);
    assert_eq!(world.names("/"), [""; 0]);
    let Response::FsStats { stats } = world.ok(Request::GetFsStats) else {
        panic!("stats");
    };
    assert_eq!(stats.inodes, 1);
}

/// HDFS's rename2, rule by rule.
#[test]
fn rename_follows_hdfs() {
    for (from, to, over, class, text) in [
        (
            "/no",
            "/x",
            false,
            NotFound,
            "rename source /no is not found.",
        ),
        (
            "/",
            "/x",
            false,
            InvalidArgument,
            "source cannot be the root",
        ),
        (
            "/d",
            "/",
            true,
            InvalidArgument,
            "destination cannot be the root",
        ),
        ("/d", "/d", true, AlreadyExists, "are the same"),
        ("/d", "/d/e/x", false, InvalidArgument, "under source /d"),
        ("/d", "/d/x", false, InvalidArgument, "under source /d"),
        ("/d", "/no/x", false, NotFound, "parent /no/x not found"),
        (
            "/d",
            "/g/x",
            false,
            ParentNotDirectory,
            "is not a directory",
        ),
        (
            "/d",
            "/g",
            true,
            InvalidArgument,
            "must both be directories",
        ),
        (
            "/g",
            "/d",
            true,
            InvalidArgument,
            "must both be directories",
        ),
        ("/g", "/d/f", false, AlreadyExists, "/d/f already exists"),
        ("/empty", "/d", true, NotEmpty, "non empty destination"),
        ("/empty", "/d/e", false, AlreadyExists, "already exists"),
    ] {
        let mut world = tree();
        let before = world.ns.view().digest();
        let (got, message) = world.fails(rename(from, to, over));
        assert_eq!(got, class, "{from} -> {to}: {message}");
        assert!(message.contains(text), "{from} -> {to}: {message}");
        assert_eq!(world.ns.view().digest(), before);
    }
    for (from, to, over, gone) in [
        ("/d", "/x", false, 0),
        ("/d", "/dd", false, 0),
        ("/g", "/d/f", true, 1),
        ("/d", "/empty", true, 1),
        ("/d/e", "/empty/e", false, 0),
        ("/d/f", "/f", true, 0),
    ] {
        let mut world = tree();
        let moved = world.stat(from).unwrap();
        assert_eq!(world.ok(rename(from, to, over)), Response::Done);
        assert!(world.stat(from).is_none());
        let now = world.stat(to).unwrap();
        assert_eq!((now.inode, now.children), (moved.inode, moved.children));
        let Response::FsStats { stats } = world.ok(Request::GetFsStats) else {
            panic!("stats");
        };
        assert_eq!(stats.inodes, 6 - gone, "{from} -> {to}");
    }
}

#[test]
fn listings_are_paged_in_name_order() {
    let mut world = World::new();
    for at in 0..2_345 {
        world.mkdirs(&format!("/big/{:04}", at * 8 % 2_345));
    }
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().cloned().unwrap_or_default();
        let Response::Listing { entries, remaining } = world.ok(list("/big", &after, 5_000)) else {
            panic!("a listing");
        };
        assert!(entries.len() <= 1_000);
        names.extend(entries.into_iter().map(|entry| entry.name));
        assert_eq!(remaining as usize, 2_345 - names.len());
        if remaining == 0 {
            break;
        }
    }
    assert_eq!(names.len(), 2_345);
    assert!(names.is_sorted());
    // A name that is gone is as good a place to go on from.
    world.ok(delete("/big/0100", false));
    let Response::Listing { entries, .. } = world.ok(list("/big", "0100", 1)) else {
        panic!("a listing");
    };
    assert_eq!(entries[0].name, "0101");
    let Response::Listing { entries, remaining } = world.ok(list("/big", "9999", 0)) else {
        panic!("a listing");
    };
    assert!(entries.is_empty() && remaining == 0);
    let file = world.touch("/file");
    let Response::Listing { entries, .. } = world.ok(list("/file", "", 0)) else {
        panic!("a listing");
    };
    assert_eq!((entries.len(), entries[0].inode), (1, file));
    let (class, message) = world.fails(list("/none", "", 0));
    assert_eq!(class, NotFound);
    assert_eq!(message, "File does not exist: /none");
}

#[test]
fn file_info_of_nothing_is_nothing_but_below_a_file_is_an_error() {
    let mut world = tree();
    assert!(world.stat("/none/at/all").is_none());
    let root_status = world.stat("/").unwrap();
    assert_eq!((&root_status.name[..], root_status.children), ("", 3));
    assert_eq!(root_status.inode, InodeId::ROOT);
    assert_eq!(
        world
            .fails(Request::GetFileInfo {
                path: "/g/x".into()
            })
            .0,
        ParentNotDirectory
    );
}

#[test]
fn content_summary_counts_everything_below() {
    let mut world = tree();
    let Response::ContentSummary { summary } =
        world.ok(Request::GetContentSummary { path: "/".into() })
    else {
        panic!("a summary");
    };
    assert_eq!((summary.directories, summary.files), (4, 2));
    assert_eq!(summary.quota, u64::MAX);
    assert_eq!(
        world
            .fails(Request::GetContentSummary { path: "/x".into() })
            .0,
        NotFound
    );
}

#[test]
fn attributes_change_and_times_move() {
    let mut world = tree();
    let before = world.stat("/d").unwrap().modified_ms;
    world.touch("/d/new");
    assert!(world.stat("/d").unwrap().modified_ms > before);
    world.ok(Request::SetPermission {
        path: "/g".into(),
        permission: 0o7640,
    });
    world.ok(Request::SetOwner {
        path: "/g".into(),
        owner: "alice".into(),
        group: String::new(),
    });
    world.ok(Request::SetTimes {
        path: "/g".into(),
        modified_ms: 5,
        accessed_ms: u64::MAX,
    });
    let set = |path: &str, replication| Request::SetReplication {
        path: path.into(),
        replication,
    };
    assert_eq!(world.ok(set("/g", 4)), YES);
    assert_eq!(world.ok(set("/d", 4)), NO);
    assert_eq!(world.fails(set("/none", 4)).0, NotFound);
    assert_eq!(world.fails(set("/g", 0)).0, InvalidArgument);
    let status = world.stat("/g").unwrap();
    assert_eq!(
        (status.permission, &status.owner[..], &status.group[..]),
        (0o1640, "alice", "supergroup")
    );
    assert_eq!((status.modified_ms, status.replication), (5, 4));
    assert!(status.accessed_ms > 5);
    assert_eq!(
        world
            .fails(Request::SetTimes {
                path: "/g".into(),
                modified_ms: u64::MAX - 1,
                accessed_ms: 0
            })
            .0,
        InvalidArgument
    );
    assert_eq!(
        world.fails(Request::IsFileClosed { path: "/d".into() }).0,
        IsDirectory
    );
}

/// What changes a directory's entries moves its modification time, as POSIX and HDFS have it.
#[test]
fn directories_change_with_their_entries() {
    let mut world = tree();
    let times =
        |world: &mut World| ["/", "/d", "/empty"].map(|path| world.stat(path).unwrap().modified_ms);
    let changed = |world: &mut World, request: Request| {
        let before = times(world);
        world.ok(request);
        let after = times(world);
        [0, 1, 2].map(|at| after[at] > before[at])
    };
    let rename = rename("/d/f", "/empty/f", false);
    assert_eq!(changed(&mut world, rename), [false, true, true]);
    let request = delete("/empty/f", false);
    assert_eq!(changed(&mut world, request), [false, false, true]);
    assert_eq!(changed(&mut world, create("/d/x")), [false, true, false]);
    assert_eq!(changed(&mut world, mkdirs("/d/y")), [false, true, false]);
    assert_eq!(changed(&mut world, mkdirs("/z")), [true, false, false]);
    assert_eq!(changed(&mut world, overwrite("/d/x")), [false, true, false]);
    let chmod = Request::SetPermission {
        path: "/d/y".into(),
        permission: 0,
    };
    assert_eq!(changed(&mut world, chmod), [false, false, false]);
}

#[test]
fn a_mutation_needs_a_client_id() {
    let mut world = World::new();
    let ticket = world.send(&root(), 0, 1, mkdirs("/a"));
    assert_eq!(
        world.answer(ticket).unwrap().unwrap_err().class,
        hadal_proto::FaultClass::BadRequest
    );
}

#[test]
fn defaults_and_memory_are_reported() {
    let mut world = World::new();
    let Response::Defaults { defaults } = world.ok(Request::GetServerDefaults) else {
        panic!("defaults");
    };
    assert_eq!((defaults.block_size, defaults.replication), (128 << 20, 3));
    for at in 0..10_000 {
        world.touch(&format!("/dir/part-{at:05}-0123456789"));
    }
    let memory = world.ns.memory_estimate();
    assert_eq!(memory.inodes, 10_002);
    let each = memory.tree_bytes / memory.inodes;
    assert!((60..120).contains(&each), "{each} bytes per inode");
    let Response::FsStats { stats } = world.ok(Request::GetFsStats) else {
        panic!("statistics");
    };
    let about = stats.tree_bytes as f64 / memory.tree_bytes as f64;
    assert!((0.9..1.1).contains(&about), "{about} of the bytes counted");
    assert!(stats.blocks == 0 || stats.map_bytes / stats.blocks < 100);
}
