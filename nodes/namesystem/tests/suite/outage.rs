//! Reads while no majority of JournalNodes answers: a NameNode configured alone answers them as of the last committed
//! edit (protocols.md sections 0 and 2).

use crate::datanode::{Node, added, complete, of_length};
use crate::support::{
    Rng, World, config, create, delete, info, list, locations, mkdirs, root, some_call, some_path,
};
use hadal_namesystem::{Caller, NamesystemConfig};
use hadal_proto::client::{ClientCall, LocatedBlocks, Reply, Request, Response};
use hadal_proto::datanode::ChangeKind;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{CallId, ClientId, HaState, InodeId, TxId};

fn alone() -> NamesystemConfig {
    NamesystemConfig {
        alone: true,
        ..config()
    }
}

fn read_as(world: &mut World, caller: &Caller, request: Request) -> Option<Result<Reply, Fault>> {
    let call = ClientCall {
        client: ClientId(1),
        call: CallId(1),
        seen: TxId(0),
        from_standby: false,
        request,
    };
    world.ns.read_committed(world.now, caller, &call)
}

fn read(world: &mut World, request: Request) -> Reply {
    read_as(world, &root(), request)
        .expect("a read")
        .expect("allowed")
}

fn located(reply: Reply) -> LocatedBlocks {
    match reply.response {
        Response::Locations { locations } => locations,
        other => panic!("not locations: {other:?}"),
    }
}

fn exists(reply: &Reply) -> bool {
    match &reply.response {
        Response::FileInfo { status } => status.is_some(),
        other => panic!("not a status: {other:?}"),
    }
}

/// Whatever is applied, and however far the journal got: reads answer as a namespace that ends at the committed edit, far
/// enough to change the snapshot several times.
#[test]
fn reads_show_the_committed_edits_and_nothing_else() {
    for seed in 0..4 {
        let mut rng = Rng::new(70 + seed);
        let mut world = World::with(alone());
        world.auto_commit = false;
        let mut behind = 0;
        for call in 1..=6_000u64 {
            world.send(
                &root(),
                1 + u128::from(rng.below(3)),
                call,
                some_call(&mut rng),
            );
            if rng.chance(30) {
                let (committed, applied) = (world.ns.committed().0, world.ns.applied().0);
                let to = committed + rng.below(applied - committed + 1);
                world.ns.handle_committed(world.now, TxId(to));
                world.pump();
            }
            world.answers.clear();
            if call % 300 != 0 {
                continue;
            }
            let committed = world.ns.committed();
            behind += u64::from(world.ns.applied() > committed);
            let digest = world.ns.view().digest();
            let mut expected = crate::support::fresh(config());
            for (txid, edit) in &world.journal {
                if *txid <= committed {
                    expected.replay(world.now, *txid, edit);
                }
            }
            let mut expected = World::standby(expected);
            expected.activate(2);
            let mut requests = vec![Request::ListOpenFiles {
                after: InodeId(0),
                path: String::new(),
            }];
            for _ in 0..6 {
                let path = some_path(&mut rng);
                requests.extend([
                    info(&path),
                    list(&path, "", 0),
                    Request::GetContentSummary { path: path.clone() },
                    Request::IsFileClosed { path: path.clone() },
                    locations(&path),
                ]);
            }
            for request in requests {
                let shown = format!("seed {seed} at {committed}: {request:?}");
                let theirs = expected.call(request.clone());
                let ours = read_as(&mut world, &root(), request).expect("a read");
                if let Ok(reply) = &ours {
                    assert_eq!(reply.txid, committed, "{shown}");
                }
                let ours = ours.map(|reply| reply.response);
                assert_eq!(ours, theirs, "{shown}");
            }
            assert_eq!(world.ns.view().digest(), digest, "a read changed something");
        }
        assert!(behind > 5, "seed {seed}: {behind}");
    }
}

/// What hangs in the journal is seen once it is committed, by the same call.
#[test]
fn an_edit_is_seen_when_it_is_committed() {
    let mut world = World::with(alone());
    world.mkdirs("/old");
    world.auto_commit = false;
    world.send(&root(), 8, 1, mkdirs("/new"));
    world.send(&root(), 8, 2, delete("/old", true));
    assert!(exists(&read(&mut world, info("/old"))));
    assert!(!exists(&read(&mut world, info("/new"))));
    let next = world.ns.committed().next();
    world.ns.handle_committed(world.now, next);
    let reply = read(&mut world, info("/new"));
    assert!(exists(&reply) && reply.txid == next);
    assert!(exists(&read(&mut world, info("/old"))));
    world.ns.handle_committed(world.now, next.next());
    assert!(!exists(&read(&mut world, info("/old"))));
}

/// Permissions are the committed ones too.
#[test]
fn permissions_are_the_committed_ones() {
    let mut world = World::with(alone());
    world.mkdirs("/private");
    world.ok(Request::SetPermission {
        path: "/private".into(),
        permission: 0o700,
    });
    world.auto_commit = false;
    let open = Request::SetPermission {
        path: "/private".into(),
        permission: 0o755,
    };
    world.send(&root(), 8, 1, open);
    let stranger = Caller {
        user: "mallory".into(),
        groups: Vec::new(),
        superuser: false,
    };
    let outcome = read_as(&mut world, &stranger, list("/private", "", 0)).expect("a read");
    assert_eq!(outcome.unwrap_err().class, FaultClass::AccessDenied);
}

/// A file whose delete hangs is read from its replicas: they wait for the same commit before they are deleted.
#[test]
fn a_file_whose_delete_hangs_has_its_locations() {
    let mut world = World::with(alone());
    let mut nodes: Vec<Node> = (1..=3).map(|id| Node::register(id, &mut world)).collect();
    let inode = world.open("/f");
    let block = added(world.ok(crate::datanode::add("/f", inode, None))).block;
    let written = of_length(block, 700);
    nodes[0].says(&mut world, ChangeKind::Received, written);
    assert_eq!(
        world.ok(complete("/f", inode, Some(written))),
        crate::datanode::YES
    );
    let before = crate::datanode::locate(&mut world, "/f", 0, 700);
    assert_eq!(before.blocks[0].locations.len(), 1);
    world.auto_commit = false;
    world.send(&root(), 8, 1, delete("/f", false));
    let reply = read(&mut world, locations("/f"));
    assert_eq!(located(reply), before);
    for node in &nodes {
        assert!(node.beat(&mut world).is_empty(), "deleted too early");
    }
    let applied = world.ns.applied();
    world.ns.handle_committed(world.now, applied);
    let gone = read_as(&mut world, &root(), locations("/f")).expect("a read");
    assert_eq!(gone.unwrap_err().class, FaultClass::NotFound);
    assert_eq!(nodes[0].beat(&mut world).len(), 1);
}

/// A writer keeps its lease through an outage; what makes edits needs the journal; one of a pair answers nothing.
#[test]
fn what_needs_the_journal_is_not_answered() {
    let mut world = World::with(alone());
    world.open("/f");
    for request in [create("/g"), mkdirs("/d"), delete("/f", false)] {
        assert!(read_as(&mut world, &root(), request).is_none());
    }
    world.pass(3_000_000);
    assert_eq!(
        read(&mut world, Request::RenewLease).response,
        Response::Done
    );
    world.pass(3_000_000);
    let closed = world.ok(Request::IsFileClosed { path: "/f".into() });
    assert_eq!(closed, crate::datanode::NO, "the lease was renewed");
    let state = read(&mut world, Request::GetServiceState).response;
    assert!(matches!(
        state,
        Response::ServiceState {
            state: HaState::Active,
            ..
        }
    ));
    let _ = world.ns.become_standby(world.now);
    assert!(read_as(&mut world, &root(), info("/f")).is_none());
    let mut world = World::new();
    assert!(read_as(&mut world, &root(), info("/")).is_none());
}
