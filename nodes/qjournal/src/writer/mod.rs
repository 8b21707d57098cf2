//! A NameNode's side of the quorum journal: claim an epoch, decide the tail, write, roll, purge.
//!
//! Life of a writer: [`Writer::start_claim`] -> [`Event::Recovered`] -> the NameNode reads and applies what it
//! lacks -> [`Writer::begin`] -> [`Writer::append`] ... [`Event::Committed`] ... [`Writer::roll`] ...
//! until [`Event::Fenced`], [`Event::QuorumFailed`], [`Writer::resign`], or [`Writer::finish`] -> [`Event::Finished`].

mod claim;
mod config;
mod learner;
mod link;
mod log;
mod output;
mod window;

pub use config::{BATCHES_MAX, WriterConfig};
pub use output::{AppendError, ClaimError, EditBatch, Event, Jn, Lag, Output, RequestId, StreamId};

use crate::majority;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use claim::Claim;
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{Call, CommitMark, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, NamespaceInfo, Tick, TxId};
use link::{Asked, Link, Trouble};
use log::Log;

/// Pause before a JournalNode that said "not now" is asked again.
const RETRY_MS: u64 = 50;

/// What the writer is doing.
#[derive(Clone, Hash, Debug)]
enum Phase {
    /// Nothing.
    Idle,
    /// Claiming and recovering.
    Claiming(Claim),
    /// The claim is through; the NameNode catches up.
    Recovered(CommitMark),
    /// Writing.
    Writing(Log),
    /// Fenced or failed.
    Over,
}

/// A NameNode's side of the quorum journal.
#[derive(Clone, Debug)]
pub struct Writer {
    config: WriterConfig,
    info: NamespaceInfo,
    links: Vec<Link>,
    phase: Phase,
    epoch: Epoch,
    /// Highest epoch heard of: the next claim goes above it.
    highest: Epoch,
    random: u64,
    /// Names the present claim towards JournalNodes.
    claim_id: u64,
    /// Purges under way: their outcome only matters to logs.
    purges: BTreeMap<RequestId, Jn>,
    outputs: VecDeque<Output>,
}

impl Writer {
    /// A writer that does nothing yet. `seed` must differ between writers and starts: claims are told apart by it.
    ///
    /// # Panics
    /// When the configuration names no JournalNode, more than 9, or one twice.
    #[must_use]
    pub fn new(config: WriterConfig, info: NamespaceInfo, seed: u64) -> Self {
        let names = &config.journalnodes;
        assert!(
            (1..=9).contains(&names.len()),
            "between 1 and 9 JournalNodes, not {}",
            names.len()
        );
        assert!(
            names
                .iter()
                .all(|a| names.iter().filter(|b| a == *b).count() == 1),
            "a JournalNode is named twice"
        );
        let links = names.iter().map(|_| Link::default()).collect();
        Self {
            config,
            info,
            links,
            phase: Phase::Idle,
            epoch: Epoch(0),
            highest: Epoch(0),
            random: seed,
            claim_id: 0,
            purges: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Claims the next epoch at a majority and recovers the unfinished segment. Ends with [`Event::Recovered`] or
    /// [`Event::ClaimFailed`]. Whatever was under way before is given up.
    pub fn start_claim(&mut self, now: Tick) {
        self.leave(Phase::Idle);
        self.claim_id = crate::next_random(&mut self.random);
        let claim = Claim::new(self.links.len(), now.after_ms(self.config.claim_timeout_ms));
        self.phase = Phase::Claiming(claim);
        self.drive(now);
    }

    /// Gives up the role or the claim: streams are closed, nothing is sent any more.
    pub fn resign(&mut self) {
        self.leave(Phase::Idle);
    }

    /// Starts the first segment, right behind the recovered end. Edits may be appended at once.
    ///
    /// # Errors
    /// [`AppendError::NotWriting`] unless [`Event::Recovered`] was the last word about this claim.
    pub fn begin(&mut self, now: Tick) -> Result<(), AppendError> {
        let Phase::Recovered(end) = self.phase else {
            return Err(AppendError::NotWriting);
        };
        self.phase = Phase::Writing(Log::new(end, now));
        for link in &mut self.links {
            link.segment = 0;
            link.stage = link::Stage::Unstarted;
            link.trouble = None;
            link.out_of_sync = !self.config.catch_up && !link.connected;
        }
        self.drive(now);
        Ok(())
    }

    /// The journal was found empty, and everything up to `mark` is in an image: the log begins behind that
    /// (`namenode -initializeSharedEdits`). To be followed by [`Writer::begin`].
    ///
    /// # Errors
    /// [`AppendError::NotWriting`] unless the claim ended with an empty journal.
    pub fn begin_behind(&mut self, mark: CommitMark) -> Result<(), AppendError> {
        match self.phase {
            Phase::Recovered(end) if end.txid == TxId(0) => {
                self.phase = Phase::Recovered(mark);
                Ok(())
            }
            _ => Err(AppendError::NotWriting),
        }
    }

    /// Hands in the next edits. They are sent to every JournalNode that keeps up; [`Event::Committed`] tells when a
    /// majority has them.
    ///
    /// # Errors
    /// Nothing was taken: [`AppendError`].
    ///
    /// # Panics
    /// When the batch is empty or over the cap of a frame.
    pub fn append(&mut self, now: Tick, batch: EditBatch) -> Result<(), AppendError> {
        assert!(batch.count > 0, "an empty batch");
        assert!(
            batch.records.len() <= hadal_proto::frame::APPEND_PAYLOAD_CAP,
            "a batch of {} bytes is over the cap of a frame",
            batch.records.len()
        );
        let cap = self.config.waiting_bytes();
        let Some(log) = self.open_log() else {
            return Err(AppendError::NotWriting);
        };
        log.append(now, batch, cap)?;
        self.drive(now);
        Ok(())
    }

    /// Ends the segment behind the last edit handed in and starts the next one. [`Event::SegmentStarted`] tells
    /// when that is done. Edits may be appended meanwhile. An empty segment is not rolled: its start is
    /// reported again.
    ///
    /// # Errors
    /// [`AppendError::NotWriting`].
    pub fn roll(&mut self, now: Tick) -> Result<(), AppendError> {
        let Some(log) = self.open_log() else {
            return Err(AppendError::NotWriting);
        };
        if let Some(event) = log.roll(now) {
            self.outputs.push_back(Output::Event(event));
        }
        self.drive(now);
        Ok(())
    }

    /// Hands the role over in order: takes no more edits, waits until those handed in are committed, and finalises their
    /// segment at a majority, so that the next writer has nothing to recover. [`Event::Finished`] tells when that is
    /// done; nothing is sent after it. How long that may take is the caller's to say: [`Writer::resign`] gives up.
    ///
    /// # Errors
    /// [`AppendError::NotWriting`].
    pub fn finish(&mut self, now: Tick) -> Result<(), AppendError> {
        let Phase::Writing(log) = &mut self.phase else {
            return Err(AppendError::NotWriting);
        };
        log.finish(now);
        self.drive(now);
        Ok(())
    }

    /// The log, while it takes edits.
    fn open_log(&mut self) -> Option<&mut Log> {
        match &mut self.phase {
            Phase::Writing(log) if !log.finishing => Some(log),
            _ => None,
        }
    }

    /// Tells every connected JournalNode that segments wholly below `below` are not needed any more (an image at or
    /// above it is safe, Q19). A JournalNode that is away learns it with the next purge.
    ///
    /// # Errors
    /// [`AppendError::NotWriting`].
    pub fn purge(&mut self, below: TxId) -> Result<(), AppendError> {
        if !matches!(self.phase, Phase::Writing(_)) {
            return Err(AppendError::NotWriting);
        }
        for jn in 0..self.links.len() {
            if self.links[jn].connected && self.links[jn].promised {
                let epoch = self.epoch;
                let id = self.call(jn, Call::Purge { epoch, below });
                self.purges.insert(id, jn);
            }
        }
        Ok(())
    }

    /// A connection to this JournalNode stands.
    pub fn handle_connected(&mut self, now: Tick, jn: Jn) {
        let late = match &self.phase {
            Phase::Writing(log) => !self.config.catch_up && log.is_started(),
            _ => false,
        };
        let link = &mut self.links[jn];
        link.disconnect();
        link.connected = true;
        link.trouble = None;
        link.out_of_sync |= late;
        self.mark_again(now);
        self.drive(now);
    }

    /// The connection is gone, and with it every call and the stream on it.
    pub fn handle_disconnected(&mut self, now: Tick, jn: Jn) {
        let was_connected = self.links[jn].connected;
        self.links[jn].disconnect();
        self.purges.retain(|_, other| *other != jn);
        if was_connected {
            self.missed_something(jn);
        }
        self.drive(now);
    }

    /// The outcome of a call. A call that failed in transport without its connection failing is reported as a
    /// fault of class `Retry`; it may or may not have been carried out.
    pub fn handle_reply(
        &mut self,
        now: Tick,
        jn: Jn,
        id: RequestId,
        outcome: Result<Response, Fault>,
    ) {
        if self.purges.remove(&id).is_some() {
            return;
        }
        let Some((expected, asked)) = self.links[jn].asked else {
            return;
        };
        if expected != id {
            return;
        }
        self.links[jn].asked = None;
        match outcome {
            Ok(response) => self.answered(now, jn, asked, response),
            Err(fault) => self.refused(now, jn, asked, &fault),
        }
        self.drive(now);
    }

    /// An ack on an append stream.
    pub fn handle_ack(&mut self, now: Tick, jn: Jn, stream: StreamId, ack: &Ack) {
        if self.links[jn].stream != Some(stream) {
            return;
        }
        if let Phase::Writing(log) = &mut self.phase {
            log.acked(&mut self.links[jn], TxId(ack.offset));
        }
        if let Some(fault) = &ack.fault {
            if let Some(stream) = self.links[jn].close_stream() {
                self.outputs.push_back(Output::CloseStream { jn, stream });
            }
            self.stream_refused(now, jn, fault);
            self.mark_again(now);
        }
        self.drive(now);
    }

    /// An append stream ended or could not be opened, though the connection may stand.
    pub fn handle_stream_closed(&mut self, now: Tick, jn: Jn, stream: StreamId) {
        if self.links[jn].stream != Some(stream) {
            return;
        }
        self.links[jn].close_stream();
        self.links[jn].retry_at = Some(now.after_ms(RETRY_MS));
        self.missed_something(jn);
        self.mark_again(now);
        self.drive(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Tick) {
        for link in &mut self.links {
            if link.retry_at.is_some_and(|at| at <= now) {
                link.retry_at = None;
            }
            if link.teach_at.is_some_and(|at| at <= now) {
                link.teach_at = None;
            }
        }
        self.drive(now);
        if let Phase::Claiming(claim) = &self.phase
            && claim.deadline <= now
        {
            let reasons = self.reasons("no answer");
            self.claim_failed(ClaimError::TimedOut { reasons });
        }
        if let Phase::Writing(_) = self.phase {
            self.send_marks(now);
            self.watch_quorum(now);
        }
    }

    /// When [`Writer::handle_timeout`] must be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let retries = self.links.iter().filter_map(|link| link.retry_at);
        let lessons = self.links.iter().filter_map(|link| link.teach_at);
        let phase = match &self.phase {
            Phase::Claiming(claim) => Some(claim.deadline),
            Phase::Writing(log) => log.next_timeout(&self.config),
            Phase::Idle | Phase::Recovered(_) | Phase::Over => None,
        };
        retries.chain(lessons).chain(phase).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The epoch claimed last; 0 before the first claim got that far.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Last edit known durable at a majority, with the digest there.
    #[must_use]
    pub fn committed(&self) -> Option<CommitMark> {
        match &self.phase {
            Phase::Recovered(end) => Some(*end),
            Phase::Writing(log) => Some(log.committed),
            _ => None,
        }
    }

    /// Last edit handed in, with the digest there: what the next batch builds on.
    #[must_use]
    pub fn appended(&self) -> Option<CommitMark> {
        match &self.phase {
            Phase::Recovered(end) => Some(*end),
            Phase::Writing(log) => Some(log.appended),
            _ => None,
        }
    }

    /// Whether [`Writer::append`] would take edits now.
    #[must_use]
    pub fn can_append(&self) -> bool {
        match &self.phase {
            Phase::Writing(log) => {
                !log.finishing && log.waiting_bytes() < self.config.waiting_bytes()
            }
            _ => false,
        }
    }

    /// Whether this writer has begun and is neither fenced nor failed.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        matches!(self.phase, Phase::Writing(_))
    }

    /// How the JournalNodes stand, in the order of the configuration.
    #[must_use]
    pub fn lags(&self) -> Vec<Lag> {
        let appended = self.appended().unwrap_or_default().txid;
        let names = self.config.journalnodes.iter();
        names
            .zip(&self.links)
            .map(|(name, link)| Lag {
                journalnode: name.clone(),
                behind: (link.acked > TxId(0)).then(|| appended.0.saturating_sub(link.acked.0)),
                trouble: link.describe(),
            })
            .collect()
    }

    /// Feeds everything the future depends on into a hasher, for explorations of the state space. Two writers
    /// without outputs that hash alike behave alike.
    pub fn fingerprint(&self, hasher: &mut impl core::hash::Hasher) {
        use core::hash::Hash;
        self.phase.hash(hasher);
        self.links.hash(hasher);
        self.epoch.hash(hasher);
        self.highest.hash(hasher);
        self.claim_id.hash(hasher);
    }

    fn majority(&self) -> usize {
        majority(self.links.len())
    }

    fn call(&mut self, jn: Jn, call: Call) -> RequestId {
        let id = RequestId(self.links[jn].next_name(jn));
        let request = output::request(&self.info, call);
        self.outputs.push_back(Output::Call { jn, id, request });
        id
    }

    fn ask(&mut self, jn: Jn, asked: Asked, call: Call) {
        let id = self.call(jn, call);
        self.links[jn].asked = Some((id, asked));
    }

    /// Ends the present phase.
    fn leave(&mut self, phase: Phase) {
        self.phase = phase;
        self.purges.clear();
        for (jn, link) in self.links.iter_mut().enumerate() {
            if let Some(stream) = link.close_stream() {
                self.outputs.push_back(Output::CloseStream { jn, stream });
            }
            link.reset();
        }
    }

    /// Does whatever the state now asks for.
    fn drive(&mut self, now: Tick) {
        match self.phase {
            Phase::Claiming(_) => self.drive_claim(),
            Phase::Writing(_) => self.drive_log(now),
            Phase::Idle | Phase::Recovered(_) | Phase::Over => {}
        }
    }

    fn answered(&mut self, now: Tick, jn: Jn, asked: Asked, response: Response) {
        match self.phase {
            Phase::Claiming(_) => self.claim_answered(jn, asked, response),
            Phase::Writing(_) => self.log_answered(now, jn, asked, response),
            Phase::Recovered(_) => {
                if matches!(
                    (asked, response),
                    (Asked::NewEpoch, Response::Promised { .. })
                ) {
                    self.links[jn].promised = true;
                }
            }
            Phase::Idle | Phase::Over => {}
        }
    }

    fn refused(&mut self, now: Tick, jn: Jn, asked: Asked, fault: &Fault) {
        if fault.class == FaultClass::Fenced {
            self.highest = self.highest.max(Epoch(fault.value));
        }
        let left_over = asked.is_of_claim() && !matches!(self.phase, Phase::Claiming(_));
        if left_over && asked != Asked::NewEpoch {
            return;
        }
        if self.refused_by_learner(now, jn, asked, fault) {
            return;
        }
        if fault.is_retriable() {
            self.links[jn].retry_at = Some(now.after_ms(RETRY_MS));
            return;
        }
        self.links[jn].trouble = Some(Trouble::from_fault(fault));
    }

    /// JournalNodes that will not answer, with why.
    fn reasons(&self, silent: &str) -> Vec<(String, String)> {
        let names = self.config.journalnodes.iter();
        names
            .zip(&self.links)
            .map(|(name, link)| {
                (
                    name.clone(),
                    link.describe().unwrap_or_else(|| silent.to_string()),
                )
            })
            .collect()
    }

    /// How many are in trouble, and the highest epoch that fenced if a majority cannot be had because of fencing.
    fn hopeless(&self) -> Option<Option<Epoch>> {
        let troubled = self
            .links
            .iter()
            .filter(|link| link.trouble.is_some() || link.out_of_sync || link.learner)
            .count();
        (self.links.len() - troubled < self.majority()).then(|| {
            self.links
                .iter()
                .filter_map(|link| link.trouble.as_ref()?.fenced_by)
                .max()
        })
    }
}
