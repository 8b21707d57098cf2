//! The world as a whole: determinism (S3), clocks, processes, and bugs found (S10).

use hadal_env::{Clock, Env, Net, Random, Seam};
use hadal_types::{Role, Tick};
use sim::runner::{is_full, short, sweep};
use sim::scenario::{Run, SEAM_BUGS, find, omissions, registry, run_caught};
use sim::{Counters, Crash, NodeSpec, SimEnv, Status, Stream, World};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// A tenth of a run is spent on memory with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 9866))
}

fn idle(world: &World, name: &str, host: u8) -> sim::NodeId {
    world.add_node(name, Role::Datanode, addr(host), |_| {
        Box::pin(std::future::pending())
    })
}

fn hash_of(seed: u64) -> u64 {
    let scenario = find(None).expect("a default scenario");
    let mut run = Run::new(scenario.name(), seed, 1, None);
    run_caught(scenario, &mut run).expect("no promise is violated");
    run.trace_hash
}

/// S3: the same seed twice in a process and in another process gives the same trace; others differ.
#[test]
fn s3_the_same_seed_gives_the_same_trace() {
    let here: Vec<u64> = (0..20).map(hash_of).collect();
    // On another thread, after other worlds, in other order.
    let again = std::thread::spawn(|| {
        let mut hashes: Vec<u64> = (0..20).rev().map(hash_of).collect();
        hashes.reverse();
        hashes
    });
    assert_eq!(here, again.join().expect("no panic"));
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--hashes", "--seeds", "0..20", "--minutes", "1"])
        .output();
    let text = String::from_utf8(output.expect("the simulator runs").stdout).expect("text");
    let expected: String = here
        .iter()
        .enumerate()
        .map(|(seed, hash)| format!("seed {seed} trace hash {hash:#018x} passed\n"))
        .collect();
    assert_eq!(text, expected);
    let mut distinct = here;
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 20);
}

/// S10 for the world itself and for duels: every planted bug is found within 300 seeds. About 40 CPU seconds, most of
/// them duels.
#[test]
fn s10_every_planted_bug_is_found_within_300_seeds() {
    // The whole cluster has a test of its own: its seeds cost more.
    for scenario in registry()
        .iter()
        .filter(|scenario| scenario.name() != "cluster")
    {
        for bug in [scenario.planted(), scenario.finds_seam_bugs()].concat() {
            let minutes = if scenario.name() == "duel" { 1 } else { 2 };
            let summary = sweep(*scenario, 0..300, minutes, Some(bug), true, 2, &|_| {});
            let first = summary.failures.first();
            let first = first.unwrap_or_else(|| panic!("{}: {bug} is not found", scenario.name()));
            assert!(first.repeat.contains(bug), "{}", first.repeat);
        }
    }
}

/// A seed of `cluster` that once failed.
fn keeps_its_promises(seed: u64, minutes: u64) {
    let cluster = find(Some("cluster")).expect("the whole cluster");
    let mut run = Run::new(cluster.name(), seed, minutes, None);
    run_caught(cluster, &mut run).unwrap_or_else(|violation| panic!("{seed}: {violation}"));
}

/// A NameNode that had been cut off heard of the first of four DataNodes, took the others for gone and dropped a block
/// that two of them had: synced bytes were lost.
#[test]
fn seed_620_no_block_is_dropped_while_datanodes_still_come() {
    keeps_its_promises(620, 10);
}

/// A failover, and of a pipeline of two the new active knew only the node that had lost power: what the other one still had,
/// flushed, was lost with the recovery of that replica alone.
#[test]
fn seed_758_restarted_replicas_wait_for_better_ones() {
    keeps_its_promises(758, 10);
}

/// A NameNode that was leaving the active role refused the DataNodes' reports, got the role back, and dropped a block
/// nobody had told it of: synced bytes were lost.
#[test]
fn seed_434_no_block_is_dropped_before_all_reported_to_the_active() {
    keeps_its_promises(434, 10);
}

/// The role ended during an upload: an active NameNode ordered the next one at once, and again, without end.
#[test]
fn seed_344_an_active_orders_no_uploads() {
    keeps_its_promises(344, 10);
}

/// Power failed everywhere while a flush waited for a NameNode, its bytes at the DataNodes already: they were taken for
/// nodes that lived on since the flush. A mistake of the ledger.
#[test]
fn seed_13_who_ended_during_a_flush_does_not_live_on_since() {
    keeps_its_promises(13, 1);
}

/// Copies that could not be finalised on a full disk stayed TEMPORARY and refused every later copy of their block:
/// it was under-replicated for ever.
#[test]
fn seed_22_a_copy_that_met_a_full_disk_is_made_again() {
    for seed in [22, 94, 96, 130] {
        keeps_its_promises(seed, 1);
    }
}

/// Two nodes that could not read the same synced replica twice at their starts, of many reads, gave it up: it was lost to
/// a disk that was well again a moment later. It is tried more often now.
#[test]
fn seed_16_a_replica_is_not_given_up_for_a_read_that_fails_now_and_then() {
    keeps_its_promises(16, 1);
}

/// A power failure took an open replica from the one DataNode of its pipeline that the new active NameNode had heard of;
/// a reader took that for an empty block, and showed nothing of what was flushed.
#[test]
fn seed_22_a_replica_that_is_gone_is_no_empty_block() {
    keeps_its_promises(22, 2);
}

/// A power failure took the flushed bytes of an open block from two nodes, the last blow those of the third: nothing of
/// that block is owed, and its recovery waits for the third node. The check took the bytes of the block before it for owed
/// ones of this block.
#[test]
fn seed_36_an_open_block_of_which_nothing_is_owed_may_wait_for_its_node() {
    keeps_its_promises(36, 2);
}

/// A JournalNode was rolled back, another one held a tail that nobody had committed: the audit took that for the
/// acknowledged edits.
#[test]
fn seed_1000_a_tail_is_not_taken_for_what_was_acknowledged() {
    keeps_its_promises(1000, 1);
}

/// One JournalNode was rolled back, power took another one in the middle of a write: recovery waited for the first, who
/// does not vote, and no NameNode became active any more. The third one's log bounds what the torn record can have been.
/// (The seed takes another course since, and passes without that rule; what shows the rule is
/// `a_torn_node_beside_a_learner_is_bounded_by_its_bytes` in nodes/qjournal.)
#[test]
fn seed_70_a_torn_journal_beside_one_that_forgot_is_recovered() {
    keeps_its_promises(70, 2);
}

/// Counts what a JournalNode refused of a deposed writer.
const FENCED: &str = "fenced writes";

/// S4 under faults aimed at the rule of one writer: claims and roles. About 15 CPU seconds.
#[test]
fn s4_duels_leave_one_writer_and_every_acknowledged_edit() {
    let duel = find(Some("duel")).expect("duels");
    let summary = sweep(duel, 1000..1004, 1, None, false, 2, &|failure| {
        eprintln!("{}: {}", failure.seed, failure.violation)
    });
    assert!(summary.failures.is_empty());
    for name in duel.floors().iter().chain([&FENCED, &"elections"]) {
        assert!(summary.counters.get(name) > 0, "{name} is zero");
    }
}

/// S10 for the whole cluster: each bug planted in a daemon, a client or below the seam is found.
#[test]
fn s10_bugs_planted_in_the_cluster_are_found_within_300_seeds() {
    let cluster = find(Some("cluster")).expect("the whole cluster");
    for bug in [cluster.planted(), cluster.finds_seam_bugs()].concat() {
        let summary = sweep(cluster, 0..300, 2, Some(bug), true, 2, &|_| {});
        assert!(!summary.failures.is_empty(), "{bug} is not found");
    }
}

/// S4, S5, S7, S8 in small: the cluster keeps its promises, and the run exercised what it checks.
#[test]
fn s1_the_whole_cluster_keeps_its_promises() {
    let cluster = find(Some("cluster")).expect("the whole cluster");
    let summary = sweep(cluster, 1000..1040, 1, None, false, 2, &|failure| {
        eprintln!("{}: {}", failure.seed, failure.violation)
    });
    assert!(summary.failures.is_empty());
    for name in cluster.floors() {
        assert!(summary.counters.get(name) > 0, "{name} is zero");
    }
    // S11. A deposed writer that still writes is rare while leases hold: the duels look for it.
    let exercised = cluster.exercised().iter();
    for name in exercised.filter(|name| **name != FENCED) {
        assert!(summary.counters.get(name) > 0, "{name} is zero");
    }
}

#[test]
fn s11_without_a_planted_bug_nothing_fails_and_every_fault_strikes() {
    let ledger = find(Some("ledger")).expect("the ledger");
    let summary = sweep(ledger, 1000..1060, 2, None, false, 2, &|failure| {
        eprintln!("{}: {}", failure.seed, failure.violation)
    });
    assert!(summary.failures.is_empty());
    let records = find(Some("records")).expect("the records");
    let of_records = sweep(records, 1000..1030, 2, None, false, 2, &|failure| {
        eprintln!("{}: {}", failure.seed, failure.violation)
    });
    assert!(of_records.failures.is_empty());
    for name in records.floors() {
        assert!(of_records.counters.get(name) > 0, "{name} is zero");
    }
    for name in ledger.floors() {
        assert!(summary.counters.get(name) > 0, "{name} is zero");
    }
    for fault in sim::nemesis::Fault::ALL {
        assert!(
            summary.counters.get(fault.counter()) > 0,
            "{fault:?} never struck"
        );
    }
}

/// S11: a counter below its floor is named, where there are seeds enough to tell; the floor grows with seeds and minutes.
#[test]
fn s11_a_counter_below_its_floor_is_named() {
    let cluster = find(Some("cluster")).expect("the whole cluster");
    let mut counters = Counters::default();
    for name in cluster.exercised() {
        counters.add(name, 30);
    }
    assert_eq!(short(cluster, &counters, 300, 10), []);
    assert_eq!(short(cluster, &Counters::default(), 299, 10), []);
    let all = short(cluster, &counters, 1000, 10);
    assert_eq!(all.len(), cluster.exercised().len());
    assert!(all.iter().all(|it| (it.count, it.floor) == (30, 100)));
    counters.add(FENCED, 70);
    let rest = short(cluster, &counters, 1000, 10);
    assert_eq!(rest.len() + 1, all.len());
    assert!(rest.iter().all(|it| it.name != FENCED));
    assert_eq!(short(cluster, &counters, 1000, 2), []);
    assert!(is_full(1000, 10) && !is_full(999, 10) && !is_full(5000, 2));
}

#[test]
fn every_seam_bug_leaves_something_out() {
    for bug in SEAM_BUGS {
        assert_ne!(omissions(Some(bug)), sim::Omissions::default(), "{bug}");
    }
}

#[test]
fn the_command_line_keeps_its_contract() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(args)
            .output()
            .expect("the simulator runs")
    };
    let passed = run(&["--seeds", "0..3", "--minutes", "1"]);
    let text = String::from_utf8_lossy(&passed.stdout).into_owned();
    assert_eq!(text.lines().last(), Some("3 passed, 0 failed"));
    assert!(passed.status.success());
    let planted = run(&[
        "--scenario",
        "ledger",
        "--seeds",
        "0..300",
        "--minutes",
        "2",
        "--planted",
        "skip-fsync",
    ]);
    let text = String::from_utf8_lossy(&planted.stdout).into_owned();
    assert!(planted.status.success(), "{text}");
    assert!(
        text.contains("planted bug skip-fsync found, first by seed"),
        "{text}"
    );
    assert!(
        text.contains("repeat with: cargo run --release -p sim -- --scenario ledger --seeds"),
        "{text}"
    );
    let missed = run(&[
        "--seeds",
        "0..1",
        "--minutes",
        "0",
        "--planted",
        "skip-fsync",
    ]);
    assert_eq!(
        missed.status.code(),
        Some(1),
        "a planted bug that is not found is a failure"
    );
    assert_eq!(run(&["--planted", "no-such-bug"]).status.code(), Some(255));
    assert_eq!(run(&["--seeds", "7"]).status.code(), Some(255));
}

#[test]
fn timers_fire_in_order_and_time_jumps_to_them() {
    let world = World::new(1);
    let node = idle(&world, "dn1", 1);
    let order: Rc<RefCell<Vec<u64>>> = Rc::default();
    for ms in [30, 10, 3_600_000, 20, 10] {
        let (env, order) = (world.env_of(node), Rc::clone(&order));
        world.spawn_on(node, "sleeper", async move {
            let deadline = env.now().after_ms(ms);
            env.sleep_until(deadline).await;
            assert!(env.now() >= deadline);
            order.borrow_mut().push(ms);
        });
    }
    world.run_for(Duration::from_secs(3601));
    assert_eq!(*order.borrow(), [10, 10, 20, 30, 3_600_000]);
    assert_eq!(world.now(), Duration::from_secs(3601));
}

#[test]
fn dropped_sleeps_leave_nothing_behind() {
    let world = World::new(2);
    let node = idle(&world, "dn1", 1);
    let env = world.env_of(node);
    world.block_on(node, async move {
        for _ in 0..10_000 {
            let long = std::pin::pin!(env.sleep_until(Tick::NEVER));
            let short = std::pin::pin!(env.sleep_until(env.now().after_ms(1)));
            futures_util::future::select(long, short).await;
        }
    });
    assert_eq!(world.now(), Duration::from_secs(10));
}

#[test]
fn clocks_run_fast_slow_and_apart() {
    let world = World::new(3);
    let fast = idle(&world, "fast", 1);
    let slow = idle(&world, "slow", 2);
    world.set_clock_rate_ppm(fast, 50_000);
    world.set_clock_rate_ppm(slow, -50_000);
    world.set_wall_offset_ms(slow, -1000);
    let (fast_env, slow_env) = (world.env_of(fast), world.env_of(slow));
    let starts = (fast_env.now(), slow_env.now());
    assert!(
        starts.0.0.abs_diff(starts.1.0) > 1_000_000_000,
        "ticks of two machines are not comparable"
    );
    assert_eq!(fast_env.wall_ms() - slow_env.wall_ms(), 1000);
    let env = fast_env.clone();
    world.block_on(fast, async move {
        env.sleep_until(env.now().after_ms(1050)).await
    });
    assert_eq!(world.now(), Duration::from_secs(1));
    assert_eq!(slow_env.now().since(starts.1), Duration::from_millis(950));
}

#[test]
fn processes_stop_crash_restart_and_pause() {
    let world = World::new(4);
    let lives: Rc<RefCell<Vec<u64>>> = Rc::default();
    let log = Rc::clone(&lives);
    let node = world.add_node("nn1", Role::Namenode, addr(1), move |env: SimEnv| {
        let log = Rc::clone(&log);
        Box::pin(async move {
            loop {
                log.borrow_mut().push(env.world().now().as_secs());
                env.sleep_until(env.now().after_ms(1000)).await;
            }
        })
    });
    world.run_for(Duration::from_millis(1500));
    world.pause(node);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.status(node), Status::Paused);
    world.resume(node);
    world.run_for(Duration::from_millis(500));
    world.crash(node, Crash::Process);
    world.run_for(Duration::from_secs(5));
    world.restart(node);
    world.run_for(Duration::from_millis(100));
    assert_eq!(*lives.borrow(), [0, 1, 4, 10]);
    let env = world.env_of(node);
    let after = Rc::clone(&lives);
    world.spawn_on(node, "stopper", async move {
        env.stop(7, "enough");
        env.spawn("never", async {
            panic!("a stopped process starts nothing")
        });
        env.sleep_until(env.now()).await;
        std::future::pending::<()>().await;
        after.borrow_mut().clear();
    });
    world.run_for(Duration::from_secs(5));
    assert_eq!(
        world.status(node),
        Status::Exited {
            code: 7,
            reason: "enough".to_owned()
        }
    );
    assert_eq!(lives.borrow().len(), 4, "nothing of a stopped process runs");
}

#[test]
#[should_panic(expected = "task 'spinner' of dn1 spins")]
fn spinning_is_a_bug() {
    let world = World::new(5);
    let node = idle(&world, "dn1", 1);
    let spin = std::future::poll_fn(|cx| -> std::task::Poll<()> {
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    });
    world.spawn_on(node, "spinner", spin);
    world.run_for(Duration::from_secs(1));
}

#[test]
#[should_panic(expected = "the bug")]
fn a_panic_in_a_task_fails_the_run() {
    let world = World::new(6);
    let node = idle(&world, "dn1", 1);
    world.spawn_on(node, "buggy", async { panic!("the bug") });
    world.run_for(Duration::from_secs(1));
}

#[test]
fn shards_have_endpoints_and_share_the_machine() {
    let world = World::new(7);
    let mut spec = NodeSpec::new("dn1", Role::Datanode, addr(1));
    spec.endpoints.push(addr(2));
    let node = world.add_node_with(&spec, |_| Box::pin(std::future::pending()));
    let env = world.env_of(node);
    assert_eq!(env.net().local_addr(), addr(1));
    assert_eq!(env.shard(1).net().local_addr(), addr(2));
    assert_eq!(env.now(), env.shard(1).now());
    let mut tenant = NodeSpec::new("jn1", Role::Journalnode, addr(3));
    tenant.machine_of = Some(node);
    let tenant = world.add_node_with(&tenant, |_| Box::pin(std::future::pending()));
    assert_eq!(world.env_of(tenant).now(), env.now());
    world.crash(tenant, Crash::Process);
    assert!(world.is_up(node), "a crashed process leaves its neighbours");
    world.restart(tenant);
    world.crash(node, Crash::Power);
    assert!(
        !world.is_up(tenant),
        "a power failure takes the whole machine"
    );
}

#[test]
fn random_streams_are_independent_and_seeded() {
    let draw = |seed| {
        let world = World::new(seed);
        let node = idle(&world, "dn1", 1);
        (
            world.env_of(node).random_u64(),
            world.rng(Stream::Workload, 0).next_u64(),
            world.rng(Stream::Faults, 0).next_u64(),
        )
    };
    assert_eq!(draw(8), draw(8));
    let (a, b, c) = draw(8);
    assert!(a != b && b != c && a != c);
    assert_ne!(draw(8), draw(9));
}

/// An event log changes nothing.
#[test]
fn logging_does_not_change_the_run() {
    let scenario = find(None).expect("a default scenario");
    let mut run = Run::new(scenario.name(), 11, 1, None);
    run.log = Some(Box::new(std::io::sink()));
    run_caught(scenario, &mut run).expect("no promise is violated");
    assert_eq!(run.trace_hash, hash_of(11));
}

/// Tasks, timers and start closures that hold handles on their world must not keep it alive.
#[test]
fn a_dropped_world_leaves_nothing() {
    let token = Rc::new(());
    let world = World::new(12);
    let (kept, handle) = (Rc::clone(&token), world.handle());
    let node = world.add_node("dn1", Role::Datanode, addr(1), move |env| {
        let (kept, handle) = (Rc::clone(&kept), handle.clone());
        Box::pin(async move {
            let conn = env
                .net()
                .connect(addr(1), &hadal_env::Expect::role(Role::Datanode))
                .await;
            env.sleep_until(Tick::NEVER).await;
            drop((kept, handle, conn));
        })
    });
    let (kept, handle) = (Rc::clone(&token), world.handle());
    world.at(Duration::from_secs(99), move |_| drop((kept, handle)));
    world.run_for(Duration::from_secs(1));
    assert!(world.is_up(node));
    assert!(Rc::strong_count(&token) >= 4);
    drop(world);
    assert_eq!(Rc::strong_count(&token), 1);
}
