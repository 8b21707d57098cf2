//! Sync from peers, repair of rot, and how a learner returns (protocols.md section 1; T-N5..T-N8, T-Q13).

use crate::world::{World, info};
use hadal_proto::qjournal::{Call, Standing};
use hadal_qjournal::Planted;
use hadal_qjournal::reader::Until;
use hadal_qjournal::writer::ClaimError;
use hadal_types::TxId;

fn finalized(world: &World, jn: usize) -> Vec<(u64, u64)> {
    let segments = world.nodes[jn].disk.segments.values();
    segments
        .filter(|s| s.finalized && s.bad.is_none())
        .map(|s| (s.first.0, s.last().0))
        .collect()
}

/// Lets `ms` pass.
fn pass(world: &mut World, ms: u64) {
    let end = world.now.after_ms(ms);
    world.run(|world| world.now >= end);
}

/// Five segments of three edits, finalised everywhere, and a writer in the sixth.
fn written() -> (World, usize) {
    let mut world = World::with(3, Planted::default(), true);
    let w = world.active();
    for _ in 0..5 {
        assert!(world.write(w, 3) && world.roll(w));
    }
    assert!(world.write(w, 2));
    world.quiesce();
    (world, w)
}

fn whole() -> Vec<(u64, u64)> {
    (0..5).map(|n| (n * 3 + 1, n * 3 + 3)).collect()
}

/// T-N5: one, several, non-adjacent finalised segments are gone on one, two or three nodes, never on all: all come back.
#[test]
fn t_n5_deleted_segments_come_back() {
    let choices: [&[(usize, u64)]; 5] = [
        &[(0, 1)],
        &[(0, 4), (0, 7)],
        &[(1, 1), (1, 7), (1, 13)],
        &[(0, 4), (1, 4)],
        &[(0, 1), (1, 4), (2, 7), (2, 13)],
    ];
    for gone in choices {
        let (mut world, w) = written();
        for (jn, first) in gone {
            world.crash(*jn);
            let found = world.nodes[*jn].disk.segments.remove(&TxId(*first));
            assert!(found.is_some());
            world.start(*jn);
        }
        let hurt = |world: &World| (0..3).any(|jn| finalized(world, jn) != whole());
        assert!(hurt(&world));
        pass(&mut world, 30_000);
        assert!(!hurt(&world), "{gone:?}");
        assert!(world.write(w, 1), "the writer was not disturbed");
    }
}

/// T-N6: a node that was away for whole segments gets them; what it is being sent meanwhile is not disturbed.
#[test]
fn t_n6_segments_missed_are_copied() {
    let mut world = World::with(3, Planted::default(), true);
    let w = world.active();
    assert!(world.write(w, 2));
    world.set_up(2, false);
    for _ in 0..8 {
        assert!(world.write(w, 2) && world.roll(w));
    }
    world.set_up(2, true);
    assert!(world.write(w, 1));
    pass(&mut world, 30_000);
    assert_eq!(finalized(&world, 2), finalized(&world, 0));
    assert_eq!(finalized(&world, 2).len(), 8);
    assert!(world.acceptor(2).segments_synced() >= 6);
    // It counts: with another one away, and its log is the same.
    world.set_up(0, false);
    assert!(world.write(w, 2));
    world.kill_writer(w);
    world.only(&[1, 2]);
    let w = world.writer();
    assert!((0..3).any(|_| world.recover(w).is_ok()));
}

/// T-Q13: what was purged is not brought back by a peer that missed the purge.
#[test]
fn t_q13_purged_segments_do_not_come_back() {
    let (mut world, w) = written();
    world.set_up(2, false);
    world.writers[w].purge(TxId(10)).expect("writes");
    world.drain_writer(w);
    world.quiesce();
    world.set_up(2, true);
    pass(&mut world, 20_000);
    assert_eq!(finalized(&world, 0), [(10, 12), (13, 15)]);
    assert_eq!(finalized(&world, 2).len(), 5);
}

/// Rot in a finalised segment is repaired from a peer; the end and everything else stay.
#[test]
fn rot_is_repaired_from_a_peer() {
    for (first, bad) in [(1, 1), (4, 5), (13, 15)] {
        let (mut world, _) = written();
        world.crash(1);
        let segments = &mut world.nodes[1].disk.segments;
        segments.get_mut(&TxId(first)).expect("there").bad = Some(TxId(bad));
        world.start(1);
        assert_ne!(finalized(&world, 1), whole());
        pass(&mut world, 20_000);
        assert_eq!(finalized(&world, 1), whole(), "{first} {bad}");
    }
}

/// T-J: a readable finalised segment is never replaced, whatever a peer says.
#[test]
fn readable_finalised_segments_are_never_replaced() {
    let (mut world, _) = written();
    let before = world.nodes[0].disk.segments[&TxId(4)].clone();
    world.crash(1);
    let segments = &mut world.nodes[1].disk.segments;
    let other = segments[&TxId(7)].records.clone();
    segments.get_mut(&TxId(4)).expect("there").records = other;
    world.nodes[1].disk.segments.remove(&TxId(4));
    world.start(1);
    pass(&mut world, 20_000);
    assert_eq!(world.nodes[0].disk.segments[&TxId(4)], before);
    assert_eq!(finalized(&world, 1), whole());
}

/// T-N7, T-N8: a wiped node formats itself from its peers, is filled by them and by the writer, and votes again: with one
/// of the others away, the cluster goes on, and nothing acknowledged is lost.
#[test]
fn t_n7_t_n8_a_wiped_node_votes_again() {
    for jn in 0..3 {
        for other in (0..3).filter(|other| *other != jn) {
            let (mut world, w) = written();
            world.wipe(jn);
            assert_eq!(world.acceptor(jn).standing(), Standing::Unformatted);
            assert!(world.write(w, 2), "two voters are enough meanwhile");
            assert!(
                world.run(|world| world.acceptor(jn).standing() == Standing::Voter),
                "it votes again: {:?}",
                world.writers[w].lags()
            );
            assert_eq!(finalized(&world, jn)[..5], whole());
            assert!(world.promised(jn) >= world.writers[w].epoch());
            world.set_up(other, false);
            assert!(world.write(w, 2), "it counts");
            world.kill_writer(w);
            let up: Vec<usize> = (0..3).filter(|n| *n != other).collect();
            world.only(&up);
            let w = world.writer();
            let end = (0..3).find_map(|_| world.recover(w).ok());
            assert_eq!(end.expect("a majority").txid, TxId(21));
        }
    }
}

/// An old image put back: it learns what it forgot and votes again. (R2)
#[test]
fn m_j2_an_old_image_votes_again() {
    for edits_behind in [0, 1, 4] {
        let mut world = World::with(3, Planted::default(), true);
        let w = world.active();
        assert!(world.write(w, 3));
        world.quiesce();
        let image = world.nodes[2].disk.clone();
        if edits_behind == 4 {
            assert!(world.roll(w));
        }
        if edits_behind > 0 {
            assert!(world.write(w, edits_behind));
        }
        pass(&mut world, 2_500);
        world.crash(2);
        world.nodes[2].disk = image;
        world.start(2);
        assert_eq!(world.acceptor(2).standing(), Standing::Learner);
        assert!(
            world.run(|world| world.acceptor(2).standing() == Standing::Voter),
            "{edits_behind}: {:?}",
            world.writers[w].lags()
        );
        world.set_up(0, false);
        assert!(world.write(w, 1), "{edits_behind}: {:?}", world.log);
        world.kill_writer(w);
        world.only(&[1, 2]);
        let w = world.writer();
        let recovered = (0..3).any(|_| world.recover(w).is_ok());
        assert!(recovered, "{edits_behind}: {:?}", world.claim(w));
    }
}

/// Without a writer, or with one voter only, a learner stays one; a claim with fewer than f+1 voters names the learners.
#[test]
fn claims_without_enough_voters_name_the_learners() {
    let (mut world, w) = written();
    world.kill_writer(w);
    for jn in [0, 1] {
        world.wipe(jn);
        let call = Call::Format {
            info: info(),
            initial: false,
            force: false,
        };
        world.call(jn, call).expect("joins");
    }
    pass(&mut world, 10_000);
    let w = world.writer();
    let error = world.claim(w).unwrap_err();
    let ClaimError::NoMajority { reasons } = &error else {
        panic!("{error:?}");
    };
    let learners: Vec<&str> = reasons
        .iter()
        .filter(|(_, why)| why.contains("learner"))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(learners, ["jn0", "jn1"]);
    for jn in [0, 1] {
        assert_eq!(world.acceptor(jn).standing(), Standing::Learner);
    }
}

/// A wipe at every message of a workload, of every node: nothing acknowledged is lost, and it votes again.
#[test]
fn a_wipe_at_every_message() {
    let run = |jn: usize, at: usize| -> bool {
        let mut world = World::with(3, Planted::default(), true);
        let w = world.active();
        let mut steps = 0;
        let mut wiped = false;
        for round in 0..3 {
            for _ in 0..2 {
                assert!(world.append(w, 1));
                loop {
                    if steps == at && !wiped {
                        wiped = true;
                        world.wipe(jn);
                    }
                    steps += 1;
                    if !world.step() {
                        break;
                    }
                }
            }
            if round < 2 {
                world.roll(w);
            }
        }
        if !wiped {
            return false;
        }
        assert!(world.write(w, 1), "the others carry on ({jn}, {at})");
        assert!(
            world.run(|world| world.acceptor(jn).standing() == Standing::Voter),
            "votes again ({jn}, {at}): {:?}",
            world.writers[w].lags()
        );
        world.kill_writer(w);
        // Each pair with the node that was wiped.
        let other = (jn + 1) % 3;
        world.only(&[jn, other]);
        let w = world.writer();
        assert!((0..3).any(|_| world.recover(w).is_ok()), "({jn}, {at})");
        assert!(world.begin(w) && world.write(w, 1));
        let (log, _) = world.read(TxId(0), Until::Held).expect("readable");
        assert!(log.len() >= world.acked.len());
        true
    };
    for jn in 0..3 {
        let hits = (0..400).take_while(|at| run(jn, *at)).count();
        assert!(hits > 10, "{hits} places to wipe");
    }
}
