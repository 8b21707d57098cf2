//! Sockets, and what becomes of a datagram between two of them.

use super::Hub;
use super::runtime::Life;
use crate::env::SimEnv;
use crate::rng::Rng;
use crate::trace::{Tag, hash_name};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Bytes that wait in a socket for its owner; what does not fit is lost.
const BUFFER_BYTES: usize = 8 << 20;
/// Datagrams one send may hold.
const SEGMENTS: usize = 8;

/// What happens to datagrams. Rates are per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramFaults {
    /// Lost.
    pub loss_ppm: u32,
    /// Arrive twice, each after a delay of its own.
    pub duplicate_ppm: u32,
    /// Shortest time on the way, in microseconds.
    pub delay_min_us: u64,
    /// Longest; what is drawn between the two also says who overtakes whom.
    pub delay_max_us: u64,
    /// Take ten times as long.
    pub late_ppm: u32,
}

impl Default for DatagramFaults {
    fn default() -> Self {
        Self {
            loss_ppm: 0,
            duplicate_ppm: 0,
            delay_min_us: 100,
            delay_max_us: 100,
            late_ppm: 0,
        }
    }
}

/// What became of datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DatagramCounters {
    /// Handed to the network.
    pub sent: u64,
    /// Put into a socket.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Arrived before one that was sent earlier on the same way.
    pub overtook: u64,
    /// Lost at a cut.
    pub cut: u64,
    /// Larger than the path carries.
    pub too_large: u64,
    /// For nobody, or for a full socket.
    pub undeliverable: u64,
}

struct Datagram {
    from: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
}

/// One bound socket.
struct Bound {
    id: u64,
    life: Life,
    inbox: VecDeque<Datagram>,
    bytes: usize,
    reader: Option<Waker>,
}

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) faults: DatagramFaults,
    pub(super) mtu: usize,
    pub(super) cuts: BTreeSet<(IpAddr, IpAddr)>,
    /// Bound address to the one that others see.
    pub(super) moves: BTreeMap<SocketAddr, SocketAddr>,
    pub(super) counters: DatagramCounters,
    sockets: BTreeMap<SocketAddr, Bound>,
    next_id: u64,
    /// Number of the newest datagram delivered, per way.
    newest: BTreeMap<(SocketAddr, SocketAddr), u64>,
}

impl State {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            rng,
            faults: DatagramFaults::default(),
            mtu: 9000 - 28,
            cuts: BTreeSet::new(),
            moves: BTreeMap::new(),
            counters: DatagramCounters::default(),
            sockets: BTreeMap::new(),
            next_id: 0,
            newest: BTreeMap::new(),
        }
    }

    fn seen(&self, bound: SocketAddr) -> SocketAddr {
        self.moves.get(&bound).copied().unwrap_or(bound)
    }

    /// Who is seen at an address.
    fn bound(&self, seen: SocketAddr) -> Option<SocketAddr> {
        let moved = self.moves.iter().find(|(_, now)| **now == seen);
        match moved {
            Some((bound, _)) => Some(*bound),
            None => (!self.moves.contains_key(&seen)).then_some(seen),
        }
    }

    /// How long the datagram and its copies are on their way.
    fn delays(&mut self, from: IpAddr, to: IpAddr, length: usize) -> Vec<Duration> {
        self.counters.sent += 1;
        if self.cuts.contains(&(from, to)) {
            self.counters.cut += 1;
            return Vec::new();
        }
        if length > self.mtu {
            self.counters.too_large += 1;
            return Vec::new();
        }
        let faults = self.faults;
        if self.rng.chance(u64::from(faults.loss_ppm), 1_000_000) {
            self.counters.lost += 1;
            return Vec::new();
        }
        let twice = self.rng.chance(u64::from(faults.duplicate_ppm), 1_000_000);
        self.counters.duplicated += u64::from(twice);
        (0..=u8::from(twice))
            .map(|_| {
                let us = self.rng.range(faults.delay_min_us, faults.delay_max_us);
                let late = self.rng.chance(u64::from(faults.late_ppm), 1_000_000);
                Duration::from_micros(if late { us * 10 } else { us })
            })
            .collect()
    }
}

/// A socket of a life of a node.
#[derive(Debug)]
pub(super) struct SimSocket {
    life: Life,
    id: u64,
    addr: SocketAddr,
}

impl SimSocket {
    pub(super) fn bind(hub: &Rc<Hub>, env: &SimEnv, addr: SocketAddr) -> Arc<Self> {
        let life = Life::new(hub.index, env);
        let mut state = hub.state.borrow_mut();
        state.next_id += 1;
        let id = state.next_id;
        state.sockets.insert(
            addr,
            Bound {
                id,
                life,
                inbox: VecDeque::new(),
                bytes: 0,
                reader: None,
            },
        );
        Arc::new(Self { life, id, addr })
    }
}

impl Hub {
    fn send(self: &Rc<Self>, from: SocketAddr, to: SocketAddr, datagram: &Datagram) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let world = crate::world::Handle { shared };
        let (number, delays) = {
            let mut state = self.state.borrow_mut();
            let delays = state.delays(from.ip(), to.ip(), datagram.contents.len());
            (state.counters.sent, delays)
        };
        for delay in delays {
            let hub = Rc::downgrade(self);
            let datagram = Datagram {
                contents: datagram.contents.clone(),
                ..*datagram
            };
            world.at(delay, move |world| {
                if let Some(hub) = hub.upgrade() {
                    hub.arrive(world, from, to, number, datagram);
                }
            });
        }
    }

    fn arrive(
        &self,
        world: &crate::world::Handle,
        sender: SocketAddr,
        to: SocketAddr,
        number: u64,
        datagram: Datagram,
    ) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let bound = state.bound(to);
        let socket = bound.and_then(|bound| state.sockets.get_mut(&bound));
        let fits = socket.filter(|socket| {
            let life = socket.life;
            let alive = world.shared.alive(life.node, life.incarnation);
            alive && socket.bytes + datagram.contents.len() <= BUFFER_BYTES
        });
        let Some(socket) = fits else {
            state.counters.undeliverable += 1;
            return;
        };
        state.counters.delivered += 1;
        let newest = state.newest.entry((sender, to)).or_default();
        state.counters.overtook += u64::from(number < *newest);
        *newest = (*newest).max(number);
        world.shared.note(
            Tag::Message,
            hash_name(to.to_string().as_bytes()),
            datagram.contents.len() as u64,
            || {
                format!(
                    "datagram {sender} to {to}, {} bytes",
                    datagram.contents.len()
                )
            },
        );
        socket.bytes += datagram.contents.len();
        socket.inbox.push_back(datagram);
        let reader = socket.reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some((hub, shared)) = Hub::find(self.life.hub) else {
            return Ok(());
        };
        // The dead do not speak.
        if !shared.alive(self.life.node, self.life.incarnation) {
            return Ok(());
        }
        let seen = hub.state.borrow().seen(self.addr);
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for contents in transmit.contents.chunks(size.max(1)) {
            let datagram = Datagram {
                from: seen,
                ecn: transmit.ecn,
                contents: contents.to_vec(),
            };
            hub.send(seen, transmit.destination, &datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some((hub, _)) = Hub::find(self.life.hub) else {
            return Poll::Pending;
        };
        let mut state = hub.state.borrow_mut();
        let socket = state.sockets.get_mut(&self.addr);
        let Some(socket) = socket.filter(|socket| socket.id == self.id) else {
            return Poll::Pending;
        };
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(datagram) = socket.inbox.pop_front() else {
                break;
            };
            let length = datagram.contents.len();
            socket.bytes -= length;
            buf[..length].copy_from_slice(&datagram.contents);
            *meta = RecvMeta {
                addr: datagram.from,
                len: length,
                stride: length,
                ecn: datagram.ecn,
                dst_ip: None,
            };
            count += 1;
        }
        if count == 0 {
            socket.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if let Some((hub, _)) = Hub::find(self.life.hub) {
            let mut state = hub.state.borrow_mut();
            if state
                .sockets
                .get(&self.addr)
                .is_some_and(|bound| bound.id == self.id)
            {
                state.sockets.remove(&self.addr);
            }
        }
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
