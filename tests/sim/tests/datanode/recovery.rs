//! Block recovery by the real DataNodes (E-18..E-20).

use crate::scene::{Namenode, Plan, Scene, block, claim, content};
use hadal_proto::FaultClass;
use hadal_proto::client::ReplicaTarget;
use hadal_proto::datanode::{Action, ChangeKind, RecoveryWork, Request};
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::{self, WriteStage};
use hadal_types::{BlockId, BlockPoolId, GenerationStamp, HaState, ReplicaState};
use sim::Crash;
use std::time::Duration;

const ID: u64 = 1;

struct Commit {
    recovery_id: GenerationStamp,
    length: u64,
    nodes: Vec<ReplicaTarget>,
    delete: bool,
}

fn commits(namenode: &Namenode) -> Vec<Commit> {
    let heard = namenode.heard.borrow();
    heard
        .iter()
        .filter_map(|(_, request)| match request {
            Request::CommitBlockSynchronization {
                block,
                recovery_id,
                length,
                nodes,
                delete,
            } if *block == BlockId(ID) => Some(Commit {
                recovery_id: *recovery_id,
                length: *length,
                nodes: nodes.clone(),
                delete: *delete,
            }),
            _ => None,
        })
        .collect()
}

fn recover(
    scene: &Scene,
    namenode: usize,
    sequence: u64,
    recovery_id: u64,
    truncate_to: Option<u64>,
) {
    let locations: Vec<usize> = (0..scene.nodes.len()).collect();
    let work = RecoveryWork {
        block: block(ID, 1, 0),
        recovery_id: GenerationStamp(recovery_id),
        locations: scene.targets(&locations),
        truncate_to,
    };
    let action = Action::RecoverBlock { work: vec![work] };
    scene.namenodes[namenode].order("dn1", 1, sequence, action);
}

#[track_caller]
fn committed(scene: &Scene, namenode: usize) -> Commit {
    scene.until("the recovery is committed", |scene| {
        !commits(&scene.namenodes[namenode]).is_empty()
    });
    commits(&scene.namenodes[namenode]).pop().expect("one")
}

#[track_caller]
fn recovered(scene: &Scene, nodes: &[usize], stamp: u64, data: &[u8]) {
    for node in nodes {
        let replica = scene.replica(*node, ID).expect("a replica");
        assert_eq!(replica.block, block(ID, stamp, data.len() as u64));
        assert_eq!(replica.state, ReplicaState::Finalized);
        assert!(scene.read(*node, ID).is_ok_and(|bytes| bytes == data));
        let name = format!("dn{}", node + 1);
        scene.until("told", |scene| {
            scene.namenodes[0].told(&name, replica.block, ChangeKind::Received)
        });
    }
}

/// E-18, T-L4, T-L11: open replicas are frozen, agree on the flushed bytes, and the writer is stopped.
#[test]
fn e18_t_l11_open_replicas_agree_and_the_writer_is_stopped() {
    for length in [1_535, 40_000] {
        let scene = Scene::ready(&Plan::new(3));
        let data = content(4, length);
        let writer = scene.begin(block(ID, 1, 0), &[0, 1, 2], &data, FrameKind::Flush);
        recover(&scene, 0, 1, 9, None);
        let commit = committed(&scene, 0);
        assert_eq!(commit.recovery_id, GenerationStamp(9));
        assert_eq!((commit.length, commit.delete), (length as u64, false));
        assert_eq!(commit.nodes.len(), 3);
        recovered(&scene, &[0, 1, 2], 9, &data);
        let sent = scene.send(writer, &content(4, length + 600), length, FrameKind::Finish);
        assert!(sent.is_err(), "T-L11: the writer's replica is taken");
        recovered(&scene, &[0, 1, 2], 9, &data);
    }
}

/// T-L13, T-R8: nodes that are dead or silent do not hold it up beyond the time-out.
#[test]
fn t_l13_t_r8_dead_and_silent_nodes_are_left_out() {
    let scene = Scene::ready(&Plan::new(3));
    let data = content(4, 3_000);
    let _writer = scene.begin(block(ID, 1, 0), &[0, 1, 2], &data, FrameKind::Flush);
    scene.world.crash(scene.nodes[1], Crash::Process);
    scene.world.pause(scene.nodes[2]);
    recover(&scene, 0, 1, 9, None);
    let commit = committed(&scene, 0);
    let names: Vec<&str> = commit.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!((names, commit.length), (vec!["dn1"], 3_000));
    recovered(&scene, &[0], 9, &data);
}

/// E-10, T-L5, T-L6: after a restart of all nodes the least of what is left counts; beside an open replica a restarted
/// one does not.
#[test]
fn t_l5_t_l6_restarted_replicas_count_only_among_themselves() {
    for restarted in [&[1][..], &[0, 1][..]] {
        let scene = Scene::ready(&Plan::new(2));
        let data = content(4, 3_000);
        let writer = scene.begin(block(ID, 1, 0), &[0, 1], &data, FrameKind::Sync);
        for node in restarted {
            scene.world.crash(scene.nodes[*node], Crash::Power);
            scene.world.restart(scene.nodes[*node]);
        }
        drop(writer);
        scene.until("registered again", |scene| {
            restarted.iter().all(|node| {
                scene.namenodes[0].count(&format!("dn{}", node + 1), "BlockReport") >= 2
            })
        });
        for node in restarted {
            let replica = scene.replica(*node, ID).expect("kept");
            assert_eq!(replica.state, ReplicaState::Rwr);
        }
        recover(&scene, 0, 1, 9, None);
        let commit = committed(&scene, 0);
        assert_eq!(commit.length, 3_000);
        let participants = if restarted.len() == 2 { 2 } else { 1 };
        assert_eq!(commit.nodes.len(), participants);
        recovered(&scene, &[0], 9, &data);
    }
}

/// T-L7, T-R5: a higher recovery elsewhere ends this one without a word; a still higher one succeeds.
#[test]
fn t_l7_a_pre_empted_recovery_commits_nothing() {
    let scene = Scene::ready(&Plan::new(2));
    let data = content(4, 3_000);
    let _writer = scene.begin(block(ID, 1, 0), &[0, 1], &data, FrameKind::Flush);
    // The second node leads one of its own, of which the first does not hear.
    let work = RecoveryWork {
        block: block(ID, 1, 0),
        recovery_id: GenerationStamp(20),
        locations: scene.targets(&[1]),
        truncate_to: Some(5_000),
    };
    let action = Action::RecoverBlock { work: vec![work] };
    scene.namenodes[0].order("dn2", 1, 1, action);
    scene.until("frozen for that one", |scene| {
        scene.replica(1, ID).expect("here").state == ReplicaState::Rur
    });
    recover(&scene, 0, 1, 9, None);
    scene.world.run_for(Duration::from_secs(10));
    assert!(commits(&scene.namenodes[0]).is_empty());
    recover(&scene, 0, 2, 21, None);
    assert_eq!(committed(&scene, 0).nodes.len(), 2);
    recovered(&scene, &[0, 1], 21, &data);
}

/// T-L9: nobody has a byte: the block goes.
#[test]
fn t_l9_an_empty_block_is_dropped() {
    let scene = Scene::ready(&Plan::new(2));
    let _writer = scene
        .open(block(ID, 1, 0), WriteStage::Create, &[0, 1])
        .expect("set up");
    recover(&scene, 0, 1, 9, None);
    let commit = committed(&scene, 0);
    assert!(commit.delete && commit.length == 0 && commit.nodes.is_empty());
}

/// F-10, E-19: a truncation cuts every replica to the length the NameNode names.
#[test]
fn f10_a_truncation_cuts_every_replica() {
    for (length, cut) in [(5_000, 1_535), (70_000, 33_000)] {
        let scene = Scene::ready(&Plan::new(2));
        let data = content(4, length);
        scene.put(block(ID, 1, 0), &data, &[0, 1]);
        recover(&scene, 0, 1, 9, Some(cut as u64));
        let commit = committed(&scene, 0);
        assert_eq!((commit.length, commit.nodes.len()), (cut as u64, 2));
        recovered(&scene, &[0, 1], 9, &data[..cut]);
    }
}

/// E-20: the commit goes to whoever is active when the replicas agree.
#[test]
fn e20_the_commit_goes_to_the_namenode_that_is_active_by_then() {
    let scene = Scene::ready(&Plan::pair(2));
    let data = content(4, 3_000);
    let _writer = scene.begin(block(ID, 1, 0), &[0, 1], &data, FrameKind::Flush);
    // The silent node keeps the recovery waiting for its time-out.
    scene.world.pause(scene.nodes[1]);
    recover(&scene, 0, 1, 9, None);
    scene.until("the recovery runs", |scene| {
        scene.replica(0, ID).expect("here").state == ReplicaState::Rur
    });
    *scene.namenodes[0].claim.borrow_mut() = claim(HaState::Standby, 0, 0);
    *scene.namenodes[1].claim.borrow_mut() = claim(HaState::Active, 2, 20);
    assert_eq!(committed(&scene, 1).length, 3_000);
    assert!(commits(&scene.namenodes[0]).is_empty());
}

/// reliability.md A2: only a DataNode may freeze a replica.
#[test]
fn only_datanodes_take_part_in_a_recovery() {
    let scene = Scene::ready(&Plan::new(1));
    scene.put(block(ID, 1, 0), &content(4, 100), &[0]);
    let request = transfer::Request::InitReplicaRecovery {
        pool: BlockPoolId("BP-test".into()),
        block: block(ID, 1, 0),
        recovery_id: GenerationStamp(9),
    };
    let refused = scene.call(0, request);
    assert_eq!(
        refused.err().map(|fault| fault.class),
        Some(FaultClass::Forbidden)
    );
    assert_eq!(
        scene.replica(0, ID).expect("here").state,
        ReplicaState::Finalized
    );
}
