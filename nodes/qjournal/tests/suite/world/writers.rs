//! What writers and readers of the world do.

use super::{Message, Wire, World, framing, info, namenode};
use bytes::Bytes;
use hadal_proto::qjournal::{CommitMark, LogDigest};
use hadal_qjournal::reader::{self, ReadError, Reader, Until};
use hadal_qjournal::writer::{self, ClaimError, EditBatch, Event, Writer, WriterConfig};
use hadal_types::TxId;
use std::collections::{BTreeMap, VecDeque};

impl World {
    pub fn writer(&mut self) -> usize {
        let mut config = WriterConfig::new(self.names());
        config.planted = self.planted;
        config.catch_up = self.catch_up;
        self.writer_with(config)
    }

    pub fn writer_with(&mut self, config: WriterConfig) -> usize {
        self.seed += 1;
        let mut writer = Writer::new(config, info(), self.seed);
        for jn in 0..self.nodes.len() {
            if self.nodes[jn].up && self.nodes[jn].acceptor.is_some() {
                writer.handle_connected(self.now, jn);
            }
        }
        self.writers.push(writer);
        self.events.push(VecDeque::new());
        self.sent.push(BTreeMap::new());
        self.writers.len() - 1
    }

    pub fn drain_writer(&mut self, w: usize) {
        while let Some(output) = self.writers[w].poll_output() {
            match output {
                writer::Output::Call { jn, id, request } => self.wire.push_back(Message {
                    writer: w,
                    jn,
                    wire: Wire::Call(id, request),
                }),
                writer::Output::OpenStream { jn, stream, .. } => {
                    self.nodes[jn].streams.insert((w, stream));
                }
                writer::Output::Batch {
                    jn,
                    stream,
                    head,
                    records,
                } => {
                    let next = self.sequences.entry((w, stream)).or_default();
                    let sequence = *next;
                    *next += 1;
                    self.wire.push_back(Message {
                        writer: w,
                        jn,
                        wire: Wire::Frame(stream, sequence, head, records),
                    });
                }
                writer::Output::CloseStream { jn, stream } => {
                    self.nodes[jn].streams.remove(&(w, stream));
                }
                writer::Output::Event(event) => {
                    if let Event::Committed { mark } = &event {
                        let sent = self.sent[w].range(..=mark.txid);
                        let sent: Vec<_> = sent.map(|(t, r)| (*t, r.clone())).collect();
                        for (txid, record) in sent {
                            self.ack(txid, record);
                        }
                    }
                    self.events[w].push_back(event);
                }
            }
        }
    }

    fn ack(&mut self, txid: TxId, record: Bytes) {
        let old = self.acked.insert(txid, record.clone());
        assert!(
            old.is_none_or(|old| old == record),
            "two different edits {txid} were both acknowledged"
        );
    }

    /// Claims and recovers.
    pub fn claim(&mut self, w: usize) -> Result<CommitMark, ClaimError> {
        self.events[w].clear();
        self.writers[w].start_claim(self.now);
        self.drain_writer(w);
        let mut outcome = None;
        self.run(|world| {
            while let Some(event) = world.events[w].pop_front() {
                match event {
                    Event::Recovered { end, .. } => outcome = Some(Ok(end)),
                    Event::ClaimFailed { error } => outcome = Some(Err(error)),
                    _ => {}
                }
            }
            outcome.is_some()
        });
        outcome.unwrap_or_else(|| {
            Err(ClaimError::TimedOut {
                reasons: Vec::new(),
            })
        })
    }

    /// Claims, and checks that nothing acknowledged is lost.
    pub fn recover(&mut self, w: usize) -> Result<CommitMark, ClaimError> {
        let end = self.claim(w)?;
        self.check_recovered(end);
        Ok(end)
    }

    /// P1/P2: the recovered log holds every acknowledged edit, and whatever an earlier recovery decided.
    pub fn check_recovered(&mut self, end: CommitMark) {
        let log = match self.read(TxId(0), Until::End(end)) {
            Ok((log, _)) => log,
            Err(error) => panic!("recovered log up to {} is unreadable: {error}", end.txid),
        };
        for (txid, record) in self.acked.clone() {
            let found = log.get(txid.0 as usize - 1);
            assert_eq!(found, Some(&record), "acknowledged edit {txid} is lost");
        }
        assert!(log.starts_with(&self.decided), "a decision was undone");
        self.decided = log;
    }

    /// Runs a claim until a call of this name is on the wire, then the writer dies.
    pub fn recover_up_to(&mut self, w: usize, call: &str) {
        self.writers[w].start_claim(self.now);
        self.drain_writer(w);
        self.run(|world| {
            world.wire.iter().any(|message| match &message.wire {
                Wire::Call(_, request) => message.writer == w && request.call.name() == call,
                _ => false,
            })
        });
        self.kill_writer(w);
    }

    /// Starts the first segment; true when a majority did.
    pub fn begin(&mut self, w: usize) -> bool {
        self.events[w].clear();
        self.writers[w].begin(self.now).expect("recovered");
        self.drain_writer(w);
        self.wait(w, |event| matches!(event, Event::SegmentStarted { .. }))
    }

    /// Waits for an event; false when the writer ended first, or got stuck.
    pub fn wait(&mut self, w: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        let mut found = false;
        self.run(|world| {
            while let Some(event) = world.events[w].pop_front() {
                if wanted(&event) {
                    found = true;
                    return true;
                }
                if matches!(
                    event,
                    Event::Fenced { .. } | Event::QuorumFailed { .. } | Event::QuorumSlow { .. }
                ) {
                    world.log.push(format!("{event:?}"));
                    return true;
                }
            }
            false
        });
        found
    }

    /// The next `count` records of a writer.
    pub fn batch(&mut self, w: usize, count: u64) -> EditBatch {
        let before = self.writers[w].appended().expect("writes");
        let epoch = self.writers[w].epoch();
        let first = before.txid.next();
        let mut all = Vec::new();
        for txid in first.0..first.0 + count {
            let record = framing::frame(epoch, TxId(txid), format!("w{w} t{txid}").as_bytes());
            self.sent[w].insert(TxId(txid), record.clone());
            all.extend_from_slice(&record);
        }
        let records = Bytes::from(all);
        let (_, digest_end) = framing::digest_of(before.digest, first, &records);
        EditBatch {
            first,
            count: count as u32,
            records,
            digest_end,
        }
    }

    /// Hands in records without waiting.
    pub fn append(&mut self, w: usize, count: u64) -> bool {
        if !self.writers[w].is_writing() {
            return false;
        }
        let batch = self.batch(w, count);
        let taken = self.writers[w].append(self.now, batch).is_ok();
        self.drain_writer(w);
        taken
    }

    /// Writes records and waits; true when they were committed.
    pub fn write(&mut self, w: usize, count: u64) -> bool {
        self.events[w].clear();
        if !self.append(w, count) {
            return false;
        }
        let Some(end) = self.writers[w].appended() else {
            return false;
        };
        self.wait(
            w,
            |event| matches!(event, Event::Committed { mark } if mark.txid >= end.txid),
        )
    }

    /// Finalises the segment and starts the next; true when a majority did.
    pub fn roll(&mut self, w: usize) -> bool {
        self.events[w].clear();
        if self.writers[w].roll(self.now).is_err() {
            return false;
        }
        self.drain_writer(w);
        self.wait(w, |event| matches!(event, Event::SegmentStarted { .. }))
    }

    /// The writer is gone, without a word.
    pub fn kill_writer(&mut self, w: usize) {
        self.wire.retain(|message| message.writer != w);
        self.writers[w].resign();
        while self.writers[w].poll_output().is_some() {}
        for node in &mut self.nodes {
            node.streams.retain(|(writer, _)| *writer != w);
        }
        self.events[w].clear();
    }

    /// A writer that has claimed and begun.
    pub fn active(&mut self) -> usize {
        let w = self.writer();
        self.recover(w).expect("claims");
        assert!(self.begin(w));
        w
    }

    /// Reads the log.
    pub fn read(
        &mut self,
        after: TxId,
        until: Until,
    ) -> Result<(Vec<Bytes>, CommitMark), ReadError> {
        let digest = (after == TxId(0)).then(LogDigest::default);
        let namespace_id = info().namespace_id;
        let verify = framing::digest;
        let mut pass = Reader::new(self.names(), namespace_id, after, digest, until, verify);
        let mut records = Vec::new();
        loop {
            match pass.poll_output().expect("a pass has an end") {
                reader::Output::Call { jn, request } => {
                    let outcome = self.call_as(jn, &namenode(), request);
                    pass.handle_reply(jn, outcome);
                }
                reader::Output::Edits(edits) => records.extend(framing::split(&edits.records)),
                reader::Output::Done(end) => return Ok((records, end)),
                reader::Output::Failed(error) => return Err(error),
            }
        }
    }
}
