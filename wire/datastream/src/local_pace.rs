//! How a reader of a local file reads ahead, and when its reads go through the page cache.

/// Parts under way behind a jump, and through the page cache, where the kernel reads ahead as well.
const PARTS_FIRST: usize = 2;
/// Bytes under way past the page cache, where nobody else reads ahead: what a fast device needs to be busy all the time.
const AHEAD_BYTES: u64 = 8 << 20;

/// The pace of one reader in one replica's file.
///
/// Reads go past the page cache until bytes are read a second time: who comes back, as readers that seek to and
/// fro do, would fetch the same bytes from the device each time.
#[derive(Debug)]
pub struct LocalPace {
    cached: bool,
    /// Parts that may be under way now; it doubles with each part that is taken in order.
    parts: usize,
    parts_max: usize,
    /// Bytes of the block before this one may have been read.
    reached: u64,
}

impl LocalPace {
    /// Nothing is under way. `cached`: through the page cache from the start. A part has up to `part_bytes` bytes.
    #[must_use]
    pub fn new(cached: bool, part_bytes: u64) -> Self {
        let most = AHEAD_BYTES / part_bytes.max(1);
        Self {
            cached,
            parts: PARTS_FIRST,
            parts_max: usize::try_from(most)
                .unwrap_or(PARTS_FIRST)
                .clamp(PARTS_FIRST, 64),
            reached: 0,
        }
    }

    /// Whether parts are read through the page cache.
    #[must_use]
    pub fn cached(&self) -> bool {
        self.cached
    }

    /// How many parts may be under way.
    #[must_use]
    pub fn parts(&self) -> usize {
        if self.cached { PARTS_FIRST } else { self.parts }
    }

    /// The reader wants the byte `at` of the block, and no part that is under way holds it. It may jump again: little is
    /// read ahead at first.
    pub fn handle_jump(&mut self, at: u64) {
        self.cached |= at < self.reached;
        self.parts = PARTS_FIRST;
    }

    /// A part that ends before the byte `to` of the block is being read.
    pub fn handle_begun(&mut self, to: u64) {
        self.reached = self.reached.max(to);
    }

    /// The reader took a part.
    pub fn handle_taken(&mut self) {
        self.parts = (self.parts * 2).min(self.parts_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_goes_on_has_more_and_more_under_way() {
        let mut pace = LocalPace::new(false, 1 << 20);
        pace.handle_jump(0);
        let mut seen = [0; 5];
        for parts in &mut seen {
            *parts = pace.parts();
            pace.handle_taken();
        }
        assert_eq!(seen, [2, 4, 8, 8, 8]);
        pace.handle_jump(1 << 30);
        assert_eq!(pace.parts(), 2);
    }

    #[test]
    fn large_parts_are_bounded_by_their_bytes_and_tiny_ones_by_their_number() {
        for (part_bytes, most) in [(16 << 20, 2), (2 << 20, 4), (64, 64), (0, 64)] {
            let mut pace = LocalPace::new(false, part_bytes);
            for _ in 0..100 {
                pace.handle_taken();
            }
            assert_eq!(pace.parts(), most, "parts of {part_bytes} bytes");
        }
    }

    #[test]
    fn bytes_that_are_read_again_go_through_the_page_cache_from_then_on() {
        let mut pace = LocalPace::new(false, 1 << 20);
        pace.handle_jump(5_000_000);
        pace.handle_begun(6_000_000);
        pace.handle_begun(7_000_000);
        pace.handle_taken();
        // On, over bytes nobody read.
        pace.handle_jump(7_000_000);
        pace.handle_jump(9_000_000);
        assert!(!pace.cached());
        pace.handle_jump(6_999_999);
        assert!(pace.cached());
        pace.handle_jump(20_000_000);
        assert!(pace.cached());
        pace.handle_taken();
        assert_eq!(pace.parts(), 2);
    }
}
