//! The conversation of a DataNode with one NameNode: handshake, heartbeats, reports (seed A). One actor never
//! waits for another.

use crate::notices::Notices;
use crate::pending_reports::PendingReports;
use crate::schedule::ReportSchedule;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{ChangeKind, DigestAsk, ReplicaChange};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, DatanodeUuid, StorageUuid, Tick};

/// Periods and bounds of an actor; HDFS's defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActorConfig {
    /// Between heartbeats.
    pub heartbeat_interval_ms: u64,
    /// Between full reports.
    pub report_interval_ms: u64,
    /// The first full report comes inside this time after registration.
    pub report_initial_delay_ms: u64,
    /// DELETED changes wait at most this long.
    pub delete_report_interval_ms: u64,
    /// After a failed version request.
    pub handshake_retry_ms: u64,
    /// After a failed registration.
    pub register_retry_ms: u64,
    /// Unacknowledged changes kept for one NameNode.
    pub pending_max: usize,
    /// Changes in one incremental report.
    pub batch_max: usize,
    /// Reports begin with a digest; otherwise every report is a full one.
    pub digest_reports: bool,
    /// Bugs planted by the simulator.
    pub planted: crate::Planted,
}

impl Default for ActorConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 3_000,
            report_interval_ms: 6 * 3_600_000,
            report_initial_delay_ms: 0,
            delete_report_interval_ms: 300_000,
            handshake_retry_ms: 5_000,
            register_retry_ms: 1_000,
            pending_max: 100_000,
            batch_max: 10_000,
            digest_reports: true,
            planted: crate::Planted::default(),
        }
    }
}

/// What the driver must do for an actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ActorOutput {
    /// Ask for version and identity.
    SendVersionRequest,
    /// Register.
    SendRegister,
    /// Send a heartbeat that asks for slots for these storages' full reports.
    SendHeartbeat {
        /// Storages with a report due.
        wants_report: Vec<StorageUuid>,
    },
    /// Send this incremental report.
    SendIncremental {
        /// Its number.
        sequence: u64,
        /// What changed.
        changes: Vec<ReplicaChange>,
    },
    /// Send a full report of this storage.
    SendReport {
        /// Which.
        storage: StorageUuid,
        /// Counts full reports.
        report_id: u64,
        /// Incremental reports up to this one are part of it.
        includes: u64,
    },
    /// Send a round of a digest report of this storage, of the replicas as they are now: every change before has been
    /// sent, and none may happen between this and the look at the tree.
    SendDigest {
        /// Which.
        storage: StorageUuid,
        /// Counts reports.
        report_id: u64,
        /// Incremental reports up to this one are part of it.
        includes: u64,
        /// What the NameNode asked for; nothing: the root.
        ask: Option<DigestAsk>,
    },
    /// Report these corrupt replicas.
    SendBadBlocks {
        /// Which.
        blocks: Vec<BadReplica>,
    },
    /// Tell an operator's matter.
    SendErrorReport {
        /// HDFS's number: 1 a volume failed, 3 too many did.
        code: u16,
        /// For people.
        message: String,
    },
    /// Tell that a copy ordered by this NameNode failed.
    SendTransferFailed {
        /// Which replica.
        block: Block,
        /// Who is to blame; zero for ourselves.
        target: DatanodeUuid,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// Wants version and identity.
    Handshake { at: Tick, in_flight: bool },
    /// Wants to register.
    Register { at: Tick, in_flight: bool },
    /// Registered.
    Serving,
    /// This NameNode refuses this DataNode, and no further try changes that.
    Ended { reason: String },
}

/// Why a call has no good answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure<'a> {
    /// The NameNode answered with a fault.
    Fault(&'a Fault),
    /// The connection went before the answer came.
    Lost,
}

/// State of the conversation.
#[derive(Clone, Debug)]
pub struct Actor {
    config: ActorConfig,
    phase: Phase,
    schedule: ReportSchedule,
    pending: PendingReports,
    notices: Notices,
    storages: Vec<StorageUuid>,
    owed_reports: BTreeSet<StorageUuid>,
    granted: Option<StorageUuid>,
    /// What a NameNode that was sent a digest wants next, in the slot that report has.
    asked: Option<(StorageUuid, DigestAsk)>,
    /// Storages whose next report is a full one, because somebody asked for that.
    full: BTreeSet<StorageUuid>,
    report_in_flight: bool,
    report_id: u64,
    heartbeat_in_flight: bool,
    pause_until: Tick,
    /// Notices that failed wait until then.
    notice_after: Tick,
    deletes_due: Tick,
    random: u64,
}

impl Actor {
    /// An actor for a DataNode with these storages; `seed` randomises its report times.
    #[must_use]
    pub fn new(config: ActorConfig, storages: Vec<StorageUuid>, seed: u64) -> Self {
        let schedule = ReportSchedule::new(config.heartbeat_interval_ms, config.report_interval_ms);
        Self {
            phase: Phase::Handshake {
                at: Tick(0),
                in_flight: false,
            },
            schedule,
            pending: PendingReports::new(config.pending_max),
            notices: Notices::default(),
            config,
            storages,
            owed_reports: BTreeSet::new(),
            granted: None,
            asked: None,
            full: BTreeSet::new(),
            report_in_flight: false,
            report_id: 0,
            heartbeat_in_flight: false,
            pause_until: Tick(0),
            notice_after: Tick(0),
            deletes_due: Tick::NEVER,
            random: seed | 1,
        }
    }

    /// The storages are known (the volumes were opened after the first handshake), or some of them failed: no report
    /// of one that is not listed is owed any more.
    pub fn set_storages(&mut self, storages: Vec<StorageUuid>) {
        self.storages = storages;
        let storages = &self.storages;
        self.owed_reports
            .retain(|storage| storages.contains(storage));
        self.granted = self.granted.filter(|storage| storages.contains(storage));
        self.asked = self
            .asked
            .take()
            .filter(|(storage, _)| storages.contains(storage));
    }

    /// Registered with its NameNode.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// Registered, and every full report owed since then has arrived.
    #[must_use]
    pub fn has_reported(&self) -> bool {
        self.is_registered() && self.owed_reports.is_empty()
    }

    /// Why the conversation is over for good, once it is.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match &self.phase {
            Phase::Ended { reason } => Some(reason),
            _ => None,
        }
    }

    /// This NameNode and this DataNode do not belong together: another cluster, namespace or block pool, a version
    /// that does not fit, a certificate that may not. Ends this actor only.
    pub fn handle_refused(&mut self, reason: impl Into<String>) {
        self.phase = Phase::Ended {
            reason: reason.into(),
        };
        self.heartbeat_in_flight = false;
        self.forget_report();
    }

    /// No report is under way, and none is admitted.
    fn forget_report(&mut self) {
        self.report_in_flight = false;
        self.granted = None;
        self.asked = None;
    }

    /// Changes this NameNode has not acknowledged.
    #[must_use]
    pub fn pending(&self) -> &PendingReports {
        &self.pending
    }

    fn draw(&mut self) -> u64 {
        // xorshift64*: cheap, seeded, good enough to spread reports.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The connection to the NameNode is lost: everything in flight failed.
    pub fn handle_disconnected(&mut self, now: Tick) {
        match self.phase {
            Phase::Handshake {
                in_flight: true, ..
            } => self.handle_version_failed(now),
            Phase::Register {
                in_flight: true, ..
            } => self.handle_register_failed(now),
            _ => {}
        }
        self.heartbeat_in_flight = false;
        self.pending.handle_failed();
        self.notices.handle_disconnected();
        self.forget_report();
    }

    /// Version and identity were accepted.
    pub fn handle_version(&mut self, now: Tick) {
        self.phase = Phase::Register {
            at: now,
            in_flight: false,
        };
    }

    /// No answer, or not the right one: again after a while, for ever.
    pub fn handle_version_failed(&mut self, now: Tick) {
        // With jitter, so that a thousand DataNodes do not knock at one moment.
        let wait = self.config.handshake_retry_ms * 3 / 4
            + self.draw() % (self.config.handshake_retry_ms / 2).max(1);
        self.phase = Phase::Handshake {
            at: now.after_ms(wait),
            in_flight: false,
        };
    }

    /// Registered: a full report follows, so pending changes are dropped.
    pub fn handle_registered(&mut self, now: Tick) {
        self.phase = Phase::Serving;
        self.pending.clear();
        self.deletes_due = Tick::NEVER;
        self.heartbeat_in_flight = false;
        self.forget_report();
        let random = self.draw();
        self.schedule
            .start(now, self.config.report_initial_delay_ms, random);
        self.owed_reports = self.storages.iter().copied().collect();
    }

    /// No answer: again after a second.
    pub fn handle_register_failed(&mut self, now: Tick) {
        self.phase = Phase::Register {
            at: now.after_ms(self.config.register_retry_ms),
            in_flight: false,
        };
    }

    /// REGISTER was commanded: both phases again.
    pub fn handle_register_command(&mut self, now: Tick) {
        if self.config.planted.ignore_register {
            return;
        }
        self.phase = Phase::Handshake {
            at: now,
            in_flight: false,
        };
        self.heartbeat_in_flight = false;
        self.forget_report();
    }

    /// A heartbeat was answered, perhaps with a slot for one storage's full report.
    pub fn handle_heartbeat(&mut self, slot: Option<StorageUuid>) {
        self.heartbeat_in_flight = false;
        if let Some(storage) = slot.filter(|storage| self.owed_reports.contains(storage)) {
            self.granted = Some(storage);
        }
    }

    /// An incremental report was acknowledged.
    pub fn handle_incremental(&mut self, sequence: u64) {
        self.pending.handle_acknowledged(sequence);
        if !self.pending.has_unsent() {
            self.deletes_due = Tick::NEVER;
        }
    }

    /// A round of a digest report was taken; with nothing asked for the report is complete.
    pub fn handle_digest(&mut self, now: Tick, storage: StorageUuid, ask: Option<DigestAsk>) {
        match ask {
            None => self.handle_report_done(now, storage),
            Some(ask) if self.report_in_flight => {
                self.report_in_flight = false;
                self.asked = Some((storage, ask));
            }
            // Of a conversation that is over.
            Some(_) => {}
        }
    }

    /// A report arrived whole.
    pub fn handle_report_done(&mut self, now: Tick, storage: StorageUuid) {
        self.report_in_flight = false;
        self.full.remove(&storage);
        self.owed_reports.remove(&storage);
        if self.owed_reports.is_empty() {
            let random = self.draw();
            self.schedule.handle_report_sent(now, random);
        } else {
            self.schedule.heartbeat_now(now);
        }
    }

    /// A full report was refused or lost: it stays owed and asks for another slot (Q3, Q4).
    pub fn handle_report_failed(&mut self, now: Tick, fault: Option<&Fault>) {
        self.report_in_flight = false;
        self.asked = None;
        if let Some(fault) = fault {
            self.handle_fault(now, fault);
        }
    }

    /// A call was answered with a fault.
    pub fn handle_fault(&mut self, now: Tick, fault: &Fault) {
        self.heartbeat_in_flight = false;
        self.pending.handle_failed();
        match fault.class {
            FaultClass::UnregisteredNode => self.handle_register_command(now),
            FaultClass::IdentityMismatch | FaultClass::IncorrectVersion | FaultClass::Forbidden => {
                self.handle_refused(fault.to_string())
            }
            FaultClass::Busy => self.pause(now, fault.value.clamp(1, 10_000)),
            _ => self.pause(now, self.config.heartbeat_interval_ms.min(1_000)),
        }
    }

    /// Nothing for a while; a handshake or registration that was on its way is made again then.
    fn pause(&mut self, now: Tick, ms: u64) {
        match self.phase {
            Phase::Handshake {
                in_flight: true, ..
            } => self.handle_version_failed(now),
            Phase::Register {
                in_flight: true, ..
            } => self.handle_register_failed(now),
            _ => {}
        }
        self.pause_until = now.after_ms(ms);
    }

    /// A replica changed (A-36: every actor is told).
    pub fn push_change(&mut self, now: Tick, change: ReplicaChange) {
        if self.config.planted.forget_received && change.kind == ChangeKind::Received {
            return;
        }
        if self.pending.push(change) {
            self.report_now(now);
            return;
        }
        let due = now.after_ms(self.config.delete_report_interval_ms);
        self.deletes_due = self.deletes_due.min(due);
    }

    /// A replica was found corrupt; goes out once registered.
    pub fn push_bad(&mut self, bad: BadReplica) {
        self.notices.push_bad(bad);
    }

    /// Something an operator should see.
    pub fn push_error(&mut self, code: u16, message: String) {
        self.notices.push_error(code, message);
    }

    /// A copy this NameNode ordered failed; told after the corrupt replicas.
    pub fn push_failed_copy(&mut self, block: Block, target: DatanodeUuid) {
        self.notices.push_failed_copy(block, target);
    }

    /// The word of a failed copy was answered (`None`: well) or its answer was lost.
    pub fn handle_transfer_failed(&mut self, now: Tick, failure: Option<&Failure<'_>>) {
        self.notices.handle_transfer_failed(failure);
        self.note_failure(now, failure);
    }

    /// A report of corrupt replicas was answered (`None`: well) or its answer was lost.
    pub fn handle_bad_blocks(&mut self, now: Tick, failure: Option<&Failure<'_>>) {
        self.notices.handle_bad_blocks(failure);
        self.note_failure(now, failure);
    }

    /// An error report was answered (`None`: well) or its answer was lost.
    pub fn handle_error_report(&mut self, now: Tick, failure: Option<&Failure<'_>>) {
        self.notices.handle_error_report(failure);
        self.note_failure(now, failure);
    }

    fn note_failure(&mut self, now: Tick, failure: Option<&Failure<'_>>) {
        if let Some(Failure::Fault(fault)) = failure
            && fault.class == FaultClass::UnregisteredNode
        {
            self.handle_register_command(now);
        }
        if failure.is_some() {
            self.notice_after = now.after_ms(self.config.heartbeat_interval_ms.min(1_000));
        }
    }

    /// Whether error reports or a heartbeat that is due have not been answered: what a DataNode that is about to stop
    /// still wants to tell.
    #[must_use]
    pub fn has_last_words(&self, now: Tick) -> bool {
        self.is_registered()
            && (self.notices.has_errors()
                || self.heartbeat_in_flight
                || self.schedule.heartbeat_due(now))
    }

    /// A full report of every storage as soon as the NameNode lets us, whatever digests say (`dfsadmin
    /// -triggerBlockReport`).
    pub fn full_report_now(&mut self, now: Tick) {
        self.full = self.storages.iter().copied().collect();
        self.report_now(now);
    }

    /// A report of every storage as soon as the NameNode lets us.
    pub fn report_now(&mut self, now: Tick) {
        let random = self.draw();
        self.schedule.schedule_report(now, 0, random);
        self.owed_reports = self.storages.iter().copied().collect();
        self.schedule.heartbeat_now(now);
    }

    /// A heartbeat at the next opportunity.
    pub fn heartbeat_now(&mut self, now: Tick) {
        self.schedule.heartbeat_now(now);
    }

    /// What to send now; call until it returns `None`.
    pub fn poll_output(&mut self, now: Tick) -> Option<ActorOutput> {
        match &mut self.phase {
            Phase::Handshake { at, in_flight } if !*in_flight && now >= *at => {
                *in_flight = true;
                return Some(ActorOutput::SendVersionRequest);
            }
            Phase::Register { at, in_flight } if !*in_flight && now >= *at => {
                *in_flight = true;
                return Some(ActorOutput::SendRegister);
            }
            Phase::Serving => {}
            _ => return None,
        }
        if now < self.pause_until {
            return None;
        }
        if now >= self.notice_after
            && let Some(output) = self.notices.poll_output()
        {
            return Some(output);
        }
        // A report travels behind every change, so that none looks like a difference.
        if !self.pending.is_in_flight()
            && (self.pending.is_urgent()
                || (self.pending.has_unsent() && (self.has_report() || now >= self.deletes_due)))
            && let Some((sequence, changes)) = self.pending.take_batch(self.config.batch_max)
        {
            return Some(ActorOutput::SendIncremental { sequence, changes });
        }
        if !self.pending.has_unsent()
            && let Some(output) = self.poll_report()
        {
            return Some(output);
        }
        if !self.heartbeat_in_flight && self.schedule.heartbeat_due(now) {
            self.heartbeat_in_flight = true;
            self.schedule.handle_heartbeat_sent(now);
            if self.schedule.report_due(now) && self.owed_reports.is_empty() {
                self.owed_reports = self.storages.iter().copied().collect();
            }
            let wants =
                self.schedule.report_due(now) && !self.report_in_flight && !self.has_report();
            let wants_report = if wants {
                self.owed_reports.iter().copied().collect()
            } else {
                Vec::new()
            };
            return Some(ActorOutput::SendHeartbeat { wants_report });
        }
        None
    }

    /// A report, or its next round, may be sent.
    fn has_report(&self) -> bool {
        !self.report_in_flight && (self.granted.is_some() || self.asked.is_some())
    }

    fn poll_report(&mut self) -> Option<ActorOutput> {
        if !self.has_report() {
            return None;
        }
        let includes = self.pending.sequence();
        let (storage, ask) = match (self.asked.take(), self.granted.take()) {
            (Some((storage, ask)), _) => (storage, Some(ask)),
            (None, storage) => (storage?, None),
        };
        self.report_in_flight = true;
        if ask.is_none() || ask == Some(DigestAsk::Full) {
            self.report_id += 1;
        }
        let report_id = self.report_id;
        let is_full = ask == Some(DigestAsk::Full)
            || (ask.is_none() && (self.full.contains(&storage) || !self.config.digest_reports));
        Some(if is_full {
            ActorOutput::SendReport {
                storage,
                report_id,
                includes,
            }
        } else {
            ActorOutput::SendDigest {
                storage,
                report_id,
                includes,
                ask,
            }
        })
    }

    /// When something is due at the latest if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        match self.phase {
            Phase::Handshake { at, in_flight } | Phase::Register { at, in_flight } => {
                (!in_flight).then_some(at)
            }
            Phase::Ended { .. } => None,
            Phase::Serving => {
                let mut due = Tick::NEVER;
                if self.notices.has_unsent() {
                    due = due.min(self.notice_after);
                }
                if !self.heartbeat_in_flight {
                    due = due.min(self.schedule.next_heartbeat());
                }
                if self.pending.has_unsent() && !self.pending.is_in_flight() {
                    due = due.min(if self.pending.is_urgent() || self.has_report() {
                        Tick(0)
                    } else {
                        self.deletes_due
                    });
                }
                if self.has_report() && !self.pending.has_unsent() {
                    due = Tick(0);
                }
                (due != Tick::NEVER).then(|| due.max(self.pause_until))
            }
        }
    }
}

#[cfg(test)]
mod tests;
