//! Where blocks were last known to be: the side sections of an image (protocols.md section 4, restart).

use super::records::{self, Reader};
use super::{ImageError, Section};
use crate::namesystem::Namesystem;
use crate::radix::PAGE_IDS;
use crate::state::View;
use crate::tree::Tree;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_blocks::REPLICAS_MAX;
use hadal_types::{DatanodeUuid, InodeId, StorageUuid};
use smallvec::SmallVec;

/// Most storages of an image.
pub(crate) const STORAGES_MAX: usize = 1 << 20;
/// Most locations of one block: as many as the block map records.
const LOCATIONS_MAX: u64 = REPLICAS_MAX as u64;
/// A chunk is closed once it is this long. Small, since the namespace is looked at meanwhile.
const CHUNK_BYTES: usize = 32 << 10;
/// Inodes and blocks looked at for one chunk, though it be shorter.
const LOOKS: usize = 8_192;

/// What the side sections of an image say.
#[derive(Default)]
pub(crate) struct Locations {
    /// By the places that `chunks` name.
    pub(crate) storages: Vec<(DatanodeUuid, StorageUuid)>,
    /// As they were fed, checked.
    pub(crate) chunks: Vec<Bytes>,
    /// The last file of them.
    pub(crate) last: u64,
}

/// Reads one storage.
pub(crate) fn read_storage(
    input: &mut Reader<'_>,
) -> Result<(DatanodeUuid, StorageUuid), ImageError> {
    Ok((DatanodeUuid(input.wide()?), StorageUuid(input.wide()?)))
}

impl Locations {
    /// Takes a chunk that names files of this tree, and of them as many blocks as they have.
    pub(crate) fn take(
        &mut self,
        input: &mut Reader<'_>,
        tree: &Tree,
        chunk: &Bytes,
    ) -> Result<(), ImageError> {
        let mut id = 0u64;
        while !input.is_empty() {
            id = id.saturating_add(input.number()?);
            let inode = tree
                .page(id)
                .and_then(|page| page.raw(crate::radix::slot(id)));
            let file = inode.and_then(|(inode, _)| inode.file());
            let file = file.filter(|_| id > self.last);
            let file = file.ok_or_else(|| input.malformed("file"))?;
            self.last = id;
            for _ in 0..file.blocks.len() {
                let count = input.number()?;
                if count > LOCATIONS_MAX {
                    return Err(input.malformed("number of locations"));
                }
                for _ in 0..count {
                    if input.number()? >= self.storages.len() as u64 {
                        return Err(input.malformed("storage"));
                    }
                }
            }
        }
        self.chunks.push(chunk.clone());
        Ok(())
    }
}

/// Reads [`Locations`] along a walk over the files they are of.
pub(crate) struct LocationsAt<'a> {
    chunks: core::slice::Iter<'a, Bytes>,
    input: Reader<'a>,
    /// The file whose blocks come next; `None` at the end.
    file: Option<InodeId>,
}

impl<'a> LocationsAt<'a> {
    pub(crate) fn new(locations: &'a Locations) -> Self {
        let mut at = Self {
            chunks: locations.chunks.iter(),
            input: Reader::new(Section::Locations, &[]),
            file: None,
        };
        at.advance();
        at
    }

    /// The locations of the next block of this file; none where none are known. Blocks are asked for in the order of
    /// files, each of them.
    pub(crate) fn next_block(&mut self, file: InodeId) -> SmallVec<[u32; 4]> {
        // All blocks of a file before this one are read.
        while self.file.is_some_and(|at| at < file) {
            self.advance();
        }
        if self.file != Some(file) {
            return SmallVec::new();
        }
        (0..self.number()).map(|_| self.number() as u32).collect()
    }

    /// Goes on to the next file.
    fn advance(&mut self) {
        let mut before = self.file.map_or(0, |file| file.0);
        while self.input.is_empty() {
            let Some(chunk) = self.chunks.next() else {
                self.file = None;
                return;
            };
            self.input = Reader::new(Section::Locations, chunk);
            before = 0;
        }
        self.file = Some(InodeId(before + self.number()));
    }

    fn number(&mut self) -> u64 {
        self.input.number().expect("checked when it was fed")
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
