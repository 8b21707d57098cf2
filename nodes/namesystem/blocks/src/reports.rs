//! Full and incremental reports: order, admission, and what surrounds the merge (A-31..A-38, Q1-Q6).

use crate::merge::{Reported, entries_below, key_at, partition_keys};
use crate::session::{MergeTally, ReportSession};
use crate::{BlockEvent, BlockManager};
use alloc::format;
use alloc::vec::Vec;
use hadal_proto::datanode::{
    BlockReport, ChangeKind, IncrementalReport, OpenReplica, REPORT_PART_MAX, ReportEntries,
    Response,
};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, PARTITION_COUNT, ReplicaState, TxId, mix};

impl BlockManager {
    /// Applies what changed, in sequence. A repeated one is acknowledged; after a gap the DataNode must start over.
    pub(crate) fn incremental_report(
        &mut self,
        from: &str,
        report: &IncrementalReport,
        committed: TxId,
    ) -> Result<Response, Fault> {
        let node = self.caller(from, report.uuid)?;
        let claim = self.claim(committed);
        let applied = self.nodes.node(node).incremental;
        if self.nodes.node(node).register_again || report.sequence > applied + 1 {
            return Ok(Response::Reported {
                sequence: applied,
                claim,
                commands: alloc::vec![self.order_to_register()],
            });
        }
        if report.sequence == applied + 1 {
            for change in &report.changes {
                let storage = self.storage_for(node, change.storage)?;
                let key = mix(change.block.id);
                let hint = self.nodes.find(change.delete_hint);
                let entry = self.nodes.node_mut(node);
                entry.touched.record(report.sequence, storage, key);
                let listed = entry
                    .deletions
                    .get(key)
                    .map(|deletion| deletion.block.generation_stamp);
                let same = listed == Some(change.block.generation_stamp);
                if listed.is_some() && same == (change.kind == ChangeKind::Deleted) {
                    // Gone, or replaced by another instance.
                    entry.deletions.done(key);
                }
                if change.kind == ChangeKind::Received {
                    self.nodes.note_received(storage);
                }
                self.with(change.block.id, |partition, view, out| {
                    partition.hint = hint;
                    match change.kind {
                        ChangeKind::Receiving => {
                            let state = ReplicaState::Rbw;
                            partition.reported(storage, change.block, state, view, out);
                        }
                        ChangeKind::Received => {
                            let state = ReplicaState::Finalized;
                            partition.reported(storage, change.block, state, view, out);
                        }
                        ChangeKind::Deleted => partition.deleted(storage, change.block, view, out),
                    }
                    partition.hint = None;
                });
            }
            self.nodes.node_mut(node).incremental = report.sequence;
            self.check_safe_mode();
        }
        Ok(Response::Reported {
            sequence: self.nodes.node(node).incremental,
            claim,
            commands: Vec::new(),
        })
    }

    /// Takes one part of a full report. A refusal is always an error (Q3); a repeated part is acknowledged and not
    /// processed again (Q1); a report that failed half-way is applied in full when it comes again (Q2).
    pub(crate) fn block_report(
        &mut self,
        from: &str,
        report: BlockReport,
        committed: TxId,
    ) -> Result<Response, Fault> {
        let node = self.caller(from, report.uuid)?;
        let storage = self.storage_for(node, report.storage)?;
        let answer = Response::Reported {
            sequence: self.nodes.node(node).incremental,
            claim: self.claim(committed),
            commands: Vec::new(),
        };
        if self.nodes.node(node).register_again {
            return Ok(Response::Reported {
                sequence: self.nodes.node(node).incremental,
                claim: self.claim(committed),
                commands: alloc::vec![self.order_to_register()],
            });
        }
        let entries = report.finalized.len() / ReportEntries::ENTRY_LEN;
        if report.part >= report.parts
            || !report
                .finalized
                .len()
                .is_multiple_of(ReportEntries::ENTRY_LEN)
            || entries > REPORT_PART_MAX
        {
            return Err(Fault::new(
                FaultClass::BadRequest,
                format!(
                    "part {} of {} with {} bytes is no part of a block report",
                    report.part,
                    report.parts,
                    report.finalized.len()
                ),
            ));
        }
        if self.nodes.storage(storage).last_report == Some(report.report_id) {
            return Ok(answer);
        }
        let session = self.nodes.storage_mut(storage).session.take();
        let mut session = match session.filter(|session| session.report_id == report.report_id) {
            Some(session) if report.part < session.next_part => {
                self.nodes.storage_mut(storage).session = Some(session);
                return Ok(answer);
            }
            Some(session) => session,
            None => self.open_session(node, storage, &report)?,
        };
        if report.part != session.next_part || report.parts != session.parts {
            return Err(self.again(
                storage,
                format!(
                    "part {} of {} came where part {} of {} was expected",
                    report.part, report.parts, session.next_part, session.parts
                ),
            ));
        }
        let entry = self.nodes.node(node);
        if !entry.touched.covers(session.includes, entry.incremental) {
            return Err(self.again(
                storage,
                format!(
                    "more changed since incremental report {} than is remembered",
                    session.includes
                ),
            ));
        }
        session.acknowledged = session.acknowledged.min(report.acknowledged);
        session.next_part += 1;
        let last = session.next_part == session.parts;
        let newer = entry.touched.keys(storage, session.includes);
        if let Err(block) = self.merge_part(node, storage, &mut session, &report, &newer, last) {
            self.admission.release(storage);
            return Err(Fault::new(
                FaultClass::BadRequest,
                format!(
                    "{block} is out of order in the block report of storage {}: entries must be sorted by key",
                    report.storage
                ),
            ));
        }
        if last {
            self.take_open(storage, &report.open, &newer);
            let ReportSession {
                report_id,
                acknowledged,
                tally,
                ..
            } = session;
            self.conclude_report(storage, report_id, acknowledged, tally);
        } else {
            self.nodes.storage_mut(storage).session = Some(session);
        }
        self.check_safe_mode();
        Ok(answer)
    }

    /// Replicas that are not FINALIZED, of which nothing newer is known.
    pub(crate) fn take_open(&mut self, storage: u32, open: &[OpenReplica], newer: &[u64]) {
        for open in open {
            if newer.binary_search(&mix(open.block.id)).is_err() {
                self.with(open.block.id, |partition, view, out| {
                    partition.reported(storage, open.block, open.state, view, out);
                });
            }
        }
    }

    /// A first part: it must be one whose later changes are all known, and there must be room for it.
    fn open_session(
        &mut self,
        node: u32,
        storage: u32,
        report: &BlockReport,
    ) -> Result<ReportSession, Fault> {
        let entry = self.nodes.node(node);
        if report.part != 0 {
            return Err(self.again(
                storage,
                format!(
                    "part {} of an unknown report; start with part 0",
                    report.part
                ),
            ));
        }
        if !entry.touched.covers(report.includes, entry.incremental) {
            let applied = entry.incremental;
            return Err(self.includes_another(storage, report.includes, applied));
        }
        self.admit_report(storage)?;
        let entry = self.nodes.storage_mut(storage);
        entry.has_unknown = false;
        entry.digest = None;
        Ok(ReportSession {
            report_id: report.report_id,
            parts: report.parts,
            next_part: 0,
            includes: report.includes,
            acknowledged: report.acknowledged,
            partition: 0,
            carry: Vec::new(),
            tally: MergeTally::default(),
        })
    }

    /// Changes came between the report's making and its arrival, or got lost: it is to be made again.
    pub(crate) fn includes_another(&self, storage: u32, includes: u64, applied: u64) -> Fault {
        let what = format!("it includes incremental report {includes} while {applied} is applied");
        self.again(storage, what)
    }

    /// There must be room for a report of this storage; changes are remembered from now on.
    pub(crate) fn admit_report(&mut self, storage: u32) -> Result<(), Fault> {
        let (slots, length) = (self.config.report_slots, self.config.report_slot_ms);
        if !self.admission.grant(self.now, storage, slots, length) {
            return Err(Fault::new(
                FaultClass::Busy,
                format!("{slots} block reports are being processed; ask for a slot again"),
            )
            .with_value(self.config.heartbeat_interval_ms));
        }
        let node = self.nodes.node_of(storage);
        let entry = self.nodes.node_mut(node);
        entry.touched.start(entry.incremental);
        Ok(())
    }

    /// The report cannot be used; its slot stays for the next try.
    pub(crate) fn again(&self, storage: u32, why: alloc::string::String) -> Fault {
        Fault::new(
            FaultClass::Retry,
            format!(
                "block report of storage {}: {why}; send a new one",
                self.nodes.storage(storage).uuid
            ),
        )
        .with_value(self.config.heartbeat_interval_ms)
    }

    /// Merges the partitions this part completes and keeps the rest for the next part.
    fn merge_part(
        &mut self,
        node: u32,
        storage: u32,
        session: &mut ReportSession,
        report: &BlockReport,
        newer: &[u64],
        last: bool,
    ) -> Result<(), hadal_types::BlockId> {
        let bytes = &report.finalized;
        let entries = bytes.len() / ReportEntries::ENTRY_LEN;
        let slice = |from: usize, to: usize| {
            bytes.slice(from * ReportEntries::ENTRY_LEN..to * ReportEntries::ENTRY_LEN)
        };
        let end = match entries {
            _ if last => PARTITION_COUNT,
            0 => session.partition,
            _ => ((key_at(bytes, entries - 1) >> 56) as usize).max(session.partition),
        };
        let mut at = 0;
        for index in session.partition..end {
            let to = if index + 1 == PARTITION_COUNT {
                entries
            } else {
                entries_below(bytes, (index as u64 + 1) << 56).max(at)
            };
            let mut chunks = core::mem::take(&mut session.carry);
            if to > at {
                chunks.push(slice(at, to));
            }
            at = to;
            let reported = Reported {
                storage,
                chunks: &chunks,
                keys: partition_keys(index),
                newer,
            };
            let tally = self
                .with_partition(index, |partition, view, out| {
                    partition.merge(reported, view, out)
                })
                .map_err(|unsorted| unsorted.block)?;
            self.confirm_deletions(node, reported);
            session.tally.add(tally);
        }
        session.partition = end;
        if at < entries {
            session.carry.push(slice(at, entries));
        }
        Ok(())
    }

    /// Replicas to delete that the report no longer lists, or lists as another instance, are deleted.
    pub(crate) fn confirm_deletions(&mut self, node: u32, report: Reported<'_>) {
        let deletions = &mut self.nodes.node_mut(node).deletions;
        if deletions.len() == 0 {
            return;
        }
        for key in deletions.between(report.keys, report.storage) {
            let listed = report.find(key).map(|block| block.generation_stamp);
            let meant = deletions.get(key).map(|it| it.block.generation_stamp);
            if !report.is_newer(key) && listed != meant {
                deletions.done(key);
            }
        }
    }

    /// A storage has told everything, by a full report or by digests.
    pub(crate) fn conclude_report(
        &mut self,
        storage: u32,
        report_id: u64,
        acknowledged: Epoch,
        tally: MergeTally,
    ) {
        self.admission.release(storage);
        let node = self.nodes.node_of(storage);
        let fresh = self.is_active() && acknowledged == self.epoch;
        self.end_remembering(storage);
        let entry = self.nodes.storage_mut(storage);
        entry.reported = true;
        entry.last_report = Some(report_id);
        entry.digest = None;
        if fresh && entry.content_stale {
            // Made after the DataNode followed us: it accepts no other active's deletions any more (F-02).
            entry.content_stale = false;
            self.recheck = true;
        }
        let storages = &self.nodes.node(node).storages;
        let busy = storages.iter().any(|storage| {
            let entry = self.nodes.storage(*storage);
            entry.session.is_some()
                || entry.digest.is_some()
                || self.admission.has(*storage)
                || (!entry.reported && !entry.gone)
        });
        if !busy {
            self.nodes.node_mut(node).touched.stop();
        }
        let event = BlockEvent::Reported {
            name: self.nodes.node(node).name.clone(),
            replicas: tally.replicas,
            added: tally.added,
            removed: tally.removed,
            unknown: tally.unknown,
        };
        self.event(event);
    }
}
