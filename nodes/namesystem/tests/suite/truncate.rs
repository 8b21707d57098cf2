//! truncate: at once on a boundary, else by block recovery (F-10, T-T*).

use crate::datanode::{
    BLOCK, NO, Node, YES, append, assert_replays, cluster, complete, locate, open_wide, received,
    recoveries, synchronized, truncate, update_pipeline, written,
};
use crate::support::{Rng, World, delete, reload, rename, root};
use hadal_namesystem::{Caller, TRUNCATE_HOLDER};
use hadal_proto::FaultClass::{
    AccessDenied, AlreadyBeingCreated, InvalidArgument, IsDirectory, NotFound, RecoveryInProgress,
    StaleReplica,
};
use hadal_proto::client::{Request, Response};
use hadal_proto::datanode::{Action, ChangeKind, RecoveryWork, Request as FromNode};
use hadal_proto::edit::EditOp;
use hadal_types::{Block, BlockId, GenerationStamp, InodeId};

fn closed(world: &mut World, path: &str) -> bool {
    world.ok(Request::IsFileClosed { path: path.into() }) == YES
}

/// Lets the one recovery ordered end as asked, and the DataNodes report it.
fn recover(world: &mut World, nodes: &mut [Node]) -> Block {
    let work = recoveries(world, nodes);
    assert_eq!(work.len(), 1, "one recovery is ordered");
    end(world, nodes, work[0].0, &work[0].1)
}

fn end(world: &mut World, nodes: &mut [Node], by: usize, work: &RecoveryWork) -> Block {
    let length = work.truncate_to.expect("a truncate says the length");
    let done = nodes[by].ask(world, synchronized(work, length));
    assert!(done.is_ok(), "{done:?}");
    let block = Block {
        generation_stamp: work.recovery_id,
        length,
        ..work.block
    };
    received(world, nodes, block);
    block
}

/// T-T1: all cuts of a file of several blocks: `true` iff nothing is cut or the cut is on a boundary.
#[test]
fn t_t1_every_cut() {
    let lengths = [BLOCK, BLOCK, 5];
    let total = 2 * BLOCK + 5;
    let cuts = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]
        .into_iter()
        .chain(2 * BLOCK + 1..=total);
    for cut in cuts {
        let (mut world, mut nodes) = cluster();
        let (_, blocks) = written(&mut world, &mut nodes, "/f", &lengths);
        let before = world.journal.len();
        let answer = world.ok(truncate("/f", cut));
        let at_once = cut == total || cut.is_multiple_of(BLOCK);
        assert_eq!(answer, Response::Flag { value: at_once }, "{cut}");
        let edits = world.journal.len() - before;
        assert_eq!(edits, usize::from(cut != total), "{cut}: one edit");
        assert_eq!(closed(&mut world, "/f"), at_once);
        assert_eq!(world.stat("/f").unwrap().length, cut);
        assert_replays(&world);
        if !at_once {
            let block = recover(&mut world, &mut nodes);
            let old = blocks[(cut / BLOCK) as usize];
            assert_eq!(block.id, old.id, "in place");
            assert!(block.generation_stamp > old.generation_stamp);
            assert!(closed(&mut world, "/f"));
        }
        let located = locate(&mut world, "/f", 0, u64::MAX);
        let kept: u64 = located.blocks.iter().map(|found| found.block.length).sum();
        assert_eq!((located.file_length, kept), (cut, cut));
        assert_eq!(located.blocks.len() as u64, cut.div_ceil(BLOCK));
        assert!(
            located
                .blocks
                .iter()
                .all(|found| found.locations.len() == 3)
        );
        let Response::ContentSummary { summary } =
            world.ok(Request::GetContentSummary { path: "/f".into() })
        else {
            panic!("a summary");
        };
        assert_eq!((summary.length, summary.space_consumed), (cut, 3 * cut));
        assert_replays(&world);
        // What was cut off is deleted.
        world.pass(10_000);
        nodes[0].beat(&mut world);
        let gone: Vec<BlockId> = nodes[0].deleted.borrow().iter().copied().collect();
        let dropped = &blocks[located.blocks.len()..];
        let expected: Vec<BlockId> = dropped.iter().map(|block| block.id).collect();
        assert_eq!(gone, expected, "{cut}");
    }
}

/// T-T2, F-06: the same target again while it is under way and after, under another call id and under the same.
#[test]
fn t_t2_the_same_target_twice() {
    let (mut world, mut nodes) = cluster();
    written(&mut world, &mut nodes, "/f", &[100]);
    let ticket = world.send(&root(), 1, 500, truncate("/f", 40));
    assert_eq!(world.answer(ticket).unwrap().unwrap().response, NO);
    let edits = world.ns.applied();
    assert_eq!(world.ok(truncate("/f", 40)), NO);
    let ticket = world.send(&root(), 1, 500, truncate("/f", 40));
    assert_eq!(world.answer(ticket).unwrap().unwrap().response, NO);
    assert_eq!(world.ns.applied(), edits);
    recover(&mut world, &mut nodes);
    assert_eq!(world.ok(truncate("/f", 40)), YES);
    let ticket = world.send(&root(), 1, 501, truncate("/f", 0));
    assert_eq!(world.answer(ticket).unwrap().unwrap().response, YES);
    let edits = world.ns.applied();
    let ticket = world.send(&root(), 1, 501, truncate("/f", 0));
    assert_eq!(world.answer(ticket).unwrap().unwrap().response, YES);
    assert_eq!(world.ns.applied(), edits);
}

/// T-T3: each has its own error, and none changes anything.
#[test]
fn t_t3_what_cannot_be_truncated() {
    let (mut world, mut nodes) = cluster();
    world.mkdirs("/d");
    open_wide(&mut world, "/open");
    written(&mut world, &mut nodes, "/f", &[100]);
    written(&mut world, &mut nodes, "/appending", &[100]);
    world.ok(append("/appending", false));
    let edits = world.ns.applied();
    let (class, message) = world.fails(truncate("/f", 101));
    assert_eq!(class, InvalidArgument);
    assert!(
        message.contains(
            "Cannot truncate to a larger file size. Current size: 100, truncate size: 101."
        ),
        "{message}"
    );
    assert_eq!(world.fails(truncate("/d", 0)).0, IsDirectory);
    assert_eq!(world.fails(truncate("/none", 0)).0, NotFound);
    for path in ["/open", "/appending"] {
        let (class, message) = world.fails(truncate(path, 0));
        assert_eq!(class, AlreadyBeingCreated);
        assert!(
            message.contains(&format!("Failed to TRUNCATE_FILE {path}")),
            "{message}"
        );
        let fault = world.call_as(&root(), 2, truncate(path, 0)).unwrap_err();
        assert_eq!(fault.class, AlreadyBeingCreated);
        assert!(fault.message.contains("currently owned by"), "{fault}");
    }
    let alice = Caller::user("alice", &["staff"]);
    let denied = world.call_as(&alice, 5, truncate("/f", 1)).unwrap_err();
    assert_eq!(denied.class, AccessDenied);
    assert_eq!(world.ns.applied(), edits);
}

/// T-T4: while the last block is being recovered nobody cuts elsewhere, appends or overwrites without recovery.
#[test]
fn t_t4_a_second_truncate_while_truncating() {
    let (mut world, mut nodes) = cluster();
    written(&mut world, &mut nodes, "/f", &[100]);
    assert_eq!(world.ok(truncate("/f", 40)), NO);
    for client in [1, 2] {
        for request in [truncate("/f", 20), truncate("/f", 0), append("/f", false)] {
            let fault = world.call_as(&root(), client, request).unwrap_err();
            assert_eq!(fault.class, RecoveryInProgress);
            assert!(fault.message.contains("is being truncated"), "{fault}");
        }
    }
    let Response::OpenFiles { files, .. } = world.ok(Request::ListOpenFiles {
        after: InodeId(0),
        path: String::new(),
    }) else {
        panic!("open files");
    };
    assert_eq!(files[0].holder, TRUNCATE_HOLDER);
    recover(&mut world, &mut nodes);
    assert_eq!(world.ok(truncate("/f", 0)), YES);
}

/// T-T5: what happens to the file meanwhile goes with it, also through a restart from journal or image.
#[test]
fn t_t5_truncate_rename_and_restart() {
    let (mut world, mut nodes) = cluster();
    let (_, blocks) = written(&mut world, &mut nodes, "/f", &[BLOCK, 100]);
    assert_eq!(world.ok(truncate("/f", BLOCK + 40)), NO);
    world.ok(Request::SetReplication {
        path: "/f".into(),
        replication: 2,
    });
    world.ok(Request::SetPermission {
        path: "/f".into(),
        permission: 0o600,
    });
    world.ok(rename("/f", "/g", false));
    for ns in [world.replayed(), reload(&world.ns)] {
        let mut next = World::standby(ns);
        next.activate(2);
        let mut nodes: Vec<Node> = (1..=3).map(|id| Node::register(id, &mut next)).collect();
        received(&mut next, &mut nodes, blocks[0]);
        received(&mut next, &mut nodes, blocks[1]);
        assert_eq!(next.stat("/g").unwrap().length, BLOCK + 40);
        next.pass(3_000);
        let block = recover(&mut next, &mut nodes);
        assert_eq!((block.id, block.length), (blocks[1].id, 40));
        let status = next.stat("/g").unwrap();
        assert_eq!((status.length, status.replication), (BLOCK + 40, 2));
        assert_eq!(
            (status.permission, status.under_construction),
            (0o600, false)
        );
    }
}

/// T-T6: a DataNode that was down meanwhile has a replica of the old stamp, which is replaced.
#[test]
fn t_t6_a_replica_that_missed_the_cut_is_stale() {
    let (mut world, mut nodes) = cluster();
    let (_, blocks) = written(&mut world, &mut nodes, "/f", &[100]);
    assert_eq!(world.ok(truncate("/f", 40)), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    let mut result = synchronized(&work, 40);
    let away = (by + 1) % 3;
    if let FromNode::CommitBlockSynchronization { nodes, .. } = &mut result {
        nodes.retain(|node| node.datanode.0 != away as u128 + 1);
    }
    nodes[by].ask(&mut world, result).unwrap();
    let cut = Block {
        generation_stamp: work.recovery_id,
        length: 40,
        ..blocks[0]
    };
    for (at, node) in nodes.iter_mut().enumerate() {
        let has = if at == away { blocks[0] } else { cut };
        node.says(&mut world, ChangeKind::Received, has);
    }
    let located = locate(&mut world, "/f", 0, 1);
    assert_eq!(located.blocks[0].block, cut);
    assert_eq!(located.blocks[0].locations.len(), 2);
    assert_eq!(located.blocks[0].corrupt_replicas, 1);
    world.pass(10_000);
    let told = nodes[away].beat(&mut world);
    assert!(
        told.iter().any(|command| matches!(
            &command.action,
            Action::Invalidate { blocks: stale } if stale[..] == [blocks[0]]
        )),
        "{told:?}"
    );
}

/// T-T8: with all DataNodes away the truncate is recorded, the file stays open, and the recovery begins when they
/// are back.
#[test]
fn t_t8_all_datanodes_away() {
    let (mut world, mut nodes) = cluster();
    let (_, blocks) = written(&mut world, &mut nodes, "/f", &[100]);
    drop(nodes);
    world.pass(700_000);
    assert_eq!(world.ok(truncate("/f", 40)), NO);
    world.pass(700_000);
    assert!(!closed(&mut world, "/f"));
    let mut nodes: Vec<Node> = (1..=3).map(|id| Node::register(id, &mut world)).collect();
    received(&mut world, &mut nodes, blocks[0]);
    let mut work = Vec::new();
    while work.is_empty() {
        world.pass(10_000);
        work = recoveries(&mut world, &nodes);
    }
    assert_eq!(work.len(), 1);
    end(&mut world, &mut nodes, work[0].0, &work[0].1);
    assert!(closed(&mut world, "/f"));
    assert_eq!(world.stat("/f").unwrap().length, 40);
    assert_replays(&world);
}

/// T-L10 for truncates: a result of another length, or of another recovery, is not taken.
#[test]
fn t_l10_a_truncate_ends_at_its_length_only() {
    let (mut world, mut nodes) = cluster();
    written(&mut world, &mut nodes, "/f", &[100]);
    assert_eq!(world.ok(truncate("/f", 40)), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    for length in [39, 41, 100] {
        let refused = nodes[by].ask(&mut world, synchronized(&work, length));
        assert_eq!(refused.unwrap_err().class, InvalidArgument);
    }
    let mut other = work.clone();
    other.recovery_id = GenerationStamp(work.recovery_id.0 - 1);
    let refused = nodes[by].ask(&mut world, synchronized(&other, 40));
    assert_eq!(refused.unwrap_err().class, StaleReplica);
    assert!(!closed(&mut world, "/f"));
    let done = nodes[by].ask(&mut world, synchronized(&work, 40));
    assert!(done.is_ok());
    assert!(closed(&mut world, "/f"));
}

/// A file deleted while it is truncated takes the recovery with it.
#[test]
fn t_t8_a_deleted_file_is_not_recovered() {
    let (mut world, mut nodes) = cluster();
    written(&mut world, &mut nodes, "/f", &[100]);
    assert_eq!(world.ok(truncate("/f", 40)), NO);
    let (by, work) = recoveries(&mut world, &nodes).remove(0);
    world.ok(delete("/f", false));
    let late = nodes[by].ask(&mut world, synchronized(&work, 40));
    assert_eq!(late.unwrap_err().class, NotFound);
    world.pass(100_000);
    assert_replays(&world);
}

/// T-T9: a start with the truncate only in the edits has the length as of each point.
#[test]
fn t_t9_lengths_as_of_each_edit() {
    let (mut world, mut nodes) = cluster();
    let (inode, _) = written(&mut world, &mut nodes, "/f", &[BLOCK, 100]);
    assert_eq!(world.ok(truncate("/f", BLOCK + 10)), NO);
    recover(&mut world, &mut nodes);
    assert_eq!(world.ok(truncate("/f", BLOCK)), YES);
    assert_eq!(world.ok(truncate("/f", 7)), NO);
    let mut lengths = Vec::new();
    let mut other = crate::support::fresh(world.ns.config().clone());
    for (txid, edit) in &world.journal {
        other.replay(world.now, *txid, edit);
        if matches!(edit.op, EditOp::Truncate { .. } | EditOp::Close { .. }) {
            let mut at = World::standby(reload(&other));
            at.activate(9);
            lengths.push(at.stat("/f").map(|status| status.length).unwrap());
        }
    }
    assert_eq!(
        lengths,
        [BLOCK + 100, BLOCK + 10, BLOCK + 10, BLOCK, 7],
        "of inode {inode}"
    );
}

/// T-T11 (NameNode part): random appends and truncates against a model of lengths; active, replay and image agree.
#[test]
fn t_t11_random_appends_and_truncates() {
    for seed in 0..8 {
        let mut rng = Rng::new(seed + 1);
        let (mut world, mut nodes) = cluster();
        written(&mut world, &mut nodes, "/f", &[BLOCK]);
        let mut length = BLOCK;
        for _ in 0..60 {
            if rng.chance(50) {
                let wanted = rng.below(length + 1);
                if world.ok(truncate("/f", wanted)) == NO {
                    assert!(!wanted.is_multiple_of(BLOCK));
                    recover(&mut world, &mut nodes);
                }
                length = wanted;
            } else {
                length += append_some(&mut world, &mut nodes, rng.below(3 * BLOCK) + 1);
            }
            assert_eq!(world.stat("/f").unwrap().length, length, "seed {seed}");
            assert!(closed(&mut world, "/f"));
        }
        let located = locate(&mut world, "/f", 0, u64::MAX);
        let mut at = 0;
        for found in &located.blocks {
            assert_eq!((found.offset, found.locations.len()), (at, 3));
            at += found.block.length;
        }
        assert_eq!(at, length);
        assert_replays(&world);
    }
}

/// Appends as a writer does: the partial block first, then new ones.
fn append_some(world: &mut World, nodes: &mut [Node], bytes: u64) -> u64 {
    let Response::Appended {
        reopened,
        mut last,
        status,
    } = world.ok(append("/f", false))
    else {
        panic!("an append's answer");
    };
    let inode = status.inode;
    let mut left = bytes;
    if let Some(reopened) = reopened {
        let block = reopened.block;
        let new = update_pipeline(world, "/f", inode, block, reopened.locations);
        let more = left.min(BLOCK - block.length);
        left -= more;
        let done = Block {
            length: block.length + more,
            ..new
        };
        received(world, nodes, done);
        last = Some(done);
    }
    while left > 0 {
        let block = crate::datanode::added(world.ok(crate::datanode::add("/f", inode, last))).block;
        let done = Block {
            length: left.min(BLOCK),
            ..block
        };
        left -= done.length;
        received(world, nodes, done);
        last = Some(done);
    }
    assert_eq!(world.ok(complete("/f", inode, last)), YES);
    bytes
}
