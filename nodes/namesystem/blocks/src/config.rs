//! Periods and limits of the block manager, with HDFS's defaults.

use hadal_types::{CURRENT_LAYOUT, LayoutVersion};

/// Everything about blocks and DataNodes an operator may set. Times in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// FINALIZED replicas a block needs before its file may close and before it counts as safe
    /// (`dfs.namenode.replication.min`, F-09).
    pub min_replication: u16,
    /// Replicas a block keeps on DataNodes that stay while others are in maintenance
    /// (`dfs.namenode.maintenance.replication.min`).
    pub maintenance_min_replication: u16,
    /// Most replicas a file may ask for (`dfs.replication.max`).
    pub max_replication: u16,
    /// DataNodes are asked to beat this often (`dfs.heartbeat.interval`).
    pub heartbeat_interval_ms: u64,
    /// Without a heartbeat for this long a DataNode is stale: used last (`dfs.namenode.stale.datanode.interval`).
    pub stale_interval_ms: u64,
    /// Without a heartbeat for this long a DataNode is dead: its replicas are dropped (HDFS: 2 x 5 min recheck + 10 x 3 s).
    pub dead_interval_ms: u64,
    /// How often replication work is handed out (`dfs.namenode.redundancy.interval.seconds`).
    pub replication_interval_ms: u64,
    /// A copy not reported after this long is tried again (`dfs.namenode.reconstruction.pending.timeout-sec`).
    pub pending_timeout_ms: u64,
    /// A deletion sent but not reported after this long is sent again (Q7).
    pub deletion_timeout_ms: u64,
    /// A block recovery not concluded after this long may be started again with another primary (T-L12, Q38).
    pub recovery_timeout_ms: u64,
    /// Blocks handed out for replication per live DataNode and interval (`...work.multiplier.per.iteration`).
    pub replication_work_multiplier: u32,
    /// A block of this length or longer takes a whole one of the transfers and of the blocks handed out below; shorter ones
    /// take their share, at least a sixteenth. HDFS counts blocks: a DataNode of small files takes hours
    /// to be copied at two blocks per heartbeat, on idle disks.
    pub whole_copy_bytes: u64,
    /// Transfers one DataNode may have under way (`dfs.namenode.replication.max-streams`).
    pub max_transfers: u32,
    /// The same for blocks of the highest priority (`...max-streams-hard-limit`).
    pub max_transfers_hard: u32,
    /// Deletions per heartbeat (`dfs.block.invalidate.limit`).
    pub invalidate_limit: usize,
    /// Blocks looked at per step of the scan that fills the replication queues (HDFS: 10,000).
    pub scan_batch: usize,
    /// Digest reports are compared; otherwise every one is answered by asking for a full report.
    pub digest_reports: bool,
    /// Reports admitted at a time (`dfs.namenode.max.full.block.report.leases`).
    pub report_slots: usize,
    /// A report slot not used for this long is given to another (`dfs.namenode.full.block.report.lease.length.ms`).
    pub report_slot_ms: u64,
    /// Reports queued for blocks whose edits have not been applied (F-01); past it the DataNode registers again.
    pub queued_reports_max: usize,
    /// Deletions kept per DataNode; past it the rest is found again by a full report.
    pub deletions_max: usize,
    /// Share of complete blocks that must be reported before safe mode ends (`dfs.namenode.safemode.threshold-pct`).
    pub safe_mode_threshold: f64,
    /// Live DataNodes needed before safe mode ends (`dfs.namenode.safemode.min.datanodes`).
    pub safe_mode_min_datanodes: u64,
    /// Wait after the threshold was reached (`dfs.namenode.safemode.extension`).
    pub safe_mode_extension_ms: u64,
    /// A DataNode with more streams than this factor times the average takes no new blocks
    /// (`dfs.namenode.redundancy.considerLoad.factor`).
    pub load_factor: f64,
    /// Replicas kept free in a storage beyond the block placed there; in units of the block size.
    pub min_free_blocks: u64,
    /// Oldest layout of a DataNode that may register (A-08, decision 6).
    pub oldest_layout: LayoutVersion,
    /// Newest layout of a DataNode that may register.
    pub newest_layout: LayoutVersion,
    /// Bugs planted by the simulator.
    pub planted: crate::Planted,
}

impl Default for BlockConfig {
    fn default() -> Self {
        Self {
            min_replication: 1,
            maintenance_min_replication: 1,
            max_replication: 512,
            heartbeat_interval_ms: 3_000,
            stale_interval_ms: 30_000,
            dead_interval_ms: 630_000,
            replication_interval_ms: 3_000,
            pending_timeout_ms: 300_000,
            deletion_timeout_ms: 60_000,
            recovery_timeout_ms: 30_000,
            replication_work_multiplier: 2,
            whole_copy_bytes: 64 << 20,
            max_transfers: 2,
            max_transfers_hard: 4,
            invalidate_limit: 1_000,
            scan_batch: 10_000,
            digest_reports: true,
            report_slots: 6,
            report_slot_ms: 300_000,
            queued_reports_max: 1_000_000,
            deletions_max: 4_000_000,
            safe_mode_threshold: 0.999,
            safe_mode_min_datanodes: 0,
            safe_mode_extension_ms: 30_000,
            load_factor: 2.0,
            min_free_blocks: 1,
            oldest_layout: CURRENT_LAYOUT,
            newest_layout: CURRENT_LAYOUT,
            planted: crate::Planted::default(),
        }
    }
}
