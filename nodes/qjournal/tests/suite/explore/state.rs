//! What happens inside one state: nodes that do what they want, writers that do, and what must hold in every state.

use super::fingerprint::{Wide, hash_wire};
use super::{Caller, Fuse, NOW, State};
use crate::world::disk::DiskSegment;
use crate::world::{Wire, framing, name};
use bytes::Bytes;
use hadal_proto::qjournal::{CommitMark, LogDigest, Request, Response, SegmentState};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::acceptor;
use hadal_qjournal::writer::{self, EditBatch, Event, StreamId};
use hadal_types::{Epoch, Principal, Role, TxId};
use std::collections::BTreeMap;
use std::hash::Hash;
use std::rc::Rc;

/// Which one of this name.
fn peer(found: &str) -> u8 {
    (0..3)
        .find(|jn| name(usize::from(*jn)) == found)
        .expect("a peer")
}

impl State {
    /// Lets a node do what it wants, until it wants nothing more or its fuse blows.
    pub(super) fn settle(&mut self, jn: u8) -> Result<(), String> {
        let index = usize::from(jn);
        loop {
            let node = Rc::make_mut(&mut self.nodes[index]);
            if node.fuse == Fuse::Blown {
                return Ok(());
            }
            let now = node.now;
            let Some(output) = node.acceptor.poll_output() else {
                return Ok(());
            };
            match output {
                acceptor::Output::Store { write, op } => {
                    if let Fuse::After { left, torn } = &mut node.fuse {
                        if *left == 0 {
                            if *torn {
                                node.disk.tear(op);
                            }
                            node.fuse = Fuse::Blown;
                            return Ok(());
                        }
                        *left -= 1;
                    }
                    node.disk.apply(op);
                    node.acceptor.handle_stored(now, write, Ok(()));
                }
                acceptor::Output::Reply { ticket, outcome } => match node.callers.remove(&ticket) {
                    Some(Caller::Writer(w, id)) => {
                        self.push(w, jn, false, Wire::Reply(id, outcome));
                    }
                    Some(Caller::Peer) => {
                        node.told.insert(ticket, outcome);
                    }
                    None => {}
                },
                acceptor::Output::Ack { stream, ack } => {
                    let w = (stream.0 >> 48) as u8;
                    let stream = StreamId(stream.0 & 0xffff_ffff_ffff);
                    if node.streams.contains(&(w, stream)) {
                        if ack.fault.is_some() {
                            node.streams.remove(&(w, stream));
                        }
                        self.push(w, jn, false, Wire::Ack(stream, ack));
                    }
                }
                acceptor::Output::Fetch {
                    fetch,
                    source,
                    segment,
                } => {
                    let outcome = self.copy(jn, peer(&source), &segment);
                    let node = Rc::make_mut(&mut self.nodes[index]);
                    let outcome = outcome.map(|copy| {
                        node.disk.fetched.insert(fetch, copy);
                    });
                    node.acceptor.handle_fetched(now, fetch, outcome);
                }
                acceptor::Output::Ask {
                    ask,
                    peer: name,
                    request,
                } => {
                    let outcome = self.call_peer(jn, peer(&name), request)?;
                    let node = Rc::make_mut(&mut self.nodes[index]);
                    node.acceptor.handle_answer(now, ask, outcome);
                }
                acceptor::Output::Exchange {
                    peer: name,
                    request,
                } => {
                    let counts = match self.call_peer(jn, peer(&name), request)? {
                        Ok(Response::Counts { counts }) => Some(counts),
                        _ => None,
                    };
                    let node = Rc::make_mut(&mut self.nodes[index]);
                    node.acceptor.handle_counts(now, &name, counts);
                }
                acceptor::Output::Read { .. } => return Err("not asked for".into()),
                acceptor::Output::Stop { reason } => return Err(reason),
            }
        }
    }

    fn apart(&self, a: u8, b: u8) -> bool {
        self.parted == Some((a.min(b), a.max(b)))
    }

    /// A call between JournalNodes: answered at once, or the two are apart.
    fn call_peer(
        &mut self,
        from: u8,
        to: u8,
        request: Request,
    ) -> Result<Result<Response, Fault>, String> {
        let unreachable = || Fault::new(FaultClass::Retry, "unreachable");
        let caller = Principal {
            role: Role::Journalnode,
            name: name(usize::from(from)),
        };
        let apart = self.apart(from, to);
        let node = Rc::make_mut(&mut self.nodes[usize::from(to)]);
        if apart || node.fuse == Fuse::Blown {
            return Ok(Err(unreachable()));
        }
        let ticket = node.acceptor.handle_call(node.now, &caller, request);
        node.callers.insert(ticket, Caller::Peer);
        self.settle(to)?;
        let node = Rc::make_mut(&mut self.nodes[usize::from(to)]);
        let outcome = node.told.remove(&ticket);
        Ok(outcome.unwrap_or_else(|| Err(unreachable())))
    }

    /// The copy is made at once, from what the source has durable.
    fn copy(&self, to: u8, from: u8, segment: &SegmentState) -> Result<DiskSegment, Fault> {
        let segments = &self.nodes[usize::from(from)].disk.segments;
        let found = segments.get(&segment.first).filter(|found| {
            let same = found.bad.is_none() && found.last() == segment.last;
            same && found.digest_at(segment.last) == segment.digest_end
        });
        match found {
            Some(found) if !self.apart(to, from) => Ok(DiskSegment {
                finalized: false,
                epoch: segment.epoch,
                ..found.clone()
            }),
            _ => Err(Fault::new(
                FaultClass::Internal,
                "changed, or not reachable",
            )),
        }
    }

    pub(super) fn pop(&mut self, w: u8, jn: u8, request: bool) -> Wire {
        let queue = self.wires.get_mut(&(w, jn, request)).expect("there");
        let wire = queue.pop_front().expect("not empty");
        if queue.is_empty() {
            self.wires.remove(&(w, jn, request));
        }
        wire
    }

    pub(super) fn push(&mut self, w: u8, jn: u8, request: bool, wire: Wire) {
        self.wires
            .entry((w, jn, request))
            .or_default()
            .push_back(wire);
    }

    pub(super) fn break_connection(&mut self, w: u8, jn: u8) -> Result<(), String> {
        self.wires.remove(&(w, jn, true));
        self.wires.remove(&(w, jn, false));
        let node = Rc::make_mut(&mut self.nodes[usize::from(jn)]);
        let theirs = |caller: &Caller| matches!(caller, Caller::Writer(writer, _) if *writer == w);
        node.callers.retain(|_, caller| !theirs(caller));
        node.streams.retain(|(writer, _)| *writer != w);
        let writer = Rc::make_mut(&mut self.writers[usize::from(w)]);
        writer.handle_disconnected(NOW, usize::from(jn));
        writer.handle_connected(NOW, usize::from(jn));
        self.drain(w)
    }

    pub(super) fn append(&mut self, w: u8) -> Result<(), String> {
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

    pub(super) fn drain(&mut self, w: u8) -> Result<(), String> {
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
                    self.recoveries.insert(epoch, end);
                    Rc::make_mut(&mut self.writers[usize::from(w)])
                        .begin(NOW)
                        .map_err(|error| error.to_string())?;
                }
                writer::Output::Event(Event::Committed { mark }) => {
                    let epoch = self.writers[usize::from(w)].epoch();
                    self.not_given_up(mark, epoch)?;
                    self.settle_at(mark, epoch)?;
                }
                writer::Output::Event(_) => {}
            }
        }
    }

    /// P2: what a newer epoch's recovery gave up cannot be committed any more. (Acks arrive at once here.)
    fn not_given_up(&self, mark: CommitMark, epoch: Epoch) -> Result<(), String> {
        for (by, end) in self.recoveries.range(epoch.next()..) {
            if mark.txid > end.txid || (mark.txid == end.txid && mark.digest != end.digest) {
                return Err(format!(
                    "{} is committed in epoch {epoch}, epoch {by} recovered the log to {}",
                    mark.txid, end.txid
                ));
            }
        }
        Ok(())
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
    pub(super) fn check(&self) -> Result<(), String> {
        let settled = self.settled.iter();
        let mut ends: BTreeMap<TxId, LogDigest> = settled.map(|(t, (d, _))| (*t, *d)).collect();
        let mut decided = BTreeMap::new();
        for node in &self.nodes {
            let mark = node.acceptor.committed();
            if let Some(other) = ends.insert(mark.txid, mark.digest)
                && other != mark.digest
            {
                return Err(format!("nodes serve different logs up to {}", mark.txid));
            }
            for segment in node.disk.segments.values().filter(|s| s.finalized) {
                let (last, digest) = (segment.last(), segment.digest_at(segment.last()));
                if *decided.entry(segment.first).or_insert(last) != last {
                    return Err(format!(
                        "segment {} is finalised at two ends",
                        segment.first
                    ));
                }
                if let Some(other) = ends.insert(last, digest)
                    && other != digest
                {
                    return Err(format!("different logs are finalised at {last}"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn fingerprint(&self) -> u128 {
        let mut hasher = Wide(0);
        for node in &self.nodes {
            node.acceptor.fingerprint(&mut hasher);
            node.disk.hash(&mut hasher);
            node.streams.hash(&mut hasher);
            node.lives.hash(&mut hasher);
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
        self.recoveries.hash(&mut hasher);
        (self.parted, &self.image).hash(&mut hasher);
        self.budget.hash(&mut hasher);
        hasher.0
    }
}
