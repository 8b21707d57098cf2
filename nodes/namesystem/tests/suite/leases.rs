//! Leases and their recovery (behaviour 1E, F-07).

use crate::datanode::{NO, Node, YES, add, added, cluster, complete, locate, recoveries};
use crate::support::{World, create, overwrite, root};
use hadal_namesystem::{Event, NAMENODE_HOLDER};
use hadal_proto::FaultClass::{
    AlreadyBeingCreated, AlreadyExists, LeaseExpired, RecoveryInProgress, StaleReplica, Standby,
};
use hadal_proto::admin;
use hadal_proto::client::{LocatedBlock, Request, Response};
use hadal_proto::datanode::{Action, ChangeKind, Command, Request as FromNode, Response as ToNode};
use hadal_types::{BlockState, GenerationStamp, InodeId};

/// `/f` is written to: its first block, and the place of the DataNode that has it.
fn being_written(world: &mut World, nodes: &mut [Node]) -> (InodeId, LocatedBlock, usize) {
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let by = found.locations[0].datanode.0 as usize - 1;
    nodes[by].says(world, ChangeKind::Receiving, found.block);
    (inode, found, by)
}

/// T-L14, E-04: another client takes a name over once the holder is past its soft limit, not before.
#[test]
fn t_l14_create_over_an_open_file() {
    let mut world = World::new();
    world.open("/f");
    let (class, message) = world.fails(create("/f"));
    assert_eq!(class, AlreadyBeingCreated);
    assert!(
        message.contains("already the current lease holder"),
        "{message}"
    );
    let theirs = |world: &mut World| world.call_as(&root(), 2, create("/f")).unwrap_err();
    let fault = theirs(&mut world);
    assert_eq!(fault.class, AlreadyBeingCreated);
    assert!(fault.message.contains("currently owned by"), "{fault:?}");
    world.pass(59_000);
    world.ok(Request::RenewLease);
    world.pass(59_000);
    assert_eq!(theirs(&mut world).class, AlreadyBeingCreated, "renewed");
    world.pass(2_000);
    assert_eq!(theirs(&mut world).class, AlreadyExists, "closed, but there");
    assert!(!world.stat("/f").unwrap().under_construction);
    let taken = world.call_as(&root(), 2, overwrite("/f"));
    assert!(taken.is_ok());
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// E-02, E-05, T-L16: the monitor closes what is past the hard limit; renewing keeps all files of a client.
#[test]
fn e05_t_l16_the_monitor_closes_after_the_hard_limit() {
    let mut world = World::new();
    let one = world.open("/one");
    let two = world.open("/two");
    let theirs = world.call_as(&root(), 2, create("/theirs"));
    assert!(theirs.is_ok());
    world.pass(3_599_000);
    world.ok(Request::RenewLease);
    world.pass(10_000);
    assert!(world.stat("/one").unwrap().under_construction);
    assert!(world.stat("/two").unwrap().under_construction);
    assert!(!world.stat("/theirs").unwrap().under_construction);
    world.pass(3_700_000);
    for (path, inode) in [("/one", one), ("/two", two)] {
        assert!(!world.stat(path).unwrap().under_construction);
        assert_eq!(world.fails(add(path, inode, None)).0, LeaseExpired);
    }
    let recovered = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::LeaseRecovered { .. }));
    assert_eq!(recovered.count(), 3);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// F-07, T-H14: a promotion gives every writer a fresh lease.
#[test]
fn f07_leases_are_renewed_at_promotion() {
    let mut world = World::new();
    world.open("/f");
    world.pass(3_000_000);
    let mut next = World::standby(world.replayed());
    next.now = world.now.after_ms(3_000_000);
    next.activate(2);
    next.pass(3_000_000);
    assert!(next.stat("/f").unwrap().under_construction);
    next.pass(700_000);
    assert!(!next.stat("/f").unwrap().under_construction);
}

/// T-L19: in safe mode no lease is recovered.
#[test]
fn t_l19_no_recovery_in_safe_mode() {
    let mut world = World::new();
    world.open("/f");
    let safe_mode = |world: &mut World, action| {
        let request = admin::Request::SafeMode { action };
        world.ns.handle_admin(world.now, 0, 1 << 41, request);
        world.pump();
        world.answers.remove(&(1 << 41));
    };
    safe_mode(&mut world, admin::SafeModeAction::Enter);
    world.pass(4_000_000);
    assert!(world.stat("/f").unwrap().under_construction);
    safe_mode(&mut world, admin::SafeModeAction::Leave);
    world.pass(3_000);
    assert!(!world.stat("/f").unwrap().under_construction);
}

/// T-L23: a block its writer committed without writing does not keep its file open.
#[test]
fn t_l23_an_unwritten_block_is_dropped_by_recovery() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    assert_eq!(world.ok(complete("/f", inode, Some(found.block))), NO);
    assert_eq!(world.ok(Request::RecoverLease { path: "/f".into() }), YES);
    assert!(locate(&mut world, "/f", 0, 1).blocks.is_empty());
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// What was flushed to DataNodes that are dead is not dropped, whoever else has reported (E-08): they come back with it.
#[test]
fn a_block_whose_datanodes_are_away_waits_for_them() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    for node in &mut nodes {
        node.says(&mut world, ChangeKind::Receiving, found.block);
    }
    world.pass(4_000_000);
    Node::register(4, &mut world);
    let recover = || Request::RecoverLease { path: "/f".into() };
    assert_eq!(world.ok(recover()), NO);
    world.pass(10_000_000);
    assert!(world.stat("/f").unwrap().under_construction);
    assert!(world.ns.blocks().stored(found.block.id).is_some());
    // Back with what they have: recovery goes on with them.
    Node::register(1, &mut world);
    assert_eq!(world.ok(recover()), NO);
    let state = world.ns.blocks().stored(found.block.id).unwrap().state;
    assert_eq!(state, BlockState::UnderRecovery);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// As above after a failover: the new active knows the DataNodes only from what they had reported before they died.
#[test]
fn what_a_dead_datanode_had_reported_is_remembered_over_a_failover() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let mut next = World::standby(world.replayed());
    next.now = world.now;
    let mut had = Node::register(1, &mut next);
    had.says(&mut next, ChangeKind::Receiving, found.block);
    next.activate(2);
    next.pass(4_000_000);
    Node::register(4, &mut next);
    let recover = || Request::RecoverLease { path: "/f".into() };
    assert_eq!(next.call_as(&root(), 2, recover()).unwrap(), NO);
    // Back, and with no report of it yet: it is asked.
    Node::register(1, &mut next);
    assert_eq!(next.call_as(&root(), 2, recover()).unwrap(), NO);
    let state = next.ns.blocks().stored(found.block.id).unwrap().state;
    assert_eq!(state, BlockState::UnderRecovery);
}

/// A block that nobody ever had is dropped, after a failover, once every DataNode has reported and none is dead, and one
/// that this NameNode never saw has had its time.
#[test]
fn a_block_nobody_ever_had_is_dropped_once_all_have_reported() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    added(world.ok(add("/f", inode, None)));
    let mut next = World::standby(world.replayed());
    next.now = world.now;
    next.activate(2);
    let recover = || Request::RecoverLease { path: "/f".into() };
    assert_eq!(
        next.call_as(&root(), 2, recover()).unwrap(),
        NO,
        "no DataNode is there"
    );
    Node::register(4, &mut next);
    assert_eq!(
        next.call_as(&root(), 2, recover()).unwrap(),
        NO,
        "others may come yet"
    );
    next.pass(3_700_000);
    assert_eq!(
        next.call_as(&root(), 2, recover()).unwrap(),
        NO,
        "one is dead"
    );
    let node = Node::register(4, &mut next);
    assert_eq!(
        next.call_as(&root(), 2, recover()).unwrap(),
        NO,
        "what kept this one away may keep others"
    );
    for _ in 0..11 {
        next.pass(60_000);
        node.beat(&mut next);
    }
    assert_eq!(next.call_as(&root(), 2, recover()).unwrap(), YES);
    assert_eq!(next.stat("/f").unwrap().length, 0);
}

/// What DataNodes told the standby does not count: a replica of the last moment may not be in it (seed 434 of the simulated
/// cluster, ten minutes: the block was dropped, with synced bytes).
#[test]
fn a_block_is_not_dropped_before_all_have_reported_to_the_active() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    added(world.ok(add("/f", inode, None)));
    let mut next = World::standby(world.replayed());
    next.now = world.now;
    let node = Node::register(4, &mut next);
    for _ in 0..12 {
        next.pass(60_000);
        node.beat(&mut next);
    }
    next.activate(2);
    let recover = || Request::RecoverLease { path: "/f".into() };
    assert_eq!(next.call_as(&root(), 2, recover()).unwrap(), NO);
    node.report_empty_as(2, &mut next);
    assert_eq!(next.call_as(&root(), 2, recover()).unwrap(), YES);
}

/// E-06, E-16, E-18, E-20: recoverLease on a file with a block in flight starts block recovery under a new stamp;
/// its result closes the file, at the active only, and only the latest recovery counts.
#[test]
fn e06_e18_lease_recovery_goes_through_block_recovery() {
    let (mut world, mut nodes) = cluster();
    let (inode, found, by) = being_written(&mut world, &mut nodes);

    let recover = || Request::RecoverLease { path: "/f".into() };
    world.auto_commit = false;
    let ticket = world.send(&root(), 2, 1, recover());
    assert!(world.answer(ticket).is_none(), "behind the barrier");
    let work = |commands: Vec<Command>| {
        commands
            .into_iter()
            .find_map(|command| match command.action {
                Action::RecoverBlock { work } => Some(work),
                _ => None,
            })
    };
    assert!(work(nodes[by].beat(&mut world)).is_none(), "not committed");
    world.auto_commit = true;
    world.pump();
    assert_eq!(world.answer(ticket).unwrap().unwrap().response, NO);
    let work = work(nodes[by].beat(&mut world)).expect("an order to recover");
    assert_eq!(work[0].block.id, found.block.id);
    let recovery_id = work[0].recovery_id;
    assert!(recovery_id > found.block.generation_stamp);

    // The writer is out, and the NameNode holds the lease; asking again does not start another recovery.
    let fault = world.call(add("/f", inode, Some(found.block))).unwrap_err();
    assert_eq!(fault.class, LeaseExpired);
    let Response::OpenFiles { files, .. } = world.ok(Request::ListOpenFiles {
        after: InodeId(0),
        path: String::new(),
    }) else {
        panic!("open files");
    };
    assert_eq!(files[0].holder, NAMENODE_HOLDER);
    let stamp = world.ns.applied();
    assert_eq!(world.ok(recover()), NO);
    assert_eq!(world.ns.applied(), stamp);
    let fault = world.call_as(&root(), 3, create("/f")).unwrap_err();
    assert_eq!(fault.class, RecoveryInProgress);

    let commit = |recovery_id, delete| FromNode::CommitBlockSynchronization {
        block: found.block.id,
        recovery_id,
        length: 321,
        nodes: found.locations.clone(),
        delete,
    };
    let mut standby = World::standby(world.replayed());
    let refused = nodes[by].ask(&mut standby, commit(recovery_id, false));
    assert_eq!(refused.unwrap_err().class, Standby);
    let refused = nodes[by].ask(
        &mut world,
        commit(GenerationStamp(recovery_id.0 - 1), false),
    );
    assert_eq!(refused.unwrap_err().class, StaleReplica);
    let done = nodes[by].ask(&mut world, commit(recovery_id, false));
    assert_eq!(done, Ok(ToNode::Done));
    let again = nodes[by].ask(&mut world, commit(recovery_id, false));
    assert_eq!(again, Ok(ToNode::Done));
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (321, false));
    assert_eq!(world.ok(recover()), YES);
    let located = locate(&mut world, "/f", 0, 1);
    assert_eq!(located.blocks[0].block.generation_stamp, recovery_id);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// E-18 with nothing recoverable: the block goes, the file closes (Q41: both as edits).
#[test]
fn q41_a_recovery_that_deletes_is_journaled() {
    let (mut world, mut nodes) = cluster();
    let (_, found, by) = being_written(&mut world, &mut nodes);
    assert_eq!(world.ok(Request::RecoverLease { path: "/f".into() }), NO);
    let (told, work) = recoveries(&mut world, &nodes).remove(0);
    assert_eq!(told, by);
    let done = nodes[by].ask(
        &mut world,
        FromNode::CommitBlockSynchronization {
            block: found.block.id,
            recovery_id: work.recovery_id,
            length: 0,
            nodes: Vec::new(),
            delete: true,
        },
    );
    assert_eq!(done, Ok(ToNode::Done));
    assert!(!world.stat("/f").unwrap().under_construction);
    assert!(locate(&mut world, "/f", 0, 1).blocks.is_empty());
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// T-L17: a recovery that was under way at a failover is taken up by the next active, under a new stamp.
#[test]
fn t_l17_recovery_goes_on_after_a_failover() {
    let (mut world, mut nodes) = cluster();
    let (_, found, _) = being_written(&mut world, &mut nodes);
    assert_eq!(world.ok(Request::RecoverLease { path: "/f".into() }), NO);

    let mut next = World::standby(world.replayed());
    next.activate(2);
    let mut node = Node::register(1, &mut next);
    node.says(&mut next, ChangeKind::Receiving, found.block);
    next.pass(30_000);
    let (_, work) = recoveries(&mut next, std::slice::from_ref(&node)).remove(0);
    let done = node.ask(
        &mut next,
        FromNode::CommitBlockSynchronization {
            block: found.block.id,
            recovery_id: work.recovery_id,
            length: 77,
            nodes: found.locations.clone(),
            delete: false,
        },
    );
    assert_eq!(done, Ok(ToNode::Done));
    let status = next.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (77, false));
}
