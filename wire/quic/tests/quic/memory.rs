//! Connections in memory: chunks arrive as the very `Bytes` that were sent.

use async_channel::{Receiver, Sender, unbounded};
use bytes::Bytes;
use hadal_env::{Conn, NetError, NetErrorKind, RecvStream, SendStream};
use hadal_types::{Principal, Role};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

enum Item {
    Chunk(Bytes),
    End,
    Reset(u64),
}

type Stopped = Arc<Mutex<Option<u64>>>;

pub(crate) struct MemorySend {
    items: Sender<Item>,
    stopped: Stopped,
    ended: bool,
}

pub(crate) struct MemoryRecv {
    items: Receiver<Item>,
    stopped: Stopped,
}

#[derive(Clone)]
pub(crate) struct MemoryConn {
    peer: Arc<Principal>,
    opening: Sender<(MemorySend, MemoryRecv)>,
    opened: Receiver<(MemorySend, MemoryRecv)>,
}

fn half() -> (MemorySend, MemoryRecv) {
    let (sender, receiver) = unbounded();
    let stopped = Stopped::default();
    (
        MemorySend {
            items: sender,
            stopped: Arc::clone(&stopped),
            ended: false,
        },
        MemoryRecv {
            items: receiver,
            stopped,
        },
    )
}

fn closed() -> NetError {
    NetError::new(NetErrorKind::Closed, "memory connection closed")
}

impl MemoryConn {
    /// Two ends; the first is a DataNode to the second.
    pub(crate) fn pair() -> (Self, Self) {
        let (there, here) = (unbounded(), unbounded());
        let peer = |role| {
            Arc::new(Principal {
                role,
                name: "it".into(),
            })
        };
        (
            Self {
                peer: peer(Role::Namenode),
                opening: there.0,
                opened: here.1,
            },
            Self {
                peer: peer(Role::Datanode),
                opening: here.0,
                opened: there.1,
            },
        )
    }
}

impl Conn for MemoryConn {
    type Send = MemorySend;
    type Recv = MemoryRecv;

    fn peer(&self) -> &Principal {
        &self.peer
    }

    fn remote_addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    async fn open(&self) -> Result<(MemorySend, MemoryRecv), NetError> {
        let (send, their_recv) = half();
        let (their_send, recv) = half();
        self.opening
            .send((their_send, their_recv))
            .await
            .map_err(|_| closed())?;
        Ok((send, recv))
    }

    async fn accept(&self) -> Result<(MemorySend, MemoryRecv), NetError> {
        self.opened.recv().await.map_err(|_| closed())
    }

    fn close(&self, _code: u64, _reason: &str) {
        self.opening.close();
        self.opened.close();
    }

    async fn closed(&self) -> NetError {
        self.opening.closed().await;
        closed()
    }

    fn is_closed(&self) -> bool {
        self.opening.is_closed()
    }
}

impl SendStream for MemorySend {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), NetError> {
        self.write_chunks(&mut [chunk]).await
    }

    async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), NetError> {
        if let Some(code) = *self.stopped.lock().unwrap() {
            return Err(NetError::new(NetErrorKind::Reset(code), "stopped"));
        }
        for chunk in chunks {
            let chunk = std::mem::take(chunk);
            self.items
                .send(Item::Chunk(chunk))
                .await
                .map_err(|_| closed())?;
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.ended = true;
        self.items.try_send(Item::End).ok();
    }

    fn reset(&mut self, code: u64) {
        self.ended = true;
        self.items.try_send(Item::Reset(code)).ok();
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(hadal_quic::code::DROPPED);
        }
    }
}

impl RecvStream for MemoryRecv {
    async fn read_chunk(&mut self, _max: usize) -> Result<Option<Bytes>, NetError> {
        match self.items.recv().await {
            Ok(Item::Chunk(chunk)) => Ok(Some(chunk)),
            Ok(Item::End) => Ok(None),
            Ok(Item::Reset(code)) => Err(NetError::new(NetErrorKind::Reset(code), "reset")),
            Err(_) => Err(closed()),
        }
    }

    fn stop(&mut self, code: u64) {
        *self.stopped.lock().unwrap() = Some(code);
    }
}
