//! Locations an image remembers (protocols.md section 4, restart): believed of nobody until the storage's digest proves
//! them.
//!
//! They are kept beside the map, as keys per storage, and count for nothing: no reader is given one, safe mode, copying
//! and deletion do not see them. When a storage that an image knew sends digests, they are compared with the sum of what
//! it is known to hold and what is remembered of it. Where they are equal the DataNode has exactly those replicas, in the
//! stamps and lengths that blocks have now, and they enter the map as if it had listed them. Whatever it says of a
//! block or a range by other means replaces what is remembered of them. What an edit did to a block meanwhile needs no
//! care: the digests are made of blocks as they are when they are compared.

use crate::digests::PARTITION_LEAVES;
use crate::entry::Entry;
use crate::manager::BlockManager;
use crate::merge::partition_keys;
use crate::partition::Partition;
use crate::view::{Effect, View};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hadal_types::{
    Block, BlockId, BlockState, DatanodeUuid, Digest, InodeId, PARTITION_COUNT, ReplicaState,
    StorageUuid, digest_leaf, digest_leaf_keys, mix, partition_of,
};

/// What is remembered in one partition: by the image's place of a storage, keys of blocks, sorted.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    lists: Vec<Vec<u64>>,
    /// Keys in all lists.
    left: usize,
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
        self.lists.capacity() * size_of::<Vec<u64>>() + lists.sum::<usize>()
    }

    /// Takes (key, place) pairs in the order of keys.
    pub(crate) fn fill(&mut self, pairs: impl Iterator<Item = (u64, u32)> + Clone) {
        let mut counts: Vec<usize> = Vec::new();
        for (_, place) in pairs.clone() {
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
        for (key, place) in pairs {
            let list = &mut self.lists[place as usize];
            if list.last() != Some(&key) {
                list.push(key);
                self.left += 1;
            }
        }
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
        let taken = if to - from == list.len() {
            core::mem::take(list)
        } else {
            list.drain(from..to).collect()
        };
        self.left -= taken.len();
        if self.left == 0 {
            self.lists = Vec::new();
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
    fn add_recalled(&self, place: u32, storage: u32, leaves: &mut [Digest; PARTITION_LEAVES]) {
        for (key, block) in self.recalled(self.remembered.list(place), storage) {
            leaves[digest_leaf(key) % PARTITION_LEAVES].add(self.digests.hash(&block));
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
        let confirmed = self.remembered.take(place, keys);
        let (mut replicas, odd) = self.pass_keys(storage, &confirmed, view);
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

/// Loading.
impl BlockManager {
    /// The storages whose places [`Self::load_remembered`] names, from 0. Before any block is loaded.
    pub fn remember_storages(&mut self, storages: Vec<(DatanodeUuid, StorageUuid)>) {
        self.nodes.remember(storages);
    }

    /// Makes room for so many blocks of an image.
    pub fn reserve(&mut self, blocks: u64) {
        // Keys spread evenly: few partitions get more than a few hundredths above their share.
        let share = blocks as usize / PARTITION_COUNT;
        for partition in &mut self.partitions {
            partition.table.reserve_staged(share + share / 32);
        }
    }

    /// As [`Self::load`], with places of the storages it was last known in. They count for nothing until those storages
    /// prove them.
    pub fn load_remembered(
        &mut self,
        block: Block,
        inode: InodeId,
        replication: u16,
        open: bool,
        places: &[u32],
    ) {
        let key = mix(block.id);
        let state = if open {
            BlockState::UnderConstruction
        } else {
            BlockState::Complete
        };
        let partition = &mut self.partitions[(key >> 56) as usize];
        let added = partition.stage(key, block, inode, replication, state, places);
        self.totals.add(added);
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
