//! Who may ask what of a JournalNode in which standing.

use super::{Acceptor, fenced, forbidden};
use alloc::format;
use hadal_proto::qjournal::{Call, Standing};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, Principal, Role};

impl Acceptor {
    pub(super) fn admit(
        &self,
        from: &Principal,
        namespace_id: u64,
        call: &Call,
    ) -> Result<(), Fault> {
        if self.stopped {
            return Err(Fault::new(
                FaultClass::DiskFailed,
                format!("JournalNode {} stops: its disk failed", self.config.name),
            ));
        }
        let between_nodes = matches!(
            call,
            Call::GetState
                | Call::GetManifest { .. }
                | Call::ReadEdits { .. }
                | Call::ReadSegment { .. }
                | Call::ExchangeCounts { .. }
        );
        let allowed = match from.role {
            Role::Namenode => !matches!(call, Call::ExchangeCounts { .. }),
            Role::Journalnode => between_nodes,
            _ => false,
        };
        if !allowed {
            return Err(forbidden(from, call.name()));
        }
        match call {
            // A node without a namespace has these to say, too; one with another namespace says so in its state.
            Call::GetState | Call::Format { .. } => return Ok(()),
            Call::ExchangeCounts { .. } if self.record.info.is_none() => return Ok(()),
            // Its own check names everything that differs.
            Call::NewEpoch { .. } => {}
            _ => self.check_namespace(namespace_id)?,
        }
        match call {
            Call::NewEpoch { .. } if self.record.info.is_none() => self.check_namespace(0),
            // A learner takes these from the writer whose epoch it adopted.
            Call::StartSegment { epoch, .. } | Call::FinalizeSegment { epoch, .. } => {
                self.check_writer(*epoch)
            }
            Call::NewEpoch { .. }
            | Call::PrepareRecovery { .. }
            | Call::AcceptRecovery { .. }
            | Call::Purge { .. } => self.check_voter(),
            _ => Ok(()),
        }
    }

    pub(super) fn check_namespace(&self, namespace_id: u64) -> Result<(), Fault> {
        match &self.record.info {
            None => Err(Fault::new(
                FaultClass::Learner,
                format!(
                    "JournalNode {} is not formatted; format it from a NameNode",
                    self.config.name
                ),
            )),
            Some(info) if info.namespace_id != namespace_id => Err(Fault::new(
                FaultClass::IdentityMismatch,
                format!(
                    "JournalNode {} holds the journal of namespace {}, not {namespace_id}",
                    self.config.name, info.namespace_id
                ),
            )),
            Some(_) => Ok(()),
        }
    }

    /// Whether the writer of this epoch may write here: to a voter that promised it, or to a learner that adopted it.
    pub(super) fn check_writer(&self, epoch: Epoch) -> Result<(), Fault> {
        if self.standing() == Standing::Learner {
            return self.check_taught(epoch);
        }
        self.check_voter()?;
        self.check_epoch(epoch)
    }

    pub(super) fn check_voter(&self) -> Result<(), Fault> {
        if self.config.planted.learner_votes {
            return Ok(());
        }
        match self.standing() {
            Standing::Voter => Ok(()),
            Standing::Unconfirmed => Err(Fault::new(
                FaultClass::Retry,
                format!(
                    "JournalNode {} waits for its peers to confirm that its disk is no old copy",
                    self.config.name
                ),
            )),
            Standing::Unformatted | Standing::Learner => Err(Fault::new(
                FaultClass::Learner,
                format!(
                    "JournalNode {} is a learner: it may have forgotten promises (wiped, or an old disk image) and does not vote",
                    self.config.name
                ),
            )),
        }
    }

    /// T-J2: the message names both epochs.
    pub(super) fn check_epoch(&self, epoch: Epoch) -> Result<(), Fault> {
        let promised = self.record.promised;
        if epoch == promised || self.config.planted.skip_epoch_check {
            Ok(())
        } else if epoch < promised {
            Err(fenced(epoch, promised))
        } else {
            Err(Fault::new(
                FaultClass::InvalidArgument,
                format!("epoch {epoch} was never promised here, the last promise is {promised}"),
            ))
        }
    }
}
