//! How a node that may have forgotten promises votes again (protocols.md section 1, "How a learner returns"; T-N7, T-N8).
//!
//! 1. It hears of its namespace from its peers, when its disk is empty.
//! 2. Its peers durably know its new life ([`super::standing`]) and tell it their promises; f+1 *voters* told: it adopts
//!    the highest, durably, and again whenever they rise. From then on it takes the stream of the writer of exactly that
//!    epoch, once that writer has shown by a first `EndLearning` that it knows: it does not count the acks.
//! 3. It copies the finalised segments of those voters ([`super::sync`]).
//! 4. The writer, once its acks reach everything that was sent when the writer first saw it, ends the learning: the log
//!    here must be one chain from the oldest segment to there. It votes from the moment that is durable.

use super::{Acceptor, Ticket, fenced};
use crate::majority;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use hadal_proto::qjournal::{Incarnation, JournalState, Standing};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, NamespaceInfo, Tick, TxId};

/// A node that forgot goes this far above the highest count its peers know of its former life: raises the last of which
/// no peer heard (they happen at promises and once a second) are below its new counts, too.
const COUNT_GAP: u64 = 1 << 20;

/// What a learner has been told in this process's life.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Learning {
    /// Counts of this node from here on are of its new life.
    since: u64,
    /// The writer of this epoch has shown that it knows this node for a learner: it counts no ack of it.
    writer: Option<Epoch>,
    /// Promises of peers that vote and know the new life.
    promises: BTreeMap<String, Epoch>,
    /// Namespaces voters hold, for a node without one.
    namespaces: BTreeMap<String, NamespaceInfo>,
}

impl Acceptor {
    /// Somebody knows a life of this node that its disk does not remember.
    pub(super) fn forgot(&mut self, known: Incarnation) {
        if self.record.info.is_none() {
            return;
        }
        self.record.learner = true;
        self.record.count = self.record.count.max(known.count) + COUNT_GAP;
        self.start_learning();
        self.persist();
        self.gossip();
    }

    /// What was told to an earlier life does not count.
    pub(super) fn start_learning(&mut self) {
        self.learning = Learning {
            since: self.record.count,
            ..Learning::default()
        };
        self.sync.complete.clear();
    }

    /// A peer told its promise, and what it durably knows of this node.
    pub(super) fn told_promise(
        &mut self,
        peer: &str,
        standing: Standing,
        knows_me_as: Option<Incarnation>,
        promised: Epoch,
    ) {
        if !self.record.learner {
            return;
        }
        let knows_this_life = knows_me_as.is_some_and(|known| {
            known.uuid == self.record.uuid && known.count >= self.learning.since
        });
        if standing != Standing::Voter || !knows_this_life {
            self.learning.promises.remove(peer);
            return;
        }
        self.learning.promises.insert(peer.into(), promised);
        let highest = self.learning.promises.values().max().copied();
        if self.has_adopted()
            && let Some(highest) = highest.filter(|highest| *highest > self.record.promised)
        {
            self.record.promised = highest;
            self.record.promised_to = 0;
            self.persist();
        }
    }

    /// f+1 voters told it their promises; the highest is in its record.
    fn has_adopted(&self) -> bool {
        self.learning.promises.len() >= majority(self.config.peers.len() + 1)
    }

    /// A learner takes the stream of the writer whose epoch it adopted, once that writer knows what it is talking to:
    /// one that takes it for the voter it was would count its acks.
    pub(super) fn check_taught(&self, epoch: Epoch) -> Result<(), Fault> {
        self.check_adopted(epoch)?;
        if self.learning.writer == Some(epoch) || self.config.planted.learner_votes {
            return Ok(());
        }
        Err(self.still_learning("the writer is to say first that it knows"))
    }

    fn check_adopted(&self, epoch: Epoch) -> Result<(), Fault> {
        let promised = self.record.promised;
        if !self.has_adopted() && !self.config.planted.learner_votes {
            return Err(self.still_learning(&format!(
                "{} of {} JournalNodes have told it their promises",
                self.learning.promises.len(),
                majority(self.config.peers.len() + 1)
            )));
        }
        if epoch < promised {
            return Err(fenced(epoch, promised));
        }
        if epoch > promised {
            return Err(self.still_learning(&format!(
                "it has not heard of epoch {epoch} from its peers yet"
            )));
        }
        Ok(())
    }

    fn still_learning(&self, what: &str) -> Fault {
        Fault::new(
            FaultClass::Learner,
            format!(
                "JournalNode {} is a learner: it may have forgotten promises (wiped, or an old disk image) and does not vote; {what}",
                self.config.name
            ),
        )
    }

    /// The writer says that this node has everything: it votes from now on, if that is so.
    pub(super) fn end_learning(
        &mut self,
        now: Tick,
        ticket: Ticket,
        epoch: Epoch,
        segment: TxId,
        upto: TxId,
    ) {
        let outcome = match self.standing() {
            Standing::Voter => self.check_epoch(epoch),
            Standing::Unformatted | Standing::Unconfirmed => self.check_voter(),
            Standing::Learner => self.check_adopted(epoch).and_then(|()| {
                self.learning.writer = Some(epoch);
                self.check_learned(segment, upto)
            }),
        };
        if outcome.is_ok() && self.record.learner {
            self.record.learner = false;
            self.confirmation.confirmed = true;
            self.confirmation.retry_at = None;
            self.raise_count();
            self.persist();
            self.gossip();
            self.schedule_raise(now);
        }
        self.reply_done(ticket, epoch, outcome);
    }

    /// Everything the voters retain is here, finalised, and the writer's segment up to `upto`, in one chain.
    fn check_learned(&self, segment: TxId, upto: TxId) -> Result<(), Fault> {
        let told = self.learning.promises.keys();
        let missing = told.clone().find(|p| !self.sync.complete.contains(*p));
        if let Some(peer) = missing {
            let what = format!("it has not copied yet what {peer} has");
            return Err(self.still_learning(&what));
        }
        let mut end = None;
        for own in self.segments.iter() {
            let state = &own.state;
            let open = state.first == segment;
            let whole = state.doubtful_from.is_none() && (state.finalized || open);
            let chained = end.is_none_or(|end| end == (state.first, state.digest_before));
            if !whole || !chained || state.first > segment {
                let what = format!("segment {} does not continue its log", state.first);
                return Err(self.still_learning(&what));
            }
            end = Some((state.last.next(), state.digest_end));
        }
        let open = self.segments.get(segment).map(|own| &own.state);
        if open.is_none_or(|state| state.last < upto) {
            let what = format!("it lacks edits up to txid {upto}");
            return Err(self.still_learning(&what));
        }
        Ok(())
    }

    /// A wiped node learns whose journal it was part of: f+1 voters say the same, and claims have been made there. (A
    /// cluster that is being formatted formats this node, too.)
    pub(super) fn hear_of_namespace(&mut self, now: Tick, peer: usize, state: JournalState) {
        let peer = self.config.peers[peer].clone();
        match state.info {
            Some(info) if state.standing == Standing::Voter && state.promised > Epoch(0) => {
                self.learning.namespaces.insert(peer, info);
            }
            _ => {
                self.learning.namespaces.remove(&peer);
            }
        }
        let namespaces = &self.learning.namespaces;
        let Some(info) = namespaces.values().next() else {
            return;
        };
        let same = namespaces.values().filter(|other| *other == info).count();
        if same == namespaces.len() && same >= majority(self.config.peers.len() + 1) {
            let info = info.clone();
            self.make_fresh(now, info, false);
        }
    }
}
