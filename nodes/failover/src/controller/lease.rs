//! What the JournalNodes acknowledged, and how long it lasts.

use super::output::{CallTag, Jn};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::election::ActiveView;
use hadal_types::{Epoch, Tick};

/// Calls on their way to one JournalNode; the oldest is forgotten for one more, its answer is ignored then.
const CALLS_CAP: usize = 8;

/// One JournalNode as the controller sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Link {
    /// Send time of the newest acknowledged lease request of the present term.
    pub(super) acked: Option<Tick>,
    /// It was asked for the lease in the present term.
    pub(super) asked: bool,
    /// It refused in the present round.
    pub(super) refused: bool,
    /// ... because what keeps others from the lease has not run out there yet, and nobody else asks for it.
    pub(super) too_early: bool,
    /// When its last answer came, and what it said.
    pub(super) heard: Option<(Tick, ActiveView)>,
    /// What is wrong with it.
    pub(super) trouble: Option<String>,
}

/// A call on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sent {
    pub(super) jn: Jn,
    pub(super) term: u64,
    /// When it left.
    pub(super) at: Tick,
    /// A lease request; else a release or a question.
    pub(super) lease: bool,
}

/// The lease as the holder may count it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct LeaseBook {
    pub(super) links: Vec<Link>,
    sent: BTreeMap<CallTag, Sent>,
    /// How long a grant counts here, in nanoseconds: 0.90 of the ttl. With both clocks off by 5 % the bound is 0.905.
    counted_ns: u64,
    newest_counts: bool,
}

impl LeaseBook {
    pub(super) fn new(nodes: usize, ttl_ms: u32, planted: crate::Planted) -> Self {
        let percent = if planted.whole_ttl { 100 } else { 90 };
        Self {
            links: (0..nodes).map(|_| Link::default()).collect(),
            sent: BTreeMap::new(),
            counted_ns: u64::from(ttl_ms) * 10_000 * percent,
            newest_counts: planted.newest_ack_counts,
        }
    }

    pub(super) fn majority(&self) -> usize {
        self.links.len() / 2 + 1
    }

    /// Forgets all grants: whatever comes next is of a new term.
    pub(super) fn start_term(&mut self) {
        for link in &mut self.links {
            link.acked = None;
            link.asked = false;
            link.refused = false;
            link.too_early = false;
        }
    }

    pub(super) fn note_sent(&mut self, tag: CallTag, sent: Sent) {
        let to_jn = |it: &(&CallTag, &Sent)| it.1.jn == sent.jn;
        if self.sent.iter().filter(to_jn).count() >= CALLS_CAP {
            let oldest = self.sent.iter().find(to_jn).map(|(tag, _)| *tag);
            if let Some(oldest) = oldest {
                self.sent.remove(&oldest);
            }
        }
        self.links[sent.jn].asked |= sent.lease;
        self.sent.insert(tag, sent);
    }

    /// The call whose outcome arrived; `None` for one that is forgotten or known already.
    pub(super) fn take(&mut self, jn: Jn, tag: CallTag) -> Option<Sent> {
        if self.sent.get(&tag)?.jn != jn {
            return None;
        }
        self.sent.remove(&tag)
    }

    /// A grant: the lease counts from when the request left.
    pub(super) fn granted(&mut self, jn: Jn, sent_at: Tick) {
        let link = &mut self.links[jn];
        link.acked = link.acked.max(Some(sent_at));
        link.refused = false;
    }

    /// Until when the lease may be believed in; `None` without a majority. Counted from the (f+1)-th newest
    /// acknowledged send: up to then a majority of JournalNodes grants nobody else.
    pub(super) fn end(&self) -> Option<Tick> {
        let mut acked: Vec<Tick> = self.links.iter().filter_map(|link| link.acked).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let counted = *acked.get(self.majority() - 1)?;
        let counted = if self.newest_counts {
            acked[0]
        } else {
            counted
        };
        Some(Tick(counted.0.saturating_add(self.counted_ns)))
    }

    /// JournalNodes that refused in this round.
    pub(super) fn refusals(&self) -> usize {
        self.links.iter().filter(|link| link.refused).count()
    }

    /// Whether those that refused did so only because it was too early.
    pub(super) fn came_too_early(&self) -> bool {
        let mut refused = self.links.iter().filter(|link| link.refused);
        refused.all(|link| link.too_early)
    }

    /// What those said that answered less than `window_ms` ago.
    pub(super) fn fresh(
        &self,
        now: Tick,
        window_ms: u64,
    ) -> impl Iterator<Item = (Tick, &ActiveView)> {
        self.links.iter().filter_map(move |link| {
            let (at, view) = link.heard.as_ref()?;
            (now < at.after_ms(window_ms)).then_some((*at, view))
        })
    }

    /// Highest epoch promised, as far as heard.
    pub(super) fn promised(&self) -> Epoch {
        let promises = self.links.iter().filter_map(|link| link.heard.as_ref());
        promises
            .map(|(_, view)| view.promised)
            .max()
            .unwrap_or_default()
    }
}
