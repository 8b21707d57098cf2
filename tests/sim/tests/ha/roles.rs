//! Roles moved by order.

use crate::cluster::{AWAY, Cluster, EDITS, Setup, automatic, manual, namenode_name};
use hadal_proto::admin::Request;
use hadal_types::HaState;
use sim::{Crash, Status};
use std::time::Duration;

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

/// A hand-over whose last edit never commits, for the JournalNodes are out of reach and then hold a newer epoch: the old
/// active leaves the role, and whoever ordered it is answered.
#[test]
fn t_a15_t_h9_a_hand_over_ends_when_the_journal_is_lost() {
    let cluster = Cluster::start(24, &automatic());
    cluster.until("one is active", |cluster| cluster.active().is_some());
    let old = cluster.active().expect("just seen");
    let new = 1 - old;
    cluster.mkdirs("/a");
    cluster.world.run_for(Duration::from_secs(2));
    for jn in &cluster.journalnodes {
        cluster.world.cut(cluster.namenodes[old], *jn);
    }
    let dfs = cluster.dfs.clone();
    let making = cluster.begin(cluster.admin, async move {
        dfs.mkdirs("/under-way", 0o755, true).await
    });
    cluster.world.run_for(Duration::from_millis(10));
    let order = cluster.begin_asking(
        old,
        Request::Failover {
            to: namenode_name(new),
            force_fence: false,
            force_active: false,
        },
    );
    cluster.until("the other one is active", |cluster| {
        cluster.state(new) == Some(HaState::Active)
    });
    cluster.world.heal();
    cluster.until("the old one follows", |cluster| {
        cluster.state(old) == Some(HaState::Standby)
    });
    cluster.until("everybody is answered", |_| {
        making.borrow().is_some() && order.borrow().is_some()
    });
    assert!(making.borrow_mut().take().expect("answered").is_ok());
    for path in ["/a", "/under-way"] {
        assert!(cluster.exists(path), "{path}");
    }
}

/// F-12: a JournalNode that is connected and answers no question about the journal holds up no promotion.
#[test]
fn f12_catching_up_passes_a_silent_journalnode_over() {
    let alone = Setup {
        namenodes: 1,
        ..automatic()
    };
    let cluster = Cluster::start(25, &alone);
    cluster.until("it is active", |cluster| cluster.active().is_some());
    for at in 0..5 {
        cluster.mkdirs(&format!("/{at}"));
    }
    assert!(cluster.ask(0, Request::RollEdits).is_ok());
    cluster.mkdirs("/behind");
    cluster.world.crash(cluster.namenodes[0], Crash::Process);
    // What it reads or writes takes hours.
    let silent = cluster.world.disk_of(cluster.journalnodes[0]);
    silent.set_slow(100_000_000);
    cluster.world.restart(cluster.namenodes[0]);
    cluster.until("it is active again", |cluster| cluster.active().is_some());
    silent.set_slow(1);
    for path in ["/0", "/4", "/behind"] {
        assert!(cluster.exists(path), "{path}");
    }
}
