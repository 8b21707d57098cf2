//! UDP sockets for QUIC: big buffers, and segment offload the kernel accepts.

use nix::sys::socket::{setsockopt, sockopt};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Socket buffer size to ask for. Measured: the kernel's default loses 1 300 to 2 100 packets per
/// GiB on loopback, this loses none.
pub const BUFFER_BYTES: usize = 8 << 20;

/// Most bytes of payload one UDP send may carry over IPv4, all its segments together.
const MAX_SEND_BYTES: usize = 65507;

/// Most segments quinn puts into one send.
const MAX_SEGMENTS: usize = 10;

/// A bound socket and the buffers the kernel granted.
#[derive(Debug)]
pub struct Bound {
    /// The socket, non-blocking.
    pub socket: UdpSocket,
    /// Bytes its receive buffer really has.
    pub recv_buffer_bytes: usize,
    /// Bytes its send buffer really has.
    pub send_buffer_bytes: usize,
}

impl Bound {
    /// Whether the kernel granted what was asked for. If not, raise `net.core.rmem_max` and
    /// `net.core.wmem_max` by sysctl, or give the process `CAP_NET_ADMIN`.
    #[must_use]
    pub fn has_buffers_of(&self, bytes: usize) -> bool {
        self.recv_buffer_bytes >= bytes && self.send_buffer_bytes >= bytes
    }
}

/// Binds a socket and asks for `buffer_bytes` of receive and of send buffer, past the sysctl limit
/// where the process may (`CAP_NET_ADMIN`), up to it otherwise. Getting less is no error: look at
/// what was granted, and log it. An IPv6 wildcard address takes IPv4 as well.
pub fn bind(addr: SocketAddr, buffer_bytes: usize) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer_bytes).is_err() {
        socket.set_recv_buffer_size(buffer_bytes)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &buffer_bytes).is_err() {
        socket.set_send_buffer_size(buffer_bytes)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    // The kernel doubles what is asked for to cover its own bookkeeping, and reports the double.
    let recv_buffer_bytes = socket.recv_buffer_size()? / 2;
    let send_buffer_bytes = socket.send_buffer_size()? / 2;
    Ok(Bound {
        socket: socket.into(),
        recv_buffer_bytes,
        send_buffer_bytes,
    })
}

/// quinn's runtime on a shard, for endpoints whose largest datagram is `mtu` bytes.
/// Its sockets are [`CappedSocket`]s. Use it on a shard's thread.
#[must_use]
pub fn runtime(mtu: u16) -> Arc<dyn Runtime> {
    Arc::new(ShardRuntime { mtu })
}

#[derive(Debug)]
struct ShardRuntime {
    mtu: u16,
}

impl Runtime for ShardRuntime {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(CappedSocket::new(
            TokioRuntime.wrap_udp_socket(socket)?,
            self.mtu,
        )))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A socket that never packs more than 65507 bytes into one segmented send. quinn packs up to ten
/// datagrams; with a large MTU the kernel answers `EMSGSIZE`, quinn-udp takes that for success, and
/// the path would fall to the smallest MTU.
#[derive(Debug)]
pub struct CappedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl CappedSocket {
    /// Caps `inner`, whose largest datagram is `mtu` bytes.
    #[must_use]
    pub fn new(inner: Arc<dyn AsyncUdpSocket>, mtu: u16) -> Self {
        let segments = MAX_SEND_BYTES / usize::from(mtu).max(1);
        Self {
            inner,
            segments: segments.clamp(1, MAX_SEGMENTS),
        }
    }
}

impl AsyncUdpSocket for CappedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(self.segments)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
