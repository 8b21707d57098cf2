//! What a client is told beforehand.

use hadal_datastream::{FailoverOptions, ReadFrom, ReplaceOptions};
use std::net::SocketAddr;

/// One NameNode: its node id (the name in its certificate) and where it listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamenodeAddress {
    /// Node id (`nn1`).
    pub name: String,
    /// Its QUIC address.
    pub address: SocketAddr,
}

/// Settings of a client; `Default`-like values come from [`ClientOptions::new`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// All NameNodes of the name service.
    pub namenodes: Vec<NamenodeAddress>,
    /// Retries and failover.
    pub failover: FailoverOptions,
    /// Which NameNodes answer reads of the namespace.
    pub read_from: ReadFrom,
    /// With reads from others than the active: an msync goes before a read when the last one is older than this (HDFS
    /// `dfs.client.failover.observer.auto-msync-period`); 0: before each; `None`: only before the first.
    pub auto_msync_ms: Option<u64>,
    /// Data bytes per packet of a block stream, up to 1 MiB.
    pub packet_bytes: u32,
    /// Unacknowledged bytes a block stream may have, at least one packet.
    pub write_window_bytes: usize,
    /// A block stream without an acknowledgement for this long has failed.
    pub stream_timeout_ms: u64,
    /// A DataNode that announces its restart is waited for this long, if it is the only one of its pipeline or on this
    /// client's host (HDFS `dfs.client.datanode-restart.timeout`).
    pub datanode_restart_timeout_ms: u64,
    /// Host name or address this client runs on, for writer-local placement and nearest reads.
    pub host: String,
    /// How long `close` asks for the last block's replicas before it gives up.
    pub close_timeout_ms: u64,
    /// Whether failed nodes of a pipeline are replaced by others.
    pub replacement: ReplaceOptions,
    /// Finished blocks must be durable on every node before they are acknowledged.
    pub sync_on_close: bool,
    /// A connection on which nothing arrives for this long is lost.
    pub connection_timeout_ms: u32,
    /// Most bytes of UDP payload per datagram, and what is begun with; `None`: as the path allows
    /// (`hadal_quic::TransportOptions`).
    pub mtu: Option<u16>,
    /// Blocks on this host are read from the DataNodes' files, where those allow it.
    pub local_reads: bool,
    /// Bugs planted by the simulator.
    pub planted: crate::Planted,
}

impl ClientOptions {
    /// Settings for a name service with these NameNodes (name, address).
    pub fn new<N: Into<String>>(namenodes: impl IntoIterator<Item = (N, SocketAddr)>) -> Self {
        Self {
            namenodes: namenodes
                .into_iter()
                .map(|(name, address)| NamenodeAddress {
                    name: name.into(),
                    address,
                })
                .collect(),
            failover: FailoverOptions::default(),
            read_from: ReadFrom::Active,
            auto_msync_ms: None,
            packet_bytes: 1 << 20,
            write_window_bytes: 8 << 20,
            stream_timeout_ms: 30_000,
            datanode_restart_timeout_ms: 30_000,
            host: String::new(),
            close_timeout_ms: 60_000,
            replacement: ReplaceOptions::default(),
            sync_on_close: true,
            connection_timeout_ms: 10_000,
            mtu: None,
            local_reads: true,
            planted: crate::Planted::default(),
        }
    }
}

/// How a file is created. `None` takes the cluster's default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateOptions {
    /// Permission bits (the umask is the caller's matter).
    pub permission: u16,
    /// Replace an existing file.
    pub overwrite: bool,
    /// Create missing directories above it.
    pub create_parent: bool,
    /// Copies.
    pub replication: Option<u16>,
    /// Bytes per block.
    pub block_size: Option<u64>,
    /// The first block comes with the answer to the create, which saves a call. For writers whose data follow at once: until
    /// then a reader cannot tell the file's length ([`crate::ClientError::LengthUnknown`]), and a writer that dies leaves
    /// a block to be looked for. Closing the file with nothing written gives it back, one more call.
    pub first_block: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            permission: 0o644,
            overwrite: false,
            create_parent: true,
            replication: None,
            block_size: None,
            first_block: false,
        }
    }
}

/// How a file is opened for append.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AppendOptions {
    /// Begin a new block even when the last one is not full.
    pub new_block: bool,
}

/// What `hsync` does besides making bytes durable (F-08).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncOptions {
    /// The NameNode records the length, so that a status shows it.
    pub update_length: bool,
    /// The block ends here; what follows goes into another one.
    pub end_block: bool,
}
