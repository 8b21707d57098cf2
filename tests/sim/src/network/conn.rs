//! Connections of the simulated network.

use super::events::{close, wait_in, wake_all};
use super::state::{ConnKey, StreamKey};
use super::stream::{SimRecv, SimSend};
use crate::node::NodeId;
use crate::world::Shared;
use hadal_env::{Conn, NetError, NetErrorKind};
use hadal_types::Principal;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

/// What all clones of a connection, and its streams, share. The connection closes when the last is dropped.
pub(super) struct ConnHandle {
    pub(super) shared: Rc<Shared>,
    pub(super) key: ConnKey,
    pub(super) side: usize,
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
    peer: Principal,
}

impl ConnHandle {
    /// The process this handle belongs to still lives.
    pub(super) fn alive(&self) -> bool {
        !self.shared.ending() && self.shared.alive(self.node, self.incarnation)
    }
}

impl Drop for ConnHandle {
    fn drop(&mut self) {
        if !self.alive() {
            return;
        }
        let mut net = self.shared.net.borrow_mut();
        close(&self.shared, &mut net, self.key, self.side, "dropped");
        if let Some(conn) = net.conn(self.key) {
            conn.sides[self.side].gone = true;
        }
        net.forget_if_gone(self.key);
    }
}

/// A connection between two nodes.
#[derive(Clone)]
pub struct SimConn {
    pub(super) handle: Rc<ConnHandle>,
}

impl fmt::Debug for SimConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimConn({})", self.handle.peer)
    }
}

impl SimConn {
    /// A handle on one side; `None` when the connection is forgotten already.
    pub(super) fn new(shared: &Rc<Shared>, key: ConnKey, side: usize) -> Option<Self> {
        let mut net = shared.net.borrow_mut();
        let conn = net.conn(key)?;
        let (node, incarnation) = (conn.sides[side].node, conn.sides[side].incarnation);
        let peer = conn.sides[1 - side].principal.clone();
        drop(net);
        Some(Self {
            handle: Rc::new(ConnHandle {
                shared: Rc::clone(shared),
                key,
                side,
                node,
                incarnation,
                peer,
            }),
        })
    }

    fn halves(&self, stream: StreamKey) -> (SimSend, SimRecv) {
        (
            SimSend::new(Rc::clone(&self.handle), stream),
            SimRecv::new(Rc::clone(&self.handle), stream),
        )
    }

    fn ended(&self) -> Option<NetError> {
        let handle = &self.handle;
        let mut net = handle.shared.net.borrow_mut();
        match net.conn(handle.key) {
            Some(conn) => conn.sides[handle.side].ended.clone(),
            None => Some(NetError::new(
                NetErrorKind::Closed,
                "the connection is forgotten",
            )),
        }
    }
}

impl Conn for SimConn {
    type Send = SimSend;
    type Recv = SimRecv;

    fn peer(&self) -> &Principal {
        &self.handle.peer
    }

    fn remote_addr(&self) -> SocketAddr {
        let handle = &self.handle;
        let mut net = handle.shared.net.borrow_mut();
        let endpoint = net
            .conn(handle.key)
            .map(|conn| conn.sides[1 - handle.side].endpoint);
        endpoint.map_or_else(
            || SocketAddr::from(([0, 0, 0, 0], 0)),
            |endpoint| net.endpoints[endpoint].addr,
        )
    }

    async fn open(&self) -> Result<(SimSend, SimRecv), NetError> {
        let handle = &self.handle;
        let stream = poll_fn(|cx| {
            if !handle.alive() {
                return Poll::Pending;
            }
            let mut net = handle.shared.net.borrow_mut();
            let limit = net.config.streams_per_side;
            let Some(conn) = net.conn(handle.key) else {
                return Poll::Ready(Err(NetError::new(
                    NetErrorKind::Closed,
                    "the connection is forgotten",
                )));
            };
            let side = &mut conn.sides[handle.side];
            if let Some(error) = &side.ended {
                return Poll::Ready(Err(error.clone()));
            }
            if side.open_streams >= limit {
                wait_in(&mut side.waiting, cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(Ok(conn.add_stream(handle.side)))
        })
        .await?;
        Ok(self.halves(stream))
    }

    async fn accept(&self) -> Result<(SimSend, SimRecv), NetError> {
        let handle = &self.handle;
        let stream = poll_fn(|cx| {
            if !handle.alive() {
                return Poll::Pending;
            }
            let mut net = handle.shared.net.borrow_mut();
            let Some(conn) = net.conn(handle.key) else {
                return Poll::Ready(Err(NetError::new(
                    NetErrorKind::Closed,
                    "the connection is forgotten",
                )));
            };
            let side = &mut conn.sides[handle.side];
            if let Some(stream) = side.accept.pop_front() {
                return Poll::Ready(Ok(stream));
            }
            if let Some(error) = &side.ended {
                return Poll::Ready(Err(error.clone()));
            }
            wait_in(&mut side.waiting, cx.waker());
            Poll::Pending
        })
        .await?;
        Ok(self.halves(stream))
    }

    fn close(&self, code: u64, reason: &str) {
        if self.handle.alive() {
            let mut net = self.handle.shared.net.borrow_mut();
            close(
                &self.handle.shared,
                &mut net,
                self.handle.key,
                self.handle.side,
                &format!("{reason} (code {code})"),
            );
        }
    }

    async fn closed(&self) -> NetError {
        poll_fn(|cx| {
            if !self.handle.alive() {
                return Poll::Pending;
            }
            if let Some(error) = self.ended() {
                return Poll::Ready(error);
            }
            let mut net = self.handle.shared.net.borrow_mut();
            if let Some(conn) = net.conn(self.handle.key) {
                wait_in(&mut conn.sides[self.handle.side].waiting, cx.waker());
            }
            Poll::Pending
        })
        .await
    }

    fn is_closed(&self) -> bool {
        self.ended().is_some()
    }
}

/// A stream half was let go: tasks waiting to open may go on.
pub(super) fn release_half(handle: &ConnHandle, stream: StreamKey) {
    let mut net = handle.shared.net.borrow_mut();
    let Some(conn) = net.conn(handle.key) else {
        return;
    };
    if conn.release_half(stream) {
        for side in &mut conn.sides {
            wake_all(&mut side.waiting);
        }
    }
}
