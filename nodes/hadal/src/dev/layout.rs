//! Where the development cluster keeps things: node ids, ports, configuration and certificates.

use anyhow::{Context, Result, bail};
use hadal_daemon::config::{Config, Member};
use hadal_daemon::{Duration, Size};
use hadal_quic::{ClusterCa, Validity};
use hadal_types::Role;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Days the development certificates are valid.
const VALIDITY_DAYS: u32 = 3650;
/// Ports of one cluster, from its base.
const PORTS: u16 = 100;
/// HTTP ports start here, from the base.
const HTTP_OFFSET: u16 = 70;

/// What `dev` was asked for.
#[derive(Clone, Debug)]
pub(crate) struct UpArgs {
    /// Where everything is kept.
    pub(crate) dir: PathBuf,
    /// NameNodes.
    pub(crate) namenodes: u16,
    /// JournalNodes.
    pub(crate) journalnodes: u16,
    /// DataNodes.
    pub(crate) datanodes: u16,
    /// Shards per node.
    pub(crate) shards: u16,
    /// First port.
    pub(crate) port_base: u16,
    /// Throw away what is there.
    pub(crate) fresh: bool,
    /// Return once the cluster is ready.
    pub(crate) detach: bool,
}

/// What is remembered of a cluster between commands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) namenodes: u16,
    pub(crate) journalnodes: u16,
    pub(crate) datanodes: u16,
    pub(crate) port_base: u16,
}

/// One node of the development cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeId {
    pub(crate) id: String,
    pub(crate) role: Role,
}

/// Directory and shape of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) shape: Shape,
}

impl Layout {
    /// The layout in `dir`; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("cluster.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let shape = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(Self {
            dir: std::path::absolute(dir)?,
            shape,
        }))
    }

    /// As [`Layout::read`], for commands that need a cluster.
    pub(crate) fn require(dir: &Path) -> Result<Self> {
        Self::read(dir)?.with_context(|| {
            format!(
                "no development cluster in {}: start one with `hadal dev --dir {0}`",
                dir.display()
            )
        })
    }

    /// Makes directories, certificates and configuration for a new cluster, or keeps those that are there.
    pub(crate) fn prepare(args: &UpArgs) -> Result<Self> {
        let shape = Shape {
            namenodes: args.namenodes,
            journalnodes: args.journalnodes,
            datanodes: args.datanodes,
            port_base: args.port_base,
        };
        if args.fresh && args.dir.exists() {
            std::fs::remove_dir_all(&args.dir)
                .with_context(|| format!("cannot remove {}", args.dir.display()))?;
        }
        let layout = match Self::read(&args.dir)? {
            Some(known)
                if known.shape.journalnodes != shape.journalnodes
                    || known.shape.namenodes != shape.namenodes =>
            {
                bail!(
                    "{} holds a cluster of {} NameNodes and {} JournalNodes: start it with these numbers, or with --fresh",
                    args.dir.display(),
                    known.shape.namenodes,
                    known.shape.journalnodes
                );
            }
            _ => {
                std::fs::create_dir_all(&args.dir)
                    .with_context(|| format!("cannot create {}", args.dir.display()))?;
                Self {
                    dir: std::path::absolute(&args.dir)?,
                    shape,
                }
            }
        };
        if layout.nodes().len() > usize::from(HTTP_OFFSET) {
            bail!("a development cluster has at most {HTTP_OFFSET} nodes");
        }
        if args.port_base > u16::MAX - PORTS {
            bail!(
                "--port-base {} leaves no room for {PORTS} ports",
                args.port_base
            );
        }
        for name in ["logs", "conf", "run", "data"] {
            std::fs::create_dir_all(layout.dir.join(name))?;
        }
        layout.write_certificates()?;
        layout.write_configuration(false)?;
        layout.write_shape()?;
        Ok(layout)
    }

    /// Room for more DataNodes, up to `datanodes` in all; the nodes that are there stay as they are configured.
    pub(crate) fn add_datanodes(&mut self, datanodes: u16) -> Result<()> {
        if datanodes <= self.shape.datanodes {
            return Ok(());
        }
        self.shape.datanodes = datanodes;
        if self.nodes().len() > usize::from(HTTP_OFFSET) {
            bail!("a development cluster has at most {HTTP_OFFSET} nodes");
        }
        self.write_certificates()?;
        self.write_configuration(true)?;
        self.write_shape()
    }

    fn write_shape(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.shape)?;
        Ok(std::fs::write(self.dir.join("cluster.json"), text)?)
    }

    /// All nodes in the order in which they are started.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        let some = |role, prefix: &str, count: u16| {
            (1..=count)
                .map(|n| NodeId {
                    id: format!("{prefix}{n}"),
                    role,
                })
                .collect::<Vec<_>>()
        };
        let mut nodes = some(Role::Journalnode, "jn", self.shape.journalnodes);
        nodes.extend(some(Role::Namenode, "nn", self.shape.namenodes));
        nodes.extend(some(Role::Datanode, "dn", self.shape.datanodes));
        nodes
    }

    /// The node of that id.
    pub(crate) fn node(&self, id: &str) -> Result<NodeId> {
        let nodes = self.nodes();
        let known: Vec<String> = nodes.iter().map(|node| node.id.clone()).collect();
        nodes
            .into_iter()
            .find(|node| node.id == id)
            .with_context(|| {
                format!(
                    "no node `{id}' in this cluster; there are: {}",
                    known.join(", ")
                )
            })
    }

    fn position(&self, id: &str) -> u16 {
        let at = self
            .nodes()
            .iter()
            .position(|node| node.id == id)
            .expect("a node of this cluster");
        u16::try_from(at).expect("at most 70 nodes")
    }

    /// Where a node listens.
    pub(crate) fn address(&self, id: &str) -> SocketAddr {
        (
            Ipv4Addr::LOCALHOST,
            self.shape.port_base + self.position(id),
        )
            .into()
    }

    /// Where a node's HTTP door is.
    pub(crate) fn http(&self, id: &str) -> SocketAddr {
        // NameNodes first, so that the page of the cluster is at base + 70.
        let at = match self.node(id).map(|node| node.role) {
            Ok(Role::Namenode) => self.position(id) - self.shape.journalnodes,
            Ok(Role::Journalnode) => self.position(id) + self.shape.namenodes,
            _ => self.position(id),
        };
        (
            Ipv4Addr::LOCALHOST,
            self.shape.port_base + HTTP_OFFSET + at.min(PORTS - HTTP_OFFSET - 1),
        )
            .into()
    }

    /// Where a node logs.
    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{id}.log"))
    }

    /// Where a node's process id is kept.
    pub(crate) fn pid_file(&self, id: &str) -> PathBuf {
        self.dir.join("run").join(format!("{id}.pid"))
    }

    /// A node's configuration.
    pub(crate) fn config(&self, id: &str) -> PathBuf {
        self.dir.join("conf").join(format!("{id}.toml"))
    }

    /// The clients' configuration.
    pub(crate) fn client_config(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    fn write_certificates(&self) -> Result<()> {
        let dir = self.tls_dir();
        let ca = if dir.join("ca.pem").exists() {
            ClusterCa::load(&dir)?
        } else {
            std::fs::create_dir_all(&dir)?;
            ClusterCa::init(&dir, "hadal-dev")?
        };
        let user = user_name();
        let mut wanted: Vec<(Role, String)> = self
            .nodes()
            .into_iter()
            .map(|node| (node.role, node.id))
            .collect();
        wanted.push((Role::Admin, user));
        for (role, name) in wanted {
            if !dir.join(format!("{name}.pem")).exists() {
                let sans = ["127.0.0.1".to_owned(), "localhost".to_owned()];
                ca.issue_to(&dir, role, &name, &sans, Validity::days(VALIDITY_DAYS))?;
            }
        }
        Ok(())
    }

    /// Writes every node's configuration and the clients'; with `only_missing` none that is there.
    fn write_configuration(&self, only_missing: bool) -> Result<()> {
        let members = |role: Role| -> Vec<Member> {
            let member = |node: NodeId| Member {
                address: self.address(&node.id),
                http: Some(self.http(&node.id)),
                id: node.id,
            };
            self.nodes()
                .into_iter()
                .filter(|node| node.role == role)
                .map(member)
                .collect()
        };
        let user = user_name();
        let mut common = Config::default();
        common.cluster.namenodes = members(Role::Namenode);
        common.cluster.journalnodes = members(Role::Journalnode);
        common.cluster.superuser.clone_from(&user);
        common.tls.dir = self.tls_dir();
        common.tls.name = user;
        // A development cluster notices a dead node in seconds and takes small blocks.
        common.cluster.connection_timeout = Duration(3_000);
        common.datanode.heartbeat_interval = Duration(500);
        common.datanode.handshake_retry = Duration(500);
        common.datanode.delete_report_interval = Duration(1_000);
        common.namenode.stale_interval = Duration(2_000);
        common.namenode.dead_interval = Duration(5_000);
        common.namenode.replication_interval = Duration(500);
        common.namenode.max_transfers = 8;
        common.namenode.safe_mode_extension = Duration(0);
        common.namenode.safe_mode_min_datanodes = 1;
        common.namenode.min_block_size = Size(1 << 10);
        common.datanode.stream_timeout = Duration(10_000);
        common.client.stream_timeout = Duration(20_000);
        // With so few nodes there is no other to take the place of one that died.
        common.client.replace_datanode_best_effort = true;
        common.namenode.replication = self.shape.datanodes.clamp(1, 3);
        for node in self.nodes() {
            if only_missing && self.config(&node.id).exists() {
                continue;
            }
            let mut config = common.clone();
            let data = self.dir.join("data").join(&node.id);
            match node.role {
                Role::Namenode => config.namenode.dir = data,
                Role::Journalnode => config.journalnode.dir = data,
                _ => {
                    config.datanode.dirs = vec![data];
                    config.datanode.address = self.address(&node.id);
                    config.datanode.http = self.http(&node.id);
                }
            }
            std::fs::write(self.config(&node.id), toml::to_string_pretty(&config)?)?;
        }
        if !(only_missing && self.client_config().exists()) {
            std::fs::write(self.client_config(), toml::to_string_pretty(&common)?)?;
        }
        Ok(())
    }
}

/// The user who runs the cluster and is its superuser.
fn user_name() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map_or_else(|| "hadal".into(), |user| user.name)
}
