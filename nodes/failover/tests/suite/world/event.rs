//! What happens, and to whom.

use hadal_failover::controller::{CallTag, Jn};
use hadal_proto::Fault;
use hadal_proto::election::{Request, Response};
use hadal_proto::ha;

#[derive(Clone)]
pub(super) enum Event {
    Timer {
        nn: usize,
    },
    AtJournal {
        nn: usize,
        life: u64,
        jn: Jn,
        id: CallTag,
        request: Request,
    },
    Reply {
        nn: usize,
        life: u64,
        jn: Jn,
        id: CallTag,
        outcome: Result<Response, Fault>,
    },
    CallFailed {
        nn: usize,
        life: u64,
        jn: Jn,
        id: CallTag,
    },
    /// A claim's question for what was promised, and the answer.
    AskState {
        nn: usize,
        life: u64,
        number: u64,
        jn: Jn,
    },
    State {
        nn: usize,
        life: u64,
        number: u64,
        jn: Jn,
        promised: u64,
    },
    NewEpoch {
        nn: usize,
        life: u64,
        number: u64,
        jn: Jn,
        epoch: u64,
    },
    Promised {
        nn: usize,
        life: u64,
        number: u64,
        jn: Jn,
        epoch: u64,
        ok: bool,
    },
    ClaimTimeout {
        nn: usize,
        life: u64,
        number: u64,
    },
    Applied {
        nn: usize,
        life: u64,
        number: u64,
        epoch: u64,
    },
    Resigned {
        nn: usize,
        life: u64,
    },
    AtPeer {
        from: usize,
        life: u64,
        id: CallTag,
        request: ha::Request,
    },
    FromPeer {
        nn: usize,
        life: u64,
        id: CallTag,
        outcome: Result<ha::Response, Fault>,
    },
    Start {
        nn: usize,
    },
    Write {
        nn: usize,
    },
    Probe {
        nn: usize,
    },
}

impl Event {
    /// The NameNode it happens at, and in which life when it must be that one.
    pub(super) fn owner(&self) -> Option<(usize, Option<u64>)> {
        match self {
            Self::Timer { nn } | Self::Probe { nn } => Some((*nn, None)),
            Self::Reply { nn, life, .. }
            | Self::CallFailed { nn, life, .. }
            | Self::State { nn, life, .. }
            | Self::Promised { nn, life, .. }
            | Self::ClaimTimeout { nn, life, .. }
            | Self::Applied { nn, life, .. }
            | Self::Resigned { nn, life }
            | Self::FromPeer { nn, life, .. } => Some((*nn, Some(*life))),
            Self::AtPeer { from, .. } => Some((1 - *from, None)),
            Self::Write { nn } => Some((*nn, None)),
            Self::AtJournal { .. }
            | Self::AskState { .. }
            | Self::NewEpoch { .. }
            | Self::Start { .. } => None,
        }
    }
}
