//! Copying finalised segments from peers (T-N5, T-N6, T-N8): what this node missed, and what rotted here.
//!
//! A finalised segment is decided: nothing else will ever stand in its place. So a peer's finalised segment may take the
//! place of a missing one, of one in progress here, and of a finalised one that cannot be read; never of a finalised one
//! that can. One manifest is asked for and one segment is copied at a time; a recovery's copy goes before.

use super::recover::{PendingFetch, Purpose};
use super::segments::Segment;
use super::{Acceptor, AskId, FetchId, LoadedSegment, Output, StoreOp};
use alloc::collections::BTreeSet;
use alloc::string::String;
use core::hash::{Hash, Hasher};
use hadal_proto::Fault;
use hadal_proto::qjournal::{Call, Manifest, Request, Response, SegmentState};
use hadal_types::{Tick, TxId};

/// Where the rounds over the peers are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sync {
    /// When the next peer is asked.
    pub(super) at: Option<Tick>,
    asked: Option<(AskId, usize)>,
    turn: usize,
    /// Peers whose finalised segments were all here when they were last asked.
    pub(super) complete: BTreeSet<String>,
    /// Segments wholly below were purged here: a peer that missed the purge does not bring them back.
    pub(super) purged_below: TxId,
    /// Copied so far.
    pub(super) copied: u64,
}

/// What is to be done about a peer's finalised segment.
enum Need {
    Nothing,
    /// The same is here, in progress.
    Finalize,
    Copy,
}

impl Sync {
    /// Another journal begins.
    pub(super) fn reset(&mut self) {
        *self = Self {
            at: self.at,
            ..Self::default()
        };
    }
}

impl Hash for Sync {
    /// What a round can still change; not when it comes, nor whose turn it is.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.complete, self.purged_below, self.asked.is_some()).hash(hasher);
    }
}

impl Acceptor {
    pub(super) fn start_sync(&mut self, now: Tick) {
        if !self.config.peers.is_empty() {
            self.sync.at = Some(now.after_ms(self.config.sync_interval_ms));
        }
    }

    /// Asks the peer whose turn it is, when it is time.
    pub(super) fn run_sync(&mut self, now: Tick) {
        if self.sync.at.is_none_or(|at| at > now) {
            return;
        }
        self.start_sync(now);
        if self.sync.asked.is_some() || self.fetch.is_some() {
            return;
        }
        let turn = self.sync.turn % self.config.peers.len();
        let request = match &self.record.info {
            Some(info) => Request {
                namespace_id: info.namespace_id,
                call: Call::GetManifest {
                    from: self.sync.purged_below.max(TxId(1)),
                    in_progress: false,
                },
            },
            // A wiped node asks whose journal it was part of.
            None => Request {
                namespace_id: 0,
                call: Call::GetState,
            },
        };
        let ask = AskId(self.next_ask);
        self.next_ask += 1;
        self.sync.asked = Some((ask, turn));
        self.outputs.push_back(Output::Ask {
            ask,
            peer: self.config.peers[turn].clone(),
            request,
        });
    }

    /// A peer answered an [`Output::Ask`], or could not be reached.
    pub fn handle_answer(&mut self, now: Tick, ask: AskId, outcome: Result<Response, Fault>) {
        let Some((_, turn)) = self.sync.asked.take_if(|(asked, _)| *asked == ask) else {
            return;
        };
        if self.stopped {
            return;
        }
        match outcome {
            Ok(Response::Manifest { manifest }) if self.record.info.is_some() => {
                self.compare(now, turn, &manifest);
            }
            Ok(Response::State { state }) if self.record.info.is_none() => {
                self.sync.turn = turn + 1;
                self.hear_of_namespace(now, turn, state);
            }
            _ => self.sync.turn = turn + 1,
        }
        self.serve_waiters(now);
    }

    fn compare(&mut self, now: Tick, turn: usize, manifest: &Manifest) {
        let peer = self.config.peers[turn].clone();
        let mut undone = false;
        for target in &manifest.segments {
            match self.need(target) {
                Need::Nothing => {}
                Need::Finalize => self.finalize_here(target),
                Need::Copy if self.fetch.is_none() => {
                    undone = true;
                    let id = self.next_fetch_id();
                    self.fetch = Some(PendingFetch {
                        id,
                        purpose: Purpose::Sync,
                        segment: *target,
                    });
                    self.outputs.push_back(Output::Fetch {
                        fetch: id,
                        source: peer.clone(),
                        segment: *target,
                    });
                }
                Need::Copy => undone = true,
            }
        }
        if undone {
            // The same peer again, until everything it has is here.
            self.sync.complete.remove(&peer);
        } else {
            self.sync.complete.insert(peer);
            self.sync.turn = turn + 1;
        }
        if self.fetch.is_none() {
            self.start_sync(now);
        }
    }

    fn need(&self, target: &SegmentState) -> Need {
        let usable = target.finalized && target.doubtful_from.is_none();
        if !usable || target.last < target.first || target.last < self.sync.purged_below {
            return Need::Nothing;
        }
        if let Some(own) = self.segments.get(target.first) {
            let state = &own.state;
            if state.finalized {
                return if state.doubtful_from.is_some() || own.damaged {
                    self.need_of_chained(target)
                } else {
                    Need::Nothing
                };
            }
            if state.epoch > target.epoch && !own.is_empty() {
                return Need::Nothing;
            }
            let same = (state.last, state.digest_end) == (target.last, target.digest_end);
            if same && state.doubtful_from.is_none() {
                return Need::Finalize;
            }
        }
        self.need_of_chained(target)
    }

    /// Copies only what fits between the finalised segments here.
    fn need_of_chained(&self, target: &SegmentState) -> Need {
        if self.segments.overlaps_finalized(target) {
            return Need::Nothing;
        }
        let before = self.segments.finalized_before(target.first);
        let continues = before.is_none_or(|end| {
            end.txid.next() != target.first || end.digest == target.digest_before
        });
        let next = self.segments.get(target.last.next());
        let continued = next.is_none_or(|next| next.state.digest_before == target.digest_end);
        if continues && continued {
            Need::Copy
        } else {
            Need::Nothing
        }
    }

    /// The segment here is the decided one already.
    fn finalize_here(&mut self, target: &SegmentState) {
        let (first, last) = (target.first, target.last);
        self.store(StoreOp::Finalize { first, last });
        let own = self.segments.get(first).expect("just compared").state;
        self.put_finalized(SegmentState {
            finalized: true,
            ..own
        });
    }

    fn put_finalized(&mut self, state: SegmentState) {
        let segment = Segment::new(state, false);
        let end = segment.end();
        self.segments.put(segment);
        if self.open == Some(state.first) {
            self.open = None;
        }
        self.record.forget_accepted(state.first);
        self.note_mark(end);
    }

    /// A copy asked for by a round is there, or could not be had.
    pub(super) fn sync_fetched(
        &mut self,
        now: Tick,
        fetch: FetchId,
        target: SegmentState,
        outcome: Result<(), Fault>,
    ) {
        match outcome {
            Ok(()) if matches!(self.need(&target), Need::Copy) => {
                self.store(StoreOp::Install {
                    fetch,
                    segment: target,
                });
                self.put_finalized(target);
                self.sync.copied += 1;
                self.sync.at = Some(now);
            }
            // Overtaken by the writer or a recovery: look again.
            Ok(()) => self.sync.at = Some(now),
            Err(_) => {
                self.sync.turn += 1;
                self.start_sync(now);
            }
        }
    }

    /// A finalised segment was scanned again because reading it failed: what rotted is served no longer, and copied from
    /// a peer.
    pub fn handle_scanned(&mut self, now: Tick, scanned: LoadedSegment) {
        let finalized = |segment: &Segment| segment.state.finalized;
        let ours = self
            .segments
            .get(scanned.state.first)
            .is_some_and(finalized);
        if self.stopped || !ours || scanned.state.doubtful_from.is_none() {
            return;
        }
        self.segments
            .put(Segment::new(scanned.state, scanned.damaged));
        if !self.config.peers.is_empty() {
            self.sync.at = Some(now);
        }
    }

    /// Segments copied from peers since the start (T-N6).
    #[must_use]
    pub fn segments_synced(&self) -> u64 {
        self.sync.copied
    }
}
