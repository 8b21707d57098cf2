//! Values that cross the border of [`crate::BlockManager`].

use alloc::string::String;
use hadal_types::{Block, BlockId, BlockState, DatanodeUuid, GenerationStamp, InodeId};

/// A block as the map knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredBlock {
    /// Id, stamp and length (bytes; of an open block the length last recorded).
    pub block: Block,
    /// The file it belongs to.
    pub inode: InodeId,
    /// Copies wanted.
    pub replication: u16,
    /// Where it stands (E-13).
    pub state: BlockState,
    /// FINALIZED replicas of this stamp and length that are neither corrupt nor excess.
    pub live: u16,
}

/// What [`crate::BlockManager::choose_targets`] is asked for.
#[derive(Clone, Debug, Default)]
pub struct PlacementRequest<'a> {
    /// DataNodes wanted in addition to `existing`.
    pub count: usize,
    /// Bytes the block may grow to; a storage needs room for it.
    pub block_size: u64,
    /// Host name or address of the writer, empty when unknown; a DataNode there is taken first.
    pub writer_host: &'a str,
    /// DataNodes that have the block already; they count for the rack rule and are never chosen again.
    pub existing: &'a [DatanodeUuid],
    /// DataNodes the client does not want.
    pub exclude: &'a [DatanodeUuid],
}

/// No DataNode can take the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "could only be written to {found} of the {needed} minReplication nodes. There are {live} datanode(s) running and \
     {excluded} node(s) are excluded in this operation."
)]
pub struct NotEnoughTargets {
    /// DataNodes found, existing ones included.
    pub found: usize,
    /// Minimal replication.
    pub needed: usize,
    /// Live DataNodes.
    pub live: usize,
    /// Of them excluded by the caller.
    pub excluded: usize,
}

/// Why a block recovery was not started or its result not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoveryError {
    /// There is no such block.
    #[error("{0} is not known to this NameNode")]
    UnknownBlock(BlockId),
    /// It is COMPLETE.
    #[error("{0} is COMPLETE and needs no recovery")]
    Complete(BlockId),
    /// No DataNode is known that may have a replica: none was chosen for it and none reported one.
    #[error("no DataNode is known to hold a replica of {0}; try again when one reports it")]
    NoReplica(BlockId),
    /// Those that may have a replica are dead, or their storage failed: what was flushed to them is there, and nothing is
    /// decided before one is back.
    #[error(
        "no live DataNode holds a replica of {0}: those that may are away; try again when one of them is back"
    )]
    Away(BlockId),
    /// All replicas that are known waited for recovery since their DataNodes restarted (RWR), so they may have lost what
    /// was flushed, and there are fewer than the pipeline had (where that is not known: than the file is to have): a DataNode
    /// that goes on with a better one may not have come to this NameNode yet, which is active for less than a dead interval.
    #[error(
        "only DataNodes that were restarted are known to hold replicas of {0}, and fewer than there should be; try again later: others may come until this NameNode is active for the dead interval"
    )]
    OnlyRestarted(BlockId),
    /// Another recovery of it runs and has not timed out (T-L12).
    #[error("recovery {running} of {block} is under way; try again later")]
    Running {
        /// Which block.
        block: BlockId,
        /// Recovery id of the one that runs.
        running: GenerationStamp,
    },
    /// The result is of another recovery than the last one started (T-L10).
    #[error("recovery id {got} of {block} does not match the current recovery id {expected}")]
    OtherRecovery {
        /// Which block.
        block: BlockId,
        /// Recovery started last; zero for none.
        expected: GenerationStamp,
        /// The one that reported.
        got: GenerationStamp,
    },
}

/// A fact the driver logs or the namesystem acts on, once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockEvent {
    /// A COMMITTED block reached minimal replication.
    Completed {
        /// Which.
        block: BlockId,
        /// Its file.
        inode: InodeId,
    },
    /// Bytes of this replica were found to be bad, by a reader or by the DataNode itself.
    Corrupt {
        /// Node id of the DataNode that has it.
        name: String,
        /// Which.
        block: Block,
    },
    /// A DataNode registered.
    Registered {
        /// Who.
        datanode: DatanodeUuid,
        /// Node id.
        name: String,
        /// It was known before.
        again: bool,
    },
    /// No heartbeat for the dead interval: its replicas were dropped.
    Dead {
        /// Who.
        datanode: DatanodeUuid,
        /// Node id.
        name: String,
        /// Replicas dropped.
        replicas: u64,
    },
    /// Every block of a DataNode has its factor on others: it may be stopped.
    Decommissioned {
        /// Who.
        datanode: DatanodeUuid,
        /// Node id.
        name: String,
    },
    /// Every block of a DataNode has enough replicas on others for the time of its maintenance: it may be stopped.
    InMaintenance {
        /// Who.
        datanode: DatanodeUuid,
        /// Node id.
        name: String,
    },
    /// A full report of one storage is processed.
    Reported {
        /// Node id.
        name: String,
        /// Replicas in it.
        replicas: u64,
        /// Replicas new to this NameNode.
        added: u64,
        /// Replicas known before and not in it.
        removed: u64,
        /// Replicas of no block, to be deleted (when active and out of safe mode).
        unknown: u64,
    },
    /// Safe mode ended.
    LeftSafeMode {
        /// Safe blocks then.
        safe: u64,
        /// Complete blocks then.
        total: u64,
    },
    /// A bound was hit and a DataNode was told to register again and send full reports.
    ReportsDropped {
        /// Node id.
        name: String,
    },
}

/// Counts over all partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockStats {
    /// Blocks of any state.
    pub blocks: u64,
    /// COMPLETE blocks: the total of safe mode.
    pub complete: u64,
    /// COMPLETE blocks with minimal replication.
    pub safe: u64,
    /// COMPLETE blocks below their replication; 0 unless active and out of start-up safe mode (T-H19, T-H20).
    pub under_replicated: u64,
    /// COMPLETE blocks without a live replica; 0 unless active and out of start-up safe mode.
    pub missing: u64,
    /// Blocks with a corrupt replica.
    pub corrupt: u64,
    /// Blocks with copies under way.
    pub pending_replication: u64,
    /// Over-replicated blocks held back until reports are fresh (F-02).
    pub postponed: u64,
    /// Replicas to delete, sent or not.
    pub pending_deletion: u64,
    /// DataNode messages waiting for edits (F-01).
    pub queued_reports: u64,
    /// Replicas of blocks newer than any edit, seen by an active NameNode: neither taken nor deleted.
    pub future: u64,
    /// DataNodes alive.
    pub live_datanodes: u64,
    /// DataNodes alive without a recent heartbeat.
    pub stale_datanodes: u64,
    /// DataNodes known and dead.
    pub dead_datanodes: u64,
    /// Storages of live DataNodes that have not yet sent a full report (Q2, Q5).
    pub unreported_storages: u64,
    /// Storages whose content is stale since promotion (F-02).
    pub content_stale_storages: u64,
}
