//! Replicas that rot at rest are found without a reader (behaviour ).

use crate::scene::{Plan, Scene, block, content};
use hadal_blockpool::{Planted, ScannerConfig};
use hadal_proto::datanode::Request;
use hadal_types::BlockId;
use std::path::Path;
use std::time::Duration;

fn plan(planted: Planted) -> Plan {
    Plan {
        scanner: ScannerConfig {
            period_ms: 20_000,
            save_interval_ms: 1_000,
            planted,
            ..ScannerConfig::default()
        },
        ..Plan::pair(1)
    }
}

/// The blocks a NameNode was told are corrupt.
fn told_bad(scene: &Scene, namenode: usize) -> Vec<BlockId> {
    let heard = scene.namenodes[namenode].heard.borrow();
    let bad = heard.iter().flat_map(|(_, request)| match request {
        Request::ReportBadBlocks { blocks } => blocks.clone(),
        _ => Vec::new(),
    });
    let mut ids: Vec<BlockId> = bad.map(|bad| bad.block.id).collect();
    ids.dedup();
    ids
}

/// A small and a large replica among sound ones, both with a flipped bit.
fn rotten(scene: &Scene) -> [BlockId; 2] {
    for (id, length) in [(1, 5_000), (2, 5_000), (3, 90_000), (4, 90_000)] {
        scene.put(block(id, 1, 0), &content(id, length), &[0]);
    }
    let disk = scene.world.disk_of(scene.nodes[0]);
    for id in [2, 3] {
        let replica = scene.replica(0, id).expect("here");
        let bit = (replica.file_offset + 700) * 8 + 3;
        assert!(disk.flip_bit(Path::new(&replica.file), bit));
    }
    [BlockId(2), BlockId(3)]
}

/// within two periods every NameNode hears of exactly the replicas that rotted, and nobody read them.
#[test]
fn a39_rot_at_rest_is_reported_to_every_namenode_without_a_reader() {
    let scene = Scene::ready(&plan(Planted::default()));
    let rotten = rotten(&scene);
    scene.until("both are told", |scene| {
        (0..2).all(|namenode| {
            rotten
                .iter()
                .all(|id| told_bad(scene, namenode).contains(id))
        })
    });
    scene.world.run_for(Duration::from_secs(60));
    for namenode in 0..2 {
        let told = told_bad(&scene, namenode);
        assert!(told.iter().all(|id| rotten.contains(id)), "{told:?}");
    }
}

/// The planted bug `silent-scanner`: the check above fails without the report.
#[test]
fn a39_a_scanner_that_does_not_report_is_noticed() {
    let planted = Planted {
        silent_scanner: true,
        ..Planted::default()
    };
    let scene = Scene::ready(&plan(planted));
    rotten(&scene);
    scene.world.run_for(Duration::from_secs(120));
    assert_eq!(told_bad(&scene, 0), []);
}

/// A reader that meets rot makes the replica a suspect: it is read at once and reported, though its turn is days away.
#[test]
fn a39_a_readers_trouble_is_looked_at_at_once() {
    let mut plan = plan(Planted::default());
    plan.scanner.period_ms = 10_000_000_000;
    let scene = Scene::ready(&plan);
    scene.world.run_for(Duration::from_secs(5));
    let rotten = rotten(&scene);
    scene.world.run_for(Duration::from_secs(60));
    assert_eq!(told_bad(&scene, 0), []);
    let replica = scene.replica(0, 2).expect("here");
    // Of the slot's header, which the DataNode itself must understand to answer.
    let disk = scene.world.disk_of(scene.nodes[0]);
    assert!(disk.flip_bit(
        Path::new(&replica.file),
        (replica.file_offset / 4096 - 1) * 4096 * 8
    ));
    assert!(scene.read(0, 2).is_err());
    scene.until("it is told", |scene| told_bad(scene, 0) == [rotten[0]]);
}

/// The place reached outlives the process: a DataNode that restarts in the middle of a slow round ends it in time.
#[test]
fn a33_a_restart_goes_on_where_the_scanner_was() {
    let mut plan = plan(Planted::default());
    // Ninety seconds for a round of 30 replicas of 9 000 bytes and a header each.
    plan.scanner.bytes_per_second = 4_400;
    plan.scanner.period_ms = 100_000;
    let scene = Scene::ready(&plan);
    // The empty round is over; the next begins a period later.
    for id in 1..=30 {
        scene.put(block(id, 1, 0), &content(id, 9_000), &[0]);
    }
    let disk = scene.world.disk_of(scene.nodes[0]);
    scene.world.run_for(Duration::from_secs(50));
    // Restarts every 40 seconds: a scanner that began anew each time would never come to the end.
    for id in 1..=30 {
        let replica = scene.replica(0, id).expect("here");
        assert!(disk.flip_bit(Path::new(&replica.file), (replica.file_offset + 100) * 8));
    }
    for _ in 0..6 {
        scene.world.run_for(Duration::from_secs(40));
        scene.world.crash(scene.nodes[0], sim::Crash::Process);
        scene.world.run_for(Duration::from_millis(100));
        scene.world.restart(scene.nodes[0]);
    }
    scene.world.run_for(Duration::from_secs(5));
    let mut told = told_bad(&scene, 0);
    told.sort_unstable();
    told.dedup();
    assert!(told.len() >= 28, "only {} of 30 were read", told.len());
}
