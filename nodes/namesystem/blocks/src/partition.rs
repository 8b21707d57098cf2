//! One of the 256 partitions of the block map: its table, and what few of its blocks have beside it.
//!
//! Edits reach a partition as a stream of [`PartitionCommand`]s tagged by txid; it keeps the watermark of the last.
//! It looks at the rest through a [`View`] and asks for things through [`Effect`]s, so that later each can live on
//! a shard of its own (architecture.md, decision 6).

use crate::digests::PartitionDigests;
use crate::entry::Entry;
use crate::failed_copies::FailedCopies;
use crate::merge::partition_keys;
use crate::redundancy::{Levels, Pending};
use crate::registry::id_of;
use crate::remembered::Remembered;
use crate::table::BlockTable;
use crate::under_construction::Open;
use crate::view::{Effect, View};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use hadal_types::{Block, BlockId, BlockState, DigestKey, InodeId, ReplicaState, TxId, mix};
use smallvec::SmallVec;

/// What an edit does to one block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PartitionCommand {
    Allocate {
        block: Block,
        inode: InodeId,
        replication: u16,
    },
    Commit {
        block: Block,
    },
    Complete {
        block: Block,
    },
    Update {
        block: Block,
    },
    Reopen {
        block: Block,
    },
    Remove {
        block: BlockId,
    },
    SetReplication {
        block: BlockId,
        replication: u16,
    },
    Move {
        block: BlockId,
        inode: InodeId,
    },
}

impl PartitionCommand {
    pub(crate) fn id(&self) -> BlockId {
        match self {
            Self::Allocate { block, .. }
            | Self::Commit { block }
            | Self::Complete { block }
            | Self::Update { block }
            | Self::Reopen { block } => block.id,
            Self::Remove { block }
            | Self::SetReplication { block, .. }
            | Self::Move { block, .. } => *block,
        }
    }
}

/// Sums over a partition's COMPLETE blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) complete: u64,
    pub(crate) safe: u64,
    pub(crate) under: u64,
    pub(crate) missing: u64,
    pub(crate) over: u64,
}

impl Counters {
    /// What one block adds: `live` good replicas, of which `staying` are on DataNodes that are not leaving, where
    /// `needed` must be.
    pub(crate) fn of(
        entry: &Entry,
        live: usize,
        (staying, needed): (usize, usize),
        min: u16,
    ) -> Self {
        if !entry.is_complete() {
            return Self::default();
        }
        let wanted = usize::from(entry.replication);
        Self {
            complete: 1,
            safe: u64::from(live >= usize::from(min)),
            under: u64::from(staying < needed),
            missing: u64::from(live == 0),
            over: u64::from(staying > wanted),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.complete += other.complete;
        self.safe += other.safe;
        self.under += other.under;
        self.missing += other.missing;
        self.over += other.over;
    }

    /// One block changed what it adds.
    pub(crate) fn replace(&mut self, before: Self, after: Self) {
        self.subtract(before);
        self.add(after);
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.complete -= other.complete;
        self.safe -= other.safe;
        self.under -= other.under;
        self.missing -= other.missing;
        self.over -= other.over;
    }
}

/// Why a replica is corrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CorruptReason {
    /// Another stamp, length or state than the block's (E-17).
    Stale,
    /// Its bytes do not match their checksums.
    Checksum,
}

/// A replica that must not be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CorruptReplica {
    pub(crate) storage: u32,
    pub(crate) block: Block,
    pub(crate) reason: CorruptReason,
    /// Its DataNode calls it FINALIZED.
    pub(crate) finalized: bool,
    /// Its deletion was asked for.
    pub(crate) deleting: bool,
}

/// A report that waits for edits (F-01).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueuedReport {
    pub(crate) storage: u32,
    pub(crate) block: Block,
    /// `None`: deleted.
    pub(crate) state: Option<ReplicaState>,
}

/// Reports queued per block and storage; the oldest goes first when a DataNode repeats itself.
const QUEUED_PER_BLOCK_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) index: usize,
    pub(crate) table: BlockTable,
    pub(crate) counters: Counters,
    /// Blocks that are not COMPLETE.
    pub(crate) open: BTreeMap<u64, Open>,
    pub(crate) corrupt: BTreeMap<u64, SmallVec<[CorruptReplica; 1]>>,
    /// Replicas in the table that are to be deleted.
    pub(crate) excess: BTreeMap<u64, SmallVec<[u32; 2]>>,
    pub(crate) queued: BTreeMap<u64, Vec<QueuedReport>>,
    /// Where an image knew blocks to be; counts for nothing until it is proved.
    pub(crate) remembered: Remembered,
    /// Of what storages are believed to hold (protocols.md section 4).
    pub(crate) digests: PartitionDigests,
    /// Over-replicated blocks held back (F-02).
    pub(crate) postponed: BTreeSet<u64>,
    pub(crate) levels: Levels,
    pub(crate) pending: BTreeMap<u64, Pending>,
    /// Of blocks that still need copies.
    pub(crate) failed: BTreeMap<u64, FailedCopies>,
    /// DataNode whose replica goes first while the report at hand is handled.
    pub(crate) hint: Option<u32>,
    /// Txid of the last command.
    pub(crate) watermark: TxId,
}

impl Partition {
    pub(crate) fn new(index: usize, key: DigestKey) -> Self {
        Self {
            index,
            table: BlockTable::new(),
            counters: Counters::default(),
            open: BTreeMap::new(),
            corrupt: BTreeMap::new(),
            excess: BTreeMap::new(),
            queued: BTreeMap::new(),
            remembered: Remembered::default(),
            digests: PartitionDigests::new(key),
            postponed: BTreeSet::new(),
            levels: Levels::default(),
            pending: BTreeMap::new(),
            failed: BTreeMap::new(),
            hint: None,
            watermark: TxId(0),
        }
    }

    /// Blocks of the image were staged: what they add to the counters, keys of the open ones among them, the newest.
    pub(crate) fn note_staged(
        &mut self,
        added: Counters,
        open: impl IntoIterator<Item = u64>,
        newest: BlockId,
    ) {
        self.counters.add(added);
        for key in open {
            self.open.insert(key, Open::default());
        }
        self.remembered.note_loaded(newest);
    }

    /// Sorts in the blocks of the image.
    pub(crate) fn unstage(&mut self) {
        for twice in self.table.unstage(&mut self.remembered, &self.digests) {
            let needed = usize::from(twice.replication);
            self.counters
                .subtract(Counters::of(&twice, 0, (0, needed), 1));
        }
    }

    /// A new block.
    fn allocate(&mut self, block: Block, inode: InodeId, replication: u16) {
        let key = mix(block.id);
        let state = BlockState::UnderConstruction;
        if self
            .table
            .insert(Entry::new(key, block, inode, replication, state))
        {
            self.open.insert(key, Open::default());
        }
    }

    /// Applies one command of an edit, then what reports had said of the block before (F-01).
    pub(crate) fn apply(
        &mut self,
        txid: TxId,
        command: PartitionCommand,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        self.watermark = self.watermark.max(txid);
        let key = mix(command.id());
        match command {
            PartitionCommand::Allocate {
                block,
                inode,
                replication,
            } => self.allocate(block, inode, replication),
            PartitionCommand::Commit { block } => self.commit(key, block, view, out),
            PartitionCommand::Complete { block } => self.complete(key, block, view, out),
            PartitionCommand::Update { block } => self.update(key, block),
            PartitionCommand::Reopen { block } => self.reopen(key, block, view, out),
            PartitionCommand::Remove { .. } => self.remove(key, view, out),
            PartitionCommand::SetReplication { replication, .. } => {
                let before = self.weigh(key, view);
                if let Some(entry) = self.table.get_mut(key) {
                    entry.replication = replication;
                }
                self.settle(key, before, view, out);
            }
            PartitionCommand::Move { inode, .. } => {
                if let Some(entry) = self.table.get_mut(key) {
                    entry.set_inode(inode);
                }
            }
        }
        self.replay_queued(key, view, out);
    }

    /// Replicas that count: FINALIZED, of the right stamp and length, not excess.
    pub(crate) fn live(&self, entry: &Entry) -> usize {
        let excess = if entry.has_excess() {
            self.excess.get(&entry.key).map_or(0, SmallVec::len)
        } else {
            0
        };
        usize::from(entry.count) - excess
    }

    /// The replicas that count.
    pub(crate) fn live_replicas(&self, key: u64) -> Vec<u32> {
        let mut replicas = self.table.replicas(key);
        if let Some(excess) = self.excess.get(&key) {
            replicas.retain(|storage| !excess.contains(storage));
        }
        replicas
    }

    /// What a block adds to the counters now; taken before it is changed, given to [`Self::settle`] after.
    pub(crate) fn weigh(&self, key: u64, view: &View<'_>) -> Counters {
        self.table.get(key).map_or_else(Counters::default, |entry| {
            let staying = (self.staying(entry, view), self.wanted(entry, view));
            Counters::of(
                entry,
                self.live(entry),
                staying,
                view.config.min_replication,
            )
        })
    }

    /// After every change of a block: counters, COMMITTED to COMPLETE, and what must be copied or deleted.
    pub(crate) fn settle(
        &mut self,
        key: u64,
        before: Counters,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(entry) = self.table.get(key)
            && entry.state() == BlockState::Committed
            && self.live(entry) >= usize::from(view.config.min_replication)
        {
            out.push(Effect::Completed {
                block: entry.block(),
                inode: entry.inode(),
            });
            self.conclude(key, view);
        }
        let after = self.weigh(key, view);
        self.counters.replace(before, after);
        if view.populated {
            self.evaluate(key, view, out);
        }
    }

    /// A good FINALIZED replica.
    pub(crate) fn add_replica(
        &mut self,
        key: u64,
        storage: u32,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        let before = self.weigh(key, view);
        let node = view.nodes.node_of(storage);
        // A DataNode has one replica of a block: one in another of its storages was moved from there.
        for other in self.table.replicas(key) {
            if view.nodes.node_of(other) == node && other != storage {
                self.table.remove_replica(key, other);
                self.drop_excess(key, other);
            }
        }
        self.drop_corrupt(key, |replica| replica.storage != storage);
        if self
            .table
            .get(key)
            .is_some_and(|entry| !self.table.contains(entry, storage))
        {
            self.table.add_replica(key, storage);
        }
        self.arrived(key, node, out);
        self.settle(key, before, view, out);
    }

    /// A replica that is gone, whatever it was.
    pub(crate) fn remove_replica(
        &mut self,
        key: u64,
        storage: u32,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        let before = self.weigh(key, view);
        self.table.remove_replica(key, storage);
        self.drop_excess(key, storage);
        self.settle(key, before, view, out);
    }

    pub(crate) fn drop_excess(&mut self, key: u64, storage: u32) {
        if let Some(excess) = self.excess.get_mut(&key) {
            excess.retain(|other| *other != storage);
            if excess.is_empty() {
                self.excess.remove(&key);
                if let Some(entry) = self.table.get_mut(key) {
                    entry.set_excess(false);
                }
            }
        }
    }

    /// Keeps only the corrupt replicas `keep` says.
    pub(crate) fn drop_corrupt(&mut self, key: u64, mut keep: impl FnMut(&CorruptReplica) -> bool) {
        if let Some(corrupt) = self.corrupt.get_mut(&key) {
            corrupt.retain(|replica| keep(replica));
            if corrupt.is_empty() {
                self.corrupt.remove(&key);
                if let Some(entry) = self.table.get_mut(key) {
                    entry.set_corrupt(false);
                }
            }
        }
    }

    /// A block is gone: an active deletes every replica it knows of.
    fn remove(&mut self, key: u64, view: &View<'_>, out: &mut Vec<Effect>) {
        let before = self.weigh(key, view);
        self.leave_level(key);
        self.postponed.remove(&key);
        self.failed.remove(&key);
        if let Some(pending) = self.pending.remove(&key) {
            out.extend(pending.unassign());
        }
        if let Some(queued) = self.queued.remove(&key) {
            out.push(Effect::Dequeued {
                count: queued.len(),
            });
        }
        let corrupt = self.corrupt.remove(&key);
        let open = self.open.remove(&key);
        self.excess.remove(&key);
        let Some((entry, replicas)) = self.table.remove(key) else {
            return;
        };
        self.counters.subtract(before);
        if !view.active {
            return;
        }
        let good = replicas.into_iter().map(|storage| (storage, entry.block()));
        let bad = corrupt
            .into_iter()
            .flatten()
            .map(|replica| (replica.storage, replica.block));
        let open = open
            .into_iter()
            .flat_map(|open| open.reported)
            .map(|replica| (replica.storage, replica.block));
        for (storage, block) in good.chain(bad).chain(open) {
            if view.nodes.is_usable(storage) {
                out.push(Effect::Delete { storage, block });
            }
        }
    }

    /// Everything a storage held is gone (dead DataNode, failed volume).
    pub(crate) fn drop_storage(
        &mut self,
        storage: u32,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) -> u64 {
        let keys = self.table.keys_in(storage);
        for key in &keys {
            self.remove_replica(*key, storage, view, out);
        }
        let corrupt: Vec<u64> = self
            .corrupt
            .iter()
            .filter(|(_, replicas)| replicas.iter().any(|replica| replica.storage == storage))
            .map(|(key, _)| *key)
            .collect();
        for key in corrupt {
            self.drop_corrupt(key, |replica| replica.storage != storage);
        }
        for open in self.open.values_mut() {
            open.lose(storage);
        }
        self.queued.retain(|_, reports| {
            let before = reports.len();
            reports.retain(|report| report.storage != storage);
            if before > reports.len() {
                out.push(Effect::Dequeued {
                    count: before - reports.len(),
                });
            }
            !reports.is_empty()
        });
        self.digests.forget(storage);
        self.forget_remembered(storage, partition_keys(self.index), view);
        keys.len() as u64
    }

    /// Drops what waits for edits of the storages `of` says; returns how many reports that were.
    pub(crate) fn forget_queued(&mut self, of: impl Fn(u32) -> bool) -> usize {
        let keys: Vec<u64> = self
            .queued
            .iter()
            .filter(|(_, reports)| reports.iter().any(|report| of(report.storage)))
            .map(|(key, _)| *key)
            .collect();
        let mut dropped = 0;
        for key in keys {
            self.accounted(key, |partition| {
                let Some(reports) = partition.queued.get_mut(&key) else {
                    return;
                };
                let before = reports.len();
                reports.retain(|report| !of(report.storage));
                dropped += before - reports.len();
                if reports.is_empty() {
                    partition.queued.remove(&key);
                }
            });
        }
        dropped
    }

    /// Queues a report until an edit touches its block (F-01, T-D15: in order).
    pub(crate) fn queue(&mut self, report: QueuedReport, view: &View<'_>, out: &mut Vec<Effect>) {
        let queue = self.queued.entry(mix(report.block.id)).or_default();
        let mut earlier = queue.iter().rev();
        if earlier.find(|it| it.storage == report.storage) == Some(&report) {
            // Said again, by a full report: it waits already.
            return;
        }
        if queue.len() >= QUEUED_PER_BLOCK_MAX {
            queue.remove(0);
            out.push(Effect::Dequeued { count: 1 });
        }
        queue.push(report);
        out.push(Effect::Queued {
            node: view.nodes.node_of(report.storage),
        });
    }

    /// Whether a report of this storage for this block waits, so that later ones must wait behind it.
    pub(crate) fn is_queued(&self, key: u64, storage: u32) -> bool {
        !self.queued.is_empty()
            && self
                .queued
                .get(&key)
                .is_some_and(|queue| queue.iter().any(|report| report.storage == storage))
    }

    /// Takes what waits for a block and handles it again; it may queue again.
    pub(crate) fn replay_queued(&mut self, key: u64, view: &View<'_>, out: &mut Vec<Effect>) {
        if self.queued.is_empty() {
            return;
        }
        let Some(reports) = self.queued.remove(&key) else {
            return;
        };
        out.push(Effect::Dequeued {
            count: reports.len(),
        });
        for report in reports {
            match report.state {
                Some(state) => {
                    self.reported(report.storage, report.block, state, view, out);
                }
                None => self.deleted(report.storage, report.block, view, out),
            }
        }
    }

    /// Examples of complete blocks that are not safe (Q9).
    pub(crate) fn unsafe_blocks(&self, limit: usize, min: u16) -> Vec<(BlockId, InodeId)> {
        if self.counters.safe == self.counters.complete {
            return Vec::new();
        }
        self.table
            .iter()
            .filter(|entry| entry.is_complete() && self.live(entry) < usize::from(min))
            .take(limit)
            .map(|entry| (id_of(entry.key), entry.inode()))
            .collect()
    }
}
