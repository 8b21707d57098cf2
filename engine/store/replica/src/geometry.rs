//! Where the bytes of a replica lie: pure arithmetic.

use crate::StoreError;

/// Direct I/O works in pages of this many bytes.
pub(crate) const PAGE: usize = hadal_env::ALIGN;
/// Tail slots of a replica file: the durable one, the last flushed one, and the one being written.
pub(crate) const TAIL_SLOTS: usize = 3;
const UNIT_MAX: usize = 128 << 10;
const CHUNKS_PER_UNIT_MAX: usize = 512;

pub(crate) const fn round_up(value: u64, to: u64) -> u64 {
    value.div_ceil(to) * to
}

/// Layout of one replica's own file, from which a short-circuit reader can compute every offset.
///
/// ```text
/// header A | header B | tail 0 | tail 1 | tail 2 | group 0 | group 1 | ...
/// page       page       page + unit each           head + group_bytes each
/// ```
///
/// * A **unit** is the least number of bytes that is whole chunks and whole pages (4096 for 512 and 4096 bytes
///   per checksum). A unit is written in its place only once it is complete, and no acknowledged byte in its place
///   is ever written again with other content.
/// * A **group** is a head (the checksums of its chunks) directly before its data, so that 1 MiB of data and its
///   checksums are one write and one read, and one device flush covers both.
/// * The incomplete last unit lives in a **tail record**: data and checksums together, written to a tail slot that
///   holds neither the durable nor the last flushed tail (protocols.md section 5). It stays there when the replica is
///   finalised, so append and truncation never rewrite data.
/// * A stored checksum is the CRC32C of its chunk xor a salt of block id and chunk index: data and checksums
///   that a misdirected write put into another block or place do not verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes per checksum.
    pub bytes_per_checksum: usize,
    /// Bytes of a unit.
    pub unit: usize,
    /// Data bytes of a group.
    pub group: usize,
    /// Bytes of a group's head.
    pub head: usize,
}

impl Geometry {
    /// The layout for this chunk size and about this many data bytes per group.
    pub fn new(bytes_per_checksum: u32, group_bytes: u32) -> Result<Self, StoreError> {
        let chunk = bytes_per_checksum as usize;
        if !(64..=65536).contains(&chunk) {
            return Err(StoreError::BadChunkSize(bytes_per_checksum));
        }
        let unit = chunk / gcd(chunk, PAGE) * PAGE;
        if unit > UNIT_MAX || unit / chunk > CHUNKS_PER_UNIT_MAX {
            return Err(StoreError::BadChunkSize(bytes_per_checksum));
        }
        let group = (group_bytes as usize / unit).max(1) * unit;
        let head = (group / chunk * 4).next_multiple_of(PAGE);
        Ok(Self {
            bytes_per_checksum: chunk,
            unit,
            group,
            head,
        })
    }

    /// File offset of a tail slot.
    #[must_use]
    pub fn tail_offset(&self, slot: u8) -> u64 {
        (2 * PAGE + usize::from(slot) * (PAGE + self.unit)) as u64
    }

    /// File offset of a group's head.
    #[must_use]
    pub fn group_offset(&self, group: u64) -> u64 {
        (2 * PAGE + TAIL_SLOTS * (PAGE + self.unit)) as u64
            + group * (self.head + self.group) as u64
    }

    /// File offset of the block's byte `position`, which lies in a complete unit.
    #[must_use]
    pub fn data_offset(&self, position: u64) -> u64 {
        let group = self.group as u64;
        self.group_offset(position / group) + self.head as u64 + position % group
    }

    /// Bytes of a block of this length that lie in complete units.
    #[must_use]
    pub fn whole(&self, length: u64) -> u64 {
        length / self.unit as u64 * self.unit as u64
    }

    /// Length of the file of a replica of this length.
    #[must_use]
    pub fn file_end(&self, length: u64) -> u64 {
        match self.whole(length) {
            0 => self.group_offset(0),
            whole => self.data_offset(whole - 1) + 1,
        }
    }

    /// Chunks in this many bytes.
    #[must_use]
    pub fn chunks(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.bytes_per_checksum)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Data capacities of the slot classes. With its header the largest fits a buffer of 1 MiB.
const CLASS_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1008 << 10];
/// Bytes of a slot header before its checksums.
pub(crate) const SLOT_FIXED: usize = 128;

/// A size class of slots: `header + data` bytes each, in extent files of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SlotClass(pub(crate) u8);

impl SlotClass {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..CLASS_BYTES.len() as u8).map(Self)
    }

    /// Data bytes a slot holds.
    pub(crate) fn data(self) -> usize {
        CLASS_BYTES[usize::from(self.0)]
    }

    /// Bytes of the header: room for a checksum per 512 bytes.
    pub(crate) fn header(self) -> usize {
        (SLOT_FIXED + self.data() / 512 * 4).next_multiple_of(PAGE)
    }

    /// Bytes of a slot.
    pub(crate) fn slot(self) -> u64 {
        (self.header() + self.data()) as u64
    }

    /// Whether a replica of this length and chunk size fits.
    pub(crate) fn fits(self, length: u64, bytes_per_checksum: usize) -> bool {
        length <= self.data() as u64
            && SLOT_FIXED + (length as usize).div_ceil(bytes_per_checksum) * 4 <= self.header()
    }

    /// The smallest class that holds it, if one of at most `small_bytes` does.
    pub(crate) fn for_length(
        length: u64,
        bytes_per_checksum: usize,
        small_bytes: usize,
    ) -> Option<Self> {
        Self::all()
            .filter(|class| class.data() <= small_bytes)
            .find(|class| class.fits(length, bytes_per_checksum))
    }

    /// Room a gather buffer keeps before its data, so that any head or slot header can be put directly before them.
    pub(crate) fn front(geometry: &Geometry, small_bytes: usize) -> usize {
        let header = Self::all()
            .filter(|class| class.data() <= small_bytes)
            .map(Self::header)
            .max()
            .unwrap_or(PAGE);
        header.max(geometry.head).max(PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_aligned_and_do_not_overlap() {
        for (chunk, unit) in [
            (512, 4096),
            (4096, 4096),
            (400, 102_400),
            (65536, 65536),
            (64, 4096),
        ] {
            let g = Geometry::new(chunk, 1 << 20).unwrap();
            assert_eq!(g.unit, unit);
            assert_eq!(g.group % g.unit, 0);
            assert!(g.group <= 1 << 20 && g.head >= g.group / g.bytes_per_checksum * 4);
            assert!(g.tail_offset(2) + (PAGE + g.unit) as u64 <= g.group_offset(0));
            assert_eq!(
                g.data_offset(g.group as u64),
                g.group_offset(1) + g.head as u64
            );
            assert_eq!(
                g.file_end(g.unit as u64 * 3 + 5),
                g.data_offset(0) + g.unit as u64 * 3
            );
            assert_eq!(g.file_end(g.group as u64), g.group_offset(1));
        }
        for bad in [0, 63, 68, 513, 65537, 1 << 30] {
            assert!(
                matches!(
                    Geometry::new(bad, 1 << 20),
                    Err(StoreError::BadChunkSize(_))
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn slot_classes_take_what_fits_data_and_checksums() {
        assert_eq!(
            SlotClass::for_length(65536, 4096, 1 << 20),
            Some(SlotClass(2))
        );
        assert_eq!(
            SlotClass::for_length(65537, 4096, 1 << 20),
            Some(SlotClass(3))
        );
        assert_eq!(
            SlotClass::for_length(1008 << 10, 512, 1 << 20),
            Some(SlotClass(4))
        );
        assert_eq!(SlotClass::for_length(1008 << 10, 64, 1 << 20), None);
        assert_eq!(SlotClass::for_length(65537, 4096, 65536), None);
        assert_eq!(SlotClass::for_length(0, 4096, 4096), Some(SlotClass(0)));
    }

    #[test]
    fn default_buffers_fit_the_pools_size_class_of_1_mib() {
        let options = crate::StoreOptions::default();
        for chunk in [512, 4096, 65536] {
            let geometry = Geometry::new(chunk, options.group_bytes).unwrap();
            let front = SlotClass::front(&geometry, options.small_bytes as usize);
            assert!(
                front + geometry.group <= 1 << 20,
                "{chunk}: {front} + {}",
                geometry.group
            );
        }
    }
}
