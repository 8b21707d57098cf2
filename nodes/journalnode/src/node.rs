//! The shared state of the driver's tasks, and the pump that carries out what the core asks for.

use crate::config::JournalnodeConfig;
use crate::directory::Directory;
use crate::load::Opened;
use crate::records::log_digest;
use crate::{EXIT_DISK_FAILED, fetch, peers, read};
use futures_util::future::{Either, select};
use hadal_daemon::Notify;
use hadal_env::{Env, Net, Seam};
use hadal_failover::{Grantor, GrantorConfig};
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::QjournalProtocol;
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::acceptor::{
    Acceptor, AcceptorConfig, FetchId, Output, StoreOp, StreamKey, Ticket, WriteId,
};
use hadal_quic::Responder;
use hadal_types::Tick;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;

pub(crate) type NetConn<E> = <<E as Seam>::Net as Net>::Conn;

/// Most writes that wait: the frames in flight of a writer and of one that does not know yet that it was deposed, calls,
/// and what peers told meanwhile.
const WRITES_MAX: usize = 64;
/// Most acks that wait for one append stream: one, and a refusal.
const ACKS_MAX: usize = 2;

/// Acks waiting for one append stream: the newest, as they are cumulative, and the refusal that ends it.
#[derive(Default)]
pub(crate) struct AckQueue {
    pub(crate) acks: RefCell<VecDeque<Ack>>,
    pub(crate) wake: Notify,
}

impl AckQueue {
    fn push(&self, ack: Ack) {
        let mut acks = self.acks.borrow_mut();
        let last_refuses = acks.back().map(|last| last.fault.is_some());
        match (last_refuses, &ack.fault) {
            // Nothing goes out behind a refusal.
            (Some(true), _) => return,
            (Some(false), None) => drop(acks.pop_back()),
            (Some(false), Some(_)) | (None, _) => {}
        }
        acks.push_back(ack);
        self.wake.notify();
    }
}

/// One JournalNode process.
pub(crate) struct Node<E: Env> {
    pub(crate) env: E,
    pub(crate) config: JournalnodeConfig,
    pub(crate) acceptor: RefCell<Acceptor>,
    /// Who holds the active lease here.
    pub(crate) grantor: RefCell<Grantor>,
    pub(crate) directory: Directory<E::Disk>,
    /// Writes not begun yet. Bounded by what the core admits: frames on open streams and calls on open call streams.
    pub(crate) writes: RefCell<VecDeque<(WriteId, StoreOp)>>,
    pub(crate) write_wake: Notify,
    pub(crate) responders: RefCell<BTreeMap<Ticket, Responder<QjournalProtocol>>>,
    pub(crate) streams: RefCell<BTreeMap<StreamKey, Rc<AckQueue>>>,
    pub(crate) next_stream: Cell<u64>,
    /// The fetch under way.
    pub(crate) fetching: Cell<Option<FetchId>>,
    pub(crate) peers: Vec<peers::Peer>,
    timer_wake: Notify,
    /// What the timer waits for.
    timer_at: Cell<Option<Tick>>,
}

impl<E: Env> Node<E> {
    pub(crate) fn new(env: E, config: JournalnodeConfig, opened: Opened<E::Disk>) -> Self {
        let names = config.peers.iter().map(|(name, _)| name.clone()).collect();
        let seed = env.random_u64();
        let mut core = AcceptorConfig::new(config.name.clone(), names, log_digest, seed);
        core.planted = config.planted;
        let acceptor = Acceptor::new(core, opened.loaded, env.now());
        let lease = GrantorConfig {
            name: config.name.clone(),
            ttl_ms: config.lease_ttl_ms,
            planted: config.election_planted,
        };
        let grantor = Grantor::new(lease, env.now());
        let state = acceptor.state();
        tracing::info!(
            "JournalNode {}: {:?}, promised epoch {}, last txid {}",
            state.name,
            state.standing,
            state.promised,
            state.last
        );
        let peers = config
            .peers
            .iter()
            .map(|(name, address)| peers::Peer::new(name.clone(), *address))
            .collect();
        Self {
            env,
            config,
            acceptor: RefCell::new(acceptor),
            grantor: RefCell::new(grantor),
            directory: opened.directory,
            writes: RefCell::new(VecDeque::new()),
            write_wake: Notify::new(),
            responders: RefCell::new(BTreeMap::new()),
            streams: RefCell::new(BTreeMap::new()),
            next_stream: Cell::new(0),
            fetching: Cell::new(None),
            peers,
            timer_wake: Notify::new(),
            timer_at: Cell::new(None),
        }
    }

    /// Carries out everything the core asks for.
    pub(crate) fn pump(self: &Rc<Self>) {
        loop {
            let Some(output) = self.acceptor.borrow_mut().poll_output() else {
                break;
            };
            match output {
                Output::Store { write, op } => {
                    let mut writes = self.writes.borrow_mut();
                    writes.push_back((write, op));
                    self.env
                        .queue_length("writes of the journal", writes.len(), WRITES_MAX);
                    drop(writes);
                    self.write_wake.notify();
                }
                Output::Reply { ticket, outcome } => {
                    if let Some(responder) = self.responders.borrow_mut().remove(&ticket) {
                        responder.answer(outcome);
                    }
                }
                Output::Ack { stream, ack } => {
                    let queue = self.streams.borrow().get(&stream).cloned();
                    if let Some(queue) = queue {
                        if let Some(fault) = &ack.fault {
                            self.note_fenced(fault);
                        }
                        queue.push(ack);
                        let length = queue.acks.borrow().len();
                        self.env
                            .queue_length("acks of an append stream", length, ACKS_MAX);
                    }
                }
                Output::Read {
                    ticket,
                    segment,
                    from,
                    upto,
                    max_bytes,
                    committed,
                } => {
                    let responder = self.responders.borrow_mut().remove(&ticket);
                    if let Some(responder) = responder {
                        let run = read::Run {
                            segment,
                            from,
                            upto,
                            max_bytes,
                            committed,
                        };
                        let answer = read::answer(Rc::clone(self), responder, run);
                        self.env.spawn("journalnode read", answer);
                    }
                }
                Output::Fetch {
                    fetch,
                    source,
                    segment,
                } => {
                    self.fetching.set(Some(fetch));
                    let task = fetch::run(Rc::clone(self), fetch, source, segment);
                    self.env.spawn("journalnode fetch", task);
                }
                Output::Ask { ask, peer, request } => {
                    let question = peers::question(Rc::clone(self), ask, peer, request);
                    self.env.spawn("journalnode question", question);
                }
                Output::Exchange { peer, request } => {
                    if let Some(peer) = self.peers.iter().find(|known| known.name == peer) {
                        peer.tell(request);
                    }
                }
                Output::Stop { reason } => self.disk_failed(&reason),
            }
        }
        // Only for what is due before that: for what is due later the timer looks again by itself.
        let next = self.acceptor.borrow().poll_timeout();
        if next.is_some_and(|next| self.timer_at.get().is_none_or(|at| next < at)) {
            self.timer_wake.notify();
        }
    }

    /// Edits of a writer that a newer one has deposed were refused.
    pub(crate) fn note_fenced(&self, fault: &Fault) {
        if fault.class == FaultClass::Fenced {
            self.env.happened("fenced writes");
        }
    }

    /// The end: nothing is answered any more.
    pub(crate) fn disk_failed(&self, reason: &str) {
        tracing::error!("JournalNode {} stops: {reason}", self.config.name);
        self.env.stop(EXIT_DISK_FAILED, reason);
    }
}

/// Calls the core when its time has come.
pub(crate) async fn run_timers<E: Env>(node: Rc<Node<E>>) {
    loop {
        let mark = node.timer_wake.mark();
        let next = node.acceptor.borrow().poll_timeout();
        node.timer_at.set(next);
        let changed = pin!(node.timer_wake.changed(mark));
        let sleep = pin!(node.env.sleep_until(next.unwrap_or(Tick::NEVER)));
        match (next, select(changed, sleep).await) {
            (_, Either::Left(_)) | (None, _) => {}
            (Some(_), Either::Right(_)) => {
                let now = node.env.now();
                node.acceptor.borrow_mut().handle_timeout(now);
                node.pump();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ACKS_MAX, AckQueue};
    use hadal_proto::frame::Ack;
    use hadal_proto::{Fault, FaultClass};

    fn ack(sequence: u64, fault: Option<Fault>) -> Ack {
        Ack {
            sequence,
            offset: sequence,
            fault,
            bad_node: 0,
            slow_nodes: 0,
        }
    }

    /// O4: of acks that wait only the newest is kept, and nothing behind a refusal.
    #[test]
    fn o4_acks_that_wait_do_not_pile_up() {
        let queue = AckQueue::default();
        for sequence in 1..=1_000 {
            queue.push(ack(sequence, None));
        }
        let fenced = Fault::new(FaultClass::Fenced, "a newer writer");
        queue.push(ack(1_000, Some(fenced)));
        queue.push(ack(1_001, None));
        let left: Vec<(u64, bool)> = queue
            .acks
            .borrow()
            .iter()
            .map(|ack| (ack.sequence, ack.fault.is_some()))
            .collect();
        assert_eq!(left, [(1_000, false), (1_000, true)]);
        assert_eq!(left.len(), ACKS_MAX);
    }
}
