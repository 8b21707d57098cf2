//! Recovery of an unfinished segment (T-Q5..T-Q12, M-J7).

use super::record::Accepted;
use super::segments::Segment;
use super::{Acceptor, FetchId, Output, StoreOp, Ticket, out_of_sync};
use alloc::format;
use alloc::string::String;
use hadal_proto::qjournal::{Prepared, Response, SegmentState};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, Tick, TxId};

/// A copy on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PendingFetch {
    pub(super) id: FetchId,
    pub(super) purpose: Purpose,
    pub(super) segment: SegmentState,
}

/// What it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A recovery; the call waits for it.
    Recovery { ticket: Ticket, epoch: Epoch },
    /// A round over the peers.
    Sync,
}

impl Acceptor {
    pub(super) fn prepare_recovery(
        &mut self,
        epoch: Epoch,
        first: TxId,
    ) -> Result<Response, Fault> {
        self.check_epoch(epoch)?;
        let segment = self.segments.get(first).map(|segment| segment.state);
        // An acceptance speaks for the content it was given for, and for no later writer's.
        let accepted_in = match (segment, self.record.accepted_for(first)) {
            (Some(state), Some(accepted)) if !state.finalized && accepted.epoch > state.epoch => {
                accepted.epoch
            }
            _ => Epoch(0),
        };
        Ok(Response::Prepared {
            prepared: Prepared {
                first,
                segment,
                accepted_in,
                committed: self.record.mark,
                before: self.segments.finalized_before(first),
                incarnation: self.incarnation(),
                known: self.record.known.clone(),
            },
        })
    }

    pub(super) fn accept_recovery(
        &mut self,
        ticket: Ticket,
        epoch: Epoch,
        target: &SegmentState,
        source: String,
    ) {
        match self.judge_acceptance(epoch, target) {
            Err(fault) => self.reply_of_epoch(ticket, epoch, Err(fault)),
            Ok(Judged::Finalized) => self.reply_of_epoch(ticket, epoch, Ok(Response::Done)),
            Ok(Judged::Equal) => {
                self.accepted(epoch, target);
                self.reply_of_epoch(ticket, epoch, Ok(Response::Done));
            }
            Ok(Judged::Differs) if source == self.config.name => {
                let fault = out_of_sync(
                    TxId(0),
                    format!(
                        "JournalNode {source} is named as the source of segment {} but does not hold it up to {} with digest {}",
                        target.first, target.last, target.digest_end
                    ),
                );
                self.reply_of_epoch(ticket, epoch, Err(fault));
            }
            Ok(Judged::Differs) => {
                let id = self.next_fetch_id();
                let pending = PendingFetch {
                    id,
                    purpose: Purpose::Recovery { ticket, epoch },
                    segment: *target,
                };
                let older = self.fetch.replace(pending);
                if let Some(Purpose::Recovery { ticket, .. }) = older.map(|older| older.purpose) {
                    let fault = Fault::new(FaultClass::Retry, "another recovery took its place");
                    self.reply(ticket, Err(fault));
                }
                self.outputs.push_back(Output::Fetch {
                    fetch: id,
                    source,
                    segment: *target,
                });
            }
        }
    }

    /// Compares content by digest, never by length (R7).
    fn judge_acceptance(&self, epoch: Epoch, target: &SegmentState) -> Result<Judged, Fault> {
        self.check_epoch(epoch)?;
        if target.last < target.first || target.first == TxId(0) {
            return Err(Fault::new(
                FaultClass::InvalidArgument,
                "a recovery needs at least one edit",
            ));
        }
        let Some(segment) = self.segments.get(target.first) else {
            return Ok(Judged::Differs);
        };
        let state = &segment.state;
        let equal = state.last == target.last
            && (state.digest_end == target.digest_end || self.config.planted.compare_lengths)
            && state.doubtful_from.is_none();
        match (state.finalized && state.doubtful_from.is_none(), equal) {
            (true, true) => Ok(Judged::Finalized),
            (true, false) => Err(Fault::new(
                FaultClass::Corrupt,
                format!(
                    "segment {} is finalised at {} with digest {}, the recovery wants {} with digest {}",
                    state.first, state.last, state.digest_end, target.last, target.digest_end
                ),
            )),
            (false, true) => Ok(Judged::Equal),
            (false, false) => Ok(Judged::Differs),
        }
    }

    fn accepted(&mut self, epoch: Epoch, target: &SegmentState) {
        self.record.accept(Accepted {
            first: target.first,
            epoch,
            last: target.last,
            digest: target.digest_end,
        });
        if !self.config.planted.forget_acceptance {
            self.persist();
        }
    }

    /// A copy asked for by [`Output::Fetch`] is complete, verified and durable under a temporary name, or could not
    /// be had.
    pub fn handle_fetched(&mut self, now: Tick, fetch: FetchId, outcome: Result<(), Fault>) {
        if self.stopped
            || self
                .fetch
                .as_ref()
                .is_none_or(|pending| pending.id != fetch)
        {
            return;
        }
        let pending = self.fetch.take().expect("just seen");
        let target = pending.segment;
        match pending.purpose {
            Purpose::Recovery { ticket, epoch } => {
                self.recovery_fetched(fetch, ticket, epoch, target, outcome);
            }
            Purpose::Sync => self.sync_fetched(now, fetch, target, outcome),
        }
        self.serve_waiters(now);
    }

    fn recovery_fetched(
        &mut self,
        fetch: FetchId,
        ticket: Ticket,
        epoch: Epoch,
        target: SegmentState,
        outcome: Result<(), Fault>,
    ) {
        let judged = outcome
            .and_then(|()| self.still_promised(epoch))
            .and_then(|()| self.judge_acceptance(epoch, &target));
        match judged {
            Err(fault) => self.reply_of_epoch(ticket, epoch, Err(fault)),
            Ok(Judged::Finalized) => self.reply_of_epoch(ticket, epoch, Ok(Response::Done)),
            Ok(Judged::Equal | Judged::Differs) => {
                // What rotted in a finalised segment is repaired in place.
                let own = self.segments.get(target.first);
                let segment = SegmentState {
                    finalized: own.is_some_and(|own| own.state.finalized),
                    doubtful_from: None,
                    doubtful_bytes: None,
                    ..target
                };
                self.store(StoreOp::Install { fetch, segment });
                self.segments.put(Segment::new(segment, false));
                self.segments.verify_marks(self.config.planted.trust_marks);
                // Content first, then the word about it: T-Q12.
                self.accepted(epoch, &target);
                self.reply_of_epoch(ticket, epoch, Ok(Response::Done));
            }
        }
    }

    pub(super) fn next_fetch_id(&mut self) -> FetchId {
        self.next_fetch += 1;
        FetchId(self.next_fetch)
    }
}

/// How a node's own segment compares with a recovery's.
enum Judged {
    /// Equal, and finalised.
    Finalized,
    /// Equal.
    Equal,
    /// Missing, shorter, longer, other, or unreadable: to be copied.
    Differs,
}
