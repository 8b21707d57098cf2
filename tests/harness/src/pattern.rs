//! Content that says where it belongs.

/// The bytes of a file, computed from a seed and the position: a writer and a reader in two processes need no copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern(
    /// The seed: files of other seeds have other bytes everywhere.
    pub u64,
);

impl Pattern {
    /// `length` bytes from `position` on.
    #[must_use]
    pub fn bytes(self, position: u64, length: usize) -> Vec<u8> {
        let skip = usize::try_from(position % 8).expect("below 8");
        let mut bytes = Vec::with_capacity(skip + length + 8);
        let mut word = position / 8;
        while bytes.len() < skip + length {
            // splitmix64 of the word's number.
            let mut mixed = (word ^ self.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
            word += 1;
        }
        bytes.truncate(skip + length);
        bytes.split_off(skip)
    }

    /// Checks bytes that were read at `position`.
    ///
    /// # Errors
    ///
    /// The first position that differs, in words.
    pub fn check(self, position: u64, found: &[u8]) -> Result<(), String> {
        let wanted = self.bytes(position, found.len());
        match wanted
            .iter()
            .zip(found)
            .position(|(one, other)| one != other)
        {
            None => Ok(()),
            Some(at) => Err(format!("byte {} differs", position + at as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_a_part_of_the_whole() {
        let pattern = Pattern(7);
        let all = pattern.bytes(0, 100);
        for from in 0..50 {
            for length in 0..50 {
                assert_eq!(pattern.bytes(from, length), all[from as usize..][..length]);
            }
        }
        assert!(pattern.check(3, &all[3..]).is_ok());
        assert_eq!(pattern.check(2, &all[3..]), Err("byte 2 differs".into()));
        assert!(Pattern(8).bytes(0, 100) != all);
    }
}
