//! Small forms of numbers and blocks, so that an inode stays compact (performance.md, memory per file).

use hadal_types::{Block, BlockId, GenerationStamp};

/// A number below 2^48 in six bytes without alignment: inode and block ids, stamps, lengths and times all
/// fit with centuries to spare.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct U48([u8; 6]);

impl U48 {
    /// The largest value.
    pub(crate) const MAX: u64 = (1 << 48) - 1;

    /// Packs `value`; a larger one is a bug of the caller, who validates what comes from outside.
    pub(crate) const fn new(value: u64) -> Self {
        assert!(value <= Self::MAX, "value does not fit 48 bits");
        let b = value.to_le_bytes();
        Self([b[0], b[1], b[2], b[3], b[4], b[5]])
    }

    /// The value.
    pub(crate) const fn get(self) -> u64 {
        let b = self.0;
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0])
    }
}

/// A block in 18 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedBlock {
    id: U48,
    generation_stamp: U48,
    length: U48,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u48_keeps_every_value() {
        for value in [0, 1, 255, 256, 0xffff_ffff, 1 << 40, U48::MAX] {
            assert_eq!(U48::new(value).get(), value);
        }
        assert_eq!(core::mem::size_of::<PackedBlock>(), 18);
        assert_eq!(core::mem::align_of::<PackedBlock>(), 1);
    }

    #[test]
    #[should_panic(expected = "48 bits")]
    fn u48_refuses_more() {
        let _ = U48::new(U48::MAX + 1);
    }
}
