//! `hadal namenode`, `journalnode`, `datanode`: one shard each, until SIGTERM.

use crate::local_door;
use crate::{groups, hosts};
use anyhow::{Context, Result, bail};
use hadal_blockpool::{ActorConfig, ScannerConfig};
use hadal_blocks::BlockConfig;
use hadal_daemon::config::{Cluster, Config, Member};
use hadal_datanode::{DatanodeConfig, NamenodeList, NamenodePeer};
use hadal_env::Net;
use hadal_journalnode::JournalnodeConfig;
use hadal_namenode::{
    BootstrapError, Damage, FormatOptions, HaSettings, JournalnodePeer, NamenodeConfig, Recovered,
    RunError,
};
use hadal_namesystem::{CheckpointConfig, NamesystemConfig};
use hadal_quic::{Identity, QuicNet, TransportOptions};
use hadal_shard::{
    DEFAULT_BUFFER_POOL_BYTES, ShardEnv, ShardOptions, machine_memory_bytes, pool_bytes_for,
    run_on_this_thread, udp,
};
use hadal_types::Role;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use store_replica::StoreOptions;
use tokio::signal::unix::{SignalKind, signal};

/// Which configuration and node a daemon command is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct DaemonArgs {
    /// Configuration file.
    pub(crate) config: Option<PathBuf>,
    /// Node id; may be left out when the file names only one of the role.
    pub(crate) id: Option<String>,
    /// Keys set on the command line.
    pub(crate) set: Vec<(String, String)>,
}

/// `namenode -format`.
#[derive(Clone, Debug, Default)]
pub(crate) struct FormatArgs {
    /// Name of the cluster.
    pub(crate) cluster_id: Option<String>,
    /// Give up a namespace that is there.
    pub(crate) force: bool,
    /// Never ask.
    pub(crate) non_interactive: bool,
}

fn load(args: &DaemonArgs) -> Result<Config> {
    Ok(hadal_daemon::load(args.config.as_deref(), std::env::vars(), &args.set)?.config)
}

/// The node's certificate, which must say what the node is: nobody would believe another one.
fn identity(config: &Config, role: Role, id: &str) -> Result<Identity> {
    let dir = &config.tls.dir;
    let path = dir.join(format!("{id}.pem"));
    let key = dir.join(format!("{id}-key.pem"));
    let identity = Identity::load(&dir.join("ca.pem"), &path, &key)?;
    let holder = identity.principal();
    if holder.role != role || holder.name != id {
        bail!(
            "{} is the certificate of {holder}, this is {role}/{id}: issue its own with `hadal tls issue --role {role} --name {id} {}'",
            path.display(),
            dir.display()
        );
    }
    Ok(identity)
}

/// The member with this id, or the only one.
fn member<'a>(members: &'a [Member], id: Option<&str>, role: &str) -> Result<&'a Member> {
    match id {
        Some(id) => members
            .iter()
            .find(|member| member.id == id)
            .with_context(|| {
                let known: Vec<&str> = members.iter().map(|member| member.id.as_str()).collect();
                format!(
                    "no {role} `{id}' in cluster.{role}s; there are: {}",
                    known.join(", ")
                )
            }),
        None => match members {
            [only] => Ok(only),
            [] => bail!(
                "cluster.{role}s is empty: name the {role}s of the cluster in the configuration"
            ),
            _ => bail!("cluster.{role}s names several: say which with --id"),
        },
    }
}

/// The transport's settings in this cluster.
pub(crate) fn transport(cluster: &Cluster) -> TransportOptions {
    let timeout_ms = cluster.connection_timeout.0;
    let idle_timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX).max(300);
    TransportOptions {
        mtu: (cluster.mtu > 0).then_some(cluster.mtu),
        idle_timeout_ms,
        keep_alive_ms: idle_timeout_ms / 3,
        ..TransportOptions::default()
    }
}

/// Binds the node's UDP port and makes its endpoint. Runs on the shard's thread.
pub(crate) fn endpoint(
    address: SocketAddr,
    identity: &Identity,
    transport: &TransportOptions,
    listen: bool,
) -> Result<QuicNet> {
    let bound = udp::bind(address, udp::BUFFER_BYTES).with_context(|| {
        format!("cannot listen on UDP {address}: is another process using the port? (`ss -ulpn` shows who)")
    })?;
    if !bound.has_buffers_of(udp::BUFFER_BYTES) {
        tracing::warn!(
            "UDP socket buffers are {} and {} bytes, {} were asked for: bulk traffic will lose packets; run `hadal doctor`",
            bound.recv_buffer_bytes,
            bound.send_buffer_bytes,
            udp::BUFFER_BYTES
        );
    }
    Ok(QuicNet::new(
        bound.socket,
        udp::runtime(),
        identity,
        transport,
        listen,
    )?)
}

/// Runs a daemon's future on a shard until it ends or SIGTERM comes.
fn run_daemon<F>(
    shard: ShardOptions,
    address: SocketAddr,
    identity: Identity,
    transport: TransportOptions,
    daemon: impl FnOnce(ShardEnv<QuicNet>) -> F,
) -> Result<i32>
where
    F: Future<Output = Result<()>>,
{
    let outcome = run_on_this_thread(shard, |shard| async move {
        let name = shard.name().to_owned();
        let net = endpoint(address, &identity, &transport, true)?;
        tracing::info!("{name} listens on {}", net.local_addr());
        let env = shard.env(net.clone());
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        tokio::select! {
            ended = daemon(env) => ended,
            _ = terminate.recv() => {
                tracing::info!("{name} stops: SIGTERM");
                net.close(0, "stopping");
                Ok(())
            }
            _ = interrupt.recv() => {
                tracing::info!("{name} stops: SIGINT");
                net.close(0, "stopping");
                Ok(())
            }
        }
    })?;
    outcome.map(|()| 0)
}

fn one_shard(role: &str, shards: u16) -> Result<()> {
    if shards != 1 {
        bail!(
            "UnsupportedOperation: {role}.shards = {shards}: this version serves a node with one shard"
        );
    }
    Ok(())
}

fn journalnode_peers(config: &Config) -> Vec<JournalnodePeer> {
    let peer = |member: &Member| JournalnodePeer {
        name: member.id.clone(),
        address: member.address,
    };
    config.cluster.journalnodes.iter().map(peer).collect()
}

fn namenode_peers(config: &Config, id: &str) -> Vec<hadal_namenode::NamenodePeer> {
    let others = config.cluster.namenodes.iter();
    let others = others.filter(|member| member.id != id);
    let peer = |member: &Member| hadal_namenode::NamenodePeer {
        name: member.id.clone(),
        address: member.address,
    };
    others.map(peer).collect()
}

/// The shared directory for edits, when there is one: refused without what keeps two writers apart (D-03, T-A2).
fn shared_edits_dir(config: &Config) -> Result<Option<PathBuf>> {
    let dir = &config.cluster.shared_edits_dir;
    if dir.as_os_str().is_empty() {
        return Ok(None);
    }
    let shown = dir.display();
    if !config.cluster.journalnodes.is_empty() {
        bail!(
            "cluster.shared_edits_dir = {shown} and cluster.journalnodes are both set: edits go to the one or to the others"
        );
    }
    if config.fence.command.is_empty() {
        bail!(
            "cluster.shared_edits_dir = {shown} needs a fencing method: nothing else keeps a NameNode that lost the active role from writing there. Set fence.command"
        );
    }
    if config.ha.automatic {
        bail!(
            "cluster.shared_edits_dir = {shown} and ha.automatic = true: with a shared directory only `haadmin' moves the active role. Set ha.automatic = false"
        );
    }
    Ok(Some(dir.clone()))
}

fn namenode_config(config: &Config, id: &str) -> Result<NamenodeConfig> {
    let section = &config.namenode;
    one_shard("namenode", section.shards)?;
    let shared_edits_dir = shared_edits_dir(config)?;
    if config.cluster.journalnodes.is_empty() && shared_edits_dir.is_none() {
        bail!(
            "cluster.journalnodes is empty: name the JournalNodes of the cluster in the configuration"
        );
    }
    let blocks = BlockConfig {
        min_replication: section.min_replication,
        maintenance_min_replication: section.maintenance_min_replication,
        max_replication: section.max_replication,
        heartbeat_interval_ms: config.datanode.heartbeat_interval.0,
        stale_interval_ms: section.stale_interval.0,
        dead_interval_ms: section.dead_interval.0,
        replication_interval_ms: section.replication_interval.0,
        pending_timeout_ms: section.pending_timeout.0,
        replication_work_multiplier: section.replication_work_multiplier.max(1),
        max_transfers: section.max_transfers,
        max_transfers_hard: section.max_transfers.saturating_mul(2),
        report_slots: section.report_slots,
        safe_mode_threshold: section.safe_mode_threshold,
        safe_mode_min_datanodes: section.safe_mode_min_datanodes,
        safe_mode_extension_ms: section.safe_mode_extension.0,
        ..BlockConfig::default()
    };
    let namesystem = NamesystemConfig {
        alone: config.cluster.namenodes.len() == 1,
        superuser: config.cluster.superuser.clone(),
        supergroup: config.cluster.supergroup.clone(),
        permissions_enabled: section.permissions_enabled,
        lease_soft_limit_ms: section.lease_soft_limit.0,
        lease_hard_limit_ms: section.lease_hard_limit.0,
        retry_cache_ms: section.retry_cache.0,
        min_block_size: section.min_block_size.0,
        min_replication: section.min_replication,
        max_replication: section.max_replication,
        block_size: section.block_size.0,
        bytes_per_checksum: u32::try_from(section.bytes_per_checksum.0).unwrap_or(u32::MAX),
        packet_size: u32::try_from(section.packet_size.0).unwrap_or(u32::MAX),
        replication: section.replication,
        ..NamesystemConfig::default()
    };
    Ok(NamenodeConfig {
        name: id.to_owned(),
        dir: section.dir.clone(),
        journalnodes: journalnode_peers(config),
        shared_edits_dir,
        peers: namenode_peers(config, id),
        ha: HaSettings {
            automatic: config.ha.automatic,
            lease_ttl_ms: u32::try_from(config.ha.lease_ttl.0).unwrap_or(u32::MAX),
            renew_interval_ms: config.ha.renew_interval.0,
            not_become_active_in_safe_mode: config.ha.not_become_active_in_safe_mode,
        },
        namesystem,
        blocks,
        groups: groups::lookup(&config.cluster.groups)?,
        hosts: hosts::lookup(
            &section.hosts,
            &section.hosts_exclude,
            &section.hosts_maintenance,
        )?,
        batches_in_flight: section.batches_in_flight.max(1),
        software: env!("CARGO_PKG_VERSION").into(),
        images_retained: section.images_retained.max(1),
        extra_edits_retained: section.extra_edits_retained,
        planted: Default::default(),
        election_planted: Default::default(),
        checkpoint: CheckpointConfig {
            txns: section.checkpoint_txns.max(1),
            period_ms: section.checkpoint_period.0,
            check_ms: section.checkpoint_check_period.0,
            ..CheckpointConfig::default()
        },
        image_bytes_per_second: section.image_transfer_rate.0,
    })
}

/// `hadal namenode`.
pub(crate) fn namenode(args: &DaemonArgs) -> Result<i32> {
    let config = load(args)?;
    let member = member(&config.cluster.namenodes, args.id.as_deref(), "namenode")?;
    let settings = namenode_config(&config, &member.id)?;
    let identity = identity(&config, Role::Namenode, &member.id)?;
    run_daemon(
        ShardOptions::new(&member.id),
        member.address,
        identity,
        transport(&config.cluster),
        |env| async { Ok(hadal_namenode::run(env, settings).await?) },
    )
}

/// `hadal namenode -format`.
pub(crate) fn format(args: &DaemonArgs, format: &FormatArgs) -> Result<i32> {
    let config = load(args)?;
    let member = member(&config.cluster.namenodes, args.id.as_deref(), "namenode")?;
    let settings = namenode_config(&config, &member.id)?;
    let identity = identity(&config, Role::Namenode, &member.id)?;
    let force = format.force || (!format.non_interactive && asked_to_reformat(&settings.dir)?);
    let options = FormatOptions {
        cluster_id: format.cluster_id.clone().unwrap_or_default(),
        force,
    };
    let any: SocketAddr = (member.address.ip(), 0).into();
    let transport = transport(&config.cluster);
    let info = run_on_this_thread(ShardOptions::new("format"), |shard| async move {
        let net = endpoint(any, &identity, &transport, false)?;
        let env = shard.env(net);
        anyhow::Ok(hadal_namenode::format(env, &settings, &options).await?)
    })??;
    println!(
        "formatted {}: cluster {}, block pool {}",
        member.id, info.cluster_id, info.block_pool_id
    );
    Ok(0)
}

/// Exit codes of `-bootstrapStandby`, HDFS's.
const NO_NAMENODE: i32 = 2;
const OTHER_VERSION: i32 = 3;
const ALREADY_FORMATTED: i32 = 5;
const EDITS_UNAVAILABLE: i32 = 6;

/// `hadal namenode -bootstrapStandby`.
pub(crate) fn bootstrap_standby(
    args: &DaemonArgs,
    force: bool,
    non_interactive: bool,
) -> Result<i32> {
    let config = load(args)?;
    let member = member(&config.cluster.namenodes, args.id.as_deref(), "namenode")?;
    let settings = namenode_config(&config, &member.id)?;
    let identity = identity(&config, Role::Namenode, &member.id)?;
    let force = force || (!non_interactive && asked_to_reformat(&settings.dir)?);
    let any: SocketAddr = (member.address.ip(), 0).into();
    let transport = transport(&config.cluster);
    let outcome = run_on_this_thread(ShardOptions::new("bootstrap"), |shard| async move {
        let net = endpoint(any, &identity, &transport, false)?;
        let env = shard.env(net);
        anyhow::Ok(hadal_namenode::bootstrap_standby(env, &settings, force).await)
    })??;
    let error = match outcome {
        Ok(done) => {
            println!(
                "{} joined cluster {}, block pool {}: image {} of {}",
                member.id, done.info.cluster_id, done.info.block_pool_id, done.image, done.from
            );
            return Ok(0);
        }
        Err(error) => error,
    };
    eprintln!("namenode -bootstrapStandby: {error}");
    Ok(match error {
        BootstrapError::NoNamenode { .. } | BootstrapError::Fetch(_) => NO_NAMENODE,
        BootstrapError::Run(RunError::Layout { .. }) => OTHER_VERSION,
        BootstrapError::Run(_) => 1,
        BootstrapError::Exists { .. } => ALREADY_FORMATTED,
        BootstrapError::MissingEdits { .. } => EDITS_UNAVAILABLE,
    })
}

/// `hadal namenode -initializeSharedEdits`.
pub(crate) fn initialize_shared_edits(args: &DaemonArgs, force: bool) -> Result<i32> {
    let config = load(args)?;
    let member = member(&config.cluster.namenodes, args.id.as_deref(), "namenode")?;
    let settings = namenode_config(&config, &member.id)?;
    let identity = identity(&config, Role::Namenode, &member.id)?;
    let any: SocketAddr = (member.address.ip(), 0).into();
    let transport = transport(&config.cluster);
    let done = run_on_this_thread(ShardOptions::new("initialize"), |shard| async move {
        let net = endpoint(any, &identity, &transport, false)?;
        let env = shard.env(net);
        anyhow::Ok(hadal_namenode::initialize_shared_edits(env, settings, force).await?)
    })??;
    println!(
        "the journal of cluster {}, block pool {}, begins behind txid {}; the other NameNodes join with -bootstrapStandby",
        done.info.cluster_id, done.info.block_pool_id, done.behind
    );
    Ok(0)
}

/// `hadal namenode -recover`.
pub(crate) fn recover(args: &DaemonArgs, force: bool, non_interactive: bool) -> Result<i32> {
    use std::io::IsTerminal;
    let config = load(args)?;
    let member = member(&config.cluster.namenodes, args.id.as_deref(), "namenode")?;
    let settings = namenode_config(&config, &member.id)?;
    let identity = identity(&config, Role::Namenode, &member.id)?;
    let any: SocketAddr = (member.address.ip(), 0).into();
    let transport = transport(&config.cluster);
    let can_ask = !non_interactive && std::io::stdin().is_terminal();
    let confirm = move |damage: &Damage| {
        let (first, last) = damage.dropped;
        eprintln!("namenode -recover: {}", damage.reason);
        eprintln!(
            "namenode -recover: the namespace can be read up to txid {}; edits {first} to {last} would be dropped, and the journal begun anew (copy the JournalNodes' directories first if what is left of them may be wanted)",
            damage.applied
        );
        force || (can_ask && asked("Drop them?").unwrap_or(false))
    };
    let done = run_on_this_thread(ShardOptions::new("recover"), |shard| async move {
        let net = endpoint(any, &identity, &transport, false)?;
        let env = shard.env(net);
        anyhow::Ok(hadal_namenode::recover(env, settings, confirm).await?)
    })??;
    match done {
        Recovered::Undamaged { end, .. } => {
            println!("the journal can be read to its end, txid {end}: nothing was changed");
            Ok(0)
        }
        Recovered::Declined(_) => {
            eprintln!("namenode -recover: nothing was dropped; -force drops without asking");
            Ok(1)
        }
        Recovered::Begun { damage, .. } => {
            let (first, last) = damage.dropped;
            println!(
                "edits {first} to {last} were dropped: the namespace is as of txid {}, and the journal begins behind it; the other NameNodes join with -bootstrapStandby -force",
                damage.applied
            );
            Ok(0)
        }
    }
}

/// Asks on the terminal.
fn asked(question: &str) -> Result<bool> {
    use std::io::Write;
    print!("{question} (Y or N) ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// On a terminal, asks before a namespace is given up (as HDFS does).
fn asked_to_reformat(dir: &Path) -> Result<bool> {
    use std::io::IsTerminal;
    if !dir.join("VERSION").exists() || !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    asked(&format!("Re-format filesystem in {}?", dir.display()))
}

/// `hadal journalnode`.
pub(crate) fn journalnode(args: &DaemonArgs) -> Result<i32> {
    let config = load(args)?;
    let member = member(
        &config.cluster.journalnodes,
        args.id.as_deref(),
        "journalnode",
    )?;
    let identity = identity(&config, Role::Journalnode, &member.id)?;
    let peers = config
        .cluster
        .journalnodes
        .iter()
        .filter(|peer| peer.id != member.id)
        .map(|peer| (peer.id.clone(), peer.address))
        .collect();
    let mut settings =
        JournalnodeConfig::new(member.id.clone(), config.journalnode.dir.clone(), peers);
    let ttl = config.ha.lease_ttl;
    settings.lease_ttl_ms =
        u32::try_from(ttl.0).with_context(|| format!("ha.lease_ttl is {ttl}, far too long"))?;
    run_daemon(
        ShardOptions::new(&member.id),
        member.address,
        identity,
        transport(&config.cluster),
        |env| async { Ok(hadal_journalnode::run(env, settings).await?) },
    )
}

/// `hadal datanode`.
pub(crate) fn datanode(args: &DaemonArgs) -> Result<i32> {
    let config = load(args)?;
    let id = args
        .id
        .clone()
        .context("say which DataNode this is with --id")?;
    let section = &config.datanode;
    one_shard("datanode", section.shards)?;
    let identity = identity(&config, Role::Datanode, &id)?;
    let peers = |config: &Config| -> Vec<NamenodePeer> {
        let peer = |member: &Member| NamenodePeer {
            name: member.id.clone(),
            address: member.address,
        };
        config.cluster.namenodes.iter().map(peer).collect()
    };
    let local_reads = section.local_reads;
    let again = args.clone();
    let namenodes: NamenodeList = Rc::new(move || match load(&again) {
        Ok(config) => Ok(peers(&config)),
        Err(error) => Err(format!("{error:#}")),
    });
    let settings = DatanodeConfig {
        name: id.clone(),
        dirs: section.dirs.clone(),
        address: section.address.to_string(),
        http_address: section.http.to_string(),
        rack: section.rack.clone(),
        namenodes: peers(&config),
        actor: ActorConfig {
            heartbeat_interval_ms: section.heartbeat_interval.0.max(1),
            report_interval_ms: section.report_interval.0.max(1),
            report_initial_delay_ms: section.report_initial_delay.0,
            delete_report_interval_ms: section.delete_report_interval.0,
            handshake_retry_ms: section.handshake_retry.0.max(1),
            digest_reports: section.digest_reports,
            ..ActorConfig::default()
        },
        store: StoreOptions {
            reserved_bytes: section.reserved.0,
            capacity_bytes: match section.volume_capacity.0 {
                0 => u64::MAX,
                bytes => bytes,
            },
            small_bytes: u32::try_from(section.small_replica.0).unwrap_or(u32::MAX),
            ..StoreOptions::default()
        },
        scanner: ScannerConfig {
            bytes_per_second: section.scan_rate.0,
            period_ms: section.scan_period.0,
            save_interval_ms: section.scan_cursor_interval.0,
            directory_interval_ms: section.directory_scan_interval.0,
            ..ScannerConfig::default()
        },
        failed_volumes_tolerated: section.failed_volumes_tolerated,
        stream_timeout_ms: section.stream_timeout.0.max(1),
        streams_max: section.streams_max,
        restart_replica_expiration_ms: section.restart_replica_expiration.0,
        slow_write_ms: section.slow_write.0,
        balance_bytes_per_s: section.balance_bandwidth.0,
        balance_moves_max: section.balance_moves_max,
        software: env!("CARGO_PKG_VERSION").into(),
    };
    let buffers = match section.buffer_pool.0 {
        0 => pool_bytes_for(
            section.streams_max as usize,
            machine_memory_bytes(),
            DEFAULT_BUFFER_POOL_BYTES,
        ),
        bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
    };
    run_daemon(
        ShardOptions::new(&id).buffer_pool_bytes(buffers),
        section.address,
        identity,
        transport(&config.cluster),
        |env| async {
            let local = if local_reads {
                local_door::open(&env)
            } else {
                None
            };
            Ok(hadal_datanode::run_with(env, settings, Some(namenodes), local).await?)
        },
    )
}
