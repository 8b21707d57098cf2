//! What one NameNode is to be told beside reports: corrupt replicas and errors (A-39..A-41).

use crate::actor::{ActorOutput, Failure};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::FaultClass;
use hadal_proto::client::BadReplica;
use hadal_types::{Block, DatanodeUuid};

/// Corrupt replicas remembered for one NameNode; more are found again by the next reader.
const BAD_MAX: usize = 1_000;
/// Failed copies remembered; the NameNode finds out about others by its time-out.
const COPIES_MAX: usize = 1_000;
/// Error reports remembered; further ones are dropped (best effort, A-41).
const ERRORS_MAX: usize = 100;

/// The queue towards one NameNode. What fails with the connection goes out again; what is refused with
/// StandbyException or another lasting fault is dropped for that NameNode (A-40, T-D7).
#[derive(Clone, Default, Debug)]
pub(crate) struct Notices {
    bad: Vec<BadReplica>,
    bad_in_flight: Vec<BadReplica>,
    errors: VecDeque<(u16, String)>,
    error_in_flight: Option<(u16, String)>,
    copies: VecDeque<(Block, DatanodeUuid)>,
    copy_in_flight: Option<(Block, DatanodeUuid)>,
}

fn again(failure: &Failure<'_>) -> bool {
    match failure {
        Failure::Lost => true,
        Failure::Fault(fault) => {
            fault.class == FaultClass::UnregisteredNode
                || (fault.is_retriable() && fault.class != FaultClass::Standby)
        }
    }
}

impl Notices {
    pub(crate) fn push_bad(&mut self, bad: BadReplica) {
        let known = |other: &BadReplica| {
            (other.block.id, other.datanode, other.storage)
                == (bad.block.id, bad.datanode, bad.storage)
        };
        if self.bad.len() < BAD_MAX && !self.bad.iter().any(known) {
            self.bad.push(bad);
        }
    }

    pub(crate) fn push_error(&mut self, code: u16, message: String) {
        let error = (code, message);
        if self.errors.len() < ERRORS_MAX && !self.errors.contains(&error) {
            self.errors.push_back(error);
        }
    }

    pub(crate) fn push_failed_copy(&mut self, block: Block, target: DatanodeUuid) {
        if self.copies.len() < COPIES_MAX {
            self.copies.push_back((block, target));
        }
    }

    /// A failed copy that can be told now: bad blocks go first, or the same source would be chosen again.
    fn wants_copy(&self) -> bool {
        !self.copies.is_empty()
            && self.copy_in_flight.is_none()
            && self.bad.is_empty()
            && self.bad_in_flight.is_empty()
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty() || self.error_in_flight.is_some()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        (!self.bad.is_empty() && self.bad_in_flight.is_empty())
            || (!self.errors.is_empty() && self.error_in_flight.is_none())
            || self.wants_copy()
    }

    pub(crate) fn poll_output(&mut self) -> Option<ActorOutput> {
        if !self.bad.is_empty() && self.bad_in_flight.is_empty() {
            self.bad_in_flight = core::mem::take(&mut self.bad);
            let blocks = self.bad_in_flight.clone();
            return Some(ActorOutput::SendBadBlocks { blocks });
        }
        if self.error_in_flight.is_none()
            && let Some(error) = self.errors.pop_front()
        {
            let (code, message) = error.clone();
            self.error_in_flight = Some(error);
            return Some(ActorOutput::SendErrorReport { code, message });
        }
        if self.wants_copy()
            && let Some((block, target)) = self.copies.pop_front()
        {
            self.copy_in_flight = Some((block, target));
            return Some(ActorOutput::SendTransferFailed { block, target });
        }
        None
    }

    pub(crate) fn handle_bad_blocks(&mut self, failure: Option<&Failure<'_>>) {
        let sent = core::mem::take(&mut self.bad_in_flight);
        if failure.is_some_and(again) {
            sent.into_iter().for_each(|bad| self.push_bad(bad));
        }
    }

    pub(crate) fn handle_error_report(&mut self, failure: Option<&Failure<'_>>) {
        if let Some(error) = self.error_in_flight.take()
            && failure.is_some_and(again)
        {
            self.errors.push_front(error);
        }
    }

    pub(crate) fn handle_transfer_failed(&mut self, failure: Option<&Failure<'_>>) {
        if let Some(copy) = self.copy_in_flight.take()
            && failure.is_some_and(again)
        {
            self.copies.push_front(copy);
        }
    }

    pub(crate) fn handle_disconnected(&mut self) {
        self.handle_transfer_failed(Some(&Failure::Lost));
        self.handle_bad_blocks(Some(&Failure::Lost));
        self.handle_error_report(Some(&Failure::Lost));
    }
}
