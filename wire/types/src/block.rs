//! A block and the key that decides which partition and shard owns it.

use crate::{BlockId, GenerationStamp};
use core::fmt;

/// A block or replica as reports name it: id, generation stamp and length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Block {
    /// Name of the block.
    pub id: BlockId,
    /// Version of the block.
    pub generation_stamp: GenerationStamp,
    /// Bytes in it.
    pub length: u64,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}_{}({} bytes)",
            self.id, self.generation_stamp, self.length
        )
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Virtual partitions of a block pool; fixed for ever, since on-disk order follows it
/// (protocols.md section 4).
pub const PARTITION_COUNT: usize = 256;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bijective key by which everything about blocks is sorted and split. Sequential ids
/// spread evenly over the partitions.
#[must_use]
pub const fn mix(id: BlockId) -> u64 {
    let x = id.0.wrapping_mul(MULTIPLIER);
    let x = x ^ (x >> 32);
    x.wrapping_mul(MULTIPLIER)
}

/// What the stored checksum of a block's `chunk`th chunk is xored with, so that chunks which a misdirected write put
/// into another block or place do not verify. Fixed for ever: replica files hold it, and readers on a DataNode's own
/// host undo it.
#[must_use]
pub const fn chunk_salt(id: BlockId, chunk: u64) -> u32 {
    let spread = chunk.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mix(BlockId(id.0.wrapping_add(spread))) >> 32) as u32
}

/// The inverse of [`mix`].
#[must_use]
pub const fn unmix(key: u64) -> BlockId {
    // Newton's iteration for the inverse of an odd number modulo 2^64 doubles the good bits.
    let mut inverse: u64 = MULTIPLIER;
    let mut round = 0;
    while round < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(MULTIPLIER.wrapping_mul(inverse)));
        round += 1;
    }
    let x = key.wrapping_mul(inverse);
    let x = x ^ (x >> 32);
    BlockId(x.wrapping_mul(inverse))
}

/// Which of the [`PARTITION_COUNT`] partitions holds this block: the key's top eight bits.
#[must_use]
pub const fn partition_of(id: BlockId) -> usize {
    (mix(id) >> 56) as usize
}

/// Which of a node's `shards` owns this block: whole partitions, evenly split.
#[must_use]
pub const fn shard_of(id: BlockId, shards: u16) -> u16 {
    let shards = if shards == 0 { 1 } else { shards };
    (partition_of(id) * shards as usize / PARTITION_COUNT) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_bijective_and_spreads_sequential_ids() {
        let mut counts = [0u32; PARTITION_COUNT];
        for id in (0..100_000).chain([u64::MAX, u64::MAX / 2]) {
            assert_eq!(unmix(mix(BlockId(id))), BlockId(id));
            counts[partition_of(BlockId(id))] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 300 && *most < 480, "uneven: {least}..{most}");
    }
}
