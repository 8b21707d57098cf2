//! Claim and recovery (F-04, T-Q5..T-Q12).

use super::link::Asked;
use super::{ClaimError, Event, Jn, Output, Phase, Writer};
use crate::Planted;
use crate::recovery::{Decision, decide};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use hadal_proto::qjournal::{
    Call, CommitMark, Incarnation, JournalState, PeerCount, Prepared, Promise, Response,
    SegmentState, Standing,
};
use hadal_types::{Epoch, Tick, TxId};

/// Where a claim stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Step {
    /// Asking what was promised.
    States,
    /// Asking for promises.
    Promises,
    /// Asking what there is of the last segment.
    Prepare,
    /// Making a majority hold the decided content.
    Accept,
    /// Making a majority finalise it.
    Finalize,
}

/// A claim under way.
#[derive(Clone, Hash, Debug)]
pub(super) struct Claim {
    step: Step,
    pub(super) deadline: Tick,
    states: Vec<Option<JournalState>>,
    promises: Vec<Option<Promise>>,
    prepared: Vec<Option<Prepared>>,
    accepted: Vec<bool>,
    finalized: Vec<bool>,
    /// Newest incarnation of each JournalNode that any answer knows of.
    newest: BTreeMap<String, Incarnation>,
    /// First txid of the segment being recovered.
    first: TxId,
    target: Option<(SegmentState, Vec<Jn>)>,
}

impl Claim {
    pub(super) fn new(nodes: usize, deadline: Tick) -> Self {
        Self {
            step: Step::States,
            deadline,
            states: vec![None; nodes],
            promises: vec![None; nodes],
            prepared: vec![None; nodes],
            accepted: vec![false; nodes],
            finalized: vec![false; nodes],
            newest: BTreeMap::new(),
            first: TxId(0),
            target: None,
        }
    }

    fn learn(&mut self, name: &str, incarnation: Incarnation, known: &[PeerCount]) {
        let own = PeerCount {
            name: name.to_string(),
            incarnation,
        };
        for count in known.iter().chain([&own]) {
            let newest = self.newest.entry(count.name.clone()).or_default();
            *newest = (*newest).max(count.incarnation);
        }
    }

    /// An answer counts unless another one knows a newer life of its sender (R1).
    fn current(&self, name: &str, incarnation: Incarnation) -> bool {
        self.newest
            .get(name)
            .is_none_or(|newest| incarnation.count >= newest.count)
    }

    /// Answers that do not count any more are asked for again: counts also rise within a life (at every promise, and
    /// every second while acknowledging), and only the node itself can tell that from a wipe. One that lives answers
    /// with its new count; one that forgot refuses.
    fn drop_outdated(&mut self, names: &[String]) {
        for (jn, name) in names.iter().enumerate() {
            if let Some(promise) = &self.promises[jn]
                && !self.current(name, promise.incarnation)
            {
                self.promises[jn] = None;
            }
            if let Some(prepared) = &self.prepared[jn]
                && !self.current(name, prepared.incarnation)
            {
                self.prepared[jn] = None;
            }
        }
    }
}

impl Writer {
    pub(super) fn drive_claim(&mut self) {
        loop {
            if let Some(fenced) = self.hopeless() {
                let error = self.hopeless_claim(fenced);
                self.claim_failed(error);
                return;
            }
            match self.advance_claim() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.claim_failed(error);
                    return;
                }
            }
        }
        if matches!(self.phase, Phase::Claiming(_)) {
            for jn in 0..self.links.len() {
                self.ask_claim(jn);
            }
        }
    }

    fn hopeless_claim(&self, fenced: Option<Epoch>) -> ClaimError {
        for (name, link) in self.config.journalnodes.iter().zip(&self.links) {
            if let Some(trouble) = link.trouble.as_ref().filter(|trouble| trouble.foreign) {
                return ClaimError::IdentityMismatch {
                    journalnode: name.clone(),
                    message: trouble.message.clone(),
                };
            }
        }
        match fenced {
            Some(by) => ClaimError::Fenced { by },
            None => ClaimError::NoMajority {
                reasons: self.reasons("no answer yet"),
            },
        }
    }

    pub(super) fn claim_failed(&mut self, error: ClaimError) {
        self.leave(Phase::Idle);
        self.outputs
            .push_back(Output::Event(Event::ClaimFailed { error }));
    }

    /// Goes to the next step when the present one is done.
    fn advance_claim(&mut self) -> Result<bool, ClaimError> {
        let enough = self.majority();
        let nodes = self.links.len();
        let Phase::Claiming(claim) = &mut self.phase else {
            return Ok(false);
        };
        let deciding = matches!(claim.step, Step::Promises | Step::Prepare);
        if deciding && !self.config.planted.count_old_incarnations {
            claim.drop_outdated(&self.config.journalnodes);
        }
        let promised = claim.promises.iter().flatten().count();
        match claim.step {
            Step::States => {
                let states = claim.states.iter().flatten();
                if states.clone().count() < enough {
                    return Ok(false);
                }
                let seen = states.map(|state| state.promised).max().unwrap_or_default();
                self.highest = self.highest.max(seen);
                self.epoch = self.highest.next();
                self.highest = self.epoch;
                claim.step = Step::Promises;
                Ok(true)
            }
            Step::Promises => {
                if promised < enough {
                    return Ok(false);
                }
                let promises = claim.promises.iter().flatten();
                match promises.filter_map(|promise| promise.last_segment).max() {
                    Some(first) => {
                        claim.first = first;
                        claim.step = Step::Prepare;
                        Ok(true)
                    }
                    None => {
                        self.recovered(CommitMark::default());
                        Ok(false)
                    }
                }
            }
            Step::Prepare => {
                // A late promise may know a newer segment.
                let promises = claim.promises.iter().flatten();
                let newest = promises.filter_map(|promise| promise.last_segment).max();
                if let Some(newest) = newest.filter(|newest| *newest > claim.first) {
                    claim.first = newest;
                    claim.prepared.fill(None);
                }
                if promised < enough {
                    // An answer revealed that a promise may have been given in an earlier life: it is asked for again.
                    return Ok(false);
                }
                let answers: Vec<(Jn, &Prepared)> = claim
                    .prepared
                    .iter()
                    .enumerate()
                    .filter_map(|(jn, prepared)| Some((jn, prepared.as_ref()?)))
                    .collect();
                let unanswered = claim.prepared.iter().zip(&self.links);
                let troubles = unanswered
                    .filter(|(prepared, _)| prepared.is_none())
                    .filter_map(|(_, link)| link.trouble.as_ref());
                let forgot = troubles.filter(|trouble| trouble.forgot).count();
                match decide(claim.first, nodes, &answers, forgot, self.config.planted) {
                    Decision::Wait(_) => {
                        let unanswered = claim.prepared.iter().zip(&self.links);
                        let hopeful = unanswered
                            .filter(|(prepared, _)| prepared.is_none())
                            .any(|(_, link)| link.trouble.is_none());
                        if hopeful {
                            return Ok(false);
                        }
                        // Nobody else will answer this claim; a higher one may be answered by all.
                        let troubles = self.links.iter().filter_map(|link| link.trouble.as_ref());
                        let fenced = troubles.filter_map(|trouble| trouble.fenced_by).max();
                        Err(self.hopeless_claim(fenced))
                    }
                    Decision::Contradiction(message) => Err(ClaimError::Contradiction {
                        first: claim.first,
                        message,
                    }),
                    Decision::Drop { digest_before } => {
                        let txid = TxId(claim.first.0 - 1);
                        self.recovered(CommitMark {
                            txid,
                            digest: digest_before,
                        });
                        Ok(false)
                    }
                    Decision::Keep { segment, sources } => {
                        claim.target = Some((segment, sources));
                        claim.step = Step::Accept;
                        Ok(true)
                    }
                }
            }
            Step::Accept => {
                if claim.accepted.iter().filter(|accepted| **accepted).count() < enough {
                    return Ok(false);
                }
                claim.step = Step::Finalize;
                Ok(true)
            }
            Step::Finalize => {
                if claim.finalized.iter().filter(|done| **done).count() < enough {
                    return Ok(false);
                }
                let (segment, _) = claim.target.as_ref().expect("set before accepting");
                let end = CommitMark {
                    txid: segment.last,
                    digest: segment.digest_end,
                };
                self.recovered(end);
                Ok(false)
            }
        }
    }

    fn recovered(&mut self, end: CommitMark) {
        self.phase = Phase::Recovered(end);
        self.outputs.push_back(Output::Event(Event::Recovered {
            epoch: self.epoch,
            end,
        }));
    }

    /// Asks for the promise of the claimed epoch.
    pub(super) fn ask_promise(&mut self, jn: Jn) {
        let call = Call::NewEpoch {
            info: self.info.clone(),
            epoch: self.epoch,
            claim: self.claim_id,
        };
        self.ask(jn, Asked::NewEpoch, call);
    }

    /// Asks one JournalNode for what it has not answered yet.
    fn ask_claim(&mut self, jn: Jn) {
        if !self.links[jn].may_ask() {
            return;
        }
        let epoch = self.epoch;
        let Phase::Claiming(claim) = &self.phase else {
            return;
        };
        if claim.step == Step::States {
            if claim.states[jn].is_none() {
                self.ask(jn, Asked::GetState, Call::GetState);
            }
            return;
        }
        if claim.promises[jn].is_none() {
            self.ask_promise(jn);
            return;
        }
        let first = claim.first;
        match (claim.step, &claim.target) {
            (Step::Prepare, _) if claim.prepared[jn].is_none() => {
                self.ask(jn, Asked::Prepare, Call::PrepareRecovery { epoch, first });
            }
            (Step::Accept | Step::Finalize, Some((segment, sources))) if !claim.accepted[jn] => {
                // The node itself when it holds the content: nothing to copy.
                let source = if sources.contains(&jn) {
                    jn
                } else {
                    sources[0]
                };
                let call = Call::AcceptRecovery {
                    epoch,
                    segment: *segment,
                    source: self.config.journalnodes[source].clone(),
                };
                self.ask(jn, Asked::Accept, call);
            }
            (Step::Finalize, Some((segment, _))) if !claim.finalized[jn] => {
                let call = Call::FinalizeSegment {
                    epoch,
                    first,
                    last: segment.last,
                    digest: segment.digest_end,
                };
                self.ask(jn, Asked::Finalize, call);
            }
            _ => {}
        }
    }

    pub(super) fn claim_answered(&mut self, jn: Jn, asked: Asked, response: Response) {
        let Phase::Claiming(claim) = &mut self.phase else {
            return;
        };
        let name = &self.config.journalnodes[jn];
        match (asked, response) {
            (Asked::GetState, Response::State { state }) => {
                if let Some(message) =
                    refuse_state(&state, self.info.namespace_id, self.config.planted)
                {
                    let forgot = state.info.is_none() || state.standing == Standing::Learner;
                    self.links[jn].trouble = Some(super::Trouble {
                        foreign: !forgot,
                        forgot,
                        ..super::Trouble::new(message)
                    });
                    return;
                }
                claim.states[jn] = Some(state);
            }
            (Asked::NewEpoch, Response::Promised { promise }) if promise.epoch == self.epoch => {
                claim.learn(name, promise.incarnation, &promise.known);
                claim.promises[jn] = Some(promise);
                self.links[jn].promised = true;
            }
            (Asked::Prepare, Response::Prepared { prepared }) => {
                claim.learn(name, prepared.incarnation, &prepared.known);
                // The answer to an older question, asked before a late promise told of a newer segment, is no answer.
                if prepared.first == claim.first {
                    claim.prepared[jn] = Some(prepared);
                }
            }
            (Asked::Accept, Response::Done) => claim.accepted[jn] = true,
            (Asked::Finalize, Response::Done) => claim.finalized[jn] = true,
            (asked, response) => {
                let message = format!("answered {asked:?} with {}", response.name());
                self.links[jn].trouble = Some(super::Trouble::new(message));
            }
        }
    }
}

/// Why a node in this state cannot take part, if so.
fn refuse_state(state: &JournalState, namespace_id: u64, planted: Planted) -> Option<String> {
    let Some(info) = &state.info else {
        return Some("not formatted".to_string());
    };
    if info.namespace_id != namespace_id {
        return Some(format!(
            "it holds namespace {}, not {namespace_id}",
            info.namespace_id
        ));
    }
    (state.standing == Standing::Learner && !planted.learner_votes).then(|| {
        "learner: it may have forgotten promises (wiped, or an old disk image) and does not vote".to_string()
    })
}
