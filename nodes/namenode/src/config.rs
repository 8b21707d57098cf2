//! What a NameNode is told at start.

use hadal_blocks::{BlockConfig, HostLists};
use hadal_namesystem::{CheckpointConfig, NamesystemConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A JournalNode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalnodePeer {
    /// Node id, the name in its certificate.
    pub name: String,
    /// Its QUIC address.
    pub address: SocketAddr,
}

/// Another NameNode of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamenodePeer {
    /// Node id, the name in its certificate.
    pub name: String,
    /// Its QUIC address.
    pub address: SocketAddr,
}

/// The groups of a user: from the `cluster.groups` file, or else the operating system.
pub type GroupLookup = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// Who is active, and for how long without a word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HaSettings {
    /// Stand for election without an operator (`ha.automatic`).
    pub automatic: bool,
    /// How long a lease lasts, as the JournalNodes count it.
    pub lease_ttl_ms: u32,
    /// Between two renewals.
    pub renew_interval_ms: u64,
    /// While in safe mode it does not become active (T-H23). Not for one that serves alone.
    pub not_become_active_in_safe_mode: bool,
}

impl Default for HaSettings {
    fn default() -> Self {
        Self {
            automatic: true,
            lease_ttl_ms: 600,
            renew_interval_ms: 150,
            not_become_active_in_safe_mode: false,
        }
    }
}

/// Reads the include and exclude lists again; what is wrong with them as text.
pub type HostLookup = Arc<dyn Fn() -> Result<HostLists, String> + Send + Sync>;

/// Settings of a NameNode.
#[derive(Clone)]
pub struct NamenodeConfig {
    /// Node id, the name in its certificate.
    pub name: String,
    /// Directory for identity and images.
    pub dir: PathBuf,
    /// All JournalNodes.
    pub journalnodes: Vec<JournalnodePeer>,
    /// The directory all NameNodes share for their edits, in place of JournalNodes (`cluster.shared_edits_dir`); then only
    /// operators move the active role.
    pub shared_edits_dir: Option<PathBuf>,
    /// The other NameNodes; empty for one that serves alone.
    pub peers: Vec<NamenodePeer>,
    /// The election.
    pub ha: HaSettings,
    /// Namespace settings; identity, name and software are filled in at start.
    pub namesystem: NamesystemConfig,
    /// Block settings.
    pub blocks: BlockConfig,
    /// Who is in which group.
    pub groups: GroupLookup,
    /// Which DataNodes may register and which are decommissioned: asked at start and at `-refreshNodes`.
    pub hosts: HostLookup,
    /// Batches of edits on their way to the JournalNodes; what comes meanwhile is one more batch (group commit).
    pub batches_in_flight: usize,
    /// Software version.
    pub software: String,
    /// Images kept.
    pub images_retained: usize,
    /// Edits kept in the journal below the oldest kept image (HDFS: 1 000 000).
    pub extra_edits_retained: u64,
    /// Bugs the simulator plants in the journal writer.
    pub planted: hadal_qjournal::Planted,
    /// And in the lease of the active role.
    pub election_planted: hadal_failover::Planted,
    /// When a standby makes images.
    pub checkpoint: CheckpointConfig,
    /// Most bytes per second of one image that a standby writes or a node sends to another; 0 for no limit.
    pub image_bytes_per_second: u64,
}
