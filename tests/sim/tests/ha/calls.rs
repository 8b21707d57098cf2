//! Callers, standbys and JournalNodes that are slow, silent or cut off: nobody else waits for them.

use crate::cluster::{Cluster, Started, automatic, manual};
use hadal_client::ClientError;
use hadal_proto::admin::{Request, Response};
use hadal_types::HaState;
use sim::Crash;
use std::time::Duration;

/// An answer that waits for nobody is there within this much virtual time, in milliseconds.
const AT_ONCE_MS: u64 = 150;

fn all_done<T>(started: &[Started<T>]) -> bool {
    started.iter().all(|one| one.borrow().is_some())
}

fn mkdirs(
    cluster: &Cluster,
    dfs: &crate::cluster::Dfs,
    node: sim::NodeId,
    path: String,
) -> Started<Result<bool, ClientError>> {
    let dfs = dfs.clone();
    cluster.begin(node, async move { dfs.mkdirs(&path, 0o755, true).await })
}

/// Q12: calls do not sync one after the other: two hundred of them on JournalNodes whose disks crawl take a few times what
/// one takes, and a probe takes no longer than ever.
#[test]
fn q12_many_calls_share_a_slow_sync() {
    let cluster = Cluster::start(31, &manual());
    assert_eq!(cluster.order_active(0), Ok(()));
    cluster.mkdirs("/first");
    cluster.slow_journal(300);
    let dfs = cluster.dfs.clone();
    let (one, alone_ms) = cluster.timed(cluster.admin, async move {
        dfs.mkdirs("/alone", 0o755, true).await
    });
    assert!(one.is_ok() && alone_ms >= 10, "{one:?} after {alone_ms} ms");
    let began = cluster.world.now();
    let started: Vec<_> = (0..200)
        .map(|at| mkdirs(&cluster, &cluster.dfs, cluster.admin, format!("/{at}")))
        .collect();
    cluster.world.run_for(Duration::from_millis(5));
    assert!(!all_done(&started));
    let asked = cluster.world.now();
    assert_eq!(cluster.state(0), Some(HaState::Active));
    assert!((cluster.world.now() - asked).as_millis() <= 20);
    cluster.until("all are made", |_| all_done(&started));
    let together_ms = (cluster.world.now() - began).as_millis() as u64;
    for one in &started {
        assert!(one.borrow_mut().take().expect("done").is_ok());
    }
    assert!(
        together_ms <= 20 * alone_ms,
        "one takes {alone_ms} ms, two hundred take {together_ms} ms"
    );
}

/// Q13: a caller whose answers cannot reach it, and a JournalNode that takes edits and answers nothing, hold up nobody:
/// the others' calls are answered at once, and the cut-off caller's when it is back, each done once.
#[test]
fn q13_whoever_cannot_be_answered_holds_up_nobody() {
    let cluster = Cluster::start(32, &manual());
    assert_eq!(cluster.order_active(0), Ok(()));
    cluster.mkdirs_for_all("/home");
    let (alice_at, alice) = cluster.client("alice", &[0, 1], 60_000);
    let (bob_at, bob) = cluster.client("bob", &[0, 1], 15_000);
    for (node, dfs) in [(alice_at, &alice), (bob_at, &bob)] {
        let dfs = dfs.clone();
        let seen = cluster.timed(node, async move { dfs.try_file_status("/home").await });
        assert!(seen.0.is_ok());
    }
    let active = cluster.namenodes[0];
    cluster.world.cut_one_way(active, alice_at);
    let cut_off: Vec<_> = (0..50)
        .map(|at| mkdirs(&cluster, &alice, alice_at, format!("/home/alice-{at}")))
        .collect();
    cluster.world.pause(cluster.journalnodes[2]);
    for at in 0..30 {
        let (dfs, path) = (bob.clone(), format!("/home/bob-{at}"));
        let (made, ms) = cluster.timed(bob_at, async move { dfs.mkdirs(&path, 0o755, true).await });
        assert!(made.expect("the active and two JournalNodes are well"));
        assert!(ms <= AT_ONCE_MS, "bob waited {ms} ms");
    }
    assert!(!all_done(&cut_off), "alice cannot have heard");
    cluster.world.resume(cluster.journalnodes[2]);
    cluster.world.heal();
    cluster.until("alice hears", |_| all_done(&cut_off));
    for one in &cut_off {
        assert!(one.borrow_mut().take().expect("done").expect("made"));
    }
    assert_eq!(cluster.state(0), Some(HaState::Active));
}

/// Q17: a NameNode whose first JournalNode takes connections and answers nothing starts, and becomes active, with the
/// others.
#[test]
fn q17_one_silent_journalnode_delays_no_start() {
    let cluster = Cluster::start(33, &automatic());
    cluster.until("one is active", |cluster| cluster.active().is_some());
    cluster.mkdirs("/before");
    for nn in &cluster.namenodes {
        cluster.world.crash(*nn, Crash::Process);
    }
    cluster.world.pause(cluster.journalnodes[0]);
    let began = cluster.world.now();
    for nn in &cluster.namenodes {
        cluster.world.restart(*nn);
    }
    cluster.until("one is active", |cluster| cluster.active().is_some());
    assert!(cluster.exists("/before"));
    let took = cluster.world.now() - began;
    assert!(took <= Duration::from_secs(15), "it took {took:?}");
}

/// Q14, Q15: all JournalNodes and NameNodes lose power in the middle of writes and come back one after the other: there
/// is an active again by itself, with everything acknowledged.
#[test]
fn q14_q15_every_journalnode_restarts_at_once() {
    for seed in 34..38 {
        let cluster = Cluster::start(seed, &automatic());
        cluster.until("one is active", |cluster| cluster.active().is_some());
        let mut acknowledged = Vec::new();
        for at in 0..20 {
            let path = format!("/{at}");
            cluster.mkdirs(&path);
            acknowledged.push(path);
        }
        let (writer, dfs) = (cluster.admin, cluster.dfs.clone());
        let under_way: Vec<_> = (0..20)
            .map(|at| mkdirs(&cluster, &dfs, writer, format!("/under-way-{at}")))
            .collect();
        cluster
            .world
            .run_for(Duration::from_micros(400 * (seed - 33)));
        for jn in &cluster.journalnodes {
            cluster.world.crash(*jn, Crash::Power);
            cluster.world.run_for(Duration::from_micros(300));
        }
        for nn in &cluster.namenodes {
            cluster.world.crash(*nn, Crash::Power);
        }
        for jn in cluster.journalnodes.iter().rev() {
            cluster.world.restart(*jn);
            cluster.world.run_for(Duration::from_millis(700));
        }
        for nn in &cluster.namenodes {
            cluster.world.restart(*nn);
        }
        cluster.until("one is active", |cluster| cluster.active().is_some());
        for path in &acknowledged {
            assert!(cluster.exists(path), "seed {seed}: {path}");
        }
        cluster.until("the others' calls end", |_| all_done(&under_way));
        for (at, one) in under_way.iter().enumerate() {
            if one.borrow_mut().take().expect("done").is_ok() {
                assert!(cluster.exists(&format!("/under-way-{at}")), "seed {seed}");
            }
        }
    }
}

/// Q29: a standby that has thousands of edits to apply at once answers probes all the while, and counts what it has as the
/// active does, without counting anew.
#[test]
fn q29_a_standby_that_catches_up_answers_at_once() {
    let cluster = Cluster::start(39, &manual());
    assert_eq!(cluster.order_active(0), Ok(()));
    cluster.mkdirs("/first");
    let standby = cluster.namenodes[1];
    for jn in &cluster.journalnodes {
        cluster.world.cut(standby, *jn);
    }
    for round in 0..30 {
        let started: Vec<_> = (0..100)
            .map(|at| {
                let path = format!("/{}/{round}/{at}", at % 7);
                mkdirs(&cluster, &cluster.dfs, cluster.admin, path)
            })
            .collect();
        cluster.until("made", |_| all_done(&started));
    }
    let end = cluster.stats(0).last_applied;
    assert!(cluster.stats(1).last_applied < end, "it was cut off");
    cluster.world.heal();
    cluster.until("it has caught up", |cluster| {
        for _ in 0..5 {
            let began = cluster.world.now();
            let health = cluster.ask(1, Request::CheckHealth);
            assert!(matches!(health, Ok(Response::Health { .. })), "{health:?}");
            let ms = (cluster.world.now() - began).as_millis() as u64;
            assert!(ms <= AT_ONCE_MS, "a probe took {ms} ms");
        }
        cluster.stats(1).last_applied >= end
    });
    assert_eq!(cluster.stats(1).inodes, cluster.stats(0).inodes);
}
