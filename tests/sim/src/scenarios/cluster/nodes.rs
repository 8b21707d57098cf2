//! The daemons and where they are.

use super::images::{self, Images};
use super::planted::Planted;
use crate::env::SimEnv;
use crate::node::{NodeId, NodeSpec};
use crate::rng::Rng;
use crate::world::Handle;
use hadal_blockpool::{ActorConfig, ScannerConfig};
use hadal_blocks::BlockConfig;
use hadal_client::{ClientOptions, DistributedFileSystem};
use hadal_datanode::{DatanodeConfig, NamenodePeer};
use hadal_env::{Clock, Env};
use hadal_journalnode::JournalnodeConfig;
use hadal_namenode::{
    BootstrapError, FormatError, FormatOptions, HaSettings, JournalnodePeer, NamenodeConfig,
    RunError,
};
use hadal_namesystem::NamesystemConfig;
use hadal_types::Role;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use store_replica::StoreOptions;

/// User who may do everything.
pub(in crate::scenarios) const SUPERUSER: &str = "hdfs";
/// Bytes per block: small, so that files have several.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// Where a NameNode keeps identity and images.
pub(super) const NAMENODE_DIR: &str = "/name";
/// Exit code of a daemon that could not start or go on.
const EXIT_FAILED: i32 = 1;

pub(in crate::scenarios) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A file system of the simulated world.
pub(super) type Dfs = DistributedFileSystem<SimEnv>;

/// The cluster's nodes.
pub(super) struct Cluster {
    pub(super) journalnodes: Vec<NodeId>,
    /// One that serves alone, or two of which one stands by.
    pub(super) namenodes: Vec<NodeId>,
    pub(super) datanodes: Vec<NodeId>,
    /// The superuser's machine, which no fault takes down.
    pub(super) admin: NodeId,
    /// Reads journals as a NameNode may.
    pub(super) auditor: NodeId,
    planted: Planted,
}

pub(in crate::scenarios) fn journalnode_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 8485))
}

pub(in crate::scenarios) fn namenode_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, index as u8 + 1], 8020))
}

pub(in crate::scenarios) fn namenode_name(index: usize) -> String {
    format!("nn{}", index + 1)
}

fn datanode_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, index as u8 + 1], 9866))
}

pub(in crate::scenarios) fn journalnode_name(index: usize) -> String {
    format!("jn{}", index + 1)
}

/// JournalNodes of the cluster.
pub(in crate::scenarios) const JOURNALNODES: usize = 3;

pub(in crate::scenarios) fn journalnode_config(
    index: usize,
    planted: Planted,
) -> JournalnodeConfig {
    let peers = (0..JOURNALNODES)
        .filter(|peer| *peer != index)
        .map(|peer| (journalnode_name(peer), journalnode_address(peer)))
        .collect();
    let mut config = JournalnodeConfig::new(journalnode_name(index), "/journal".into(), peers);
    // A new segment per claim: smaller ones cost less to scan, and grow more often.
    config.segment_bytes = 32 << 10;
    config.planted = planted.journal;
    config.election_planted = planted.election;
    config
}

fn namenode_config(
    index: usize,
    namenodes: usize,
    images: &Images,
    planted: Planted,
) -> NamenodeConfig {
    NamenodeConfig {
        shared_edits_dir: None,
        name: namenode_name(index),
        dir: PathBuf::from(NAMENODE_DIR),
        journalnodes: (0..JOURNALNODES)
            .map(|index| JournalnodePeer {
                name: journalnode_name(index),
                address: journalnode_address(index),
            })
            .collect(),
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
            block_size: BLOCK_BYTES,
            permissions_enabled: !planted.skip_permissions,
            planted: planted.namesystem,
            ..NamesystemConfig::default()
        },
        blocks: BlockConfig {
            heartbeat_interval_ms: 500,
            stale_interval_ms: 2_000,
            dead_interval_ms: 5_000,
            replication_interval_ms: 500,
            pending_timeout_ms: 10_000,
            deletion_timeout_ms: 10_000,
            max_transfers: 8,
            max_transfers_hard: 16,
            report_slot_ms: 10_000,
            safe_mode_extension_ms: 0,
            planted: planted.blocks,
            ..BlockConfig::default()
        },
        groups: Arc::new(|_| Vec::new()),
        hosts: Arc::new(|| Ok(Default::default())),
        batches_in_flight: 4,
        software: "simulated".into(),
        images_retained: images.retained,
        extra_edits_retained: 1_000_000,
        planted: planted.journal,
        election_planted: planted.election,
        checkpoint: images.checkpoint.clone(),
        image_bytes_per_second: images.bytes_per_second,
    }
}

fn datanode_config(index: usize, namenodes: usize, planted: Planted) -> DatanodeConfig {
    DatanodeConfig {
        name: format!("dn{}", index + 1),
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
            report_interval_ms: 60_000,
            delete_report_interval_ms: 5_000,
            handshake_retry_ms: 500,
            planted: planted.datanode,
            ..ActorConfig::default()
        },
        // Small enough that replicas of both kinds occur: slots of extents, and files of their own.
        store: StoreOptions {
            group_bytes: 32 << 10,
            small_bytes: 32 << 10,
            extent_bytes: 1 << 20,
            allocate_step: 64 << 10,
            block_bytes_max: 1 << 20,
            ..StoreOptions::default()
        },
        scanner: ScannerConfig {
            period_ms: 60_000,
            save_interval_ms: 5_000,
            directory_interval_ms: 20_000,
            planted: planted.datanode,
            ..ScannerConfig::default()
        },
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

pub(in crate::scenarios) async fn journalnode(env: SimEnv, config: JournalnodeConfig) {
    env.world().count("journalnode starts", 1);
    if let Err(error) = hadal_journalnode::run(env.clone(), config).await {
        env.stop(EXIT_FAILED, &error.to_string());
    }
}

/// The first one formats the namespace, the others take it over from it. With `alone` each of them then serves as if it
/// were the only one: without a lease, with nothing but the JournalNodes between it and the others.
pub(in crate::scenarios) async fn namenode(
    env: SimEnv,
    index: usize,
    namenodes: usize,
    alone: bool,
    images: Images,
    planted: Planted,
) {
    env.world().count("namenode starts", 1);
    let config = namenode_config(index, namenodes, &images, planted);
    let image = images::newest(env.disk(), &config.dir);
    env.world()
        .count("namenode starts from an image", u64::from(image.is_some()));
    let mut serving = config.clone();
    if alone {
        serving.peers.clear();
        serving.namesystem.alone = true;
    }
    loop {
        match hadal_namenode::run(env.clone(), serving.clone()).await {
            Ok(()) => return env.stop(0, "ended"),
            Err(RunError::NotFormatted { .. }) => {}
            Err(error) => return env.stop(EXIT_FAILED, &error.to_string()),
        }
        if index > 0 {
            match hadal_namenode::bootstrap_standby(env.clone(), &config, false).await {
                Ok(_) => env.world().count("bootstraps", 1),
                Err(BootstrapError::Run(error)) => {
                    return env.stop(EXIT_FAILED, &error.to_string());
                }
                Err(_) => env.sleep_until(env.now().after_ms(500)).await,
            }
            continue;
        }
        // A format cut short may have reached some JournalNodes.
        let options = FormatOptions {
            cluster_id: "CID-sim".into(),
            force: true,
        };
        match hadal_namenode::format(env.clone(), &config, &options).await {
            Ok(_) => env.world().count("formats", 1),
            Err(FormatError::Exists { .. }) => {}
            Err(FormatError::Journalnode { .. }) => env.sleep_until(env.now().after_ms(500)).await,
            Err(error) => return env.stop(EXIT_FAILED, &error.to_string()),
        }
    }
}

async fn datanode(env: SimEnv, index: usize, namenodes: usize, planted: Planted) {
    env.world().count("datanode starts", 1);
    let config = datanode_config(index, namenodes, planted);
    if let Err(error) = hadal_datanode::run(env.clone(), config).await {
        env.stop(EXIT_FAILED, &error.to_string());
    }
}

impl Cluster {
    /// Adds and starts all nodes.
    pub(super) fn start(
        world: &Handle,
        rng: &mut Rng,
        namenodes: usize,
        images: &Images,
        planted: Planted,
    ) -> Self {
        let journalnodes = (0..JOURNALNODES)
            .map(|index| {
                let start = move |env: SimEnv| -> Task {
                    Box::pin(journalnode(env, journalnode_config(index, planted)))
                };
                let (name, address) = (journalnode_name(index), journalnode_address(index));
                world.add_node(&name, Role::Journalnode, address, start)
            })
            .collect();
        let namenode_ids = (0..namenodes)
            .map(|index| {
                let images = images.clone();
                let start = move |env: SimEnv| -> Task {
                    let images = images.clone();
                    Box::pin(namenode(env, index, namenodes, false, images, planted))
                };
                let (name, address) = (namenode_name(index), namenode_address(index));
                world.add_node(&name, Role::Namenode, address, start)
            })
            .collect();
        let datanodes = (0..rng.range(3, 4) as usize)
            .map(|index| {
                let start = move |env: SimEnv| -> Task {
                    Box::pin(datanode(env, index, namenodes, planted))
                };
                let name = format!("dn{}", index + 1);
                world.add_node(&name, Role::Datanode, datanode_address(index), start)
            })
            .collect();
        let idle = |_: SimEnv| -> Task { Box::pin(pending()) };
        let address = SocketAddr::from(([10, 0, 3, 1], 40_000));
        let admin = world.add_node_with(&NodeSpec::new(SUPERUSER, Role::Admin, address), idle);
        let address = SocketAddr::from(([10, 0, 3, 2], 40_000));
        let auditor = world.add_node_with(&NodeSpec::new("auditor", Role::Namenode, address), idle);
        Self {
            journalnodes,
            namenodes: namenode_ids,
            datanodes,
            admin,
            auditor,
            planted,
        }
    }

    /// Nodes that faults may end.
    pub(super) fn daemons(&self) -> Vec<NodeId> {
        let mut all = self.journalnodes.clone();
        all.extend(&self.namenodes);
        all.extend(&self.datanodes);
        all
    }

    /// A client on that machine.
    pub(super) fn dfs(&self, world: &Handle, node: NodeId) -> Dfs {
        let mut options = ClientOptions::new(
            (0..self.namenodes.len()).map(|index| (namenode_name(index), namenode_address(index))),
        );
        options.packet_bytes = 16 << 10;
        options.write_window_bytes = 64 << 10;
        options.stream_timeout_ms = 20_000;
        options.host = world.name(node);
        // Three or four nodes are few: writes go on with fewer where no other can join.
        options.replacement.best_effort = true;
        options.planted = self.planted.client;
        let (dfs, background) = Dfs::new(world.env_of(node), options);
        world.spawn_on(node, "client background", background.run());
        dfs
    }

    /// The superuser's client.
    pub(super) fn admin_dfs(&self, world: &Handle) -> Dfs {
        self.dfs(world, self.admin)
    }

    /// What the daemons are doing, for the words of a violation.
    pub(super) fn statuses(&self, world: &Handle) -> String {
        let status = |node| format!("{} {:?}", world.name(node), world.status(node));
        let all: Vec<String> = self.daemons().into_iter().map(status).collect();
        all.join(", ")
    }
}

/// The clock of a client's machine, for waits.
pub(super) async fn wait_ms(env: &SimEnv, ms: u64) {
    env.sleep_until(env.now().after_ms(ms)).await;
}
