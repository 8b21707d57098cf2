//! Maintenance of DataNodes (HDFS `TestMaintenanceState`): entering, in, over; what counts meanwhile.

use crate::world::{World, config};
use hadal_blocks::{BlockEvent, HostLists};
use hadal_proto::datanode::ChangeKind;

const RACK: &str = "/default-rack";

/// Puts a DataNode into maintenance for so long.
fn maintain(w: &mut World, names: &[(&str, u64)]) {
    let lists = HostLists {
        maintenance: names
            .iter()
            .map(|(name, left_ms)| ((*name).to_owned(), *left_ms))
            .collect(),
        ..HostLists::default()
    };
    w.m.set_hosts(w.now, lists);
}

/// Everybody but these is silent until they are dead.
fn only(w: &mut World, alive: &[usize]) {
    for _ in 0..220 {
        w.advance(3_000);
        alive.iter().for_each(|dn| drop(w.heartbeat(*dn)));
        w.settle();
    }
}

/// One live replica elsewhere is enough to enter; stopped and dead it is neither missed nor copied for; back, all is as it
/// was; a block with one replica only is copied before.
#[test]
fn a_datanode_in_maintenance_may_be_stopped_and_nothing_is_copied_for_it() {
    let mut w = World::active(config(), &[RACK; 4]);
    let b = w.stored_on(3, &[0, 1, 2]);
    let lonely = w.stored_on(1, &[0]);
    maintain(&mut w, &[("dn0", u64::MAX)]);
    assert_eq!(w.state(0), "entering maintenance");
    assert_eq!(w.m.stats().under_replicated, 1, "the lonely one");
    w.round();
    let held = w.m.held_up(w.dns[0].uuid);
    assert_eq!(
        (
            held.len(),
            held[0].stored.block.id,
            held[0].staying,
            held[0].needed
        ),
        (1, lonely.id, 0, 1)
    );
    assert_eq!(w.copies(10), 1);
    assert_eq!(w.state(0), "in maintenance");
    assert!(w.m.held_up(w.dns[0].uuid).is_empty());
    let mut events = std::iter::from_fn(|| w.m.poll_event());
    assert!(
        events
            .any(|event| matches!(event, BlockEvent::InMaintenance { name, .. } if name == "dn0"))
    );
    only(&mut w, &[1, 2, 3]);
    assert_eq!(w.state(0), "dead in maintenance");
    assert_eq!(w.copies(5), 0);
    let stats = w.m.stats();
    assert_eq!((stats.under_replicated, stats.missing), (0, 0));
    assert_eq!(w.locations(b.id).len(), 2, "nobody is sent to a dead one");
    w.register(0);
    w.report(0, &[b, lonely]);
    maintain(&mut w, &[]);
    assert_eq!(w.state(0), "live");
    w.copies(10);
    assert_eq!((w.live(b.id), w.live(lonely.id)), (3, 1));
    assert_eq!(w.m.stats().under_replicated, 0);
}

/// No new replica goes to it, and while too few replicas are elsewhere they are made, up to the least.
#[test]
fn below_the_least_during_maintenance_copies_are_made() {
    let mut w = World::active(config(), &[RACK; 5]);
    let b = w.stored_on(2, &[0, 1]);
    maintain(&mut w, &[("dn0", u64::MAX), ("dn1", u64::MAX)]);
    assert_eq!(w.m.stats().under_replicated, 1);
    assert_eq!(w.copies(10), 1, "one, not two");
    assert_eq!(
        (w.state(0), w.state(1)),
        ("in maintenance".into(), "in maintenance".into())
    );
    let on: Vec<String> = w.locations(b.id);
    assert_eq!(on.len(), 3);
    // The one that stays dies: another is made, from a DataNode in maintenance.
    let staying = (2..5).find(|dn| on.contains(&format!("dn{dn}"))).unwrap();
    let rest: Vec<usize> = (0..5).filter(|dn| *dn != staying).collect();
    only(&mut w, &rest);
    assert_eq!(w.copies(10), 1);
    assert_eq!(w.m.stats().under_replicated, 0);
}

/// At its end it is back in service; one that is dead then loses what it had, and that is copied.
#[test]
fn maintenance_ends_by_itself() {
    let mut w = World::active(config(), &[RACK; 4]);
    let b = w.stored_on(3, &[0, 1, 2]);
    maintain(&mut w, &[("dn0", 1_000_000), ("dn1", 20_000)]);
    w.copies(3);
    assert_eq!(
        (w.state(0), w.state(1)),
        ("in maintenance".into(), "in maintenance".into())
    );
    for _ in 0..10 {
        w.advance(3_000);
        (0..4).for_each(|dn| drop(w.heartbeat(dn)));
        w.settle();
    }
    assert_eq!(
        (w.state(0), w.state(1)),
        ("in maintenance".into(), "live".into())
    );
    only(&mut w, &[1, 2, 3]);
    assert_eq!(
        (w.state(0), w.m.stats().under_replicated),
        ("dead in maintenance".into(), 0)
    );
    only(&mut w, &[1, 2, 3]);
    assert_eq!(w.state(0), "dead");
    w.copies(5);
    let stats = w.m.stats();
    assert_eq!((stats.under_replicated, stats.missing), (0, 0));
    assert_eq!(w.locations(b.id), ["dn1", "dn2", "dn3"]);
}

/// A block being written holds it up, and is named as such.
#[test]
fn an_open_block_holds_it_up_and_is_named() {
    let mut w = World::active(config(), &[RACK; 3]);
    let open = w.allocate(1);
    w.change_now(0, ChangeKind::Receiving, open);
    maintain(&mut w, &[("10.0.0.0", u64::MAX)]);
    w.copies(5);
    assert_eq!(w.state(0), "entering maintenance");
    let held = w.m.held_up(w.dns[0].uuid);
    assert_eq!(held[0].stored.block.id, open.id);
    assert_ne!(held[0].stored.state, hadal_types::BlockState::Complete);
}
