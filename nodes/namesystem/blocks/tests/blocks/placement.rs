//! Where replicas go (section 2.2, rack awareness) and in which order they are read.

use crate::world::{World, config};
use hadal_blocks::PlacementRequest;
use hadal_proto::client::ReplicaTarget;
use std::collections::BTreeMap;

fn request(count: usize, writer_host: &str) -> PlacementRequest<'_> {
    PlacementRequest {
        count,
        block_size: 1 << 20,
        writer_host,
        ..PlacementRequest::default()
    }
}

fn racks(targets: &[ReplicaTarget]) -> BTreeMap<&str, usize> {
    let mut racks = BTreeMap::new();
    for target in targets {
        *racks.entry(target.rack.as_str()).or_default() += 1;
    }
    racks
}

#[test]
fn local_then_another_rack_then_that_rack_again() {
    let mut w = World::active(
        config(),
        &["/a", "/a", "/a", "/b", "/b", "/b", "/c", "/c", "/c"],
    );
    for writer in ["10.0.0.4", "dn4"] {
        for _ in 0..200 {
            let targets = w.m.choose_targets(&request(3, writer)).unwrap();
            assert_eq!(targets[0].name, "dn4");
            assert_ne!(targets[1].rack, "/b");
            assert_eq!(targets[1].rack, targets[2].rack);
            assert_ne!(targets[1].name, targets[2].name);
        }
    }
}

#[test]
fn placement_properties_hold_for_every_shape() {
    let layouts: [&[&str]; 5] = [
        &["/a"; 6],
        &["/a", "/a", "/b", "/b", "/b"],
        &["/a", "/b", "/c", "/d", "/e", "/e"],
        &["/a", "/a", "/a", "/a", "/b"],
        &["/a", "/b"],
    ];
    for layout in layouts {
        let mut w = World::active(config(), layout);
        let all = layout
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len();
        let mut first = BTreeMap::new();
        for turn in 0..300 {
            let count = 1 + turn % 6;
            let writer = ["", "10.0.0.0", "elsewhere"][turn % 3];
            let excluded = [w.dns[turn % layout.len()].uuid];
            let mut request = request(count, writer);
            if turn % 2 == 1 && layout.len() > 1 {
                request.exclude = &excluded;
            }
            let excluded_count = request.exclude.len();
            let targets = w.m.choose_targets(&request).unwrap();
            assert_eq!(targets.len(), count.min(layout.len() - excluded_count));
            let mut names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
            *first.entry(names[0].to_owned()).or_insert(0) += 1;
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), targets.len(), "distinct DataNodes");
            assert!(
                targets
                    .iter()
                    .all(|t| !request.exclude.contains(&t.datanode))
            );
            let racks = racks(&targets);
            if targets.len() > 1 && all > 1 && excluded_count == 0 {
                assert!(racks.len() > 1, "{layout:?} {racks:?}");
            }
            if all > 2 && targets.len() <= 4 && excluded_count == 0 {
                assert!(racks.values().all(|n| *n <= 2), "{layout:?} {racks:?}");
            }
        }
        assert!(first.len() > 1, "{first:?}");
    }
}

#[test]
fn full_stale_busy_failed_and_leaving_datanodes_are_avoided() {
    let mut w = World::active(config(), &["/a"; 6]);
    w.dns[0].remaining = 1 << 19;
    w.dns[1].streams = 100;
    w.advance(31_000);
    for dn in [0, 1, 3, 4, 5] {
        w.heartbeat(dn);
    }
    w.settle();
    assert!(w.m.set_decommissioning(w.dns[3].uuid, true));
    for _ in 0..100 {
        let mut names: Vec<String> =
            w.m.choose_targets(&request(2, ""))
                .unwrap()
                .into_iter()
                .map(|t| t.name)
                .collect();
        names.sort();
        assert_eq!(names, ["dn4", "dn5"]);
    }
    // Stale and busy ones rather than none; full and leaving ones never.
    let mut names: Vec<String> =
        w.m.choose_targets(&request(6, ""))
            .unwrap()
            .into_iter()
            .map(|t| t.name)
            .collect();
    names.sort();
    assert_eq!(names, ["dn1", "dn2", "dn4", "dn5"]);
}

#[test]
fn space_promised_since_the_last_heartbeat_counts() {
    let mut w = World::active(config(), &["/a"]);
    w.dns[0].remaining = 3 << 20;
    w.heartbeat(0);
    for _ in 0..3 {
        w.m.choose_targets(&request(1, "")).unwrap();
    }
    assert!(w.m.choose_targets(&request(1, "")).is_err());
    w.heartbeat(0);
    assert!(w.m.choose_targets(&request(1, "")).is_ok());
}

#[test]
fn nobody_left_is_an_error_users_know() {
    let mut w = World::active(config(), &["/a", "/a"]);
    let all = [w.dns[0].uuid, w.dns[1].uuid];
    let mut request = request(3, "");
    request.exclude = &all;
    let error = w.m.choose_targets(&request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could only be written to 0 of the 1 minReplication nodes. There are 2 datanode(s) running and 2 node(s) are \
         excluded in this operation."
    );
}

#[test]
fn a_replacement_respects_the_nodes_that_stay() {
    let mut w = World::active(config(), &["/a", "/a", "/a", "/b", "/b"]);
    let existing = [w.dns[0].uuid, w.dns[1].uuid];
    for _ in 0..50 {
        let mut request = request(1, "");
        request.existing = &existing;
        let targets = w.m.choose_targets(&request).unwrap();
        assert_eq!(targets.len(), 1);
        assert_eq!(targets[0].rack, "/b", "two on /a already");
    }
}

#[test]
fn readers_get_the_nearest_replica_first() {
    let mut w = World::active(config(), &["/a", "/a", "/b", "/b", "/b"]);
    let b = w.stored_on(3, &[1, 2, 4]);
    let mut seconds = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let names = |host: &str| -> Vec<String> {
            let located = w.m.locate(b.id, host).unwrap();
            located.locations.into_iter().map(|t| t.name).collect()
        };
        let same_host = names("10.0.0.4");
        assert_eq!(same_host[..2], ["dn4", "dn2"], "host, then rack");
        assert_eq!(names("10.0.0.0")[0], "dn1", "rack");
        seconds.insert(names("10.0.0.0")[1].clone());
    }
    assert_eq!(seconds.len(), 2, "the rest at random");
}

#[test]
fn the_same_seed_places_the_same() {
    let run = || {
        let mut w = World::active(config(), &["/a", "/a", "/b", "/b"]);
        let mut names = Vec::new();
        for _ in 0..50 {
            for target in w.m.choose_targets(&request(3, "")).unwrap() {
                names.push(target.name);
            }
        }
        names
    };
    assert_eq!(run(), run());
}
