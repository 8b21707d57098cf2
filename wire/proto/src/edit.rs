//! Edits: every mutation of the namespace is one [`Edit`], and applying edits is the only way to change the
//! tree. What the journal stores as a record's payload is the encoding of an `Edit`.
//!
//! Edits carry outcomes, not requests (resolved inode ids, absolute times, allocated ids), so that replay
//! needs no clock, no randomness and no permission check.

use crate::{wire_enum, wire_struct};
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{Block, BlockId, CallId, ClientId, GenerationStamp, InodeId};

wire_struct! {
    /// One journaled mutation.
    pub struct Edit {
        /// Wall time of the operation in ms since 1970; drives modification times and retry-cache expiry (F-06).
        pub time_ms: u64,
        /// Who asked, for the retry cache; zero for the NameNode's own edits.
        pub client: ClientId,
        /// That client's call.
        pub call: CallId,
        /// What changed.
        pub op: EditOp,
    }
}

wire_enum! {
    /// The operations.
    pub enum EditOp {
        /// First edit of a segment written by a new writer; changes nothing.
        0 => StartSegment,
        /// Last edit before a roll; changes nothing.
        1 => EndSegment,
        /// One directory, parent given by inode.
        2 => Mkdir { parent: InodeId, inode: InodeId, name: String, permission: u16, owner: String, group: String },
        /// A new open file. `replaced` is the inode of an overwritten file, deleted by the same edit.
        3 => Create {
            parent: InodeId,
            inode: InodeId,
            name: String,
            permission: u16,
            owner: String,
            group: String,
            replication: u16,
            block_size: u64,
            holder: ClientId,
            replaced: Option<InodeId>,
        },
        /// A block allocated; `previous` committed with its final length (B-07: allocations are journaled).
        4 => AddBlock { inode: InodeId, block: BlockId, generation_stamp: GenerationStamp, previous: Option<Block> },
        /// The last block dropped.
        5 => AbandonBlock { inode: InodeId, block: BlockId },
        /// Closed; the last block has its final length.
        6 => Close { inode: InodeId, last: Option<Block> },
        /// Length of the last block of an open file recorded.
        7 => UpdateLength { inode: InodeId, block: Block },
        /// A generation stamp handed out (pipeline or block recovery); the counter is now this.
        8 => AllocateStamp { generation_stamp: GenerationStamp },
        /// The last block of an open file has a new stamp and length.
        9 => UpdatePipeline { inode: InodeId, block: Block },
        /// Moved. `replaced` is deleted by the same edit.
        10 => Rename { inode: InodeId, to_parent: InodeId, to_name: String, replaced: Option<InodeId> },
        /// Removed with all below it.
        11 => Delete { inode: InodeId },
        /// Permission bits.
        12 => SetPermission { inode: InodeId, permission: u16 },
        /// Owner and group, both as they now are.
        13 => SetOwner { inode: InodeId, owner: String, group: String },
        /// Times, both as they now are.
        14 => SetTimes { inode: InodeId, modified_ms: u64, accessed_ms: u64 },
        /// Copies wanted.
        15 => SetReplication { inode: InodeId, replication: u16 },
        /// The lease has another holder (take-over, or the NameNode itself for recovery).
        16 => ReassignLease { inode: InodeId, holder: ClientId },
        /// A closed file open again; `block` is its last block when that is reopened (stamp and length unchanged).
        17 => Append { inode: InodeId, holder: ClientId, block: Option<Block> },
        /// Cut at `length`: blocks behind it are dropped. `recovering` when the cut is inside a block: that block with
        /// its length wanted and the generation stamp of its recovery, which the edit hands out; the file is open and
        /// held by the NameNode until that recovery ends. In the tree the block has its new length and still the old
        /// stamp.
        18 => Truncate { inode: InodeId, length: u64, recovering: Option<Block> },
        /// Sources' blocks moved behind the target's, which thereby have its replication; the sources are gone.
        19 => Concat { target: InodeId, sources: Vec<InodeId> },
        /// The outcome of a call that changed nothing but must not run again.
        20 => Outcome,
    }
}
