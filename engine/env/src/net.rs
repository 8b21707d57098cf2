//! Connections between verified peers, and ordered streams of [`Bytes`] on them.

use bytes::Bytes;
use core::future::Future;
use hadal_types::{Principal, Role};
use std::fmt;
use std::net::SocketAddr;

/// Why the network did not do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetErrorKind {
    /// No connection could be made: nobody there, or no answer in time.
    Unreachable,
    /// The peer's certificate was refused, or it refused ours.
    Untrusted,
    /// The peer, or this side, closed the connection.
    Closed,
    /// The connection was lost (idle time-out, reset).
    Lost,
    /// The other side reset or stopped this stream, with its code.
    Reset(u64),
}

/// A failed network operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetError {
    /// Why.
    pub kind: NetErrorKind,
    /// For people: which peer, and what the transport said.
    pub detail: String,
}

impl NetError {
    /// An error of this kind with words for people.
    #[must_use]
    pub fn new(kind: NetErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            NetErrorKind::Unreachable => "unreachable",
            NetErrorKind::Untrusted => "certificate refused",
            NetErrorKind::Closed => "connection closed",
            NetErrorKind::Lost => "connection lost",
            NetErrorKind::Reset(code) => {
                return write!(f, "stream reset with code {code}: {}", self.detail);
            }
        };
        write!(f, "{kind}: {}", self.detail)
    }
}

impl std::error::Error for NetError {}

/// Who must answer at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expect {
    /// The role in its certificate.
    pub role: Role,
    /// The name in its certificate, when it is known beforehand.
    pub name: Option<String>,
}

impl Expect {
    /// Any node of this role.
    #[must_use]
    pub fn role(role: Role) -> Self {
        Self { role, name: None }
    }

    /// This node.
    #[must_use]
    pub fn node(role: Role, name: impl Into<String>) -> Self {
        Self {
            role,
            name: Some(name.into()),
        }
    }
}

/// One endpoint: dials and, in daemons, listens.
pub trait Net: Clone + 'static {
    /// A connection.
    type Conn: Conn;

    /// Dials `addr` and verifies who answers. Bounded by the transport's hand-shake time-out.
    fn connect(
        &self,
        addr: SocketAddr,
        expect: &Expect,
    ) -> impl Future<Output = Result<Self::Conn, NetError>>;

    /// The next incoming, verified connection; `None` once the endpoint is closed. Hand-shakes of
    /// several peers proceed side by side: a slow one does not hold the next.
    fn accept(&self) -> impl Future<Output = Option<Self::Conn>>;

    /// Where this endpoint listens.
    fn local_addr(&self) -> SocketAddr;
}

/// A connection between two verified peers. Clones share it; it closes when the last one is dropped.
pub trait Conn: Clone + 'static {
    /// Sending half of a stream.
    type Send: SendStream;
    /// Receiving half of a stream.
    type Recv: RecvStream;

    /// Who the peer is, from its certificate.
    fn peer(&self) -> &Principal;

    /// The peer's present address.
    fn remote_addr(&self) -> SocketAddr;

    /// Opens a stream. The peer sees it only once something was written.
    fn open(&self) -> impl Future<Output = Result<(Self::Send, Self::Recv), NetError>>;

    /// The next stream the peer opened.
    fn accept(&self) -> impl Future<Output = Result<(Self::Send, Self::Recv), NetError>>;

    /// Closes the connection and all its streams at once.
    fn close(&self, code: u64, reason: &str);

    /// Resolves when the connection has ended, with why.
    fn closed(&self) -> impl Future<Output = NetError>;

    /// Whether the connection has ended.
    fn is_closed(&self) -> bool;
}

/// Sending half of an ordered, reliable stream. Dropping it without [`SendStream::finish`] resets it.
pub trait SendStream: 'static {
    /// Hands `chunk` to the transport without copying it above the transport; waits for flow-control
    /// credit. Not cancel-safe: a dropped call leaves the stream unusable, as part may have been sent.
    fn write_chunk(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), NetError>>;

    /// Several chunks in order, in one go; each slot is left empty once taken. As [`SendStream::write_chunk`].
    fn write_chunks(&mut self, chunks: &mut [Bytes]) -> impl Future<Output = Result<(), NetError>>;

    /// No more will be sent. What was written is still delivered.
    fn finish(&mut self);

    /// Gives up the stream: undelivered bytes are discarded.
    fn reset(&mut self, code: u64);
}

/// Receiving half of an ordered, reliable stream.
pub trait RecvStream: 'static {
    /// The next bytes in order, at most `max`; `None` at the end. Cancel-safe.
    fn read_chunk(&mut self, max: usize) -> impl Future<Output = Result<Option<Bytes>, NetError>>;

    /// The next bytes in order, as the pieces they came in, into `pieces` from its start; how many pieces were set. `None`
    /// at the end. Cancel-safe. Cheaper than one by one where pieces are small.
    ///
    /// # Panics
    /// When `pieces` is empty.
    fn read_pieces(
        &mut self,
        pieces: &mut [Bytes],
    ) -> impl Future<Output = Result<Option<usize>, NetError>> {
        async {
            let next = self.read_chunk(usize::MAX).await?;
            Ok(next.map(|piece| {
                pieces[0] = piece;
                1
            }))
        }
    }

    /// Tells the sender to stop (early refusal).
    fn stop(&mut self, code: u64);
}
