//! Include and exclude lists, decommissioning (T-B3: replication with decommission).

use crate::world::{World, class, config};
use hadal_blocks::{BlockConfig, BlockEvent, HostLists};
use hadal_proto::FaultClass;
use hadal_proto::datanode::{ChangeKind, Request};

const RACK: &str = "/default-rack";

fn lists(include: &[&str], exclude: &[&str]) -> HostLists {
    HostLists {
        include: include.iter().map(|name| (*name).into()).collect(),
        exclude: exclude.iter().map(|name| (*name).into()).collect(),
        ..HostLists::default()
    }
}

fn exclude(w: &mut World, names: &[&str]) {
    w.m.set_hosts(w.now, lists(&[], names));
}

/// T-B3: what a leaving DataNode has is copied to others, from it too; then it is decommissioned. Its replicas stay
/// readable, last, and are never deleted for it.
#[test]
fn t_b3_a_datanode_is_decommissioned_once_its_blocks_are_elsewhere() {
    let mut w = World::active(config(), &[RACK; 5]);
    let blocks: Vec<_> = (0..20)
        .map(|at| w.stored_on(3, &[0, 1 + at % 2, 3]))
        .collect();
    let lonely = w.stored_on(1, &[0]);
    assert_eq!(w.copies(3), 0);
    exclude(&mut w, &["dn0"]);
    assert_eq!(w.state(0), "decommissioning");
    let stats = w.m.stats();
    assert_eq!((stats.under_replicated, stats.missing), (21, 0));
    w.round();
    assert_eq!(w.state(0), "decommissioning", "nothing is copied yet");
    let made = w.copies(30);
    assert_eq!(made, 21, "one of each");
    assert_eq!(w.state(0), "decommissioned");
    assert_eq!(w.m.stats().under_replicated, 0);
    for b in &blocks {
        assert_eq!(w.live(b.id), 4, "its own replica is kept");
        let located = w.m.locate(b.id, "dn0").unwrap();
        assert_eq!(located.locations.len(), 4);
        assert_eq!(located.locations[3].name, "dn0", "asked last");
    }
    assert!(w.locations(lonely.id).contains(&"dn0".to_string()));
    let mut events = std::iter::from_fn(|| w.m.poll_event());
    assert!(events.any(|event| matches!(
        event,
        BlockEvent::Decommissioned { name, .. } if name == "dn0"
    )));
    // Stopped for good: nothing is missed.
    for _ in 0..220 {
        w.advance(3_000);
        (1..5).for_each(|dn| drop(w.heartbeat(dn)));
        w.settle();
    }
    let stats = w.m.stats();
    assert_eq!(
        (stats.live_datanodes, stats.under_replicated, stats.missing),
        (4, 0, 0)
    );
}

/// Taken back into service before or after: its replicas count again, and what is too much goes.
#[test]
fn t_b3_back_in_service() {
    let mut w = World::active(config(), &[RACK; 4]);
    let b = w.stored_on(3, &[0, 1, 2]);
    exclude(&mut w, &["10.0.0.0:9866"]);
    assert_eq!(w.m.stats().under_replicated, 1);
    exclude(&mut w, &[]);
    assert_eq!(
        (w.state(0).as_str(), w.m.stats().under_replicated),
        ("live", 0)
    );
    assert_eq!(w.copies(3), 0);
    exclude(&mut w, &["10.0.0.0"]);
    assert_eq!(w.copies(5), 1);
    assert_eq!((w.state(0).as_str(), w.live(b.id)), ("decommissioned", 4));
    exclude(&mut w, &[]);
    w.copies(5);
    assert_eq!((w.state(0).as_str(), w.live(b.id)), ("live", 3));
}

/// Without enough DataNodes that stay it is never done (HDFS too), and the block is not made worse.
#[test]
fn t_b3_too_few_datanodes_stay() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(3, &[0, 1, 2]);
    exclude(&mut w, &["dn2"]);
    assert_eq!(w.copies(10), 0);
    assert_eq!((w.state(2).as_str(), w.live(b.id)), ("decommissioning", 3));
    assert!(w.deletions(2).is_empty());
    // A lower factor is all it takes.
    w.set_replication(b.id, 2);
    w.copies(5);
    assert_eq!(w.state(2), "decommissioned");
    assert_eq!(w.live(b.id), 3, "the one that leaves is not in excess");
}

/// A block being written keeps its DataNode until minimal replication is elsewhere or it is closed and copied.
#[test]
fn t_b3_open_blocks_hold_it_up() {
    let mut w = World::active(config(), &[RACK; 3]);
    let open = w.allocate(1);
    w.change_now(0, ChangeKind::Receiving, open);
    exclude(&mut w, &["dn0"]);
    assert_eq!(w.copies(5), 0);
    assert_eq!(w.state(0), "decommissioning");
    let done = crate::world::block(open.id.0, open.generation_stamp.0, 9);
    w.received(0, done);
    let txid = w.next_txid();
    w.m.completed(txid, done);
    w.applied();
    assert_eq!(w.copies(5), 1);
    assert_eq!(w.state(0), "decommissioned");
}

/// What it has is not known before it has reported: a restart of the NameNode finishes no decommission.
#[test]
fn t_b3_not_before_it_has_reported() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.create(1, 10);
    exclude(&mut w, &["dn0"]);
    w.register(0);
    w.round();
    w.round();
    assert_eq!(w.state(0), "decommissioning");
    w.report(0, &[b]);
    assert_eq!(w.m.stats().under_replicated, 1);
    assert_eq!(w.copies(5), 1);
    assert_eq!(w.state(0), "decommissioned");
}

/// Copies to others are placed on none that leaves, and counters add up whatever the order.
#[test]
fn t_b3_several_leave_at_once() {
    let small = BlockConfig {
        scan_batch: 3,
        ..config()
    };
    let mut w = World::active(small, &["/a", "/a", "/b", "/b", "/c", "/c"]);
    for at in 0..30 {
        w.stored_on(2, &[at % 6, (at + 1 + at / 6 % 5) % 6]);
    }
    exclude(&mut w, &["dn0", "dn3"]);
    w.copies(200);
    assert_eq!(w.state(0), "decommissioned");
    assert_eq!(w.state(3), "decommissioned");
    let stats = w.m.stats();
    assert_eq!((stats.under_replicated, stats.safe), (0, 30));
    exclude(&mut w, &[]);
    w.copies(60);
    let stats = w.m.stats();
    assert_eq!(
        (stats.under_replicated, stats.safe, stats.missing),
        (0, 30, 0)
    );
}

/// `dfs.hosts`: who is not in it may not register, and is dropped when it is read.
#[test]
fn only_included_datanodes_are_admitted() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(2, &[0, 1]);
    w.m.set_hosts(w.now, lists(&["dn0", "10.0.0.2"], &[]));
    assert_eq!(w.m.stats().live_datanodes, 2);
    assert_eq!(w.locations(b.id), ["dn0"]);
    let registration = w.registration(1);
    let refused = w.call(1, Request::Register { registration });
    assert!(
        refused
            .as_ref()
            .unwrap_err()
            .message
            .contains("include-list"),
        "{refused:?}"
    );
    assert_eq!(class(refused), FaultClass::Forbidden);
    assert_eq!(w.copies(5), 1);
    w.m.set_hosts(w.now, HostLists::default());
    w.register(1);
    assert_eq!(w.m.stats().live_datanodes, 3);
}
