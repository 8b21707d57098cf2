//! The other JournalNodes: counts are exchanged with them, segments copied from them.

use crate::node::Node;
use futures_util::future::{Either, select};
use hadal_daemon::Notify;
use hadal_env::{Env, Expect, Net};
use hadal_proto::qjournal::{QjournalProtocol, Request, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::acceptor::AskId;
use hadal_quic::{CallClient, CallError};
use hadal_types::Role;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

/// A peer that has not answered a call about counts by then could not be reached.
const ANSWER_MS: u64 = 5_000;

/// One of them.
pub(crate) struct Peer {
    pub(crate) name: String,
    address: SocketAddr,
    client: RefCell<Option<CallClient<QjournalProtocol>>>,
    /// The newest word for it: an older one is of no interest any more.
    pending: RefCell<Option<Request>>,
    wake: Notify,
    /// It was told that the two of us hold different namespaces.
    foreign: Cell<bool>,
}

impl Peer {
    pub(crate) fn new(name: String, address: SocketAddr) -> Self {
        Self {
            name,
            address,
            client: RefCell::new(None),
            pending: RefCell::new(None),
            wake: Notify::new(),
            foreign: Cell::new(false),
        }
    }

    pub(crate) fn tell(&self, request: Request) {
        *self.pending.borrow_mut() = Some(request);
        self.wake.notify();
    }
}

/// The call stream to a peer, opened when there is none.
pub(crate) async fn client<E: Env>(
    node: &Rc<Node<E>>,
    peer: usize,
) -> Result<CallClient<QjournalProtocol>, String> {
    let peer = &node.peers[peer];
    if let Some(client) = peer.client.borrow().clone().filter(|c| !c.is_closed()) {
        return Ok(client);
    }
    let expect = Expect::node(Role::Journalnode, peer.name.clone());
    let unreachable = |error: hadal_env::NetError| format!("JournalNode {}: {error}", peer.name);
    let conn = node.env.net().connect(peer.address, &expect).await;
    let conn = conn.map_err(unreachable)?;
    let (client, driver) = CallClient::open(&conn).await.map_err(unreachable)?;
    node.env.spawn("journalnode peer calls", async move {
        let _conn = conn;
        driver.await;
    });
    *peer.client.borrow_mut() = Some(client.clone());
    Ok(client)
}

/// Delivers words to one peer for ever.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>, index: usize) {
    loop {
        let peer = &node.peers[index];
        let mark = peer.wake.mark();
        let next = peer.pending.borrow_mut().take();
        let Some(request) = next else {
            peer.wake.changed(mark).await;
            continue;
        };
        let deadline = node.env.now().after_ms(ANSWER_MS);
        let asked = pin!(ask(&node, index, &request));
        let timer = pin!(node.env.sleep_until(deadline));
        let counts = match select(asked, timer).await {
            Either::Left((counts, _)) => counts,
            Either::Right(_) => None,
        };
        let now = node.env.now();
        let name = peer.name.clone();
        node.acceptor.borrow_mut().handle_counts(now, &name, counts);
        node.pump();
    }
}

/// Puts one question of the core to a peer.
pub(crate) async fn question<E: Env>(
    node: Rc<Node<E>>,
    ask: AskId,
    name: String,
    request: Request,
) {
    let deadline = node.env.now().after_ms(ANSWER_MS);
    let outcome = {
        let asked = pin!(put(&node, &name, &request));
        let timer = pin!(node.env.sleep_until(deadline));
        match select(asked, timer).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(unanswered(&name, "no answer in time")),
        }
    };
    let now = node.env.now();
    node.acceptor.borrow_mut().handle_answer(now, ask, outcome);
    node.pump();
}

fn unanswered(name: &str, why: impl std::fmt::Display) -> Fault {
    Fault::new(FaultClass::Retry, format!("JournalNode {name}: {why}"))
}

async fn put<E: Env>(node: &Rc<Node<E>>, name: &str, request: &Request) -> Result<Response, Fault> {
    let peer = node.peers.iter().position(|peer| peer.name == name);
    let peer = peer.ok_or_else(|| unanswered(name, "not among the configured peers"))?;
    let client = client(node, peer)
        .await
        .map_err(|reason| unanswered(name, reason))?;
    match client.call(request).await {
        Ok(response) => Ok(response),
        Err(CallError::Fault(fault)) => Err(fault),
        Err(error) => Err(unanswered(name, error)),
    }
}

async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    peer: usize,
    request: &Request,
) -> Option<hadal_proto::qjournal::Counts> {
    let client = match client(node, peer).await {
        Ok(client) => client,
        Err(reason) => {
            tracing::debug!("{reason}");
            return None;
        }
    };
    match client.call(request).await {
        Ok(Response::Counts { counts }) => {
            node.peers[peer].foreign.set(false);
            Some(counts)
        }
        Ok(other) => {
            tracing::warn!("{} answered with {}", node.peers[peer].name, other.name());
            None
        }
        Err(error) => {
            let name = &node.peers[peer].name;
            let fault = error.fault().map(|fault| fault.class);
            // F-15. Not the end of this node: while a cluster is formatted anew its JournalNodes differ for a moment.
            if fault == Some(FaultClass::IdentityMismatch)
                && !node.peers[peer].foreign.replace(true)
            {
                tracing::error!(
                    "{} is of another cluster than JournalNode {name}: {error}; one of the two has a wrong data directory",
                    node.config.dir.display()
                );
            }
            tracing::debug!("{name}: {error}");
            None
        }
    }
}
