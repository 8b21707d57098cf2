//! Roles that come and go around one tree: T-H11, T-H13, T-H27, T-C6.

use crate::datanode::{
    Node, add, added, append, cluster, complete, of_length, received, truncate, written,
};
use crate::support::{
    Rng, World, create, create_with_block, delete, mkdirs, rename, root, some_call,
};
use hadal_namesystem::{Answer, ImageLoader, ImageSource, Namesystem};
use hadal_proto::admin;
use hadal_proto::client::{Request, Response};
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, CallId, ClientId, GenerationStamp, Tick, TxId};
use std::collections::{BTreeMap, BTreeSet};

/// T-H11: active, standby, active on one NameNode, after a create and a recursive delete: what the other one did
/// meanwhile is replayed on the tree that is there.
#[test]
fn t_h11_active_standby_active_on_one_tree() {
    let mut one = World::new();
    one.mkdirs("/a/b");
    one.touch("/a/b/closed");
    one.open("/a/b/open");
    one.ok(delete("/a", true));
    one.mkdirs("/kept");
    assert!(!one.ns.become_standby(one.now), "all is committed");
    one.pump();
    let mut other = World::standby(one.replayed());
    other.journal = one.journal.clone();
    other.activate(2);
    for request in [
        mkdirs("/a/b"),
        create("/a/b/open"),
        delete("/a/b", true),
        rename("/kept", "/a/kept", false),
    ] {
        other.call_as(&root(), 2, request).expect("done");
    }
    assert!(!other.ns.become_standby(other.now));
    other.pump();
    for (txid, edit) in &other.journal[one.journal.len()..] {
        one.ns.replay(one.now, *txid, edit);
    }
    assert_eq!(one.ns.view().digest(), other.ns.view().digest());
    one.journal = other.journal.clone();
    one.activate(3);
    one.mkdirs("/again");
    assert_eq!(one.names("/"), ["a", "again"]);
    assert_eq!(one.names("/a"), ["kept"]);
    assert_eq!(one.replayed().view().digest(), one.ns.view().digest());
}

/// T-H13: fifty clients make and remove directories while the role comes and goes. A standby changes nothing; what is
/// acknowledged is in the journal, by its call; and a tree that ran ahead of the journal is dropped.
#[test]
fn t_h13_no_write_between_roles() {
    for seed in 0..10 {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        world.auto_commit = false;
        let (mut active, mut epoch) = (true, 1);
        let mut calls = BTreeMap::new();
        let mut acknowledged = Vec::new();
        let (mut refused, mut dropped, mut reloaded) = (0, 0, 0);
        for call in 1..3_000 {
            match rng.below(20) {
                0 if active => {
                    let committed = world.ns.committed();
                    let dirty = world.ns.become_standby(world.now);
                    world.pump();
                    assert_eq!(dirty, world.ns.applied() > committed);
                    if dirty {
                        // Recovery keeps what was committed, and any part of the rest.
                        let rest = world.ns.applied().0 - committed.0;
                        let end = TxId(committed.0 + rng.below(rest + 1));
                        world.journal.retain(|(txid, _)| *txid <= end);
                        world.ns = world.replayed();
                        reloaded += 1;
                    }
                    active = false;
                }
                0 => {
                    epoch += 1;
                    world.auto_commit = true;
                    world.activate(epoch);
                    world.auto_commit = false;
                    active = true;
                }
                1..4 => {
                    let applied = world.ns.applied();
                    if active && world.ns.committed() < applied {
                        world.ns.handle_committed(world.now, applied);
                        world.pump();
                    }
                }
                _ => {
                    let client = 1 + u128::from(rng.below(50));
                    let path = format!("/{client}/{}", rng.below(3));
                    let request = match rng.chance(60) {
                        true => mkdirs(&path),
                        false => delete(&path, true),
                    };
                    let before = (world.ns.applied(), world.journal.len());
                    let ticket = world.send(&root(), client, call, request);
                    let changes = world.ns.applied() > before.0;
                    calls.insert(ticket, (client, call, changes));
                    if !active {
                        assert_eq!((world.ns.applied(), world.journal.len()), before);
                        assert!(world.answers.contains_key(&ticket), "at once");
                    }
                }
            }
            for (ticket, answer) in std::mem::take(&mut world.answers) {
                let Answer::Client(outcome) = answer else {
                    continue;
                };
                let (client, call, changes) =
                    calls.remove(&ticket).expect("asked, and answered once");
                match outcome {
                    Ok(_) if changes => acknowledged.push((ClientId(client), CallId(call))),
                    Ok(_) => {}
                    Err(fault) if fault.class == FaultClass::Standby => refused += 1,
                    Err(fault) => {
                        assert_eq!(fault.class, FaultClass::Retry, "{fault}");
                        dropped += 1;
                    }
                }
            }
        }
        assert!(
            acknowledged.len() > 200 && refused > 100 && dropped > 20 && reloaded > 5,
            "{} acknowledged, {refused} refused, {dropped} dropped, {reloaded} reloads",
            acknowledged.len()
        );
        let edits = world.journal.iter();
        let journaled: BTreeSet<_> = edits.map(|(_, edit)| (edit.client, edit.call)).collect();
        for call in &acknowledged {
            assert!(journaled.contains(call), "seed {seed}: {call:?} is lost");
        }
        assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
    }
}

/// What an answer says, but for the DataNodes it names: those are chosen anew after a failover.
fn essence(response: &Response) -> String {
    match response {
        Response::LocatedBlock { block: Some(block) } => format!("{:?}", block.block),
        Response::Created {
            status,
            block: Some(block),
        } => format!("{status:?} {:?}", block.block),
        Response::Appended { reopened, last, .. } => {
            let reopened = reopened.as_ref().map(|found| found.block);
            format!("appended {reopened:?} {last:?}")
        }
        Response::NewStamp {
            generation_stamp, ..
        } => format!("{generation_stamp:?}"),
        other => format!("{other:?}"),
    }
}

/// One client's calls, each made, lost and made again.
struct Caller {
    world: World,
    nodes: Vec<Node>,
    call: u64,
    /// Replicas that are finished.
    finished: Vec<Block>,
    /// Kinds of calls made.
    made: Vec<&'static str>,
}

impl Caller {
    fn retry(world: &mut World, call: u64, request: &Request) -> Result<(TxId, String), Fault> {
        let ticket = world.send(&root(), 7, call, request.clone());
        let outcome = world.answer(ticket).expect("answered");
        outcome.map(|reply| (reply.txid, essence(&reply.response)))
    }

    /// The call, the same call again, and again at a NameNode that replayed the edits and became active.
    fn once(&mut self, kind: &'static str, request: Request) -> Response {
        assert!(request.is_mutation(), "{kind}");
        self.made.push(kind);
        self.call += 1;
        let (world, call) = (&mut self.world, self.call);
        let before = world.ns.applied();
        let ticket = world.send(&root(), 7, call, request.clone());
        let outcome = world.answer(ticket).expect("answered");
        let reply = outcome.unwrap_or_else(|fault| panic!("{kind}: {fault}"));
        assert!(world.ns.applied() > before, "{kind} makes an edit");
        let first = (reply.txid, essence(&reply.response));
        let applied = world.ns.applied();
        assert_eq!(Self::retry(world, call, &request), Ok(first.clone()));
        assert_eq!(world.ns.applied(), applied, "{kind} ran twice");

        let replayed = world.replayed();
        let caches = [&replayed, &world.ns].map(|ns| ns.view().retry_digest());
        assert_eq!(caches[0], caches[1], "{kind}: retry cache");
        let mut next = World::standby(replayed);
        next.activate(2);
        let mut there: Vec<Node> = (1..=3).map(|id| Node::register(id, &mut next)).collect();
        for block in &self.finished {
            received(&mut next, &mut there, *block);
        }
        let applied = next.ns.applied();
        let again = Self::retry(&mut next, call, &request);
        assert_eq!(again, Ok(first), "{kind} at the new active");
        assert_eq!(next.ns.applied(), applied, "{kind} ran twice");
        reply.response
    }

    fn finish(&mut self, block: Block) {
        received(&mut self.world, &mut self.nodes, block);
        self.finished.push(block);
    }

    fn write(&mut self, path: &str, lengths: &[u64]) {
        let (_, blocks) = written(&mut self.world, &mut self.nodes, path, lengths);
        self.finished.extend(blocks);
    }
}

/// T-H27: every mutating call there is: executed, its answer lost, asked again here and at a new active. The same answer,
/// one execution, equal retry caches.
#[test]
fn t_h27_every_mutating_call_runs_once() {
    let (world, nodes) = cluster();
    let mut client = Caller {
        world,
        nodes,
        call: 0,
        finished: Vec::new(),
        made: Vec::new(),
    };
    client.once("mkdirs", mkdirs("/d/e"));
    let Response::Created { status, .. } = client.once("create", create("/d/f")) else {
        panic!("a new file")
    };
    client.once("create with block", create_with_block("/d/g0"));
    let (path, inode) = ("/d/f", status.inode);
    let given_up = added(client.once("add block", add(path, inode, None))).block;
    client.once(
        "abandon block",
        Request::AbandonBlock {
            path: path.into(),
            inode,
            block: given_up,
        },
    );
    let block = added(client.once("add block", add(path, inode, None))).block;
    let Response::NewStamp {
        generation_stamp, ..
    } = client.once(
        "update block for pipeline",
        Request::UpdateBlockForPipeline {
            path: path.into(),
            inode,
            block,
        },
    )
    else {
        panic!("a stamp")
    };
    let new = restamped(block, generation_stamp, 10);
    client.once(
        "update pipeline",
        Request::UpdatePipeline {
            path: path.into(),
            inode,
            old: block,
            new,
            nodes: Vec::new(),
        },
    );
    client.once(
        "fsync",
        Request::Fsync {
            path: path.into(),
            inode,
            last_block_length: 20,
        },
    );
    let last = of_length(new, 100);
    client.finish(last);
    client.once("complete", complete(path, inode, Some(last)));
    client.once("append", append(path, false));
    client.once("complete", complete(path, inode, Some(last)));
    client.write("/two-blocks", &[1024, 5]);
    client.once("truncate", truncate("/two-blocks", 1024));
    client.write("/cut-inside", &[100]);
    client.once("truncate", truncate("/cut-inside", 50));
    client.write("/c1", &[10]);
    client.write("/c2", &[10]);
    client.once(
        "concat",
        Request::Concat {
            target: "/c1".into(),
            sources: vec!["/c2".into()],
        },
    );
    client.once(
        "set permission",
        Request::SetPermission {
            path: path.into(),
            permission: 0o600,
        },
    );
    client.once(
        "set owner",
        Request::SetOwner {
            path: path.into(),
            owner: "alice".into(),
            group: String::new(),
        },
    );
    client.once(
        "set times",
        Request::SetTimes {
            path: path.into(),
            modified_ms: 5,
            accessed_ms: u64::MAX,
        },
    );
    client.once(
        "set replication",
        Request::SetReplication {
            path: path.into(),
            replication: 2,
        },
    );
    client.once("rename", rename(path, "/d/g", false));
    client.once("rename over", rename("/d/g", "/c1", true));
    client.once("delete", delete("/c1", false));
    client.made.sort_unstable();
    client.made.dedup();
    // RecoverLease is asked until it answers true, under new call ids: `t_l15_*` and `t_l17_*`.
    assert_eq!(client.made.len(), 19, "{:?}", client.made);
}

fn restamped(block: Block, generation_stamp: GenerationStamp, length: u64) -> Block {
    Block {
        generation_stamp,
        length,
        ..block
    }
}

/// Loads an image of this view, and what came behind it.
fn loaded(world: &World, chunks: &[(hadal_namesystem::Section, bytes::Bytes)]) -> Namesystem {
    let mut loader = ImageLoader::new(world.ns.config());
    for (section, chunk) in chunks {
        loader.feed(*section, chunk).expect("an image");
    }
    let loaded = loader.finish().expect("an image");
    let blocks = hadal_blocks::BlockConfig::default();
    let mut ns = Namesystem::load(world.ns.config().clone(), blocks, 1, loaded);
    ns.start(Tick::from_ms(1));
    ns
}

/// T-C6: the log is rolled and images are taken again and again between the writes: segments follow each other without
/// gaps, each begins with its own record, and every image with the edits behind it gives the same tree.
#[test]
fn t_c6_rolls_and_images_between_writes() {
    for seed in 0..5 {
        let mut rng = Rng::new(60 + seed);
        let mut world = World::new();
        let mut images = Vec::new();
        for step in 0..300 {
            match rng.below(10) {
                0 => {
                    let before = world.ns.applied();
                    let roll = admin::Request::RollEdits;
                    world
                        .ns
                        .handle_admin(world.now, world.wall_ms, 1 << 50, roll);
                    world.pump();
                    world.answers.remove(&(1 << 50)).expect("rolled");
                    let next = *world.rolls.last().expect("a new segment");
                    assert!(next > before && next <= world.ns.applied());
                    let begins = world.journal.iter().find(|(txid, _)| *txid == next);
                    let (_, edit) = begins.expect("its first edit");
                    assert!(matches!(edit.op, EditOp::StartSegment), "{:?}", edit.op);
                }
                1 => {
                    let view = world.ns.view();
                    assert_eq!(view.txid(), world.ns.applied(), "step {step}");
                    images.push((view.txid(), ImageSource::new(view).collect::<Vec<_>>()));
                }
                _ => {
                    let _ = world.call(some_call(&mut rng));
                }
            }
        }
        assert!(world.rolls.len() > 10 && images.len() > 10);
        for (txid, chunks) in images {
            let mut ns = loaded(&world, &chunks);
            for (at, edit) in &world.journal {
                if *at > txid {
                    ns.replay(world.now, *at, edit);
                }
            }
            assert_eq!(ns.view().digest(), world.ns.view().digest());
        }
    }
}
