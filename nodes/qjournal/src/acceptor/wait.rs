//! The standby's subscription: calls that wait until more is known to be committed (protocols.md section 3, T-Q2, Q20).

use super::{Acceptor, Ticket};
use alloc::format;
use alloc::vec::Vec;
use hadal_proto::qjournal::{AWAIT_CAP_MS, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Tick, TxId};

/// Most calls that wait at once: every NameNode has one, and maybe a few of a former life.
const WAITERS_CAP: usize = 64;

/// One call that waits for committed edits behind `after`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Waiter {
    ticket: Ticket,
    after: TxId,
    max_bytes: u32,
    until: Tick,
}

/// What a node can serve as committed from a txid on.
pub(super) enum Servable {
    /// These records.
    Run {
        /// The segment they are in.
        segment: TxId,
        /// Last one.
        upto: TxId,
    },
    /// Nothing yet. `behind`: it has heard that there is more, so somebody else has it.
    NotYet {
        /// Whether it lags.
        behind: bool,
    },
    /// It will never have them by waiting.
    Elsewhere,
}

impl Acceptor {
    pub(super) fn servable(&self, from: TxId) -> Servable {
        let behind = self.record.mark.txid >= from;
        let Some((segment, limit)) = self.segments.holding(from) else {
            return if self.segments.newest().is_none() {
                Servable::NotYet { behind }
            } else {
                Servable::Elsewhere
            };
        };
        let first = segment.state.first;
        let upto = segment.committed.txid.min(segment.state.last).min(limit);
        if from <= upto {
            return Servable::Run {
                segment: first,
                upto,
            };
        }
        let newest = self.segments.newest().map(|newest| newest.state.first);
        if newest == Some(first) {
            Servable::NotYet { behind }
        } else {
            Servable::Elsewhere
        }
    }

    pub(super) fn await_committed(
        &mut self,
        now: Tick,
        ticket: Ticket,
        after: TxId,
        wait_ms: u32,
        max_bytes: u32,
    ) {
        if self.waiters.len() >= WAITERS_CAP {
            let fault = Fault::new(
                FaultClass::Retry,
                format!(
                    "{WAITERS_CAP} calls wait for edits at JournalNode {} already",
                    self.config.name
                ),
            );
            self.reply(ticket, Err(fault));
            return;
        }
        self.waiters.push(Waiter {
            ticket,
            after,
            max_bytes,
            until: now.after_ms(u64::from(wait_ms.min(AWAIT_CAP_MS))),
        });
        self.serve_waiters(now);
    }

    /// Answers the calls that have something to be answered with, or have waited long enough. Called after everything
    /// that may have moved the log.
    pub(super) fn serve_waiters(&mut self, now: Tick) {
        if self.waiters.is_empty() {
            return;
        }
        let mut waiting = Vec::new();
        for waiter in core::mem::take(&mut self.waiters) {
            let (ticket, from) = (waiter.ticket, waiter.after.next());
            match self.servable(from) {
                Servable::Run { segment, upto } => {
                    self.read(ticket, segment, from, upto, waiter.max_bytes);
                }
                Servable::NotYet { .. } if now < waiter.until => waiting.push(waiter),
                Servable::NotYet { behind: false } => {
                    let edits = self.no_edits(from);
                    self.reply(ticket, Ok(Response::Edits { edits }));
                }
                Servable::NotYet { behind: true } | Servable::Elsewhere => {
                    let fault = self.not_here(from);
                    self.reply(ticket, Err(fault));
                }
            }
        }
        self.waiters = waiting;
    }

    pub(super) fn next_waiter(&self) -> Option<Tick> {
        self.waiters.iter().map(|waiter| waiter.until).min()
    }
}
