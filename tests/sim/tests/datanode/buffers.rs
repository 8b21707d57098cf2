//! The buffers of a DataNode are bounded: streams that do not move must not keep them (D9).

use crate::scene::{Plan, Scene, block, content};
use hadal_proto::FaultClass;
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::WriteStage;
use std::time::Duration;

/// DataNodes with room for six or seven buffers of a group, on a network that takes less than two of them for a reader that
/// does not read.
fn plan(datanodes: usize) -> Plan {
    let mut plan = Plan::new(datanodes);
    plan.world.disk.pool_bytes = 272 << 10;
    plan.world.net.stream_window = 64 << 10;
    plan
}

/// T-P19: more programs than there are buffers write a little and pause, on every node of their pipelines: each finds a
/// buffer, and each goes on.
#[test]
fn t_p19_idle_writers_give_their_buffers_back() {
    let scene = Scene::ready(&plan(2));
    let parts = [5_000, 5_100, 40_000, 40_001];
    let data: Vec<Vec<u8>> = (1..=20).map(|id| content(id, 40_001)).collect();
    let mut writers = Vec::new();
    for (id, data) in (1..).zip(&data) {
        let writer = scene
            .open(block(id, 1, 0), WriteStage::Create, &[0, 1])
            .expect("set up");
        let sent = scene.send(writer, &data[..parts[0]], 0, FrameKind::KeepAlive);
        writers.push(sent.unwrap_or_else(|fault| panic!("writer {id}: {fault}")));
    }
    for part in parts.windows(2) {
        let mut later = Vec::new();
        for (writer, data) in writers.into_iter().zip(&data) {
            let sent = scene.send(writer, &data[..part[1]], part[0], FrameKind::KeepAlive);
            later.push(sent.unwrap_or_else(|fault| panic!("to {}: {fault}", part[1])));
        }
        writers = later;
    }
    for (writer, data) in writers.into_iter().zip(&data) {
        let ended = scene.send(writer, data, data.len(), FrameKind::Finish);
        ended.map(|_| ()).expect("finished");
    }
    for (id, data) in (1..).zip(&data) {
        for node in [0, 1] {
            assert!(scene.read(node, id).is_ok_and(|bytes| bytes == *data));
        }
    }
}

/// Readers that take nothing hold all buffers: others are told in time that the DataNode is busy, and once the first are
/// given up everything goes on.
#[test]
fn readers_that_take_nothing_are_given_up_and_others_told_meanwhile_d9() {
    let scene = Scene::ready(&plan(1));
    let data = content(1, 250_000);
    scene.put(block(1, 1, 0), &data, &[0]);
    let stalled: Vec<_> = (0..6)
        .map(|_| scene.open_reader(0, 1).expect("opened"))
        .collect();
    scene.world.run_for(Duration::from_secs(1));
    let read = scene.read(0, 1).expect_err("no buffer is left");
    assert_eq!(read.class, FaultClass::Busy, "{read}");
    let writer = scene
        .open(block(2, 1, 0), WriteStage::Create, &[0])
        .expect("set up");
    let written = scene.send(writer, &data[..40_000], 0, FrameKind::Flush);
    let written = written.map(|_| ()).expect_err("no buffer is left");
    assert_eq!(written.class, FaultClass::Busy, "{written}");
    let mut tries = 0;
    while scene.read(0, 1).map_err(|fault| fault.class) != Ok(data.clone()) {
        scene.world.run_for(Duration::from_secs(2));
        tries += 1;
        assert!(tries < 20, "the readers are not given up");
    }
    scene.put(block(3, 1, 0), &data, &[0]);
    drop(stalled);
}
