//! Several NameNodes, one DataNode: whom it obeys, whom it tells, and who ends what (seed A).

use crate::scene::{Plan, Scene, block, claim, content, info};
use hadal_datanode::EXIT_REFUSED;
use hadal_proto::FaultClass;
use hadal_proto::admin;
use hadal_proto::datanode::{Action, ChangeKind, Request, TransferWork};
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::WriteStage;
use hadal_types::{Epoch, HaState, NamespaceInfo, ReplicaState, Role};
use sim::{Crash, DiskFault, Status};
use std::time::Duration;

fn invalidate(id: u64) -> Action {
    Action::Invalidate {
        blocks: vec![block(id, 1, 0)],
    }
}

/// T-D1, A-36: both NameNodes get the registration, a full report of every storage, and every change.
#[test]
fn t_d1_every_namenode_is_told_everything() {
    let scene = Scene::ready(&Plan::pair(1));
    scene.put(block(1, 1, 0), &content(1, 5_000), &[0]);
    for namenode in &scene.namenodes {
        scene.until("the finished replica is told", |_| {
            namenode.told("dn1", block(1, 1, 5_000), ChangeKind::Received)
        });
    }
    // a full report of everything when asked, at both.
    scene.namenodes[0].order("dn1", 1, 1, Action::ReportNow);
    scene.until("both have a second full report", |scene| {
        scene
            .namenodes
            .iter()
            .all(|namenode| namenode.count("dn1", "BlockReport") >= 2)
    });
    for namenode in &scene.namenodes {
        let heard = namenode.heard.borrow();
        let last = heard.iter().rev().find_map(|(_, request)| match request {
            Request::BlockReport { report } => Some(report.clone()),
            _ => None,
        });
        let report = last.expect("a full report");
        assert_eq!(report.finalized.len(), 24, "A-31: one packed entry");
        assert_eq!(report.acknowledged, Epoch(1));
    }
}

/// RECEIVING when a replica is opened, RECEIVED when it is finished, DELETED when it goes; a block of another pool is
/// refused by name.
#[test]
fn a34_each_kind_of_change_is_told() {
    let scene = Scene::ready(&Plan::pair(1));
    let told = |what, length, kind| {
        scene.until(what, |scene| {
            scene
                .namenodes
                .iter()
                .all(|namenode| namenode.told("dn1", block(1, 1, length), kind))
        });
    };
    let writer = scene
        .open(block(1, 1, 0), WriteStage::Create, &[0])
        .expect("set up");
    told("opened", 0, ChangeKind::Receiving);
    scene
        .send(writer, &content(1, 700), 0, FrameKind::Finish)
        .map(|_| ())
        .expect("written");
    told("finished", 700, ChangeKind::Received);
    scene.namenodes[0].order("dn1", 1, 1, invalidate(1));
    told("deleted", 700, ChangeKind::Deleted);
    let request = hadal_proto::transfer::Request::GetVisibleLength {
        pool: hadal_types::BlockPoolId("BP-other".into()),
        block: block(1, 1, 0),
        token: Default::default(),
    };
    let refused = scene.call(0, request).expect_err("another pool");
    assert_eq!(
        refused.message,
        "block belongs to BP BP-other instead of BP BP-test"
    );
}

/// T-D2, A-24, A-26: what a standby orders is not done; the acknowledged active's order is.
#[test]
fn t_d2_only_the_acknowledged_active_is_obeyed() {
    let scene = Scene::ready(&Plan::pair(1));
    scene.put(block(1, 1, 0), &content(1, 5_000), &[0]);
    for epoch in [0, 1] {
        scene.namenodes[1].order("dn1", epoch, 1, invalidate(1));
    }
    // Of an epoch that is not acknowledged.
    scene.namenodes[0].order("dn1", 2, 1, invalidate(1));
    scene.until("the orders are out", |scene| {
        !scene.namenodes.iter().any(|namenode| namenode.has_orders())
    });
    scene.world.run_for(Duration::from_secs(2));
    assert!(scene.replica(0, 1).is_some());
    scene.namenodes[0].order("dn1", 1, 1, invalidate(1));
    scene.until("the active's order is done", |scene| {
        scene.replica(0, 1).is_none()
    });
}

/// Q45: deletions that one order asks for share the device's flushes, and each is on the device before it is told.
#[test]
fn q45_the_deletions_of_one_order_share_flushes() {
    const REPLICAS: u64 = 64;
    let scene = Scene::ready(&Plan::pair(1));
    for id in 1..=REPLICAS {
        scene.put(block(id, 1, 0), &content(id, 5_000), &[0]);
    }
    let disk = scene.world.disk_of(scene.nodes[0]);
    let before = disk.disk_counters().syncs;
    let blocks = (1..=REPLICAS).map(|id| block(id, 1, 0)).collect();
    scene.namenodes[0].order("dn1", 1, 1, Action::Invalidate { blocks });
    scene.until("all are told as deleted", |scene| {
        (1..=REPLICAS)
            .all(|id| scene.namenodes[0].told("dn1", block(id, 1, 5_000), ChangeKind::Deleted))
    });
    let flushes = disk.disk_counters().syncs - before;
    assert!(
        flushes <= REPLICAS / 4,
        "{flushes} flushes for {REPLICAS} deletions"
    );
    let reports = scene.namenodes[0].count("dn1", "BlockReport");
    scene.world.crash(scene.nodes[0], Crash::Power);
    scene.world.restart(scene.nodes[0]);
    scene.until("it reports again", |scene| {
        scene.namenodes[0].count("dn1", "BlockReport") > reports
    });
    assert_eq!(scene.replicas(0), []);
}

/// T-D5, Q37, A-43: whichever operation of the disk fails, once, while the storage is made, and although the first NameNode
/// answers the first question with a fault: both NameNodes are registered with and told of a storage, the process goes
/// on, and after a restart both storages are there.
#[test]
fn t_d5_q37_a_failure_while_the_storage_is_made_ends_no_actor() {
    let plan = Plan {
        dirs: 2,
        tolerated: 1,
        ..Plan::pair(1)
    };
    let told = |scene: &Scene, reports: usize| {
        scene
            .namenodes
            .iter()
            .all(|namenode| namenode.count("dn1", "BlockReport") >= reports)
    };
    let plain = Scene::ready(&plan);
    let operations = plain.world.disk_of(plain.nodes[0]).operations();
    let mut struck = 0;
    for k in 0..operations {
        let scene = Scene::new(&plan);
        let disk = scene.world.disk_of(scene.nodes[0]);
        disk.fail_op(k, DiskFault::Eio);
        scene.namenodes[0].fail_next("VersionRequest", FaultClass::Retry);
        scene.until("both are told of a storage", |scene| told(scene, 1));
        assert_eq!(scene.world.status(scene.nodes[0]), Status::Up, "{k}");
        struck += usize::from(disk.forget_planned() == 0);
        let before: Vec<usize> = scene
            .namenodes
            .iter()
            .map(|namenode| namenode.count("dn1", "BlockReport"))
            .collect();
        scene.world.crash(scene.nodes[0], Crash::Process);
        scene.world.restart(scene.nodes[0]);
        scene.until("both storages are told to both", |scene| {
            let counts = scene
                .namenodes
                .iter()
                .map(|namenode| namenode.count("dn1", "BlockReport"));
            counts.zip(&before).all(|(now, before)| now >= before + 2)
        });
    }
    assert!(struck > 10, "{struck} of {operations}");
}

/// T-D3, A-09: one actor fails for good, the other serves.
#[test]
fn t_d3_a_namenode_of_another_cluster_ends_its_actor_only() {
    let plan = Plan {
        clusters: vec!["CID-a", "CID-b"],
        ..Plan::pair(1)
    };
    let scene = Scene::new(&plan);
    // Whoever answers first is the one whose data this will be.
    scene.until("one serves", |scene| {
        let reports = |n: usize| scene.namenodes[n].count("dn1", "BlockReport");
        reports(0) + reports(1) > 0
    });
    scene.world.run_for(Duration::from_secs(20));
    let registered: Vec<usize> = (0..2)
        .filter(|n| scene.namenodes[*n].count("dn1", "Register") > 0)
        .collect();
    assert_eq!(registered.len(), 1);
    let other = &scene.namenodes[1 - registered[0]];
    assert_eq!(other.count("dn1", "VersionRequest"), 1, "not asked again");
    assert_eq!(scene.world.status(scene.nodes[0]), Status::Up);
}

/// the data directory belongs to another cluster than the only NameNode: the process ends and says which.
#[test]
fn a05_a09_refused_by_every_namenode_the_process_ends() {
    let scene = Scene::ready(&Plan::new(1));
    scene.put(block(1, 1, 0), &content(1, 100), &[0]);
    *scene.namenodes[0].info.borrow_mut() = info("CID-b");
    scene.world.crash(scene.nodes[0], Crash::Process);
    scene.world.restart(scene.nodes[0]);
    let (code, reason) = scene.exit(0);
    assert_eq!(code, EXIT_REFUSED, "{reason}");
    for part in [
        "nn1",
        "Cluster ID mismatch: previously connected to Cluster ID CID-a but now connected to Cluster ID CID-b",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    // With its own cluster back it serves again, and has everything.
    *scene.namenodes[0].info.borrow_mut() = info("CID-a");
    scene.world.restart(scene.nodes[0]);
    scene.until("registered again", |scene| {
        scene.namenodes[0].count("dn1", "Register") >= 2
    });
    assert!(scene.read(0, 1).is_ok());
}

/// the identity that comes with the registration is held against the first one too.
#[test]
fn a10_a_registration_with_another_namespace_is_no_registration() {
    let other = [
        (
            "Namespace ID",
            NamespaceInfo {
                namespace_id: 8,
                ..info("CID-a")
            },
        ),
        ("Cluster ID", info("CID-b")),
    ];
    for (what, other) in other {
        let scene = Scene::ready(&Plan::new(1));
        *scene.namenodes[0].registered_as.borrow_mut() = Some(other);
        scene.namenodes[0].order("dn1", 0, 0, Action::Register);
        let (code, reason) = scene.exit(0);
        assert_eq!(code, EXIT_REFUSED, "{reason}");
        let text = format!("{what} mismatch: previously connected to {what} ");
        assert!(reason.contains(&text), "{reason}");
    }
}

/// another version, or a certificate that may not, ends the process too when no NameNode is left.
#[test]
fn a42_a_certificate_of_another_role_and_a_wrong_version_end_the_process() {
    let plan = Plan {
        role: Role::Client,
        ..Plan::new(1)
    };
    let (code, reason) = Scene::new(&plan).exit(0);
    assert_eq!(code, EXIT_REFUSED, "{reason}");
    assert!(reason.contains("Forbidden"), "{reason}");
    let scene = Scene::new(&Plan::new(1));
    scene.namenodes[0].fail_next("Register", FaultClass::IncorrectVersion);
    let (code, reason) = scene.exit(0);
    assert_eq!(code, EXIT_REFUSED, "{reason}");
}

/// T-D8: a registration that fails is tried again; REGISTER is obeyed from a standby.
#[test]
fn a13_register_is_obeyed_from_a_standby() {
    let scene = Scene::ready(&Plan::pair(1));
    let standby = &scene.namenodes[1];
    standby.fail_next("Register", FaultClass::Retry);
    standby.order("dn1", 0, 0, Action::Register);
    scene.until("both phases again, and a full report", |_| {
        standby.count("dn1", "VersionRequest") >= 2
            && standby.count("dn1", "Register") >= 3
            && standby.count("dn1", "BlockReport") >= 2
    });
    assert_eq!(scene.namenodes[0].count("dn1", "Register"), 1);
}

/// M-L7: the acknowledged epoch is durable before a command of it runs: after a power failure the deposed active
/// cannot order deletions.
#[test]
fn m_l7_a_deposed_active_is_not_obeyed_after_a_power_failure() {
    let scene = Scene::ready(&Plan::pair(1));
    scene.put(block(1, 1, 0), &content(1, 5_000), &[0]);
    scene.put(block(2, 1, 0), &content(2, 5_000), &[0]);
    // The old active does not know yet.
    *scene.namenodes[1].claim.borrow_mut() = claim(HaState::Active, 2, 8);
    scene.namenodes[1].order("dn1", 2, 1, invalidate(1));
    scene.until("the new active is obeyed", |scene| {
        scene.replica(0, 1).is_none()
    });
    *scene.namenodes[1].claim.borrow_mut() = claim(HaState::Standby, 0, 0);
    scene.world.crash(scene.nodes[0], Crash::Power);
    *scene.namenodes[0].claim.borrow_mut() = claim(HaState::Active, 1, 1_000);
    scene.namenodes[0].order("dn1", 1, 1, invalidate(2));
    scene.world.restart(scene.nodes[0]);
    scene.until("the old order is out", |scene| {
        !scene.namenodes[0].has_orders()
    });
    scene.world.run_for(Duration::from_secs(3));
    assert!(scene.replica(0, 2).is_some());
}

/// T-D6, T-D7: a rotten source of a copy is told to every NameNode, one slow NameNode holds up nobody; what
/// a standby refuses is not told to it again, what was lost is.
#[test]
fn a39_t_d6_t_d7_a_rotten_source_of_a_copy_is_reported_to_all() {
    for length in [3_000, 100_000] {
        let scene = Scene::ready(&Plan::pair(2));
        scene.put(block(1, 1, 0), &content(1, length), &[0]);
        let replica = scene.replica(0, 1).expect("here");
        assert_eq!(replica.state, ReplicaState::Finalized);
        let disk = scene.world.disk_of(scene.nodes[0]);
        let bit = (replica.file_offset + 1_000) * 8;
        assert!(disk.flip_bit(replica.file.as_ref(), bit), "{replica:?}");
        let [active, standby] = &scene.namenodes[..] else {
            panic!("two")
        };
        standby.slow_ms.set(5_000);
        standby.fail_next("ReportBadBlocks", FaultClass::Standby);
        active.fail_next("ReportBadBlocks", FaultClass::SafeMode);
        active.fail_next("ReportBadBlocks", FaultClass::Retry);
        let order = |sequence| {
            let work = vec![TransferWork {
                block: block(1, 1, length as u64),
                targets: scene.targets(&[1]),
            }];
            active.order("dn1", 1, sequence, Action::Transfer { work });
        };
        order(1);
        let bad = |namenode: &crate::scene::Namenode| namenode.count("dn1", "ReportBadBlocks");
        scene.until("told to both", |_| bad(active) >= 1 && bad(standby) >= 1);
        scene.until("the failed copy is told after the bad replica", |_| {
            active.count("dn1", "TransferFailed") == 1
        });
        // Another try finds it again; this report's answer is lost, and it is told again.
        order(2);
        scene.until("told until it is taken", |_| bad(active) >= 3);
        scene.world.run_for(Duration::from_secs(20));
        assert_eq!(bad(active), 3);
        assert!(bad(standby) <= 2, "once for each time it was found");
        assert!(scene.replica(1, 1).is_none(), "no rotten copy");
        let heard = active.heard.borrow();
        let told = heard.iter().find_map(|(_, request)| match request {
            Request::ReportBadBlocks { blocks } => Some(blocks.clone()),
            _ => None,
        });
        assert_eq!(told.expect("told")[0].block, block(1, 1, length as u64));
    }
}

/// a NameNode that is away holds up nothing; a change it missed is told when it is back.
#[test]
fn a02_a_dead_namenode_delays_nothing_and_catches_up() {
    let scene = Scene::ready(&Plan::pair(1));
    let dead = scene.world.node("nn2").expect("nn2");
    scene.world.crash(dead, Crash::Process);
    scene.put(block(1, 1, 0), &content(1, 5_000), &[0]);
    let finished = block(1, 1, 5_000);
    scene.until("the other is told", |scene| {
        scene.namenodes[0].told("dn1", finished, ChangeKind::Received)
    });
    scene.world.restart(dead);
    scene.until("told once it is back", |scene| {
        scene.namenodes[1].told("dn1", finished, ChangeKind::Received)
    });
}

/// A-03, T-D10: NameNode 2 is replaced by NameNode 3 at run time; the same list again changes nothing, an empty one is
/// refused.
#[test]
fn t_d10_a_namenode_is_replaced_at_run_time() {
    let plan = Plan {
        claims: vec![
            claim(HaState::Active, 1, 10),
            claim(HaState::Standby, 0, 9),
            claim(HaState::Standby, 0, 9),
        ],
        ..Plan::new(1)
    };
    let scene = Scene::new(&plan);
    let everyone = scene.list.borrow().clone();
    *scene.list.borrow_mut() = vec![everyone[0].clone(), everyone[1].clone()];
    // The first start read all three.
    scene.world.crash(scene.nodes[0], Crash::Process);
    scene.world.restart(scene.nodes[0]);
    let reports = |n: usize| scene.namenodes[n].count("dn1", "BlockReport");
    scene.until("both have a report", |_| reports(0) > 0 && reports(1) > 0);
    assert_eq!(scene.namenodes[2].count("dn1", "Register"), 0);
    *scene.list.borrow_mut() = vec![everyone[0].clone(), everyone[2].clone()];
    for _ in 0..2 {
        let answer = scene.administer(0, admin::Request::RefreshNamenodes);
        assert_eq!(answer.map(|answer| answer.name()), Ok("Done"));
    }
    scene.until("the new one has a report", |_| reports(2) > 0);
    scene.put(block(1, 1, 0), &content(1, 700), &[0]);
    for n in [0, 2] {
        scene.until("changes are told", |scene| {
            scene.namenodes[n].told("dn1", block(1, 1, 700), ChangeKind::Received)
        });
    }
    let beats = scene.namenodes[1].count("dn1", "Heartbeat");
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!(scene.namenodes[1].count("dn1", "Heartbeat"), beats);
    assert!(!scene.namenodes[1].told("dn1", block(1, 1, 700), ChangeKind::Received));
    assert_eq!(scene.namenodes[0].count("dn1", "Register"), 1);
    assert_eq!(scene.namenodes[2].count("dn1", "Register"), 1);
    scene.list.borrow_mut().clear();
    let refused = scene.administer(0, admin::Request::RefreshNamenodes);
    let message = refused.expect_err("an empty list").message;
    assert!(
        message.starts_with("must pass at least one NameNode"),
        "{message}"
    );
    assert_eq!(scene.world.status(scene.nodes[0]), Status::Up);
}
