//! A UDP socket that never packs more segments into one send than the kernel takes.

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Most bytes of payload of one UDP send over IPv4, all its segments together.
pub(crate) const MAX_SEND_BYTES: usize = 65507;

/// Wraps whatever the runtime supplies.
///
/// Sending: quinn asks for up to ten segments; when they pass 65507 bytes the kernel answers EMSGSIZE, which
/// quinn-udp takes for success, and the path falls to the smallest MTU.
///
/// Receiving: quinn allocates payload size x segments x 32. The endpoint takes the largest payload there
/// is, which a whole batch of segments fits, so one segment's room is enough: 2 MiB instead of 128.
#[derive(Debug)]
pub(crate) struct LimitedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl LimitedSocket {
    /// `mtu` is the largest datagram sent with segment offload.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, mtu: u16) -> Self {
        Self {
            inner,
            segments: (MAX_SEND_BYTES / usize::from(mtu).max(1)).max(1),
        }
    }
}

impl AsyncUdpSocket for LimitedSocket {
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
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn::{Runtime, TokioRuntime};
    use std::net::{Ipv4Addr, UdpSocket};

    #[tokio::test]
    async fn a_segmented_send_never_exceeds_one_datagram_of_ip() {
        for (mtu, most) in [
            (1200, 10),
            (1452, 10),
            (8900, 7),
            (9000, 7),
            (32_000, 2),
            (65_000, 1),
            (u16::MAX, 1),
        ] {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let inner = TokioRuntime.wrap_udp_socket(socket).unwrap();
            let offered = inner.max_transmit_segments();
            let segments = LimitedSocket::new(inner, mtu).max_transmit_segments();
            assert!(
                segments.min(10) <= most && (1..=offered).contains(&segments),
                "{segments} segments of {mtu} bytes, the kernel offers {offered}"
            );
        }
    }
}
