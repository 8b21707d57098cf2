//! M-J1..M-J8: the counterexamples R1..R8 of model-journal.md, each shown to be found when its rule is off.

use crate::world::disk::DiskSegment;
use crate::world::{Fate, Message, Wire, World, info};
use hadal_proto::qjournal::{Call, Standing};
use hadal_qjournal::Planted;
use hadal_qjournal::reader::Until;
use hadal_qjournal::writer::Event;
use hadal_types::TxId;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether the scenario violates a promise. Its panic message is the checker's.
fn violates(scenario: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(scenario)).is_err()
}

/// Delivers messages that match, and what follows from them, until none is left.
fn deliver_only(world: &mut World, wanted: impl Fn(&Message) -> bool) {
    while let Some(at) = world.wire.iter().position(&wanted) {
        let message = world.wire.remove(at).expect("just found");
        world.deliver(message);
    }
}

fn join_as_learner(world: &mut World, jn: usize) {
    world.wipe(jn);
    let call = Call::Format {
        info: info(),
        initial: false,
        force: false,
    };
    world.call(jn, call).expect("joins");
    assert_eq!(world.acceptor(jn).standing(), Standing::Learner);
}

/// R1: a promise given before a wipe is not counted beside a node that knows of the new life.
#[test]
fn m_j1_promises_do_not_outlive_a_wipe() {
    let run = |planted: Planted| {
        let mut world = World::with(3, planted, true);
        let w = world.writer();
        world.writers[w].start_claim(world.now);
        world.drain_writer(w);
        deliver_only(&mut world, |message| match &message.wire {
            Wire::Call(_, request) => request.call == Call::GetState || message.jn == 0,
            _ => true,
        });
        assert_eq!(world.promised(0).0, 1);
        // JN0's promise is with the claimant; now it is wiped, and its peers hear of its new life.
        join_as_learner(&mut world, 0);
        world.events[w].clear();
        deliver_only(&mut world, |message| message.jn == 1);
        assert_eq!(world.promised(1).0, 1);
        let events = &world.events[w];
        events
            .iter()
            .any(|event| matches!(event, Event::Recovered { .. }))
    };
    assert!(!run(Planted::default()));
    assert!(run(Planted {
        count_old_incarnations: true,
        ..Planted::default()
    }));
}

/// R2: an old image of the same disk is found out by its count.
#[test]
fn m_j2_old_image() {
    let mut world = World::with(3, Planted::default(), true);
    let w = world.active();
    assert!(world.write(w, 1));
    let image = world.nodes[2].disk.clone();
    world.kill_writer(w);
    let w = world.active();
    assert!(world.write(w, 1));
    world.crash(2);
    world.nodes[2].disk = image;
    world.start(2);
    assert_eq!(world.acceptor(2).standing(), Standing::Learner);
    world.restart(2);
    assert_eq!(world.acceptor(2).standing(), Standing::Learner, "for good");
    // A node whose disk is its newest is none.
    world.restart(1);
    assert_eq!(world.acceptor(1).standing(), Standing::Voter);
}

/// R3: a node whose disk is its own votes with one peer gone for good, or with one peer a learner.
#[test]
fn m_j3_start_with_a_peer_missing() {
    let mut world = World::with(3, Planted::default(), true);
    world.crash(1);
    world.restart(0);
    assert_eq!(world.acceptor(0).standing(), Standing::Voter);
    let mut world = World::with(3, Planted::default(), true);
    join_as_learner(&mut world, 0);
    world.restart(1);
    assert_eq!(world.acceptor(1).standing(), Standing::Voter);
    // Nobody there to confirm: not yet.
    let mut world = World::with(3, Planted::default(), true);
    world.crash(1);
    world.crash(2);
    world.restart(0);
    assert_eq!(world.acceptor(0).standing(), Standing::Unconfirmed);
    world.start(1);
    world.run(|world| world.acceptor(0).standing() == Standing::Voter);
    assert_eq!(world.acceptor(0).standing(), Standing::Voter);
}

/// Edits 1 and 2 written by one writer who is gone, 1 committed. `bad` says which node cannot read which edit.
fn rotted(lengths: [u64; 3], bad: [Option<u64>; 3], planted: Planted) -> World {
    let mut world = World::with(3, planted, false);
    let w = world.active();
    for txid in 1..=2 {
        for (jn, length) in lengths.into_iter().enumerate() {
            world.set_up(jn, length >= txid);
        }
        world.append(w, 1);
        world.quiesce();
    }
    world.kill_writer(w);
    world.only(&[0, 1, 2]);
    for (jn, bad) in bad.into_iter().enumerate() {
        world.crash(jn);
        if let Some(segment) = world.nodes[jn].disk.segments.get_mut(&TxId(1)) {
            segment.bad = bad.map(TxId);
        }
        world.start(jn);
    }
    world
}

/// R4, R8: an edit torn on two nodes and absent on the third is given up once all have answered, and the segment can
/// be started again.
#[test]
fn m_j4_m_j8_torn_tails_do_not_block() {
    let mut world = rotted([1, 0, 0], [Some(1), None, None], Planted::default());
    world.nodes[2].disk.segments = world.nodes[0].disk.segments.clone();
    world.restart(2);
    world.only(&[0, 2]);
    let w = world.writer();
    world.claim(w).unwrap_err();
    world.only(&[0, 1, 2]);
    let w = world.active();
    assert!(world.write(w, 3) && world.roll(w));
    world.quiesce();
    assert_eq!(world.ends(), [3, 3, 3], "zeroed and written anew");
}

/// R5: doubt about 1 is doubt about 2.
#[test]
fn m_j5_doubt_covers_what_stands_behind() {
    let run = |planted| {
        // JN0 and JN1 acked 1 and 2; JN2 has 1; 1 rots on JN1.
        let mut world = rotted([2, 2, 1], [None, Some(1), None], planted);
        world.only(&[1, 2]);
        let w = world.writer();
        let _ = world.recover(w);
        world.only(&[0, 1, 2]);
        let w = world.writer();
        assert_eq!(world.recover(w).expect("all three answer").txid, TxId(2));
    };
    run(Planted::default());
    assert!(violates(|| run(Planted {
        drop_doubtful: true,
        ..Planted::default()
    })));
}

/// Edits 1 to 3 of a writer that is gone, on each node as many as said. JN2 cannot read this one of its edits.
fn torn(lengths: [u64; 3], bad: u64, planted: Planted) -> World {
    let mut world = World::with(3, planted, true);
    let w = world.active();
    for txid in 1..=3 {
        for (jn, length) in lengths.into_iter().enumerate() {
            world.set_up(jn, length >= txid);
        }
        world.append(w, 1);
        world.quiesce();
    }
    world.kill_writer(w);
    world.only(&[0, 1, 2]);
    world.crash(2);
    let segments = &mut world.nodes[2].disk.segments;
    segments.get_mut(&TxId(1)).expect("started").bad = Some(TxId(bad));
    world.start(2);
    world
}

/// One node forgot and never answers, another one is torn: recovery goes on when the third one's log reaches where the torn
/// node's bytes end, and all three are whole again (seed 70 of the simulator's `cluster`).
#[test]
fn a_torn_node_beside_a_learner_is_bounded_by_its_bytes() {
    for bad in 1..=3 {
        let mut world = torn([3, 3, 3], bad, Planted::default());
        join_as_learner(&mut world, 1);
        let w = world.writer();
        assert_eq!(world.recover(w).expect("JN0 has it all").txid, TxId(3));
        assert!(world.begin(w) && world.write(w, 2));
        world.run(|world| world.acceptor(1).standing() == Standing::Voter);
        assert!(world.roll(w));
        world.quiesce();
        assert_eq!(world.ends(), [5, 5, 5]);
    }
}

/// JN1 and JN2 acknowledged edit 3, JN0 lacks it, JN2's edit 2 is bad: edit 3 left bytes behind it. Whether JN1 forgot
/// or is away, nobody gives edit 3 up; a bound that is one edit short would.
#[test]
fn a_bound_that_is_one_edit_short_loses_it() {
    let run = |planted| {
        let mut world = torn([2, 3, 3], 2, planted);
        join_as_learner(&mut world, 1);
        let w = world.writer();
        world.recover(w).is_ok()
    };
    assert!(!run(Planted::default()));
    let planted = Planted {
        bound_doubt_early: true,
        ..Planted::default()
    };
    assert!(violates(|| {
        run(planted);
    }));
    // A node that is merely away is waited for, even if the bound is reached: it may know more than a lost write shows.
    for lengths in [[2, 3, 3], [3, 3, 3]] {
        let mut world = torn(lengths, 2, Planted::default());
        world.only(&[0, 2]);
        let w = world.writer();
        assert!(world.recover(w).is_err());
        world.only(&[0, 1, 2]);
        let w = world.writer();
        assert_eq!(world.recover(w).expect("all answer").txid, TxId(3));
    }
}

/// R6: a doubtful edit stays doubtful until its replacement is on the disk.
#[test]
fn m_j6_doubt_outlives_a_broken_repair() {
    let mut world = rotted([2, 2, 2], [None, None, Some(1)], Planted::default());
    let doubtful = |world: &World| {
        let segment = world.acceptor(2).segments().next().expect("one");
        segment.doubtful_from
    };
    world.auto_restart = false;
    for operation in 1..3 {
        world.nodes[2].cut = Some((
            world.nodes[2].operations + operation,
            crate::world::Cut::Before,
        ));
        world.only(&[0, 2]);
        let w = world.writer();
        let _ = world.claim(w);
        world.kill_writer(w);
        world.nodes[2].cut = None;
        if world.nodes[2].acceptor.is_none() {
            world.start(2);
        }
        let repaired = world.nodes[2].disk.segments[&TxId(1)].bad.is_none();
        assert_eq!(doubtful(&world).is_none(), repaired);
        world.only(&[0, 1, 2]);
    }
    let w = world.writer();
    assert_eq!(world.recover(w).unwrap().txid, TxId(2));
    world.quiesce();
    assert_eq!(doubtful(&world), None);
}

/// R7: four writers, two of which wrote a different edit 1. Compared by length, a node accepts its own.
#[test]
fn m_j7_contents_are_compared() {
    let run = |planted| {
        let mut world = World::with(3, planted, false);
        for holder in [2, 0] {
            // The edit reaches one node; recovery asks the two others next.
            let others: Vec<usize> = (0..3).filter(|jn| *jn != holder).collect();
            world.only(if holder == 2 { &[0, 1, 2] } else { &[0, 1] });
            let w = world.active();
            world.quiesce();
            for jn in others {
                world.set_up(jn, false);
            }
            world.append(w, 1);
            world.quiesce();
            world.kill_writer(w);
        }
        assert_eq!(world.ends(), [1, 0, 1]);
        // W2 decides for JN2's edit with {JN1, JN2}; JN0 accepts it late, JN1 never.
        world.only(&[1, 2]);
        let w = world.writer();
        let swallow = |message: &Message, _| match &message.wire {
            Wire::Call(_, request)
                if message.jn == 1
                    && matches!(
                        request.call,
                        Call::AcceptRecovery { .. } | Call::FinalizeSegment { .. }
                    ) =>
            {
                Fate::Swallow
            }
            Wire::Call(_, request)
                if message.jn == 0 && matches!(request.call, Call::FinalizeSegment { .. }) =>
            {
                Fate::Swallow
            }
            _ => Fate::Deliver,
        };
        world.fate = Some(Box::new(swallow));
        world.writers[w].start_claim(world.now);
        world.drain_writer(w);
        world.quiesce();
        world.set_up(0, true);
        world.quiesce();
        world.kill_writer(w);
        world.fate = None;
        assert!(
            world.nodes[2].disk.segments[&TxId(1)].finalized,
            "W2's decision"
        );
        let decided = world.nodes[2].disk.segments[&TxId(1)].records.clone();
        // W3 asks {JN0, JN1}.
        world.only(&[0, 1]);
        let w = world.writer();
        let end = world.recover(w).expect("recovers");
        let (log, _) = world.read(TxId(0), Until::End(end)).expect("readable");
        assert_eq!(log, decided, "a decision was undone");
    };
    run(Planted::default());
    assert!(violates(|| run(Planted {
        compare_lengths: true,
        ..Planted::default()
    })));
}

/// A node that missed a recovery may hold another edit n; told that n is committed, it must not serve its own.
#[test]
fn marks_are_compared_before_edits_are_served() {
    let run = |planted| {
        let mut world = World::with(3, planted, false);
        let w = world.active();
        assert!(world.write(w, 1));
        world.quiesce();
        world.only(&[0]);
        world.append(w, 1);
        world.quiesce();
        world.kill_writer(w);
        world.only(&[1, 2]);
        let w = world.active();
        assert!(world.write(w, 2));
        world.run(|_| false);
        let mark = world.writers[w].committed().expect("writes");
        // JN0 hears of the mark; its own edit 2 is another.
        world.set_up(0, true);
        let epoch = world.writers[w].epoch();
        let call = Call::NewEpoch {
            info: info(),
            epoch,
            claim: 1,
        };
        world.call(0, call).expect("promises");
        world
            .call(0, Call::CommitMark { epoch, mark })
            .expect("hears");
        let call = Call::ReadEdits {
            from: TxId(2),
            max_bytes: 100,
            durable: true,
        };
        assert!(world.call(0, call).is_err(), "JN0 serves an edit that lost");
    };
    run(Planted::default());
    assert!(violates(|| run(Planted {
        trust_marks: true,
        ..Planted::default()
    })));
}

/// The longest log is not the right one: a newer writer's shorter log wins.
#[test]
fn longest_log_of_an_older_epoch_loses() {
    let run = |planted| {
        let mut world = World::with(3, planted, false);
        let w = world.active();
        world.quiesce();
        world.only(&[0]);
        world.append(w, 5);
        world.quiesce();
        world.kill_writer(w);
        world.only(&[1, 2]);
        let w = world.active();
        assert!(world.write(w, 2));
        world.kill_writer(w);
        world.only(&[0, 1]);
        let w = world.writer();
        world.recover(w).expect("recovers");
    };
    run(Planted::default());
    assert!(violates(|| run(Planted {
        longest_wins: true,
        ..Planted::default()
    })));
}

/// A learner never votes, though it answers; were it to, a forgotten promise would be counted.
#[test]
fn learners_do_not_vote() {
    let run = |planted| {
        let mut world = World::with(3, planted, true);
        let w = world.active();
        world.only(&[0, 1]);
        assert!(world.write(w, 2));
        world.kill_writer(w);
        world.only(&[0, 1, 2]);
        join_as_learner(&mut world, 1);
        world.only(&[1, 2]);
        let w = world.writer();
        let _ = world.recover(w);
    };
    run(Planted::default());
    assert!(violates(|| run(Planted {
        learner_votes: true,
        ..Planted::default()
    })));
}

/// An acceptance that is not written down is forgotten by a crash, and the other log wins (T-Q9 with a power cut).
#[test]
fn acceptance_is_durable() {
    let run = |planted| {
        let mut world = World::with(3, planted, false);
        let w = world.active();
        for (txid, up) in [(1u64, [true, true, true]), (2, [false, false, true])] {
            for (jn, up) in up.into_iter().enumerate() {
                world.set_up(jn, up);
            }
            world.append(w, 1);
            world.quiesce();
            assert_eq!(world.ends()[2], txid);
        }
        world.kill_writer(w);
        world.only(&[0, 1]);
        let w = world.writer();
        world.recover_up_to(w, "FinalizeSegment");
        for jn in [0, 1] {
            world.restart(jn);
        }
        world.only(&[1, 2]);
        let w = world.writer();
        assert_eq!(world.recover(w).expect("recovers").txid, TxId(1));
    };
    run(Planted::default());
    assert!(violates(|| run(Planted {
        forget_acceptance: true,
        ..Planted::default()
    })));
}

/// Rot in a committed, finalised segment is reported and not served; another node's copy is.
#[test]
fn rot_is_reported_and_passed_over() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 4) && world.roll(w) && world.write(w, 1));
    world.run(|_| false);
    world.crash(0);
    let rot = |segment: &mut DiskSegment| segment.bad = Some(TxId(2));
    rot(world.nodes[0]
        .disk
        .segments
        .get_mut(&TxId(1))
        .expect("there"));
    world.start(0);
    let call = Call::GetManifest {
        from: TxId(1),
        in_progress: true,
    };
    let Ok(hadal_proto::qjournal::Response::Manifest { manifest }) = world.call(0, call) else {
        panic!("a manifest");
    };
    assert_eq!(manifest.damaged, [TxId(1)]);
    world.only(&[0, 1]);
    let (log, _) = world.read(TxId(0), Until::Committed).unwrap();
    assert_eq!(log.len(), 5);
}

/// R1 must not turn into a wait: a JournalNode raised its count (it had acknowledged) between its own promise, or its
/// answer to prepare, and the later one of a node that heard of that. It is asked again and the claim goes through
/// with two of three, without a second claim.
#[test]
fn m_j1_a_count_raised_during_a_claim_is_asked_again() {
    for stage in ["NewEpoch", "PrepareRecovery"] {
        let mut world = World::with(3, Planted::default(), true);
        let w = world.active();
        assert!(world.write(w, 4));
        world.set_up(1, false);
        assert!(world.write(w, 2));
        world.kill_writer(w);
        world.set_up(1, true);
        world.crash(2);
        world.auto_restart = false;
        let w = world.writer();
        world.writers[w].start_claim(world.now);
        world.drain_writer(w);
        // JN1 hears of this step only after JN0 has answered and raised its count.
        deliver_only(&mut world, |message| match &message.wire {
            Wire::Call(_, request) => message.jn == 0 || request.call.name() != stage,
            _ => true,
        });
        let started = world.now;
        world.now = world.now.after_ms(1_500);
        let before = world.acceptor(0).state().incarnation.count;
        world.pass_time(0);
        assert!(world.acceptor(0).state().incarnation.count > before);
        let mut end = None;
        world.run(|world| {
            while let Some(event) = world.events[w].pop_front() {
                match event {
                    Event::Recovered { end: at, .. } => end = Some(at),
                    Event::ClaimFailed { error } => panic!("{stage}: {error}"),
                    _ => {}
                }
            }
            end.is_some()
        });
        let end = end.expect("two of three are a majority");
        assert_eq!(end.txid, TxId(6), "{stage}");
        assert!(world.now.ms_since(started) < 5_000, "without the third");
        world.check_recovered(end);
    }
}
