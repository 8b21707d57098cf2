//! DataNodes that leave running pipelines on purpose: restarts that are announced, evicted writers, slow nodes.

use super::*;
use hadal_env::Expect;
use hadal_proto::admin::{Request, Response};

impl Scene {
    async fn order(&self, name: &str, request: &Request) {
        let index: usize = name[2..].parse().expect("dnN");
        let expect = Expect::node(Role::Datanode, name.to_owned());
        let address = datanode_address(index - 1);
        let answer = self.dfs.admin(address, &expect, request).await;
        assert_eq!(answer.expect("an answer"), Response::Done);
    }

    /// `dfsadmin -shutdownDatanode NAME upgrade`; the process starts again after `back_ms`, if it is to.
    async fn upgrade(&self, name: &str, back_ms: Option<u64>) {
        let world = self.env.world();
        let node = world.node(name).expect("a DataNode");
        self.order(name, &Request::ShutdownDatanode { for_upgrade: true })
            .await;
        if let Some(back_ms) = back_ms {
            world.at(Duration::from_millis(2_000 + back_ms), move |world| {
                assert!(!world.is_up(node), "it ended before");
                world.restart(node);
            });
        }
    }
}

/// T-P5: the only DataNode of a pipeline restarts within the window: the write goes on there, from where it was, under a
/// new stamp; readers see what was flushed all along.
#[test]
fn t_p5_the_only_datanode_restarts_and_the_write_goes_on_there() {
    let cluster = Cluster::start(40, 1);
    cluster.run(|scene| async move {
        let all = content(4 * BLOCK / 5, 40);
        let mut file = scene.create("/f", Some(1)).await;
        file.write_all(&all[..9_001]).await.expect("written");
        file.hflush().await.expect("flushed");
        let (before, nodes) = scene.last_block("/f").await;
        // Twice, so that a replica that was kept open once is kept open again.
        for (round, end) in [15_000, 20_011].into_iter().enumerate() {
            scene.upgrade("dn1", Some(3_000 * round as u64)).await;
            let at = file.position() as usize;
            file.write_all(&all[at..end]).await.expect("written");
            file.hflush().await.expect("flushed");
            assert!(scene.read("/f").await == all[..end]);
        }
        let (after, same) = scene.last_block("/f").await;
        assert!(after > before, "{after} after {before}");
        assert_eq!(same, nodes);
        file.write_all(&all[20_011..]).await.expect("written");
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// T-P5: one of two does not come back. The one on the writer's host is waited for first; the write goes on with the other
/// either way.
#[test]
fn t_p5_the_other_goes_on_when_one_of_two_does_not_come_back() {
    for local in [false, true] {
        let cluster = Cluster::start(41 + u64::from(local), 2);
        let host = |options: &mut ClientOptions| {
            if local {
                options.host = datanode_address(0).ip().to_string();
            }
        };
        cluster.run_with(host, move |scene| async move {
            let all = content(20_000, 41);
            let mut file = scene.create("/f", Some(2)).await;
            file.write_all(&all[..9_001]).await.expect("written");
            file.hflush().await.expect("flushed");
            let before = scene.env.now();
            scene.upgrade("dn1", None).await;
            file.write_all(&all[9_001..]).await.expect("written");
            file.hflush().await.expect("flushed");
            let waited_ms = scene.env.now().ms_since(before);
            assert_eq!(local, waited_ms >= 30_000, "{waited_ms} ms");
            let (_, nodes) = scene.last_block("/f").await;
            assert_eq!(nodes, ["dn2"]);
            file.close().await.expect("closed");
            assert!(scene.read("/f").await == all);
        });
    }
}

/// T-P5: the only DataNode does not come back: the write fails, when the window is over and not before.
#[test]
fn t_p5_the_write_fails_when_the_only_datanode_does_not_come_back() {
    let cluster = Cluster::start(43, 1);
    cluster.run(|scene| async move {
        let mut file = scene.create("/f", Some(1)).await;
        file.write_all(&content(9_001, 43)).await.expect("written");
        file.hflush().await.expect("flushed");
        let before = scene.env.now();
        scene.upgrade("dn1", None).await;
        file.write_all(b"more").await.expect("taken");
        let error = file.hflush().await.expect_err("nobody is there");
        assert!(error.to_string().contains("are bad. Aborting"), "{error}");
        let waited_ms = scene.env.now().ms_since(before);
        assert!(waited_ms >= 30_000, "{waited_ms} ms");
    });
}

/// An open replica does not go on after a restart that took longer than its expiration: it waits for recovery, as after
/// any other (E-10).
#[test]
fn t_p5_a_restart_that_takes_too_long_leaves_nothing_open() {
    let cluster = Cluster::start(44, 1);
    let patient = |options: &mut ClientOptions| options.datanode_restart_timeout_ms = 600_000;
    cluster.run_with(patient, |scene| async move {
        let mut file = scene.create("/f", Some(1)).await;
        file.write_all(&content(9_001, 44)).await.expect("written");
        file.hflush().await.expect("flushed");
        scene.upgrade("dn1", Some(60_000)).await;
        file.write_all(b"more").await.expect("taken");
        file.hflush().await.expect_err("its replica is RWR");
        let recovered = scene.dfs.recover_lease_and_wait("/f", 60_000);
        recovered.await.expect("recovered");
        assert!(scene.read("/f").await == content(9_001, 44));
    });
}

/// T-P6: every DataNode of the pipeline is restarted in turn, several times around, under a steady writer: no error, the
/// stamp rises each time, the pipeline is as long as ever, and all replicas of the closed file are whole.
#[test]
fn t_p6_a_rolling_restart_under_a_steady_writer() {
    let cluster = Cluster::start(45, 5);
    let host = |options: &mut ClientOptions| {
        // One of them is on the writer's host, and is waited for.
        options.host = datanode_address(0).ip().to_string();
    };
    cluster.run_with(host, |scene| async move {
        let all = content(3 * BLOCK, 45);
        let mut file = scene.create("/f", Some(3)).await;
        let (mut at, mut waited) = (0, 0);
        let step = 1_733;
        for round in 0..12_usize {
            file.write_all(&all[at..at + step]).await.expect("written");
            at += step;
            file.hflush().await.expect("flushed");
            let (before, nodes) = scene.last_block("/f").await;
            assert_eq!(nodes.len(), 3, "{nodes:?}");
            let victim = nodes[round % 3].clone();
            scene.upgrade(&victim, Some(0)).await;
            file.write_all(&all[at..at + step]).await.expect("written");
            at += step;
            file.hflush().await.expect("flushed");
            let (after, nodes) = scene.last_block("/f").await;
            assert!(after > before, "round {round}: {after} after {before}");
            assert_eq!(nodes.len(), 3, "{nodes:?}");
            if victim == "dn1" {
                assert!(nodes.contains(&victim), "{nodes:?}");
                waited += 1;
            }
            assert!(scene.read("/f").await == all[..at], "round {round}");
            scene.wait(6_000).await;
        }
        assert!(waited > 0, "the writer's own DataNode had its turn");
        file.write_all(&all[at..]).await.expect("written");
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// T-P7: a DataNode that evicts its writers is in no pipeline afterwards, and nothing is lost; it serves on.
#[test]
fn t_p7_evicted_writers_go_on_without_the_datanode() {
    let cluster = Cluster::start(46, 4);
    cluster.run(|scene| async move {
        let all = content(20_000, 46);
        for position in 0..3 {
            let path = format!("/f{position}");
            let mut file = scene.create(&path, Some(3)).await;
            file.write_all(&all[..9_001]).await.expect("written");
            file.hflush().await.expect("flushed");
            let (before, nodes) = scene.last_block(&path).await;
            let evicting = nodes[position].clone();
            scene.order(&evicting, &Request::EvictWriters).await;
            file.write_all(&all[9_001..]).await.expect("written");
            file.hflush().await.expect("flushed");
            let (after, nodes) = scene.last_block(&path).await;
            assert!(after > before, "{after} after {before}");
            assert!(!nodes.contains(&evicting), "{evicting} in {nodes:?}");
            assert_eq!(nodes.len(), 3, "another took its place");
            file.close().await.expect("closed");
            assert!(scene.read(&path).await == all);
            let world = scene.env.world();
            assert!(world.is_up(world.node(&evicting).expect("it")));
        }
    });
}

/// T-P12: a DataNode whose disk takes too long calls itself slow, from the end of the pipeline too, and is replaced once it
/// has done so often enough.
#[test]
fn t_p12_a_slow_datanode_at_the_end_is_replaced() {
    let cluster = Cluster::start(47, 4);
    cluster.run(|scene| async move {
        let all = content(BLOCK, 47);
        let mut file = scene.create("/f", Some(3)).await;
        file.write_all(&all[..500]).await.expect("written");
        file.hsync().await.expect("flushed");
        let (before, nodes) = scene.last_block("/f").await;
        let slow = nodes[2].clone();
        let world = scene.env.world();
        let disk = world.disk_of(world.node(&slow).expect("it"));
        disk.set_slow(1_000);
        let mut flushes = 0;
        for piece in all[500..].chunks(500) {
            file.write_all(piece).await.expect("written");
            file.hsync().await.expect("flushed");
            flushes += 1;
            if !file.pipeline_nodes().contains(&slow) {
                break;
            }
        }
        assert!(flushes >= 5, "not at the first slow write: {flushes}");
        let (after, nodes) = scene.last_block("/f").await;
        assert!(after > before && !nodes.contains(&slow), "{nodes:?}");
        assert_eq!(nodes.len(), 3, "another took its place");
        disk.set_slow(1);
        let at = file.position() as usize;
        file.write_all(&all[at..]).await.expect("written");
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// A DataNode was killed and is back: the connections that the writer and the other DataNodes kept lead to the process that is
/// gone. That is nobody's fault: the pipeline is set up with all of them, wherever in it the node is.
#[test]
fn t_p2_a_restarted_datanode_is_not_blamed_for_the_connections_of_its_predecessor() {
    let cluster = Cluster::start(48, 3);
    cluster.run(|scene| async move {
        let world = scene.env.world();
        for round in 0..15_usize {
            // Connections from each to each.
            for number in 0..3 {
                scene.make(&format!("/warm{round}-{number}"), b"warm").await;
            }
            scene.wait(2_000).await;
            let node = scene.datanodes[round % 3];
            world.crash(node, Crash::Process);
            world.restart(node);
            scene.wait(100).await;
            let path = format!("/f{round}");
            let mut file = scene.create(&path, Some(3)).await;
            file.write_all(b"some bytes").await.expect("written");
            file.hflush().await.expect("flushed");
            let nodes = file.pipeline_nodes();
            assert_eq!(nodes.len(), 3, "round {round}: {nodes:?}");
            file.close().await.expect("closed");
            assert!(scene.read(&path).await == b"some bytes");
        }
    });
}
