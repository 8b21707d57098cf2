//! What the store is told at start and per replica.

use hadal_types::{DatanodeUuid, NamespaceInfo, StorageUuid};
use std::path::PathBuf;

/// Sizes and bounds of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// Bytes of data per gathered write of a replica file, rounded down to whole units of the
    /// replica's [`crate::Geometry`]. Default 1008 KiB: with checksums or header just under 1 MiB, a size class of
    /// the buffer pool.
    pub group_bytes: u32,
    /// Gathered writes in flight per writer. Default 3.
    pub writes_in_flight: usize,
    /// Replicas up to this many bytes live in slots of shared extents; never more than
    /// `group_bytes`. 0 gives every replica its own file. Default 1008 KiB.
    pub small_bytes: u32,
    /// How often an open small replica may be flushed into a slot (each time copied whole) before it
    /// moves to a file of its own. Default 2.
    pub slot_flushes: u32,
    /// Bytes of one extent file. Default 64 MiB.
    pub extent_bytes: u64,
    /// Replica files are preallocated in steps of this many bytes. Default 32 MiB.
    pub allocate_step: u64,
    /// Bytes of each volume left to others.
    pub reserved_bytes: u64,
    /// Most bytes this store uses of each volume. Default: no bound.
    pub capacity_bytes: u64,
    /// Largest block accepted. Default 16 GiB.
    pub block_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            group_bytes: 1008 << 10,
            writes_in_flight: 3,
            small_bytes: 1008 << 10,
            slot_flushes: 2,
            extent_bytes: 64 << 20,
            allocate_step: 32 << 20,
            reserved_bytes: 0,
            capacity_bytes: u64::MAX,
            block_bytes_max: 16 << 30,
        }
    }
}

/// Whose data it is. A volume of another DataNode, cluster, block pool or layout is refused by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreIdentity {
    /// This DataNode.
    pub datanode: DatanodeUuid,
    /// Layout, namespace, cluster and block pool as the NameNode gave them.
    pub namespace: NamespaceInfo,
}

/// One data directory. A directory belongs to one store: a node with several shards gives each its own
/// subdirectory (and so its own storage) per disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeSpec {
    /// The directory; created when missing.
    pub dir: PathBuf,
    /// The storage uuid it gets if it is empty; the caller's random number.
    pub storage_if_new: StorageUuid,
}

/// How a new replica is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreateSpec {
    /// Bytes per checksum of this replica: the wire's. Default 4096.
    pub bytes_per_checksum: u32,
    /// How long it may get (the block size, or the length of the copy): reserved on the volume. A
    /// known small length also picks a small buffer.
    pub expected_length: u64,
    /// On this storage; otherwise the one with room whose turn it is.
    pub storage: Option<StorageUuid>,
}

impl Default for CreateSpec {
    fn default() -> Self {
        Self {
            bytes_per_checksum: 4096,
            expected_length: 0,
            storage: None,
        }
    }
}
