//! The state all tasks of a JournalNode share, and the turn in which the acceptor and the world meet.

use crate::config::JournalnodeConfig;
use crate::error::RunError;
use crate::{fetch, load, peers, serve, storage};
use hadal_daemon::Notify;
use hadal_env::{Disk, Env, Net, Seam};
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{LogDigest, QjournalProtocol};
use hadal_qjournal::acceptor::{
    Acceptor, AcceptorConfig, FetchId, Output, StoreOp, StreamKey, Ticket, WriteId,
};
use hadal_quic::Responder;
use hadal_types::{Tick, TxId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use store_journal::{Batch, Journal, SegmentCopy};
use store_record::Record;

pub(crate) type NetConn<E> = <<E as Seam>::Net as Net>::Conn;

/// Acks on their way out on one append stream.
#[derive(Default)]
pub(crate) struct AckQueue {
    pub(crate) acks: RefCell<VecDeque<Ack>>,
    pub(crate) wake: Notify,
}

/// Everything the tasks of one JournalNode share. One shard: no locks.
pub(crate) struct Node<E: Env> {
    pub(crate) env: E,
    pub(crate) config: JournalnodeConfig,
    pub(crate) acceptor: RefCell<Acceptor>,
    pub(crate) journal: RefCell<Option<Rc<Journal<E::Disk>>>>,
    pub(crate) record: RefCell<Option<Record<E::Disk>>>,
    pub(crate) copies: RefCell<BTreeMap<FetchId, SegmentCopy<E::Disk>>>,
    /// What must become durable, in order.
    pub(crate) ops: RefCell<VecDeque<(WriteId, StoreOp)>>,
    pub(crate) ops_wake: Notify,
    pub(crate) timer_wake: Notify,
    waiting: RefCell<BTreeMap<Ticket, Responder<QjournalProtocol>>>,
    streams: RefCell<BTreeMap<StreamKey, Rc<AckQueue>>>,
    next_stream: Cell<u64>,
}

fn digest(before: LogDigest, first: TxId, records: &bytes::Bytes) -> Option<(TxId, LogDigest)> {
    let batch = Batch::verify(records.clone(), first, before.0).ok()?;
    Some((batch.last(), LogDigest(batch.digest())))
}

/// Runs a JournalNode until the process ends.
///
/// # Errors
/// [`RunError`] when it cannot start.
pub async fn run<E: Env>(env: E, config: JournalnodeConfig) -> Result<(), RunError> {
    let disk = env.disk().clone();
    disk.create_dir_all(&config.dir).await?;
    let _lock = match disk.lock(&config.dir.join("in_use.lock")).await {
        Ok(lock) => lock,
        Err(error) if error.is_locked() => {
            return Err(RunError::Locked {
                dir: config.dir.display().to_string(),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let found = load::load(&disk, &config.dir).await?;
    let names = config.peers.iter().map(|(name, _)| name.clone()).collect();
    let mut settings = AcceptorConfig::new(config.name.clone(), names, digest, env.random_u64());
    settings.planted = config.planted.clone();
    let acceptor = Acceptor::new(settings, found.loaded, env.now());
    let state = acceptor.state();
    tracing::info!(
        "JournalNode {}: {:?}, promised epoch {}, last txid {}",
        state.name,
        state.standing,
        state.promised,
        state.last
    );
    let node = Rc::new(Node {
        env: env.clone(),
        config,
        acceptor: RefCell::new(acceptor),
        journal: RefCell::new(found.journal.map(Rc::new)),
        record: RefCell::new(Some(found.record)),
        copies: RefCell::new(BTreeMap::new()),
        ops: RefCell::new(VecDeque::new()),
        ops_wake: Notify::new(),
        timer_wake: Notify::new(),
        waiting: RefCell::new(BTreeMap::new()),
        streams: RefCell::new(BTreeMap::new()),
        next_stream: Cell::new(0),
    });
    env.spawn("journalnode storage", storage::run(Rc::clone(&node)));
    env.spawn("journalnode timers", timers(Rc::clone(&node)));
    node.turn();
    serve::accept_connections(node).await;
    Ok(())
}

/// Keeps the acceptor's timers.
async fn timers<E: Env>(node: Rc<Node<E>>) {
    loop {
        let mark = node.timer_wake.mark();
        let now = node.env.now();
        let due = node.acceptor.borrow().poll_timeout().unwrap_or(Tick::NEVER);
        if due <= now {
            node.acceptor.borrow_mut().handle_timeout(now);
            node.turn();
            continue;
        }
        let sleep = pin!(node.env.sleep_until(due.min(now.after_ms(60_000))));
        let woken = pin!(node.timer_wake.changed(mark));
        futures_util::future::select(woken, sleep).await;
    }
}

impl<E: Env> Node<E> {
    /// Remembers whom to answer.
    pub(crate) fn wait_for(&self, ticket: Ticket, responder: Responder<QjournalProtocol>) {
        self.waiting.borrow_mut().insert(ticket, responder);
    }

    /// Names a new append stream.
    pub(crate) fn open_stream(&self) -> (StreamKey, Rc<AckQueue>) {
        let key = StreamKey(self.next_stream.get());
        self.next_stream.set(key.0 + 1);
        let queue = Rc::new(AckQueue::default());
        self.streams.borrow_mut().insert(key, Rc::clone(&queue));
        (key, queue)
    }

    /// The stream is gone.
    pub(crate) fn close_stream(&self, key: StreamKey) {
        self.streams.borrow_mut().remove(&key);
    }

    /// Takes everything out of the acceptor and does it.
    pub(crate) fn turn(self: &Rc<Self>) {
        loop {
            let output = self.acceptor.borrow_mut().poll_output();
            let Some(output) = output else { break };
            self.perform(output);
        }
        self.timer_wake.notify();
    }

    pub(crate) fn answer(
        &self,
        ticket: Ticket,
        outcome: Result<hadal_proto::qjournal::Response, hadal_proto::Fault>,
    ) {
        if let Some(responder) = self.waiting.borrow_mut().remove(&ticket) {
            responder.answer(outcome);
        }
    }

    fn perform(self: &Rc<Self>, output: Output) {
        match output {
            Output::Store { write, op } => {
                self.ops.borrow_mut().push_back((write, op));
                self.ops_wake.notify();
            }
            Output::Reply { ticket, outcome } => self.answer(ticket, outcome),
            Output::Ack { stream, ack } => {
                if let Some(queue) = self.streams.borrow().get(&stream) {
                    queue.acks.borrow_mut().push_back(ack);
                    queue.wake.notify();
                }
            }
            Output::Read {
                ticket,
                from,
                upto,
                max_bytes,
                committed,
                ..
            } => {
                let node = Rc::clone(self);
                self.env.spawn("journalnode read", async move {
                    let outcome = fetch::read(&node, from, upto, max_bytes, committed).await;
                    node.answer(ticket, outcome);
                });
            }
            Output::Fetch {
                fetch,
                source,
                segment,
            } => {
                self.env.spawn(
                    "journalnode fetch",
                    fetch::run(Rc::clone(self), fetch, source, segment),
                );
            }
            Output::Exchange { peer, request } => {
                self.env.spawn(
                    "journalnode exchange",
                    peers::exchange(Rc::clone(self), peer, request),
                );
            }
            Output::Stop { reason } => self.env.stop(crate::EXIT_DISK_FAILED, &reason),
        }
    }
}
