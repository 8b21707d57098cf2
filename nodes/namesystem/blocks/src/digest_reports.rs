//! Digest reports (protocols.md section 4): the root of a storage's tree, and where it differs from what is believed here
//! the way down to the replicas that differ. Whatever differs ends in the merge of a full report over those leaves, so the
//! outcome is that of a full report.

use crate::BlockManager;
use crate::merge::{Reported, entries_below};
use crate::session::{DigestSession, MergeTally};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_proto::datanode::{
    DigestAsk, DigestReport, DigestRound, REPORT_PART_MAX, ReportEntries, Response,
};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{
    BlockId, DIGEST_FAN_OUT, DIGEST_LEAVES, DatanodeUuid, Digest, PARTITION_COUNT, StorageUuid,
    TxId, digest_leaf, digest_leaf_keys, mix, partition_of, unmix,
};

/// Leaves that may differ; past it a full report is cheaper than lists of leaves.
const LEAVES_MAX: usize = DIGEST_LEAVES / 2;

impl BlockManager {
    /// Takes one round. Rounds with digests are compared only if exactly the changes they include are applied; else,
    /// and when rounds do not follow one another, the DataNode is told to start over (Q3: by an error).
    pub(crate) fn digest_report(
        &mut self,
        from: &str,
        report: &DigestReport,
        committed: TxId,
    ) -> Result<Response, Fault> {
        let node = self.caller(from, report.uuid)?;
        let storage = self.storage_for(node, report.storage)?;
        if self.nodes.node(node).register_again {
            return Err(Fault::new(
                FaultClass::UnregisteredNode,
                format!("reports of datanode {from} were dropped; register again"),
            ));
        }
        check(&report.round)?;
        let ask = if !self.config.digest_reports {
            self.admit_report(storage)?;
            Some(DigestAsk::Full)
        } else if self.nodes.storage(storage).last_report == Some(report.report_id) {
            None
        } else {
            self.digest_round(node, storage, report)?
        };
        self.check_safe_mode();
        Ok(Response::Digest {
            sequence: self.nodes.node(node).incremental,
            claim: self.claim(committed),
            ask,
        })
    }

    fn digest_round(
        &mut self,
        node: u32,
        storage: u32,
        report: &DigestReport,
    ) -> Result<Option<DigestAsk>, Fault> {
        let applied = self.nodes.node(node).incremental;
        let is_list = matches!(report.round, DigestRound::Replicas { .. });
        let fits = if is_list {
            self.nodes
                .node(node)
                .touched
                .covers(report.includes, applied)
        } else {
            report.includes == applied
        };
        if !fits {
            return Err(self.includes_another(storage, report.includes, applied));
        }
        self.admit_report(storage)?;
        let entry = self.nodes.storage_mut(storage);
        let mut session = match (&report.round, entry.digest.take()) {
            (DigestRound::Root { replicas, .. }, _) => {
                entry.session = None;
                entry.has_unknown = false;
                DigestSession {
                    report_id: report.report_id,
                    acknowledged: report.acknowledged,
                    awaited: BTreeSet::new(),
                    merged: BTreeSet::new(),
                    tally: MergeTally {
                        replicas: *replicas,
                        ..MergeTally::default()
                    },
                }
            }
            (_, Some(session)) if session.report_id == report.report_id => session,
            _ => return Err(self.again(storage, "a round of an unknown digest report".into())),
        };
        session.acknowledged = session.acknowledged.min(report.acknowledged);
        let ask = match &report.round {
            DigestRound::Root { digest, .. } => {
                let leaves = self.expected_leaves(storage);
                let known = leaves.iter().copied().sum::<Digest>();
                if known == *digest {
                    session.tally.added += self.confirm_leaves(storage, 0, DIGEST_LEAVES - 1);
                    None
                } else if leaves.iter().all(|leaf| *leaf == Digest::default()) {
                    Some(DigestAsk::Full)
                } else if self.config.planted.trust_any_digest {
                    None
                } else {
                    Some(DigestAsk::Nodes)
                }
            }
            DigestRound::Nodes { digests } => {
                let leaves = self.expected_leaves(storage);
                let mut of = Vec::new();
                for ((leaves, digest), node) in
                    leaves.chunks(DIGEST_FAN_OUT).zip(digests).zip(0u16..)
                {
                    if leaves.iter().copied().sum::<Digest>() == *digest {
                        let first = usize::from(node) * DIGEST_FAN_OUT;
                        let last = first + DIGEST_FAN_OUT - 1;
                        session.tally.added += self.confirm_leaves(storage, first, last);
                    } else {
                        of.push(node);
                    }
                }
                (!of.is_empty()).then_some(DigestAsk::Leaves { of })
            }
            DigestRound::Leaves { of, digests } => {
                let leaves = self.expected_leaves(storage);
                let told = of.iter().zip(digests.chunks(DIGEST_FAN_OUT));
                let told =
                    told.flat_map(|(node, digests)| (node * DIGEST_FAN_OUT as u16..).zip(digests));
                session.awaited = BTreeSet::new();
                for (leaf, digest) in told {
                    let at = usize::from(leaf);
                    if leaves[at] == *digest {
                        session.tally.added += self.confirm_leaves(storage, at, at);
                    } else {
                        session.awaited.insert(leaf);
                    }
                }
                self.next_leaves(&session)
            }
            DigestRound::Replicas { leaves, finalized } => {
                let newer = self.nodes.node(node).touched.keys(storage, report.includes);
                self.take_leaves(storage, &mut session, leaves, finalized, &newer)?;
                self.next_leaves(&session)
            }
        };
        match &ask {
            None => {
                let newer = self.nodes.node(node).touched.keys(storage, report.includes);
                self.forget_unlisted(storage, &session, &newer);
                self.take_open(storage, &report.open, &newer);
                let DigestSession {
                    report_id,
                    acknowledged,
                    tally,
                    ..
                } = session;
                self.conclude_report(storage, report_id, acknowledged, tally);
            }
            Some(DigestAsk::Full) => {}
            Some(_) => self.nodes.storage_mut(storage).digest = Some(session),
        }
        Ok(ask)
    }

    /// What a full report settles beside the replicas themselves, now that the storage holds what it is believed to hold.
    /// In leaves that differed the merge has done it.
    fn forget_unlisted(&mut self, storage: u32, session: &DigestSession, newer: &[u64]) {
        let agreed = |key: u64| {
            !session.merged.contains(&(digest_leaf(key) as u16))
                && newer.binary_search(&key).is_err()
        };
        for at in 0..self.partitions.len() {
            if !self.partitions[at].corrupt.is_empty() {
                self.with_partition(at, |partition, _, _| {
                    partition.drop_open_corrupt(storage, agreed);
                });
            }
        }
        let node = self.nodes.node_of(storage);
        let replaced: Vec<u64> = self
            .nodes
            .node(node)
            .deletions
            .of(storage)
            .filter(|(key, block)| {
                let partition = &self.partitions[partition_of(block.id)];
                let is_listed = match partition.believes(*key, storage) {
                    Some(here) => here.generation_stamp == block.generation_stamp,
                    None => partition.table.get(*key).is_none(),
                };
                !is_listed && agreed(*key)
            })
            .map(|(key, _)| key)
            .collect();
        for key in replaced {
            self.nodes.node_mut(node).deletions.done(key);
        }
    }

    fn next_leaves(&self, session: &DigestSession) -> Option<DigestAsk> {
        match session.awaited.len() {
            0 => None,
            n if n > LEAVES_MAX => Some(DigestAsk::Full),
            _ => Some(DigestAsk::Replicas {
                leaves: session.awaited.iter().copied().collect(),
            }),
        }
    }

    /// Merges whole leaves, as a full report merges whole partitions.
    fn take_leaves(
        &mut self,
        storage: u32,
        session: &mut DigestSession,
        leaves: &[u16],
        finalized: &Bytes,
        newer: &[u64],
    ) -> Result<(), Fault> {
        let node = self.nodes.node_of(storage);
        for leaf in leaves {
            // Not asked for, or here already.
            if !session.awaited.remove(leaf) {
                continue;
            }
            let keys = digest_leaf_keys(usize::from(*leaf));
            let from = entries_below(finalized, keys.0);
            let to = match keys.1.checked_add(1) {
                Some(next) => entries_below(finalized, next),
                None => finalized.len() / ReportEntries::ENTRY_LEN,
            };
            let chunk = finalized
                .slice(from * ReportEntries::ENTRY_LEN..to.max(from) * ReportEntries::ENTRY_LEN);
            let reported = Reported {
                storage,
                chunks: &[chunk],
                keys,
                newer,
            };
            let merged = self
                .with_partition(partition_of(unmix(keys.0)), |partition, view, out| {
                    partition.merge(reported, view, out)
                });
            match merged {
                Ok(tally) => {
                    // How many there are came with the root.
                    session.tally.add(MergeTally {
                        replicas: 0,
                        ..tally
                    });
                    self.confirm_deletions(node, reported);
                    session.merged.insert(*leaf);
                }
                Err(unsorted) => {
                    self.admission.release(storage);
                    return Err(Fault::new(
                        FaultClass::BadRequest,
                        format!(
                            "{} is out of order in leaf {leaf} of storage {}: entries must be sorted by key",
                            unsorted.block,
                            self.nodes.storage(storage).uuid
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// What this NameNode believes a storage to hold, leaf by leaf: the partitions' digests, and replicas of no block that
    /// are being deleted.
    pub(crate) fn leaves_of(&self, storage: u32) -> Box<[Digest]> {
        let mut leaves: Vec<Digest> = Vec::with_capacity(DIGEST_LEAVES);
        for partition in &self.partitions {
            leaves.extend(partition.digests.of(storage));
        }
        for (key, block) in self.nodes.owner(storage).deletions.of(storage) {
            let partition = &self.partitions[partition_of(block.id)];
            if partition.table.get(key).is_none() && partition.believes(key, storage).is_none() {
                leaves[digest_leaf(key)].add(partition.digests.hash(block));
            }
        }
        leaves.into()
    }

    /// The digest of what a storage is believed to hold; `None` when it is not known. For people and tests.
    #[must_use]
    pub fn storage_digest(&self, datanode: DatanodeUuid, storage: StorageUuid) -> Option<Digest> {
        let storage = self.nodes.storage_of(datanode, storage)?;
        Some(self.leaves_of(storage).iter().copied().sum())
    }

    /// Everything kept of one block's replicas, a line each, sorted. For people and tests.
    #[must_use]
    pub fn replica_lines(&self, block: BlockId) -> Vec<String> {
        let (partition, key) = (&self.partitions[partition_of(block)], mix(block));
        let good = partition.table.replicas(key).into_iter();
        let excess = partition.excess.get(&key);
        let mut lines: Vec<String> = good
            .map(|storage| {
                let is_excess = excess.is_some_and(|excess| excess.contains(&storage));
                format!("{storage}: good, excess {is_excess}")
            })
            .collect();
        let open = partition.open.get(&key);
        let reported = open.into_iter().flat_map(|open| &open.reported);
        lines.extend(reported.map(|it| format!("{}: {:?} {}", it.storage, it.state, it.block)));
        let corrupt = partition.corrupt.get(&key).into_iter().flatten();
        lines.extend(corrupt.map(|it| format!("{}: corrupt {it:?}", it.storage)));
        lines.sort();
        let queued = partition.queued.get(&key).into_iter().flatten();
        lines.extend(queued.map(|it| format!("{}: waits {:?} {}", it.storage, it.state, it.block)));
        for node in &self.nodes.nodes {
            let deletion = node.deletions.get(key);
            lines.extend(deletion.map(|it| format!("{}: goes {}", it.storage, it.block)));
        }
        lines
    }

    /// Whether the digests kept are those of the map: a pass over everything, for tests.
    #[must_use]
    pub fn digests_hold(&self) -> bool {
        self.partitions.len() == PARTITION_COUNT
            && self
                .partitions
                .iter()
                .all(|partition| partition.digests_hold())
    }
}

/// Shape of a round, before anything is done with it.
fn check(round: &DigestRound) -> Result<(), Fault> {
    let rise = |list: &[u16], below: usize| {
        list.windows(2).all(|pair| pair[0] < pair[1])
            && list.last().is_none_or(|last| usize::from(*last) < below)
    };
    let good = match round {
        DigestRound::Root { .. } => true,
        DigestRound::Nodes { digests } => digests.len() == DIGEST_FAN_OUT,
        DigestRound::Leaves { of, digests } => {
            rise(of, DIGEST_FAN_OUT) && digests.len() == of.len() * DIGEST_FAN_OUT
        }
        DigestRound::Replicas { leaves, finalized } => {
            rise(leaves, DIGEST_LEAVES)
                && finalized.len().is_multiple_of(ReportEntries::ENTRY_LEN)
                && finalized.len() / ReportEntries::ENTRY_LEN <= REPORT_PART_MAX
        }
    };
    if good {
        return Ok(());
    }
    Err(Fault::new(
        FaultClass::BadRequest,
        format!("{} is no round of a digest report", round.name()),
    ))
}
