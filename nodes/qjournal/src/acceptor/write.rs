//! Promises, segments and batches.

use super::segments::Segment;
use super::{Acceptor, Output, Parked, StoreOp, StreamKey, Ticket, fenced, out_of_sync, refusal};
use alloc::format;
use bytes::Bytes;
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{BatchHead, LogDigest, Promise, Records, Response, SegmentState};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, NamespaceInfo, Tick, TxId};

impl Acceptor {
    pub(super) fn new_epoch(
        &mut self,
        now: Tick,
        ticket: Ticket,
        info: &NamespaceInfo,
        epoch: Epoch,
        claim: u64,
    ) {
        if let Err(fault) = self.check_identity(info) {
            self.reply(ticket, Err(fault));
            return;
        }
        let promised = self.record.promised;
        let repeated = epoch == promised && claim == self.record.promised_to && epoch > Epoch(0);
        if epoch <= promised && !repeated {
            let fault = Fault::new(
                FaultClass::Fenced,
                format!("proposed epoch {epoch} <= last promise {promised}"),
            );
            self.reply(ticket, Err(fault.with_value(promised.0)));
            return;
        }
        self.record.promised = epoch;
        self.record.promised_to = claim;
        self.raise_count();
        if !self.config.planted.forget_promise {
            self.persist();
        }
        let promise = Promise {
            epoch,
            last_segment: self.segments.newest_with_records(),
            committed: self.record.mark,
            incarnation: self.incarnation(),
            known: self.record.known.clone(),
        };
        self.reply_of_epoch(ticket, epoch, Ok(Response::Promised { promise }));
        self.gossip();
        self.schedule_raise(now);
    }

    /// T-J12: everything that differs is named.
    fn check_identity(&self, info: &NamespaceInfo) -> Result<(), Fault> {
        let Some(own) = &self.record.info else {
            return self.check_namespace(info.namespace_id);
        };
        let same = own.namespace_id == info.namespace_id
            && own.cluster_id == info.cluster_id
            && own.block_pool_id == info.block_pool_id;
        if same {
            return Ok(());
        }
        Err(Fault::new(
            FaultClass::IdentityMismatch,
            format!(
                "incompatible namespace: JournalNode {} holds namespace {} of cluster {} ({}), asked for namespace {} of cluster {} ({})",
                self.config.name,
                own.namespace_id,
                own.cluster_id,
                own.block_pool_id,
                info.namespace_id,
                info.cluster_id,
                info.block_pool_id
            ),
        ))
    }

    pub(super) fn start_segment(
        &mut self,
        now: Tick,
        epoch: Epoch,
        first: TxId,
        digest_before: LogDigest,
    ) -> Result<(), Fault> {
        self.check_epoch(epoch)?;
        if first == TxId(0) {
            return Err(Fault::new(
                FaultClass::InvalidArgument,
                "a segment cannot start at txid 0",
            ));
        }
        // A node that joins late may have heard already that the writer's edits here are committed; but what it holds of
        // them is never started anew.
        let holds = self.segments.holding(first).is_some_and(|(held, _)| {
            let decided = held.state.finalized && held.state.last >= first;
            decided || (held.state.first == first && !held.is_empty())
        });
        if first <= self.record.mark.txid && holds {
            return Err(out_of_sync(
                self.record.mark.txid.next(),
                format!(
                    "cannot start a segment at txid {first}: the log is committed up to {}",
                    self.record.mark.txid
                ),
            ));
        }
        let mut restart = false;
        if let Some(present) = self.segments.get(first) {
            let state = &present.state;
            if state.finalized {
                return Err(Fault::new(
                    FaultClass::AlreadyExists,
                    format!(
                        "segment {first} is finalised already, it ends at {}",
                        state.last
                    ),
                ));
            }
            // T-J11; and R8: what an older epoch left un-finalised may be started anew.
            if state.epoch >= epoch && !present.is_empty() {
                return Err(Fault::new(
                    FaultClass::AlreadyExists,
                    format!(
                        "segment {first} of epoch {} holds edits up to {} already",
                        state.epoch, state.last
                    ),
                ));
            }
            restart = true;
        }
        self.record.writer = epoch;
        self.record.forget_accepted(first);
        self.raise_count();
        self.persist();
        self.store(StoreOp::Start {
            first,
            epoch,
            digest_before,
            restart,
        });
        self.segments.put(Segment::new(
            SegmentState {
                first,
                last: TxId(first.0 - 1),
                epoch,
                finalized: false,
                digest_before,
                digest_end: digest_before,
                doubtful_from: None,
                bytes: 0,
                doubtful_bytes: None,
            },
            false,
        ));
        self.open = Some(first);
        self.gossip();
        self.schedule_raise(now);
        Ok(())
    }

    /// One frame of an append stream arrived. A refusal comes as an ack with a fault; the driver then closes the
    /// stream and drops what else it brings.
    pub fn handle_batch(
        &mut self,
        now: Tick,
        stream: StreamKey,
        sequence: u64,
        head: &BatchHead,
        records: Bytes,
    ) {
        if self.stopped {
            return;
        }
        match self.take_batch(head, records) {
            Ok(None) => {}
            Ok(Some(last)) => {
                let ack = Ack {
                    sequence,
                    offset: last.0,
                    fault: None,
                    bad_node: 0,
                    slow_nodes: 0,
                };
                self.park(Parked::OfEpoch(head.epoch, Output::Ack { stream, ack }));
                self.acked = true;
                self.schedule_raise(now);
            }
            Err(fault) => {
                let ack = refusal(sequence, fault);
                self.park(Parked::Output(Output::Ack { stream, ack }));
            }
        }
        self.serve_waiters(now);
    }

    /// The txid to acknowledge, `None` for a mere mark.
    fn take_batch(&mut self, head: &BatchHead, records: Bytes) -> Result<Option<TxId>, Fault> {
        self.check_writer(head.epoch)?;
        if head.count == 0 {
            self.note_mark(head.committed);
            return Ok(None);
        }
        if let Some(segment) = self.segments.get(head.segment)
            && (segment.state.finalized, segment.state.epoch) == (true, head.epoch)
            && segment.state.doubtful_from.is_none()
            && head.last() <= segment.state.last
        {
            // Copied from a peer meanwhile: within one epoch a txid has one record, and these are decided.
            self.note_mark(head.committed);
            return Ok(Some(head.last()));
        }
        let Some(segment) = self.open.and_then(|open| self.segments.get(open)) else {
            return Err(out_of_sync(TxId(0), "no segment is open"));
        };
        let state = &segment.state;
        if state.first != head.segment || state.epoch != head.epoch || state.finalized {
            return Err(out_of_sync(
                TxId(0),
                format!(
                    "the open segment is {} of epoch {}, not {} of epoch {}",
                    state.first, state.epoch, head.segment, head.epoch
                ),
            ));
        }
        if let Some(from) = state.doubtful_from {
            return Err(out_of_sync(
                TxId(0),
                format!(
                    "segment {} is unreadable from txid {from} on; nothing is appended before recovery",
                    state.first
                ),
            ));
        }
        let expected = state.last.next();
        if head.first > expected {
            return Err(out_of_sync(
                expected,
                format!(
                    "out of sync: the next edit here is {expected}, the batch starts at {}",
                    head.first
                ),
            ));
        }
        let last = head.last();
        if last < expected {
            // Sent again: the connection broke before the ack arrived.
            self.note_mark(head.committed);
            return Ok(Some(last));
        }
        let skip = expected.0 - head.first.0;
        let records = skip_records(records, head.first, skip)?;
        let (before, first, bytes) = (state.digest_end, state.first, records.len() as u64);
        let digest = (self.config.digest)(before, expected, &records);
        if digest != Some((last, head.digest_end)) {
            return Err(Fault::new(
                FaultClass::Corrupt,
                format!(
                    "batch {}-{last} does not continue the log of JournalNode {}: records or digests do not match",
                    head.first, self.config.name
                ),
            ));
        }
        self.store(StoreOp::Append {
            segment: first,
            first: expected,
            last,
            records,
            digest_before: before,
            digest_end: head.digest_end,
        });
        let segment = self.segments.get_mut(first).expect("it is open");
        segment.append(last, head.digest_end, bytes);
        self.segments.verify_marks(self.config.planted.trust_marks);
        self.note_mark(head.committed);
        Ok(Some(last))
    }

    pub(super) fn finalize_segment(
        &mut self,
        epoch: Epoch,
        first: TxId,
        last: TxId,
        digest: LogDigest,
    ) -> Result<(), Fault> {
        self.check_epoch(epoch)?;
        if last < first {
            return Err(Fault::new(
                FaultClass::InvalidArgument,
                format!("segment {first} cannot be finalised empty, at {last}"),
            ));
        }
        let Some(segment) = self.segments.get(first) else {
            return Err(Fault::new(
                FaultClass::NotFound,
                format!("no segment starts at txid {first} on this JournalNode"),
            ));
        };
        let state = &segment.state;
        let same = state.last == last
            && (state.digest_end == digest || self.config.planted.compare_lengths)
            && state.doubtful_from.is_none();
        if state.finalized && same {
            return Ok(());
        }
        if state.finalized {
            return Err(Fault::new(
                FaultClass::Corrupt,
                format!(
                    "segment {first} is finalised at {} with digest {}, asked for {last} with digest {digest}",
                    state.last, state.digest_end
                ),
            ));
        }
        if state.last < last {
            return Err(out_of_sync(
                state.last.next(),
                format!(
                    "cannot finalise segment {first} at {last}: it is only written up to {}",
                    state.last
                ),
            ));
        }
        if !same {
            // Copy first (R7). A writer does that by recovery, a laggard by sync.
            return Err(out_of_sync(
                state.last.next(),
                format!(
                    "cannot finalise segment {first} at {last} with digest {digest}: this JournalNode holds another log, up to {} with digest {}",
                    state.last, state.digest_end
                ),
            ));
        }
        self.store(StoreOp::Finalize { first, last });
        let segment = self.segments.get_mut(first).expect("just seen");
        let mut state = segment.state;
        state.finalized = true;
        *segment = Segment::new(state, false);
        if self.open == Some(first) {
            self.open = None;
        }
        // Only what is committed is finalised.
        let end = segment.end();
        self.note_mark(end);
        Ok(())
    }

    pub(super) fn purge(&mut self, epoch: Epoch, below: TxId) -> Result<(), Fault> {
        self.check_epoch(epoch)?;
        // The newest segment stays, whatever was asked: recovery starts from it.
        let newest = self.segments.newest().map(|segment| segment.state.first);
        let below = newest.map_or(below, |newest| newest.min(below));
        self.sync.purged_below = self.sync.purged_below.max(below);
        if self.segments.purge(below) {
            self.record.accepted.retain(|entry| entry.first >= below);
            self.persist();
            self.store(StoreOp::Purge { below });
        }
        Ok(())
    }

    pub(super) fn schedule_raise(&mut self, now: Tick) {
        if self.raise_at.is_none() {
            self.raise_at = Some(now.after_ms(self.config.count_interval_ms));
        }
    }

    /// Tells a late caller that another epoch rules.
    pub(super) fn still_promised(&self, epoch: Epoch) -> Result<(), Fault> {
        if epoch == self.record.promised || self.config.planted.skip_epoch_check {
            Ok(())
        } else {
            Err(fenced(epoch, self.record.promised))
        }
    }
}

/// Drops the first `skip` records of a batch (a crash kept some of it).
fn skip_records(records: Bytes, first: TxId, skip: u64) -> Result<Bytes, Fault> {
    let total = records.len();
    let mut walk = Records::new(records.clone());
    for _ in 0..skip {
        match walk.next() {
            Some(Ok(_)) => {}
            _ => {
                return Err(Fault::new(
                    FaultClass::Corrupt,
                    format!("the batch at txid {first} holds fewer records than it says"),
                ));
            }
        }
    }
    let left = walk.left();
    Ok(records.slice(total - left..))
}
