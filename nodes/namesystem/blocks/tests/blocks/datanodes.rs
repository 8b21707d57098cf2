//! Registration, heartbeats, staleness and death.

use crate::world::{EPOCH, World, block, class, config, info};
use hadal_blocks::{BlockConfig, BlockEvent};
use hadal_proto::FaultClass;
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{Action, ChangeKind, IncrementalReport, Request, Response};
use hadal_types::{
    BlockPoolId, ClusterId, DatanodeUuid, Epoch, HaState, LayoutVersion, StorageUuid, Tick, TxId,
};

const RACK: &str = "/default-rack";

#[test]
fn a_08_layout_outside_the_range_is_refused_with_both_values() {
    let range = BlockConfig {
        oldest_layout: LayoutVersion(3),
        newest_layout: LayoutVersion(5),
        ..config()
    };
    let mut w = World::new(range, &[RACK]);
    for (layout, fits) in [(2, false), (3, true), (5, true), (6, false)] {
        let mut registration = w.registration(0);
        registration.layout = LayoutVersion(layout);
        let result = w.call(0, Request::Register { registration });
        assert_eq!(result.is_ok(), fits, "{layout}");
        if let Err(fault) = result {
            assert_eq!(fault.class, FaultClass::IncorrectVersion);
            for part in [layout.to_string(), "3 to 5".into(), "dn0".into()] {
                assert!(fault.message.contains(&part), "{}", fault.message);
            }
        }
    }
}

#[test]
fn a_09_a_10_f_15_identity_must_match_in_all_three() {
    let mut w = World::new(config(), &[RACK]);
    let mut wrong = [info(), info(), info()];
    wrong[0].namespace_id = 78;
    wrong[1].cluster_id = ClusterId("CID-y".into());
    wrong[2].block_pool_id = BlockPoolId("BP-y".into());
    let words = [
        ("namespace id mismatch", "77", "78"),
        ("cluster id mismatch", "CID-x", "CID-y"),
        ("block pool id mismatch", "BP-x", "BP-y"),
    ];
    for (info, (what, ours, theirs)) in wrong.into_iter().zip(words) {
        let mut registration = w.registration(0);
        registration.info = info;
        let fault = w.call(0, Request::Register { registration }).unwrap_err();
        assert_eq!(fault.class, FaultClass::IdentityMismatch);
        for part in [what, ours, theirs, "dn0"] {
            assert!(fault.message.contains(part), "{}", fault.message);
        }
    }
    assert_eq!(w.m.stats().live_datanodes, 0);
}

#[test]
fn t_d9_the_version_answer_carries_the_claim() {
    let mut w = World::active(config(), &[RACK]);
    w.committed = 55;
    let answer = w.request("dn9", Request::VersionRequest).unwrap();
    let Response::Version {
        claim, info: got, ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(got, info());
    assert_eq!(
        (claim.state, claim.epoch, claim.txid),
        (HaState::Active, EPOCH, TxId(55))
    );
}

#[test]
fn a_13_unknown_dead_and_restarted_are_told_to_register() {
    let mut w = World::new(config(), &[RACK]);
    let orders = |w: &mut World| -> Vec<Action> {
        let commands = w.heartbeat(0).into_iter();
        commands.map(|command| command.action).collect()
    };
    assert_eq!(orders(&mut w), [Action::Register], "never registered");
    w.register(0);
    assert_eq!(orders(&mut w), []);
    w.advance(630_000);
    w.settle();
    assert_eq!(orders(&mut w), [Action::Register], "dead");
    w.register(0);
    assert_eq!(orders(&mut w), []);
}

#[test]
fn reports_of_the_unregistered_are_refused() {
    let mut w = World::new(config(), &[RACK]);
    let part = w.part(0, 0, 1, bytes::Bytes::new());
    assert_eq!(class(w.call(0, part)), FaultClass::UnregisteredNode);
    let report = IncrementalReport {
        uuid: w.dns[0].uuid,
        sequence: 1,
        changes: vec![],
    };
    let request = Request::IncrementalReport { report };
    assert_eq!(class(w.call(0, request)), FaultClass::UnregisteredNode);
}

#[test]
fn a_certificate_speaks_for_its_own_datanode_only() {
    let mut w = World::new(config(), &[RACK, RACK]);
    let registration = w.registration(0);
    let request = Request::Register { registration };
    assert_eq!(class(w.request("dn1", request)), FaultClass::Forbidden);
    w.register(0);
    let part = w.part(0, 0, 1, bytes::Bytes::new());
    assert_eq!(class(w.request("dn1", part)), FaultClass::Forbidden);
}

#[test]
fn stale_after_30_s_dead_after_10_min_30_s() {
    let mut w = World::active(config(), &[RACK, RACK]);
    let b = w.stored_on(2, &[0, 1]);
    w.advance(29_999);
    w.heartbeat(1);
    w.m.handle_timeout(w.now);
    assert_eq!(w.m.stats().stale_datanodes, 0);
    w.advance(3_001);
    w.heartbeat(1);
    w.settle();
    let stats = w.m.stats();
    assert_eq!((stats.stale_datanodes, stats.live_datanodes), (1, 2));
    assert_eq!(w.locations(b.id), ["dn0", "dn1"], "stale ones still count");
    let first = w.m.locate(b.id, "").unwrap().locations[0].name.clone();
    assert_eq!(first, "dn1", "stale ones come last");
    while w.m.stats().dead_datanodes == 0 {
        w.round_of(1);
    }
    let silent = w.now.ms_since(Tick::from_ms(1_000_000));
    assert!((630_000..637_000).contains(&silent), "{silent}");
    assert_eq!(w.locations(b.id), ["dn1"]);
    assert_eq!(w.m.stats().under_replicated, 1);
    assert!(
        std::iter::from_fn(|| w.m.poll_event()).any(|event| matches!(
            event,
            BlockEvent::Dead { replicas: 1, ref name, .. } if name == "dn0"
        ))
    );
    let states: Vec<_> =
        w.m.datanode_report(w.now)
            .into_iter()
            .map(|d| d.state)
            .collect();
    assert_eq!(states, ["dead", "live"]);
}

impl World {
    /// A round in which only one DataNode beats.
    fn round_of(&mut self, dn: usize) {
        self.advance(3_000);
        self.heartbeat(dn);
        self.settle();
    }
}

#[test]
fn t_h24_a_dead_datanode_comes_back_with_its_replicas() {
    for active in [true, false] {
        let mut w = World::active(config(), &[RACK, RACK]);
        let b = w.stored_on(2, &[0, 1]);
        if !active {
            w.m.become_standby(w.now, HaState::Standby);
        }
        for _ in 0..211 {
            w.round_of(1);
        }
        assert_eq!(w.locations(b.id), ["dn1"]);
        w.register(0);
        w.heartbeat(0);
        assert_eq!(w.locations(b.id), ["dn1"], "not before it reports");
        w.report(0, &[b]);
        assert_eq!(w.locations(b.id), ["dn0", "dn1"]);
    }
}

/// Q5: not ready for an ordered promotion before every live DataNode has fully reported every storage.
#[test]
fn q5_whoever_misses_a_report_is_not_ready_to_become_active() {
    let mut w = World::active(config(), &[RACK, RACK]);
    let a = w.stored_on(1, &[0]);
    assert!(w.m.ready_to_become_active());
    w.register(0);
    assert!(!w.m.ready_to_become_active());
    w.report(0, &[a]);
    assert!(w.m.ready_to_become_active());
}

#[test]
fn re_registration_replaces_the_address_and_keeps_replicas_until_the_report() {
    let mut w = World::active(config(), &[RACK]);
    let (a, b) = (w.stored_on(1, &[0]), w.stored_on(1, &[0]));
    w.dns[0].address = "10.9.9.9:1".into();
    w.register(0);
    let target = w.m.locate(a.id, "").unwrap().locations.remove(0);
    assert_eq!(target.address, "10.9.9.9:1");
    assert_eq!(w.m.stats().unreported_storages, 1);
    w.report(0, &[a]);
    assert_eq!((w.live(a.id), w.live(b.id)), (1, 0));
    assert_eq!(w.m.stats().unreported_storages, 0);
}

#[test]
fn a_wiped_datanode_of_the_same_name_replaces_the_old_identity() {
    let mut w = World::active(config(), &[RACK]);
    let b = w.stored_on(1, &[0]);
    w.dns[0].uuid = DatanodeUuid(999);
    w.dns[0].storages = vec![StorageUuid(9999)];
    w.register(0);
    assert_eq!(w.live(b.id), 0);
    let stats = w.m.stats();
    assert_eq!((stats.live_datanodes, stats.dead_datanodes), (1, 0));
    w.report(0, &[b]);
    assert_eq!(w.live(b.id), 1);
}

#[test]
fn a_copied_identity_is_refused_while_the_original_lives() {
    let mut w = World::active(config(), &[RACK, RACK]);
    w.dns[1].uuid = w.dns[0].uuid;
    let registration = w.registration(1);
    let request = Request::Register { registration };
    assert_eq!(
        class(w.call(1, request.clone())),
        FaultClass::IdentityMismatch
    );
    w.advance(30_000);
    w.call(1, request).unwrap();
}

#[test]
fn a_failed_volume_loses_its_replicas_only() {
    let mut w = World::active(config(), &[RACK]);
    w.dns[0].storages.push(StorageUuid(5));
    w.heartbeat(0);
    let a = w.stored_on(1, &[0]);
    let b = w.create(1, 100);
    let mut change = w.change(0, ChangeKind::Received, b);
    change.storage = StorageUuid(5);
    w.incremental(0, vec![change]);
    assert_eq!((w.live(a.id), w.live(b.id)), (1, 1));
    let mut registration = w.registration(0);
    registration.storages[0].failed = true;
    let heartbeat = hadal_proto::datanode::Heartbeat {
        uuid: w.dns[0].uuid,
        storages: registration.storages,
        transfers: 0,
        streams: 0,
        failed_volumes: 1,
        acknowledged: EPOCH,
        wants_report: vec![],
        executed: 0,
    };
    w.call(0, Request::Heartbeat { heartbeat }).unwrap();
    assert_eq!((w.live(a.id), w.live(b.id)), (0, 1));
}

#[test]
fn a_40_bad_blocks_told_to_a_standby_are_refused() {
    let mut w = World::active(config(), &[RACK]);
    let bad = BadReplica {
        block: block(1, 1, 1),
        datanode: w.dns[0].uuid,
        storage: w.dns[0].storages[0],
    };
    let request = Request::ReportBadBlocks { blocks: vec![bad] };
    w.call(0, request.clone()).unwrap();
    w.m.become_standby(w.now, HaState::Standby);
    assert_eq!(class(w.call(0, request)), FaultClass::Standby);
}

#[test]
fn a_14_a_15_heartbeats_carry_numbers_one_way_and_the_claim_the_other() {
    let mut w = World::active(config(), &[RACK]);
    w.committed = 9;
    w.dns[0].streams = 4;
    let Response::Heartbeat { claim, .. } = w.heartbeat_response(0) else {
        panic!();
    };
    assert_eq!((claim.epoch, claim.txid), (EPOCH, TxId(9)));
    assert_eq!(w.m.datanode_report(w.now)[0].streams, 4);
    assert_eq!(w.m.fs_stats().capacity, 200 << 30);
    w.m.become_standby(w.now, HaState::Observer);
    let Response::Heartbeat { claim, .. } = w.heartbeat_response(0) else {
        panic!();
    };
    assert_eq!((claim.state, claim.epoch), (HaState::Observer, Epoch(0)));
}
