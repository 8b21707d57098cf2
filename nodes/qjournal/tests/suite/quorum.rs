//! T-Q1..T-Q24: the quorum journal as HDFS's tests describe it, on the real cores.

use crate::world::{Cut, Fate, Message, Wire, World};
use hadal_proto::qjournal::Call;
use hadal_qjournal::reader::{ReadError, Until};
use hadal_qjournal::writer::{ClaimError, Event, WriterConfig};
use hadal_types::{Epoch, TxId};
use std::collections::BTreeSet;

/// `lengths` in progress, all from one writer who is gone; what two nodes hold is committed.
fn state(lengths: [u64; 3]) -> World {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 3));
    for txid in 4..=lengths.into_iter().max().unwrap() {
        for (jn, length) in lengths.into_iter().enumerate() {
            world.set_up(jn, length >= txid);
        }
        world.append(w, 1);
        world.quiesce();
    }
    world.kill_writer(w);
    world.only(&[0, 1, 2]);
    assert_eq!(world.ends(), lengths);
    world
}

/// Recovers with these nodes, and answers where the log ends.
fn recover_with(world: &mut World, up: &[usize]) -> u64 {
    world.only(up);
    let w = world.writer();
    world.recover(w).expect("recovers").txid.0
}

/// Claims with these nodes and starts writing.
fn active_with(world: &mut World, up: &[usize]) -> usize {
    world.only(up);
    world.active()
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

/// T-Q3, catch-up off: no node has everything, together they do. With catch-up on every node has everything.
#[test]
fn t_q3_stitching() {
    for catch_up in [false, true] {
        let mut world = World::new(3);
        world.catch_up = catch_up;
        let w = world.active();
        assert!(world.write(w, 3));
        world.set_up(0, false);
        assert!(world.roll(w) && world.write(w, 3));
        world.set_up(0, true);
        assert!(world.roll(w) && world.write(w, 3));
        world.set_up(1, false);
        assert!(world.write(w, 1) && world.roll(w));
        world.quiesce();
        let healed = [(1, 3), (4, 6), (7, 10)];
        if catch_up {
            assert_eq!(finalized(&world, 0), healed);
        } else {
            assert_eq!(
                finalized(&world, 0),
                [(7, 10)],
                "never an edit across a gap"
            );
        }
        let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
        assert_eq!(log.len(), 10);
    }
}

/// T-Q4, T-Q17.
#[test]
fn t_q4_t_q17_readers_need_a_majority() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 10));
    world.run(|_| false);
    world.only(&[0, 2]);
    let (log, end) = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!((log.len(), end.txid), (10, TxId(10)));
    world.only(&[1]);
    let error = world.read(TxId(0), Until::Committed).unwrap_err();
    assert!(matches!(error, ReadError::NoMajority { .. }));
    world.only(&[]);
    let error = world.read(TxId(0), Until::Committed).unwrap_err();
    assert!(
        error.to_string().contains("jn2"),
        "names who was asked: {error}"
    );
}

/// T-Q5, T-H15.
#[test]
fn t_q5_empty_segment_is_started_again() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 3) && world.roll(w));
    world.kill_writer(w);
    let w = world.writer();
    assert_eq!(world.recover(w).unwrap().txid, TxId(3));
    assert!(world.begin(w) && world.write(w, 1) && world.roll(w));
    let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!(log.len(), 4);
}

/// T-Q6.
#[test]
fn t_q6_one_has_it_one_is_empty_one_has_nothing() {
    for (up, expected) in [([0, 1], 4), ([0, 2], 4), ([1, 2], 3)] {
        let mut world = World::new(3);
        let w = world.active();
        assert!(world.write(w, 3));
        world.set_up(2, false);
        assert!(world.roll(w));
        world.set_up(1, false);
        world.append(w, 1);
        world.quiesce();
        world.kill_writer(w);
        assert_eq!(recover_with(&mut world, &up), expected, "{up:?} answer");
        let w = world.writers.len() - 1;
        assert!(world.begin(w) && world.write(w, 2));
        world.only(&[0, 1, 2]);
        assert!(world.roll(w));
        world.quiesce();
        let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
        assert_eq!(log.len() as u64, expected + 2);
    }
}

/// T-Q7.
#[test]
fn t_q7_the_longest_that_answers() {
    for (up, expected) in [([1, 2], 5), ([0, 2], 5), ([0, 1], 4)] {
        assert_eq!(recover_with(&mut state([3, 4, 5]), &up), expected);
    }
}

/// T-Q8: HDFS's outcome without catch-up, the healed one with it.
#[test]
fn t_q8_out_of_sync() {
    for catch_up in [false, true] {
        let mut world = World::new(3);
        world.catch_up = catch_up;
        let w = world.active();
        assert!(world.write(w, 3));
        let mut left = BTreeSet::from(["FinalizeSegment", "StartSegment", "Frame"]);
        world.fate = Some(Box::new(move |message: &Message, _| {
            let (jn, kind) = match &message.wire {
                Wire::Call(_, request) => (0, request.call.name()),
                Wire::Frame(_, _, head, _) if head.count > 0 => (1, "Frame"),
                _ => return Fate::Deliver,
            };
            if message.jn == jn && left.remove(kind) {
                Fate::Break
            } else {
                Fate::Deliver
            }
        }));
        assert!(world.roll(w), "one JournalNode may miss it");
        let written = world.write(w, 1);
        world.fate = None;
        if catch_up {
            assert!(written);
            world.quiesce();
            assert_eq!(world.ends(), [4, 4, 4], "healed");
        } else {
            assert!(!written);
            assert!(world.log.iter().any(|line| line.contains("out of sync")));
            world.kill_writer(w);
            assert_eq!(recover_with(&mut world, &[0, 1]), 3);
        }
    }
}

/// T-Q9: an accepted decision wins over a longer log.
#[test]
fn t_q9_accepted_wins() {
    let mut world = state([3, 4, 5]);
    world.only(&[0, 1]);
    let w = world.writer();
    world.recover_up_to(w, "FinalizeSegment");
    assert_eq!(recover_with(&mut world, &[1, 2]), 4);
}

/// Segment 101 has one edit, on JN0 only, and a recovery of it was accepted there only.
fn accepted_on_one() -> World {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 100) && world.roll(w));
    world.quiesce();
    world.only(&[0]);
    world.append(w, 1);
    world.quiesce();
    world.kill_writer(w);
    world.only(&[0, 1]);
    let w = world.writer();
    world.fate = Some(Box::new(|message: &Message, _| match &message.wire {
        Wire::Call(_, request) if message.jn == 1 && request.call.name() == "AcceptRecovery" => {
            Fate::Swallow
        }
        _ => Fate::Deliver,
    }));
    world.claim(w).unwrap_err();
    world.fate = None;
    world.kill_writer(w);
    assert_eq!(world.acceptor(0).record().accepted.len(), 1);
    assert!(world.acceptor(1).record().accepted.is_empty());
    world
}

/// T-Q10: a newer writer's log wins over an old accepted decision.
#[test]
fn t_q10_newer_writer_wins() {
    let mut world = accepted_on_one();
    let w = active_with(&mut world, &[1, 2]);
    assert!(world.write(w, 50));
    world.kill_writer(w);
    assert_eq!(recover_with(&mut world, &[0, 1, 2]), 150);
}

/// T-Q11: as T-Q10, but the node with the old decision takes part in the new segment.
#[test]
fn t_q11_newer_writer_wins_on_the_same_node() {
    let mut world = accepted_on_one();
    world.only(&[1, 2]);
    let w = world.writer();
    assert_eq!(world.recover(w).unwrap().txid, TxId(100));
    world.only(&[0, 2]);
    assert!(world.begin(w) && world.write(w, 50));
    world.kill_writer(w);
    assert_eq!(recover_with(&mut world, &[0, 1]), 150);
}

/// T-Q12: power cuts around every disk operation of an acceptance.
#[test]
fn t_q12_crash_between_data_and_acceptance() {
    let mut reached = 0;
    for operation in 0..12 {
        for cut in [Cut::Before, Cut::After] {
            let mut world = state([3, 4, 5]);
            world.auto_restart = false;
            world.only(&[0, 1]);
            let at = world.nodes[0].operations + operation;
            world.nodes[0].cut = Some((at, cut));
            let w = world.writer();
            let _ = world.claim(w);
            world.kill_writer(w);
            reached += usize::from(world.nodes[0].cut.take().is_none());
            if world.nodes[0].acceptor.is_none() {
                world.start(0);
            }
            assert!(recover_with(&mut world, &[0, 1]) >= 4);
        }
    }
    assert!(
        reached >= 8,
        "promise, copy, acceptance, finalise: {reached}"
    );
}

/// T-Q13.
#[test]
fn t_q13_purge() {
    let mut world = World::new(3);
    let w = world.active();
    for _ in 0..5 {
        assert!(world.write(w, 1) && world.roll(w));
    }
    world.quiesce();
    world.writers[w].purge(TxId(3)).unwrap();
    world.drain_writer(w);
    world.quiesce();
    for jn in 0..3 {
        assert_eq!(finalized(&world, jn), [(3, 3), (4, 4), (5, 5)]);
        assert!(
            world
                .acceptor(jn)
                .record()
                .accepted
                .iter()
                .all(|a| a.first >= TxId(3))
        );
    }
    let error = world.read(TxId(0), Until::Committed).unwrap_err();
    assert!(
        matches!(error, ReadError::Missing { from: TxId(1), .. }),
        "{error}"
    );
    assert_eq!(world.read(TxId(2), Until::Committed).unwrap().0.len(), 3);
}

/// T-Q14.
#[test]
fn t_q14_read_from_the_middle() {
    let mut world = World::new(3);
    let w = world.active();
    for _ in 0..5 {
        assert!(world.write(w, 10) && world.roll(w));
    }
    let (log, end) = world.read(TxId(24), Until::Committed).unwrap();
    assert_eq!((log.len(), end.txid), (26, TxId(50)));
}

/// T-Q15.
#[test]
fn t_q15_uncommitted_tail_is_recovered() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 5));
    world.append(w, 3);
    world.quiesce();
    world.kill_writer(w);
    let w = world.writer();
    let end = world.recover(w).unwrap();
    let (log, _) = world.read(TxId(0), Until::End(end)).unwrap();
    assert_eq!((log.len(), end.txid), (8, TxId(8)));
}

/// T-Q16.
#[test]
fn t_q16_durable_reads_end_at_the_mark() {
    for catch_up in [false, true] {
        let mut world = World::new(3);
        world.catch_up = catch_up;
        let w = world.active();
        assert!(world.write(w, 5));
        world.run(|_| false);
        world.only(&[2]);
        assert!(!world.write(w, 1), "one node is no majority");
        let holder = world.ends();
        world.only(&[0, 1, 2]);
        if !catch_up {
            assert_eq!(holder[..2], [5, 5]);
            let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
            assert_eq!(log.len(), 5);
        } else {
            world.quiesce();
            world.run(|_| false);
            let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
            assert_eq!(log.len(), 6, "healed, and then committed");
        }
    }
    let mut world = state([3, 4, 5]);
    let (log, _) = world.read(TxId(0), Until::Held).unwrap();
    assert_eq!(log.len(), 5, "what is merely held is there for tools");
    let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
    assert!(log.len() <= 4);
}

/// T-Q18: what a restarted node serves comes from its disk, and is the same.
#[test]
fn t_q18_cold_nodes_serve_the_same() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 6) && world.roll(w) && world.write(w, 3));
    world.run(|_| false);
    let warm = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!(warm.0.len(), 9);
    for jn in 0..3 {
        world.restart(jn);
    }
    world.run(|_| false);
    assert!(world.write(w, 1));
    world.run(|_| false);
    let cold = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!(cold.0[..9], warm.0[..]);
    assert_eq!(cold.0.len(), 10);
}

/// T-Q19.
#[test]
fn t_q19_start_with_failing_nodes() {
    for failing in 0..3 {
        let mut world = World::new(3);
        let w = world.active();
        assert!(world.write(w, 1));
        world.fate = Some(Box::new(move |message: &Message, _| match &message.wire {
            Wire::Call(_, request)
                if message.jn < failing && request.call.name() == "StartSegment" =>
            {
                Fate::Refuse
            }
            _ => Fate::Deliver,
        }));
        assert_eq!(world.roll(w), failing < 2);
        if failing == 2 {
            assert!(world.log.iter().any(|line| line.contains("injected")));
            assert!(!world.writers[w].is_writing());
        }
    }
}

/// T-Q20.
#[test]
fn t_q20_one_node_never_answers() {
    let mut world = World::new(3);
    let w = world.active();
    world.fate = Some(Box::new(|message: &Message, _| {
        if message.jn == 1 && matches!(message.wire, Wire::Frame(..)) {
            Fate::Swallow
        } else {
            Fate::Deliver
        }
    }));
    for txid in 1..=20 {
        assert!(world.write(w, 1));
        assert_eq!(world.writers[w].committed().unwrap().txid, TxId(txid));
    }
    let lags = world.writers[w].lags();
    assert_eq!(lags[0].behind, Some(0));
    assert_eq!(lags[1].behind, None, "never written");
    // It is not sent more than it may have on its way.
    let frames = world.counts[&(1, true)];
    assert!(
        frames < 8 + 8,
        "{frames} messages to a node that does not answer"
    );
}

/// T-Q21: nodes hold 1, 2 and 3 edits; two is what a majority has.
#[test]
fn t_q21_majority_length() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 1));
    world.set_up(0, false);
    assert!(world.write(w, 1));
    world.run(|_| false);
    world.set_up(1, false);
    world.append(w, 1);
    world.quiesce();
    world.kill_writer(w);
    world.only(&[0, 1, 2]);
    assert_eq!(world.ends(), [1, 2, 3]);
    let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!(log.len(), 2);
    world.only(&[0, 1]);
    let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!(log.len(), 2, "a mark is a mark, whoever brings it");
}

/// T-Q22.
#[test]
fn t_q22_one_batch_to_each() {
    let mut world = World::new(3);
    let w = world.active();
    world.quiesce();
    let frames = |world: &World| {
        let frames = world
            .wire
            .iter()
            .filter(|m| matches!(m.wire, Wire::Frame(..)));
        frames.map(|m| m.jn).collect::<Vec<_>>()
    };
    assert!(world.append(w, 12));
    assert_eq!(frames(&world), [0, 1, 2]);
    world.quiesce();
    assert_eq!(world.ends(), [12, 12, 12]);
}

/// T-Q24, F-04: each claim takes the highest epoch seen by a majority, plus one.
#[test]
fn t_q24_epochs_are_unique() {
    let mut world = World::new(3);
    for expected in 1..=5 {
        let w = world.writer();
        world.claim(w).unwrap();
        assert_eq!(world.writers[w].epoch(), Epoch(expected));
    }
    let mut random = 42u64;
    world.fate = Some(Box::new(move |message: &Message, _| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let roll = (random >> 33) % 100;
        match &message.wire {
            Wire::Call(_, request) => match request.call {
                Call::GetState if roll < 10 => Fate::Refuse,
                Call::NewEpoch { .. } if roll < 40 => Fate::Refuse,
                _ => Fate::Deliver,
            },
            _ => Fate::Deliver,
        }
    }));
    let (mut last, mut through) = (Epoch(5), 0);
    for _ in 0..20 {
        let w = world.writer();
        if world.claim(w).is_ok() {
            assert!(world.writers[w].epoch() > last);
            last = world.writers[w].epoch();
            through += 1;
        }
    }
    assert!((3..20).contains(&through), "{through} of 20");
}

/// C-01: a majority is enough, and less is not: three JournalNodes tolerate the loss of one, five of two.
#[test]
fn c01_a_majority_of_journalnodes_is_enough() {
    for nodes in [3, 5] {
        let tolerated = (nodes - 1) / 2;
        let mut world = World::new(nodes);
        let w = world.active();
        for down in 0..tolerated {
            world.set_up(down, false);
            assert!(world.write(w, 1), "{down} of {nodes} are down");
        }
        let known = world.writers[w].committed().unwrap();
        world.set_up(tolerated, false);
        assert!(!world.write(w, 1), "no majority of {nodes} is left");
        assert_eq!(world.writers[w].committed().unwrap(), known);
        world.set_up(0, true);
        assert!(world.write(w, 1), "there is one again");
    }
}

/// D-04, F-04: one writer at a time. A second one takes the journal over with what was committed; from then on the first
/// writes nothing that counts, however many nodes it reaches, and the log has the second one's edits only.
#[test]
fn d04_f04_a_new_writer_takes_the_journal_from_the_old_one() {
    for up in [[0, 1], [1, 2], [0, 2]] {
        let mut world = World::new(3);
        let old = world.active();
        assert!(world.write(old, 3));
        world.quiesce();
        world.only(&up);
        let new = world.active();
        assert!(world.writers[new].epoch() > world.writers[old].epoch());
        assert!(world.write(new, 2), "it starts behind txid 3");
        world.only(&[0, 1, 2]);
        world.quiesce();
        assert!(!world.write(old, 1), "the old one is told that it is over");
        assert!(!world.roll(old));
        assert!(world.write(new, 1));
        world.quiesce();
        assert_eq!(world.writers[new].committed().unwrap().txid, TxId(6));
        let epochs = |jn: usize| -> Vec<Epoch> {
            let segments = world.acceptor(jn).segments();
            segments.map(|segment| segment.epoch).collect()
        };
        let newest = world.writers[new].epoch();
        for jn in up {
            assert_eq!(epochs(jn).last(), Some(&newest));
        }
        assert_eq!(recover_with(&mut world, &[0, 1, 2]), 6);
    }
}

/// Q11: a majority that is silent is reported once, and its return, and nothing is lost meanwhile.
#[test]
fn q11_slow_majority() {
    let mut world = World::new(3);
    let w = world.active();
    world.only(&[2]);
    assert!(!world.write(w, 1));
    let line = world.log.last().unwrap().clone();
    assert!(
        line.contains("QuorumSlow") && line.contains("jn0") && !line.contains("jn2"),
        "{line}"
    );
    world.only(&[0, 1, 2]);
    assert!(world.wait(w, |event| matches!(event, Event::QuorumBack)));
    assert_eq!(world.writers[w].committed().unwrap().txid, TxId(1));
}

/// The window is bounded: edits beyond it are not taken while no majority answers.
#[test]
fn window_is_bounded() {
    let mut world = World::new(3);
    let mut config = WriterConfig::new(world.names());
    config.window_bytes = 2000;
    let w = world.writer_with(config);
    world.recover(w).unwrap();
    assert!(world.begin(w));
    world.only(&[]);
    let mut taken = 0;
    while world.append(w, 1) {
        taken += 1;
        assert!(taken < 100);
    }
    assert!(!world.writers[w].can_append());
    world.only(&[0, 1, 2]);
    world.run(|world| world.writers[w].committed().unwrap().txid == TxId(taken));
    assert!(world.writers[w].can_append());
    // Beyond the window a laggard waits for the next segment, and joins there.
    world.set_up(0, false);
    for _ in 0..100 {
        assert!(world.write(w, 1));
    }
    world.set_up(0, true);
    world.run(|_| false);
    assert_eq!(world.nodes[0].disk.segments.len(), 1);
    assert!(
        world.writers[w].lags()[0]
            .trouble
            .as_ref()
            .unwrap()
            .contains("next segment")
    );
    assert!(world.roll(w) && world.write(w, 1));
    world.quiesce();
    assert_eq!(world.ends()[0], taken + 101);
}

/// A claim that cannot have a majority says who is in the way.
#[test]
fn claims_fail_by_name() {
    let mut world = World::new(3);
    world.only(&[0]);
    let w = world.writer();
    let error = world.claim(w).unwrap_err();
    assert!(matches!(error, ClaimError::TimedOut { .. }));
    assert!(error.to_string().contains("jn1: not connected"), "{error}");
}

/// Hand-over (T-A6): what was handed in is committed and finalised at a majority before the writer says that it is done,
/// nothing is sent after that, and the next writer has nothing to recover.
#[test]
fn a_writer_that_finishes_leaves_nothing_to_recover() {
    for (down, rolled) in [
        (None, false),
        (Some(2), false),
        (None, true),
        (Some(0), true),
    ] {
        let mut world = World::new(3);
        let w = world.active();
        assert!(world.write(w, 3));
        if rolled {
            assert!(world.roll(w));
        }
        if let Some(jn) = down {
            world.set_up(jn, false);
        }
        // Still on their way when it begins to finish.
        assert!(world.append(w, 2));
        world.events[w].clear();
        world.writers[w].finish(world.now).expect("writes");
        world.drain_writer(w);
        assert!(!world.append(w, 1) && world.writers[w].roll(world.now).is_err());
        assert!(!world.writers[w].can_append());
        assert!(world.wait(
            w,
            |event| matches!(event, Event::Finished { end } if end.txid == TxId(5))
        ));
        let last = if rolled { (4, 5) } else { (1, 5) };
        let holders = (0..3).filter(|jn| finalized(&world, *jn).last() == Some(&last));
        assert!(holders.count() >= 2);
        assert!(!world.writers[w].is_writing());
        // What is on its way still arrives; the writer itself starts nothing.
        world.quiesce();
        assert_eq!(world.writers[w].poll_timeout(), None);
        let next = world.writer();
        assert_eq!(world.recover(next).unwrap().txid, TxId(5));
        assert!(world.begin(next) && world.write(next, 1));
    }
}

/// With nothing written, or nothing since the roll, there is nothing to wait for; without a majority it is not done.
#[test]
fn finishing_without_edits_and_without_a_majority() {
    let mut world = World::new(3);
    let w = world.active();
    world.writers[w].finish(world.now).expect("writes");
    world.drain_writer(w);
    assert!(world.wait(
        w,
        |event| matches!(event, Event::Finished { end } if end.txid == TxId(0))
    ));
    let w = world.active();
    assert!(world.write(w, 1) && world.roll(w));
    world.writers[w].finish(world.now).expect("writes");
    world.drain_writer(w);
    assert!(world.wait(
        w,
        |event| matches!(event, Event::Finished { end } if end.txid == TxId(1))
    ));
    let w = world.active();
    world.only(&[1]);
    world.append(w, 1);
    world.writers[w].finish(world.now).expect("writes");
    world.drain_writer(w);
    assert!(
        !world.wait(w, |event| matches!(event, Event::Finished { .. })),
        "slow is said instead"
    );
    world.only(&[0, 1, 2]);
    assert!(world.wait(
        w,
        |event| matches!(event, Event::Finished { end } if end.txid == TxId(2))
    ));
}
