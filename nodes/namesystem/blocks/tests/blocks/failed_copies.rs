//! Copies that fail: rot found only by the DataNode that is to copy, targets that refuse.

use crate::world::{World, config};
use hadal_blocks::BlockConfig;
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{Action, Request, TransferWork};
use hadal_types::{Block, DatanodeUuid};

const RACK: &str = "/default-rack";

fn bad(w: &World, b: Block, dn: usize) -> BadReplica {
    BadReplica {
        block: b,
        datanode: w.dns[dn].uuid,
        storage: w.dns[dn].storages[0],
    }
}

/// The one copy ordered in this round, with the DataNode that is to make it.
fn ordered(w: &mut World) -> Option<(usize, TransferWork)> {
    w.round();
    let mut found = None;
    for dn in 0..w.dns.len() {
        for action in w.execute(dn) {
            if let Action::Transfer { work } = action {
                for work in work {
                    assert!(found.replace((dn, work)).is_none(), "one at a time");
                }
            }
        }
    }
    found
}

fn failed(w: &mut World, dn: usize, block: Block, target: DatanodeUuid) {
    let uuid = w.dns[dn].uuid;
    let request = Request::TransferFailed {
        uuid,
        block,
        target,
    };
    w.call(dn, request).unwrap();
}

/// Five copies, one known to be rotten, a sixth DataNode to copy to.
fn one_rotten(config: BlockConfig) -> (World, Block) {
    let mut w = World::active(config, &[RACK; 6]);
    let b = w.stored_on(5, &[0, 1, 2, 3, 4]);
    let corrupt = bad(&w, b, 0);
    w.m.report_bad_blocks(w.now, &[corrupt]);
    (w, b)
}

/// A source that says it cannot is not asked again before all others were.
#[test]
fn a_source_that_failed_comes_last() {
    let (mut w, b) = one_rotten(config());
    let mut asked = Vec::new();
    for _ in 0..4 {
        let (source, work) = ordered(&mut w).expect("a copy is ordered");
        assert_eq!(work.targets[0].name, "dn5");
        asked.push(source);
        failed(&mut w, source, b, DatanodeUuid(0));
    }
    let mut all = asked.clone();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4], "each once");
    let (again, _) = ordered(&mut w).expect("a copy is ordered");
    assert_eq!(
        again, asked[0],
        "all failed: the one that failed longest ago"
    );
    w.received(5, b);
    assert!(ordered(&mut w).is_none());
    assert_eq!(w.m.stats().pending_replication, 0);
}

/// The same without a word from the source: its copy did not arrive in time.
#[test]
fn a_source_that_did_not_deliver_in_time_comes_last() {
    let short = BlockConfig {
        pending_timeout_ms: 10_000,
        ..config()
    };
    let (mut w, _) = one_rotten(short);
    let mut asked = Vec::new();
    while asked.len() < 4 {
        if let Some((source, _)) = ordered(&mut w) {
            asked.push(source);
        }
    }
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 3, 4], "each once");
}

/// Rot on two of three replicas, one found by a reader, the other by the DataNode that was to copy it: reported
/// corrupt, the last good one is the source at once, and in the end three good replicas are there.
#[test]
fn the_second_rotten_replica_is_found_by_its_own_copy() {
    let mut w = World::active(config(), &[RACK; 4]);
    let b = w.stored_on(3, &[0, 1, 2]);
    let corrupt = bad(&w, b, 0);
    w.m.report_bad_blocks(w.now, &[corrupt]);
    let (source, _) = ordered(&mut w).expect("a copy is ordered");
    let rotten = bad(&w, b, source);
    let request = Request::ReportBadBlocks {
        blocks: vec![rotten],
    };
    w.call(source, request).unwrap();
    failed(&mut w, source, b, DatanodeUuid(0));
    assert_eq!(w.m.stats().pending_replication, 0);
    let good = 3 - source;
    let (source, work) = ordered(&mut w).expect("another source");
    assert_eq!((source, work.targets.len()), (good, 1));
    w.received(3, b);
    assert_eq!(w.live(b.id), 2);
    // A rotten one is in the way of the third good one, and two good ones are there: it goes.
    let rotten: Vec<usize> = (0..3).filter(|dn| *dn != good).collect();
    let told: Vec<usize> = rotten
        .iter()
        .copied()
        .filter(|dn| w.deletions(*dn) == [b])
        .collect();
    assert_eq!(told.len(), 1, "not more than is needed");
    w.deleted(told[0], b);
    let (_, work) = ordered(&mut w).expect("the third");
    assert_eq!(work.targets[0].name, format!("dn{}", told[0]));
    w.received(told[0], b);
    assert_eq!(w.live(b.id), 3);
    let last = rotten[0] + rotten[1] - told[0];
    assert_eq!(w.deletions(last), [b], "three good ones are there");
    w.deleted(last, b);
    assert_eq!((w.live(b.id), w.m.stats().corrupt), (3, 0));
}

/// A rotten replica and no DataNode free of replicas: it goes, so that its DataNode can take a good one.
#[test]
fn a_rotten_replica_makes_room_on_the_last_datanode() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(3, &[0, 1, 2]);
    let corrupt = bad(&w, b, 0);
    w.m.report_bad_blocks(w.now, &[corrupt]);
    assert_eq!(w.deletions(0), [b]);
    w.deleted(0, b);
    let (_, work) = ordered(&mut w).expect("a copy is ordered");
    assert_eq!(work.targets[0].name, "dn0");
    w.received(0, b);
    assert_eq!((w.live(b.id), w.m.stats().corrupt), (3, 0));
}

/// The same when a DataNode was free of replicas when the rot was found, and died then (cluster seed 51, ten minutes).
#[test]
fn a_rotten_replica_makes_room_when_the_last_free_datanode_dies() {
    let mut w = World::active(config(), &[RACK; 4]);
    let b = w.stored_on(3, &[0, 1, 2]);
    let corrupt = bad(&w, b, 0);
    w.m.report_bad_blocks(w.now, &[corrupt]);
    assert!(w.deletions(0).is_empty(), "dn3 is free to take the copy");
    let beat = |w: &mut World| {
        w.advance(3_000);
        for dn in 0..3 {
            w.heartbeat(dn);
        }
        w.settle();
    };
    while w.m.stats().dead_datanodes == 0 {
        beat(&mut w);
    }
    // The copy to dn3 that was under way is given up after a while.
    for _ in 0..200 {
        beat(&mut w);
    }
    assert_eq!(w.deletions(0).first(), Some(&b));
}

/// A target that refused is avoided while there are others, and used when there are none.
#[test]
fn a_target_that_refused_is_avoided() {
    let mut w = World::active(config(), &[RACK; 4]);
    let b = w.stored_on(2, &[0]);
    let mut refused = Vec::new();
    for _ in 0..3 {
        let (source, work) = ordered(&mut w).expect("a copy is ordered");
        assert_eq!(source, 0);
        refused.push(work.targets[0].name.clone());
        failed(&mut w, source, b, work.targets[0].datanode);
    }
    refused.sort();
    assert_eq!(refused, ["dn1", "dn2", "dn3"], "each once");
    assert!(ordered(&mut w).is_some(), "better one of them than none");
}

/// What comes late, or from a DataNode that was not asked, changes nothing.
#[test]
fn only_the_source_can_give_up() {
    let (mut w, b) = one_rotten(config());
    let (source, _) = ordered(&mut w).expect("a copy is ordered");
    let other = (1..5).find(|dn| *dn != source).unwrap();
    failed(&mut w, other, b, DatanodeUuid(0));
    assert_eq!(w.m.stats().pending_replication, 1);
    assert!(ordered(&mut w).is_none());
    w.received(5, b);
    failed(&mut w, source, b, DatanodeUuid(0));
    assert!(ordered(&mut w).is_none());
    assert_eq!(w.live(b.id), 5);
}
