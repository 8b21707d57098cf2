//! What can go wrong with the journal on this disk.

use hadal_env::DiskError;
use hadal_types::{Epoch, TxId};
use store_record::RecordError;

/// Why a batch of framed records was refused before it touched the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// No record in it.
    #[error("a batch must hold at least one record")]
    Empty,
    /// More bytes than [`crate::BATCH_BYTES_MAX`].
    #[error("batch of {0} bytes exceeds the cap of {cap} bytes", cap = crate::BATCH_BYTES_MAX)]
    TooLong(usize),
    /// A record announces more than [`crate::PAYLOAD_BYTES_MAX`].
    #[error("record behind {after} announces {length} bytes, cap is {cap}", cap = crate::PAYLOAD_BYTES_MAX)]
    RecordTooLong {
        /// Last good record before it.
        after: TxId,
        /// Bytes announced.
        length: usize,
    },
    /// The bytes end inside a record.
    #[error("batch ends inside the record behind {0}")]
    Cut(TxId),
    /// A checksum does not match: damaged on the way.
    #[error("record behind {0} does not match its checksum")]
    Checksum(TxId),
    /// Transactions must follow each other without gaps.
    #[error("expected txid {expected}, batch has {found}")]
    Gap {
        /// The txid that had to come.
        expected: TxId,
        /// The one that came.
        found: TxId,
    },
    /// Epochs never go down inside a log.
    #[error("epoch {found} behind epoch {before}")]
    EpochWentDown {
        /// Epoch of the record before.
        before: Epoch,
        /// Epoch found.
        found: Epoch,
    },
}

/// A failed journal operation.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed. After a failed write or sync the journal is poisoned: see [`JournalError::Poisoned`].
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier write or sync failed, or was abandoned half way; nothing is written any more until the
    /// journal is opened anew. Final: the process has to stop.
    #[error("journal takes no more writes: {0}; restart the node after the disk has been seen to")]
    Poisoned(String),
    /// The batch itself is not acceptable.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// No segment is open for appending.
    #[error("no segment is open for appending; start one first")]
    NoOpenSegment,
    /// More is waiting to be written than [`crate::QUEUE_BYTES_MAX`] allows.
    #[error("{queued} bytes wait to be written already, cap is {cap}", cap = crate::QUEUE_BYTES_MAX)]
    QueueFull {
        /// Bytes waiting.
        queued: usize,
    },
    /// The batch does not continue the log: the node missed some (T-Q8, protocols.md section 1).
    #[error("out of sync: next txid here is {expected}, batch starts at {found}")]
    OutOfSync {
        /// Next txid of the open segment.
        expected: TxId,
        /// First txid of the batch.
        found: TxId,
    },
    /// The records before the batch are not the ones the batch was made for.
    #[error("log up to {at} differs from the writer's: digests do not match")]
    DigestDiffers {
        /// Where the digests were compared.
        at: TxId,
    },
    /// The segment holds a bad record: nothing is appended, cut or zeroed there until recovery or repair has
    /// decided (protocols.md section 1, "rot and torn tails").
    #[error("segment {first} is unreadable from txid {from} on; it waits for recovery or repair")]
    Unreadable {
        /// First txid of the segment.
        first: TxId,
        /// First txid that cannot be read.
        from: TxId,
    },
    /// There is no such segment (T-J9).
    #[error("no segment starts at txid {first}")]
    NoSegment {
        /// First txid asked for.
        first: TxId,
    },
    /// A segment with records starts there already (T-J11).
    #[error("a segment with records already starts at txid {first} (finalised: {finalised})")]
    SegmentExists {
        /// First txid.
        first: TxId,
        /// It is finalised.
        finalised: bool,
    },
    /// The segment is finalised with another end.
    #[error("segment {first} is already finalised at {last}")]
    AlreadyFinalised {
        /// First txid.
        first: TxId,
        /// Where it ends.
        last: TxId,
    },
    /// The segment ends before the txid asked for (T-J8).
    #[error("segment {first} is only written up to {have}, cannot finalise at {asked}")]
    NotWritten {
        /// First txid.
        first: TxId,
        /// Last txid on this disk; below `first` when it is empty.
        have: TxId,
        /// Last txid asked for.
        asked: TxId,
    },
    /// The segment holds records behind the txid asked for: out of step with the recovery decision.
    #[error(
        "segment {first} holds records up to {have}, cannot finalise at {asked}; cut or copy first"
    )]
    HoldsMore {
        /// First txid.
        first: TxId,
        /// Last txid on this disk.
        have: TxId,
        /// Last txid asked for.
        asked: TxId,
    },
    /// No segment holds that txid (Q19: the message names what is missing).
    #[error("txid {txid} is not on this disk; segments here start at {oldest:?}")]
    NotHere {
        /// The txid asked for.
        txid: TxId,
        /// First txid of the oldest segment, when there is one.
        oldest: Option<TxId>,
    },
    /// The directory belongs to another namespace (T-J12).
    #[error("segment {first} belongs to namespace {found}, this journal to {expected}")]
    OtherNamespace {
        /// First txid of the segment.
        first: TxId,
        /// Namespace id in its header.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// Written by a layout this build does not know.
    #[error("segment {first} has layout {found}, this build knows {known}")]
    UnknownLayout {
        /// First txid of the segment.
        first: TxId,
        /// Layout in its header.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A small record beside the segments failed.
    #[error(transparent)]
    Record(#[from] RecordError),
}
