//! Blocks of an image on their way into the map, in pieces that share nothing and may be worked on by other threads:
//! [`Staged`] takes the blocks of a stretch of files, [`Sorting`] brings the blocks of one partition in order. What is not
//! sorted that way is sorted by the first that looks at the partition.

use crate::entry::{Entry, INLINE};
use crate::manager::BlockManager;
use crate::partition::{Counters, Partition};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hadal_types::{
    Block, BlockId, BlockState, DatanodeUuid, DigestKey, InodeId, PARTITION_COUNT, StorageUuid, mix,
};

/// Unsorted entries of one partition.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) entries: Vec<Entry>,
    /// (key, place) of those that did not fit an entry.
    pub(crate) more: Vec<(u64, u32)>,
}

/// What a block of an image adds beside its entry.
pub(crate) struct Added {
    pub(crate) counters: Counters,
    pub(crate) is_open: bool,
}

impl Piece {
    /// Takes a block of key `key`: `open` for the last block of an open file, else COMPLETE (E-15).
    pub(crate) fn push(
        &mut self,
        key: u64,
        block: Block,
        inode: InodeId,
        replication: u16,
        open: bool,
        places: &[u32],
    ) -> Added {
        let state = if open {
            BlockState::UnderConstruction
        } else {
            BlockState::Complete
        };
        let mut entry = Entry::new(key, block, inode, replication, state);
        let added = Added {
            counters: Counters::of(&entry, 0, (0, usize::from(replication)), 1),
            is_open: !entry.is_complete(),
        };
        let (inline, more) = places.split_at(places.len().min(INLINE));
        entry.set_places(inline);
        self.more
            .extend(more.iter().map(|place| (entry.key, *place)));
        self.entries.push(entry);
        added
    }

    /// Places of storages in it.
    pub(crate) fn places(&self) -> usize {
        let places = self.entries.iter().map(|entry| entry.places().count());
        places.sum::<usize>() + self.more.len()
    }
}

/// Blocks of an image, dealt out to their partitions.
#[derive(Debug)]
pub struct Staged {
    /// By partition.
    parts: Vec<StagedPart>,
}

#[derive(Debug, Default)]
struct StagedPart {
    piece: Piece,
    counters: Counters,
    /// Keys of those that are open.
    open: Vec<u64>,
    newest: u64,
}

impl Staged {
    /// With room for about so many blocks.
    #[must_use]
    pub fn with_room(blocks: usize) -> Self {
        // Keys are spread evenly: few partitions get more than an eighth above their share.
        let share = blocks / PARTITION_COUNT;
        let room = if blocks == 0 {
            0
        } else {
            share + share / 8 + 8
        };
        let part = || StagedPart {
            piece: Piece {
                entries: Vec::with_capacity(room),
                more: Vec::new(),
            },
            ..StagedPart::default()
        };
        Self {
            parts: (0..PARTITION_COUNT).map(|_| part()).collect(),
        }
    }

    /// As [`BlockManager::load_remembered`].
    pub fn push(
        &mut self,
        block: Block,
        inode: InodeId,
        replication: u16,
        open: bool,
        places: &[u32],
    ) {
        let key = mix(block.id);
        let part = &mut self.parts[(key >> 56) as usize];
        let added = part
            .piece
            .push(key, block, inode, replication, open, places);
        part.counters.add(added.counters);
        if added.is_open {
            part.open.push(key);
        }
        part.newest = part.newest.max(block.id.0);
    }
}

/// A partition away from its map, to bring the blocks of an image in order.
#[derive(Debug)]
pub struct Sorting {
    partition: Box<Partition>,
}

/// A partition that comes back to its map.
#[derive(Debug)]
pub struct Sorted {
    partition: Box<Partition>,
}

impl Sorting {
    /// Does it.
    #[must_use]
    pub fn run(mut self) -> Sorted {
        self.partition.unstage();
        Sorted {
            partition: self.partition,
        }
    }
}

/// Loading.
impl BlockManager {
    /// The storages whose places [`Self::load_remembered`] and [`Staged::push`] name, from 0. Before any block is loaded.
    pub fn remember_storages(&mut self, storages: Vec<(DatanodeUuid, StorageUuid)>) {
        self.nodes.remember(storages);
    }

    /// Makes room for so many blocks of an image that come by [`Self::load`].
    pub fn reserve(&mut self, blocks: u64) {
        // Keys spread evenly: few partitions get more than a few hundredths above their share.
        let share = blocks as usize / PARTITION_COUNT;
        for partition in &mut self.partitions {
            let piece = partition.table.open_piece();
            piece.entries.reserve_exact(share + share / 32);
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
        let partition = &mut self.partitions[(key >> 56) as usize];
        let added = partition
            .table
            .open_piece()
            .push(key, block, inode, replication, open, places);
        let keys = added.is_open.then_some(key);
        partition.note_staged(added.counters, keys, block.id);
        self.totals.add(added.counters);
    }

    /// Many at once, as if by [`Self::load_remembered`].
    pub fn stage(&mut self, staged: Staged) {
        for (partition, part) in self.partitions.iter_mut().zip(staged.parts) {
            if part.piece.entries.is_empty() {
                continue;
            }
            partition.note_staged(part.counters, part.open, BlockId(part.newest));
            partition.table.add_piece(part.piece);
            self.totals.add(part.counters);
        }
    }

    /// The partitions with blocks that are not in order yet. Each has to come back by [`Self::sorted`] before anything is
    /// asked of the map again.
    pub fn sorting(&mut self) -> Vec<Sorting> {
        let key = DigestKey::new(&self.info);
        let staged = self.partitions.iter_mut().enumerate();
        let sorting: Vec<Sorting> = staged
            .filter(|(_, partition)| partition.table.is_staged())
            .map(|(index, partition)| Sorting {
                partition: Box::new(core::mem::replace(partition, Partition::new(index, key))),
            })
            .collect();
        for sorting in &sorting {
            self.totals.subtract(sorting.partition.counters);
        }
        self.away += sorting.len();
        sorting
    }

    /// One comes back.
    ///
    /// # Panics
    /// When it is none of those taken.
    pub fn sorted(&mut self, sorted: Sorted) {
        let partition = *sorted.partition;
        self.away = self.away.checked_sub(1).expect("it was taken");
        self.totals.add(partition.counters);
        let index = partition.index;
        self.partitions[index] = partition;
    }
}
