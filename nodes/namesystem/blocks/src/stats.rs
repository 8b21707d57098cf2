//! Safe mode by hand, counts and lists.

use crate::decommission::Service;
use crate::partition::Partition;
use crate::{BlockManager, BlockStats, StoredBlock};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::admin::{DatanodeStatus, NamenodeStats};
use hadal_proto::client::FsStats;
use hadal_types::{BlockId, BlockState, InodeId, Tick, mix, partition_of};

/// Examples in the safe mode message.
const EXAMPLES: usize = 5;

/// One block.
impl BlockManager {
    /// What is known of a block.
    #[must_use]
    pub fn stored(&self, block: BlockId) -> Option<StoredBlock> {
        stored(&self.partitions[partition_of(block)], mix(block))
    }

    /// COMPLETE.
    #[must_use]
    pub fn is_complete(&self, block: BlockId) -> bool {
        self.stored(block)
            .is_some_and(|stored| stored.state == BlockState::Complete)
    }

    /// Minimal replication of FINALIZED replicas with the block's final stamp and length is reported (F-09). Of a
    /// block that is not at least COMMITTED: no.
    #[must_use]
    pub fn is_min_replicated(&self, block: BlockId) -> bool {
        self.stored(block)
            .is_some_and(|stored| stored.live >= self.config.min_replication)
    }
}

fn stored(partition: &Partition, key: u64) -> Option<StoredBlock> {
    let entry = partition.table.get(key)?;
    Some(StoredBlock {
        block: entry.block(),
        inode: entry.inode(),
        replication: entry.replication,
        state: entry.state(),
        live: u16::try_from(partition.live(entry)).unwrap_or(u16::MAX),
    })
}

/// Safe mode (F-03).
impl BlockManager {
    /// Start-up or manual safe mode is on.
    #[must_use]
    pub fn in_safe_mode(&self) -> bool {
        self.safe_mode.is_on()
    }

    /// Safe mode is on, and ends by itself once enough is reported.
    #[must_use]
    pub fn safe_mode_ends_by_itself(&self) -> bool {
        self.safe_mode.ends_by_itself()
    }

    /// Why it is on, in HDFS's words, with examples of blocks that are missing (Q9); empty when it is off.
    #[must_use]
    pub fn safe_mode_message(&self) -> String {
        if !self.safe_mode.is_on() {
            return String::new();
        }
        let mut missing: Vec<(BlockId, InodeId)> = Vec::new();
        for partition in &self.partitions {
            let room = EXAMPLES - missing.len();
            missing.extend(partition.unsafe_blocks(room, self.config.min_replication));
            if missing.len() >= EXAMPLES {
                break;
            }
        }
        let mut examples = String::new();
        if !missing.is_empty() {
            let list: Vec<String> = missing
                .iter()
                .map(|(block, inode)| format!("{block} (inode {inode})"))
                .collect();
            examples = format!("Not reported, for example: {}. ", list.join(", "));
        }
        let silent = self.unreported();
        if silent > 0 {
            examples += &format!("{silent} storages of live datanodes have not reported yet. ");
        }
        let dead = self.dead_nodes();
        if !dead.is_empty() {
            examples += &format!("Dead datanodes: {}. ", dead.join(", "));
        }
        self.safe_mode
            .message(self.now, self.progress(), &self.config, &examples)
    }

    /// Turns it on by hand; only [`Self::leave_safe_mode`] ends it then.
    pub fn enter_safe_mode(&mut self, now: Tick) {
        self.advance(now);
        self.safe_mode.enter();
        self.scan = None;
    }

    /// Turns it off, whatever is missing.
    pub fn leave_safe_mode(&mut self, now: Tick) {
        self.advance(now);
        if self.safe_mode.is_on() {
            self.safe_mode.leave();
            self.populate();
        }
    }
}

/// Counts and lists.
impl BlockManager {
    /// Whether "missing" and "under-replicated" mean anything yet (T-H19, T-H20).
    fn judges(&self) -> bool {
        self.is_active() && !self.safe_mode.is_startup()
    }

    /// Counts over all partitions and DataNodes.
    #[must_use]
    pub fn stats(&self) -> BlockStats {
        let sum =
            |of: fn(&Partition) -> usize| self.partitions.iter().map(|p| of(p) as u64).sum::<u64>();
        let judged = |count: u64| if self.judges() { count } else { 0 };
        let live = self.nodes.alive.iter().map(|node| self.nodes.node(*node));
        BlockStats {
            blocks: sum(|p| p.table.len()),
            complete: self.totals.complete,
            safe: self.totals.safe,
            under_replicated: judged(self.totals.under),
            missing: judged(self.totals.missing),
            corrupt: sum(|p| p.corrupt.len()),
            pending_replication: sum(|p| p.pending.len()),
            postponed: sum(|p| p.postponed.len()),
            pending_deletion: live.clone().map(|node| node.deletions.len() as u64).sum(),
            queued_reports: self.queued,
            future: self.future,
            live_datanodes: self.nodes.alive.len() as u64,
            stale_datanodes: live.clone().filter(|node| node.stale).count() as u64,
            dead_datanodes: self.dead_nodes().len() as u64,
            unreported_storages: self.unreported(),
            content_stale_storages: self.content_stale(),
        }
    }

    /// Storages of live DataNodes that have not reported since this NameNode became active.
    fn content_stale(&self) -> u64 {
        let live = self.nodes.alive.iter().map(|node| self.nodes.node(*node));
        let storages = live.flat_map(|node| &node.storages);
        storages
            .map(|storage| self.nodes.storage(*storage))
            .filter(|storage| storage.content_stale && !storage.gone)
            .count() as u64
    }

    /// DataNodes alive.
    #[must_use]
    pub fn live_datanodes(&self) -> u64 {
        self.nodes.alive.len() as u64
    }

    /// Whether every DataNode that ever registered here, but for those that were decommissioned, is alive and has fully
    /// reported, and there is one: a block nobody reported is then nowhere that this NameNode knows of. Not while they
    /// still come: what kept one of them from registering until now may have kept others (seed 620 of `cluster`, ten
    /// minutes: a NameNode that was cut off heard of the first of four and dropped a block that two others had). And not
    /// before each has reported to the active: what they had told a standby may lack the replicas of the last moment, whose
    /// reports it did not take (seed 434: it was just leaving the role, and got it back).
    #[must_use]
    pub fn has_heard_all(&self) -> bool {
        let mut dead = self.nodes.nodes.iter().filter(|node| !node.alive);
        !self.nodes.alive.is_empty()
            && self.unreported() == 0
            && self.content_stale() == 0
            && self.now.ms_since(self.nodes.entered_at) >= self.config.dead_interval_ms
            && dead.all(|node| node.service == Service::Decommissioned)
    }

    /// How long a DataNode may be silent before it counts as dead, in milliseconds.
    #[must_use]
    pub fn dead_interval_ms(&self) -> u64 {
        self.config.dead_interval_ms
    }

    fn dead_nodes(&self) -> Vec<&str> {
        let known = |at: &usize| {
            !self.nodes.nodes[*at].alive && self.nodes.is_known(u32::try_from(*at).unwrap_or(0))
        };
        (0..self.nodes.nodes.len())
            .filter(known)
            .map(|at| self.nodes.nodes[at].name.as_str())
            .collect()
    }

    /// The cluster in numbers, bytes of live DataNodes; `inodes` is the caller's to fill.
    #[must_use]
    pub fn fs_stats(&self) -> FsStats {
        let counts = self.stats();
        let mut stats = FsStats {
            under_replicated: counts.under_replicated,
            corrupt_blocks: counts.corrupt,
            missing_blocks: counts.missing,
            blocks: counts.blocks,
            map_bytes: self.map_bytes(),
            ..FsStats::default()
        };
        for storage in &self.nodes.storages {
            if self.nodes.node(storage.node).alive && !storage.gone {
                stats.capacity = stats.capacity.saturating_add(storage.report.capacity);
                stats.used = stats.used.saturating_add(storage.report.pool_used);
                stats.remaining = stats.remaining.saturating_add(storage.report.remaining);
            }
        }
        stats
    }

    /// Fills the fields of `NamenodeStats` that are about blocks, DataNodes, safe mode and epoch.
    pub fn fill_namenode_stats(&self, stats: &mut NamenodeStats) {
        let counts = self.stats();
        stats.epoch = self.epoch;
        stats.safe_mode = self.in_safe_mode();
        stats.safe_blocks = counts.safe;
        stats.total_blocks = counts.complete;
        stats.under_replicated = counts.under_replicated;
        stats.corrupt = counts.corrupt;
        stats.missing = counts.missing;
        stats.pending_replication = counts.pending_replication;
        stats.postponed = counts.postponed;
        stats.pending_deletion = counts.pending_deletion;
        stats.pending_datanode_messages = counts.queued_reports;
        stats.live_datanodes = counts.live_datanodes;
    }

    /// DataNodes in detail, by name; dead ones included.
    #[must_use]
    pub fn datanode_report(&self, now: Tick) -> Vec<DatanodeStatus> {
        let mut report: Vec<DatanodeStatus> = (0..self.nodes.nodes.len() as u32)
            .filter(|node| self.nodes.is_known(*node))
            .map(|at| {
                let node = self.nodes.node(at);
                let state = match (node.alive, node.service) {
                    (false, Service::InMaintenance { .. }) => "dead in maintenance",
                    (false, _) => "dead",
                    (_, Service::Decommissioned) => "decommissioned",
                    (_, Service::Decommissioning { .. }) => "decommissioning",
                    (_, Service::InMaintenance { .. }) => "in maintenance",
                    (_, Service::EnteringMaintenance { .. }) => "entering maintenance",
                    _ if node.stale => "stale",
                    _ => "live",
                };
                let storages = node.storages.iter();
                DatanodeStatus {
                    uuid: node.uuid,
                    name: node.name.clone(),
                    address: node.address.clone(),
                    http_address: node.http_address.clone(),
                    rack: self.nodes.racks[node.rack as usize].clone(),
                    state: String::from(state),
                    last_contact_ms: now.ms_since(node.last_heartbeat),
                    streams: node.streams,
                    failed_volumes: node.failed_volumes,
                    // Volumes taken out are not shown; failed ones are, and what a dead one had.
                    storages: storages
                        .filter(|storage| {
                            let storage = self.nodes.storage(**storage);
                            !node.alive || !storage.gone || storage.report.failed
                        })
                        .map(|storage| self.nodes.storage(*storage).report.clone())
                        .collect(),
                    software: node.software.clone(),
                    held_up: Vec::new(),
                    shards: node.shards,
                }
            })
            .collect();
        report.sort_by(|a, b| a.name.cmp(&b.name));
        report
    }

    /// Blocks waiting for copies, worst first, at most `limit`.
    #[must_use]
    pub fn under_replicated(&self, limit: usize) -> Vec<StoredBlock> {
        (0..crate::redundancy::LEVELS)
            .flat_map(|level| {
                self.partitions
                    .iter()
                    .flat_map(move |p| p.levels.0[level].iter().filter_map(|key| stored(p, *key)))
            })
            .take(limit)
            .collect()
    }

    /// Blocks with a corrupt replica, at most `limit`.
    #[must_use]
    pub fn corrupt(&self, limit: usize) -> Vec<StoredBlock> {
        self.partitions
            .iter()
            .flat_map(|p| p.corrupt.keys().filter_map(|key| stored(p, *key)))
            .take(limit)
            .collect()
    }

    /// COMPLETE blocks without a live replica that come after `after` in the map's order (`None`: from the start), at
    /// most `limit`. Costs a pass over the partitions that have some.
    #[must_use]
    pub fn missing(&self, after: Option<BlockId>, limit: usize) -> Vec<StoredBlock> {
        let (first, after) = after.map_or((0, 0), |id| (partition_of(id), mix(id)));
        if !self.judges() {
            return Vec::new();
        }
        self.partitions[first..]
            .iter()
            .filter(|p| p.counters.missing > 0)
            .flat_map(|p| {
                let entries = p.table.iter();
                entries
                    .filter(move |entry| after == 0 || entry.key > after)
                    .filter(|entry| entry.is_complete() && p.live(entry) == 0)
                    .filter_map(|entry| stored(p, entry.key))
            })
            .take(limit)
            .collect()
    }

    /// Bytes the block map takes, spare room included, for the published memory figure (Q45): tables, digests, and what
    /// an image remembers. Side tables of the few (corrupt, excess, pending replicas) are not counted.
    #[must_use]
    pub fn map_bytes(&self) -> u64 {
        self.partitions
            .iter()
            .map(|p| {
                (p.table.allocated() + p.digests.allocated() + p.remembered.allocated()) as u64
            })
            .sum()
    }
}
