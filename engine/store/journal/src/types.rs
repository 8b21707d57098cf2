//! What the journal is told and what it answers.

use crate::{Batch, Digest, End};
use hadal_types::{Epoch, TxId};

/// How a journal lays out its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Namespace of the journal; segments of another are refused (T-J12).
    pub namespace_id: u64,
    /// Room for records a new segment starts with, in bytes; a multiple of 4096, at least 4096. A full segment
    /// doubles its room, by at most 16 MiB at a time.
    pub initial_bytes: u64,
    /// Zeros kept written ahead of the records, in bytes; 0 for none (appends then also journal metadata).
    pub zero_ahead_bytes: u64,
}

impl Options {
    /// The defaults: 1 MiB to start with, 4 MiB of zeros ahead.
    #[must_use]
    pub const fn new(namespace_id: u64) -> Self {
        Self {
            namespace_id,
            initial_bytes: 1 << 20,
            zero_ahead_bytes: 4 << 20,
        }
    }
}

/// What is known of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    /// First txid.
    pub first: TxId,
    /// Last txid: of the name when finalised, else the last readable durable record; `None` when there is none.
    pub last: Option<TxId>,
    /// Finalised or in progress.
    pub finalised: bool,
    /// Who started it; `None` when the header is unreadable or was not read yet.
    pub writer_epoch: Option<Epoch>,
    /// Running digest before its first record; `None` as for the epoch.
    pub digest_before: Option<Digest>,
    /// Running digest behind its last readable record; `None` until scanned, and when the header is unreadable.
    pub digest: Option<Digest>,
    /// Bytes of its readable records; `None` until scanned, and when the header is unreadable. Equal logs have equal lengths.
    pub bytes: Option<u64>,
    /// With [`crate::End::Doubtful`]: no record that was ever durable here begins at or behind so many bytes from the start
    /// of the first record; everything behind is zeros, and a record shows bytes that are none (its epoch and txid). `None`
    /// when nothing is in doubt, or nobody knows how far: the header is unreadable, or the file was cut.
    pub doubtful_bytes: Option<u64>,
    /// Lowest and highest epoch of its readable records; `None` until scanned, or without records.
    pub epochs: Option<(Epoch, Epoch)>,
    /// How it ends; `None` until scanned (older finalised segments: [`crate::Journal::scan`]).
    pub end: Option<End>,
    /// The first txid of a gap that was found and closed when the journal was opened: this disk definitely lacks it,
    /// and what stood behind it is gone. For the log and for repair.
    pub closed_gap: Option<TxId>,
}

/// The segment open for appending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// Its first txid.
    pub first: TxId,
    /// Who started it.
    pub writer_epoch: Epoch,
    /// The txid the next batch must start with: behind everything handed in, durable or not.
    pub next: TxId,
    /// Running digest before `next`: what the next batch is verified against.
    pub digest: Digest,
    /// Last durable txid; `first - 1` when there is none.
    pub durable: TxId,
    /// Running digest behind `durable`.
    pub durable_digest: Digest,
}

/// A durable batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Last txid of the batch.
    pub last: TxId,
    /// Running digest behind it.
    pub digest: Digest,
}

/// What may stand where a segment starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Nothing, or a segment in progress with a clean end and at most one record (T-J11).
    Fresh,
    /// Also any segment in progress, which is replaced: the caller has decided that its records are void (a writer of
    /// a newer epoch restarts a segment after recovery dropped it; model-journal R8).
    Restart,
}

/// Consecutive records of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The records, verified, with the digests around them.
    pub batch: Batch,
    /// First txid of the segment they are from.
    pub segment: TxId,
    /// The segment is finalised and this is its end.
    pub end_of_segment: bool,
}

/// What a purge removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Purged {
    /// First txids of the segments removed.
    pub segments: Vec<TxId>,
    /// First txids of the acceptance records removed.
    pub accepted: Vec<TxId>,
}

/// Where a copied segment goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Finalised at the last record of the copy.
    Finalised,
    /// In progress; [`crate::Journal::resume`] opens it for appending.
    InProgress,
}

/// What happens to bytes of the replaced segment behind the copy's last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behind {
    /// They stay, readable or not: a repair replaces bad records only, it never cuts what stands behind them. What
    /// could be read here must agree with the copy, else the copy is refused.
    Keep,
    /// They go: recovery has decided that the log ends with the copy.
    Cut,
}
