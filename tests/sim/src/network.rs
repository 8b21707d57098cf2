//! The simulated network, at the level of messages: connections between verified peers with ordered
//! reliable streams of bytes, as QUIC gives them to the code above.
//!
//! # Fault model
//!
//! * Every message takes a seeded time; streams are ordered, two streams are not ordered among each
//!   other. Lost packets show as longer delays, duplicates not at all: that is what QUIC makes of them.
//! * A **cut** link (one way or both) holds what is sent until it is mended. A side that hears nothing
//!   for the idle time-out loses the connection ([`NetErrorKind::Lost`](hadal_env::NetErrorKind)); keep-alives are taken for granted.
//!   Partitions are sets of cut links: [`Handle::isolate`], [`Handle::split`], [`Handle::cut`],
//!   [`Handle::cut_one_way`]. [`Handle::clog`] delays, [`Handle::set_loss`] delays at random.
//! * A **crashed** node's peers lose their connections at once or by the idle time-out, by seed; a
//!   restarted one answers packets of old connections with resets. A paused node is not heard.
//! * A closing word that meets a cut link is lost.
//! * **Identity**: a node's role and name stand for its certificate. A dial that [`Expect`]s another, or
//!   meets a distrusted node ([`Handle::distrust`]), ends in `Untrusted`.
//! * **Back-pressure**: at most the window of bytes is in flight per stream; writers wait for credit,
//!   which travels back and can be cut off. Streams per side are bounded.
//! * As with quinn, a stream keeps its connection open, opening stream n announces all before it, and
//!   dropping a half without finishing resets (or stops) it.

mod conn;
mod events;
mod partition;
mod pipe;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use conn::SimConn;
pub(crate) use events::{happen, hearing_changed, node_ended, node_started};
pub(crate) use state::{NetEvent, NetState};
pub use stream::{SimRecv, SimSend};

use crate::node::{NodeId, Status};
use crate::trace::Tag;
use crate::world::{Handle, Shared};
use events::{wait_in, wake_all};
use hadal_env::{Expect, Net, NetError, NetErrorKind};
use hadal_types::Principal;
use state::{ConnKey, Side};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Delays, time-outs and bounds of the network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// One way between two nodes, in microseconds: ends of a uniform distribution.
    pub latency_us: (u64, u64),
    /// One way within a node, in microseconds.
    pub local_us: (u64, u64),
    /// Bytes moved per microsecond, on top of the latency.
    pub bytes_per_us: u64,
    /// One message in so many takes 2 to 30 ms longer; 0: none does.
    pub hiccup_one_in: u64,
    /// A side that hears nothing for so long loses the connection.
    pub idle_timeout_ms: u64,
    /// A dial that meets nobody fails after so long.
    pub handshake_timeout_ms: u64,
    /// Bytes in flight per stream and direction.
    pub stream_window: usize,
    /// Streams a side may have open at a time.
    pub streams_per_side: usize,
    /// Connections waiting to be accepted per endpoint.
    pub backlog: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            latency_us: (50, 400),
            local_us: (10, 50),
            bytes_per_us: 1000,
            hiccup_one_in: 1000,
            idle_timeout_ms: 5000,
            handshake_timeout_ms: 3000,
            stream_window: 1 << 20,
            streams_per_side: 1024,
            backlog: 1024,
        }
    }
}

/// One endpoint of one life of a node.
#[derive(Clone)]
pub struct SimNet {
    shared: Rc<Shared>,
    node: NodeId,
    incarnation: u32,
    endpoint: usize,
}

/// What one attempt to reach a peer came to.
enum Attempt {
    Silence,
    Refused(NetError),
    Made(ConnKey),
}

impl SimNet {
    pub(crate) fn new(shared: Rc<Shared>, node: NodeId, incarnation: u32, endpoint: usize) -> Self {
        Self {
            shared,
            node,
            incarnation,
            endpoint,
        }
    }

    fn sleep(&self, delay: u64) -> impl Future<Output = ()> + use<> {
        Handle {
            shared: Rc::clone(&self.shared),
        }
        .sleep(Duration::from_nanos(delay))
    }

    /// One hand-shake message has just arrived at `addr`: who is there?
    fn attempt(&self, addr: SocketAddr, expect: &Expect) -> Attempt {
        let shared = &self.shared;
        let mut net = shared.net.borrow_mut();
        let Some(endpoint) = net.by_addr.get(&addr).copied() else {
            return Attempt::Silence;
        };
        let peer = net.endpoints[endpoint].node;
        let (principal, incarnation, status, mine) = {
            let nodes = shared.nodes.borrow();
            let node = &nodes[peer.index()];
            (
                node.principal.clone(),
                node.incarnation,
                node.status.clone(),
                nodes[self.node.index()].principal.clone(),
            )
        };
        if status != Status::Up || net.is_cut(self.node, peer) || net.is_cut(peer, self.node) {
            return Attempt::Silence;
        }
        if let Some(left) = net.refusals.get_mut(&peer).filter(|left| **left > 0) {
            *left -= 1;
            net.counters.refused += 1;
            return Attempt::Refused(NetError::new(
                NetErrorKind::Unreachable,
                format!("{addr}: the dial failed (injected)"),
            ));
        }
        if let Err(words) = fits(&principal, expect) {
            net.counters.refused += 1;
            return Attempt::Refused(NetError::new(
                NetErrorKind::Untrusted,
                format!("{addr}: {words}"),
            ));
        }
        if net.distrusted.contains(&peer) || net.distrusted.contains(&self.node) {
            net.counters.refused += 1;
            return Attempt::Refused(NetError::new(
                NetErrorKind::Untrusted,
                format!("{addr}: certificate revoked"),
            ));
        }
        if net.endpoints[endpoint].accept.len() >= net.config.backlog {
            return Attempt::Silence;
        }
        let dialler = Side::new(self.node, self.incarnation, self.endpoint, mine);
        let listener = Side::new(peer, incarnation, endpoint, principal);
        let key = net.add_conn(dialler, listener);
        let entry = &mut net.endpoints[endpoint];
        entry.accept.push_back(key);
        wake_all(&mut entry.waiting);
        drop(net);
        shared.note(Tag::Link, u64::from(self.node.0), u64::from(peer.0), || {
            format!("{:?} connects to {peer:?}", self.node)
        });
        Attempt::Made(key)
    }
}

fn fits(principal: &Principal, expect: &Expect) -> Result<(), String> {
    let name_fits = expect
        .name
        .as_ref()
        .is_none_or(|name| *name == principal.name);
    if principal.role == expect.role && name_fits {
        return Ok(());
    }
    let name = expect.name.as_deref().unwrap_or("any");
    Err(format!(
        "expected {}/{name}, found {principal}",
        expect.role
    ))
}

impl Net for SimNet {
    type Conn = SimConn;

    async fn connect(&self, addr: SocketAddr, expect: &Expect) -> Result<SimConn, NetError> {
        if !self.shared.alive(self.node, self.incarnation) {
            return std::future::pending().await;
        }
        let deadline =
            self.shared.now.get() + self.shared.config.net.handshake_timeout_ms * 1_000_000;
        let mut backoff = 100_000_000;
        loop {
            let delay = {
                let mut net = self.shared.net.borrow_mut();
                let peer = net
                    .by_addr
                    .get(&addr)
                    .map_or(self.node, |endpoint| net.endpoints[*endpoint].node);
                net.delay(self.node, peer, 1200)
            };
            self.sleep(delay).await;
            match self.attempt(addr, expect) {
                Attempt::Made(key) => {
                    let made = SimConn::new(&self.shared, key, 0);
                    self.sleep(delay).await;
                    return made.ok_or_else(|| {
                        NetError::new(
                            NetErrorKind::Lost,
                            format!("{addr}: lost in the hand-shake"),
                        )
                    });
                }
                Attempt::Refused(error) => {
                    self.sleep(delay).await;
                    return Err(error);
                }
                Attempt::Silence => {
                    let now = self.shared.now.get();
                    if now >= deadline {
                        let detail = format!(
                            "{addr}: no answer within {} ms",
                            self.shared.config.net.handshake_timeout_ms
                        );
                        return Err(NetError::new(NetErrorKind::Unreachable, detail));
                    }
                    self.sleep(backoff.min(deadline - now)).await;
                    backoff *= 2;
                }
            }
        }
    }

    async fn accept(&self) -> Option<SimConn> {
        poll_fn(|cx| {
            if !self.shared.alive(self.node, self.incarnation) {
                return Poll::Pending;
            }
            loop {
                let next = {
                    let mut net = self.shared.net.borrow_mut();
                    let endpoint = &mut net.endpoints[self.endpoint];
                    let next = endpoint.accept.pop_front();
                    if next.is_none() {
                        wait_in(&mut endpoint.waiting, cx.waker());
                    }
                    next
                };
                let Some(key) = next else {
                    return Poll::Pending;
                };
                if let Some(conn) = SimConn::new(&self.shared, key, 1) {
                    return Poll::Ready(Some(conn));
                }
            }
        })
        .await
    }

    fn local_addr(&self) -> SocketAddr {
        self.shared.net.borrow().endpoints[self.endpoint].addr
    }
}
