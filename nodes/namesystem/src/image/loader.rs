//! Reading an image.

use super::locations;
use super::records::Reader;
use super::work::{ChunkDone, ChunkWork, Directories, Done, Inodes, Stretch, Work, wrong};
use super::{ImageError, OLDEST_VERSION, Section, VERSION};
use crate::children::{self, Children};
use crate::config::NamesystemConfig;
use crate::lease::Leases;
use crate::retry::{EditClock, RetryCache};
use crate::state::{Counters, State};
use crate::tree::{Counts, Tree};
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_blocks::Staged;
use hadal_types::{BlockId, ClientId, DatanodeUuid, GenerationStamp, InodeId, StorageUuid, TxId};

/// Bytes of locations in one piece of work, about; and chunks of inodes where no locations are known.
const STRETCH_BYTES: usize = 128 << 10;
const STRETCH_CHUNKS: usize = 4;

/// A namespace read from an image, ready for [`crate::Namesystem::load`].
pub struct Loaded {
    pub(crate) state: State,
    pub(crate) blocks: Vec<Staged>,
    /// By the places that blocks came with.
    pub(crate) storages: Vec<(DatanodeUuid, StorageUuid)>,
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

/// Builds a namespace from an image's chunks, in section order.
///
/// Either each is just fed, or most of the work on it is done elsewhere: [`Self::begin`] cuts it off, [`ChunkWork::run`] does
/// it, [`Self::take`] puts the result in. Of one section several may be under way at a time; they are taken in the order in
/// which they were begun, and all of them before the next section begins. The outcome is the same; of several things that are
/// wrong another may be found first.
pub struct ImageLoader {
    header: Option<Header>,
    after: Section,
    /// Begun and not taken.
    under_way: usize,
    tree: Tree,
    last_inode: u64,
    /// Inodes that say they are open.
    marked_open: u64,
    /// The directory at hand and its entries so far.
    directory: u64,
    entries: Vec<u64>,
    /// Directories that are complete. They get their entries when all are: until then the tree is shared with those who
    /// check them.
    children: Vec<(u64, Children)>,
    /// Entries of all directories.
    linked: u64,
    /// (directory, directory below it), in the order of the first.
    below: Vec<(u64, u64)>,
    leases: Leases,
    open: u64,
    retry: RetryCache,
    retried: u64,
    storages: Vec<(DatanodeUuid, StorageUuid)>,
    /// Per chunk of inodes: its first id, and the blocks before it.
    cuts: Vec<(u64, u64)>,
    /// Files up to here have their blocks staged, or on their way.
    next_file: u64,
    /// Chunks of locations of the files behind, and their bytes.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    blocks: Vec<Staged>,
    ended: bool,
}

impl ImageLoader {
    /// An empty loader; of the settings only the retry cache's matter.
    #[must_use]
    pub fn new(config: &NamesystemConfig) -> Self {
        Self {
            header: None,
            after: Section::Header,
            under_way: 0,
            tree: Tree::default(),
            last_inode: 0,
            marked_open: 0,
            directory: 0,
            entries: Vec::new(),
            children: Vec::new(),
            linked: 0,
            below: Vec::new(),
            leases: Leases::default(),
            open: 0,
            retry: RetryCache::new(config.retry_cache_ms, config.retry_cache_max),
            retried: 0,
            storages: Vec::new(),
            cuts: Vec::new(),
            next_file: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            blocks: Vec::new(),
            ended: false,
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`ImageError`]; the loader is of no use afterwards.
    pub fn feed(&mut self, section: Section, chunk: &Bytes) -> Result<(), ImageError> {
        match self.begin(section, chunk.clone())? {
            Some(work) => self.take(work.run()),
            None => Ok(()),
        }
    }

    /// Cuts off what can be done elsewhere with the next chunk, or with those before it; `None` when there is nothing, now.
    ///
    /// # Errors
    /// As [`Self::feed`].
    ///
    /// # Panics
    /// When something of the section before was not taken.
    pub fn begin(
        &mut self,
        section: Section,
        chunk: Bytes,
    ) -> Result<Option<ChunkWork>, ImageError> {
        if section < self.after {
            return Err(ImageError::Order {
                section,
                after: self.after,
            });
        }
        self.end_sections_before(section)?;
        self.after = section;
        let mut input = Reader::new(section, &chunk);
        if section == Section::Header {
            self.header = Some(read_header(&mut input)?);
            return Ok(None);
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
        match section {
            Section::Inodes => {
                let owners = self.tree.owners().pairs().len();
                Ok(Some(self.work(Work::Inodes {
                    chunk,
                    owners,
                    last_inode,
                })))
            }
            Section::Directories => {
                let tree = self.tree.clone();
                Ok(Some(self.work(Work::Directories { chunk, tree })))
            }
            Section::Locations => self.locations(chunk),
            _ => {
                while !input.is_empty() {
                    self.small(section, &mut input)?;
                }
                Ok(None)
            }
        }
    }

    fn work(&mut self, work: Work) -> ChunkWork {
        self.under_way += 1;
        ChunkWork(work)
    }

    /// Puts in what was done: the oldest that was begun and is not taken yet.
    ///
    /// # Errors
    /// As [`Self::feed`].
    ///
    /// # Panics
    /// When nothing is under way.
    pub fn take(&mut self, done: ChunkDone) -> Result<(), ImageError> {
        self.under_way = self.under_way.checked_sub(1).expect("something was begun");
        match done.0? {
            Done::Inodes(done) => self.take_inodes(done),
            Done::Directories(done) => self.take_directories(done),
            Done::Blocks(staged) => {
                self.blocks.push(staged);
                Ok(())
            }
        }
    }

    /// A record of one of the sections that are short as a rule.
    fn small(&mut self, section: Section, input: &mut Reader<'_>) -> Result<(), ImageError> {
        match section {
            Section::Header | Section::Inodes | Section::Directories | Section::Locations => {
                unreachable!("no small section")
            }
            Section::Owners => {
                let (owner, group) = (input.text()?, input.text()?);
                let pairs = self.tree.owners().pairs().len();
                if self.tree.intern(owner, group) as usize != pairs {
                    return Err(input.malformed("repeated owner"));
                }
            }
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
                let storage = locations::read_storage(input)?;
                if self.storages.len() >= locations::STORAGES_MAX {
                    return Err(input.malformed("number of storages"));
                }
                self.storages.push(storage);
            }
        }
        Ok(())
    }

    /// What is done once a section is over.
    fn end_sections_before(&mut self, section: Section) -> Result<(), ImageError> {
        assert!(
            self.under_way == 0 || section == self.after,
            "what is under way of a section is taken before the next begins"
        );
        if section > Section::Directories {
            self.end_directory();
            for (directory, children) in core::mem::take(&mut self.children) {
                self.tree.set_children(InodeId(directory), children);
            }
        }
        Ok(())
    }

    fn take_inodes(&mut self, done: Inodes) -> Result<(), ImageError> {
        if done.pages.is_empty() {
            return Ok(());
        }
        if done.first <= self.last_inode {
            return Err(ImageError::Malformed {
                section: Section::Inodes,
                what: "inode id",
            });
        }
        self.last_inode = done.last;
        self.marked_open += done.marked_open;
        self.cuts.push((done.first, self.tree.counts.blocks));
        for (id, page) in done.pages {
            self.tree.place_page(id, page);
        }
        self.tree.counts.add(done.counts);
        Ok(())
    }

    fn take_directories(&mut self, done: Directories) -> Result<(), ImageError> {
        for run in done.runs {
            if run.directory == self.directory {
                self.go_on(&run.entries)?;
                continue;
            }
            if run.directory < self.directory {
                return Err(ImageError::Malformed {
                    section: Section::Directories,
                    what: "order of directories",
                });
            }
            self.end_directory();
            (self.directory, self.entries) = (run.directory, run.entries);
        }
        self.below.extend(done.below);
        Ok(())
    }

    /// A directory goes on in another chunk.
    fn go_on(&mut self, entries: &[u64]) -> Result<(), ImageError> {
        if let (Some(last), Some(first)) = (self.entries.last(), entries.first()) {
            let name = |entry: u64| {
                let page = self.tree.page(children::id_of(entry));
                page.and_then(|page| page.name(crate::radix::slot(children::id_of(entry))))
            };
            if name(*first) <= name(*last) {
                return Err(wrong(self.directory, children::id_of(*first)));
            }
        }
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    fn end_directory(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        self.linked += self.entries.len() as u64;
        let mut entries = core::mem::take(&mut self.entries);
        entries.shrink_to_fit();
        let children = Children::from_sorted(entries);
        self.children.push((self.directory, children));
    }

    /// A chunk of locations. Those before it are of files before its first one.
    fn locations(&mut self, chunk: Bytes) -> Result<Option<ChunkWork>, ImageError> {
        if chunk.is_empty() {
            return Ok(None);
        }
        let first = locations::first_file(&chunk)?;
        let mut work = None;
        if self.pending_bytes >= STRETCH_BYTES {
            if first <= self.next_file {
                return Err(ImageError::Malformed {
                    section: Section::Locations,
                    what: "file",
                });
            }
            work = Some(self.stretch(first));
        }
        self.pending_bytes += chunk.len();
        self.pending.push(chunk);
        Ok(work)
    }

    /// The blocks of all files below `to` that are not staged yet.
    fn stretch(&mut self, to: u64) -> ChunkWork {
        let from = core::mem::replace(&mut self.next_file, to);
        let before = |id: u64| {
            let at = self.cuts.partition_point(|(first, _)| *first < id);
            let blocks = self.cuts.get(at).map(|(_, blocks)| *blocks);
            blocks.unwrap_or(self.tree.counts.blocks)
        };
        let about = before(to).saturating_sub(before(from));
        self.pending_bytes = 0;
        let stretch = Stretch {
            tree: self.tree.clone(),
            from,
            to,
            chunks: core::mem::take(&mut self.pending),
            storages: self.storages.len(),
            about: usize::try_from(about).unwrap_or(0),
        };
        self.work(Work::Blocks(stretch))
    }

    /// There are no more chunks: cuts off what is left to do. All of it is to be taken, in order.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn end(&mut self) -> Result<Vec<ChunkWork>, ImageError> {
        self.end_sections_before(Section::Locations)?;
        self.after = Section::Locations;
        self.ended = true;
        let mut work = Vec::new();
        if self.pending.is_empty() {
            let cuts = self.cuts.iter().map(|(first, _)| *first);
            let cuts: Vec<u64> = cuts
                .filter(|first| *first > self.next_file)
                .step_by(STRETCH_CHUNKS)
                .collect();
            work.extend(cuts.into_iter().map(|first| self.stretch(first)));
        }
        work.push(self.stretch(u64::MAX));
        Ok(work)
    }

    /// Puts it all together and checks that it fits.
    ///
    /// # Errors
    /// [`ImageError`] when the sections contradict the header or each other.
    pub fn finish(mut self) -> Result<Loaded, ImageError> {
        if !self.ended {
            for work in self.end()? {
                self.take(work.run())?;
            }
        }
        assert!(self.under_way == 0, "what is under way is taken first");
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
            storages: self.storages,
        })
    }
}

/// How many directories hang below the root, itself included: fewer than there are when some form a ring. A directory
/// is listed once, by its parent, or [`Directories`] had refused it.
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
