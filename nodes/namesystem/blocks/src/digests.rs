//! Digests of what storages are believed to hold (protocols.md section 4), kept with the block map.
//!
//! What a storage is believed to hold are the FINALIZED replicas its DataNode is known to list: in the table, among the
//! corrupt ones, of open blocks, and in reports that wait for edits, of which the last one
//! counts; where these contradict each other, the good replica. So an equal digest means
//! that a full report would change nothing. Replicas of no block are believed nowhere, unless they are being deleted:
//! those are added when digests are compared.

use crate::partition::Partition;
use alloc::boxed::Box;
use alloc::vec::Vec;
use hadal_types::{
    Block, DIGEST_LEAVES, Digest, DigestKey, PARTITION_COUNT, ReplicaState, digest_leaf,
};
use smallvec::SmallVec;

/// Leaves of a storage's tree in one partition.
pub(crate) const PARTITION_LEAVES: usize = DIGEST_LEAVES / PARTITION_COUNT;

/// Digests of the leaves of one partition, in order.
pub(crate) type Leaves = [Digest; PARTITION_LEAVES];

/// Where FINALIZED replicas of one block are believed to be; a storage is listed once.
type Believed = SmallVec<[(u32, Block); 4]>;

/// The leaves of one partition, per storage.
#[derive(Debug)]
pub(crate) struct PartitionDigests {
    key: DigestKey,
    /// By storage index; 256 bytes for a storage with replicas here.
    leaves: Vec<Option<Box<Leaves>>>,
}

impl PartitionDigests {
    pub(crate) fn new(key: DigestKey) -> Self {
        Self {
            key,
            leaves: Vec::new(),
        }
    }

    /// The leaves of a storage, in order.
    pub(crate) fn of(&self, storage: u32) -> Leaves {
        let leaves = self.leaves.get(storage as usize).and_then(Option::as_ref);
        leaves.map_or([Digest::default(); PARTITION_LEAVES], |leaves| **leaves)
    }

    fn leaves_mut(&mut self, storage: u32) -> &mut Leaves {
        let at = storage as usize;
        if self.leaves.len() <= at {
            self.leaves.resize_with(at + 1, || None);
        }
        self.leaves[at].get_or_insert_default()
    }

    fn leaf_mut(&mut self, storage: u32, key: u64) -> &mut Digest {
        &mut self.leaves_mut(storage)[digest_leaf(key) % PARTITION_LEAVES]
    }

    pub(crate) fn add(&mut self, storage: u32, key: u64, block: &Block) {
        let digest = self.key.hash(block);
        self.leaf_mut(storage, key).add(digest);
    }

    /// Adds replicas whose digests are added up already.
    pub(crate) fn add_leaves(&mut self, storage: u32, sums: &Leaves) {
        for (leaf, sum) in self.leaves_mut(storage).iter_mut().zip(sums) {
            leaf.add(*sum);
        }
    }

    fn subtract(&mut self, storage: u32, key: u64, block: &Block) {
        let digest = self.key.hash(block);
        self.leaf_mut(storage, key).subtract(digest);
    }

    /// Bytes it takes.
    pub(crate) fn allocated(&self) -> usize {
        let slot = size_of::<Option<Box<Leaves>>>();
        let used = self.leaves.iter().flatten().count();
        self.leaves.capacity() * slot + used * size_of::<Leaves>()
    }

    /// A storage is believed to hold nothing.
    pub(crate) fn forget(&mut self, storage: u32) {
        if let Some(leaves) = self.leaves.get_mut(storage as usize) {
            *leaves = None;
        }
    }

    pub(crate) fn hash(&self, block: &Block) -> Digest {
        self.key.hash(block)
    }
}

impl Partition {
    /// Does something to one block and keeps the digests of the storages it is believed to be in, and what is
    /// remembered of it. Every change of a block's stamp, length or state goes through here.
    pub(crate) fn accounted<R>(&mut self, key: u64, f: impl FnOnce(&mut Self) -> R) -> R {
        self.note_change(key);
        let before = self.believed(key);
        let result = f(self);
        let after = self.believed(key);
        if before != after {
            for (storage, block) in before.iter().filter(|it| !after.contains(it)) {
                self.digests.subtract(*storage, key, block);
            }
            for (storage, block) in after.iter().filter(|it| !before.contains(it)) {
                self.digests.add(*storage, key, block);
            }
        }
        result
    }

    /// Which FINALIZED replica of a block a storage is believed to hold.
    pub(crate) fn believes(&self, key: u64, storage: u32) -> Option<Block> {
        let believed = self.believed(key);
        let mut here = believed.into_iter().filter(|(of, _)| *of == storage);
        here.next().map(|(_, block)| block)
    }

    fn believed(&self, key: u64) -> Believed {
        let mut believed = Believed::new();
        let mut note = |storage: u32, block: Option<Block>| {
            believed.retain(|(of, _)| *of != storage);
            believed.extend(block.map(|block| (storage, block)));
        };
        if let Some(entry) = self.table.get(key) {
            if entry.has_corrupt() {
                for replica in self.corrupt.get(&key).into_iter().flatten() {
                    // Of an open block it may be of use, which only a report of the replica finds out.
                    let settled =
                        entry.is_final() || replica.block.generation_stamp.0 < entry.stamp();
                    let is_believed = replica.finalized && settled;
                    note(replica.storage, is_believed.then_some(replica.block));
                }
            }
            if !entry.is_complete() {
                let open = self.open.get(&key).into_iter();
                for replica in open.flat_map(|open| &open.reported) {
                    // One that missed a stamp is found stale when it is reported again.
                    let is_finalized = replica.state == ReplicaState::Finalized
                        && replica.block.generation_stamp.0 >= entry.stamp();
                    note(replica.storage, is_finalized.then_some(replica.block));
                }
            }
        }
        if !self.queued.is_empty() {
            for report in self.queued.get(&key).into_iter().flatten() {
                let is_finalized = report.state == Some(ReplicaState::Finalized);
                note(report.storage, is_finalized.then_some(report.block));
            }
        }
        // A good replica is believed above all: nothing changes only if it is listed.
        if let Some(entry) = self.table.get(key).filter(|entry| entry.count > 0) {
            for storage in self.table.replicas(key) {
                note(storage, Some(entry.block()));
            }
        }
        believed
    }

    /// Whether the digests are those of what is believed, and the sums those of what is remembered; a pass over everything,
    /// for tests.
    pub(crate) fn digests_hold(&self) -> bool {
        if !self.sums_hold() {
            return false;
        }
        let mut anew = PartitionDigests::new(self.digests.key);
        let listed = self.table.iter().map(|entry| entry.key);
        let waiting = self.queued.keys().copied();
        for key in listed.chain(waiting.filter(|key| self.table.get(*key).is_none())) {
            for (storage, block) in self.believed(key) {
                anew.add(storage, key, &block);
            }
        }
        let storages = anew.leaves.len().max(self.digests.leaves.len()) as u32;
        (0..storages).all(|storage| anew.of(storage) == self.digests.of(storage))
    }
}
