//! One block in the map: 48 bytes, three replicas inline.

use hadal_types::{Block, BlockState, GenerationStamp, InodeId, unmix};

/// Replicas an entry holds itself; further ones spill to a side table.
pub(crate) const INLINE: usize = 3;
/// Replicas a block may have at all; more are not recorded.
pub const REPLICAS_MAX: u8 = 250;

/// Where an entry of an image has no place of a storage.
const NO_PLACE: u32 = u32::MAX;

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
    pub(crate) stamp: u64,
    pub(crate) length: u64,
    pub(crate) inode: u64,
    /// Storage indices of FINALIZED replicas of this stamp and length, in order of arrival.
    pub(crate) replicas: [u32; INLINE],
    pub(crate) replication: u16,
    /// How many replicas, spilled ones included.
    pub(crate) count: u8,
    bits: u8,
}

const _: () = assert!(size_of::<Entry>() == 48);

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
            stamp: block.generation_stamp.0,
            length: block.length,
            inode: inode.0,
            replicas: [0; INLINE],
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
            generation_stamp: GenerationStamp(self.stamp),
            length: self.length,
        }
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
        self.replicas = [NO_PLACE; INLINE];
        self.replicas[..places.len()].copy_from_slice(places);
    }

    /// The places set before.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> + Clone {
        let places = self.replicas.into_iter();
        places.take_while(|place| *place != NO_PLACE)
    }

    /// Makes room for replicas where places were.
    pub(crate) fn clear_places(&mut self) {
        self.replicas = [0; INLINE];
    }

    fn set(&mut self, bit: u8, on: bool) {
        if on {
            self.bits |= bit;
        } else {
            self.bits &= !bit;
        }
    }

    /// The inline replicas.
    pub(crate) fn inline(&self) -> &[u32] {
        &self.replicas[..usize::from(self.count).min(INLINE)]
    }

    pub(crate) fn matches(&self, block: &Block) -> bool {
        self.stamp == block.generation_stamp.0 && self.length == block.length
    }
}
