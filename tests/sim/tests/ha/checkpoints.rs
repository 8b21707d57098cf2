//! Images made on a standby while others want something of it or of the active.

use crate::cluster::{Cluster, PERIOD_MS, Setup, automatic, manual, namenode_name};
use hadal_client::FaultClass;
use hadal_namesystem::CheckpointConfig;
use hadal_proto::admin::{Request, Response, SafeModeAction};
use hadal_types::{HaState, TxId};
use sim::{Crash, NodeId};
use std::collections::BTreeSet;
use std::time::Duration;

/// An answer that waits for nothing is there within this much virtual time, in milliseconds.
const AT_ONCE_MS: u64 = 100;

/// Images are due after so many edits.
fn every(txns: u64) -> CheckpointConfig {
    CheckpointConfig {
        txns,
        check_ms: 1_000,
        ..CheckpointConfig::default()
    }
}

/// C-07, T-C1, T-C9, Q26: three NameNodes, one standby down for ten periods. One image per period, each published at the
/// active too; the one that was down gets images without anybody making more.
#[test]
fn t_c1_t_c9_q26_one_of_three_namenodes_is_down() {
    let setup = Setup {
        namenodes: 3,
        checkpoint: CheckpointConfig {
            period_ms: PERIOD_MS,
            check_ms: 1_000,
            ..CheckpointConfig::default()
        },
        ..manual()
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

/// T-C5, C-14: a standby that saves an image on a disk that crawls refuses reads at once and answers probes at once; the
/// save goes on, and ends.
#[test]
fn t_c5_reads_at_a_standby_that_saves_are_refused_at_once() {
    let setup = Setup {
        checkpoint: every(40),
        ..manual()
    };
    let cluster = Cluster::start(25, &setup);
    assert_eq!(cluster.order_active(0), Ok(()));
    let standby = cluster.namenodes[1];
    // It gives up with the last answer before half the limit.
    let (reader, dfs) = cluster.client("alice", &[1], AT_ONCE_MS / 2);
    cluster.world.disk_of(standby).set_slow(50_000);
    for at in 0..50 {
        cluster.mkdirs(&format!("/{at}"));
    }
    cluster.until("it saves", |cluster| {
        !cluster.files(standby, "fsimage.ckpt").is_empty()
    });
    let life = cluster.world.life(standby);
    for _ in 0..10 {
        let asking = dfs.clone();
        let (refused, ms) =
            cluster.timed(reader, async move { asking.try_file_status("/0").await });
        let error = refused.expect_err("a standby answers no reads");
        assert_eq!(error.class(), Some(FaultClass::Standby), "{error}");
        assert!(ms <= AT_ONCE_MS, "refused after {ms} ms");
        let began = cluster.world.now();
        let health = cluster.ask(1, Request::CheckHealth);
        assert!(matches!(health, Ok(Response::Health { healthy: true, .. })));
        assert!((cluster.world.now() - began).as_millis() as u64 <= AT_ONCE_MS);
        assert!(cluster.images(1).is_empty(), "it saves all the while");
    }
    cluster.world.disk_of(standby).set_slow(1);
    cluster.until("the image is there", |cluster| {
        !cluster.images(1).is_empty()
    });
    assert_eq!(cluster.world.life(standby), life);
}

/// T-C7: an image ordered while an edit is on its way to the JournalNodes waits until the edit is
/// durable and holds it; the journal ends a segment behind it and the next one begins there.
#[test]
fn t_c7_an_image_waits_for_the_edits_under_way() {
    // Between what is sent: of what is sent at once either may arrive first.
    for lead_ms in [10, 50] {
        let cluster = Cluster::start(26, &manual());
        assert_eq!(cluster.order_active(0), Ok(()));
        cluster.mkdirs("/a");
        cluster.slow_journal(8_000);
        let dfs = cluster.dfs.clone();
        let making = cluster.begin(cluster.admin, async move {
            dfs.mkdirs("/under-way", 0o755, true).await
        });
        cluster.world.run_for(Duration::from_millis(lead_ms));
        let safe_mode = cluster.begin_asking(
            0,
            Request::SafeMode {
                action: SafeModeAction::Enter,
            },
        );
        cluster.world.run_for(Duration::from_millis(lead_ms));
        let saving = cluster.begin_asking(0, Request::SaveNamespace);
        cluster.world.run_for(Duration::from_millis(300));
        let made = making.borrow();
        assert!(made.is_none(), "the edit is under way: {made:?}");
        drop(made);
        let saved = saving.borrow();
        assert!(saved.is_none(), "before it was durable: {saved:?}");
        drop(saved);
        assert!(cluster.images(0).is_empty());
        cluster.slow_journal(1);
        cluster.until("all is done", |_| {
            making.borrow().is_some() && saving.borrow().is_some() && safe_mode.borrow().is_some()
        });
        let made = making.borrow_mut().take().expect("done");
        let saved = saving.borrow_mut().take().expect("done");
        let Ok(Response::AtTxid { txid }) = saved else {
            panic!("{saved:?}");
        };
        assert!(made.is_ok(), "{made:?}");
        assert_eq!(cluster.images(0), BTreeSet::from([txid.0]));
        let leave = Request::SafeMode {
            action: SafeModeAction::Leave,
        };
        assert!(cluster.ask(0, leave).is_ok());
        cluster.mkdirs("/later");
        cluster.until("the segment ends", |cluster| {
            let mut jns = cluster.journalnodes.iter();
            jns.all(|jn| segments(cluster, *jn).len() > 1)
        });
        segments_are_contiguous(&cluster, txid);
        // What the image and the segments behind it hold is everything.
        cluster.world.crash(cluster.namenodes[0], Crash::Power);
        cluster.world.restart(cluster.namenodes[0]);
        cluster.until("it is active again", |cluster| {
            cluster.order_active(0).is_ok()
        });
        for path in ["/a", "/under-way", "/later"] {
            assert!(cluster.exists(path), "{path} with a lead of {lead_ms} ms");
        }
    }
}

/// First txid and, where it has ended, last txid of each segment on a JournalNode.
fn segments(cluster: &Cluster, jn: NodeId) -> Vec<(u64, Option<u64>)> {
    let files = cluster.files(jn, "edits_");
    let parsed = files.iter().filter_map(|name| {
        let name = name.strip_prefix("edits_")?;
        if let Some(first) = name.strip_prefix("inprogress_") {
            return Some((first.parse().ok()?, None));
        }
        let (first, last) = name.split_once('-')?;
        Some((first.parse().ok()?, Some(last.parse().ok()?)))
    });
    let mut segments: Vec<_> = parsed.collect();
    segments.sort_unstable();
    segments
}

/// On every JournalNode each segment begins where the one before ends, and one ends at or behind `image`.
fn segments_are_contiguous(cluster: &Cluster, image: TxId) {
    for jn in &cluster.journalnodes {
        let segments = segments(cluster, *jn);
        let mut ended = segments.iter().filter_map(|(_, last)| *last);
        let covered = ended.any(|last| last >= image.0);
        assert!(covered, "{segments:?}, image {image}");
        for pair in segments.windows(2) {
            let follows = pair[0].1.map(|last| last + 1) == Some(pair[1].0);
            assert!(follows, "{segments:?}");
        }
    }
}

/// Q24: while an image arrives at the active, slowly, and its segments end all the time, no call waits. It was written as
/// slowly.
#[test]
fn q24_an_image_arrives_while_segments_end_and_nobody_waits() {
    let setup = Setup {
        checkpoint: every(300),
        image_bytes_per_second: 1_500,
        ..manual()
    };
    let cluster = Cluster::start(27, &setup);
    assert_eq!(cluster.order_active(0), Ok(()));
    let active = cluster.namenodes[0];
    for at in 0..310 {
        cluster.mkdirs(&format!("/{at}"));
    }
    let standby = cluster.namenodes[1];
    cluster.until("an image is made", |cluster| {
        !cluster.files(standby, "fsimage.ckpt").is_empty()
    });
    let began = cluster.world.now();
    cluster.until("an image is on its way", |cluster| {
        !cluster.files(active, "fsimage.ckpt").is_empty()
    });
    // More than 4 KiB at this rate: the standby's disk and processor are shared with others, too.
    let took = cluster.world.now() - began;
    assert!(took >= Duration::from_secs(2), "written within {took:?}");
    let mut calls = 0;
    while cluster.images(0).is_empty() {
        let began = cluster.world.now();
        cluster.mkdirs(&format!("/meanwhile-{calls}"));
        assert!(cluster.ask(0, Request::RollEdits).is_ok());
        assert!(cluster.exists("/0"));
        let ms = (cluster.world.now() - began).as_millis() as u64;
        assert!(ms <= 3 * AT_ONCE_MS, "three calls took {ms} ms");
        calls += 1;
        assert!(calls < 10_000, "the image never arrives");
    }
    assert!(
        calls >= 20,
        "it arrived before anything could be asked: {calls}"
    );
    assert_eq!(cluster.active().map(namenode_name), Some("nn1".into()));
}

/// T-C7 beside a failover: the edits an ordered image waits for are discarded, and others get their numbers. Nothing is
/// published of them, and who ordered the image is told.
#[test]
fn t_c7_t_h9_no_image_of_discarded_edits() {
    let cluster = Cluster::start(28, &automatic());
    cluster.until("one is active", |cluster| cluster.active().is_some());
    let old = cluster.active().expect("just seen");
    cluster.mkdirs_for_all("/a");
    cluster.world.run_for(Duration::from_secs(2));
    for jn in &cluster.journalnodes {
        cluster.world.cut(cluster.namenodes[old], *jn);
    }
    let (node, only) = cluster.client("short", &[old], 100);
    let lost = cluster.begin(
        node,
        async move { only.mkdirs("/a/lost", 0o755, true).await },
    );
    cluster.world.run_for(Duration::from_millis(10));
    let safe_mode = cluster.begin_asking(
        old,
        Request::SafeMode {
            action: SafeModeAction::Enter,
        },
    );
    let saving = cluster.begin_asking(old, Request::SaveNamespace);
    cluster.until("the other one is active", |cluster| {
        cluster.state(1 - old) == Some(HaState::Active)
    });
    assert!(safe_mode.borrow_mut().take().expect("answered").is_ok());
    for at in 0..5 {
        cluster.mkdirs(&format!("/{at}"));
    }
    cluster.world.heal();
    cluster.until("who ordered it is answered", |_| saving.borrow().is_some());
    let said = saving.borrow_mut().take().expect("answered");
    let said = said.expect_err("it was saved").to_string();
    assert!(said.contains("discarded"), "{said}");
    cluster.until("the old one has followed", |cluster| {
        cluster.state(old) == Some(HaState::Standby) && cluster.stats(old).behind_txids == 0
    });
    assert!(cluster.images(old).is_empty());
    assert!(!cluster.exists("/a/lost"));
    assert!(lost.borrow_mut().take().is_none_or(|made| made.is_err()));
}
