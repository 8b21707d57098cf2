//! NameNodes whose roles an operator moves, or that make images for each other: the real daemons over virtual time.
//! Scenarios of behaviour.md 6.6 to 6.8 by id.

use hadal_client::{ClientError, ClientOptions, DistributedFileSystem};
use hadal_env::{Clock, Disk, Env, Expect};
use hadal_journalnode::JournalnodeConfig;
use hadal_namenode::{
    FormatError, FormatOptions, HaSettings, JournalnodePeer, NamenodeConfig, NamenodePeer, RunError,
};
use hadal_namesystem::{CheckpointConfig, NamesystemConfig};
use hadal_proto::admin::{Request, Response};
use hadal_types::{HaState, Role};
use sim::{Crash, NodeId, NodeSpec, SimEnv, Status, World};
use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

type Dfs = DistributedFileSystem<SimEnv>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

const JOURNALNODES: usize = 3;
/// Where a JournalNode keeps its segments.
const EDITS: &str = "/journal/edits";
/// Where a test puts them aside.
const AWAY: &str = "/away";
/// Images are due this often, in milliseconds, where a test wants some.
const PERIOD_MS: u64 = 20_000;

fn journalnode_name(index: usize) -> String {
    format!("jn{}", index + 1)
}

fn journalnode_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 8485))
}

fn namenode_name(index: usize) -> String {
    format!("nn{}", index + 1)
}

fn namenode_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, index as u8 + 1], 8020))
}

async fn journalnode(env: SimEnv, index: usize) {
    let peers = (0..JOURNALNODES).filter(|peer| *peer != index);
    let peers = peers.map(|peer| (journalnode_name(peer), journalnode_address(peer)));
    let config = JournalnodeConfig::new(
        journalnode_name(index),
        PathBuf::from("/journal"),
        peers.collect(),
    );
    let ended = hadal_journalnode::run(env.clone(), config).await;
    env.stop(1, &format!("{ended:?}"));
}

/// What a test chooses.
#[derive(Clone)]
struct Setup {
    namenodes: usize,
    automatic: bool,
    checkpoint: CheckpointConfig,
}

fn namenode_config(index: usize, setup: &Setup) -> NamenodeConfig {
    let peers = (0..setup.namenodes).filter(|peer| *peer != index);
    NamenodeConfig {
        name: namenode_name(index),
        dir: PathBuf::from("/name"),
        journalnodes: (0..JOURNALNODES)
            .map(|index| JournalnodePeer {
                name: journalnode_name(index),
                address: journalnode_address(index),
            })
            .collect(),
        shared_edits_dir: None,
        peers: peers
            .map(|peer| NamenodePeer {
                name: namenode_name(peer),
                address: namenode_address(peer),
            })
            .collect(),
        ha: HaSettings {
            automatic: setup.automatic,
            ..HaSettings::default()
        },
        namesystem: NamesystemConfig {
            superuser: "hdfs".into(),
            ..NamesystemConfig::default()
        },
        blocks: Default::default(),
        groups: Arc::new(|_| Vec::new()),
        hosts: Arc::new(|| Ok(Default::default())),
        batches_in_flight: 4,
        software: "simulated".into(),
        images_retained: 2,
        extra_edits_retained: 1_000_000,
        planted: Default::default(),
        election_planted: Default::default(),
        checkpoint: setup.checkpoint.clone(),
        image_bytes_per_second: 0,
    }
}

/// The first one formats the namespace, the others take it over.
async fn namenode(env: SimEnv, index: usize, setup: Setup) {
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

struct Cluster {
    world: World,
    journalnodes: Vec<NodeId>,
    namenodes: Vec<NodeId>,
    admin: NodeId,
    dfs: Dfs,
}

impl Cluster {
    fn start(seed: u64, setup: &Setup) -> Self {
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
    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if done(self) {
                return;
            }
            self.world.run_for(Duration::from_millis(100));
        }
        panic!("not within a minute: {what}");
    }

    fn ask(&self, nn: usize, request: Request) -> Result<Response, ClientError> {
        let dfs = self.dfs.clone();
        self.world.block_on(self.admin, async move {
            let expect = Expect::node(Role::Namenode, namenode_name(nn));
            dfs.admin(namenode_address(nn), &expect, &request).await
        })
    }

    fn state(&self, nn: usize) -> Option<HaState> {
        match self.ask(nn, Request::GetStatus) {
            Ok(Response::Status { status }) if status.state != HaState::Initializing => {
                Some(status.state)
            }
            _ => None,
        }
    }

    /// `haadmin -transitionToActive --forceactive`; what it says when it fails.
    fn order_active(&self, nn: usize) -> Result<(), String> {
        let request = Request::Transition {
            to: HaState::Active,
            force: true,
        };
        match self.ask(nn, request) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn mkdirs(&self, path: &str) {
        let (dfs, path) = (self.dfs.clone(), path.to_owned());
        let made = self.world.block_on(
            self.admin,
            async move { dfs.mkdirs(&path, 0o755, true).await },
        );
        assert!(made.expect("a directory"));
    }

    fn exists(&self, path: &str) -> bool {
        let (dfs, path) = (self.dfs.clone(), path.to_owned());
        let status = self
            .world
            .block_on(self.admin, async move { dfs.try_file_status(&path).await });
        status.expect("an answer").is_some()
    }

    /// Moves the finalised segments of every JournalNode, and starts all of them again.
    fn move_segments(&self, from: &'static str, to: &'static str) {
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
    fn images(&self, nn: usize) -> BTreeSet<u64> {
        let files = self.world.disk_of(self.namenodes[nn]).files();
        let names = files.iter().filter_map(|(path, _)| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix("fsimage_")?.parse().ok()
        });
        names.collect()
    }
}

fn manual() -> Setup {
    Setup {
        namenodes: 2,
        automatic: false,
        checkpoint: CheckpointConfig::default(),
    }
}

/// T-A7, and the bad input of an operator who tells both to become active: the second is refused by the name of the
/// first, there are never two, and once the first is gone the second may.
#[test]
fn t_a7_both_are_told_to_become_active() {
    let cluster = Cluster::start(21, &manual());
    assert_eq!(
        cluster.state(0),
        Some(HaState::Standby),
        "nobody stands by itself"
    );
    assert_eq!(cluster.order_active(0), Ok(()));
    let said = cluster.order_active(1).expect_err("refused");
    assert!(said.contains("nn1 is active"), "{said}");
    assert_eq!(cluster.state(0), Some(HaState::Active));
    assert_eq!(cluster.state(1), Some(HaState::Standby));
    cluster.mkdirs("/by-the-first");
    cluster.world.crash(cluster.namenodes[0], Crash::Process);
    cluster.until("the second is active", |cluster| {
        cluster.order_active(1).is_ok()
    });
    assert!(cluster.exists("/by-the-first"));
    cluster.world.restart(cluster.namenodes[0]);
    cluster.until("the first is back", |cluster| {
        cluster.state(0) == Some(HaState::Standby)
    });
    assert_eq!(cluster.state(1), Some(HaState::Active));
}

/// T-H26: one that reaches no JournalNode does not become active and says whom it misses; afterwards it may.
#[test]
fn t_h26_promotion_without_the_journal() {
    let cluster = Cluster::start(22, &manual());
    assert_eq!(cluster.order_active(0), Ok(()));
    cluster.mkdirs("/a");
    cluster.world.crash(cluster.namenodes[0], Crash::Process);
    for jn in &cluster.journalnodes {
        cluster.world.cut(cluster.namenodes[1], *jn);
    }
    let said = cluster.order_active(1).expect_err("no journal");
    for name in ["jn1", "jn2", "jn3"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert_eq!(cluster.state(1), Some(HaState::Standby));
    cluster.world.heal();
    cluster.until("it becomes active", |cluster| {
        cluster.order_active(1).is_ok()
    });
    assert!(cluster.exists("/a"));
}

/// T-H25, T-H26, Q19: edits are missing on every JournalNode. The promotion fails with the range and who was asked, the
/// NameNode goes on as a standby, and once the segments are back it becomes active with everything.
#[test]
fn t_h25_t_h26_q19_a_gap_fails_the_promotion_not_the_process() {
    let cluster = Cluster::start(23, &manual());
    assert_eq!(cluster.order_active(0), Ok(()));
    for at in 0..5 {
        cluster.mkdirs(&format!("/{at}"));
    }
    assert!(cluster.ask(0, Request::RollEdits).is_ok());
    cluster.mkdirs("/behind");
    for nn in &cluster.namenodes {
        cluster.world.crash(*nn, Crash::Process);
    }
    cluster.move_segments(EDITS, AWAY);
    cluster.world.restart(cluster.namenodes[1]);
    cluster.until("it is loaded", |cluster| {
        cluster.state(1) == Some(HaState::Standby)
    });
    let life = cluster.world.life(cluster.namenodes[1]);
    let said = cluster.order_active(1).expect_err("edits are missing");
    for word in [
        "gap in the edit log",
        "expected txid 1,",
        "jn1",
        "jn2",
        "jn3",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(cluster.world.status(cluster.namenodes[1]), Status::Up);
    assert_eq!(cluster.world.life(cluster.namenodes[1]), life);
    assert_eq!(cluster.state(1), Some(HaState::Standby));
    cluster.move_segments(AWAY, EDITS);
    cluster.until("it becomes active", |cluster| {
        cluster.state(1) == Some(HaState::Active) || cluster.order_active(1).is_ok()
    });
    for path in ["/0", "/4", "/behind"] {
        assert!(cluster.exists(path), "{path}");
    }
}

/// C-07, T-C1, T-C9, Q26: three NameNodes, one standby down for ten periods. One image per period, each published at the
/// active too; the one that was down gets images without anybody making more.
#[test]
fn t_c1_t_c9_q26_one_of_three_namenodes_is_down() {
    let setup = Setup {
        namenodes: 3,
        automatic: false,
        checkpoint: CheckpointConfig {
            period_ms: PERIOD_MS,
            check_ms: 1_000,
            ..CheckpointConfig::default()
        },
    };
    let cluster = Cluster::start(24, &setup);
    assert_eq!(cluster.order_active(0), Ok(()));
    let (mut made, mut arrived) = (BTreeSet::new(), BTreeSet::new());
    let mut live = |name: &str, periods: u64| {
        made.clear();
        arrived.clear();
        let seconds = periods * PERIOD_MS / 1_000;
        for second in 0..seconds {
            cluster.mkdirs(&format!("/{name}-{second}"));
            cluster.world.run_for(Duration::from_secs(1));
            made.extend(cluster.images(1));
            arrived.extend(cluster.images(0));
        }
        (made.clone(), arrived.clone())
    };
    cluster.world.crash(cluster.namenodes[2], Crash::Process);
    let (made, arrived) = live("down", 10);
    assert!((8..=11).contains(&made.len()), "{made:?}");
    assert!(
        arrived.len() >= 6 && arrived.is_subset(&made),
        "{arrived:?} of {made:?}"
    );
    cluster.world.restart(cluster.namenodes[2]);
    let (made, arrived) = live("back", 5);
    assert!(made.len() <= 8, "{made:?}");
    assert!(!arrived.is_empty());
    let newest = |nn| cluster.images(nn).pop_last();
    assert!(newest(2).is_some() && newest(2) >= arrived.iter().next().copied());
}
