//! Two NameNodes on one shared directory for edits (seeds B and D): only haadmin moves the role, and never past a NameNode
//! that may still write, unless it was fenced.

use harness::{Output, Ports, SOON, alone, eventually, run, without_settings};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const USER: &str = "tester";

/// NameNodes `nn1` and `nn2` and their directory; DataNodes are not needed for directories.
struct Cluster {
    dir: TempDir,
    ports: Ports,
    running: Vec<(&'static str, Child)>,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            ports: Ports::take(),
            running: Vec::new(),
        };
        let tls = cluster.path("tls");
        std::fs::create_dir_all(&tls).expect("a directory");
        let tls = tls.to_str().expect("text");
        cluster.run(&["tls", "init-ca", tls]).ok();
        for (role, name) in [("namenode", "nn1"), ("namenode", "nn2"), ("admin", USER)] {
            cluster
                .run(&["tls", "issue", "--role", role, "--name", name, tls])
                .ok();
        }
        for id in ["nn1", "nn2", "client"] {
            std::fs::write(cluster.conf(id), cluster.configuration(id)).expect("a file");
        }
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn conf(&self, id: &str) -> PathBuf {
        self.path(&format!("{id}.toml"))
    }

    fn configuration(&self, id: &str) -> String {
        let root = self.dir.path().display();
        let base = self.ports.base();
        format!(
            r#"[cluster]
superuser = "{USER}"
shared_edits_dir = "{root}/filer/edits"
connection_timeout = "2s"
[[cluster.namenodes]]
id = "nn1"
address = "127.0.0.1:{base}"
[[cluster.namenodes]]
id = "nn2"
address = "127.0.0.1:{}"
[namenode]
dir = "{root}/{id}"
safe_mode_extension = "0"
[ha]
automatic = false
[fence]
command = "touch {root}/fenced"
[tls]
dir = "{root}/tls"
name = "{USER}"
"#,
            base + 1
        )
    }

    fn command(&self, conf: &str) -> Command {
        let mut command = without_settings();
        command
            .current_dir(self.dir.path())
            .env("HADAL_CONFIG", self.conf(conf));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        run(self.command("client").args(args))
    }

    fn namenode(&self, id: &str, args: &[&str]) -> Output {
        run(self.command(id).args(["namenode", "--id", id]).args(args))
    }

    fn start(&mut self, id: &'static str) {
        // One that was killed may hold its port and its directory for a moment.
        if let Some((_, before)) = self.running.iter_mut().rfind(|(name, _)| *name == id) {
            before.wait().expect("it ends");
        }
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.path(&format!("{id}.log")))
            .expect("a log");
        let child = self
            .command(id)
            .args(["namenode", "--id", id])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("a NameNode");
        self.running.push((id, child));
    }

    fn pid(&self, id: &str) -> u32 {
        let of = self.running.iter().rfind(|(name, _)| *name == id);
        of.expect("it was started").1.id()
    }

    fn signal(&self, id: &str, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.pid(id)).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it runs");
    }

    fn await_state(&self, id: &str, state: &str) {
        eventually(&format!("{id} is {state}"), SOON, || {
            let output = self.run(&["haadmin", "-getServiceState", id]);
            match output.stdout.trim() == state {
                true => Ok(()),
                false => Err(output.stdout + &output.stderr),
            }
        });
    }

    /// Both have the same tree, though nobody rolled the edits.
    fn await_equal(&self) {
        let digest = |id: &str| self.run(&["debug", "namespace-digest", "--id", id]).stdout;
        eventually("the standby has read everything", SOON, || {
            let (one, two) = (digest("nn1"), digest("nn2"));
            match one == two && !one.is_empty() {
                true => Ok(()),
                false => Err(one + &two),
            }
        });
    }

    fn fenced(&self) -> bool {
        self.path("fenced").exists()
    }

    fn failover(&self, fencer: &str, from: &str, to: &str) -> Output {
        let fencer = format!("fence.command={fencer}");
        self.run(&["-D", &fencer, "haadmin", "-failover", from, to])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (id, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                let log = std::fs::read_to_string(self.dir.path().join(format!("{id}.log")));
                println!("---- {id}\n{}", log.unwrap_or_default());
            }
        }
    }
}

fn refuses(output: &Output, text: &str) {
    assert_ne!(output.code, 0, "{}", output.stdout);
    assert!(output.stderr.contains(text), "{}", output.stderr);
}

fn edits(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("filer/edits/edits")).expect("the edits");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// D-02, D-03, T-A2, T-A6, T-A16 on a shared directory.
#[test]
fn d_02_d_03_t_a2_t_a6_two_namenodes_share_a_directory_and_never_write_both() {
    let _alone = alone();
    let mut cluster = Cluster::new();
    // T-A2: without a fencing method, or with automatic failover, nothing starts and nothing is made.
    let without = cluster.namenode("nn1", &["-D", "fence.command=", "-format"]);
    refuses(&without, "fence.command");
    let automatic = cluster.namenode("nn1", &["-D", "ha.automatic=true", "-format"]);
    refuses(&automatic, "ha.automatic");
    assert!(!cluster.path("filer").exists());

    cluster
        .namenode("nn1", &["-format", "-nonInteractive"])
        .ok();
    cluster.start("nn1");
    cluster.await_state("nn1", "standby");
    cluster
        .namenode("nn2", &["-bootstrapStandby", "-nonInteractive"])
        .ok();
    cluster.start("nn2");
    cluster.await_state("nn2", "standby");

    cluster.run(&["haadmin", "-transitionToActive", "nn1"]).ok();
    cluster.await_state("nn1", "active");
    cluster
        .run(&["dfs", "-mkdir", "-p", "/one/a", "/one/b", "/one/c"])
        .ok();
    cluster.await_equal();
    let names = edits(cluster.dir.path());
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("edits_inprogress")),
        "{names:?}"
    );

    // T-A6: who stops by order is not fenced.
    cluster.run(&["haadmin", "-failover", "nn1", "nn2"]).ok();
    cluster.await_state("nn2", "active");
    cluster.await_state("nn1", "standby");
    assert!(
        !cluster.fenced(),
        "nn1 was fenced although it gave the role up"
    );
    cluster.run(&["dfs", "-mkdir", "/two"]).ok();
    cluster.await_equal();

    // The active hangs: it may write again at any moment, so nobody follows it unfenced (T-A16).
    cluster.signal("nn2", nix::sys::signal::Signal::SIGSTOP);
    let refused = cluster.failover("exit 1", "nn2", "nn1");
    refuses(&refused, "could not be fenced");
    cluster.await_state("nn1", "standby");
    let refused = cluster.run(&["haadmin", "-transitionToActive", "nn1"]);
    refuses(&refused, "-failover nn2 nn1");
    cluster.await_state("nn1", "standby");
    // A fencing method that lies: the hung one still has the directory.
    let refused = cluster.failover("true", "nn2", "nn1");
    refuses(&refused, "locked by another NameNode");
    cluster.await_state("nn1", "standby");

    let kill = format!(
        "kill -9 {} && touch {}",
        cluster.pid("nn2"),
        cluster.path("fenced").display()
    );
    cluster.failover(&kill, "nn2", "nn1").ok();
    assert!(cluster.fenced());
    cluster.await_state("nn1", "active");
    let listed = cluster.run(&["dfs", "-ls", "-C", "/"]).ok().stdout;
    assert_eq!(listed, "/one\n/two\n");
    cluster.run(&["dfs", "-mkdir", "/three"]).ok();

    // The fenced one comes back as a standby, and so does the other: a restart makes nobody active.
    cluster.start("nn2");
    cluster.await_state("nn2", "standby");
    cluster.await_equal();
    cluster.signal("nn1", nix::sys::signal::Signal::SIGKILL);
    cluster.start("nn1");
    cluster.await_state("nn1", "standby");
    cluster.run(&["haadmin", "-transitionToActive", "nn1"]).ok();
    cluster.run(&["dfs", "-test", "-d", "/three"]).ok();
    cluster.await_equal();
    moves_to_another_directory(&mut cluster);
}

/// `-initializeSharedEdits`: the journal goes on in a new directory behind an image.
fn moves_to_another_directory(cluster: &mut Cluster) {
    cluster.run(&["dfsadmin", "-safemode", "enter"]).ok();
    cluster.run(&["dfsadmin", "-saveNamespace"]).ok();
    let refused = cluster.namenode("nn1", &["-initializeSharedEdits"]);
    refuses(&refused, "in use");
    for (_, mut child) in cluster.running.drain(..) {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    let refused = cluster.namenode("nn1", &["-initializeSharedEdits"]);
    refuses(&refused, "holds edits");
    for id in ["nn1", "nn2", "client"] {
        let moved = cluster
            .configuration(id)
            .replace("filer/edits", "filer/new");
        std::fs::write(cluster.conf(id), moved).expect("a file");
    }
    // Without it the empty directory is not taken for the journal.
    cluster.start("nn1");
    cluster.await_state("nn1", "standby");
    let refused = cluster.run(&["haadmin", "-transitionToActive", "--forceactive", "nn1"]);
    refuses(&refused, "not formatted");
    cluster.signal("nn1", nix::sys::signal::Signal::SIGKILL);
    let (_, mut child) = cluster.running.pop().expect("nn1");
    child.wait().expect("it ends");
    cluster.namenode("nn1", &["-initializeSharedEdits"]).ok();
    cluster.start("nn1");
    cluster.await_state("nn1", "standby");
    cluster
        .run(&["haadmin", "-transitionToActive", "--forceactive", "nn1"])
        .ok();
    cluster.run(&["dfs", "-mkdir", "/four"]).ok();
    cluster
        .namenode("nn2", &["-bootstrapStandby", "-force", "-nonInteractive"])
        .ok();
    cluster.start("nn2");
    cluster.await_equal();
    let listed = cluster.run(&["dfs", "-ls", "-C", "/"]).ok().stdout;
    assert_eq!(listed, "/four\n/one\n/three\n/two\n");
}
