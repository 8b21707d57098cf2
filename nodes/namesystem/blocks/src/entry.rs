//! One block in the map: 40 bytes, three replicas inline.

use core::ops::Deref;
use hadal_types::{Block, BlockState, GenerationStamp, InodeId, U48, unmix};

/// Replicas an entry holds itself; further ones spill to a side table.
pub(crate) const INLINE: usize = 3;
/// Replicas a block may have at all; more are not recorded.
pub const REPLICAS_MAX: u8 = 250;

/// Storages there may be: an entry names one in three bytes.
pub(crate) const STORAGES_MAX: usize = NO_PLACE as usize;

/// Where an entry of an image has no place of a storage.
const NO_PLACE: u32 = 0xff_ffff;

const STATE: u8 = 0b0000_0011;
const LEVEL: u8 = 0b0001_1100;
const LEVEL_SHIFT: u8 = 2;
const EXCESS: u8 = 0b0010_0000;
const CORRUPT: u8 = 0b0100_0000;
const PENDING: u8 = 0b1000_0000;

/// A block. What few blocks have (excess, corrupt, pending and open replicas) is kept beside the table, and a bit
/// here says so, so that a report can pass over the many without looking anything up.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// `mix(id)`: the order of the table and of reports.
    pub(crate) key: u64,
    stamp: U48,
    length: U48,
    inode: U48,
    /// Storage indices of FINALIZED replicas of this stamp and length, in order of arrival; little-endian.
    replicas: [[u8; 3]; INLINE],
    pub(crate) replication: u16,
    /// How many replicas, spilled ones included.
    pub(crate) count: u8,
    bits: u8,
}

const _: () = assert!(size_of::<Entry>() == 40);

impl Entry {
    pub(crate) fn new(
        key: u64,
        block: Block,
        inode: InodeId,
        replication: u16,
        state: BlockState,
    ) -> Self {
        let mut entry = Self {
            key,
            stamp: U48::new(block.generation_stamp.0),
            length: U48::new(block.length),
            inode: U48::new(inode.0),
            replicas: [[0; 3]; INLINE],
            replication,
            count: 0,
            bits: 0,
        };
        entry.set_state(state);
        entry
    }

    pub(crate) fn block(&self) -> Block {
        Block {
            id: unmix(self.key),
            generation_stamp: GenerationStamp(self.stamp()),
            length: self.length.get(),
        }
    }

    /// Its generation stamp.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.get()
    }

    /// The file it is of.
    pub(crate) fn inode(&self) -> InodeId {
        InodeId(self.inode.get())
    }

    /// It is of another file now.
    pub(crate) fn set_inode(&mut self, inode: InodeId) {
        self.inode = U48::new(inode.0);
    }

    /// Takes stamp and length of `block`.
    pub(crate) fn set_block(&mut self, block: &Block) {
        self.stamp = U48::new(block.generation_stamp.0);
        self.length = U48::new(block.length);
    }

    pub(crate) fn state(&self) -> BlockState {
        match self.bits & STATE {
            0 => BlockState::Complete,
            1 => BlockState::Committed,
            2 => BlockState::UnderRecovery,
            _ => BlockState::UnderConstruction,
        }
    }

    pub(crate) fn set_state(&mut self, state: BlockState) {
        let state = match state {
            BlockState::Complete => 0,
            BlockState::Committed => 1,
            BlockState::UnderRecovery => 2,
            BlockState::UnderConstruction => 3,
        };
        self.bits = (self.bits & !STATE) | state;
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.bits & STATE == 0
    }

    /// Committed or complete: stamp and length are final.
    pub(crate) fn is_final(&self) -> bool {
        self.bits & STATE <= 1
    }

    /// The replication queue it stands in, if any.
    pub(crate) fn level(&self) -> Option<usize> {
        let level = (self.bits & LEVEL) >> LEVEL_SHIFT;
        (level > 0).then(|| usize::from(level) - 1)
    }

    pub(crate) fn set_level(&mut self, level: Option<usize>) {
        let level = level.map_or(0, |level| level as u8 + 1);
        self.bits = (self.bits & !LEVEL) | (level << LEVEL_SHIFT);
    }

    pub(crate) fn has_excess(&self) -> bool {
        self.bits & EXCESS != 0
    }

    pub(crate) fn set_excess(&mut self, on: bool) {
        self.set(EXCESS, on);
    }

    pub(crate) fn has_corrupt(&self) -> bool {
        self.bits & CORRUPT != 0
    }

    pub(crate) fn set_corrupt(&mut self, on: bool) {
        self.set(CORRUPT, on);
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.bits & PENDING != 0
    }

    pub(crate) fn set_pending(&mut self, on: bool) {
        self.set(PENDING, on);
    }

    /// COMPLETE and nothing kept beside the table: a report may add a replica without further looks.
    pub(crate) fn is_plain(&self) -> bool {
        self.bits == 0
    }

    /// While an entry of an image is not sorted in yet, places of storages that remember it stand where its replicas
    /// will: it has none, and nothing else looks there.
    pub(crate) fn set_places(&mut self, places: &[u32]) {
        assert!(self.count == 0, "places are of entries without replicas");
        for at in 0..INLINE {
            self.set_replica(at, places.get(at).copied().unwrap_or(NO_PLACE));
        }
    }

    /// The places set before.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> + Clone {
        let places = self.replicas.iter().map(|place| unpack(*place));
        places.take_while(|place| *place != NO_PLACE)
    }

    /// Makes room for replicas where places were.
    pub(crate) fn clear_places(&mut self) {
        self.replicas = [[0; 3]; INLINE];
    }

    fn set(&mut self, bit: u8, on: bool) {
        if on {
            self.bits |= bit;
        } else {
            self.bits &= !bit;
        }
    }

    /// The inline replicas.
    pub(crate) fn inline(&self) -> Inline {
        Inline {
            storages: [
                unpack(self.replicas[0]),
                unpack(self.replicas[1]),
                unpack(self.replicas[2]),
            ],
            count: usize::from(self.count).min(INLINE),
        }
    }

    /// Puts a storage at a place of the inline replicas.
    pub(crate) fn set_replica(&mut self, at: usize, storage: u32) {
        let [a, b, c, d] = storage.to_le_bytes();
        assert!(d == 0, "storage {storage} is beyond what an entry names");
        self.replicas[at] = [a, b, c];
    }

    pub(crate) fn matches(&self, block: &Block) -> bool {
        self.stamp() == block.generation_stamp.0 && self.length.get() == block.length
    }
}

fn unpack([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0])
}

/// The storages of an entry's inline replicas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inline {
    storages: [u32; INLINE],
    count: usize,
}

impl Deref for Inline {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.storages[..self.count]
    }
}
