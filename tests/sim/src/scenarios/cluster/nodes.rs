//! The daemons and where they are.

use super::images::{self, Images};
use super::planted::Planted;
use super::tempo::Tempo;
use crate::daemons::{self, datanode_address, datanode_name};
pub(in crate::scenarios) use crate::daemons::{
    NAMENODE_DIR, SUPERUSER, journalnode_address, journalnode_name, namenode_address, namenode_name,
};
use crate::env::SimEnv;
use crate::node::{NodeId, NodeSpec};
use crate::rng::Rng;
use crate::world::Handle;
use hadal_blockpool::{ActorConfig, ScannerConfig};
use hadal_blocks::BlockConfig;
use hadal_client::{ClientOptions, DistributedFileSystem};
use hadal_datanode::DatanodeConfig;
use hadal_env::{Clock, Env};
use hadal_journalnode::JournalnodeConfig;
use hadal_namenode::{BootstrapError, FormatError, FormatOptions, NamenodeConfig, RunError};
use hadal_types::Role;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;

/// Bytes per block: small, so that files have several.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
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

/// JournalNodes of the cluster.
pub(in crate::scenarios) const JOURNALNODES: usize = 3;

pub(in crate::scenarios) fn journalnode_config(
    index: usize,
    tempo: Tempo,
    planted: Planted,
) -> JournalnodeConfig {
    let mut config = daemons::journalnode_config(index, JOURNALNODES);
    config.lease_ttl_ms = tempo.lease_ttl_ms();
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
    tempo: Tempo,
    planted: Planted,
) -> NamenodeConfig {
    let mut config = daemons::namenode_config(index, namenodes, JOURNALNODES);
    config.namesystem.block_size = BLOCK_BYTES;
    config.namesystem.permissions_enabled = !planted.skip_permissions;
    config.namesystem.planted = planted.namesystem;
    config.blocks = BlockConfig {
        pending_timeout_ms: 10_000,
        deletion_timeout_ms: 10_000,
        max_transfers: 8,
        max_transfers_hard: 16,
        report_slot_ms: 10_000,
        planted: planted.blocks,
        ..tempo.blocks(config.blocks)
    };
    config.ha = tempo.ha(config.ha);
    config.images_retained = images.retained;
    config.checkpoint = images.checkpoint.clone();
    config.image_bytes_per_second = images.bytes_per_second;
    config.extra_edits_retained = images.extra_edits;
    config.planted = planted.journal;
    config.election_planted = planted.election;
    config
}

fn datanode_config(
    index: usize,
    namenodes: usize,
    tempo: Tempo,
    planted: Planted,
) -> DatanodeConfig {
    let mut config = daemons::datanode_config(index, namenodes);
    config.actor = ActorConfig {
        report_interval_ms: 60_000,
        delete_report_interval_ms: 5_000,
        planted: planted.datanode,
        ..tempo.actor(config.actor)
    };
    config.scanner = ScannerConfig {
        save_interval_ms: 5_000,
        planted: planted.datanode,
        ..tempo.scanner(ScannerConfig::default())
    };
    config
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
    tempo: Tempo,
    planted: Planted,
) {
    env.world().count("namenode starts", 1);
    let config = namenode_config(index, namenodes, &images, tempo, planted);
    let image = images::newest(env.disk(), &config.dir);
    env.world()
        .count("namenode starts from an image", u64::from(image.is_some()));
    let mut serving = config.clone();
    if alone {
        serving.peers.clear();
        serving.namesystem.alone = true;
    }
    while images.is_behind(index) {
        match hadal_namenode::bootstrap_standby(env.clone(), &config, true).await {
            Ok(_) => {
                env.world().count("bootstraps behind a purge", 1);
                images.caught_up(index);
            }
            Err(BootstrapError::Run(error)) => return env.stop(EXIT_FAILED, &error.to_string()),
            Err(_) => env.sleep_until(env.now().after_ms(500)).await,
        }
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

async fn datanode(env: SimEnv, index: usize, namenodes: usize, tempo: Tempo, planted: Planted) {
    env.world().count("datanode starts", 1);
    let config = datanode_config(index, namenodes, tempo, planted);
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
        tempo: Tempo,
        planted: Planted,
    ) -> Self {
        let journalnodes = (0..JOURNALNODES)
            .map(|index| {
                let start = move |env: SimEnv| -> Task {
                    Box::pin(journalnode(env, journalnode_config(index, tempo, planted)))
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
                    Box::pin(namenode(
                        env, index, namenodes, false, images, tempo, planted,
                    ))
                };
                let (name, address) = (namenode_name(index), namenode_address(index));
                world.add_node(&name, Role::Namenode, address, start)
            })
            .collect();
        let datanodes = (0..rng.range(3, 4) as usize)
            .map(|index| {
                let start = move |env: SimEnv| -> Task {
                    Box::pin(datanode(env, index, namenodes, tempo, planted))
                };
                let name = datanode_name(index);
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
