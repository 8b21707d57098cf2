//! Writing files: blocks, pipelines, closing (E-01, E-14, F-09).

use crate::datanode::{NO, Node, YES, add, added, cluster, complete, locate, new_stamp, of_length};
use crate::support::{World, config, create, delete, overwrite, reload, rename, root};
use hadal_proto::FaultClass::{
    InvalidArgument, LeaseExpired, NoDatanodes, NotFound, NotReplicatedYet,
};
use hadal_proto::client::{ReplicaTarget, Request, Response};
use hadal_proto::datanode::{Action, ChangeKind, Command};
use hadal_types::{Block, DatanodeUuid, Epoch, GenerationStamp, InodeId, StorageUuid};

/// F-09: complete() is false until a replica of that stamp and length is reported FINALIZED, then true, and
/// true again when repeated.
#[test]
fn f09_complete_waits_for_minimal_replication() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    assert_eq!((found.offset, found.locations.len()), (0, 1));
    let block = of_length(found.block, 700);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), NO);
    let by = found.locations[0].datanode.0 as usize - 1;
    nodes[by].says(&mut world, ChangeKind::Receiving, found.block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), NO);
    nodes[by].says(&mut world, ChangeKind::Received, block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (700, false));
    let located = locate(&mut world, "/f", 0, 10);
    assert_eq!((located.file_length, located.blocks.len()), (700, 1));
    assert_eq!(
        located.blocks[0].locations[0].datanode,
        DatanodeUuid(by as u128 + 1)
    );
    assert!(locate(&mut world, "/f", 700, 10).blocks.is_empty());
    let closed = world.call(add("/f", inode, Some(block))).unwrap_err();
    assert_eq!(closed.class, LeaseExpired);
}

/// E-16: every stamp handed out, for a new block or after an error in a pipeline, is above all before it, whichever file
/// it is for; also on a NameNode that has them from the journal, or from an image.
#[test]
fn e16_stamps_rise_for_ever() {
    let (mut world, _nodes) = cluster();
    let hand_out = |world: &mut World, client, path: &str, last: GenerationStamp| {
        let mut ask = |request| world.call_as(&root(), client, request).expect("answered");
        let Response::Created { status, .. } = ask(create(path)) else {
            panic!("create answers a status");
        };
        let block = added(ask(add(path, status.inode, None))).block;
        assert!(block.generation_stamp > last, "{path}");
        let answer = ask(Request::UpdateBlockForPipeline {
            path: path.into(),
            inode: status.inode,
            block,
        });
        let Response::NewStamp {
            generation_stamp, ..
        } = answer
        else {
            panic!("{answer:?}");
        };
        assert!(generation_stamp > block.generation_stamp, "{path}");
        generation_stamp
    };
    let first = hand_out(&mut world, 1, "/a", GenerationStamp(0));
    let last = hand_out(&mut world, 1, "/b", first);
    let sources = [world.replayed(), reload(&world.ns)];
    for (n, ns) in sources.into_iter().enumerate() {
        let mut next = World::standby(ns);
        next.activate(2);
        for id in 1..=3 {
            Node::register(id, &mut next);
        }
        hand_out(&mut next, 2, &format!("/later{n}"), last);
    }
}

/// E-14: the next block commits the one before; a third block wants the first complete.
#[test]
fn e14_the_next_block_commits_the_one_before() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let first = added(world.ok(add("/f", inode, None)));
    let first_block = of_length(first.block, 1 << 20);
    let second = added(world.ok(add("/f", inode, Some(first_block))));
    assert_eq!(second.offset, 1 << 20);
    assert!(second.block.id > first.block.id);
    assert!(second.block.generation_stamp > first.block.generation_stamp);
    let second_block = of_length(second.block, 1 << 20);
    let third = world.fails(add("/f", inode, Some(second_block)));
    assert_eq!(third.0, NotReplicatedYet);
    nodes[first.locations[0].datanode.0 as usize - 1].says(
        &mut world,
        ChangeKind::Received,
        first_block,
    );
    let third = added(world.ok(add("/f", inode, Some(second_block))));
    assert_eq!(third.offset, 2 << 20);
    let located = locate(&mut world, "/f", (1 << 20) + 5, 1);
    assert_eq!(located.blocks.len(), 1);
    assert_eq!(located.blocks[0].offset, 1 << 20);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

#[test]
fn add_block_checks_what_the_client_says() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let wrong_stamp = Block {
        generation_stamp: GenerationStamp(1),
        ..found.block
    };
    let other = Block {
        id: hadal_types::BlockId(7),
        ..found.block
    };
    for previous in [wrong_stamp, other, of_length(found.block, (1 << 20) + 1)] {
        let (class, message) = world.fails(add("/f", inode, Some(previous)));
        assert_eq!(class, InvalidArgument, "{message}");
    }
    assert_eq!(world.fails(add("/f", InodeId(999), None)).0, NotFound);
    let mut lonely = World::new();
    let inode = lonely.open("/f");
    let (class, message) = lonely.fails(add("/f", inode, None));
    assert_eq!(class, NoDatanodes);
    assert!(message.contains("could only be written to 0"), "{message}");
    assert_eq!(world.stat("/f").unwrap().length, 0);
}

/// A lost answer to addBlock must not leave a hole: the same question gets the same block, under the same or
/// a new call id, here or at the next active (F-06).
#[test]
fn f06_add_block_asked_again_gives_the_same_block() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let ticket = world.send(&root(), 1, 500, add("/f", inode, None));
    let first = world.answer(ticket).unwrap().unwrap();
    let block = added(first.response.clone());
    let ticket = world.send(&root(), 1, 500, add("/f", inode, None));
    assert_eq!(world.answer(ticket).unwrap().unwrap(), first);
    let other = added(world.ok(add("/f", inode, None)));
    assert_eq!(other, block);

    let mut next = World::standby(world.replayed());
    next.activate(2);
    Node::register(9, &mut next);
    let ticket = next.send(&root(), 1, 500, add("/f", inode, None));
    let again = added(next.answer(ticket).unwrap().unwrap().response);
    assert_eq!(again.block, block.block);
    assert_eq!(again.locations[0].datanode, DatanodeUuid(9));
}

/// E-01: only the holder of the lease writes; readers are never blocked.
#[test]
fn e01_only_the_lease_holder_writes() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let block = added(world.ok(add("/f", inode, None))).block;
    let new = Block {
        generation_stamp: block.generation_stamp.next(),
        ..block
    };
    for request in [
        add("/f", inode, Some(block)),
        complete("/f", inode, Some(block)),
        Request::AbandonBlock {
            path: "/f".into(),
            inode,
            block,
        },
        Request::Fsync {
            path: "/f".into(),
            inode,
            last_block_length: 5,
        },
        Request::UpdateBlockForPipeline {
            path: "/f".into(),
            inode,
            block,
        },
        Request::UpdatePipeline {
            path: "/f".into(),
            inode,
            old: block,
            new,
            nodes: Vec::new(),
        },
        Request::GetAdditionalDatanode {
            path: "/f".into(),
            inode,
            block,
            existing: Vec::new(),
            exclude: Vec::new(),
            count: 1,
        },
    ] {
        let name = request.name();
        let fault = world.call_as(&root(), 2, request).unwrap_err();
        assert_eq!(fault.class, LeaseExpired, "{name}");
        assert!(fault.message.contains("is not the lease owner"), "{name}");
    }
    let read = world.call_as(
        &root(),
        2,
        Request::GetBlockLocations {
            path: "/f".into(),
            offset: 0,
            length: u64::MAX,
            reader_host: String::new(),
        },
    );
    assert!(read.is_ok());
}

/// A writer's calls name the inode, so a rename or a new file of the same name does not confuse them.
#[test]
fn writers_follow_their_file_through_a_rename() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    world.ok(rename("/f", "/g", false));
    world.touch("/f");
    let block = of_length(found.block, 10);
    nodes[found.locations[0].datanode.0 as usize - 1].says(&mut world, ChangeKind::Received, block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    assert_eq!(world.stat("/g").unwrap().length, 10);
    assert_eq!(world.stat("/f").unwrap().length, 0);
}

#[test]
fn abandon_fsync_and_pipeline_updates() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let first = added(world.ok(add("/f", inode, None))).block;
    let abandon = Request::AbandonBlock {
        path: "/f".into(),
        inode,
        block: first,
    };
    assert_eq!(world.ok(abandon.clone()), Response::Done);
    assert_eq!(world.ok(abandon), Response::Done);
    let block = added(world.ok(add("/f", inode, None))).block;
    assert!(block.id > first.id);
    let fsync = |length| Request::Fsync {
        path: "/f".into(),
        inode,
        last_block_length: length,
    };
    world.ok(fsync(4_000));
    world.ok(fsync(u64::MAX));
    assert_eq!(world.stat("/f").unwrap().length, 4_000);
    assert_eq!(world.fails(fsync(2 << 20)).0, InvalidArgument);
    let generation_stamp = new_stamp(&mut world, "/f", inode, block);
    let update = |stamp, length| Request::UpdatePipeline {
        path: "/f".into(),
        inode,
        old: block,
        new: Block {
            generation_stamp: stamp,
            length,
            ..block
        },
        nodes: Vec::new(),
    };
    for (stamp, length) in [
        (block.generation_stamp, 5_000),
        (generation_stamp.next(), 5_000),
        (generation_stamp, 3_999),
    ] {
        assert_eq!(world.fails(update(stamp, length)).0, InvalidArgument);
    }
    world.ok(update(generation_stamp, 5_000));
    let located = locate(&mut world, "/f", 0, u64::MAX);
    assert_eq!(located.file_length, 5_000);
    assert!(located.under_construction && located.blocks[0].under_construction);
    assert_eq!(located.blocks[0].block.generation_stamp, generation_stamp);
    let existing = vec![ReplicaTarget {
        datanode: DatanodeUuid(1),
        storage: StorageUuid(1),
        name: "dn1".into(),
        address: "10.0.0.1:9866".into(),
        shards: 1,
        rack: "/default-rack".into(),
    }];
    let more = added(world.ok(Request::GetAdditionalDatanode {
        path: "/f".into(),
        inode,
        block,
        existing,
        exclude: vec![DatanodeUuid(2)],
        count: 1,
    }));
    let ids: Vec<_> = more.locations.iter().map(|node| node.datanode.0).collect();
    assert_eq!(ids, [1, 3]);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// protocols.md section 0: no INVALIDATE before the delete that caused it is committed.
#[test]
fn c01_no_deletion_command_before_its_delete_is_committed() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let by = found.locations[0].datanode.0 as usize - 1;
    let block = of_length(found.block, 9);
    nodes[by].says(&mut world, ChangeKind::Received, block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    world.auto_commit = false;
    world.send(&root(), 1, 900, delete("/f", false));
    world.pass(10_000);
    let deletes = |commands: &[Command]| {
        commands
            .iter()
            .any(|command| matches!(command.action, Action::Invalidate { .. }))
    };
    assert!(!deletes(&nodes[by].beat(&mut world)));
    world.ns.handle_committed(world.now, world.ns.applied());
    world.pass(10_000);
    assert!(deletes(&nodes[by].beat(&mut world)));
}

/// Deleting or overwriting an open file ends its lease.
#[test]
fn deleting_an_open_file_ends_its_lease() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/d/f");
    let block = added(world.ok(add("/d/f", inode, None))).block;
    world.ok(delete("/d", true));
    assert_eq!(world.fails(add("/d/f", inode, Some(block))).0, NotFound);
    let other = world.open("/g");
    world.ok(overwrite("/g"));
    assert_eq!(world.fails(add("/g", other, None)).0, NotFound);
    world.pass(4_000_000);
    assert_eq!(world.ns.namenode_stats().open_files, 0);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// The bound on blocks per file.
#[test]
fn a_file_has_a_bounded_number_of_blocks() {
    let mut world = World::with(hadal_namesystem::NamesystemConfig {
        max_blocks_per_file: 2,
        ..config()
    });
    let mut node = Node::register(1, &mut world);
    let inode = world.open("/f");
    let mut previous = None;
    for _ in 0..2 {
        let block = of_length(added(world.ok(add("/f", inode, previous))).block, 100);
        node.says(&mut world, ChangeKind::Received, block);
        previous = Some(block);
    }
    let (class, message) = world.fails(add("/f", inode, previous));
    assert_eq!(class, InvalidArgument);
    assert!(message.contains("2 >= 2"), "{message}");
    assert_eq!(world.ns.epoch(), Epoch(1));
}
