//! What a partition sees of the rest, and what it asks of it.

use crate::BlockConfig;
use crate::registry::Registry;
use hadal_types::{Block, InodeId, Tick};

/// The rest of the NameNode as a partition sees it while it handles one thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) nodes: &'a Registry,
    pub(crate) config: &'a BlockConfig,
    pub(crate) now: Tick,
    /// Active: says what is to be done. Otherwise what does not fit is queued (F-01).
    pub(crate) active: bool,
    /// Active and out of safe mode: replicas are copied and deleted.
    pub(crate) populated: bool,
    /// First block id no applied edit handed out.
    pub(crate) next_block: u64,
    /// Last generation stamp an applied edit handed out.
    pub(crate) stamp: u64,
}

/// What a partition wants done outside it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    /// Delete this replica.
    Delete { storage: u32, block: Block },
    /// This excess replica is needed after all: keep it if its deletion was not sent.
    Keep { storage: u32, block: Block },
    /// A replica of no block: delete it now or ask again later.
    Unknown { storage: u32, block: Block },
    /// A replica newer than any edit, seen by an active.
    Future,
    /// COMMITTED became COMPLETE.
    Completed { block: Block, inode: InodeId },
    /// A DataNode that was copying this block needs no longer be counted.
    Unassign { node: u32, parts: u32 },
    /// A report was queued or `count` left the queue.
    Queued { node: u32 },
    /// Reports left the queue.
    Dequeued { count: usize },
}
