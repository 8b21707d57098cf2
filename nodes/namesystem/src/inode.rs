//! Files and directories: as they are made, read and changed. How they stand in memory is [`crate::inode_page`]'s.

use crate::packed::PackedBlock;
use alloc::vec::Vec;
use hadal_types::Block;

/// Permission bits that are kept: rwx for user, group and other, and the sticky bit (as HDFS's
/// `FsPermission`).
pub(crate) const PERMISSION_MASK: u16 = 0o1777;
/// The sticky bit.
pub(crate) const STICKY: u16 = 0o1000;
/// The largest replication a file can have.
pub(crate) const REPLICATION_MAX: u16 = (1 << 15) - 1;

/// An inode that is made, without its name; its numbers fit [`hadal_types::U48`].
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) parent: u64,
    pub(crate) modified_ms: u64,
    pub(crate) accessed_ms: u64,
    pub(crate) permission: u16,
    /// Index of (owner, group) in the owner table.
    pub(crate) owner: u32,
    pub(crate) body: Body,
}

/// What kind of inode.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// An empty directory.
    Directory,
    /// A file.
    File(FileBody),
}

/// A file's own fields.
#[derive(Clone, Debug)]
pub(crate) struct FileBody {
    pub(crate) block_size: u64,
    /// Copies wanted.
    pub(crate) replication: u16,
    /// Open for write; who holds the lease stands in the lease table.
    pub(crate) is_open: bool,
    pub(crate) blocks: BlockList,
}

/// A file's blocks; most files have one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum BlockList {
    /// No block yet.
    Empty,
    /// One.
    One(Block),
    /// Several.
    Many(Vec<Block>),
}

impl BlockList {
    /// Appends one.
    pub(crate) fn push(&mut self, block: Block) {
        match self {
            Self::Empty => *self = Self::One(block),
            Self::One(first) => *self = Self::Many(alloc::vec![*first, block]),
            Self::Many(blocks) => blocks.push(block),
        }
    }

    /// All of them in order.
    pub(crate) fn as_slice(&self) -> &[Block] {
        match self {
            Self::Empty => &[],
            Self::One(block) => core::slice::from_ref(block),
            Self::Many(blocks) => blocks,
        }
    }
}

impl Inode {
    /// A directory or file without content, of no directory yet.
    pub(crate) fn new(permission: u16, owner: u32, time_ms: u64, body: Body) -> Self {
        Self {
            parent: 0,
            modified_ms: time_ms,
            accessed_ms: time_ms,
            permission: permission & PERMISSION_MASK,
            owner,
            body,
        }
    }
}

/// A file as it is read.
#[derive(Clone, Copy)]
pub(crate) struct FileRef<'a> {
    pub(crate) block_size: u64,
    /// Copies wanted.
    pub(crate) replication: u16,
    /// Open for write.
    pub(crate) is_open: bool,
    pub(crate) blocks: BlocksRef<'a>,
}

/// A file's blocks as they are read.
#[derive(Clone, Copy)]
pub(crate) enum BlocksRef<'a> {
    /// No block yet.
    Empty,
    /// One.
    One(PackedBlock),
    /// Several.
    Many(&'a [Block]),
}

impl<'a> BlocksRef<'a> {
    /// How many.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Many(blocks) => blocks.len(),
        }
    }

    /// The block at that place.
    pub(crate) fn get(self, at: usize) -> Option<Block> {
        match self {
            Self::Empty => None,
            Self::One(block) => (at == 0).then(|| block.get()),
            Self::Many(blocks) => blocks.get(at).copied(),
        }
    }

    /// The last one.
    pub(crate) fn last(self) -> Option<Block> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The one before the last.
    pub(crate) fn penultimate(self) -> Option<Block> {
        self.get(self.len().checked_sub(2)?)
    }

    /// All of them in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = Block> + 'a {
        (0..self.len()).filter_map(move |at| self.get(at))
    }

    /// Bytes in all of them.
    pub(crate) fn length(self) -> u64 {
        self.iter().map(|block| block.length).sum()
    }
}
