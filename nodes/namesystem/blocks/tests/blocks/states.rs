//! What a reported replica makes of a block: its state, its good and corrupt replicas (E-13..E-17).

use crate::world::{World, block, config};
use hadal_blocks::{BlockConfig, BlockEvent};
use hadal_proto::datanode::{ChangeKind, OpenReplica};
use hadal_types::{BlockId, BlockState, HaState, InodeId, ReplicaState, StorageUuid};

const RACK: &str = "/default-rack";

fn state(w: &World, id: BlockId) -> BlockState {
    w.m.stored(id).unwrap().state
}

#[test]
fn t_h8_an_rbw_in_a_report_of_a_closed_block_is_late_not_corrupt() {
    let mut w = World::active(config(), &[RACK]);
    let b = w.create(1, 10);
    let rbw = |state| OpenReplica {
        block: block(b.id.0, b.generation_stamp.0, 5),
        state,
    };
    w.report_with(0, &[], vec![rbw(ReplicaState::Rbw)]);
    assert_eq!(w.m.stats().corrupt, 0);
    w.report_with(0, &[], vec![rbw(ReplicaState::Rwr)]);
    assert_eq!(w.m.stats().corrupt, 1, "one that lost its end is of no use");
    w.received(0, b);
    assert_eq!((w.m.stats().corrupt, w.live(b.id)), (0, 1));
}

#[test]
fn e_17_older_stamp_or_other_length_is_corrupt_and_goes_when_enough_are_good() {
    let mut w = World::active(config(), &[RACK; 4]);
    let b = w.create(2, 100);
    let stale = block(b.id.0, b.generation_stamp.0 - 1, 100);
    let short = block(b.id.0, b.generation_stamp.0, 99);
    w.report(2, &[stale]);
    w.report(3, &[short]);
    let stats = w.m.stats();
    assert_eq!((stats.corrupt, stats.missing, w.live(b.id)), (1, 1, 0));
    assert_eq!(w.m.locate(b.id, "").unwrap().corrupt_replicas, 2);
    assert!(w.m.locate(b.id, "").unwrap().corrupt);
    assert_eq!((w.deletions(2), w.deletions(3)), (vec![], vec![]));
    w.received(0, b);
    assert!(!w.m.locate(b.id, "").unwrap().corrupt);
    assert_eq!(
        w.deletions(2),
        [stale],
        "an older version goes once a newer is safe"
    );
    assert_eq!(w.deletions(3), [], "the other when the factor is reached");
    w.received(1, b);
    assert_eq!(w.deletions(3), [short]);
    w.deleted(2, stale);
    w.deleted(3, short);
    let stats = w.m.stats();
    assert_eq!(
        (stats.corrupt, stats.pending_deletion, w.live(b.id)),
        (0, 0, 2)
    );
}

#[test]
fn e_13_e_14_f_09_committed_until_minimal_replication_is_reported() {
    let two = BlockConfig {
        min_replication: 2,
        ..config()
    };
    let mut w = World::active(two, &[RACK; 2]);
    let open = w.allocate(2);
    assert_eq!(state(&w, open.id), BlockState::UnderConstruction);
    let done = block(open.id.0, open.generation_stamp.0, 64);
    w.received(0, done);
    assert!(!w.m.is_min_replicated(open.id));
    let txid = w.next_txid();
    w.m.committed(txid, done);
    assert_eq!(
        (state(&w, open.id), w.live(open.id)),
        (BlockState::Committed, 1)
    );
    assert!(!w.m.is_min_replicated(open.id));
    w.received(1, block(open.id.0, open.generation_stamp.0 - 1, 64));
    assert!(!w.m.is_complete(open.id), "another stamp does not count");
    while w.m.poll_event().is_some() {}
    w.received(1, done);
    assert!(w.m.is_complete(open.id) && w.m.is_min_replicated(open.id));
    assert_eq!(
        w.m.poll_event(),
        Some(BlockEvent::Completed {
            block: open.id,
            inode: InodeId(7)
        })
    );
    // Forced, as the block before a new one may be; not active: at once.
    let other = w.allocate(2);
    let txid = w.next_txid();
    w.m.completed(txid, other);
    assert!(w.m.is_complete(other.id) && !w.m.is_min_replicated(other.id));
    let third = w.allocate(2);
    w.m.become_standby(w.now, HaState::Standby);
    let txid = w.next_txid();
    w.m.committed(txid, third);
    assert!(w.m.is_complete(third.id));
}

#[test]
fn e_16_a_new_stamp_drops_replicas_that_missed_it() {
    let mut w = World::active(config(), &[RACK; 3]);
    let open = w.allocate(3);
    for dn in 0..3 {
        w.change_now(dn, ChangeKind::Receiving, open);
    }
    assert_eq!(w.locations(open.id).len(), 3);
    let stamp = w.new_stamp();
    let newer = block(open.id.0, stamp, 30);
    w.change_now(0, ChangeKind::Receiving, newer);
    w.change_now(1, ChangeKind::Receiving, newer);
    let txid = w.next_txid();
    w.m.updated(txid, newer);
    assert_eq!(w.locations(open.id), ["dn0", "dn1"]);
    let done = block(open.id.0, stamp, 50);
    w.received(0, done);
    w.received(1, done);
    let txid = w.next_txid();
    w.m.completed(txid, done);
    w.report(2, &[block(open.id.0, open.generation_stamp.0, 30)]);
    assert_eq!(w.m.stats().corrupt, 1);
    assert_eq!(w.locations(open.id), ["dn0", "dn1"]);
}

#[test]
fn a_replica_moved_to_another_storage_of_its_datanode_counts_once() {
    let mut w = World::active(config(), &[RACK]);
    let b = w.stored_on(2, &[0]);
    let mut moved = w.change(0, ChangeKind::Received, b);
    moved.storage = StorageUuid(4321);
    w.incremental(0, vec![moved]);
    assert_eq!(w.live(b.id), 1);
    assert_eq!(
        w.m.locate(b.id, "").unwrap().locations[0].storage,
        StorageUuid(4321)
    );
    w.deleted(0, b);
    assert_eq!(w.live(b.id), 1, "the old one went");
    w.dns[0].storages = vec![StorageUuid(77)];
    w.report(0, &[b]);
    assert_eq!(w.live(b.id), 1, "in a full report too");
    assert_eq!(
        w.m.locate(b.id, "").unwrap().locations[0].storage,
        StorageUuid(77)
    );
}
