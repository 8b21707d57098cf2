//! The cluster that is measured: real processes, started by the `hadal` binary, or one that runs already.

use crate::cpu::{own_seconds, process_seconds};
use crate::settings::Settings;
use anyhow::{Context, Result, bail, ensure};
use hadal_client::{ClientOptions, Dfs, Identity, connect_on};
use hadal_daemon::Config;
use hadal_env::Expect;
use hadal_proto::admin::{NamenodeStats, Request, Response};
use hadal_quic::{ClusterCa, Validity};
use hadal_types::Role;
use serde::Deserialize;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// First port looked at for a cluster of its own, distance to the next try, and how many tries.
const PORT_BASE: u16 = 21_000;
const PORTS: u16 = 100;
const PORT_TRIES: u16 = 100;
/// NameNodes that have not found their roles and caught up by then never will.
const SETTLE_WAIT: Duration = Duration::from_secs(300);
/// How often the NameNode's counts are looked at while something is awaited, and for how long.
const STATS_LOOK: Duration = Duration::from_millis(20);
const STATS_WAIT: Duration = Duration::from_secs(600);
/// The only NameNode of a cluster with one.
const NAMENODE: &str = "nn1";
/// Who calls when it must not be the superuser.
const USER: &str = "bench";

#[derive(Deserialize)]
struct Status {
    processes: Vec<Process>,
}

#[derive(Deserialize)]
struct Process {
    id: String,
    pid: Option<i32>,
    state: String,
}

/// A cluster of its own to start.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// NameNodes.
    pub namenodes: u16,
    /// DataNodes.
    pub datanodes: u16,
    /// Configuration of all daemons, as `HADAL_SECTION__KEY`.
    pub set: &'static [(&'static str, &'static str)],
}

/// A [`Shape`]'s configuration, for the notes of a question.
#[must_use]
pub fn in_words(set: &[(&str, &str)]) -> String {
    let words: Vec<String> = set
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    words.join(" ")
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            namenodes: 1,
            datanodes: 3,
            set: &[],
        }
    }
}

/// A cluster under load.
pub struct Cluster {
    binary: PathBuf,
    shape: Shape,
    /// `cluster.mtu` of a cluster of its own.
    mtu: Option<u16>,
    port_base: String,
    dir: PathBuf,
    config: Config,
    processes: Vec<(String, i32)>,
    /// Present for a cluster of its own: it is stopped, and its directory removed, at the end.
    own: Option<TempDir>,
}

impl Cluster {
    /// The running cluster the settings name, or a fresh one.
    ///
    /// # Errors
    /// When the binary cannot be built, or the cluster does not come up.
    pub fn open(settings: &Settings) -> Result<Self> {
        Self::open_with(settings, 1)
    }

    /// As [`Cluster::open`]; a fresh one has this many NameNodes.
    ///
    /// # Errors
    /// As [`Cluster::open`].
    pub fn open_with(settings: &Settings, namenodes: u16) -> Result<Self> {
        let shape = Shape {
            namenodes,
            ..Shape::default()
        };
        Self::open_shape(settings, shape)
    }

    /// As [`Cluster::open`]; a fresh one has this shape.
    ///
    /// # Errors
    /// As [`Cluster::open`].
    pub fn open_shape(settings: &Settings, shape: Shape) -> Result<Self> {
        ensure!(
            settings.cluster.is_none() || settings.mtu.is_none(),
            "--mtu goes with a cluster of its own: the daemons of --cluster have theirs (cluster.mtu)"
        );
        let binary = binary()?;
        let (dir, own) = match &settings.cluster {
            Some(dir) => (dir.clone(), None),
            None => {
                let own = tempfile::Builder::new()
                    .prefix("hadal-bench-")
                    .tempdir_in(&settings.dir)?;
                (own.path().join("cluster"), Some(own))
            }
        };
        let mut cluster = Self {
            binary,
            shape,
            mtu: settings.mtu,
            port_base: String::new(),
            dir,
            config: Config::default(),
            processes: Vec::new(),
            own,
        };
        if cluster.own.is_some() {
            cluster.port_base = free_ports(settings.port_base)?.to_string();
            cluster.up(&["--fresh"])?;
        }
        let path = cluster.dir.join("client.toml");
        cluster.config =
            hadal_daemon::load(Some(&path), std::iter::empty::<(String, String)>(), &[])
                .with_context(|| {
                    format!(
                        "is there a development cluster in {}?",
                        cluster.dir.display()
                    )
                })?
                .config;
        cluster.config.cluster.mtu = settings.mtu.unwrap_or(cluster.config.cluster.mtu);
        cluster.processes = cluster.status()?;
        Ok(cluster)
    }

    /// Runs the binary on this cluster's directory; fails with what it said.
    fn hadal(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(&self.binary)
            .args(arguments)
            .envs(self.shape.set.iter().copied())
            .envs(self.mtu.map(|mtu| ("HADAL_CLUSTER__MTU", mtu.to_string())))
            .arg("--dir")
            .arg(&self.dir)
            .output()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        ensure!(
            output.status.success(),
            "`hadal {}' failed: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
        Ok(output)
    }

    fn up(&self, more: &[&str]) -> Result<()> {
        let (namenodes, datanodes) = (self.shape.namenodes, self.shape.datanodes);
        let (namenodes, datanodes) = (namenodes.to_string(), datanodes.to_string());
        let mut arguments = vec!["dev", "--detach", "--port-base", &self.port_base];
        arguments.extend(["--namenodes", &namenodes, "--datanodes", &datanodes]);
        arguments.extend(more);
        self.hadal(&arguments).map(|_| ())
    }

    /// Adds DataNodes, up to so many in all.
    ///
    /// # Errors
    /// When they do not start.
    pub fn grow(&mut self, datanodes: u16) -> Result<()> {
        self.shape.datanodes = datanodes;
        self.up(&[])?;
        self.processes = self.status()?;
        Ok(())
    }

    /// SIGKILL to one daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, id: &str) -> Result<()> {
        self.hadal(&["dev", "kill", id]).map(|_| ())
    }

    /// Where a daemon keeps what it must not lose.
    pub fn data(&self, id: &str) -> PathBuf {
        self.dir.join("data").join(id)
    }

    /// Runs the binary as a client of this cluster; what it printed, when it succeeded.
    ///
    /// # Errors
    /// When it failed.
    pub fn client_command(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new(&self.binary)
            .args(arguments)
            .env("HADAL_CONFIG", self.dir.join("client.toml"))
            .output()?;
        ensure!(
            output.status.success(),
            "`hadal {}' failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output.stdout)
    }

    /// Waits until the counts of the only NameNode are as wanted.
    ///
    /// # Errors
    /// When they are not within ten minutes (a large DataNode is copied for minutes).
    pub async fn await_stats(
        &self,
        dfs: &Dfs,
        what: &str,
        wanted: impl Fn(&NamenodeStats) -> bool,
    ) -> Result<NamenodeStats> {
        let until = Instant::now() + STATS_WAIT;
        loop {
            let stats = self.namenode_stats(dfs, NAMENODE).await?;
            if wanted(&stats) {
                return Ok(stats);
            }
            ensure!(Instant::now() < until, "{what}: {stats:?}");
            tokio::time::sleep(STATS_LOOK).await;
        }
    }

    /// Id and state of every NameNode.
    ///
    /// # Errors
    /// When the cluster cannot be asked.
    pub fn namenode_states(&self) -> Result<Vec<(String, String)>> {
        let processes = self.processes_now()?.into_iter();
        let namenodes = processes.filter(|process| process.id.starts_with("nn"));
        Ok(namenodes
            .map(|process| (process.id, process.state))
            .collect())
    }

    /// Process id of one daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, id: &str) -> Result<nix::unistd::Pid> {
        let processes = self.processes_now()?;
        let process = processes.iter().find(|process| process.id == id);
        let pid = process.and_then(|process| process.pid);
        pid.map(nix::unistd::Pid::from_raw)
            .with_context(|| format!("{id} does not run"))
    }

    /// Starts a daemon that was killed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&self, id: &str) -> Result<()> {
        self.hadal(&["dev", "start", id]).map(|_| ())
    }

    /// `haadmin -failover`.
    ///
    /// # Errors
    /// When the role does not move.
    pub fn failover(&self, from: &str, to: &str) -> Result<()> {
        let order = ["haadmin", "-failover", from, to];
        self.client_command(&order).map(|_| ())
    }

    /// What a daemon has logged.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log(&self, id: &str) -> Result<String> {
        let path = self.dir.join("logs").join(format!("{id}.log"));
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Gives a daemon other settings (TOML: strings bring their quotes) and starts it again.
    ///
    /// # Errors
    /// When its configuration has no such key, or it does not start.
    pub fn reconfigure(&self, id: &str, settings: &[(&str, &str)]) -> Result<()> {
        let path = self.dir.join("conf").join(format!("{id}.toml"));
        let mut config = std::fs::read_to_string(&path)?;
        for (key, value) in settings {
            let is_it = |line: &&str| line.split(" =").next() == Some(*key);
            let old = config.lines().find(is_it).map(str::to_owned);
            let old = old.with_context(|| format!("no {key} in {}", path.display()))?;
            config = config.replace(&format!("{old}\n"), &format!("{key} = {value}\n"));
        }
        std::fs::write(&path, config)?;
        self.hadal(&["dev", "stop", id])?;
        self.start_again(id)
    }

    /// Makes an image at the active NameNode.
    ///
    /// # Errors
    /// When one of the three orders it takes fails.
    pub fn save_namespace(&self) -> Result<()> {
        for words in [
            &["dfsadmin", "-safemode", "enter"][..],
            &["dfsadmin", "-saveNamespace"],
            &["dfsadmin", "-safemode", "leave"],
        ] {
            self.client_command(words)?;
        }
        Ok(())
    }

    /// What a NameNode counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn namenode_stats(&self, dfs: &Dfs, id: &str) -> Result<NamenodeStats> {
        let members = &self.config.cluster.namenodes;
        let member = members.iter().find(|member| member.id == id);
        let member = member.with_context(|| format!("no NameNode {id}"))?;
        let expect = Expect::node(Role::Namenode, id.to_owned());
        let answer = dfs.admin(member.address, &expect, &Request::NamenodeStats);
        match answer.await? {
            Response::NamenodeStats { stats } => Ok(stats),
            other => bail!("{id} answered {} to NamenodeStats", other.name()),
        }
    }

    /// Waits until one NameNode is active and another one stands by that has applied everything and is out of safe mode.
    /// Returns their ids. Must be called within a runtime of several threads.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn settled(&self, dfs: &Dfs) -> Result<(String, String)> {
        let give_up = Instant::now() + SETTLE_WAIT;
        loop {
            let states = tokio::task::block_in_place(|| self.namenode_states())?;
            let id_of = |wanted: &str| {
                let found = states.iter().find(|(_, state)| state == wanted);
                found.map(|(id, _)| id.clone())
            };
            if let (Some(active), Some(standby)) = (id_of("active"), id_of("standby")) {
                let writes = self.namenode_stats(dfs, &active).await;
                let follows = self.namenode_stats(dfs, &standby).await;
                if let (Ok(writes), Ok(follows)) = (writes, follows)
                    && follows.last_applied >= writes.committed
                    && !writes.safe_mode
                    && !follows.safe_mode
                {
                    return Ok((active, standby));
                }
            }
            if Instant::now() > give_up {
                bail!("the NameNodes do not settle: {states:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn processes_now(&self) -> Result<Vec<Process>> {
        let output = self.hadal(&["dev", "status", "--json"])?;
        let status: Status = serde_json::from_slice(&output.stdout)
            .context("`hadal dev status --json' gave no status")?;
        Ok(status.processes)
    }

    fn status(&self) -> Result<Vec<(String, i32)>> {
        let running = self.processes_now()?.into_iter().map(|process| {
            let pid = process
                .pid
                .with_context(|| format!("{} is not running", process.id))?;
            Ok((process.id, pid))
        });
        running.collect()
    }

    /// Processor seconds so far of every daemon and of this process.
    ///
    /// # Errors
    /// When a daemon has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let mut seconds = own_seconds()?;
        for (id, pid) in &self.processes {
            seconds +=
                process_seconds(*pid).with_context(|| format!("{id} ended under the load"))?;
        }
        Ok(seconds)
    }

    /// Clients, each with an endpoint and connections of its own. Must be called within a runtime.
    ///
    /// # Errors
    /// When an endpoint cannot be made.
    pub fn clients(&self, count: usize, as_superuser: bool) -> Result<Vec<Dfs>> {
        let identity = if as_superuser {
            self.superuser()?
        } else {
            self.user()?
        };
        (0..count).map(|_| self.client(&identity, false)).collect()
    }

    /// A client that reads the DataNodes' files, which the others leave to the network.
    ///
    /// # Errors
    /// As for [`Self::clients`].
    pub fn local_reader(&self) -> Result<Dfs> {
        self.client(&self.superuser()?, true)
    }

    fn client(&self, identity: &Identity, local_reads: bool) -> Result<Dfs> {
        let client = &self.config.client;
        let namenodes = self.config.cluster.namenodes.iter();
        let mut options =
            ClientOptions::new(namenodes.map(|namenode| (namenode.id.clone(), namenode.address)));
        options.packet_bytes = u32::try_from(client.packet_size.0)?;
        options.write_window_bytes = usize::try_from(client.write_window.0)?;
        options.stream_timeout_ms = client.stream_timeout.0;
        options.close_timeout_ms = client.close_timeout.0;
        options.sync_on_close = client.sync_on_close;
        options.local_reads = local_reads;
        let mtu = self.config.cluster.mtu;
        options.mtu = (mtu > 0).then_some(mtu);
        Ok(connect_on(options, identity, hadal_shard::udp::runtime())?)
    }

    fn superuser(&self) -> Result<Identity> {
        let tls = &self.config.tls;
        let path = |name: String| tls.dir.join(name);
        Ok(Identity::load(
            &path("ca.pem".into()),
            &path(format!("{}.pem", tls.name)),
            &path(format!("{}-key.pem", tls.name)),
        )?)
    }

    fn user(&self) -> Result<Identity> {
        let ca = ClusterCa::load(&self.config.tls.dir)?;
        let issued = ca.issue(Role::Client, USER, &[], Validity::days(1))?;
        let now = std::time::SystemTime::now();
        Ok(Identity::from_pem(
            ca.certificate_pem(),
            &issued.certificate_pem,
            &issued.key_pem,
            now,
        )?)
    }

    /// The values the cluster runs with, where they are not the defaults.
    ///
    /// # Errors
    /// Never in practice: the configuration was read from such a form.
    pub fn values(&self) -> Result<String> {
        let flat = |config: &Config| -> Result<Vec<(String, String)>> {
            let table = toml::Table::try_from(config)?;
            let sections = table.into_iter().flat_map(|(section, keys)| match keys {
                toml::Value::Table(keys) => keys
                    .into_iter()
                    .map(|(key, value)| (format!("{section}.{key}"), value.to_string()))
                    .collect(),
                other => vec![(section, other.to_string())],
            });
            Ok(sections.collect())
        };
        let defaults = flat(&Config::default())?;
        let changed = flat(&self.config)?.into_iter().filter(|(key, value)| {
            let of_cluster = ["cluster.", "tls."]
                .iter()
                .any(|section| key.starts_with(section));
            !of_cluster
                && !defaults
                    .iter()
                    .any(|default| (&default.0, &default.1) == (key, value))
        });
        let changed: Vec<String> = changed
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        let count = |prefix: &str| {
            self.processes
                .iter()
                .filter(|(id, _)| id.starts_with(prefix))
                .count()
        };
        Ok(format!(
            "{} NameNode(s), {} JournalNodes, {} DataNodes, one shard each, on one machine with the client; {}",
            count("nn"),
            count("jn"),
            count("dn"),
            if changed.is_empty() {
                "all defaults".into()
            } else {
                changed.join(", ")
            }
        ))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.own.is_some()
            && let Err(error) = self.hadal(&["dev", "down"])
        {
            eprintln!("hadal-bench: {error:#}");
        }
    }
}

/// The runtime clients run on: two workers, as there are two ends to a client (calls and block streams).
///
/// # Errors
/// When threads cannot be made.
pub fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// The runtime of many small calls: one worker, as the calls of one connection are one thread's work at both ends. With
/// two, tokio wakes the other one for every answer and gives it little to do: 3 us more for each call.
///
/// # Errors
/// When it cannot be made.
pub fn one_worker() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// The `hadal` binary beside this one; built when it is missing.
///
/// # Errors
/// When it cannot be built.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own
        .parent()
        .context("this program is in a directory")?
        .join("hadal");
    if beside.exists() {
        return Ok(beside);
    }
    eprintln!("hadal-bench: {} is missing, building it", beside.display());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "-p", "hadal"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let built = cargo.status().context("cannot run cargo")?;
    if !built.success() || !beside.exists() {
        bail!(
            "{} is missing: build it with `cargo build --release -p hadal'",
            beside.display()
        );
    }
    Ok(beside)
}

/// The first of a range of ports whose first ones are free; the given one when one is given.
///
/// # Errors
/// When no range is free.
pub fn free_ports(given: Option<u16>) -> Result<u16> {
    if let Some(base) = given {
        return Ok(base);
    }
    let bases = (0..PORT_TRIES).map(|number| PORT_BASE + number * PORTS);
    let free = |base: &u16| {
        (*base..base + 10).all(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
    };
    bases
        .into_iter()
        .find(free)
        .context("no free range of UDP ports: name one with --port-base")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_moves_the_cluster_elsewhere() {
        let base = free_ports(None).unwrap();
        let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, base + 3)).unwrap();
        let other = free_ports(None).unwrap();
        assert!(
            other > base && other.is_multiple_of(PORTS),
            "{base} and {other}"
        );
        assert_eq!(free_ports(Some(base)).unwrap(), base);
    }
}
