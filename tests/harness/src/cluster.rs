//! A cluster of real processes.

use crate::output::{Output, run};
use crate::{Ports, eventually, hadal};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A development cluster in a temporary directory: one NameNode, three JournalNodes, some DataNodes. Stopped and removed
/// when this is dropped.
#[derive(Debug)]
pub struct TestCluster {
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
        let cluster = Self {
            namenodes,
            dir: tempfile::tempdir().expect("a temporary directory"),
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
        eventually("fsck reports full replication", limit, || {
            let output = self.run(&["fsck", path]);
            let whole = [
                "Under-replicated blocks:\t0 ",
                "Corrupt blocks:\t\t0",
                "is HEALTHY",
            ];
            match output.code == 0 && whole.iter().all(|text| output.stdout.contains(text)) {
                true => Ok(output),
                false => Err(output.stdout + &output.stderr),
            }
        })
    }

    /// The command, without the environment's settings, with this cluster's client configuration.
    fn command(&self) -> Command {
        let mut command = Command::new(hadal());
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("HADAL_") {
                command.env_remove(key);
            }
        }
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

    /// Gives a node other settings (`key`, `value`) and starts it again.
    ///
    /// # Panics
    ///
    /// When it does not start again.
    #[track_caller]
    pub fn reconfigure(&self, id: &str, settings: &[(&str, &str)]) {
        let config = self.config(id);
        let lines = config.lines().map(|line| {
            let key = line.split(" =").next().unwrap_or_default();
            let wanted = settings.iter().find(|(known, _)| *known == key);
            wanted.map_or(line.to_owned(), |(key, value)| format!("{key} = {value:?}"))
        });
        let config = lines.collect::<Vec<_>>().join("\n");
        let path = self.root().join("conf").join(format!("{id}.toml"));
        std::fs::write(path, config).expect("written");
        self.dev(&["stop", id]).ok();
        self.start_node(id);
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
            _ => self.root().join("conf").join(format!("{id}.toml")),
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
        let mut ids: Vec<String> = ["nn1", "jn1", "jn2", "jn3"].map(str::to_owned).into();
        ids.extend(self.datanode_ids());
        ids
    }

    /// Ids of the DataNodes.
    pub fn datanode_ids(&self) -> Vec<String> {
        (1..=self.datanodes).map(|n| format!("dn{n}")).collect()
    }

    /// Processes that have this cluster's directory in their command line.
    pub fn processes(&self) -> Vec<String> {
        let root = self.root().to_string_lossy().into_owned();
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|words| String::from_utf8_lossy(&words).replace('\0', " "))
            .filter(|line| line.contains(&root))
            .collect()
    }

    fn tell_logs(&self) {
        for id in self.ids() {
            let path = self.root().join("logs").join(format!("{id}.log"));
            let text = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(8)..].join("\n");
            println!("---- {id}\n{tail}");
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_logs();
            // Killed, for a node that hangs would hide the failure behind its own.
            for id in self.ids() {
                self.dev(&["kill", &id]);
            }
            return;
        }
        self.dev(&["down"]);
    }
}
