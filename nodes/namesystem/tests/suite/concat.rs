//! concat: HDFS's rules, and blocks that change hands.

use crate::datanode::{BLOCK, NO, assert_replays, cluster, locate, open_wide, truncate, written};
use crate::support::{config, delete, root};
use hadal_namesystem::{Caller, NamesystemConfig};
use hadal_proto::FaultClass::{AccessDenied, InvalidArgument, IsDirectory, NotFound};
use hadal_proto::client::{Request, Response};
use hadal_types::BlockId;

fn concat(target: &str, sources: &[&str]) -> Request {
    Request::Concat {
        target: target.into(),
        sources: sources.iter().map(|source| (*source).into()).collect(),
    }
}

/// The blocks of the sources come behind the target's in order, under the target's replication; partial blocks stay
/// where they are; the sources are gone.
#[test]
fn concat_moves_the_blocks() {
    let (mut world, mut nodes) = cluster();
    let (_, a) = written(&mut world, &mut nodes, "/d/a", &[BLOCK, 10]);
    let (_, b) = written(&mut world, &mut nodes, "/d/b", &[20]);
    let (_, c) = written(&mut world, &mut nodes, "/d/c", &[BLOCK, BLOCK, 30]);
    world.ok(Request::SetReplication {
        path: "/d/c".into(),
        replication: 1,
    });
    let before = world.journal.len();
    assert_eq!(world.ok(concat("/d/a", &["/d/c", "/d/b"])), Response::Done);
    assert_eq!(world.journal.len(), before + 1, "one edit");
    assert_eq!(world.names("/d"), ["a"]);
    let located = locate(&mut world, "/d/a", 0, u64::MAX);
    let ids: Vec<BlockId> = located.blocks.iter().map(|found| found.block.id).collect();
    let expected: Vec<BlockId> = [a, c, b].iter().flatten().map(|block| block.id).collect();
    assert_eq!(ids, expected);
    assert_eq!(located.file_length, 3 * BLOCK + 60);
    let middle = locate(&mut world, "/d/a", BLOCK + 15, 1);
    assert_eq!(middle.blocks[0].offset, BLOCK + 10);
    for id in &ids {
        let stored = world.ns.blocks().stored(*id).unwrap();
        assert_eq!((stored.inode, stored.replication), (located.inode, 3));
    }
    assert_eq!(world.ns.blocks().stats().blocks, ids.len() as u64);
    assert_replays(&world);
    // A cut through a block that came from a source.
    assert_eq!(world.ok(truncate("/d/a", BLOCK + 10 + BLOCK + 1)), NO);
    assert_replays(&world);
    world.ok(delete("/d", true));
    assert_eq!(world.ns.blocks().stats().blocks, 0);
}

/// What concat refuses, with HDFS's words; nothing changes.
#[test]
fn concat_refuses() {
    let (mut world, mut nodes) = cluster();
    for path in ["/d/a", "/d/b", "/e/c"] {
        written(&mut world, &mut nodes, path, &[10]);
    }
    world.touch("/d/empty");
    open_wide(&mut world, "/d/open");
    world.ok(Request::Create {
        path: "/d/large".into(),
        permission: 0o644,
        overwrite: false,
        create_parent: false,
        replication: 3,
        block_size: 2 * BLOCK,
        first_block: None,
    });
    let inode = world.stat("/d/large").unwrap().inode;
    let block = crate::datanode::added(world.ok(crate::datanode::add("/d/large", inode, None)));
    let block = crate::datanode::of_length(block.block, 5);
    crate::datanode::received(&mut world, &mut nodes, block);
    world.ok(crate::datanode::complete("/d/large", inode, Some(block)));
    let edits = world.ns.applied();
    for (target, sources, class, why) in [
        (
            "",
            vec!["/d/b"],
            InvalidArgument,
            "Target file name is empty",
        ),
        ("/d/a", vec![], InvalidArgument, "No sources given"),
        ("/d/none", vec!["/d/b"], NotFound, "does not exist"),
        ("/d", vec!["/d/b"], IsDirectory, "not a file"),
        ("/d/a", vec!["/d/none"], NotFound, "does not exist"),
        ("/d/a", vec!["/e"], IsDirectory, "not a file"),
        (
            "/d/a",
            vec!["/e/c"],
            InvalidArgument,
            "is not in the same directory with the target",
        ),
        (
            "/d/a",
            vec!["/d/b", "/d/a"],
            InvalidArgument,
            "is the same with the target file",
        ),
        (
            "/d/a",
            vec!["/d/b", "/d/b"],
            InvalidArgument,
            "at least two of the source files are the same",
        ),
        (
            "/d/a",
            vec!["/d/empty"],
            InvalidArgument,
            "is invalid or empty or underConstruction",
        ),
        (
            "/d/a",
            vec!["/d/open"],
            InvalidArgument,
            "is invalid or empty or underConstruction",
        ),
        (
            "/d/open",
            vec!["/d/a"],
            InvalidArgument,
            "is under construction",
        ),
        (
            "/d/a",
            vec!["/d/large"],
            InvalidArgument,
            "greater than the target file's preferred block size",
        ),
    ] {
        let (got, message) = world.fails(concat(target, &sources));
        assert_eq!(got, class, "{target} {sources:?}: {message}");
        assert!(message.contains(why), "{message}");
    }
    let alice = Caller::user("alice", &["staff"]);
    let refused = |world: &mut crate::support::World| {
        let fault = world.call_as(&alice, 5, concat("/d/a", &["/d/b"]));
        assert_eq!(fault.unwrap_err().class, AccessDenied);
    };
    refused(&mut world);
    let chmod = |path: &str, permission| Request::SetPermission {
        path: path.into(),
        permission,
    };
    // Writing the target is not enough: the sources leave their directory, and are read.
    world.ok(chmod("/d/a", 0o666));
    refused(&mut world);
    world.ok(chmod("/d", 0o777));
    world.ok(chmod("/d/b", 0o600));
    refused(&mut world);
    assert_eq!(world.names("/d"), ["a", "b", "empty", "large", "open"]);
    assert!(world.ns.applied().0 > edits.0);
    world.ok(chmod("/d/b", 0o644));
    let allowed = world.call_as(&alice, 5, concat("/d/a", &["/d/b"]));
    assert_eq!(allowed, Ok(Response::Done));
}

/// F-06: a concat said again is answered again.
#[test]
fn f06_concat_runs_once() {
    let (mut world, mut nodes) = cluster();
    for path in ["/a", "/b"] {
        written(&mut world, &mut nodes, path, &[10]);
    }
    for _ in 0..2 {
        let ticket = world.send(&root(), 3, 8, concat("/a", &["/b"]));
        assert_eq!(
            world.answer(ticket).unwrap().unwrap().response,
            Response::Done
        );
    }
    assert_eq!(world.stat("/a").unwrap().length, 20);
}

/// A file stays within the bound on blocks.
#[test]
fn concat_keeps_the_bound_on_blocks() {
    let mut world = crate::support::World::with(NamesystemConfig {
        max_blocks_per_file: 2,
        ..config()
    });
    let mut nodes: Vec<_> = (1..=3)
        .map(|id| crate::datanode::Node::register(id, &mut world))
        .collect();
    written(&mut world, &mut nodes, "/a", &[BLOCK, 1]);
    written(&mut world, &mut nodes, "/b", &[1]);
    let (class, message) = world.fails(concat("/a", &["/b"]));
    assert_eq!(class, InvalidArgument);
    assert!(message.contains("would have 3 blocks"), "{message}");
}
