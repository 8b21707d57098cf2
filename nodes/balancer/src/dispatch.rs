//! Which blocks move for one iteration's tasks, and in which order (HDFS's `Dispatcher`).

use crate::plan::Task;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{Block, BlockId, DatanodeUuid};

/// With a DataNode on which so many copies in a row failed no more are tried in this iteration.
const FAILURES_MAX: u32 = 5;

/// How many copies run at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From or to one DataNode.
    pub moves_per_node: usize,
    /// In all.
    pub moves_max: usize,
}

/// A block on a source, with all DataNodes that have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which.
    pub block: Block,
    /// The source among them.
    pub holders: Vec<DatanodeUuid>,
}

/// One replica to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which.
    pub block: Block,
    /// Whose replica is the one too many afterwards.
    pub source: DatanodeUuid,
    /// Who copies: one that has it, if possible on the target's rack.
    pub proxy: DatanodeUuid,
    /// Who gets it.
    pub target: DatanodeUuid,
}

#[derive(Debug, Default)]
struct Source {
    tasks: Vec<Task>,
    candidates: VecDeque<Candidate>,
    asked: bool,
    exhausted: bool,
}

impl Source {
    /// There is nothing more to do for it.
    fn is_done(&self) -> bool {
        self.tasks.is_empty() || (self.candidates.is_empty() && self.exhausted)
    }
}

/// One iteration at work.
#[derive(Debug)]
pub struct Dispatch {
    limits: Limits,
    racks: BTreeMap<DatanodeUuid, String>,
    sources: BTreeMap<DatanodeUuid, Source>,
    /// Copies from and to each DataNode now.
    busy: BTreeMap<DatanodeUuid, usize>,
    failures: BTreeMap<DatanodeUuid, u32>,
    running: BTreeMap<BlockId, Move>,
    /// Blocks that moved in this iteration or the last: what the NameNode says of them may be old.
    moved: BTreeSet<BlockId>,
    stopped: bool,
    /// Bytes of the copies that arrived.
    pub bytes_moved: u64,
    /// How many those are.
    pub moves: u64,
    /// Copies that failed.
    pub failed: u64,
}

impl Dispatch {
    /// Begins on these tasks. `racks` says where every DataNode stands; `moved` are the blocks moved lately, left alone.
    #[must_use]
    pub fn new(
        tasks: &[Task],
        racks: BTreeMap<DatanodeUuid, String>,
        moved: BTreeSet<BlockId>,
        limits: Limits,
    ) -> Self {
        let mut sources: BTreeMap<DatanodeUuid, Source> = BTreeMap::new();
        for task in tasks {
            sources.entry(task.source).or_default().tasks.push(*task);
        }
        Self {
            limits: Limits {
                moves_per_node: limits.moves_per_node.max(1),
                moves_max: limits.moves_max.max(1),
            },
            racks,
            sources,
            busy: BTreeMap::new(),
            failures: BTreeMap::new(),
            running: BTreeMap::new(),
            moved,
            stopped: false,
            bytes_moved: 0,
            moves: 0,
            failed: 0,
        }
    }

    /// A source of which blocks are wanted; it counts as asked.
    pub fn poll_source(&mut self) -> Option<DatanodeUuid> {
        if self.stopped {
            return None;
        }
        let (id, source) = self.sources.iter_mut().find(|(_, source)| {
            !source.asked
                && !source.exhausted
                && !source.tasks.is_empty()
                && source.candidates.is_empty()
        })?;
        source.asked = true;
        Some(*id)
    }

    /// Blocks of a source that was asked for; `more`: there are others behind these.
    pub fn handle_blocks(
        &mut self,
        source: DatanodeUuid,
        blocks: impl IntoIterator<Item = Candidate>,
        more: bool,
    ) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.asked = false;
            source.exhausted = !more;
            source.candidates.extend(blocks);
        }
    }

    /// The next copy to start.
    pub fn poll_move(&mut self) -> Option<Move> {
        if self.stopped || self.running.len() >= self.limits.moves_max {
            return None;
        }
        let ids: Vec<DatanodeUuid> = self.sources.keys().copied().collect();
        let next = ids.into_iter().find_map(|id| self.next_of(id))?;
        for node in [next.proxy, next.target] {
            *self.busy.entry(node).or_default() += 1;
        }
        self.running.insert(next.block.id, next);
        self.moved.insert(next.block.id);
        Some(next)
    }

    /// Takes the source's first block that can move now. Blocks that fit no task are dropped on the way.
    fn next_of(&mut self, id: DatanodeUuid) -> Option<Move> {
        loop {
            let source = self.sources.get(&id)?;
            let candidate = source.candidates.front()?;
            let block = candidate.block;
            let mut waits = false;
            let mut chosen = None;
            if candidate.holders.contains(&id) && !self.moved.contains(&block.id) {
                for (at, task) in source.tasks.iter().enumerate() {
                    if !self.may_move(&candidate.holders, task) {
                        continue;
                    }
                    let proxy = self.proxy(&candidate.holders, task.target);
                    if let Some(proxy) = proxy.filter(|_| self.is_free(task.target)) {
                        chosen = Some((at, task.target, proxy));
                        break;
                    }
                    waits = true;
                }
            }
            if waits && chosen.is_none() {
                return None;
            }
            let source = self.sources.get_mut(&id)?;
            source.candidates.pop_front();
            if let Some((at, target, proxy)) = chosen {
                let task = &mut source.tasks[at];
                task.bytes = task.bytes.saturating_sub(block.length);
                if task.bytes == 0 {
                    source.tasks.remove(at);
                }
                return Some(Move {
                    block,
                    source: id,
                    proxy,
                    target,
                });
            }
        }
    }

    fn is_free(&self, node: DatanodeUuid) -> bool {
        let busy = self.busy.get(&node).copied().unwrap_or_default();
        busy < self.limits.moves_per_node
    }

    fn failed_often(&self, node: DatanodeUuid) -> bool {
        let failures = self.failures.get(&node).copied().unwrap_or_default();
        failures >= FAILURES_MAX
    }

    fn rack(&self, node: DatanodeUuid) -> Option<&str> {
        self.racks.get(&node).map(String::as_str)
    }

    /// Whether a replica of a block may go from the source to the target: the target has none, the block is on as many
    /// racks as before, and the target's rack gets no more replicas than two, or than one rack had before (the NameNode's
    /// own rule of placement).
    fn may_move(&self, holders: &[DatanodeUuid], task: &Task) -> bool {
        if holders.contains(&task.target) || self.failed_often(task.target) {
            return false;
        }
        let spread = |nodes: &mut dyn Iterator<Item = DatanodeUuid>| {
            let mut racks: BTreeMap<&str, usize> = BTreeMap::new();
            for node in nodes {
                if let Some(rack) = self.rack(node) {
                    *racks.entry(rack).or_default() += 1;
                }
            }
            racks
        };
        let before = spread(&mut holders.iter().copied());
        let staying = holders.iter().copied().filter(|node| *node != task.source);
        let after = spread(&mut staying.chain([task.target]));
        let most = before.values().copied().max().unwrap_or_default().max(2);
        let on_rack = self.rack(task.target).and_then(|rack| after.get(rack));
        after.len() >= before.len() && on_rack.is_some_and(|count| *count <= most)
    }

    /// Who copies: on the target's rack, if one there is free; of several the one with least to do.
    fn proxy(&self, holders: &[DatanodeUuid], target: DatanodeUuid) -> Option<DatanodeUuid> {
        let able = holders.iter().copied();
        able.filter(|node| self.is_free(*node) && !self.failed_often(*node))
            .min_by_key(|node| {
                let far = self.rack(*node) != self.rack(target);
                (far, self.busy.get(node).copied().unwrap_or_default(), *node)
            })
    }

    /// A copy ended; `arrived`: the target has it.
    pub fn handle_done(&mut self, block: BlockId, arrived: bool) {
        let Some(done) = self.running.remove(&block) else {
            return;
        };
        for node in [done.proxy, done.target] {
            if let Some(busy) = self.busy.get_mut(&node) {
                *busy = busy.saturating_sub(1);
            }
            if arrived {
                self.failures.remove(&node);
            } else {
                *self.failures.entry(node).or_default() += 1;
            }
        }
        if arrived {
            self.bytes_moved += done.block.length;
            self.moves += 1;
        } else {
            self.failed += 1;
        }
    }

    /// No more copies are started.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Copies that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Nothing runs and nothing is left to start.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let idle = self.running.is_empty();
        idle && (self.stopped || self.sources.values().all(Source::is_done))
    }

    /// The blocks moved in this iteration and those left alone because of the last.
    #[must_use]
    pub fn into_moved(self) -> BTreeSet<BlockId> {
        self.moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{NodeUsage, PlanOptions, Policy, plan};
    use hadal_types::GenerationStamp;

    fn id(number: u64) -> DatanodeUuid {
        DatanodeUuid(u128::from(number))
    }

    fn candidate(block: u64, length: u64, holders: &[u64]) -> Candidate {
        Candidate {
            block: Block {
                id: BlockId(block),
                generation_stamp: GenerationStamp(1),
                length,
            },
            holders: holders.iter().map(|node| id(*node)).collect(),
        }
    }

    fn racks(of: &[(u64, &str)]) -> BTreeMap<DatanodeUuid, String> {
        of.iter()
            .map(|(node, rack)| (id(*node), (*rack).into()))
            .collect()
    }

    fn dispatch(racks_of: &[(u64, &str)], tasks: &[(u64, u64, u64)], per_node: usize) -> Dispatch {
        let tasks: Vec<Task> = tasks
            .iter()
            .map(|(source, target, bytes)| Task {
                source: id(*source),
                target: id(*target),
                bytes: *bytes,
            })
            .collect();
        let limits = Limits {
            moves_per_node: per_node,
            moves_max: 100,
        };
        Dispatch::new(&tasks, racks(racks_of), BTreeSet::new(), limits)
    }

    #[test]
    fn a_block_never_goes_where_it_is_nor_to_fewer_racks() {
        let racks = [(1, "/a"), (2, "/b"), (3, "/b"), (4, "/a")];
        let mut dispatch = dispatch(&racks, &[(1, 3, 1000)], 10);
        assert_eq!(dispatch.poll_source(), Some(id(1)));
        assert_eq!(dispatch.poll_source(), None, "asked once");
        let blocks = [
            candidate(10, 100, &[1, 3]),
            candidate(11, 100, &[1, 2]),
            candidate(12, 100, &[1, 4]),
            candidate(13, 100, &[2, 4]),
        ];
        dispatch.handle_blocks(id(1), blocks, false);
        // 10 is there, 11 would be on /b twice, 13 is not the source's.
        let next = dispatch.poll_move().expect("12 may go");
        assert_eq!((next.block.id, next.target), (BlockId(12), id(3)));
        assert_eq!(dispatch.poll_move(), None);
        assert!(!dispatch.is_finished());
        dispatch.handle_done(BlockId(12), true);
        assert!(dispatch.is_finished());
        assert_eq!((dispatch.bytes_moved, dispatch.moves), (100, 1));
    }

    #[test]
    fn the_nearest_holder_copies_and_so_many_at_once() {
        let racks = [(1, "/a"), (2, "/b"), (3, "/b")];
        let mut dispatch = dispatch(&racks, &[(1, 3, 1000)], 2);
        assert_eq!(dispatch.poll_source(), Some(id(1)));
        let blocks: Vec<_> = (0..4).map(|at| candidate(at, 100, &[1])).collect();
        dispatch.handle_blocks(id(1), blocks, false);
        let (first, second) = (dispatch.poll_move(), dispatch.poll_move());
        assert!(first.is_some() && second.is_some());
        assert_eq!(dispatch.poll_move(), None, "two at once");
        dispatch.handle_done(first.expect("one").block.id, false);
        assert!(dispatch.poll_move().is_some());
        assert_eq!(dispatch.running(), 2);
        assert_eq!(dispatch.failed, 1);
        let holders = [id(1), id(2)];
        assert_eq!(dispatch.proxy(&[id(2)], id(3)), Some(id(2)));
        assert_eq!(dispatch.proxy(&holders, id(3)), Some(id(2)), "on its rack");
    }

    #[test]
    fn a_task_ends_with_its_bytes_and_a_failing_node_is_left_alone() {
        let racks = [(1, "/a"), (2, "/a"), (3, "/a")];
        let mut short = dispatch(&racks, &[(1, 2, 150)], 10);
        assert_eq!(short.poll_source(), Some(id(1)));
        let blocks: Vec<_> = (0..9).map(|at| candidate(at, 100, &[1])).collect();
        short.handle_blocks(id(1), blocks.clone(), true);
        assert!(short.poll_move().is_some() && short.poll_move().is_some());
        assert_eq!(short.poll_move(), None, "150 bytes are two blocks");
        assert_eq!(short.poll_source(), None);
        let mut failing = dispatch(&racks, &[(1, 2, 10_000)], 10);
        failing.poll_source();
        failing.handle_blocks(id(1), blocks, false);
        for _ in 0..FAILURES_MAX {
            let next = failing.poll_move().expect("not yet");
            failing.handle_done(next.block.id, false);
        }
        assert_eq!(failing.poll_move(), None);
        assert!(failing.is_finished());
    }

    #[test]
    fn stopping_waits_for_what_runs() {
        let mut dispatch = dispatch(&[(1, "/a"), (2, "/a")], &[(1, 2, 1000)], 10);
        dispatch.poll_source();
        let blocks = [candidate(1, 10, &[1]), candidate(2, 10, &[1])];
        dispatch.handle_blocks(id(1), blocks, true);
        let running = dispatch.poll_move().expect("one");
        dispatch.stop();
        assert_eq!((dispatch.poll_move(), dispatch.poll_source()), (None, None));
        assert!(!dispatch.is_finished());
        dispatch.handle_done(running.block.id, true);
        assert!(dispatch.is_finished());
        assert!(dispatch.into_moved().contains(&BlockId(1)));
    }

    /// A cluster in memory: who has which block.
    struct World {
        nodes: Vec<NodeUsage>,
        blocks: BTreeMap<u64, (u64, BTreeSet<DatanodeUuid>)>,
    }

    impl World {
        fn new(seed: u64, nodes: u64, filled: u64, blocks: u64) -> Self {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) % below
            };
            let mut world = Self {
                nodes: (0..nodes)
                    .map(|node| NodeUsage {
                        datanode: id(node),
                        rack: alloc::format!("/r{}", node % 3),
                        capacity: 100_000 + 10_000 * random(3),
                        used: 0,
                        pool_used: 0,
                        remaining: 0,
                    })
                    .collect(),
                blocks: BTreeMap::new(),
            };
            for block in 0..blocks {
                let mut holders = BTreeSet::new();
                while (holders.len() as u64) < 1 + block % 3 {
                    holders.insert(id(random(filled)));
                }
                world.blocks.insert(block, (50 + random(100), holders));
            }
            world.count();
            world
        }

        fn count(&mut self) {
            for node in &mut self.nodes {
                let held = self.blocks.values();
                let held = held.filter(|(_, holders)| holders.contains(&node.datanode));
                node.used = held.map(|(length, _)| length).sum();
                node.pool_used = node.used;
                node.remaining = node.capacity - node.used;
            }
        }

        fn racks(&self, holders: &BTreeSet<DatanodeUuid>) -> BTreeMap<&str, usize> {
            let mut racks = BTreeMap::new();
            for node in self
                .nodes
                .iter()
                .filter(|node| holders.contains(&node.datanode))
            {
                *racks.entry(&*node.rack).or_default() += 1;
            }
            racks
        }
    }

    /// Random clusters, some nodes of which are empty, come within the threshold; on the way no block loses a replica or
    /// a rack.
    #[test]
    fn random_clusters_are_balanced_without_harm() {
        for seed in 0..20 {
            let mut world = World::new(seed, 9, 5 + seed % 4, 1_500);
            let options = PlanOptions {
                threshold_percent: 4.0,
                policy: Policy::Datanode,
                max_bytes_per_node: 20_000,
                sources: BTreeSet::new(),
            };
            let mut moved = BTreeSet::new();
            let mut iterations = 0_u64;
            loop {
                let plan = plan(&world.nodes, &options);
                if plan.bytes_left == 0 {
                    break;
                }
                iterations += 1;
                assert!(iterations < 50, "seed {seed}: {plan:?}");
                let racks = world.nodes.iter();
                let racks = racks.map(|node| (node.datanode, node.rack.clone()));
                let limits = Limits {
                    moves_per_node: 3,
                    moves_max: 8,
                };
                let mut dispatch = Dispatch::new(
                    &plan.tasks,
                    racks.collect(),
                    core::mem::take(&mut moved),
                    limits,
                );
                while !dispatch.is_finished() {
                    if let Some(source) = dispatch.poll_source() {
                        let here: Vec<Candidate> = world
                            .blocks
                            .iter()
                            .filter(|(_, (_, holders))| holders.contains(&source))
                            .map(|(block, (length, holders))| Candidate {
                                block: Block {
                                    id: BlockId(*block),
                                    generation_stamp: GenerationStamp(1),
                                    length: *length,
                                },
                                holders: holders.iter().copied().collect(),
                            })
                            .collect();
                        dispatch.handle_blocks(source, here, false);
                        continue;
                    }
                    let Some(next) = dispatch.poll_move() else {
                        let first = *dispatch.running.keys().next().expect("something runs");
                        dispatch.handle_done(first, !(first.0 + iterations).is_multiple_of(7));
                        continue;
                    };
                    let holders = world.blocks[&next.block.id.0].1.clone();
                    assert!(holders.contains(&next.source) && holders.contains(&next.proxy));
                    assert!(!holders.contains(&next.target));
                    let mut after = holders.clone();
                    after.insert(next.target);
                    after.remove(&next.source);
                    let (before, now) = (world.racks(&holders), world.racks(&after));
                    assert_eq!(after.len(), holders.len());
                    assert!(now.len() >= before.len(), "{before:?} {now:?}");
                    if !(next.block.id.0 + iterations).is_multiple_of(7) {
                        world.blocks.get_mut(&next.block.id.0).expect("it").1 = after;
                    }
                }
                let progress = dispatch.bytes_moved > 0;
                assert!(progress, "seed {seed}, {iterations}: {plan:?}");
                moved = if iterations.is_multiple_of(2) {
                    BTreeSet::new()
                } else {
                    dispatch.into_moved()
                };
                world.count();
            }
        }
    }
}
