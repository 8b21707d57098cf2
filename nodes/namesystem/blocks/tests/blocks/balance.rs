//! What the balancer is told, and what becomes of its copies.

use crate::world::{World, config};
use hadal_blocks::BlockConfig;
use hadal_proto::datanode::{Action, ChangeKind};
use hadal_types::{Block, BlockId, DatanodeUuid};
use std::collections::BTreeSet;

const RACK: &str = "/default-rack";

/// All pages of a DataNode's movable blocks.
fn movable(w: &World, dn: usize, min_bytes: u64, limit: usize) -> Vec<(Block, Vec<String>)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = w.m.movable_blocks(w.dns[dn].uuid, after, min_bytes, limit);
        let page = page.expect("it is alive");
        assert!(page.blocks.len() <= limit);
        for held in &page.blocks {
            let names = held.holders.iter();
            let names = names.map(|at| page.holders[*at as usize].name.clone());
            all.push((held.block, names.collect()));
        }
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

#[test]
fn only_blocks_with_just_their_replicas_may_be_moved() {
    let mut w = World::active(config(), &[RACK; 4]);
    let good: BTreeSet<BlockId> = (0..7).map(|_| w.stored_on(2, &[0, 1]).id).collect();
    let elsewhere = w.stored_on(2, &[1, 2]);
    w.stored_on(3, &[0, 1]); // one replica is missing
    w.create(2, 100); // none is there yet
    let over = w.stored_on(2, &[0, 2]);
    w.received(1, over); // one too many
    let found = movable(&w, 0, 1, 3);
    let ids: BTreeSet<BlockId> = found.iter().map(|(block, _)| block.id).collect();
    assert_eq!((found.len(), &ids), (7, &good), "each once");
    for (_, holders) in &found {
        let holders: BTreeSet<&str> = holders.iter().map(|name| &**name).collect();
        assert_eq!(holders, BTreeSet::from(["dn0", "dn1"]));
    }
    assert_eq!(movable(&w, 2, 1, 1_000)[0].0, elsewhere);
    assert!(movable(&w, 0, 1 << 40, 10).is_empty(), "too small");
    assert!(w.m.movable_blocks(DatanodeUuid(999), None, 1, 1).is_none());
}

/// A replica moves as the balancer does it: the copy arrives with a hint, then one is too many, and the hinted one goes.
/// The only replica of a block may change its rack.
#[test]
fn a_37_a_copy_replaces_the_hinted_replica_and_never_fewer_are_left() {
    let mut w = World::active(config(), &["/a", "/a", "/b"]);
    for (replication, from, to) in [(1, 0, 2), (1, 2, 0), (2, 0, 1)] {
        let dns: &[usize] = if replication == 1 { &[from] } else { &[0, 2] };
        let block = w.stored_on(replication, dns);
        let racks = w.m.racks_of(block.id).len();
        let mut moved = w.change(to, ChangeKind::Received, block);
        moved.delete_hint = w.dns[from].uuid;
        w.incremental(to, vec![moved]);
        assert_eq!(w.live(block.id), replication);
        assert_eq!(w.m.racks_of(block.id).len(), racks);
        assert_eq!(w.deletions(from), [block], "{from} to {to}");
        assert_eq!(w.deletions(to), []);
    }
}

#[test]
fn the_bandwidth_is_told_to_all_once_it_may_be() {
    let mut w = World::active(BlockConfig::default(), &[RACK; 2]);
    for dn in 0..2 {
        w.execute(dn);
    }
    w.m.set_balancer_bandwidth(1 << 20);
    for dn in 0..2 {
        let told = w.execute(dn);
        let rate = Action::BalancerBandwidth {
            bytes_per_s: 1 << 20,
        };
        assert_eq!(told, [rate]);
    }
}
