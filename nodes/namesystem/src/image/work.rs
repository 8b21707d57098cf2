//! What reading an image can do with a chunk alone, on whatever core. [`super::ImageLoader`] puts the results together.

use super::locations::LocationsAt;
use super::records::Reader;
use super::{ENTRIES_PER_RECORD, ImageError, Section};
use crate::children;
use crate::inode::Body;
use crate::inode_page::{InodePage, PageBuilder};
use crate::radix::{PAGE_IDS, slot};
use crate::tree::{Counts, Tree};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_blocks::Staged;
use hadal_types::InodeId;

/// A piece of work on an image: it shares nothing that changes, and may run on any thread.
pub struct ChunkWork(pub(super) Work);

/// A piece of work that was done, well or not.
pub struct ChunkDone(pub(super) Result<Done, ImageError>);

pub(super) enum Work {
    /// Inodes of a chunk to pages.
    Inodes {
        chunk: Bytes,
        owners: usize,
        last_inode: u64,
    },
    /// Entries of a chunk against the inodes they name.
    Directories { chunk: Bytes, tree: Tree },
    /// The blocks of the files of a stretch, with their places, for the block map.
    Blocks(Stretch),
}

pub(super) enum Done {
    Inodes(Inodes),
    Directories(Directories),
    Blocks(Staged),
}

impl ChunkWork {
    /// Does it.
    #[must_use]
    pub fn run(self) -> ChunkDone {
        ChunkDone(match self.0 {
            Work::Inodes {
                chunk,
                owners,
                last_inode,
            } => inodes(&chunk, owners, last_inode).map(Done::Inodes),
            Work::Directories { chunk, tree } => directories(&chunk, &tree).map(Done::Directories),
            Work::Blocks(stretch) => stretch.blocks().map(Done::Blocks),
        })
    }
}

/// The inodes of a chunk.
#[derive(Default)]
pub(super) struct Inodes {
    /// The first and the last id; 0 when there is none.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Each with an id on it.
    pub(super) pages: Vec<(InodeId, Arc<InodePage>)>,
    pub(super) counts: Counts,
    /// Files that say they are open.
    pub(super) marked_open: u64,
}

fn inodes(chunk: &Bytes, owners: usize, last_inode: u64) -> Result<Inodes, ImageError> {
    let mut input = Reader::new(Section::Inodes, chunk);
    let mut done = Inodes::default();
    let mut page = PageBuilder::default();
    let mut id = 0u64;
    while !input.is_empty() {
        let step = input.number()?;
        let before = id;
        id = id.saturating_add(step);
        if step == 0 || id > last_inode {
            return Err(input.malformed("inode id"));
        }
        if id / PAGE_IDS != before / PAGE_IDS {
            done.end_page(before, &mut page);
        }
        if done.first == 0 {
            done.first = id;
        }
        let (inode, name) = input.inode(owners)?;
        match &inode.body {
            Body::Directory => done.counts.directories += 1,
            Body::File(file) => {
                done.counts.files += 1;
                done.counts.blocks += file.blocks.as_slice().len() as u64;
                done.marked_open += u64::from(file.is_open);
            }
        }
        page.push(slot(id), inode, name.as_bytes());
    }
    done.end_page(id, &mut page);
    done.last = id;
    Ok(done)
}

impl Inodes {
    fn end_page(&mut self, id: u64, page: &mut PageBuilder) {
        if let Some(page) = page.take() {
            self.pages.push((InodeId(id), Arc::new(page)));
        }
    }
}

/// The directories of a chunk.
#[derive(Default)]
pub(super) struct Directories {
    pub(super) runs: Vec<Run>,
    /// Entries that are directories, with the one they are in.
    pub(super) below: Vec<(u64, u64)>,
}

/// Entries of one directory, in the order of names.
pub(super) struct Run {
    pub(super) directory: u64,
    /// With their fingerprints.
    pub(super) entries: Vec<u64>,
}

/// That inode is no valid entry of that directory.
pub(super) fn wrong(directory: u64, inode: u64) -> ImageError {
    ImageError::Entry {
        directory: InodeId(directory),
        inode: InodeId(inode),
    }
}

fn directories(chunk: &Bytes, tree: &Tree) -> Result<Directories, ImageError> {
    let mut input = Reader::new(Section::Directories, chunk);
    let mut done = Directories::default();
    let mut at = Run {
        directory: 0,
        entries: Vec::new(),
    };
    while !input.is_empty() {
        let directory = input.number()?;
        let count = input.number()?;
        if count > ENTRIES_PER_RECORD as u64 {
            return Err(input.malformed("directory size"));
        }
        if directory != at.directory {
            done.end_run(&mut at, tree)?;
            if directory < at.directory {
                return Err(input.malformed("order of directories"));
            }
            at.directory = directory;
        }
        let mut before = directory;
        for _ in 0..count {
            before = input.difference(before)?;
            at.entries.push(before);
        }
    }
    done.end_run(&mut at, tree)?;
    Ok(done)
}

impl Directories {
    /// Checks the entries of a directory against the inodes they name. The buffer is used again.
    fn end_run(&mut self, run: &mut Run, tree: &Tree) -> Result<(), ImageError> {
        let directory = run.directory;
        let Some(first) = run.entries.first() else {
            return Ok(());
        };
        let here = tree.get(InodeId(directory));
        if !here.is_some_and(|entry| entry.inode.is_dir()) {
            return Err(wrong(directory, *first));
        }
        let mut before: &[u8] = &[];
        let mut page = None;
        let mut page_at = u64::MAX;
        for id in &mut run.entries {
            if *id / PAGE_IDS != page_at {
                page_at = *id / PAGE_IDS;
                page = tree.page(*id);
            }
            let (inode, name) = page
                .and_then(|page| page.raw(slot(*id)))
                .ok_or_else(|| wrong(directory, *id))?;
            // The first name is greater than none; an empty one never is.
            if name <= before || *id == InodeId::ROOT.0 || inode.parent() != directory {
                return Err(wrong(directory, *id));
            }
            before = name;
            if inode.is_dir() {
                self.below.push((directory, *id));
            }
            *id = children::entry(*id, name);
        }
        self.runs.push(Run {
            directory,
            entries: run.entries.drain(..).collect(),
        });
        Ok(())
    }
}

/// Files of a stretch of ids, and what is remembered of where their blocks are.
pub(super) struct Stretch {
    pub(super) tree: Tree,
    pub(super) from: u64,
    /// The first id that is not of it.
    pub(super) to: u64,
    /// Chunks of locations, all of them of files of the stretch.
    pub(super) chunks: Vec<Bytes>,
    /// Storages there are.
    pub(super) storages: usize,
    /// About as many blocks.
    pub(super) about: usize,
}

impl Stretch {
    fn blocks(self) -> Result<Staged, ImageError> {
        let mut staged = Staged::with_room(self.about);
        let mut known = LocationsAt::new(&self.chunks, self.storages)?;
        let (mut next, mut places) = (self.from, Vec::new());
        'pages: while let Some((base, page)) = self.tree.next_page(next) {
            for (slot, inode) in page.inodes() {
                let id = base + u64::from(slot);
                if id < self.from {
                    continue;
                }
                if id >= self.to {
                    break 'pages;
                }
                let Some(file) = inode.file() else {
                    continue;
                };
                let is_known = known.reach(id)?;
                places.clear();
                for (at, block) in file.blocks.iter().enumerate() {
                    if is_known {
                        known.next_block(&mut places)?;
                    }
                    let is_open = file.is_open && at + 1 == file.blocks.len();
                    staged.push(block, InodeId(id), file.replication, is_open, &places);
                }
                if is_known {
                    known.advance()?;
                }
            }
            next = base + PAGE_IDS;
        }
        known.end()?;
        Ok(staged)
    }
}
