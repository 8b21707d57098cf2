//! How the transport is tuned.

use crate::socket::MAX_SEND_BYTES;
use quinn::congestion::CubicConfig;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Datagram payload that fits every Ethernet path without jumbo frames.
pub const SAFE_MTU: u16 = 1452;
/// Datagram payload discovery tries to reach, on paths with jumbo frames.
pub const JUMBO_MTU: u16 = 8900;
/// Datagram payload between peers on one machine.
pub const LOOPBACK_MTU: u16 = 65000;
/// Initial congestion window, in datagrams (RFC 9002 7.2), and for loopback, where nothing congests.
const INITIAL_WINDOW_DATAGRAMS: u64 = 10;
const LOOPBACK_WINDOW_DATAGRAMS: u64 = 32;
/// Round trip assumed before one was measured. A lost first datagram is repeated after three of these.
const INITIAL_RTT_MS: u64 = 100;

/// Why an endpoint cannot be made.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The socket could not be used.
    #[error("cannot use the UDP socket: {0}")]
    Socket(#[from] std::io::Error),
    /// TLS does not accept the identity.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// An option is out of its range.
    #[error("option {option} is {value}, but must be {range}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What it was set to.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
}

/// How the transport is tuned. The defaults are the measured ones (2 MiB and 8 MiB windows are faster than
/// larger ones on a fast path).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransportOptions {
    /// Datagram payload in bytes on every path. `None`: [`SAFE_MTU`], discovered upward to [`JUMBO_MTU`], and
    /// [`LOOPBACK_MTU`] towards loopback addresses.
    pub mtu: Option<u16>,
    /// A connection on which nothing arrives for so long is lost, in milliseconds.
    pub idle_timeout_ms: u32,
    /// An idle connection is kept up by a datagram this often, in milliseconds; 0 does not.
    pub keep_alive_ms: u32,
    /// A hand-shake not done by then has failed, in milliseconds.
    pub handshake_timeout_ms: u32,
    /// Bytes a sender may be ahead of its reader, per stream.
    pub stream_window: u32,
    /// Bytes the peer may be ahead of us on all streams of a connection together, and we unacknowledged
    /// ahead of it.
    pub connection_window: u32,
    /// Streams a peer may have open on a connection.
    pub concurrent_streams: u32,
    /// Unfinished incoming hand-shakes above which a peer must prove its address first (Retry), T-A6.
    pub retry_above: usize,
    /// Unfinished incoming hand-shakes above which further ones are refused.
    pub refuse_above: usize,
    /// Accepted connections waiting for [`hadal_env::Net::accept`]; further ones count as unfinished.
    pub backlog: usize,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            mtu: None,
            idle_timeout_ms: 10_000,
            keep_alive_ms: 3_000,
            handshake_timeout_ms: 3_000,
            stream_window: 2 << 20,
            connection_window: 8 << 20,
            concurrent_streams: 4096,
            retry_above: 64,
            refuse_above: 1024,
            backlog: 256,
        }
    }
}

impl TransportOptions {
    pub(crate) fn check(&self) -> Result<(), TransportError> {
        let out = |option, value, range| {
            Err(TransportError::Option {
                option,
                value,
                range,
            })
        };
        if let Some(mtu) = self.mtu
            && !(1200..=65507).contains(&mtu)
        {
            return out("mtu", u64::from(mtu), "1200 to 65507 bytes");
        }
        if self.stream_window < 64 << 10 || self.stream_window > 1 << 28 {
            return out(
                "stream_window",
                u64::from(self.stream_window),
                "64 KiB to 256 MiB",
            );
        }
        if self.connection_window < self.stream_window || self.connection_window > 1 << 29 {
            return out(
                "connection_window",
                u64::from(self.connection_window),
                "stream_window to 512 MiB",
            );
        }
        if self.handshake_timeout_ms == 0 {
            return out("handshake_timeout_ms", 0, "at least 1");
        }
        if self.idle_timeout_ms == 0 || self.keep_alive_ms >= self.idle_timeout_ms {
            return out(
                "keep_alive_ms",
                u64::from(self.keep_alive_ms),
                "below idle_timeout_ms, which is at least 1",
            );
        }
        if self.backlog == 0 {
            return out("backlog", 0, "at least 1");
        }
        Ok(())
    }

    /// The tuning of one connection. One with datagrams of which two pass the kernel's limit is sent
    /// without segment offload.
    pub(crate) fn transport(&self, loopback: bool) -> Arc<TransportConfig> {
        let (initial, bound, window_datagrams) = match self.mtu {
            Some(mtu) => (mtu, mtu, INITIAL_WINDOW_DATAGRAMS),
            None if loopback => (LOOPBACK_MTU, LOOPBACK_MTU, LOOPBACK_WINDOW_DATAGRAMS),
            None => (SAFE_MTU, JUMBO_MTU, INITIAL_WINDOW_DATAGRAMS),
        };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(bound);
        // The default window never lets a datagram of 12 000 bytes out: it grows with the MTU.
        let mut cubic = CubicConfig::default();
        cubic.initial_window(window_datagrams * u64::from(initial));
        let mut transport = TransportConfig::default();
        transport
            .initial_mtu(initial)
            .mtu_discovery_config(Some(discovery))
            .congestion_controller_factory(Arc::new(cubic))
            .enable_segmentation_offload(2 * usize::from(initial) <= MAX_SEND_BYTES)
            .initial_rtt(Duration::from_millis(INITIAL_RTT_MS))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(u64::from(self.connection_window))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.concurrent_streams))
            .max_concurrent_uni_streams(VarInt::from_u32(1))
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
                self.idle_timeout_ms,
            ))))
            .datagram_receive_buffer_size(None);
        if self.keep_alive_ms > 0 {
            let interval = Duration::from_millis(u64::from(self.keep_alive_ms));
            transport.keep_alive_interval(Some(interval));
        }
        Arc::new(transport)
    }

    /// The largest datagram sent with segment offload.
    pub(crate) fn offloaded_mtu(&self) -> u16 {
        self.mtu.unwrap_or(JUMBO_MTU)
    }
}
