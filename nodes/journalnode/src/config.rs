//! What a JournalNode is told, and why it may not start.

use hadal_env::DiskError;
use hadal_qjournal::Planted;
use std::net::SocketAddr;
use std::path::PathBuf;
use store_journal::JournalError;
use store_record::RecordError;
use thiserror::Error;

/// Settings of a JournalNode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalnodeConfig {
    /// Node id, as in its certificate and in the other nodes' configurations.
    pub name: String,
    /// Data directory; created when missing.
    pub dir: PathBuf,
    /// The other JournalNodes of the quorum: id and address. All of them: a node votes only once enough of them
    /// confirmed that its disk is no old copy.
    pub peers: Vec<(String, SocketAddr)>,
    /// How long a lease of the active role lasts, in milliseconds (`ha.lease_ttl`).
    pub lease_ttl_ms: u32,
    /// Software version shown to operators.
    pub software: String,
    /// Room for records a new segment starts with, in bytes; a multiple of 4096. It doubles when it is full.
    pub segment_bytes: u64,
    /// Switched-off rules: the simulator's test of tests.
    pub planted: Planted,
    /// The same of the lease's rules.
    pub election_planted: hadal_failover::Planted,
}

impl JournalnodeConfig {
    /// Defaults for this node.
    #[must_use]
    pub fn new(name: String, dir: PathBuf, peers: Vec<(String, SocketAddr)>) -> Self {
        Self {
            name,
            dir,
            peers,
            lease_ttl_ms: 600,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            segment_bytes: 1 << 20,
            planted: Planted::default(),
            election_planted: hadal_failover::Planted::default(),
        }
    }
}

/// Why a JournalNode could not start.
#[derive(Debug, Error)]
pub enum RunError {
    /// The directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process serves the directory (T-J7).
    #[error("{dir} is in use by another process: stop it, or give this JournalNode another directory", dir = .dir.display())]
    Locked {
        /// Which directory.
        dir: PathBuf,
    },
    /// What was promised cannot be read any more.
    #[error(
        "{path}: the promises of this JournalNode are damaged ({what}). Move the data directory away: the node then joins as a learner and is filled again",
        path = .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The directory was written by another version.
    #[error("{dir} has layout {found}, this version knows {known}: run the version that wrote it", dir = .dir.display())]
    Layout {
        /// Which directory.
        dir: PathBuf,
        /// Layout found.
        found: u32,
        /// Layout of this version.
        known: u32,
    },
    /// There are segments, but no record of promises: the file was removed.
    #[error(
        "{dir} holds edits but no promises file: it was removed by hand. Move the data directory away: the node then joins as a learner",
        dir = .dir.display()
    )]
    PromisesMissing {
        /// Which directory.
        dir: PathBuf,
    },
    /// The small record failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The segments cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
