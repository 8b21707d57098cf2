//! Files and directories as they stand in memory.

use crate::children::Children;
use crate::packed::{PackedBlock, U48};
use crate::radix::{PAGE_IDS, Page, rank};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hadal_types::Block;

/// Permission bits that are kept: rwx for user, group and other, and the sticky bit (as HDFS's
/// `FsPermission`).
pub(crate) const PERMISSION_MASK: u16 = 0o1777;
/// The sticky bit.
pub(crate) const STICKY: u16 = 0o1000;

/// One inode without its name, which its page keeps.
#[derive(Clone)]
pub(crate) struct Inode {
    pub(crate) parent: U48,
    pub(crate) modified_ms: U48,
    pub(crate) accessed_ms: U48,
    pub(crate) permission: u16,
    name_at: u16,
    name_len: u8,
    /// Index of (owner, group) in the owner table.
    pub(crate) owner: u32,
    pub(crate) body: Body,
}

/// What kind of inode.
#[derive(Clone)]
pub(crate) enum Body {
    /// A directory; `None` while it is empty.
    Directory(Option<Box<Children>>),
    /// A file.
    File(FileBody),
}

/// A file's own fields.
#[derive(Clone)]
pub(crate) struct FileBody {
    pub(crate) block_size: U48,
    /// Replication, and [`OPEN`].
    flags: u16,
    pub(crate) blocks: BlockList,
}

/// A file's blocks; most files have one.
#[derive(Clone)]
pub(crate) enum BlockList {
    /// No block yet.
    Empty,
    /// One, inline.
    One(PackedBlock),
    /// Several; boxed, so that the many inodes with one block stay small.
    #[expect(
        clippy::box_collection,
        reason = "a Vec would make every inode 16 bytes larger"
    )]
    Many(Box<Vec<Block>>),
}

/// Flag of a file open for write; who holds the lease stands in the lease table.
const OPEN: u16 = 1 << 15;
/// The largest replication an inode can hold.
pub(crate) const REPLICATION_MAX: u16 = OPEN - 1;

impl FileBody {
    /// A file with these fields.
    pub(crate) fn new(block_size: u64, replication: u16, is_open: bool, blocks: BlockList) -> Self {
        let mut file = Self {
            block_size: U48::new(block_size),
            flags: 0,
            blocks,
        };
        file.set_replication(replication);
        file.set_open(is_open);
        file
    }

    /// Copies wanted.
    pub(crate) const fn replication(&self) -> u16 {
        self.flags & REPLICATION_MAX
    }

    /// Sets the copies wanted.
    pub(crate) fn set_replication(&mut self, replication: u16) {
        assert!(replication <= REPLICATION_MAX, "replication {replication}");
        self.flags = self.flags & OPEN | replication;
    }

    /// Open for write.
    pub(crate) const fn is_open(&self) -> bool {
        self.flags & OPEN != 0
    }

    /// Opens or closes it.
    pub(crate) fn set_open(&mut self, is_open: bool) {
        self.flags = self.replication() | if is_open { OPEN } else { 0 };
    }
}

impl BlockList {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Many(blocks) => blocks.len(),
        }
    }

    /// The block at that place.
    pub(crate) fn get(&self, at: usize) -> Option<Block> {
        match self {
            Self::Empty => None,
            Self::One(block) => (at == 0).then(|| block.get()),
            Self::Many(blocks) => blocks.get(at).copied(),
        }
    }

    /// The last one.
    pub(crate) fn last(&self) -> Option<Block> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The one before the last.
    pub(crate) fn penultimate(&self) -> Option<Block> {
        self.get(self.len().checked_sub(2)?)
    }

    /// All of them in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Block> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// Appends one.
    pub(crate) fn push(&mut self, block: Block) {
        match self {
            Self::Empty => *self = Self::One(PackedBlock::new(block)),
            Self::One(first) => *self = Self::Many(Box::new(alloc::vec![first.get(), block])),
            Self::Many(blocks) => blocks.push(block),
        }
    }

    /// Drops the last one.
    pub(crate) fn pop(&mut self) -> Option<Block> {
        let last = self.last()?;
        match self {
            Self::Empty => {}
            Self::One(_) => *self = Self::Empty,
            Self::Many(blocks) => {
                blocks.pop();
                if let [only] = blocks[..] {
                    *self = Self::One(PackedBlock::new(only));
                }
            }
        }
        Some(last)
    }

    /// Replaces the last one.
    pub(crate) fn set_last(&mut self, block: Block) {
        self.pop();
        self.push(block);
    }

    /// Bytes in all of them.
    pub(crate) fn length(&self) -> u64 {
        self.iter().map(|block| block.length).sum()
    }
}

impl Inode {
    /// A directory or file without content.
    pub(crate) fn new(permission: u16, owner: u32, time_ms: u64, body: Body) -> Self {
        Self {
            parent: U48::new(0),
            modified_ms: U48::new(time_ms),
            accessed_ms: U48::new(time_ms),
            permission: permission & PERMISSION_MASK,
            name_at: 0,
            name_len: 0,
            owner,
            body,
        }
    }

    /// Whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    /// The file's fields, `None` for a directory.
    pub(crate) fn file(&self) -> Option<&FileBody> {
        match &self.body {
            Body::File(file) => Some(file),
            Body::Directory(_) => None,
        }
    }

    /// The directory's children, `None` for a file and for an empty directory.
    pub(crate) fn children(&self) -> Option<&Children> {
        match &self.body {
            Body::Directory(children) => children.as_deref(),
            Body::File(_) => None,
        }
    }

    /// How many entries a directory has.
    pub(crate) fn child_count(&self) -> usize {
        self.children().map_or(0, Children::len)
    }
}

/// [`PAGE_IDS`] inodes with consecutive ids, their names side by side in one buffer.
#[derive(Clone, Default)]
pub(crate) struct InodePage {
    present: u64,
    inodes: Vec<Inode>,
    names: Vec<u8>,
}

impl Page for InodePage {
    fn is_empty(&self) -> bool {
        self.present == 0
    }
}

impl InodePage {
    fn at(&self, slot: u32) -> Option<usize> {
        (self.present >> slot & 1 == 1).then(|| rank(self.present, slot))
    }

    fn name_of(&self, inode: &Inode) -> &str {
        let at = inode.name_at as usize;
        core::str::from_utf8(&self.names[at..at + inode.name_len as usize])
            .expect("names enter as text")
    }

    /// An inode and its name.
    pub(crate) fn get(&self, slot: u32) -> Option<(&Inode, &str)> {
        let inode = &self.inodes[self.at(slot)?];
        Some((inode, self.name_of(inode)))
    }

    /// The bytes of an inode's name, without looking at the rest.
    pub(crate) fn name(&self, slot: u32) -> Option<&[u8]> {
        self.raw(slot).map(|(_, name)| name)
    }

    /// An inode to change.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Inode> {
        let at = self.at(slot)?;
        Some(&mut self.inodes[at])
    }

    /// Adds an inode; its slot must be free.
    pub(crate) fn insert(&mut self, slot: u32, inode: Inode, name: &str) {
        assert!(self.at(slot).is_none(), "inode slot is taken");
        self.present |= 1 << slot;
        self.inodes.insert(rank(self.present, slot), inode);
        self.write_name(slot, name);
        if self.inodes.len() == PAGE_IDS as usize {
            self.inodes.shrink_to_fit();
            self.names.shrink_to_fit();
        }
    }

    /// Takes an inode out.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Inode> {
        let at = self.at(slot)?;
        self.drop_name(at);
        self.present &= !(1 << slot);
        Some(self.inodes.remove(at))
    }

    /// Gives an inode another name.
    pub(crate) fn rename(&mut self, slot: u32, name: &str) {
        let at = self.at(slot).expect("renaming an inode that is there");
        self.drop_name(at);
        self.write_name(slot, name);
    }

    fn write_name(&mut self, slot: u32, name: &str) {
        let at = rank(self.present, slot);
        let end = self.names.len();
        if self.names.capacity() < end + name.len() {
            // Little slack instead of doubling: names are a third of the tree's memory.
            self.names.reserve_exact(name.len() + (end / 4).max(256));
        }
        self.names.extend_from_slice(name.as_bytes());
        let inode = &mut self.inodes[at];
        inode.name_at = u16::try_from(end).expect("64 names of 255 bytes fit 16 bits");
        inode.name_len = u8::try_from(name.len()).expect("names are at most 255 bytes");
    }

    fn drop_name(&mut self, at: usize) {
        let (start, len) = (self.inodes[at].name_at, u16::from(self.inodes[at].name_len));
        self.names
            .drain(usize::from(start)..usize::from(start + len));
        for other in &mut self.inodes {
            if other.name_at > start {
                other.name_at -= len;
            }
        }
        self.inodes[at].name_len = 0;
        self.inodes[at].name_at = 0;
    }

    /// All inodes of the page with their slots and names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Inode, &str)> {
        (0..PAGE_IDS as u32)
            .filter(|slot| self.present >> slot & 1 == 1)
            .zip(&self.inodes)
            .map(|(slot, inode)| (slot, inode, self.name_of(inode)))
    }

    /// All inodes of the page with their slots, names not looked at.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = (u32, &Inode)> {
        (0..PAGE_IDS as u32)
            .filter(|slot| self.present >> slot & 1 == 1)
            .zip(&self.inodes)
    }

    /// An inode and the bytes of its name.
    pub(crate) fn raw(&self, slot: u32) -> Option<(&Inode, &[u8])> {
        let inode = &self.inodes[self.at(slot)?];
        let at = inode.name_at as usize;
        Some((inode, &self.names[at..at + inode.name_len as usize]))
    }

    /// Bytes the page takes on the heap, without what hangs below its inodes.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.inodes.capacity() * size_of::<Inode>() + self.names.capacity() + size_of::<Self>() + 16
    }
}

/// Makes pages of inodes that come in the order of their ids (image load): buffers are used again and again, and a
/// page takes exactly what it needs.
#[derive(Default)]
pub(crate) struct PageBuilder {
    present: u64,
    inodes: Vec<Inode>,
    names: Vec<u8>,
}

impl PageBuilder {
    /// Adds an inode behind those before it. A name has at most 255 bytes.
    pub(crate) fn push(&mut self, slot: u32, mut inode: Inode, name: &[u8]) {
        assert!(self.present >> slot == 0, "inodes come in order");
        self.present |= 1 << slot;
        inode.name_at = u16::try_from(self.names.len()).expect("64 names of 255 bytes");
        inode.name_len = u8::try_from(name.len()).expect("names are at most 255 bytes");
        self.names.extend_from_slice(name);
        self.inodes.push(inode);
    }

    /// The page, leaving the builder empty; `None` when nothing was added.
    pub(crate) fn take(&mut self) -> Option<InodePage> {
        let present = core::mem::take(&mut self.present);
        if present == 0 {
            return None;
        }
        let page = InodePage {
            present,
            inodes: self.inodes.drain(..).collect(),
            names: self.names.as_slice().into(),
        };
        self.names.clear();
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use hadal_types::{BlockId, GenerationStamp};

    #[test]
    fn a_built_page_is_the_inserted_one() {
        let (mut builder, mut inserted) = (PageBuilder::default(), InodePage::default());
        assert!(builder.take().is_none());
        for round in 0..2u32 {
            for slot in (round..64).step_by(3) {
                let inode = Inode::new(0o755, slot, 7, Body::Directory(None));
                let name = alloc::format!("n{slot}");
                builder.push(slot, inode.clone(), name.as_bytes());
                if round == 0 {
                    inserted.insert(slot, inode, &name);
                }
            }
            let built = builder.take().unwrap();
            assert_eq!(built.inodes.capacity(), built.inodes.len());
            if round == 0 {
                for slot in 0..64 {
                    let of = |page: &InodePage| {
                        page.get(slot)
                            .map(|(inode, name)| (inode.owner, String::from(name)))
                    };
                    assert_eq!(of(&built), of(&inserted));
                }
            }
        }
    }

    #[test]
    fn an_inode_stays_small() {
        assert!(
            size_of::<Inode>() <= 64,
            "inode grew to {}",
            size_of::<Inode>()
        );
    }

    #[test]
    fn pages_keep_names_through_inserts_renames_and_removals() {
        let mut page = InodePage::default();
        let mut model: Vec<Option<String>> = alloc::vec![None; 64];
        let mut seed = 3u64;
        for round in 0..5_000u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = (seed >> 40) as u32 % 64;
            let name = alloc::format!("n{round:0width$}", width = (seed >> 50) as usize % 200);
            match (&model[slot as usize], seed >> 33 & 1) {
                (None, _) => {
                    page.insert(
                        slot,
                        Inode::new(0o755, slot, 0, Body::Directory(None)),
                        &name,
                    );
                    model[slot as usize] = Some(name);
                }
                (Some(_), 0) => {
                    page.rename(slot, &name);
                    model[slot as usize] = Some(name);
                }
                (Some(_), _) => {
                    assert_eq!(page.remove(slot).unwrap().owner, slot);
                    model[slot as usize] = None;
                }
            }
            for (slot, name) in (0u32..).zip(&model) {
                assert_eq!(page.get(slot).map(|(_, name)| name), name.as_deref());
            }
        }
    }

    #[test]
    fn block_lists_grow_and_shrink() {
        let block = |id| Block {
            id: BlockId(id),
            generation_stamp: GenerationStamp(id),
            length: id,
        };
        let mut list = BlockList::Empty;
        for id in 0..4 {
            list.push(block(id));
            assert_eq!(list.last(), Some(block(id)));
        }
        assert_eq!(list.length(), 6);
        assert_eq!(list.penultimate(), Some(block(2)));
        list.set_last(block(9));
        for id in [9, 2, 1, 0] {
            assert_eq!(list.pop(), Some(block(id)));
        }
        assert_eq!(list.pop(), None);
        assert_eq!(list.len(), 0);
    }
}
