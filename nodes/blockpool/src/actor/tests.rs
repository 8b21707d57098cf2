//! One conversation, call by call.

use super::*;
use hadal_types::{BlockId, GenerationStamp};

fn actor() -> Actor {
    Actor::new(
        ActorConfig::default(),
        [StorageUuid(1), StorageUuid(2)].into(),
        42,
    )
}

fn registered() -> Actor {
    let mut actor = actor();
    assert_eq!(
        actor.poll_output(Tick(0)),
        Some(ActorOutput::SendVersionRequest)
    );
    assert_eq!(actor.poll_output(Tick(0)), None);
    actor.handle_version(Tick(0));
    assert_eq!(actor.poll_output(Tick(0)), Some(ActorOutput::SendRegister));
    actor.handle_registered(Tick(0));
    actor
}

fn received(id: u64) -> ReplicaChange {
    ReplicaChange {
        storage: StorageUuid(1),
        block: Block {
            id: BlockId(id),
            generation_stamp: GenerationStamp(1),
            length: 1,
        },
        kind: ChangeKind::Received,
        delete_hint: DatanodeUuid(0),
    }
}

#[test]
fn handshake_is_tried_for_ever_a07_a12_a43_q37() {
    let mut actor = actor();
    let mut now = Tick(0);
    for _ in 0..100 {
        assert_eq!(
            actor.poll_output(now),
            Some(ActorOutput::SendVersionRequest)
        );
        actor.handle_version_failed(now);
        assert_eq!(actor.poll_output(now), None);
        // Every 5 s, give or take a quarter (decision 4).
        let next = actor.poll_timeout().unwrap();
        assert!((3_750..6_250).contains(&next.ms_since(now)), "{next:?}");
        now = next;
    }
    actor.handle_version(now);
    assert_eq!(actor.poll_output(now), Some(ActorOutput::SendRegister));
    actor.handle_register_failed(now);
    assert_eq!(actor.poll_timeout(), Some(now.after_ms(1000)));
}

/// whatever happens, a registration is asked for only after version and identity were accepted, and nothing
/// else is sent before the registration.
#[test]
fn nothing_is_registered_before_phase_1_a11() {
    for seed in 0..200 {
        let mut actor = Actor::new(ActorConfig::default(), [StorageUuid(1)].into(), seed);
        let (mut now, mut accepted) = (Tick(0), false);
        for _ in 0..100 {
            now = now.after_ms(1 + actor.draw() % 3_000);
            match actor.draw() % 7 {
                0 => actor.handle_disconnected(now),
                1 => actor.push_change(now, received(1)),
                2 => actor.push_bad(bad(1)),
                3 => actor.report_now(now),
                4 => actor.handle_register_command(now),
                _ => {}
            }
            let before = actor.phase.clone();
            if !matches!(before, Phase::Register { .. }) {
                accepted = false;
            }
            match actor.poll_output(now) {
                Some(ActorOutput::SendVersionRequest) if actor.draw().is_multiple_of(2) => {
                    actor.handle_version(now);
                    accepted = true;
                }
                Some(ActorOutput::SendVersionRequest) => actor.handle_version_failed(now),
                Some(ActorOutput::SendRegister) => {
                    assert!(accepted, "seed {seed}: {before:?}");
                    actor.handle_register_failed(now);
                }
                Some(other) => panic!("seed {seed}: {other:?} before it is registered"),
                None => {}
            }
        }
    }
}

/// with delay 0 the first full report goes out with the first heartbeat. A-33: until every storage's has
/// arrived the actor is not through the report step.
#[test]
fn each_storage_reports_once_after_registration_with_a_slot_a28_a33_q2() {
    let mut actor = registered();
    let now = Tick(0);
    let mut reported = Vec::new();
    for _ in 0..2 {
        assert!(!actor.has_reported());
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
            panic!("a heartbeat is due");
        };
        assert!(!wants_report.is_empty());
        assert_eq!(actor.poll_output(now), None, "no report without a slot");
        actor.handle_heartbeat(Some(wants_report[0]));
        let Some(ActorOutput::SendDigest { storage, .. }) = actor.poll_output(now) else {
            panic!("the slot is used");
        };
        actor.handle_digest(now, storage, None);
        reported.push(storage);
    }
    assert_eq!(reported, [StorageUuid(1), StorageUuid(2)]);
    assert!(actor.has_reported());
    let next = actor.poll_timeout().unwrap();
    let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(next) else {
        panic!("a heartbeat is due");
    };
    assert!(
        wants_report.is_empty(),
        "nothing owed before the next interval"
    );
}

#[test]
fn digests_travel_behind_every_change_and_answer_what_is_asked() {
    let mut actor = registered();
    actor.poll_output(Tick(0));
    let first = StorageUuid(1);
    actor.push_change(
        Tick(0),
        ReplicaChange {
            kind: ChangeKind::Deleted,
            ..received(7)
        },
    );
    assert_eq!(actor.poll_output(Tick(0)), None, "a deletion can wait");
    actor.handle_heartbeat(Some(first));
    let sent = actor.poll_output(Tick(0));
    assert!(matches!(
        sent,
        Some(ActorOutput::SendIncremental { sequence: 1, .. })
    ));
    let digest = |report_id, includes, ask| {
        Some(ActorOutput::SendDigest {
            storage: first,
            report_id,
            includes,
            ask,
        })
    };
    assert_eq!(actor.poll_output(Tick(0)), digest(1, 1, None));
    assert_eq!(actor.poll_output(Tick(0)), None, "one report at a time");
    // What was sent is not acknowledged, and more changed: the next round waits for both.
    actor.push_change(Tick(1), received(8));
    actor.handle_digest(Tick(1), first, Some(DigestAsk::Nodes));
    assert_eq!(actor.poll_output(Tick(1)), None);
    actor.handle_incremental(1);
    assert!(matches!(
        actor.poll_output(Tick(1)),
        Some(ActorOutput::SendIncremental { sequence: 2, .. })
    ));
    assert_eq!(
        actor.poll_output(Tick(1)),
        digest(1, 2, Some(DigestAsk::Nodes))
    );
    actor.handle_digest(Tick(1), first, Some(DigestAsk::Full));
    assert_eq!(
        actor.poll_output(Tick(1)),
        Some(ActorOutput::SendReport {
            storage: first,
            report_id: 2,
            includes: 2
        }),
        "in the same slot"
    );
    actor.handle_report_done(Tick(1), first);
    assert_eq!(actor.owed_reports.len(), 1);
    // An answer of a conversation that is over asks for nothing.
    actor.handle_disconnected(Tick(2));
    actor.handle_digest(Tick(2), first, Some(DigestAsk::Nodes));
    assert!(!actor.has_report());
}

#[test]
fn a_full_report_that_is_asked_for_is_one() {
    let mut actor = registered();
    actor.full_report_now(Tick(0));
    for full in [true, true, false] {
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(Tick(0)) else {
            panic!("a heartbeat is due");
        };
        actor.handle_heartbeat(Some(wants_report[0]));
        match actor.poll_output(Tick(0)) {
            Some(ActorOutput::SendReport { storage, .. }) if full => {
                actor.handle_report_done(Tick(0), storage);
            }
            Some(ActorOutput::SendDigest { .. }) if !full => return,
            other => panic!("{other:?}"),
        }
        if actor.owed_reports.is_empty() {
            actor.report_now(Tick(0));
        }
    }
}

#[test]
fn a_refused_report_stays_owed_q3_q4() {
    let mut actor = registered();
    actor.poll_output(Tick(0));
    actor.handle_heartbeat(Some(StorageUuid(1)));
    assert!(matches!(
        actor.poll_output(Tick(0)),
        Some(ActorOutput::SendDigest { .. })
    ));
    actor.handle_report_failed(
        Tick(0),
        Some(&Fault::new(FaultClass::Busy, "later").with_value(500)),
    );
    assert_eq!(actor.poll_output(Tick(0)), None, "paused");
    let later = actor.poll_timeout().unwrap();
    let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(later) else {
        panic!("asks again");
    };
    assert!(wants_report.contains(&StorageUuid(1)));
}

/// between events the actor sleeps until its next heartbeat; a change of a replica wakes it.
#[test]
fn a_received_block_wakes_the_actor_a18_a35() {
    let mut actor = registered();
    actor.poll_output(Tick(0));
    actor.handle_heartbeat(None);
    // It sleeps until the next heartbeat.
    assert_eq!(actor.poll_timeout(), Some(Tick::from_ms(3_000)));
    assert_eq!(actor.poll_output(Tick(5)), None);
    actor.push_change(Tick(5), received(1));
    assert_eq!(actor.poll_timeout(), Some(Tick(0)));
    let Some(ActorOutput::SendIncremental { sequence, changes }) = actor.poll_output(Tick(5))
    else {
        panic!("sent at once");
    };
    assert_eq!(changes, [received(1)]);
    actor.push_change(Tick(6), received(2));
    assert_eq!(actor.poll_output(Tick(6)), None, "one batch in flight");
    actor.handle_incremental(sequence);
    assert!(matches!(
        actor.poll_output(Tick(6)),
        Some(ActorOutput::SendIncremental { .. })
    ));
}

/// a deletion waits for its interval, or rides with what goes out before.
#[test]
fn deletions_wait_or_ride_along_a35() {
    let deleted = |id| ReplicaChange {
        kind: ChangeKind::Deleted,
        ..received(id)
    };
    let sent = |changes: &[ReplicaChange], sequence| {
        let changes = changes.to_vec();
        Some(ActorOutput::SendIncremental { sequence, changes })
    };
    let mut actor = registered();
    actor.push_change(Tick::from_ms(10), deleted(1));
    actor.push_change(Tick::from_ms(20), deleted(2));
    let due = Tick::from_ms(10).after_ms(actor.config.delete_report_interval_ms);
    assert_eq!(notice(&mut actor, Tick(due.0 - 1)), None);
    assert_eq!(notice(&mut actor, due), sent(&[deleted(1), deleted(2)], 1));
    actor.handle_incremental(1);
    actor.push_change(due, deleted(3));
    assert_eq!(notice(&mut actor, due), None);
    actor.push_change(due, received(4));
    assert_eq!(notice(&mut actor, due), sent(&[deleted(3), received(4)], 2));
}

#[test]
fn a_lost_connection_keeps_what_was_not_acknowledged_a36() {
    let mut actor = registered();
    actor.push_change(Tick(1), received(1));
    assert!(matches!(
        actor.poll_output(Tick(1)),
        Some(ActorOutput::SendIncremental { .. })
    ));
    actor.handle_disconnected(Tick(2));
    let Some(ActorOutput::SendIncremental { changes, .. }) = actor.poll_output(Tick(2)) else {
        panic!("sent again");
    };
    assert_eq!(changes, [received(1)]);
}

#[test]
fn re_registration_drops_pending_changes_and_owes_full_reports_a13_t_d8() {
    let mut actor = registered();
    actor.push_change(Tick(1), received(1));
    actor.handle_fault(
        Tick(1),
        &Fault::new(FaultClass::UnregisteredNode, "who are you"),
    );
    assert!(!actor.is_registered());
    assert_eq!(
        actor.poll_output(Tick(1)),
        Some(ActorOutput::SendVersionRequest)
    );
    actor.handle_version(Tick(1));
    actor.poll_output(Tick(1));
    actor.handle_registered(Tick(1));
    assert!(actor.pending().is_empty());
    let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(Tick(1)) else {
        panic!("a heartbeat at once");
    };
    assert_eq!(wants_report.len(), 2);
}

#[test]
fn a_registration_that_is_answered_with_a_fault_is_made_again_a12() {
    for class in [FaultClass::Retry, FaultClass::Busy, FaultClass::Standby] {
        let mut actor = actor();
        actor.poll_output(Tick(0));
        actor.handle_version(Tick(0));
        assert_eq!(actor.poll_output(Tick(0)), Some(ActorOutput::SendRegister));
        actor.handle_fault(Tick(0), &Fault::new(class, "not now").with_value(500));
        let again = actor.poll_timeout().unwrap();
        assert!(again <= Tick::from_ms(10_000), "{class:?}");
        assert_eq!(actor.poll_output(again), Some(ActorOutput::SendRegister));
    }
}

#[test]
fn a_refusal_ends_the_actor_for_good_a05_a08_a42() {
    for class in [
        FaultClass::IncorrectVersion,
        FaultClass::IdentityMismatch,
        FaultClass::Forbidden,
    ] {
        let mut actor = registered();
        actor.push_change(Tick(0), received(1));
        assert_eq!(actor.refusal(), None);
        actor.handle_fault(Tick(0), &Fault::new(class, "other cluster"));
        assert_eq!(actor.refusal(), Some("other cluster"));
        actor.handle_disconnected(Tick(1));
        actor.heartbeat_now(Tick(1));
        assert_eq!(actor.poll_output(Tick::from_ms(1 << 40)), None);
        assert_eq!(actor.poll_timeout(), None);
    }
}

fn bad(id: u64) -> BadReplica {
    BadReplica {
        block: received(id).block,
        datanode: DatanodeUuid(1),
        storage: StorageUuid(1),
    }
}

/// The next output that is no heartbeat.
fn notice(actor: &mut Actor, now: Tick) -> Option<ActorOutput> {
    loop {
        match actor.poll_output(now) {
            Some(ActorOutput::SendHeartbeat { .. }) => actor.handle_heartbeat(None),
            other => return other,
        }
    }
}

#[test]
fn bad_blocks_that_were_lost_are_told_again_and_refused_ones_are_not_a39_a40_t_d7() {
    let mut actor = registered();
    actor.push_bad(bad(1));
    actor.push_bad(bad(1));
    let told = |blocks: &[u64]| {
        let blocks = blocks.iter().map(|id| bad(*id)).collect();
        Some(ActorOutput::SendBadBlocks { blocks })
    };
    let mut now = Tick(1);
    assert_eq!(notice(&mut actor, now), told(&[1]));
    actor.push_bad(bad(2));
    assert_eq!(notice(&mut actor, now), None, "one report at a time");
    actor.handle_bad_blocks(now, Some(&Failure::Lost));
    assert_eq!(notice(&mut actor, now), None, "not at once");
    now = now.after_ms(1_000);
    assert_eq!(notice(&mut actor, now), told(&[2, 1]));
    let standby = Fault::new(FaultClass::Standby, "not active");
    actor.handle_bad_blocks(now, Some(&Failure::Fault(&standby)));
    now = now.after_ms(10_000);
    assert_eq!(notice(&mut actor, now), None);
    actor.push_bad(bad(3));
    assert_eq!(notice(&mut actor, now), told(&[3]));
    let retry = Fault::new(FaultClass::Retry, "starting");
    actor.handle_bad_blocks(now, Some(&Failure::Fault(&retry)));
    now = now.after_ms(1_000);
    assert_eq!(notice(&mut actor, now), told(&[3]));
    actor.handle_disconnected(now);
    assert_eq!(notice(&mut actor, now), told(&[3]));
    actor.handle_bad_blocks(now, None);
    assert_eq!(notice(&mut actor, now), None);
}

#[test]
fn error_reports_are_told_until_answered_a41_t_d7() {
    let mut actor = registered();
    actor.push_error(3, "volume /a failed".into());
    let told = Some(ActorOutput::SendErrorReport {
        code: 3,
        message: "volume /a failed".into(),
    });
    assert!(actor.has_last_words(Tick(1)));
    assert_eq!(notice(&mut actor, Tick(1)), told);
    actor.handle_error_report(Tick(1), Some(&Failure::Lost));
    let later = Tick(1).after_ms(1_000);
    assert_eq!(notice(&mut actor, later), told);
    actor.handle_error_report(later, None);
    assert_eq!(notice(&mut actor, later), None);
    assert!(!actor.has_last_words(later));
}

#[test]
fn a_failed_copy_is_told_after_the_bad_replica_that_may_be_why() {
    let mut actor = registered();
    let block = received(1).block;
    actor.push_failed_copy(block, DatanodeUuid(0));
    actor.push_bad(bad(1));
    let now = Tick(1);
    assert!(matches!(
        notice(&mut actor, now),
        Some(ActorOutput::SendBadBlocks { .. })
    ));
    assert_eq!(notice(&mut actor, now), None);
    actor.handle_bad_blocks(now, None);
    assert_eq!(
        notice(&mut actor, now),
        Some(ActorOutput::SendTransferFailed {
            block,
            target: DatanodeUuid(0)
        })
    );
}

#[test]
fn a_report_is_scheduled_anew_for_every_storage_a32() {
    let mut actor = registered();
    let now = Tick(0);
    for _ in 0..2 {
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
            panic!("a heartbeat is due");
        };
        actor.handle_heartbeat(Some(wants_report[0]));
        let Some(ActorOutput::SendDigest { storage, .. }) = actor.poll_output(now) else {
            panic!("the slot is used");
        };
        actor.handle_digest(now, storage, None);
    }
    actor.poll_output(now);
    actor.handle_heartbeat(None);
    let now = Tick::from_ms(10);
    actor.report_now(now);
    let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
        panic!("at once");
    };
    assert_eq!(wants_report, [StorageUuid(1), StorageUuid(2)]);
    // A storage whose volume failed owes nothing any more.
    actor.set_storages([StorageUuid(2)].into());
    actor.handle_heartbeat(Some(StorageUuid(1)));
    assert_eq!(
        actor.poll_output(now),
        None,
        "no report of a failed storage"
    );
    actor.heartbeat_now(now);
    let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
        panic!("a heartbeat is due");
    };
    assert_eq!(wants_report, [StorageUuid(2)]);
}
