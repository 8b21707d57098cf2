//! Safe mode and its totals (F-03, T-H17..T-H23, Q9).

use crate::world::{EPOCH, World, block, config};
use hadal_blocks::{BlockConfig, BlockEvent};
use hadal_proto::datanode::ChangeKind;
use hadal_types::{Block, BlockId, HaState, InodeId};

const RACK: &str = "/default-rack";

/// A standby restarted with `n` complete blocks in its image and one DataNode that has not reported.
fn restarted(n: u64) -> (World, Vec<Block>) {
    let mut w = World::new(BlockConfig::default(), &[RACK]);
    w.m.become_standby(w.now, HaState::Standby);
    let blocks: Vec<Block> = (1..=n).map(|_| w.create(1, 10)).collect();
    w.m.start(w.now);
    w.register(0);
    w.heartbeat(0);
    (w, blocks)
}

#[test]
fn t_h17_a_b_added_blocks_count_with_their_reports_in_either_order() {
    let (mut w, mut blocks) = restarted(3);
    w.report(0, &blocks);
    assert_eq!(w.safe(), (3, 3));
    for _ in 0..5 {
        let new = w.allocate(1);
        let done = block(new.id.0, new.generation_stamp.0, 10);
        if blocks.len().is_multiple_of(2) {
            w.received(0, done);
            assert_eq!(w.safe().1, blocks.len() as u64);
        }
        let txid = w.next_txid();
        w.m.completed(txid, done);
        if !blocks.len().is_multiple_of(2) {
            w.received(0, done);
        }
        blocks.push(done);
    }
    assert_eq!(w.safe(), (8, 8));
}

#[test]
fn t_h17_c_d_e_deleted_blocks_leave_the_totals_never_below_zero() {
    // c: deleted before anything was reported.
    let (mut w, blocks) = restarted(5);
    assert_eq!(w.safe(), (0, 5));
    let ids: Vec<BlockId> = blocks.iter().map(|b| b.id).collect();
    w.remove(&ids);
    assert_eq!(w.safe(), (0, 0));
    w.report(0, &blocks);
    assert_eq!(w.safe(), (0, 0));
    // d, e: reported, the edits, then the deletion reports.
    let (mut w, blocks) = restarted(10);
    w.report(0, &blocks);
    assert_eq!(w.safe(), (10, 10));
    let ids: Vec<BlockId> = blocks.iter().map(|b| b.id).collect();
    w.remove(&ids);
    for b in &blocks {
        w.deleted(0, *b);
    }
    assert_eq!(w.safe(), (0, 0));
    // The other way round.
    let (mut w, blocks) = restarted(2);
    w.report(0, &blocks);
    w.deleted(0, blocks[0]);
    assert_eq!(w.safe(), (1, 2));
    w.remove(&[blocks[0].id]);
    assert_eq!(w.safe(), (1, 1));
}

#[test]
fn t_h17_f_g_open_blocks_are_not_counted() {
    let (mut w, blocks) = restarted(5);
    w.report(0, &blocks);
    let txid = w.next_txid();
    w.m.reopened(txid, blocks[4]);
    assert_eq!(w.safe(), (4, 4));
    let stamp = w.new_stamp();
    let appended = block(blocks[4].id.0, stamp, 15);
    let txid = w.next_txid();
    w.m.updated(txid, appended);
    w.received(0, appended);
    assert_eq!(w.safe(), (4, 4), "still open");
    let txid = w.next_txid();
    w.m.completed(txid, appended);
    assert_eq!(w.safe(), (5, 5));
    let open = w.allocate(1);
    w.change_now(0, ChangeKind::Receiving, open);
    assert_eq!(w.safe(), (5, 5));
}

#[test]
fn e_15_the_image_gives_complete_blocks_and_open_last_ones() {
    let mut w = World::new(config(), &[RACK]);
    w.m.load(block(1, 1, 10), InodeId(2), 3, false);
    w.m.load(block(2, 1, 5), InodeId(2), 3, true);
    assert!(w.m.is_complete(BlockId(1)) && !w.m.is_complete(BlockId(2)));
    assert_eq!(w.safe(), (0, 1));
}

#[test]
fn f_03_leaves_at_the_threshold_after_the_extension() {
    let (mut w, blocks) = restarted(1000);
    w.report(0, &blocks[..998]);
    w.advance(40_000);
    w.heartbeat(0);
    w.settle();
    assert!(w.m.in_safe_mode());
    w.received(0, blocks[998]);
    assert!(w.m.in_safe_mode(), "extension");
    let due = w.now.after_ms(30_000);
    while w.now < due {
        w.now = w.m.poll_timeout().unwrap().min(due);
        w.m.handle_timeout(w.now);
    }
    assert!(!w.m.in_safe_mode());
    assert_eq!(w.m.safe_mode_message(), "");
    assert!(std::iter::from_fn(|| w.m.poll_event()).any(|event| event
        == BlockEvent::LeftSafeMode {
            safe: 999,
            total: 1000
        }));
}

#[test]
fn f_03_waits_for_the_minimum_of_datanodes() {
    let two = BlockConfig {
        safe_mode_min_datanodes: 2,
        ..config()
    };
    let mut w = World::new(two, &[RACK, RACK]);
    w.m.start(w.now);
    w.register(0);
    assert!(w.m.in_safe_mode());
    let text = w.m.safe_mode_message();
    assert!(
        text.contains("The number of live datanodes 1 needs an additional 1 live datanodes"),
        "{text}"
    );
    w.register(1);
    assert!(!w.m.in_safe_mode());
}

#[test]
fn q9_the_message_names_what_is_missing() {
    let (mut w, blocks) = restarted(407);
    w.report(0, &blocks[17..]);
    let text = w.m.safe_mode_message();
    assert!(
        text.starts_with(
            "The reported blocks 390 needs additional 16 blocks to reach the threshold 0.9990 of total blocks 407."
        ),
        "{text}"
    );
    let named = blocks[..17]
        .iter()
        .filter(|b| text.contains(&format!("{} (inode 7)", b.id)))
        .count();
    assert_eq!(named, 5, "{text}");
    w.advance(700_000);
    w.settle();
    assert!(w.m.safe_mode_message().contains("Dead datanodes: dn0"));
}

#[test]
fn manual_safe_mode_needs_a_manual_leave() {
    let mut w = World::active(config(), &[RACK]);
    w.m.enter_safe_mode(w.now);
    w.advance(100_000);
    w.heartbeat(0);
    w.settle();
    assert!(w.m.in_safe_mode());
    assert!(
        w.m.safe_mode_message()
            .contains("It was turned on manually")
    );
    w.m.leave_safe_mode(w.now);
    assert!(!w.m.in_safe_mode());
}

#[test]
fn t_h18_promotion_in_safe_mode_leaves_it_with_the_right_totals() {
    let (mut w, mut blocks) = restarted(6);
    let gone = blocks.split_off(4);
    w.report(0, &blocks);
    w.m.become_active(w.now, EPOCH);
    assert!(w.m.in_safe_mode());
    let ids: Vec<BlockId> = gone.iter().map(|b| b.id).collect();
    w.remove(&ids);
    assert_eq!(w.safe(), (4, 4));
    w.advance(30_000);
    w.heartbeat(0);
    w.settle();
    assert!(!w.m.in_safe_mode());
}

#[test]
fn t_h19_a_standby_that_leaves_safe_mode_counts_no_under_replication() {
    let (mut w, blocks) = restarted(4);
    let txid = w.next_txid();
    let ids: Vec<BlockId> = blocks.iter().map(|b| b.id).collect();
    w.m.replication_changed(txid, &ids, 3);
    w.report(0, &blocks);
    w.advance(30_000);
    w.heartbeat(0);
    w.settle();
    assert!(!w.m.in_safe_mode());
    let stats = w.m.stats();
    assert_eq!((stats.under_replicated, stats.pending_replication), (0, 0));
    assert_eq!(w.m.under_replicated(10), []);
    w.m.become_active(w.now, EPOCH);
    w.settle();
    assert_eq!(w.m.stats().under_replicated, 4);
    assert_eq!(w.m.under_replicated(10).len(), 4);
}

#[test]
fn t_h20_an_active_in_startup_safe_mode_reports_nothing_missing() {
    let (mut w, blocks) = restarted(4);
    w.m.become_active(w.now, EPOCH);
    w.report(0, &blocks[..2]);
    assert_eq!((w.m.stats().missing, w.m.fs_stats().missing_blocks), (0, 0));
    assert_eq!(w.m.missing(None, 10), []);
    w.m.leave_safe_mode(w.now);
    w.settle();
    assert_eq!(w.m.stats().missing, 2);
    let missing = w.m.missing(None, 10);
    assert_eq!(missing.len(), 2);
    let rest = w.m.missing(Some(missing[0].block.id), 10);
    assert_eq!(rest, missing[1..]);
}

#[test]
fn q5_not_ready_to_become_active_before_every_storage_reported() {
    let (mut w, blocks) = restarted(2);
    w.dns[0].storages.push(hadal_types::StorageUuid(8));
    w.heartbeat(0);
    assert!(!w.m.ready_to_become_active());
    w.report(0, &blocks);
    assert!(!w.m.ready_to_become_active(), "the second storage did not");
    w.dns[0].storages.swap(0, 1);
    w.report(0, &[]);
    assert!(w.m.ready_to_become_active());
}
