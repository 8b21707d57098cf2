//! A full report against a partition, in one pass over both (protocols.md section 4).

use crate::digests::Leaves;
use crate::entry::{Entry, INLINE};
use crate::partition::{Counters, Partition};
use crate::session::MergeTally;
use crate::view::{Effect, View};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_proto::datanode::ReportEntries;
use hadal_types::{Block, BlockId, GenerationStamp, ReplicaState, mix};

/// The report is not sorted by key, or names a block twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unsorted {
    pub(crate) block: BlockId,
}

/// One packed entry.
pub(crate) fn entry_at(raw: &[u8]) -> Block {
    let word =
        |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().expect("a slice of eight bytes"));
    Block {
        id: BlockId(word(0)),
        generation_stamp: GenerationStamp(word(8)),
        length: word(16),
    }
}

/// Key of the packed entry at an index.
pub(crate) fn key_at(bytes: &[u8], index: usize) -> u64 {
    mix(entry_at(&bytes[index * ReportEntries::ENTRY_LEN..]).id)
}

/// How many packed entries have a key below `key`; they are sorted.
pub(crate) fn entries_below(bytes: &[u8], key: u64) -> usize {
    let (mut low, mut high) = (0, bytes.len() / ReportEntries::ENTRY_LEN);
    while low < high {
        let middle = low + (high - low) / 2;
        if key_at(bytes, middle) < key {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The first and the last key of a partition.
pub(crate) fn partition_keys(index: usize) -> (u64, u64) {
    let first = (index as u64) << 56;
    (first, first | (u64::MAX >> 8))
}

/// Entries of one report in one partition: sorted pieces that follow one another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported<'a> {
    pub(crate) storage: u32,
    pub(crate) chunks: &'a [Bytes],
    /// The range of keys they cover: a whole partition, or a leaf of it.
    pub(crate) keys: (u64, u64),
    /// Sorted keys of replicas of which newer is known than this report.
    pub(crate) newer: &'a [u64],
}

impl Reported<'_> {
    pub(crate) fn is_newer(&self, key: u64) -> bool {
        !self.newer.is_empty() && self.newer.binary_search(&key).is_ok()
    }

    fn contains(&self, key: u64) -> bool {
        self.find(key).is_some()
    }

    /// The replica listed under a key.
    pub(crate) fn find(&self, key: u64) -> Option<Block> {
        self.chunks.iter().find_map(|chunk| {
            let at = entries_below(chunk, key) * ReportEntries::ENTRY_LEN;
            let block = entry_at(chunk.get(at..at + ReportEntries::ENTRY_LEN)?);
            (mix(block.id) == key).then_some(block)
        })
    }
}

/// Whether the table has a replica of this block in a storage.
pub(crate) fn has(entry: &Entry, storage: u32, spill: &BTreeMap<u64, Vec<u32>>) -> bool {
    entry.inline().contains(&storage)
        || (usize::from(entry.count) > INLINE
            && spill
                .get(&entry.key)
                .is_some_and(|more| more.contains(&storage)))
}

/// Replicas of one storage that a pass adds to blocks of which nothing is kept beside the table.
struct Fresh {
    storage: u32,
    node: u32,
    /// Replicas of a block that leave safe mode.
    min: usize,
    /// Whether any may be added without a further look.
    wanted: bool,
    counters: Counters,
    added: u32,
}

impl Fresh {
    fn new(storage: u32, view: &View<'_>, counters: Counters) -> Self {
        Self {
            storage,
            node: view.nodes.node_of(storage),
            min: usize::from(view.config.min_replication),
            wanted: true,
            counters,
            added: 0,
        }
    }

    /// Adds a replica that the entry lacks, of its stamp and length; `false` when that takes more care.
    fn add(&mut self, entry: &mut Entry, view: &View<'_>) -> bool {
        let count = usize::from(entry.count);
        let wanted = usize::from(entry.replication);
        let simple = self.wanted
            && entry.is_plain()
            && view.nodes.leaving == 0
            && count < INLINE
            && count < wanted
            && !entry
                .inline()
                .iter()
                .any(|other| view.nodes.node_of(*other) == self.node);
        if simple {
            entry.set_replica(count, self.storage);
            entry.count += 1;
            self.added += 1;
            self.counters.missing -= u64::from(count == 0);
            self.counters.safe += u64::from(count + 1 == self.min);
            self.counters.under -= u64::from(count + 1 == wanted);
        }
        simple
    }

    /// The end of the pass.
    fn settle(self, partition: &mut Partition) {
        partition.counters = self.counters;
        partition.table.counts[self.storage as usize] += self.added;
    }
}

impl Partition {
    /// Takes in everything a storage has in a range of this partition; what it is known to have and does not list is gone.
    ///
    /// The pass touches only what it must: a replica that is known costs a comparison; one that is new costs a push.
    /// Whether anything is missing is seen from the count alone, so a storage with few replicas in a large map
    /// does not pay for the map.
    pub(crate) fn merge(
        &mut self,
        report: Reported<'_>,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<MergeTally, Unsorted> {
        let storage = report.storage;
        self.forget_remembered(storage, report.keys, view);
        let mut tally = MergeTally::default();
        let mut odd: Vec<Block> = Vec::new();
        let known = self.pass(report, view, &mut odd, &mut tally)?;
        let whole = report.keys == partition_keys(self.index);
        if !whole || u64::from(self.table.count(storage)) != known || !report.newer.is_empty() {
            for key in self.missing_from(report) {
                self.accounted(key, |partition| {
                    partition.remove_replica(key, storage, view, out);
                });
                tally.removed += 1;
            }
        }
        if !self.corrupt.is_empty() {
            let gone: Vec<u64> = self
                .corrupt
                .range(report.keys.0..=report.keys.1)
                .filter(|(key, replicas)| {
                    replicas.iter().any(|replica| replica.storage == storage)
                        && !report.is_newer(**key)
                        && !report.contains(**key)
                })
                .map(|(key, _)| *key)
                .collect();
            for key in gone {
                self.accounted(key, |partition| {
                    partition.drop_corrupt(key, |replica| replica.storage != storage);
                });
            }
        }
        for block in odd {
            let before = out.len();
            self.accounted(mix(block.id), |partition| {
                partition.reported(storage, block, ReplicaState::Finalized, view, out);
            });
            let unknown = out[before..]
                .iter()
                .any(|effect| matches!(effect, Effect::Unknown { .. }));
            tally.unknown += u64::from(unknown);
        }
        Ok(tally)
    }

    /// The pass itself; returns how many listed replicas the table has for this storage, and lists the odd ones.
    fn pass(
        &mut self,
        report: Reported<'_>,
        view: &View<'_>,
        odd: &mut Vec<Block>,
        tally: &mut MergeTally,
    ) -> Result<u64, Unsorted> {
        let storage = report.storage;
        self.table.ensure_storages(storage as usize + 1);
        // A queue may hold reports of this block only on a standby, then they come first.
        let mut fresh = Fresh::new(storage, view, self.counters);
        fresh.wanted = view.active || self.queued.is_empty();
        let mut known = 0u64;
        let (mut floor, ceiling) = report.keys;
        let (mut bucket, mut at) = (usize::MAX, 0);
        for chunk in report.chunks {
            for raw in chunk.chunks_exact(ReportEntries::ENTRY_LEN) {
                let block = entry_at(raw);
                let key = mix(block.id);
                if key < floor || key > ceiling {
                    fresh.settle(self);
                    return Err(Unsorted { block: block.id });
                }
                // A key is listed once: the next one must be greater. The greatest key of all has no successor.
                floor = key.saturating_add(1);
                tally.replicas += 1;
                if report.is_newer(key) {
                    continue;
                }
                let home = self.table.bucket_of(key);
                if home != bucket {
                    (bucket, at) = (home, 0);
                }
                let entries = &mut self.table.buckets[home];
                while at < entries.len() && entries[at].key < key {
                    at += 1;
                }
                let Some(entry) = entries.get_mut(at).filter(|entry| entry.key == key) else {
                    odd.push(block);
                    continue;
                };
                let has = has(entry, storage, &self.table.spill);
                if entry.is_complete() && entry.matches(&block) {
                    if has {
                        known += 1;
                        continue;
                    }
                    if fresh.add(entry, view) {
                        known += 1;
                        self.digests.add(storage, key, &block);
                        tally.added += 1;
                        continue;
                    }
                }
                known += u64::from(has);
                odd.push(block);
            }
        }
        fresh.settle(self);
        Ok(known)
    }

    /// As if the storage had listed its replicas of these blocks, in the stamps and lengths they have. Keys rise; `sums`
    /// are the digests of all of them, where they are known. Returns how many were new and added, and the keys of those
    /// that take more care.
    pub(crate) fn pass_keys(
        &mut self,
        storage: u32,
        keys: &[u64],
        sums: Option<&Leaves>,
        view: &View<'_>,
    ) -> (u64, Vec<u64>) {
        self.table.ensure_storages(storage as usize + 1);
        let mut fresh = Fresh::new(storage, view, self.counters);
        fresh.wanted = self.queued.is_empty();
        let (mut added, mut odd) = (0, Vec::new());
        let (mut bucket, mut at) = (usize::MAX, 0);
        for key in keys {
            let home = self.table.bucket_of(*key);
            if home != bucket {
                (bucket, at) = (home, 0);
            }
            let entries = &mut self.table.buckets[home];
            while at < entries.len() && entries[at].key < *key {
                at += 1;
            }
            let Some(entry) = entries.get_mut(at).filter(|entry| entry.key == *key) else {
                continue;
            };
            if !has(entry, storage, &self.table.spill) && fresh.add(entry, view) {
                if sums.is_none() {
                    let block = entry.block();
                    self.digests.add(storage, *key, &block);
                }
                added += 1;
            } else {
                odd.push(*key);
            }
        }
        fresh.settle(self);
        match sums {
            Some(sums) if added == keys.len() as u64 => self.digests.add_leaves(storage, sums),
            Some(_) => {
                // The others are accounted for as they are taken care of.
                let mut others = odd.iter().peekable();
                for entry in self.table.walk(keys) {
                    if others.next_if(|other| **other == entry.key).is_none() {
                        self.digests.add(storage, entry.key, &entry.block());
                    }
                }
            }
            None => {}
        }
        (added, odd)
    }

    /// Keys of replicas known in a storage and not in its report.
    fn missing_from(&self, report: Reported<'_>) -> Vec<u64> {
        let mut listed = report
            .chunks
            .iter()
            .flat_map(|chunk| chunk.chunks_exact(ReportEntries::ENTRY_LEN))
            .map(|raw| mix(entry_at(raw).id))
            .peekable();
        let mut missing = Vec::new();
        let (first, last) = report.keys;
        for key in self.table.keys_between(report.storage, first, last) {
            while listed.next_if(|listed| *listed < key).is_some() {}
            if listed.peek() != Some(&key) && !report.is_newer(key) {
                missing.push(key);
            }
        }
        missing
    }
}
