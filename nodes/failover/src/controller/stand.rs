//! Standing for election, renewing, lapsing, releasing.

use super::command::Pending;
use super::lease::Sent;
use super::output::{CallTag, Jn, Output, StepDownReason};
use super::{Controller, Phase};
use alloc::string::ToString;
use hadal_proto::election::{Call, LeaseRequest, Request};
use hadal_types::{Epoch, Tick};

impl Controller {
    /// Notices that the lease lapsed. First of all in every input: an answer that arrives after the end must not
    /// make the lease look as if it had gone on.
    pub(super) fn note_lapse(&mut self, now: Tick) {
        let epoch = match self.phase {
            Phase::Claiming { epoch, .. } | Phase::Serving { epoch, .. } => epoch,
            Phase::Follower | Phase::Asking { .. } | Phase::Resigning { .. } => return,
        };
        if self.lease_runs(now) || self.config.planted.resume_after_lapse {
            return;
        }
        self.step_down(now, epoch, StepDownReason::LeaseLapsed);
    }

    pub(super) fn step_down(&mut self, now: Tick, epoch: Epoch, reason: StepDownReason) {
        self.note_end_of_service(now);
        self.phase = Phase::Resigning {
            epoch,
            hand_over: None,
            until: now,
        };
        self.outputs.push_back(Output::StepDown { reason });
    }

    /// Whether answers to lease requests still count.
    pub(super) fn wants_renewal(&self, now: Tick) -> bool {
        match self.phase {
            Phase::Asking { .. } | Phase::Claiming { .. } | Phase::Serving { .. } => true,
            Phase::Resigning {
                hand_over, until, ..
            } => hand_over.is_some() && now < until,
            Phase::Follower => false,
        }
    }

    /// Everything that depends on time alone, and on what was just heard.
    pub(super) fn advance(&mut self, now: Tick) {
        self.note_reachable(now);
        self.note_successor(now);
        self.advance_command(now);
        self.advance_hand_over(now);
        match self.phase {
            Phase::Follower => {
                self.ready_at = if self.wants_role(now) {
                    self.free_at(now)
                } else {
                    Tick::NEVER
                };
                if self.ready_at <= now {
                    self.ready_at = Tick::NEVER;
                    self.stand(now);
                }
            }
            Phase::Asking { until } => self.count_grants(now, until),
            Phase::Claiming { .. } | Phase::Serving { .. } | Phase::Resigning { .. } => {}
        }
        self.advance_health(now);
        if self.config.leaseless() {
            return;
        }
        if self.wants_renewal(now) && self.renew_at <= now {
            self.send_leases(now);
        }
        if matches!(
            self.phase,
            Phase::Follower | Phase::Resigning { .. } | Phase::Asking { .. }
        ) && self.ask_at <= now
        {
            let interval = self.config.renew_interval_ms;
            // Who was named waits for the reservation to arrive: a hand-over should be short.
            let quick = self.is_activating();
            self.ask_at = now.after_ms(if quick {
                interval.div_ceil(5)
            } else {
                interval
            });
            for jn in 0..self.book.links.len() {
                self.call(now, jn, Call::Ask);
            }
        }
    }

    /// Keeps account of outages (T-A13) and of vacancy (Q30).
    fn note_reachable(&mut self, now: Tick) {
        if self.journal_reachable(now) {
            self.reachable_since.get_or_insert(now);
        } else {
            self.reachable_since = None;
        }
        let nobody_else = |name: &str| name.is_empty() || name == self.config.name;
        let vacant = self
            .book
            .fresh(now, self.ttl())
            .filter(|(_, view)| nobody_else(&view.holder) && nobody_else(&view.reserved_for));
        let enough = vacant.count() >= self.book.majority();
        if enough && matches!(self.phase, Phase::Follower | Phase::Asking { .. }) {
            self.vacant_since.get_or_insert(now);
        } else {
            self.vacant_since = None;
        }
    }

    /// Whether a majority has said for two ttls that nobody holds the lease.
    pub(super) fn is_vacant(&self, now: Tick) -> bool {
        self.vacant_since
            .is_some_and(|since| since.after_ms(2 * self.ttl()) <= now)
    }

    /// Whether it should stand.
    fn wants_role(&self, now: Tick) -> bool {
        if !self.ready || self.barred.is_some() {
            return false;
        }
        match &self.pending {
            Some(Pending::Activate { .. }) => return true,
            Some(Pending::HandOver { .. } | Pending::Demote { .. }) => return false,
            Some(Pending::Check { .. }) | None => {}
        }
        if self.observer {
            return false;
        }
        if self.config.shared_directory {
            return false;
        }
        if self.config.alone {
            return true;
        }
        if !self.config.automatic {
            return self.ordered;
        }
        self.is_healthy() && (self.yielded_until <= now || self.is_vacant(now))
    }

    /// When a majority may grant the lease, as far as known; [`Tick::NEVER`] while no majority answers.
    fn free_at(&self, now: Tick) -> Tick {
        if self.config.leaseless() {
            return self.backoff_until;
        }
        let Some(since) = self.reachable_since else {
            return Tick::NEVER;
        };
        let promised = self.book.promised();
        let reserved = |(_, view): (Tick, &hadal_proto::election::ActiveView)| {
            view.reserved_for == self.config.name
        };
        let first = promised <= self.last_epoch || self.book.fresh(now, self.ttl()).any(reserved);
        let mut free: alloc::vec::Vec<Tick> = self
            .book
            .fresh(now, self.ttl())
            .map(|(at, view)| {
                let owner_first = if first { 0 } else { view.owner_first_ms };
                at.after_ms(u64::from(view.free_in_ms.max(owner_first)))
            })
            .collect();
        free.sort_unstable();
        let Some(free) = free.get(self.book.majority() - 1) else {
            return Tick::NEVER;
        };
        // After an outage the owner of the last epoch asks first.
        let turn = if first {
            since
        } else {
            since.after_ms(self.ttl())
        };
        (*free).max(turn).max(self.backoff_until)
    }

    fn stand(&mut self, now: Tick) {
        if self.config.leaseless() {
            self.hold();
            return;
        }
        self.next_term_above(self.term);
        self.phase = Phase::Asking {
            until: now.after_ms(self.ttl() / 2),
        };
        self.send_leases(now);
    }

    pub(super) fn next_term_above(&mut self, term: u64) {
        self.term = term + 1;
        self.book.start_term();
    }

    fn count_grants(&mut self, now: Tick, until: Tick) {
        if self.lease_runs(now) {
            self.hold();
            return;
        }
        let nodes = self.book.links.len();
        let hopeless = self.book.refusals() > nodes - self.book.majority();
        if hopeless && until > now && self.wants_role(now) && self.book.came_too_early() {
            // It asked by its own clock, and theirs are a little slower: no contest, so nothing to be decided by a back-off
            // that would last as long as a lease. They said when.
            self.release(now, None);
            self.phase = Phase::Follower;
        } else if hopeless || until <= now || !self.wants_role(now) {
            self.stop_asking(now);
        }
    }

    fn hold(&mut self) {
        self.phase = Phase::Claiming {
            epoch: Epoch(0),
            claimed: false,
        };
        self.outputs.push_back(Output::StartClaim);
    }

    /// Uniform in 0..ttl.
    pub(super) fn back_off(&mut self, now: Tick) {
        let wait = crate::next_random(&mut self.random) % self.ttl().max(1);
        self.backoff_until = now.after_ms(wait + 1);
        self.ask_at = self.ask_at.min(now.after_ms(1));
    }

    fn send_leases(&mut self, now: Tick) {
        self.renew_at = now.after_ms(self.config.renew_interval_ms);
        let (epoch, serving) = match self.phase {
            Phase::Claiming { epoch, .. } => (epoch, false),
            Phase::Serving { epoch, .. } => (epoch, true),
            Phase::Resigning { epoch, .. } => (epoch, false),
            Phase::Follower | Phase::Asking { .. } => (Epoch(0), false),
        };
        for jn in 0..self.book.links.len() {
            let lease = LeaseRequest {
                term: self.term,
                seq: self.next_tag,
                ttl_ms: self.config.lease_ttl_ms,
                epoch,
                last_epoch: self.last_epoch,
                serving,
            };
            self.call(now, jn, Call::Lease { lease });
        }
    }

    /// Gives back what was granted in this term, or what may have been. Nothing of it counts from now on.
    pub(super) fn release(&mut self, now: Tick, to: Option<&str>) {
        if self.config.leaseless() {
            return;
        }
        for jn in 0..self.book.links.len() {
            if !self.book.links[jn].asked {
                continue;
            }
            let (term, seq) = (self.term, self.next_tag);
            let call = match to {
                Some(to) => Call::Reserve {
                    term,
                    seq,
                    to: to.to_string(),
                },
                None => Call::Release { term, seq },
            };
            self.call(now, jn, call);
        }
        if !self.config.planted.serve_while_releasing {
            self.book.start_term();
        }
    }

    /// The sequence number of a message is its tag: both only rise.
    fn call(&mut self, now: Tick, jn: Jn, call: Call) {
        let id = CallTag(self.next_tag);
        self.next_tag += 1;
        let sent = Sent {
            jn,
            term: self.term,
            at: now,
            lease: matches!(call, Call::Lease { .. }),
        };
        self.book.note_sent(id, sent);
        let request = Request {
            namespace_id: self.config.namespace_id,
            call,
        };
        self.outputs.push_back(Output::Call { jn, id, request });
    }
}
