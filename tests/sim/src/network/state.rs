//! Endpoints, connections and streams, and what happens to them.

use super::NetConfig;
use super::pipe::Pipe;
use crate::node::NodeId;
use crate::rng::{Rng, Stream as Salt};
use hadal_env::NetError;
use hadal_types::Principal;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::task::Waker;

/// Names one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnKey {
    index: u32,
    generation: u32,
}

/// A stream's number in its connection and life of that number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// What happens on the network at some time. `side` is 0 for the dialler, 1 for the other.
#[derive(Debug)]
pub(crate) enum NetEvent {
    /// Bytes sent by `side` arrive.
    Deliver {
        conn: ConnKey,
        stream: StreamKey,
        side: usize,
    },
    /// Flow-control credit for bytes sent by `side` arrives there.
    Credit {
        conn: ConnKey,
        stream: StreamKey,
        side: usize,
        bytes: usize,
    },
    /// The reader's wish to stop arrives at the sender `side`.
    Stop {
        conn: ConnKey,
        stream: StreamKey,
        side: usize,
        code: u64,
    },
    /// The other's word that the connection is over arrives at `side`.
    Close {
        conn: ConnKey,
        side: usize,
        error: NetError,
    },
    /// `side` has heard nothing since then.
    Idle {
        conn: ConnKey,
        side: usize,
        since: u64,
    },
    /// A reset of the connection arrives at `side`: the other's process does not know it.
    Unknown { conn: ConnKey, side: usize },
}

pub(super) struct Endpoint {
    pub(super) node: NodeId,
    pub(super) addr: SocketAddr,
    pub(super) accept: VecDeque<ConnKey>,
    pub(super) waiting: Vec<Waker>,
}

/// One end of a connection.
pub(super) struct Side {
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
    pub(super) endpoint: usize,
    pub(super) principal: Principal,
    pub(super) ended: Option<NetError>,
    /// No handle is left, or the process is gone.
    pub(super) gone: bool,
    pub(super) silent_since: Option<u64>,
    /// Streams it opened, oldest first, that the peer has not seen.
    pub(super) unannounced: VecDeque<StreamKey>,
    /// Streams the peer opened, to be accepted.
    pub(super) accept: VecDeque<StreamKey>,
    /// Streams it opened that are not over.
    pub(super) open_streams: usize,
    /// Tasks waiting to accept, to open, or for the end.
    pub(super) waiting: Vec<Waker>,
}

pub(super) struct StreamState {
    pub(super) opener: usize,
    /// What side 0 sends, what side 1 sends.
    pub(super) pipes: [Pipe; 2],
    /// Halves held or yet to be accepted, of four.
    pub(super) halves: u8,
}

pub(super) struct StreamSlot {
    pub(super) generation: u32,
    pub(super) stream: Option<StreamState>,
}

pub(super) struct ConnState {
    pub(super) sides: [Side; 2],
    pub(super) streams: Vec<StreamSlot>,
    free: Vec<u32>,
}

impl ConnState {
    pub(super) fn stream(&mut self, key: StreamKey) -> Option<&mut StreamState> {
        let slot = self.streams.get_mut(key.index as usize)?;
        if slot.generation == key.generation {
            slot.stream.as_mut()
        } else {
            None
        }
    }

    pub(super) fn add_stream(&mut self, opener: usize) -> StreamKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.streams.push(StreamSlot {
                generation: 0,
                stream: None,
            });
            (self.streams.len() - 1) as u32
        });
        let slot = &mut self.streams[index as usize];
        slot.stream = Some(StreamState {
            opener,
            pipes: [Pipe::default(), Pipe::default()],
            halves: 4,
        });
        let key = StreamKey {
            index,
            generation: slot.generation,
        };
        self.sides[opener].open_streams += 1;
        self.sides[opener].unannounced.push_back(key);
        key
    }

    /// One of the four halves is let go; true when the stream is over.
    pub(super) fn release_half(&mut self, key: StreamKey) -> bool {
        let Some(stream) = self.stream(key) else {
            return false;
        };
        stream.halves -= 1;
        // Waits until what was written is delivered, if its reader is still there.
        stream.halves == 0 && self.drop_stream(key)
    }

    fn drop_stream(&mut self, key: StreamKey) -> bool {
        let slot = &mut self.streams[key.index as usize];
        let Some(stream) = slot.stream.take() else {
            return false;
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        let opener = &mut self.sides[stream.opener];
        opener.open_streams -= 1;
        opener.unannounced.retain(|other| *other != key);
        self.sides[1 - stream.opener]
            .accept
            .retain(|other| *other != key);
        true
    }
}

struct ConnSlot {
    generation: u32,
    conn: Option<ConnState>,
}

/// State of the way from one node to another.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Link {
    pub(super) cut: bool,
    pub(super) extra_ns: u64,
    pub(super) loss_ppm: u32,
}

/// How often what happened on the network.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct NetCounters {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) connections: u64,
    pub(super) refused: u64,
    pub(super) lost: u64,
    pub(super) cuts: u64,
    pub(super) stalls: u64,
}

/// The whole network.
pub(crate) struct NetState {
    pub(super) config: NetConfig,
    pub(super) rng: Rng,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) by_addr: BTreeMap<SocketAddr, usize>,
    conns: Vec<ConnSlot>,
    free: Vec<u32>,
    links: Vec<Vec<Link>>,
    pub(super) counters: NetCounters,
    /// Nodes whose certificates are refused.
    pub(super) distrusted: Vec<NodeId>,
    /// Dials to a node that will fail, still to come.
    pub(super) refusals: BTreeMap<NodeId, u32>,
}

impl NetState {
    pub(crate) fn new(seed: u64, config: NetConfig) -> Self {
        Self {
            config,
            rng: Rng::new(seed, Salt::Network, 0),
            endpoints: Vec::new(),
            by_addr: BTreeMap::new(),
            conns: Vec::new(),
            free: Vec::new(),
            links: Vec::new(),
            counters: NetCounters::default(),
            distrusted: Vec::new(),
            refusals: BTreeMap::new(),
        }
    }

    pub(crate) fn add_endpoints(&mut self, node: NodeId, addrs: &[SocketAddr]) -> Vec<usize> {
        let size = node.index() + 1;
        self.links.resize_with(size.max(self.links.len()), Vec::new);
        for row in &mut self.links {
            row.resize(size.max(row.len()), Link::default());
        }
        addrs
            .iter()
            .map(|addr| {
                let index = self.endpoints.len();
                let old = self.by_addr.insert(*addr, index);
                assert!(old.is_none(), "two endpoints at {addr}");
                self.endpoints.push(Endpoint {
                    node,
                    addr: *addr,
                    accept: VecDeque::new(),
                    waiting: Vec::new(),
                });
                index
            })
            .collect()
    }

    pub(super) fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        &mut self.links[from.index()][to.index()]
    }

    pub(super) fn all_links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut().flatten()
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.links[from.index()][to.index()].cut
    }

    /// How long `bytes` take from one node to another.
    pub(super) fn delay(&mut self, from: NodeId, to: NodeId, bytes: usize) -> u64 {
        let link = self.links[from.index()][to.index()];
        let config = &self.config;
        let (low, high) = if from == to {
            config.local_us
        } else {
            config.latency_us
        };
        let mut delay = self.rng.range(low * 1000, high * 1000)
            + bytes as u64 * 1000 / config.bytes_per_us.max(1);
        let draw = self.rng.next_u64();
        if config.hiccup_one_in > 0 && draw.is_multiple_of(config.hiccup_one_in) {
            delay += self.rng.range(2_000_000, 30_000_000);
        }
        if link.loss_ppm > 0 && self.rng.chance(u64::from(link.loss_ppm), 1_000_000) {
            delay += self.rng.range(20_000_000, 300_000_000);
        }
        delay + link.extra_ns
    }

    /// The pipe of a stream from one side.
    pub(super) fn pipe(
        &mut self,
        conn: ConnKey,
        stream: StreamKey,
        side: usize,
    ) -> Option<&mut Pipe> {
        let stream = self.conn(conn)?.stream(stream)?;
        Some(&mut stream.pipes[side])
    }

    pub(super) fn conn(&mut self, key: ConnKey) -> Option<&mut ConnState> {
        let slot = &mut self.conns[key.index as usize];
        if slot.generation == key.generation {
            slot.conn.as_mut()
        } else {
            None
        }
    }

    pub(super) fn add_conn(&mut self, dialler: Side, listener: Side) -> ConnKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(ConnSlot {
                generation: 0,
                conn: None,
            });
            (self.conns.len() - 1) as u32
        });
        let slot = &mut self.conns[index as usize];
        slot.conn = Some(ConnState {
            sides: [dialler, listener],
            streams: Vec::new(),
            free: Vec::new(),
        });
        self.counters.connections += 1;
        ConnKey {
            index,
            generation: slot.generation,
        }
    }

    /// Forgets the connection once neither side holds it.
    pub(super) fn forget_if_gone(&mut self, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        if conn.sides.iter().all(|side| side.gone) {
            let slot = &mut self.conns[key.index as usize];
            slot.generation = slot.generation.wrapping_add(1);
            slot.conn = None;
            self.free.push(key.index);
        }
    }

    /// Connections between two nodes.
    pub(super) fn between(&mut self, a: NodeId, b: NodeId) -> Vec<ConnKey> {
        let mut keys = self.keys();
        keys.retain(|key| {
            let ends = self
                .conn(*key)
                .map(|conn| (conn.sides[0].node, conn.sides[1].node));
            ends == Some((a, b)) || ends == Some((b, a))
        });
        keys
    }

    pub(super) fn keys(&self) -> Vec<ConnKey> {
        let slots = self
            .conns
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.conn.is_some());
        slots
            .map(|(index, slot)| ConnKey {
                index: index as u32,
                generation: slot.generation,
            })
            .collect()
    }
}

impl Side {
    pub(super) fn new(
        node: NodeId,
        incarnation: u32,
        endpoint: usize,
        principal: Principal,
    ) -> Self {
        Self {
            node,
            incarnation,
            endpoint,
            principal,
            ended: None,
            gone: false,
            silent_since: None,
            unannounced: VecDeque::new(),
            accept: VecDeque::new(),
            open_streams: 0,
            waiting: Vec::new(),
        }
    }
}
