//! What can go wrong, as values a caller can act on.

use hadal_env::DiskError;
use hadal_types::{BlockId, GenerationStamp, ReplicaState, StorageUuid};
use std::path::PathBuf;

/// Why the replica store did not do it. The first group are the error kinds of the operation x state
/// matrix (behaviour 6.9, T-R1).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No replica of this block here.
    #[error("{id}: no replica of it on this DataNode")]
    NotFound {
        /// The block.
        id: BlockId,
    },
    /// The operation needs a FINALIZED replica (append).
    #[error("{id}: replica is {state}, the operation needs a FINALIZED one")]
    Unfinalized {
        /// The block.
        id: BlockId,
        /// Its state.
        state: ReplicaState,
    },
    /// The operation needs an RBW replica (recoverRbw).
    #[error("{id}: replica is {state}, the operation needs an RBW one")]
    NotRbw {
        /// The block.
        id: BlockId,
        /// Its state.
        state: ReplicaState,
    },
    /// The operation needs a FINALIZED or RBW replica (recoverAppend, recoverClose).
    #[error("{id}: replica is {state}, the operation needs a FINALIZED or RBW one")]
    UnfinalizedNonRbw {
        /// The block.
        id: BlockId,
        /// Its state.
        state: ReplicaState,
    },
    /// The operation needs a TEMPORARY replica.
    #[error("{id}: replica is {state}, the operation needs a TEMPORARY one")]
    NotTemporary {
        /// The block.
        id: BlockId,
        /// Its state.
        state: ReplicaState,
    },
    /// The operation needs a replica under recovery (RUR).
    #[error("{id}: replica is {state}, the operation needs one under recovery")]
    NotUnderRecovery {
        /// The block.
        id: BlockId,
        /// Its state.
        state: ReplicaState,
    },
    /// A TEMPORARY replica takes no part in block recovery (E-11).
    #[error("{id}: a TEMPORARY replica takes no part in block recovery")]
    NotRecoverable {
        /// The block.
        id: BlockId,
    },
    /// A replica of this block is here already.
    #[error("{id}: a replica in state {state} with generation stamp {stamp} exists already")]
    AlreadyExists {
        /// The block.
        id: BlockId,
        /// State of the one that is here.
        state: ReplicaState,
        /// Its generation stamp.
        stamp: GenerationStamp,
    },
    /// The replica's generation stamp does not fit the request (E-17).
    #[error("{id}: generation stamp here is {here}, the request needs {wanted}")]
    StaleStamp {
        /// The block.
        id: BlockId,
        /// Stamp of the replica.
        here: GenerationStamp,
        /// Stamp the request named (or the least it accepts).
        wanted: GenerationStamp,
    },
    /// The replica's length does not fit the request.
    #[error("{id}: {here} bytes here, the request needs {wanted}")]
    WrongLength {
        /// The block.
        id: BlockId,
        /// Bytes here.
        here: u64,
        /// Bytes the request named (or the bound it broke).
        wanted: u64,
    },
    /// A recovery with the same or a higher id is running (T-R5).
    #[error("{id}: recovery {running} is in progress, recovery {asked} is not newer")]
    RecoveryInProgress {
        /// The block.
        id: BlockId,
        /// The recovery that runs.
        running: GenerationStamp,
        /// The one asked for.
        asked: GenerationStamp,
    },
    /// The update names another recovery than the one that runs.
    #[error("{id}: recovery {running} is in progress, the update names {asked}")]
    WrongRecovery {
        /// The block.
        id: BlockId,
        /// The recovery that runs.
        running: GenerationStamp,
        /// The one named.
        asked: GenerationStamp,
    },
    /// Readers may not see a replica in this state (E-10, E-12).
    #[error("{id}: replica is {state} and not readable")]
    NotReadable {
        /// The block.
        id: BlockId,
        /// Its state.
        state: ReplicaState,
    },
    /// Another operation took the replica over (recovery, pipeline recovery, deletion): this writer is stopped.
    #[error("{id}: another operation took the replica over; this writer is stopped")]
    Fenced {
        /// The block.
        id: BlockId,
    },
    /// No volume has this much room.
    #[error("no volume has {wanted} bytes left; free space or add a volume")]
    OutOfSpace {
        /// Bytes needed.
        wanted: u64,
    },
    /// Received bytes do not match the checksum that came with them; nothing of the chunk was taken.
    #[error(
        "{id}: chunk {chunk} does not match its checksum (expected {expected:08x}, computed {computed:08x})"
    )]
    ChecksumMismatch {
        /// The block.
        id: BlockId,
        /// Chunk index in the block.
        chunk: u64,
        /// From the wire.
        expected: u32,
        /// From the bytes.
        computed: u32,
    },
    /// A packet does not continue the replica.
    #[error("{id}: packet at {offset} does not continue a replica of {length} bytes")]
    Gap {
        /// The block.
        id: BlockId,
        /// Offset of the packet.
        offset: u64,
        /// Bytes received so far.
        length: u64,
    },
    /// The number of checksums does not fit the data.
    #[error("{id}: {given} bytes of checksums, {needed} needed")]
    ChecksumCount {
        /// The block.
        id: BlockId,
        /// Bytes of checksums given.
        given: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// A block longer than the store accepts.
    #[error("{id}: {length} bytes exceed the largest block of {max}")]
    TooLong {
        /// The block.
        id: BlockId,
        /// Length asked for.
        length: u64,
        /// Most accepted.
        max: u64,
    },
    /// This chunk size cannot be laid out (see `Geometry`).
    #[error(
        "bytes per checksum {0} is not supported: 64 to 65536 whose common multiple with 4096 is at most 131072"
    )]
    BadChunkSize(u32),
    /// The range does not lie in the readable part of the replica.
    #[error("{id}: range {offset}+{length} is outside the {visible} readable bytes")]
    OutOfRange {
        /// The block.
        id: BlockId,
        /// Start asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Bytes readable.
        visible: u64,
    },
    /// Stored bytes do not match their checksum, or the replica's own records are damaged.
    #[error("{id}: stored replica is corrupt: {what}")]
    Corrupt {
        /// The block.
        id: BlockId,
        /// What was found.
        what: &'static str,
    },
    /// The volume failed earlier; final until the process restarts with a good one.
    #[error("volume {} failed: {reason}", .dir.display())]
    VolumeFailed {
        /// Its directory.
        dir: PathBuf,
        /// The first failure.
        reason: String,
    },
    /// No volume is usable.
    #[error("no usable volume")]
    NoVolume,
    /// The store knows no such storage.
    #[error("no storage {0} here")]
    NoStorage(StorageUuid),
    /// The volume's identity file names something else.
    #[error("{}: its VERSION says {field} {found}, this DataNode has {expected}; give it a directory of its own", .dir.display())]
    WrongIdentity {
        /// The directory.
        dir: PathBuf,
        /// Which value.
        field: &'static str,
        /// What the file says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The identity file is damaged.
    #[error("{}: damaged ({what}); restore it or empty the directory", .path.display())]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
