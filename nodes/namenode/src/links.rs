//! The way to each JournalNode: a connection, calls, and the append stream of the moment.

use crate::config::JournalnodePeer;
use crate::node::{NetConn, Node};
use crate::shared;
use bytes::Bytes;
use futures_util::future::{Either, select};
use hadal_daemon::{Distrust, Notify};
use hadal_env::{Env, Expect, Net, NetError};
use hadal_proto::election::ElectionProtocol;
use hadal_proto::frame::FrameKind;
use hadal_proto::qjournal::{
    BatchHead, Call, JournalStream, QjournalProtocol, Request, Response, Standing,
};
use hadal_proto::{Fault, FaultClass, Protocol, encode};
use hadal_qjournal::writer::{BATCHES_MAX, Jn, RequestId, StreamId};
use hadal_quic::{AckReceiver, AppendSender, CallClient, CallError, open_append};
use hadal_types::{Role, Tick};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

/// Between two tries to reach a JournalNode.
const REDIAL_MS: u64 = 200;

/// Most batches and marks waiting for one append stream: the writer's batches in flight, and a mark behind each.
const WAITING_MAX: usize = 2 * BATCHES_MAX + 1;

/// Batches waiting for one append stream; bounded by the writer's batches in flight. Of marks that wait one behind the
/// other only the last is kept: it says more.
#[derive(Default)]
pub(crate) struct StreamQueue {
    batches: RefCell<VecDeque<(BatchHead, Bytes)>>,
    wake: Notify,
    closed: Cell<bool>,
}

/// What stands for a shared directory where JournalNodes are listed.
pub(crate) fn shared_edits() -> JournalnodePeer {
    JournalnodePeer {
        name: shared::NAME.into(),
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
    }
}

/// One JournalNode.
pub(crate) struct Link<E: Env> {
    conn: RefCell<Option<NetConn<E>>>,
    client: RefCell<Option<CallClient<QjournalProtocol>>>,
    election: RefCell<Option<CallClient<ElectionProtocol>>>,
    stream: RefCell<Option<(StreamId, Rc<StreamQueue>)>>,
    /// Whose namespace it holds, when that is not ours.
    foreign: RefCell<Option<String>>,
    distrust: RefCell<Distrust>,
}

impl<E: Env> Link<E> {
    pub(crate) fn new() -> Self {
        Self {
            conn: RefCell::new(None),
            client: RefCell::new(None),
            election: RefCell::new(None),
            stream: RefCell::new(None),
            foreign: RefCell::new(None),
            distrust: RefCell::default(),
        }
    }

    pub(crate) fn push(&self, env: &E, stream: StreamId, head: BatchHead, records: Bytes) {
        if let Some((current, queue)) = &*self.stream.borrow()
            && *current == stream
        {
            let mut batches = queue.batches.borrow_mut();
            let is_mark = |head: &BatchHead| head.count == 0;
            if is_mark(&head) && batches.back().is_some_and(|(last, _)| is_mark(last)) {
                batches.pop_back();
            }
            batches.push_back((head, records));
            env.queue_length("batches for a JournalNode", batches.len(), WAITING_MAX);
            queue.wake.notify();
        }
    }

    pub(crate) fn close_stream(&self, stream: StreamId) {
        let mut slot = self.stream.borrow_mut();
        if let Some((current, queue)) = &*slot
            && *current == stream
        {
            queue.closed.set(true);
            queue.wake.notify();
            *slot = None;
        }
    }

    /// The call stream, if the JournalNode is connected.
    pub(crate) fn client(&self) -> Option<CallClient<QjournalProtocol>> {
        self.client.borrow().clone()
    }

    /// The call stream of the election, which a long answer about the journal never holds up.
    pub(crate) fn election(&self) -> Option<CallClient<ElectionProtocol>> {
        self.election.borrow().clone()
    }
}

/// A connection with its call streams, and what ends them.
async fn open<E: Env>(
    node: &Rc<Node<E>>,
    jn: Jn,
) -> Result<(NetConn<E>, impl Future<Output = NetError>), NetError> {
    let peer = &node.config.journalnodes[jn];
    let expect = Expect::node(Role::Journalnode, peer.name.clone());
    let conn = node.env.net().connect(peer.address, &expect).await?;
    let (client, driver) = CallClient::open(&conn).await?;
    // A NameNode that serves alone takes part in no election.
    let election_driver = if node.peers.is_empty() {
        None
    } else {
        let (election, driver) = CallClient::open(&conn).await?;
        *node.links[jn].election.borrow_mut() = Some(election);
        Some(driver)
    };
    *node.links[jn].client.borrow_mut() = Some(client);
    let ended = async move {
        let Some(election_driver) = election_driver else {
            return driver.await;
        };
        match select(pin!(driver), pin!(election_driver)).await {
            Either::Left((error, _)) | Either::Right((error, _)) => error,
        }
    };
    Ok((conn, ended))
}

/// Keeps a connection to JournalNode `jn` for ever.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>, jn: Jn) {
    if node.shared.is_some() {
        // Nothing is to be connected; whether the directory answers is found out by using it.
        let mut writer = node.writer.borrow_mut();
        writer.handle_connected(node.env.now(), jn);
        drop(writer);
        return node.kick();
    }
    let peer = node.config.journalnodes[jn].clone();
    let mut quiet = false;
    loop {
        match open(&node, jn).await {
            Ok((conn, ended)) => {
                quiet = false;
                node.met_journal.set(true);
                node.links[jn].distrust.borrow_mut().reached();
                *node.links[jn].conn.borrow_mut() = Some(conn);
                node.writer
                    .borrow_mut()
                    .handle_connected(node.env.now(), jn);
                node.kick();
                node.env.spawn(
                    "namenode journal identity",
                    check_namespace(Rc::clone(&node), jn),
                );
                let error = ended.await;
                tracing::warn!("lost JournalNode {}: {error}", peer.name);
                *node.links[jn].client.borrow_mut() = None;
                *node.links[jn].election.borrow_mut() = None;
                *node.links[jn].conn.borrow_mut() = None;
                if let Some((_, queue)) = node.links[jn].stream.borrow_mut().take() {
                    queue.closed.set(true);
                    queue.wake.notify();
                }
                node.writer
                    .borrow_mut()
                    .handle_disconnected(node.env.now(), jn);
                node.kick();
            }
            Err(error) => {
                if !quiet {
                    tracing::warn!(
                        "JournalNode {} at {} cannot be reached: {error}",
                        peer.name,
                        peer.address
                    );
                    quiet = true;
                }
                node.links[jn].distrust.borrow_mut().failed(&error);
                check_trusted(&node);
            }
        }
        let jitter = node.env.random_u64() % REDIAL_MS;
        node.env
            .sleep_until(node.env.now().after_ms(REDIAL_MS / 2 + jitter))
            .await;
    }
}

/// Ends a process that never met a JournalNode, because none of them and this node trust each other: its certificate is read
/// at the start only. One that met one goes on trying, for then a JournalNode is at fault.
fn check_trusted<E: Env>(node: &Node<E>) {
    let all = node.links.iter().zip(&node.config.journalnodes);
    let reasons: Option<Vec<String>> = all
        .map(|(link, peer)| {
            let reason = link.distrust.borrow().reason()?;
            Some(format!("{}: {reason}", peer.name))
        })
        .collect();
    if let Some(reasons) = reasons
        && !node.met_journal.get()
    {
        let (name, reasons) = (&node.config.name, reasons.join("; "));
        let text = format!("no JournalNode and {name} trust each other: {reasons}");
        node.env.stop(crate::EXIT_REFUSED, &text);
    }
}

/// Ends the process when a majority of JournalNodes holds another namespace: this directory is not of this cluster, or
/// one of the two was formatted anew (F-15, T-N3). A minority is only told of: the journal goes on without it.
async fn check_namespace<E: Env>(node: Rc<Node<E>>, jn: Jn) {
    let own = &node.config.namesystem.info;
    let request = Request {
        namespace_id: own.namespace_id,
        call: Call::GetState,
    };
    let Ok(Response::State { state }) = ask(&node, jn, &request).await else {
        return;
    };
    // A learner's identity is replaced when it learns.
    let other = state.info.filter(|info| {
        info.namespace_id != own.namespace_id && state.standing != Standing::Learner
    });
    let dir = node.config.dir.display();
    let foreign = other.map(|info| {
        format!(
            "JournalNode {} holds namespace {} of cluster {}",
            node.config.journalnodes[jn].name, info.namespace_id, info.cluster_id
        )
    });
    if let Some(what) = &foreign {
        let (id, cluster) = (own.namespace_id, &own.cluster_id);
        tracing::error!("{what}, but {dir} namespace {id} of cluster {cluster}");
    }
    *node.links[jn].foreign.borrow_mut() = foreign;
    let all = node.links.iter();
    let foreign: Vec<String> = all
        .filter_map(|link| link.foreign.borrow().clone())
        .collect();
    if 2 * foreign.len() > node.links.len() {
        let text = format!(
            "{dir} holds namespace {} of cluster {}, but {}: configure the JournalNodes of its cluster, or give this NameNode the directory of theirs (`hadal namenode -bootstrapStandby -force` fetches it from another NameNode)",
            own.namespace_id,
            own.cluster_id,
            foreign.join(", ")
        );
        node.env.stop(crate::EXIT_REFUSED, &text);
    }
}

/// Carries out one call of the writer and hands it the outcome.
pub(crate) async fn call<E: Env>(node: Rc<Node<E>>, jn: Jn, id: RequestId, request: Request) {
    let outcome = ask(&node, jn, &request).await;
    node.writer
        .borrow_mut()
        .handle_reply(node.env.now(), jn, id, outcome);
    node.kick();
}

/// What `future` gives by `deadline`; `None` when that is too late.
pub(crate) async fn in_time<E: Env, T>(
    env: &E,
    deadline: Tick,
    future: impl Future<Output = T>,
) -> Option<T> {
    match select(pin!(future), pin!(env.sleep_until(deadline))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// One call to a JournalNode.
pub(crate) async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    jn: Jn,
    request: &Request,
) -> Result<Response, Fault> {
    if let Some(shared) = &node.shared {
        return shared.call(request).await;
    }
    let lost = |reason: String| Fault::new(FaultClass::Retry, reason);
    let name = &node.config.journalnodes[jn].name;
    let Some(client) = node.links[jn].client() else {
        return Err(lost(format!("JournalNode {name} is not connected")));
    };
    match client.call(request).await {
        Ok(response) => Ok(response),
        Err(CallError::Fault(fault)) => Err(fault),
        Err(error) => Err(lost(format!("JournalNode {name}: {error}"))),
    }
}

/// Opens the writer's append stream and feeds it until it ends.
pub(crate) fn open_stream<E: Env>(
    node: &Rc<Node<E>>,
    jn: Jn,
    stream: StreamId,
    header: JournalStream,
) {
    let queue = Rc::new(StreamQueue::default());
    if let Some((_, old)) = node.links[jn]
        .stream
        .borrow_mut()
        .replace((stream, Rc::clone(&queue)))
    {
        old.closed.set(true);
        old.wake.notify();
    }
    let node = Rc::clone(node);
    let env = node.env.clone();
    env.spawn("namenode journal stream", async move {
        let conn = node.links[jn].conn.borrow().clone();
        let reason = match conn {
            _ if node.shared.is_some() => feed_shared(&node, jn, stream, &queue).await,
            None => "not connected".to_owned(),
            Some(conn) => feed(&node, jn, stream, header, &conn, &queue).await,
        };
        if !queue.closed.get() {
            tracing::debug!("stream to {}: {reason}", node.config.journalnodes[jn].name);
        }
        node.writer
            .borrow_mut()
            .handle_stream_closed(node.env.now(), jn, stream);
        node.kick();
    });
}

async fn feed<E: Env>(
    node: &Rc<Node<E>>,
    jn: Jn,
    stream: StreamId,
    header: JournalStream,
    conn: &NetConn<E>,
    queue: &StreamQueue,
) -> String {
    let opened = open_append(
        conn,
        QjournalProtocol::ID,
        QjournalProtocol::VERSION,
        &header,
    )
    .await;
    let (mut sender, mut acks) = match opened {
        Ok(opened) => opened,
        Err(error) => return error.to_string(),
    };
    let sending = pin!(send_batches(queue, &mut sender));
    let acking = pin!(read_acks(node, jn, stream, &mut acks));
    match select(sending, acking).await {
        Either::Left((reason, _)) | Either::Right((reason, _)) => reason,
    }
}

/// The same into a shared directory: one batch after the other.
async fn feed_shared<E: Env>(
    node: &Rc<Node<E>>,
    jn: Jn,
    stream: StreamId,
    queue: &StreamQueue,
) -> String {
    let shared = node.shared.as_ref().expect("asked for it");
    let mut sequence = 0;
    loop {
        let mark = queue.wake.mark();
        if queue.closed.get() {
            return "closed".into();
        }
        let next = queue.batches.borrow_mut().pop_front();
        let Some((head, records)) = next else {
            queue.wake.changed(mark).await;
            continue;
        };
        sequence += 1;
        for ack in shared.append(sequence, &head, records).await {
            let now = node.env.now();
            node.writer.borrow_mut().handle_ack(now, jn, stream, &ack);
            node.kick();
        }
    }
}

async fn send_batches<C: hadal_env::Conn>(
    queue: &StreamQueue,
    sender: &mut AppendSender<C>,
) -> String {
    loop {
        let mark = queue.wake.mark();
        if queue.closed.get() {
            sender.reset(0);
            return "closed".into();
        }
        let next = queue.batches.borrow_mut().pop_front();
        let Some((head, records)) = next else {
            queue.wake.changed(mark).await;
            continue;
        };
        let offset = head.first.0;
        if let Err(error) = sender
            .send(FrameKind::Data, 0, offset, encode(&head), &mut [records])
            .await
        {
            return error.to_string();
        }
    }
}

async fn read_acks<E: Env>(
    node: &Rc<Node<E>>,
    jn: Jn,
    stream: StreamId,
    acks: &mut AckReceiver<NetConn<E>>,
) -> String {
    loop {
        match acks.next().await {
            Ok(Some(ack)) => {
                node.writer
                    .borrow_mut()
                    .handle_ack(node.env.now(), jn, stream, &ack);
                node.kick();
            }
            Ok(None) => return "ended by the JournalNode".into(),
            Err(error) => return error.to_string(),
        }
    }
}
