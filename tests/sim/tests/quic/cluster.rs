//! The real daemons and the real client over QUIC: one world, one small cluster, its datagrams treated badly.

use crate::paths::{bad, identity};
use hadal_blockpool::{ActorConfig, ScannerConfig};
use hadal_blocks::BlockConfig;
use hadal_client::{ClientOptions, CreateOptions, DistributedFileSystem};
use hadal_datanode::{DatanodeConfig, NamenodePeer};
use hadal_env::{Clock, Env};
use hadal_journalnode::JournalnodeConfig;
use hadal_namenode::{
    FormatError, FormatOptions, HaSettings, JournalnodePeer, NamenodeConfig, RunError,
};
use hadal_namesystem::NamesystemConfig;
use hadal_quic::{ClusterCa, TransportOptions, Validity};
use hadal_types::Role;
use sim::quic::{Datagrams, QuicEnv};
use sim::{Crash, NodeId, SimEnv, World};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use store_replica::StoreOptions;

fn journalnode_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8485))
}

fn namenode_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 1, 1], 8020))
}

fn datanode_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, index as u8 + 1], 9866))
}

async fn namenode(env: QuicEnv) {
    let config = NamenodeConfig {
        name: "nn1".into(),
        dir: PathBuf::from("/name"),
        shared_edits_dir: None,
        journalnodes: vec![JournalnodePeer {
            name: "jn1".into(),
            address: journalnode_address(),
        }],
        peers: Vec::new(),
        ha: HaSettings::default(),
        namesystem: NamesystemConfig {
            alone: true,
            superuser: "hdfs".into(),
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
        checkpoint: hadal_namesystem::CheckpointConfig::default(),
        image_bytes_per_second: 0,
    };
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

async fn datanode(env: QuicEnv, index: usize) {
    let config = DatanodeConfig {
        name: format!("dn{}", index + 1),
        dirs: vec![PathBuf::from("/data")],
        address: datanode_address(index).to_string(),
        http_address: String::new(),
        rack: "/default-rack".into(),
        namenodes: vec![NamenodePeer {
            name: "nn1".into(),
            address: namenode_address(),
        }],
        actor: ActorConfig {
            heartbeat_interval_ms: 500,
            handshake_retry_ms: 500,
            ..ActorConfig::default()
        },
        store: StoreOptions {
            group_bytes: 32 << 10,
            small_bytes: 16 << 10,
            extent_bytes: 1 << 20,
            allocate_step: 64 << 10,
            block_bytes_max: 1 << 20,
            ..StoreOptions::default()
        },
        stream_timeout_ms: 10_000,
        scanner: ScannerConfig::default(),
        failed_volumes_tolerated: 0,
        streams_max: 64,
        restart_replica_expiration_ms: 50_000,
        slow_write_ms: 20,
        balance_bytes_per_s: 100 << 20,
        balance_moves_max: 100,
        software: "simulated".into(),
    };
    let ended = hadal_datanode::run(env.clone(), config).await;
    env.stop(1, &format!("{ended:?}"));
}

async fn journalnode(env: QuicEnv) {
    let config = JournalnodeConfig::new("jn1".into(), "/journal".into(), Vec::new());
    let ended = hadal_journalnode::run(env.clone(), config).await;
    env.stop(1, &format!("{ended:?}"));
}

/// Adds a daemon that listens on QUIC.
fn add<F: Future<Output = ()> + 'static>(
    world: &World,
    net: &Datagrams,
    ca: &ClusterCa,
    (role, name, addr): (Role, &str, SocketAddr),
    run: impl Fn(QuicEnv) -> F + 'static,
) -> NodeId {
    let (net, who) = (net.clone(), identity(ca, role, name));
    world.add_node(name, role, addr, move |env: SimEnv| {
        let options = TransportOptions::default();
        let env = net.env(&env, addr, &who, &options, true).expect("it binds");
        Box::pin(run(env))
    })
}

/// S12, whole cluster: a file is written over a bad network while a DataNode and then the NameNode are killed and started
/// again; what was flushed and closed is read back byte for byte.
#[test]
fn s12_a_cluster_keeps_its_promises_over_quic() {
    let world = World::new(23);
    let net = Datagrams::new(&world);
    let (ca, _) = ClusterCa::generate("simulated", Validity::days(30)).expect("a CA");
    let jn = (Role::Journalnode, "jn1", journalnode_address());
    add(&world, &net, &ca, jn, journalnode);
    let nn = (Role::Namenode, "nn1", namenode_address());
    let nn = add(&world, &net, &ca, nn, namenode);
    let datanodes: Vec<NodeId> = (0..4)
        .map(|index| {
            let name = format!("dn{}", index + 1);
            let dn = (Role::Datanode, name.as_str(), datanode_address(index));
            add(&world, &net, &ca, dn, move |env| datanode(env, index))
        })
        .collect();
    let client = world.add_client("hdfs");
    let who = identity(&ca, Role::Client, "hdfs");
    let addr = SocketAddr::from(([10, 0, 3, 1], 40_000));
    let options = TransportOptions::default();
    let env = net
        .env(&world.env_of(client), addr, &who, &options, false)
        .expect("it binds");
    let mut options = ClientOptions::new([("nn1", namenode_address())]);
    options.packet_bytes = 8 << 10;
    let (dfs, background) = DistributedFileSystem::new(env.clone(), options);
    world.spawn_on(client, "background", background.run());
    net.set_faults(bad());
    let handle = world.handle();
    let content: Rc<Vec<u8>> = Rc::new((0..300_000u32).map(|at| (at ^ (at >> 7)) as u8).collect());
    world.block_on(client, async move {
        let three = CreateOptions {
            replication: Some(3),
            ..CreateOptions::default()
        };
        let wait = |ms| env.sleep_until(env.now().after_ms(ms));
        let everywhere = CreateOptions {
            replication: Some(4),
            ..CreateOptions::default()
        };
        // All DataNodes are there once a block is on all of them.
        loop {
            let made = async {
                let mut file = dfs.create("/ready", &everywhere).await?;
                file.write_all(b"x").await?;
                file.close().await?;
                dfs.locations("/ready", 0, 1).await
            };
            if made
                .await
                .is_ok_and(|found| found.blocks[0].locations.len() == 4)
            {
                break;
            }
            wait(500).await;
            if let Ok(true) | Err(_) = dfs.delete("/ready", false).await {}
        }
        let mut file = dfs.create("/f", &three).await.expect("made");
        for (n, part) in content.chunks(30_000).enumerate() {
            file.write_all(part).await.expect("written");
            if n == 3 {
                file.hflush().await.expect("flushed");
                handle.crash(datanodes[0], Crash::Process);
            }
            if n == 6 {
                handle.restart(datanodes[0]);
                handle.crash(nn, Crash::Process);
                wait(200).await;
                handle.restart(nn);
            }
        }
        file.close().await.expect("closed");
        let mut file = dfs.open("/f").await.expect("it opens");
        let read = file.read_to_end().await.expect("it is read");
        assert!(
            read == *content,
            "{} bytes of {}",
            read.len(),
            content.len()
        );
    });
    let counters = net.counters();
    assert!(counters.lost > 50 && counters.overtook > 50, "{counters:?}");
}
