//! Who may have forgotten something: counts and their exchange (protocols.md section 1, R1..R3).

use super::{Acceptor, Output, Parked, Ticket};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use hadal_proto::qjournal::{Call, Counts, Incarnation, PeerCount, Request, Response, Standing};
use hadal_proto::{Fault, FaultClass};
use hadal_types::Tick;

/// What the peers said about this node's count since its start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Confirmation {
    /// Enough of them confirmed it.
    pub(super) confirmed: bool,
    /// Per peer: it confirmed, or could not be reached.
    answers: BTreeMap<String, bool>,
    pub(super) retry_at: Option<Tick>,
}

impl Hash for Confirmation {
    /// Without the time of its timer.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.confirmed, &self.answers, self.retry_at.is_some()).hash(hasher);
    }
}

impl Acceptor {
    /// At start: a formatted node asks its peers what they know of it, with the count as its disk has it. Were it
    /// raised before, a peer's knowledge of a forgotten life and of this one could not be told apart.
    pub(super) fn start_confirming(&mut self, now: Tick) {
        if self.record.info.is_none() {
            return;
        }
        if self.config.peers.is_empty() {
            self.confirm();
            return;
        }
        self.gossip();
        self.confirmation.retry_at = Some(now.after_ms(self.config.peer_retry_ms));
    }

    /// Just formatted: an initial format knows of no other life; a learner tells its peers about its new one.
    pub(super) fn confirm_fresh(&mut self, now: Tick) {
        self.confirmation = Confirmation {
            confirmed: true,
            ..Confirmation::default()
        };
        if self.record.learner {
            self.gossip();
            self.confirmation.retry_at = Some(now.after_ms(self.config.peer_retry_ms));
        }
    }

    /// The disk is the newest one: a new life begins, durably before any of its words.
    fn confirm(&mut self) {
        self.confirmation.confirmed = true;
        self.confirmation.retry_at = None;
        self.raise_count();
        self.persist();
        self.gossip();
    }

    pub(super) fn retry_confirming(&mut self, now: Tick) {
        if self.confirmation.retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.confirmation.retry_at = None;
        let waits = match self.standing() {
            // A learner tells its peers of its new life, and hears when their promises rise.
            Standing::Unconfirmed | Standing::Learner => true,
            Standing::Unformatted | Standing::Voter => false,
        };
        if waits {
            self.gossip();
            self.confirmation.retry_at = Some(now.after_ms(self.config.peer_retry_ms));
        }
    }

    /// Tells the peers this node's count, once it is durable here.
    pub(super) fn gossip(&mut self) {
        let Some(info) = &self.record.info else {
            return;
        };
        let namespace_id = info.namespace_id;
        for peer in self.config.peers.clone() {
            let request = Request {
                namespace_id,
                call: Call::ExchangeCounts {
                    name: self.config.name.clone(),
                    incarnation: self.incarnation(),
                    standing: self.standing(),
                    known: self.record.known.clone(),
                },
            };
            self.park(Parked::Output(Output::Exchange { peer, request }));
        }
    }

    /// A peer answered an [`Output::Exchange`], or could not be reached (`None`).
    pub fn handle_counts(&mut self, _now: Tick, peer: &str, counts: Option<Counts>) {
        if self.stopped || !self.config.peers.iter().any(|name| name == peer) {
            return;
        }
        let Some(counts) = counts else {
            self.confirmation.answers.insert(peer.to_string(), false);
            self.judge_confirmation();
            return;
        };
        self.learn(peer, counts.incarnation, &counts.known);
        match counts.known_of_you {
            // Its new life must be told from the forgotten one: counts never fall, also across wipes.
            Some(known) if self.is_older_than(known) => self.forgot(known),
            // "I know nothing of you" is an answer, too.
            _ => {
                self.confirmation.answers.insert(peer.to_string(), true);
                self.judge_confirmation();
                let name = &self.config.name;
                let me = counts.known.iter().find(|known| known.name == *name);
                let knows_me_as = me.map(|known| known.incarnation);
                self.told_promise(peer, counts.standing, knows_me_as, counts.promised);
            }
        }
    }

    /// Somebody knows a life of this node that this disk does not remember.
    fn is_older_than(&self, known: Incarnation) -> bool {
        known.count > self.record.count
            || (known.count == self.record.count && known.uuid != self.record.uuid)
    }

    /// A node votes when every reachable peer, at least f, confirmed its count.
    fn judge_confirmation(&mut self) {
        let nodes = self.config.peers.len() + 1;
        let spare = nodes - crate::majority(nodes);
        let answers = &self.confirmation.answers;
        let confirmed = answers.values().filter(|confirmed| **confirmed).count();
        let all_asked = answers.len() == self.config.peers.len();
        if self.standing() == Standing::Unconfirmed && all_asked && confirmed >= spare {
            self.confirm();
        }
    }

    /// Takes over newer counts; durable before anything that is parked behind it.
    fn learn(&mut self, peer: &str, incarnation: Incarnation, known: &[PeerCount]) {
        let mut changed = self.record.learn(peer, incarnation);
        for count in known {
            if count.name == self.config.name {
                if self.is_older_than(count.incarnation) {
                    self.forgot(count.incarnation);
                }
            } else if self.config.peers.contains(&count.name) {
                changed |= self.record.learn(&count.name, count.incarnation);
            }
        }
        if changed {
            self.persist();
        }
    }

    /// Answered in any standing.
    pub(super) fn exchange_counts(
        &mut self,
        ticket: Ticket,
        name: &str,
        incarnation: Incarnation,
        known: &[PeerCount],
    ) {
        if !self.config.peers.iter().any(|peer| peer == name) {
            let fault = Fault::new(
                FaultClass::Forbidden,
                format!(
                    "{name} is not a peer of JournalNode {}; name it in the configuration",
                    self.config.name
                ),
            );
            self.reply(ticket, Err(fault));
            return;
        }
        let known_of_you = self.record.known_of(name);
        if self.record.info.is_some() {
            self.learn(name, incarnation, known);
        }
        let known: Vec<PeerCount> = self.record.known.clone();
        let counts = Counts {
            incarnation: self.incarnation(),
            standing: self.standing(),
            known_of_you,
            known,
            promised: self.record.promised,
        };
        self.reply(ticket, Ok(Response::Counts { counts }));
    }
}
