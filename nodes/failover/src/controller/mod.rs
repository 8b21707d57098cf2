//! A NameNode's side: stands for election, holds the lease, hands it over.
//!
//! The driver calls `handle_*` with what happened, carries out every [`Output`] in order, and calls
//! [`Controller::handle_timeout`] at [`Controller::poll_timeout`]. Life of a holder:
//!
//! [`Output::StartClaim`] -> [`Controller::handle_claiming`] -> [`Controller::handle_claimed`] ->
//! [`Controller::handle_serving`] -> [`Controller::may_serve`] says yes, until [`Output::StepDown`] or
//! [`Output::HandOver`], either answered by [`Controller::handle_resigned`]. A driver that loses the role by itself
//! (fenced, too many JournalNodes refuse) calls `handle_resigned` unasked.
//!
//! A lease that lapsed voids everything done under it: promises, recovery, epoch. It is never resumed.

mod command;
mod config;
mod health;
mod lease;
mod output;
mod stand;

pub use config::ControllerConfig;
pub use output::{
    ActiveHint, CallTag, Command, CommandError, CommandId, Jn, Output, StepDownReason,
};

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use command::Pending;
use hadal_proto::Fault;
use hadal_proto::election::{ActiveView, Refusal, Response};
use hadal_types::{Epoch, HaState, Tick};
use health::Peer;
use lease::LeaseBook;

/// Where the controller is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    /// Holds nothing: watches, and asks for the lease when it wants it and it may be free.
    Follower,
    /// Asked for the lease.
    Asking { until: Tick },
    /// Holds the lease; the driver claims the journal. Epoch 0: no claim message left yet.
    Claiming { epoch: Epoch, claimed: bool },
    /// Holds the lease and serves.
    Serving { epoch: Epoch, since: Tick },
    /// The driver is told to stop. `hand_over`: in favour of that peer, and the lease is renewed meanwhile.
    Resigning {
        epoch: Epoch,
        hand_over: Option<usize>,
        until: Tick,
    },
}

/// A NameNode's failover controller.
#[derive(Clone, Debug)]
pub struct Controller {
    config: ControllerConfig,
    phase: Phase,
    book: LeaseBook,
    term: u64,
    next_tag: u64,
    random: u64,
    observer: bool,
    /// The driver could take a claim up at once.
    ready: bool,
    /// Why it must not become active.
    barred: Option<String>,
    /// Manual mode: an operator wants this one active.
    ordered: bool,
    /// The epoch claimed last by this process.
    last_epoch: Epoch,
    peers: Vec<Peer>,
    bad_probes: u32,
    reason: String,
    /// Stands again after this, having yielded.
    yielded_until: Tick,
    /// It yielded because it was told to, not for ill health.
    yielded_by_order: bool,
    yields: u32,
    backoff_until: Tick,
    ask_at: Tick,
    renew_at: Tick,
    /// When a follower that wants the role may ask for it, as far as known.
    ready_at: Tick,
    /// Since when a majority answers without a break.
    reachable_since: Option<Tick>,
    /// Since when a majority says that nobody holds the lease.
    vacant_since: Option<Tick>,
    /// When another holder's lease was last renewed, as far as JournalNodes told.
    other_renewed: Option<Tick>,
    pending: Option<Pending>,
    outputs: VecDeque<Output>,
}

impl Controller {
    /// A controller of a process that starts now. `seed` spreads its back-offs.
    ///
    /// # Panics
    /// When the configuration names no JournalNode.
    #[must_use]
    pub fn new(config: ControllerConfig, seed: u64, now: Tick) -> Self {
        assert!(!config.journalnodes.is_empty(), "no JournalNodes");
        let book = LeaseBook::new(
            config.journalnodes.len(),
            config.lease_ttl_ms,
            config.planted,
        );
        let peers = config.peers.iter().cloned().map(Peer::new).collect();
        let mut controller = Self {
            phase: Phase::Follower,
            book,
            term: config.starts << 32,
            next_tag: 0,
            random: seed,
            observer: false,
            ready: true,
            barred: None,
            ordered: false,
            last_epoch: Epoch(0),
            peers,
            bad_probes: 0,
            reason: String::new(),
            yielded_until: Tick(0),
            yielded_by_order: false,
            yields: 0,
            backoff_until: now,
            ask_at: now,
            renew_at: Tick::NEVER,
            ready_at: Tick::NEVER,
            reachable_since: None,
            vacant_since: None,
            other_renewed: None,
            pending: None,
            outputs: VecDeque::new(),
            config,
        };
        controller.advance(now);
        controller
    }

    /// A JournalNode answered.
    pub fn handle_reply(
        &mut self,
        now: Tick,
        jn: Jn,
        id: CallTag,
        outcome: Result<Response, Fault>,
    ) {
        self.note_lapse(now);
        let Some(sent) = self.book.take(jn, id) else {
            return;
        };
        let ours = sent.lease && sent.term == self.term;
        match outcome {
            Ok(response) => {
                let (granted, refusal, view) = match response {
                    Response::Granted { view } => (true, None, view),
                    Response::Refused { refusal, view } => (false, Some(refusal), view),
                    Response::View { view } => (false, None, view),
                };
                self.note_renewal(now, &view);
                let too_early = refusal.as_ref().is_some_and(|it| is_too_early(it, &view));
                let link = &mut self.book.links[jn];
                if ours {
                    link.too_early = too_early;
                }
                link.heard = Some((now, view));
                link.trouble = None;
                if granted && ours && self.wants_renewal(now) {
                    let counted = if self.config.planted.count_from_receive {
                        now
                    } else {
                        sent.at
                    };
                    self.book.granted(jn, counted);
                }
                if let Some(refusal) = refusal {
                    self.refused(jn, ours, refusal);
                }
            }
            Err(fault) => {
                let link = &mut self.book.links[jn];
                link.trouble = Some(fault.message);
                link.heard = None;
                link.refused |= ours;
            }
        }
        self.advance(now);
    }

    /// A lease with that much left was renewed a ttl before it ends.
    fn note_renewal(&mut self, now: Tick, view: &ActiveView) {
        if !view.holder.is_empty() && view.holder != self.config.name {
            let age_ms = u64::from(self.config.lease_ttl_ms.saturating_sub(view.left_ms));
            let renewed = Tick(now.0.saturating_sub(age_ms * 1_000_000));
            self.other_renewed = self.other_renewed.max(Some(renewed));
        }
    }

    /// When another NameNode last renewed its lease, as JournalNodes told: about when it was last alive, if it died.
    /// For logs; `None` when no other was heard of.
    #[must_use]
    pub fn other_renewed(&self) -> Option<Tick> {
        self.other_renewed
    }

    fn refused(&mut self, jn: Jn, ours: bool, refusal: Refusal) {
        if let Refusal::Stale { term, .. } = refusal {
            if term > self.term {
                // The start count went back: catch up, or this NameNode would never be heard again.
                self.book.links[jn].refused = true;
                if matches!(self.phase, Phase::Follower | Phase::Asking { .. }) {
                    self.next_term_above(term);
                }
            }
            return;
        }
        if ours {
            self.book.links[jn].refused = true;
        }
    }

    /// A call found no way, or no answer came.
    pub fn handle_call_failed(&mut self, now: Tick, jn: Jn, id: CallTag, reason: &str) {
        self.note_lapse(now);
        if let Some(sent) = self.book.take(jn, id) {
            let link = &mut self.book.links[jn];
            link.trouble = Some(reason.to_string());
            link.refused |= sent.lease && sent.term == self.term;
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.note_lapse(now);
        self.advance(now);
    }

    /// The claim is about to ask for promises for `epoch`; again when it proposes a higher one. To be told before
    /// the message leaves: from now on every renewal carries it. Telling it once more, for each JournalNode or for one
    /// that is asked late, changes nothing.
    pub fn handle_claiming(&mut self, now: Tick, epoch: Epoch) {
        self.note_lapse(now);
        if let Phase::Claiming { epoch: ours, .. } = self.phase
            && epoch > ours
        {
            self.phase = Phase::Claiming {
                epoch,
                claimed: false,
            };
            self.renew_at = now;
        }
        self.advance(now);
    }

    /// A majority promised `epoch` and the tail of the log is decided; the NameNode reads and applies it.
    pub fn handle_claimed(&mut self, now: Tick, epoch: Epoch) {
        self.note_lapse(now);
        if let Phase::Claiming { epoch: ours, .. } = self.phase
            && (ours == epoch || self.config.leaseless())
        {
            self.phase = Phase::Claiming {
                epoch,
                claimed: true,
            };
            self.last_epoch = epoch;
        }
        self.advance(now);
    }

    /// The claim came to nothing, or what was claimed could not be applied: the grants are given back at once.
    pub fn handle_claim_failed(&mut self, now: Tick, reason: &str) {
        self.note_lapse(now);
        if let Phase::Claiming { .. } = self.phase {
            self.give_claim_up(now, reason);
        }
        self.advance(now);
    }

    fn give_claim_up(&mut self, now: Tick, reason: &str) {
        self.release(now, None);
        self.phase = Phase::Follower;
        self.back_off(now);
        self.activation_failed(reason);
    }

    /// Everything is applied: calls may be answered in `epoch` from now on, if [`Controller::may_serve`] says so.
    /// False when the lease lapsed meanwhile ([`Output::StepDown`] waits): this claim serves nothing.
    pub fn handle_serving(&mut self, now: Tick, epoch: Epoch) -> bool {
        self.note_lapse(now);
        let claimed = Phase::Claiming {
            epoch,
            claimed: true,
        };
        let serves = self.phase == claimed;
        if serves {
            self.phase = Phase::Serving { epoch, since: now };
            self.renew_at = now;
            self.activated();
        } else if let Phase::Claiming { .. } = self.phase {
            // Not the claim that was told of: nothing of it may serve.
            self.give_claim_up(now, "another epoch than the claimed one was to serve");
        }
        self.advance(now);
        serves
    }

    /// The driver serves nothing any more and commits nothing: after StepDown or HandOver, or by itself.
    pub fn handle_resigned(&mut self, now: Tick) {
        self.note_lapse(now);
        let hand_over = match self.phase {
            Phase::Resigning { hand_over, .. } => hand_over,
            Phase::Claiming { .. } | Phase::Serving { .. } => None,
            Phase::Follower | Phase::Asking { .. } => return,
        };
        let to = hand_over.map(|peer| self.peers[peer].name.clone());
        self.release(now, to.as_deref());
        self.phase = Phase::Follower;
        self.back_off(now);
        self.resigned(now, hand_over);
        self.advance(now);
    }

    /// When [`Controller::handle_timeout`] must be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Tick {
        let phase = match self.phase {
            _ if self.config.leaseless() => match self.phase {
                Phase::Follower => self.ready_at,
                _ => Tick::NEVER,
            },
            Phase::Follower => self.ask_at.min(self.ready_at),
            Phase::Asking { until } => self.ask_at.min(until).min(self.renew_at),
            Phase::Claiming { .. } | Phase::Serving { .. } => {
                let end = self.book.end().unwrap_or(Tick(0));
                match self.config.planted.resume_after_lapse {
                    true => self.renew_at,
                    false => self.renew_at.min(end),
                }
            }
            Phase::Resigning {
                hand_over: Some(_),
                until,
                ..
            } if self.renew_at < until => self.ask_at.min(self.renew_at),
            Phase::Resigning { .. } => self.ask_at,
        };
        let hand_over = match self.phase {
            Phase::Resigning {
                hand_over: Some(_),
                until,
                ..
            } => until,
            _ => Tick::NEVER,
        };
        phase
            .min(hand_over)
            .min(self.health_timeout())
            .min(self.command_timeout())
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether a majority of grants is believed to run at `now`. Alone: always.
    #[must_use]
    pub fn holds_lease(&self, now: Tick) -> bool {
        match self.phase {
            Phase::Claiming { .. } | Phase::Serving { .. } => self.lease_runs(now),
            Phase::Follower | Phase::Asking { .. } | Phase::Resigning { .. } => false,
        }
    }

    /// Whether what was evaluated, or is evaluated in the same synchronous step, in serving epoch `epoch` may be
    /// answered. To be asked after the request was read; never check, await, then evaluate.
    #[must_use]
    pub fn may_serve(&self, now: Tick, epoch: Epoch) -> bool {
        match self.phase {
            Phase::Serving { epoch: ours, .. } => ours == epoch && self.lease_runs(now),
            Phase::Resigning { epoch: ours, .. } => {
                self.config.planted.serve_while_releasing && ours == epoch && self.lease_runs(now)
            }
            Phase::Follower | Phase::Asking { .. } | Phase::Claiming { .. } => false,
        }
    }

    /// Whether it asks for the lease, or holds it and claims the journal: soon active, or not.
    #[must_use]
    pub fn is_standing(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. } | Phase::Claiming { .. })
    }

    /// The epoch served in; `None` unless it serves (the lease may have lapsed unnoticed: ask
    /// [`Controller::may_serve`]).
    #[must_use]
    pub fn serving_epoch(&self) -> Option<Epoch> {
        match self.phase {
            Phase::Serving { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// Until when the lease may be believed in, on this machine's clock.
    #[must_use]
    pub fn lease_end(&self) -> Option<Tick> {
        match self.phase {
            Phase::Claiming { .. } | Phase::Serving { .. } if self.config.leaseless() => {
                Some(Tick::NEVER)
            }
            Phase::Claiming { .. } | Phase::Serving { .. } => self.book.end(),
            Phase::Follower | Phase::Asking { .. } | Phase::Resigning { .. } => None,
        }
    }

    /// What this NameNode is: active once it serves.
    #[must_use]
    pub fn state(&self) -> HaState {
        match self.phase {
            Phase::Serving { .. } => HaState::Active,
            _ if self.observer => HaState::Observer,
            _ => HaState::Standby,
        }
    }

    /// Whether a majority of JournalNodes answered within the last ttl. Without one a pair answers
    /// `JournalUnavailable` naming [`Controller::silent_journalnodes`], else `Standby` with
    /// [`Controller::active_hint`].
    #[must_use]
    pub fn journal_reachable(&self, now: Tick) -> bool {
        self.book.fresh(now, self.ttl()).count() >= self.book.majority()
    }

    /// JournalNodes that have not answered for a ttl, with what is known about why.
    #[must_use]
    pub fn silent_journalnodes(&self, now: Tick) -> Vec<(String, String)> {
        let fresh = |at: Tick| now < at.after_ms(self.ttl());
        let links = self.config.journalnodes.iter().zip(&self.book.links);
        links
            .filter(|(_, link)| !link.heard.as_ref().is_some_and(|(at, _)| fresh(*at)))
            .map(|(name, link)| {
                let reason = link.trouble.clone();
                (name.clone(), reason.unwrap_or_else(|| "no answer".into()))
            })
            .collect()
    }

    /// Who is active according to the JournalNodes that answered lately: the one of the newest epoch.
    #[must_use]
    pub fn active_hint(&self, now: Tick) -> Option<ActiveHint> {
        if let Phase::Serving { epoch, .. } = self.phase
            && self.lease_runs(now)
        {
            return Some(ActiveHint {
                name: self.config.name.clone(),
                epoch,
                serving: true,
            });
        }
        self.other_active(now)
    }

    /// As [`Controller::active_hint`], of the others.
    fn other_active(&self, now: Tick) -> Option<ActiveHint> {
        let held = |(at, view): &(Tick, &hadal_proto::election::ActiveView)| {
            !view.holder.is_empty()
                && view.holder != self.config.name
                && now < at.after_ms(u64::from(view.left_ms))
        };
        let views = self.book.fresh(now, self.ttl()).filter(held);
        let newest = views.max_by_key(|(at, view)| (view.epoch, view.serving, *at));
        newest.map(|(_, view)| ActiveHint {
            name: view.holder.clone(),
            epoch: view.epoch,
            serving: view.serving,
        })
    }

    /// One line for operators: where it stands and why.
    #[must_use]
    pub fn state_line(&self, now: Tick) -> String {
        let left = |controller: &Self| {
            let end = controller.lease_end().unwrap_or(Tick(0));
            match end {
                Tick::NEVER if self.config.alone => "alone, no lease needed".to_string(),
                Tick::NEVER => "without a lease, on a shared directory".to_string(),
                end => format!("{} ms of the lease left", end.ms_since(now)),
            }
        };
        let mut line = match self.phase {
            Phase::Serving { epoch, .. } => format!("active in epoch {epoch}, {}", left(self)),
            Phase::Claiming { epoch, .. } => {
                format!("claiming the journal in epoch {epoch}, {}", left(self))
            }
            Phase::Resigning { .. } => "leaving the active role".to_string(),
            Phase::Asking { .. } => "asking the JournalNodes for the active lease".to_string(),
            Phase::Follower if self.observer => "observer".to_string(),
            Phase::Follower => "standby".to_string(),
        };
        if !matches!(self.phase, Phase::Serving { .. }) {
            match self.other_active(now) {
                Some(active) if active.serving => line += &format!(", {} is active", active.name),
                Some(active) => line += &format!(", {} is becoming active", active.name),
                None => line += ", nobody is known to be active",
            }
        }
        if !self.is_healthy() {
            line += &format!(", unhealthy: {}", self.reason);
        }
        if let Some(reason) = &self.barred {
            line += &format!(", not to become active: {reason}");
        }
        let silent = self.silent_journalnodes(now);
        if !self.config.leaseless() && !silent.is_empty() {
            line += ", JournalNodes not heard:";
            for (name, reason) in silent {
                line += &format!(" {name} ({reason})");
            }
        }
        line
    }

    fn ttl(&self) -> u64 {
        u64::from(self.config.lease_ttl_ms)
    }

    fn lease_runs(&self, now: Tick) -> bool {
        self.config.leaseless() || self.book.end().is_some_and(|end| now < end)
    }
}

/// Whether a refusal says no more than that something has not run out yet: the lease of one that served, a reservation, a
/// silence. A lease of one that does not serve is another candidate's.
fn is_too_early(refusal: &Refusal, view: &ActiveView) -> bool {
    let runs = match refusal {
        Refusal::Held => view.serving,
        Refusal::Reserved | Refusal::Silence => true,
        Refusal::OwnerFirst | Refusal::BelowPromise | Refusal::Stale { .. } => false,
    };
    runs && view.free_in_ms > 0
}
