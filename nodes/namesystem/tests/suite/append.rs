//! append (F-10), and what leases say to it (E-01, E-04).

use crate::datanode::{
    BLOCK, Node, YES, add, added, append, assert_replays, cluster, complete, locate, of_length,
    received, recoveries, synchronized, update_pipeline, written,
};
use crate::support::{World, root};
use hadal_namesystem::Caller;
use hadal_proto::FaultClass::{
    AccessDenied, AlreadyBeingCreated, AlreadyExists, InvalidArgument, LeaseExpired, NotFound,
    NotReplicatedYet, RecoveryInProgress,
};
use hadal_proto::client::{FileStatus, LocatedBlock, Request, Response};
use hadal_proto::datanode::ChangeKind;
use hadal_proto::edit::EditOp;
use hadal_types::{Block, Epoch};

fn appended(response: Response) -> (Option<LocatedBlock>, Option<Block>, FileStatus) {
    match response {
        Response::Appended {
            reopened,
            last,
            status,
        } => (reopened, last, *status),
        other => panic!("not an append's answer: {other:?}"),
    }
}

/// F-10: a partial last block is reopened in place, goes on under a new stamp, and closes longer.
#[test]
fn f10_append_reopens_a_partial_block_under_a_new_stamp() {
    let (mut world, mut nodes) = cluster();
    let (inode, blocks) = written(&mut world, &mut nodes, "/f", &[BLOCK, 100]);
    let (reopened, last, status) = appended(world.ok(append("/f", false)));
    let reopened = reopened.expect("the last block is partial");
    assert_eq!((reopened.block, last), (blocks[1], Some(blocks[1])));
    assert_eq!((reopened.offset, reopened.locations.len()), (BLOCK, 3));
    assert!(reopened.under_construction && status.under_construction);
    assert_eq!(
        (status.inode, status.length, status.block_size),
        (inode, 1124, BLOCK)
    );
    assert_replays(&world);

    let nodes_of_it = reopened.locations.clone();
    let new = update_pipeline(&mut world, "/f", inode, blocks[1], nodes_of_it);
    let done = of_length(new, 300);
    // A replica of the old stamp does not close the file.
    nodes[0].says(&mut world, ChangeKind::Received, blocks[1]);
    assert_ne!(world.ok(complete("/f", inode, Some(done))), YES);
    received(&mut world, &mut nodes, done);
    assert_eq!(world.ok(complete("/f", inode, Some(done))), YES);
    let located = locate(&mut world, "/f", 0, u64::MAX);
    assert_eq!(located.file_length, BLOCK + 300);
    assert_eq!(located.blocks[1].block, done);
    assert_eq!(located.blocks[1].locations.len(), 3);
    assert_replays(&world);
}

/// F-10: a full last block stays COMPLETE; the writer begins a new one, and may not touch the old one (T-P1).
#[test]
fn f10_t_p1_append_to_a_full_block_begins_a_new_one() {
    let (mut world, mut nodes) = cluster();
    let (inode, blocks) = written(&mut world, &mut nodes, "/f", &[BLOCK]);
    let (reopened, last, _) = appended(world.ok(append("/f", false)));
    assert_eq!((reopened, last), (None, Some(blocks[0])));
    let refused = Request::UpdateBlockForPipeline {
        path: "/f".into(),
        inode,
        block: blocks[0],
    };
    assert_eq!(world.fails(refused).0, InvalidArgument);
    let refused = Request::AbandonBlock {
        path: "/f".into(),
        inode,
        block: blocks[0],
    };
    assert_eq!(world.fails(refused).0, InvalidArgument);
    let refused = Request::Fsync {
        path: "/f".into(),
        inode,
        last_block_length: BLOCK + 1,
    };
    assert_eq!(world.fails(refused).0, InvalidArgument);
    let next = added(world.ok(add("/f", inode, last)));
    assert_eq!(next.offset, BLOCK);
    let done = of_length(next.block, 7);
    received(&mut world, &mut nodes, done);
    assert_eq!(world.ok(complete("/f", inode, Some(done))), YES);
    assert_eq!(world.stat("/f").unwrap().length, BLOCK + 7);
    assert_replays(&world);
}

/// HDFS's NEW_BLOCK flag: a partial block in the middle of a file. Its length is final.
#[test]
fn f10_append_to_a_new_block_leaves_the_partial_one() {
    let (mut world, mut nodes) = cluster();
    let (inode, blocks) = written(&mut world, &mut nodes, "/f", &[100]);
    let (reopened, last, _) = appended(world.ok(append("/f", true)));
    assert_eq!((reopened, last), (None, Some(blocks[0])));
    let longer = Some(of_length(blocks[0], 101));
    assert_eq!(world.fails(add("/f", inode, longer)).0, InvalidArgument);
    let next = added(world.ok(add("/f", inode, last)));
    assert_eq!(next.offset, 100);
    let done = of_length(next.block, 50);
    received(&mut world, &mut nodes, done);
    assert_eq!(world.ok(complete("/f", inode, Some(done))), YES);
    let located = locate(&mut world, "/f", 120, 1);
    assert_eq!((located.file_length, located.blocks[0].offset), (150, 100));
    assert_replays(&world);
}

/// An append that writes nothing leaves the file as it was: the old replicas count again.
#[test]
fn f10_append_and_close_without_a_byte() {
    let (mut world, mut nodes) = cluster();
    let (inode, blocks) = written(&mut world, &mut nodes, "/f", &[100]);
    appended(world.ok(append("/f", false)));
    assert_eq!(world.ok(complete("/f", inode, Some(blocks[0]))), YES);
    let located = locate(&mut world, "/f", 0, 1);
    assert_eq!(located.blocks[0].block, blocks[0]);
    assert_eq!(located.blocks[0].locations.len(), 3);
    // An empty file has nothing to reopen.
    world.touch("/empty");
    let (reopened, last, status) = appended(world.ok(append("/empty", false)));
    assert_eq!((reopened, last, status.length), (None, None, 0));
    assert_replays(&world);
}

/// What append refuses, each with HDFS's words.
#[test]
fn f10_append_refuses() {
    let (mut world, mut nodes) = cluster();
    world.mkdirs("/d");
    written(&mut world, &mut nodes, "/f", &[100]);
    let (class, message) = world.fails(append("/d", false));
    assert_eq!(class, AlreadyExists);
    assert!(
        message.contains("Cannot append to directory /d"),
        "{message}"
    );
    let (class, message) = world.fails(append("/none", false));
    assert_eq!(class, NotFound);
    assert!(message.contains("non-existent file /none"), "{message}");
    let alice = Caller::user("alice", &["staff"]);
    let denied = world.call_as(&alice, 5, append("/f", false)).unwrap_err();
    assert_eq!(denied.class, AccessDenied);
    assert!(denied.message.contains("access=WRITE"), "{denied}");
    // No DataNode is left that has it.
    world.pass(700_000);
    assert_eq!(world.fails(append("/f", false)).0, NotReplicatedYet);
    assert!(!world.stat("/f").unwrap().under_construction);
}

/// T-L22, E-01, E-04: under another's lease; after the soft limit recovery begins, and append works once it ended.
#[test]
fn t_l22_append_to_a_file_leased_by_another() {
    let (mut world, mut nodes) = cluster();
    let (inode, blocks) = written(&mut world, &mut nodes, "/f", &[100]);
    appended(world.ok(append("/f", false)));
    let (class, message) = world.fails(append("/f", false));
    assert_eq!(class, AlreadyBeingCreated);
    assert!(
        message.contains("Failed to APPEND_FILE /f")
            && message.contains("is already the current lease holder."),
        "{message}"
    );
    let theirs = |world: &mut World| world.call_as(&root(), 2, append("/f", false));
    let fault = theirs(&mut world).unwrap_err();
    assert_eq!(fault.class, AlreadyBeingCreated);
    assert!(
        fault
            .message
            .contains("this file lease is currently owned by"),
        "{fault}"
    );
    world.pass(59_000);
    for node in &nodes {
        node.beat(&mut world);
    }
    world.pass(2_000);
    let fault = theirs(&mut world).unwrap_err();
    assert_eq!(fault.class, RecoveryInProgress);
    // T-L18: the old length under a new stamp, on all replicas.
    let work = recoveries(&mut world, &nodes);
    assert_eq!(work.len(), 1);
    let (by, work) = &work[0];
    assert_eq!((work.block, work.truncate_to), (blocks[0], None));
    assert_eq!(work.locations.len(), 3);
    assert!(work.recovery_id > blocks[0].generation_stamp);
    let done = nodes[*by].ask(&mut world, synchronized(work, 100));
    assert!(done.is_ok(), "{done:?}");
    let late = world.call(add("/f", inode, Some(blocks[0]))).unwrap_err();
    assert_eq!(late.class, LeaseExpired);
    let recovered = Block {
        generation_stamp: work.recovery_id,
        ..blocks[0]
    };
    received(&mut world, &mut nodes, recovered);
    let (reopened, ..) = appended(theirs(&mut world).unwrap());
    assert_eq!(reopened.unwrap().block, recovered);
    assert_replays(&world);
}

/// F-06: an append said again is answered again, also by the next active; it does not run twice.
#[test]
fn f06_append_runs_once() {
    let (mut world, mut nodes) = cluster();
    let (inode, blocks) = written(&mut world, &mut nodes, "/f", &[100]);
    let ticket = world.send(&root(), 9, 70, append("/f", false));
    let first = world.answer(ticket).unwrap().unwrap();
    let edits = world.ns.applied();
    let ticket = world.send(&root(), 9, 70, append("/f", false));
    let again = world.answer(ticket).unwrap().unwrap();
    assert_eq!(again.txid, first.txid);
    assert_eq!(world.ns.applied(), edits);
    let (one, two) = (appended(first.response), appended(again.response));
    assert_eq!((one.1, one.2), (two.1, two.2));
    assert_eq!(one.0.unwrap().block, two.0.unwrap().block);

    let mut next = World::standby(world.replayed());
    next.activate(2);
    let mut there: Vec<Node> = (1..=3).map(|id| Node::register(id, &mut next)).collect();
    received(&mut next, &mut there, blocks[0]);
    let ticket = next.send(&root(), 9, 70, append("/f", false));
    let (reopened, ..) = appended(next.answer(ticket).unwrap().unwrap().response);
    let reopened = reopened.unwrap();
    assert_eq!((reopened.block, reopened.locations.len()), (blocks[0], 3));
    // Closed meanwhile: the old call has no answer any more.
    let ticket = next.send(&root(), 9, 71, complete("/f", inode, Some(blocks[0])));
    assert_eq!(next.answer(ticket).unwrap().unwrap().response, YES);
    let ticket = next.send(&root(), 9, 70, append("/f", false));
    let fault = next.answer(ticket).unwrap().unwrap_err();
    assert_eq!(fault.class, LeaseExpired);
    assert_eq!(next.ns.epoch(), Epoch(2));
}

/// Each append is one edit.
#[test]
fn q41_append_is_one_edit() {
    let (mut world, mut nodes) = cluster();
    written(&mut world, &mut nodes, "/f", &[100]);
    let before = world.journal.len();
    world.ok(append("/f", false));
    assert_eq!(world.journal.len(), before + 1);
    assert!(matches!(
        world.journal[before].1.op,
        EditOp::Append { block: Some(_), .. }
    ));
}
