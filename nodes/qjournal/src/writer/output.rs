//! What a writer asks of its driver, and tells it.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_proto::qjournal::{BatchHead, CommitMark, JournalStream, LogDigest, Request};
use hadal_types::{Epoch, NamespaceInfo, TxId};
use thiserror::Error;

/// A JournalNode: its index in [`super::WriterConfig::journalnodes`].
pub type Jn = usize;

/// Pairs a call with its outcome. Never reused by one writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Names one append stream. Never reused by one writer; what arrives for another than the JournalNode's present
/// one is ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// One thing the driver must do. Order matters per JournalNode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Call a JournalNode and hand the outcome to [`super::Writer::handle_reply`] under the same id.
    Call {
        /// Whom.
        jn: Jn,
        /// Under which id.
        id: RequestId,
        /// What.
        request: Request,
    },
    /// Open an append stream; it replaces the one before.
    OpenStream {
        /// To whom.
        jn: Jn,
        /// Its name.
        stream: StreamId,
        /// Its header.
        header: JournalStream,
    },
    /// Send one Data frame: `aux` is the encoded head. Acks go to [`super::Writer::handle_ack`].
    Batch {
        /// To whom.
        jn: Jn,
        /// On which stream; drop it when that one is gone.
        stream: StreamId,
        /// Head.
        head: BatchHead,
        /// Framed records; empty for a mere commit mark.
        records: Bytes,
    },
    /// Close the append stream.
    CloseStream {
        /// To whom.
        jn: Jn,
        /// Which.
        stream: StreamId,
    },
    /// Something the NameNode should know.
    Event(Event),
}

/// News for the NameNode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The claim holds and the log before it is decided: it ends at `end`. Read what is missing up to there, apply
    /// it (its digest must be `end.digest`), then [`super::Writer::begin`]. A newer writer may exist already and have
    /// committed more; that shows when no majority starts the segment. So nothing is answered before
    /// [`Event::SegmentStarted`], unless a lease says that nobody else is active.
    Recovered {
        /// The epoch to write in; goes into every record.
        epoch: Epoch,
        /// Last edit of the log, with the running digest there; txid 0 for an empty log.
        end: CommitMark,
    },
    /// The claim came to nothing; nothing is promised to this writer. [`super::Writer::start_claim`] may be tried again.
    ClaimFailed {
        /// Why.
        error: ClaimError,
    },
    /// A segment is open at a majority. The first one follows [`super::Writer::begin`], later ones
    /// [`super::Writer::roll`] (then the segment before is finalised at a majority).
    SegmentStarted {
        /// Its first txid.
        first: TxId,
    },
    /// Everything up to here is durable at a majority: parked replies may leave.
    Committed {
        /// The mark.
        mark: CommitMark,
    },
    /// [`super::Writer::finish`] is through: the log ends here, finalised at a majority (an empty segment may stand
    /// behind it). The writer is idle.
    Finished {
        /// Last edit, with the running digest there.
        end: CommitMark,
    },
    /// A newer writer exists. This one is over: nothing it has not seen committed may be answered (section 0).
    Fenced {
        /// The newer epoch.
        by: Epoch,
    },
    /// More JournalNodes than a majority can spare refused for good: this segment cannot go on. The NameNode must
    /// step down; a new claim heals it.
    QuorumFailed {
        /// Per JournalNode what it said.
        reasons: Vec<(String, String)>,
    },
    /// Something has waited for a majority for `slow_quorum_ms`. Reported once per outage (Q11).
    QuorumSlow {
        /// JournalNodes that have not answered.
        silent: Vec<String>,
    },
    /// A majority answers again.
    QuorumBack,
}

/// Why a claim failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ClaimError {
    /// Another writer was promised an epoch that is not below ours.
    #[error(
        "another writer was promised epoch {by}; claim again with a higher one, or leave the role to it"
    )]
    Fenced {
        /// Highest epoch seen.
        by: Epoch,
    },
    /// A JournalNode belongs to another namespace (T-J12, T-N3).
    #[error("JournalNode {journalnode} belongs to another namespace: {message}")]
    IdentityMismatch {
        /// Who.
        journalnode: String,
        /// What it said.
        message: String,
    },
    /// No majority of JournalNodes can vote; learners are named.
    #[error("no majority of JournalNodes votes: {}", Listed(.reasons))]
    NoMajority {
        /// Per JournalNode what is wrong with it.
        reasons: Vec<(String, String)>,
    },
    /// Time is up.
    #[error("no majority of JournalNodes answered in time: {}", Listed(.reasons))]
    TimedOut {
        /// Per JournalNode what is wrong with it.
        reasons: Vec<(String, String)>,
    },
    /// The answers contradict each other in a way no history of promises allows. Needs an operator.
    #[error("JournalNodes contradict each other about segment {first}: {message}")]
    Contradiction {
        /// Segment.
        first: TxId,
        /// What.
        message: String,
    },
}

/// `name: reason; name: reason`, for messages.
struct Listed<'a>(&'a [(String, String)]);

impl core::fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (i, (name, reason)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{name}: {reason}")?;
        }
        Ok(())
    }
}

/// Why edits were not taken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AppendError {
    /// The writer does not hold the role, or no longer.
    #[error("this NameNode is not writing the journal")]
    NotWriting,
    /// [`super::WriterConfig::waiting_bytes`] of edits wait for a majority already: stop taking calls until some are committed.
    #[error("{bytes} bytes of edits already wait for a majority of JournalNodes")]
    WindowFull {
        /// How many.
        bytes: usize,
    },
    /// Not the txid that comes next.
    #[error("expected txid {expected}, got a batch that starts at {found}")]
    Gap {
        /// Next txid.
        expected: TxId,
        /// First txid given.
        found: TxId,
    },
}

/// How one JournalNode stands to the writer (Q11, T-N4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Node id.
    pub journalnode: String,
    /// Edits it has not acknowledged; `None`: it has acknowledged nothing since this writer began.
    pub behind: Option<u64>,
    /// What is wrong with it, when something is.
    pub trouble: Option<String>,
}

/// One batch of edits as the NameNode hands it in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EditBatch {
    /// First txid.
    pub first: TxId,
    /// Records in it; at least 1.
    pub count: u32,
    /// Framed records ([`hadal_proto::qjournal::Record`]), at most 4 MiB, each with the writer's epoch.
    pub records: Bytes,
    /// Running digest behind the last one.
    pub digest_end: LogDigest,
}

/// What identifies the log to the JournalNodes.
pub(crate) fn request(info: &NamespaceInfo, call: hadal_proto::qjournal::Call) -> Request {
    Request {
        namespace_id: info.namespace_id,
        call,
    }
}
