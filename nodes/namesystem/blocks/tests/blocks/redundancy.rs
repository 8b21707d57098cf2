//! Too few, too many and corrupt replicas; what a change of active must not destroy (T-H6, T-H7, section 2.2).

use crate::world::{GB, World, block, config};
use hadal_blocks::{BlockConfig, BlockEvent};
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{Action, ChangeKind};
use hadal_types::{Block, Epoch, HaState};

const RACK: &str = "/default-rack";

/// Lets every DataNode do what it is told until nothing is left to do; returns copies and deletions made.
fn work(w: &mut World, has: &mut [Vec<Block>]) -> (usize, usize) {
    let (mut copies, mut deletions) = (0, 0);
    for _ in 0..30 {
        w.round();
        let mut idle = true;
        for dn in 0..w.dns.len() {
            for action in w.execute(dn) {
                idle = false;
                match action {
                    Action::Transfer { work } => {
                        for item in work {
                            assert!(has[dn].contains(&item.block), "source has it");
                            for target in item.targets {
                                let to: usize = target.name[2..].parse().unwrap();
                                assert!(!has[to].contains(&item.block), "copied twice");
                                has[to].push(item.block);
                                w.received(to, item.block);
                                copies += 1;
                            }
                        }
                    }
                    Action::Invalidate { blocks } => {
                        for gone in blocks {
                            has[dn].retain(|b| *b != gone);
                            w.deleted(dn, gone);
                            deletions += 1;
                        }
                    }
                    _ => {}
                }
            }
        }
        if idle && w.m.stats().pending_replication == 0 {
            break;
        }
    }
    (copies, deletions)
}

fn bad(w: &World, b: Block, dn: usize) -> BadReplica {
    BadReplica {
        block: b,
        datanode: w.dns[dn].uuid,
        storage: w.dns[dn].storages[0],
    }
}

#[test]
fn blocks_of_a_dead_datanode_are_copied_until_the_factor_is_back() {
    let mut w = World::active(config(), &[RACK; 5]);
    let mut has = vec![Vec::new(); 5];
    let blocks: Vec<Block> = (0..20)
        .map(|at| {
            let on = [at % 5, (at + 1) % 5, (at + 2) % 5];
            let b = w.stored_on(3, &on);
            on.iter().for_each(|dn| has[*dn].push(b));
            b
        })
        .collect();
    for _ in 0..220 {
        w.advance(3_000);
        (1..5).for_each(|dn| drop(w.heartbeat(dn)));
        w.settle();
    }
    assert_eq!(w.m.stats().live_datanodes, 4);
    let dead = std::mem::take(&mut has[0]);
    assert_eq!(w.m.stats().under_replicated, dead.len() as u64);
    w.dns.truncate(5);
    // It never comes back: leave it out of the rounds by letting it beat unregistered.
    let (copies, deletions) = work(&mut w, &mut has);
    assert_eq!((copies, deletions), (dead.len(), 0));
    assert!(blocks.iter().all(|b| w.live(b.id) == 3));
    let stats = w.m.stats();
    assert_eq!((stats.under_replicated, stats.pending_replication), (0, 0));
    // Back again, it has too many.
    w.register(0);
    w.dns[0].executed = 0;
    w.report(0, &dead);
    has[0] = dead.clone();
    let (copies, deletions) = work(&mut w, &mut has);
    assert_eq!((copies, deletions), (0, dead.len()));
    assert!(blocks.iter().all(|b| w.live(b.id) == 3));
}

/// The five priorities of HDFS's `LowRedundancyBlocks`, worst first.
#[test]
fn the_last_replica_is_copied_first() {
    let slow = BlockConfig {
        replication_work_multiplier: 0,
        ..config()
    };
    let mut racks = [RACK; 12];
    racks[11] = "/elsewhere";
    let mut w = World::active(slow, &racks);
    let badly_distributed = w.stored_on(2, &[6, 7]);
    let low = w.stored_on(3, &[0, 1]);
    let very_low = w.stored_on(10, &[2, 3, 4]);
    let highest = w.stored_on(3, &[5]);
    let none = w.stored_on(3, &[]);
    let order: Vec<_> = w.m.under_replicated(9).iter().map(|s| s.block.id).collect();
    let worst_first = [highest, very_low, low, badly_distributed, none];
    assert_eq!(order, worst_first.map(|block| block.id));
    assert_eq!(w.m.stats().missing, 1);
}

/// Two DataNodes that have far more blocks to copy than they may at once are each given `each`, and again when none of
/// those is reported.
fn transfers_are_limited(whole_copy_bytes: u64, blocks: usize, each: usize) {
    let mut w = World::active(
        BlockConfig {
            replication_work_multiplier: 10,
            whole_copy_bytes,
            ..config()
        },
        &[RACK; 4],
    );
    for _ in 0..blocks {
        w.stored_on(3, &[0, 1]);
    }
    w.round();
    let of: Vec<usize> = (0..4).map(|dn| w.transfers(dn).len()).collect();
    assert_eq!(of, [each, each, 0, 0]);
    assert_eq!(w.m.stats().pending_replication, 2 * each as u64);
    w.round();
    assert_eq!((w.transfers(0).len(), w.transfers(1).len()), (0, 0));
    for _ in 0..100 {
        w.round();
    }
    let again = (w.transfers(0).len(), w.transfers(1).len());
    assert_eq!(again, (each, each), "timed out");
}

#[test]
fn transfers_per_datanode_are_limited_and_a_lost_copy_is_ordered_again() {
    transfers_are_limited(1, 10, 2);
}

/// HDFS counts blocks, whatever their length: two small ones per heartbeat.
#[test]
fn small_blocks_take_a_share_of_a_transfer_each() {
    transfers_are_limited(64 << 20, 80, 32);
}

#[test]
fn closing_a_file_copies_nothing_while_its_pipeline_still_reports() {
    let mut w = World::active(config(), &[RACK; 4]);
    let open = w.allocate(3);
    let nodes: Vec<_> = w.dns[..3]
        .iter()
        .map(|dn| (dn.uuid, dn.storages[0]))
        .collect();
    let targets = w.m.targets_of(&nodes);
    w.m.set_pipeline(open.id, &targets);
    let done = block(open.id.0, open.generation_stamp.0, 9);
    w.received(0, done);
    let txid = w.next_txid();
    w.m.completed(txid, done);
    w.round();
    let stats = w.m.stats();
    assert_eq!((stats.under_replicated, stats.pending_replication), (1, 1));
    assert!((0..4).all(|dn| w.transfers(dn).is_empty()));
    w.received(1, done);
    w.received(2, done);
    assert_eq!(w.m.stats().pending_replication, 0);
    assert_eq!(w.m.under_replicated(9), []);
}

#[test]
fn t_h24_replication_3_1_3() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(3, &[0, 1, 2]);
    let mut has = vec![vec![b]; 3];
    w.set_replication(b.id, 1);
    assert_eq!(work(&mut w, &mut has), (0, 2));
    assert_eq!(w.locations(b.id).len(), 1);
    w.set_replication(b.id, 3);
    assert_eq!(work(&mut w, &mut has), (2, 0));
    assert_eq!(w.locations(b.id).len(), 3);
}

#[test]
fn excess_goes_from_the_crowded_rack_and_where_space_is_scarce() {
    let mut w = World::active(config(), &["/a", "/a", "/b", "/b"]);
    w.dns[0].remaining = 5 * GB;
    w.dns[2].remaining = GB;
    (0..4).for_each(|dn| drop(w.heartbeat(dn)));
    let b = w.stored_on(2, &[0, 1, 2]);
    assert_eq!(
        w.deletions(0),
        [b],
        "the lone one on /b stays, however full"
    );
    assert_eq!(w.m.racks_of(b.id).len(), 2);
}

#[test]
fn a_37_the_delete_hint_goes_first_unless_a_rack_would_be_lost() {
    let mut w = World::active(config(), &["/a", "/a", "/b"]);
    let b = w.stored_on(2, &[0, 2]);
    let mut moved = w.change(1, ChangeKind::Received, b);
    moved.delete_hint = w.dns[0].uuid;
    w.incremental(1, vec![moved]);
    assert_eq!(w.deletions(0), [b]);
    let b = w.stored_on(2, &[0, 2]);
    let mut moved = w.change(1, ChangeKind::Received, b);
    moved.delete_hint = w.dns[2].uuid;
    w.incremental(1, vec![moved]);
    assert_eq!(w.deletions(2), []);
    assert_eq!(w.m.racks_of(b.id).len(), 2);
}

#[test]
fn replicas_all_on_one_rack_get_a_copy_on_another() {
    let mut w = World::active(config(), &["/a", "/a", "/a", "/b"]);
    let b = w.stored_on(3, &[0, 1, 2]);
    let mut has = vec![vec![b], vec![b], vec![b], vec![]];
    assert_eq!(work(&mut w, &mut has), (1, 1));
    assert_eq!(w.m.racks_of(b.id)["/b"], 1);
    assert_eq!(w.live(b.id), 3);
}

#[test]
fn a_39_corrupt_replicas_go_after_good_ones_reach_the_factor() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(2, &[0, 1]);
    let report = [bad(&w, b, 1)];
    w.m.report_bad_blocks(w.now, &report);
    w.m.report_bad_blocks(w.now, &report);
    let events = core::iter::from_fn(|| w.m.poll_event());
    let told =
        events.filter(|event| matches!(event, BlockEvent::Corrupt { name, .. } if name == "dn1"));
    assert_eq!(told.count(), 1, "told once");
    assert_eq!(w.locations(b.id), ["dn0"]);
    assert_eq!((w.m.stats().corrupt, w.m.stats().under_replicated), (1, 1));
    assert_eq!(w.m.corrupt(9)[0].block, b);
    w.report(1, &[b]);
    assert_eq!(
        w.locations(b.id),
        ["dn0"],
        "listing it does not make it good"
    );
    let mut has = vec![vec![b], vec![b], vec![]];
    assert_eq!(work(&mut w, &mut has), (1, 1));
    assert_eq!(
        has,
        [vec![b], vec![], vec![b]],
        "not copied where the bad one is"
    );
    assert_eq!((w.m.stats().corrupt, w.live(b.id)), (0, 2));
}

#[test]
fn the_last_replica_is_never_deleted_for_being_corrupt() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(2, &[0, 1]);
    let reports = [bad(&w, b, 0), bad(&w, b, 1)];
    w.m.report_bad_blocks(w.now, &reports);
    for _ in 0..5 {
        w.round();
        for dn in 0..3 {
            assert_eq!(w.execute(dn), []);
        }
    }
    let located = w.m.locate(b.id, "").unwrap();
    assert!(located.corrupt);
    assert_eq!((located.locations.len(), w.m.stats().missing), (2, 1));
}

#[test]
fn t_h6_deletions_of_two_actives_never_destroy_the_last_replica() {
    // NN1 ordered the excess of 30 blocks deleted; NN2 takes over before it knows which went.
    let mut w = World::active(config(), &[RACK; 3]);
    let blocks: Vec<Block> = (0..30).map(|_| w.stored_on(3, &[0, 1, 2])).collect();
    w.m.become_standby(w.now, HaState::Standby);
    for b in &blocks {
        w.set_replication(b.id, 1);
    }
    w.m.become_active(w.now, Epoch(4));
    w.settle();
    assert_eq!(w.m.stats().postponed, 30);
    assert!((0..3).all(|dn| w.deletions(dn).is_empty()));
    // NN1's choice: everything but on dn2. The DataNodes report after they followed NN2.
    let mut has = vec![vec![], vec![], blocks.clone()];
    for (dn, held) in has.iter().enumerate() {
        w.dns[dn].acknowledged = Epoch(4);
        w.dns[dn].executed = 0;
        w.report(dn, held);
        w.settle();
        let left = if dn < 2 { 30 } else { 0 };
        assert!(w.m.stats().postponed <= left);
    }
    assert_eq!(work(&mut w, &mut has), (0, 0));
    assert!(blocks.iter().all(|b| w.live(b.id) == 1));
    assert_eq!(w.m.stats().postponed, 0);
}

#[test]
fn t_h6_the_rest_goes_once_all_have_reported() {
    let mut w = World::active(config(), &[RACK; 3]);
    let blocks: Vec<Block> = (0..30).map(|_| w.stored_on(3, &[0, 1, 2])).collect();
    w.m.become_active(w.now, Epoch(4));
    w.settle();
    for b in &blocks {
        w.set_replication(b.id, 1);
    }
    assert_eq!(w.m.stats().postponed, 30);
    let mut has = vec![blocks.clone(), blocks.clone(), blocks.clone()];
    for dn in 0..3 {
        w.dns[dn].acknowledged = Epoch(4);
        w.dns[dn].executed = 0;
        w.report(dn, &blocks);
        w.settle();
        assert_eq!(w.m.stats().postponed, if dn < 2 { 30 } else { 0 });
    }
    assert_eq!(work(&mut w, &mut has), (0, 60));
    assert!(blocks.iter().all(|b| w.live(b.id) == 1));
}

#[test]
fn t_h7_what_was_queued_before_a_change_of_role_is_forgotten_not_lost() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(3, &[0, 1, 2]);
    w.committed = 0;
    w.set_replication(b.id, 1);
    assert_eq!((w.m.stats().pending_deletion, w.live(b.id)), (2, 1));
    w.m.become_standby(w.now, HaState::Standby);
    assert_eq!((w.m.stats().pending_deletion, w.live(b.id)), (0, 3));
    w.set_replication(b.id, 2);
    w.committed = u64::MAX;
    w.m.become_active(w.now, Epoch(5));
    w.settle();
    for dn in 0..3 {
        w.dns[dn].acknowledged = Epoch(5);
        w.dns[dn].executed = 0;
        w.report(dn, &[b]);
    }
    w.settle();
    let mut has = vec![vec![b]; 3];
    assert_eq!(work(&mut w, &mut has), (0, 1));
    assert_eq!(w.live(b.id), 2);
}

#[test]
fn t_h7_excess_not_yet_sent_is_kept_when_it_is_needed_again() {
    let mut w = World::active(config(), &[RACK; 3]);
    let (a, b) = (w.stored_on(3, &[0, 1, 2]), w.stored_on(3, &[0, 1, 2]));
    w.committed = 0;
    w.set_replication(a.id, 1);
    w.set_replication(a.id, 2);
    assert_eq!((w.live(a.id), w.m.stats().pending_deletion), (2, 1));
    w.set_replication(a.id, 3);
    assert_eq!((w.live(a.id), w.m.stats().pending_deletion), (3, 0));
    // The same when the replicas that were to stay are lost.
    w.set_replication(b.id, 1);
    let stays: usize = w.locations(b.id)[0][2..].parse().unwrap();
    w.deleted(stays, b);
    assert_eq!((w.live(b.id), w.m.stats().pending_deletion), (1, 1));
    w.committed = u64::MAX;
    let mut has = vec![vec![a, b]; 3];
    has[stays].retain(|held| *held != b);
    assert_eq!(work(&mut w, &mut has), (0, 1));
    assert_eq!((w.live(a.id), w.live(b.id)), (3, 1));
}

#[test]
fn a_deletion_of_a_replica_that_was_replaced_is_dropped() {
    let mut w = World::active(config(), &[RACK; 2]);
    let b = w.stored_on(1, &[0]);
    let stale = block(b.id.0, b.generation_stamp.0 - 1, 100);
    w.report(1, &[stale]);
    assert_eq!(w.deletions(1), [stale]);
    w.set_replication(b.id, 2);
    w.report(1, &[b]);
    assert_eq!((w.m.stats().pending_deletion, w.live(b.id)), (0, 2));
}

#[test]
fn corrupt_ones_wait_for_fresh_reports_too() {
    let mut w = World::active(config(), &[RACK; 3]);
    let b = w.stored_on(2, &[0, 1]);
    w.report(2, &[block(b.id.0, b.generation_stamp.0 - 1, 100)]);
    w.m.become_active(w.now, Epoch(4));
    w.settle();
    assert_eq!((w.deletions(2).len(), w.m.stats().corrupt), (0, 1));
    for dn in 0..2 {
        w.dns[dn].acknowledged = Epoch(4);
        w.report(dn, &[b]);
    }
    w.settle();
    w.dns[2].executed = 0;
    assert_eq!(w.deletions(2).len(), 1);
}

#[test]
fn the_scan_finds_after_promotion_what_was_missed_before() {
    let small = BlockConfig {
        scan_batch: 7,
        ..config()
    };
    let mut w = World::active(small, &[RACK; 4]);
    w.m.become_standby(w.now, HaState::Standby);
    let lacking: Vec<Block> = (0..200).map(|_| w.stored_on(3, &[0, 1])).collect();
    for _ in 0..200 {
        w.stored_on(2, &[0, 1]);
    }
    assert_eq!(w.m.stats().under_replicated, 0);
    w.m.become_active(w.now, Epoch(4));
    assert_eq!(w.m.stats().under_replicated, 200, "counted at once");
    assert!(w.m.under_replicated(500).len() < 200, "queued in steps");
    w.settle();
    assert_eq!(w.m.under_replicated(500).len(), lacking.len());
}

#[test]
fn removing_a_block_under_copy_frees_its_source() {
    let mut w = World::active(config(), &[RACK; 3]);
    for _ in 0..30 {
        let b = w.stored_on(2, &[0]);
        w.round();
        assert_eq!(w.transfers(0).len(), 1, "never out of transfers");
        w.remove(&[b.id]);
        w.execute(0);
    }
}

#[test]
fn t_h6_like_totals_survive_any_mixture() {
    // Counters against a recount through the public lists, under random events and role changes.
    let mut seed = 7u64;
    let mut random = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    for run in 0..15 {
        let mut w = World::active(config(), &["/a", "/a", "/b", "/b", "/c"]);
        let mut epoch = 3;
        let mut blocks: Vec<Block> = Vec::new();
        for _ in 0..400 {
            let dn = random(5) as usize;
            match random(14) {
                0..=2 => {
                    let new = w.create(1 + random(4) as u16, 5);
                    blocks.push(new);
                }
                3..=6 if !blocks.is_empty() => {
                    let b = blocks[random(blocks.len() as u64) as usize];
                    w.received(dn, b);
                }
                7 if !blocks.is_empty() => {
                    let b = blocks[random(blocks.len() as u64) as usize];
                    w.deleted(dn, b);
                }
                8 if !blocks.is_empty() => {
                    let at = random(blocks.len() as u64) as usize;
                    let b = blocks.swap_remove(at);
                    w.remove(&[b.id]);
                }
                9 if !blocks.is_empty() => {
                    let b = blocks[random(blocks.len() as u64) as usize];
                    w.set_replication(b.id, 1 + random(4) as u16);
                }
                10 if !blocks.is_empty() => {
                    let b = blocks[random(blocks.len() as u64) as usize];
                    let report = [bad(&w, b, dn)];
                    w.m.report_bad_blocks(w.now, &report);
                }
                11 if !blocks.is_empty() => {
                    let b = blocks[random(blocks.len() as u64) as usize];
                    w.received(dn, block(b.id.0, b.generation_stamp.0 - 1, 5));
                }
                12 => {
                    if random(2) == 0 {
                        w.m.become_standby(w.now, HaState::Standby);
                    }
                    epoch += 1;
                    w.m.become_active(w.now, Epoch(epoch));
                    for dn in &mut w.dns {
                        dn.executed = 0;
                        dn.acknowledged = Epoch(epoch);
                    }
                }
                13 => {
                    w.round();
                    let gone = w.deletions(dn);
                    for b in gone {
                        if random(4) > 0 {
                            w.deleted(dn, b);
                        }
                    }
                }
                _ => {}
            }
        }
        w.settle();
        let stored: Vec<_> = blocks.iter().map(|b| w.m.stored(b.id).unwrap()).collect();
        let count = |of: fn(&hadal_blocks::StoredBlock) -> bool| {
            stored.iter().filter(|s| of(s)).count() as u64
        };
        let stats = w.m.stats();
        assert_eq!(stats.blocks, blocks.len() as u64, "run {run}");
        assert_eq!(stats.complete, blocks.len() as u64);
        assert_eq!(stats.safe, count(|s| s.live > 0));
        assert_eq!(stats.missing, count(|s| s.live == 0));
        assert_eq!(stats.under_replicated, count(|s| s.live < s.replication));
        let all: Vec<_> = w.m.missing(None, 10_000);
        assert_eq!(all.len() as u64, stats.missing);
        for s in &stored {
            // The map never orders the last good replica deleted.
            let located = w.m.locate(s.block.id, "").unwrap();
            assert!(
                s.live > 0 || located.corrupt || located.locations.is_empty(),
                "{s:?}"
            );
        }
    }
}
