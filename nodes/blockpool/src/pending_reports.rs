//! Changes of replicas that one NameNode has not acknowledged (A-34..A-38, B-10).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use hadal_proto::datanode::{ChangeKind, ReplicaChange};
use hadal_types::{BlockId, StorageUuid};

/// The queue towards one NameNode. Per storage only the newest change of a block is kept. Bounded: past
/// the bound everything is dropped and a full report is owed (B-10, F-11, T-D16).
#[derive(Clone, Debug)]
pub struct PendingReports {
    changes: BTreeMap<(StorageUuid, BlockId), (u64, ReplicaChange)>,
    /// The batch of the last sequence, until it is acknowledged.
    in_flight: Vec<ReplicaChange>,
    /// That batch is on its way; else it failed and goes out again under its sequence, as it was: the NameNode may
    /// have applied it already.
    sent: bool,
    next_order: u64,
    bound: usize,
    urgent: bool,
    sequence: u64,
}

impl PendingReports {
    /// An empty queue of at most `bound` changes.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self {
            changes: BTreeMap::new(),
            in_flight: Vec::new(),
            sent: false,
            next_order: 0,
            bound,
            urgent: false,
            sequence: 0,
        }
    }

    /// Changes waiting or on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len() + self.in_flight.len()
    }

    /// Nothing waits and nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something waits that goes out at once: RECEIVING and RECEIVED wake the actor, DELETED rides along
    /// or waits for its interval.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        (self.urgent && !self.changes.is_empty()) || self.wants_resend()
    }

    fn wants_resend(&self) -> bool {
        !self.sent && !self.in_flight.is_empty()
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.changes.is_empty() || self.wants_resend()
    }

    /// Whether a batch is on its way.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.sent
    }

    /// Sequence of the last batch handed out.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// A replica changed. Returns `true` when the bound was passed and everything was dropped: a full report is
    /// owed now.
    pub fn push(&mut self, change: ReplicaChange) -> bool {
        if self.len() >= self.bound {
            self.changes.clear();
            self.in_flight.clear();
            self.sent = false;
            self.urgent = false;
            return true;
        }
        self.urgent |= change.kind != ChangeKind::Deleted;
        self.insert(change);
        false
    }

    fn insert(&mut self, change: ReplicaChange) {
        let order = self.next_order;
        self.next_order += 1;
        self.changes
            .insert((change.storage, change.block.id), (order, change));
    }

    /// The next batch, oldest change first, at most `limit`; it stays listed until acknowledged.
    pub fn take_batch(&mut self, limit: usize) -> Option<(u64, Vec<ReplicaChange>)> {
        if self.wants_resend() {
            self.sent = true;
            return Some((self.sequence, self.in_flight.clone()));
        }
        if self.is_in_flight() || self.changes.is_empty() {
            return None;
        }
        let mut batch: Vec<(u64, ReplicaChange)> =
            core::mem::take(&mut self.changes).into_values().collect();
        batch.sort_unstable_by_key(|(order, _)| *order);
        for (order, change) in batch.split_off(batch.len().min(limit)) {
            self.changes
                .insert((change.storage, change.block.id), (order, change));
        }
        self.urgent = !self.changes.is_empty();
        self.sequence += 1;
        self.in_flight = batch.into_iter().map(|(_, change)| change).collect();
        self.sent = true;
        Some((self.sequence, self.in_flight.clone()))
    }

    /// The NameNode acknowledged the batch; entries added meanwhile stay.
    pub fn handle_acknowledged(&mut self, sequence: u64) {
        if sequence >= self.sequence {
            self.in_flight.clear();
            self.sent = false;
        }
    }

    /// The batch failed, or its answer was lost: it goes out again before newer changes.
    pub fn handle_failed(&mut self) {
        self.sent = false;
    }

    /// Re-registered: a full report follows, so nothing pending is needed (A-13, HDFS-9917), and sequences start
    /// again.
    pub fn clear(&mut self) {
        *self = Self::new(self.bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{Block, DatanodeUuid, GenerationStamp};

    fn change(id: u64, kind: ChangeKind) -> ReplicaChange {
        ReplicaChange {
            storage: StorageUuid(1),
            block: Block {
                id: BlockId(id),
                generation_stamp: GenerationStamp(1),
                length: 5,
            },
            kind,
            delete_hint: DatanodeUuid(0),
        }
    }

    #[test]
    fn entries_leave_only_when_acknowledged_and_newer_ones_survive_a36_a38() {
        let mut queue = PendingReports::new(100);
        queue.push(change(1, ChangeKind::Receiving));
        queue.push(change(2, ChangeKind::Receiving));
        queue.push(change(1, ChangeKind::Received));
        let (sequence, batch) = queue.take_batch(10).unwrap();
        assert_eq!(batch.len(), 2, "only the newest state of block 1");
        assert!(queue.take_batch(10).is_none(), "one batch at a time");
        queue.push(change(2, ChangeKind::Deleted));
        queue.handle_failed();
        let (again, resent) = queue.take_batch(10).unwrap();
        assert_eq!(
            (again, &resent),
            (sequence, &batch),
            "the same batch: it may have been applied"
        );
        queue.handle_acknowledged(again);
        let (again, batch) = queue.take_batch(10).unwrap();
        assert_eq!(again, sequence + 1);
        assert_eq!(batch, [change(2, ChangeKind::Deleted)]);
        queue.push(change(3, ChangeKind::Received));
        queue.handle_acknowledged(again);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn received_is_urgent_deleted_rides_along_a35() {
        let mut queue = PendingReports::new(100);
        queue.push(change(1, ChangeKind::Deleted));
        assert!(!queue.is_urgent() && queue.has_unsent());
        queue.push(change(2, ChangeKind::Received));
        assert!(queue.is_urgent());
        assert_eq!(queue.take_batch(10).unwrap().1.len(), 2);
    }

    #[test]
    fn overflow_forgets_and_owes_a_full_report_t_d16_b10() {
        let mut queue = PendingReports::new(3);
        for id in 0..3 {
            assert!(!queue.push(change(id, ChangeKind::Received)));
        }
        assert!(queue.push(change(9, ChangeKind::Received)));
        assert!(queue.is_empty());
    }

    #[test]
    fn batches_keep_order_and_limit() {
        let mut queue = PendingReports::new(100);
        for id in [5, 3, 9, 1] {
            queue.push(change(id, ChangeKind::Received));
        }
        let (sequence, batch) = queue.take_batch(3).unwrap();
        assert_eq!(
            batch.iter().map(|c| c.block.id.0).collect::<Vec<_>>(),
            [5, 3, 9]
        );
        queue.handle_acknowledged(sequence);
        assert_eq!(queue.take_batch(3).unwrap().1[0].block.id.0, 1);
    }
}
