//! Why a JournalNode could not start.

use hadal_env::DiskError;
use store_journal::JournalError;
use store_record::RecordError;
use thiserror::Error;

/// A JournalNode stops with this.
#[derive(Debug, Error)]
pub enum RunError {
    /// The directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process serves the directory (T-J7).
    #[error(
        "{dir} is in use by another process: stop it, or give this JournalNode another directory"
    )]
    Locked {
        /// Which directory.
        dir: String,
    },
    /// The record of its promises cannot be read or decoded.
    #[error(
        "{path}: the record of this JournalNode's promises is damaged ({what}); it may have forgotten a promise and must not vote: wipe its directory, so that it joins as a learner"
    )]
    Damaged {
        /// Which file.
        path: String,
        /// What was found.
        what: String,
    },
    /// The record's file failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The segments cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
