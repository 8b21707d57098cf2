//! What the writer knows of one JournalNode.

use super::{RequestId, StreamId};
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, Tick, TxId};

/// What is wrong with a JournalNode. It is not asked again until it reconnects or the next segment starts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Trouble {
    /// It refused because of this newer epoch.
    pub(super) fenced_by: Option<Epoch>,
    /// It belongs to another namespace.
    pub(super) foreign: bool,
    /// It may have forgotten what it held, and does not vote.
    pub(super) forgot: bool,
    /// For people.
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            fenced_by: None,
            foreign: false,
            forgot: false,
            message: message.into(),
        }
    }

    pub(super) fn from_fault(fault: &Fault) -> Self {
        Self {
            fenced_by: (fault.class == FaultClass::Fenced).then_some(Epoch(fault.value)),
            foreign: fault.class == FaultClass::IdentityMismatch,
            forgot: fault.class == FaultClass::Learner,
            message: fault.message.to_string(),
        }
    }
}

/// A call on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Asked {
    GetState,
    NewEpoch,
    Prepare,
    Accept,
    Finalize,
    /// In the writing phase: the segment with this number.
    StartSegment(u64),
    FinalizeSegment(u64),
    /// Of a learner: vote again.
    EndLearning,
}

impl Asked {
    /// Belongs to a claim, not to the log.
    pub(super) fn is_of_claim(self) -> bool {
        !matches!(
            self,
            Self::StartSegment(_) | Self::FinalizeSegment(_) | Self::EndLearning
        )
    }
}

/// How far a JournalNode is in the segment it is being sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Stage {
    /// It has to be told to start the segment.
    #[default]
    Unstarted,
    /// It takes batches.
    Open,
}

/// One JournalNode.
#[derive(Clone, Hash, Debug, Default)]
pub(super) struct Link {
    /// Calls and streams named so far.
    names: u64,
    pub(super) connected: bool,
    /// At most one call of claim or log is under way at a time, so that a node sees them in order.
    pub(super) asked: Option<(RequestId, Asked)>,
    /// Not to be asked before.
    pub(super) retry_at: Option<Tick>,
    pub(super) trouble: Option<Trouble>,
    /// It promised the present epoch.
    pub(super) promised: bool,
    /// Number of the segment it is at.
    pub(super) segment: u64,
    pub(super) stage: Stage,
    pub(super) stream: Option<StreamId>,
    /// Last txid of each batch on its way.
    pub(super) in_flight: VecDeque<TxId>,
    /// Last txid sent on the present stream, or acknowledged before it.
    pub(super) sent: TxId,
    /// Last txid acknowledged; 0: nothing in this epoch.
    pub(super) acked: TxId,
    /// Commit mark last sent.
    pub(super) marked: TxId,
    /// One more than the number of the last segment it finalised.
    pub(super) finalized: u64,
    /// It missed something of the present segment and catch-up is off.
    pub(super) out_of_sync: bool,
    /// It may have forgotten promises: it is sent everything, and its word counts for nothing.
    pub(super) learner: bool,
    /// What was sent to anybody when the learner was first seen: it votes again once it has that.
    pub(super) goal: Option<TxId>,
    /// It was told that this writer knows it for a learner.
    pub(super) declared: bool,
    /// It is not asked to vote again before.
    pub(super) teach_at: Option<Tick>,
}

impl Link {
    /// Forgets everything that belonged to the connection.
    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        self.asked = None;
        self.retry_at = None;
        self.close_stream();
    }

    pub(super) fn close_stream(&mut self) -> Option<StreamId> {
        self.in_flight.clear();
        self.sent = self.acked;
        // A mark on it may not have arrived, and a node that restarted has not verified it against its log.
        self.marked = TxId(0);
        self.stream.take()
    }

    /// A name for a call or stream of this node, the `jn`-th, never used before.
    pub(super) fn next_name(&mut self, jn: usize) -> u64 {
        self.names += 1;
        (self.names << 4) | jn as u64
    }

    /// Forgets everything that belonged to a claim or an epoch.
    pub(super) fn reset(&mut self) {
        *self = Self {
            names: self.names,
            connected: self.connected,
            ..Self::default()
        };
    }

    /// It forgot what it was sent, and what it promised. Whether that is news.
    pub(super) fn forgot(&mut self) -> bool {
        if self.learner {
            return false;
        }
        self.close_stream();
        self.learner = true;
        // It promises nothing; it takes the stream once it has adopted the epoch.
        self.promised = true;
        self.stage = Stage::Unstarted;
        (self.sent, self.acked) = (TxId(0), TxId(0));
        self.finalized = 0;
        (self.goal, self.declared, self.teach_at) = (None, false, None);
        true
    }

    /// What it acknowledged, as far as that counts.
    pub(super) fn counted(&self) -> TxId {
        if self.learner { TxId(0) } else { self.acked }
    }

    pub(super) fn may_ask(&self) -> bool {
        self.connected
            && self.asked.is_none()
            && self.trouble.is_none()
            && self.retry_at.is_none()
            && !self.out_of_sync
    }

    /// For people.
    pub(super) fn describe(&self) -> Option<String> {
        if let Some(trouble) = &self.trouble {
            return Some(trouble.message.clone());
        }
        if self.learner && self.connected {
            return Some(
                "learner: it is sent what it may have forgotten, then it votes again".into(),
            );
        }
        if self.out_of_sync {
            return Some("out of sync: it missed edits of this segment".into());
        }
        (!self.connected).then(|| "not connected".into())
    }
}
