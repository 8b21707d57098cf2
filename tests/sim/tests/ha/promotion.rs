//! A standby that makes or sends an image, or would, when it is wanted as active (C-06, F-12), and one in safe mode. 1 s of
//! CPU together.

use crate::cluster::{Cluster, Setup, manual, namenode_name};
use hadal_namesystem::CheckpointConfig;
use hadal_proto::admin::{Request, Response, SafeModeAction};
use hadal_types::HaState;
use sim::Crash;
use std::time::Duration;

/// An image is due behind so many edits.
const TXNS: u64 = 40;

/// Two NameNodes whose standby looks this often whether an image is due.
fn checked_every(check_ms: u64) -> Setup {
    Setup {
        checkpoint: CheckpointConfig {
            txns: TXNS,
            check_ms,
            ..CheckpointConfig::default()
        },
        ..manual()
    }
}

/// Makes an image due.
fn write(cluster: &Cluster, name: &str) {
    for at in 0..TXNS + 5 {
        cluster.mkdirs(&format!("/{name}-{at}"));
    }
}

/// C-06: an image falls due while the standby claims the journal: it is not begun.
#[test]
fn c06_no_image_is_begun_while_the_journal_is_claimed() {
    const CHECK_MS: u64 = 10_000;
    let cluster = Cluster::start(29, &checked_every(CHECK_MS));
    assert_eq!(cluster.order_active(0), Ok(()));
    write(&cluster, "first");
    cluster.until("there is an image", |cluster| !cluster.images(1).is_empty());
    // The next look is due this long after the image.
    let saved = cluster.world.now();
    let images = cluster.images(1);
    write(&cluster, "second");
    cluster.world.crash(cluster.namenodes[0], Crash::Process);
    cluster
        .world
        .run_for(Duration::from_millis(CHECK_MS - 1_500));
    cluster.slow_journal(10_000);
    let order = Request::Transition {
        to: HaState::Active,
        force: true,
    };
    let ordered = cluster.begin_asking(1, order);
    let due = Duration::from_millis(CHECK_MS + 1_100);
    while cluster.world.now() - saved < due {
        cluster.world.run_for(Duration::from_millis(100));
        let begun = cluster.files(cluster.namenodes[1], "fsimage.ckpt");
        assert!(begun.is_empty(), "{begun:?}");
    }
    assert!(ordered.borrow().is_none(), "it claims all the while");
    assert_eq!(cluster.images(1), images);
    cluster.slow_journal(1);
    cluster.until("it is active", |_| ordered.borrow().is_some());
    let outcome = ordered.borrow_mut().take().expect("answered");
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(cluster.images(1), images);
    assert!(cluster.exists("/second-0"));
}

/// Q28, T-C4: a standby is promoted in the middle of saving an image on a disk that crawls: the promotion does not wait, the
/// save is given up between two writes, and the directory is as good as before: the next image is made in it.
#[test]
fn q28_t_c4_a_promotion_ends_a_save_and_harms_no_directory() {
    let cluster = Cluster::start(28, &checked_every(1_000));
    assert_eq!(cluster.order_active(0), Ok(()));
    let standby = cluster.namenodes[1];
    cluster.world.disk_of(standby).set_slow(400_000);
    write(&cluster, "a");
    cluster.until("it saves", |cluster| {
        !cluster.files(standby, "fsimage.ckpt").is_empty()
    });
    let life = cluster.world.life(standby);
    cluster.world.crash(cluster.namenodes[0], Crash::Process);
    let began = cluster.world.now();
    cluster.until("it is active", |cluster| cluster.order_active(1).is_ok());
    let took = cluster.world.now() - began;
    assert!(
        took <= Duration::from_secs(2),
        "the promotion took {took:?}"
    );
    assert!(cluster.images(1).is_empty(), "it was saving all the while");
    cluster.world.disk_of(standby).set_slow(1);
    cluster.until("the save is given up", |cluster| {
        cluster.stats(1).checkpoints_cancelled == 1
    });
    assert!(cluster.files(standby, "fsimage.ckpt").is_empty());
    let order = |action| cluster.ask(1, Request::SafeMode { action });
    assert!(order(SafeModeAction::Enter).is_ok());
    let saved = cluster.ask(1, Request::SaveNamespace);
    assert!(matches!(saved, Ok(Response::AtTxid { .. })), "{saved:?}");
    assert!(order(SafeModeAction::Leave).is_ok());
    assert_eq!(cluster.images(1).len(), 1);
    assert_eq!(cluster.world.life(standby), life);
}

/// T-C4, F-12: the role is handed to a standby that sends an image at 100 B/s to the one that has it: the hand-over does not
/// wait, the upload is given up, nothing of it is published, and the next image is the other's.
#[test]
fn t_c4_a_hand_over_ends_an_upload() {
    let setup = Setup {
        image_bytes_per_second: 100,
        ..checked_every(1_000)
    };
    let cluster = Cluster::start(30, &setup);
    assert_eq!(cluster.order_active(0), Ok(()));
    let first = cluster.namenodes[0];
    write(&cluster, "a");
    cluster.until("an image is on its way", |cluster| {
        !cluster.files(first, "fsimage.ckpt").is_empty()
    });
    let began = cluster.world.now();
    let order = Request::Failover {
        to: namenode_name(1),
        force_fence: false,
        force_active: false,
    };
    let moved = cluster.ask(0, order);
    assert!(moved.is_ok(), "{moved:?}");
    let took = cluster.world.now() - began;
    assert!(
        took <= Duration::from_secs(1),
        "the hand-over took {took:?}"
    );
    assert_eq!(cluster.state(1), Some(HaState::Active));
    assert!(cluster.images(0).is_empty());
    cluster.until("the upload is given up", |cluster| {
        cluster.stats(1).checkpoints_cancelled > 0
    });
    write(&cluster, "b");
    cluster.until("the other one makes images", |cluster| {
        cluster.images(0).pop_last() > cluster.images(1).pop_last()
    });
    assert!(cluster.exists("/a-0") && cluster.exists("/b-0"));
}

/// T-H23: a NameNode in safe mode is not made active where the configuration says so, by nobody and no force: the order fails
/// with the reason, and both are what they were. Out of safe mode it may.
#[test]
fn t_h23_no_promotion_in_safe_mode_when_configured_so() {
    let setup = Setup {
        not_become_active_in_safe_mode: true,
        ..manual()
    };
    let cluster = Cluster::start(31, &setup);
    assert_eq!(cluster.order_active(0), Ok(()));
    cluster.mkdirs("/a");
    let safe_mode = |action| {
        let answer = cluster.ask(1, Request::SafeMode { action });
        assert!(answer.is_ok(), "{answer:?}");
    };
    safe_mode(SafeModeAction::Enter);
    let order = Request::Failover {
        to: namenode_name(1),
        force_fence: false,
        force_active: true,
    };
    let said = cluster.ask(0, order).expect_err("in safe mode").to_string();
    assert!(said.contains("safe mode"), "{said}");
    cluster.until("the first serves again", |cluster| {
        cluster.state(0) == Some(HaState::Active)
    });
    cluster.mkdirs("/b");
    cluster.world.crash(cluster.namenodes[0], Crash::Process);
    let life = cluster.world.life(cluster.namenodes[1]);
    let said = cluster.order_active(1).expect_err("in safe mode");
    for word in ["safe mode", "ha.not_become_active_in_safe_mode"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(cluster.state(1), Some(HaState::Standby));
    assert_eq!(cluster.world.life(cluster.namenodes[1]), life);
    safe_mode(SafeModeAction::Leave);
    cluster.until("it may", |cluster| cluster.order_active(1).is_ok());
    assert!(cluster.exists("/a") && cluster.exists("/b"));
}
