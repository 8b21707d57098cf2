//! Connections to other DataNodes, kept from one stream to the next.

use hadal_env::{Conn, Env, Expect, Net, NetError, Seam};
use hadal_proto::transfer::CONNECTION_TRUSTED_MS;
use hadal_types::Tick;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Connections kept.
const PEERS_MAX: usize = 1024;

type NetConn<E> = <<E as Seam>::Net as Net>::Conn;

struct Peer<C> {
    conn: C,
    /// When something last came over it.
    heard: Tick,
}

/// All of a DataNode's, by address.
pub(crate) struct Peers<E: Env> {
    env: E,
    peers: RefCell<BTreeMap<SocketAddr, Peer<NetConn<E>>>>,
}

impl<E: Env> Peers<E> {
    pub(crate) fn new(env: E) -> Self {
        Self {
            env,
            peers: RefCell::default(),
        }
    }

    /// Whether a connection to that DataNode is kept which is not known to be over.
    pub(crate) fn keeps(&self, address: SocketAddr) -> bool {
        let peers = self.peers.borrow();
        peers
            .get(&address)
            .is_some_and(|peer| !peer.conn.is_closed())
    }

    /// Whether the connection kept to that DataNode may lead to a process that is gone.
    pub(crate) fn doubts(&self, address: SocketAddr) -> bool {
        let peers = self.peers.borrow();
        let peer = peers.get(&address).filter(|peer| !peer.conn.is_closed());
        peer.is_some_and(|peer| self.env.now().ms_since(peer.heard) >= CONNECTION_TRUSTED_MS)
    }

    /// That DataNode said something over the connection kept.
    pub(crate) fn heard(&self, address: SocketAddr) {
        if let Some(peer) = self.peers.borrow_mut().get_mut(&address) {
            peer.heard = self.env.now();
        }
    }

    /// The connection to that DataNode, made if none is kept.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        expect: &Expect,
    ) -> Result<NetConn<E>, NetError> {
        let known = self.peers.borrow().get(&address).map(|it| it.conn.clone());
        if let Some(conn) = known.filter(|conn| !conn.is_closed()) {
            return Ok(conn);
        }
        let conn = self.env.net().connect(address, expect).await?;
        let mut peers = self.peers.borrow_mut();
        if peers.len() >= PEERS_MAX {
            peers.retain(|_, peer| !peer.conn.is_closed());
        }
        let heard = self.env.now();
        let kept = conn.clone();
        peers.insert(address, Peer { conn: kept, heard });
        Ok(conn)
    }
}
