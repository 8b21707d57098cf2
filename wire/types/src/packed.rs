//! A small form of numbers, so that what there is one of per file or block stays compact (performance.md, memory per
//! file).

use core::fmt;

/// A number below 2^48 in six bytes without alignment: inode and block ids, stamps, lengths and times all
/// fit with centuries to spare.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct U48([u8; 6]);

impl U48 {
    /// The largest value.
    pub const MAX: u64 = (1 << 48) - 1;

    /// Packs `value`.
    ///
    /// # Panics
    /// When it is larger than [`Self::MAX`]: a bug of the caller, who validates what comes from outside.
    #[must_use]
    #[inline]
    pub const fn new(value: u64) -> Self {
        assert!(value <= Self::MAX, "value does not fit 48 bits");
        let b = value.to_le_bytes();
        Self([b[0], b[1], b[2], b[3], b[4], b[5]])
    }

    /// The value.
    #[must_use]
    #[inline]
    pub const fn get(self) -> u64 {
        let b = self.0;
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0])
    }
}

impl fmt::Debug for U48 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
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
        assert_eq!((size_of::<U48>(), align_of::<U48>()), (6, 1));
    }

    #[test]
    #[should_panic(expected = "48 bits")]
    fn u48_refuses_more() {
        let _ = U48::new(U48::MAX + 1);
    }
}
