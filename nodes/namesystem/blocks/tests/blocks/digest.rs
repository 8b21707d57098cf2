//! Digest reports (protocols.md section 4): they end where a full report ends, and cost next to nothing when nothing
//! changed.

use crate::world::{EPOCH, World, block, class, config, info};
use hadal_blocks::{BlockConfig, BlockEvent, Planted};
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{
    Action, ChangeKind, DigestAsk, DigestReport, DigestRound, OpenReplica, Request, Response,
};
use hadal_proto::{FaultClass, encode};
use hadal_types::{
    Block, BlockId, Digest, DigestKey, DigestTree, Epoch, HaState, InodeId, ReplicaState,
    digest_leaf, mix,
};
use std::collections::BTreeMap;

const RACK: &str = "/default-rack";
const DNS: usize = 3;

/// What a DataNode really has, FINALIZED or open.
pub(crate) type Disk = BTreeMap<u64, (Block, ReplicaState)>;

pub(crate) fn finalized(disk: &Disk) -> Vec<Block> {
    let all = disk.values();
    all.filter(|(_, state)| *state == ReplicaState::Finalized)
        .map(|(block, _)| *block)
        .collect()
}

pub(crate) fn open(disk: &Disk) -> Vec<OpenReplica> {
    let all = disk.values();
    all.filter(|(_, state)| *state != ReplicaState::Finalized)
        .map(|(block, state)| OpenReplica {
            block: *block,
            state: *state,
        })
        .collect()
}

fn tree(disk: &Disk) -> DigestTree {
    let mut tree = DigestTree::new(DigestKey::new(&info()));
    finalized(disk).iter().for_each(|block| tree.insert(block));
    tree
}

/// What went over the wire for one report.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) rounds: Vec<&'static str>,
    pub(crate) bytes: usize,
    pub(crate) replicas: usize,
}

fn round(w: &World, dn: usize, round: DigestRound, open: Vec<OpenReplica>) -> Request {
    let it = &w.dns[dn];
    Request::DigestReport {
        report: DigestReport {
            uuid: it.uuid,
            storage: it.storages[0],
            report_id: it.report_id,
            includes: it.sequence,
            acknowledged: it.acknowledged,
            round,
            open,
        },
    }
}

fn answer(disk: &Disk, ask: Option<&DigestAsk>) -> DigestRound {
    let tree = tree(disk);
    match ask {
        None => DigestRound::Root {
            replicas: tree.replicas(),
            digest: tree.root(),
        },
        Some(DigestAsk::Nodes) => DigestRound::Nodes {
            digests: tree.nodes().to_vec(),
        },
        Some(DigestAsk::Leaves { of }) => DigestRound::Leaves {
            of: of.clone(),
            digests: of
                .iter()
                .flat_map(|node| tree.leaves(usize::from(*node)))
                .collect(),
        },
        Some(DigestAsk::Replicas { leaves }) => {
            let mut listed = finalized(disk);
            listed.retain(|it| leaves.contains(&(digest_leaf(mix(it.id)) as u16)));
            DigestRound::Replicas {
                leaves: leaves.clone(),
                finalized: World::packed(&listed),
            }
        }
        Some(DigestAsk::Full) => panic!("no round"),
    }
}

/// One storage reports by digest; a full report where it is asked for.
pub(crate) fn digest(w: &mut World, dn: usize, disk: &Disk) -> Cost {
    w.dns[dn].report_id += 1;
    let mut cost = Cost::default();
    let mut ask = None;
    loop {
        let told = answer(disk, ask.as_ref());
        cost.rounds.push(told.name());
        let is_last = matches!(
            told,
            DigestRound::Root { .. } | DigestRound::Replicas { .. }
        );
        if let DigestRound::Replicas { finalized, .. } = &told {
            cost.replicas += finalized.len() / 24;
        }
        let open = if is_last { open(disk) } else { Vec::new() };
        let request = round(w, dn, told, open);
        cost.bytes += encode(&request).len();
        let answer = w.call(dn, request).unwrap();
        cost.bytes += encode(&answer).len();
        let Response::Digest { ask: next, .. } = answer else {
            panic!("{answer:?}");
        };
        match next {
            None => return cost,
            Some(DigestAsk::Full) => {
                cost.rounds.push("Full");
                w.report_with(dn, &finalized(disk), self::open(disk));
                return cost;
            }
            next => ask = next,
        }
    }
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Everything that can be asked about the map, less the order in which replicas arrived.
pub(crate) fn map(w: &mut World, blocks: u64) -> Vec<String> {
    let mut all = Vec::new();
    for id in 1..=blocks {
        for line in w.m.replica_lines(BlockId(id)) {
            all.push(format!("{id} {line}"));
        }
        let Some(stored) = w.m.stored(BlockId(id)) else {
            continue;
        };
        let located = w.m.locate(BlockId(id), "").map(|it| {
            let mut names: Vec<String> = it.locations.into_iter().map(|t| t.name).collect();
            names.sort();
            (names, it.corrupt)
        });
        all.push(format!("{stored:?} {located:?}"));
    }
    let corrupt = w.m.corrupt(1000);
    all.push(format!("{:?} {corrupt:?}", w.m.stats()));
    for dn in 0..w.dns.len() {
        let storage = w.dns[dn].storages[0];
        all.push(format!("{:?}", w.m.storage_digest(w.dns[dn].uuid, storage)));
    }
    all
}

/// The same history for two NameNodes, one of which is told by digests.
struct Twins {
    /// Told by digests; told by full reports.
    worlds: [World; 2],
    disks: Vec<Disk>,
    random: Random,
    blocks: Vec<Block>,
    epoch: u64,
    /// Edits the NameNodes have not been told of.
    late: Vec<Edit>,
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    Allocate(Block, u16),
    Commit(Block),
    Complete(Block),
    Reopen(Block),
    Update(Block),
    Remove(BlockId),
    Replication(BlockId, u16),
}

impl Twins {
    fn new(seed: u64) -> Self {
        let config = || BlockConfig {
            planted: Planted {
                skip_replication: true,
                ..Planted::default()
            },
            ..config()
        };
        let world = || World::active(config(), &[RACK; DNS]);
        Self {
            worlds: [world(), world()],
            disks: vec![Disk::new(); DNS],
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            blocks: Vec::new(),
            epoch: EPOCH.0,
            late: Vec::new(),
        }
    }

    fn both<R>(&mut self, mut f: impl FnMut(&mut World) -> R) -> [R; 2] {
        self.worlds.each_mut().map(&mut f)
    }

    fn edit(&mut self, edit: Edit) {
        self.late.push(edit);
        if self.random.one_in(4) {
            return;
        }
        for edit in std::mem::take(&mut self.late) {
            self.both(|w| {
                let txid = w.next_txid();
                match edit {
                    Edit::Allocate(block, replication) => {
                        w.m.allocated(txid, block, InodeId(7), replication);
                    }
                    Edit::Commit(block) => w.m.committed(txid, block),
                    Edit::Complete(block) => w.m.completed(txid, block),
                    Edit::Reopen(block) => w.m.reopened(txid, block),
                    Edit::Update(block) => w.m.updated(txid, block),
                    Edit::Remove(id) => w.m.removed(txid, &[id]),
                    Edit::Replication(id, wanted) => w.m.replication_changed(txid, &[id], wanted),
                }
                let stamp = 1_000 + txid.0;
                w.stamp = stamp;
                w.applied();
            });
        }
        let next = self.blocks.len() as u64 + 1;
        self.both(|w| {
            w.next_block = next;
            w.applied();
        });
    }

    fn tell(&mut self, dn: usize, kind: ChangeKind, block: Block) {
        // Some changes are lost: the digest must find them.
        if !self.random.one_in(4) {
            self.both(|w| w.change_now(dn, kind, block));
        }
    }

    fn stamp(&mut self) -> u64 {
        self.worlds[0].stamp + self.random.below(3) as u64
    }

    fn step(&mut self) {
        let dn = self.random.below(DNS);
        let any = self.random.below(self.blocks.len().max(1));
        let known = self.blocks.get(any).copied();
        match (self.random.below(16), known) {
            (0..=2, _) | (_, None) => {
                let stamp = self.stamp();
                let new = block(self.blocks.len() as u64 + 1, stamp, 0);
                self.blocks.push(new);
                let replication = 1 + self.random.below(3) as u16;
                self.edit(Edit::Allocate(new, replication));
            }
            (3..=5, Some(it)) => {
                let length = it.length + self.random.below(2) as u64;
                let it = Block { length, ..it };
                let state = match self.random.below(5) {
                    0 => ReplicaState::Rbw,
                    1 => ReplicaState::Rwr,
                    _ => ReplicaState::Finalized,
                };
                self.disks[dn].insert(it.id.0, (it, state));
                match state {
                    ReplicaState::Finalized => self.tell(dn, ChangeKind::Received, it),
                    ReplicaState::Rbw => self.tell(dn, ChangeKind::Receiving, it),
                    _ => {}
                }
            }
            (6..=7, Some(_)) => {
                let it = &mut self.blocks[any];
                it.length = 5;
                let it = *it;
                if self.random.one_in(2) {
                    self.edit(Edit::Commit(it));
                }
                self.edit(Edit::Complete(it));
            }
            (8, Some(it)) => {
                if let Some((gone, _)) = self.disks[dn].remove(&it.id.0) {
                    self.tell(dn, ChangeKind::Deleted, gone);
                }
            }
            (9, Some(it)) => {
                if let Some((here, _)) = self.disks[dn].get_mut(&it.id.0) {
                    here.generation_stamp.0 += 1;
                    here.length += 1;
                }
            }
            (10, Some(it)) => self.edit(Edit::Remove(it.id)),
            (11, Some(it)) => {
                self.edit(Edit::Reopen(it));
                if self.random.one_in(2) {
                    let stamp = self.stamp();
                    self.blocks[any].generation_stamp.0 = stamp;
                    self.edit(Edit::Update(self.blocks[any]));
                }
            }
            (12, Some(it)) => {
                let wanted = 1 + self.random.below(3) as u16;
                self.edit(Edit::Replication(it.id, wanted));
            }
            (13, Some(it)) => {
                let bad = self.disks[dn].get(&it.id.0).map(|(block, _)| *block);
                self.both(|w| {
                    let bad = BadReplica {
                        block: bad.unwrap_or(it),
                        datanode: w.dns[dn].uuid,
                        storage: w.dns[dn].storages[0],
                    };
                    w.m.report_bad_blocks(w.now, &[bad]);
                });
            }
            (14, _) => {
                if self.random.one_in(3) {
                    self.epoch += 1;
                    let (active, epoch) = (self.random.one_in(2), Epoch(self.epoch));
                    self.both(|w| {
                        if active {
                            w.m.become_active(w.now, epoch);
                        } else {
                            w.m.become_standby(w.now, HaState::Standby);
                        }
                        for dn in &mut w.dns {
                            dn.acknowledged = epoch;
                            dn.executed = 0;
                        }
                    });
                }
            }
            _ => self.beat(dn),
        }
        self.both(|w| {
            w.advance(100);
            w.settle();
        });
    }

    /// A heartbeat; deletions are done, and told or not.
    fn beat(&mut self, dn: usize) {
        let [one, two] = self.both(|w| w.deletions(dn));
        let sorted = |mut blocks: Vec<Block>| {
            blocks.sort();
            blocks
        };
        let one = sorted(one);
        assert_eq!(one, sorted(two), "deletions");
        for it in one {
            let here = self.disks[dn].get(&it.id.0).map(|(block, _)| *block);
            if here.is_some_and(|here| here.generation_stamp <= it.generation_stamp) {
                self.disks[dn].remove(&it.id.0);
                self.tell(dn, ChangeKind::Deleted, here.unwrap());
            }
        }
    }

    fn report(&mut self, dn: usize) -> Cost {
        let disk = self.disks[dn].clone();
        let cost = digest(&mut self.worlds[0], dn, &disk);
        self.worlds[1].report_with(dn, &finalized(&disk), open(&disk));
        self.both(World::settle);
        let blocks = self.blocks.len() as u64;
        let [one, two] = self.both(|w| map(w, blocks));
        for (one, two) in one.iter().zip(&two) {
            assert_eq!(one, two, "after a report of dn{dn}: {cost:?}");
        }
        for w in &self.worlds {
            assert!(w.m.digests_hold(), "digests differ from the map");
        }
        cost
    }
}

/// The property: whatever happened, and whatever was lost, a digest report ends in the map a full report ends in.
#[test]
fn random_histories_end_where_full_reports_end() {
    let (mut agreed, mut drilled) = (0, 0);
    for seed in 1..=150 {
        let mut twins = Twins::new(seed);
        for _ in 0..12 {
            for _ in 0..20 {
                twins.step();
            }
            let dn = twins.random.below(DNS);
            let cost = twins.report(dn);
            if cost.rounds == ["Root"] {
                agreed += 1;
            } else if cost.rounds.contains(&"Replicas") {
                drilled += 1;
            }
        }
    }
    assert!(agreed > 100 && drilled > 500, "{agreed} {drilled}");
}

fn active_with(blocks: u64) -> (World, Disk) {
    let mut w = World::active(config(), &[RACK]);
    let disk: Disk = (0..blocks)
        .map(|n| (w.create(1, n), ReplicaState::Finalized))
        .map(|it| (it.0.id.0, it))
        .collect();
    let cost = digest(&mut w, 0, &disk);
    assert_eq!(cost.rounds, ["Root", "Full"], "first contact");
    (w, disk)
}

/// Goal of performance.md: nothing changed costs one hash, whatever the size.
#[test]
fn an_unchanged_storage_costs_one_small_call() {
    let (mut w, disk) = active_with(20_000);
    let cost = digest(&mut w, 0, &disk);
    assert_eq!(cost.rounds, ["Root"]);
    assert!(cost.bytes < 256, "{} bytes", cost.bytes);
    assert!(w.m.digests_hold());
}

#[test]
fn one_lost_replica_costs_one_leaf() {
    let (mut w, mut disk) = active_with(20_000);
    while w.m.poll_event().is_some() {}
    let (lost, _) = disk.remove(&777).unwrap();
    let cost = digest(&mut w, 0, &disk);
    assert_eq!(cost.rounds, ["Root", "Nodes", "Leaves", "Replicas"]);
    assert!(cost.replicas < 30 && cost.bytes < 4_096, "{cost:?}");
    assert_eq!(w.live(lost.id), 0);
    let event = std::iter::from_fn(|| w.m.poll_event()).last().unwrap();
    assert_eq!(
        event,
        BlockEvent::Reported {
            name: "dn0".into(),
            replicas: 19_999,
            added: 0,
            removed: 1,
            unknown: 0
        }
    );
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root"]);
}

/// T-D16, B-10: what an overflowing queue forgot is found, and so is a replica whose length is not what it was.
#[test]
fn t_d16_lost_changes_are_found_by_leaf() {
    let (mut w, mut disk) = active_with(2_000);
    let new = w.create(1, 9);
    disk.insert(new.id.0, (new, ReplicaState::Finalized));
    let cut = disk.get_mut(&5).unwrap();
    cut.0.length += 1;
    let cost = digest(&mut w, 0, &disk);
    assert_eq!(cost.rounds.last(), Some(&"Replicas"));
    assert_eq!((w.live(new.id), w.live(BlockId(5))), (1, 0));
    assert_eq!(w.m.corrupt(10).len(), 1);
    assert_eq!(
        digest(&mut w, 0, &disk).rounds,
        ["Root"],
        "known as corrupt"
    );
}

/// Replicas that are to be deleted, and have not been, are no difference; those of no block always are.
#[test]
fn t_q7_pending_deletions_agree_and_unknown_replicas_do_not() {
    let (mut w, mut disk) = active_with(2_000);
    w.remove(&[BlockId(3), BlockId(4)]);
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root"]);
    assert_eq!(w.deletions(0).len(), 2);
    let (gone, _) = disk.remove(&3).unwrap();
    w.deleted(0, gone);
    disk.remove(&4);
    let cost = digest(&mut w, 0, &disk);
    assert_eq!(cost.rounds.last(), Some(&"Replicas"), "4 was not told");
    assert_eq!(w.m.stats().pending_deletion, 0);
    // A replica of a block that was deleted long ago comes back with an old disk.
    disk.insert(gone.id.0, (gone, ReplicaState::Finalized));
    digest(&mut w, 0, &disk);
    assert_eq!(w.deletions(0), [gone]);
}

/// F-01: a standby counts what waits for edits, so that its lag is no difference.
#[test]
fn f_01_reports_that_wait_for_edits_count() {
    let mut w = World::new(config(), &[RACK]);
    w.m.become_standby(w.now, HaState::Standby);
    w.applied();
    w.m.start(w.now);
    w.register(0);
    let mut disk = Disk::new();
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root"]);
    for id in 50..60 {
        let new = block(id, 2_000, 7);
        disk.insert(id, (new, ReplicaState::Finalized));
        w.received(0, new);
    }
    assert_eq!(w.m.stats().queued_reports, 10);
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root"]);
    let (gone, _) = disk.remove(&55).unwrap();
    w.deleted(0, gone);
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root"]);
    disk.remove(&56);
    assert_ne!(digest(&mut w, 0, &disk).rounds, ["Root"]);
    assert!(w.m.digests_hold());
}

/// F-02: only a report made after the DataNode followed the new active ends content-stale; the whole of it must be.
#[test]
fn f_02_a_digest_ends_content_stale_only_under_the_new_claim() {
    let (mut w, mut disk) = active_with(500);
    w.m.become_active(w.now, Epoch(9));
    assert_eq!(w.m.stats().content_stale_storages, 1);
    digest(&mut w, 0, &disk);
    assert_eq!(
        w.m.stats().content_stale_storages,
        1,
        "still follows the old"
    );
    w.dns[0].acknowledged = Epoch(9);
    digest(&mut w, 0, &disk);
    assert_eq!(w.m.stats().content_stale_storages, 0);
    // The last round under the new claim does not make up for the first.
    w.m.become_active(w.now, Epoch(10));
    disk.remove(&1);
    w.dns[0].report_id += 1;
    let mut ask = None;
    loop {
        let request = round(&w, 0, answer(&disk, ask.as_ref()), Vec::new());
        let Ok(Response::Digest { ask: next, .. }) = w.call(0, request) else {
            panic!("refused");
        };
        if next.is_none() {
            break;
        }
        ask = next;
        w.dns[0].acknowledged = Epoch(10);
    }
    assert_eq!(w.m.stats().content_stale_storages, 1);
}

/// In-flight changes never look like a difference, and never hide one: a round is compared only at its sequence.
#[test]
fn a_round_that_is_not_at_its_sequence_is_an_error() {
    let (mut w, mut disk) = active_with(100);
    let before = disk.clone();
    let new = w.create(1, 3);
    disk.insert(new.id.0, (new, ReplicaState::Finalized));
    w.dns[0].report_id += 1;
    let early = round(&w, 0, answer(&before, None), Vec::new());
    w.received(0, new);
    assert_eq!(class(w.call(0, early)), FaultClass::Retry);
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root"]);
    // Replicas of leaves may be older than the last change: the change wins.
    let (lost, _) = disk.remove(&7).unwrap();
    w.dns[0].report_id += 1;
    let mut ask = None;
    let lists = loop {
        let request = round(&w, 0, answer(&disk, ask.as_ref()), Vec::new());
        if matches!(ask, Some(DigestAsk::Replicas { .. })) {
            break request;
        }
        let Ok(Response::Digest { ask: next, .. }) = w.call(0, request) else {
            panic!("refused");
        };
        ask = next;
    };
    w.received(0, lost);
    w.call(0, lists).unwrap();
    assert_eq!(w.live(lost.id), 1);
}

#[test]
fn rounds_out_of_order_or_shape_are_refused() {
    let (mut w, disk) = active_with(10);
    w.dns[0].report_id += 1;
    let mut send = |told: DigestRound| {
        let request = round(&w, 0, told, Vec::new());
        class(w.call(0, request))
    };
    let zeros = vec![Digest::default(); 64];
    assert_eq!(
        send(DigestRound::Nodes {
            digests: zeros.clone()
        }),
        FaultClass::Retry,
        "no root before"
    );
    for bad in [
        DigestRound::Nodes {
            digests: zeros[1..].to_vec(),
        },
        DigestRound::Leaves {
            of: vec![64],
            digests: zeros.clone(),
        },
        DigestRound::Leaves {
            of: vec![3, 3],
            digests: [zeros.clone(), zeros.clone()].concat(),
        },
        DigestRound::Replicas {
            leaves: vec![4096],
            finalized: World::packed(&finalized(&disk)),
        },
        DigestRound::Replicas {
            leaves: vec![1],
            finalized: World::packed(&finalized(&disk)).slice(1..),
        },
    ] {
        assert_eq!(send(bad), FaultClass::BadRequest);
    }
    assert!(w.m.digests_hold());
}

/// The planted bug: a NameNode that takes every digest for its own never learns of a lost replica.
#[test]
fn a_namenode_that_trusts_any_digest_hides_a_loss() {
    let planted = Planted {
        trust_any_digest: true,
        ..Planted::default()
    };
    for (planted, live) in [(Planted::default(), 0), (planted, 1)] {
        let mut w = World::active(
            BlockConfig {
                planted,
                ..config()
            },
            &[RACK],
        );
        let (lost, kept) = (w.stored_on(1, &[0]), w.stored_on(1, &[0]));
        let disk: Disk = [(kept.id.0, (kept, ReplicaState::Finalized))].into();
        digest(&mut w, 0, &disk);
        assert_eq!((w.live(lost.id), w.live(kept.id)), (live, 1));
    }
}

/// Switched off, every digest is answered with the wish for a full report.
#[test]
fn switched_off_every_digest_asks_for_a_full_report() {
    let mut w = World::active(
        BlockConfig {
            digest_reports: false,
            ..config()
        },
        &[RACK],
    );
    let it = w.stored_on(1, &[0]);
    let disk: Disk = [(it.id.0, (it, ReplicaState::Finalized))].into();
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root", "Full"]);
    assert_eq!(w.live(it.id), 1);
}

/// Q2, Q3: a report that broke off does not keep its storage from reporting again.
#[test]
fn t_q3_a_report_that_broke_off_is_begun_again() {
    let (mut w, mut disk) = active_with(50);
    disk.remove(&9);
    w.dns[0].report_id += 1;
    let begun = round(&w, 0, answer(&disk, None), Vec::new());
    w.call(0, begun).unwrap();
    w.dns[0].wants = w.dns[0].storages.clone();
    let Response::Heartbeat { report_slot, .. } = w.heartbeat_response(0) else {
        panic!();
    };
    assert_eq!(report_slot, Some(w.dns[0].storages[0]));
    assert_eq!(digest(&mut w, 0, &disk).rounds.last(), Some(&"Replicas"));
    // The same with a full report cut after its first part.
    let first = World::packed(&finalized(&disk)).slice(..20 * 24);
    let first = w.part(0, 0, 2, first);
    w.call(0, first).unwrap();
    let Response::Heartbeat { report_slot, .. } = w.heartbeat_response(0) else {
        panic!();
    };
    assert_eq!(report_slot, Some(w.dns[0].storages[0]));
    assert_eq!(digest(&mut w, 0, &disk).rounds, ["Root"]);
    assert!(!w.execute(0).contains(&Action::ReportNow));
}
