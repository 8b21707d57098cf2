//! JournalNodes and writers of real cores in one thread, with every message and every disk operation in the hands of
//! the test.

pub mod disk;
pub mod framing;
pub mod standby;
mod writers;

use bytes::Bytes;
use disk::{Disk, DiskSegment};
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{BatchHead, Call, Edits, LogDigest, Request, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::Planted;
use hadal_qjournal::acceptor::{self, Acceptor, AcceptorConfig, StreamKey, Ticket};
use hadal_qjournal::tail::TailCallId;
use hadal_qjournal::writer::{Event, RequestId, StreamId, Writer};
use hadal_types::{
    BlockPoolId, CURRENT_LAYOUT, ClusterId, Epoch, NamespaceInfo, Principal, Role, Tick, TxId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub fn info() -> NamespaceInfo {
    NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: 7,
        cluster_id: ClusterId("CID-test".into()),
        block_pool_id: BlockPoolId("BP-test".into()),
        created_ms: 1,
    }
}

pub fn namenode() -> Principal {
    Principal {
        role: Role::Namenode,
        name: "nn1".into(),
    }
}

/// Any digest, but the right one before the first edit.
pub fn digest_before(first: u64) -> LogDigest {
    if first == 1 {
        LogDigest::default()
    } else {
        LogDigest([first as u8; 16])
    }
}

pub fn name(jn: usize) -> String {
    format!("jn{jn}")
}

/// What is on its way between a writer and a JournalNode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wire {
    Call(RequestId, Request),
    Reply(RequestId, Result<Response, Fault>),
    Frame(StreamId, u64, BatchHead, Bytes),
    Ack(StreamId, Ack),
}

impl Wire {
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Call(..) | Self::Frame(..))
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub writer: usize,
    pub jn: usize,
    pub wire: Wire,
}

/// What the test makes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Deliver,
    /// Lost, and the connection with it; both sides notice, and connect again.
    Break,
    /// Never arrives, and nobody notices.
    Swallow,
    /// A call only: the caller is told that it failed, with an error that is not worth a retry.
    Refuse,
}

/// Decides about messages, given how many went that way before.
pub type Judge = Box<dyn FnMut(&Message, usize) -> Fate>;

/// When a JournalNode loses power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Before its n-th disk operation takes effect.
    Before,
    /// An append leaves a torn record behind.
    Torn,
    /// After it, before anybody hears of it.
    After,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    Writer(usize, RequestId),
    Tail(TailCallId),
    Direct,
}

#[derive(Clone)]
pub struct Node {
    pub acceptor: Option<Acceptor>,
    pub disk: Disk,
    /// Reachable (while it runs).
    pub up: bool,
    callers: BTreeMap<Ticket, Caller>,
    direct: Option<(Ticket, Result<Response, Fault>)>,
    streams: BTreeSet<(usize, StreamId)>,
    /// Disk operations so far.
    pub operations: usize,
    pub cut: Option<(usize, Cut)>,
}

pub struct World {
    pub nodes: Vec<Node>,
    pub writers: Vec<Writer>,
    pub events: Vec<VecDeque<Event>>,
    sequences: BTreeMap<(usize, StreamId), u64>,
    pub wire: VecDeque<Message>,
    pub now: Tick,
    pub planted: Planted,
    pub catch_up: bool,
    /// Judges every message; the count is per JournalNode and direction (request, reply), from 0.
    pub fate: Option<Judge>,
    pub counts: BTreeMap<(usize, bool), usize>,
    /// Restart JournalNodes that lost power as soon as nothing else can happen.
    pub auto_restart: bool,
    /// Records that some writer saw committed.
    pub acked: BTreeMap<TxId, Bytes>,
    /// The longest log any recovery has decided.
    pub decided: Vec<Bytes>,
    pub sent: Vec<BTreeMap<TxId, Bytes>>,
    pub log: Vec<String>,
    /// A standby that follows the log.
    pub standby: Option<standby::Standby>,
    with_peers: bool,
    seed: u64,
}

impl World {
    /// `n` formatted JournalNodes without counting among peers.
    pub fn new(n: usize) -> Self {
        Self::with(n, Planted::default(), false)
    }

    pub fn with(n: usize, planted: Planted, with_peers: bool) -> Self {
        let mut world = Self::unformatted(n, planted, with_peers);
        for jn in 0..n {
            world
                .call(
                    jn,
                    Call::Format {
                        info: info(),
                        initial: true,
                        force: false,
                    },
                )
                .expect("formats");
        }
        world
    }

    pub fn unformatted(n: usize, planted: Planted, with_peers: bool) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            writers: Vec::new(),
            events: Vec::new(),
            sequences: BTreeMap::new(),
            wire: VecDeque::new(),
            now: Tick::from_ms(1),
            planted,
            catch_up: true,
            fate: None,
            counts: BTreeMap::new(),
            auto_restart: true,
            acked: BTreeMap::new(),
            decided: Vec::new(),
            sent: Vec::new(),
            log: Vec::new(),
            standby: None,
            with_peers,
            seed: 1,
        };
        for _ in 0..n {
            world.nodes.push(Node {
                acceptor: None,
                disk: Disk::default(),
                up: true,
                callers: BTreeMap::new(),
                direct: None,
                streams: BTreeSet::new(),
                operations: 0,
                cut: None,
            });
        }
        for jn in 0..n {
            world.start(jn);
        }
        world
    }

    pub fn names(&self) -> Vec<String> {
        (0..self.nodes.len()).map(name).collect()
    }

    // --- JournalNodes ---

    /// Starts the process of a JournalNode over its disk.
    pub fn start(&mut self, jn: usize) {
        assert!(self.nodes[jn].acceptor.is_none());
        let peers = if self.with_peers {
            let others = (0..self.nodes.len()).filter(|other| *other != jn);
            others.map(name).collect()
        } else {
            Vec::new()
        };
        self.seed += 1;
        let mut config = AcceptorConfig::new(name(jn), peers, framing::digest, self.seed);
        config.planted = self.planted;
        let loaded = self.nodes[jn].disk.load();
        self.nodes[jn].acceptor = Some(Acceptor::new(config, loaded, self.now));
        self.settle(jn);
        self.reconnect(jn);
    }

    fn reconnect(&mut self, jn: usize) {
        if self.nodes[jn].up && self.nodes[jn].acceptor.is_some() {
            for w in 0..self.writers.len() {
                self.writers[w].handle_connected(self.now, jn);
                self.drain_writer(w);
            }
        }
    }

    /// Power cut: what is durable stays.
    pub fn crash(&mut self, jn: usize) {
        let node = &mut self.nodes[jn];
        node.acceptor = None;
        node.callers.clear();
        node.disk.fetched.clear();
        self.disconnect(jn);
    }

    pub fn restart(&mut self, jn: usize) {
        if self.nodes[jn].acceptor.is_some() {
            self.crash(jn);
        }
        self.start(jn);
    }

    /// The disk is gone, the process starts on an empty one.
    pub fn wipe(&mut self, jn: usize) {
        self.crash(jn);
        self.nodes[jn].disk = Disk::default();
        self.start(jn);
    }

    fn disconnect(&mut self, jn: usize) {
        self.nodes[jn].streams.clear();
        self.wire.retain(|message| message.jn != jn);
        for w in 0..self.writers.len() {
            self.writers[w].handle_disconnected(self.now, jn);
            self.drain_writer(w);
        }
    }

    /// Cuts a running node off the network, or brings it back.
    pub fn set_up(&mut self, jn: usize, up: bool) {
        if self.nodes[jn].up == up {
            return;
        }
        self.nodes[jn].up = up;
        if up {
            self.reconnect(jn);
        } else {
            self.disconnect(jn);
        }
    }

    /// Only these nodes are reachable.
    pub fn only(&mut self, up: &[usize]) {
        for jn in 0..self.nodes.len() {
            self.set_up(jn, up.contains(&jn));
        }
    }

    pub fn acceptor(&self, jn: usize) -> &Acceptor {
        self.nodes[jn].acceptor.as_ref().expect("runs")
    }

    /// Carries out what an acceptor asked for, until it asks for nothing more.
    fn settle(&mut self, jn: usize) {
        while let Some(output) = self.nodes[jn]
            .acceptor
            .as_mut()
            .and_then(Acceptor::poll_output)
        {
            match output {
                acceptor::Output::Store { write, op } => {
                    let node = &mut self.nodes[jn];
                    let number = node.operations;
                    node.operations += 1;
                    if let Some((_, cut)) = node.cut.take_if(|(at, _)| *at == number) {
                        match cut {
                            Cut::Before => {}
                            Cut::Torn => node.disk.tear(op),
                            Cut::After => node.disk.apply(op),
                        }
                        self.crash(jn);
                        return;
                    }
                    node.disk.apply(op);
                    let acceptor = node.acceptor.as_mut().expect("runs");
                    acceptor.handle_stored(self.now, write, Ok(()));
                }
                acceptor::Output::Reply { ticket, outcome } => self.answer(jn, ticket, outcome),
                acceptor::Output::Ack { stream, ack } => {
                    let found = self.nodes[jn]
                        .streams
                        .iter()
                        .find(|(w, s)| key(*w, *s) == stream)
                        .copied();
                    if let Some((writer, stream)) = found {
                        if ack.fault.is_some() {
                            self.nodes[jn].streams.remove(&(writer, stream));
                        }
                        self.wire.push_back(Message {
                            writer,
                            jn,
                            wire: Wire::Ack(stream, ack),
                        });
                    }
                }
                acceptor::Output::Read {
                    ticket,
                    segment,
                    from,
                    upto,
                    max_bytes,
                    committed,
                } => {
                    let segment = &self.nodes[jn].disk.segments[&segment];
                    let mut last = from;
                    while last < upto
                        && segment.slice(from, last.next()).len() <= max_bytes as usize
                    {
                        last = last.next();
                    }
                    let edits = Edits {
                        first: from,
                        count: (last.0 - from.0 + 1) as u32,
                        records: segment.slice(from, last),
                        digest_before: segment.digest_at(TxId(from.0 - 1)),
                        digest_end: segment.digest_at(last),
                        committed,
                    };
                    self.answer(jn, ticket, Ok(Response::Edits { edits }));
                }
                acceptor::Output::Fetch {
                    fetch,
                    source,
                    segment,
                } => {
                    let source = (0..self.nodes.len())
                        .find(|other| name(*other) == source)
                        .expect("a peer");
                    let outcome = self.fetch(source, &segment).map(|copy| {
                        self.nodes[jn].disk.fetched.insert(fetch, copy);
                    });
                    if let Some(acceptor) = self.nodes[jn].acceptor.as_mut() {
                        acceptor.handle_fetched(self.now, fetch, outcome);
                    }
                }
                acceptor::Output::Ask { ask, peer, request } => {
                    let other = (0..self.nodes.len())
                        .find(|other| name(*other) == peer)
                        .expect("a peer");
                    let from = Principal {
                        role: Role::Journalnode,
                        name: name(jn),
                    };
                    let outcome = self.call_as(other, &from, request);
                    if let Some(acceptor) = self.nodes[jn].acceptor.as_mut() {
                        acceptor.handle_answer(self.now, ask, outcome);
                    }
                }
                acceptor::Output::Exchange { peer, request } => {
                    let other = (0..self.nodes.len())
                        .find(|other| name(*other) == peer)
                        .expect("a peer");
                    let from = Principal {
                        role: Role::Journalnode,
                        name: name(jn),
                    };
                    let counts = match self.call_as(other, &from, request) {
                        Ok(Response::Counts { counts }) => Some(counts),
                        _ => None,
                    };
                    if let Some(acceptor) = self.nodes[jn].acceptor.as_mut() {
                        acceptor.handle_counts(self.now, &peer, counts);
                    }
                }
                acceptor::Output::Stop { reason } => panic!("jn{jn} stops: {reason}"),
            }
        }
    }

    fn fetch(
        &mut self,
        source: usize,
        target: &hadal_proto::qjournal::SegmentState,
    ) -> Result<DiskSegment, Fault> {
        let mut records = Vec::new();
        let mut next = target.first;
        while next <= target.last {
            let call = Call::ReadSegment {
                first: target.first,
                from: next,
                max_bytes: 100,
            };
            let Response::Edits { edits } = self.call(source, call)? else {
                panic!("edits");
            };
            for record in framing::split(&edits.records) {
                if next <= target.last {
                    records.push(record);
                    next = next.next();
                }
            }
        }
        let copy = DiskSegment {
            first: target.first,
            epoch: target.epoch,
            finalized: false,
            digest_before: target.digest_before,
            records,
            bad: None,
        };
        if copy.digest_at(target.last) == target.digest_end {
            Ok(copy)
        } else {
            Err(Fault::new(FaultClass::Corrupt, "the copy differs"))
        }
    }

    fn answer(&mut self, jn: usize, ticket: Ticket, outcome: Result<Response, Fault>) {
        match self.nodes[jn].callers.remove(&ticket) {
            Some(Caller::Writer(writer, id)) => self.wire.push_back(Message {
                writer,
                jn,
                wire: Wire::Reply(id, outcome),
            }),
            Some(Caller::Tail(id)) => {
                if let Some(standby) = &mut self.standby {
                    standby.replies.push_back((id, outcome));
                }
            }
            Some(Caller::Direct) => self.nodes[jn].direct = Some((ticket, outcome)),
            None => {}
        }
    }

    /// Calls a JournalNode as a NameNode, at once.
    pub fn call(&mut self, jn: usize, call: Call) -> Result<Response, Fault> {
        let request = Request {
            namespace_id: info().namespace_id,
            call,
        };
        self.call_as(jn, &namenode(), request)
    }

    pub fn call_as(
        &mut self,
        jn: usize,
        from: &Principal,
        request: Request,
    ) -> Result<Response, Fault> {
        let down = || Fault::new(FaultClass::Retry, "unreachable");
        if !self.nodes[jn].up {
            return Err(down());
        }
        let now = self.now;
        let acceptor = self.nodes[jn].acceptor.as_mut().ok_or_else(down)?;
        let ticket = acceptor.handle_call(now, from, request);
        self.nodes[jn].callers.insert(ticket, Caller::Direct);
        self.settle(jn);
        match self.nodes[jn].direct.take() {
            Some((found, outcome)) if found == ticket => outcome,
            _ => Err(down()),
        }
    }

    /// Hands a frame to a JournalNode; the txid it acknowledges.
    pub fn frame(
        &mut self,
        jn: usize,
        stream: StreamKey,
        head: &BatchHead,
        records: Bytes,
    ) -> Result<u64, Fault> {
        let now = self.now;
        let node = &mut self.nodes[jn];
        let acceptor = node.acceptor.as_mut().expect("runs");
        acceptor.handle_batch(now, stream, 0, head, records);
        let mut outcome = None;
        while let Some(output) = acceptor.poll_output() {
            match output {
                acceptor::Output::Store { write, op } => {
                    node.disk.apply(op);
                    acceptor.handle_stored(now, write, Ok(()));
                }
                acceptor::Output::Ack { ack, .. } => {
                    outcome = Some(ack.fault.map_or(Ok(ack.offset), Err));
                }
                other => panic!("{other:?}"),
            }
        }
        outcome.expect("an ack or a refusal")
    }

    // --- messages ---

    /// Delivers one message. False when there was none.
    pub fn step(&mut self) -> bool {
        let Some(message) = self.wire.pop_front() else {
            return false;
        };
        let counted = self
            .counts
            .entry((message.jn, message.wire.is_request()))
            .or_default();
        let index = *counted;
        *counted += 1;
        let fate = match &mut self.fate {
            Some(fate) => fate(&message, index),
            None => Fate::Deliver,
        };
        match (fate, &message.wire) {
            (Fate::Deliver, _) => self.deliver(message),
            (Fate::Swallow, _) => {}
            (Fate::Refuse, Wire::Call(id, _)) | (Fate::Refuse, Wire::Reply(id, _)) => {
                let fault = Fault::new(FaultClass::Internal, "injected");
                let id = *id;
                self.writers[message.writer].handle_reply(self.now, message.jn, id, Err(fault));
                self.drain_writer(message.writer);
            }
            (Fate::Break | Fate::Refuse, _) => self.break_connection(message.writer, message.jn),
        }
        true
    }

    /// The connection between a writer and a node breaks and is made again.
    pub fn break_connection(&mut self, w: usize, jn: usize) {
        self.wire.retain(|m| m.writer != w || m.jn != jn);
        self.nodes[jn].streams.retain(|(writer, _)| *writer != w);
        self.nodes[jn]
            .callers
            .retain(|_, caller| !matches!(caller, Caller::Writer(writer, _) if *writer == w));
        self.writers[w].handle_disconnected(self.now, jn);
        self.drain_writer(w);
        if self.nodes[jn].up && self.nodes[jn].acceptor.is_some() {
            self.writers[w].handle_connected(self.now, jn);
            self.drain_writer(w);
        }
    }

    pub fn deliver(&mut self, message: Message) {
        let Message { writer, jn, wire } = message;
        let now = self.now;
        match wire {
            Wire::Call(id, request) => {
                if let Some(acceptor) = self.nodes[jn].acceptor.as_mut() {
                    let ticket = acceptor.handle_call(now, &namenode(), request);
                    self.nodes[jn]
                        .callers
                        .insert(ticket, Caller::Writer(writer, id));
                    self.settle(jn);
                }
            }
            Wire::Frame(stream, sequence, head, records) => {
                if self.nodes[jn].streams.contains(&(writer, stream))
                    && let Some(acceptor) = self.nodes[jn].acceptor.as_mut()
                {
                    acceptor.handle_batch(now, key(writer, stream), sequence, &head, records);
                    self.settle(jn);
                }
            }
            Wire::Reply(id, outcome) => {
                self.writers[writer].handle_reply(now, jn, id, outcome);
                self.drain_writer(writer);
            }
            Wire::Ack(stream, ack) => {
                self.writers[writer].handle_ack(now, jn, stream, &ack);
                self.drain_writer(writer);
            }
        }
    }

    /// Delivers until nothing moves, then lets time pass to the next deadline; until `done` or nothing is left.
    pub fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now.after_ms(60_000);
        for _ in 0..200_000 {
            self.pump_standby();
            if done(self) {
                return true;
            }
            if self.step() {
                continue;
            }
            if self.auto_restart {
                let dead = (0..self.nodes.len()).find(|jn| self.nodes[*jn].acceptor.is_none());
                if let Some(jn) = dead {
                    self.start(jn);
                    continue;
                }
            }
            let writers = self.writers.iter().filter_map(Writer::poll_timeout);
            let nodes = self
                .nodes
                .iter()
                .filter_map(|n| n.acceptor.as_ref()?.poll_timeout());
            let tail = self.standby.iter().filter_map(|s| s.tail.poll_timeout());
            let Some(next) = writers.chain(nodes).chain(tail).min() else {
                return false;
            };
            if next > end {
                return false;
            }
            self.now = self.now.max(next);
            if let Some(standby) = &mut self.standby {
                standby.tail.handle_timeout(self.now);
            }
            for w in 0..self.writers.len() {
                self.writers[w].handle_timeout(self.now);
                self.drain_writer(w);
            }
            for jn in 0..self.nodes.len() {
                if let Some(acceptor) = self.nodes[jn].acceptor.as_mut() {
                    acceptor.handle_timeout(self.now);
                    self.settle(jn);
                }
            }
        }
        panic!("no end: {:?}", self.wire);
    }

    /// The timer of a JournalNode goes off.
    pub fn pass_time(&mut self, jn: usize) {
        if let Some(acceptor) = self.nodes[jn].acceptor.as_mut() {
            acceptor.handle_timeout(self.now);
            self.settle(jn);
        }
    }

    /// Delivers everything on its way, without letting time pass.
    pub fn quiesce(&mut self) {
        while self.step() {}
    }

    /// Last txid of the newest non-empty segment on each disk.
    pub fn ends(&self) -> Vec<u64> {
        self.nodes
            .iter()
            .map(|n| n.disk.segments.values().map(|s| s.last().0).max())
            .map(Option::unwrap_or_default)
            .collect()
    }

    pub fn promised(&self, jn: usize) -> Epoch {
        self.acceptor(jn).record().promised
    }
}

fn key(writer: usize, stream: StreamId) -> StreamKey {
    StreamKey(((writer as u64) << 32) | stream.0)
}
