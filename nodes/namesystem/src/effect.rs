//! What an edit means for the block manager.

use hadal_blocks::BlockManager;
use hadal_types::{Block, BlockId, InodeId, TxId};

/// A consequence of an applied edit outside the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// A block exists now, as the last of an open file.
    Allocated {
        inode: InodeId,
        block: Block,
        replication: u16,
    },
    /// A block's stamp and length are final (E-14): the client went on to the next one.
    Committed { block: Block },
    /// The file is closed: its last block has this stamp and length for good.
    Completed { block: Block },
    /// The last block of an open file has another stamp or length.
    Updated { block: Block },
    /// A closed file's last block is open again.
    Reopened { block: Block },
    /// A block is gone, its replicas can go.
    Removed { block: BlockId },
    /// Copies wanted of a block.
    Replication { block: BlockId, replication: u16 },
    /// Blocks belong to another file.
    Moved {
        blocks: alloc::vec::Vec<BlockId>,
        inode: InodeId,
    },
}

/// Hands the consequences of edit `txid` to the block manager, which lets nothing of them out before that edit is
/// committed (protocols.md section 0).
pub(crate) fn forward(
    effects: &mut alloc::vec::Vec<Effect>,
    txid: TxId,
    blocks: &mut BlockManager,
) {
    let mut removed = alloc::vec::Vec::new();
    for effect in effects.drain(..) {
        match effect {
            Effect::Allocated {
                inode,
                block,
                replication,
            } => blocks.allocated(txid, block, inode, replication),
            Effect::Committed { block } => blocks.committed(txid, block),
            Effect::Completed { block } => blocks.completed(txid, block),
            Effect::Updated { block } => blocks.updated(txid, block),
            Effect::Reopened { block } => blocks.reopened(txid, block),
            Effect::Removed { block } => removed.push(block),
            Effect::Replication { block, replication } => {
                blocks.replication_changed(txid, &[block], replication);
            }
            Effect::Moved {
                blocks: moved,
                inode,
            } => blocks.moved(txid, &moved, inode),
        }
    }
    if !removed.is_empty() {
        blocks.removed(txid, &removed);
    }
}
