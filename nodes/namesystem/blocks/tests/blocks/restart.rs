//! Restart (protocols.md section 4): locations of an image count for nothing until the digest of their storage proves
//! them, and then cost one small call.

use crate::digest::{Disk, Random, digest, map};
use crate::world::{EPOCH, World, block, config};
use hadal_blocks::{BlockConfig, BlockManager, Planted};
use hadal_proto::datanode::ChangeKind;
use hadal_types::{Block, BlockId, DatanodeUuid, HaState, InodeId, ReplicaState, StorageUuid};

const RACK: &str = "/default-rack";

/// What an image holds of blocks: each with its factor and the places of its storages.
struct Image {
    storages: Vec<(DatanodeUuid, StorageUuid)>,
    blocks: Vec<(Block, u16, Vec<u32>)>,
}

/// What is saved of these blocks.
fn saved(w: &World, blocks: &[(Block, u16)]) -> Image {
    let storages = w.m.storages();
    let place = |storage: u32| {
        let before = storages[..storage as usize].iter().flatten();
        before.count() as u32
    };
    let blocks = blocks.iter().map(|(block, replication)| {
        let mut places = Vec::new();
        w.m.each_replica(block.id, |storage| {
            if storages[storage as usize].is_some() {
                places.push(place(storage));
            }
        });
        (*block, *replication, places)
    });
    Image {
        blocks: blocks.collect(),
        storages: storages.iter().flatten().copied().collect(),
    }
}

/// A NameNode that loaded the image, a standby, or active before anybody registered.
fn loaded(old: &World, image: &Image, config: BlockConfig, remember: bool, active: bool) -> World {
    let mut w = World::new(config, &[]);
    w.dns = old.dns.clone();
    for dn in &mut w.dns {
        dn.sequence = 0;
    }
    (w.now, w.txid, w.next_block, w.stamp) = (old.now, old.txid, old.next_block, old.stamp);
    if remember {
        w.m.remember_storages(image.storages.clone());
    }
    w.m.reserve(image.blocks.len() as u64);
    for (block, replication, places) in &image.blocks {
        let places = if remember { places.as_slice() } else { &[] };
        w.m.load_remembered(*block, InodeId(7), *replication, false, places);
    }
    w.m.become_standby(w.now, HaState::Standby);
    w.applied();
    w.m.start(w.now);
    if active {
        w.m.become_active(w.now, EPOCH);
    }
    w
}

/// Blocks of factor `replication` on the first DataNodes, and what those have on disk.
fn stored(dns: usize, blocks: u64, replication: usize) -> (World, Vec<(Block, u16)>, Vec<Disk>) {
    let mut w = World::active(config(), &vec![RACK; dns]);
    let mut disks = vec![Disk::new(); dns];
    let mut all = Vec::new();
    for n in 0..blocks {
        let on: Vec<usize> = (0..replication).map(|at| (n as usize + at) % dns).collect();
        let new = w.stored_on(replication as u16, &on);
        for dn in on {
            disks[dn].insert(new.id.0, (new, ReplicaState::Finalized));
        }
        all.push((new, replication as u16));
    }
    (w, all, disks)
}

/// The goal: one call of under 300 bytes per storage, and nothing counts before it.
#[test]
fn one_small_call_confirms_a_storage_after_a_restart() {
    for active in [false, true] {
        let (old, blocks, disks) = stored(5, 4_000, 3);
        let image = saved(&old, &blocks);
        let mut w = loaded(&old, &image, config(), true, active);
        assert_eq!(w.m.unconfirmed(), 12_000);
        for dn in 0..5 {
            w.register(dn);
            w.heartbeat(dn);
        }
        assert_eq!((w.safe(), w.m.unconfirmed()), ((0, 4_000), 12_000));
        assert!(w.m.in_safe_mode());
        assert!(w.locations(blocks[9].0.id).is_empty(), "given to a reader");
        assert_eq!(w.m.stats().unreported_storages, 5);
        for (dn, disk) in disks.iter().enumerate() {
            let cost = digest(&mut w, dn, disk);
            assert_eq!(cost.rounds, ["Root"]);
            assert!(cost.bytes < 300, "{} bytes", cost.bytes);
        }
        w.settle();
        assert_eq!((w.safe(), w.m.unconfirmed()), ((4_000, 4_000), 0));
        assert!(!w.m.in_safe_mode());
        assert!(blocks.iter().all(|(block, _)| w.live(block.id) == 3));
        assert!(w.m.digests_hold());
        assert_eq!(w.m.stats().unreported_storages, 0);
    }
}

/// More locations than an entry of the map holds itself are remembered like the others.
#[test]
fn blocks_of_many_replicas_are_remembered() {
    let (old, blocks, disks) = stored(6, 300, 5);
    let mut w = loaded(&old, &saved(&old, &blocks), config(), true, false);
    for (dn, disk) in disks.iter().enumerate() {
        w.register(dn);
        assert_eq!(digest(&mut w, dn, disk).rounds, ["Root"]);
    }
    assert!(blocks.iter().all(|(block, _)| w.live(block.id) == 5));
    assert!(w.m.digests_hold());
}

/// What changed while the NameNode was down costs the leaves it is in; the rest is confirmed on the way there.
#[test]
fn what_differs_costs_its_leaves_only() {
    let (old, blocks, mut disks) = stored(3, 6_000, 3);
    let mut w = loaded(&old, &saved(&old, &blocks), config(), true, false);
    let lost = blocks[17].0;
    disks[1].remove(&lost.id.0);
    let cut = blocks[99].0;
    let shorter = block(cut.id.0, cut.generation_stamp.0, 1);
    disks[1].insert(cut.id.0, (shorter, ReplicaState::Finalized));
    for (dn, disk) in disks.iter().enumerate() {
        w.register(dn);
        let cost = digest(&mut w, dn, disk);
        if dn != 1 {
            assert_eq!(cost.rounds, ["Root"]);
            continue;
        }
        assert_eq!(cost.rounds, ["Root", "Nodes", "Leaves", "Replicas"]);
        assert!(cost.replicas < 20, "{cost:?}");
    }
    assert_eq!((w.live(lost.id), w.live(cut.id)), (2, 2));
    assert!(!w.locations(lost.id).contains(&"dn1".to_owned()));
    assert_eq!(w.m.unconfirmed(), 0);
    assert!(w.m.digests_hold());
}

/// Where everything differs a full report takes over, and what was remembered goes.
#[test]
fn a_full_report_replaces_what_is_remembered() {
    let (old, blocks, _) = stored(3, 5_000, 3);
    let mut w = loaded(&old, &saved(&old, &blocks), config(), true, false);
    w.register(0);
    w.report(0, &[blocks[3].0]);
    assert_eq!(w.m.unconfirmed(), 10_000);
    assert_eq!((w.live(blocks[3].0.id), w.live(blocks[4].0.id)), (1, 0));
    // Other disks under the same names.
    w.register(1);
    let cost = digest(&mut w, 1, &Disk::new());
    assert_eq!(cost.rounds, ["Root", "Nodes", "Leaves", "Full"]);
    assert_eq!(w.m.unconfirmed(), 5_000);
    assert_eq!(w.safe().0, 1);
    assert!(w.m.digests_hold());
}

/// Incremental reports that come first replace what is remembered of their blocks.
#[test]
fn changes_before_the_digest_are_believed() {
    let (old, blocks, mut disks) = stored(3, 500, 3);
    let mut w = loaded(&old, &saved(&old, &blocks), config(), true, false);
    w.register(0);
    let (gone, again) = (blocks[5].0, blocks[6].0);
    w.deleted(0, gone);
    w.received(0, again);
    assert_eq!((w.live(gone.id), w.live(again.id)), (0, 1));
    assert_eq!(w.m.unconfirmed(), 1_498);
    disks[0].remove(&gone.id.0);
    assert_eq!(digest(&mut w, 0, &disks[0]).rounds, ["Root"]);
    assert_eq!((w.live(gone.id), w.live(again.id)), (0, 1));
    assert_eq!(w.safe().0, 499);
    assert!(w.m.digests_hold());
}

/// Edits behind the image: removed blocks, changed factors and new stamps need no care (F-01).
#[test]
fn f_01_edits_behind_the_image_apply() {
    let (old, blocks, mut disks) = stored(3, 500, 3);
    let mut w = loaded(&old, &saved(&old, &blocks), config(), true, false);
    let (removed, stamped) = (blocks[1].0, blocks[2].0);
    w.remove(&[removed.id]);
    for disk in &mut disks {
        disk.remove(&removed.id.0);
    }
    // Appended to while the image was old: two of the DataNodes have the new stamp.
    let stamp = w.new_stamp();
    let txid = w.next_txid();
    w.m.reopened(txid, stamped);
    let newer = block(stamped.id.0, stamp, 77);
    w.m.updated(txid, newer);
    w.m.completed(txid, newer);
    w.applied();
    for disk in &mut disks[..2] {
        disk.insert(newer.id.0, (newer, ReplicaState::Finalized));
    }
    for (dn, disk) in disks.iter().enumerate() {
        w.register(dn);
        let cost = digest(&mut w, dn, disk);
        assert_eq!(cost.rounds.len(), if dn < 2 { 1 } else { 4 }, "{cost:?}");
    }
    assert_eq!(w.live(stamped.id), 2);
    assert_eq!(w.safe(), (499, 499));
    assert!(w.m.digests_hold());
}

/// A storage that is lost, or never comes, is not remembered for ever, and never counted.
#[test]
fn storages_that_do_not_come_are_given_up() {
    let (old, blocks, disks) = stored(3, 200, 3);
    let mut w = loaded(&old, &saved(&old, &blocks), config(), true, true);
    w.register(0);
    w.register(1);
    digest(&mut w, 0, &disks[0]);
    assert_eq!(w.m.unconfirmed(), 400);
    // dn1 falls silent before it reported, dn2 never comes.
    for _ in 0..config().dead_interval_ms / 3_000 + 2 {
        w.advance(3_000);
        w.heartbeat(0);
        w.settle();
    }
    assert_eq!(w.m.unconfirmed(), 0);
    assert!(blocks.iter().all(|(block, _)| w.live(block.id) == 1));
    w.register(1);
    assert_eq!(digest(&mut w, 1, &disks[1]).rounds, ["Root", "Full"]);
    assert!(blocks.iter().all(|(block, _)| w.live(block.id) == 2));
}

/// The planted bug: who believes an image sends readers where nothing is, and leaves safe mode too early.
#[test]
fn a_namenode_that_trusts_its_image_is_wrong() {
    let (old, blocks, _) = stored(1, 50, 1);
    for trusts in [false, true] {
        let planted = Planted {
            trust_remembered_locations: trusts,
            ..Planted::default()
        };
        let config = BlockConfig {
            planted,
            ..config()
        };
        let mut w = loaded(&old, &saved(&old, &blocks), config, true, false);
        w.register(0);
        assert_eq!(w.locations(blocks[0].0.id).is_empty(), !trusts);
        assert_eq!(w.safe().0, if trusts { 50 } else { 0 });
    }
}

/// The property: whatever became of disks and blocks since the image, a NameNode that remembers and is told by digests ends
/// where one that knows nothing and is told everything ends.
#[test]
fn a_restart_ends_where_full_reports_end() {
    let mut short = 0;
    for seed in 1..60 {
        let mut random = Random(seed * 7_919);
        let (old, blocks, mut disks) = stored(4, 120, 2 + random.below(3));
        let image = saved(&old, &blocks);
        for disk in &mut disks {
            if random.one_in(3) {
                continue;
            }
            for (found, _) in &blocks {
                match random.below(40) {
                    0 => drop(disk.remove(&found.id.0)),
                    1 => {
                        let odd = block(found.id.0, found.generation_stamp.0, 3);
                        disk.insert(odd.id.0, (odd, ReplicaState::Finalized));
                    }
                    2 => drop(disk.insert(found.id.0, (*found, ReplicaState::Finalized))),
                    3 => drop(disk.insert(found.id.0, (*found, ReplicaState::Rwr))),
                    4 => {
                        let unknown = block(1_000_000 + found.id.0, 1_001, 3);
                        disk.insert(unknown.id.0, (unknown, ReplicaState::Finalized));
                    }
                    _ => {}
                }
            }
        }
        let active = random.one_in(2);
        let mut worlds = [true, false].map(|remember| {
            let mut w = loaded(&old, &image, config(), remember, active);
            // What is decided may depend on when; what is known may not.
            w.m.enter_safe_mode(w.now);
            w
        });
        let edits = if random.one_in(2) { 8 } else { 0 };
        for n in 0..edits {
            let (found, _) = blocks[random.below(blocks.len())];
            let choice = random.below(4);
            for w in &mut worlds {
                match choice {
                    0 => w.remove(&[found.id]),
                    1 => w.set_replication(found.id, 1 + n % 4),
                    2 if w.m.is_complete(found.id) => {
                        let stamp = w.new_stamp();
                        let txid = w.next_txid();
                        let newer = block(found.id.0, stamp, 5);
                        w.m.reopened(txid, found);
                        w.m.updated(txid, newer);
                        w.m.completed(txid, newer);
                        w.applied();
                    }
                    _ => {}
                }
            }
        }
        for (dn, disk) in disks.iter_mut().enumerate() {
            for w in &mut worlds {
                w.register(dn);
            }
            for _ in 0..random.below(4) {
                let (found, _) = blocks[random.below(blocks.len())];
                let kind = match disk.get(&found.id.0) {
                    Some((_, ReplicaState::Finalized)) => ChangeKind::Deleted,
                    Some(_) => continue,
                    None => ChangeKind::Received,
                };
                let changed = disk.remove(&found.id.0).map_or(found, |(block, _)| block);
                if kind == ChangeKind::Received {
                    disk.insert(found.id.0, (found, ReplicaState::Finalized));
                }
                for w in &mut worlds {
                    w.change_now(dn, kind, changed);
                }
            }
            let [remembers, other] = &mut worlds;
            short += usize::from(digest(remembers, dn, disk).rounds == ["Root"]);
            let all = crate::digest::finalized(disk);
            other.report_with(dn, &all, crate::digest::open(disk));
        }
        let [ours, theirs] = &mut worlds;
        assert_eq!(ours.m.unconfirmed(), 0, "seed {seed}");
        assert!(ours.m.digests_hold(), "seed {seed}");
        for (ours, theirs) in map(ours, 130).iter().zip(map(theirs, 130)) {
            assert_eq!(*ours, theirs, "seed {seed}");
        }
    }
    assert!(
        short > 20,
        "only {short} storages were confirmed by one call"
    );
}

/// Blocks that are asked about before the image is sorted in have no location either.
#[test]
fn nothing_is_known_while_the_image_is_loaded() {
    let mut m = BlockManager::new(config(), crate::world::info(), 1);
    m.remember_storages(vec![(DatanodeUuid(100), StorageUuid(1_000))]);
    for id in 1..200 {
        m.load_remembered(block(id, 1_001, 5), InodeId(7), 1, false, &[0]);
        assert_eq!(m.stored(BlockId(id)).unwrap().live, 0);
    }
    assert_eq!(m.unconfirmed(), 199);
}
