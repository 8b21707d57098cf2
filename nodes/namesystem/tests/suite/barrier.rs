//! The commit barrier (protocols.md section 0): nothing that could have seen an edit leaves before that edit
//! is durable at a majority (C-01).

use crate::support::{Rng, World, create, delete, info, mkdirs, root, some_call};
use hadal_namesystem::{Answer, Event};
use hadal_proto::client::{Request, Response};
use hadal_proto::{FaultClass, admin};
use hadal_types::{HaState, TxId};

/// C-01: a mutation, a read behind it and an error behind it wait for the edit; a read before it does not.
#[test]
fn c01_no_answer_before_the_edits_it_could_have_seen() {
    let mut world = World::new();
    let early = world.send(&root(), 1, 1, info("/"));
    assert!(world.answer(early).is_some(), "nothing is uncommitted");

    world.auto_commit = false;
    let before = world.ns.applied();
    let made = world.send(&root(), 1, 2, mkdirs("/a"));
    let read = world.send(&root(), 2, 1, info("/"));
    let failed = world.send(&root(), 2, 2, create("/a"));
    let again = world.send(&root(), 1, 2, mkdirs("/a"));
    let state = world.send(&root(), 3, 1, Request::GetServiceState);
    for ticket in [made, read, failed, again] {
        assert!(world.answer(ticket).is_none(), "ticket {ticket} left early");
    }
    assert!(world.answer(state).is_some(), "who is active is no secret");
    assert_eq!(world.journal.last().unwrap().0, world.ns.applied());
    world.ns.handle_committed(world.now, before);
    world.pump();
    assert!(world.answers.is_empty());

    world.ns.handle_committed(world.now, before.next());
    world.pump();
    let made = world.answer(made).unwrap().unwrap();
    assert_eq!(made.txid, before.next());
    assert_eq!(world.answer(read).unwrap().unwrap().txid, before.next());
    let fault = world.answer(failed).unwrap().unwrap_err();
    assert_eq!(fault.class, FaultClass::AlreadyExists);
    assert_eq!(world.answer(again).unwrap().unwrap(), made);
}

/// Over random loads and random commit points: whatever leaves has a txid that is committed, and every call
/// is answered once in the end.
#[test]
fn c01_random_loads_never_overtake_the_journal() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        world.auto_commit = false;
        let mut sent = 0;
        let mut answered = 0;
        for call in 1..600 {
            let request = if rng.chance(40) {
                info("/a/b")
            } else {
                some_call(&mut rng)
            };
            world.send(&root(), 1 + u128::from(rng.below(3)), call, request);
            sent += 1;
            if rng.chance(20) {
                let (committed, applied) = (world.ns.committed().0, world.ns.applied().0);
                let to = committed + rng.below(applied - committed + 1);
                world.ns.handle_committed(world.now, TxId(to));
                world.pump();
            }
            for (_, answer) in core::mem::take(&mut world.answers) {
                answered += 1;
                if let Answer::Client(Ok(reply)) = answer {
                    assert!(reply.txid <= world.ns.committed());
                }
            }
            assert_eq!(world.ns.parked(), sent - answered);
        }
        world.ns.handle_committed(world.now, world.ns.applied());
        world.pump();
        assert_eq!(answered + world.answers.len(), sent);
    }
}

/// B-11: no sync is waited for inside the namesystem. While the journal takes its time with one batch, further changes
/// are made and leave as edits, in their order, and what does not depend on them is answered; one sync then answers
/// all that it covers.
#[test]
fn b11_changes_go_on_while_the_journal_syncs() {
    let mut world = World::new();
    world.mkdirs("/before");
    world.auto_commit = false;
    let (before, edits) = (world.ns.applied(), world.journal.len());
    let tickets: Vec<u64> = (0..100)
        .map(|n| {
            let ticket = world.send(&root(), 5, n, mkdirs(&format!("/{n}")));
            assert_eq!(world.journal.len(), edits + n as usize + 1, "its edit left");
            ticket
        })
        .collect();
    assert_eq!(world.ns.applied().0, before.0 + 100);
    assert!(world.answers.is_empty());
    let state = world.send(&root(), 6, 1, Request::GetServiceState);
    assert!(world.answer(state).is_some());
    let half = TxId(before.0 + 50);
    world.ns.handle_committed(world.now, half);
    world.pump();
    let answered = tickets
        .iter()
        .filter(|ticket| world.answers.contains_key(ticket));
    assert_eq!(answered.count(), 50);
    world.ns.handle_committed(world.now, world.ns.applied());
    world.pump();
    for ticket in tickets {
        assert!(world.answer(ticket).unwrap().is_ok());
    }
}

/// B-11: edits made between two polls are one batch, so one sync pays for all of them.
#[test]
fn edits_of_a_burst_are_one_batch() {
    let mut world = World::new();
    let first = world.ns.applied().next();
    for call in 0..50 {
        let request = hadal_proto::client::ClientCall {
            client: hadal_types::ClientId(9),
            call: hadal_types::CallId(call),
            seen: TxId(0),
            from_standby: false,
            request: mkdirs(&format!("/{call}")),
        };
        world
            .ns
            .handle_client(world.now, 5, &root(), 1_000 + call, request);
    }
    let Some(hadal_namesystem::Output::Edits { first: at, records }) = world.ns.poll_output()
    else {
        panic!("edits come first");
    };
    assert_eq!((at, records.len()), (first, 50));
    assert_eq!(world.ns.poll_output(), None);
}

/// protocols.md section 0: leaving the active role with uncommitted edits fails the parked calls and drops the
/// state; without, the state stays good.
#[test]
fn stepping_down_fails_parked_calls_and_says_whether_to_reload() {
    let mut world = World::new();
    world.mkdirs("/a");
    assert!(!world.ns.become_standby(world.now), "all is committed");
    assert_eq!(world.ns.state(), HaState::Standby);
    let mut world = World::standby(world.ns);
    world.activate(2);

    world.auto_commit = false;
    let ticket = world.send(&root(), 8, 1, mkdirs("/b"));
    assert!(world.ns.become_standby(world.now));
    world.pump();
    let fault = world.answer(ticket).unwrap().unwrap_err();
    assert_eq!(fault.class, FaultClass::Retry);
    assert!(fault.is_retriable());
    assert!(world.events.contains(&Event::RepliesFailed { count: 1 }));
    // What may differ from the journal is not served.
    let ticket = world.send(&root(), 1, 2, info("/b"));
    let fault = world.answer(ticket).unwrap().unwrap_err();
    assert_eq!(fault.class, FaultClass::Retry);
}

/// T-H21: a standby answers at once and names the active.
#[test]
fn a_standby_sends_clients_to_the_active() {
    let mut world = World::standby(crate::support::fresh(crate::support::config()));
    world.ns.set_active_hint("nn2");
    for request in [mkdirs("/a"), info("/")] {
        let fault = world.call(request).unwrap_err();
        assert_eq!((fault.class, &fault.hint[..]), (FaultClass::Standby, "nn2"));
    }
    assert_eq!(
        world.call(Request::GetServiceState),
        Ok(Response::ServiceState {
            state: HaState::Standby,
            active: "nn2".into()
        })
    );
}

/// The parked queue is bounded; beyond, callers are told to come back and nothing is applied.
#[test]
fn the_parked_queue_is_bounded() {
    let mut config = crate::support::config();
    config.parked_max = 10;
    let mut world = World::with(config);
    world.auto_commit = false;
    for call in 0..10 {
        world.send(&root(), 1, call, mkdirs(&format!("/{call}")));
    }
    let before = world.ns.applied();
    let ticket = world.send(&root(), 1, 99, mkdirs("/more"));
    let fault = world.answer(ticket).unwrap().unwrap_err();
    assert_eq!(fault.class, FaultClass::Busy);
    assert!(fault.value > 0);
    assert_eq!(world.ns.applied(), before);
    world.ns.handle_committed(world.now, before);
    world.pump();
    assert_eq!(world.answers.len(), 10);
}

/// F-03: safe mode refuses changes, allows reads, and does not hide outcomes of calls that ran.
#[test]
fn f03_safe_mode_refuses_changes() {
    let mut world = World::new();
    let ran = world.send(&root(), 5, 1, mkdirs("/a"));
    let first = world.answer(ran).unwrap().unwrap();
    let safe_mode = |world: &mut World, action| {
        let request = admin::Request::SafeMode { action };
        world.ns.handle_admin(world.now, 0, 70, request);
        world.pump();
        match world.answers.remove(&70) {
            Some(Answer::Admin(Ok(admin::Response::SafeMode { on, .. }))) => on,
            other => panic!("{other:?}"),
        }
    };
    assert!(safe_mode(&mut world, admin::SafeModeAction::Enter));
    for request in [
        mkdirs("/b"),
        delete("/a", true),
        Request::RecoverLease { path: "/a".into() },
    ] {
        assert_eq!(world.fails(request).0, FaultClass::SafeMode);
    }
    assert!(world.stat("/a").is_some());
    let retried = world.send(&root(), 5, 1, mkdirs("/a"));
    assert_eq!(world.answer(retried).unwrap().unwrap(), first);
    assert!(!safe_mode(&mut world, admin::SafeModeAction::Leave));
    world.mkdirs("/b");
}

/// rollEdits ends the segment with an edit of its own and starts the next.
#[test]
fn rolling_edits_marks_the_border() {
    use hadal_proto::edit::EditOp;
    let mut world = World::new();
    world.mkdirs("/a");
    let end = world.ns.applied().next();
    world
        .ns
        .handle_admin(world.now, 9, 77, admin::Request::RollEdits);
    world.pump();
    assert_eq!(world.rolls, [end.next()]);
    assert_eq!(
        world.answers.remove(&77),
        Some(Answer::Admin(Ok(admin::Response::AtTxid {
            txid: end.next()
        })))
    );
    let ops: Vec<_> = world.journal.iter().map(|(_, edit)| &edit.op).collect();
    assert_eq!(ops[0], &EditOp::StartSegment);
    assert_eq!(
        ops[ops.len() - 2..],
        [&EditOp::EndSegment, &EditOp::StartSegment]
    );
}
