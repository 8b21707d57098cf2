//! X3: bounded exploration of the real cores. Breadth first over delivery orders, writers that come while others
//! live, lost connections, and power cuts between any two disk operations of a delivery.
//!
//! Requests of one connection arrive in order or not at all (a broken connection takes everything on it); a zombie's
//! may arrive at any later time. Answers arrive at once or never. States are told apart by a 128-bit fingerprint.
//! `HADAL_X3_STATES` sets how many are visited.

use crate::world::disk::Disk;
use crate::world::{Wire, framing, info, name, namenode};
use bytes::Bytes;
use hadal_proto::Fault;
use hadal_proto::qjournal::{CommitMark, LogDigest, Response};
use hadal_qjournal::Planted;
use hadal_qjournal::acceptor::{self, Acceptor, AcceptorConfig, AcceptorRecord, StreamKey, Ticket};
use hadal_qjournal::writer::{self, EditBatch, Event, RequestId, StreamId, Writer, WriterConfig};
use hadal_types::{Epoch, Tick, TxId};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

const NOW: Tick = Tick::from_ms(1);

#[derive(Clone)]
struct Node {
    acceptor: Acceptor,
    disk: Disk,
    callers: BTreeMap<Ticket, (u8, RequestId)>,
    streams: BTreeSet<(u8, StreamId)>,
    sequences: BTreeMap<(u8, StreamId), u64>,
}

/// What may still happen.
#[derive(Clone, Copy, Hash)]
struct Budget {
    writers: u8,
    edits: u8,
    breaks: u8,
    crashes: u8,
}

#[derive(Clone)]
struct State {
    nodes: Vec<Rc<Node>>,
    writers: Vec<Rc<Writer>>,
    /// Per (writer, node, towards the node), in order.
    wires: BTreeMap<(u8, u8, bool), VecDeque<Wire>>,
    /// Ends of what was committed or recovered, with the epoch it first was in.
    settled: BTreeMap<TxId, (LogDigest, Epoch)>,
    budget: Budget,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver(u8, u8, bool),
    /// As Deliver, to a node that loses power after so many disk operations of it; `true`: tearing the next.
    DeliverAndCut(u8, u8, usize, bool),
    Break(u8, u8),
    Claim,
    Append(u8),
}

type Outcome = Result<Option<State>, String>;

struct Explorer {
    planted: Planted,
}

impl Explorer {
    fn acceptor(&self, jn: u8, disk: &Disk) -> Acceptor {
        let name = name(usize::from(jn));
        let mut config = AcceptorConfig::new(name, Vec::new(), framing::digest, 1);
        config.planted = self.planted;
        Acceptor::new(config, disk.load(), NOW)
    }

    fn initial(&self, budget: Budget) -> State {
        let mut state = State {
            nodes: Vec::new(),
            writers: Vec::new(),
            wires: BTreeMap::new(),
            settled: BTreeMap::new(),
            budget,
        };
        for jn in 0..3 {
            let disk = Disk {
                record: Some(AcceptorRecord {
                    info: Some(info()),
                    uuid: u128::from(jn) + 1,
                    ..AcceptorRecord::default()
                }),
                ..Disk::default()
            };
            let node = Node {
                acceptor: self.acceptor(jn, &disk),
                disk,
                callers: BTreeMap::new(),
                streams: BTreeSet::new(),
                sequences: BTreeMap::new(),
            };
            state.nodes.push(Rc::new(node));
            let settled = settle(&mut state, jn, usize::MAX, false);
            assert!(settled.is_ok_and(|cut| !cut));
        }
        state
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&(w, jn, request), queue) in &state.wires {
            if queue.is_empty() {
                continue;
            }
            actions.push(Action::Deliver(w, jn, request));
            if request && state.budget.crashes > 0 {
                for kept in 0..3 {
                    actions.push(Action::DeliverAndCut(w, jn, kept, false));
                }
                actions.push(Action::DeliverAndCut(w, jn, 0, true));
            }
            if state.budget.breaks > 0 {
                actions.push(Action::Break(w, jn));
            }
        }
        if state.budget.writers > 0 {
            actions.push(Action::Claim);
        }
        for (w, writer) in state.writers.iter().enumerate() {
            if state.budget.edits > 0 && writer.is_writing() {
                actions.push(Action::Append(w as u8));
            }
        }
        actions
    }

    fn apply(&self, state: &State, action: Action) -> Outcome {
        let mut next = state.clone();
        match action {
            Action::Deliver(w, jn, request) => {
                let wire = next.pop(w, jn, request);
                self.deliver(&mut next, w, jn, wire, usize::MAX, false)?;
            }
            Action::DeliverAndCut(w, jn, kept, torn) => {
                next.budget.crashes -= 1;
                let wire = next.pop(w, jn, true);
                if !self.deliver(&mut next, w, jn, wire, kept, torn)? {
                    return Ok(None);
                }
                self.power_cut(&mut next, jn)?;
            }
            Action::Break(w, jn) => {
                next.budget.breaks -= 1;
                next.break_connection(w, jn)?;
            }
            Action::Claim => {
                next.budget.writers -= 1;
                let w = next.writers.len() as u8;
                let names = (0..3).map(name).collect();
                let mut config = WriterConfig::new(names);
                config.planted = self.planted;
                let mut writer = Writer::new(config, info(), u64::from(w) + 1);
                for jn in 0..3 {
                    writer.handle_connected(NOW, jn);
                }
                writer.start_claim(NOW);
                next.writers.push(Rc::new(writer));
                next.drain(w)?;
            }
            Action::Append(w) => {
                next.budget.edits -= 1;
                next.append(w)?;
            }
        }
        self.answer(&mut next)?;
        next.check()?;
        Ok(Some(next))
    }

    /// Answers arrive at once, or never (with their connection).
    fn answer(&self, state: &mut State) -> Result<(), String> {
        while let Some(&(w, jn, _)) = state.wires.keys().find(|(_, _, request)| !request) {
            let wire = state.pop(w, jn, false);
            self.deliver(state, w, jn, wire, usize::MAX, false)?;
        }
        Ok(())
    }

    /// Whether the node was cut off by `kept`.
    fn deliver(
        &self,
        state: &mut State,
        w: u8,
        jn: u8,
        wire: Wire,
        kept: usize,
        torn: bool,
    ) -> Result<bool, String> {
        let index = usize::from(jn);
        match wire {
            Wire::Call(id, request) => {
                let node = Rc::make_mut(&mut state.nodes[index]);
                let ticket = node.acceptor.handle_call(NOW, &namenode(), request);
                node.callers.insert(ticket, (w, id));
            }
            Wire::Frame(stream, _, head, records) => {
                let node = Rc::make_mut(&mut state.nodes[index]);
                if !node.streams.contains(&(w, stream)) {
                    return Ok(false);
                }
                let key = StreamKey((u64::from(w) << 48) | stream.0);
                node.acceptor.handle_batch(NOW, key, 0, &head, records);
            }
            Wire::Reply(id, outcome) => {
                let writer = Rc::make_mut(&mut state.writers[usize::from(w)]);
                writer.handle_reply(NOW, index, id, outcome);
                state.drain(w)?;
                return Ok(false);
            }
            Wire::Ack(stream, ack) => {
                let writer = Rc::make_mut(&mut state.writers[usize::from(w)]);
                writer.handle_ack(NOW, index, stream, &ack);
                state.drain(w)?;
                return Ok(false);
            }
        }
        settle(state, jn, kept, torn)
    }

    fn power_cut(&self, state: &mut State, jn: u8) -> Result<(), String> {
        let node = Rc::make_mut(&mut state.nodes[usize::from(jn)]);
        node.disk.fetched.clear();
        node.callers.clear();
        node.streams.clear();
        node.acceptor = self.acceptor(jn, &node.disk);
        settle(state, jn, usize::MAX, false)?;
        for w in 0..state.writers.len() {
            state.break_connection(w as u8, jn)?;
        }
        Ok(())
    }
}

/// Lets a node do what it wants, up to `kept` disk operations; whether it wanted more.
fn settle(state: &mut State, jn: u8, kept: usize, torn: bool) -> Result<bool, String> {
    let index = usize::from(jn);
    let mut operations = 0;
    loop {
        let node = Rc::make_mut(&mut state.nodes[index]);
        let Some(output) = node.acceptor.poll_output() else {
            return Ok(false);
        };
        match output {
            acceptor::Output::Store { write, op } => {
                if operations == kept {
                    if torn {
                        node.disk.tear(op);
                    }
                    return Ok(true);
                }
                operations += 1;
                node.disk.apply(op);
                node.acceptor.handle_stored(NOW, write, Ok(()));
            }
            acceptor::Output::Reply { ticket, outcome } => {
                if let Some((w, id)) = node.callers.remove(&ticket) {
                    state.push(w, jn, false, Wire::Reply(id, outcome));
                }
            }
            acceptor::Output::Ack { stream, ack } => {
                let w = (stream.0 >> 48) as u8;
                let stream = StreamId(stream.0 & 0xffff_ffff_ffff);
                if node.streams.contains(&(w, stream)) {
                    if ack.fault.is_some() {
                        node.streams.remove(&(w, stream));
                    }
                    state.push(w, jn, false, Wire::Ack(stream, ack));
                }
            }
            acceptor::Output::Fetch {
                fetch,
                source,
                segment,
            } => {
                // The copy is made at once, from what the source has durable.
                let source = (0..3).find(|jn| name(*jn) == source).expect("a peer");
                let found = state.nodes[source]
                    .disk
                    .segments
                    .get(&segment.first)
                    .cloned();
                let good = found.filter(|found| {
                    let same = found.bad.is_none() && found.last() == segment.last;
                    same && found.digest_at(segment.last) == segment.digest_end
                });
                let node = Rc::make_mut(&mut state.nodes[index]);
                let outcome = match good {
                    Some(mut copy) => {
                        (copy.finalized, copy.epoch) = (false, segment.epoch);
                        node.disk.fetched.insert(fetch, copy);
                        Ok(())
                    }
                    None => Err(Fault::new(hadal_proto::FaultClass::Internal, "changed")),
                };
                node.acceptor.handle_fetched(NOW, fetch, outcome);
            }
            acceptor::Output::Read { .. }
            | acceptor::Output::Ask { .. }
            | acceptor::Output::Exchange { .. } => {
                return Err("not asked for".into());
            }
            acceptor::Output::Stop { reason } => return Err(reason),
        }
    }
}

impl State {
    fn pop(&mut self, w: u8, jn: u8, request: bool) -> Wire {
        let queue = self.wires.get_mut(&(w, jn, request)).expect("there");
        let wire = queue.pop_front().expect("not empty");
        if queue.is_empty() {
            self.wires.remove(&(w, jn, request));
        }
        wire
    }

    fn push(&mut self, w: u8, jn: u8, request: bool, wire: Wire) {
        self.wires
            .entry((w, jn, request))
            .or_default()
            .push_back(wire);
    }

    fn break_connection(&mut self, w: u8, jn: u8) -> Result<(), String> {
        self.wires.remove(&(w, jn, true));
        self.wires.remove(&(w, jn, false));
        let node = Rc::make_mut(&mut self.nodes[usize::from(jn)]);
        node.callers.retain(|_, (writer, _)| *writer != w);
        node.streams.retain(|(writer, _)| *writer != w);
        node.sequences.retain(|(writer, _), _| *writer != w);
        let writer = Rc::make_mut(&mut self.writers[usize::from(w)]);
        writer.handle_disconnected(NOW, usize::from(jn));
        writer.handle_connected(NOW, usize::from(jn));
        self.drain(w)
    }

    fn append(&mut self, w: u8) -> Result<(), String> {
        let writer = Rc::make_mut(&mut self.writers[usize::from(w)]);
        let before = writer.appended().expect("writes");
        let first = before.txid.next();
        let records: Bytes = framing::frame(writer.epoch(), first, b"op");
        let (_, digest_end) = framing::digest_of(before.digest, first, &records);
        let batch = EditBatch {
            first,
            count: 1,
            records,
            digest_end,
        };
        writer
            .append(NOW, batch)
            .map_err(|error| error.to_string())?;
        self.drain(w)
    }

    fn drain(&mut self, w: u8) -> Result<(), String> {
        loop {
            let writer = Rc::make_mut(&mut self.writers[usize::from(w)]);
            let Some(output) = writer.poll_output() else {
                return Ok(());
            };
            match output {
                writer::Output::Call { jn, id, request } => {
                    self.push(w, jn as u8, true, Wire::Call(id, request));
                }
                writer::Output::OpenStream { jn, stream, .. } => {
                    Rc::make_mut(&mut self.nodes[jn])
                        .streams
                        .insert((w, stream));
                }
                writer::Output::Batch {
                    jn,
                    stream,
                    head,
                    records,
                } => {
                    self.push(w, jn as u8, true, Wire::Frame(stream, 0, head, records));
                }
                writer::Output::CloseStream { jn, stream } => {
                    Rc::make_mut(&mut self.nodes[jn])
                        .streams
                        .remove(&(w, stream));
                }
                writer::Output::Event(Event::Recovered { end, epoch }) => {
                    self.recovered(end, epoch)?;
                    Rc::make_mut(&mut self.writers[usize::from(w)])
                        .begin(NOW)
                        .map_err(|error| error.to_string())?;
                }
                writer::Output::Event(Event::Committed { mark }) => {
                    let epoch = self.writers[usize::from(w)].epoch();
                    self.settle_at(mark, epoch)?;
                }
                writer::Output::Event(_) => {}
            }
        }
    }

    fn settle_at(&mut self, mark: CommitMark, epoch: Epoch) -> Result<(), String> {
        let entry = self.settled.entry(mark.txid);
        let (digest, _) = *entry.or_insert((mark.digest, epoch));
        if digest == mark.digest {
            Ok(())
        } else {
            Err(format!("two logs were committed up to {}", mark.txid))
        }
    }

    /// P1, P2: everything committed in lower epochs is in the recovered log. (A claim that got its last promise from a
    /// node no newer claim has reached ends in a recovery that is late: it can start no segment.)
    fn recovered(&mut self, end: CommitMark, by: Epoch) -> Result<(), String> {
        for (txid, (digest, epoch)) in &self.settled {
            if *epoch >= by {
                continue;
            }
            if *txid > end.txid {
                return Err(format!(
                    "{txid} was committed, the log is recovered to {}",
                    end.txid
                ));
            }
            let segments = self
                .nodes
                .iter()
                .flat_map(|node| node.disk.segments.values());
            let found = segments
                .filter(|s| s.first <= *txid && end.txid <= s.last())
                .filter(|s| s.digest_at(end.txid) == end.digest)
                .map(|s| s.digest_at(*txid))
                .next();
            let differs = *txid == end.txid && *digest != end.digest;
            if differs || found.is_some_and(|found| found != *digest) {
                return Err(format!(
                    "another edit {txid} was committed than is recovered"
                ));
            }
        }
        self.settle_at(end, by)
    }

    /// In every state: what nodes believe to be committed is one log (P4), and nobody has two finalised ends.
    fn check(&self) -> Result<(), String> {
        let settled = self.settled.iter();
        let mut ends: BTreeMap<TxId, LogDigest> = settled.map(|(t, (d, _))| (*t, *d)).collect();
        for node in &self.nodes {
            let mark = node.acceptor.committed();
            if let Some(other) = ends.insert(mark.txid, mark.digest)
                && other != mark.digest
            {
                return Err(format!("nodes serve different logs up to {}", mark.txid));
            }
            for segment in node.disk.segments.values().filter(|s| s.finalized) {
                let (last, digest) = (segment.last(), segment.digest_at(segment.last()));
                if let Some(other) = ends.insert(last, digest)
                    && other != digest
                {
                    return Err(format!("different logs are finalised at {last}"));
                }
            }
        }
        Ok(())
    }

    fn fingerprint(&self) -> u128 {
        let mut hasher = Wide(0);
        for node in &self.nodes {
            node.acceptor.fingerprint(&mut hasher);
            node.disk.hash(&mut hasher);
            node.streams.hash(&mut hasher);
        }
        for writer in &self.writers {
            writer.fingerprint(&mut hasher);
        }
        for (key, queue) in &self.wires {
            key.hash(&mut hasher);
            for wire in queue {
                hash_wire(wire, &mut hasher);
            }
        }
        self.settled.hash(&mut hasher);
        self.budget.hash(&mut hasher);
        hasher.0
    }
}

/// A fast 128-bit hasher; its states collide by chance only.
struct Wide(u128);

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 56));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let x = (self.0 ^ u128::from(word)).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        self.0 = x ^ (x >> 61);
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

fn hash_wire(wire: &Wire, hasher: &mut impl Hasher) {
    let outcome = |outcome: &Result<Response, Fault>, hasher: &mut _| match outcome {
        Ok(response) => response.hash(hasher),
        Err(fault) => (fault.class, fault.value).hash(hasher),
    };
    match wire {
        Wire::Call(id, request) => (0, id, request).hash(hasher),
        Wire::Reply(id, reply) => {
            (1, id).hash(hasher);
            outcome(reply, hasher);
        }
        Wire::Frame(stream, _, head, records) => (2, stream, head, records).hash(hasher),
        Wire::Ack(stream, ack) => {
            (3, stream, ack.offset, ack.fault.is_some()).hash(hasher);
        }
    }
}

/// Visits up to `limit` states; what was violated, or how many were visited and whether that was all.
fn explore(planted: Planted, budget: Budget, limit: usize) -> Result<(usize, bool), String> {
    let explorer = Explorer { planted };
    let initial = explorer.initial(budget);
    let mut seen = HashSet::from([initial.fingerprint()]);
    let mut frontier = VecDeque::from([initial]);
    while let Some(state) = frontier.pop_front() {
        for action in explorer.actions(&state) {
            let next = explorer.apply(&state, action);
            let Some(next) = next.map_err(|what| format!("{what} (by {action:?})"))? else {
                continue;
            };
            if seen.insert(next.fingerprint()) {
                if seen.len() >= limit {
                    return Ok((seen.len(), false));
                }
                frontier.push_back(next);
            }
        }
    }
    Ok((seen.len(), true))
}

fn budget(writers: u8, edits: u8, breaks: u8, crashes: u8) -> Budget {
    Budget {
        writers,
        edits,
        breaks,
        crashes,
    }
}

/// X3.
#[test]
fn x3_no_violation_in_bounds() {
    let limit = std::env::var("HADAL_X3_STATES").map_or(50_000, |n| n.parse().expect("a number"));
    for bounds in [
        budget(2, 1, 0, 0),
        budget(2, 3, 0, 0),
        budget(3, 2, 1, 0),
        budget(2, 2, 1, 1),
    ] {
        let (states, all) = explore(Planted::default(), bounds, limit).expect("no violation");
        println!("{states} states{}", if all { ", exhausted" } else { "" });
        assert!(all || states >= limit);
    }
}

/// The exploration is not vacuous: with a rule off it finds the violation.
#[test]
fn x3_finds_planted_bugs() {
    let plant = |set: fn(&mut Planted)| {
        let mut planted = Planted::default();
        set(&mut planted);
        planted
    };
    for (name, planted, bounds) in [
        (
            "skip_epoch_check",
            plant(|p| p.skip_epoch_check = true),
            budget(2, 1, 0, 0),
        ),
        (
            "commit_on_one",
            plant(|p| p.commit_on_one = true),
            budget(2, 1, 0, 0),
        ),
    ] {
        let violation = explore(planted, bounds, 400_000);
        println!("{name}: {violation:?}");
        violation.expect_err(name);
    }
}
