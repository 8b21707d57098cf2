//! Inodes for whoever only looks at a namespace: the offline image viewer.

use crate::image::Loaded;
use crate::inode::FileRef;
use crate::state::View;
use crate::tree::Entry;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{Block, BlockId, ClientId, GenerationStamp, InodeId};

/// A file or directory of a [`View`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InodeView<'a> {
    /// Its id.
    pub id: InodeId,
    /// The directory it is in; the root is in none, and says 0.
    pub parent: InodeId,
    /// Its name there; empty for the root.
    pub name: &'a str,
    /// Permission bits and the sticky bit.
    pub permission: u16,
    /// Owner.
    pub owner: &'a str,
    /// Group.
    pub group: &'a str,
    /// Modification time, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Access time, in milliseconds since 1970.
    pub accessed_ms: u64,
    /// What only a file has; `None` for a directory.
    pub file: Option<FileView>,
}

/// What only a file has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileView {
    /// Copies wanted.
    pub replication: u16,
    /// Bytes per block.
    pub block_size: u64,
    /// Its blocks in order.
    pub blocks: Vec<Block>,
    /// Who has it open.
    pub holder: Option<ClientId>,
}

impl FileView {
    /// Its length in bytes; of an open file, as far as the namespace knows.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.blocks.iter().map(|block| block.length).sum()
    }
}

/// The highest ids given out so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastIds {
    /// Of inodes.
    pub inode: InodeId,
    /// Of blocks.
    pub block: BlockId,
    /// Generation stamps.
    pub generation_stamp: GenerationStamp,
}

impl Loaded {
    /// What is in it.
    #[must_use]
    pub fn view(&self) -> View {
        self.state.view()
    }
}

impl View {
    /// The highest ids given out.
    #[must_use]
    pub fn last_ids(&self) -> LastIds {
        LastIds {
            inode: self.counters.inode,
            block: self.counters.block,
            generation_stamp: self.counters.generation_stamp,
        }
    }

    /// How many inodes there are.
    #[must_use]
    pub fn inode_count(&self) -> u64 {
        self.tree.counts.directories + self.tree.counts.files
    }

    /// All inodes in the order of their ids.
    pub fn inodes(&self) -> impl Iterator<Item = InodeView<'_>> {
        self.tree.entries().map(move |entry| self.inode_view(entry))
    }

    /// The entries of a directory in the order of their names; none of something else.
    pub fn children(&self, directory: InodeId) -> impl Iterator<Item = InodeId> + '_ {
        let here = self.tree.get(directory).into_iter();
        here.flat_map(move |entry| self.tree.children(entry.inode))
            .map(|child| child.id)
    }

    /// The absolute path of an inode.
    #[must_use]
    pub fn path_of(&self, inode: InodeId) -> String {
        self.tree.path_of(inode)
    }

    fn inode_view<'a>(&'a self, entry: Entry<'a>) -> InodeView<'a> {
        let inode = entry.inode;
        let (owner, group) = self.tree.owner(inode);
        let file = |file: FileRef<'_>| FileView {
            replication: file.replication,
            block_size: file.block_size,
            blocks: file.blocks.iter().collect(),
            holder: self.open.get(entry.id.0).copied(),
        };
        InodeView {
            id: entry.id,
            parent: InodeId(inode.parent()),
            name: entry.name,
            permission: inode.permission(),
            owner,
            group,
            modified_ms: inode.modified_ms(),
            accessed_ms: inode.accessed_ms(),
            file: inode.file().map(file),
        }
    }
}
