//! NameNodes, JournalNodes and clients: the real daemons over virtual time.

use hadal_client::{ClientError, ClientOptions, DistributedFileSystem};
use hadal_env::{Clock, Disk, Env, Expect};
use hadal_namenode::{FormatError, FormatOptions, NamenodeConfig, RunError};
use hadal_namesystem::CheckpointConfig;
use hadal_proto::admin::{NamenodeStats, Request, Response};
use hadal_types::{HaState, Role};
use sim::daemons::{self, journalnode_config};
pub(crate) use sim::daemons::{
    journalnode_address, journalnode_name, namenode_address, namenode_name,
};
use sim::{Crash, NodeId, NodeSpec, SimEnv, World};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

pub(crate) type Dfs = DistributedFileSystem<SimEnv>;
/// What a task that was started has given so far.
pub(crate) type Started<T> = Rc<RefCell<Option<T>>>;
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

pub(crate) const JOURNALNODES: usize = 3;
/// Where a JournalNode keeps its segments.
pub(crate) const EDITS: &str = "/journal/edits";
/// Where a test puts them aside.
pub(crate) const AWAY: &str = "/away";
/// Images are due this often, in milliseconds, where a test wants some.
pub(crate) const PERIOD_MS: u64 = 20_000;

pub(crate) async fn journalnode(env: SimEnv, index: usize) {
    let config = journalnode_config(index, JOURNALNODES);
    let ended = hadal_journalnode::run(env.clone(), config).await;
    env.stop(1, &format!("{ended:?}"));
}

/// What a test chooses.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) namenodes: usize,
    pub(crate) automatic: bool,
    pub(crate) checkpoint: CheckpointConfig,
    /// Of uploads; 0 for no limit.
    pub(crate) image_bytes_per_second: u64,
    /// No NameNode becomes active in safe mode.
    pub(crate) not_become_active_in_safe_mode: bool,
}

pub(crate) fn namenode_config(index: usize, setup: &Setup) -> NamenodeConfig {
    let mut config = daemons::namenode_config(index, setup.namenodes, JOURNALNODES);
    config.ha.automatic = setup.automatic;
    config.ha.not_become_active_in_safe_mode = setup.not_become_active_in_safe_mode;
    config.namesystem.alone = false;
    config.blocks = Default::default();
    config.checkpoint = setup.checkpoint.clone();
    config.image_bytes_per_second = setup.image_bytes_per_second;
    config
}

/// The first one formats the namespace, the others take it over.
pub(crate) async fn namenode(env: SimEnv, index: usize, setup: Setup) {
    let config = namenode_config(index, &setup);
    loop {
        match hadal_namenode::run(env.clone(), config.clone()).await {
            Err(RunError::NotFormatted { .. }) => {}
            Err(error) => return env.stop(1, &error.to_string()),
            Ok(()) => return env.stop(0, "ended"),
        }
        let done = match index {
            0 => {
                let options = FormatOptions {
                    cluster_id: "CID-sim".into(),
                    force: true,
                };
                let formatted = hadal_namenode::format(env.clone(), &config, &options).await;
                matches!(formatted, Ok(_) | Err(FormatError::Exists { .. }))
            }
            _ => hadal_namenode::bootstrap_standby(env.clone(), &config, false)
                .await
                .is_ok(),
        };
        if !done {
            env.sleep_until(env.now().after_ms(200)).await;
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) journalnodes: Vec<NodeId>,
    pub(crate) namenodes: Vec<NodeId>,
    pub(crate) admin: NodeId,
    pub(crate) dfs: Dfs,
}

impl Cluster {
    pub(crate) fn start(seed: u64, setup: &Setup) -> Self {
        let world = World::new(seed);
        let journalnodes = (0..JOURNALNODES).map(|index| {
            let start = move |env: SimEnv| -> Task { Box::pin(journalnode(env, index)) };
            let (name, address) = (journalnode_name(index), journalnode_address(index));
            world.add_node(&name, Role::Journalnode, address, start)
        });
        let journalnodes = journalnodes.collect();
        let namenodes = (0..setup.namenodes).map(|index| {
            let setup = setup.clone();
            let start =
                move |env: SimEnv| -> Task { Box::pin(namenode(env, index, setup.clone())) };
            let (name, address) = (namenode_name(index), namenode_address(index));
            world.add_node(&name, Role::Namenode, address, start)
        });
        let namenodes = namenodes.collect();
        let spec = NodeSpec::new(
            "hdfs",
            Role::Admin,
            SocketAddr::from(([10, 0, 3, 1], 40_000)),
        );
        let admin = world.add_node_with(&spec, |_| -> Task { Box::pin(pending()) });
        let known = (0..setup.namenodes).map(|nn| (namenode_name(nn), namenode_address(nn)));
        let (dfs, background) = Dfs::new(world.env_of(admin), ClientOptions::new(known));
        world.spawn_on(admin, "client background", background.run());
        let cluster = Self {
            world,
            journalnodes,
            namenodes,
            admin,
            dfs,
        };
        let all: Vec<usize> = (0..setup.namenodes).collect();
        let up = |cluster: &Self| all.iter().all(|nn| cluster.state(*nn).is_some());
        cluster.until("all NameNodes are loaded", up);
        cluster
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if done(self) {
                return;
            }
            self.world.run_for(Duration::from_millis(100));
        }
        panic!("not within a minute: {what}");
    }

    pub(crate) fn ask(&self, nn: usize, request: Request) -> Result<Response, ClientError> {
        let dfs = self.dfs.clone();
        self.world.block_on(self.admin, async move {
            let expect = Expect::node(Role::Namenode, namenode_name(nn));
            dfs.admin(namenode_address(nn), &expect, &request).await
        })
    }

    pub(crate) fn state(&self, nn: usize) -> Option<HaState> {
        match self.ask(nn, Request::GetStatus) {
            Ok(Response::Status { status }) if status.state != HaState::Initializing => {
                Some(status.state)
            }
            _ => None,
        }
    }

    /// `haadmin -transitionToActive --forceactive`; what it says when it fails.
    pub(crate) fn order_active(&self, nn: usize) -> Result<(), String> {
        let request = Request::Transition {
            to: HaState::Active,
            force: true,
        };
        match self.ask(nn, request) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn mkdirs(&self, path: &str) {
        let (dfs, path) = (self.dfs.clone(), path.to_owned());
        let made = self.world.block_on(
            self.admin,
            async move { dfs.mkdirs(&path, 0o755, true).await },
        );
        assert!(made.expect("a directory"));
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        let (dfs, path) = (self.dfs.clone(), path.to_owned());
        let status = self
            .world
            .block_on(self.admin, async move { dfs.try_file_status(&path).await });
        status.expect("an answer").is_some()
    }

    /// A client of its own machine that knows the NameNodes `known`.
    pub(crate) fn client(&self, name: &str, known: &[usize], window_ms: u64) -> (NodeId, Dfs) {
        let node = self.world.add_client(name);
        let known = known
            .iter()
            .map(|nn| (namenode_name(*nn), namenode_address(*nn)));
        let mut options = ClientOptions::new(known);
        options.failover.window_ms = window_ms;
        let (dfs, background) = Dfs::new(self.world.env_of(node), options);
        self.world
            .spawn_on(node, "client background", background.run());
        (node, dfs)
    }

    /// Runs `task` on a node; its result and how long it took, in virtual milliseconds.
    pub(crate) fn timed<T: 'static>(
        &self,
        node: NodeId,
        task: impl Future<Output = T> + 'static,
    ) -> (T, u64) {
        let before = self.world.now();
        let value = self.world.block_on(node, task);
        (value, (self.world.now() - before).as_millis() as u64)
    }

    /// Starts `task` on a node; its result is there once it has ended.
    pub(crate) fn begin<T: 'static>(
        &self,
        node: NodeId,
        task: impl Future<Output = T> + 'static,
    ) -> Started<T> {
        let slot = Rc::new(RefCell::new(None));
        let result = Rc::clone(&slot);
        self.world
            .spawn_on(node, "started by the test", async move {
                let value = task.await;
                *result.borrow_mut() = Some(value);
            });
        slot
    }

    /// Asks a NameNode from the admin's machine, without waiting for the answer.
    pub(crate) fn begin_asking(
        &self,
        nn: usize,
        request: Request,
    ) -> Started<Result<Response, ClientError>> {
        let dfs = self.dfs.clone();
        self.begin(self.admin, async move {
            let expect = Expect::node(Role::Namenode, namenode_name(nn));
            dfs.admin(namenode_address(nn), &expect, &request).await
        })
    }

    /// `debug nn-stats`.
    pub(crate) fn stats(&self, nn: usize) -> NamenodeStats {
        match self.ask(nn, Request::NamenodeStats) {
            Ok(Response::NamenodeStats { stats }) => stats,
            other => panic!("nn{}: {other:?}", nn + 1),
        }
    }

    /// The NameNode that is active.
    pub(crate) fn active(&self) -> Option<usize> {
        (0..self.namenodes.len()).find(|nn| self.state(*nn) == Some(HaState::Active))
    }

    /// Makes a directory that everybody may write to.
    pub(crate) fn mkdirs_for_all(&self, path: &str) {
        let (dfs, path) = (self.dfs.clone(), path.to_owned());
        let made = self.world.block_on(
            self.admin,
            async move { dfs.mkdirs(&path, 0o777, true).await },
        );
        assert!(made.expect("a directory"));
    }

    /// All disks of JournalNodes take `factor` times as long.
    pub(crate) fn slow_journal(&self, factor: u64) {
        for jn in &self.journalnodes {
            self.world.disk_of(*jn).set_slow(factor);
        }
    }

    /// Names of the files a NameNode or JournalNode has whose names begin so.
    pub(crate) fn files(&self, node: NodeId, start: &str) -> Vec<String> {
        let files = self.world.disk_of(node).files().into_iter();
        let names = files.filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_owned()));
        names.filter(|name| name.starts_with(start)).collect()
    }

    /// Moves the finalised segments of every JournalNode, and starts all of them again.
    pub(crate) fn move_segments(&self, from: &'static str, to: &'static str) {
        for jn in &self.journalnodes {
            let env = self.world.env_of(*jn);
            let moved = self.world.block_on(*jn, async move {
                let (disk, from, to) = (env.disk(), Path::new(from), Path::new(to));
                disk.create_dir_all(to).await.unwrap();
                let mut moved = 0;
                for entry in disk.read_dir(from).await.unwrap() {
                    let finalised = entry.name.strip_prefix("edits_0");
                    if finalised.is_some_and(|rest| rest.contains('-')) {
                        disk.rename(&from.join(&entry.name), &to.join(&entry.name))
                            .await
                            .unwrap();
                        moved += 1;
                    }
                }
                disk.sync_dir(from).await.unwrap();
                disk.sync_dir(to).await.unwrap();
                moved
            });
            assert!(moved > 0, "no finalised segment in {from}");
        }
        for jn in &self.journalnodes {
            self.world.crash(*jn, Crash::Process);
            self.world.restart(*jn);
        }
    }

    /// Txids of the images a NameNode has.
    pub(crate) fn images(&self, nn: usize) -> BTreeSet<u64> {
        let files = self.world.disk_of(self.namenodes[nn]).files();
        let names = files.iter().filter_map(|(path, _)| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix("fsimage_")?.parse().ok()
        });
        names.collect()
    }
}

/// Two NameNodes whose roles only orders move.
pub(crate) fn manual() -> Setup {
    Setup {
        namenodes: 2,
        automatic: false,
        checkpoint: CheckpointConfig::default(),
        image_bytes_per_second: 0,
        not_become_active_in_safe_mode: false,
    }
}

/// Two NameNodes that find their roles.
pub(crate) fn automatic() -> Setup {
    Setup {
        automatic: true,
        ..manual()
    }
}
