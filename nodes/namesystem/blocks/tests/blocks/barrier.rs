//! Nothing leaves before its cause is committed (protocols.md section 0), nothing runs twice (section 2).

use crate::world::{EPOCH, World, config};
use hadal_proto::datanode::Action;
use hadal_types::{DatanodeUuid, Epoch, HaState};

const RACK: &str = "/default-rack";

#[test]
fn a_deletion_waits_for_its_delete_to_commit() {
    let mut w = World::active(config(), &[RACK, RACK]);
    let (a, b) = (w.stored_on(2, &[0, 1]), w.stored_on(2, &[0, 1]));
    w.remove(&[a.id]);
    let first = w.txid;
    w.remove(&[b.id]);
    w.committed = first - 1;
    assert_eq!(w.heartbeat(0), []);
    assert_eq!(w.m.stats().pending_deletion, 4);
    w.committed = first;
    assert_eq!(w.deletions(0), [a]);
    assert_eq!(w.deletions(1), [a]);
    w.committed = first + 1;
    assert_eq!(w.deletions(0), [b]);
}

#[test]
fn copies_excess_and_recovery_wait_too() {
    let mut w = World::active(config(), &[RACK; 4]);
    w.stored_on(2, &[0]);
    let excess = w.stored_on(3, &[1, 2, 3]);
    let open = w.allocate(1);
    w.change_now(0, hadal_proto::datanode::ChangeKind::Receiving, open);
    let before = w.txid;
    w.set_replication(excess.id, 1);
    let id = w.new_stamp();
    let (txid, stamp) = (hadal_types::TxId(w.txid), hadal_types::GenerationStamp(id));
    w.m.start_recovery(w.now, txid, open.id, stamp, None)
        .unwrap();
    w.committed = before;
    w.round();
    for dn in 0..4 {
        assert_eq!(w.heartbeat(dn), [], "dn{dn}");
    }
    w.committed = w.txid;
    let all: Vec<Action> = (0..4).flat_map(|dn| w.execute(dn)).collect();
    let count = |of: fn(&Action) -> bool| all.iter().filter(|action| of(action)).count();
    assert_eq!(
        count(|a| matches!(a, Action::Transfer { .. })),
        1,
        "{all:?}"
    );
    assert_eq!(
        count(|a| matches!(a, Action::Invalidate { .. })),
        2,
        "{all:?}"
    );
    assert_eq!(
        count(|a| matches!(a, Action::RecoverBlock { .. })),
        1,
        "{all:?}"
    );
}

#[test]
fn an_unknown_replica_is_deleted_only_when_what_made_it_unknown_is_committed() {
    let mut w = World::active(config(), &[RACK, RACK]);
    let b = w.stored_on(1, &[0]);
    w.remove(&[b.id]);
    w.committed = w.txid - 1;
    w.report(1, &[b]);
    assert_eq!(w.deletions(1), []);
    w.committed += 1;
    assert_eq!(w.deletions(1), [b]);
}

#[test]
fn commands_count_per_epoch_and_repeat_until_executed() {
    let mut w = World::active(config(), &[RACK]);
    let a = w.stored_on(1, &[0]);
    w.remove(&[a.id]);
    let first = w.heartbeat(0);
    assert_eq!(
        (first.len(), first[0].epoch, first[0].sequence),
        (1, EPOCH, 1)
    );
    assert_eq!(w.heartbeat(0), first, "not executed yet");
    w.register(0);
    assert_eq!(w.heartbeat(0)[0], first[0], "a reconnect changes nothing");
    w.report(0, &[]);
    w.dns[0].executed = w.heartbeat(0).last().unwrap().sequence;
    assert_eq!(w.heartbeat(0), []);
    let b = w.stored_on(1, &[0]);
    w.remove(&[b.id]);
    assert!(w.heartbeat(0)[0].sequence > first[0].sequence);
    w.m.become_standby(w.now, HaState::Standby);
    assert_eq!(w.heartbeat(0), []);
    w.m.become_active(w.now, Epoch(9));
    w.settle();
    assert_eq!(w.heartbeat(0), [], "deletions of the old term are dropped");
    w.dns[0].acknowledged = Epoch(9);
    let asked = w.heartbeat(0);
    assert_eq!(
        (asked[0].epoch, asked[0].sequence, &asked[0].action),
        (Epoch(9), 1, &Action::ReportNow)
    );
}

/// a DataNode that was forgotten (another took its name) and comes back within the epoch remembers the numbers it
/// had: what it is ordered then must be above them, or it would be dropped as a repetition.
#[test]
fn commands_to_a_datanode_that_was_forgotten_go_on_above_its_numbers() {
    let mut w = World::active(config(), &[RACK]);
    let a = w.stored_on(1, &[0]);
    w.remove(&[a.id]);
    w.execute(0);
    let executed = w.dns[0].executed;
    assert!(executed > 0);
    let uuid = w.dns[0].uuid;
    // The same machine with its storage wiped, and then the old storage again.
    w.dns[0].uuid = DatanodeUuid(999);
    w.register(0);
    w.dns[0].uuid = uuid;
    w.register(0);
    let b = w.stored_on(1, &[0]);
    w.remove(&[b.id]);
    let orders = w.heartbeat(0);
    assert!(!orders.is_empty());
    assert!(
        orders.iter().all(|order| order.sequence > executed),
        "{orders:?}"
    );
}

#[test]
fn t_q7_a_sent_deletion_stays_listed_until_reported_and_is_sent_again() {
    let mut w = World::active(config(), &[RACK]);
    let b = w.stored_on(1, &[0]);
    w.remove(&[b.id]);
    assert_eq!(w.deletions(0), [b]);
    assert_eq!(w.deletions(0), []);
    assert_eq!(w.m.stats().pending_deletion, 1);
    w.advance(60_000);
    assert_eq!(w.deletions(0), [b], "time-out");
    w.register(0);
    assert_eq!(
        w.deletions(0),
        [b],
        "the DataNode restarted and may have forgotten"
    );
    w.deleted(0, b);
    assert_eq!(w.m.stats().pending_deletion, 0);
    w.advance(60_000);
    assert_eq!(w.deletions(0), []);
    let c = w.stored_on(1, &[0]);
    w.remove(&[c.id]);
    w.deletions(0);
    w.report(0, &[c]);
    assert_eq!(w.m.stats().pending_deletion, 1, "still listed");
    w.report(0, &[]);
    assert_eq!(
        w.m.stats().pending_deletion,
        0,
        "a report without it says so too"
    );
}

#[test]
fn a_standby_and_safe_mode_command_nothing() {
    let mut w = World::active(config(), &[RACK, RACK]);
    let b = w.stored_on(2, &[0]);
    w.m.enter_safe_mode(w.now);
    w.remove(&[b.id]);
    w.round();
    assert_eq!(w.heartbeat(0), []);
    w.m.leave_safe_mode(w.now);
    assert_eq!(w.deletions(0), [b]);
    w.m.become_standby(w.now, HaState::Standby);
    let c = w.stored_on(2, &[0]);
    w.remove(&[c.id]);
    w.report(0, &[c]);
    w.round();
    assert_eq!(w.heartbeat(0), []);
    assert_eq!(w.m.stats().pending_deletion, 0);
}
