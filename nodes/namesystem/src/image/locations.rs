//! Where blocks were last known to be: the side sections of an image (protocols.md section 4, restart).

use super::records::{self, Reader};
use super::{ImageError, Section};
use crate::namesystem::Namesystem;
use crate::radix::PAGE_IDS;
use crate::state::View;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_blocks::REPLICAS_MAX;
use hadal_types::{DatanodeUuid, StorageUuid};
use smallvec::SmallVec;

/// Most storages of an image.
pub(crate) const STORAGES_MAX: usize = 1 << 20;
/// Most locations of one block: as many as the block map records.
const LOCATIONS_MAX: u64 = REPLICAS_MAX as u64;
/// A chunk is closed once it is this long. Small, since the namespace is looked at meanwhile.
const CHUNK_BYTES: usize = 32 << 10;
/// Inodes and blocks looked at for one chunk, though it be shorter.
const LOOKS: usize = 8_192;

/// Reads one storage.
pub(crate) fn read_storage(
    input: &mut Reader<'_>,
) -> Result<(DatanodeUuid, StorageUuid), ImageError> {
    Ok((DatanodeUuid(input.wide()?), StorageUuid(input.wide()?)))
}

/// The first file of a chunk that is not empty.
pub(crate) fn first_file(chunk: &[u8]) -> Result<u64, ImageError> {
    Reader::new(Section::Locations, chunk).number()
}

/// Reads chunks of locations along a walk over the files they are of.
pub(crate) struct LocationsAt<'a> {
    chunks: core::slice::Iter<'a, Bytes>,
    input: Reader<'a>,
    /// Storages there are.
    storages: usize,
    /// The file whose blocks come next; `None` at the end.
    file: Option<u64>,
    /// The differences in a chunk start anew.
    before: u64,
}

impl<'a> LocationsAt<'a> {
    pub(crate) fn new(chunks: &'a [Bytes], storages: usize) -> Result<Self, ImageError> {
        let mut at = Self {
            chunks: chunks.iter(),
            input: Reader::new(Section::Locations, &[]),
            storages,
            file: None,
            before: 0,
        };
        at.advance()?;
        Ok(at)
    }

    /// Whether the blocks of this file come next. It is asked of every file, in their order: a file that was passed is none
    /// of the tree.
    pub(crate) fn reach(&self, file: u64) -> Result<bool, ImageError> {
        match self.file {
            Some(at) if at < file => Err(self.input.malformed("file")),
            at => Ok(at == Some(file)),
        }
    }

    /// The places of the file's next block, instead of what is in `places`.
    pub(crate) fn next_block(&mut self, places: &mut Vec<u32>) -> Result<(), ImageError> {
        let count = self.input.number()?;
        if count > LOCATIONS_MAX {
            return Err(self.input.malformed("number of locations"));
        }
        places.clear();
        for _ in 0..count {
            let place = self.input.number()?;
            if place >= self.storages as u64 {
                return Err(self.input.malformed("storage"));
            }
            places.push(place as u32);
        }
        Ok(())
    }

    /// Goes on to the next file.
    pub(crate) fn advance(&mut self) -> Result<(), ImageError> {
        while self.input.is_empty() {
            let Some(chunk) = self.chunks.next() else {
                self.file = None;
                return Ok(());
            };
            self.input = Reader::new(Section::Locations, chunk);
            self.before = 0;
        }
        let file = self.before.saturating_add(self.input.number()?);
        if self.file.is_some_and(|last| file <= last) {
            return Err(self.input.malformed("file"));
        }
        (self.file, self.before) = (Some(file), file);
        Ok(())
    }

    /// All of it must have been of files that were asked about.
    pub(crate) fn end(&self) -> Result<(), ImageError> {
        match self.file {
            Some(_) => Err(self.input.malformed("file")),
            None => Ok(()),
        }
    }
}

/// Yields the side sections of an image chunk by chunk. Between two chunks the namespace may go on: what is known of
/// a block is looked up when its file's turn comes.
pub struct LocationSource {
    view: View,
    storages: Vec<(DatanodeUuid, StorageUuid)>,
    /// Place in `storages` of a storage of the block map.
    places: Vec<Option<u32>>,
    storages_done: bool,
    next: u64,
}

impl LocationSource {
    /// Of the files of `view`, which is one of this namespace.
    #[must_use]
    pub fn new(view: View, namesystem: &Namesystem) -> Self {
        let (mut storages, mut places) = (Vec::new(), Vec::new());
        for storage in namesystem.blocks().storages() {
            let place = storage.filter(|_| storages.len() < STORAGES_MAX);
            places.push(place.map(|storage| {
                storages.push(storage);
                storages.len() as u32 - 1
            }));
        }
        Self {
            view,
            storages,
            places,
            storages_done: false,
            next: 0,
        }
    }

    /// The next chunk, a short piece of work; `None` at the end. It can be empty.
    pub fn next_chunk(&mut self, namesystem: &Namesystem) -> Option<(Section, Bytes)> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + (1 << 10));
        if !self.storages_done {
            self.storages_done = true;
            for (datanode, storage) in &self.storages {
                out.extend_from_slice(&datanode.0.to_le_bytes());
                out.extend_from_slice(&storage.0.to_le_bytes());
            }
            return Some((Section::Storages, out.into()));
        }
        let (mut before, mut looks, mut ended) = (0, LOOKS, true);
        let mut record = Vec::new();
        'pages: while let Some((base, page)) = self.view.tree.next_page(self.next) {
            for (slot, inode) in page.inodes() {
                let id = base + u64::from(slot);
                if id < self.next {
                    continue;
                }
                if looks == 0 || out.len() >= CHUNK_BYTES {
                    ended = false;
                    break 'pages;
                }
                self.next = id + 1;
                looks = looks.saturating_sub(1);
                let Some(file) = inode.file() else {
                    continue;
                };
                record.clear();
                let mut known = 0;
                for block in file.blocks.iter() {
                    looks = looks.saturating_sub(1);
                    let mut here: SmallVec<[u32; 4]> = SmallVec::new();
                    namesystem.blocks().each_replica(block.id, |storage| {
                        let place = self.places.get(storage as usize).copied().flatten();
                        here.extend(place);
                    });
                    known += here.len();
                    records::put(&mut record, here.len() as u64);
                    for place in here {
                        records::put(&mut record, u64::from(place));
                    }
                }
                if known > 0 {
                    records::put(&mut out, id - before);
                    before = id;
                    out.extend_from_slice(&record);
                }
            }
            self.next = base + PAGE_IDS;
        }
        (!ended || !out.is_empty()).then(|| (Section::Locations, out.into()))
    }
}
