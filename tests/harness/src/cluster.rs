//! A cluster of real processes.

use crate::binary::without_settings;
use crate::output::{Output, run};
use crate::{Ports, Reaper, eventually, processes};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Clients retry for this long: a node that is started again on a busy machine may take a while, and no test is about the
/// length of the window. Commands that are to fail for nobody's answer ask for a shorter one.
pub(crate) const RETRY_WINDOW: Duration = Duration::from_secs(45);
/// Settings of all nodes and clients of a test, as variables of their environment. Leases last longer than the default: a
/// NameNode that gets no processor for a moment keeps its role, which tests of other things rely on.
const SETTINGS: [(&str, &str); 3] = [
    ("HADAL_CLIENT__RETRY_WINDOW", "45s"),
    ("HADAL_HA__LEASE_TTL", "2s"),
    ("HADAL_HA__RENEW_INTERVAL", "200ms"),
];

/// The program under test with the settings of a test's cluster.
pub(crate) fn with_settings() -> Command {
    let mut command = without_settings();
    command.envs(SETTINGS);
    command
}

/// A development cluster in a temporary directory: one NameNode, three JournalNodes, some DataNodes. Stopped and removed
/// when this is dropped.
#[derive(Debug)]
pub struct TestCluster {
    // Before the directory and the ports: nobody uses them any more when they go.
    _reaper: Reaper,
    dir: TempDir,
    ports: Ports,
    namenodes: u16,
    datanodes: u16,
}

impl TestCluster {
    /// Starts a cluster and waits until it is ready: active, out of safe mode, all DataNodes registered.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub fn start(datanodes: u16) -> Self {
        Self::start_with(1, datanodes)
    }

    /// As [`TestCluster::start`], with several NameNodes: one active, the others standing by.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub fn start_with(namenodes: u16, datanodes: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cluster = Self {
            _reaper: Reaper::over(dir.path()),
            namenodes,
            dir,
            ports: Ports::take(),
            datanodes,
        };
        cluster.up().ok();
        cluster
    }

    /// `hadal dev --detach`: starts what does not run.
    pub fn up(&self) -> Output {
        let mut command = self.command();
        command
            .args(["dev", "--detach", "--dir"])
            .arg(self.root())
            .args(["--port-base", &self.ports.base().to_string()])
            .args(["--namenodes", &self.namenodes.to_string()])
            .args(["--datanodes", &self.datanodes.to_string()]);
        run(&mut command)
    }

    /// Adds DataNodes, up to `datanodes` in all.
    ///
    /// # Panics
    ///
    /// When they do not get ready.
    #[track_caller]
    pub fn grow(&mut self, datanodes: u16) {
        self.datanodes = datanodes;
        self.up().ok();
    }

    /// `hadal dev VERB...` on this cluster.
    pub fn dev(&self, words: &[&str]) -> Output {
        let mut command = self.command();
        command.arg("dev").arg("--dir").arg(self.root()).args(words);
        run(&mut command)
    }

    /// SIGKILL to a node.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[track_caller]
    pub fn kill_node(&self, id: &str) {
        self.dev(&["kill", id]).ok();
    }

    /// Starts a node again.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn start_node(&self, id: &str) {
        self.dev(&["start", id]).ok();
    }

    /// Runs `hadal` with these arguments, as a client of this cluster, in [`TestCluster::local`].
    pub fn run(&self, args: &[&str]) -> Output {
        run(self.command().args(args))
    }

    /// Runs `hadal dfs`.
    pub fn dfs(&self, args: &[&str]) -> Output {
        run(self.command().arg("dfs").args(args))
    }

    /// Runs `hadal debug` and returns its JSON.
    ///
    /// # Errors
    ///
    /// What the command said when it failed.
    pub fn debug(&self, args: &[&str]) -> Result<Value, String> {
        let output = run(self.command().arg("debug").args(args));
        match output.code {
            0 => serde_json::from_str(&output.stdout).map_err(|error| error.to_string()),
            _ => Err(output.stderr),
        }
    }

    /// Waits until `fsck` finds all below `path` at full replication.
    pub fn await_healthy(&self, path: &str, limit: Duration) -> Output {
        self.await_fsck(path, &[], limit)
    }

    /// Waits until `fsck` finds all below `path` at full replication, and says all of `more`.
    pub fn await_fsck(&self, path: &str, more: &[&str], limit: Duration) -> Output {
        eventually("fsck reports full replication", limit, || {
            let output = self.run(&["fsck", path]);
            let whole = [
                "Under-replicated blocks:\t0 ",
                "Corrupt blocks:\t\t0",
                "is HEALTHY",
            ];
            let mut texts = whole.iter().chain(more);
            match output.code == 0 && texts.all(|text| output.stdout.contains(text)) {
                true => Ok(output),
                false => Err(output.stdout + &output.stderr),
            }
        })
    }

    /// Waits until the active NameNode counts so many DataNodes alive.
    #[track_caller]
    pub fn await_live(&self, count: usize, limit: Duration) {
        eventually("DataNodes are alive", limit, || {
            let live = self.debug(&["nn-stats"])?["live_datanodes"].clone();
            (live == count)
                .then_some(())
                .ok_or_else(|| format!("{live}, not {count}"))
        });
    }

    /// The command with this cluster's client configuration.
    fn command(&self) -> Command {
        let mut command = with_settings();
        std::fs::create_dir_all(self.local("")).expect("the local directory");
        command
            .current_dir(self.local(""))
            .env("HADAL_CONFIG", self.root().join("client.toml"));
        command
    }

    /// The cluster's directory.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// A node's data directory.
    pub fn data(&self, id: &str) -> PathBuf {
        self.root().join("data").join(id)
    }

    /// A node's configuration file.
    pub fn config_file(&self, id: &str) -> PathBuf {
        self.root().join("conf").join(format!("{id}.toml"))
    }

    /// A local file for `put` and `get`.
    pub fn local(&self, name: &str) -> PathBuf {
        self.dir.path().join("local").join(name)
    }

    /// A node's configuration, or `client`'s.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn config(&self, id: &str) -> String {
        let path = match id {
            "client" => self.root().join("client.toml"),
            _ => self.config_file(id),
        };
        std::fs::read_to_string(path).expect("a configuration")
    }

    /// Writes a local file; the commands find it by its name.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write_local(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.local("")).expect("the local directory");
        std::fs::write(self.local(name), content).expect("a local file");
    }

    /// The ports of this cluster.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Ids of all nodes.
    pub fn ids(&self) -> Vec<String> {
        let namenodes = (1..=self.namenodes).map(|n| format!("nn{n}"));
        let journalnodes = (1..=3).map(|n| format!("jn{n}"));
        let ids = namenodes.chain(journalnodes);
        ids.chain(self.datanode_ids()).collect()
    }

    /// Ids of the DataNodes.
    pub fn datanode_ids(&self) -> Vec<String> {
        (1..=self.datanodes).map(|n| format!("dn{n}")).collect()
    }

    /// Processes that have this cluster's directory in their command line.
    pub fn processes(&self) -> Vec<String> {
        processes(&self.root())
    }

    fn tell_logs(&self) {
        for id in self.ids() {
            let text = self.log(&id);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(8)..].join("\n");
            println!("---- {id}\n{tail}");
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The reaper kills the nodes: one that hangs would hide the failure behind its own.
            self.tell_logs();
        } else {
            self.dev(&["down"]);
        }
    }
}
