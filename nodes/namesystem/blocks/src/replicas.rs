//! What one reported replica means (E-17, F-01), and corrupt ones.

use crate::partition::{CorruptReason, CorruptReplica, Partition, QueuedReport};
use crate::view::{Effect, View};
use alloc::vec::Vec;
use hadal_types::{Block, ReplicaState, mix};

impl Partition {
    /// A DataNode says it has this replica in this state.
    pub(crate) fn reported(
        &mut self,
        storage: u32,
        block: Block,
        state: ReplicaState,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        let key = mix(block.id);
        self.unremember(key, storage, view);
        let report = QueuedReport {
            storage,
            block,
            state: Some(state),
        };
        let future = block.id.0 >= view.next_block || block.generation_stamp.0 > view.stamp;
        if !view.active && (future || self.is_queued(key, storage)) {
            if self.is_queued(key, storage) || !self.is_noted(key, &report) {
                self.queue(report, view, out);
            }
            return;
        }
        let Some(entry) = self.table.get(key) else {
            out.push(if future {
                Effect::Future
            } else {
                Effect::Unknown { storage, block }
            });
            return;
        };
        if !entry.is_final() {
            self.reported_open(key, report, state, view, out);
            return;
        }
        let same_stamp = entry.stamp() == block.generation_stamp.0;
        match state {
            _ if view.config.planted.accept_stale_replicas => {
                self.add_replica(key, storage, view, out);
            }
            ReplicaState::Finalized if entry.matches(&block) => {
                let bad = self.corrupt.get(&key).is_some_and(|corrupt| {
                    corrupt.iter().any(|replica| {
                        replica.storage == storage && replica.reason == CorruptReason::Checksum
                    })
                });
                // Reported corrupt before: the same bytes do not become good by being listed.
                if !bad {
                    self.add_replica(key, storage, view, out);
                }
            }
            // Still listed as open though the block is closed: the report was under way (T-H8).
            ReplicaState::Rbw | ReplicaState::Rur if same_stamp => {}
            ReplicaState::Rwr if same_stamp && !entry.is_complete() => {}
            ReplicaState::Temporary => {}
            _ => self.mark_stale(key, report, view, out),
        }
    }

    /// A DataNode says this replica is gone.
    pub(crate) fn deleted(
        &mut self,
        storage: u32,
        block: Block,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        let key = mix(block.id);
        self.unremember(key, storage, view);
        let future = block.id.0 >= view.next_block || block.generation_stamp.0 > view.stamp;
        if !view.active && (future || self.is_queued(key, storage)) {
            let report = QueuedReport {
                storage,
                block,
                state: None,
            };
            self.queue(report, view, out);
            return;
        }
        let stamp = block.generation_stamp;
        self.drop_corrupt(key, |replica| {
            replica.storage != storage || replica.block.generation_stamp != stamp
        });
        if let Some(open) = self.open.get_mut(&key) {
            open.reported.retain(|replica| {
                replica.storage != storage || replica.block.generation_stamp != stamp
            });
        }
        // Another stamp: an older replica went, the one counted stays.
        if self
            .table
            .get(key)
            .is_some_and(|entry| entry.stamp() == stamp.0 && self.table.contains(entry, storage))
        {
            self.remove_replica(key, storage, view, out);
        }
    }

    /// A replica whose stamp, length or state contradicts the block: corrupt, says an active; a standby may only lack
    /// the edit that explains it and queues (F-01).
    pub(crate) fn mark_stale(
        &mut self,
        key: u64,
        report: QueuedReport,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        if view.active {
            let new = CorruptReplica {
                storage: report.storage,
                block: report.block,
                reason: CorruptReason::Stale,
                finalized: report.state == Some(ReplicaState::Finalized),
                deleting: false,
            };
            self.mark_corrupt(key, new, view, out);
        } else if !self.is_noted(key, &report) {
            self.queue(report, view, out);
        }
    }

    /// Noted before, while this NameNode was active, as corrupt or as one of an open block. What an edit makes of it
    /// is seen when that edit comes: [`Partition::commit`].
    pub(crate) fn is_noted(&self, key: u64, report: &QueuedReport) -> bool {
        let finalized = report.state == Some(ReplicaState::Finalized);
        let mut corrupt = self.corrupt.get(&key).into_iter().flatten();
        let open = self.open.get(&key);
        let mut open = open.into_iter().flat_map(|open| &open.reported);
        let replica = (report.storage, report.block);
        corrupt.any(|it| (it.storage, it.block) == replica && it.finalized == finalized)
            || open.any(|it| (it.storage, it.block) == replica && Some(it.state) == report.state)
    }

    /// Takes a replica out of the good ones. It is deleted once enough good ones exist.
    pub(crate) fn mark_corrupt(
        &mut self,
        key: u64,
        new: CorruptReplica,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        let storage = new.storage;
        let before = self.weigh(key, view);
        self.table.remove_replica(key, storage);
        self.drop_excess(key, storage);
        if let Some(open) = self.open.get_mut(&key) {
            open.reported.retain(|replica| replica.storage != storage);
        }
        // Copies it was to make come to nothing.
        let source = self.pending.get(&key).and_then(|pending| pending.source);
        if source == Some(view.nodes.node_of(storage)) {
            self.drop_pending(key, out);
        }
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        entry.set_corrupt(true);
        let corrupt = self.corrupt.entry(key).or_default();
        match corrupt.iter_mut().find(|old| old.storage == storage) {
            Some(old) if old.block.generation_stamp == new.block.generation_stamp => {
                old.block = new.block;
                old.finalized = new.finalized;
            }
            Some(old) => *old = new,
            None => corrupt.push(new),
        }
        self.settle(key, before, view, out);
    }

    /// Forgets the corrupt replicas of a storage for whose blocks its digest stands for no replica: it has none that is
    /// FINALIZED, and lists others with the report.
    pub(crate) fn drop_open_corrupt(&mut self, storage: u32, agreed: impl Fn(u64) -> bool) {
        let mut keys = Vec::new();
        for (key, replicas) in &self.corrupt {
            if replicas.iter().any(|it| it.storage == storage)
                && self.believes(*key, storage).is_none()
                && agreed(*key)
            {
                keys.push(*key);
            }
        }
        for key in keys {
            self.accounted(key, |partition| {
                partition.drop_corrupt(key, |it| it.storage != storage);
            });
        }
    }

    /// A reader or scanner found bad bytes. Whether that is news.
    pub(crate) fn report_bad(
        &mut self,
        storage: u32,
        block: Block,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let key = mix(block.id);
        let Some(entry) = self.table.get(key) else {
            return false;
        };
        // Of another stamp, or not a replica that counts: nothing to take away.
        if entry.stamp() != block.generation_stamp.0 || !self.table.contains(entry, storage) {
            return false;
        }
        let new = CorruptReplica {
            storage,
            block: entry.block(),
            reason: CorruptReason::Checksum,
            finalized: true,
            deleting: false,
        };
        self.mark_corrupt(key, new, view, out);
        true
    }

    /// Deletes corrupt replicas once the good ones reach the factor; with minimal replication already stale ones (of
    /// which a newer version exists), and as many as are in the way of the factor: a DataNode that has a corrupt
    /// replica takes no good one (HDFS's `hasMoreCorruptReplicas`, which deletes all at once). In the way is also one on
    /// the last DataNode that could take a copy: there HDFS never heals. Never while a storage may have accepted
    /// deletions of another active (F-02).
    pub(crate) fn delete_corrupt(&mut self, key: u64, view: &View<'_>, out: &mut Vec<Effect>) {
        let Some(entry) = self.table.get(key) else {
            return;
        };
        if !entry.is_complete() {
            return;
        }
        let live = self.staying(entry, view);
        let wanted = usize::from(entry.replication).max(usize::from(view.config.min_replication));
        let stamp = entry.stamp();
        let enough_for_stale = live >= usize::from(view.config.min_replication);
        if live == 0 || (live < wanted && !enough_for_stale) {
            return;
        }
        if self
            .live_replicas(key)
            .iter()
            .any(|storage| view.nodes.storage(*storage).content_stale)
        {
            self.postponed.insert(key);
            return;
        }
        let Some(corrupt) = self.corrupt.get_mut(&key) else {
            return;
        };
        let older = |replica: &CorruptReplica| replica.block.generation_stamp.0 < stamp;
        let nodes = view.nodes.alive.len();
        let mut kept = corrupt
            .iter()
            .filter(|replica| !replica.deleting && !older(replica))
            .count();
        for replica in corrupt.iter_mut().filter(|replica| !replica.deleting) {
            let in_the_way = enough_for_stale && (live + kept > wanted || live + kept >= nodes);
            if live >= wanted || older(replica) || in_the_way {
                kept -= usize::from(!older(replica));
                replica.deleting = true;
                out.push(Effect::Delete {
                    storage: replica.storage,
                    block: replica.block,
                });
            }
        }
    }
}
