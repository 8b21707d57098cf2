//! [`hadal_env::Net`] over quinn.
//!
//! A hand-shake is done when both sides are: the listener answers a verified peer with a **greeting**, a
//! one-way stream of the one byte [`GREETING`]. In TLS 1.3 a dialler is finished before the listener has
//! looked at its certificate; without the greeting a refused dialler would learn of it only at its first call.

use crate::certificate::{holder, role_name};
use crate::code;
use crate::conn::{QuicConn, classify, var_int};
use crate::identity::Identity;
use crate::listen::accept_all;
use crate::socket::LimitedSocket;
use crate::tls;
use hadal_env::{Expect, Net, NetError, NetErrorKind};
use hadal_types::Principal;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AsyncUdpSocket, ClientConfig, Endpoint, Runtime, ServerConfig};
use rustls_pki_types::CertificateDer;
use std::future::{Future, poll_fn};
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

pub use crate::options::{JUMBO_MTU, LOOPBACK_MTU, SAFE_MTU, TransportError, TransportOptions};

/// What the listener sends once it has accepted a peer.
pub const GREETING: u8 = 1;
/// Largest datagram payload accepted; the most UDP has.
const MAX_PAYLOAD: u16 = 65527;
/// Bytes kept of what a peer sends before its hand-shake is admitted: each, and all together. Nobody but
/// an attacker sends more than a few datagrams.
const INCOMING_BUFFER: u64 = 64 << 10;
const INCOMING_BUFFERS: u64 = 4 << 20;

/// TLS and tuning for dialling and listening, made from one identity.
pub(crate) struct Configs {
    client: ClientConfig,
    client_loopback: ClientConfig,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) server_loopback: Arc<ServerConfig>,
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
            .max_incoming(options.refuse_above.max(1))
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
pub(crate) struct Shared {
    pub(crate) runtime: Arc<dyn Runtime>,
    configs: RwLock<Arc<Configs>>,
    /// Incoming hand-shakes under way.
    pub(crate) half_open: AtomicUsize,
    handshake_timeout: Duration,
}

impl Shared {
    pub(crate) fn configs(&self) -> Arc<Configs> {
        let configs = self.configs.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&configs)
    }

    /// `None` when `future` took longer than a hand-shake may.
    pub(crate) async fn in_time<T>(&self, future: impl Future<Output = T>) -> Option<T> {
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
        let socket = runtime.wrap_udp_socket(socket)?;
        Self::on_socket(socket, runtime, identity, options, listen, None)
    }

    /// As [`QuicNet::new`], on a socket of whatever kind. With a `seed` quinn draws packet numbers it skips, challenges
    /// and the like from it: for simulated networks only, whose runs are to be repeated.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn on_socket(
        socket: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        identity: &Identity,
        options: &TransportOptions,
        listen: bool,
        seed: Option<[u8; 32]>,
    ) -> Result<Self, TransportError> {
        options.check()?;
        let configs = Configs::new(identity, options)?;
        let mut endpoint_config = identity.restarts().endpoint_config(socket.local_addr()?);
        endpoint_config
            .rng_seed(seed)
            .max_udp_payload_size(MAX_PAYLOAD)
            .expect("the largest payload of UDP is in range");
        let socket = LimitedSocket::new(socket, options.offloaded_mtu());
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
pub(crate) fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

/// Who the peer is, from the certificate TLS verified.
pub(crate) fn verified(quinn: &quinn::Connection) -> Result<Principal, String> {
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
