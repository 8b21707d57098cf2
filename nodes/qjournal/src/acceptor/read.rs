//! Serving the log (T-Q2, T-Q3, T-Q13..T-Q18, Q19, Q21).

use super::{Acceptor, Output, Parked, Ticket, out_of_sync};
use alloc::format;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_proto::qjournal::{Edits, LogDigest, Manifest, READ_CAP, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_types::TxId;

impl Acceptor {
    pub(super) fn manifest(&self, from: TxId, in_progress: bool) -> Manifest {
        let newest = self.segments.newest().map(|segment| segment.state.first);
        let mut segments = Vec::new();
        let mut damaged = Vec::new();
        for segment in self.segments.iter() {
            let state = segment.state;
            if segment.damaged || (state.finalized && state.doubtful_from.is_some()) {
                damaged.push(state.first);
            } else if state.last < from || segment.is_empty() {
                // Nothing to read.
            } else if state.finalized || (in_progress && Some(state.first) == newest) {
                segments.push(state);
            }
        }
        Manifest {
            segments,
            committed: self.segments.committed(),
            damaged,
        }
    }

    pub(super) fn read_edits(&mut self, ticket: Ticket, from: TxId, max_bytes: u32, durable: bool) {
        let Some((segment, limit)) = self.segments.holding(from) else {
            let fault = self.not_here(from);
            self.reply(ticket, Err(fault));
            return;
        };
        let state = &segment.state;
        let readable = if durable {
            segment.committed.txid
        } else {
            state.last
        };
        let upto = readable.min(state.last).min(limit);
        let first = state.first;
        if from <= upto {
            self.read(ticket, first, from, upto, max_bytes);
            return;
        }
        let newest = self
            .segments
            .newest()
            .is_some_and(|s| s.state.first == first);
        // "No new edits" is said only by a node that has everything it knows to be committed (Q21).
        let behind = self.record.mark.txid >= from;
        if (from > state.last.next() && !durable) || !newest || behind {
            let fault = self.not_here(from);
            self.reply(ticket, Err(fault));
            return;
        }
        let edits = self.no_edits(from);
        self.reply(ticket, Ok(Response::Edits { edits }));
    }

    pub(super) fn no_edits(&self, from: TxId) -> Edits {
        Edits {
            first: from,
            count: 0,
            records: Bytes::new(),
            digest_before: LogDigest::default(),
            digest_end: LogDigest::default(),
            committed: self.segments.committed(),
        }
    }

    pub(super) fn read_segment(&mut self, ticket: Ticket, first: TxId, from: TxId, max_bytes: u32) {
        let held = self.segments.get(first).map(|segment| segment.state.last);
        match held {
            Some(last) if first <= from && from <= last => {
                self.read(ticket, first, from, last, max_bytes);
            }
            Some(last) => {
                let fault = out_of_sync(
                    last.next(),
                    format!("segment {first} ends at {last} here, txid {from} is not in it"),
                );
                self.reply(ticket, Err(fault));
            }
            None => {
                let fault = self.not_here(from);
                self.reply(ticket, Err(fault));
            }
        }
    }

    pub(super) fn read(
        &mut self,
        ticket: Ticket,
        segment: TxId,
        from: TxId,
        upto: TxId,
        max_bytes: u32,
    ) {
        let output = Output::Read {
            ticket,
            segment,
            from,
            upto,
            max_bytes: max_bytes.min(READ_CAP),
            committed: self.segments.committed(),
        };
        self.park(Parked::Output(output));
    }

    /// Names what is missing and what there is (Q19); the value is the oldest txid here.
    pub(super) fn not_here(&self, from: TxId) -> Fault {
        let oldest = self.segments.iter().next().map(|s| s.state.first);
        let message = match oldest {
            None => format!(
                "txid {from} is not on JournalNode {}: it holds no edits",
                self.config.name
            ),
            Some(oldest) => format!(
                "txid {from} cannot be served by JournalNode {}: it holds edits from {oldest} to {} (committed as far as it knows: {}), maybe not all of them",
                self.config.name,
                self.segments.last(),
                self.segments.committed().txid
            ),
        };
        Fault::new(FaultClass::NotFound, message).with_value(oldest.unwrap_or_default().0)
    }
}
