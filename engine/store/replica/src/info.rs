//! What the store tells about replicas and volumes.

use crate::{Geometry, StoreError};
use hadal_types::{Block, BlockId, GenerationStamp, ReplicaState, StorageUuid};
use std::path::PathBuf;

/// One replica as the map knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaInfo {
    /// Id, generation stamp and length (bytes received, for an open one).
    pub block: Block,
    /// Its state.
    pub state: ReplicaState,
    /// Its state; of one under recovery (RUR) the one before.
    pub original_state: ReplicaState,
    /// Where it is.
    pub storage: StorageUuid,
    /// Which replica of the block: a block copied here again is another instance.
    pub instance: u64,
    /// Bytes whose write the kernel completed (hflushed).
    pub bytes_on_disk: u64,
    /// Bytes acknowledged by all nodes downstream ([`crate::ReplicaWriter::set_visible_length`]).
    pub bytes_acked: u64,
    /// Bytes known durable (hsynced).
    pub bytes_durable: u64,
    /// Bytes a reader may see.
    pub visible_length: u64,
    /// Bytes per checksum.
    pub bytes_per_checksum: u32,
}

/// What a replica says at the start of its recovery (E-18, T-R5): the state it had before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveryInfo {
    /// Id, stamp and bytes on disk.
    pub block: Block,
    /// State before the recovery.
    pub original_state: ReplicaState,
}

/// A deletion that was accepted: the replica is out of the map, durably renamed or its slot detached.
/// Its bytes go with [`crate::ReplicaStore::collect`], or at the next start.
#[derive(Debug)]
#[must_use = "the bytes stay until the token is given to ReplicaStore::collect"]
pub struct Deleted {
    /// What was deleted.
    pub block: Block,
    /// State it had.
    pub state: ReplicaState,
    /// Where it was.
    pub storage: StorageUuid,
    /// Which instance.
    pub instance: u64,
    /// Bytes that come free.
    pub bytes: u64,
    pub(crate) path: Option<PathBuf>,
}

/// A volume in the heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeStatus {
    /// Its storage.
    pub storage: StorageUuid,
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes in all, less the reserve.
    pub capacity: u64,
    /// Bytes in use by replicas.
    pub used: u64,
    /// Bytes that can still be written: available, less the reserve and what open replicas reserved;
    /// plus free slots.
    pub remaining: u64,
    /// Bytes open replicas have reserved and not yet allocated.
    pub reserved: u64,
    /// Replicas on it.
    pub replicas: usize,
    /// Why it failed, if it did. Final.
    pub failed: Option<String>,
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct StartupReport {
    /// Volumes that could not be used, and why.
    pub failed: Vec<(PathBuf, StoreError)>,
    /// FINALIZED replicas.
    pub finalized: usize,
    /// RBW replicas that became RWR.
    pub waiting: usize,
    /// Leftovers removed: TEMPORARY replicas, deleted ones, creations nobody was told of, losers of an
    /// interrupted change.
    pub removed: usize,
    /// Damaged replicas: out of the map, files kept under another name; report them as bad blocks.
    pub corrupt: Vec<CorruptReplica>,
    /// Slots whose header cannot be read and whose block is therefore unknown.
    pub damaged_slots: usize,
    /// Extents with the byte offset of a slot in them whose header the device does not give: nothing is known of what is
    /// in it. It is left as it is, and out of use until the next start.
    pub unreadable_slots: Vec<(PathBuf, u64)>,
    /// Files in the data directories that the store does not know; left alone.
    pub foreign: Vec<PathBuf>,
}

/// A replica found damaged at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorruptReplica {
    /// The block.
    pub id: BlockId,
    /// Its stamp and length, when they are known.
    pub known: Option<(GenerationStamp, u64)>,
    /// The storage.
    pub storage: StorageUuid,
    /// Where the bytes were put, if they were kept.
    pub kept: Option<PathBuf>,
    /// What was found.
    pub what: &'static str,
}

/// Outcome of reading a whole replica against its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyOutcome {
    /// Every chunk matches; this many bytes were read.
    Ok {
        /// Bytes read.
        bytes: u64,
    },
    /// This chunk does not match (or cannot be read): report the replica as bad.
    Corrupt {
        /// Index of the chunk.
        chunk: u64,
    },
    /// Not here any more, or changed while it was read: nothing is wrong.
    Gone,
}

/// Bytes of one part of a replica, from the DMA buffer they were read into.
#[derive(Clone, Debug)]
pub struct ReadPart {
    /// Offset in the block: a multiple of bytes per checksum.
    pub offset: u64,
    /// The bytes; whole chunks, except for the replica's (or visible part's) last one.
    pub data: bytes::Bytes,
    /// One CRC32C per chunk, little-endian `u32`s.
    pub checksums: bytes::Bytes,
}

/// Counters since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCounters {
    /// Payload bytes copied by the store (into aligned buffers).
    pub bytes_copied: u64,
    /// Payload bytes taken from writers. `bytes_copied / bytes_stored` is 1.0 on the plain path.
    pub bytes_stored: u64,
    /// Payload bytes handed to readers.
    pub bytes_read: u64,
    /// Device flushes of extents and files.
    pub syncs: u64,
    /// Directory flushes.
    pub dir_syncs: u64,
    /// Files created.
    pub files_created: u64,
    /// Replicas finalised into slots.
    pub slots_finalized: u64,
}

/// A finished replica's file, as [`crate::ReplicaStore::local_file`] gives it to readers on this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalReplicaFile {
    /// Where it is now.
    pub path: PathBuf,
    /// Id, stamp, length.
    pub block: Block,
    /// How it is laid out.
    pub geometry: Geometry,
    /// Bytes of the block in complete units, in place.
    pub whole: u64,
    /// File offset of the record with the bytes behind them.
    pub tail: u64,
}
