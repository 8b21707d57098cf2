//! Writing: segments, batches on their way, commit, roll.

use super::link::{Asked, Link, Stage, Trouble};
use super::window::{Window, last_of};
use super::{AppendError, EditBatch, Event, Jn, Output, Phase, StreamId, Writer, WriterConfig};
use alloc::collections::VecDeque;
use alloc::format;
use hadal_proto::qjournal::{BatchHead, Call, CommitMark, JournalStream, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Tick, TxId};

/// One segment of this writer.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Segment {
    /// The end of the log before it.
    pub(super) before: CommitMark,
    /// Its own end, once rolled.
    end: Option<CommitMark>,
}

impl Segment {
    pub(super) fn first(&self) -> TxId {
        self.before.txid.next()
    }
}

/// The log as this writer has written it since [`Writer::begin`].
#[derive(Clone, Hash, Debug)]
pub(super) struct Log {
    window: Window,
    /// Segments some JournalNode may still work at; the last one is being written.
    segments: VecDeque<Segment>,
    /// Number of the first of them, counting from 0 at begin.
    oldest: u64,
    pub(super) appended: CommitMark,
    pub(super) committed: CommitMark,
    /// One more than the number of the last segment reported as started.
    reported: u64,
    /// Segments up to this number (exclusive) are finalised at a majority, so the next may start.
    finalized: u64,
    /// When a majority last moved something, or something began to wait for one.
    progress_at: Tick,
    slow_reported: bool,
    /// When an idle writer sends its commit mark.
    mark_at: Option<Tick>,
    /// No more edits are taken; the last segment is being finalised.
    pub(super) finishing: bool,
}

impl Log {
    pub(super) fn new(end: CommitMark, now: Tick) -> Self {
        Self {
            window: Window::default(),
            segments: VecDeque::from([Segment {
                before: end,
                end: None,
            }]),
            oldest: 0,
            appended: end,
            committed: end,
            reported: 0,
            finalized: 0,
            progress_at: now,
            slow_reported: false,
            mark_at: None,
            finishing: false,
        }
    }

    pub(super) fn segment(&self, number: u64) -> Option<&Segment> {
        self.segments
            .get(usize::try_from(number.checked_sub(self.oldest)?).ok()?)
    }

    pub(super) fn newest(&self) -> u64 {
        self.oldest + self.segments.len() as u64 - 1
    }

    /// Something waits for a majority.
    fn is_waiting(&self) -> bool {
        self.appended.txid > self.committed.txid || self.reported <= self.newest() || self.finishing
    }

    /// Number of the first segment that is not to be finalised yet.
    fn to_finalize(&self) -> u64 {
        let rolled = self.segments.iter().filter(|s| s.end.is_some()).count();
        self.oldest + rolled as u64
    }

    /// Takes no more edits, and ends the present segment unless it is empty.
    pub(super) fn finish(&mut self, now: Tick) {
        if !self.is_waiting() {
            self.progress_at = now;
        }
        self.finishing = true;
        let current = self.segments.back_mut().expect("never empty");
        if self.appended.txid >= current.first() && current.end.is_none() {
            current.end = Some(self.appended);
        }
    }

    /// Every edit handed in is in a segment that is finalised at a majority.
    fn is_finished(&self) -> bool {
        self.finishing && self.finalized >= self.to_finalize()
    }

    /// The present segment has started at a majority.
    pub(super) fn is_started(&self) -> bool {
        self.reported > self.newest()
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.window.bytes_behind(self.committed.txid)
    }

    pub(super) fn append(
        &mut self,
        now: Tick,
        batch: EditBatch,
        cap: usize,
    ) -> Result<(), AppendError> {
        let expected = self.appended.txid.next();
        if batch.first != expected {
            return Err(AppendError::Gap {
                expected,
                found: batch.first,
            });
        }
        let bytes = self.waiting_bytes();
        if bytes >= cap {
            return Err(AppendError::WindowFull { bytes });
        }
        if !self.is_waiting() {
            self.progress_at = now;
        }
        self.appended = CommitMark {
            txid: last_of(&batch),
            digest: batch.digest_end,
        };
        self.window.push(batch);
        Ok(())
    }

    /// Ends the present segment; an empty one is reported instead.
    pub(super) fn roll(&mut self, now: Tick) -> Option<Event> {
        let newest = self.newest();
        let waiting = self.is_waiting();
        let current = self.segments.back_mut().expect("never empty");
        let first = current.first();
        if self.appended.txid < first {
            // If its start is still to be reported, it will be.
            return (self.reported > newest).then_some(Event::SegmentStarted { first });
        }
        current.end = Some(self.appended);
        self.segments.push_back(Segment {
            before: self.appended,
            end: None,
        });
        if !waiting {
            self.progress_at = now;
        }
        None
    }

    /// Counts an ack. What it claims beyond what was sent is ignored.
    pub(super) fn acked(&mut self, link: &mut Link, upto: TxId) {
        while link.in_flight.front().is_some_and(|last| *last <= upto) {
            let last = link.in_flight.pop_front().expect("just seen");
            link.acked = link.acked.max(last);
        }
    }

    pub(super) fn next_timeout(&self, config: &WriterConfig) -> Option<Tick> {
        let slow = (self.is_waiting() && !self.slow_reported)
            .then(|| self.progress_at.after_ms(config.slow_quorum_ms));
        self.mark_at.into_iter().chain(slow).min()
    }
}

impl Writer {
    /// Takes note that a JournalNode may have missed edits on a broken connection or stream.
    pub(super) fn missed_something(&mut self, jn: Jn) {
        if matches!(self.phase, Phase::Writing(_)) && !self.config.catch_up {
            self.links[jn].out_of_sync = true;
        }
    }

    pub(super) fn drive_log(&mut self, now: Tick) {
        self.advance_log(now);
        if !matches!(self.phase, Phase::Writing(_)) || self.check_hopeless() {
            return;
        }
        for jn in 0..self.links.len() {
            self.pump(now, jn);
        }
    }

    fn check_hopeless(&mut self) -> bool {
        let Some(fenced) = self.hopeless() else {
            return false;
        };
        let event = match fenced {
            Some(by) => Event::Fenced { by },
            None => Event::QuorumFailed {
                reasons: self.reasons("no answer yet"),
            },
        };
        self.leave(Phase::Over);
        self.outputs.push_back(Output::Event(event));
        true
    }

    /// Moves the commit mark, reports segments, forgets what nobody needs.
    fn advance_log(&mut self, now: Tick) {
        let enough = if self.config.planted.commit_on_one {
            1
        } else {
            self.majority()
        };
        let Phase::Writing(log) = &mut self.phase else {
            return;
        };
        let mut moved = false;
        let mut acked: alloc::vec::Vec<TxId> = self.links.iter().map(Link::counted).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let upto = acked[enough - 1];
        if upto > log.committed.txid {
            let digest = if upto == log.appended.txid {
                log.appended.digest
            } else {
                let batch = log.window.holding(upto).expect("uncommitted batches stay");
                assert_eq!(last_of(batch), upto, "acks stand at the ends of batches");
                batch.digest_end
            };
            log.committed = CommitMark { txid: upto, digest };
            self.outputs.push_back(Output::Event(Event::Committed {
                mark: log.committed,
            }));
            log.mark_at = Some(now.after_ms(self.config.mark_idle_ms));
            moved = true;
        }
        loop {
            let number = log.finalized;
            let voters = self.links.iter().filter(|link| !link.learner);
            let holders = voters.filter(|link| link.finalized > number);
            if number >= log.to_finalize() || holders.count() < enough {
                break;
            }
            log.finalized += 1;
            moved = true;
            // What a JournalNode could not do in the segment before, it may do in this one.
            for (jn, link) in self.links.iter_mut().enumerate() {
                link.trouble = None;
                if core::mem::take(&mut link.out_of_sync) {
                    // Without catch-up nothing it missed is made good.
                    if let Some(stream) = link.close_stream() {
                        self.outputs.push_back(Output::CloseStream { jn, stream });
                    }
                    link.segment = log.finalized;
                    link.stage = Stage::Unstarted;
                }
            }
        }
        if log.is_finished() {
            let end = log.appended;
            self.leave(Phase::Idle);
            self.outputs
                .push_back(Output::Event(Event::Finished { end }));
            return;
        }
        let number = log.reported;
        let voters = self.links.iter().filter(|link| !link.learner);
        let started = voters.filter(|link| {
            link.segment > number || (link.segment == number && link.stage == Stage::Open)
        });
        if number <= log.newest() && started.count() >= enough {
            let first = log.segment(number).expect("not forgotten").first();
            log.reported += 1;
            self.outputs
                .push_back(Output::Event(Event::SegmentStarted { first }));
            moved = true;
        }
        if moved {
            log.progress_at = now;
            if log.slow_reported {
                log.slow_reported = false;
                self.outputs.push_back(Output::Event(Event::QuorumBack));
            }
        }
        let everyone = self.links.iter().map(|link| link.acked).min();
        log.window.trim(
            everyone.unwrap_or_default(),
            log.committed.txid,
            self.config.window_bytes,
        );
        // A laggard more than a segment behind the last two is not waited for.
        while log.segments.len() > 2 && log.oldest + 1 < log.finalized.min(log.reported) {
            log.segments.pop_front();
            log.oldest += 1;
        }
    }

    /// Sends one JournalNode whatever it can take.
    fn pump(&mut self, now: Tick, jn: Jn) {
        loop {
            if !self.links[jn].may_ask() {
                return;
            }
            let epoch = self.epoch;
            if !self.links[jn].promised {
                self.ask_promise(jn);
                return;
            }
            let Phase::Writing(log) = &self.phase else {
                return;
            };
            let link = &self.links[jn];
            if log.finishing && link.segment > log.newest() {
                return;
            }
            if link.learner && self.teach(jn) {
                return;
            }
            let Phase::Writing(log) = &self.phase else {
                return;
            };
            let link = &self.links[jn];
            let Some(segment) = log.segment(link.segment).copied() else {
                self.skip_to_newest(jn);
                continue;
            };
            let number = link.segment;
            if link.stage == Stage::Unstarted {
                // The segment before must be finalised at a majority: recovery only looks at the last one.
                if number > log.finalized {
                    return;
                }
                let call = Call::StartSegment {
                    epoch,
                    first: segment.first(),
                    digest_before: segment.before.digest,
                };
                self.ask(jn, Asked::StartSegment(number), call);
                return;
            }
            let position = link.sent.max(segment.before.txid);
            if let Some(end) = segment.end
                && position >= end.txid
            {
                // Only what is committed may be finalised.
                if link.acked.min(log.committed.txid) >= end.txid {
                    let call = Call::FinalizeSegment {
                        epoch,
                        first: segment.first(),
                        last: end.txid,
                        digest: end.digest,
                    };
                    self.ask(jn, Asked::FinalizeSegment(number), call);
                }
                return;
            }
            let is_full = link.in_flight.len() >= self.config.max_in_flight
                && !self.config.planted.send_ahead;
            if position >= log.appended.txid || is_full {
                return;
            }
            if log.window.holding(position.next()).is_none() {
                if number < log.newest() && number < log.finalized {
                    self.skip_to_newest(jn);
                    continue;
                }
                if self.roll_for_learner(now, jn) {
                    return;
                }
                self.links[jn].trouble = Some(Trouble::new(format!(
                    "lacks edits from txid {} on, which are not in memory any more; it joins again with the next segment",
                    position.next()
                )));
                return;
            }
            self.send_batch(jn, segment.first(), position.next());
        }
    }

    pub(super) fn skip_to_newest(&mut self, jn: Jn) {
        if let Phase::Writing(log) = &self.phase {
            let stream = self.links[jn].close_stream();
            if let Some(stream) = stream {
                self.outputs.push_back(Output::CloseStream { jn, stream });
            }
            self.links[jn].segment = log.newest();
            self.links[jn].stage = Stage::Unstarted;
        }
    }

    fn stream_of(&mut self, jn: Jn) -> StreamId {
        if let Some(stream) = self.links[jn].stream {
            return stream;
        }
        let stream = StreamId(self.links[jn].next_name(jn));
        self.links[jn].stream = Some(stream);
        let header = JournalStream {
            namespace_id: self.info.namespace_id,
            epoch: self.epoch,
        };
        self.outputs
            .push_back(Output::OpenStream { jn, stream, header });
        stream
    }

    fn send_batch(&mut self, jn: Jn, segment: TxId, next: TxId) {
        let stream = self.stream_of(jn);
        let Phase::Writing(log) = &self.phase else {
            return;
        };
        let batch = log.window.holding(next).expect("looked up before");
        let head = BatchHead {
            epoch: self.epoch,
            segment,
            first: batch.first,
            count: batch.count,
            committed: log.committed,
            digest_end: batch.digest_end,
        };
        let link = &mut self.links[jn];
        link.sent = last_of(batch);
        link.in_flight.push_back(link.sent);
        link.marked = log.committed.txid;
        self.outputs.push_back(Output::Batch {
            jn,
            stream,
            head,
            records: batch.records.clone(),
        });
    }

    /// A JournalNode came back, or a stream ended: it may lack the mark.
    pub(super) fn mark_again(&mut self, now: Tick) {
        if let Phase::Writing(log) = &mut self.phase
            && log.committed.txid > TxId(0)
        {
            let at = now.after_ms(self.config.mark_idle_ms);
            log.mark_at = Some(log.mark_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// Tells JournalNodes what is committed when no batch did.
    pub(super) fn send_marks(&mut self, now: Tick) {
        let Phase::Writing(log) = &mut self.phase else {
            return;
        };
        if log.mark_at.is_none_or(|at| at > now) {
            return;
        }
        log.mark_at = None;
        let committed = log.committed;
        for jn in 0..self.links.len() {
            let Phase::Writing(log) = &mut self.phase else {
                return;
            };
            let link = &self.links[jn];
            let Some(segment) = log.segment(link.segment).copied() else {
                continue;
            };
            let takes = link.connected && link.trouble.is_none() && !link.out_of_sync;
            if !takes || link.marked >= committed.txid || link.stage != Stage::Open {
                continue;
            }
            if link.retry_at.is_some() {
                log.mark_at = Some(now.after_ms(self.config.mark_idle_ms));
                continue;
            }
            let first = link.sent.max(segment.before.txid).next();
            let stream = self.stream_of(jn);
            let head = BatchHead {
                epoch: self.epoch,
                segment: segment.first(),
                first,
                count: 0,
                committed,
                digest_end: committed.digest,
            };
            self.links[jn].marked = committed.txid;
            self.outputs.push_back(Output::Batch {
                jn,
                stream,
                head,
                records: bytes::Bytes::new(),
            });
        }
    }

    pub(super) fn watch_quorum(&mut self, now: Tick) {
        let slow_ms = self.config.slow_quorum_ms;
        let Phase::Writing(log) = &mut self.phase else {
            return;
        };
        if !log.is_waiting() || log.slow_reported || now.ms_since(log.progress_at) < slow_ms {
            return;
        }
        log.slow_reported = true;
        let (appended, newest) = (log.appended.txid, log.newest());
        let names = self.config.journalnodes.iter();
        let silent = names
            .zip(&self.links)
            .filter(|(_, link)| {
                link.acked < appended || link.segment < newest || link.stage == Stage::Unstarted
            })
            .map(|(name, _)| name.clone())
            .collect();
        self.outputs
            .push_back(Output::Event(Event::QuorumSlow { silent }));
    }

    pub(super) fn log_answered(&mut self, now: Tick, jn: Jn, asked: Asked, response: Response) {
        let link = &mut self.links[jn];
        match (asked, response) {
            (Asked::NewEpoch, Response::Promised { .. }) => link.promised = true,
            (Asked::StartSegment(number), Response::Done) => {
                if link.segment == number {
                    link.stage = Stage::Open;
                }
            }
            (Asked::FinalizeSegment(number), Response::Done) => {
                link.finalized = link.finalized.max(number + 1);
                if link.segment == number {
                    link.segment += 1;
                    link.stage = Stage::Unstarted;
                }
            }
            (Asked::EndLearning, Response::Done) => {
                (link.learner, link.goal, link.declared) = (false, None, false);
            }
            (asked, _) if asked.is_of_claim() => {}
            (asked, response) => {
                link.trouble = Some(Trouble::new(format!(
                    "answered {asked:?} with {}",
                    response.name()
                )));
            }
        }
        self.advance_log(now);
    }

    /// An append stream was refused.
    pub(super) fn stream_refused(&mut self, now: Tick, jn: Jn, fault: &Fault) {
        match fault.class {
            FaultClass::Learner => self.learner_found(now, jn),
            FaultClass::OutOfSync if self.config.catch_up && fault.value > 0 => {
                let expected = TxId(fault.value);
                let link = &mut self.links[jn];
                if expected > link.acked {
                    // It tells where it wants to go on.
                    link.sent = TxId(expected.0 - 1);
                    link.retry_at = Some(now.after_ms(super::RETRY_MS));
                } else {
                    link.trouble = Some(Trouble::new(format!(
                        "it acknowledged txid {} and now asks for {expected}: its disk lost edits",
                        link.acked
                    )));
                }
            }
            FaultClass::OutOfSync if !self.config.catch_up => {
                self.links[jn].out_of_sync = true;
            }
            _ if fault.is_retriable() => {
                self.links[jn].retry_at = Some(now.after_ms(super::RETRY_MS));
                self.missed_something(jn);
            }
            _ => {
                if fault.class == FaultClass::Fenced {
                    self.highest = self.highest.max(hadal_types::Epoch(fault.value));
                }
                self.links[jn].trouble = Some(Trouble::from_fault(fault));
            }
        }
    }
}
