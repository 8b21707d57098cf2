//! A JournalNode's mind for one journal (T-J1..T-J13).
//!
//! Every request is decided at once against the state in memory, which runs ahead of the disk; the changes leave
//! as [`StoreOp`]s in order, and whatever must not be said before they are durable waits behind them. So a
//! reply speaks of the state at the moment of decision, and leaves when exactly that state is on disk.

mod admit;
mod learn;
mod output;
mod read;
mod record;
mod recover;
mod segments;
mod standing;
mod sync;
mod wait;
mod write;

pub use output::{AskId, FetchId, Output, StoreOp, StreamKey, Ticket, WriteId};
pub use record::{Accepted, AcceptorRecord};
pub use segments::LoadedSegment;

use crate::{DigestFn, Planted};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{
    Call, CommitMark, Incarnation, JournalState, JournalStream, Request, Response, SegmentState,
    Standing,
};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, NamespaceInfo, Principal, Role, Tick, TxId};
use learn::Learning;
use recover::PendingFetch;
use segments::{Segment, Segments};
use standing::Confirmation;
use sync::Sync;
use wait::Waiter;

/// Settings of an [`Acceptor`].
#[derive(Clone, Debug)]
pub struct AcceptorConfig {
    /// This node's id.
    pub name: String,
    /// Ids of the other JournalNodes of the quorum. Empty for a quorum of one.
    pub peers: Vec<String>,
    /// How digests are computed.
    pub digest: DigestFn,
    /// The count is raised this often while acknowledging.
    pub count_interval_ms: u64,
    /// A peer that could not be asked for counts is asked again after this.
    pub peer_retry_ms: u64,
    /// Every so often the next peer is asked for segments this node lacks.
    pub sync_interval_ms: u64,
    /// For identities.
    pub seed: u64,
    /// Switched-off rules.
    pub planted: Planted,
}

impl AcceptorConfig {
    /// Defaults for this node. `seed` must be unpredictable: a new identity is made from it.
    #[must_use]
    pub fn new(name: String, peers: Vec<String>, digest: DigestFn, seed: u64) -> Self {
        Self {
            name,
            peers,
            digest,
            count_interval_ms: 1_000,
            peer_retry_ms: 1_000,
            sync_interval_ms: 2_000,
            seed,
            planted: Planted::default(),
        }
    }
}

/// What was found on disk at start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loaded {
    /// The small record; `None` on a fresh disk. (An unreadable one is an error of the driver: whatever was promised
    /// is lost.)
    pub record: Option<AcceptorRecord>,
    /// The segments; holes behind their ends are zeroed already.
    pub segments: Vec<LoadedSegment>,
}

/// Something that waits until the writes before it are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Parked {
    Output(Output),
    /// A word of this epoch: not said any more once a higher one is promised.
    OfEpoch(Epoch, Output),
}

/// A JournalNode's mind for one journal.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: AcceptorConfig,
    random: u64,
    record: AcceptorRecord,
    segments: Segments,
    /// The segment that takes batches.
    open: Option<TxId>,
    confirmation: Confirmation,
    fetch: Option<PendingFetch>,
    /// Calls that wait until more is committed.
    waiters: Vec<Waiter>,
    sync: Sync,
    learning: Learning,
    next_ask: u64,
    next_ticket: u64,
    next_fetch: u64,
    /// Writes handed out, and how many of them are durable.
    issued: u64,
    stored: u64,
    parked: VecDeque<(u64, Parked)>,
    outputs: VecDeque<Output>,
    /// Something was acknowledged since the count was raised.
    acked: bool,
    raise_at: Option<Tick>,
    stopped: bool,
}

impl Acceptor {
    /// A mind over what the disk holds. It may at once have outputs: its peers are asked about its count, or the count
    /// is raised.
    #[must_use]
    pub fn new(config: AcceptorConfig, loaded: Loaded, now: Tick) -> Self {
        let record = loaded.record.unwrap_or_default();
        let mut segments = Segments::default();
        for loaded in loaded.segments {
            let mut state = loaded.state;
            if !loaded.header_readable {
                // It cannot be of a later writer than the last one.
                state.epoch = record.writer;
            }
            segments.put(Segment::new(state, loaded.damaged));
        }
        segments.note_mark(record.mark, false);
        let open = segments
            .newest()
            .filter(|segment| !segment.state.finalized)
            .map(|segment| segment.state.first);
        let mut acceptor = Self {
            random: config.seed,
            confirmation: Confirmation::default(),
            config,
            record,
            segments,
            open,
            fetch: None,
            waiters: Vec::new(),
            sync: Sync::default(),
            learning: Learning::default(),
            next_ask: 0,
            next_ticket: 0,
            next_fetch: 0,
            issued: 0,
            stored: 0,
            parked: VecDeque::new(),
            outputs: VecDeque::new(),
            acked: false,
            raise_at: None,
            stopped: false,
        };
        acceptor.start_learning();
        acceptor.start_confirming(now);
        acceptor.start_sync(now);
        acceptor
    }

    /// A call arrived. The reply comes as [`Output::Reply`] or [`Output::Read`] under the returned ticket.
    pub fn handle_call(&mut self, now: Tick, from: &Principal, request: Request) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Err(fault) = self.admit(from, request.namespace_id, &request.call) {
            self.reply(ticket, Err(fault));
            return ticket;
        }
        match request.call {
            Call::GetState => {
                let state = self.state();
                self.reply(ticket, Ok(Response::State { state }));
            }
            Call::Format {
                info,
                initial,
                force,
            } => self.format(now, ticket, info, initial, force),
            Call::NewEpoch { info, epoch, claim } => {
                self.new_epoch(now, ticket, &info, epoch, claim);
            }
            Call::StartSegment {
                epoch,
                first,
                digest_before,
            } => {
                let outcome = self.start_segment(now, epoch, first, digest_before);
                self.reply_done(ticket, epoch, outcome);
            }
            Call::FinalizeSegment {
                epoch,
                first,
                last,
                digest,
            } => {
                let outcome = self.finalize_segment(epoch, first, last, digest);
                self.reply_done(ticket, epoch, outcome);
            }
            Call::PrepareRecovery { epoch, first } => {
                let outcome = self.prepare_recovery(epoch, first);
                self.reply_of_epoch(ticket, epoch, outcome);
            }
            Call::AcceptRecovery {
                epoch,
                segment,
                source,
            } => self.accept_recovery(ticket, epoch, &segment, source),
            Call::GetManifest { from, in_progress } => {
                let manifest = self.manifest(from, in_progress);
                self.reply(ticket, Ok(Response::Manifest { manifest }));
            }
            Call::ReadEdits {
                from,
                max_bytes,
                durable,
            } => self.read_edits(ticket, from, max_bytes, durable),
            Call::ReadSegment {
                first,
                from,
                max_bytes,
            } => self.read_segment(ticket, first, from, max_bytes),
            Call::Purge { epoch, below } => {
                let outcome = self.purge(epoch, below);
                self.reply_done(ticket, epoch, outcome);
            }
            Call::CommitMark { epoch, mark } => {
                let outcome = self.check_epoch(epoch);
                if outcome.is_ok() {
                    self.note_mark(mark);
                }
                self.reply_done(ticket, epoch, outcome);
            }
            Call::ExchangeCounts {
                name,
                incarnation,
                standing: _,
                known,
            } => self.exchange_counts(ticket, &name, incarnation, &known),
            Call::EndLearning {
                epoch,
                segment,
                upto,
            } => self.end_learning(now, ticket, epoch, segment, upto),
            Call::AwaitCommitted {
                after,
                wait_ms,
                max_bytes,
            } => self.await_committed(now, ticket, after, wait_ms, max_bytes),
        }
        self.serve_waiters(now);
        ticket
    }

    /// A store operation ended. They end in the order they were asked for.
    ///
    /// # Panics
    /// When another one was due.
    pub fn handle_stored(&mut self, _now: Tick, write: WriteId, outcome: Result<(), String>) {
        if self.stopped {
            return;
        }
        assert_eq!(write.0, self.stored + 1, "store operations end in order");
        self.stored = write.0;
        if let Err(reason) = outcome {
            self.stopped = true;
            self.parked.clear();
            self.outputs.clear();
            self.outputs.push_back(Output::Stop { reason });
            return;
        }
        self.release();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Tick) {
        if self.stopped {
            return;
        }
        if self.raise_at.is_some_and(|at| at <= now) {
            self.raise_at = None;
            if self.acked {
                self.acked = false;
                self.raise_count();
                self.persist();
                self.gossip();
            }
        }
        self.retry_confirming(now);
        self.run_sync(now);
        self.serve_waiters(now);
    }

    /// When [`Acceptor::handle_timeout`] must be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        if self.stopped {
            return None;
        }
        self.raise_at
            .into_iter()
            .chain(self.confirmation.retry_at)
            .chain(self.next_waiter())
            .chain(self.sync.at)
            .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether an append stream with this header may be opened by this peer. Each batch is judged anew.
    ///
    /// # Errors
    /// The fault to refuse it with.
    pub fn check_stream(&self, from: &Principal, header: &JournalStream) -> Result<(), Fault> {
        if from.role != Role::Namenode {
            return Err(forbidden(from, "write"));
        }
        self.check_namespace(header.namespace_id)?;
        self.check_writer(header.epoch)
    }

    /// This node in short.
    #[must_use]
    pub fn state(&self) -> JournalState {
        JournalState {
            name: self.config.name.clone(),
            info: self.record.info.clone(),
            standing: self.standing(),
            promised: self.record.promised,
            writer: self.record.writer,
            committed: self.record.mark,
            last: self.segments.last(),
            incarnation: self.record.incarnation(),
        }
    }

    /// What its word is worth.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.record.info.is_none() {
            Standing::Unformatted
        } else if self.record.learner {
            Standing::Learner
        } else if self.confirmation.confirmed {
            Standing::Voter
        } else {
            Standing::Unconfirmed
        }
    }

    /// Its segments, by first txid, as they will be once all writes handed out are durable.
    pub fn segments(&self) -> impl Iterator<Item = SegmentState> + '_ {
        self.segments.iter().map(|segment| segment.state)
    }

    /// Whose journal this is.
    #[must_use]
    pub fn info(&self) -> Option<&NamespaceInfo> {
        self.record.info.as_ref()
    }

    /// Highest mark that agrees with its own log.
    #[must_use]
    pub fn committed(&self) -> CommitMark {
        self.segments.committed()
    }

    /// The record as it will be once all writes handed out are durable.
    #[must_use]
    pub fn record(&self) -> &AcceptorRecord {
        &self.record
    }

    /// Whether the disk has failed.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Feeds everything the future depends on into a hasher, for explorations of the state space. Two
    /// acceptors without writes on their way that hash alike behave alike, as far as it does not matter when
    /// exactly a timer is due, and which peer is asked for segments first.
    pub fn fingerprint(&self, hasher: &mut impl core::hash::Hasher) {
        use core::hash::Hash;
        self.record.hash(hasher);
        self.segments.hash(hasher);
        self.open.hash(hasher);
        self.confirmation.hash(hasher);
        self.learning.hash(hasher);
        self.sync.hash(hasher);
        (self.acked, self.stopped, self.raise_at.is_some()).hash(hasher);
    }

    fn note_mark(&mut self, mark: CommitMark) {
        if mark.txid > self.record.mark.txid {
            self.record.mark = mark;
        }
        self.segments
            .note_mark(mark, self.config.planted.trust_marks);
    }

    fn format(
        &mut self,
        now: Tick,
        ticket: Ticket,
        info: NamespaceInfo,
        initial: bool,
        force: bool,
    ) {
        if let Some(present) = &self.record.info
            && !force
        {
            let outcome = if *present == info {
                Ok(Response::Done)
            } else {
                Err(Fault::new(
                    FaultClass::AlreadyExists,
                    format!(
                        "JournalNode {} already holds the journal of namespace {} ({}); format with force to destroy it",
                        self.config.name, present.namespace_id, present.cluster_id
                    ),
                ))
            };
            self.reply(ticket, outcome);
            return;
        }
        self.make_fresh(now, info, initial);
        self.reply(ticket, Ok(Response::Done));
    }

    /// Makes this node an empty one of the namespace.
    fn make_fresh(&mut self, now: Tick, info: NamespaceInfo, initial: bool) {
        let namespace_id = info.namespace_id;
        let count = self.record.count + 1;
        let known = core::mem::take(&mut self.record.known);
        // Unformatted until the old segments are gone: a crash in between leaves an unformatted node, never one
        // with the old segments and no promises.
        self.record = AcceptorRecord {
            count,
            known,
            ..AcceptorRecord::default()
        };
        self.segments.clear();
        self.open = None;
        self.fetch = None;
        self.sync.reset();
        self.persist();
        self.store(StoreOp::Format { namespace_id });
        let high = crate::next_random(&mut self.random);
        let low = crate::next_random(&mut self.random);
        self.record.info = Some(info);
        self.record.uuid = (u128::from(high) << 64) | u128::from(low);
        self.record.learner = !initial;
        self.persist();
        self.start_learning();
        self.confirm_fresh(now);
    }

    fn raise_count(&mut self) {
        self.record.count += 1;
    }

    fn store(&mut self, op: StoreOp) {
        self.issued += 1;
        let write = WriteId(self.issued);
        self.outputs.push_back(Output::Store { write, op });
    }

    fn persist(&mut self) {
        let record = self.record.clone();
        self.store(StoreOp::Record(record));
    }

    /// Lets something out once all writes handed out so far are durable.
    fn park(&mut self, parked: Parked) {
        let barrier = if self.config.planted.ack_before_persist {
            0
        } else {
            self.issued
        };
        self.parked.push_back((barrier, parked));
        self.release();
    }

    fn release(&mut self) {
        while let Some((barrier, _)) = self.parked.front()
            && *barrier <= self.stored
        {
            let (_, parked) = self.parked.pop_front().expect("just seen");
            let output = match parked {
                Parked::OfEpoch(epoch, output)
                    if epoch < self.record.promised && !self.config.planted.skip_epoch_check =>
                {
                    self.silence(epoch, output)
                }
                Parked::Output(output) | Parked::OfEpoch(_, output) => output,
            };
            self.outputs.push_back(output);
        }
    }

    /// After promising e, no word of a lower epoch leaves, also about writes that were on their way.
    fn silence(&self, epoch: Epoch, output: Output) -> Output {
        let fault = fenced(epoch, self.record.promised);
        match output {
            Output::Reply { ticket, .. } => Output::Reply {
                ticket,
                outcome: Err(fault),
            },
            Output::Ack { stream, ack } => Output::Ack {
                stream,
                ack: refusal(ack.sequence, fault),
            },
            other => other,
        }
    }

    fn reply(&mut self, ticket: Ticket, outcome: Result<Response, Fault>) {
        self.park(Parked::Output(Output::Reply { ticket, outcome }));
    }

    fn reply_of_epoch(&mut self, ticket: Ticket, epoch: Epoch, outcome: Result<Response, Fault>) {
        self.park(Parked::OfEpoch(epoch, Output::Reply { ticket, outcome }));
    }

    fn reply_done(&mut self, ticket: Ticket, epoch: Epoch, outcome: Result<(), Fault>) {
        self.reply_of_epoch(ticket, epoch, outcome.map(|()| Response::Done));
    }

    fn incarnation(&self) -> Incarnation {
        self.record.incarnation()
    }
}

fn fenced(epoch: Epoch, promised: Epoch) -> Fault {
    Fault::new(
        FaultClass::Fenced,
        format!("epoch {epoch} is below epoch {promised}, which was promised to a newer writer"),
    )
    .with_value(promised.0)
}

fn forbidden(from: &Principal, what: &str) -> Fault {
    Fault::new(
        FaultClass::Forbidden,
        format!("{from} may not {what} at a JournalNode"),
    )
}

/// An ack that acknowledges nothing new.
fn refusal(sequence: u64, fault: Fault) -> Ack {
    Ack {
        sequence,
        offset: 0,
        fault: Some(fault),
        bad_node: 0,
        slow_nodes: 0,
    }
}

fn out_of_sync(expected: TxId, message: impl ToString) -> Fault {
    Fault::new(FaultClass::OutOfSync, message.to_string()).with_value(expected.0)
}
