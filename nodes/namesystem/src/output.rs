//! What the driver must do for the namesystem.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_blocks::BlockEvent;
use hadal_proto::{Fault, admin, client, datanode};
use hadal_types::{BlockId, ClientId, GenerationStamp, InodeId, TxId};

/// One thing to do. Outputs come in the order in which they must be handed on: edits before the replies
/// that depend on them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Hand these edits to the journal writer; they are already applied here. Everything made since the last
    /// poll is one batch (group commit).
    Edits {
        /// Txid of the first record; the others follow without gaps.
        first: TxId,
        /// The encoded edits, slices of one buffer.
        records: Vec<Bytes>,
    },
    /// Finish the journal segment (its last edit was in the batch before) and start the next at `next`.
    RollSegment {
        /// First txid of the next segment.
        next: TxId,
    },
    /// Answer this ticket. Everything the answer could have seen is committed.
    Reply {
        /// The ticket its request came with.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
    /// For logs and metrics.
    Event(Event),
}

/// An answer to one request, of the protocol the request came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`crate::Namesystem::handle_client`].
    Client(Result<client::Reply, Fault>),
    /// To [`crate::Namesystem::handle_datanode`].
    Datanode(Result<datanode::Response, Fault>),
    /// To [`crate::Namesystem::handle_admin`].
    Admin(Result<admin::Response, Fault>),
}

/// A fact worth a log line or a metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A lease reached its limit, or was taken over: recovery of the file began.
    LeaseRecoveryStarted {
        /// The file.
        inode: InodeId,
        /// Who held the lease.
        holder: ClientId,
        /// The block under recovery and its recovery id; `None` when the file could be closed at once.
        block: Option<(BlockId, GenerationStamp)>,
    },
    /// A file was closed by lease recovery.
    LeaseRecovered {
        /// The file.
        inode: InodeId,
    },
    /// Something a DataNode wants an operator to see.
    DatanodeError {
        /// Its name.
        name: String,
        /// Its code.
        code: u16,
        /// Its message.
        message: String,
    },
    /// A fact of the block manager.
    Block(BlockEvent),
    /// Replies were failed because the active role ended: how many.
    RepliesFailed {
        /// How many.
        count: usize,
    },
}
