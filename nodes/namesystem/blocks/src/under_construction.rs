//! Blocks that are not COMPLETE: their pipeline, the replicas reported so far, their recovery (E-13..E-16, E-18).

use crate::partition::{CorruptReason, Partition, QueuedReport};
use crate::redundancy::Pending;
use crate::view::{Effect, View};
use hadal_types::{Block, BlockState, GenerationStamp, ReplicaState, Tick};
use smallvec::SmallVec;

/// A replica reported of an open block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenReported {
    pub(crate) storage: u32,
    pub(crate) block: Block,
    pub(crate) state: ReplicaState,
}

/// A block recovery started.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(crate) id: GenerationStamp,
    pub(crate) started: Tick,
    /// DataNodes that were primary already (Q38: another one is tried).
    pub(crate) tried: SmallVec<[u32; 3]>,
}

/// What is kept beside the table of a block that is not COMPLETE.
#[derive(Clone, Debug, Default)]
pub(crate) struct Open {
    /// Storages of the pipeline, in its order; not journaled, so empty after a failover.
    pub(crate) expected: SmallVec<[u32; 3]>,
    pub(crate) reported: SmallVec<[OpenReported; 3]>,
    /// Of `reported`: what was in a storage that is gone. It may come back with the bytes.
    pub(crate) away: SmallVec<[OpenReported; 1]>,
    pub(crate) recovery: Option<Recovery>,
}

impl Open {
    /// Notes a report; a storage has one replica.
    pub(crate) fn note(&mut self, storage: u32, block: Block, state: ReplicaState) {
        let new = OpenReported {
            storage,
            block,
            state,
        };
        match self.reported.iter_mut().find(|old| old.storage == storage) {
            Some(old) => *old = new,
            None => self.reported.push(new),
        }
    }

    /// A storage is gone: what it reported is remembered.
    pub(crate) fn lose(&mut self, storage: u32) {
        let Some(at) = self.reported.iter().position(|it| it.storage == storage) else {
            return;
        };
        let lost = self.reported.remove(at);
        self.away.retain(|old| old.storage != storage);
        self.away.push(lost);
    }

    /// What a storage reported, if it is not away.
    pub(crate) fn find(&self, storage: u32) -> Option<&OpenReported> {
        self.reported.iter().find(|it| it.storage == storage)
    }

    /// Storages that may have a replica of at least this stamp: the pipeline first, then others that reported one, then
    /// those of them that are away.
    pub(crate) fn candidates(&self, stamp: u64) -> SmallVec<[u32; 4]> {
        let mut all: SmallVec<[u32; 4]> = self.expected.iter().copied().collect();
        for replica in self.reported.iter().chain(&self.away) {
            if replica.block.generation_stamp.0 >= stamp && !all.contains(&replica.storage) {
                all.push(replica.storage);
            }
        }
        all
    }
}

impl Partition {
    /// Length and stamp are final: what was reported FINALIZED before becomes replicas.
    pub(crate) fn commit(
        &mut self,
        key: u64,
        block: Block,
        view: &View<'_>,
        out: &mut alloc::vec::Vec<Effect>,
    ) {
        let before = self.weigh(key, view);
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        if entry.is_complete() || (entry.is_final() && entry.matches(&block)) {
            return;
        }
        let was = entry.is_final().then(|| entry.block());
        entry.set_block(&block);
        entry.set_state(BlockState::Committed);
        if let Some(was) = was {
            // Block recovery changed a COMMITTED block: its replicas were those of the old stamp or length.
            for storage in self.table.replicas(key) {
                self.table.remove_replica(key, storage);
                self.drop_excess(key, storage);
                let open = self.open.entry(key).or_default();
                open.note(storage, was, ReplicaState::Finalized);
            }
        }
        let reported = self
            .open
            .get_mut(&key)
            .map(|open| core::mem::take(&mut open.reported))
            .unwrap_or_default();
        let mut odd: SmallVec<[OpenReported; 3]> = SmallVec::new();
        for replica in reported {
            match replica.state {
                ReplicaState::Finalized if replica.block == block => {
                    if self
                        .table
                        .get(key)
                        .is_some_and(|entry| !self.table.contains(entry, replica.storage))
                    {
                        self.table.add_replica(key, replica.storage);
                    }
                    self.drop_corrupt(key, |it| it.storage != replica.storage);
                }
                // It missed the new stamp, or its report of it is under way: the next one tells.
                ReplicaState::Finalized
                    if replica.block.generation_stamp < block.generation_stamp => {}
                ReplicaState::Finalized => odd.push(replica),
                _ => {
                    if let Some(open) = self.open.get_mut(&key) {
                        open.reported.push(replica);
                    }
                }
            }
        }
        if !view.active {
            self.conclude(key, view);
        }
        self.settle(key, before, view, out);
        for replica in odd {
            self.reported(replica.storage, replica.block, replica.state, view, out);
        }
        // A replica that had a stamp or length of its own until now.
        let corrupt = self.corrupt.get(&key).into_iter().flatten();
        let right: SmallVec<[u32; 1]> = corrupt
            .filter(|it| it.reason == CorruptReason::Stale && it.finalized && !it.deleting)
            .filter(|it| it.block == block)
            .map(|it| it.storage)
            .collect();
        for storage in right {
            self.reported(storage, block, ReplicaState::Finalized, view, out);
        }
    }

    /// COMMITTED and forced COMPLETE.
    pub(crate) fn complete(
        &mut self,
        key: u64,
        block: Block,
        view: &View<'_>,
        out: &mut alloc::vec::Vec<Effect>,
    ) {
        self.commit(key, block, view, out);
        if self
            .table
            .get(key)
            .is_some_and(|entry| !entry.is_complete())
        {
            let before = self.weigh(key, view);
            self.conclude(key, view);
            self.settle(key, before, view, out);
        }
    }

    /// COMPLETE: pipeline members that have not reported FINALIZED yet count as copies under way, so that closing a
    /// file does not start replication.
    pub(crate) fn conclude(&mut self, key: u64, view: &View<'_>) {
        let open = self.open.remove(&key);
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        entry.set_state(BlockState::Complete);
        if !view.active {
            return;
        }
        let replicas = self.table.replicas(key);
        let targets: SmallVec<[u32; 3]> = open
            .into_iter()
            .flat_map(|open| open.expected)
            .filter(|storage| {
                !replicas.contains(storage)
                    && view.nodes.is_usable(*storage)
                    && !view.nodes.owner(*storage).is_leaving()
            })
            .map(|storage| view.nodes.node_of(storage))
            .collect();
        if !targets.is_empty() {
            self.pending.insert(
                key,
                Pending {
                    targets,
                    source: None,
                    parts: 0,
                    since: view.now,
                },
            );
            if let Some(entry) = self.table.get_mut(key) {
                entry.set_pending(true);
            }
        }
    }

    /// New stamp or length of an open block; replicas of older stamps missed it and are no longer of use.
    pub(crate) fn update(&mut self, key: u64, block: Block) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        if entry.is_final() {
            return;
        }
        entry.set_block(&block);
        if let Some(open) = self.open.get_mut(&key) {
            let current =
                |it: &mut OpenReported| it.block.generation_stamp >= block.generation_stamp;
            open.reported.retain(current);
            open.away.retain(current);
        }
    }

    /// COMPLETE to UNDER_CONSTRUCTION: the replicas become the pipeline expected.
    pub(crate) fn reopen(
        &mut self,
        key: u64,
        block: Block,
        view: &View<'_>,
        out: &mut alloc::vec::Vec<Effect>,
    ) {
        let before = self.weigh(key, view);
        let live = self.live_replicas(key);
        let replicas = self.table.replicas(key);
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let old = entry.block();
        entry.set_state(BlockState::UnderConstruction);
        entry.set_excess(false);
        entry.set_block(&block);
        for storage in replicas {
            self.table.remove_replica(key, storage);
        }
        self.excess.remove(&key);
        self.postponed.remove(&key);
        self.leave_level(key);
        self.drop_pending(key, out);
        let mut open = Open {
            expected: live.iter().copied().collect(),
            ..Open::default()
        };
        for storage in live {
            open.note(storage, old, ReplicaState::Finalized);
        }
        self.open.insert(key, open);
        self.settle(key, before, view, out);
    }

    /// Notes or queues a report of a block that is not final.
    pub(crate) fn reported_open(
        &mut self,
        key: u64,
        report: QueuedReport,
        state: ReplicaState,
        view: &View<'_>,
        out: &mut alloc::vec::Vec<Effect>,
    ) {
        let Some(entry) = self.table.get(key) else {
            return;
        };
        let (got, has) = (report.block.generation_stamp.0, entry.stamp());
        if !view.active && got > has {
            if !self.is_noted(key, &report) {
                self.queue(report, view, out);
            }
        } else if got < has && state == ReplicaState::Finalized {
            self.mark_stale(key, report, view, out);
        } else {
            self.open
                .entry(key)
                .or_default()
                .note(report.storage, report.block, state);
        }
    }
}
