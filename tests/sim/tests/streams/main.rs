//! Files being written, flushed, appended to, cut and read while nodes fail: the real client against the real daemons
//! over virtual time. Scenarios of behaviour.md 6.11 and 6.12 by id.

mod first_block;
mod pipelines;
mod reads;
mod restarts;
mod syncs;

use hadal_client::{
    AppendOptions, ClientError, ClientOptions, CreateOptions, DfsOutputStream,
    DistributedFileSystem, FaultClass, ReplacePolicy, SyncOptions,
};
use hadal_env::Clock;
use hadal_types::{GenerationStamp, Role};
use sim::daemons::{
    SUPERUSER, await_datanodes, datanode_address, datanode_name, datanode_of_one,
    journalnode_address, journalnode_name, namenode_address, namenode_name, only_journalnode,
    only_namenode,
};
use sim::{Crash, NodeId, NodeSpec, Rng, SimEnv, Stream, World};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

type Dfs = DistributedFileSystem<SimEnv>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Bytes per checksum.
const CHUNK: u64 = 4096;
/// Bytes per block.
const BLOCK: u64 = 32 << 10;

struct Cluster {
    world: World,
    datanodes: Rc<Vec<NodeId>>,
    client: NodeId,
}

impl Cluster {
    fn start(seed: u64, datanodes: usize) -> Self {
        let world = World::new(seed);
        let start = |env: SimEnv| -> Task { Box::pin(only_journalnode(env)) };
        let (name, address) = (journalnode_name(0), journalnode_address(0));
        world.add_node(&name, Role::Journalnode, address, start);
        let start = |env: SimEnv| -> Task { Box::pin(only_namenode(env, BLOCK)) };
        let (name, address) = (namenode_name(0), namenode_address(0));
        world.add_node(&name, Role::Namenode, address, start);
        let datanodes = (0..datanodes)
            .map(|index| {
                let start = move |env: SimEnv| -> Task { Box::pin(datanode_of_one(env, index)) };
                let name = datanode_name(index);
                world.add_node(&name, Role::Datanode, datanode_address(index), start)
            })
            .collect();
        let address = SocketAddr::from(([10, 0, 3, 1], 40_000));
        let idle = |_: SimEnv| -> Task { Box::pin(std::future::pending()) };
        let client = world.add_node_with(&NodeSpec::new(SUPERUSER, Role::Admin, address), idle);
        let cluster = Self {
            world,
            datanodes: Rc::new(datanodes),
            client,
        };
        let wanted = cluster.datanodes.len();
        // Writers need all nodes.
        cluster.run(move |scene| async move {
            await_datanodes(&scene.env, &scene.dfs, wanted).await;
        });
        cluster
    }

    fn run<T: 'static, F: Future<Output = T> + 'static>(&self, task: impl FnOnce(Scene) -> F) -> T {
        self.run_with(|_| {}, task)
    }

    /// Runs a task with a client of these options.
    fn run_with<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        change: impl FnOnce(&mut ClientOptions),
        task: impl FnOnce(Scene) -> F,
    ) -> T {
        let dfs = self.dfs(change);
        let scene = Scene {
            dfs,
            env: self.world.env_of(self.client),
            datanodes: Rc::clone(&self.datanodes),
        };
        self.world.block_on(self.client, task(scene))
    }

    fn dfs(&self, change: impl FnOnce(&mut ClientOptions)) -> Dfs {
        let mut options = ClientOptions::new([(namenode_name(0), namenode_address(0))]);
        options.packet_bytes = 8 << 10;
        options.write_window_bytes = 32 << 10;
        // Longer than a connection of the world takes to notice that its peer is dead: else a live node is blamed.
        options.stream_timeout_ms = 20_000;
        change(&mut options);
        let (dfs, background) = Dfs::new(self.world.env_of(self.client), options);
        self.world
            .spawn_on(self.client, "background", background.run());
        dfs
    }
}

/// What a test works with inside the world.
struct Scene {
    dfs: Dfs,
    env: SimEnv,
    datanodes: Rc<Vec<NodeId>>,
}

impl Scene {
    async fn wait(&self, ms: u64) {
        self.env.sleep_until(self.env.now().after_ms(ms)).await;
    }

    /// A new file, with as many copies as asked for.
    async fn create(&self, path: &str, replication: Option<u16>) -> DfsOutputStream<SimEnv> {
        let options = CreateOptions {
            replication,
            ..CreateOptions::default()
        };
        self.dfs.create(path, &options).await.expect("made")
    }

    /// Stamp and pipeline of the last block.
    async fn last_block(&self, path: &str) -> (GenerationStamp, Vec<String>) {
        let located = self.dfs.locations(path, 0, u64::MAX).await.expect("found");
        let last = located.blocks.last().expect("it has a block");
        let nodes = last.locations.iter().map(|node| node.name.clone());
        (last.block.generation_stamp, nodes.collect())
    }

    async fn stamp(&self, path: &str) -> GenerationStamp {
        self.last_block(path).await.0
    }

    async fn read(&self, path: &str) -> Vec<u8> {
        let mut file = self.dfs.open(path).await.expect("it opens");
        file.read_to_end().await.expect("it is read")
    }

    async fn make(&self, path: &str, content: &[u8]) {
        let mut file = self.create(path, None).await;
        file.write_all(content).await.expect("written");
        file.close().await.expect("closed");
    }

    async fn append(&self, path: &str, content: &[u8]) -> Result<(), ClientError> {
        let mut file = self.dfs.append(path, &AppendOptions::default()).await?;
        file.write_all(content).await?;
        file.close().await
    }

    /// The node that is `position`-th in the pipeline of the file's last block.
    async fn pipeline_node(&self, path: &str, position: usize) -> NodeId {
        let (_, nodes) = self.last_block(path).await;
        let node = self.env.world().node(&nodes[position]);
        node.expect("a DataNode of that name")
    }

    async fn kill(&self, node: NodeId) {
        self.env.world().crash(node, Crash::Process);
    }

    async fn length(&self, path: &str) -> u64 {
        self.dfs.file_status(path).await.expect("there").length
    }
}

fn content(length: u64, seed: u64) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(31).wrapping_add(seed * 7) ^ (at >> 9)) as u8)
        .collect()
}

/// T-P17: readers opened after a flush see what was flushed, whatever part of a chunk or block it ends in.
#[test]
fn t_p17_flushed_bytes_are_seen_by_new_readers() {
    for sync in [false, true] {
        let cluster = Cluster::start(1, 3);
        cluster.run(move |scene| async move {
            let all = content(3 * BLOCK / 2 + 37, 1);
            let mut file = scene.create("/f", None).await;
            let section = all.len().div_ceil(10);
            let mut written = 0;
            for part in all.chunks(section) {
                file.write_all(part).await.expect("written");
                written += part.len();
                match sync {
                    true => file.hsync().await,
                    false => file.hflush().await,
                }
                .expect("flushed");
                let seen = scene.read("/f").await;
                assert!(seen.len() >= written, "{} of {written} bytes", seen.len());
                assert!(seen == all[..seen.len()]);
            }
            file.close().await.expect("closed");
            assert!(scene.read("/f").await == all);
        });
    }
}

/// T-P18: hsync with update-length records the length, with end-block ends the block.
#[test]
fn t_p18_hsync_records_the_length_or_ends_the_block() {
    let cluster = Cluster::start(2, 3);
    cluster.run(|scene| async move {
        let update = SyncOptions {
            update_length: true,
            ..SyncOptions::default()
        };
        let mut file = scene.create("/f", None).await;
        file.hsync_with(update).await.expect("nothing to sync");
        assert_eq!(scene.length("/f").await, 0);
        let all = content(BLOCK + 5_000, 2);
        let mut written = 0;
        for part in all.chunks(7_001) {
            file.write_all(part).await.expect("written");
            file.hsync_with(update).await.expect("synced");
            written += part.len() as u64;
            assert_eq!(scene.length("/f").await, written);
        }
        file.close().await.expect("closed");

        let end = SyncOptions {
            end_block: true,
            ..SyncOptions::default()
        };
        let mut file = scene.create("/g", None).await;
        for part in all[..5_000].chunks(1_000) {
            file.write_all(part).await.expect("written");
            file.hsync_with(end).await.expect("synced");
        }
        file.close().await.expect("closed");
        let located = scene.dfs.locations("/g", 0, u64::MAX).await.expect("found");
        assert_eq!(located.blocks.len(), 5);
        assert!(scene.read("/g").await == all[..5_000]);
    });
}

/// T-P22: the DataNode a reader would ask for the visible length is dead: another is asked.
#[test]
fn t_p22_another_node_is_asked_for_the_visible_length() {
    let cluster = Cluster::start(3, 3);
    cluster.run(|scene| async move {
        let all = content(10_000, 3);
        let mut file = scene.create("/f", None).await;
        file.write_all(&all).await.expect("written");
        file.hflush().await.expect("flushed");
        let first = scene.pipeline_node("/f", 0).await;
        scene.kill(first).await;
        assert!(scene.read("/f").await == all);
    });
}

/// F-10: appends of all alignments against the last chunk and the last block.
#[test]
fn f10_appends_go_on_at_every_alignment() {
    let cluster = Cluster::start(4, 3);
    cluster.run(|scene| async move {
        let lengths = [
            0,
            1,
            CHUNK - 1,
            CHUNK,
            CHUNK + 1,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            2 * BLOCK + 3 * CHUNK + 17,
        ];
        for (number, length) in lengths.into_iter().enumerate() {
            let path = format!("/f{number}");
            let mut all = content(length, 4);
            scene.make(&path, &all).await;
            for added in [0, 1, 5_000, BLOCK] {
                let more = content(added, 5 + added);
                scene.append(&path, &more).await.expect("appended");
                all.extend(more);
                assert!(scene.read(&path).await == all, "{length} and {added}");
                assert_eq!(scene.length(&path).await, all.len() as u64);
            }
        }
    });
}

/// F-10: appended bytes are flushed and read while the file is open; a new block is begun when that is asked for.
#[test]
fn an_append_is_flushed_for_readers_and_may_begin_a_new_block() {
    let cluster = Cluster::start(5, 3);
    cluster.run(|scene| async move {
        let mut all = content(6_000, 6);
        scene.make("/f", &all).await;
        let options = AppendOptions::default();
        let mut file = scene.dfs.append("/f", &options).await.expect("opened");
        assert_eq!(file.position(), 6_000);
        assert!(scene.read("/f").await == all, "read while open");
        file.write_all(b"more").await.expect("written");
        file.hflush().await.expect("flushed");
        all.extend(b"more");
        assert!(scene.read("/f").await == all);
        // T-L22: another client cannot append meanwhile.
        let refused = scene.dfs.append("/f", &options).await.err();
        assert!(refused.is_some(), "it is open already");
        file.close().await.expect("closed");
        let fresh = AppendOptions { new_block: true };
        let mut file = scene.dfs.append("/f", &fresh).await.expect("opened");
        file.write_all(b"block").await.expect("written");
        file.close().await.expect("closed");
        all.extend(b"block");
        assert!(scene.read("/f").await == all);
        let located = scene.dfs.locations("/f", 0, u64::MAX).await.expect("found");
        assert_eq!(located.blocks.len(), 2);
    });
}

/// T-P9, T-P14: with policy ALWAYS a dead node's place is taken by another, which gets the bytes there are first.
#[test]
fn t_p14_a_dead_node_is_replaced_with_its_bytes() {
    for (seed, position) in [(6, 0), (7, 1), (8, 2)] {
        let cluster = Cluster::start(seed, 4);
        let always = |options: &mut ClientOptions| {
            options.replacement.policy = ReplacePolicy::Always;
        };
        cluster.run_with(always, move |scene| async move {
            let all = content(BLOCK - 100, seed);
            let mut file = scene.create("/f", None).await;
            let (before, after) = all.split_at(9_001);
            file.write_all(before).await.expect("written");
            file.hflush().await.expect("flushed");
            let names = async || {
                let found = scene.dfs.locations("/f", 0, u64::MAX).await.expect("found");
                let nodes = found.blocks[0].locations.iter();
                nodes.map(|node| node.name.clone()).collect::<Vec<_>>()
            };
            let pipeline = names().await;
            let victim = scene.pipeline_node("/f", position).await;
            scene.kill(victim).await;
            file.write_all(after).await.expect("goes on");
            file.close().await.expect("closed");
            let now = names().await;
            assert_eq!(now.len(), 3, "full replication");
            // T-P9: what the one that joined has is the whole file.
            let (old, joined): (Vec<_>, Vec<_>) =
                now.iter().partition(|name| pipeline.contains(name));
            assert_eq!(joined.len(), 1);
            for name in old {
                let node = scene.env.world().node(name);
                scene.kill(node.expect("a DataNode of that name")).await;
            }
            assert!(scene.read("/f").await == all);
        });
    }
}

/// T-P15: too few nodes for the policy: the append of relied-on bytes fails by name, with best effort it works.
#[test]
fn t_p15_without_another_node_an_append_fails_unless_best_effort() {
    let cluster = Cluster::start(9, 3);
    let scene = |scene: Scene| async move {
        scene.make("/f", b"one").await;
        let victim = scene.datanodes[0];
        scene.kill(victim).await;
        // The NameNode takes it for dead.
        scene.wait(8_000).await;
        let error = scene
            .append("/f", b"two")
            .await
            .expect_err("two are too few");
        assert!(
            matches!(&error, ClientError::Pipeline(_)) && error.to_string().contains("replace"),
            "{error}"
        );
    };
    cluster.run(scene);
    let best = |options: &mut ClientOptions| options.replacement.best_effort = true;
    cluster.run_with(best, |scene| async move {
        scene.make("/g", b"one").await;
        scene.append("/g", b"two").await.expect("best effort");
        assert_eq!(scene.read("/g").await, b"onetwo");
    });
}

/// T-P11: a node dies before the end, one while closing; the file is whole, and the NameNode mends the rest.
#[test]
fn t_p11_nodes_die_around_close() {
    let cluster = Cluster::start(10, 4);
    let best = |options: &mut ClientOptions| options.replacement.best_effort = true;
    cluster.run_with(best, |scene| async move {
        let all = content(BLOCK - 1, 10);
        let mut file = scene.create("/f", None).await;
        file.write_all(&all).await.expect("written");
        file.hflush().await.expect("flushed");
        let (first, second) = (
            scene.pipeline_node("/f", 1).await,
            scene.pipeline_node("/f", 2).await,
        );
        scene.kill(first).await;
        let world = scene.env.world();
        world.at(Duration::from_millis(1), move |world| {
            world.crash(second, Crash::Process);
        });
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// T-T1, T-T11 in small: appends and cuts of random lengths against a copy in memory.
#[test]
fn t_t11_appends_and_cuts_match_a_mirror() {
    let cluster = Cluster::start(11, 3);
    cluster.run(|scene| async move {
        let mut rng = Rng::new(11, Stream::Schedule, 77);
        let mut mirror = content(10_000, 11);
        scene.make("/f", &mirror).await;
        for round in 0..40 {
            if rng.range(0, 1) == 0 {
                let more = content(rng.range(0, 2 * BLOCK), round);
                scene.append("/f", &more).await.expect("appended");
                mirror.extend(more);
            } else {
                let length = match rng.range(0, 2) {
                    0 => rng.range(0, mirror.len() as u64 / BLOCK) * BLOCK,
                    _ => rng.range(0, mirror.len() as u64),
                };
                let done = scene.dfs.truncate_and_wait("/f", length, 60_000).await;
                assert!(done.expect("cut"), "recovery ends");
                mirror.truncate(length as usize);
            }
            assert_eq!(scene.length("/f").await, mirror.len() as u64);
            assert!(scene.read("/f").await == mirror, "round {round}");
        }
    });
}

/// T-L15, T-H22: a file whose writer is gone is closed at its flushed length when another asks for it.
#[test]
fn t_l15_the_lease_of_a_writer_that_left_is_recovered() {
    let cluster = Cluster::start(12, 3);
    cluster.run(|scene| async move {
        let all = content(7_777, 12);
        let mut file = scene.create("/f", None).await;
        file.write_all(&all).await.expect("written");
        file.hflush().await.expect("flushed");
        drop(file);
        let closed = scene.dfs.recover_lease_and_wait("/f", 60_000).await;
        assert!(closed.expect("recovered"), "recovery ends");
        assert!(scene.read("/f").await == all);
        scene
            .append("/f", b"!")
            .await
            .expect("it can be appended to");
        assert_eq!(scene.length("/f").await, 7_778);
    });
}

/// E-02: the client renews its one lease before the soft limit passes, for all its files: after three minutes of silence
/// nobody may take them, and it writes on.
#[test]
fn e02_an_idle_writer_keeps_its_lease() {
    let cluster = Cluster::start(14, 1);
    let other = cluster.dfs(|_| {});
    cluster.run(|scene| async move {
        let mut files = Vec::new();
        for path in ["/a", "/b"] {
            files.push(scene.create(path, None).await);
        }
        scene.wait(180_000).await;
        for (path, file) in ["/a", "/b"].into_iter().zip(&mut files) {
            let refused = other.append(path, &AppendOptions::default()).await;
            let class = refused.err().and_then(|error| error.class());
            assert_eq!(class, Some(FaultClass::AlreadyBeingCreated), "{path}");
            file.write_all(b"still mine").await.expect("written");
        }
        for mut file in files {
            file.close().await.expect("closed");
        }
    });
}

/// T-T3: each misuse of truncate has its own error.
#[test]
fn t_t3_misuses_of_truncate_are_told_apart() {
    let cluster = Cluster::start(13, 3);
    cluster.run(|scene| async move {
        scene.make("/f", b"12345").await;
        scene.dfs.mkdirs("/d", 0o755, true).await.expect("made");
        let class = async |path: &str, length| {
            let outcome = scene.dfs.truncate(path, length).await;
            outcome.expect_err("refused").class()
        };
        assert_eq!(class("/f", 6).await, Some(FaultClass::InvalidArgument));
        assert_eq!(class("/none", 0).await, Some(FaultClass::NotFound));
        assert!(class("/d", 0).await.is_some());
        assert!(scene.dfs.truncate("/f", 5).await.expect("nothing to cut"));
        let joined = scene.dfs.concat("/f", &["/none".into()]).await;
        assert_eq!(
            joined.expect_err("refused").class(),
            Some(FaultClass::NotFound)
        );
    });
}
