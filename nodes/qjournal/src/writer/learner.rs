//! The writer's part in a learner's return (protocols.md section 1, "How a learner returns"; T-N7).
//!
//! A JournalNode that answers that it is a learner is sent the newest segment like any other, but its acks count for
//! nothing. Once they reach everything that was sent to anybody when it was first seen, it is asked to vote again, and
//! asked again until it has copied the older segments from its peers. The first time it is asked before anything is sent:
//! it takes the stream only from a writer that knows.

use super::link::{Asked, Stage};
use super::{Jn, Phase, Writer};
use hadal_proto::qjournal::Call;
use hadal_proto::{Fault, FaultClass};
use hadal_types::Tick;

/// Pause before a learner that said "not yet" is asked again.
const LEARNER_RETRY_MS: u64 = 500;

impl Writer {
    /// Takes note of a learner's refusal while writing; `false` when it is none.
    pub(super) fn refused_by_learner(
        &mut self,
        now: Tick,
        jn: Jn,
        asked: Asked,
        fault: &Fault,
    ) -> bool {
        if !matches!(self.phase, Phase::Writing(_)) {
            return false;
        }
        let link = &mut self.links[jn];
        match (asked, fault.class) {
            (Asked::EndLearning, FaultClass::Learner) => {
                link.declared = true;
                link.teach_at = Some(now.after_ms(LEARNER_RETRY_MS));
            }
            // An old image holds some of the segment; its stream tells where to go on.
            (Asked::StartSegment(number), FaultClass::AlreadyExists | FaultClass::OutOfSync)
                if link.learner && link.segment == number && self.config.catch_up =>
            {
                link.stage = Stage::Open;
            }
            (_, FaultClass::Learner) => self.learner_found(now, jn),
            _ => return false,
        }
        true
    }

    /// A JournalNode is a learner, or is not ready for the stream yet.
    pub(super) fn learner_found(&mut self, now: Tick, jn: Jn) {
        let link = &mut self.links[jn];
        link.retry_at = Some(now.after_ms(LEARNER_RETRY_MS));
        // It may have started again since it was told.
        (link.declared, link.teach_at) = (false, None);
        if link.forgot() {
            // Older segments come from its peers.
            self.skip_to_newest(jn);
        }
    }

    /// Asks a learner that has everything to vote again, and tells one that nobody told yet that this writer knows it.
    /// `false` when there is nothing to ask.
    pub(super) fn teach(&mut self, jn: Jn) -> bool {
        let Phase::Writing(log) = &self.phase else {
            return false;
        };
        let link = &mut self.links[jn];
        let newest = log.newest();
        let Some(segment) = log.segment(newest).filter(|_| link.learner) else {
            return false;
        };
        if link.stage == Stage::Unstarted {
            // Another one began meanwhile; older ones come from its peers.
            link.segment = newest;
        }
        let upto = *link.goal.get_or_insert(log.appended.txid);
        let open = link.segment == newest && link.stage == Stage::Open;
        let has_all = open && link.acked.max(segment.before.txid) >= upto;
        if link.teach_at.is_some() || (link.declared && !has_all) {
            return false;
        }
        let call = Call::EndLearning {
            epoch: self.epoch,
            segment: segment.first(),
            upto,
        };
        self.ask(jn, Asked::EndLearning, call);
        true
    }

    /// The start of the segment is not in memory any more: a learner can join in the next one, so there will be one.
    /// `false` when this JournalNode is none, or that would not help.
    pub(super) fn roll_for_learner(&mut self, now: Tick, jn: Jn) -> bool {
        let Phase::Writing(log) = &mut self.phase else {
            return false;
        };
        let link = &self.links[jn];
        let newest = log.newest();
        if !link.learner || link.segment != newest || link.goal.is_none() || !log.is_started() {
            return false;
        }
        if log.finishing || link.acked > log.segment(newest).map_or(link.acked, |s| s.before.txid) {
            return false;
        }
        let _ = log.roll(now);
        // The window keeps everything a learner has not acknowledged, so this happens once.
        self.skip_to_newest(jn);
        true
    }
}
