//! What the store has and says, as the cores and the protocol want it.

use bytes::Bytes;
use hadal_proto::qjournal::{CommitMark, Edits, LogDigest};
use hadal_proto::{Fault, FaultClass};
use hadal_types::TxId;
use store_journal::{Batch, JournalError};

/// Verifies framed records and gives the digest behind them: the [`hadal_qjournal::DigestFn`] of every cluster.
#[must_use]
pub fn log_digest(before: LogDigest, first: TxId, records: &Bytes) -> Option<(TxId, LogDigest)> {
    let batch = Batch::verify(records.clone(), first, before.0).ok()?;
    Some((batch.last(), LogDigest(batch.digest())))
}

/// A run of records as an answer.
#[must_use]
pub fn edits(batch: &Batch, committed: CommitMark) -> Edits {
    let count = batch.last().0 + 1 - batch.first().0;
    Edits {
        first: batch.first(),
        count: u32::try_from(count).expect("a run of a few MiB"),
        records: batch.bytes().clone(),
        digest_before: LogDigest(batch.digest_before()),
        digest_end: LogDigest(batch.digest()),
        committed,
    }
}

/// What a caller is told of a failure of the store.
#[must_use]
pub fn journal_fault(error: &JournalError) -> Fault {
    let class = match error {
        JournalError::Disk(_) | JournalError::Poisoned(_) => FaultClass::DiskFailed,
        JournalError::Unreadable { .. } => FaultClass::Corrupt,
        JournalError::NotHere { .. } | JournalError::NoSegment { .. } => FaultClass::NotFound,
        JournalError::OtherNamespace { .. } => FaultClass::IdentityMismatch,
        _ => FaultClass::Internal,
    };
    Fault::new(class, error.to_string())
}
