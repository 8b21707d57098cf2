//! X3: bounded exploration of the real cores. Breadth first over delivery orders, writers that come while others
//! live, lost connections, and power cuts between any two disk operations of a delivery.
//!
//! Requests of one connection arrive in order or not at all (a broken connection takes everything on it); a zombie's
//! may arrive at any later time. Answers arrive at once or never. States are told apart by a 128-bit fingerprint.
//! `HADAL_X3_STATES` sets how many are visited. [`forgetful`] adds nodes that are wiped or get an old disk image back.

mod fingerprint;
mod forgetful;
mod state;

use crate::world::disk::Disk;
use crate::world::{Wire, framing, info, name, namenode};
use hadal_proto::Fault;
use hadal_proto::qjournal::{CommitMark, LogDigest, Response};
use hadal_qjournal::Planted;
use hadal_qjournal::acceptor::{Acceptor, AcceptorConfig, AcceptorRecord, StreamKey, Ticket};
use hadal_qjournal::writer::{RequestId, StreamId, Writer, WriterConfig};
use hadal_types::{Epoch, Tick, TxId};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::rc::Rc;

const NOW: Tick = Tick::from_ms(1);

#[derive(Clone, Copy)]
enum Caller {
    Writer(u8, RequestId),
    Peer,
}

/// Loses power after so many disk operations; `torn`: tearing the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fuse {
    None,
    After { left: usize, torn: bool },
    Blown,
}

#[derive(Clone)]
struct Node {
    acceptor: Acceptor,
    disk: Disk,
    callers: BTreeMap<Ticket, Caller>,
    /// Answers to peers.
    told: BTreeMap<Ticket, Result<Response, Fault>>,
    streams: BTreeSet<(u8, StreamId)>,
    /// Its own clock. What matters of it is which timers are due.
    now: Tick,
    /// Processes and disks it has had.
    lives: u8,
    fuse: Fuse,
}

/// What may still happen.
#[derive(Clone, Copy, Hash, Default, Debug)]
struct Budget {
    writers: u8,
    edits: u8,
    breaks: u8,
    crashes: u8,
    /// Disks lost, one at a time: until a node votes again no other one is wiped.
    wipes: u8,
    /// Images taken, to be put back later.
    images: u8,
    /// Timers of writers.
    ticks: u8,
    /// Timers of nodes that vote.
    raises: u8,
    /// Times when two nodes cannot talk to each other.
    partitions: u8,
}

#[derive(Clone)]
struct State {
    nodes: Vec<Rc<Node>>,
    writers: Vec<Rc<Writer>>,
    /// Per (writer, node, towards the node), in order.
    wires: BTreeMap<(u8, u8, bool), VecDeque<Wire>>,
    /// Ends of what was committed or recovered, with the epoch it first was in.
    settled: BTreeMap<TxId, (LogDigest, Epoch)>,
    /// Where each epoch's recovery found the end of the log.
    recoveries: BTreeMap<Epoch, CommitMark>,
    /// Two nodes that cannot talk to each other.
    parted: Option<(u8, u8)>,
    /// A copy of a disk.
    image: Option<(u8, Rc<Disk>)>,
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
    Forget(forgetful::Action),
}

type Outcome = Result<Option<State>, String>;

struct Explorer {
    planted: Planted,
    /// The nodes know each other.
    peers: bool,
}

impl Explorer {
    fn acceptor(&self, jn: u8, lives: u8, disk: &Disk, now: Tick) -> Acceptor {
        let others = (0..3).filter(|other| self.peers && *other != jn);
        let peers = others.map(|other| name(usize::from(other))).collect();
        let seed = u64::from(lives) << 8 | u64::from(jn);
        let mut config = AcceptorConfig::new(name(usize::from(jn)), peers, framing::digest, seed);
        config.planted = self.planted;
        Acceptor::new(config, disk.load(), now)
    }

    fn initial(&self, budget: Budget) -> State {
        let mut state = State {
            nodes: Vec::new(),
            writers: Vec::new(),
            wires: BTreeMap::new(),
            settled: BTreeMap::new(),
            recoveries: BTreeMap::new(),
            parted: None,
            image: None,
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
                acceptor: self.acceptor(jn, 0, &disk, NOW),
                disk,
                callers: BTreeMap::new(),
                told: BTreeMap::new(),
                streams: BTreeSet::new(),
                now: NOW,
                lives: 0,
                fuse: Fuse::None,
            };
            state.nodes.push(Rc::new(node));
        }
        for jn in 0..3 {
            state.settle(jn).expect("starts");
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
        if self.peers {
            self.forgetful_actions(state, &mut actions);
        }
        actions
    }

    fn apply(&self, state: &State, action: Action) -> Outcome {
        let mut next = state.clone();
        match action {
            Action::Deliver(w, jn, request) => {
                let wire = next.pop(w, jn, request);
                self.deliver(&mut next, w, jn, wire)?;
            }
            Action::DeliverAndCut(w, jn, left, torn) => {
                next.budget.crashes -= 1;
                let wire = next.pop(w, jn, true);
                Rc::make_mut(&mut next.nodes[usize::from(jn)]).fuse = Fuse::After { left, torn };
                self.deliver(&mut next, w, jn, wire)?;
                if !self.blown(&mut next, jn)? {
                    return Ok(None);
                }
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
            Action::Forget(action) => {
                if !self.forget(&mut next, action)? {
                    return Ok(None);
                }
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
            self.deliver(state, w, jn, wire)?;
        }
        Ok(())
    }

    fn deliver(&self, state: &mut State, w: u8, jn: u8, wire: Wire) -> Result<(), String> {
        let index = usize::from(jn);
        match wire {
            Wire::Call(id, request) => {
                let node = Rc::make_mut(&mut state.nodes[index]);
                let ticket = node.acceptor.handle_call(node.now, &namenode(), request);
                node.callers.insert(ticket, Caller::Writer(w, id));
            }
            Wire::Frame(stream, _, head, records) => {
                let node = Rc::make_mut(&mut state.nodes[index]);
                if !node.streams.contains(&(w, stream)) {
                    return Ok(());
                }
                let key = StreamKey((u64::from(w) << 48) | stream.0);
                node.acceptor.handle_batch(node.now, key, 0, &head, records);
            }
            Wire::Reply(id, outcome) => {
                let writer = Rc::make_mut(&mut state.writers[usize::from(w)]);
                writer.handle_reply(NOW, index, id, outcome);
                return state.drain(w);
            }
            Wire::Ack(stream, ack) => {
                let writer = Rc::make_mut(&mut state.writers[usize::from(w)]);
                writer.handle_ack(NOW, index, stream, &ack);
                return state.drain(w);
            }
        }
        state.settle(jn)
    }

    /// A node whose fuse has blown starts again; whether it had.
    fn blown(&self, state: &mut State, jn: u8) -> Result<bool, String> {
        let node = Rc::make_mut(&mut state.nodes[usize::from(jn)]);
        let blown = node.fuse == Fuse::Blown;
        node.fuse = Fuse::None;
        if blown {
            self.start_again(state, jn)?;
        }
        Ok(blown)
    }

    /// The process of a node starts over its disk.
    fn start_again(&self, state: &mut State, jn: u8) -> Result<(), String> {
        let node = Rc::make_mut(&mut state.nodes[usize::from(jn)]);
        node.disk.fetched.clear();
        node.callers.clear();
        node.told.clear();
        node.streams.clear();
        node.lives += 1;
        node.acceptor = self.acceptor(jn, node.lives, &node.disk, node.now);
        state.settle(jn)?;
        for w in 0..state.writers.len() {
            state.break_connection(w as u8, jn)?;
        }
        Ok(())
    }
}

/// Visits up to `limit` states; what was violated, or how many were visited and whether that was all.
fn explore(planted: Planted, budget: Budget, limit: usize) -> Result<(usize, bool), String> {
    let explorer = Explorer {
        planted,
        peers: false,
    };
    let initial = explorer.initial(budget);
    explorer.explore(initial, limit)
}

impl Explorer {
    fn explore(&self, initial: State, limit: usize) -> Result<(usize, bool), String> {
        let mut seen = HashSet::from([initial.fingerprint()]);
        let mut frontier = VecDeque::from([initial]);
        while let Some(state) = frontier.pop_front() {
            for action in self.actions(&state) {
                let next = self.apply(&state, action);
                let after = || format!("after {} states", seen.len());
                let next = next.map_err(|what| format!("{what} (by {action:?}, {})", after()))?;
                let Some(next) = next else {
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
}

fn budget(writers: u8, edits: u8, breaks: u8, crashes: u8) -> Budget {
    Budget {
        writers,
        edits,
        breaks,
        crashes,
        ..Budget::default()
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
    type Case = (&'static str, Planted, fn(&Explorer) -> State, Budget);
    let cases: [Case; 4] = [
        (
            "skip_epoch_check",
            plant(|p| p.skip_epoch_check = true),
            |e| e.writing(0),
            budget(1, 1, 0, 0),
        ),
        (
            "commit_on_one",
            plant(|p| p.commit_on_one = true),
            |e| e.writing(0),
            budget(1, 1, 0, 0),
        ),
        // Nodes that know each other find out by their counts that one of them forgot.
        (
            "forget_promise",
            plant(|p| p.forget_promise = true),
            |e| e.writing(0),
            budget(1, 1, 0, 1),
        ),
        (
            "forget_acceptance",
            plant(|p| p.forget_acceptance = true),
            Explorer::finalizing,
            budget(1, 0, 0, 1),
        ),
    ];
    for (name, planted, start, bounds) in cases {
        let explorer = Explorer {
            planted,
            peers: false,
        };
        let mut state = start(&explorer);
        state.budget = bounds;
        let violation = explorer.explore(state, 200_000);
        println!("{name}: {violation:?}");
        violation.expect_err(name);
    }
}
