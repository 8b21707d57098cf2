//! Operators' commands, and hand-overs whoever wants them.

use super::output::{CallTag, Command, CommandError, CommandId, Output, StepDownReason};
use super::{Controller, Phase};
use alloc::format;
use alloc::string::{String, ToString};
use hadal_proto::ha::Request;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, HaState, Tick};

/// A role change under way; one at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Pending {
    /// To become active; without an id on behalf of a peer that handed over.
    Activate {
        id: Option<CommandId>,
        since: Tick,
        until: Tick,
    },
    /// The peer is asked how it is before the role is handed to it.
    Check {
        id: CommandId,
        peer: usize,
        force: bool,
        probe: CallTag,
        until: Tick,
    },
    /// The role is on its way to the peer; without an id for ill health.
    HandOver {
        id: Option<CommandId>,
        peer: usize,
        /// The peer was told to stand.
        told: Option<CallTag>,
        /// An operator had ordered this NameNode active (manual mode).
        ordered: bool,
        until: Tick,
    },
    /// To become standby, once the driver resigned.
    Demote { id: CommandId },
}

impl Controller {
    /// An operator's command; ends with [`Output::CommandDone`] under the same id.
    pub fn handle_command(&mut self, now: Tick, id: CommandId, command: Command) {
        self.note_lapse(now);
        match self.begin(now, id, command) {
            Ok(true) => self.done(Some(id), Ok(())),
            Ok(false) => {}
            Err(error) => self.done(Some(id), Err(error)),
        }
        self.advance(now);
    }

    /// Peer `from` handed its role over: stand now, whatever `ha.automatic` says.
    ///
    /// # Errors
    /// The fault to answer with, when this NameNode should not.
    pub fn handle_stand(&mut self, now: Tick, from: &str) -> Result<(), Fault> {
        self.note_lapse(now);
        let name = &self.config.name;
        if self.observer {
            let message = format!("{name} is an observer, it cannot take over from {from}");
            return Err(Fault::new(FaultClass::Unsupported, message));
        }
        if let Some(reason) = &self.barred {
            let message = format!("{name} cannot take over from {from}: {reason}");
            return Err(Fault::new(FaultClass::Retry, message));
        }
        if !self.is_healthy() {
            let message = format!(
                "{name} is unhealthy, it cannot take over from {from}: {}",
                self.reason
            );
            return Err(Fault::new(FaultClass::Retry, message));
        }
        match &self.pending {
            None if matches!(self.phase, Phase::Serving { .. }) => {}
            None => {
                self.activate(now, None);
                self.advance(now);
            }
            // Told twice.
            Some(Pending::Activate { .. }) => {}
            Some(_) => {
                let message = format!("{name} is changing its own role, {from} must wait");
                return Err(Fault::new(FaultClass::Busy, message));
            }
        }
        Ok(())
    }

    /// `Ok(true)`: done already.
    fn begin(&mut self, now: Tick, id: CommandId, command: Command) -> Result<bool, CommandError> {
        if self.pending.is_some() {
            return Err(CommandError::Busy);
        }
        let from = self.state();
        let refuse = |to| Err(CommandError::Transition { from, to });
        match command {
            Command::TransitionToActive { force } => match from {
                HaState::Active => Ok(true),
                HaState::Observer => refuse(HaState::Active),
                _ if self.config.automatic && !self.config.alone && !force => {
                    Err(CommandError::Automatic)
                }
                _ if self.barred.is_some() => Err(CommandError::NotReady {
                    peer: self.config.name.clone(),
                    reason: self.barred.clone().unwrap_or_default(),
                }),
                _ if !self.is_healthy() && !force => Err(CommandError::NotReady {
                    peer: self.config.name.clone(),
                    reason: self.reason.clone(),
                }),
                _ => {
                    self.activate(now, Some(id));
                    Ok(false)
                }
            },
            Command::TransitionToStandby => {
                self.ordered = false;
                if self.observer {
                    self.observer = false;
                    let state = HaState::Standby;
                    self.outputs.push_back(Output::Follow { state });
                    return Ok(true);
                }
                if self.config.automatic {
                    self.yield_by_order(now);
                }
                match self.phase {
                    Phase::Follower => Ok(true),
                    Phase::Asking { .. } => {
                        self.stop_asking(now);
                        Ok(true)
                    }
                    Phase::Claiming { epoch, .. } | Phase::Serving { epoch, .. } => {
                        self.step_down(now, epoch, StepDownReason::Ordered);
                        self.pending = Some(Pending::Demote { id });
                        Ok(false)
                    }
                    Phase::Resigning { .. } => {
                        self.pending = Some(Pending::Demote { id });
                        Ok(false)
                    }
                }
            }
            Command::TransitionToObserver => match self.phase {
                _ if self.observer => Ok(true),
                Phase::Follower => {
                    self.observer = true;
                    self.ordered = false;
                    let state = HaState::Observer;
                    self.outputs.push_back(Output::Follow { state });
                    Ok(true)
                }
                _ => Err(CommandError::Transition {
                    from: HaState::Active,
                    to: HaState::Observer,
                }),
            },
            // Nobody could tell this one that the peer serves: the operator's tool demotes and promotes.
            Command::FailoverTo { .. } if self.config.shared_directory => {
                Err(CommandError::SharedDirectory)
            }
            Command::FailoverTo { peer, force_active } => {
                let Some(index) = self.peers.iter().position(|it| it.name == peer) else {
                    return Err(CommandError::UnknownPeer { peer });
                };
                if from != HaState::Active {
                    return Err(self.not_active(now));
                }
                let probe = self.probe(now, index);
                self.pending = Some(Pending::Check {
                    id,
                    peer: index,
                    force: force_active,
                    probe,
                    until: now.after_ms(self.config.command_timeout_ms),
                });
                Ok(false)
            }
        }
    }

    fn not_active(&self, now: Tick) -> CommandError {
        CommandError::NotActive {
            name: self.config.name.clone(),
            active: self.active_hint(now).map(|hint| hint.name),
        }
    }

    fn activate(&mut self, now: Tick, id: Option<CommandId>) {
        self.pending = Some(Pending::Activate {
            id,
            since: now,
            until: now.after_ms(self.config.command_timeout_ms),
        });
        self.yielded_until = now;
        self.backoff_until = self.backoff_until.min(now);
        self.ask_at = now;
    }

    fn done(&mut self, id: Option<CommandId>, outcome: Result<(), CommandError>) {
        if let Some(command) = id {
            self.outputs
                .push_back(Output::CommandDone { command, outcome });
        }
    }

    /// It serves.
    pub(super) fn activated(&mut self) {
        if let Some(Pending::Activate { id, .. }) = self.pending {
            self.pending = None;
            self.ordered = !self.config.automatic;
            self.done(id, Ok(()));
        }
    }

    /// The claim failed: who ordered it is told, and the role is left to others (T-A12).
    pub(super) fn activation_failed(&mut self, reason: &str) {
        if let Some(Pending::Activate { id, .. }) = self.pending {
            self.pending = None;
            let name = self.config.name.clone();
            let reason = reason.to_string();
            self.done(id, Err(CommandError::ClaimFailed { name, reason }));
        }
    }

    pub(super) fn start_hand_over(
        &mut self,
        now: Tick,
        id: Option<CommandId>,
        peer: usize,
        reason: String,
    ) {
        let Phase::Serving { epoch, .. } = self.phase else {
            unreachable!("only who serves hands over");
        };
        self.note_end_of_service(now);
        self.give_role_to(now, id, peer, epoch);
        let to = self.peers[peer].name.clone();
        if self.config.planted.serve_while_releasing {
            self.release(now, Some(&to));
        }
        self.outputs.push_back(Output::HandOver { to, reason });
    }

    /// Once the driver resigned, the lease is reserved for `peer`, and `peer` told.
    pub(super) fn give_role_to(
        &mut self,
        now: Tick,
        id: Option<CommandId>,
        peer: usize,
        epoch: Epoch,
    ) {
        let until = now.after_ms(self.config.command_timeout_ms);
        self.pending = Some(Pending::HandOver {
            id,
            peer,
            told: None,
            ordered: self.ordered,
            until,
        });
        self.ordered = false;
        self.phase = Phase::Resigning {
            epoch,
            hand_over: Some(peer),
            until,
        };
    }

    /// The driver resigned, the lease is released or reserved.
    pub(super) fn resigned(&mut self, now: Tick, hand_over: Option<usize>) {
        match self.pending {
            Some(Pending::Demote { id }) => {
                self.pending = None;
                self.done(Some(id), Ok(()));
            }
            Some(Pending::HandOver {
                id, peer, ordered, ..
            }) if hand_over.is_some() => {
                match id {
                    Some(_) => self.yield_by_order(now),
                    None => self.yield_for_health(now),
                }
                let from = self.config.name.clone();
                let told = self.peer_call(peer, Request::Stand { from });
                self.pending = Some(Pending::HandOver {
                    id,
                    peer,
                    told: Some(told),
                    ordered,
                    until: now.after_ms(self.config.command_timeout_ms),
                });
            }
            Some(Pending::Check { id, .. }) => {
                self.pending = None;
                let error = self.not_active(now);
                self.done(Some(id), Err(error));
            }
            Some(Pending::Activate { .. }) => {
                self.activation_failed("the active lease lapsed, or a newer writer claimed");
            }
            Some(Pending::HandOver { .. }) | None => {}
        }
    }

    /// The question a command waits for is answered, or failed.
    pub(super) fn peer_probed(&mut self, now: Tick, probe: CallTag) {
        let Some(Pending::Check {
            id,
            peer,
            force,
            probe: expected,
            ..
        }) = self.pending
        else {
            return;
        };
        if probe != expected {
            return;
        }
        self.pending = None;
        if !matches!(self.phase, Phase::Serving { .. }) {
            let error = self.not_active(now);
            self.done(Some(id), Err(error));
        } else if let Some(reason) = self.peer_unfit(now, peer).filter(|_| !force) {
            let peer = self.peers[peer].name.clone();
            self.done(Some(id), Err(CommandError::NotReady { peer, reason }));
        } else {
            self.start_hand_over(now, Some(id), peer, "an operator ordered it".to_string());
        }
    }

    /// A role change of its own goes before the one it was asked for and had not begun.
    pub(super) fn refuse_check(&mut self) {
        if let Some(Pending::Check { id, .. }) = self.pending {
            self.pending = None;
            self.done(Some(id), Err(CommandError::Busy));
        }
    }

    /// Whether it waits for a lease that is about to be free.
    pub(super) fn is_activating(&self) -> bool {
        matches!(self.pending, Some(Pending::Activate { .. }))
    }

    /// The peer does not want the role.
    pub(super) fn stand_refused(&mut self, now: Tick, call: CallTag, reason: &str) {
        if let Some(Pending::HandOver {
            told: Some(told), ..
        }) = self.pending
            && told == call
        {
            self.hand_over_failed(now, reason);
        }
    }

    /// Stands again, whatever it was given up for: somebody has to serve (T-A16).
    fn hand_over_failed(&mut self, now: Tick, reason: &str) {
        let Some(Pending::HandOver {
            id, peer, ordered, ..
        }) = self.pending
        else {
            return;
        };
        self.pending = None;
        self.ordered = ordered;
        self.yielded_until = now;
        let peer = self.peers[peer].name.clone();
        let reason = reason.to_string();
        self.done(id, Err(CommandError::PeerFailed { peer, reason }));
    }

    pub(super) fn advance_command(&mut self, now: Tick) {
        let other = self.other_active(now);
        if self.ordered
            && matches!(self.phase, Phase::Follower)
            && other
                .as_ref()
                .is_some_and(|it| it.serving && it.epoch > self.last_epoch)
        {
            // Roles were changed while this one was away.
            self.ordered = false;
        }
        match self.pending {
            Some(Pending::Activate { id, since, until }) => {
                let held = other.filter(|it| it.serving).filter(|_| {
                    matches!(self.phase, Phase::Follower)
                        && since.after_ms(2 * self.ttl()) <= now
                        && id.is_some()
                });
                let error = if let Some(active) = held {
                    CommandError::HeldByOther {
                        active: active.name,
                        name: self.config.name.clone(),
                    }
                } else if until <= now {
                    CommandError::TimedOut {
                        after_ms: self.config.command_timeout_ms,
                        reason: self.state_line(now),
                    }
                } else {
                    return;
                };
                let timed_out = matches!(error, CommandError::TimedOut { .. });
                self.pending = None;
                self.done(id, Err(error));
                if timed_out {
                    self.abandon_activation(now);
                }
            }
            Some(Pending::HandOver {
                id,
                peer,
                told,
                until,
                ..
            }) => {
                let name = &self.peers[peer].name;
                if told.is_some() && other.is_some_and(|it| it.serving && it.name == *name) {
                    self.pending = None;
                    self.done(id, Ok(()));
                } else if told.is_some() && self.is_vacant(now) {
                    self.hand_over_failed(
                        now,
                        "it did not take the lease that was reserved for it",
                    );
                } else if told.is_some() && until <= now {
                    self.hand_over_failed(now, "it did not say in time that it serves");
                }
            }
            Some(Pending::Check { id, until, .. }) if until <= now => {
                self.pending = None;
                let error = CommandError::TimedOut {
                    after_ms: self.config.command_timeout_ms,
                    reason: "the peer did not say how it is".to_string(),
                };
                self.done(Some(id), Err(error));
            }
            Some(Pending::Check { .. } | Pending::Demote { .. }) | None => {}
        }
    }

    /// What was reported as failed is not carried on with: whoever ordered it goes on as if this NameNode were standby
    /// (F-13). One alone stands by itself in any case.
    fn abandon_activation(&mut self, now: Tick) {
        match self.phase {
            _ if self.config.alone => {}
            Phase::Claiming { epoch, .. } => self.step_down(now, epoch, StepDownReason::Ordered),
            Phase::Asking { .. } => self.stop_asking(now),
            Phase::Follower | Phase::Serving { .. } | Phase::Resigning { .. } => {}
        }
    }

    /// Gives back what was granted so far.
    pub(super) fn stop_asking(&mut self, now: Tick) {
        self.release(now, None);
        self.phase = Phase::Follower;
        self.back_off(now);
    }

    /// A hand-over that is not through by now never will be: the driver stops, and this NameNode stands again.
    pub(super) fn advance_hand_over(&mut self, now: Tick) {
        if let Phase::Resigning {
            epoch,
            hand_over: Some(_),
            until,
        } = self.phase
            && until <= now
        {
            self.step_down(now, epoch, StepDownReason::JournalStalled);
            self.hand_over_failed(now, "the last edits were not committed in time");
        }
    }

    pub(super) fn command_timeout(&self) -> Tick {
        match self.pending {
            Some(Pending::Activate { until, .. } | Pending::Check { until, .. }) => until,
            Some(Pending::HandOver {
                told: Some(_),
                until,
                ..
            }) => until,
            Some(Pending::HandOver { told: None, .. } | Pending::Demote { .. }) | None => {
                Tick::NEVER
            }
        }
    }
}
