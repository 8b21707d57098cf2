//! The blocks of an image's files on their way to the block map.

use crate::inode::FileBody;
use crate::packed::PackedBlock;
use alloc::vec::Vec;
use hadal_types::{Block, InodeId, U48};

/// Blocks per piece of the list: pieces are given back one by one while the map grows.
const PIECE: usize = 8_192;
/// Flag of the block its file is open at.
const OPEN: u16 = 1 << 15;

/// A block of a file.
#[derive(Clone, Copy)]
struct Listed {
    inode: U48,
    block: PackedBlock,
    /// Replication, and [`OPEN`].
    flags: u16,
}

/// Blocks in the order of their files, noted while the files are at hand: another walk over the tree would find most of
/// it out of the caches.
#[derive(Default)]
pub(crate) struct FileBlocks {
    pieces: Vec<Vec<Listed>>,
}

/// A block as the block map takes it.
pub(crate) struct FileBlock {
    pub(crate) inode: InodeId,
    pub(crate) block: Block,
    pub(crate) replication: u16,
    /// The last block of an open file.
    pub(crate) is_open: bool,
}

impl FileBlocks {
    /// Notes the blocks of a file behind those before it.
    pub(crate) fn push(&mut self, inode: InodeId, file: &FileBody) {
        let blocks = file.blocks.as_slice();
        for (at, block) in blocks.iter().enumerate() {
            let is_open = file.is_open && at + 1 == blocks.len();
            if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
                self.pieces.push(Vec::with_capacity(PIECE));
            }
            let listed = Listed {
                inode: U48::new(inode.0),
                block: PackedBlock::new(*block),
                flags: file.replication | if is_open { OPEN } else { 0 },
            };
            self.pieces.last_mut().expect("pushed above").push(listed);
        }
    }

    /// All of them in order.
    pub(crate) fn into_blocks(self) -> impl Iterator<Item = FileBlock> {
        self.pieces.into_iter().flatten().map(|listed| FileBlock {
            inode: InodeId(listed.inode.get()),
            block: listed.block.get(),
            replication: listed.flags & !OPEN,
            is_open: listed.flags & OPEN != 0,
        })
    }
}
