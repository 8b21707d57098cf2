//! What a DataNode is told at start.

use hadal_blockpool::{ActorConfig, ScannerConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use store_replica::StoreOptions;

/// A NameNode to serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamenodePeer {
    /// Node id, the name in its certificate.
    pub name: String,
    /// Its QUIC address.
    pub address: SocketAddr,
}

/// Reads the list of NameNodes again, for `dfsadmin -refreshNamenodes`; the error names what is wrong with the
/// configuration.
pub type NamenodeList = std::rc::Rc<dyn Fn() -> Result<Vec<NamenodePeer>, String>>;

/// Settings of a DataNode.
#[derive(Clone, Debug)]
pub struct DatanodeConfig {
    /// Node id, the name in its certificate.
    pub name: String,
    /// Data directories, one storage each.
    pub dirs: Vec<PathBuf>,
    /// Address of shard 0 that others dial.
    pub address: String,
    /// Address of the HTTP door, empty without.
    pub http_address: String,
    /// Rack, `/default-rack` unless configured.
    pub rack: String,
    /// All NameNodes of the name service.
    pub namenodes: Vec<NamenodePeer>,
    /// Periods and bounds of the reports.
    pub actor: ActorConfig,
    /// The replica store.
    pub store: StoreOptions,
    /// How replicas at rest are looked after.
    pub scanner: ScannerConfig,
    /// Volumes that may fail before the process ends (HDFS `dfs.datanode.failed.volumes.tolerated`, default 0). The
    /// last one never may.
    pub failed_volumes_tolerated: u32,
    /// A block stream without a frame, or a next node without an acknowledgement, for this long has failed.
    pub stream_timeout_ms: u64,
    /// Open block streams (writes, reads, copies) at once; more are refused (HDFS
    /// `dfs.datanode.max.transfer.threads`).
    pub streams_max: u32,
    /// After an announced restart open replicas go on as they were when it took no longer than this.
    pub restart_replica_expiration_ms: u64,
    /// A write or flush of its disk that takes longer makes this node call itself slow (T-P12); 0: never.
    pub slow_write_ms: u64,
    /// Bytes per second spent on balancing until a NameNode says otherwise; at least 1.
    pub balance_bytes_per_s: u64,
    /// Copies for the balancer at once, as source or target; more are refused.
    pub balance_moves_max: u32,
    /// Software version, for `-report`.
    pub software: String,
}
