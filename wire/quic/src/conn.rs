//! [`hadal_env::Conn`] and its streams over quinn.

use crate::code;
use crate::tls;
use bytes::Bytes;
use hadal_env::{Conn, NetError, NetErrorKind, RecvStream, SendStream};
use hadal_types::Principal;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use std::net::SocketAddr;
use std::sync::Arc;

/// QUIC error codes from here on carry a TLS alert in their low byte (RFC 9001, 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// A connection between two verified peers. Closes when the last clone and the last stream of it are
/// dropped.
#[derive(Clone, Debug)]
pub struct QuicConn(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quinn: quinn::Connection,
    peer: Arc<Peer>,
}

/// For messages of streams that outlive their connection's clones.
#[derive(Debug)]
struct Peer {
    principal: Principal,
    addr: SocketAddr,
}

impl Peer {
    fn error(&self, kind: NetErrorKind, said: impl std::fmt::Display) -> NetError {
        NetError::new(kind, format!("{} at {}: {said}", self.principal, self.addr))
    }

    fn lost(&self, error: &ConnectionError) -> NetError {
        let (kind, said) = classify(error, NetErrorKind::Lost);
        self.error(kind, said)
    }
}

/// What an ended connection means. `silent` is the kind for a peer that does not answer.
pub(crate) fn classify(error: &ConnectionError, silent: NetErrorKind) -> (NetErrorKind, String) {
    match error {
        ConnectionError::TransportError(error) => {
            let number = u64::from(error.code);
            if CRYPTO_ERRORS.contains(&number) {
                return tls::explain(number as u8, &error.reason, false);
            }
            (NetErrorKind::Lost, error.to_string())
        }
        ConnectionError::ConnectionClosed(close) => {
            let number = u64::from(close.error_code);
            let said = String::from_utf8_lossy(&close.reason);
            if CRYPTO_ERRORS.contains(&number) {
                return tls::explain(number as u8, &said, true);
            }
            // CONNECTION_REFUSED (RFC 9000, 20.1): an endpoint that has no room.
            let kind = if number == 2 {
                NetErrorKind::Unreachable
            } else {
                NetErrorKind::Closed
            };
            (kind, close.to_string())
        }
        ConnectionError::ApplicationClosed(close) => {
            let said = String::from_utf8_lossy(&close.reason);
            if close.error_code.into_inner() == code::REFUSED {
                return (NetErrorKind::Untrusted, said.into_owned());
            }
            (
                NetErrorKind::Closed,
                format!(
                    "closed by the peer with code {}: {said}",
                    close.error_code.into_inner()
                ),
            )
        }
        ConnectionError::Reset => (NetErrorKind::Lost, "the peer restarted".into()),
        ConnectionError::TimedOut => (silent, "no answer in time".into()),
        ConnectionError::LocallyClosed => (NetErrorKind::Closed, "closed by this side".into()),
        ConnectionError::VersionMismatch => (
            NetErrorKind::Unreachable,
            "the peer speaks another version of QUIC".into(),
        ),
        ConnectionError::CidsExhausted => (
            NetErrorKind::Unreachable,
            "this endpoint has no connection id left: raise the number of endpoints".into(),
        ),
    }
}

pub(crate) fn var_int(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

impl QuicConn {
    pub(crate) fn new(quinn: quinn::Connection, principal: Principal) -> Self {
        let addr = quinn.remote_address();
        Self(Arc::new(Inner {
            quinn,
            peer: Arc::new(Peer { principal, addr }),
        }))
    }

    fn streams(&self, pair: (quinn::SendStream, quinn::RecvStream)) -> (QuicSend, QuicRecv) {
        let (send, recv) = pair;
        let peer = &self.0.peer;
        (
            QuicSend {
                quinn: send,
                peer: Arc::clone(peer),
                ended: false,
            },
            QuicRecv {
                quinn: recv,
                peer: Arc::clone(peer),
                stopped: None,
            },
        )
    }

    /// The connection's statistics: path, losses, MTU. For metrics and benches.
    #[must_use]
    pub fn stats(&self) -> quinn::ConnectionStats {
        self.0.quinn.stats()
    }

    /// Round-trip time of the path in microseconds, as estimated now.
    #[must_use]
    pub fn rtt_us(&self) -> u64 {
        u64::try_from(self.0.quinn.rtt().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Conn for QuicConn {
    type Send = QuicSend;
    type Recv = QuicRecv;

    fn peer(&self) -> &Principal {
        &self.0.peer.principal
    }

    fn remote_addr(&self) -> SocketAddr {
        self.0.quinn.remote_address()
    }

    async fn open(&self) -> Result<(QuicSend, QuicRecv), NetError> {
        match self.0.quinn.open_bi().await {
            Ok(pair) => Ok(self.streams(pair)),
            Err(error) => Err(self.0.peer.lost(&error)),
        }
    }

    async fn accept(&self) -> Result<(QuicSend, QuicRecv), NetError> {
        match self.0.quinn.accept_bi().await {
            Ok(pair) => Ok(self.streams(pair)),
            Err(error) => Err(self.0.peer.lost(&error)),
        }
    }

    fn close(&self, code: u64, reason: &str) {
        self.0.quinn.close(var_int(code), reason.as_bytes());
    }

    async fn closed(&self) -> NetError {
        let error = self.0.quinn.closed().await;
        self.0.peer.lost(&error)
    }

    fn is_closed(&self) -> bool {
        self.0.quinn.close_reason().is_some()
    }
}

/// Sending half of a QUIC stream. Dropped without [`SendStream::finish`], it resets the stream with
/// [`code::DROPPED`].
#[derive(Debug)]
pub struct QuicSend {
    quinn: quinn::SendStream,
    peer: Arc<Peer>,
    ended: bool,
}

impl QuicSend {
    fn failed(&self, error: WriteError) -> NetError {
        match error {
            WriteError::Stopped(code) => self.peer.error(
                NetErrorKind::Reset(code.into_inner()),
                "stopped by the receiver",
            ),
            WriteError::ConnectionLost(error) => self.peer.lost(&error),
            error @ (WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
                self.peer.error(NetErrorKind::Closed, error)
            }
        }
    }
}

impl SendStream for QuicSend {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), NetError> {
        match self.quinn.write_chunk(chunk).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), NetError> {
        match self.quinn.write_all_chunks(chunks).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        // Fails only when the stream was ended before, which is what is wanted.
        self.quinn.finish().ok();
    }

    fn reset(&mut self, code: u64) {
        self.ended = true;
        self.quinn.reset(var_int(code)).ok();
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(code::DROPPED);
        }
    }
}

/// Receiving half of a QUIC stream.
#[derive(Debug)]
pub struct QuicRecv {
    quinn: quinn::RecvStream,
    peer: Arc<Peer>,
    stopped: Option<u64>,
}

impl QuicRecv {
    fn failed(&self, error: ReadError) -> NetError {
        match error {
            ReadError::Reset(code) => self.peer.error(
                NetErrorKind::Reset(code.into_inner()),
                "reset by the sender",
            ),
            ReadError::ConnectionLost(error) => self.peer.lost(&error),
            error => match self.stopped {
                Some(code) => self
                    .peer
                    .error(NetErrorKind::Reset(code), "stopped by this side"),
                None => self.peer.error(NetErrorKind::Closed, error),
            },
        }
    }
}

impl RecvStream for QuicRecv {
    async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, NetError> {
        match self.quinn.read_chunk(max, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn read_pieces(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, NetError> {
        assert!(!pieces.is_empty(), "there is room for a piece");
        match self.quinn.read_chunks(pieces).await {
            Ok(read) => Ok(read),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn stop(&mut self, code: u64) {
        if self.quinn.stop(var_int(code)).is_ok() {
            self.stopped = Some(code);
        }
    }
}

impl Drop for QuicRecv {
    fn drop(&mut self) {
        // quinn stops with code 0 itself when it was not read to its end; ours says why.
        if self.stopped.is_none() {
            self.quinn.stop(var_int(code::DROPPED)).ok();
        }
    }
}
