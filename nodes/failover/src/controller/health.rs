//! Own health, the peers' health, and giving up for the one in favour of the other (Q30).

use super::output::{CallTag, Output, StepDownReason};
use super::{Controller, Phase};
use alloc::string::{String, ToString};
use hadal_proto::Fault;
use hadal_proto::ha::{Health, Request, Response};
use hadal_types::{HaState, Tick};

/// Another NameNode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    /// Its last answer.
    health: Option<(Tick, Health)>,
    /// What went wrong with the last question.
    trouble: String,
    /// The question under way, and when it is given up.
    asked: Option<(CallTag, Tick)>,
    probe_at: Tick,
}

impl Peer {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            health: None,
            trouble: "no answer yet".to_string(),
            asked: None,
            probe_at: Tick(0),
        }
    }
}

impl Controller {
    /// A probe of this NameNode by its driver: about once a second, on a timer of its own. A bad one counts only while a
    /// majority of JournalNodes answers: an outage is the lease's business, and must not decide who stands first
    /// after it (T-A13).
    pub fn handle_health(&mut self, now: Tick, outcome: Result<(), String>) {
        self.note_lapse(now);
        match outcome {
            Ok(()) => {
                self.bad_probes = 0;
                self.reason.clear();
            }
            Err(reason) => {
                if self.config.leaseless() || self.journal_reachable(now) {
                    self.bad_probes = self.bad_probes.saturating_add(1);
                }
                self.reason = reason;
            }
        }
        self.advance(now);
    }

    /// Whether the driver could take [`super::Output::StartClaim`] up at once. While it loads a namespace it could not, and
    /// would keep the lease from one that can. True until told otherwise; does not touch a role it has.
    pub fn handle_ready(&mut self, now: Tick, ready: bool) {
        self.note_lapse(now);
        self.ready = ready;
        self.advance(now);
    }

    /// Why this NameNode must not become active, whoever wants it to; `None`: it may. Does not touch a role it has, nor one
    /// it claims already (`ha.not_become_active_in_safe_mode`, T-H23).
    pub fn handle_barred(&mut self, now: Tick, reason: Option<String>) {
        self.note_lapse(now);
        self.barred = reason;
        self.advance(now);
    }

    /// Whether fewer than three probes in a row were bad.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.bad_probes < self.config.bad_probes
    }

    /// What the last bad probe said; empty after a good one.
    #[must_use]
    pub fn health_reason(&self) -> &str {
        &self.reason
    }

    /// A peer answered.
    pub fn handle_peer_reply(
        &mut self,
        now: Tick,
        peer: &str,
        id: CallTag,
        outcome: Result<Response, Fault>,
    ) {
        self.note_lapse(now);
        match outcome {
            Ok(response) => {
                if let Some(it) = self.peers.iter_mut().find(|it| it.name == peer)
                    && it.asked.is_some_and(|(asked, _)| asked == id)
                {
                    it.asked = None;
                    if let Response::Health { health } = response {
                        it.health = Some((now, health));
                        it.trouble.clear();
                    }
                    self.peer_probed(now, id);
                }
            }
            Err(fault) => self.peer_failed(now, peer, id, &fault.message),
        }
        self.advance(now);
    }

    /// A peer could not be reached, or did not answer.
    pub fn handle_peer_failed(&mut self, now: Tick, peer: &str, id: CallTag, reason: &str) {
        self.note_lapse(now);
        self.peer_failed(now, peer, id, reason);
        self.advance(now);
    }

    fn peer_failed(&mut self, now: Tick, peer: &str, id: CallTag, reason: &str) {
        let Some(it) = self.peers.iter_mut().find(|it| it.name == peer) else {
            return;
        };
        if it.asked.is_some_and(|(asked, _)| asked == id) {
            it.asked = None;
            it.health = None;
            it.trouble = reason.to_string();
            self.peer_probed(now, id);
        }
        self.stand_refused(now, id, reason);
    }

    /// Why this peer should not take over now; `None`: it could.
    pub(super) fn peer_unfit(&self, now: Tick, peer: usize) -> Option<String> {
        let it = &self.peers[peer];
        let window = 3 * self.config.probe_interval_ms;
        let Some((_, health)) = it
            .health
            .as_ref()
            .filter(|(at, _)| now < at.after_ms(window))
        else {
            return Some(it.trouble.clone());
        };
        if health.state != HaState::Standby {
            return Some(alloc::format!("it is {}", health.state));
        }
        if !health.healthy {
            return Some(health.reason.clone());
        }
        if !health.ready {
            return Some(health.not_ready.clone());
        }
        if health.lag_ms > self.config.peer_lag_ms {
            return Some(alloc::format!(
                "it is {} ms behind the journal, at txid {}",
                health.lag_ms,
                health.applied
            ));
        }
        None
    }

    /// Asks a peer how it is; returns the question's tag.
    pub(super) fn probe(&mut self, now: Tick, peer: usize) -> CallTag {
        let id = self.peer_call(peer, Request::GetHealth);
        let interval = self.config.probe_interval_ms;
        let it = &mut self.peers[peer];
        it.asked = Some((id, now.after_ms(2 * interval)));
        it.probe_at = now.after_ms(interval);
        id
    }

    pub(super) fn peer_call(&mut self, peer: usize, request: Request) -> CallTag {
        let id = CallTag(self.next_tag);
        self.next_tag += 1;
        let peer = self.peers[peer].name.clone();
        self.outputs
            .push_back(Output::CallPeer { peer, id, request });
        id
    }

    pub(super) fn advance_health(&mut self, now: Tick) {
        for peer in 0..self.peers.len() {
            if let Some((id, until)) = self.peers[peer].asked
                && until <= now
            {
                let it = &mut self.peers[peer];
                it.asked = None;
                it.health = None;
                it.trouble = "no answer".to_string();
                self.peer_probed(now, id);
            }
            if self.peers[peer].asked.is_none() && self.peers[peer].probe_at <= now {
                self.probe(now, peer);
            }
        }
        if let Phase::Serving { .. } = self.phase
            && !self.is_healthy()
            && self.pending.is_none()
            && let Some(peer) = self.fit_peer(now)
        {
            let reason = alloc::format!("unhealthy: {}", self.reason);
            self.start_hand_over(now, None, peer, reason);
        }
    }

    /// A peer that may be given the role unasked: none in manual mode.
    fn fit_peer(&self, now: Tick) -> Option<usize> {
        (0..self.peers.len())
            .find(|peer| self.config.automatic && self.peer_unfit(now, *peer).is_none())
    }

    /// No majority of JournalNodes has acknowledged an edit for long (`QuorumSlow`, protocols.md section 1), though they
    /// renew the lease. The role goes to a fit peer; else this one stands again, and claims when a majority is back.
    /// Alone it goes on as it is.
    pub fn handle_journal_stalled(&mut self, now: Tick) {
        self.note_lapse(now);
        if let Phase::Serving { epoch, .. } = self.phase
            && !self.config.leaseless()
        {
            // Who serves can have been asked for a hand-over, and be asking the peer how it is: no more than that.
            self.refuse_check();
            let peer = self.fit_peer(now);
            self.step_down(now, epoch, StepDownReason::JournalStalled);
            if let Some(peer) = peer {
                self.give_role_to(now, None, peer, epoch);
            }
        }
        self.advance(now);
    }

    /// Stays away until another serves, so that the order is carried out; for `rejoin_ms` at most.
    pub(super) fn yield_by_order(&mut self, now: Tick) {
        self.yielded_by_order = true;
        self.yielded_until = now.after_ms(self.config.rejoin_ms);
    }

    /// Once another serves, who left the role by order is a standby like any other: should that one die, waiting for the
    /// vacancy to last would only make the failover longer.
    pub(super) fn note_successor(&mut self, now: Tick) {
        let served = |it: super::ActiveHint| it.serving && it.epoch > self.last_epoch;
        if self.yielded_by_order
            && self.yielded_until > now
            && self.other_active(now).is_some_and(served)
        {
            self.yielded_until = now;
        }
    }

    /// Stays away for a while, longer each time: who falls ill again and again does not get the role back each time.
    pub(super) fn yield_for_health(&mut self, now: Tick) {
        self.yielded_by_order = false;
        let wait = self
            .config
            .rejoin_ms
            .saturating_mul(1 << self.yields.min(16))
            .min(self.config.rejoin_max_ms);
        self.yields = self.yields.saturating_add(1);
        self.yielded_until = now.after_ms(wait);
    }

    /// Who served for long starts with the shortest wait again.
    pub(super) fn note_end_of_service(&mut self, now: Tick) {
        if let Phase::Serving { since, .. } = self.phase
            && now.ms_since(since) >= self.config.rejoin_max_ms
        {
            self.yields = 0;
        }
    }

    pub(super) fn health_timeout(&self) -> Tick {
        let due = |peer: &Peer| match peer.asked {
            Some((_, until)) => until,
            None => peer.probe_at,
        };
        self.peers.iter().map(due).min().unwrap_or(Tick::NEVER)
    }
}
