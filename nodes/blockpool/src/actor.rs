//! The conversation of a DataNode with one NameNode: handshake, heartbeats, reports (seed A). One actor never
//! waits for another.

use crate::notices::Notices;
use crate::pending_reports::PendingReports;
use crate::schedule::ReportSchedule;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{ChangeKind, ReplicaChange};
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
        self.report_in_flight = false;
        self.granted = None;
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
        self.report_in_flight = false;
        self.granted = None;
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
        self.report_in_flight = false;
        self.granted = None;
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
        self.report_in_flight = false;
        self.granted = None;
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

    /// A full report arrived whole.
    pub fn handle_report_done(&mut self, now: Tick, storage: StorageUuid) {
        self.report_in_flight = false;
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

    /// A full report of every storage as soon as the NameNode lets us.
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
        if !self.pending.is_in_flight()
            && (self.pending.is_urgent() || (self.pending.has_unsent() && now >= self.deletes_due))
            && let Some((sequence, changes)) = self.pending.take_batch(self.config.batch_max)
        {
            return Some(ActorOutput::SendIncremental { sequence, changes });
        }
        if !self.report_in_flight
            && let Some(storage) = self.granted.take()
        {
            self.report_in_flight = true;
            self.report_id += 1;
            let includes = self.pending.sequence();
            return Some(ActorOutput::SendReport {
                storage,
                report_id: self.report_id,
                includes,
            });
        }
        if !self.heartbeat_in_flight && self.schedule.heartbeat_due(now) {
            self.heartbeat_in_flight = true;
            self.schedule.handle_heartbeat_sent(now);
            if self.schedule.report_due(now) && self.owed_reports.is_empty() {
                self.owed_reports = self.storages.iter().copied().collect();
            }
            let wants =
                self.schedule.report_due(now) && !self.report_in_flight && self.granted.is_none();
            let wants_report = if wants {
                self.owed_reports.iter().copied().collect()
            } else {
                Vec::new()
            };
            return Some(ActorOutput::SendHeartbeat { wants_report });
        }
        None
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
                    due = due.min(if self.pending.is_urgent() {
                        Tick(0)
                    } else {
                        self.deletes_due
                    });
                }
                if self.granted.is_some() && !self.report_in_flight {
                    due = Tick(0);
                }
                (due != Tick::NEVER).then(|| due.max(self.pause_until))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{BlockId, GenerationStamp};

    fn actor() -> Actor {
        Actor::new(
            ActorConfig::default(),
            [StorageUuid(1), StorageUuid(2)].into(),
            42,
        )
    }

    fn registered() -> Actor {
        let mut actor = actor();
        assert_eq!(
            actor.poll_output(Tick(0)),
            Some(ActorOutput::SendVersionRequest)
        );
        assert_eq!(actor.poll_output(Tick(0)), None);
        actor.handle_version(Tick(0));
        assert_eq!(actor.poll_output(Tick(0)), Some(ActorOutput::SendRegister));
        actor.handle_registered(Tick(0));
        actor
    }

    fn received(id: u64) -> ReplicaChange {
        ReplicaChange {
            storage: StorageUuid(1),
            block: Block {
                id: BlockId(id),
                generation_stamp: GenerationStamp(1),
                length: 1,
            },
            kind: ChangeKind::Received,
            delete_hint: DatanodeUuid(0),
        }
    }

    #[test]
    fn handshake_is_tried_for_ever_a07_a12_a43_q37() {
        let mut actor = actor();
        let mut now = Tick(0);
        for _ in 0..100 {
            assert_eq!(
                actor.poll_output(now),
                Some(ActorOutput::SendVersionRequest)
            );
            actor.handle_version_failed(now);
            assert_eq!(actor.poll_output(now), None);
            // Every 5 s, give or take a quarter (decision 4).
            let next = actor.poll_timeout().unwrap();
            assert!((3_750..6_250).contains(&next.ms_since(now)), "{next:?}");
            now = next;
        }
        actor.handle_version(now);
        assert_eq!(actor.poll_output(now), Some(ActorOutput::SendRegister));
        actor.handle_register_failed(now);
        assert_eq!(actor.poll_timeout(), Some(now.after_ms(1000)));
    }

    /// whatever happens, a registration is asked for only after version and identity were accepted, and nothing
    /// else is sent before the registration.
    #[test]
    fn nothing_is_registered_before_phase_1_a11() {
        for seed in 0..200 {
            let mut actor = Actor::new(ActorConfig::default(), [StorageUuid(1)].into(), seed);
            let (mut now, mut accepted) = (Tick(0), false);
            for _ in 0..100 {
                now = now.after_ms(1 + actor.draw() % 3_000);
                match actor.draw() % 7 {
                    0 => actor.handle_disconnected(now),
                    1 => actor.push_change(now, received(1)),
                    2 => actor.push_bad(bad(1)),
                    3 => actor.report_now(now),
                    4 => actor.handle_register_command(now),
                    _ => {}
                }
                let before = actor.phase.clone();
                if !matches!(before, Phase::Register { .. }) {
                    accepted = false;
                }
                match actor.poll_output(now) {
                    Some(ActorOutput::SendVersionRequest) if actor.draw().is_multiple_of(2) => {
                        actor.handle_version(now);
                        accepted = true;
                    }
                    Some(ActorOutput::SendVersionRequest) => actor.handle_version_failed(now),
                    Some(ActorOutput::SendRegister) => {
                        assert!(accepted, "seed {seed}: {before:?}");
                        actor.handle_register_failed(now);
                    }
                    Some(other) => panic!("seed {seed}: {other:?} before it is registered"),
                    None => {}
                }
            }
        }
    }

    /// with delay 0 the first full report goes out with the first heartbeat. A-33: until every storage's has
    /// arrived the actor is not through the report step.
    #[test]
    fn each_storage_reports_once_after_registration_with_a_slot_a28_a33_q2() {
        let mut actor = registered();
        let now = Tick(0);
        let mut reported = Vec::new();
        for _ in 0..2 {
            assert!(!actor.has_reported());
            let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
                panic!("a heartbeat is due");
            };
            assert!(!wants_report.is_empty());
            assert_eq!(actor.poll_output(now), None, "no report without a slot");
            actor.handle_heartbeat(Some(wants_report[0]));
            let Some(ActorOutput::SendReport { storage, .. }) = actor.poll_output(now) else {
                panic!("the slot is used");
            };
            actor.handle_report_done(now, storage);
            reported.push(storage);
        }
        assert_eq!(reported, [StorageUuid(1), StorageUuid(2)]);
        assert!(actor.has_reported());
        let next = actor.poll_timeout().unwrap();
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(next) else {
            panic!("a heartbeat is due");
        };
        assert!(
            wants_report.is_empty(),
            "nothing owed before the next interval"
        );
    }

    #[test]
    fn a_refused_report_stays_owed_q3_q4() {
        let mut actor = registered();
        actor.poll_output(Tick(0));
        actor.handle_heartbeat(Some(StorageUuid(1)));
        assert!(matches!(
            actor.poll_output(Tick(0)),
            Some(ActorOutput::SendReport { .. })
        ));
        actor.handle_report_failed(
            Tick(0),
            Some(&Fault::new(FaultClass::Busy, "later").with_value(500)),
        );
        assert_eq!(actor.poll_output(Tick(0)), None, "paused");
        let later = actor.poll_timeout().unwrap();
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(later) else {
            panic!("asks again");
        };
        assert!(wants_report.contains(&StorageUuid(1)));
    }

    /// between events the actor sleeps until its next heartbeat; a change of a replica wakes it.
    #[test]
    fn a_received_block_wakes_the_actor_a18_a35() {
        let mut actor = registered();
        actor.poll_output(Tick(0));
        actor.handle_heartbeat(None);
        // It sleeps until the next heartbeat.
        assert_eq!(actor.poll_timeout(), Some(Tick::from_ms(3_000)));
        assert_eq!(actor.poll_output(Tick(5)), None);
        actor.push_change(Tick(5), received(1));
        assert_eq!(actor.poll_timeout(), Some(Tick(0)));
        let Some(ActorOutput::SendIncremental { sequence, changes }) = actor.poll_output(Tick(5))
        else {
            panic!("sent at once");
        };
        assert_eq!(changes, [received(1)]);
        actor.push_change(Tick(6), received(2));
        assert_eq!(actor.poll_output(Tick(6)), None, "one batch in flight");
        actor.handle_incremental(sequence);
        assert!(matches!(
            actor.poll_output(Tick(6)),
            Some(ActorOutput::SendIncremental { .. })
        ));
    }

    /// a deletion waits for its interval, or rides with what goes out before.
    #[test]
    fn deletions_wait_or_ride_along_a35() {
        let deleted = |id| ReplicaChange {
            kind: ChangeKind::Deleted,
            ..received(id)
        };
        let sent = |changes: &[ReplicaChange], sequence| {
            let changes = changes.to_vec();
            Some(ActorOutput::SendIncremental { sequence, changes })
        };
        let mut actor = registered();
        actor.push_change(Tick::from_ms(10), deleted(1));
        actor.push_change(Tick::from_ms(20), deleted(2));
        let due = Tick::from_ms(10).after_ms(actor.config.delete_report_interval_ms);
        assert_eq!(notice(&mut actor, Tick(due.0 - 1)), None);
        assert_eq!(notice(&mut actor, due), sent(&[deleted(1), deleted(2)], 1));
        actor.handle_incremental(1);
        actor.push_change(due, deleted(3));
        assert_eq!(notice(&mut actor, due), None);
        actor.push_change(due, received(4));
        assert_eq!(notice(&mut actor, due), sent(&[deleted(3), received(4)], 2));
    }

    #[test]
    fn a_lost_connection_keeps_what_was_not_acknowledged_a36() {
        let mut actor = registered();
        actor.push_change(Tick(1), received(1));
        assert!(matches!(
            actor.poll_output(Tick(1)),
            Some(ActorOutput::SendIncremental { .. })
        ));
        actor.handle_disconnected(Tick(2));
        let Some(ActorOutput::SendIncremental { changes, .. }) = actor.poll_output(Tick(2)) else {
            panic!("sent again");
        };
        assert_eq!(changes, [received(1)]);
    }

    #[test]
    fn re_registration_drops_pending_changes_and_owes_full_reports_a13_t_d8() {
        let mut actor = registered();
        actor.push_change(Tick(1), received(1));
        actor.handle_fault(
            Tick(1),
            &Fault::new(FaultClass::UnregisteredNode, "who are you"),
        );
        assert!(!actor.is_registered());
        assert_eq!(
            actor.poll_output(Tick(1)),
            Some(ActorOutput::SendVersionRequest)
        );
        actor.handle_version(Tick(1));
        actor.poll_output(Tick(1));
        actor.handle_registered(Tick(1));
        assert!(actor.pending().is_empty());
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(Tick(1)) else {
            panic!("a heartbeat at once");
        };
        assert_eq!(wants_report.len(), 2);
    }

    #[test]
    fn a_registration_that_is_answered_with_a_fault_is_made_again_a12() {
        for class in [FaultClass::Retry, FaultClass::Busy, FaultClass::Standby] {
            let mut actor = actor();
            actor.poll_output(Tick(0));
            actor.handle_version(Tick(0));
            assert_eq!(actor.poll_output(Tick(0)), Some(ActorOutput::SendRegister));
            actor.handle_fault(Tick(0), &Fault::new(class, "not now").with_value(500));
            let again = actor.poll_timeout().unwrap();
            assert!(again <= Tick::from_ms(10_000), "{class:?}");
            assert_eq!(actor.poll_output(again), Some(ActorOutput::SendRegister));
        }
    }

    #[test]
    fn a_refusal_ends_the_actor_for_good_a05_a08_a42() {
        for class in [
            FaultClass::IncorrectVersion,
            FaultClass::IdentityMismatch,
            FaultClass::Forbidden,
        ] {
            let mut actor = registered();
            actor.push_change(Tick(0), received(1));
            assert_eq!(actor.refusal(), None);
            actor.handle_fault(Tick(0), &Fault::new(class, "other cluster"));
            assert_eq!(actor.refusal(), Some("other cluster"));
            actor.handle_disconnected(Tick(1));
            actor.heartbeat_now(Tick(1));
            assert_eq!(actor.poll_output(Tick::from_ms(1 << 40)), None);
            assert_eq!(actor.poll_timeout(), None);
        }
    }

    fn bad(id: u64) -> BadReplica {
        BadReplica {
            block: received(id).block,
            datanode: DatanodeUuid(1),
            storage: StorageUuid(1),
        }
    }

    /// The next output that is no heartbeat.
    fn notice(actor: &mut Actor, now: Tick) -> Option<ActorOutput> {
        loop {
            match actor.poll_output(now) {
                Some(ActorOutput::SendHeartbeat { .. }) => actor.handle_heartbeat(None),
                other => return other,
            }
        }
    }

    #[test]
    fn bad_blocks_that_were_lost_are_told_again_and_refused_ones_are_not_a39_a40_t_d7() {
        let mut actor = registered();
        actor.push_bad(bad(1));
        actor.push_bad(bad(1));
        let told = |blocks: &[u64]| {
            let blocks = blocks.iter().map(|id| bad(*id)).collect();
            Some(ActorOutput::SendBadBlocks { blocks })
        };
        let mut now = Tick(1);
        assert_eq!(notice(&mut actor, now), told(&[1]));
        actor.push_bad(bad(2));
        assert_eq!(notice(&mut actor, now), None, "one report at a time");
        actor.handle_bad_blocks(now, Some(&Failure::Lost));
        assert_eq!(notice(&mut actor, now), None, "not at once");
        now = now.after_ms(1_000);
        assert_eq!(notice(&mut actor, now), told(&[2, 1]));
        let standby = Fault::new(FaultClass::Standby, "not active");
        actor.handle_bad_blocks(now, Some(&Failure::Fault(&standby)));
        now = now.after_ms(10_000);
        assert_eq!(notice(&mut actor, now), None);
        actor.push_bad(bad(3));
        assert_eq!(notice(&mut actor, now), told(&[3]));
        let retry = Fault::new(FaultClass::Retry, "starting");
        actor.handle_bad_blocks(now, Some(&Failure::Fault(&retry)));
        now = now.after_ms(1_000);
        assert_eq!(notice(&mut actor, now), told(&[3]));
        actor.handle_disconnected(now);
        assert_eq!(notice(&mut actor, now), told(&[3]));
        actor.handle_bad_blocks(now, None);
        assert_eq!(notice(&mut actor, now), None);
    }

    #[test]
    fn error_reports_are_told_until_answered_a41_t_d7() {
        let mut actor = registered();
        actor.push_error(3, "volume /a failed".into());
        let told = Some(ActorOutput::SendErrorReport {
            code: 3,
            message: "volume /a failed".into(),
        });
        assert!(actor.has_last_words(Tick(1)));
        assert_eq!(notice(&mut actor, Tick(1)), told);
        actor.handle_error_report(Tick(1), Some(&Failure::Lost));
        let later = Tick(1).after_ms(1_000);
        assert_eq!(notice(&mut actor, later), told);
        actor.handle_error_report(later, None);
        assert_eq!(notice(&mut actor, later), None);
        assert!(!actor.has_last_words(later));
    }

    #[test]
    fn a_failed_copy_is_told_after_the_bad_replica_that_may_be_why() {
        let mut actor = registered();
        let block = received(1).block;
        actor.push_failed_copy(block, DatanodeUuid(0));
        actor.push_bad(bad(1));
        let now = Tick(1);
        assert!(matches!(
            notice(&mut actor, now),
            Some(ActorOutput::SendBadBlocks { .. })
        ));
        assert_eq!(notice(&mut actor, now), None);
        actor.handle_bad_blocks(now, None);
        assert_eq!(
            notice(&mut actor, now),
            Some(ActorOutput::SendTransferFailed {
                block,
                target: DatanodeUuid(0)
            })
        );
    }

    #[test]
    fn a_report_is_scheduled_anew_for_every_storage_a32() {
        let mut actor = registered();
        let now = Tick(0);
        for _ in 0..2 {
            let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
                panic!("a heartbeat is due");
            };
            actor.handle_heartbeat(Some(wants_report[0]));
            let Some(ActorOutput::SendReport { storage, .. }) = actor.poll_output(now) else {
                panic!("the slot is used");
            };
            actor.handle_report_done(now, storage);
        }
        actor.poll_output(now);
        actor.handle_heartbeat(None);
        let now = Tick::from_ms(10);
        actor.report_now(now);
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
            panic!("at once");
        };
        assert_eq!(wants_report, [StorageUuid(1), StorageUuid(2)]);
        // A storage whose volume failed owes nothing any more.
        actor.set_storages([StorageUuid(2)].into());
        actor.handle_heartbeat(Some(StorageUuid(1)));
        assert_eq!(
            actor.poll_output(now),
            None,
            "no report of a failed storage"
        );
        actor.heartbeat_now(now);
        let Some(ActorOutput::SendHeartbeat { wants_report }) = actor.poll_output(now) else {
            panic!("a heartbeat is due");
        };
        assert_eq!(wants_report, [StorageUuid(2)]);
    }
}
