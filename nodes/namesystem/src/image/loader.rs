//! Reading an image.

use super::blocks::FileBlocks;
use super::locations::{self, Locations};
use super::records::Reader;
use super::{ENTRIES_PER_RECORD, ImageError, OLDEST_VERSION, Section, VERSION};
use crate::children;
use crate::config::NamesystemConfig;
use crate::inode::Body;
use crate::inode_page::PageBuilder;
use crate::lease::Leases;
use crate::radix::{PAGE_IDS, slot};
use crate::retry::{EditClock, RetryCache};
use crate::state::{Counters, State};
use crate::tree::{Counts, Tree};
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_types::{BlockId, ClientId, GenerationStamp, InodeId, TxId};

/// A namespace read from an image, ready for [`crate::Namesystem::load`].
pub struct Loaded {
    pub(crate) state: State,
    pub(crate) blocks: FileBlocks,
    pub(crate) locations: Locations,
}

impl Loaded {
    /// The last edit in it; replay goes on with the next.
    #[must_use]
    pub fn txid(&self) -> TxId {
        self.state.counters.txid
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
    /// The page of inodes at hand.
    page: PageBuilder,
    blocks: FileBlocks,
    /// Inodes that say they are open.
    marked_open: u64,
    /// The directory at hand and its entries so far.
    directory: u64,
    entries: Vec<u64>,
    /// Entries of all directories.
    linked: u64,
    /// (directory, directory below it), in the order of the first.
    below: Vec<(u64, u64)>,
    leases: Leases,
    open: u64,
    retry: RetryCache,
    retried: u64,
    locations: Locations,
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
            page: PageBuilder::default(),
            blocks: FileBlocks::default(),
            marked_open: 0,
            directory: 0,
            entries: Vec::new(),
            linked: 0,
            below: Vec::new(),
            leases: Leases::default(),
            open: 0,
            retry: RetryCache::new(config.retry_cache_ms, config.retry_cache_max),
            retried: 0,
            locations: Locations::default(),
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
        self.end_sections_before(section)?;
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
        if section > Section::Inodes && self.last_inode == 0 {
            // There is always the root.
            return Err(ImageError::Order {
                section: Section::Inodes,
                after: section,
            });
        }
        if section == Section::Inodes {
            return self.inodes(&mut input, last_inode);
        }
        if section == Section::Locations {
            return self.locations.take(&mut input, &self.tree, chunk);
        }
        while !input.is_empty() {
            match section {
                Section::Header | Section::Inodes | Section::Locations => {
                    unreachable!("handled above")
                }
                Section::Owners => {
                    let (owner, group) = (input.text()?, input.text()?);
                    let pairs = self.tree.owners().pairs().len();
                    if self.tree.intern(owner, group) as usize != pairs {
                        return Err(input.malformed("repeated owner"));
                    }
                }
                Section::Directories => self.directory(&mut input)?,
                Section::OpenFiles => {
                    let inode = InodeId(input.number()?);
                    let holder = ClientId(input.wide()?);
                    let file = self
                        .tree
                        .get(inode)
                        .and_then(|entry| entry.inode.file().map(|file| file.is_open));
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
                Section::Storages => {
                    let storage = locations::read_storage(&mut input)?;
                    if self.locations.storages.len() >= locations::STORAGES_MAX {
                        return Err(input.malformed("number of storages"));
                    }
                    self.locations.storages.push(storage);
                }
            }
        }
        Ok(())
    }

    /// What is done once a section is over.
    fn end_sections_before(&mut self, section: Section) -> Result<(), ImageError> {
        if section > Section::Inodes {
            self.end_page();
        }
        if section > Section::Directories {
            self.end_directory()?;
        }
        Ok(())
    }

    fn inodes(&mut self, input: &mut Reader<'_>, last_inode: u64) -> Result<(), ImageError> {
        let owners = self.tree.owners().pairs().len();
        let mut id = 0u64;
        while !input.is_empty() {
            let step = input.number()?;
            id = id.saturating_add(step);
            if step == 0 || id > last_inode || id <= self.last_inode {
                return Err(input.malformed("inode id"));
            }
            if id / PAGE_IDS != self.last_inode / PAGE_IDS {
                self.end_page();
            }
            self.last_inode = id;
            let (inode, name) = input.inode(owners)?;
            if let Body::File(file) = &inode.body {
                self.marked_open += u64::from(file.is_open);
                self.blocks.push(InodeId(id), file);
            }
            self.page.push(slot(id), inode, name.as_bytes());
        }
        Ok(())
    }

    fn end_page(&mut self) {
        if let Some(page) = self.page.take() {
            self.tree.place_page(InodeId(self.last_inode), page);
        }
    }

    fn directory(&mut self, input: &mut Reader<'_>) -> Result<(), ImageError> {
        let directory = input.number()?;
        let count = input.number()?;
        if count > ENTRIES_PER_RECORD as u64 {
            return Err(input.malformed("directory size"));
        }
        if directory != self.directory {
            self.end_directory()?;
            if directory < self.directory {
                return Err(input.malformed("order of directories"));
            }
            self.directory = directory;
        }
        let mut before = directory;
        for _ in 0..count {
            before = input.difference(before)?;
            self.entries.push(before);
        }
        Ok(())
    }

    /// Checks the entries of the directory at hand against the inodes they name, and gives them to it as
    /// [`crate::children::Children`] keeps them.
    fn end_directory(&mut self) -> Result<(), ImageError> {
        let directory = self.directory;
        let Some(first) = self.entries.first() else {
            return Ok(());
        };
        let wrong = |inode: u64| ImageError::Entry {
            directory: InodeId(directory),
            inode: InodeId(inode),
        };
        let here = self.tree.get(InodeId(directory));
        if !here.is_some_and(|entry| entry.inode.is_dir()) {
            return Err(wrong(*first));
        }
        let mut before: &[u8] = &[];
        let mut page = None;
        let mut page_at = u64::MAX;
        for id in &mut self.entries {
            if *id / PAGE_IDS != page_at {
                page_at = *id / PAGE_IDS;
                page = self.tree.page(*id);
            }
            let (inode, name) = page
                .and_then(|page| page.raw(slot(*id)))
                .ok_or_else(|| wrong(*id))?;
            // The first name is greater than none; an empty one never is.
            if name <= before || *id == InodeId::ROOT.0 || inode.parent() != directory {
                return Err(wrong(*id));
            }
            before = name;
            if inode.is_dir() {
                self.below.push((directory, *id));
            }
            *id = children::entry(*id, name);
        }
        self.linked += self.entries.len() as u64;
        let ids = self.entries.drain(..).collect();
        self.tree.set_children(InodeId(directory), ids);
        Ok(())
    }

    /// Puts it all together and checks that it fits.
    ///
    /// # Errors
    /// [`ImageError`] when the sections contradict the header or each other.
    pub fn finish(mut self) -> Result<Loaded, ImageError> {
        self.end_sections_before(Section::Locations)?;
        let header = self.header.take().ok_or(ImageError::NoHeader)?;
        let counts = self.tree.counts;
        let root = self.tree.get(InodeId::ROOT);
        let linked = self.linked + u64::from(root.is_some_and(|root| root.inode.is_dir()));
        let (open, reachable) = (self.marked_open, reachable(&self.below));
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
        Ok(Loaded {
            state: State {
                tree: self.tree,
                leases: self.leases,
                retry: self.retry,
                counters: header.counters,
            },
            blocks: self.blocks,
            locations: self.locations,
        })
    }
}

/// How many directories hang below the root, itself included: fewer than there are when some form a ring. A directory
/// is listed once, by its parent, or [`ImageLoader::end_directory`] had refused it.
fn reachable(below: &[(u64, u64)]) -> u64 {
    let mut count = 0;
    let mut pending = alloc::vec![InodeId::ROOT.0];
    while let Some(directory) = pending.pop() {
        count += 1;
        let from = below.partition_point(|(parent, _)| *parent < directory);
        let children = below[from..].iter();
        pending.extend(
            children
                .take_while(|(parent, _)| *parent == directory)
                .map(|(_, child)| child),
        );
    }
    count
}

fn read_header(input: &mut Reader<'_>) -> Result<Header, ImageError> {
    let found = input.number()?;
    if !(OLDEST_VERSION..=VERSION).contains(&found) {
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
