//! Inodes and files to change, where they stand.

use super::{Common, InodePage, Kind, More, NOTHING, Record, flags};
use crate::children::Children;
use crate::inode::{BlockList, FileRef, PERMISSION_MASK};
use crate::packed::PackedBlock;
use hadal_types::{Block, U48};

/// An inode to change.
pub(crate) struct InodeMut<'a> {
    pub(super) page: &'a mut InodePage,
    pub(super) at: usize,
}

impl<'a> InodeMut<'a> {
    fn record(&mut self) -> &mut Record {
        &mut self.page.records[self.at]
    }

    /// Changes what it has in common with others, for it alone.
    fn change(&mut self, change: impl FnOnce(&mut Common)) {
        let old = self.record().common;
        let mut new = self.page.common[usize::from(old)];
        change(&mut new);
        if new == self.page.common[usize::from(old)] {
            return;
        }
        // Let go of first: there are never more of them than inodes.
        let mut others = self.page.records.iter().enumerate();
        let alone = others.all(|(at, other)| at == self.at || other.common != old);
        if alone && !self.page.common.contains(&new) {
            self.page.common[usize::from(old)] = new;
            return;
        }
        self.record().common = self.page.intern(new);
        if alone {
            self.page.release(old);
        }
    }

    /// Sets the directory it is in.
    pub(crate) fn set_parent(&mut self, parent: u64) {
        self.change(|common| common.parent = U48::new(parent));
    }

    /// Sets the permission bits.
    pub(crate) fn set_permission(&mut self, permission: u16) {
        self.change(|common| common.permission = permission & PERMISSION_MASK);
    }

    /// Sets the index of (owner, group) in the owner table.
    pub(crate) fn set_owner(&mut self, owner: u32) {
        self.change(|common| common.owner = owner);
    }

    /// Sets the modification time.
    pub(crate) fn set_modified_ms(&mut self, time_ms: u64) {
        self.record().modified = U48::new(time_ms);
    }

    /// Sets the access time.
    pub(crate) fn set_accessed_ms(&mut self, time_ms: u64) {
        self.record().accessed = U48::new(time_ms);
    }

    /// The entries of a directory that has some.
    pub(crate) fn children(self) -> Option<&'a mut Children> {
        let more = self.page.records[self.at].more()?;
        match &mut self.page.more[more] {
            More::Children(children) => Some(children),
            More::Blocks(_) => None,
        }
    }

    /// Gives a directory all its entries, or none.
    ///
    /// # Panics
    /// Of a file.
    pub(crate) fn set_children(&mut self, children: Option<Children>) {
        let kind = self.record().kind;
        assert!(
            matches!(kind, Kind::EmptyDirectory | Kind::Directory),
            "only directories have children"
        );
        self.page.take_more(self.at, Kind::EmptyDirectory, NOTHING);
        if let Some(children) = children {
            let content = self.page.add_more(More::Children(children));
            let record = self.record();
            (record.kind, record.content) = (Kind::Directory, content);
        }
    }

    /// The file to change, `None` for a directory.
    pub(crate) fn file(self) -> Option<FileMut<'a>> {
        let kind = self.page.records[self.at].kind;
        let is_dir = matches!(kind, Kind::EmptyDirectory | Kind::Directory);
        (!is_dir).then_some(FileMut(self))
    }
}

/// A file to change.
pub(crate) struct FileMut<'a>(InodeMut<'a>);

impl FileMut<'_> {
    /// As it is now.
    pub(crate) fn read(&self) -> FileRef<'_> {
        let inode = self.0.page.inode(self.0.at);
        inode.file().expect("it is one")
    }

    /// Sets the copies wanted.
    pub(crate) fn set_replication(&mut self, replication: u16) {
        self.0
            .change(|common| common.flags = flags(replication, common.is_open()));
    }

    /// Opens or closes it.
    pub(crate) fn set_open(&mut self, is_open: bool) {
        self.0
            .change(|common| common.flags = flags(common.replication(), is_open));
    }

    /// Appends a block.
    pub(crate) fn push_block(&mut self, block: Block) {
        let InodeMut { page, at } = &mut self.0;
        let record = page.records[*at];
        let (kind, content) = match record.kind {
            Kind::File => {
                let blocks = alloc::vec![record.content.get(), block];
                (Kind::LongFile, page.add_more(More::Blocks(blocks)))
            }
            Kind::LongFile => {
                let more = record.more().map(|more| &mut page.more[more]);
                let Some(More::Blocks(blocks)) = more else {
                    unreachable!("a long file has blocks elsewhere");
                };
                blocks.push(block);
                return;
            }
            _ => (Kind::File, PackedBlock::new(block)),
        };
        let record = &mut page.records[*at];
        (record.kind, record.content) = (kind, content);
    }

    /// Drops the last block.
    pub(crate) fn pop_block(&mut self) -> Option<Block> {
        let last = self.read().blocks.last()?;
        let InodeMut { page, at } = &mut self.0;
        match page.records[*at].more() {
            None => {
                let record = &mut page.records[*at];
                (record.kind, record.content) = (Kind::EmptyFile, NOTHING);
            }
            Some(more) => {
                let More::Blocks(blocks) = &mut page.more[more] else {
                    unreachable!("a long file has blocks elsewhere");
                };
                blocks.pop();
                if let [only] = blocks[..] {
                    page.take_more(*at, Kind::File, PackedBlock::new(only));
                }
            }
        }
        Some(last)
    }

    /// Replaces the last block.
    pub(crate) fn set_last_block(&mut self, block: Block) {
        let InodeMut { page, at } = &mut self.0;
        match page.records[*at].more() {
            None => {
                let record = &mut page.records[*at];
                (record.kind, record.content) = (Kind::File, PackedBlock::new(block));
            }
            Some(more) => {
                if let More::Blocks(blocks) = &mut page.more[more] {
                    blocks.pop();
                    blocks.push(block);
                }
            }
        }
    }

    /// Takes all blocks out.
    pub(crate) fn take_blocks(&mut self) -> BlockList {
        let InodeMut { page, at } = &mut self.0;
        let record = page.records[*at];
        match page.take_more(*at, Kind::EmptyFile, NOTHING) {
            Some(More::Blocks(blocks)) => BlockList::Many(blocks),
            _ if record.kind == Kind::File => BlockList::One(record.content.get()),
            _ => BlockList::Empty,
        }
    }
}
