//! Inodes as they stand in memory: [`PAGE_IDS`] with consecutive ids on a page, 32 bytes each (performance.md, memory per
//! file).
//!
//! What the inodes of a directory mostly share (parent, owner, permission, replication, block size) is kept once per page.
//! What does not fit 32 bytes, entries of directories and blocks of files with several, stands beside. Names stand side by
//! side in the order of slots, so that their lengths tell where each begins.

mod change;

pub(crate) use change::{FileMut, InodeMut};

use crate::children::Children;
use crate::inode::{BlockList, BlocksRef, Body, FileBody, FileRef, Inode, REPLICATION_MAX};
use crate::packed::PackedBlock;
use crate::radix::{PAGE_IDS, Page, rank};
use alloc::vec::Vec;
use hadal_types::{Block, BlockId, GenerationStamp, U48};

const SLOTS: usize = PAGE_IDS as usize;

/// One inode.
#[derive(Clone, Copy)]
struct Record {
    modified: U48,
    accessed: U48,
    /// The block of a file with one; else its id is a place in [`InodePage::more`], or 0.
    content: PackedBlock,
    kind: Kind,
    /// Place in [`InodePage::common`].
    common: u8,
}

const _: () = assert!(size_of::<Record>() == 32);

/// What an inode is, and where its content stands.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    EmptyDirectory,
    /// Its entries are in [`InodePage::more`].
    Directory,
    EmptyFile,
    /// Of one block.
    File,
    /// Its blocks are in [`InodePage::more`].
    LongFile,
}

/// What many inodes of a page have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Common {
    parent: U48,
    block_size: U48,
    owner: u32,
    permission: u16,
    /// Replication, and [`OPEN`]; 0 of a directory.
    flags: u16,
}

const _: () = assert!(size_of::<Common>() == 20);

/// Flag of a file open for write.
const OPEN: u16 = 1 << 15;

/// What does not fit a record.
#[derive(Clone)]
enum More {
    Children(Children),
    Blocks(Vec<Block>),
}

/// The inodes of a page with their names.
#[derive(Clone)]
pub(crate) struct InodePage {
    present: u64,
    /// By slot.
    name_lens: [u8; SLOTS],
    /// In the order of slots.
    records: Vec<Record>,
    names: Vec<u8>,
    /// Each once, and each of use to a record.
    common: Vec<Common>,
    /// Each of one record.
    more: Vec<More>,
}

impl Default for InodePage {
    fn default() -> Self {
        Self {
            present: 0,
            name_lens: [0; SLOTS],
            records: Vec::new(),
            names: Vec::new(),
            common: Vec::new(),
            more: Vec::new(),
        }
    }
}

impl Page for InodePage {
    fn is_empty(&self) -> bool {
        self.present == 0
    }
}

/// A place among 64.
fn place(at: usize) -> u8 {
    u8::try_from(at).expect("a page has 64 inodes")
}

/// The content of a record that stands at that place of [`InodePage::more`].
const fn elsewhere(at: usize) -> PackedBlock {
    PackedBlock::new(Block {
        id: BlockId(at as u64),
        generation_stamp: GenerationStamp(0),
        length: 0,
    })
}

/// The content of a record without any.
const NOTHING: PackedBlock = elsewhere(0);

impl Record {
    /// Its place in [`InodePage::more`].
    fn more(&self) -> Option<usize> {
        matches!(self.kind, Kind::Directory | Kind::LongFile)
            .then(|| self.content.get().id.0 as usize)
    }
}

impl Common {
    fn of(inode: &Inode) -> Self {
        let mut common = Self {
            parent: U48::new(inode.parent),
            block_size: U48::new(0),
            owner: inode.owner,
            permission: inode.permission,
            flags: 0,
        };
        if let Body::File(file) = &inode.body {
            common.block_size = U48::new(file.block_size);
            common.flags = flags(file.replication, file.is_open);
        }
        common
    }

    fn replication(&self) -> u16 {
        self.flags & REPLICATION_MAX
    }

    fn is_open(&self) -> bool {
        self.flags & OPEN != 0
    }
}

fn flags(replication: u16, is_open: bool) -> u16 {
    assert!(replication <= REPLICATION_MAX, "replication {replication}");
    replication | if is_open { OPEN } else { 0 }
}

/// An inode as it is read.
#[derive(Clone, Copy)]
pub(crate) struct InodeRef<'a> {
    page: &'a InodePage,
    record: &'a Record,
}

impl<'a> InodeRef<'a> {
    fn common(self) -> &'a Common {
        &self.page.common[usize::from(self.record.common)]
    }

    /// The directory it is in.
    pub(crate) fn parent(self) -> u64 {
        self.common().parent.get()
    }

    /// Modification time.
    pub(crate) fn modified_ms(self) -> u64 {
        self.record.modified.get()
    }

    /// Access time.
    pub(crate) fn accessed_ms(self) -> u64 {
        self.record.accessed.get()
    }

    /// Permission bits.
    pub(crate) fn permission(self) -> u16 {
        self.common().permission
    }

    /// Index of (owner, group) in the owner table.
    pub(crate) fn owner(self) -> u32 {
        self.common().owner
    }

    /// Whether it is a directory.
    pub(crate) fn is_dir(self) -> bool {
        matches!(self.record.kind, Kind::EmptyDirectory | Kind::Directory)
    }

    fn more(self) -> Option<&'a More> {
        Some(&self.page.more[self.record.more()?])
    }

    /// The file's fields, `None` for a directory.
    pub(crate) fn file(self) -> Option<FileRef<'a>> {
        if self.is_dir() {
            return None;
        }
        let blocks = match self.record.kind {
            Kind::File => BlocksRef::One(self.record.content),
            _ => self.blocks_elsewhere(),
        };
        let common = self.common();
        Some(FileRef {
            block_size: common.block_size.get(),
            replication: common.replication(),
            is_open: common.is_open(),
            blocks,
        })
    }

    fn blocks_elsewhere(self) -> BlocksRef<'a> {
        match self.more() {
            Some(More::Blocks(blocks)) => BlocksRef::Many(blocks),
            _ => BlocksRef::Empty,
        }
    }

    /// The directory's children, `None` for a file and for an empty directory.
    pub(crate) fn children(self) -> Option<&'a Children> {
        match self.more() {
            Some(More::Children(children)) => Some(children),
            _ => None,
        }
    }

    /// How many entries a directory has.
    pub(crate) fn child_count(self) -> usize {
        self.children().map_or(0, Children::len)
    }
}

impl InodePage {
    fn at(&self, slot: u32) -> Option<usize> {
        (self.present >> slot & 1 == 1).then(|| rank(self.present, slot))
    }

    fn inode(&self, at: usize) -> InodeRef<'_> {
        InodeRef {
            page: self,
            record: &self.records[at],
        }
    }

    /// Where the name of a slot begins: behind those before it.
    fn name_at(&self, slot: u32) -> usize {
        // Eight lengths at a time, summed in lanes of 16 bits: 64 names of 255 bytes fit one.
        const LANES: u64 = 0x00ff_00ff_00ff_00ff;
        let lanes = |word: u64| (word & LANES) + (word >> 8 & LANES);
        let (words, _) = self.name_lens.as_chunks::<8>();
        let (whole, rest) = (slot as usize / 8, slot % 8);
        let mut sum = lanes(u64::from_le_bytes(words[whole]) & ((1 << (8 * rest)) - 1));
        for word in &words[..whole] {
            sum += lanes(u64::from_le_bytes(*word));
        }
        (sum.wrapping_mul(0x0001_0001_0001_0001) >> 48) as usize
    }

    fn name_of(&self, slot: u32) -> &[u8] {
        let at = self.name_at(slot);
        &self.names[at..at + usize::from(self.name_lens[slot as usize])]
    }

    /// An inode and its name.
    pub(crate) fn get(&self, slot: u32) -> Option<(InodeRef<'_>, &str)> {
        let (inode, name) = self.raw(slot)?;
        Some((inode, text(name)))
    }

    /// An inode and the bytes of its name.
    pub(crate) fn raw(&self, slot: u32) -> Option<(InodeRef<'_>, &[u8])> {
        Some((self.inode(self.at(slot)?), self.name_of(slot)))
    }

    /// The bytes of an inode's name, without looking at the rest.
    pub(crate) fn name(&self, slot: u32) -> Option<&[u8]> {
        (self.present >> slot & 1 == 1).then(|| self.name_of(slot))
    }

    /// An inode to change.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<InodeMut<'_>> {
        let at = self.at(slot)?;
        Some(InodeMut { page: self, at })
    }

    /// Adds an inode; its slot must be free.
    pub(crate) fn insert(&mut self, slot: u32, inode: Inode, name: &str) {
        assert!(self.at(slot).is_none(), "inode slot is taken");
        let record = self.enter(inode);
        self.present |= 1 << slot;
        self.records.insert(rank(self.present, slot), record);
        self.write_name(slot, name.as_bytes());
        if self.records.len() == SLOTS {
            self.fit();
        }
    }

    /// Adds the inodes of a page whose slots all come behind these (image load).
    pub(crate) fn append(&mut self, behind: &Self) {
        assert!(
            behind.present.trailing_zeros() >= 64 - self.present.leading_zeros(),
            "inodes come in order"
        );
        for record in &behind.records {
            let mut record = *record;
            record.common = self.intern(behind.common[usize::from(record.common)]);
            if let Some(at) = record.more() {
                record.content = self.add_more(behind.more[at].clone());
            }
            self.records.push(record);
        }
        self.names.extend_from_slice(&behind.names);
        for (len, behind) in self.name_lens.iter_mut().zip(behind.name_lens) {
            *len = (*len).max(behind);
        }
        self.present |= behind.present;
    }

    /// Makes a record, and enters what stands beside it.
    fn enter(&mut self, inode: Inode) -> Record {
        let common = self.intern(Common::of(&inode));
        let (kind, content) = match inode.body {
            Body::Directory => (Kind::EmptyDirectory, NOTHING),
            Body::File(FileBody { blocks, .. }) => match blocks {
                BlockList::Empty => (Kind::EmptyFile, NOTHING),
                BlockList::One(block) => (Kind::File, PackedBlock::new(block)),
                BlockList::Many(blocks) => (Kind::LongFile, self.add_more(More::Blocks(blocks))),
            },
        };
        Record {
            modified: U48::new(inode.modified_ms),
            accessed: U48::new(inode.accessed_ms),
            content,
            kind,
            common,
        }
    }

    /// The place of what inodes have in common, added when it is new.
    fn intern(&mut self, common: Common) -> u8 {
        let known = self.common.iter().rposition(|other| *other == common);
        place(known.unwrap_or_else(|| {
            if self.common.len() == self.common.capacity() {
                self.common.reserve_exact(2);
            }
            self.common.push(common);
            self.common.len() - 1
        }))
    }

    /// Drops what no inode has in common any more.
    fn release(&mut self, common: u8) {
        if self.records.iter().any(|record| record.common == common) {
            return;
        }
        self.common.swap_remove(usize::from(common));
        let moved = place(self.common.len());
        for record in &mut self.records {
            if record.common == moved {
                record.common = common;
            }
        }
    }

    fn add_more(&mut self, more: More) -> PackedBlock {
        if self.more.len() == self.more.capacity() {
            self.more.reserve_exact((self.more.len() / 2).max(1));
        }
        self.more.push(more);
        elsewhere(self.more.len() - 1)
    }

    /// Takes out what stands beside a record, which is of another kind from now on.
    fn take_more(&mut self, at: usize, kind: Kind, content: PackedBlock) -> Option<More> {
        let from = self.records[at].more();
        let record = &mut self.records[at];
        (record.kind, record.content) = (kind, content);
        let from = from?;
        let more = self.more.swap_remove(from);
        let moved = self.more.len();
        let mut records = self.records.iter_mut();
        if let Some(record) = records.find(|record| record.more() == Some(moved)) {
            record.content = elsewhere(from);
        }
        Some(more)
    }

    /// Takes an inode out; whether there was one.
    pub(crate) fn remove(&mut self, slot: u32) -> bool {
        let Some(at) = self.at(slot) else {
            return false;
        };
        self.drop_name(slot);
        self.take_more(at, Kind::EmptyFile, NOTHING);
        self.present &= !(1 << slot);
        let record = self.records.remove(at);
        self.release(record.common);
        // Ids are never given out again: what few inodes are left of a page do not keep the room of all.
        let room = self.records.capacity();
        if room > 8 && self.records.len() * 4 <= room {
            self.fit();
        }
        true
    }

    /// Gives an inode another name.
    pub(crate) fn rename(&mut self, slot: u32, name: &str) {
        assert!(self.at(slot).is_some(), "renaming an inode that is there");
        self.drop_name(slot);
        self.write_name(slot, name.as_bytes());
    }

    fn write_name(&mut self, slot: u32, name: &[u8]) {
        let at = self.name_at(slot);
        let len = self.names.len();
        if self.names.capacity() < len + name.len() {
            // Little slack instead of doubling: names are a quarter of the tree's memory.
            self.names.reserve_exact(name.len() + (len / 4).max(256));
        }
        self.names.splice(at..at, name.iter().copied());
        self.name_lens[slot as usize] =
            u8::try_from(name.len()).expect("names are at most 255 bytes");
    }

    fn drop_name(&mut self, slot: u32) {
        let at = self.name_at(slot);
        let len = core::mem::take(&mut self.name_lens[slot as usize]);
        self.names.drain(at..at + usize::from(len));
    }

    /// Gives back room that is not used: a full page grows no more, one that lost most of its inodes hardly. Copies, since
    /// shrunk in place buffers keep their memory with many an allocator.
    fn fit(&mut self) {
        if self.records.capacity() > self.records.len() {
            self.records = self.records.as_slice().into();
        }
        if self.names.capacity() > self.names.len() {
            self.names = self.names.as_slice().into();
        }
    }

    /// All inodes of the page with their slots and names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, InodeRef<'_>, &str)> {
        let mut from = 0;
        self.inodes().map(move |(slot, inode)| {
            let to = from + usize::from(self.name_lens[slot as usize]);
            let name = text(&self.names[from..to]);
            from = to;
            (slot, inode, name)
        })
    }

    /// All inodes of the page with their slots, names not looked at.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = (u32, InodeRef<'_>)> {
        (0..PAGE_IDS as u32)
            .filter(|slot| self.present >> slot & 1 == 1)
            .zip(&self.records)
            .map(|(slot, record)| (slot, InodeRef { page: self, record }))
    }

    /// Bytes the page takes on the heap, with blocks of its files; entries of its directories are counted with those.
    pub(crate) fn heap_bytes(&self) -> usize {
        let blocks = self.more.iter().map(|more| match more {
            More::Blocks(blocks) => blocks.capacity() * size_of::<Block>(),
            More::Children(_) => 0,
        });
        // The counters of the shared page.
        let page = size_of::<Self>() + 2 * size_of::<usize>();
        page + self.records.capacity() * size_of::<Record>()
            + self.names.capacity()
            + self.common.capacity() * size_of::<Common>()
            + self.more.capacity() * size_of::<More>()
            + blocks.sum::<usize>()
    }
}

fn text(name: &[u8]) -> &str {
    core::str::from_utf8(name).expect("names enter as text")
}

/// Makes pages of inodes that come in the order of their ids (image load): buffers are used again and again, and a
/// page takes exactly what it needs.
#[derive(Default)]
pub(crate) struct PageBuilder {
    page: InodePage,
}

impl PageBuilder {
    /// Adds an inode behind those before it. A name has at most 255 bytes.
    pub(crate) fn push(&mut self, slot: u32, inode: Inode, name: &[u8]) {
        let page = &mut self.page;
        assert!(page.present >> slot == 0, "inodes come in order");
        let record = page.enter(inode);
        page.present |= 1 << slot;
        page.name_lens[slot as usize] =
            u8::try_from(name.len()).expect("names are at most 255 bytes");
        page.names.extend_from_slice(name);
        page.records.push(record);
    }

    /// The page, leaving the builder empty; `None` when nothing was added.
    pub(crate) fn take(&mut self) -> Option<InodePage> {
        let page = &mut self.page;
        let present = core::mem::take(&mut page.present);
        if present == 0 {
            return None;
        }
        let taken = InodePage {
            present,
            name_lens: core::mem::replace(&mut page.name_lens, [0; SLOTS]),
            records: page.records.as_slice().into(),
            names: page.names.as_slice().into(),
            common: page.common.as_slice().into(),
            more: page.more.drain(..).collect(),
        };
        page.records.clear();
        page.names.clear();
        page.common.clear();
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
