//! [`hadal_env::Net`] over quinn.
//!
//! A hand-shake is done when both sides are: the listener answers a verified peer with a **greeting**, a
//! one-way stream of the one byte [`GREETING`]. In TLS 1.3 a dialler is finished before the listener has
//! looked at its certificate; without the greeting a refused dialler would learn of it only at its first call.

use crate::certificate::{holder, role_name};
use crate::code;
use crate::conn::{QuicConn, classify, var_int};
use crate::identity::Identity;
use crate::socket::{LimitedSocket, MAX_SEND_BYTES};
use crate::tls;
use hadal_env::{Expect, Net, NetError, NetErrorKind};
use hadal_types::Principal;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime, ServerConfig,
    TransportConfig, VarInt,
};
use rustls_pki_types::CertificateDer;
use std::future::{Future, poll_fn};
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;

/// What the listener sends once it has accepted a peer.
pub const GREETING: u8 = 1;
/// Datagram payload that fits every Ethernet path without jumbo frames.
pub const SAFE_MTU: u16 = 1452;
/// Datagram payload discovery tries to reach, on paths with jumbo frames.
pub const JUMBO_MTU: u16 = 8900;
/// Datagram payload between peers on one machine.
pub const LOOPBACK_MTU: u16 = 65000;
/// Largest datagram payload accepted; the most UDP has.
const MAX_PAYLOAD: u16 = 65527;
/// Initial congestion window, in datagrams (RFC 9002 7.2), and for loopback, where nothing congests.
const INITIAL_WINDOW_DATAGRAMS: u64 = 10;
const LOOPBACK_WINDOW_DATAGRAMS: u64 = 32;
/// Round trip assumed before one was measured. A lost first datagram is repeated after three of these.
const INITIAL_RTT_MS: u64 = 100;

/// Bytes kept of what a peer sends before its hand-shake is admitted: each, and all together. Nobody but
/// an attacker sends more than a few datagrams.
const INCOMING_BUFFER: u64 = 64 << 10;
const INCOMING_BUFFERS: u64 = 4 << 20;

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
    /// Accepted connections waiting for [`Net::accept`]; further ones count as unfinished.
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
    fn check(&self) -> Result<(), TransportError> {
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
    fn transport(&self, loopback: bool) -> Arc<TransportConfig> {
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
    fn offloaded_mtu(&self) -> u16 {
        self.mtu.unwrap_or(JUMBO_MTU)
    }
}

/// TLS and tuning for dialling and listening, made from one identity.
struct Configs {
    client: ClientConfig,
    client_loopback: ClientConfig,
    server: Arc<ServerConfig>,
    server_loopback: Arc<ServerConfig>,
}

impl Configs {
    fn new(identity: &Identity, options: &TransportOptions) -> Result<Self, TransportError> {
        let no_suite = |error: quinn::crypto::rustls::NoInitialCipherSuite| {
            rustls::Error::General(error.to_string())
        };
        let client = QuicClientConfig::try_from(tls::client(identity)?).map_err(no_suite)?;
        let server = QuicServerConfig::try_from(tls::server(identity)?).map_err(no_suite)?;
        let mut client = ClientConfig::new(Arc::new(client));
        let mut client_loopback = client.clone();
        client.transport_config(options.transport(false));
        client_loopback.transport_config(options.transport(true));
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server
            .max_incoming(options.refuse_above)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFERS);
        let mut server_loopback = server.clone();
        server.transport_config(options.transport(false));
        server_loopback.transport_config(options.transport(true));
        Ok(Self {
            client,
            client_loopback,
            server: Arc::new(server),
            server_loopback: Arc::new(server_loopback),
        })
    }
}

/// One QUIC endpoint: dials, and listens when asked to. Clones share it. When the last one is dropped it
/// stops listening; connections go on until they are dropped or closed.
#[derive(Clone)]
pub struct QuicNet(Arc<Inner>);

impl std::fmt::Debug for QuicNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicNet")
            .field("local_addr", &self.0.local_addr)
            .finish_non_exhaustive()
    }
}

struct Inner {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    options: TransportOptions,
    shared: Arc<Shared>,
    /// Empty, and closed, on an endpoint that does not listen.
    accepted: async_channel::Receiver<QuicConn>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Ends the listener, which holds the other end.
        self.accepted.close();
        self.endpoint.set_server_config(None);
    }
}

/// What the endpoint and its listener share.
struct Shared {
    runtime: Arc<dyn Runtime>,
    configs: RwLock<Arc<Configs>>,
    /// Incoming hand-shakes under way.
    half_open: AtomicUsize,
    handshake_timeout: Duration,
}

impl Shared {
    fn configs(&self) -> Arc<Configs> {
        let configs = self.configs.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&configs)
    }

    /// `None` when `future` took longer than a hand-shake may.
    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let deadline = self.runtime.now() + self.handshake_timeout;
        let mut timer = self.runtime.new_timer(deadline);
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

impl QuicNet {
    /// An endpoint on a bound, non-blocking UDP socket. Call it on the runtime's thread: its tasks are spawned
    /// there. `engine/shard` supplies a runtime and a socket with large buffers; `quinn::TokioRuntime` and any
    /// socket work too.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn new(
        socket: UdpSocket,
        runtime: Arc<dyn Runtime>,
        identity: &Identity,
        options: &TransportOptions,
        listen: bool,
    ) -> Result<Self, TransportError> {
        options.check()?;
        let configs = Configs::new(identity, options)?;
        let mut endpoint_config = EndpointConfig::default();
        endpoint_config
            .max_udp_payload_size(MAX_PAYLOAD)
            .expect("the largest payload of UDP is in range");
        let socket = LimitedSocket::new(runtime.wrap_udp_socket(socket)?, options.offloaded_mtu());
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config,
            listen.then(|| (*configs.server).clone()),
            Arc::new(socket),
            Arc::clone(&runtime),
        )?;
        let local_addr = endpoint.local_addr()?;
        let shared = Arc::new(Shared {
            runtime: Arc::clone(&runtime),
            configs: RwLock::new(Arc::new(configs)),
            half_open: AtomicUsize::new(0),
            handshake_timeout: Duration::from_millis(u64::from(options.handshake_timeout_ms)),
        });
        let (accepting, accepted) = async_channel::bounded(options.backlog);
        if listen {
            runtime.spawn(Box::pin(accept_all(
                endpoint.clone(),
                Arc::clone(&shared),
                options.clone(),
                accepting,
            )));
        }
        Ok(Self(Arc::new(Inner {
            endpoint,
            local_addr,
            options: options.clone(),
            shared,
            accepted,
        })))
    }

    /// Uses another identity for connections made from now on (a renewed certificate). Those that stand
    /// are not touched.
    ///
    /// # Errors
    /// [`TransportError::Tls`]; the present identity then stays in use.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), TransportError> {
        let configs = Arc::new(Configs::new(identity, &self.0.options)?);
        *self
            .0
            .shared
            .configs
            .write()
            .unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// Closes every connection of this endpoint and stops listening.
    pub fn close(&self, code: u64, reason: &str) {
        self.0.accepted.close();
        self.0.endpoint.close(var_int(code), reason.as_bytes());
    }

    /// Resolves when every connection is gone and its peer was told. After [`QuicNet::close`], before exit.
    pub async fn wait_idle(&self) {
        self.0.endpoint.wait_idle().await;
    }

    /// Incoming hand-shakes under way.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.0.shared.half_open.load(Ordering::Relaxed)
    }
}

impl Net for QuicNet {
    type Conn = QuicConn;

    async fn connect(&self, addr: SocketAddr, expect: &Expect) -> Result<QuicConn, NetError> {
        let shared = &self.0.shared;
        let configs = shared.configs();
        let attempt = dial(&self.0.endpoint, &configs, addr, expect);
        match shared.in_time(attempt).await {
            Some(Ok(conn)) => Ok(conn),
            Some(Err(error)) => Err(NetError::new(
                error.kind,
                format!("{} at {addr}: {}", wanted(expect), error.detail),
            )),
            None => Err(NetError::new(
                NetErrorKind::Unreachable,
                format!(
                    "{} at {addr}: no answer within {} ms; check that it runs, and that UDP passes",
                    wanted(expect),
                    self.0.options.handshake_timeout_ms
                ),
            )),
        }
    }

    async fn accept(&self) -> Option<QuicConn> {
        self.0.accepted.recv().await.ok()
    }

    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }
}

fn wanted(expect: &Expect) -> String {
    match &expect.name {
        Some(name) => format!("{}/{name}", expect.role),
        None => expect.role.to_string(),
    }
}

async fn dial(
    endpoint: &Endpoint,
    configs: &Configs,
    addr: SocketAddr,
    expect: &Expect,
) -> Result<QuicConn, NetError> {
    let config = if is_loopback(addr) {
        &configs.client_loopback
    } else {
        &configs.client
    };
    let failed = |error: &quinn::ConnectionError| {
        let (kind, said) = classify(error, NetErrorKind::Unreachable);
        NetError::new(kind, said)
    };
    let connecting = endpoint
        .connect_with(config.clone(), addr, &role_name(expect.role))
        .map_err(|error| NetError::new(NetErrorKind::Unreachable, error.to_string()))?;
    let quinn = connecting.await.map_err(|error| failed(&error))?;
    let principal = verified(&quinn).and_then(|principal| {
        let mismatch = principal.role != expect.role
            || expect
                .name
                .as_ref()
                .is_some_and(|name| *name != principal.name);
        if mismatch {
            return Err(format!(
                "{principal} answers instead: check the address, or the name configured for it"
            ));
        }
        Ok(principal)
    });
    let principal = principal.map_err(|reason| {
        quinn.close(var_int(code::REFUSED), reason.as_bytes());
        NetError::new(NetErrorKind::Untrusted, reason)
    })?;
    let mut greeting = quinn.accept_uni().await.map_err(|error| failed(&error))?;
    match greeting.read_chunk(1, true).await {
        Ok(Some(chunk)) if *chunk.bytes == [GREETING] => Ok(QuicConn::new(quinn, principal)),
        Err(quinn::ReadError::ConnectionLost(error)) => Err(failed(&error)),
        _ => {
            let reason = "it greets unlike a node of Hadal";
            quinn.close(var_int(code::REFUSED), reason.as_bytes());
            Err(NetError::new(NetErrorKind::Untrusted, reason))
        }
    }
}

/// Both ends of a loopback connection are loopback addresses.
fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

/// Who the peer is, from the certificate TLS verified.
fn verified(quinn: &quinn::Connection) -> Result<Principal, String> {
    let chain = quinn
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(certificate) = chain.as_ref().and_then(|chain| chain.first()) else {
        return Err("no certificate was presented".into());
    };
    match holder(certificate) {
        Ok(holder) => Ok(holder.principal),
        Err(error) => Err(format!(
            "the certificate names no peer: {error}; issue it with `hadal tls issue`"
        )),
    }
}

/// Counts one unfinished hand-shake.
struct HalfOpen(Arc<Shared>);

impl HalfOpen {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.half_open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.half_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The listener: admits hand-shakes, each in a task of its own, until the endpoint closes or its last
/// holder is gone.
async fn accept_all(
    endpoint: Endpoint,
    shared: Arc<Shared>,
    options: TransportOptions,
    accepting: async_channel::Sender<QuicConn>,
) {
    loop {
        let incoming = {
            let mut next = pin!(endpoint.accept());
            let mut gone = pin!(accepting.closed());
            poll_fn(|cx| {
                if gone.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                next.as_mut().poll(cx)
            })
            .await
        };
        let Some(incoming) = incoming else { return };
        let half_open = shared.half_open.load(Ordering::Relaxed);
        if half_open >= options.refuse_above {
            incoming.refuse();
            continue;
        }
        if half_open >= options.retry_above && !incoming.remote_address_validated() {
            // A peer that lies about its address never comes back with the token.
            incoming.retry().ok();
            continue;
        }
        let counted = HalfOpen::new(&shared);
        let accepting = accepting.clone();
        shared.runtime.spawn(Box::pin(async move {
            if let Some(conn) = receive(incoming, &counted.0).await {
                // Fails only when nobody will ever accept again; the connection then closes.
                accepting.send(conn).await.ok();
            }
        }));
    }
}

async fn receive(incoming: quinn::Incoming, shared: &Shared) -> Option<QuicConn> {
    let addr = incoming.remote_address();
    let configs = shared.configs();
    let config = if is_loopback(addr) {
        &configs.server_loopback
    } else {
        &configs.server
    };
    let handshake = async {
        let connecting = incoming.accept_with(Arc::clone(config))?;
        let quinn = connecting.await?;
        let principal = match verified(&quinn) {
            Ok(principal) => principal,
            Err(reason) => {
                tracing::warn!(%addr, %reason, "peer refused");
                quinn.close(var_int(code::REFUSED), reason.as_bytes());
                return Ok(None);
            }
        };
        greet(&quinn).await?;
        Ok(Some(QuicConn::new(quinn, principal)))
    };
    match shared.in_time(handshake).await {
        Some(Ok(conn)) => conn,
        Some(Err(error)) => {
            let (_, reason) = classify(&error, NetErrorKind::Unreachable);
            tracing::warn!(%addr, %reason, "hand-shake failed");
            None
        }
        None => {
            tracing::warn!(%addr, "hand-shake not done in time");
            None
        }
    }
}

async fn greet(quinn: &quinn::Connection) -> Result<(), quinn::ConnectionError> {
    let mut greeting = quinn.open_uni().await?;
    // A failing write means an ended connection, which whoever uses it next learns.
    greeting.write_all(&[GREETING]).await.ok();
    greeting.finish().ok();
    Ok(())
}
