//! High availability under load: the active NameNode is killed, relieved and paused while 16 clients write and read.

use hadal_client::{ClientError, FaultClass};
use hadal_types::HaState;
use harness::{BUSY, Load, Roles, SOON, TestClient, TestCluster, alone, eventually, refusal};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// Kills in the suite; `HARNESS_KILLS` asks for more.
const KILLS: usize = 5;

fn kills() -> usize {
    let asked = std::env::var("HARNESS_KILLS").ok();
    asked.map_or(KILLS, |text| text.parse().expect("a number of kills"))
}

/// The longest wait and the first change after a strike, for whoever reads the output: no threshold.
fn tell(what: &str, changes: usize, longest: Duration, first: Duration) {
    println!(
        "{what}: first change after {} ms, longest wait {} ms, {changes} changes",
        first.as_millis(),
        longest.as_millis()
    );
}

/// The active NameNode dies by SIGKILL again and again. No caller sees an error, everything acknowledged is there and was
/// done once (T-A10, T-H5, T-H27), and the killed one comes back as a standby with the same tree.
#[test]
fn no_call_fails_when_the_active_namenode_is_killed_t_a10_t_h5_t_h27() {
    let _alone = alone();
    let cluster = TestCluster::start_with(2, 3);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    for round in 0..kills() {
        let (active, _) = roles.settled();
        let load = Load::start(&client, &format!("/kill{round}"));
        load.await_changes(BUSY);
        let at = Instant::now();
        cluster.signal(&active, Signal::SIGKILL);
        let first = load.await_change_after(at) - at;
        load.await_changes(BUSY);
        let (changes, longest) = load.end(at);
        tell(&format!("kill {round}, {active}"), changes, longest, first);
        let new = roles.active_but(&[&active]);
        let log = cluster.log(&new);
        let split = log.lines().rev().find(|line| line.contains("claim "));
        println!("  {}", split.expect("the split of the failover"));
        cluster.start_node(&active);
    }
    roles.settled();
    roles.await_equal_digests(&["nn1", "nn2"]);
}

/// `haadmin -failover` there and back under load: no error, the old active stands by, and nothing is fenced although a
/// fencing command is configured (T-A6, T-A15).
#[test]
fn an_ordered_failover_and_back_disturbs_nobody_and_fences_nobody_t_a6_t_a15() {
    let _alone = alone();
    let cluster = TestCluster::start_with(2, 3);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    let fenced = cluster.local("fenced");
    let command = format!("fence.command=touch {}", fenced.display());
    let (first, standby) = roles.settled();
    let second = standby[0].clone();
    for (from, to) in [(&first, &second), (&second, &first)] {
        let load = Load::start(&client, &format!("/from-{from}"));
        load.await_changes(BUSY);
        let at = Instant::now();
        let told = cluster.run(&["-D", &command, "haadmin", "-failover", from, to]);
        assert!(told.ok().stdout.contains("successful"));
        let change = load.await_change_after(at) - at;
        load.await_changes(BUSY);
        let (changes, longest) = load.end(at);
        tell(&format!("order {from} to {to}"), changes, longest, change);
        assert_eq!(roles.settled(), (to.clone(), vec![from.clone()]));
    }
    assert!(!fenced.exists(), "the old active was fenced");
    roles.await_equal_digests(&["nn1", "nn2"]);
}

/// The epoch that a majority of the JournalNodes has promised.
fn promised_epoch(cluster: &TestCluster) -> u64 {
    let mut epochs = ["jn1", "jn2", "jn3"].map(|id| {
        let asked = || cluster.debug(&["jn-stats", "--id", id]);
        let stats = eventually("its state", SOON, asked);
        stats["promised_epoch"].as_u64().expect("an epoch")
    });
    epochs.sort_unstable();
    epochs[1]
}

/// The active NameNode is stopped under load and wakes when another has taken over: whatever it is asked from before it
/// woke it answers no read and no write (T-H9, T-N2), and it ends with the other's tree.
#[test]
fn a_namenode_that_slept_through_its_succession_serves_nothing_t_h9_t_n2() {
    let _alone = alone();
    let cluster = TestCluster::start_with(2, 3);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    let (old, _) = roles.settled();
    let load = Load::start(&client, "/paused");
    // Connected before, so that what it is asked waits in its socket while it sleeps.
    let only = client.dfs_of(&old, Duration::from_secs(4));
    client
        .block_on(only.mkdirs("/seen", 0o755, true))
        .expect("asked while it is active");
    load.await_changes(BUSY);
    let epoch = promised_epoch(&cluster);
    let at = Instant::now();
    cluster.signal(&old, Signal::SIGSTOP);
    let first = load.await_change_after(at) - at;
    // The lease has passed on, and its new holder is at work.
    let new = roles.active_but(&[&old]);
    assert!(promised_epoch(&cluster) > epoch, "{new} has a later epoch");
    load.await_changes(BUSY);
    let asked = |number: usize| {
        let only = only.clone();
        client.runtime().spawn(async move {
            match number % 2 {
                0 => only.try_file_status("/seen").await.map(|_| ()),
                _ => {
                    let path = format!("/of-the-old-{number}");
                    only.mkdirs(&path, 0o755, true).await.map(|_| ())
                }
            }
        })
    };
    let mut calls: Vec<_> = (0..20).map(asked).collect();
    // A whole call of another caller, asked for after them on the same threads: they are under way.
    load.await_change_after(Instant::now());
    cluster.signal(&old, Signal::SIGCONT);
    // And while it wakes.
    calls.extend((20..60).map(|number| {
        load.await_changes(1);
        asked(number)
    }));
    // On a busy machine some are given up before they are answered, which is no service either.
    let refused = |error: &ClientError| error.class() == Some(FaultClass::Standby);
    let given_up = |error: &ClientError| matches!(error, ClientError::Unreachable { .. });
    let mut refusals = 0;
    for call in calls {
        match client.block_on(call).expect("a call") {
            Ok(()) => panic!("{old} served a call after {new} had become active"),
            Err(error) if refused(&error) => refusals += 1,
            Err(error) => assert!(given_up(&error), "{}: {error}", refusal(&error)),
        }
    }
    assert!(refusals > 0, "{old} answered nobody");
    eventually("the old one stands by", SOON, || {
        let states = roles.states();
        let standby = states.contains(&(old.clone(), Some(HaState::Standby)));
        standby.then_some(()).ok_or_else(|| format!("{states:?}"))
    });
    load.await_changes(BUSY);
    let (changes, longest) = load.end(at);
    tell(&format!("pause of {old}"), changes, longest, first);
    assert_eq!(roles.settled(), (new, vec![old]));
    roles.await_equal_digests(&["nn1", "nn2"]);
    let all = cluster.dfs(&["-ls", "-C", "/"]).ok().stdout;
    assert!(!all.contains("of-the-old"), "{all}");
    // Every DataNode obeys the new one: what it orders happens, and all is at full replication.
    cluster.await_healthy("/", SOON);
}
