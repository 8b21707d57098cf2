//! The DataNode's replica store: replicas of blocks on several volumes, in files of their own or, while small, in
//! slots of shared extents; written with direct I/O from one copy into aligned buffers, found again after any crash.
#![forbid(unsafe_code)]

mod body;
mod counters;
mod directory;
mod error;
mod extent;
mod format;
mod geometry;
mod group_sync;
mod identity;
mod info;
mod inspect;
mod load;
mod map;
mod operations;
mod options;
mod placement;
mod reader;
mod recovery;
mod replica_file;
mod scanner;
mod startup;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unreadable;
mod volume;
mod writer;

pub use directory::DirectoryFindings;
pub use error::StoreError;
pub use geometry::Geometry;
pub use identity::{VolumeIdentity, read as read_identity};
pub use info::{
    CorruptReplica, Deleted, LocalReplicaFile, ReadPart, RecoveryInfo, ReplicaInfo, StartupReport,
    StoreCounters, VerifyOutcome, VolumeStatus,
};
pub use options::{CreateSpec, StoreIdentity, StoreOptions, VolumeSpec};
pub use reader::ReplicaReader;
pub use store::ReplicaStore;
pub use writer::ReplicaWriter;
