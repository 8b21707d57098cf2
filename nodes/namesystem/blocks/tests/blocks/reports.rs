//! Full and incremental reports: order, queues, what they mean (F-01, F-02, Q1..Q6).

use crate::world::{EPOCH, World, block, class, config};
use bytes::Bytes;
use hadal_blocks::{BlockConfig, BlockEvent};
use hadal_proto::FaultClass;
use hadal_proto::datanode::{
    Action, ChangeKind, IncrementalReport, ReportEntries, Request, Response,
};
use hadal_types::{Block, Epoch, HaState};

const RACK: &str = "/default-rack";

fn standby(dns: usize) -> World {
    let mut w = World::new(config(), &vec![RACK; dns]);
    w.m.become_standby(w.now, HaState::Standby);
    w.applied();
    w.m.start(w.now);
    for dn in 0..dns {
        w.register(dn);
        w.report(dn, &[]);
    }
    w
}

#[test]
fn a_report_adds_what_is_new_and_removes_what_is_missing() {
    let mut w = World::active(config(), &[RACK]);
    let blocks: Vec<Block> = (0..3000).map(|n| w.create(1, n)).collect();
    w.report(0, &blocks);
    assert!(blocks.iter().all(|b| w.live(b.id) == 1));
    let kept: Vec<Block> = blocks.iter().copied().filter(|b| b.id.0 % 3 > 0).collect();
    while w.m.poll_event().is_some() {}
    w.report(0, &kept);
    for b in &blocks {
        assert_eq!(w.live(b.id), u16::from(b.id.0 % 3 > 0), "{b}");
    }
    assert_eq!(w.safe(), (2000, 3000));
    let event = std::iter::from_fn(|| w.m.poll_event()).last().unwrap();
    assert_eq!(
        event,
        BlockEvent::Reported {
            name: "dn0".into(),
            replicas: 2000,
            added: 0,
            removed: 1000,
            unknown: 0
        }
    );
}

#[test]
fn a_report_in_parts_says_the_same_wherever_it_is_cut() {
    for seed in 0..40u64 {
        let mut w = World::active(config(), &[RACK, RACK]);
        let blocks: Vec<Block> = (0..400).map(|n| w.create(2, n)).collect();
        w.report(0, &blocks[100..300]);
        w.report(1, &blocks);
        let packed = World::packed(&blocks[..200]);
        let mut cuts: Vec<usize> = (0..seed % 6)
            .map(|cut| ((seed * 7919 + cut * 104_729) % 200) as usize)
            .collect();
        cuts.extend([0, 200]);
        cuts.sort_unstable();
        let parts = cuts.len() as u32 - 1;
        for (part, cut) in cuts.windows(2).enumerate() {
            let slice = packed.slice(cut[0] * 24..cut[1] * 24);
            let request = w.part(0, part as u32, parts, slice);
            w.call(0, request.clone()).unwrap();
            if part == 1 {
                w.call(0, request).unwrap();
            }
        }
        for (at, b) in blocks.iter().enumerate() {
            assert_eq!(w.live(b.id), 1 + u16::from(at < 200), "seed {seed} {b}");
        }
        assert_eq!(w.m.stats().under_replicated, 200);
    }
}

#[test]
fn malformed_reports_are_refused_and_leave_the_slot() {
    let mut w = World::active(config(), &[RACK]);
    let blocks: Vec<Block> = (0..50).map(|n| w.create(1, n)).collect();
    let mut reversed = Vec::new();
    let packed = World::packed(&blocks);
    for entry in packed.chunks_exact(24).rev() {
        reversed.extend_from_slice(entry);
    }
    let mut twice = packed[..24].to_vec();
    twice.extend_from_slice(&packed[..24]);
    for bad in [reversed, twice, packed[..23].to_vec()] {
        let part = w.part(0, 0, 1, bad.into());
        assert_eq!(class(w.call(0, part)), FaultClass::BadRequest);
    }
    let part = w.part(0, 0, 0, Bytes::new());
    assert_eq!(class(w.call(0, part)), FaultClass::BadRequest);
    let part = w.part(0, 3, 4, Bytes::new());
    assert_eq!(class(w.call(0, part)), FaultClass::Retry);
    w.report(0, &blocks);
    assert_eq!(w.safe().0, 50);
}

/// T-D14: complaints Q3 and Q4.
#[test]
fn t_q3_q4_refusal_is_explicit_and_a_slot_comes_by_heartbeat() {
    let one = BlockConfig {
        report_slots: 1,
        ..config()
    };
    let mut w = World::active(one, &[RACK, RACK]);
    let storage = w.dns[0].storages[0];
    w.dns[0].wants = vec![storage];
    let slot = |w: &mut World, dn| match w.heartbeat_response(dn) {
        Response::Heartbeat { report_slot, .. } => report_slot,
        other => panic!("{other:?}"),
    };
    assert_eq!(slot(&mut w, 0), Some(storage));
    w.dns[1].wants = w.dns[1].storages.clone();
    assert_eq!(slot(&mut w, 1), None);
    let part = w.part(1, 0, 1, Bytes::new());
    let fault = w.call(1, part).unwrap_err();
    assert_eq!((fault.class, fault.value), (FaultClass::Busy, 3_000));
    w.report(0, &[]);
    assert_eq!(slot(&mut w, 1), Some(w.dns[1].storages[0]));
    w.report(1, &[]);
    // A slot that is not used comes back.
    assert_eq!(slot(&mut w, 0), Some(storage));
    w.advance(300_000);
    assert_eq!(slot(&mut w, 1), Some(w.dns[1].storages[0]));
}

#[test]
fn t_d13_a_report_under_way_is_not_hurt_by_its_slot_ending() {
    let one = BlockConfig {
        report_slots: 1,
        ..config()
    };
    let mut w = World::active(one, &[RACK, RACK]);
    let b = w.create(1, 1);
    let packed = World::packed(&[b]);
    let part = w.part(0, 0, 2, Bytes::new());
    w.call(0, part).unwrap();
    w.advance(300_000);
    w.heartbeat(0);
    w.report(1, &[]);
    let part = w.part(0, 1, 2, packed);
    w.call(0, part).unwrap();
    assert_eq!(w.live(b.id), 1);
}

#[test]
fn q1_the_same_report_is_processed_once_q2_a_failed_one_in_full() {
    let mut w = World::active(config(), &[RACK]);
    let blocks: Vec<Block> = (0..100).map(|n| w.create(1, n)).collect();
    let packed = World::packed(&blocks);
    let whole = w.part(0, 0, 1, packed.clone());
    w.call(0, whole.clone()).unwrap();
    w.deleted(0, blocks[3]);
    w.call(0, whole).unwrap();
    assert_eq!(
        w.live(blocks[3].id),
        0,
        "an old copy of the call changes nothing"
    );
    // Q2: the first part arrives, the rest is lost, the DataNode starts over.
    w.register(0);
    assert_eq!(w.m.stats().unreported_storages, 1);
    let part = w.part(0, 0, 2, packed.slice(..50 * 24));
    w.call(0, part).unwrap();
    assert_eq!(w.m.stats().unreported_storages, 1);
    w.report(0, &blocks);
    assert_eq!(w.m.stats().unreported_storages, 0);
    assert_eq!(w.safe(), (100, 100));
}

#[test]
fn incremental_reports_are_acknowledged_once_and_in_order() {
    let mut w = World::active(config(), &[RACK]);
    let (a, b) = (w.create(1, 1), w.create(1, 2));
    w.received(0, a);
    let send = |w: &mut World, sequence, kind, block| {
        let changes = vec![w.change(0, kind, block)];
        let report = IncrementalReport {
            uuid: w.dns[0].uuid,
            sequence,
            changes,
        };
        match w.call(0, Request::IncrementalReport { report }).unwrap() {
            Response::Reported {
                sequence, commands, ..
            } => (sequence, commands.into_iter().map(|c| c.action).collect()),
            other => panic!("{other:?}"),
        }
    };
    let nothing: Vec<Action> = vec![];
    assert_eq!(
        send(&mut w, 1, ChangeKind::Deleted, a),
        (1, nothing.clone())
    );
    assert_eq!(w.live(a.id), 1, "a repeated one is not applied");
    assert_eq!(
        send(&mut w, 3, ChangeKind::Received, b),
        (1, vec![Action::Register])
    );
    assert_eq!(w.live(b.id), 0, "after a gap it is not either");
    assert_eq!(send(&mut w, 2, ChangeKind::Received, b), (2, nothing));
    assert_eq!(w.live(b.id), 1);
}

#[test]
fn a_report_does_not_undo_changes_that_are_newer_than_it() {
    let mut w = World::active(config(), &[RACK]);
    let blocks: Vec<Block> = (0..60).map(|n| w.create(1, n)).collect();
    w.report(0, &blocks[..40]);
    w.dns[0].wants = w.dns[0].storages.clone();
    w.heartbeat(0);
    // Made now; meanwhile one replica goes and one comes.
    let packed = World::packed(&blocks[..40]);
    let first = w.part(0, 0, 2, packed.slice(..20 * 24));
    w.deleted(0, blocks[5]);
    w.received(0, blocks[50]);
    w.call(0, first).unwrap();
    let mut second = w.part(0, 1, 2, packed.slice(20 * 24..));
    if let Request::BlockReport { report } = &mut second {
        report.includes = 0;
    }
    w.deleted(0, blocks[6]);
    w.call(0, second).unwrap();
    for (at, b) in blocks.iter().enumerate() {
        let there = (at < 40 && at != 5 && at != 6) || at == 50;
        assert_eq!(w.live(b.id), u16::from(there), "{at}");
    }
    // Without a slot nobody remembered what came after it: make a new one.
    let old = w.part(0, 0, 1, packed);
    w.received(0, blocks[51]);
    assert_eq!(class(w.call(0, old)), FaultClass::Retry);
    assert_eq!(w.live(blocks[51].id), 1);
}

#[test]
fn unknown_replicas_are_deleted_by_an_active_only() {
    let stray = |w: &mut World| {
        let stray = w.create(1, 9);
        w.remove(&[stray.id]);
        stray
    };
    let mut w = World::active(config(), &[RACK, RACK]);
    let s = stray(&mut w);
    w.report(0, &[s]);
    w.received(1, s);
    assert_eq!((w.deletions(0), w.deletions(1)), (vec![s], vec![s]));
    // In safe mode they are not, but not forgotten either.
    let mut w = World::active(config(), &[RACK]);
    let s = stray(&mut w);
    w.m.enter_safe_mode(w.now);
    w.report(0, &[s]);
    assert_eq!(w.m.stats().pending_deletion, 0);
    w.m.leave_safe_mode(w.now);
    assert_eq!(w.execute(0), [Action::ReportNow]);
    w.report(0, &[s]);
    assert_eq!(w.deletions(0), [s]);
}

#[test]
fn f_01_an_active_neither_takes_nor_deletes_what_is_newer_than_any_edit() {
    let mut w = World::active(config(), &[RACK]);
    let known = w.create(1, 1);
    let ahead = [block(known.id.0 + 50, 5, 1), block(known.id.0, 99_999, 1)];
    w.report(0, &ahead[..1]);
    assert_eq!((w.m.stats().future, w.m.stats().pending_deletion), (1, 0));
    w.remove(&[known.id]);
    w.report(0, &ahead[1..]);
    assert_eq!((w.m.stats().future, w.m.stats().pending_deletion), (2, 0));
}

#[test]
fn t_d15_f_01_a_standby_queues_in_order_until_the_edit_comes() {
    let mut w = standby(2);
    let next = block(1, 1001, 0);
    let done = block(1, 1001, 70);
    w.change_now(0, ChangeKind::Receiving, next);
    w.received(0, done);
    w.change_now(1, ChangeKind::Receiving, next);
    assert_eq!(w.m.stats().queued_reports, 3);
    assert_eq!(w.m.stored(next.id), None);
    assert_eq!(w.allocate(2), next);
    assert_eq!(w.m.stats().queued_reports, 0);
    let txid = w.next_txid();
    w.m.completed(txid, done);
    assert_eq!(w.locations(next.id), ["dn0"]);
    w.received(1, done);
    assert_eq!(w.locations(next.id), ["dn0", "dn1"]);
    assert_eq!(w.m.stats().corrupt, 0);
}

#[test]
fn t_h8_t_h10_appends_seen_late_or_early_corrupt_nothing() {
    for promote in [false, true] {
        let mut w = standby(1);
        let b = w.create(1, 10);
        w.received(0, b);
        // The append happens at the active; its edits come last.
        let open = block(b.id.0, 2000, 10);
        let closed = block(b.id.0, 2000, 20);
        w.change_now(0, ChangeKind::Receiving, open);
        w.received(0, closed);
        w.report(0, &[closed]);
        assert_eq!(w.m.stats().corrupt, 0);
        assert_eq!(
            w.m.stats().queued_reports,
            2,
            "what the report says again waits once"
        );
        let txid = w.next_txid();
        w.m.reopened(txid, b);
        for _ in 0..1000 {
            w.new_stamp();
        }
        let txid = w.next_txid();
        w.m.updated(txid, open);
        let txid = w.next_txid();
        w.m.completed(txid, closed);
        if promote {
            w.m.become_active(w.now, EPOCH);
        }
        let stats = w.m.stats();
        assert_eq!(
            (stats.corrupt, stats.queued_reports, stats.missing),
            (0, 0, 0)
        );
        assert_eq!(w.locations(b.id), ["dn0"]);
        assert_eq!(w.safe(), (1, 1));
    }
}

#[test]
fn f_02_q6_content_stale_ends_with_a_report_made_for_this_active_only() {
    let mut w = World::active(config(), &[RACK]);
    w.m.become_active(w.now, Epoch(8));
    w.settle();
    assert_eq!(w.m.stats().content_stale_storages, 1);
    // Made while the DataNode still followed epoch 3.
    w.report(0, &[]);
    assert_eq!(w.m.stats().content_stale_storages, 1);
    // Begun before and ended after it followed.
    let part = w.part(0, 0, 2, Bytes::new());
    w.call(0, part).unwrap();
    w.dns[0].acknowledged = Epoch(8);
    let part = w.part(0, 1, 2, Bytes::new());
    w.call(0, part).unwrap();
    assert_eq!(w.m.stats().content_stale_storages, 1);
    // Q6: before its first heartbeat to this active.
    w.report(0, &[]);
    assert_eq!(w.m.stats().content_stale_storages, 0);
    // And without one it is asked for a report, once.
    w.m.become_active(w.now, Epoch(9));
    w.settle();
    assert_eq!(w.execute(0), []);
    w.dns[0].acknowledged = Epoch(9);
    w.dns[0].executed = 0;
    assert_eq!(w.execute(0), [Action::ReportNow]);
    assert_eq!(w.execute(0), []);
}

#[test]
fn t_d16_a_full_queue_of_early_reports_starts_the_datanode_over() {
    let few = BlockConfig {
        queued_reports_max: 10,
        ..config()
    };
    let mut w = World::new(few, &[RACK, RACK]);
    w.m.become_standby(w.now, HaState::Standby);
    w.applied();
    w.m.start(w.now);
    w.register(0);
    w.register(1);
    w.received(1, block(500, 1, 1));
    let changes = (1..=20).map(|id| w.change(0, ChangeKind::Received, block(id, 1, 1)));
    let changes = changes.collect();
    w.incremental(0, changes);
    assert!(w.m.stats().queued_reports <= 11);
    let actions: Vec<Action> = w.heartbeat(0).into_iter().map(|c| c.action).collect();
    assert_eq!(actions, [Action::Register]);
    assert_eq!(w.heartbeat(1), [], "the other keeps its place");
    w.register(0);
    assert_eq!(w.m.stats().queued_reports, 1);
    assert_eq!(w.heartbeat(0), []);
}

#[test]
fn a_delete_that_comes_before_the_edit_it_follows_stays_in_order() {
    let mut w = standby(1);
    let b = block(1, 1001, 5);
    w.received(0, b);
    w.deleted(0, b);
    assert_eq!(w.m.stats().queued_reports, 2);
    w.allocate(1);
    let txid = w.next_txid();
    w.m.completed(txid, b);
    assert_eq!(w.live(b.id), 0);
}

#[test]
fn random_reports_match_a_model() {
    // Whatever mixture of full and incremental reports arrives, the map is what the DataNodes have.
    let mut seed = 1u64;
    let mut random = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    for _ in 0..20 {
        let mut w = World::active(config(), &[RACK; 5]);
        let blocks: Vec<Block> = (0..300).map(|n| w.create(200, n)).collect();
        let mut has = vec![[false; 300]; 5];
        for _ in 0..200 {
            let (dn, at) = (random(5) as usize, random(300) as usize);
            match random(10) {
                0 => {
                    for held in &mut has[dn] {
                        *held = random(3) > 0;
                    }
                    let held: Vec<Block> = (0..300)
                        .filter(|at| has[dn][*at])
                        .map(|at| blocks[at])
                        .collect();
                    w.report(dn, &held);
                }
                1..=6 => {
                    has[dn][at] = true;
                    w.received(dn, blocks[at]);
                }
                _ => {
                    has[dn][at] = false;
                    w.deleted(dn, blocks[at]);
                }
            }
        }
        let mut safe = 0;
        for (at, b) in blocks.iter().enumerate() {
            let names: Vec<String> = (0..5)
                .filter(|dn| has[*dn][at])
                .map(|dn| format!("dn{dn}"))
                .collect();
            safe += u64::from(!names.is_empty());
            assert_eq!(w.locations(b.id), names);
        }
        assert_eq!(w.safe(), (safe, 300));
        assert_eq!(w.m.stats().missing, 300 - safe);
    }
}

#[test]
fn b_13_counts_of_first_reports_hold_after_promotion() {
    let mut w = standby(3);
    let blocks: Vec<Block> = (0..90).map(|n| w.create(2, n)).collect();
    w.report(0, &blocks[..60]);
    w.report(1, &blocks[30..60]);
    w.report(2, &blocks[55..60]);
    w.m.become_active(w.now, EPOCH);
    w.settle();
    let stats = w.m.stats();
    assert_eq!(
        (
            stats.safe,
            stats.missing,
            stats.under_replicated,
            stats.postponed
        ),
        (60, 30, 60, 5)
    );
    assert_eq!(w.m.under_replicated(100).len(), 60);
}

#[test]
fn packed_entries_are_what_the_protocol_says() {
    let mut packed = Vec::new();
    ReportEntries::push(&mut packed, &block(1, 2, 3));
    assert_eq!(World::packed(&[block(1, 2, 3)]), packed);
}
