//! What an acceptor asks of its driver.

use super::AcceptorRecord;
use alloc::string::String;
use bytes::Bytes;
use hadal_proto::Fault;
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{CommitMark, LogDigest, Request, Response, SegmentState};
use hadal_types::{Epoch, TxId};

/// Pairs a call with its reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// Numbers store operations from 1 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(pub u64);

/// Pairs a fetch with its outcome.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FetchId(pub u64);

/// Pairs a question to a peer with its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AskId(pub u64);

/// The driver's name for one append stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamKey(pub u64);

/// A change of what is on disk. The driver carries them out **in order**, each durable before the next begins
/// (appends that follow each other may share one sync), and reports each with
/// [`super::Acceptor::handle_stored`], in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreOp {
    /// Replace the small record.
    Record(AcceptorRecord),
    /// Create a segment. With `restart` one starts there already (empty, or of an older epoch): it is emptied.
    Start {
        /// First txid.
        first: TxId,
        /// Epoch of its writer.
        epoch: Epoch,
        /// Running digest before it.
        digest_before: LogDigest,
        /// Empty what is there.
        restart: bool,
    },
    /// Append to the segment.
    Append {
        /// Which segment.
        segment: TxId,
        /// First txid of the records.
        first: TxId,
        /// Last one.
        last: TxId,
        /// Framed records.
        records: Bytes,
        /// Running digest before them.
        digest_before: LogDigest,
        /// Running digest behind them.
        digest_end: LogDigest,
    },
    /// The segment is complete.
    Finalize {
        /// First txid.
        first: TxId,
        /// Last txid.
        last: TxId,
    },
    /// Put the fetched copy in the place of the segment, atomically. A finalised copy takes the place of one in progress
    /// or of a damaged finalised one with the same last txid; any other one that of one in progress.
    Install {
        /// Which fetch brought it.
        fetch: FetchId,
        /// What it holds.
        segment: SegmentState,
    },
    /// Remove segments wholly below, oldest first, up to the first one that is not: a finalised one ends below, an
    /// un-finalised one is followed by one that starts at or below. Need not be durable: what comes back is purged again.
    Purge {
        /// Limit.
        below: TxId,
    },
    /// Remove all segments, and prepare for this namespace.
    Format {
        /// Its id.
        namespace_id: u64,
    },
}

/// One thing the driver must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Change the disk.
    Store {
        /// Number to report it by.
        write: WriteId,
        /// What.
        op: StoreOp,
    },
    /// Answer a call.
    Reply {
        /// Which.
        ticket: Ticket,
        /// With what.
        outcome: Result<Response, Fault>,
    },
    /// Acknowledge on an append stream; with a fault, close it afterwards.
    Ack {
        /// Which.
        stream: StreamKey,
        /// The ack.
        ack: Ack,
    },
    /// Answer a call with records from disk: from `from` up to `upto` at most, at least one record, then no
    /// more than `max_bytes`.
    Read {
        /// Which call.
        ticket: Ticket,
        /// The segment they are in.
        segment: TxId,
        /// First record.
        from: TxId,
        /// Last one that may be served.
        upto: TxId,
        /// Most payload.
        max_bytes: u32,
        /// For the answer.
        committed: CommitMark,
    },
    /// Copy a segment from a JournalNode into a temporary file, make it durable, compare its end and digest, then
    /// call [`super::Acceptor::handle_fetched`]. It may be abandoned when a newer fetch is asked for. Unless an
    /// [`StoreOp::Install`] follows at once the copy is not needed any more.
    Fetch {
        /// Name of the fetch.
        fetch: FetchId,
        /// From whom (node id).
        source: String,
        /// What it must hold.
        segment: SegmentState,
    },
    /// Call a peer; the answer, or a fault when there is none, goes to [`super::Acceptor::handle_answer`].
    Ask {
        /// Name of the question.
        ask: AskId,
        /// Node id.
        peer: String,
        /// What.
        request: Request,
    },
    /// Call a peer; the answer goes to [`super::Acceptor::handle_counts`].
    Exchange {
        /// Node id.
        peer: String,
        /// An `ExchangeCounts` call.
        request: Request,
    },
    /// The disk failed. The process stops, with an exit code of its own; nothing is answered any more.
    Stop {
        /// Why.
        reason: String,
    },
}
