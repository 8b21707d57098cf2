//! Every key of the configuration with its default (HDFS's unless the line says otherwise).

use crate::units::{Duration, Size};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// One host's configuration.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who belongs to the cluster.
    pub cluster: Cluster,
    /// NameNodes on this host.
    pub namenode: Namenode,
    /// JournalNodes on this host.
    pub journalnode: Journalnode,
    /// DataNodes on this host.
    pub datanode: Datanode,
    /// Clients on this host.
    pub client: Client,
    /// The balancer, when it is run on this host.
    pub balancer: Balancer,
    /// Certificates.
    pub tls: Tls,
    /// High availability.
    pub ha: Ha,
    /// Fencing of a NameNode that may still be active.
    pub fence: Fence,
}

/// One NameNode or JournalNode of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Node id, the name in its certificate.
    pub id: String,
    /// Its QUIC address.
    pub address: SocketAddr,
    /// Its HTTP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
}

/// Who belongs to the cluster, the same on every host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// All NameNodes.
    pub namenodes: Vec<Member>,
    /// All JournalNodes.
    pub journalnodes: Vec<Member>,
    /// A directory that all NameNodes see, for the edits in place of JournalNodes (HDFS `dfs.namenode.shared.edits.dir`);
    /// empty: JournalNodes. It takes a fencing method (`fence.command`) and `ha.automatic = false`.
    pub shared_edits_dir: PathBuf,
    /// The user permissions do not apply to.
    pub superuser: String,
    /// Members of this group are superusers too.
    pub supergroup: String,
    /// File with lines `group: user, user`; empty: the operating system's groups.
    pub groups: PathBuf,
    /// A connection on which nothing arrives for this long is lost; idle ones are kept up at a third of it.
    pub connection_timeout: Duration,
    /// Most bytes of UDP payload per datagram on any path, and what is begun with, 1200 to 65507; 0: 1452, discovered
    /// upward to 8900, and 65000 between processes of one machine. A path that turns out to take less gets less.
    pub mtu: u16,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            namenodes: Vec::new(),
            journalnodes: Vec::new(),
            shared_edits_dir: PathBuf::new(),
            superuser: "hdfs".into(),
            supergroup: "supergroup".into(),
            groups: PathBuf::new(),
            connection_timeout: Duration(10_000),
            mtu: 0,
        }
    }
}

/// NameNode settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namenode {
    /// Directory for identity and images.
    pub dir: PathBuf,
    /// Threads; fixed at 1 in this version.
    pub shards: u16,
    /// Whether permissions are checked.
    pub permissions_enabled: bool,
    /// Default copies of new files.
    pub replication: u16,
    /// Fewest copies a file may ask for, and replicas a block needs before its file closes.
    pub min_replication: u16,
    /// Most copies a file may ask for.
    pub max_replication: u16,
    /// Default bytes per block.
    pub block_size: Size,
    /// Fewest bytes per block.
    pub min_block_size: Size,
    /// Data bytes per checksum (Hadal: 4 KiB; HDFS: 512 B).
    pub bytes_per_checksum: Size,
    /// Data bytes per packet.
    pub packet_size: Size,
    /// After this another client may take a lease over.
    pub lease_soft_limit: Duration,
    /// After this the NameNode closes the file.
    pub lease_hard_limit: Duration,
    /// How long outcomes stay in the retry cache.
    pub retry_cache: Duration,
    /// DataNodes are stale after this.
    pub stale_interval: Duration,
    /// DataNodes are dead after this.
    pub dead_interval: Duration,
    /// How often replication work is handed out.
    pub replication_interval: Duration,
    /// Copies ordered each time, per live DataNode (`dfs.namenode.replication.work.multiplier.per.iteration`).
    pub replication_work_multiplier: u32,
    /// Copies a DataNode sends at once.
    pub max_transfers: u32,
    /// A copy not reported after this is tried again.
    pub pending_timeout: Duration,
    /// Share of blocks reported before safe mode ends.
    pub safe_mode_threshold: f64,
    /// Live DataNodes before safe mode ends.
    pub safe_mode_min_datanodes: u64,
    /// Wait after the threshold was reached.
    pub safe_mode_extension: Duration,
    /// Full block reports admitted at a time.
    pub report_slots: usize,
    /// Batches of edits in flight to the JournalNodes.
    pub batches_in_flight: usize,
    /// Images kept.
    pub images_retained: usize,
    /// Edits kept in the journal below the oldest kept image.
    pub extra_edits_retained: u64,
    /// File of DataNodes that may register, one per line; all when empty (`dfs.hosts`).
    pub hosts: PathBuf,
    /// File of DataNodes to decommission (`dfs.hosts.exclude`). All three are read at start and by `-refreshNodes`.
    pub hosts_exclude: PathBuf,
    /// File of DataNodes in maintenance: one per line, and behind it, if it is to end by itself, when, in milliseconds
    /// since 1970 (`IN_MAINTENANCE` and `maintenanceExpireTimeInMS` of HDFS's hosts file).
    pub hosts_maintenance: PathBuf,
    /// Replicas a block keeps on other DataNodes during maintenance (`dfs.namenode.maintenance.replication.min`).
    pub maintenance_min_replication: u16,
    /// A standby makes an image after so many edits.
    pub checkpoint_txns: u64,
    /// A standby makes an image after so long, if there was any edit.
    pub checkpoint_period: Duration,
    /// How often a standby looks whether an image is due.
    pub checkpoint_check_period: Duration,
    /// Most bytes per second of one image that a standby writes or a node sends to another; 0 for no limit
    /// (`dfs.image.transfer.bandwidthPerSec`).
    pub image_transfer_rate: Size,
}

impl Default for Namenode {
    fn default() -> Self {
        Self {
            dir: "/var/lib/hadal/namenode".into(),
            shards: 1,
            permissions_enabled: true,
            replication: 3,
            min_replication: 1,
            max_replication: 512,
            block_size: Size(128 * MIB),
            min_block_size: Size(MIB),
            bytes_per_checksum: Size(4 * KIB),
            packet_size: Size(64 * KIB),
            lease_soft_limit: Duration(60_000),
            lease_hard_limit: Duration(3_600_000),
            retry_cache: Duration(600_000),
            stale_interval: Duration(30_000),
            dead_interval: Duration(630_000),
            replication_interval: Duration(3_000),
            replication_work_multiplier: 2,
            max_transfers: 2,
            pending_timeout: Duration(300_000),
            safe_mode_threshold: 0.999,
            safe_mode_min_datanodes: 0,
            safe_mode_extension: Duration(30_000),
            report_slots: 6,
            batches_in_flight: 4,
            images_retained: 2,
            extra_edits_retained: 1_000_000,
            hosts: PathBuf::new(),
            hosts_exclude: PathBuf::new(),
            hosts_maintenance: PathBuf::new(),
            maintenance_min_replication: 1,
            checkpoint_txns: 1_000_000,
            checkpoint_period: Duration(3_600_000),
            checkpoint_check_period: Duration(60_000),
            image_transfer_rate: Size(64 << 20),
        }
    }
}

/// JournalNode settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journalnode {
    /// Directory for the journal.
    pub dir: PathBuf,
}

impl Default for Journalnode {
    fn default() -> Self {
        Self {
            dir: "/var/lib/hadal/journalnode".into(),
        }
    }
}

/// DataNode settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Datanode {
    /// Data directories, one storage each.
    pub dirs: Vec<PathBuf>,
    /// QUIC address of its first shard; others dial it.
    pub address: SocketAddr,
    /// HTTP address.
    pub http: SocketAddr,
    /// Threads; fixed at 1 in this version.
    pub shards: u16,
    /// Rack.
    pub rack: String,
    /// Between heartbeats.
    pub heartbeat_interval: Duration,
    /// Between block reports.
    pub report_interval: Duration,
    /// The first report comes inside this time.
    pub report_initial_delay: Duration,
    /// Deleted replicas are reported at least this often.
    pub delete_report_interval: Duration,
    /// Block reports are digests, and full ones only where a NameNode asks for them.
    pub digest_reports: bool,
    /// Clients on this DataNode's host get read-only descriptors of finished replicas in files of their own, over a
    /// Unix socket, and read the disk themselves (HDFS `dfs.client.read.shortcircuit`).
    pub local_reads: bool,
    /// Between two tries of the handshake.
    pub handshake_retry: Duration,
    /// Volumes that may fail before the DataNode stops.
    pub failed_volumes_tolerated: u32,
    /// A block stream without progress for this long has failed.
    pub stream_timeout: Duration,
    /// Open block streams at once.
    pub streams_max: u32,
    /// Buffers of all block streams together; 0: 1 MiB for each of `streams_max`, of at most a quarter of the machine's
    /// memory and at least 256 MiB. Taken as needed; a stream that finds none in time is refused.
    pub buffer_pool: Size,
    /// After a restart for an upgrade open replicas go on as they were when it took no longer than this (HDFS
    /// `dfs.datanode.restart.replica.expiration`).
    pub restart_replica_expiration: Duration,
    /// A write or flush of this node's disk that takes longer makes it call itself slow to its writers, who replace it
    /// when it does so often; 0: never (T-P12).
    pub slow_write: Duration,
    /// Bytes per second spent on balancing, sent and received together, until `dfsadmin -setBalancerBandwidth` says
    /// otherwise (`dfs.datanode.balance.bandwidthPerSec`).
    pub balance_bandwidth: Size,
    /// Copies for the balancer at once (`dfs.datanode.balance.max.concurrent.moves`).
    pub balance_moves_max: u32,
    /// Bytes of each volume left to others.
    pub reserved: Size,
    /// Most bytes used of each volume, for several DataNodes on one disk; 0: all there are.
    pub volume_capacity: Size,
    /// Replicas up to this size share extent files.
    pub small_replica: Size,
    /// Every replica is read against its checksums once in this time (`dfs.datanode.scan.period.hours`).
    pub scan_period: Duration,
    /// Bytes per second and volume the block scanner reads; 0: only replicas that gave trouble
    /// (`dfs.block.scanner.volume.bytes.per.second`).
    pub scan_rate: Size,
    /// How often the place the block scanner reached is written down (`dfs.block.scanner.cursor.save.interval.ms`).
    pub scan_cursor_interval: Duration,
    /// How often directories are compared with the replicas in memory; 0: never
    /// (`dfs.datanode.directoryscan.interval`).
    pub directory_scan_interval: Duration,
}

impl Default for Datanode {
    fn default() -> Self {
        Self {
            dirs: vec!["/var/lib/hadal/datanode".into()],
            address: ([127, 0, 0, 1], 9866).into(),
            http: ([127, 0, 0, 1], 9864).into(),
            shards: 1,
            rack: "/default-rack".into(),
            heartbeat_interval: Duration(3_000),
            report_interval: Duration(6 * 3_600_000),
            report_initial_delay: Duration(0),
            delete_report_interval: Duration(300_000),
            digest_reports: true,
            local_reads: true,
            handshake_retry: Duration(5_000),
            failed_volumes_tolerated: 0,
            stream_timeout: Duration(60_000),
            streams_max: 4096,
            buffer_pool: Size(0),
            restart_replica_expiration: Duration(50_000),
            slow_write: Duration(0),
            balance_bandwidth: Size(100 * MIB),
            balance_moves_max: 100,
            reserved: Size(0),
            volume_capacity: Size(0),
            small_replica: Size(MIB),
            scan_period: Duration(21 * 24 * 3_600_000),
            scan_rate: Size(MIB),
            scan_cursor_interval: Duration(600_000),
            directory_scan_interval: Duration(6 * 3_600_000),
        }
    }
}

/// Client settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// Failed calls are retried for this long.
    pub retry_window: Duration,
    /// Who answers reads of the namespace: `active`, `observer` (observers where there are any) or `standby` (observers
    /// and standbys). Those never show less than this client has seen.
    pub read_from: String,
    /// With reads from others than the active: how old the last msync may be when a read begins, `never` for one msync
    /// before the first read, `0` for one before each (HDFS `dfs.client.failover.observer.auto-msync-period`).
    pub auto_msync_period: String,
    /// Data bytes per packet of bulk streams.
    pub packet_size: Size,
    /// Unacknowledged bytes per written block.
    pub write_window: Size,
    /// A block stream without an acknowledgement for this long has failed.
    pub stream_timeout: Duration,
    /// A DataNode that announces its restart is waited for this long, when it is the only one of its pipeline or on this
    /// host (HDFS `dfs.client.datanode-restart.timeout`).
    pub datanode_restart_timeout: Duration,
    /// How long closing a file waits for its last block's replicas.
    pub close_timeout: Duration,
    /// Finished blocks are durable before they are acknowledged (Hadal: on; HDFS: off).
    pub sync_on_close: bool,
    /// When a failed node of a pipeline is replaced by another: `never`, `default` (with three copies or more, when half
    /// of them are left or bytes are relied on already) or `always` (HDFS
    /// `dfs.client.block.write.replace-datanode-on-failure.policy`).
    pub replace_datanode_policy: String,
    /// Go on with the nodes that are left when no replacement can be had, instead of failing the write.
    pub replace_datanode_best_effort: bool,
    /// Blocks on this host are read from their files, where the DataNode allows it (`datanode.local_reads`).
    pub local_reads: bool,
    /// Copies of new files; 0: the cluster's default.
    pub replication: u16,
    /// Bytes per block of new files; 0: the cluster's default.
    pub block_size: Size,
    /// Permission bits taken away from new files and directories, octal.
    pub umask: String,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            retry_window: Duration(15_000),
            read_from: "active".into(),
            auto_msync_period: "never".into(),
            packet_size: Size(MIB),
            write_window: Size(8 * MIB),
            stream_timeout: Duration(60_000),
            datanode_restart_timeout: Duration(30_000),
            close_timeout: Duration(60_000),
            sync_on_close: true,
            replace_datanode_policy: "default".into(),
            replace_datanode_best_effort: false,
            local_reads: true,
            replication: 0,
            block_size: Size(0),
            umask: "022".into(),
        }
    }
}

/// Settings of `hadal balancer`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balancer {
    /// No smaller blocks are moved (`dfs.balancer.getBlocks.min-block-size`).
    pub min_block_size: Size,
    /// Most bytes moved from or to one DataNode in one iteration (`dfs.balancer.max-size-to-move`).
    pub max_size_to_move: Size,
    /// Copies from or to one DataNode at once (`dfs.datanode.balance.max.concurrent.moves`).
    pub moves_per_datanode: usize,
    /// Copies at once in all (`dfs.balancer.moverThreads`).
    pub moves_max: usize,
    /// An iteration starts no more copies after this long (`dfs.balancer.max-iteration-time`).
    pub max_iteration_time: Duration,
}

impl Default for Balancer {
    fn default() -> Self {
        Self {
            min_block_size: Size(10 * MIB),
            max_size_to_move: Size(10 << 30),
            moves_per_datanode: 50,
            moves_max: 1000,
            max_iteration_time: Duration(20 * 60_000),
        }
    }
}

/// Certificates.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Directory with `ca.pem`, `NAME.pem` and `NAME-key.pem`.
    pub dir: PathBuf,
    /// Whose certificate a client uses; a daemon uses its id's.
    pub name: String,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            dir: "/etc/hadal/tls".into(),
            name: "client".into(),
        }
    }
}

/// High availability.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ha {
    /// NameNodes stand for election by themselves; off: only `haadmin` moves the role.
    pub automatic: bool,
    /// How long a JournalNode grants the active lease for; the same on all hosts.
    pub lease_ttl: Duration,
    /// Between two renewals of the lease.
    pub renew_interval: Duration,
    /// A NameNode in safe mode does not become active: it does not stand, and orders to it are refused
    /// (`dfs.ha.nn.not-become-active-in-safemode`).
    pub not_become_active_in_safe_mode: bool,
}

impl Default for Ha {
    fn default() -> Self {
        Self {
            automatic: true,
            lease_ttl: Duration(600),
            renew_interval: Duration(150),
            not_become_active_in_safe_mode: false,
        }
    }
}

/// Fencing of a NameNode that may still be active, by `haadmin -failover` (behaviour F-13). A quorum journal needs none:
/// its lease and epochs keep the old one from serving and writing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fence {
    /// Without proof that the old active gave up, or a fencing command that succeeded, nobody is promoted.
    pub required: bool,
    /// Run by `sh -c` with `HADAL_TARGET_ID`, `HADAL_TARGET_HOST` and `HADAL_TARGET_PORT` in its environment; exit code
    /// 0 says that the target is fenced. Empty: none.
    pub command: String,
    /// A fencing command that runs for longer is killed and has failed.
    pub timeout: Duration,
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            required: false,
            command: String::new(),
            timeout: Duration(30_000),
        }
    }
}
