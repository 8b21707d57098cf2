//! Pipeline stages beside creation: append, recovery of an append, of a close, and nodes that join (E-21, T-R1).

use crate::scene::{Plan, Scene, block, content};
use hadal_proto::FaultClass;
use hadal_proto::datanode::ChangeKind;
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::WriteStage;
use hadal_types::{GenerationStamp, ReplicaState};
use sim::Crash;

fn gs(stamp: u64) -> GenerationStamp {
    GenerationStamp(stamp)
}

#[track_caller]
fn holds(scene: &Scene, nodes: &[usize], id: u64, stamp: u64, data: &[u8]) {
    for node in nodes {
        let replica = scene.replica(*node, id).expect("a replica");
        assert_eq!(replica.block, block(id, stamp, data.len() as u64));
        assert_eq!(replica.state, ReplicaState::Finalized);
        assert!(
            scene.read(*node, id).is_ok_and(|bytes| bytes == data),
            "dn{} differs",
            node + 1
        );
    }
}

/// F-10, T-R1 append: a finished block goes on under a new stamp from an unaligned length, on every node.
#[test]
fn f10_append_goes_on_from_an_unaligned_tail() {
    for (length, more) in [
        (1_535, 515),
        (512, 1),
        (40_000, 20_001),
        (32_768, 100),
        (0, 700),
    ] {
        let scene = Scene::ready(&Plan::new(2));
        let data = content(3, length + more);
        scene.put(block(1, 1, 0), &data[..length], &[0, 1]);
        let stage = WriteStage::Append { old: gs(1) };
        let writer = scene
            .open(block(1, 2, length as u64), stage, &[0, 1])
            .expect("set up");
        assert_eq!(
            scene.replica(0, 1).expect("here").state,
            ReplicaState::Rbw,
            "reopened"
        );
        let writer = scene
            .send(writer, &data[..length + more / 2], length, FrameKind::Flush)
            .expect("flushed");
        for node in [0, 1] {
            assert!(
                scene
                    .read(node, 1)
                    .is_ok_and(|bytes| bytes == data[..length + more / 2]),
                "flushed bytes are seen (T-P17)"
            );
        }
        scene
            .send(writer, &data, length + more / 2, FrameKind::Finish)
            .map(|_| ())
            .expect("written");
        holds(&scene, &[0, 1], 1, 2, &data);
        scene.until("told with the new stamp", |scene| {
            ["dn1", "dn2"].iter().all(|node| {
                scene.namenodes[0].told(node, block(1, 2, data.len() as u64), ChangeKind::Received)
            })
        });
        // A repeated set-up is stale, and changes nothing.
        let again = scene.open(block(1, 2, length as u64), stage, &[0, 1]);
        assert_eq!(
            again.err().map(|fault| fault.class),
            Some(FaultClass::StaleReplica)
        );
        holds(&scene, &[0, 1], 1, 2, &data);
    }
}

/// T-R1 append and recoverAppend by state: an open replica refuses a plain append and takes its recovery.
#[test]
fn t_r1_an_append_that_was_not_set_up_everywhere_is_set_up_again() {
    let scene = Scene::ready(&Plan::new(2));
    let data = content(3, 3_000);
    scene.put(block(1, 1, 0), &data[..1_000], &[0, 1]);
    // Only the first node was reached.
    let stage = |old| WriteStage::Append { old: gs(old) };
    let first = scene
        .open(block(1, 2, 1_000), stage(1), &[0])
        .expect("set up");
    let plain = scene.open(block(1, 3, 1_000), stage(1), &[0, 1]);
    assert_eq!(
        plain.err().map(|fault| fault.class),
        Some(FaultClass::StaleReplica)
    );
    let recovery = WriteStage::AppendRecovery { old: gs(1) };
    let writer = scene
        .open(block(1, 4, 1_000), recovery, &[0, 1])
        .expect("set up again");
    assert!(
        scene.send(first, &data, 1_000, FrameKind::Finish).is_err(),
        "the first writer is stopped"
    );
    scene
        .send(writer, &data, 1_000, FrameKind::Finish)
        .map(|_| ())
        .expect("written");
    holds(&scene, &[0, 1], 1, 4, &data);
    let unknown = scene.open(block(9, 2, 0), stage(1), &[0]);
    assert_eq!(
        unknown.err().map(|fault| fault.class),
        Some(FaultClass::NotFound)
    );
}

/// E-21, T-R1 recoverClose: after a failed close the nodes left finalise under the new stamp, whatever they had done.
#[test]
fn e21_a_failed_close_is_done_again() {
    let scene = Scene::ready(&Plan::new(3));
    let data = content(3, 3_000);
    let writer = scene.begin(block(1, 1, 0), &[0, 1], &data, FrameKind::Flush);
    drop(writer);
    // Node 2 had finished already.
    scene.put(block(1, 1, 0), &data, &[2]);
    let stage = WriteStage::CloseRecovery {
        old: gs(1),
        length: 3_000,
    };
    scene
        .open(block(1, 2, 3_000), stage, &[0, 2, 1])
        .map(|_| ())
        .expect("closed");
    holds(&scene, &[0, 1, 2], 1, 2, &data);
    // The length must fit, at every node.
    let short = WriteStage::CloseRecovery {
        old: gs(2),
        length: 2_999,
    };
    let refused = scene.open(block(1, 3, 2_999), short, &[0, 1]);
    assert_eq!(
        refused.err().map(|fault| fault.class),
        Some(FaultClass::StaleReplica)
    );
    scene.world.crash(scene.nodes[1], Crash::Process);
    let lost = WriteStage::CloseRecovery {
        old: gs(2),
        length: 3_000,
    };
    let refused = scene.open(block(1, 3, 3_000), lost, &[0, 1]);
    assert!(refused.is_err(), "the node behind is gone");
}

/// E-21, T-P8, T-P9: a node that joins gets the readable bytes of the open replica, also none of them and also past what
/// the client knows to be acknowledged, and takes part from then on.
#[test]
fn e21_t_p8_t_p9_a_replacement_gets_the_bytes_and_joins() {
    for (flushed, end) in [(1_535, 5_000), (0, 100), (40_000, 70_001)] {
        let scene = Scene::ready(&Plan::new(3));
        let data = content(9, end);
        let writer = scene
            .open(block(1, 1, 0), WriteStage::Create, &[0, 1])
            .expect("set up");
        let writer = if flushed > 0 {
            scene
                .send(writer, &data[..flushed], 0, FrameKind::Flush)
                .expect("flushed")
        } else {
            writer
        };
        scene.world.crash(scene.nodes[1], Crash::Process);
        drop(writer);
        scene
            .copy(0, block(1, 1, flushed as u64), 2)
            .expect("copied");
        let joined = scene.replica(2, 1).expect("here");
        assert_eq!(joined.state, ReplicaState::Rbw);
        assert_eq!(joined.block, block(1, 1, flushed as u64));
        let stage = WriteStage::StreamingRecovery {
            old: gs(1),
            acked: (flushed / 2) as u64,
        };
        let writer = scene
            .open(block(1, 2, flushed as u64), stage, &[0, 2])
            .expect("the pipeline goes on");
        scene
            .send(writer, &data, flushed / 2, FrameKind::Finish)
            .map(|_| ())
            .expect("written");
        holds(&scene, &[0, 2], 1, 2, &data);
    }
}

/// E-21: a recovery that failed half way has raised the stamp at the node that is to give its bytes; it gives them all the
/// same, and the node that joins goes on with it from the settled stamp.
#[test]
fn e21_a_node_joins_after_a_recovery_that_failed_half_way() {
    let scene = Scene::ready(&Plan::new(3));
    let data = content(9, 9_000);
    let writer = scene.begin(block(1, 1, 0), &[0, 1], &data[..5_001], FrameKind::Flush);
    scene.world.crash(scene.nodes[1], Crash::Process);
    drop(writer);
    let stage = WriteStage::StreamingRecovery {
        old: gs(1),
        acked: 5_001,
    };
    let half = scene.open(block(1, 2, 5_001), stage, &[0, 1]);
    assert!(half.is_err(), "the node behind is gone");
    assert_eq!(
        scene.replica(0, 1).expect("here").block,
        block(1, 2, 5_001),
        "raised already"
    );
    scene.copy(0, block(1, 1, 5_001), 2).expect("copied");
    let writer = scene
        .open(block(1, 3, 5_001), stage, &[0, 2])
        .expect("the pipeline goes on");
    scene
        .send(writer, &data, 5_001, FrameKind::Finish)
        .map(|_| ())
        .expect("written");
    holds(&scene, &[0, 2], 1, 3, &data);
}

/// E-21, E-17: a node that died, and has what it had then as RWR, joins its old pipeline again: the outdated replica gives
/// way to the copy.
#[test]
fn e21_a_restarted_node_joins_the_pipeline_it_had_left() {
    let scene = Scene::ready(&Plan::new(3));
    let data = content(9, 9_000);
    let writer = scene.begin(block(1, 1, 0), &[0, 1], &data[..3_000], FrameKind::Sync);
    scene.world.crash(scene.nodes[1], Crash::Process);
    drop(writer);
    let streaming = |old, acked| WriteStage::StreamingRecovery {
        old: gs(old),
        acked,
    };
    let writer = scene
        .open(block(1, 2, 3_000), streaming(1, 3_000), &[0])
        .expect("alone");
    let writer = scene
        .send(writer, &data[..7_000], 3_000, FrameKind::Flush)
        .expect("flushed");
    drop(writer);
    scene.world.restart(scene.nodes[1]);
    scene.until("registered again", |scene| {
        scene.namenodes[0].count("dn2", "BlockReport") >= 2
    });
    let outdated = scene.replica(1, 1).expect("kept");
    assert_eq!(outdated.state, ReplicaState::Rwr);
    scene.copy(0, block(1, 2, 7_000), 1).expect("copied");
    let writer = scene
        .open(block(1, 3, 7_000), streaming(2, 7_000), &[0, 1])
        .expect("the pipeline goes on");
    scene
        .send(writer, &data, 7_000, FrameKind::Finish)
        .map(|_| ())
        .expect("written");
    holds(&scene, &[0, 1], 1, 3, &data);
}

/// E-09, E-21: what was acknowledged without a flush is brought to a node that joins, too.
#[test]
fn e21_a_node_that_joins_gets_what_was_acknowledged_and_not_flushed() {
    let scene = Scene::ready(&Plan::new(2));
    let data = content(9, 1_535);
    let writer = scene.begin(block(1, 1, 0), &[0], &data, FrameKind::KeepAlive);
    scene.copy(0, block(1, 1, 1_535), 1).expect("copied");
    assert_eq!(scene.replica(1, 1).expect("here").block, block(1, 1, 1_535));
    drop(writer);
}

/// E-12, E-17: only DataNodes bring copies: nobody else's may push a finished replica aside.
#[test]
fn e17_only_datanodes_bring_copies() {
    let scene = Scene::ready(&Plan::new(1));
    let data = content(1, 100);
    scene.put(block(1, 5, 0), &data, &[0]);
    for stage in [WriteStage::Copy, WriteStage::TransferRbw] {
        let refused = scene.open(block(1, 6, 0), stage, &[0]);
        assert_eq!(
            refused.err().map(|fault| fault.class),
            Some(FaultClass::Forbidden)
        );
    }
    holds(&scene, &[0], 1, 5, &data);
}

/// A frame past the end of all numbers is refused; the DataNode goes on.
#[test]
fn a_frame_beyond_all_offsets_is_a_bad_request() {
    let scene = Scene::ready(&Plan::new(1));
    let writer = scene
        .open(block(1, 1, 0), WriteStage::Create, &[0])
        .expect("set up");
    let refused = scene.send_at(writer, u64::MAX - 3, &content(1, 100));
    assert_eq!(
        refused.err().map(|fault| fault.class),
        Some(FaultClass::BadRequest)
    );
    scene.put(block(2, 1, 0), &content(2, 100), &[0]);
}

/// E-12: a copy for a joining node that breaks off leaves nothing behind.
#[test]
fn e12_a_transfer_of_what_is_not_there_leaves_nothing() {
    let scene = Scene::ready(&Plan::new(2));
    scene.put(block(1, 5, 0), &content(1, 100), &[0]);
    for (id, stamp, class) in [
        (9, 1, FaultClass::NotFound),
        (1, 4, FaultClass::StaleReplica),
    ] {
        let refused = scene.copy(0, block(id, stamp, 0), 1);
        assert_eq!(refused.err().map(|fault| fault.class), Some(class));
    }
    assert!(scene.replicas(1).is_empty());
}
