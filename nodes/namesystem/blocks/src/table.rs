//! The sorted table of one partition: an order-preserving hash table.
//!
//! `mix` spreads ids evenly, so the key's leading bits say which small sorted bucket an entry is in: a look-up reads
//! one bucket, a full report walks all of them in its own order.

use crate::digests::PartitionDigests;
use crate::entry::{Entry, INLINE, REPLICAS_MAX};
use crate::loading::Piece;
use crate::merge::has;
use crate::remembered::Remembered;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use smallvec::SmallVec;

/// Average entries per bucket at which the number of buckets doubles.
const BUCKET_MAX: usize = 64;
/// Entries by which a full bucket grows; small, since what is spare here is spare in every bucket.
const BUCKET_STEP: usize = 4;

#[derive(Debug)]
pub(crate) struct BlockTable {
    pub(crate) buckets: Vec<Vec<Entry>>,
    bits: u32,
    len: usize,
    /// Replicas beyond the inline ones.
    pub(crate) spill: BTreeMap<u64, Vec<u32>>,
    /// Replicas in this table per storage index. Equal to what a report confirmed: nothing is missing from it, and
    /// the table need not be searched.
    pub(crate) counts: Vec<u32>,
    /// Entries of an image, unsorted, until something else happens to the table: sorting them once costs a tenth of
    /// inserting them one by one.
    staged: Vec<Piece>,
}

impl BlockTable {
    pub(crate) fn new() -> Self {
        Self {
            buckets: alloc::vec![Vec::new()],
            bits: 0,
            len: 0,
            spill: BTreeMap::new(),
            counts: Vec::new(),
            staged: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        let staged = self.staged.iter().map(|piece| piece.entries.len());
        self.len + staged.sum::<usize>()
    }

    /// Takes entries of an image.
    pub(crate) fn add_piece(&mut self, piece: Piece) {
        self.staged.push(piece);
    }

    /// Where entries of an image are added one by one.
    pub(crate) fn open_piece(&mut self) -> &mut Piece {
        if self.staged.is_empty() {
            self.staged.push(Piece::default());
        }
        self.staged.last_mut().expect("there is one")
    }

    pub(crate) fn is_staged(&self) -> bool {
        self.staged.iter().any(|piece| !piece.entries.is_empty())
    }

    /// Places of storages that staged entries came with.
    pub(crate) fn staged_places(&self) -> usize {
        self.staged.iter().map(Piece::places).sum()
    }

    /// Sorts in what was staged; returns entries whose key was there already, which are dropped. `remembered` takes
    /// the places they came with.
    pub(crate) fn unstage(
        &mut self,
        remembered: &mut Remembered,
        digests: &PartitionDigests,
    ) -> Vec<Entry> {
        let staged = core::mem::take(&mut self.staged);
        let mut twice = Vec::new();
        if self.len > 0 {
            // What is remembered of blocks that came after the others is not worth the care.
            for mut entry in staged.into_iter().flat_map(|piece| piece.entries) {
                entry.clear_places();
                if self.get(entry.key).is_some() {
                    twice.push(entry);
                } else {
                    self.insert(entry);
                }
            }
            return twice;
        }
        let len: usize = staged.iter().map(|piece| piece.entries.len()).sum();
        while len >= BUCKET_MAX << self.bits && self.bits < 40 {
            self.bits += 1;
        }
        // Keys are spread evenly: dealt out to their buckets, few are left to sort in each.
        let mut counts = alloc::vec![0usize; 1 << self.bits];
        for entry in staged.iter().flat_map(|piece| &piece.entries) {
            counts[self.bucket_of(entry.key)] += 1;
        }
        let mut buckets: Vec<Vec<Entry>> = counts
            .into_iter()
            .map(|count| Vec::with_capacity(count + BUCKET_STEP / 2))
            .collect();
        let mut more = Vec::new();
        for piece in staged {
            more.extend(piece.more);
            for entry in piece.entries {
                buckets[self.bucket_of(entry.key)].push(entry);
            }
        }
        let mut places = !more.is_empty();
        for bucket in &mut buckets {
            bucket.sort_unstable_by_key(|entry| entry.key);
            bucket.dedup_by(|second, first| {
                let same = second.key == first.key;
                if same {
                    twice.push(second.clone());
                }
                same
            });
            self.len += bucket.len();
            places |= bucket.iter().any(|entry| entry.places().next().is_some());
        }
        if places {
            more.sort_unstable();
            let inline = buckets.iter().flatten().flat_map(Entry::places);
            remembered.make_room(inline.chain(more.iter().map(|(_, place)| *place)));
            let mut more = more.into_iter().peekable();
            for entry in buckets.iter().flatten() {
                let mut here: SmallVec<[u32; 8]> = entry.places().collect();
                while let Some((_, place)) = more.next_if(|(key, _)| *key == entry.key) {
                    here.push(place);
                }
                if !here.is_empty() {
                    let closed = entry.is_complete();
                    let digest = closed.then(|| digests.hash(&entry.block()));
                    remembered.fill(entry.key, &here, digest);
                }
            }
        }
        for entry in buckets.iter_mut().flatten() {
            entry.clear_places();
        }
        self.buckets = buckets;
        twice
    }

    /// Bytes of its buckets, spare room included.
    pub(crate) fn allocated(&self) -> usize {
        self.buckets.capacity() * size_of::<Vec<Entry>>()
            + self
                .buckets
                .iter()
                .map(|bucket| bucket.capacity() * size_of::<Entry>())
                .sum::<usize>()
    }

    /// The bucket of a key: the bits behind the partition's eight.
    pub(crate) fn bucket_of(&self, key: u64) -> usize {
        ((key << 8).checked_shr(64 - self.bits).unwrap_or(0)) as usize
    }

    pub(crate) fn get(&self, key: u64) -> Option<&Entry> {
        let mut staged = self.staged.iter().flat_map(|piece| &piece.entries);
        if let Some(entry) = staged.find(|entry| entry.key == key) {
            return Some(entry);
        }
        let bucket = &self.buckets[self.bucket_of(key)];
        bucket
            .binary_search_by_key(&key, |entry| entry.key)
            .ok()
            .map(|at| &bucket[at])
    }

    /// The entries of those of these keys that are there. Keys rise: a pass over the buckets, not a search for each.
    pub(crate) fn walk<'a>(&'a self, keys: &'a [u64]) -> impl Iterator<Item = &'a Entry> {
        let (mut bucket, mut at) = (usize::MAX, 0);
        keys.iter().filter_map(move |key| {
            let home = self.bucket_of(*key);
            if home != bucket {
                (bucket, at) = (home, 0);
            }
            let entries = &self.buckets[home];
            while at < entries.len() && entries[at].key < *key {
                at += 1;
            }
            entries.get(at).filter(|entry| entry.key == *key)
        })
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut Entry> {
        let at = self.bucket_of(key);
        let bucket = &mut self.buckets[at];
        match bucket.binary_search_by_key(&key, |entry| entry.key) {
            Ok(at) => Some(&mut bucket[at]),
            Err(_) => None,
        }
    }

    /// Adds an entry; `false` (and nothing done) when the key is there.
    pub(crate) fn insert(&mut self, entry: Entry) -> bool {
        if self.len >= BUCKET_MAX << self.bits && self.bits < 40 {
            self.grow();
        }
        let at = self.bucket_of(entry.key);
        let bucket = &mut self.buckets[at];
        match bucket.binary_search_by_key(&entry.key, |entry| entry.key) {
            Ok(_) => false,
            Err(at) => {
                if bucket.len() == bucket.capacity() {
                    bucket.reserve_exact(BUCKET_STEP);
                }
                bucket.insert(at, entry);
                self.len += 1;
                true
            }
        }
    }

    fn grow(&mut self) {
        let mut buckets = Vec::with_capacity(self.buckets.len() * 2);
        for bucket in core::mem::take(&mut self.buckets) {
            // The next key bit splits a sorted bucket in two sorted halves.
            let bit = 1u64 << (64 - 8 - 1 - self.bits);
            let at = bucket.partition_point(|entry| entry.key & bit == 0);
            // Both move: shrunk in place, the lower one would keep the memory of the whole with many an allocator.
            buckets.push(with_room(&bucket[..at]));
            buckets.push(with_room(&bucket[at..]));
        }
        self.buckets = buckets;
        self.bits += 1;
    }

    /// Removes an entry with its replicas, which it returns.
    pub(crate) fn remove(&mut self, key: u64) -> Option<(Entry, Vec<u32>)> {
        let replicas = self.replicas(key);
        let at = self.bucket_of(key);
        let bucket = &mut self.buckets[at];
        let at = bucket.binary_search_by_key(&key, |entry| entry.key).ok()?;
        let entry = bucket.remove(at);
        if bucket.capacity() > bucket.len() + 8 * BUCKET_STEP {
            bucket.shrink_to(bucket.len() + BUCKET_STEP);
        }
        self.len -= 1;
        self.spill.remove(&key);
        for storage in &replicas {
            self.counts[*storage as usize] -= 1;
        }
        Some((entry, replicas))
    }

    /// Replicas of this partition in a storage.
    pub(crate) fn count(&self, storage: u32) -> u32 {
        self.counts.get(storage as usize).copied().unwrap_or(0)
    }

    /// Makes room for counts of storages below `storages`.
    pub(crate) fn ensure_storages(&mut self, storages: usize) {
        if self.counts.len() < storages {
            self.counts.resize(storages, 0);
        }
    }

    /// All replicas of a block in order of arrival.
    pub(crate) fn replicas(&self, key: u64) -> Vec<u32> {
        let Some(entry) = self.get(key) else {
            return Vec::new();
        };
        let mut all = entry.inline().to_vec();
        if usize::from(entry.count) > INLINE
            && let Some(more) = self.spill.get(&key)
        {
            all.extend_from_slice(more);
        }
        all
    }

    pub(crate) fn contains(&self, entry: &Entry, storage: u32) -> bool {
        has(entry, storage, &self.spill)
    }

    /// Adds a replica that is not there yet; `false` when the block is unknown or full.
    pub(crate) fn add_replica(&mut self, key: u64, storage: u32) -> bool {
        self.ensure_storages(storage as usize + 1);
        let Some(entry) = self.get_mut(key) else {
            return false;
        };
        if entry.count >= REPLICAS_MAX {
            return false;
        }
        let at = usize::from(entry.count);
        entry.count += 1;
        if at < INLINE {
            entry.set_replica(at, storage);
        } else {
            self.spill.entry(key).or_default().push(storage);
        }
        self.counts[storage as usize] += 1;
        true
    }

    /// Drops a replica; `false` when it was not there.
    pub(crate) fn remove_replica(&mut self, key: u64, storage: u32) -> bool {
        let mut all = self.replicas(key);
        let Some(at) = all.iter().position(|other| *other == storage) else {
            return false;
        };
        all.remove(at);
        if all.len() > INLINE {
            self.spill.insert(key, all[INLINE..].to_vec());
        } else {
            self.spill.remove(&key);
        }
        if let Some(entry) = self.get_mut(key) {
            entry.count -= 1;
            for (at, storage) in all.iter().take(INLINE).enumerate() {
                entry.set_replica(at, *storage);
            }
        }
        self.counts[storage as usize] -= 1;
        true
    }

    /// Entries in key order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flatten()
    }

    /// Entries behind a key, in key order.
    pub(crate) fn after(&self, key: u64) -> impl Iterator<Item = &Entry> {
        self.buckets[self.bucket_of(key)..]
            .iter()
            .flatten()
            .filter(move |entry| entry.key > key)
    }

    /// Keys of blocks with a replica in this storage, in order.
    pub(crate) fn keys_in(&self, storage: u32) -> Vec<u64> {
        self.keys_between(storage, 0, u64::MAX)
    }

    /// Those of them from `first` to `last`. Both within this table's partition, or 0 and the greatest key.
    pub(crate) fn keys_between(&self, storage: u32, first: u64, last: u64) -> Vec<u64> {
        if self.count(storage) == 0 {
            return Vec::new();
        }
        self.buckets[self.bucket_of(first)..=self.bucket_of(last)]
            .iter()
            .flatten()
            .filter(|entry| (first..=last).contains(&entry.key) && self.contains(entry, storage))
            .map(|entry| entry.key)
            .collect()
    }
}

/// A bucket of these entries, and as many more as it grows by.
fn with_room(entries: &[Entry]) -> Vec<Entry> {
    let mut bucket = Vec::with_capacity(entries.len() + BUCKET_STEP);
    bucket.extend_from_slice(entries);
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{Block, BlockId, BlockState, GenerationStamp, InodeId, U48, mix, unmix};

    fn entry(id: u64) -> Entry {
        let block = Block {
            id: BlockId(id),
            generation_stamp: GenerationStamp(1),
            length: id & U48::MAX,
        };
        Entry::new(mix(block.id), block, InodeId(2), 3, BlockState::Complete)
    }

    #[test]
    fn stays_sorted_and_complete_while_it_grows_and_shrinks() {
        // Keys of one partition, so that the bits behind the partition's are what spreads them.
        let ids: Vec<u64> = (0..40_000u64)
            .map(|n| unmix((7 << 56) | (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8)).0)
            .collect();
        let mut table = BlockTable::new();
        for id in &ids {
            assert!(table.insert(entry(*id)));
            assert!(!table.insert(entry(*id)), "twice");
        }
        assert_eq!(table.len(), ids.len());
        assert!(
            table
                .iter()
                .zip(table.iter().skip(1))
                .all(|(a, b)| a.key < b.key)
        );
        assert!(table.buckets.len() >= ids.len() / BUCKET_MAX);
        for id in &ids {
            assert_eq!(table.get(mix(BlockId(*id))).unwrap().block().id.0, *id);
        }
        let waste = table.allocated() as f64 / (ids.len() * size_of::<Entry>()) as f64;
        assert!(waste < 1.25, "{waste}");
        for id in ids.iter().step_by(2) {
            assert!(table.remove(mix(BlockId(*id))).is_some());
        }
        assert_eq!(table.iter().count(), ids.len() / 2);
        let half = mix(BlockId(ids[1]));
        assert!(table.after(half).all(|entry| entry.key > half));
    }

    #[test]
    fn replicas_spill_past_three_and_come_back() {
        let mut table = BlockTable::new();
        table.insert(entry(1));
        let key = mix(BlockId(1));
        for storage in 0..6 {
            assert!(table.add_replica(key, storage));
        }
        assert_eq!(table.replicas(key), [0, 1, 2, 3, 4, 5]);
        assert!(table.remove_replica(key, 1));
        assert!(!table.remove_replica(key, 1));
        assert_eq!(table.replicas(key), [0, 2, 3, 4, 5]);
        assert!(table.contains(table.get(key).unwrap(), 5));
        for storage in [0, 5, 3, 4] {
            assert!(table.remove_replica(key, storage));
        }
        assert_eq!(table.replicas(key), [2]);
        assert!(table.spill.is_empty());
        assert_eq!(table.counts, [0, 0, 1, 0, 0, 0]);
        assert_eq!(table.remove(key).unwrap().1, [2]);
        assert_eq!(table.count(2), 0);
    }
}
