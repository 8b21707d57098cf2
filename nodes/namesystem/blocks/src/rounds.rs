//! What happens by the clock: checks of DataNodes, copies handed out, scans in steps.

use crate::BlockManager;
use crate::redundancy::{LEVELS, Pending};
use alloc::vec::Vec;
use core::ops::Bound;
use hadal_proto::datanode::{Action, TransferWork};
use hadal_types::{PARTITION_COUNT, Tick};

/// Blocks looked at per block handed out, so that blocks nothing can be done for do not hold up the rest.
const LOOKS_PER_BLOCK: usize = 8;
/// Parts of a whole copy: so many of small blocks count as one.
pub(crate) const COPY_PARTS: u32 = 16;
/// Blocks of one round, however many DataNodes and however small: it is a turn of the shard.
const COPIES_PER_ROUND_MAX: usize = 4_096;

impl BlockManager {
    /// Staleness, death, replication work, time-outs, steps of background scans, the end of safe mode.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.advance(now);
        if self.is_populated() {
            self.scan_step();
            self.recheck_postponed();
        }
        if now >= self.round {
            self.check_heartbeats();
            let live = self.nodes.alive.len();
            let streams: u64 = self
                .nodes
                .alive
                .iter()
                .map(|node| u64::from(self.nodes.node(*node).streams))
                .sum();
            self.average_streams = streams as f64 / live.max(1) as f64;
            if self.is_populated() {
                for at in 0..self.partitions.len() {
                    if !self.partitions[at].pending.is_empty() {
                        self.with_partition(at, |partition, view, out| {
                            partition.expire_pending(None, view, out);
                        });
                    }
                }
                if !self.config.planted.skip_replication {
                    self.hand_out_copies();
                }
            }
            if now >= self.absent_at {
                self.absent_at = Tick::NEVER;
                self.end_remembering_absent();
            }
            self.end_maintenance();
            self.check_decommissions();
            self.round = now.after_ms(self.config.replication_interval_ms);
        }
        self.check_safe_mode();
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        if self.is_populated() && (self.scan.is_some() || self.recheck) {
            return Some(self.now);
        }
        let deadline = self.safe_mode.deadline(&self.config);
        Some(deadline.map_or(self.round, |deadline| {
            // Reached but not met: the round looks again.
            if deadline <= self.now {
                self.round
            } else {
                deadline.min(self.round)
            }
        }))
    }

    /// Looks at a batch of blocks for what they need; the end of safe mode and a promotion wait for none of it.
    fn scan_step(&mut self) {
        let mut budget = self.config.scan_batch.max(1);
        while let Some((at, after)) = self.scan
            && budget > 0
        {
            if at >= PARTITION_COUNT {
                self.scan = None;
                return;
            }
            let next = self.with_partition(at, |partition, view, out| {
                if after == 0 && !partition.needs_scan(view) {
                    return None;
                }
                let keys: Vec<u64> = partition
                    .table
                    .after(after)
                    .take(budget)
                    .map(|entry| entry.key)
                    .collect();
                for key in &keys {
                    partition.evaluate(*key, view, out);
                }
                keys.last().map(|last| (keys.len(), *last))
            });
            match next {
                Some((looked, last)) => {
                    budget -= looked;
                    self.scan = Some((at, last));
                }
                None => {
                    self.scan = Some((at + 1, 0));
                    budget -= 1;
                }
            }
        }
    }

    /// Storages became fresh: postponed blocks are decided now, a batch at a time (Q6).
    fn recheck_postponed(&mut self) {
        if !core::mem::take(&mut self.recheck) {
            return;
        }
        let mut budget = self.config.scan_batch.max(1);
        for at in 0..self.partitions.len() {
            if self.partitions[at].postponed.is_empty() {
                continue;
            }
            if budget == 0 {
                self.recheck = true;
                return;
            }
            let decided = self.with_partition(at, |partition, view, out| {
                // Only those whose storages are all fresh can leave.
                let keys: Vec<u64> = partition
                    .postponed
                    .iter()
                    .copied()
                    .filter(|key| {
                        partition
                            .live_replicas(*key)
                            .iter()
                            .all(|storage| !view.nodes.storage(*storage).content_stale)
                    })
                    .take(budget)
                    .collect();
                for key in &keys {
                    partition.evaluate(*key, view, out);
                }
                keys.len()
            });
            budget -= decided.min(budget);
        }
    }

    /// Orders copies of blocks that lack some, most endangered first.
    fn hand_out_copies(&mut self) {
        let multiplier = self.config.replication_work_multiplier as usize;
        let mut budget = self.nodes.alive.len() * multiplier * COPY_PARTS as usize;
        let mut looks = budget.min(COPIES_PER_ROUND_MAX) * LOOKS_PER_BLOCK;
        let mut copies = COPIES_PER_ROUND_MAX;
        // The last level has nothing to copy from.
        for level in 0..LEVELS - 1 {
            let first = self.bookmarks[level];
            let mut at = first;
            let mut wrapped = false;
            while budget > 0 && looks > 0 && copies > 0 {
                let Some((partition, key)) = self.next_at(level, at) else {
                    if wrapped || first == (0, 0) {
                        at = (0, 0);
                        break;
                    }
                    (wrapped, at) = (true, (0, 0));
                    continue;
                };
                if wrapped && (partition, key) > first {
                    break;
                }
                at = (partition, key);
                looks -= 1;
                let parts = self.copy(level, partition, key) as usize;
                budget -= parts.min(budget);
                copies -= usize::from(parts > 0);
            }
            self.bookmarks[level] = at;
        }
    }

    /// The next block of a level behind a place.
    fn next_at(&self, level: usize, (partition, key): (usize, u64)) -> Option<(usize, u64)> {
        (partition..PARTITION_COUNT).find_map(|at| {
            let after = if at == partition {
                Bound::Excluded(key)
            } else {
                Bound::Unbounded
            };
            let level = &self.partitions[at].levels.0[level];
            let next = level.range((after, Bound::Unbounded)).next()?;
            Some((at, *next))
        })
    }

    /// What copying a block takes of its source's transfers.
    fn parts(&self, length: u64) -> u32 {
        let part = (self.config.whole_copy_bytes / u64::from(COPY_PARTS)).max(1);
        // No more than COPY_PARTS.
        length.div_ceil(part).clamp(1, u64::from(COPY_PARTS)) as u32
    }

    /// Orders copies of one block; what that takes, 0 when it needs none or none can be made now.
    fn copy(&mut self, level: usize, at: usize, key: u64) -> u32 {
        let partition = &self.partitions[at];
        let Some(entry) = partition.table.get(key) else {
            return 0;
        };
        let block = entry.block();
        if entry.has_pending() || !entry.is_complete() {
            return 0;
        }
        let live = partition.live_replicas(key);
        let view = self.view();
        let (wanted, spread) = (partition.wanted(entry, &view), partition.spread(key, &view));
        let staying: Vec<u32> = live
            .iter()
            .copied()
            .filter(|storage| !self.nodes.owner(*storage).is_leaving())
            .collect();
        let badly_distributed = staying.len() >= wanted;
        let missing = wanted.saturating_sub(staying.len()).max(1);
        let limit = if level == 0 {
            self.config.max_transfers_hard
        } else {
            self.config.max_transfers
        };
        let parts = self.parts(block.length);
        let limit = limit.saturating_mul(COPY_PARTS);
        let sources: Vec<u32> = live
            .iter()
            .map(|storage| self.nodes.node_of(*storage))
            .filter(|node| {
                let entry = self.nodes.node(*node);
                entry.alive && entry.assigned + parts <= limit
            })
            .collect();
        if sources.is_empty() {
            return 0;
        }
        let failed = partition.failed.get(&key);
        let sources = failed.map_or(sources.clone(), |failed| failed.best(&sources));
        let source = sources[self.random.borrow_mut().below(sources.len())];
        let nodes_of = |storages: &[u32]| -> Vec<u32> {
            storages
                .iter()
                .map(|storage| self.nodes.node_of(*storage))
                .collect()
        };
        let existing = nodes_of(&spread);
        let mut excluded = nodes_of(&partition.table.replicas(key));
        let corrupt = partition.corrupt.get(&key);
        let has_corrupt = corrupt.is_some();
        excluded.extend(
            corrupt
                .into_iter()
                .flatten()
                .map(|replica| self.nodes.node_of(replica.storage)),
        );
        let deleting = self.nodes.alive.iter().copied().filter(|node| {
            let deletions = &self.nodes.node(*node).deletions;
            deletions.len() > 0 && deletions.get(key).is_some()
        });
        excluded.extend(deleting);
        let unwanted = failed.map_or_else(Vec::new, |failed| failed.targets().to_vec());
        let avoiding = [&excluded[..], &unwanted].concat();
        let mut targets = self.place(missing, block.length, &[], &existing, &avoiding);
        if targets.is_empty() && !unwanted.is_empty() {
            targets = self.place(missing, block.length, &[], &existing, &excluded);
        }
        if targets.is_empty() && has_corrupt {
            // No DataNode is free of replicas: a corrupt one may have to make room.
            self.with_partition(at, |partition, view, out| {
                partition.delete_corrupt(key, view, out);
            });
            return 0;
        }
        let rack = |node: u32| self.nodes.node(node).rack;
        if targets.is_empty()
            || (badly_distributed
                && targets
                    .iter()
                    .all(|storage| rack(self.nodes.node_of(*storage)) == rack(existing[0])))
        {
            return 0;
        }
        for storage in &targets {
            self.nodes.note_scheduled(*storage, block.length);
        }
        let pending = Pending {
            targets: targets
                .iter()
                .map(|storage| self.nodes.node_of(*storage))
                .collect(),
            source: Some(source),
            parts,
            since: self.now,
        };
        let work = TransferWork {
            block,
            targets: self.nodes.targets(&targets),
        };
        let cause = self.txid;
        let entry = self.nodes.node_mut(source);
        entry.assigned += parts;
        entry.outbox.push(
            cause,
            Action::Transfer {
                work: alloc::vec![work],
            },
        );
        self.with_partition(at, |partition, _, _| partition.add_pending(key, pending));
        parts
    }
}
