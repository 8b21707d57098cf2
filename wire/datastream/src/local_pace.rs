//! How a reader of a local file reads ahead, and when its reads go through the page cache.

use alloc::vec::Vec;

/// Parts under way behind a jump, and through the page cache, where the kernel reads ahead as well.
const PARTS_FIRST: usize = 2;
/// Ranges remembered of what was read; of more the oldest is forgotten.
const RANGES_MAX: usize = 16;
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
    /// What of the block may have been read, from and up to a byte.
    read: Vec<(u64, u64)>,
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
            read: Vec::new(),
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
        self.cached |= self
            .read
            .iter()
            .any(|(from, to)| (*from..*to).contains(&at));
        self.parts = PARTS_FIRST;
    }

    /// The part of the block from byte `from` to before `to` is being read.
    pub fn handle_begun(&mut self, from: u64, to: u64) {
        if let Some(last) = self.read.last_mut()
            && (last.0..=last.1).contains(&from)
        {
            last.1 = last.1.max(to);
            return;
        }
        if self.read.len() == RANGES_MAX {
            self.read.remove(0);
        }
        self.read.push((from, to));
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
    fn what_is_remembered_is_bounded() {
        let mut pace = LocalPace::new(false, 1 << 20);
        for number in 0..1_000 {
            pace.handle_jump(number * 1_000);
            pace.handle_begun(number * 1_000, number * 1_000 + 10);
        }
        assert!(!pace.cached());
        assert_eq!(pace.read.len(), RANGES_MAX);
        pace.handle_jump(999_005);
        assert!(pace.cached());
    }

    #[test]
    fn bytes_that_are_read_again_go_through_the_page_cache_from_then_on() {
        let mut pace = LocalPace::new(false, 1 << 20);
        pace.handle_jump(5_000_000);
        pace.handle_begun(5_000_000, 6_000_000);
        pace.handle_begun(6_000_000, 7_000_000);
        pace.handle_taken();
        // On, over bytes nobody read.
        pace.handle_jump(7_000_000);
        pace.handle_jump(9_000_000);
        // Back, to what nobody read either: a footer is often read first.
        pace.handle_jump(0);
        pace.handle_begun(0, 1_000_000);
        pace.handle_jump(4_999_999);
        assert!(!pace.cached());
        pace.handle_jump(6_999_999);
        assert!(pace.cached());
        pace.handle_jump(20_000_000);
        assert!(pace.cached());
        pace.handle_taken();
        assert_eq!(pace.parts(), 2);
    }
}
