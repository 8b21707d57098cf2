//! The records of an image's sections.

use super::{ImageError, Section, kind_of};
use crate::inode::{BlockList, Body, FileBody, Inode, PERMISSION_MASK, REPLICATION_MAX};
use crate::inode_page::InodeRef;
use crate::retry::{CreatedFile, Outcome, RetryEntry};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::client::NAME_LEN_MAX;
use hadal_types::{Block, BlockId, CallId, ClientId, GenerationStamp, InodeId, TxId, U48};

/// Longest text of a record; user and group names are no longer than file names.
const TEXT_MAX: usize = NAME_LEN_MAX;

/// Appends a varint.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `to` as its zigzag difference to `from`.
pub(crate) fn put_difference(out: &mut Vec<u8>, from: u64, to: u64) {
    let difference = to.wrapping_sub(from).cast_signed();
    put(out, (difference << 1 ^ difference >> 63).cast_unsigned());
}

/// Appends text.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Appends an inode whose id is `step` behind the one before.
pub(crate) fn put_inode(out: &mut Vec<u8>, step: u64, inode: InodeRef<'_>, name: &str) {
    put(out, step);
    put(out, kind_of(inode));
    put(out, inode.parent());
    put_text(out, name);
    put(out, u64::from(inode.permission()));
    put(out, u64::from(inode.owner()));
    let modified = inode.modified_ms();
    put(out, modified);
    put_difference(out, modified, inode.accessed_ms());
    if let Some(file) = inode.file() {
        put(out, u64::from(file.replication));
        put(out, file.block_size);
        put(out, file.blocks.len() as u64);
        for block in file.blocks.iter() {
            put(out, block.id.0);
            put(out, block.generation_stamp.0);
            put(out, block.length);
        }
    }
}

/// Appends a retry cache entry: outcome 0 done, 1 yes, 2 created, 3 block, 4 stamp.
pub(crate) fn put_retry(out: &mut Vec<u8>, entry: &RetryEntry) {
    out.extend_from_slice(&entry.client.0.to_le_bytes());
    put(out, entry.call.0);
    put(out, entry.txid.0);
    put(out, entry.time_ms);
    put(out, entry.recorded_ms);
    match &entry.outcome {
        Outcome::Done => put(out, 0),
        Outcome::Yes => put(out, 1),
        Outcome::Created(file) => {
            put(out, 2);
            put(out, file.inode.0);
            put_text(out, &file.name);
            put(out, u64::from(file.permission));
            put_text(out, &file.owner);
            put_text(out, &file.group);
            put(out, u64::from(file.replication));
            put(out, file.block_size);
        }
        Outcome::Block {
            inode,
            block,
            generation_stamp,
        } => {
            put(out, 3);
            put(out, inode.0);
            put(out, block.0);
            put(out, generation_stamp.0);
        }
        Outcome::Stamp(generation_stamp) => {
            put(out, 4);
            put(out, generation_stamp.0);
        }
    }
}

/// Puts the low seven bits of each of eight bytes side by side.
const fn gather(word: u64) -> u64 {
    let word = word & 0x7f7f_7f7f_7f7f_7f7f;
    let word = (word & 0x007f_007f_007f_007f) | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let word = (word & 0x0000_3fff_0000_3fff) | (word & 0x3fff_0000_3fff_0000) >> 2;
    (word & 0x0fff_ffff) | (word & 0x0fff_ffff_0000_0000) >> 4
}

/// Reads the records of one chunk.
pub(crate) struct Reader<'a> {
    section: Section,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of a chunk of that section.
    pub(crate) fn new(section: Section, bytes: &'a [u8]) -> Self {
        Self { section, bytes }
    }

    /// Nothing left.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The error for a bad value.
    pub(crate) fn malformed(&self, what: &'static str) -> ImageError {
        ImageError::Malformed {
            section: self.section,
            what,
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ImageError> {
        let (taken, left) = self
            .bytes
            .split_at_checked(length)
            .ok_or_else(|| self.malformed("chunk end"))?;
        self.bytes = left;
        Ok(taken)
    }

    /// A varint.
    pub(crate) fn number(&mut self) -> Result<u64, ImageError> {
        // Most numbers are one byte, and most others at most eight, which one load reads.
        match *self.bytes {
            [first, ref rest @ ..] if first < 0x80 => {
                self.bytes = rest;
                return Ok(u64::from(first));
            }
            [a, b, c, d, e, f, g, h, ..] => {
                let word = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let ends = !word & 0x8080_8080_8080_8080;
                if ends != 0 {
                    let length = ends.trailing_zeros() / 8 + 1;
                    self.bytes = &self.bytes[length as usize..];
                    return Ok(gather(word & (u64::MAX >> (64 - 8 * length))));
                }
            }
            _ => {}
        }
        self.long_number()
    }

    fn long_number(&mut self) -> Result<u64, ImageError> {
        let mut value = 0u64;
        for (at, byte) in self.bytes.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if at == 9 && *byte > 1 {
                return Err(self.malformed("number"));
            }
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[at + 1..];
                return Ok(value);
            }
        }
        Err(self.malformed("number"))
    }

    /// A varint below 2^48.
    pub(crate) fn number48(&mut self) -> Result<u64, ImageError> {
        let value = self.number()?;
        if value > U48::MAX {
            return Err(self.malformed("48-bit number"));
        }
        Ok(value)
    }

    fn number16(&mut self) -> Result<u16, ImageError> {
        u16::try_from(self.number()?).map_err(|_| self.malformed("16-bit number"))
    }

    /// A number written as its difference to `from`.
    pub(crate) fn difference(&mut self, from: u64) -> Result<u64, ImageError> {
        let zigzag = self.number()?;
        let difference = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        Ok(from.wrapping_add(difference))
    }

    /// Sixteen bytes.
    pub(crate) fn wide(&mut self) -> Result<u128, ImageError> {
        let bytes = self.take(16)?;
        Ok(u128::from_le_bytes(
            bytes.try_into().expect("sixteen were taken"),
        ))
    }

    /// Text.
    pub(crate) fn text(&mut self) -> Result<&'a str, ImageError> {
        let length = self.number()?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= TEXT_MAX)
            .ok_or_else(|| self.malformed("text length"))?;
        let bytes = self.take(length)?;
        core::str::from_utf8(bytes).map_err(|_| self.malformed("text"))
    }

    fn block(&mut self) -> Result<Block, ImageError> {
        Ok(Block {
            id: BlockId(self.number48()?),
            generation_stamp: GenerationStamp(self.number48()?),
            length: self.number48()?,
        })
    }

    /// An inode and its name, behind its id.
    pub(crate) fn inode(&mut self, owners: usize) -> Result<(Inode, &'a str), ImageError> {
        let kind = self.number()?;
        let parent = self.number48()?;
        let name = self.text()?;
        let permission = self.number16()?;
        let owner = self.number()?;
        let owner = u32::try_from(owner)
            .ok()
            .filter(|owner| (*owner as usize) < owners)
            .ok_or_else(|| self.malformed("owner number"))?;
        let modified = self.number48()?;
        let accessed = self.difference(modified)?;
        if permission & !PERMISSION_MASK != 0 || accessed > U48::MAX {
            return Err(self.malformed("permission or time"));
        }
        let body = match kind {
            0 => Body::Directory,
            1 | 3 => {
                let replication = self.number16()?;
                let block_size = self.number48()?;
                let count = self.number()?;
                let mut blocks = BlockList::Empty;
                for _ in 0..count {
                    blocks.push(self.block()?);
                }
                if replication > REPLICATION_MAX {
                    return Err(self.malformed("replication"));
                }
                Body::File(FileBody {
                    block_size,
                    replication,
                    is_open: kind == 3,
                    blocks,
                })
            }
            _ => return Err(self.malformed("inode kind")),
        };
        let mut inode = Inode::new(permission, owner, modified, body);
        inode.parent = parent;
        inode.accessed_ms = accessed;
        Ok((inode, name))
    }

    /// A retry cache entry.
    pub(crate) fn retry(&mut self) -> Result<RetryEntry, ImageError> {
        let client = ClientId(self.wide()?);
        let call = CallId(self.number()?);
        let txid = TxId(self.number()?);
        let time_ms = self.number()?;
        let recorded_ms = self.number()?;
        let outcome = match self.number()? {
            0 => Outcome::Done,
            1 => Outcome::Yes,
            2 => Outcome::Created(Box::new(CreatedFile {
                inode: InodeId(self.number()?),
                name: String::from(self.text()?),
                permission: self.number16()?,
                owner: String::from(self.text()?),
                group: String::from(self.text()?),
                replication: self.number16()?,
                block_size: self.number()?,
            })),
            3 => Outcome::Block {
                inode: InodeId(self.number()?),
                block: BlockId(self.number()?),
                generation_stamp: GenerationStamp(self.number()?),
            },
            4 => Outcome::Stamp(GenerationStamp(self.number()?)),
            _ => return Err(self.malformed("outcome")),
        };
        Ok(RetryEntry {
            client,
            call,
            txid,
            time_ms,
            recorded_ms,
            outcome,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_differences_survive() {
        let values: Vec<u64> = (0..64)
            .flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) | 1, u64::MAX >> bit])
            .collect();
        let mut out = Vec::new();
        for value in &values {
            put(&mut out, *value);
            put_difference(&mut out, 77, *value);
        }
        let mut reader = Reader::new(Section::Header, &out);
        for value in values {
            assert_eq!(reader.number(), Ok(value));
            assert_eq!(reader.difference(77), Ok(value));
        }
        assert!(reader.is_empty());
        assert!(reader.number().is_err());
    }

    #[test]
    fn overlong_numbers_and_text_are_refused() {
        let overlong = [0xff; 11];
        assert!(Reader::new(Section::Inodes, &overlong).number().is_err());
        let mut out = Vec::new();
        put(&mut out, 1 << 40);
        assert!(Reader::new(Section::Owners, &out).text().is_err());
    }
}
