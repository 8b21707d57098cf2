//! What a controller asks of its driver.

use alloc::string::String;
use core::fmt;
use hadal_proto::{election, ha};
use hadal_types::{Epoch, HaState};
use thiserror::Error;

/// A JournalNode: its index in [`super::ControllerConfig::journalnodes`].
pub type Jn = usize;

/// Pairs a call with its outcome. Never reused by one controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallTag(pub u64);

/// Names an operator's command; chosen by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(pub u64);

/// One thing the driver must do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Call a JournalNode; [`super::Controller::handle_reply`] or [`super::Controller::handle_call_failed`] under
    /// the same id. Calls may overtake each other. Give up on it after a lease's ttl.
    Call {
        /// Whom.
        jn: Jn,
        /// Under which id.
        id: CallTag,
        /// What.
        request: election::Request,
    },
    /// Call a peer; [`super::Controller::handle_peer_reply`] or [`super::Controller::handle_peer_failed`].
    CallPeer {
        /// Whom: its node id.
        peer: String,
        /// Under which id.
        id: CallTag,
        /// What.
        request: ha::Request,
    },
    /// A majority granted the lease: claim the journal, read and apply what is missing, serve. On the way tell
    /// [`super::Controller::handle_claiming`] *before* the first promise is asked for, then `handle_claimed`, then
    /// `handle_serving`; or `handle_claim_failed`.
    StartClaim,
    /// Stop at once, also in the middle of a claim; nothing may be answered from now on. Then
    /// [`super::Controller::handle_resigned`].
    StepDown {
        /// Why.
        reason: StepDownReason,
    },
    /// Accept no more calls, wait until what was accepted is committed, finalise the segment, leave the role, then
    /// [`super::Controller::handle_resigned`]. The lease goes on meanwhile, but nothing new may be answered.
    HandOver {
        /// In favour of whom.
        to: String,
        /// Why, for the log.
        reason: String,
    },
    /// Become this: standby or observer. Asked only of a NameNode that is the other of the two.
    Follow {
        /// What.
        state: HaState,
    },
    /// An operator's command is over.
    CommandDone {
        /// Which.
        command: CommandId,
        /// How it ended.
        outcome: Result<(), CommandError>,
    },
}

/// Why a NameNode must stop at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StepDownReason {
    /// No majority of JournalNodes acknowledged a renewal in time: another NameNode may be active.
    LeaseLapsed,
    /// An operator wants a standby here.
    Ordered,
    /// [`super::Controller::handle_journal_stalled`].
    JournalStalled,
}

impl fmt::Display for StepDownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaseLapsed => {
                "the active lease lapsed: no majority of JournalNodes renewed it in time"
            }
            Self::JournalStalled => "no majority of JournalNodes acknowledged an edit for too long",
            Self::Ordered => "an operator ordered it to standby",
        })
    }
}

/// What an operator may order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Become active. Runs no fencing and takes no lease over (F-13). `force`: also while `ha.automatic` is on.
    TransitionToActive {
        /// Also in automatic mode, also when unhealthy; not while [`super::Controller::handle_barred`] says no.
        force: bool,
    },
    /// Become standby; an active one gives the role up.
    TransitionToStandby,
    /// Become observer; only a standby may (T-A4).
    TransitionToObserver,
    /// Hand the active role over.
    FailoverTo {
        /// To whom.
        peer: String,
        /// Also when the peer says that it is not ready (`--forceactive`).
        force_active: bool,
    },
}

/// Why an operator's command came to nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CommandError {
    /// One command at a time.
    #[error("another role change is under way here; wait for it")]
    Busy,
    /// Roles move by themselves.
    #[error(
        "automatic failover is on (ha.automatic): use `haadmin -failover', or --forceactive if you mean it"
    )]
    Automatic,
    /// A hand-over between the NameNodes needs JournalNodes.
    #[error(
        "the journal is a shared directory: use `haadmin -failover`, which makes the one standby, or fences it, and then the other active"
    )]
    SharedDirectory,
    /// T-A4.
    #[error("a NameNode in state {from} cannot become {to}: make it standby first")]
    Transition {
        /// What it is.
        from: HaState,
        /// What was asked for.
        to: HaState,
    },
    /// T-A5, T-A16, T-H23.
    #[error("{peer} is not ready to become active: {reason}")]
    NotReady {
        /// Who.
        peer: String,
        /// Why.
        reason: String,
    },
    /// The role is elsewhere.
    #[error("{name} is not active{}", .active.as_deref().map(|a| alloc::format!(", {a} is")).unwrap_or_default())]
    NotActive {
        /// This NameNode.
        name: String,
        /// Who is, when known.
        active: Option<String>,
    },
    /// T-A7: a lease is never taken over.
    #[error("{active} is active: use `haadmin -failover {active} {name}', or stop it")]
    HeldByOther {
        /// Who.
        active: String,
        /// This NameNode.
        name: String,
    },
    /// No such peer.
    #[error("{peer} is not another NameNode of this cluster (cluster.namenodes)")]
    UnknownPeer {
        /// As given.
        peer: String,
    },
    /// T-A12, T-H26.
    #[error("{name} could not become active: {reason}")]
    ClaimFailed {
        /// This NameNode.
        name: String,
        /// What the claim said.
        reason: String,
    },
    /// The peer did not take the role over; this NameNode stands again.
    #[error("{peer} did not become active: {reason}; the role stays or comes back here")]
    PeerFailed {
        /// Who.
        peer: String,
        /// What happened.
        reason: String,
    },
    /// Time is up.
    #[error("not done within {after_ms} ms: {reason}")]
    TimedOut {
        /// How long it was tried.
        after_ms: u64,
        /// Where it stands.
        reason: String,
    },
}

/// Who is active according to the JournalNodes. Good enough for a redirect, no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActiveHint {
    /// Node id.
    pub name: String,
    /// The epoch it proposed or serves in.
    pub epoch: Epoch,
    /// Whether it said that it serves; else it claims the journal.
    pub serving: bool,
}
