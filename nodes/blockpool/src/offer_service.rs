//! Whom a DataNode obeys: the claim table of seed A (A-19..A-24) over the pair (epoch, committed txid), epoch
//! first (protocols.md section 2), and the identity all NameNodes must share.

use alloc::string::{String, ToString};
use hadal_proto::datanode::{Action, Claim, Command};
use hadal_types::{Epoch, HaState, NamespaceInfo, TxId};
use thiserror::Error;

/// What a claim changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimOutcome {
    /// Nothing.
    Unchanged,
    /// The first active, or another one with a newer claim: log it; its epoch must be durable before a command of
    /// it runs.
    Acknowledged {
        /// Another NameNode was acknowledged before.
        taken_over: bool,
    },
    /// An old claim; log a warning with both pairs.
    Ignored,
    /// The acknowledged active is one no more.
    Lost,
}

/// What to do with a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Run it.
    Run,
    /// Leave it, and log why.
    Refuse(&'static str),
    /// Ran before: leave it silently.
    Repeated,
}

/// A NameNode of another namespace (A-09, A-10, T-D3).
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "{what} mismatch: previously connected to {what} {known} but now connected to {what} {found}"
)]
pub struct IdentityError {
    /// Which part of the identity.
    pub what: &'static str,
    /// What the first NameNode said.
    pub known: String,
    /// What this one says.
    pub found: String,
}

/// The state a DataNode keeps for one name service. Actors are numbered by the caller.
#[derive(Clone, Debug, Default)]
pub struct OfferService {
    info: Option<NamespaceInfo>,
    active: Option<usize>,
    last_claim: Option<(Epoch, TxId)>,
    /// Highest epoch durable on this DataNode: older commands never run, also after a restart.
    durable_epoch: Epoch,
    executed: u64,
    executed_epoch: Epoch,
}

impl OfferService {
    /// With the identity and the highest acknowledged epoch found on disk.
    #[must_use]
    pub fn new(info: Option<NamespaceInfo>, durable_epoch: Epoch) -> Self {
        let last_claim = (durable_epoch > Epoch(0)).then_some((durable_epoch, TxId(0)));
        Self {
            info,
            last_claim,
            durable_epoch,
            ..Self::default()
        }
    }

    /// The identity, once the first NameNode answered.
    #[must_use]
    pub fn info(&self) -> Option<&NamespaceInfo> {
        self.info.as_ref()
    }

    /// The acknowledged active, if any.
    #[must_use]
    pub fn active(&self) -> Option<usize> {
        self.active
    }

    /// The epoch acknowledged now; zero while there is no active.
    #[must_use]
    pub fn acknowledged(&self) -> Epoch {
        match (self.active, self.last_claim) {
            (Some(_), Some((epoch, _))) => epoch,
            _ => Epoch(0),
        }
    }

    /// Highest command sequence executed in `epoch`.
    #[must_use]
    pub fn executed(&self, epoch: Epoch) -> u64 {
        if epoch == self.executed_epoch {
            self.executed
        } else {
            0
        }
    }

    /// A NameNode said who it is. The first fixes the identity, later ones must match it. `true` when this was the
    /// first.
    ///
    /// # Errors
    /// [`IdentityError`] naming the part that differs.
    pub fn handle_info(&mut self, found: &NamespaceInfo) -> Result<bool, IdentityError> {
        let Some(known) = &self.info else {
            self.info = Some(found.clone());
            return Ok(true);
        };
        let differs = |what, known: String, found: String| {
            if known == found {
                Ok(())
            } else {
                Err(IdentityError { what, known, found })
            }
        };
        differs(
            "Blockpool ID",
            known.block_pool_id.to_string(),
            found.block_pool_id.to_string(),
        )?;
        differs(
            "Namespace ID",
            known.namespace_id.to_string(),
            found.namespace_id.to_string(),
        )?;
        differs(
            "Cluster ID",
            known.cluster_id.to_string(),
            found.cluster_id.to_string(),
        )?;
        Ok(false)
    }

    /// A NameNode's claim in a response; applied before the commands of that response.
    pub fn handle_claim(&mut self, actor: usize, claim: &Claim) -> ClaimOutcome {
        let pair = (claim.epoch, claim.txid);
        let is_active = self.active == Some(actor);
        match (claim.state, is_active) {
            (HaState::Active, true) => {
                // A lower txid in a late reply is ignored; a lower epoch cannot come from the one obeyed.
                if Some(pair) > self.last_claim {
                    let newer_epoch = self.last_claim.is_none_or(|(epoch, _)| claim.epoch > epoch);
                    self.last_claim = Some(pair);
                    if newer_epoch {
                        return ClaimOutcome::Acknowledged { taken_over: false };
                    }
                }
                ClaimOutcome::Unchanged
            }
            (HaState::Active, false) => {
                // After a restart the durable epoch's owner may come back with any txid of that epoch.
                let newer = match self.last_claim {
                    None => true,
                    Some(last) if self.active.is_none() && claim.epoch == last.0 => pair >= last,
                    Some(last) => pair > last,
                };
                if !newer {
                    return ClaimOutcome::Ignored;
                }
                let taken_over = self.active.is_some();
                self.active = Some(actor);
                self.last_claim = Some(pair);
                ClaimOutcome::Acknowledged { taken_over }
            }
            (_, true) => {
                // The last claim is kept: a stale NameNode must not come back with a lower one.
                self.active = None;
                ClaimOutcome::Lost
            }
            (_, false) => ClaimOutcome::Unchanged,
        }
    }

    /// The actor ended.
    pub fn handle_actor_gone(&mut self, actor: usize) {
        if self.active == Some(actor) {
            self.active = None;
        }
    }

    /// The acknowledged epoch that must still be made durable before its commands run.
    #[must_use]
    pub fn poll_persist(&self) -> Option<Epoch> {
        let epoch = self.acknowledged();
        (epoch > self.durable_epoch).then_some(epoch)
    }

    /// The epoch is durable.
    pub fn handle_persisted(&mut self, epoch: Epoch) {
        self.durable_epoch = self.durable_epoch.max(epoch);
    }

    /// Whether a command from `actor` runs (A-24..A-26): REGISTER from anyone, token keys from any registered
    /// NameNode (decision 23), the rest only from the acknowledged active, in its acknowledged and durable epoch,
    /// at most once and in order.
    pub fn admit(&mut self, actor: usize, command: &Command) -> Admission {
        match command.action {
            Action::Register | Action::AccessKeyUpdate { .. } => return Admission::Run,
            Action::Shutdown => return Admission::Refuse("SHUTDOWN is not supported"),
            _ => {}
        }
        if self.active != Some(actor) {
            return Admission::Refuse("the sender is not the acknowledged active NameNode");
        }
        if command.epoch != self.acknowledged() {
            return Admission::Refuse("the command's epoch is not the acknowledged one");
        }
        if command.epoch > self.durable_epoch {
            return Admission::Refuse("the acknowledged epoch is not durable yet");
        }
        if self.executed_epoch != command.epoch {
            self.executed_epoch = command.epoch;
            self.executed = 0;
        }
        if command.sequence <= self.executed {
            return Admission::Repeated;
        }
        self.executed = command.sequence;
        Admission::Run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_proto::datanode::Action;
    use hadal_types::{BlockPoolId, ClusterId};

    fn claim(state: HaState, epoch: u64, txid: u64) -> Claim {
        Claim {
            state,
            epoch: Epoch(epoch),
            txid: TxId(txid),
        }
    }

    fn command(epoch: u64, sequence: u64) -> Command {
        Command {
            epoch: Epoch(epoch),
            sequence,
            action: Action::Invalidate {
                blocks: alloc::vec::Vec::new(),
            },
        }
    }

    #[test]
    fn claims_follow_the_table_t_d4_a19_to_a23() {
        use HaState::{Active, Standby};
        let mut service = OfferService::default();
        assert_eq!(service.active(), None);
        assert_eq!(
            service.handle_claim(1, &claim(Active, 1, 10)),
            ClaimOutcome::Acknowledged { taken_over: false }
        );
        assert_eq!(
            service.handle_claim(2, &claim(Active, 2, 8)),
            ClaimOutcome::Acknowledged { taken_over: true },
            "a newer epoch wins over a higher txid (decision 18)"
        );
        assert_eq!(
            service.handle_claim(1, &claim(Active, 1, 99)),
            ClaimOutcome::Ignored
        );
        assert_eq!(service.active(), Some(2));
        assert_eq!(
            service.handle_claim(2, &claim(Standby, 0, 0)),
            ClaimOutcome::Lost
        );
        assert_eq!(service.active(), None);
        assert_eq!(
            service.handle_claim(1, &claim(Active, 1, 99)),
            ClaimOutcome::Ignored,
            "A-21"
        );
        assert_eq!(
            service.handle_claim(1, &claim(Active, 3, 9)),
            ClaimOutcome::Acknowledged { taken_over: false }
        );
        assert_eq!(
            service.handle_claim(2, &claim(Standby, 0, 0)),
            ClaimOutcome::Unchanged,
            "A-23"
        );
        assert_eq!(
            service.handle_claim(1, &claim(Active, 3, 5)),
            ClaimOutcome::Unchanged,
            "late reply"
        );
    }

    #[test]
    fn commands_run_once_in_order_from_the_acknowledged_epoch_only_a24_to_a26() {
        let mut service = OfferService::default();
        assert!(
            matches!(service.admit(1, &command(1, 1)), Admission::Refuse(_)),
            "A-24: no active yet"
        );
        service.handle_claim(1, &claim(HaState::Active, 1, 1));
        assert!(
            matches!(service.admit(1, &command(1, 1)), Admission::Refuse(_)),
            "epoch not durable"
        );
        assert_eq!(service.poll_persist(), Some(Epoch(1)));
        service.handle_persisted(Epoch(1));
        assert_eq!(service.poll_persist(), None);
        assert_eq!(service.admit(1, &command(1, 1)), Admission::Run);
        assert_eq!(service.admit(1, &command(1, 1)), Admission::Repeated);
        assert_eq!(service.admit(1, &command(1, 2)), Admission::Run);
        assert_eq!(service.executed(Epoch(1)), 2);
        assert!(
            matches!(service.admit(2, &command(1, 3)), Admission::Refuse(_)),
            "A-26"
        );
        service.handle_claim(2, &claim(HaState::Active, 2, 1));
        service.handle_persisted(Epoch(2));
        assert!(
            matches!(service.admit(1, &command(1, 3)), Admission::Refuse(_)),
            "deposed (M-L6)"
        );
        assert!(
            matches!(service.admit(2, &command(1, 3)), Admission::Refuse(_)),
            "old epoch (M-L6)"
        );
        assert_eq!(service.admit(2, &command(2, 1)), Admission::Run);
        let register = Command {
            epoch: Epoch(0),
            sequence: 0,
            action: Action::Register,
        };
        assert_eq!(service.admit(1, &register), Admission::Run, "A-26");
    }

    /// the NameNode numbers on within its epoch when this DataNode registers again, so nothing is forgotten then:
    /// what it repeats because it has not heard of the end does not run twice, and what is new runs.
    #[test]
    fn a_repeated_command_does_not_run_again_after_a_registration_a25() {
        let mut service = OfferService::default();
        service.handle_claim(1, &claim(HaState::Active, 1, 1));
        service.handle_persisted(Epoch(1));
        for sequence in 1..=3 {
            assert_eq!(service.admit(1, &command(1, sequence)), Admission::Run);
        }
        // Registered again with the active and with a standby; the claims come with the answers.
        service.handle_claim(1, &claim(HaState::Active, 1, 2));
        service.handle_claim(2, &claim(HaState::Standby, 0, 0));
        assert_eq!(service.executed(Epoch(1)), 3);
        for sequence in 1..=3 {
            assert_eq!(service.admit(1, &command(1, sequence)), Admission::Repeated);
        }
        assert_eq!(service.admit(1, &command(1, 4)), Admission::Run);
        // Gaps are no loss: a NameNode that forgot this DataNode goes on above every number it ever gave.
        assert_eq!(service.admit(1, &command(1, 40)), Admission::Run);
        assert_eq!(service.admit(1, &command(1, 5)), Admission::Repeated);
    }

    #[test]
    fn a_restarted_datanode_does_not_fall_back_to_a_deposed_active_m_l7() {
        let mut service = OfferService::new(None, Epoch(2));
        assert_eq!(
            service.handle_claim(1, &claim(HaState::Active, 1, 1000)),
            ClaimOutcome::Ignored
        );
        assert_eq!(
            service.handle_claim(2, &claim(HaState::Active, 2, 3)),
            ClaimOutcome::Acknowledged { taken_over: false }
        );
    }

    #[test]
    fn every_namenode_must_share_the_identity_a09_a10_t_d3() {
        let info = NamespaceInfo {
            namespace_id: 7,
            cluster_id: ClusterId("CID-a".into()),
            block_pool_id: BlockPoolId("BP-a".into()),
            ..NamespaceInfo::default()
        };
        let mut service = OfferService::default();
        assert_eq!(service.handle_info(&info), Ok(true));
        assert_eq!(service.handle_info(&info), Ok(false));
        let other = NamespaceInfo {
            cluster_id: ClusterId("CID-b".into()),
            ..info
        };
        let error = service.handle_info(&other).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cluster ID mismatch: previously connected to Cluster ID CID-a but now connected to Cluster ID CID-b"
        );
    }
}
