//! Why a DataNode could not start or go on, and how store errors look to peers.

use hadal_env::DiskError;
use hadal_proto::{Fault, FaultClass};
use store_record::RecordError;
use store_replica::StoreError;
use thiserror::Error;

/// A DataNode stops with this.
#[derive(Debug, Error)]
pub enum RunError {
    /// A data directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process serves the directory.
    #[error("{dir} is in use by another process: stop it, or give this DataNode another directory")]
    Locked {
        /// Which directory.
        dir: String,
    },
    /// The replica store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record of the acknowledged epoch cannot be read.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The record of the acknowledged epoch is damaged.
    #[error(
        "{path}: the record of the acknowledged epoch is damaged; restore it from a backup, or empty the data directories of this DataNode and let the cluster replicate"
    )]
    Damaged {
        /// Which file.
        path: String,
    },
    /// More data directories cannot be used than are tolerated.
    #[error(
        "{failed} of {volumes} volumes failed, datanode.failed_volumes_tolerated is {tolerated}: {why}"
    )]
    VolumesFailed {
        /// How many failed.
        failed: usize,
        /// How many there are.
        volumes: usize,
        /// How many may fail.
        tolerated: usize,
        /// Each with its reason.
        why: String,
    },
    /// The configuration does not fit.
    #[error("{0}")]
    Config(String),
}

/// A store error as a peer sees it.
pub(crate) fn fault_of(error: &StoreError) -> Fault {
    let class = match error {
        StoreError::NotFound { .. } | StoreError::OutOfRange { .. } => FaultClass::NotFound,
        StoreError::AlreadyExists { .. } => FaultClass::AlreadyExists,
        StoreError::RecoveryInProgress { .. } => FaultClass::RecoveryInProgress,
        StoreError::ChecksumMismatch { .. } | StoreError::Corrupt { .. } => FaultClass::Corrupt,
        StoreError::OutOfSpace { .. }
        | StoreError::VolumeFailed { .. }
        | StoreError::NoVolume
        | StoreError::Disk(_) => FaultClass::DiskFailed,
        StoreError::TooLong { .. }
        | StoreError::BadChunkSize(_)
        | StoreError::ChecksumCount { .. } => FaultClass::InvalidArgument,
        _ => FaultClass::StaleReplica,
    };
    Fault::new(class, error.to_string())
}
