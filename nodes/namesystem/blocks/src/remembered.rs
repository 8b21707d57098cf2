//! Locations an image remembers (protocols.md section 4, restart): believed of nobody until the storage's digest proves
//! them.
//!
//! They are kept beside the map, as keys per storage, and count for nothing: no reader is given one, safe mode, copying
//! and deletion do not see them. When a storage that an image knew sends digests, they are compared with the sum of what
//! it is known to hold and what is remembered of it. Where they are equal the DataNode has exactly those replicas, in the
//! stamps and lengths that blocks have now, and they enter the map as if it had listed them. Whatever it says of a
//! block or a range by other means replaces what is remembered of them. What an edit did to a block meanwhile counts: the
//! digests compared are those of blocks as they are then.
//!
//! The digests of what is remembered are added up once for all storages, in the pass that sorts an image's blocks in: a
//! block is hashed once, not once per storage. Blocks that something was done to since are few, are noted with what they
//! were then, and set right in every comparison. So whatever changes stamp, length or state of a block goes through
//! [`Partition::accounted`], which notes it.

use crate::digests::{Leaves, PARTITION_LEAVES};
use crate::entry::Entry;
use crate::manager::BlockManager;
use crate::merge::partition_keys;
use crate::partition::Partition;
use crate::view::{Effect, View};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use hadal_types::{
    Block, BlockId, DatanodeUuid, Digest, ReplicaState, StorageUuid, digest_leaf, digest_leaf_keys,
    mix, partition_of, unmix,
};

/// Blocks of a partition noted as changed; past it the digests are added up anew for each storage.
const CHANGED_MAX: usize = 256;

/// What is remembered in one partition: by the image's place of a storage, keys of blocks, sorted.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    lists: Vec<Vec<u64>>,
    /// Keys in all lists.
    left: usize,
    /// By place: digests of the closed blocks of its list as they were loaded; `None` once the list has lost some of them.
    sums: Vec<Option<Box<Leaves>>>,
    /// Blocks that something was done to since, with the closed block each was when it was loaded.
    changed: BTreeMap<u64, Option<Block>>,
    /// The newest block of the image: nothing is remembered of those behind it.
    newest: u64,
}

impl Remembered {
    /// Nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Bytes it takes.
    pub(crate) fn allocated(&self) -> usize {
        let lists = self
            .lists
            .iter()
            .map(|list| list.capacity() * size_of::<u64>());
        let sums = self.sums.iter().flatten().count() * size_of::<Leaves>();
        self.lists.capacity() * size_of::<Vec<u64>>()
            + lists.sum::<usize>()
            + self.sums.capacity() * size_of::<Option<Box<Leaves>>>()
            + sums
    }

    /// A block of the image.
    pub(crate) fn note_loaded(&mut self, block: BlockId) {
        self.newest = self.newest.max(block.0);
    }

    /// Something will be done to a block, which is this closed one.
    fn note_change(&mut self, key: u64, block: impl FnOnce() -> Option<Block>) {
        if self.sums.is_empty() || unmix(key).0 > self.newest || self.changed.contains_key(&key) {
            return;
        }
        if self.changed.len() < CHANGED_MAX {
            self.changed.insert(key, block());
        } else {
            self.sums = Vec::new();
            self.changed = BTreeMap::new();
        }
    }

    /// The sums of a place, if they are those of all that is in its list.
    fn sums_of(&self, place: u32) -> Option<&Leaves> {
        self.sums.get(place as usize)?.as_deref()
    }

    /// Makes room for as many keys as there are places.
    pub(crate) fn make_room(&mut self, places: impl Iterator<Item = u32>) {
        let mut counts: Vec<usize> = Vec::new();
        for place in places {
            let place = place as usize;
            if counts.len() <= place {
                counts.resize(place + 1, 0);
            }
            counts[place] += 1;
        }
        if self.lists.len() < counts.len() {
            self.lists.resize_with(counts.len(), Vec::new);
        }
        for (list, count) in self.lists.iter_mut().zip(counts) {
            list.reserve_exact(count);
        }
        self.sums.resize_with(self.lists.len(), || None);
    }

    /// Takes a block that is remembered in these places; keys rise. `digest` is that of a closed block. Room was made.
    pub(crate) fn fill(&mut self, key: u64, places: &[u32], digest: Option<Digest>) {
        let leaf = digest_leaf(key) % PARTITION_LEAVES;
        for place in places {
            let place = *place as usize;
            let list = &mut self.lists[place];
            if list.last() != Some(&key) {
                list.push(key);
                self.left += 1;
                let sums = self.sums[place].get_or_insert_default();
                if let Some(digest) = digest {
                    sums[leaf].add(digest);
                }
            }
        }
    }

    /// Those of the keys of a list that something was done to.
    fn changed_in<'a>(
        &'a self,
        list: &'a [u64],
    ) -> impl Iterator<Item = (u64, Option<Block>)> + 'a {
        self.changed
            .iter()
            .filter(|(key, _)| list.binary_search(key).is_ok())
            .map(|(key, was)| (*key, *was))
    }

    fn list(&self, place: u32) -> &[u64] {
        self.lists
            .get(place as usize)
            .map_or(&[], |list| list.as_slice())
    }

    /// Takes out the keys of a storage in a range.
    fn take(&mut self, place: u32, (first, last): (u64, u64)) -> Vec<u64> {
        let Some(list) = self.lists.get_mut(place as usize) else {
            return Vec::new();
        };
        let from = list.partition_point(|key| *key < first);
        let to = list.partition_point(|key| *key <= last);
        let taken: Vec<u64> = if to - from == list.len() {
            core::mem::take(list)
        } else {
            list.drain(from..to).collect()
        };
        if !taken.is_empty()
            && let Some(sums) = self.sums.get_mut(place as usize)
        {
            *sums = None;
        }
        self.left -= taken.len();
        if self.left == 0 {
            self.lists = Vec::new();
            self.sums = Vec::new();
            self.changed = BTreeMap::new();
        }
        taken
    }
}

impl Partition {
    /// The replicas remembered locations would be: those of closed blocks of which nothing is known in this storage.
    fn recalled<'a>(
        &'a self,
        keys: &'a [u64],
        storage: u32,
    ) -> impl Iterator<Item = (u64, Block)> + 'a {
        let entries = self.table.walk(keys);
        entries.filter_map(move |entry| Some((entry.key, self.recall(entry, storage)?)))
    }

    fn recall(&self, entry: &Entry, storage: u32) -> Option<Block> {
        let nothing_known = if entry.is_plain() && self.queued.is_empty() {
            !self.table.contains(entry, storage)
        } else {
            self.believes(entry.key, storage).is_none()
        };
        (entry.is_complete() && nothing_known).then(|| entry.block())
    }

    /// Adds the digests of what is remembered of a storage, leaf by leaf.
    fn add_recalled(&self, place: u32, storage: u32, leaves: &mut Leaves) {
        let list = self.remembered.list(place);
        let Some(sums) = self.remembered.sums_of(place) else {
            for (key, block) in self.recalled(list, storage) {
                leaves[digest_leaf(key) % PARTITION_LEAVES].add(self.digests.hash(&block));
            }
            return;
        };
        for (leaf, sum) in leaves.iter_mut().zip(sums) {
            leaf.add(*sum);
        }
        for (key, was) in self.remembered.changed_in(list) {
            let leaf = &mut leaves[digest_leaf(key) % PARTITION_LEAVES];
            if let Some(was) = was {
                leaf.subtract(self.digests.hash(&was));
            }
            let entry = self.table.get(key);
            if let Some(block) = entry.and_then(|entry| self.recall(entry, storage)) {
                leaf.add(self.digests.hash(&block));
            }
        }
    }

    /// Something will be done to a block.
    pub(crate) fn note_change(&mut self, key: u64) {
        if !self.remembered.is_empty() {
            let table = &self.table;
            self.remembered.note_change(key, || {
                let entry = table.get(key).filter(|entry| entry.is_complete());
                entry.map(Entry::block)
            });
        }
    }

    /// The storage's digests of a range proved what is remembered there: it is as if the DataNode had listed it.
    fn confirm(
        &mut self,
        (place, storage): (u32, u32),
        keys: (u64, u64),
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) -> u64 {
        let sums = self.sums_unchanged(place);
        let confirmed = self.remembered.take(place, keys);
        let whole = keys == partition_keys(self.index);
        let sums = sums.as_ref().filter(|_| whole);
        let (mut replicas, odd) = self.pass_keys(storage, &confirmed, sums, view);
        for key in odd {
            let entry = self.table.get(key);
            let Some(block) = entry.and_then(|entry| self.recall(entry, storage)) else {
                continue;
            };
            replicas += 1;
            self.accounted(key, |partition| {
                partition.reported(storage, block, ReplicaState::Finalized, view, out);
            });
        }
        replicas
    }

    /// Whether the sums are those of the lists as they were loaded; a pass over everything, for tests.
    pub(crate) fn sums_hold(&self) -> bool {
        let remembered = &self.remembered;
        let closed = |key: &u64| match remembered.changed.get(key) {
            Some(was) => *was,
            None => {
                let entry = self.table.get(*key).filter(|entry| entry.is_complete());
                entry.map(Entry::block)
            }
        };
        remembered.sums.iter().enumerate().all(|(place, sums)| {
            let Some(sums) = sums else { return true };
            let mut anew = Leaves::default();
            for key in &remembered.lists[place] {
                if let Some(block) = closed(key) {
                    anew[digest_leaf(*key) % PARTITION_LEAVES].add(self.digests.hash(&block));
                }
            }
            anew == **sums
        })
    }

    /// The sums of a place, if nothing was done to any block of its list.
    fn sums_unchanged(&self, place: u32) -> Option<Leaves> {
        let sums = self.remembered.sums_of(place)?;
        let list = self.remembered.list(place);
        let changed = self.remembered.changed_in(list).next();
        changed.is_none().then_some(*sums)
    }

    /// The DataNode spoke of this block itself.
    pub(crate) fn unremember(&mut self, key: u64, storage: u32, view: &View<'_>) {
        if !self.remembered.is_empty()
            && let Some(place) = view.nodes.storage(storage).remembered
        {
            self.remembered.take(place, (key, key));
        }
    }

    /// The DataNode listed all it has in a range, or the storage is gone.
    pub(crate) fn forget_remembered(&mut self, storage: u32, keys: (u64, u64), view: &View<'_>) {
        if !self.remembered.is_empty()
            && let Some(place) = view.nodes.storage(storage).remembered
        {
            self.remembered.take(place, keys);
        }
    }

    /// A storage that never came.
    fn forget_place(&mut self, place: u32) {
        self.remembered.take(place, partition_keys(self.index));
    }
}

/// Saving.
impl BlockManager {
    /// All storages by the numbers that [`Self::each_replica`] uses; `None` for one that is gone.
    #[must_use]
    pub fn storages(&self) -> Vec<Option<(DatanodeUuid, StorageUuid)>> {
        self.nodes
            .storages
            .iter()
            .map(|storage| {
                let known = !storage.gone && self.nodes.is_known(storage.node);
                known.then(|| (self.nodes.node(storage.node).uuid, storage.uuid))
            })
            .collect()
    }

    /// Where good FINALIZED replicas of a block are known to be, confirmed ones only.
    pub fn each_replica(&self, block: BlockId, f: impl FnMut(u32)) {
        let table = &self.partitions[partition_of(block)].table;
        table.replicas(mix(block)).into_iter().for_each(f);
    }
}

/// Comparing.
impl BlockManager {
    /// Leaf by leaf what a storage must hold if what is known and what is remembered of it is right.
    pub(crate) fn expected_leaves(&self, storage: u32) -> Box<[Digest]> {
        let mut leaves = self.leaves_of(storage);
        if let Some(place) = self.nodes.storage(storage).remembered {
            let (chunks, _) = leaves.as_chunks_mut::<PARTITION_LEAVES>();
            for (partition, leaves) in self.partitions.iter().zip(chunks) {
                partition.add_recalled(place, storage, leaves);
            }
        }
        leaves
    }

    /// The leaves from `first` to `last` agree.
    pub(crate) fn confirm_leaves(&mut self, storage: u32, first: usize, last: usize) -> u64 {
        let Some(place) = self.nodes.storage(storage).remembered else {
            return 0;
        };
        let keys = (digest_leaf_keys(first).0, digest_leaf_keys(last).1);
        let mut replicas = 0;
        for at in (keys.0 >> 56) as usize..=(keys.1 >> 56) as usize {
            let whole = partition_keys(at);
            let keys = (keys.0.max(whole.0), keys.1.min(whole.1));
            if !self.partitions[at].remembered.is_empty() {
                replicas += self.with_partition(at, |partition, view, out| {
                    partition.confirm((place, storage), keys, view, out)
                });
            }
        }
        replicas
    }

    /// Nothing is remembered of this storage any more: all of it was compared, or it is gone.
    pub(crate) fn end_remembering(&mut self, storage: u32) {
        if let Some(place) = self.nodes.forget_remembered(storage) {
            for partition in &mut self.partitions {
                partition.forget_place(place);
            }
        }
    }

    /// Storages that have not come by now are not waited for: a decommissioned one's locations were kept for ever.
    pub(crate) fn end_remembering_absent(&mut self) {
        for place in self.nodes.forget_absent() {
            for partition in &mut self.partitions {
                partition.forget_place(place);
            }
        }
    }

    /// Locations remembered and not proved yet.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.partitions
            .iter()
            .map(|partition| partition.unconfirmed() as u64)
            .sum()
    }
}

impl Partition {
    fn unconfirmed(&self) -> usize {
        self.remembered.left + self.table.staged_places()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::GenerationStamp;

    /// Sums stand for lists as they were loaded, with what was done since noted, or are given up.
    #[test]
    fn sums_are_those_of_the_lists_or_none() {
        let ids = 0..2_000u64;
        let mut keys: Vec<u64> = ids.map(|id| mix(BlockId(id))).collect();
        keys.sort_unstable();
        let mut remembered = Remembered::default();
        remembered.note_loaded(BlockId(1_999));
        remembered.make_room(keys.iter().flat_map(|_| [0, 2, 2]));
        for key in &keys {
            // The second time in one place counts for nothing.
            remembered.fill(*key, &[0, 2, 2], Some(Digest(u128::from(*key))));
        }
        assert_eq!(remembered.left, 2 * keys.len());
        let sum = |remembered: &Remembered, place: u32| -> Option<Digest> {
            Some(remembered.sums_of(place)?.iter().copied().sum())
        };
        let all = Some(keys.iter().map(|key| Digest(u128::from(*key))).sum());
        assert_eq!((sum(&remembered, 0), sum(&remembered, 2)), (all, all));
        assert_eq!(sum(&remembered, 1), None);

        assert_eq!(remembered.take(2, (keys[3], keys[3])), [keys[3]]);
        assert_eq!((sum(&remembered, 0), sum(&remembered, 2)), (all, None));

        let block = Block {
            id: BlockId(7),
            generation_stamp: GenerationStamp(1),
            length: 5,
        };
        // One behind the image is nowhere remembered.
        remembered.note_change(mix(BlockId(2_000)), || unreachable!("not looked at"));
        remembered.note_change(mix(BlockId(7)), || Some(block));
        remembered.note_change(mix(BlockId(7)), || unreachable!("noted already"));
        let changed: Vec<_> = remembered.changed_in(&keys).collect();
        assert_eq!(changed, [(mix(BlockId(7)), Some(block))]);
        assert_eq!(remembered.changed_in(&[]).count(), 0);
        for id in 0..=CHANGED_MAX as u64 {
            remembered.note_change(mix(BlockId(id)), || None);
        }
        assert_eq!(
            (sum(&remembered, 0), remembered.list(0).len()),
            (None, 2_000)
        );
    }
}
