//! The first block in the answer to a create.

use crate::datanode::{
    BLOCK, Node, YES, add, added, assert_replays, cluster, complete, locate, of_length, received,
};
use crate::support::{World, create, create_with_block, root};
use hadal_namesystem::Output;
use hadal_proto::FaultClass;
use hadal_proto::client::{FileStatus, LocatedBlock, Request, Response};
use hadal_proto::edit::EditOp;
use hadal_types::{Block, BlockState, ClientId, TxId};

fn created(response: Response) -> (FileStatus, Option<LocatedBlock>) {
    match response {
        Response::Created { status, block } => (*status, block),
        other => panic!("not a new file: {other:?}"),
    }
}

fn abandon(path: &str, status: &FileStatus, block: Block) -> Request {
    Request::AbandonBlock {
        path: path.into(),
        inode: status.inode,
        block,
    }
}

/// Whoever asks for it gets the block that AddBlock would have given, and the edits of both leave together, so that they
/// cost one append to the journal. Nobody else gets one.
#[test]
fn a_create_that_asks_for_it_is_answered_with_the_first_block() {
    let (mut world, mut nodes) = cluster();
    let before = world.ns.applied();
    let call = hadal_proto::client::ClientCall {
        client: ClientId(1),
        call: hadal_types::CallId(1 << 20),
        seen: before,
        from_standby: false,
        request: create_with_block("/f"),
    };
    let (now, wall_ms) = (world.now, world.wall_ms);
    world.ns.handle_client(now, wall_ms, &root(), 1 << 30, call);
    let Some(Output::Edits { first, records }) = world.ns.poll_output() else {
        panic!("edits come first");
    };
    assert_eq!(first, before.next());
    let edits: Vec<hadal_proto::edit::Edit> = records
        .into_iter()
        .map(|record| hadal_proto::decode(record).expect("an edit"))
        .collect();
    assert!(
        matches!(
            edits.iter().map(|edit| &edit.op).collect::<Vec<_>>()[..],
            [
                EditOp::Create { .. },
                EditOp::AddBlock { previous: None, .. }
            ]
        ),
        "{edits:?}"
    );
    for (at, edit) in edits.into_iter().enumerate() {
        world.journal.push((TxId(first.0 + at as u64), edit));
    }
    // Both edits wait for the journal before the answer leaves.
    world.ns.handle_committed(now, before.next());
    world.pump_without_commit();
    assert!(world.answer(1 << 30).is_none(), "the block is not durable");
    let at = world.ns.applied();
    world.ns.handle_committed(now, at);
    world.pump_without_commit();
    let reply = world.answer(1 << 30).expect("committed").expect("created");
    assert_eq!(reply.txid, at);
    let (status, block) = created(reply.response);
    let block = block.expect("asked for");
    assert_eq!((block.offset, block.block.length), (0, 0));
    assert_eq!(block.locations.len(), 1, "as many as the file has copies");

    // The same question again under another call id is answered with the same block.
    assert_eq!(
        added(world.ok(add("/f", status.inode, None))).block,
        block.block
    );
    let last = of_length(block.block, BLOCK);
    received(&mut world, &mut nodes, last);
    assert_eq!(
        world.ok(complete("/f", status.inode, Some(last))),
        YES,
        "written and closed without an AddBlock"
    );
    assert_eq!(world.stat("/f").expect("there").length, BLOCK);

    let (_, none) = created(world.ok(create("/not-asked")));
    assert_eq!(none, None);
    assert!(locate(&mut world, "/not-asked", 0, 1).blocks.is_empty());
}

/// Without DataNodes the file is there all the same, and AddBlock says what is wrong.
#[test]
fn without_datanodes_the_file_is_created_without_a_block() {
    let mut world = World::new();
    let (status, block) = created(world.ok(create_with_block("/f")));
    assert_eq!(block, None);
    assert!(world.stat("/f").is_some());
    let (class, _) = world.fails(add("/f", status.inode, None));
    assert_eq!(class, FaultClass::NoDatanodes);
    assert_eq!(world.ok(complete("/f", status.inode, None)), YES);
    assert_replays(&world);
}

/// A writer that had nothing to write gives the block back: an empty file has none, and nobody knows it any more.
#[test]
fn an_empty_file_has_no_block_after_its_close() {
    let (mut world, _nodes) = cluster();
    let (status, block) = created(world.ok(create_with_block("/f")));
    let block = block.expect("asked for").block;
    assert_eq!(
        world.ok(complete("/f", status.inode, None)),
        Response::Flag { value: false },
        "a block that nobody has is in the way of the close"
    );
    assert_eq!(world.ok(abandon("/f", &status, block)), Response::Done);
    assert_eq!(world.ok(complete("/f", status.inode, None)), YES);
    assert!(locate(&mut world, "/f", 0, 1).blocks.is_empty());
    assert_eq!(world.ns.blocks().stored(block.id), None);
    assert_replays(&world);
}

/// A file that is replaced takes its blocks along, whether it was written or not.
#[test]
fn overwriting_a_file_with_an_unwritten_block_removes_it() {
    let (mut world, _nodes) = cluster();
    let (_, first) = created(world.ok(create_with_block("/f")));
    let mut again = create_with_block("/f");
    let Request::Create { overwrite, .. } = &mut again else {
        unreachable!("made so above");
    };
    *overwrite = true;
    let (_, second) = created(world.ok(again));
    let (first, second) = (first.expect("given").block, second.expect("given").block);
    assert_ne!(first.id, second.id);
    assert_eq!(world.ns.blocks().stored(first.id), None);
    assert!(world.ns.blocks().stored(second.id).is_some());
    assert_replays(&world);
}

/// F-06: a retry finds the block in the file, here, at a NameNode that replayed the edits, and at one that loaded an image;
/// it makes no edit, also when the first answer had none.
#[test]
fn f06_a_retried_create_is_answered_with_the_same_block() {
    let (mut world, _nodes) = cluster();
    let ask = |world: &mut World, call| {
        let ticket = world.send(&root(), 7, call, create_with_block("/f"));
        world.answer(ticket).expect("answered").expect("created")
    };
    let first = ask(&mut world, 1);
    let applied = world.ns.applied();
    let again = ask(&mut world, 1);
    assert_eq!(again, first, "targets included");
    assert_eq!(world.ns.applied(), applied);
    let (_, block) = created(first.response);
    let block = block.expect("asked for").block;
    for ns in [world.replayed(), crate::support::reload(&world.ns)] {
        let mut next = World::standby(ns);
        next.activate(2);
        // Who has nothing to write must know of the block to give it back, though nobody can write it yet.
        let early = created(ask(&mut next, 1).response)
            .1
            .expect("the file's only block");
        assert_eq!((early.block, early.locations.len()), (block, 0));
        let mut nodes: Vec<Node> = (1..=3).map(|id| Node::register(id, &mut next)).collect();
        let applied = next.ns.applied();
        let reply = ask(&mut next, 1);
        assert_eq!((reply.txid, next.ns.applied()), (first.txid, applied));
        let (status, again) = created(reply.response);
        let again = again.expect("the file's only block");
        assert_eq!(again.block, block);
        assert_eq!(again.locations.len(), 1, "a pipeline chosen anew");
        // Written through the failover.
        let last = of_length(block, 10);
        received(&mut next, &mut nodes, last);
        let ticket = next.send(&root(), 7, 2, complete("/f", status.inode, Some(last)));
        let closed = next.answer(ticket).expect("answered").expect("closed");
        assert_eq!(closed.response, YES);
    }

    let mut empty = World::new();
    let without = ask(&mut empty, 1);
    Node::register(1, &mut empty);
    let applied = empty.ns.applied();
    assert_eq!(ask(&mut empty, 1), without, "once executed, once answered");
    assert_eq!(empty.ns.applied(), applied);
}

/// Whoever lost the file to somebody else meanwhile is not handed a block of it.
#[test]
fn a_retried_create_gives_no_block_of_a_file_that_was_taken_over() {
    let (mut world, nodes) = cluster();
    let ask = |world: &mut World| {
        let ticket = world.send(&root(), 7, 1, create_with_block("/f"));
        let reply = world.answer(ticket).expect("answered").expect("created");
        created(reply.response).1
    };
    let block = ask(&mut world).expect("asked for").block;
    world.pass(2_000);
    nodes.iter().for_each(|node| drop(node.beat(&mut world)));
    // Block recovery begins, or is refused for now: the lease is the NameNode's either way.
    let _ = world.call(Request::RecoverLease { path: "/f".into() });
    assert_eq!(ask(&mut world), None);
    let stored = world.ns.blocks().stored(block.id).expect("still there");
    assert_ne!(stored.state, BlockState::Complete);
}
