//! The whole namespace as bytes: what a checkpoint holds. The container (files, checksums, publication) is
//! the store's; here a namespace is a sequence of chunks, each belonging to a [`Section`].
//!
//! A chunk can be read by itself (no record crosses a chunk, differences start anew in each), so sections can
//! be written and chunks be decoded on several cores. Numbers are LEB128 varints unless said otherwise; text is a
//! varint length and UTF-8.

pub(crate) mod records;

use crate::children::{self, Children};
use crate::config::NamesystemConfig;
use crate::inode::{Body, FileBody, Inode};
use crate::lease::Leases;
use crate::retry::{EditClock, RetryCache};
use crate::state::{Counters, State, View};
use crate::tree::{Counts, Tree};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_types::{BlockId, ClientId, GenerationStamp, InodeId, TxId};
use records::Reader;
use thiserror::Error;

/// Version of the sections' content.
const VERSION: u64 = 2;
/// A chunk is closed once it is this long; it can be longer by one record.
const CHUNK_BYTES: usize = 256 << 10;
/// Entries of one directory per record, so that a huge directory spans chunks.
const ENTRIES_PER_RECORD: usize = 16_384;

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
    /// in the next record.
    Directories = 4,
    /// Open files: inode id, holder (16 bytes, little-endian).
    OpenFiles = 5,
    /// Retry cache, oldest first: client (16 bytes, little-endian), call, txid, time, the cache's clock then, outcome.
    RetryCache = 6,
}

impl Section {
    /// All sections in order.
    pub const ALL: [Self; 6] = [
        Self::Header,
        Self::Owners,
        Self::Inodes,
        Self::Directories,
        Self::OpenFiles,
        Self::RetryCache,
    ];

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
    #[error("image content version {found} is unknown; this version reads {VERSION}")]
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

/// Yields an image chunk by chunk from a view, in section order; it can run on another thread while the
/// namespace goes on.
pub struct ImageSource {
    view: View,
    section: Option<Section>,
    last: Section,
    /// Next inode id (Inodes, OpenFiles, Directories) or entry number (Owners, RetryCache).
    next: u64,
    /// Entries of the directory `next` that are written already.
    within: usize,
}

impl ImageSource {
    /// The whole image.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self {
            view,
            section: Some(Section::Header),
            last: Section::RetryCache,
            next: 0,
            within: 0,
        }
    }

    /// One section only, so that several can be written at a time.
    #[must_use]
    pub fn section(view: View, section: Section) -> Self {
        Self {
            section: Some(section),
            last: section,
            ..Self::new(view)
        }
    }

    /// Fills one chunk; empty when the section has ended.
    fn fill(&mut self, section: Section, out: &mut Vec<u8>) {
        match section {
            Section::Header if self.next == 0 => {
                self.next = 1;
                self.header(out);
            }
            Section::Header => {}
            Section::Owners => {
                let pairs = self.view.tree.owners().pairs();
                let from = usize::try_from(self.next).expect("counts owners");
                for (owner, group) in &pairs[from..] {
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
                while let Some((base, page)) = self.view.tree.next_page(self.next) {
                    for (slot, inode, name) in page.iter() {
                        let id = base + u64::from(slot);
                        records::put_inode(out, id - before, inode, name);
                        before = id;
                    }
                    self.next = base + crate::radix::PAGE_IDS;
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                }
            }
            Section::Directories => self.directories(out),
            Section::OpenFiles => {
                for (inode, holder) in self.view.open.range(self.next) {
                    records::put(out, inode);
                    out.extend_from_slice(&holder.0.to_le_bytes());
                    self.next = inode + 1;
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                }
            }
            Section::RetryCache => {
                let from = usize::try_from(self.next).expect("counts entries");
                for entry in self.view.retry.from(from) {
                    records::put_retry(out, entry);
                    self.next += 1;
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                }
            }
        }
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

    fn directories(&mut self, out: &mut Vec<u8>) {
        while let Some((base, page)) = self.view.tree.next_page(self.next) {
            for (slot, inode, _) in page.iter() {
                let id = base + u64::from(slot);
                if id < self.next {
                    continue;
                }
                self.next = id;
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
                    if out.len() >= CHUNK_BYTES {
                        return;
                    }
                }
                self.within = 0;
                self.next = id + 1;
            }
            self.next = base + crate::radix::PAGE_IDS;
        }
    }
}

impl Iterator for ImageSource {
    type Item = (Section, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let section = self.section?;
            let mut out = Vec::with_capacity(CHUNK_BYTES + (16 << 10));
            self.fill(section, &mut out);
            if !out.is_empty() {
                return Some((section, Bytes::from(out)));
            }
            self.section = Section::ALL
                .into_iter()
                .find(|next| *next > section && section < self.last);
            self.next = 0;
            self.within = 0;
        }
    }
}

/// A namespace read from an image, ready for [`crate::Namesystem::load`].
pub struct Loaded(pub(crate) State);

impl Loaded {
    /// The last edit in it; replay goes on with the next.
    #[must_use]
    pub fn txid(&self) -> TxId {
        self.0.counters.txid
    }
}

/// What the header promises.
struct Header {
    counters: Counters,
    counts: Counts,
    owners: u64,
    open: u64,
    retry: u64,
    clock: EditClock,
}

/// Builds a namespace from an image's chunks, fed in section order.
pub struct ImageLoader {
    header: Option<Header>,
    after: Section,
    tree: Tree,
    last_inode: u64,
    /// Inodes that say they are open.
    marked_open: u64,
    directories: BTreeMap<u64, Vec<u64>>,
    leases: Leases,
    open: u64,
    retry: RetryCache,
    retried: u64,
}

impl ImageLoader {
    /// An empty loader; of the settings only the retry cache's matter.
    #[must_use]
    pub fn new(config: &NamesystemConfig) -> Self {
        Self {
            header: None,
            after: Section::Header,
            tree: Tree::default(),
            last_inode: 0,
            marked_open: 0,
            directories: BTreeMap::new(),
            leases: Leases::default(),
            open: 0,
            retry: RetryCache::new(config.retry_cache_ms, config.retry_cache_max),
            retried: 0,
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`ImageError`]; the loader is of no use afterwards.
    pub fn feed(&mut self, section: Section, chunk: &Bytes) -> Result<(), ImageError> {
        if section < self.after {
            return Err(ImageError::Order {
                section,
                after: self.after,
            });
        }
        self.after = section;
        let mut input = Reader::new(section, chunk);
        if section == Section::Header {
            self.header = Some(read_header(&mut input)?);
            return Ok(());
        }
        let Some(header) = &self.header else {
            return Err(ImageError::NoHeader);
        };
        let last_inode = header.counters.inode.0;
        let mut id = 0u64;
        while !input.is_empty() {
            match section {
                Section::Header => unreachable!("handled above"),
                Section::Owners => {
                    let (owner, group) = (input.text()?, input.text()?);
                    let pairs = self.tree.owners().pairs().len();
                    if self.tree.intern(owner, group) as usize != pairs {
                        return Err(input.malformed("repeated owner"));
                    }
                }
                Section::Inodes => {
                    let step = input.number()?;
                    id = id.saturating_add(step);
                    if step == 0 || id > last_inode || id <= self.last_inode {
                        return Err(input.malformed("inode id"));
                    }
                    self.last_inode = id;
                    let owners = self.tree.owners().pairs().len();
                    let (inode, name) = input.inode(owners)?;
                    self.marked_open += u64::from(inode.file().is_some_and(FileBody::is_open));
                    self.tree.place(InodeId(id), name, inode);
                }
                Section::Directories => self.directory(&mut input)?,
                Section::OpenFiles => {
                    let inode = InodeId(input.number()?);
                    let holder = ClientId(input.wide()?);
                    let file = self
                        .tree
                        .get(inode)
                        .and_then(|entry| entry.inode.file().map(|file| file.is_open()));
                    if file != Some(true) || self.leases.holder(inode).is_some() {
                        return Err(input.malformed("open file"));
                    }
                    self.leases.add(inode, holder);
                    self.open += 1;
                }
                Section::RetryCache => {
                    self.retry.push(input.retry()?);
                    self.retried += 1;
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, input: &mut Reader<'_>) -> Result<(), ImageError> {
        let directory = input.number()?;
        let count = input.number()?;
        if count > ENTRIES_PER_RECORD as u64 {
            return Err(input.malformed("directory size"));
        }
        let entries = self.directories.entry(directory).or_default();
        let mut before = directory;
        for _ in 0..count {
            before = input.difference(before)?;
            entries.push(before);
        }
        Ok(())
    }

    /// Puts it all together and checks that it fits.
    ///
    /// # Errors
    /// [`ImageError`] when the sections contradict the header or each other.
    pub fn finish(mut self) -> Result<Loaded, ImageError> {
        let header = self.header.take().ok_or(ImageError::NoHeader)?;
        let counts = self.tree.counts;
        let mut entries = 0;
        let mut below = BTreeMap::new();
        for (directory, ids) in core::mem::take(&mut self.directories) {
            entries += ids.len() as u64;
            let mut directories = Vec::new();
            let ids = self.check_entries(InodeId(directory), ids, &mut directories)?;
            below.insert(directory, directories);
            self.tree.set_children(InodeId(directory), ids);
        }
        let root = self.tree.get(InodeId::ROOT);
        let linked = entries + u64::from(root.is_some_and(|root| root.inode.is_dir()));
        let (open, reachable) = (self.marked_open, reachable(&below));
        for (what, expected, found) in [
            ("directories", header.counts.directories, counts.directories),
            (
                "directories below the root",
                header.counts.directories,
                reachable,
            ),
            ("files", header.counts.files, counts.files),
            ("blocks", header.counts.blocks, counts.blocks),
            (
                "owners",
                header.owners,
                self.tree.owners().pairs().len() as u64,
            ),
            ("open files", header.open, self.open),
            ("leases", open, self.open),
            ("retry entries", header.retry, self.retried),
            (
                "directory entries and the root",
                counts.directories + counts.files,
                linked,
            ),
        ] {
            if expected != found {
                return Err(ImageError::Count {
                    what,
                    expected,
                    found,
                });
            }
        }
        self.retry.set_clock(header.clock);
        Ok(Loaded(State {
            tree: self.tree,
            leases: self.leases,
            retry: self.retry,
            counters: header.counters,
        }))
    }

    /// The entries of a directory as [`Children`] keeps them, checked against the inodes they name; those
    /// that are directories are told apart.
    fn check_entries(
        &self,
        directory: InodeId,
        mut ids: Vec<u64>,
        directories: &mut Vec<u64>,
    ) -> Result<Vec<u64>, ImageError> {
        let wrong = |inode: u64| ImageError::Entry {
            directory,
            inode: InodeId(inode),
        };
        let is_dir = self
            .tree
            .get(directory)
            .is_some_and(|entry| entry.inode.is_dir());
        let mut before: Option<&str> = None;
        for id in &mut ids {
            let entry = self.tree.get(InodeId(*id)).ok_or_else(|| wrong(*id))?;
            let follows = before.is_none_or(|before| before < entry.name);
            if !is_dir
                || !follows
                || *id == InodeId::ROOT.0
                || entry.name.is_empty()
                || entry.inode.parent.get() != directory.0
            {
                return Err(wrong(*id));
            }
            before = Some(entry.name);
            if entry.inode.is_dir() {
                directories.push(*id);
            }
            *id = children::entry(*id, entry.name.as_bytes());
        }
        Ok(ids)
    }
}

/// How many directories hang below the root, itself included: fewer than there are when some form a ring.
fn reachable(below: &BTreeMap<u64, Vec<u64>>) -> u64 {
    let mut count = 0;
    let mut pending = alloc::vec![InodeId::ROOT.0];
    while let Some(directory) = pending.pop() {
        count += 1;
        pending.extend(below.get(&directory).into_iter().flatten());
    }
    count
}

fn read_header(input: &mut Reader<'_>) -> Result<Header, ImageError> {
    let found = input.number()?;
    if found != VERSION {
        return Err(ImageError::Version { found });
    }
    let header = Header {
        counters: Counters {
            txid: TxId(input.number()?),
            inode: InodeId(input.number48()?),
            block: BlockId(input.number48()?),
            generation_stamp: GenerationStamp(input.number48()?),
        },
        counts: Counts {
            directories: input.number()?,
            files: input.number()?,
            blocks: input.number()?,
        },
        owners: input.number()?,
        open: input.number()?,
        retry: input.number()?,
        clock: EditClock {
            now_ms: input.number()?,
            last_edit_ms: match input.number()? {
                0 => None,
                1 => Some(input.number()?),
                _ => return Err(input.malformed("clock")),
            },
        },
    };
    if input.is_empty() {
        Ok(header)
    } else {
        Err(input.malformed("header length"))
    }
}

/// What kind of inode a record holds.
pub(crate) fn kind_of(inode: &Inode) -> u64 {
    match &inode.body {
        Body::Directory(_) => 0,
        Body::File(file) => 1 | u64::from(file.is_open()) << 1,
    }
}
