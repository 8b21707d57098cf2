//! QUIC in the loop (reliability.md S12): `wire/quic` over quinn, TLS and all, on the world's clock and a simulated
//! network of datagrams.
//!
//! [`Datagrams`] is the network: loss, duplication, delay (and so reordering), what a path carries at most, cuts both
//! ways or one way, addresses that change under a socket. [`QuicEnv`] is the environment of a node whose network is
//! QUIC over it: the real drivers run on it as on [`SimEnv`].
//!
//! # What a seed decides, and what not
//!
//! The seed decides which task runs next, when datagrams arrive and which of them are lost, and (through
//! `EndpointConfig::rng_seed`) what quinn draws for itself. It does not decide keys, connection ids, and one reserved
//! transport parameter of random length in each hand-shake: they come from the operating system. Nothing but the
//! ciphertext and a few bytes of length in the first flights depends on them, so a seed repeats what a run does but not
//! every length: a run is repeated by its outcome, not by its trace hash.
//!
//! Certificates are checked against the wall clock of this machine, not the world's.

mod runtime;
mod socket;

pub use socket::{DatagramCounters, DatagramFaults};

use crate::disk::SimDisk;
use crate::env::SimEnv;
use crate::rng::{Rng, Stream};
use crate::world::{Handle, Shared};
use hadal_env::{Clock, Compute, Env, Random, Seam};
use hadal_quic::{Identity, QuicNet, TransportError, TransportOptions};
use hadal_types::Tick;
use runtime::SimRuntime;
use socket::{SimSocket, State};
use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

thread_local! {
    /// The networks of this thread's worlds. What quinn holds must be `Send`, a world is not: it holds an index.
    static HUBS: RefCell<Vec<Weak<Hub>>> = const { RefCell::new(Vec::new()) };
}

/// A world's network of datagrams.
pub(crate) struct Hub {
    index: usize,
    shared: Weak<Shared>,
    state: RefCell<State>,
}

impl Hub {
    /// The network, unless its world is gone.
    ///
    /// # Panics
    /// On another thread than the world's.
    pub(crate) fn find(index: usize) -> Option<(Rc<Self>, Rc<Shared>)> {
        let hub = HUBS.with(|hubs| {
            let hubs = hubs.borrow();
            let hub = hubs
                .get(index)
                .expect("a world's sockets stay on its thread");
            hub.upgrade()
        })?;
        let shared = hub.shared.upgrade()?;
        Some((hub, shared))
    }
}

/// A network of datagrams between the nodes of a world. Clones share it; sockets work as long as one lives.
#[derive(Clone)]
pub struct Datagrams(Rc<Hub>);

impl Datagrams {
    /// A network without faults.
    #[must_use]
    pub fn new(world: &Handle) -> Self {
        let rng = world.rng(Stream::Network, 0x5144);
        Self(HUBS.with(|hubs| {
            let mut hubs = hubs.borrow_mut();
            let hub = Rc::new(Hub {
                index: hubs.len(),
                shared: Rc::downgrade(&world.shared),
                state: RefCell::new(State::new(rng)),
            });
            hubs.push(Rc::downgrade(&hub));
            hub
        }))
    }

    /// A QUIC endpoint at `addr` for the present life of a node, and the environment with it. It takes the place of one
    /// that an earlier life had there.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn env(
        &self,
        env: &SimEnv,
        addr: SocketAddr,
        identity: &Identity,
        options: &TransportOptions,
        listen: bool,
    ) -> Result<QuicEnv, TransportError> {
        let seed = {
            let mut rng = Rng::fork(&mut self.0.state.borrow_mut().rng);
            let mut seed = [0; 32];
            for word in seed.chunks_exact_mut(8) {
                word.copy_from_slice(&rng.next_u64().to_le_bytes());
            }
            seed
        };
        let socket = SimSocket::bind(&self.0, env, addr);
        let runtime = Arc::new(SimRuntime::new(self.0.index, env));
        let net = QuicNet::on_socket(socket, runtime, identity, options, listen, Some(seed))?;
        Ok(QuicEnv {
            env: env.clone(),
            net,
        })
    }

    /// What happens to every datagram from now on.
    pub fn set_faults(&self, faults: DatagramFaults) {
        self.0.state.borrow_mut().faults = faults;
    }

    /// Largest payload that passes between any two machines from now on; larger ones vanish.
    pub fn set_mtu(&self, mtu: usize) {
        self.0.state.borrow_mut().mtu = mtu;
    }

    /// Nothing passes from `from` to `to` any more.
    pub fn cut_one_way(&self, from: IpAddr, to: IpAddr) {
        self.0.state.borrow_mut().cuts.insert((from, to));
    }

    /// Nothing passes between the two any more.
    pub fn cut(&self, a: IpAddr, b: IpAddr) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Everything passes again, up to the faults set.
    pub fn heal(&self) {
        self.0.state.borrow_mut().cuts.clear();
    }

    /// The socket bound to `bound` is seen at another address from now on (a NAT that forgot it, an interface that
    /// changed). What is sent to the old one vanishes.
    pub fn move_to(&self, bound: SocketAddr, seen: SocketAddr) {
        self.0.state.borrow_mut().moves.insert(bound, seen);
    }

    /// What happened to datagrams so far.
    #[must_use]
    pub fn counters(&self) -> DatagramCounters {
        self.0.state.borrow().counters
    }
}

/// The environment of a node whose network is QUIC over [`Datagrams`]; clock, randomness, tasks and disk are
/// [`SimEnv`]'s.
#[derive(Clone)]
pub struct QuicEnv {
    env: SimEnv,
    net: QuicNet,
}

impl QuicEnv {
    /// The environment underneath.
    #[must_use]
    pub fn sim(&self) -> &SimEnv {
        &self.env
    }
}

impl Clock for QuicEnv {
    fn now(&self) -> Tick {
        self.env.now()
    }

    fn wall_ms(&self) -> u64 {
        self.env.wall_ms()
    }

    fn sleep_until(&self, deadline: Tick) -> impl Future<Output = ()> {
        self.env.sleep_until(deadline)
    }
}

impl Random for QuicEnv {
    fn random_u64(&self) -> u64 {
        self.env.random_u64()
    }
}

impl Seam for QuicEnv {
    type Net = QuicNet;

    fn net(&self) -> &QuicNet {
        &self.net
    }

    fn happened(&self, what: &'static str) {
        self.env.happened(what);
    }
}

impl Compute for QuicEnv {}

impl Env for QuicEnv {
    type Disk = SimDisk;

    fn disk(&self) -> &SimDisk {
        self.env.disk()
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.env.spawn(name, task);
    }

    fn stop(&self, exit_code: i32, reason: &str) {
        self.env.stop(exit_code, reason);
    }

    fn queue_length(&self, queue: &'static str, length: usize, most: usize) {
        self.env.queue_length(queue, length, most);
    }
}
