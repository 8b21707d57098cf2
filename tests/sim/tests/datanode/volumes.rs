//! Volumes that fail (protocols.md section 6; HDFS `dfs.datanode.failed.volumes.tolerated`).

use crate::scene::{Plan, Scene, block, content};
use hadal_datanode::EXIT_VOLUMES_FAILED;
use hadal_proto::datanode::Request;
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::WriteStage;
use sim::{FaultRates, Status};
use std::time::Duration;

const FAILING: FaultRates = FaultRates {
    read_eio: 0,
    write_eio: 1_000_000,
    sync_eio: 1_000_000,
    write_full: 0,
    lost_write: 0,
    misdirected_write: 0,
    misdirected_read: 0,
};

/// Writes a block while every write fails; it cannot be acknowledged.
fn fail_a_write(scene: &Scene, id: u64) {
    let disk = scene.world.disk_of(scene.nodes[0]);
    let writer = scene
        .open(block(id, 1, 0), WriteStage::Create, &[0])
        .expect("set up");
    disk.set_rates(FAILING);
    let sent = scene.send(writer, &content(id, 5_000), 0, FrameKind::Sync);
    assert!(sent.is_err(), "nothing is acknowledged on a failed disk");
    disk.set_rates(FaultRates::default());
}

fn error_codes(scene: &Scene, namenode: usize) -> Vec<u16> {
    let heard = scene.namenodes[namenode].heard.borrow();
    heard
        .iter()
        .filter_map(|(_, request)| match request {
            Request::ErrorReport { code, .. } => Some(*code),
            _ => None,
        })
        .collect()
}

/// the only volume fails: every NameNode hears of the failed storage, then the process ends.
#[test]
fn a41_a_datanode_whose_only_volume_failed_tells_and_ends() {
    let scene = Scene::ready(&Plan::pair(1));
    fail_a_write(&scene, 1);
    let (code, reason) = scene.exit(0);
    assert_eq!(code, EXIT_VOLUMES_FAILED, "{reason}");
    assert!(
        reason.contains("1 of 1 volumes failed, datanode.failed_volumes_tolerated is 0"),
        "{reason}"
    );
    for namenode in 0..2 {
        assert_eq!(error_codes(&scene, namenode), [3]);
        let heard = scene.namenodes[namenode].heard.borrow();
        let told = heard.iter().any(|(_, request)| match request {
            Request::Heartbeat { heartbeat } => {
                heartbeat.failed_volumes == 1 && heartbeat.storages[0].failed
            }
            _ => false,
        });
        assert!(told, "nn{}", namenode + 1);
    }
}

/// one of two volumes fails and one may: its replicas are lost, those of the other are served on; the second
/// failure ends the process.
#[test]
fn a14_a_tolerated_failure_leaves_the_other_volume_serving() {
    let plan = Plan {
        dirs: 2,
        tolerated: 1,
        ..Plan::new(1)
    };
    let scene = Scene::ready(&plan);
    let data = content(7, 5_000);
    for id in [1, 2] {
        scene.put(block(id, 1, 0), &data, &[0]);
    }
    fail_a_write(&scene, 3);
    scene.until("the failure is told", |scene| error_codes(scene, 0) == [1]);
    scene.until("the heartbeat says so", |scene| {
        let heard = scene.namenodes[0].heard.borrow();
        let (_, last) = heard.last().expect("something");
        matches!(last, Request::Heartbeat { heartbeat }
            if heartbeat.failed_volumes == 1
                && heartbeat.storages.iter().filter(|storage| storage.failed).count() == 1)
    });
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!(scene.world.status(scene.nodes[0]), Status::Up);
    let left: Vec<u64> = [1, 2]
        .into_iter()
        .filter(|id| scene.read(0, *id).is_ok_and(|bytes| bytes == data))
        .collect();
    assert_eq!(left.len(), 1, "one volume each");
    scene.put(block(4, 1, 0), &data, &[0]);
    assert_eq!(scene.read(0, 4), Ok(data));
    fail_a_write(&scene, 5);
    assert_eq!(scene.exit(0).0, EXIT_VOLUMES_FAILED);
}
