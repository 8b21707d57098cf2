//! The seam on tokio: what applications link.

use crate::dfs::DistributedFileSystem;
use crate::error::ClientError;
use crate::local_file;
use crate::options::ClientOptions;
use crate::pages::Buffers;
use hadal_env::{Clock, Opening, Random, Seam};
use hadal_quic::{Identity, QuicNet, TransportOptions};
use hadal_types::Tick;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Socket buffers asked for, in bytes; the system may give less.
const SOCKET_BUFFER: usize = 8 << 20;

/// Addresses remembered as this machine's, or not.
const HERE_MAX: usize = 4096;

/// How long [`DistributedFileSystem::close`] lets its closing words leave.
const FAREWELL: Duration = Duration::from_millis(20);

/// A client's machine on tokio: its clock, its randomness, its UDP endpoint.
#[derive(Clone)]
pub struct TokioSeam {
    net: QuicNet,
    start: Instant,
    /// Which addresses are this machine's.
    here: Arc<Mutex<BTreeMap<IpAddr, bool>>>,
    /// What local files are read into.
    buffers: Buffers,
}

impl TokioSeam {
    /// On an endpoint made elsewhere.
    #[must_use]
    pub fn new(net: QuicNet) -> Self {
        Self {
            net,
            start: Instant::now(),
            here: Arc::default(),
            buffers: Buffers::default(),
        }
    }
}

impl Clock for TokioSeam {
    fn now(&self) -> Tick {
        Tick(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX - 1))
    }

    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, deadline: Tick) -> impl Future<Output = ()> {
        tokio::time::sleep_until((self.start + Duration::from_nanos(deadline.0)).into())
    }
}

impl Random for TokioSeam {
    fn random_u64(&self) -> u64 {
        getrandom::u64().expect("the operating system gives random numbers")
    }
}

impl Seam for TokioSeam {
    type Net = QuicNet;

    fn net(&self) -> &QuicNet {
        &self.net
    }

    fn is_here(&self, address: IpAddr) -> bool {
        let mut known = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = known.get(&address) {
            return *here;
        }
        // Only addresses of this machine can be bound.
        let here = UdpSocket::bind((address, 0)).is_ok();
        if known.len() < HERE_MAX {
            known.insert(address, here);
        }
        here
    }

    fn open_local(&self, socket: &str, ticket: u128) -> Opening {
        local_file::open(socket, ticket, self.buffers.clone())
    }
}

impl DistributedFileSystem<TokioSeam> {
    /// Says good-bye to all nodes before the program ends: closes every connection and returns when that has been
    /// sent. What [`DistributedFileSystem::disconnect`] says holds here, too. A client that is only dropped says
    /// good-bye as well, if its runtime lives on.
    pub async fn close(&self) {
        self.disconnect();
        // The closing words leave at once; only that the peers have seen them would take longer to know.
        let told = self.shared.seam.net.wait_idle();
        drop(tokio::time::timeout(FAREWELL, told).await);
    }
}

/// A file system on the current tokio runtime, with its own UDP endpoint and its background future spawned.
///
/// # Errors
/// [`ClientError::Setup`] when the endpoint cannot be made.
pub fn connect(
    options: ClientOptions,
    identity: &Identity,
) -> Result<DistributedFileSystem<TokioSeam>, ClientError> {
    connect_on(options, identity, Arc::new(quinn::TokioRuntime))
}

/// As [`connect`], with a `quinn::Runtime` of the caller's choice.
///
/// # Errors
/// As [`connect`].
pub fn connect_on(
    options: ClientOptions,
    identity: &Identity,
    runtime: Arc<dyn quinn::Runtime>,
) -> Result<DistributedFileSystem<TokioSeam>, ClientError> {
    let setup = |what: &str, error: &dyn std::fmt::Display| {
        ClientError::Setup(format!(
            "cannot make the client's endpoint: {what}: {error}"
        ))
    };
    // Dial from a wildcard socket of the family the NameNodes use.
    let v6 = options
        .namenodes
        .first()
        .is_some_and(|namenode| namenode.address.is_ipv6());
    let any: SocketAddr = match v6 {
        true => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        false => (Ipv4Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).map_err(|error| setup("bind", &error))?;
    let sizes = socket2::SockRef::from(&socket);
    // Best effort: smaller buffers are slower, not wrong; `hadal doctor` says how to raise the limit.
    drop(sizes.set_recv_buffer_size(SOCKET_BUFFER));
    drop(sizes.set_send_buffer_size(SOCKET_BUFFER));
    let transport = TransportOptions {
        mtu: options.mtu,
        idle_timeout_ms: options.connection_timeout_ms,
        keep_alive_ms: options.connection_timeout_ms / 3,
        ..TransportOptions::default()
    };
    let net = QuicNet::new(socket, runtime, identity, &transport, false)
        .map_err(|error| setup("QUIC", &error))?;
    let (dfs, background) = DistributedFileSystem::new(TokioSeam::new(net), options);
    tokio::spawn(background.run());
    Ok(dfs)
}
