//! What a NameNode is told at start.

use hadal_blocks::BlockConfig;
use hadal_namesystem::NamesystemConfig;
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

/// The groups of a user: from the `cluster.groups` file, or else the operating system.
pub type GroupLookup = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// Settings of a NameNode.
#[derive(Clone)]
pub struct NamenodeConfig {
    /// Node id, the name in its certificate.
    pub name: String,
    /// Directory for identity and images.
    pub dir: PathBuf,
    /// All JournalNodes.
    pub journalnodes: Vec<JournalnodePeer>,
    /// Namespace settings; identity, name and software are filled in at start.
    pub namesystem: NamesystemConfig,
    /// Block settings.
    pub blocks: BlockConfig,
    /// Who is in which group.
    pub groups: GroupLookup,
    /// Batches of edits on their way to the JournalNodes; what comes meanwhile is one more batch (group commit).
    pub batches_in_flight: usize,
    /// Software version.
    pub software: String,
    /// Images kept.
    pub images_retained: usize,
}
