//! Header, table and footer as bytes.

use hadal_env::ALIGN;
use hadal_types::{BlockPoolId, CURRENT_LAYOUT, ClusterId, LayoutVersion, NamespaceInfo, TxId};
use store_record::checksum::{crc32c, crc32c_append};
use xxhash_rust::xxh3::Xxh3;

/// A digest, 16 opaque bytes.
pub type Digest = [u8; 16];

/// Number of a section; what it means is the namesystem's business.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionId(pub u32);

/// Content bytes of every chunk of a section but its last.
pub const CHUNK_LEN: usize = 256 << 10;
/// Most sections of an image.
pub const SECTIONS_MAX: usize = 4096;
/// Longest cluster id and block pool id, in bytes each.
pub const IDENTITY_BYTES_MAX: usize = 1024;

/// Header and footer are one block each.
pub(crate) const BLOCK_LEN: usize = ALIGN;
pub(crate) const CHUNK_HEAD_LEN: usize = 16;
const ENTRY_LEN: usize = 40;
const HEADER_MAGIC: [u8; 8] = *b"HADALIMG";
const FOOTER_MAGIC: [u8; 8] = *b"HADALEND";

/// One section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionInfo {
    /// Which.
    pub id: SectionId,
    /// Outside of the digest two NameNodes compare (replica locations).
    pub side: bool,
    /// Bytes of content.
    pub length: u64,
    /// Digest of the content.
    pub digest: Digest,
    /// File offset of its first chunk.
    pub(crate) offset: u64,
}

/// What an image says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageInfo {
    /// Whose.
    pub namespace: NamespaceInfo,
    /// Last transaction in it.
    pub txid: TxId,
    /// Bytes of the file.
    pub length: u64,
    /// Digest of the file's bytes up to the footer block, which has a checksum of its own: what a transfer is checked
    /// with.
    pub file_digest: Digest,
    /// Digest of id, length and content of all sections that are not side sections, in order of id: equal on two
    /// NameNodes at one txid (T-C2).
    pub content_digest: Digest,
    /// Sections in the order they were written.
    pub sections: Vec<SectionInfo>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn digest_at(bytes: &[u8], at: usize) -> Digest {
    bytes[at..at + 16].try_into().expect("sixteen bytes")
}

/// Checksum of a block whose bytes 12..16 hold it.
fn block_crc(block: &[u8]) -> u32 {
    crc32c_append(crc32c(&block[..12]), &block[16..BLOCK_LEN])
}

fn seal(block: &mut [u8]) {
    let crc = block_crc(block);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn sealed(block: &[u8], magic: [u8; 8]) -> bool {
    block.len() >= BLOCK_LEN && block[..8] == magic && u32_at(block, 12) == block_crc(block)
}

/// The header block.
///
/// | offset | field, little-endian |
/// |---|---|
/// | 0 | magic `HADALIMG` |
/// | 8 | layout u32 |
/// | 12 | CRC32C u32 over the block except these four bytes |
/// | 16 | txid u64 |
/// | 24 | namespace id u64 |
/// | 32 | time of the format u64, ms since 1970 |
/// | 40 | length u32 of the cluster id, length u32 of the block pool id |
/// | 48 | cluster id, block pool id, zeros |
///
/// Identity comes first so that an image of another namespace is refused before anything of it is read.
pub(crate) struct Header {
    pub(crate) layout: LayoutVersion,
    pub(crate) txid: TxId,
    pub(crate) namespace: NamespaceInfo,
}

impl Header {
    pub(crate) fn encode(txid: TxId, namespace: &NamespaceInfo) -> Vec<u8> {
        let (cluster, pool) = (
            namespace.cluster_id.0.as_bytes(),
            namespace.block_pool_id.0.as_bytes(),
        );
        assert!(
            cluster.len() <= IDENTITY_BYTES_MAX && pool.len() <= IDENTITY_BYTES_MAX,
            "cluster and block pool ids are short"
        );
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("capped").to_le_bytes();
        let mut block = vec![0; BLOCK_LEN];
        block[..8].copy_from_slice(&HEADER_MAGIC);
        block[8..12].copy_from_slice(&CURRENT_LAYOUT.0.to_le_bytes());
        block[16..24].copy_from_slice(&txid.0.to_le_bytes());
        block[24..32].copy_from_slice(&namespace.namespace_id.to_le_bytes());
        block[32..40].copy_from_slice(&namespace.created_ms.to_le_bytes());
        block[40..44].copy_from_slice(&length(cluster));
        block[44..48].copy_from_slice(&length(pool));
        block[48..48 + cluster.len()].copy_from_slice(cluster);
        block[48 + cluster.len()..48 + cluster.len() + pool.len()].copy_from_slice(pool);
        seal(&mut block);
        block
    }

    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        if !sealed(block, HEADER_MAGIC) {
            return None;
        }
        let layout = LayoutVersion(u32_at(block, 8));
        let (cluster, pool) = (u32_at(block, 40) as usize, u32_at(block, 44) as usize);
        if cluster > IDENTITY_BYTES_MAX || pool > IDENTITY_BYTES_MAX {
            return None;
        }
        let text = |from: usize, length: usize| {
            core::str::from_utf8(&block[from..from + length])
                .ok()
                .map(str::to_owned)
        };
        let namespace = NamespaceInfo {
            layout,
            namespace_id: u64_at(block, 24),
            cluster_id: ClusterId(text(48, cluster)?),
            block_pool_id: BlockPoolId(text(48 + cluster, pool)?),
            created_ms: u64_at(block, 32),
        };
        Some(Self {
            layout,
            txid: TxId(u64_at(block, 16)),
            namespace,
        })
    }
}

/// The table: per section `{id u32, flags u32 (bit 0: side), offset u64, length u64, digest 16 bytes}`.
pub(crate) fn encode_table(sections: &[SectionInfo]) -> Vec<u8> {
    let mut table = Vec::with_capacity(sections.len() * ENTRY_LEN);
    for section in sections {
        table.extend_from_slice(&section.id.0.to_le_bytes());
        table.extend_from_slice(&u32::from(section.side).to_le_bytes());
        table.extend_from_slice(&section.offset.to_le_bytes());
        table.extend_from_slice(&section.length.to_le_bytes());
        table.extend_from_slice(&section.digest);
    }
    table
}

/// The footer block: all that is known only at the end, and the way to the table.
///
/// | offset | field, little-endian |
/// |---|---|
/// | 0 | magic `HADALEND` |
/// | 8 | layout u32 |
/// | 12 | CRC32C u32 over the block except these four bytes |
/// | 16 | txid u64: the header's |
/// | 24 | file length u64 |
/// | 32 | table offset u64 |
/// | 40 | sections u32 |
/// | 44 | CRC32C u32 of the table |
/// | 48 | digest of all bytes before this block |
/// | 64 | digest of the compared content |
pub(crate) struct Footer {
    pub(crate) txid: TxId,
    pub(crate) length: u64,
    pub(crate) table_offset: u64,
    pub(crate) sections: usize,
    pub(crate) table_crc: u32,
    pub(crate) file_digest: Digest,
    pub(crate) content_digest: Digest,
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_LEN];
        block[..8].copy_from_slice(&FOOTER_MAGIC);
        block[8..12].copy_from_slice(&CURRENT_LAYOUT.0.to_le_bytes());
        block[16..24].copy_from_slice(&self.txid.0.to_le_bytes());
        block[24..32].copy_from_slice(&self.length.to_le_bytes());
        block[32..40].copy_from_slice(&self.table_offset.to_le_bytes());
        block[40..44].copy_from_slice(&u32::try_from(self.sections).expect("capped").to_le_bytes());
        block[44..48].copy_from_slice(&self.table_crc.to_le_bytes());
        block[48..64].copy_from_slice(&self.file_digest);
        block[64..80].copy_from_slice(&self.content_digest);
        seal(&mut block);
        block
    }

    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        if !sealed(block, FOOTER_MAGIC) {
            return None;
        }
        let footer = Self {
            txid: TxId(u64_at(block, 16)),
            length: u64_at(block, 24),
            table_offset: u64_at(block, 32),
            sections: u32_at(block, 40) as usize,
            table_crc: u32_at(block, 44),
            file_digest: digest_at(block, 48),
            content_digest: digest_at(block, 64),
        };
        (footer.sections <= SECTIONS_MAX).then_some(footer)
    }

    /// Bytes of the table.
    pub(crate) fn table_len(&self) -> usize {
        self.sections * ENTRY_LEN
    }

    /// The sections of the table; `None` when it does not verify or points outside of the file.
    pub(crate) fn sections(&self, table: &[u8]) -> Option<Vec<SectionInfo>> {
        if table.len() != self.table_len() || crc32c(table) != self.table_crc {
            return None;
        }
        let entry = |entry: &[u8]| {
            let (offset, length) = (u64_at(entry, 8), u64_at(entry, 16));
            let inside =
                offset >= BLOCK_LEN as u64 && offset.checked_add(length)? <= self.table_offset;
            let flags = u32_at(entry, 4);
            (inside && flags <= 1).then(|| SectionInfo {
                id: SectionId(u32_at(entry, 0)),
                side: flags == 1,
                length,
                digest: digest_at(entry, 24),
                offset,
            })
        };
        table.chunks_exact(ENTRY_LEN).map(entry).collect()
    }
}

/// The head of a chunk; `crc` covers the other fields and the content.
pub(crate) fn chunk_head(section: SectionId, ordinal: u32, content: &[u8]) -> [u8; CHUNK_HEAD_LEN] {
    let mut head = [0; CHUNK_HEAD_LEN];
    head[..4].copy_from_slice(&section.0.to_le_bytes());
    head[4..8].copy_from_slice(&ordinal.to_le_bytes());
    head[8..12].copy_from_slice(
        &u32::try_from(content.len())
            .expect("a chunk is short")
            .to_le_bytes(),
    );
    let crc = crc32c_append(crc32c(&head[..12]), content);
    head[12..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Digest of the compared sections.
pub(crate) fn content_digest(sections: &[SectionInfo]) -> Digest {
    let mut compared: Vec<_> = sections.iter().filter(|section| !section.side).collect();
    compared.sort_by_key(|section| section.id);
    let mut hash = Xxh3::new();
    for section in compared {
        hash.update(&section.id.0.to_le_bytes());
        hash.update(&section.length.to_le_bytes());
        hash.update(&section.digest);
    }
    hash.digest128().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C4: whatever stands in a block whose checksum matches (a peer sent it), reading it does not panic, and no section
    /// lies outside of what is before the table.
    #[test]
    fn c4_sealed_rubbish_is_no_panic() {
        let mut random = 88_172_645_463_325_252u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let footer = |table: &[u8], sections| Footer {
            txid: TxId(7),
            length: 1 << 20,
            table_offset: 900 << 10,
            sections,
            table_crc: crc32c(table),
            file_digest: [1; 16],
            content_digest: [2; 16],
        };
        let (mut valid, mut refused) = (0, 0);
        for _ in 0..40_000 {
            let mut block = vec![0; BLOCK_LEN];
            block[..8].copy_from_slice(&HEADER_MAGIC);
            for _ in 0..1 + next() % 4 {
                let value = [0, 4, 0xff, next() as u8][(next() % 4) as usize];
                block[16 + (next() % 48) as usize] = value;
            }
            seal(&mut block);
            let read = Header::decode(&block).is_some();
            let mut table = vec![0; 2 * ENTRY_LEN];
            for _ in 0..1 + next() % 6 {
                let value = [0, 1, 0xff, next() as u8][(next() % 4) as usize];
                table[(next() % 64) as usize] = value;
            }
            let sections = if next().is_multiple_of(8) {
                next() as usize
            } else {
                2
            };
            let mut block = footer(&table, sections & 0xffff_ffff).encode();
            if next().is_multiple_of(2) {
                block[16 + (next() % 28) as usize] = next() as u8;
                seal(&mut block);
            }
            let footer = Footer::decode(&block);
            let found =
                footer.and_then(|footer| Some((footer.sections(&table)?, footer.table_offset)));
            for (sections, table_offset) in found.iter() {
                for section in sections {
                    let end = section.offset.checked_add(section.length);
                    assert!(end.is_some_and(|end| end <= *table_offset), "{section:?}");
                }
            }
            for read in [read, found.is_some()] {
                valid += u32::from(read);
                refused += u32::from(!read);
            }
        }
        assert!(valid > 1000 && refused > 1000, "{valid} {refused}");
    }
}
