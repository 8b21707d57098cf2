//! The standby's live tail (protocols.md section 3; Q20, T-Q2, T-Q18).

use crate::world::{World, framing, info, namenode};
use hadal_proto::qjournal::{AWAIT_CAP_MS, Call, CommitMark, LogDigest, Request};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::reader::Until;
use hadal_qjournal::tail::{Output, Tail, TailConfig};
use hadal_types::{Tick, TxId};

/// Q20: an idle writer's last edit is with the standby within 5 ms of its commit, without another edit behind it.
#[test]
fn q20_the_last_edit_of_an_idle_writer_is_seen_within_5_ms() {
    let mut world = World::new(3);
    world.follow();
    let w = world.active();
    let mut edits = 0;
    for count in [1, 3, 1, 1] {
        assert!(world.write(w, count));
        edits += count;
        let committed = world.now;
        assert!(world.followed(edits));
        assert!(world.now.ms_since(committed) <= 5);
    }
    // Over a roll, too.
    assert!(world.roll(w) && world.write(w, 2));
    assert!(world.followed(edits + 2));
    let (log, _) = world.read(TxId(0), Until::Held).unwrap();
    assert_eq!(world.standby.as_ref().unwrap().read, log);
}

/// Q20, P4: nothing is handed out before it is committed: held by one node, or by two without anybody knowing.
#[test]
fn q20_uncommitted_edits_are_not_seen() {
    let mut world = World::new(3);
    world.follow();
    let w = world.active();
    assert!(world.write(w, 2) && world.followed(2));
    world.only(&[0]);
    world.append(w, 1);
    world.run(|world| world.now.ms_since(Tick::from_ms(1)) > 8_000);
    assert_eq!(world.ends()[0], 3);
    assert_eq!(world.standby.as_ref().unwrap().read.len(), 2);
    // The writer dies. The others go on with another edit 3.
    world.kill_writer(w);
    world.only(&[1, 2]);
    let w = world.active();
    assert!(world.write(w, 1) && world.followed(3));
    world.only(&[0, 1, 2]);
    assert!(world.write(w, 1) && world.followed(4));
}

/// T-Q18, T-Q3: the node that is followed dies, lags, or is cut off from the writer: another one serves.
#[test]
fn t_q18_falls_over_between_journalnodes() {
    let mut world = World::new(3);
    world.auto_restart = false;
    world.follow();
    let w = world.active();
    let mut edits = 0;
    for round in 0..12 {
        assert!(world.write(w, 2));
        edits += 2;
        assert!(world.followed(edits), "round {round}");
        let last = *world.standby.as_ref().unwrap().asked.last().unwrap();
        match round % 3 {
            // Dies with the call on it.
            0 => world.crash(last),
            // Its segments are behind, its connections fine.
            1 => world.set_up(last, false),
            _ => {}
        }
        assert!(world.write(w, 1));
        edits += 1;
        let before = world.now;
        assert!(world.followed(edits), "round {round}: another node has it");
        assert!(world.now.ms_since(before) < 2_000);
        if world.nodes[last].acceptor.is_none() {
            world.start(last);
        }
        world.set_up(last, true);
    }
    assert_eq!(world.standby.as_ref().unwrap().missing, 0);
}

/// All JournalNodes restart under an idle writer: they verify the mark again, so a new standby sees everything.
#[test]
fn t_q18_cold_nodes_hear_the_mark_again() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 4) && world.write(w, 1));
    assert!(world.run(|world| (0..3).all(|jn| world.acceptor(jn).committed().txid == TxId(5))));
    for jn in 0..3 {
        world.restart(jn);
        assert_eq!(world.acceptor(jn).committed().txid, TxId(0), "cold");
    }
    world.follow();
    let before = world.now;
    assert!(world.followed(5), "{:?}", world.writers[w].lags());
    assert!(world.now.ms_since(before) < 1_000);
}

/// A standby that begins below what was purged is told, and goes on where the log begins after it loaded an image.
#[test]
fn t_q13_purged_edits_are_missing() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 3) && world.roll(w) && world.write(w, 3));
    world.writers[w].purge(TxId(4)).expect("writes");
    world.drain_writer(w);
    world.quiesce();
    world.follow();
    world.run(|world| world.standby.as_ref().unwrap().missing > 0);
    let standby = world.standby.as_ref().unwrap();
    assert_eq!((standby.missing, standby.read.len()), (1, 0));
}

/// A node with another log, or with records that do not verify, is passed over whatever it claims.
#[test]
fn other_logs_and_damaged_answers_are_passed_over() {
    let mut world = World::new(3);
    let w = world.active();
    assert!(world.write(w, 2));
    world.run(|world| world.acceptor(0).committed().txid == TxId(2));
    let request = Request {
        namespace_id: info().namespace_id,
        call: Call::AwaitCommitted {
            after: TxId(0),
            wait_ms: 0,
            max_bytes: 1 << 20,
        },
    };
    let Ok(answer) = world.call_as(0, &namenode(), request) else {
        panic!("edits");
    };
    let hadal_proto::qjournal::Response::Edits { edits } = answer.clone() else {
        panic!("edits");
    };
    let damage: [fn(&mut hadal_proto::qjournal::Edits); 5] = [
        |edits| edits.digest_before = LogDigest([1; 16]),
        |edits| edits.digest_end = LogDigest([1; 16]),
        |edits| edits.records = edits.records.slice(..edits.records.len() - 1),
        |edits| edits.count += 1,
        |edits| edits.first = TxId(2),
    ];
    for (index, damage) in damage.into_iter().enumerate() {
        let config = TailConfig::new(world.names(), info().namespace_id, framing::digest);
        let mut tail = Tail::new(config, CommitMark::default());
        let now = Tick::from_ms(1);
        tail.handle_timeout(now);
        let Some(Output::Call { jn: 0, id, .. }) = tail.poll_output() else {
            panic!("asks");
        };
        let mut bad = edits.clone();
        damage(&mut bad);
        let bad = hadal_proto::qjournal::Response::Edits { edits: bad };
        tail.handle_reply(now, id, Ok(bad));
        assert_eq!(tail.position(), CommitMark::default(), "damage {index}");
        let Some(Output::Call { jn: 1, id, .. }) = tail.poll_output() else {
            panic!("asks the next one");
        };
        // An answer to a call that was given up is ignored.
        tail.handle_timeout(now.after_ms(10_000));
        tail.handle_reply(now, id, Ok(answer.clone()));
        assert_eq!(tail.position(), CommitMark::default());
        let Some(Output::Call { jn: 2, id, .. }) = tail.poll_output() else {
            panic!("asks the third");
        };
        tail.handle_reply(now.after_ms(10_000), id, Ok(answer.clone()));
        assert_eq!(tail.position().txid, TxId(2));
        assert!(matches!(tail.poll_output(), Some(Output::Edits(_))));
    }
}

/// A wait ends by itself, is bounded whatever was asked, and their number is bounded.
#[test]
fn waits_are_bounded() {
    let mut world = World::new(1);
    let w = world.active();
    assert!(world.write(w, 1));
    let wait = |world: &mut World, after: u64, wait_ms: u32| {
        let call = Call::AwaitCommitted {
            after: TxId(after),
            wait_ms,
            max_bytes: 1 << 20,
        };
        world.call(0, call)
    };
    world.run(|world| world.acceptor(0).committed().txid == TxId(1));
    let Ok(hadal_proto::qjournal::Response::Edits { edits }) = wait(&mut world, 1, 0) else {
        panic!("an empty run");
    };
    assert_eq!((edits.count, edits.committed.txid), (0, TxId(1)));
    for _ in 0..64 {
        let unanswered: Fault = wait(&mut world, 1, u32::MAX).unwrap_err();
        assert_eq!(unanswered.message, "unreachable");
    }
    let fault = wait(&mut world, 1, 1).unwrap_err();
    assert_eq!(fault.class, FaultClass::Retry);
    assert!(fault.message.contains("wait"), "{fault}");
    let cap = world.now.after_ms(u64::from(AWAIT_CAP_MS));
    assert!(world.acceptor(0).poll_timeout().expect("waits") <= cap);
    world.now = cap;
    world.pass_time(0);
    assert!(wait(&mut world, 1, 0).is_ok(), "all of them were answered");
}
