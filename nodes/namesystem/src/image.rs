//! The whole namespace as bytes: what a checkpoint holds. The container (files, checksums, publication) is
//! the store's; here a namespace is a sequence of chunks, each belonging to a [`Section`].
//!
//! A chunk can be read by itself (no record crosses a chunk, differences start anew in each), so sections can
//! be written and chunks be decoded on several cores. Numbers are LEB128 varints unless said otherwise; text is a
//! varint length and UTF-8.

mod loader;
mod locations;
pub(crate) mod records;
mod work;

pub use loader::{ImageLoader, Loaded};
pub use locations::LocationSource;
pub use work::{ChunkDone, ChunkWork};

use crate::children::Children;
use crate::inode_page::{InodePage, InodeRef};
use crate::radix::PAGE_IDS;
use crate::state::View;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_types::InodeId;
use thiserror::Error;

/// Version of the sections' content: 3 added [`Section::Storages`] and [`Section::Locations`].
const VERSION: u64 = 3;
/// The oldest version that is read, as an image without those.
const OLDEST_VERSION: u64 = 2;
/// A chunk is closed once it is this long; it can be longer by one record.
const CHUNK_BYTES: usize = 256 << 10;
/// Entries of one directory per record, so that a huge directory spans chunks.
const ENTRIES_PER_RECORD: usize = 16_384;
/// Inodes looked at for one chunk of directories, and entries of it, though it be shorter: a chunk is a short piece of work.
const LOOKS: usize = 16_384;

/// The parts of an image, in the order in which they are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Section {
    /// One chunk: version, txid, last inode id, last block id, last generation stamp, then the counts that the
    /// other sections must add up to: directories, files, blocks, owners, open files, retry entries; then the
    /// retry cache's clock: its time, 1 and the last edit's timestamp or just 0 when there is none.
    Header = 1,
    /// (owner, group) pairs in the order of their numbers.
    Owners = 2,
    /// Inodes in the order of their ids: id (the difference to the one before in the chunk), kind (0 directory, 1 file, 3 open file), parent,
    /// name, permission, owner number, modification time, access time (zigzag difference to it); a file also
    /// replication, block size, block count and per block id, stamp, length.
    Inodes = 3,
    /// Entries of directories in name order, so that loading does not sort: directory id, count, then per entry
    /// its inode id (zigzag difference to the one before, the first to the directory's). A directory may go on
    /// in the next record. Directories come in the order of their ids.
    Directories = 4,
    /// Open files: inode id, holder (16 bytes, little-endian).
    OpenFiles = 5,
    /// Retry cache, oldest first: client (16 bytes, little-endian), call, txid, time, the cache's clock then, outcome.
    RetryCache = 6,
    /// A side section, optional: the storages that [`Self::Locations`] names by their place here, from 0:
    /// DataNode's uuid, storage's uuid (16 bytes each, little-endian).
    Storages = 7,
    /// A side section, optional: where blocks were last known to be, not confirmed (protocols.md section 4). Files in
    /// the order of their ids, those without a known replica left out: id (the difference to the one before in the
    /// chunk), then per block of the file, in its order: count, and as many places of storages. It is written while
    /// the namespace goes on, so it may tell of a little more or less than the image's txid.
    Locations = 8,
}

impl Section {
    /// All sections in order.
    pub const ALL: [Self; 8] = [
        Self::Header,
        Self::Owners,
        Self::Inodes,
        Self::Directories,
        Self::OpenFiles,
        Self::RetryCache,
        Self::Storages,
        Self::Locations,
    ];

    /// Outside of the digest that two NameNodes compare at one txid: each knows replicas in its own way.
    #[must_use]
    pub fn is_side(self) -> bool {
        matches!(self, Self::Storages | Self::Locations)
    }

    /// The section of that number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|section| *section as u8 == number)
    }
}

/// Why bytes are not an image of a namespace. The container verified their checksums, so this is a bug or a
/// newer version, never a torn write.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ImageError {
    /// A chunk ends inside a record, or holds a value out of range.
    #[error("malformed {what} in section {section:?} of the image")]
    Malformed {
        /// Where.
        section: Section,
        /// Which value.
        what: &'static str,
    },
    /// Written by a version this one does not know.
    #[error(
        "image content version {found} is unknown; this one reads {OLDEST_VERSION} to {VERSION}"
    )]
    Version {
        /// The version found.
        found: u64,
    },
    /// A section came before one it builds on.
    #[error("section {section:?} of the image comes after {after:?}")]
    Order {
        /// The section.
        section: Section,
        /// The one before it.
        after: Section,
    },
    /// There is no header.
    #[error("the image has no header section")]
    NoHeader,
    /// The parts do not add up.
    #[error("the image's header says {expected} {what}, its sections hold {found}")]
    Count {
        /// Of what.
        what: &'static str,
        /// What the header says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A directory's entries contradict the inodes.
    #[error("inode {inode} is not a valid entry of directory {directory}")]
    Entry {
        /// The directory.
        directory: InodeId,
        /// The entry.
        inode: InodeId,
    },
}

/// Inode ids, or numbers of entries, of one [`ImagePiece`]: whole pages of inodes.
const PIECE: u64 = 256 * PAGE_IDS;

/// Yields an image chunk by chunk from a view, in section order; it can run on another thread while the
/// namespace goes on. The side sections are [`LocationSource`]'s.
///
/// Where chunks end follows from the view alone, so that NameNodes write the same image whether one core did it
/// ([`Iterator`]) or several ([`Self::next_piece`]).
pub struct ImageSource {
    view: View,
    section: Option<Section>,
    last: Section,
    /// Where the next piece begins.
    from: u64,
    /// What is being yielded.
    piece: Option<ImagePiece>,
}

impl ImageSource {
    /// The whole image.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self {
            view,
            section: Some(Section::Header),
            last: Section::RetryCache,
            from: 0,
            piece: None,
        }
    }

    /// One section only.
    #[must_use]
    pub fn section(view: View, section: Section) -> Self {
        Self {
            section: Some(section),
            last: section,
            ..Self::new(view)
        }
    }

    /// The next stretch of the image, to be written on whatever core; the chunks of one after the other are the image.
    pub fn next_piece(&mut self) -> Option<ImagePiece> {
        loop {
            let section = self.section?;
            if let Some(used) = self.used(section) {
                let next = (used / PIECE * PIECE).max(self.from);
                self.from = (next / PIECE + 1) * PIECE;
                return Some(ImagePiece {
                    view: self.view.clone(),
                    section,
                    next,
                    end: self.from,
                    within: 0,
                });
            }
            self.section = Section::ALL
                .into_iter()
                .find(|next| *next > section && section < self.last);
            self.from = 0;
        }
    }

    /// The first inode id or entry number from `from` on that there is, or an earlier one on its page.
    fn used(&self, section: Section) -> Option<u64> {
        let (view, from) = (&self.view, self.from);
        let number = usize::try_from(from).expect("counts entries");
        let is_used = match section {
            Section::Header => from == 0,
            Section::Owners => number < view.tree.owners().pairs().len(),
            Section::Inodes | Section::Directories => {
                return view.tree.next_page(from).map(|(base, _)| base);
            }
            Section::OpenFiles => return view.open.range(from).next().map(|(inode, _)| inode),
            Section::RetryCache => view.retry.from(number).next().is_some(),
            Section::Storages | Section::Locations => false,
        };
        is_used.then_some(from)
    }
}

impl Iterator for ImageSource {
    type Item = (Section, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(chunk) = self.piece.as_mut().and_then(Iterator::next) {
                return Some(chunk);
            }
            self.piece = Some(self.next_piece()?);
        }
    }
}

/// A stretch of one section, chunk by chunk. A chunk of directories can be empty, and need not be written then.
pub struct ImagePiece {
    view: View,
    section: Section,
    /// Next inode id (Inodes, OpenFiles, Directories) or entry number (Owners, RetryCache).
    next: u64,
    /// Where the next piece begins.
    end: u64,
    /// Entries of the directory `next` that are written already.
    within: usize,
}

impl ImagePiece {
    /// Entries that are not written yet.
    fn left(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX)
    }

    /// Fills one chunk; empty when the piece has ended, unless it says that it goes on.
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        match self.section {
            Section::Header if self.next == 0 => {
                self.next = 1;
                self.header(out);
            }
            Section::Header => {}
            Section::Owners => {
                let pairs = self.view.tree.owners().pairs().iter();
                let from = usize::try_from(self.next).expect("counts owners");
                for (owner, group) in pairs.skip(from).take(self.left()) {
                    records::put_text(out, owner);
                    records::put_text(out, group);
                    self.next += 1;
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                }
            }
            Section::Inodes => {
                let mut before = 0;
                while let Some((base, page)) = page_before(&self.view, self.next, self.end) {
                    for (slot, inode, name) in page.iter() {
                        let id = base + u64::from(slot);
                        records::put_inode(out, id - before, inode, name);
                        before = id;
                    }
                    self.next = base + PAGE_IDS;
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                }
            }
            Section::Directories => return self.directories(out),
            Section::OpenFiles => {
                let end = self.end;
                let open = self.view.open.range(self.next);
                for (inode, holder) in open.take_while(|(inode, _)| *inode < end) {
                    records::put(out, inode);
                    out.extend_from_slice(&holder.0.to_le_bytes());
                    self.next = inode + 1;
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                }
            }
            Section::Storages | Section::Locations => {}
            Section::RetryCache => {
                let from = usize::try_from(self.next).expect("counts entries");
                for entry in self.view.retry.from(from).take(self.left()) {
                    records::put_retry(out, entry);
                    self.next += 1;
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                }
            }
        }
        false
    }

    fn header(&self, out: &mut Vec<u8>) {
        let View {
            tree,
            open,
            retry,
            counters,
        } = &self.view;
        for value in [
            VERSION,
            counters.txid.0,
            counters.inode.0,
            counters.block.0,
            counters.generation_stamp.0,
            tree.counts.directories,
            tree.counts.files,
            tree.counts.blocks,
            tree.owners().pairs().len() as u64,
            open.range(0).count() as u64,
            retry.iter().count() as u64,
            retry.clock.now_ms,
        ] {
            records::put(out, value);
        }
        match retry.clock.last_edit_ms {
            None => records::put(out, 0),
            Some(last) => {
                records::put(out, 1);
                records::put(out, last);
            }
        }
    }

    /// Whether it was cut, and goes on.
    fn directories(&mut self, out: &mut Vec<u8>) -> bool {
        let mut looks = LOOKS;
        while let Some((base, page)) = page_before(&self.view, self.next, self.end) {
            for (slot, inode, _) in page.iter() {
                let id = base + u64::from(slot);
                if id < self.next {
                    continue;
                }
                self.next = id;
                if looks == 0 {
                    return true;
                }
                looks -= 1;
                let count = inode.child_count();
                while self.within < count {
                    let entries = inode.children().map(Children::iter).into_iter().flatten();
                    let part = entries.skip(self.within).take(ENTRIES_PER_RECORD);
                    let length = (count - self.within).min(ENTRIES_PER_RECORD);
                    records::put(out, id);
                    records::put(out, length as u64);
                    let mut before = id;
                    for child in part {
                        records::put_difference(out, before, child);
                        before = child;
                    }
                    self.within += length;
                    looks = looks.saturating_sub(length);
                    if looks == 0 {
                        return true;
                    }
                }
                self.within = 0;
                self.next = id + 1;
            }
            self.next = base + PAGE_IDS;
        }
        false
    }
}

impl Iterator for ImagePiece {
    type Item = (Section, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + (16 << 10));
        let goes_on = self.fill(&mut out);
        (goes_on || !out.is_empty()).then(|| (self.section, Bytes::from(out)))
    }
}

/// The first page of inodes from `next` on that begins before `end`.
fn page_before(view: &View, next: u64, end: u64) -> Option<(u64, &InodePage)> {
    let page = view.tree.next_page(next);
    page.filter(|(base, _)| *base < end)
}

/// What kind of inode a record holds.
pub(crate) fn kind_of(inode: InodeRef<'_>) -> u64 {
    match inode.file() {
        None => 0,
        Some(file) => 1 | u64::from(file.is_open) << 1,
    }
}
