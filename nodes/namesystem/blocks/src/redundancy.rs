//! Too few or too many replicas: the queues by priority, copies under way, excess.

use crate::entry::Entry;
use crate::partition::Partition;
use crate::view::{Effect, View};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use hadal_types::Tick;
use smallvec::SmallVec;

/// Number of priorities.
pub(crate) const LEVELS: usize = 5;
/// One live replica left.
const HIGHEST: usize = 0;
/// Less than a third of the replicas wanted.
const VERY_LOW: usize = 1;
/// Less than wanted.
const LOW: usize = 2;
/// Enough, but all on one rack.
const BADLY_DISTRIBUTED: usize = 3;
/// No live replica: nothing to copy from, kept for the statistics.
const NO_LIVE: usize = 4;

/// Blocks that need copies, by priority as in HDFS's `LowRedundancyBlocks`.
#[derive(Debug, Default)]
pub(crate) struct Levels(pub(crate) [BTreeSet<u64>; LEVELS]);

/// Copies of one block under way.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// DataNodes that will have one.
    pub(crate) targets: SmallVec<[u32; 3]>,
    /// The DataNode that copies; none for a pipeline's own replicas.
    pub(crate) source: Option<u32>,
    /// What it takes of its source's transfers.
    pub(crate) parts: u32,
    pub(crate) since: Tick,
}

impl Pending {
    /// Its source is free of it.
    pub(crate) fn unassign(&self) -> Option<Effect> {
        let parts = self.parts;
        self.source.map(|node| Effect::Unassign { node, parts })
    }
}

fn level_of(live: usize, wanted: usize) -> usize {
    match live {
        0 => NO_LIVE,
        1 => HIGHEST,
        _ if live * 3 < wanted => VERY_LOW,
        _ => LOW,
    }
}

impl Partition {
    /// Decides anew what a block needs: its place in the queues, excess replicas, corrupt ones.
    pub(crate) fn evaluate(&mut self, key: u64, view: &View<'_>, out: &mut Vec<Effect>) {
        let Some(entry) = self.table.get(key) else {
            return;
        };
        let (old, has_corrupt) = (entry.level(), entry.has_corrupt());
        // What leaves is still there to copy from, but no longer counts.
        let there = self.live(entry);
        let (live, wanted) = (self.staying(entry, view), self.wanted(entry, view));
        let full = usize::from(entry.replication);
        let pending = if entry.has_pending() {
            self.pending
                .get(&key)
                .map_or(0, |pending| pending.targets.len())
        } else {
            0
        };
        let complete = entry.is_complete();
        let level = if !complete {
            None
        } else if live < wanted {
            let level = match live {
                0 if there > 0 => HIGHEST,
                _ => level_of(live, wanted),
            };
            (live + pending < wanted).then_some(level)
        } else if pending == 0 && self.is_on_one_rack(key, view) {
            Some(BADLY_DISTRIBUTED)
        } else {
            None
        };
        if level.is_none() && pending == 0 && !self.failed.is_empty() {
            self.failed.remove(&key);
        }
        if level != old {
            self.leave_level(key);
            if let Some(level) = level {
                self.levels.0[level].insert(key);
                if let Some(entry) = self.table.get_mut(key) {
                    entry.set_level(Some(level));
                }
            }
        }
        if !complete {
            return;
        }
        if !self.postponed.is_empty() {
            self.postponed.remove(&key);
        }
        if live < wanted
            && let Some(excess) = self.excess.get(&key)
            && let Some(block) = self.table.get(key).map(Entry::block)
        {
            let keep = excess.iter().take(wanted - live);
            out.extend(keep.map(|storage| Effect::Keep {
                storage: *storage,
                block,
            }));
        }
        if live > full {
            self.choose_excess(key, live - full, view, out);
        }
        if has_corrupt {
            self.delete_corrupt(key, view, out);
        }
    }

    fn is_on_one_rack(&self, key: u64, view: &View<'_>) -> bool {
        if !view.nodes.many_racks {
            return false;
        }
        let replicas = self.spread(key, view);
        if replicas.len() < 2 {
            return false;
        }
        let mut racks = replicas
            .into_iter()
            .map(|storage| view.nodes.rack_of(storage));
        let first = racks.next();
        racks.all(|rack| Some(rack) == first)
    }

    pub(crate) fn leave_level(&mut self, key: u64) {
        if let Some(entry) = self.table.get_mut(key)
            && let Some(level) = entry.level()
        {
            entry.set_level(None);
            self.levels.0[level].remove(&key);
        }
    }

    /// Too many replicas: picks which go, unless a storage's content may be stale, for then some may be gone already
    /// on another active's order (F-02, T-H6).
    fn choose_excess(&mut self, key: u64, surplus: usize, view: &View<'_>, out: &mut Vec<Effect>) {
        let mut candidates = self.staying_replicas(key, view);
        candidates.retain(|storage| view.nodes.is_usable(*storage));
        if candidates
            .iter()
            .any(|storage| view.nodes.storage(*storage).content_stale)
        {
            self.postponed.insert(key);
            return;
        }
        let Some(block) = self.table.get(key).map(|entry| entry.block()) else {
            return;
        };
        for _ in 0..surplus {
            let Some(storage) = choose_one(&candidates, self.hint, view) else {
                return;
            };
            candidates.retain(|other| *other != storage);
            let before = self.weigh(key, view);
            self.excess.entry(key).or_default().push(storage);
            if let Some(entry) = self.table.get_mut(key) {
                entry.set_excess(true);
            }
            let after = self.weigh(key, view);
            self.counters.replace(before, after);
            out.push(Effect::Delete { storage, block });
        }
    }

    /// A replica arrived: it is no longer under way.
    pub(crate) fn arrived(&mut self, key: u64, node: u32, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.targets.retain(|target| *target != node);
            if pending.targets.is_empty() {
                self.drop_pending(key, out);
            }
        }
    }

    pub(crate) fn drop_pending(&mut self, key: u64, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.remove(&key) {
            out.extend(pending.unassign());
            if let Some(entry) = self.table.get_mut(key) {
                entry.set_pending(false);
            }
        }
    }

    /// Notes that copies were ordered.
    pub(crate) fn add_pending(&mut self, key: u64, pending: Pending) {
        if let Some(entry) = self.table.get_mut(key) {
            entry.set_pending(true);
            self.pending.insert(key, pending);
        }
        self.leave_level(key);
    }

    /// Copies that did not arrive in time, or that involve a dead DataNode, are decided anew.
    pub(crate) fn expire_pending(
        &mut self,
        dead: Option<u32>,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        let expired: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| match dead {
                Some(node) => pending.source == Some(node) || pending.targets.contains(&node),
                None => view.now.ms_since(pending.since) >= view.config.pending_timeout_ms,
            })
            .map(|(key, _)| *key)
            .collect();
        for key in expired {
            if dead.is_none()
                && let Some(source) = self.pending.get(&key).and_then(|pending| pending.source)
            {
                self.failed.entry(key).or_default().note_source(source);
            }
            self.drop_pending(key, out);
            if view.populated {
                self.evaluate(key, view, out);
            }
        }
    }

    /// Forgets all that was decided, on a change of role: another active may decide otherwise (F-02).
    pub(crate) fn forget_decisions(&mut self, view: &View<'_>, out: &mut Vec<Effect>) {
        for key in self.excess.keys().copied().collect::<Vec<_>>() {
            let before = self.weigh(key, view);
            self.excess.remove(&key);
            if let Some(entry) = self.table.get_mut(key) {
                entry.set_excess(false);
            }
            let after = self.weigh(key, view);
            self.counters.replace(before, after);
        }
        for key in self.pending.keys().copied().collect::<Vec<_>>() {
            self.drop_pending(key, out);
        }
        for level in 0..LEVELS {
            for key in core::mem::take(&mut self.levels.0[level]) {
                if let Some(entry) = self.table.get_mut(key) {
                    entry.set_level(None);
                }
            }
        }
        self.postponed.clear();
        self.failed.clear();
        for replica in self.corrupt.values_mut().flatten() {
            replica.deleting = false;
        }
        for open in self.open.values_mut() {
            open.recovery = None;
        }
    }

    /// Whether the scan that fills the queues has to look at every block here.
    pub(crate) fn needs_scan(&self, view: &View<'_>) -> bool {
        self.counters.under + self.counters.over > 0
            || !self.corrupt.is_empty()
            || view.nodes.many_racks
    }
}

/// Which of these replicas goes: the hinted one if the racks allow (it is not alone on one of two racks while the other
/// has several), else one on a rack with several, of a stale
/// DataNode if there is one, else where space is scarcest. Ties go to the lower index.
fn choose_one(candidates: &[u32], hint: Option<u32>, view: &View<'_>) -> Option<u32> {
    let mut racks: BTreeMap<u32, usize> = BTreeMap::new();
    for storage in candidates {
        *racks.entry(view.nodes.rack_of(*storage)).or_default() += 1;
    }
    if let Some(hint) = hint
        && let Some(storage) = candidates
            .iter()
            .find(|storage| view.nodes.node_of(**storage) == hint)
        && (racks[&view.nodes.rack_of(*storage)] > 1
            || racks.len() > 2
            || racks.len() == candidates.len())
    {
        return Some(*storage);
    }
    let crowded: Vec<u32> = candidates
        .iter()
        .copied()
        .filter(|storage| racks[&view.nodes.rack_of(*storage)] > 1)
        .collect();
    let pool = if crowded.is_empty() {
        candidates
    } else {
        &crowded
    };
    pool.iter().copied().min_by_key(|storage| {
        let node = view.nodes.owner(*storage);
        (
            !node.stale,
            view.nodes.storage(*storage).report.remaining,
            *storage,
        )
    })
}
