//! The first block of a segment, and names of files.

use crate::Digest;
use hadal_env::ALIGN;
use hadal_types::{Epoch, TxId};
use store_record::checksum::{crc32c, crc32c_append};

/// Bytes of the header block; the first record starts here.
pub(crate) const HEADER_LEN: usize = ALIGN;
const MAGIC: [u8; 8] = *b"HADALEDT";

/// The first block of a segment.
///
/// On disk, little-endian, 4096 bytes:
///
/// | offset | field |
/// |---|---|
/// | 0 | magic `HADALEDT` |
/// | 8 | layout u32 ([`hadal_types::CURRENT_LAYOUT`]) |
/// | 12 | CRC32C u32 over the whole block except these four bytes |
/// | 16 | namespace id u64 |
/// | 24 | first txid u64 |
/// | 32 | writer epoch u64: who started the segment |
/// | 40 | running digest before the first record, 16 bytes |
/// | 56 | file length u64 at creation |
/// | 64 | zeros |
///
/// Everything stands in the first 512 bytes, so the block cannot be torn; the segment gets its name only after the
/// header is durable, so under an `edits_` name a bad header is damage, never a crash during creation.
/// The digest lets a node serve and check a segment without having the ones before it. The length at creation is
/// where the steps of growth start ([`crate::Options`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Layout the segment was written with.
    pub layout: u32,
    /// Namespace it belongs to.
    pub namespace_id: u64,
    /// First txid.
    pub first: TxId,
    /// Epoch of the writer that started the segment. Its records may carry older epochs (recovered ones).
    pub writer_epoch: Epoch,
    /// Running digest before the first record.
    pub digest_before: Digest,
    /// File length at creation, in bytes.
    pub initial_length: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..HEADER_LEN];
        out.fill(0);
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.layout.to_le_bytes());
        out[16..24].copy_from_slice(&self.namespace_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.writer_epoch.0.to_le_bytes());
        out[40..56].copy_from_slice(&self.digest_before);
        out[56..64].copy_from_slice(&self.initial_length.to_le_bytes());
        let crc = block_crc(out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// `None` when the block is not a whole header.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let block = block.get(..HEADER_LEN)?;
        let u32_at =
            |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
        let u64_at =
            |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
        if block[..8] != MAGIC || u32_at(12) != block_crc(block) {
            return None;
        }
        Some(Self {
            layout: u32_at(8),
            namespace_id: u64_at(16),
            first: TxId(u64_at(24)),
            writer_epoch: Epoch(u64_at(32)),
            digest_before: block[40..56].try_into().expect("sixteen bytes"),
            initial_length: u64_at(56),
        })
    }
}

fn block_crc(block: &[u8]) -> u32 {
    crc32c_append(crc32c(&block[..12]), &block[16..HEADER_LEN])
}

/// What a file of the directory is, by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Name {
    InProgress(TxId),
    Finalised(TxId, TxId),
    Copy(TxId),
    Accepted(TxId),
    Retired,
    Temporary,
    Other,
}

impl Name {
    pub(crate) fn parse(name: &str) -> Self {
        let txid = |digits: &str| {
            let known = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
            known
                .then(|| digits.parse().ok().map(TxId))
                .flatten()
                .filter(|txid| txid.0 > 0)
        };
        if name.ends_with(".tmp") {
            // Others may keep files of theirs beside ours.
            let ours = ["edits_", "accepted_", SPARE_NAME]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            return if ours { Self::Temporary } else { Self::Other };
        }
        if let Some(number) = name.strip_prefix(RETIRED_PREFIX) {
            let ours = number.len() == 20 && number.bytes().all(|b| b.is_ascii_digit());
            return if ours { Self::Retired } else { Self::Other };
        }
        if let Some(first) = name.strip_prefix("edits_inprogress_") {
            return txid(first).map_or(Self::Other, Self::InProgress);
        }
        if let Some(first) = name.strip_prefix("accepted_") {
            return txid(first).map_or(Self::Other, Self::Accepted);
        }
        let Some(rest) = name.strip_prefix("edits_") else {
            return Self::Other;
        };
        if let Some(first) = rest.strip_suffix(".copy") {
            return txid(first).map_or(Self::Other, Self::Copy);
        }
        match rest
            .split_once('-')
            .map(|(first, last)| (txid(first), txid(last)))
        {
            Some((Some(first), Some(last))) if first <= last => Self::Finalised(first, last),
            _ => Self::Other,
        }
    }
}

pub(crate) fn in_progress_name(first: TxId) -> String {
    format!("edits_inprogress_{:020}", first.0)
}

pub(crate) fn finalised_name(first: TxId, last: TxId) -> String {
    format!("edits_{:020}-{:020}", first.0, last.0)
}

pub(crate) fn copy_name(first: TxId) -> String {
    format!("edits_{:020}.copy", first.0)
}

pub(crate) fn accepted_name(first: TxId) -> String {
    format!("accepted_{:020}", first.0)
}

pub(crate) const SPARE_NAME: &str = "spare";

const RETIRED_PREFIX: &str = "retired_";

/// A file that means nothing any more, or not yet: number so many since the journal was opened.
pub(crate) fn retired_name(number: u64) -> String {
    format!("{RETIRED_PREFIX}{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        let (a, b) = (TxId(3), TxId(u64::MAX));
        assert_eq!(Name::parse(&in_progress_name(b)), Name::InProgress(b));
        assert_eq!(Name::parse(&finalised_name(a, b)), Name::Finalised(a, b));
        assert_eq!(Name::parse(&copy_name(a)), Name::Copy(a));
        assert_eq!(Name::parse(&accepted_name(a)), Name::Accepted(a));
        assert_eq!(
            Name::parse("accepted_00000000000000000003.tmp"),
            Name::Temporary
        );
        assert_eq!(Name::parse(&retired_name(7)), Name::Retired);
        for odd in [
            "promised.tmp",
            "retired_7",
            "edits_1-2",
            "edits_inprogress_",
            "spare",
            "edits_00000000000000000003-00000000000000000002",
            "edits_inprogress_+0000000000000000003",
        ] {
            assert_eq!(Name::parse(odd), Name::Other, "{odd}");
        }
    }
}
