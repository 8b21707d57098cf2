//! T-Q1..T-Q24: the quorum journal as HDFS's tests describe it, on the real cores.


use hadal_qjournal::reader::{ReadError, Until};
use hadal_qjournal::writer::{ClaimError, Event, WriterConfig};
use hadal_types::{Epoch, TxId};
use crate::world::{Cut, Fate, Wire, World};

/// Writes with window catch-up off, so that logs of different lengths can be made.
fn uneven() -> World {
    let mut world = World::new(3);
    world.catch_up = false;
    world.auto_restart = false;
    world
}

/// `[a, b, c]` in progress, all from one writer who is gone; txids up to 3 are committed.
fn state(lengths: [u64; 3]) -> World {
    let mut world = uneven();
    let w = world.active();
    assert!(world.write(w, 3));
    for txid in 4..=5 {
        for jn in 0..3 {
            if lengths[jn] < txid {
                world.set_up(jn, false);
            }
        }
        if !world.append(w, 1) {
            // The writer has given up: give the record by hand to who must have it.
            break;
        }
        world.quiesce();
    }
    world.kill_writer(w);
    for jn in 0..3 {
        world.set_up(jn, true);
    }
    assert_eq!(world.ends(), lengths);
    world
}

fn finalized(world: &World, jn: usize) -> Vec<(u64, u64)> {
    let segments = world.nodes[jn].disk.segments.values();
    segments
        .filter(|s| s.finalized)
        .map(|s| (s.first.0, s.last().0))
        .collect()
}

/// T-Q1.
#[test]
fn t_q1_two_segments() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 3) && world.roll(w) && world.write(w, 1) && world.roll(w));
    world.quiesce();
    for jn in 0..3 {
        assert_eq!(finalized(&world, jn), [(1, 3), (4, 4)]);
    }
}

/// T-Q2: in-progress edits are not read unless asked for, or known to be committed.
#[test]
fn t_q2_reader_sees_what_is_finalised() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 3) && world.roll(w));
    // 4-6 are on the disks, and nobody has heard that they are committed.
    world.append(w, 3);
    world.quiesce();
    let (log, end) = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!((log.len(), end.txid), (3, TxId(3)));
    assert!(world.roll(w));
    let (log, end) = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!((log.len(), end.txid), (6, TxId(6)));
}
