//! What an operator may set about the namespace, with HDFS's defaults.

use alloc::string::String;
use alloc::string::ToString;
use hadal_types::NamespaceInfo;

/// Settings of a namespace. Bounds that decide what an edit does (the retry cache's) must be the same on all
/// NameNodes of a pair; everything else only decides which edits are made.
#[derive(Clone, Debug)]
pub struct NamesystemConfig {
    /// This NameNode's id (`nn1`).
    pub name: String,
    /// Software version, for status answers.
    pub software: String,
    /// Identity of the namespace, from format.
    pub info: NamespaceInfo,
    /// No other NameNode is configured: reads go on while no majority of JournalNodes answers (protocols.md section
    /// 2), for which a copy-on-write snapshot of a committed state is kept.
    pub alone: bool,
    /// Owner of the root directory at format (`cluster.superuser`).
    pub superuser: String,
    /// Group of the root directory at format (`dfs.permissions.superusergroup`).
    pub supergroup: String,
    /// Whether permissions are checked at all (`dfs.permissions.enabled`).
    pub permissions_enabled: bool,
    /// Lease soft limit in ms (E-04): after it another client may take over.
    pub lease_soft_limit_ms: u64,
    /// Lease hard limit in ms (E-04): after it the NameNode closes the file.
    pub lease_hard_limit_ms: u64,
    /// Period of the lease monitor in ms (E-05).
    pub lease_check_ms: u64,
    /// Leases the monitor starts to recover per period, so that a mass expiry does not stall the NameNode.
    pub lease_checks_max: usize,
    /// How long an outcome stays in the retry cache, in ms of edit time (F-06).
    pub retry_cache_ms: u64,
    /// Most outcomes in the retry cache; beyond, the oldest goes first. Part of what edits mean.
    pub retry_cache_max: usize,
    /// Most replies parked behind the commit barrier; beyond, `Busy`.
    pub parked_max: usize,
    /// How long a standby or observer lets a read wait for edits its client has seen, before it sends it to the active.
    pub standby_read_wait_ms: u64,
    /// Most reads that wait so; beyond, they go to the active.
    pub standby_reads_max: usize,
    /// Fewest bytes per block (`dfs.namenode.fs-limits.min-block-size`).
    pub min_block_size: u64,
    /// Most bytes per block.
    pub max_block_size: u64,
    /// Most blocks in a file (`dfs.namenode.fs-limits.max-blocks-per-file`).
    pub max_blocks_per_file: usize,
    /// Fewest copies a file may ask for (`dfs.namenode.replication.min`).
    pub min_replication: u16,
    /// Most copies a file may ask for (`dfs.replication.max`).
    pub max_replication: u16,
    /// Most entries per listing page (`dfs.ls.limit`).
    pub listing_limit: u32,
    /// Default bytes per block of new files.
    pub block_size: u64,
    /// Default data bytes per checksum.
    pub bytes_per_checksum: u32,
    /// Default data bytes per packet.
    pub packet_size: u32,
    /// Default copies of new files.
    pub replication: u16,
    /// Bugs planted by the simulator.
    pub planted: crate::Planted,
}

impl Default for NamesystemConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            software: String::new(),
            info: NamespaceInfo::default(),
            alone: false,
            superuser: "hdfs".to_string(),
            supergroup: "supergroup".to_string(),
            permissions_enabled: true,
            lease_soft_limit_ms: 60_000,
            lease_hard_limit_ms: 3_600_000,
            lease_check_ms: 2_000,
            lease_checks_max: 1_000,
            retry_cache_ms: 600_000,
            retry_cache_max: 2_000_000,
            parked_max: 65_536,
            standby_read_wait_ms: 500,
            standby_reads_max: 4_096,
            min_block_size: 1 << 20,
            max_block_size: 1 << 40,
            max_blocks_per_file: 10_000,
            min_replication: 1,
            max_replication: 512,
            listing_limit: 1_000,
            block_size: 128 << 20,
            bytes_per_checksum: 4_096,
            packet_size: 64 << 10,
            replication: 3,
            planted: crate::Planted::default(),
        }
    }
}
