//! Connections to DataNodes (and, for operators, to any node), one per address, shared by all streams.

use crate::background::Open;
use crate::error::Attempt;
use crate::namenode::CLOSED;
use futures_channel::{mpsc, oneshot};
use futures_util::SinkExt;
use futures_util::lock::Mutex as AsyncMutex;
use hadal_env::{Conn, Expect, Net, Seam};
use hadal_proto::admin::AdminProtocol;
use hadal_proto::transfer::{CONNECTION_TRUSTED_MS, TransferProtocol};
use hadal_quic::CallClient;
use hadal_types::Tick;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Idle connections kept; the table is swept when it grows past this.
const PEERS_MAX: usize = 4096;

/// One peer: its connection and, once needed, its call streams.
pub(crate) struct Peer<C> {
    conn: Option<C>,
    /// When something last came over it.
    heard: Tick,
    transfer: Option<CallClient<TransferProtocol>>,
    admin: Option<CallClient<AdminProtocol>>,
}

type Slot<C> = Arc<AsyncMutex<Peer<C>>>;

/// All peers by address.
pub(crate) struct Peers<S: Seam> {
    seam: S,
    opens: mpsc::Sender<Open<<S::Net as Net>::Conn>>,
    slots: Mutex<BTreeMap<SocketAddr, Slot<<S::Net as Net>::Conn>>>,
}

impl<S: Seam> Peers<S> {
    pub(crate) fn new(seam: S, opens: mpsc::Sender<Open<<S::Net as Net>::Conn>>) -> Self {
        Self {
            seam,
            opens,
            slots: Mutex::new(BTreeMap::new()),
        }
    }

    /// Closes the connections that stand. One that is being made goes on.
    pub(crate) fn disconnect(&self) {
        let slots: Vec<_> = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *slots).into_values().collect()
        };
        for slot in slots {
            if let Some(conn) = slot.try_lock().and_then(|mut peer| peer.conn.take()) {
                conn.close(CLOSED, "the client is closed");
            }
        }
    }

    fn slot(&self, address: SocketAddr) -> Slot<<S::Net as Net>::Conn> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= PEERS_MAX {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let empty = || {
            Arc::new(AsyncMutex::new(Peer {
                conn: None,
                heard: Tick(0),
                transfer: None,
                admin: None,
            }))
        };
        Arc::clone(slots.entry(address).or_insert_with(empty))
    }

    /// A live connection to the node at `address`.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        expect: &Expect,
    ) -> Result<<S::Net as Net>::Conn, Attempt> {
        let slot = self.slot(address);
        let mut peer = slot.lock().await;
        self.live(&mut peer, address, expect).await
    }

    /// Whether a connection to the node at `address` is kept which is not known to be over.
    pub(crate) async fn keeps(&self, address: SocketAddr) -> bool {
        let slot = self.slot(address);
        let peer = slot.lock().await;
        peer.conn.as_ref().is_some_and(|conn| !conn.is_closed())
    }

    /// Whether the connection kept to the node at `address` may lead to a process that is gone.
    pub(crate) async fn doubts(&self, address: SocketAddr) -> bool {
        let slot = self.slot(address);
        let peer = slot.lock().await;
        let kept = peer.conn.as_ref().is_some_and(|conn| !conn.is_closed());
        kept && self.seam.now().ms_since(peer.heard) >= CONNECTION_TRUSTED_MS
    }

    /// The node at `address` said something over the connection kept.
    pub(crate) async fn heard(&self, address: SocketAddr) {
        let slot = self.slot(address);
        slot.lock().await.heard = self.seam.now();
    }

    /// A call stream for the transfer protocol to the DataNode at `address`.
    pub(crate) async fn transfer(
        &self,
        address: SocketAddr,
        expect: &Expect,
    ) -> Result<CallClient<TransferProtocol>, Attempt> {
        let slot = self.slot(address);
        let mut peer = slot.lock().await;
        let conn = self.live(&mut peer, address, expect).await?;
        if let Some(client) = peer.transfer.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let client = open(&self.opens, |reply| Open::Transfer(conn, reply)).await?;
        peer.transfer = Some(client.clone());
        Ok(client)
    }

    /// A call stream for the admin protocol to the node at `address`.
    pub(crate) async fn admin(
        &self,
        address: SocketAddr,
        expect: &Expect,
    ) -> Result<CallClient<AdminProtocol>, Attempt> {
        let slot = self.slot(address);
        let mut peer = slot.lock().await;
        let conn = self.live(&mut peer, address, expect).await?;
        if let Some(client) = peer.admin.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let client = open(&self.opens, |reply| Open::Admin(conn, reply)).await?;
        peer.admin = Some(client.clone());
        Ok(client)
    }

    async fn live(
        &self,
        peer: &mut Peer<<S::Net as Net>::Conn>,
        address: SocketAddr,
        expect: &Expect,
    ) -> Result<<S::Net as Net>::Conn, Attempt> {
        if let Some(conn) = peer.conn.as_ref().filter(|conn| !conn.is_closed()) {
            return Ok(conn.clone());
        }
        let conn = self.seam.net().connect(address, expect).await?;
        *peer = Peer {
            conn: Some(conn.clone()),
            heard: self.seam.now(),
            transfer: None,
            admin: None,
        };
        Ok(conn)
    }
}

/// Asks the background for a call stream.
pub(crate) async fn open<C, T>(
    opens: &mpsc::Sender<Open<C>>,
    wish: impl FnOnce(oneshot::Sender<Result<T, Attempt>>) -> Open<C>,
) -> Result<T, Attempt> {
    let (reply, answer) = oneshot::channel();
    let gone = || Attempt::Net("the client's background future is not running".into());
    opens.clone().send(wish(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}
