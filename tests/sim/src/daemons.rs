//! Names, addresses and settings of simulated daemons, and the smallest cluster of them: one JournalNode, one NameNode,
//! some DataNodes. Whoever simulates daemons begins with these settings and changes what its scenario is about.

use hadal_blockpool::{ActorConfig, ScannerConfig};
use hadal_blocks::BlockConfig;
use hadal_client::{CreateOptions, DistributedFileSystem};
use hadal_datanode::{DatanodeConfig, NamenodePeer};
use hadal_env::Env;
use hadal_journalnode::JournalnodeConfig;
use hadal_namenode::{
    FormatError, FormatOptions, HaSettings, JournalnodePeer, NamenodeConfig, RunError,
};
use hadal_namesystem::{CheckpointConfig, NamesystemConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use store_replica::StoreOptions;

/// User who may do everything.
pub const SUPERUSER: &str = "hdfs";
/// Where a NameNode keeps identity and images.
pub const NAMENODE_DIR: &str = "/name";

fn host(net: u8, index: usize, port: u16) -> SocketAddr {
    let host = u8::try_from(index + 1).expect("few nodes");
    SocketAddr::from(([10, 0, net, host], port))
}

/// Where a JournalNode listens.
#[must_use]
pub fn journalnode_address(index: usize) -> SocketAddr {
    host(0, index, 8485)
}

/// Where a NameNode listens.
#[must_use]
pub fn namenode_address(index: usize) -> SocketAddr {
    host(1, index, 8020)
}

/// Where a DataNode listens.
#[must_use]
pub fn datanode_address(index: usize) -> SocketAddr {
    host(2, index, 9866)
}

/// Id of a JournalNode.
#[must_use]
pub fn journalnode_name(index: usize) -> String {
    format!("jn{}", index + 1)
}

/// Id of a NameNode.
#[must_use]
pub fn namenode_name(index: usize) -> String {
    format!("nn{}", index + 1)
}

/// Id of a DataNode.
#[must_use]
pub fn datanode_name(index: usize) -> String {
    format!("dn{}", index + 1)
}

/// One of that many JournalNodes, with its data in `/journal`.
#[must_use]
pub fn journalnode_config(index: usize, journalnodes: usize) -> JournalnodeConfig {
    let peers = (0..journalnodes).filter(|peer| *peer != index);
    let peers = peers.map(|peer| (journalnode_name(peer), journalnode_address(peer)));
    JournalnodeConfig::new(journalnode_name(index), "/journal".into(), peers.collect())
}

/// One of that many NameNodes, with its data in [`NAMENODE_DIR`]: it notices dead DataNodes in seconds and takes small blocks.
#[must_use]
pub fn namenode_config(index: usize, namenodes: usize, journalnodes: usize) -> NamenodeConfig {
    NamenodeConfig {
        name: namenode_name(index),
        dir: NAMENODE_DIR.into(),
        journalnodes: (0..journalnodes)
            .map(|index| JournalnodePeer {
                name: journalnode_name(index),
                address: journalnode_address(index),
            })
            .collect(),
        shared_edits_dir: None,
        peers: (0..namenodes)
            .filter(|peer| *peer != index)
            .map(|peer| hadal_namenode::NamenodePeer {
                name: namenode_name(peer),
                address: namenode_address(peer),
            })
            .collect(),
        ha: HaSettings::default(),
        namesystem: NamesystemConfig {
            alone: namenodes == 1,
            superuser: SUPERUSER.into(),
            min_block_size: 1 << 10,
            block_size: 64 << 10,
            ..NamesystemConfig::default()
        },
        blocks: BlockConfig {
            heartbeat_interval_ms: 500,
            stale_interval_ms: 2_000,
            dead_interval_ms: 5_000,
            replication_interval_ms: 500,
            safe_mode_extension_ms: 0,
            ..BlockConfig::default()
        },
        groups: Arc::new(|_| Vec::new()),
        hosts: Arc::new(|| Ok(Default::default())),
        batches_in_flight: 4,
        software: "simulated".into(),
        images_retained: 2,
        extra_edits_retained: 1_000_000,
        planted: Default::default(),
        election_planted: Default::default(),
        checkpoint: CheckpointConfig::default(),
        image_bytes_per_second: 0,
    }
}

/// A DataNode of that many NameNodes, with its data in `/data`. Its store is small enough that replicas of both kinds
/// occur: slots of extents, and files of their own.
#[must_use]
pub fn datanode_config(index: usize, namenodes: usize) -> DatanodeConfig {
    DatanodeConfig {
        name: datanode_name(index),
        dirs: vec![PathBuf::from("/data")],
        address: datanode_address(index).to_string(),
        http_address: String::new(),
        rack: "/default-rack".into(),
        namenodes: (0..namenodes)
            .map(|index| NamenodePeer {
                name: namenode_name(index),
                address: namenode_address(index),
            })
            .collect(),
        actor: ActorConfig {
            heartbeat_interval_ms: 500,
            handshake_retry_ms: 500,
            ..ActorConfig::default()
        },
        store: StoreOptions {
            group_bytes: 32 << 10,
            small_bytes: 32 << 10,
            extent_bytes: 1 << 20,
            allocate_step: 64 << 10,
            block_bytes_max: 1 << 20,
            ..StoreOptions::default()
        },
        scanner: ScannerConfig::default(),
        failed_volumes_tolerated: 0,
        stream_timeout_ms: 10_000,
        streams_max: 256,
        restart_replica_expiration_ms: 50_000,
        slow_write_ms: 0,
        balance_bytes_per_s: 100 << 20,
        balance_moves_max: 100,
        software: "simulated".into(),
    }
}

/// Runs the only JournalNode.
pub async fn only_journalnode<E: Env>(env: E) {
    let ended = hadal_journalnode::run(env.clone(), journalnode_config(0, 1)).await;
    env.stop(1, &format!("{ended:?}"));
}

/// Runs the only NameNode, which formats the namespace when there is none.
pub async fn only_namenode<E: Env>(env: E, block_size: u64) {
    let mut config = namenode_config(0, 1, 1);
    config.namesystem.block_size = block_size;
    loop {
        match hadal_namenode::run(env.clone(), config.clone()).await {
            Err(RunError::NotFormatted { .. }) => {}
            ended => return env.stop(1, &format!("{ended:?}")),
        }
        let options = FormatOptions {
            cluster_id: "CID-sim".into(),
            force: true,
        };
        match hadal_namenode::format(env.clone(), &config, &options).await {
            Ok(_) | Err(FormatError::Exists { .. }) => {}
            Err(_) => env.sleep_until(env.now().after_ms(100)).await,
        }
    }
}

/// Runs a DataNode of the only NameNode. It calls itself slow when its disk is (T-P12).
pub async fn datanode_of_one<E: Env>(env: E, index: usize) {
    let mut config = datanode_config(index, 1);
    config.store.small_bytes = 16 << 10;
    config.slow_write_ms = 20;
    let ended = hadal_datanode::run(env.clone(), config).await;
    env.stop(1, &format!("{ended:?}"));
}

/// Waits until `count` DataNodes are there: until a file with as many copies has them.
pub async fn await_datanodes<E: Env>(env: &E, dfs: &DistributedFileSystem<E>, count: usize) {
    let path = "/ready";
    let options = CreateOptions {
        replication: Some(u16::try_from(count).expect("few nodes")),
        ..CreateOptions::default()
    };
    loop {
        let located = async {
            let mut file = dfs.create(path, &options).await?;
            file.write_all(b"x").await?;
            file.close().await?;
            dfs.locations(path, 0, 1).await
        };
        let located = located.await;
        if located.is_ok_and(|found| found.blocks[0].locations.len() == count) {
            return;
        }
        env.sleep_until(env.now().after_ms(500)).await;
        // It may not have been made.
        drop(dfs.delete(path, false).await);
    }
}
