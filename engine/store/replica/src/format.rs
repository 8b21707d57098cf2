//! The three records of the store on disk. Little-endian; every record names its block, so that a
//! misdirected write is noticed, and ends in a CRC32C.

use crate::geometry::{Geometry, SLOT_FIXED};
use hadal_types::{Block, BlockId, GenerationStamp, StorageUuid, chunk_salt};
use store_record::checksum::{crc32c, crc32c_append};

const VERSION: u32 = 1;
const FILE_MAGIC: &[u8; 8] = b"HADALREP";
const TAIL_MAGIC: &[u8; 8] = b"HADALTAI";
const SLOT_MAGIC: &[u8; 8] = b"HADALSLT";
/// A file header is one sector: it is there or not, never half.
pub(crate) const FILE_HEADER: usize = 512;
/// Checksums of a tail record start here.
const TAIL_FIXED: usize = 64;

/// State of a replica as stored. RWR is what RBW is after a restart, and RUR is never stored: a recovery that a
/// restart interrupted is begun again by its primary (as in HDFS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StoredState {
    Rbw,
    Temporary,
    Finalized,
}

impl StoredState {
    const fn code(self) -> u8 {
        match self {
            Self::Rbw => 1,
            Self::Temporary => 2,
            Self::Finalized => 3,
        }
    }

    const fn parse(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Rbw),
            2 => Some(Self::Temporary),
            3 => Some(Self::Finalized),
            _ => None,
        }
    }
}

/// What is found where a record may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found<T> {
    /// Zeros: nothing was written here.
    Empty,
    /// Bytes that are no valid record; the block and sequence if that part of it is intact.
    Damaged(Option<(Block, u64)>),
    /// A record.
    Valid(T),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Header of a replica file, one 512-byte sector, in two pages written in turn; the valid one with the higher
/// sequence counts.
///
/// `0 magic[8] | 8 version u32 | 12 state u8 | 13 settled u8 | 16 id u64 | 24 stamp u64 | 32 length u64 |
/// 40 synced length u64 | 48 sequence u64 | 56 tail sequence u64 | 64 bytes per checksum u32 | 68 group bytes u32 |
/// 72 storage u128 | 88 tail floor u64 | 508 crc32c of 0..508`
///
/// *length* is exact for FINALIZED and 0 otherwise. *Synced length* was known durable when the header was
/// written. *Tail sequence* names the tail record of a FINALIZED replica (0: none). *Tail floor* is the least sequence
/// of a tail record that counts, so that a tail from before a truncation never comes back.
/// *Settled* is written only after the flush that made a FINALIZED header's data durable; without it a
/// restart verifies the data, which is why finalising needs one flush and not one for data and one for state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileHeader {
    pub(crate) state: StoredState,
    pub(crate) settled: bool,
    pub(crate) id: BlockId,
    pub(crate) stamp: GenerationStamp,
    pub(crate) length: u64,
    pub(crate) synced_length: u64,
    pub(crate) sequence: u64,
    pub(crate) tail_sequence: u64,
    pub(crate) tail_floor: u64,
    pub(crate) bytes_per_checksum: u32,
    pub(crate) group_bytes: u32,
    pub(crate) storage: StorageUuid,
}

impl FileHeader {
    pub(crate) fn encode(&self, sector: &mut [u8]) {
        let sector = &mut sector[..FILE_HEADER];
        sector.fill(0);
        put(sector, 0, FILE_MAGIC);
        put(sector, 8, &VERSION.to_le_bytes());
        sector[12] = self.state.code();
        sector[13] = u8::from(self.settled);
        for (at, value) in [
            (16, self.id.0),
            (24, self.stamp.0),
            (32, self.length),
            (40, self.synced_length),
            (48, self.sequence),
            (56, self.tail_sequence),
            (88, self.tail_floor),
        ] {
            put(sector, at, &value.to_le_bytes());
        }
        put(sector, 64, &self.bytes_per_checksum.to_le_bytes());
        put(sector, 68, &self.group_bytes.to_le_bytes());
        put(sector, 72, &self.storage.0.to_le_bytes());
        let crc = crc32c(&sector[..508]);
        put(sector, 508, &crc.to_le_bytes());
    }

    pub(crate) fn decode(sector: &[u8]) -> Found<Self> {
        let sector = &sector[..FILE_HEADER];
        if sector.iter().all(|byte| *byte == 0) {
            return Found::Empty;
        }
        if crc32c(&sector[..508]) != u32_at(sector, 508)
            || &sector[..8] != FILE_MAGIC
            || u32_at(sector, 8) != VERSION
        {
            return Found::Damaged(None);
        }
        let Some(state) = StoredState::parse(sector[12]) else {
            return Found::Damaged(None);
        };
        Found::Valid(Self {
            state,
            settled: sector[13] == 1,
            id: BlockId(u64_at(sector, 16)),
            stamp: GenerationStamp(u64_at(sector, 24)),
            length: u64_at(sector, 32),
            synced_length: u64_at(sector, 40),
            sequence: u64_at(sector, 48),
            tail_sequence: u64_at(sector, 56),
            tail_floor: u64_at(sector, 88),
            bytes_per_checksum: u32_at(sector, 64),
            group_bytes: u32_at(sector, 68),
            storage: StorageUuid(u128::from_le_bytes(
                sector[72..88].try_into().expect("sixteen bytes"),
            )),
        })
    }
}

/// The incomplete last unit of a replica with its checksums: one page, then the unit's data.
///
/// `0 magic[8] | 8 version u32 | 12 bytes u32 | 16 id u64 | 24 unit u64 | 32 sequence u64 | 40 synced length u64 |
/// 48 crc32c of the checksums u32 | 60 crc32c of 0..60 | 64 checksums (salted u32 each)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TailRecord {
    pub(crate) id: BlockId,
    /// Index of the unit in the block.
    pub(crate) unit: u64,
    /// Bytes of the unit.
    pub(crate) bytes: u32,
    pub(crate) sequence: u64,
    /// Known durable when this was written.
    pub(crate) synced_length: u64,
    /// Plain CRC32C per chunk.
    pub(crate) checksums: Vec<u32>,
}

impl TailRecord {
    pub(crate) fn encode(&self, geometry: &Geometry, page: &mut [u8]) {
        page.fill(0);
        put(page, 0, TAIL_MAGIC);
        put(page, 8, &VERSION.to_le_bytes());
        put(page, 12, &self.bytes.to_le_bytes());
        for (at, value) in [
            (16, self.id.0),
            (24, self.unit),
            (32, self.sequence),
            (40, self.synced_length),
        ] {
            put(page, at, &value.to_le_bytes());
        }
        let first = self.unit * geometry.chunks(geometry.unit) as u64;
        encode_checksums(self.id, first, &self.checksums, &mut page[TAIL_FIXED..]);
        let crc = crc32c(&page[TAIL_FIXED..TAIL_FIXED + self.checksums.len() * 4]);
        put(page, 48, &crc.to_le_bytes());
        let crc = crc32c(&page[..60]);
        put(page, 60, &crc.to_le_bytes());
    }

    /// Reads the page; the data behind it is for the caller to verify.
    pub(crate) fn decode(geometry: &Geometry, page: &[u8]) -> Option<Self> {
        if crc32c(&page[..60]) != u32_at(page, 60)
            || &page[..8] != TAIL_MAGIC
            || u32_at(page, 8) != VERSION
        {
            return None;
        }
        let (bytes, id, unit) = (
            u32_at(page, 12),
            BlockId(u64_at(page, 16)),
            u64_at(page, 24),
        );
        if bytes == 0 || bytes as usize >= geometry.unit {
            return None;
        }
        let count = geometry.chunks(bytes as usize);
        if crc32c(&page[TAIL_FIXED..TAIL_FIXED + count * 4]) != u32_at(page, 48) {
            return None;
        }
        let first = unit.checked_mul(geometry.chunks(geometry.unit) as u64)?;
        Some(Self {
            id,
            unit,
            bytes,
            sequence: u64_at(page, 32),
            synced_length: u64_at(page, 40),
            checksums: decode_checksums(id, first, count, &page[TAIL_FIXED..]),
        })
    }
}

/// Header of a slot: 128 bytes, then the checksums (salted u32 each); zeros are a free slot.
///
/// `0 magic[8] | 8 version u32 | 12 state u8 | 16 id u64 | 24 stamp u64 | 32 length u64 | 40 synced length u64 |
/// 48 sequence u64 | 56 synced sequence u64 | 64 bytes per checksum u32 | 72 crc32c of the checksums u32 | 76 extent u32 |
/// 80 class u32 | 84 slot u32 | 88 storage u128 | 124 crc32c of 0..124`
///
/// A slot is written once, header and data in one write; every change writes another slot and then frees this one.
/// *Sequence* counts up per volume, and the higher of two slots of a block counts if it is whole. *Synced
/// sequence*: every slot up to it was durable when this one was written. A restart takes the highest it finds and
/// verifies the data only of slots beyond, where a crash may have torn them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlotHeader {
    pub(crate) state: StoredState,
    pub(crate) id: BlockId,
    pub(crate) stamp: GenerationStamp,
    pub(crate) length: u64,
    pub(crate) synced_length: u64,
    pub(crate) sequence: u64,
    pub(crate) synced_sequence: u64,
    pub(crate) bytes_per_checksum: u32,
    pub(crate) place: SlotPlace,
    /// Plain CRC32C per chunk.
    pub(crate) checksums: Vec<u32>,
}

/// Where a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotPlace {
    pub(crate) storage: StorageUuid,
    pub(crate) class: u8,
    pub(crate) extent: u32,
    pub(crate) slot: u32,
}

impl SlotHeader {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        out.fill(0);
        put(out, 0, SLOT_MAGIC);
        put(out, 8, &VERSION.to_le_bytes());
        out[12] = self.state.code();
        for (at, value) in [
            (16, self.id.0),
            (24, self.stamp.0),
            (32, self.length),
            (40, self.synced_length),
            (48, self.sequence),
            (56, self.synced_sequence),
        ] {
            put(out, at, &value.to_le_bytes());
        }
        put(out, 64, &self.bytes_per_checksum.to_le_bytes());
        encode_checksums(self.id, 0, &self.checksums, &mut out[SLOT_FIXED..]);
        let crc = crc32c(&out[SLOT_FIXED..SLOT_FIXED + self.checksums.len() * 4]);
        put(out, 72, &crc.to_le_bytes());
        put(out, 76, &self.place.extent.to_le_bytes());
        put(out, 80, &u32::from(self.place.class).to_le_bytes());
        put(out, 84, &self.place.slot.to_le_bytes());
        put(out, 88, &self.place.storage.0.to_le_bytes());
        let crc = crc32c(&out[..124]);
        put(out, 124, &crc.to_le_bytes());
    }

    /// Reads the header of the slot at `place`, of which `header` holds all header bytes.
    pub(crate) fn decode(place: SlotPlace, header: &[u8]) -> Found<Self> {
        if header[..SLOT_FIXED].iter().all(|byte| *byte == 0) {
            return Found::Empty;
        }
        let found_place = SlotPlace {
            storage: StorageUuid(u128::from_le_bytes(
                header[88..104].try_into().expect("sixteen bytes"),
            )),
            class: u8::try_from(u32_at(header, 80)).unwrap_or(u8::MAX),
            extent: u32_at(header, 76),
            slot: u32_at(header, 84),
        };
        let sound = crc32c(&header[..124]) == u32_at(header, 124)
            && &header[..8] == SLOT_MAGIC
            && u32_at(header, 8) == VERSION
            && found_place == place;
        let (Some(state), true) = (StoredState::parse(header[12]), sound) else {
            return Found::Damaged(None);
        };
        let (id, stamp, length) = (
            BlockId(u64_at(header, 16)),
            GenerationStamp(u64_at(header, 24)),
            u64_at(header, 32),
        );
        let damaged = Found::Damaged(Some((
            Block {
                id,
                generation_stamp: stamp,
                length,
            },
            u64_at(header, 48),
        )));
        let chunk = u32_at(header, 64);
        let room = (header.len() - SLOT_FIXED) / 4;
        if chunk == 0 || length.div_ceil(u64::from(chunk)) > room as u64 {
            return damaged;
        }
        let count = length.div_ceil(u64::from(chunk)) as usize;
        if crc32c(&header[SLOT_FIXED..SLOT_FIXED + count * 4]) != u32_at(header, 72) {
            return damaged;
        }
        Found::Valid(Self {
            state,
            id,
            stamp,
            length,
            synced_length: u64_at(header, 40),
            sequence: u64_at(header, 48),
            synced_sequence: u64_at(header, 56),
            bytes_per_checksum: chunk,
            place,
            checksums: decode_checksums(id, 0, count, &header[SLOT_FIXED..]),
        })
    }
}

/// Writes the checksums of the chunks from `first` on, salted.
pub(crate) fn encode_checksums(id: BlockId, first: u64, checksums: &[u32], out: &mut [u8]) {
    for (index, crc) in checksums.iter().enumerate() {
        put(
            out,
            index * 4,
            &(crc ^ chunk_salt(id, first + index as u64)).to_le_bytes(),
        );
    }
}

/// Reads `count` checksums of the chunks from `first` on, unsalted.
pub(crate) fn decode_checksums(id: BlockId, first: u64, count: usize, bytes: &[u8]) -> Vec<u32> {
    (0..count)
        .map(|index| u32_at(bytes, index * 4) ^ chunk_salt(id, first + index as u64))
        .collect()
}

/// How many bytes of `data`, from its start, match their checksums (whole chunks, but for the last one).
pub(crate) fn verified(chunk: usize, data: &[u8], checksums: &[u32]) -> usize {
    let mut done = 0;
    for (piece, crc) in data.chunks(chunk).zip(checksums) {
        if crc32c(piece) != *crc {
            break;
        }
        done += piece.len();
    }
    done
}

/// CRC32C of a chunk of which `so_far` has checksum `crc`, with `more` behind it.
pub(crate) fn extend(crc: u32, so_far: usize, more: &[u8]) -> u32 {
    if so_far == 0 {
        crc32c(more)
    } else {
        crc32c_append(crc, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FileHeader {
        FileHeader {
            state: StoredState::Finalized,
            settled: true,
            id: BlockId(7),
            stamp: GenerationStamp(1001),
            length: 1 << 33,
            synced_length: 5,
            sequence: 9,
            tail_sequence: 8,
            tail_floor: 2,
            bytes_per_checksum: 512,
            group_bytes: 1 << 20,
            storage: StorageUuid(3),
        }
    }

    const PLACE: SlotPlace = SlotPlace {
        storage: StorageUuid(1),
        class: 2,
        extent: 4,
        slot: 5,
    };

    /// A slot's header with these checksums.
    fn slot(length: u64, bytes_per_checksum: u32, checksums: &[u32]) -> SlotHeader {
        SlotHeader {
            state: StoredState::Rbw,
            id: BlockId(1),
            stamp: GenerationStamp(2),
            length,
            synced_length: 0,
            sequence: 6,
            synced_sequence: 4,
            bytes_per_checksum,
            place: PLACE,
            checksums: checksums.to_vec(),
        }
    }

    fn tail() -> TailRecord {
        TailRecord {
            id: BlockId(9),
            unit: 3,
            bytes: 1500,
            sequence: 77,
            synced_length: 0,
            checksums: vec![1, 2, 3],
        }
    }

    /// C7: the bytes of version 1, fixed for ever.
    #[test]
    fn c7_golden_file_header() {
        let mut sector = [0xee; 512];
        header().encode(&mut sector);
        assert_eq!(FileHeader::decode(&sector), Found::Valid(header()));
        assert_eq!(&sector[..40], b"HADALREP\x01\0\0\0\x03\x01\0\0\x07\0\0\0\0\0\0\0\xe9\x03\0\0\0\0\0\0\0\0\0\0\x02\0\0\0");
        sector[8] = 2;
        assert_eq!(
            FileHeader::decode(&sector),
            Found::Damaged(None),
            "unknown version"
        );
        assert_eq!(FileHeader::decode(&[0; 512]), Found::Empty);
    }

    /// C1: no single flipped bit of a header or tail page yields another valid record.
    #[test]
    fn c1_headers_notice_every_flipped_bit() {
        let mut sector = [0; 512];
        header().encode(&mut sector);
        for bit in 0..512 * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !matches!(FileHeader::decode(&sector), Found::Valid(_)),
                "bit {bit}"
            );
            sector[bit / 8] ^= 1 << (bit % 8);
        }
        let geometry = Geometry::new(512, 1 << 20).unwrap();
        let record = tail();
        let mut page = vec![0; 4096];
        record.encode(&geometry, &mut page);
        assert_eq!(TailRecord::decode(&geometry, &page), Some(record.clone()));
        for bit in 0..4096 * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            let read = TailRecord::decode(&geometry, &page);
            assert!(read.is_none() || read == Some(record.clone()), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_slot_header_in_another_place_is_damaged() {
        let slot = slot(9000, 4096, &[5, 6, 7]);
        let mut bytes = vec![1; 4096];
        slot.encode(&mut bytes);
        assert_eq!(SlotHeader::decode(PLACE, &bytes), Found::Valid(slot));
        assert_eq!(
            SlotHeader::decode(SlotPlace { slot: 6, ..PLACE }, &bytes),
            Found::Damaged(None)
        );
        bytes[SLOT_FIXED] ^= 1;
        let block = Block {
            id: BlockId(1),
            generation_stamp: GenerationStamp(2),
            length: 9000,
        };
        assert_eq!(
            SlotHeader::decode(PLACE, &bytes),
            Found::Damaged(Some((block, 6)))
        );
    }

    /// C4: whatever stands in a sector whose checksums match (a bug wrote it), reading it does not panic.
    #[test]
    fn c4_sealed_rubbish_is_no_panic() {
        let mut random = 88_172_645_463_325_252u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let geometry = Geometry::new(512, 1 << 20).unwrap();
        let slot = slot(1000, 512, &[5, 6]);
        let tail = tail();
        let (mut valid, mut refused) = (0, 0);
        for _ in 0..60_000 {
            let (mut sector, mut page, mut bytes) = ([0; 512], vec![0; 4096], vec![0; 4096]);
            header().encode(&mut sector);
            tail.encode(&geometry, &mut page);
            slot.encode(&mut bytes);
            for _ in 0..1 + next() % 3 {
                // Behind the magic numbers, before the checksums of the fixed parts.
                let value = [0, 1, 0x7f, 0xff, next() as u8][(next() % 5) as usize];
                sector[12 + (next() % 90) as usize] = value;
                page[8 + (next() % 40) as usize] = value;
                bytes[12 + (next() % 60) as usize] = value;
            }
            let crc = crc32c(&sector[..508]);
            put(&mut sector, 508, &crc.to_le_bytes());
            let crc = crc32c(&page[..60]);
            put(&mut page, 60, &crc.to_le_bytes());
            let crc = crc32c(&bytes[..124]);
            put(&mut bytes, 124, &crc.to_le_bytes());
            for read in [
                matches!(FileHeader::decode(&sector), Found::Valid(_)),
                TailRecord::decode(&geometry, &page).is_some(),
                matches!(SlotHeader::decode(PLACE, &bytes), Found::Valid(_)),
            ] {
                valid += u32::from(read);
                refused += u32::from(!read);
            }
        }
        assert!(valid > 1000 && refused > 1000, "{valid} {refused}");
    }
}
