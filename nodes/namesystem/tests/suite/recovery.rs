//! Block recovery as part of lease recovery: who is asked, how often, and how it ends (E-18..E-20, Q38..Q40, T-L*).

use crate::datanode::{
    BLOCK, NO, Node, YES, add, added, assert_replays, cluster, complete, locate, new_stamp,
    of_length, open_wide, received, recoveries, synchronized, update_pipeline, written,
};
use crate::support::{World, config, root};
use hadal_blocks::BlockConfig;
use hadal_namesystem::{Event, Namesystem};
use hadal_proto::FaultClass::{
    InvalidArgument, LeaseExpired, NotFound, RecoveryInProgress, StaleReplica,
};
use hadal_proto::client::Request;
use hadal_proto::datanode::{Action, ChangeKind, RecoveryWork, Request as FromNode};
use hadal_proto::edit::EditOp;
use hadal_types::{Block, BlockState, GenerationStamp, Tick};
use std::collections::BTreeSet;

fn recover() -> Request {
    Request::RecoverLease { path: "/f".into() }
}

/// An open file with a block in flight on all three DataNodes.
fn in_flight(world: &mut World, nodes: &mut [Node]) -> Block {
    let inode = open_wide(world, "/f");
    let found = added(world.ok(add("/f", inode, None)));
    assert_eq!(found.locations.len(), 3);
    for node in nodes {
        node.says(world, ChangeKind::Receiving, found.block);
    }
    found.block
}

/// Lets time pass with heartbeats until recoveries are ordered; how long it took at most, in ms.
fn next_orders(world: &mut World, nodes: &[Node]) -> (u64, Vec<(usize, RecoveryWork)>) {
    for step in 1..1_000 {
        world.pass(2_000);
        let orders = recoveries(world, nodes);
        if !orders.is_empty() {
            return (step * 2_000, orders);
        }
    }
    panic!("no recovery is ordered");
}

/// T-L12, Q38: a primary that never answers is followed by another one under a higher id, not sooner than the
/// time-out; a late result of the first is refused, the result of the last closes the file.
#[test]
fn t_l12_q38_an_attempt_that_is_lost_is_followed_by_another_primary() {
    let (mut world, mut nodes) = cluster();
    let block = in_flight(&mut world, &mut nodes);
    assert_eq!(world.ok(recover()), NO);
    let first = recoveries(&mut world, &nodes);
    assert_eq!(first.len(), 1);
    let edits = world.journal.len();
    for _ in 0..5 {
        assert_eq!(world.ok(recover()), NO, "asking again starts nothing");
        assert!(recoveries(&mut world, &nodes).is_empty());
    }
    assert_eq!(world.journal.len(), edits, "and costs no stamp");
    let mut asked = BTreeSet::from([first[0].0]);
    let mut last = first[0].clone();
    for _ in 0..2 {
        let (took, orders) = next_orders(&mut world, &nodes);
        assert!(
            took >= 20_000,
            "after the time-out of the one before: {took}"
        );
        assert_eq!(orders.len(), 1);
        assert!(orders[0].1.recovery_id > last.1.recovery_id, "E-16");
        last = orders[0].clone();
        asked.insert(last.0);
    }
    assert_eq!(asked.len(), 3, "each DataNode was primary once");
    let late = nodes[first[0].0].ask(&mut world, synchronized(&first[0].1, 10));
    assert_eq!(late.unwrap_err().class, StaleReplica);
    assert!(world.stat("/f").unwrap().under_construction);
    let done = nodes[last.0].ask(&mut world, synchronized(&last.1, 11));
    assert!(done.is_ok(), "{done:?}");
    let located = locate(&mut world, "/f", 0, 1);
    assert_eq!(
        located.blocks[0].block,
        Block {
            generation_stamp: last.1.recovery_id,
            length: 11,
            ..block
        }
    );
    assert_eq!(world.ok(recover()), YES);
    assert_replays(&world);
}

/// Q38: a primary that is gone does not keep the file open: the others are asked, in turn and ever more rarely, and
/// once it is declared dead it does not take part.
#[test]
fn q38_a_dead_primary_does_not_keep_the_file_open() {
    let (mut world, mut nodes) = cluster();
    in_flight(&mut world, &mut nodes);
    assert_eq!(world.ok(recover()), NO);
    let (dead, first) = recoveries(&mut world, &nodes).remove(0);
    let alive: Vec<usize> = (0..3).filter(|at| *at != dead).collect();
    let mut others = Vec::new();
    for _ in 0..600 {
        world.pass(2_000);
        for at in &alive {
            let orders = recoveries(&mut world, &nodes[*at..=*at]);
            others.extend(orders.into_iter().map(|(_, work)| work));
        }
    }
    assert!((4..12).contains(&others.len()), "{}", others.len());
    let last = others.last().expect("looked at just now");
    assert!(last.recovery_id > first.recovery_id);
    let parts: Vec<_> = last.locations.iter().map(|node| node.datanode.0).collect();
    assert!(!parts.contains(&(dead as u128 + 1)), "{parts:?}");
    let done = nodes[alive[0]].ask(&mut world, synchronized(last, 5));
    assert!(done.is_ok());
    assert!(!world.stat("/f").unwrap().under_construction);
}

/// T-L9, E-19: no replica has a byte: the block goes, the file closes empty.
#[test]
fn t_l9_a_recovery_that_found_nothing() {
    let (mut world, mut nodes) = cluster();
    let block = in_flight(&mut world, &mut nodes);
    assert_eq!(world.ok(recover()), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    let nothing = || FromNode::CommitBlockSynchronization {
        block: block.id,
        recovery_id: work.recovery_id,
        length: 0,
        nodes: Vec::new(),
        delete: true,
    };
    assert!(nodes[by].ask(&mut world, nothing()).is_ok());
    assert!(nodes[by].ask(&mut world, nothing()).is_ok(), "said again");
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (0, false));
    assert!(world.ns.blocks().stored(block.id).is_none());
    assert_replays(&world);
}

/// Q39: bytes the NameNode was told of (hsync with update-length) and nobody has any more are not cut off in silence:
/// the file closes, and its block is missing.
#[test]
fn q39_recorded_bytes_that_are_lost_show_as_missing() {
    let (mut world, mut nodes) = cluster();
    let block = in_flight(&mut world, &mut nodes);
    world.ok(Request::Fsync {
        path: "/f".into(),
        inode: Default::default(),
        last_block_length: 200,
    });
    assert_eq!(world.ok(recover()), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    assert_eq!(work.block.length, 200);
    let nothing = FromNode::CommitBlockSynchronization {
        block: block.id,
        recovery_id: work.recovery_id,
        length: 0,
        nodes: Vec::new(),
        delete: true,
    };
    assert!(nodes[by].ask(&mut world, nothing).is_ok());
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (200, false));
    assert_eq!(world.ns.blocks().stats().missing, 1);
    assert_replays(&world);
}

/// Q39: finished blocks whose replicas are all gone do not keep a file from being recovered.
#[test]
fn q39_lost_finished_blocks_do_not_hold_up_lease_recovery() {
    let (mut world, mut nodes) = cluster();
    let inode = open_wide(&mut world, "/f");
    let first = of_length(added(world.ok(add("/f", inode, None))).block, BLOCK);
    received(&mut world, &mut nodes, first);
    let second = added(world.ok(add("/f", inode, Some(first)))).block;
    for node in &mut nodes {
        node.says(&mut world, ChangeKind::Receiving, second);
        node.says(&mut world, ChangeKind::Deleted, first);
    }
    assert_eq!(world.ok(recover()), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    assert!(nodes[by].ask(&mut world, synchronized(&work, 3)).is_ok());
    let recovered = Block {
        generation_stamp: work.recovery_id,
        length: 3,
        ..second
    };
    received(&mut world, &mut nodes, recovered);
    let status = world.stat("/f").unwrap();
    assert_eq!(
        (status.length, status.under_construction),
        (BLOCK + 3, false)
    );
    assert_eq!(world.ns.blocks().stats().missing, 1);
}

/// Q40: while no DataNode has a replica, attempts cost no edits, become rare, and are answered for what they are.
#[test]
fn q40_hopeless_recoveries_are_cheap() {
    let (mut world, mut nodes) = cluster();
    in_flight(&mut world, &mut nodes);
    world.ok(Request::Fsync {
        path: "/f".into(),
        inode: Default::default(),
        last_block_length: 200,
    });
    drop(nodes);
    world.pass(700_000);
    assert_eq!(world.ok(recover()), NO);
    let edits = world.journal.len();
    world.pass(10_000_000);
    assert_eq!(world.journal.len(), edits, "no stamp for nothing");
    assert!(world.stat("/f").unwrap().under_construction);
    let fault = world.call_as(&root(), 2, crate::datanode::append("/f", false));
    let fault = fault.unwrap_err();
    assert_eq!(fault.class, RecoveryInProgress);
    assert!(fault.message.contains("no live DataNode holds"), "{fault}");
    // They come back: the recovery ends.
    let mut node = Node::register(1, &mut world);
    let known = locate(&mut world, "/f", 0, 1).blocks[0].block;
    node.says(&mut world, ChangeKind::Receiving, known);
    let nodes = [node];
    let (_, orders) = next_orders(&mut world, &nodes);
    let done = nodes[0].ask(&mut world, synchronized(&orders[0].1, 200));
    assert!(done.is_ok());
    assert!(!world.stat("/f").unwrap().under_construction);
    assert_replays(&world);
}

/// T-L13: one of three DataNodes is left, minimal replication is two, the hard limit passes: the file closes, and its
/// block is copied once there are DataNodes again.
#[test]
fn t_l13_one_datanode_left_and_minimal_replication_two() {
    let blocks = BlockConfig {
        min_replication: 2,
        ..BlockConfig::default()
    };
    let mut ns = Namesystem::format(config(), blocks, 1);
    ns.start(Tick::from_ms(1));
    let mut world = World::standby(ns);
    world.activate(1);
    let mut nodes: Vec<Node> = (1..=3).map(|id| Node::register(id, &mut world)).collect();
    in_flight(&mut world, &mut nodes);
    nodes.truncate(1);
    for _ in 0..370 {
        world.pass(10_000);
        if let Some((_, work)) = recoveries(&mut world, &nodes).pop() {
            assert_eq!(work.locations.len(), 1);
            let done = nodes[0].ask(&mut world, synchronized(&work, 9));
            assert!(done.is_ok(), "{done:?}");
            let recovered = Block {
                generation_stamp: work.recovery_id,
                length: 9,
                ..work.block
            };
            nodes[0].says(&mut world, ChangeKind::Received, recovered);
        }
    }
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (9, false));
    for id in 4..=5 {
        nodes.push(Node::register(id, &mut world));
    }
    let mut targets = 0;
    for _ in 0..5 {
        world.pass(3_000);
        for node in &nodes {
            for command in node.beat(&mut world) {
                if let Action::Transfer { work } = command.action {
                    targets += work[0].targets.len();
                }
            }
        }
    }
    assert_eq!(targets, 2);
}

/// T-L15: recoverLease by another client, and by the writer itself while it writes another file: that one goes on.
#[test]
fn t_l15_recover_lease_leaves_other_files_alone() {
    for client in [1, 2] {
        let (mut world, mut nodes) = cluster();
        in_flight(&mut world, &mut nodes);
        let other = open_wide(&mut world, "/other");
        assert_eq!(world.call_as(&root(), client, recover()), Ok(NO));
        let (by, work) = recoveries(&mut world, &nodes).remove(0);
        assert!(nodes[by].ask(&mut world, synchronized(&work, 4)).is_ok());
        assert_eq!(world.call_as(&root(), client, recover()), Ok(YES));
        let block = of_length(added(world.ok(add("/other", other, None))).block, 6);
        received(&mut world, &mut nodes, block);
        assert_eq!(world.ok(complete("/other", other, Some(block))), YES);
    }
    let (mut world, _) = cluster();
    assert_eq!(world.fails(recover()).0, NotFound);
}

/// T-L11, T-L16: once a recovery has begun, everything its old writer says is refused, also after it ended.
#[test]
fn t_l11_the_old_writer_is_out() {
    let (mut world, mut nodes) = cluster();
    let block = in_flight(&mut world, &mut nodes);
    let inode = world.stat("/f").unwrap().inode;
    for _ in 0..359 {
        world.pass(10_000);
        assert!(recoveries(&mut world, &nodes).is_empty(), "too early");
    }
    let (_, orders) = next_orders(&mut world, &nodes);
    let (by, work) = &orders[0];
    let written = of_length(block, 50);
    let calls = |world: &mut World| {
        for request in [
            complete("/f", inode, Some(written)),
            add("/f", inode, Some(written)),
            Request::Fsync {
                path: "/f".into(),
                inode,
                last_block_length: 50,
            },
            Request::UpdateBlockForPipeline {
                path: "/f".into(),
                inode,
                block,
            },
        ] {
            let name = request.name();
            assert_eq!(world.fails(request).0, LeaseExpired, "{name}");
        }
    };
    calls(&mut world);
    assert!(nodes[*by].ask(&mut world, synchronized(work, 30)).is_ok());
    calls(&mut world);
    assert_eq!(world.stat("/f").unwrap().length, 30);
}

/// A file whose writer said it was finished, but whose replicas were not when the DataNodes went down: they come back
/// with unfinished ones, and block recovery closes the file instead of waiting for ever.
#[test]
fn q40_a_committed_block_without_finished_replicas_is_recovered() {
    let (mut world, mut nodes) = cluster();
    let block = in_flight(&mut world, &mut nodes);
    let inode = world.stat("/f").unwrap().inode;
    let said = of_length(block, 80);
    assert_eq!(world.ok(complete("/f", inode, Some(said))), NO);
    let state = |world: &World| world.ns.blocks().stored(block.id).unwrap().state;
    assert_eq!(state(&world), BlockState::Committed);
    let fault = world.ok(recover());
    assert_eq!(fault, NO, "its replicas may be on their way");
    assert!(recoveries(&mut world, &nodes).is_empty());
    let (took, orders) = next_orders(&mut world, &nodes);
    assert!(took >= 10_000, "{took}");
    let (by, work) = &orders[0];
    assert_eq!(work.block, said);
    assert!(nodes[*by].ask(&mut world, synchronized(work, 70)).is_ok());
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (70, false));
    assert_replays(&world);
}

/// E-18, Q41: the result of a recovery is one edit, which says stamp, length and end of the lease.
#[test]
fn q41_the_result_of_a_recovery_is_one_edit() {
    let (mut world, mut nodes) = cluster();
    let block = in_flight(&mut world, &mut nodes);
    assert_eq!(world.ok(recover()), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    let before = world.journal.len();
    assert!(nodes[by].ask(&mut world, synchronized(&work, 8)).is_ok());
    let recovered = Block {
        generation_stamp: work.recovery_id,
        length: 8,
        ..block
    };
    let inode = world.stat("/f").unwrap().inode;
    let edits: Vec<_> = world.journal[before..]
        .iter()
        .map(|(_, edit)| &edit.op)
        .collect();
    assert_eq!(
        edits,
        [&EditOp::Close {
            inode,
            last: Some(recovered)
        }]
    );
    let seen = world
        .events
        .iter()
        .any(|event| matches!(event, Event::LeaseRecovered { inode: closed } if *closed == inode));
    assert!(seen);
}

/// T-L10, E-16: stamps nobody handed out and lengths over the block size are refused.
#[test]
fn t_l10_impossible_results_are_refused() {
    let (mut world, mut nodes) = cluster();
    in_flight(&mut world, &mut nodes);
    assert_eq!(world.ok(recover()), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    let long = nodes[by].ask(&mut world, synchronized(&work, BLOCK + 1));
    assert_eq!(long.unwrap_err().class, InvalidArgument);
    let mut future = work.clone();
    future.recovery_id = GenerationStamp(work.recovery_id.0 + 9);
    let refused = nodes[by].ask(&mut world, synchronized(&future, 1));
    assert_eq!(refused.unwrap_err().class, StaleReplica);
    let (_, closed) = written(&mut world, &mut nodes, "/closed", &[7]);
    let mut other = work.clone();
    other.block = closed[0];
    let refused = nodes[by].ask(&mut world, synchronized(&other, 7));
    assert_eq!(refused.unwrap_err().class, StaleReplica);
    assert!(world.stat("/f").unwrap().under_construction);
}

/// T-P1: a new stamp only for the open last block of the caller's own file.
#[test]
fn t_p1_who_gets_a_new_stamp() {
    let (mut world, mut nodes) = cluster();
    let (_, closed) = written(&mut world, &mut nodes, "/closed", &[7]);
    let block = in_flight(&mut world, &mut nodes);
    let inode = world.stat("/f").unwrap().inode;
    let ask = |path: &str, inode, block| Request::UpdateBlockForPipeline {
        path: path.into(),
        inode,
        block,
    };
    let of_closed = ask("/closed", Default::default(), closed[0]);
    assert_eq!(world.fails(of_closed).0, LeaseExpired);
    let complete = world.fails(ask("/f", inode, closed[0]));
    assert_eq!(complete.0, InvalidArgument);
    let unknown = Block {
        id: hadal_types::BlockId(9),
        ..block
    };
    assert_eq!(world.fails(ask("/f", inode, unknown)).0, InvalidArgument);
    let foreign = world.call_as(&root(), 2, ask("/f", inode, block));
    assert_eq!(foreign.unwrap_err().class, LeaseExpired);
    let null = world.call_as(&root(), 0, ask("/f", inode, block));
    assert!(null.is_err());
    let generation_stamp = new_stamp(&mut world, "/f", inode, block);
    assert!(generation_stamp > block.generation_stamp);
}

/// T-P10: a DataNode declared dead registers again during a write; the pipeline is updated before and after.
#[test]
fn t_p10_a_datanode_comes_back_during_a_write() {
    let (mut world, mut nodes) = cluster();
    let mut block = in_flight(&mut world, &mut nodes);
    let inode = world.stat("/f").unwrap().inode;
    let update = |world: &mut World, block: Block| {
        let nodes = locate(world, "/f", 0, 1).blocks[0].locations.clone();
        update_pipeline(world, "/f", inode, block, nodes)
    };
    for _ in 0..70 {
        world.pass(10_000);
        nodes[1].beat(&mut world);
        nodes[2].beat(&mut world);
        world.ok(Request::RenewLease);
    }
    assert_eq!(world.ns.blocks().live_datanodes(), 2);
    block = update(&mut world, block);
    assert_eq!(locate(&mut world, "/f", 0, 1).blocks[0].locations.len(), 2);
    nodes[0] = Node::register(1, &mut world);
    block = update(&mut world, block);
    let done = of_length(block, 5);
    received(&mut world, &mut nodes[1..], done);
    assert_eq!(world.ok(complete("/f", inode, Some(done))), YES);
}

/// T-P18 (NameNode part): hsync with update-length: nothing for 0 bytes, then what was written.
#[test]
fn t_p18_the_recorded_length_follows_hsync() {
    let (mut world, mut nodes) = cluster();
    in_flight(&mut world, &mut nodes);
    let fsync = |length| Request::Fsync {
        path: "/f".into(),
        inode: Default::default(),
        last_block_length: length,
    };
    world.ok(fsync(0));
    assert_eq!(world.stat("/f").unwrap().length, 0);
    for length in [1, 100, 100, 50, BLOCK] {
        let before = world.stat("/f").unwrap().length;
        world.ok(fsync(length));
        assert_eq!(world.stat("/f").unwrap().length, before.max(length));
    }
    assert_replays(&world);
}
