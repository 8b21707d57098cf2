//! Block recovery from the NameNode's side (E-18, Q38, T-L10, T-L12, T-H4).

use crate::world::{EPOCH, World, block, config};
use hadal_blocks::RecoveryError;
use hadal_proto::datanode::{Action, ChangeKind, OpenReplica, RecoveryWork};
use hadal_types::{
    Block, BlockId, BlockState, Epoch, GenerationStamp, HaState, ReplicaState, TxId,
};

const RACK: &str = "/default-rack";

fn open_on(w: &mut World, dns: &[usize]) -> Block {
    let open = w.allocate(3);
    for dn in dns {
        w.change_now(*dn, ChangeKind::Receiving, open);
    }
    open
}

fn start(w: &mut World, id: BlockId) -> Result<GenerationStamp, RecoveryError> {
    let stamp = GenerationStamp(w.new_stamp());
    let txid = TxId(w.txid);
    w.m.start_recovery(w.now, txid, id, stamp, None)?;
    Ok(stamp)
}

fn orders(w: &mut World) -> Vec<(usize, RecoveryWork)> {
    let mut found = Vec::new();
    for dn in 0..w.dns.len() {
        for action in w.execute(dn) {
            if let Action::RecoverBlock { work } = action {
                found.extend(work.into_iter().map(|work| (dn, work)));
            }
        }
    }
    found
}

#[test]
fn e_18_a_live_primary_gets_the_order_with_all_that_may_take_part() {
    let mut w = World::active(config(), &[RACK; 3]);
    let open = open_on(&mut w, &[0, 1, 2]);
    let id = start(&mut w, open.id).unwrap();
    let state = w.m.stored(open.id).unwrap().state;
    assert_eq!(state, BlockState::UnderRecovery);
    let found = orders(&mut w);
    assert_eq!(found.len(), 1);
    let work = &found[0].1;
    assert_eq!((work.block, work.recovery_id), (open, id));
    let mut names: Vec<&str> = work.locations.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["dn0", "dn1", "dn2"]);
    w.m.check_recovery(open.id, id).unwrap();
    let other = GenerationStamp(id.0 - 1);
    assert_eq!(
        w.m.check_recovery(open.id, other),
        Err(RecoveryError::OtherRecovery {
            block: open.id,
            expected: id,
            got: other
        }),
        "T-L10"
    );
    // Its result: new stamp and length, closed by edits.
    let done = block(open.id.0, id.0, 33);
    let txid = w.next_txid();
    w.m.updated(txid, done);
    w.received(0, done);
    w.received(1, done);
    let txid = w.next_txid();
    w.m.completed(txid, done);
    assert_eq!(w.locations(open.id), ["dn0", "dn1"]);
    assert_eq!(
        w.m.check_recovery(open.id, id),
        Err(RecoveryError::Complete(open.id))
    );
}

#[test]
fn t_l12_attempts_do_not_pile_up_and_q38_the_next_has_another_primary() {
    let mut w = World::active(config(), &[RACK; 3]);
    let open = open_on(&mut w, &[0, 1]);
    let first = start(&mut w, open.id).unwrap();
    assert_eq!(
        start(&mut w, open.id),
        Err(RecoveryError::Running {
            block: open.id,
            running: first
        })
    );
    let primary = orders(&mut w)[0].0;
    let mut primaries = vec![primary];
    for _ in 0..3 {
        w.advance(30_000);
        (0..3).for_each(|dn| drop(w.heartbeat(dn)));
        start(&mut w, open.id).unwrap();
        primaries.push(orders(&mut w)[0].0);
    }
    assert!(
        primaries.windows(2).all(|pair| pair[0] != pair[1]),
        "{primaries:?}"
    );
}

#[test]
fn q38_a_primary_that_died_is_not_waited_for() {
    let patient = hadal_blocks::BlockConfig {
        recovery_timeout_ms: 10_000_000,
        ..config()
    };
    let mut w = World::active(patient, &[RACK; 3]);
    let open = open_on(&mut w, &[0, 1]);
    start(&mut w, open.id).unwrap();
    let dead = orders(&mut w)[0].0;
    for _ in 0..100 {
        w.advance(3_000);
        (0..3).filter(|dn| *dn != dead).for_each(|dn| {
            w.heartbeat(dn);
        });
        w.settle();
        assert!(w.m.check_start(w.now, open.id).is_err(), "it may be slow");
    }
    w.advance(340_000);
    w.heartbeat(1 - dead);
    w.settle();
    assert_eq!(w.m.check_start(w.now, open.id), Ok(()));
    start(&mut w, open.id).unwrap();
    let found = orders(&mut w);
    assert_eq!((found[0].0, found[0].1.locations.len()), (1 - dead, 1));
}

#[test]
fn q38_dead_datanodes_are_not_asked() {
    let mut w = World::active(config(), &[RACK; 3]);
    let open = open_on(&mut w, &[0, 1]);
    w.advance(640_000);
    w.heartbeat(1);
    w.heartbeat(2);
    w.settle();
    start(&mut w, open.id).unwrap();
    let found = orders(&mut w);
    assert_eq!(found[0].0, 1);
    assert_eq!(found[0].1.locations.len(), 1);
}

/// P4: the new active does not know the pipeline. Replicas that waited since their DataNodes were started again are not
/// recovered by themselves while one that kept all that was flushed may still come (seed 758 of the simulated cluster).
#[test]
fn p4_after_a_failover_restarted_replicas_wait_for_better_ones() {
    let replica = |open: Block, state, length| OpenReplica {
        block: block(open.id.0, open.generation_stamp.0, length),
        state,
    };
    let restarted = || {
        let mut w = World::active(config(), &[RACK; 3]);
        let open = w.allocate(3);
        w.report_with(0, &[], vec![replica(open, ReplicaState::Rwr, 5)]);
        (w, open)
    };
    let (mut w, open) = restarted();
    let refused = Err(RecoveryError::OnlyRestarted(open.id));
    assert_eq!(start(&mut w, open.id), refused);
    w.report_with(1, &[], vec![replica(open, ReplicaState::Rbw, 9)]);
    start(&mut w, open.id).unwrap();
    assert_eq!(orders(&mut w)[0].1.locations.len(), 2);

    let (mut w, open) = restarted();
    w.report_with(1, &[], vec![replica(open, ReplicaState::Rwr, 9)]);
    assert_eq!(start(&mut w, open.id), refused);
    w.report_with(2, &[], vec![replica(open, ReplicaState::Rwr, 9)]);
    start(&mut w, open.id).expect("these are all there are");

    // Its writer committed it: a replica of that length and stamp lacks nothing.
    let (mut w, open) = restarted();
    let txid = w.next_txid();
    w.m.updated(txid, replica(open, ReplicaState::Rwr, 5).block);
    assert_eq!(start(&mut w, open.id), refused, "not committed");
    w.m.committed(txid, replica(open, ReplicaState::Rwr, 5).block);
    start(&mut w, open.id).unwrap();

    let (mut w, open) = restarted();
    w.advance(620_000);
    w.heartbeat(0);
    assert_eq!(start(&mut w, open.id), refused);
    w.advance(20_000);
    w.heartbeat(0);
    start(&mut w, open.id).expect("whoever did not come counts as dead");
}

#[test]
fn t_h22_a_block_never_written_has_nobody_to_recover_it() {
    let mut w = World::active(config(), &[RACK]);
    let open = w.allocate(3);
    assert_eq!(
        start(&mut w, open.id),
        Err(RecoveryError::NoReplica(open.id))
    );
    assert_eq!(
        start(&mut w, BlockId(999)),
        Err(RecoveryError::UnknownBlock(BlockId(999)))
    );
    let closed = w.create(1, 1);
    assert_eq!(
        start(&mut w, closed.id),
        Err(RecoveryError::Complete(closed.id))
    );
}

#[test]
fn t_h3_after_a_failover_reports_name_who_may_take_part() {
    let mut w = World::active(config(), &[RACK; 2]);
    w.m.become_standby(w.now, HaState::Standby);
    let open = open_on(&mut w, &[0, 1]);
    w.m.become_active(w.now, Epoch(4));
    for dn in &mut w.dns {
        (dn.acknowledged, dn.executed) = (Epoch(4), 0);
    }
    start(&mut w, open.id).unwrap();
    assert_eq!(orders(&mut w)[0].1.locations.len(), 2);
}

#[test]
fn t_h4_a_result_of_the_old_active_is_refused_by_the_new_one() {
    let mut w = World::active(config(), &[RACK; 2]);
    let open = open_on(&mut w, &[0, 1]);
    let id = start(&mut w, open.id).unwrap();
    w.m.become_standby(w.now, HaState::Standby);
    w.m.become_active(w.now, Epoch(EPOCH.0 + 1));
    assert!(matches!(
        w.m.check_recovery(open.id, id),
        Err(RecoveryError::OtherRecovery { .. })
    ));
    let again = start(&mut w, open.id).unwrap();
    w.m.check_recovery(open.id, again).unwrap();
}

#[test]
fn a_committed_block_that_is_recovered_keeps_no_replica_of_the_old_stamp() {
    let two = hadal_blocks::BlockConfig {
        min_replication: 2,
        ..config()
    };
    let mut w = World::active(two, &[RACK; 2]);
    let open = open_on(&mut w, &[0, 1]);
    let done = block(open.id.0, open.generation_stamp.0, 10);
    w.received(0, done);
    let txid = w.next_txid();
    w.m.committed(txid, done);
    assert_eq!(w.live(open.id), 1);
    let id = start(&mut w, open.id).unwrap();
    let recovered = block(open.id.0, id.0, 8);
    let txid = w.next_txid();
    w.m.completed(txid, recovered);
    assert_eq!((w.live(open.id), w.m.stats().corrupt), (0, 0));
    w.received(0, recovered);
    w.received(1, recovered);
    assert_eq!(w.live(open.id), 2);
}
