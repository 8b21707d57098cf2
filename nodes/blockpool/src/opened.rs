//! Which blocks readers on this host opened lately: those go through the page cache when they are opened again.
//!
//! A scan reads a block once; keeping its bytes in memory costs time and drives out bytes that are wanted again. So the
//! first opening reads past the page cache, at the device's speed, and another one within the span through it. The span is
//! counted in bytes opened in between: what comes round only after more than memory holds would be gone again before
//! it was of use, and such readers keep the device's speed as well.

use alloc::collections::BTreeMap;
use hadal_types::BlockId;

/// Blocks remembered, however short they are.
const BLOCKS_MAX: usize = 16_384;

/// The blocks that were opened last, as many as fit into a number of bytes.
#[derive(Debug)]
pub struct OpenedBlocks {
    span_bytes: u64,
    /// Sum of the lengths of all that are remembered.
    bytes: u64,
    /// Number of the next opening.
    next: u64,
    /// Number of the last opening and length in bytes.
    blocks: BTreeMap<BlockId, (u64, u64)>,
    /// By number, the longest ago first.
    order: BTreeMap<u64, BlockId>,
}

impl OpenedBlocks {
    /// Nothing was opened yet. Blocks of `span_bytes` in all are remembered, and at most 16 384: what the page cache can
    /// be expected to hold.
    #[must_use]
    pub fn new(span_bytes: u64) -> Self {
        Self {
            span_bytes,
            bytes: 0,
            next: 0,
            blocks: BTreeMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// A reader opens this block of `length` bytes. Whether it was opened before and is remembered, that is, whether it
    /// is to be read through the page cache.
    #[must_use]
    pub fn handle_opened(&mut self, block: BlockId, length: u64) -> bool {
        let before = self.forget(block);
        self.blocks.insert(block, (self.next, length));
        self.order.insert(self.next, block);
        self.next += 1;
        self.bytes = self.bytes.saturating_add(length);
        while self.bytes > self.span_bytes || self.blocks.len() > BLOCKS_MAX {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            self.forget(oldest);
        }
        before
    }

    fn forget(&mut self, block: BlockId) -> bool {
        let Some((number, length)) = self.blocks.remove(&block) else {
            return false;
        };
        self.order.remove(&number);
        self.bytes = self.bytes.saturating_sub(length);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_when_it_is_opened_again() {
        let mut opened = OpenedBlocks::new(100);
        assert!(!opened.handle_opened(BlockId(1), 10));
        assert!(!opened.handle_opened(BlockId(2), 10));
        assert!(opened.handle_opened(BlockId(1), 10));
        assert!(opened.handle_opened(BlockId(2), 10));
    }

    #[test]
    fn what_was_opened_longest_ago_is_forgotten_first() {
        let mut opened = OpenedBlocks::new(30);
        for block in [1, 2, 3] {
            assert!(!opened.handle_opened(BlockId(block), 10));
        }
        // 2 is the oldest now.
        assert!(opened.handle_opened(BlockId(1), 10));
        assert!(!opened.handle_opened(BlockId(4), 10));
        assert!(opened.handle_opened(BlockId(1), 10));
        assert!(opened.handle_opened(BlockId(3), 10));
        assert!(opened.handle_opened(BlockId(4), 10));
        assert!(!opened.handle_opened(BlockId(2), 10));
    }

    #[test]
    fn blocks_that_come_round_after_more_than_the_span_stay_unknown() {
        let mut opened = OpenedBlocks::new(100);
        for _ in 0..3 {
            for block in 0..11 {
                assert!(!opened.handle_opened(BlockId(block), 10));
            }
        }
        // One that is longer than all of the span is never known, and leaves room for the others.
        assert!(!opened.handle_opened(BlockId(50), 101));
        assert!(!opened.handle_opened(BlockId(50), 101));
        assert!(!opened.handle_opened(BlockId(1), 10));
        assert!(opened.handle_opened(BlockId(1), 10));
    }

    #[test]
    fn the_length_of_an_appended_block_counts_once() {
        let mut opened = OpenedBlocks::new(100);
        for length in 0..100 {
            let _ = opened.handle_opened(BlockId(1), length);
        }
        assert_eq!(opened.bytes, 99);
        assert_eq!((opened.blocks.len(), opened.order.len()), (1, 1));
    }

    #[test]
    fn the_number_of_blocks_is_bounded() {
        let mut opened = OpenedBlocks::new(u64::MAX);
        for block in 0..=BLOCKS_MAX as u64 {
            assert!(!opened.handle_opened(BlockId(block), 1));
        }
        assert_eq!(opened.blocks.len(), BLOCKS_MAX);
        assert_eq!(opened.order.len(), BLOCKS_MAX);
        assert_eq!(opened.bytes, BLOCKS_MAX as u64);
        assert!(opened.handle_opened(BlockId(1), 1));
        assert!(!opened.handle_opened(BlockId(0), 1));
    }
}
