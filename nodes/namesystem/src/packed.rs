//! The small form of blocks, so that an inode stays compact (performance.md, memory per file).

use hadal_types::{Block, BlockId, GenerationStamp, U48};

/// A block in 18 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedBlock {
    id: U48,
    generation_stamp: U48,
    length: U48,
}

const _: () = assert!(size_of::<PackedBlock>() == 18 && align_of::<PackedBlock>() == 1);

impl PackedBlock {
    /// Packs a block.
    pub(crate) const fn new(block: Block) -> Self {
        Self {
            id: U48::new(block.id.0),
            generation_stamp: U48::new(block.generation_stamp.0),
            length: U48::new(block.length),
        }
    }

    /// The block.
    pub(crate) const fn get(self) -> Block {
        Block {
            id: BlockId(self.id.get()),
            generation_stamp: GenerationStamp(self.generation_stamp.get()),
            length: self.length.get(),
        }
    }
}
