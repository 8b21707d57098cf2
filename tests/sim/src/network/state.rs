//! Endpoints, connections and streams, and what happens to them.

use super::NetConfig;
use super::pipe::{Item, Pipe};
use crate::node::{NodeId, Status};
use crate::rng::{Rng, Stream as Salt};
use crate::trace::Tag;
use crate::world::{Fire, Shared};
use hadal_env::{NetError, NetErrorKind};
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
    silent_since: Option<u64>,
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

struct StreamSlot {
    generation: u32,
    stream: Option<StreamState>,
}

pub(super) struct ConnState {
    pub(super) sides: [Side; 2],
    streams: Vec<StreamSlot>,
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

    fn keys(&self) -> Vec<ConnKey> {
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

/// Wakes all and leaves none behind.
pub(super) fn wake_all(wakers: &mut Vec<Waker>) {
    for waker in wakers.drain(..) {
        waker.wake();
    }
}

/// Registers a task once in a list of waiting ones.
pub(super) fn wait_in(list: &mut Vec<Waker>, waker: &Waker) {
    if !list.iter().any(|other| other.will_wake(waker)) {
        list.push(waker.clone());
    }
}

/// Puts an item on its way. Items of a pipe arrive in order.
pub(super) fn send(
    shared: &Shared,
    net: &mut NetState,
    conn: ConnKey,
    stream: StreamKey,
    side: usize,
    item: Item,
) {
    let now = shared.now.get();
    let Some(state) = net.conn(conn) else { return };
    let (from, to) = (state.sides[side].node, state.sides[1 - side].node);
    let delay = net.delay(from, to, item.len());
    net.counters.messages += 1;
    net.counters.bytes += item.len() as u64;
    let Some(pipe) = net
        .conn(conn)
        .and_then(|conn| conn.stream(stream))
        .map(|stream| &mut stream.pipes[side])
    else {
        return;
    };
    if let Some(at) = pipe.push(now + delay, item) {
        shared.arm(at, Fire::Net(NetEvent::Deliver { conn, stream, side }));
    }
}

/// Something happens.
pub(crate) fn happen(shared: &Shared, event: NetEvent) {
    let mut net = shared.net.borrow_mut();
    match event {
        NetEvent::Deliver { conn, stream, side } => deliver(shared, &mut net, conn, stream, side),
        NetEvent::Credit {
            conn,
            stream,
            side,
            bytes,
        } => {
            let Some(state) = net.conn(conn) else { return };
            let (from, to) = (state.sides[1 - side].node, state.sides[side].node);
            let cut = net.is_cut(from, to);
            let Some(pipe) = net
                .conn(conn)
                .and_then(|conn| conn.stream(stream))
                .map(|stream| &mut stream.pipes[side])
            else {
                return;
            };
            if cut {
                pipe.held_credit += bytes;
            } else {
                pipe.credit(bytes);
            }
        }
        NetEvent::Stop {
            conn,
            stream,
            side,
            code,
        } => {
            let Some(pipe) = net
                .conn(conn)
                .and_then(|conn| conn.stream(stream))
                .map(|stream| &mut stream.pipes[side])
            else {
                return;
            };
            pipe.stopped.get_or_insert(code);
            pipe.wake_writer();
        }
        NetEvent::Close { conn, side, error } => {
            let Some(state) = net.conn(conn) else { return };
            let (from, to) = (state.sides[1 - side].node, state.sides[side].node);
            // A lost last word is not repeated: the idle time-out finds out.
            if !net.is_cut(from, to) {
                end_side(shared, &mut net, conn, side, error);
            }
        }
        NetEvent::Idle { conn, side, since } => {
            let Some(state) = net.conn(conn) else { return };
            if state.sides[side].silent_since == Some(since) {
                lose(shared, &mut net, conn, side, "idle time-out");
            }
        }
        NetEvent::Unknown { conn, side } => {
            let Some(state) = net.conn(conn) else { return };
            let (from, to) = (state.sides[1 - side].node, state.sides[side].node);
            if !net.is_cut(from, to) {
                lose(shared, &mut net, conn, side, "reset by the peer's host");
            }
        }
    }
}

fn lose(shared: &Shared, net: &mut NetState, conn: ConnKey, side: usize, why: &str) {
    let Some(state) = net.conn(conn) else { return };
    if state.sides[side].ended.is_none() {
        let detail = format!("{}: {why}", state.sides[1 - side].principal);
        net.counters.lost += 1;
        end_side(
            shared,
            net,
            conn,
            side,
            NetError::new(NetErrorKind::Lost, detail),
        );
    }
}

fn deliver(shared: &Shared, net: &mut NetState, conn: ConnKey, stream: StreamKey, side: usize) {
    let now = shared.now.get();
    let Some(state) = net.conn(conn) else { return };
    let (from, to) = (state.sides[side].node, state.sides[1 - side].node);
    let receiver_ended = state.sides[1 - side].ended.is_some();
    let cut = net.is_cut(from, to);
    let Some(state) = net.conn(conn) else { return };
    let Some(pipe) = state.stream(stream).map(|stream| &mut stream.pipes[side]) else {
        return;
    };
    pipe.scheduled = false;
    if receiver_ended {
        return;
    }
    if cut {
        pipe.stalled = true;
        net.counters.stalls += 1;
        return;
    }
    let (bytes, next) = pipe.arrive(now);
    pipe.wake_reader();
    if let Some(next) = next {
        shared.arm(next, Fire::Net(NetEvent::Deliver { conn, stream, side }));
    }
    shared.note(
        Tag::Message,
        u64::from(from.0) << 32 | u64::from(to.0),
        (u64::from(stream.index) << 32) ^ bytes as u64,
        || {
            format!(
                "{from:?} to {to:?}: {bytes} bytes on stream {}",
                stream.index
            )
        },
    );
    // A stream is seen with its first frame, and with it all its opener opened before.
    if state
        .stream(stream)
        .is_some_and(|stream| stream.opener == side)
        && state.sides[side].unannounced.contains(&stream)
    {
        while let Some(seen) = state.sides[side].unannounced.pop_front() {
            state.sides[1 - side].accept.push_back(seen);
            if seen == stream {
                break;
            }
        }
        wake_all(&mut state.sides[1 - side].waiting);
    }
}

/// One side's connection is over.
pub(super) fn end_side(
    shared: &Shared,
    net: &mut NetState,
    key: ConnKey,
    side: usize,
    error: NetError,
) {
    let Some(conn) = net.conn(key) else { return };
    if conn.sides[side].ended.is_some() {
        return;
    }
    conn.sides[side].ended = Some(error);
    wake_all(&mut conn.sides[side].waiting);
    for slot in &mut conn.streams {
        if let Some(stream) = &mut slot.stream {
            stream.pipes[side].wake_writer();
            stream.pipes[1 - side].wake_reader();
        }
    }
    listen(shared, net, key);
}

/// This side says the connection is over, and tells the other.
pub(super) fn close(shared: &Shared, net: &mut NetState, key: ConnKey, side: usize, words: &str) {
    let Some(conn) = net.conn(key) else { return };
    if conn.sides[side].ended.is_some() {
        return;
    }
    let (from, to) = (conn.sides[side].node, conn.sides[1 - side].node);
    let (here, there) = (
        conn.sides[side].principal.clone(),
        conn.sides[1 - side].principal.clone(),
    );
    let delay = net.delay(from, to, 0);
    end_side(
        shared,
        net,
        key,
        side,
        NetError::new(
            NetErrorKind::Closed,
            format!("{there}: closed by this side: {words}"),
        ),
    );
    let error = NetError::new(
        NetErrorKind::Closed,
        format!("{here}: closed by the peer: {words}"),
    );
    shared.arm_in(
        delay,
        Fire::Net(NetEvent::Close {
            conn: key,
            side: 1 - side,
            error,
        }),
    );
}

/// Sees for both sides of a connection whether they hear their peer, and starts or stops the idle time-out.
fn listen(shared: &Shared, net: &mut NetState, key: ConnKey) {
    let now = shared.now.get();
    let idle = net.config.idle_timeout_ms * 1_000_000;
    for side in 0..2 {
        let Some(conn) = net.conn(key) else { return };
        let (me, peer) = (&conn.sides[side], &conn.sides[1 - side]);
        if me.ended.is_some() {
            continue;
        }
        let (to, from, incarnation, peer_ended) =
            (me.node, peer.node, peer.incarnation, peer.ended.is_some());
        let speaks = !peer_ended && {
            let nodes = shared.nodes.borrow();
            let peer = &nodes[from.index()];
            peer.incarnation == incarnation && peer.status == Status::Up
        };
        let hears = speaks && !net.is_cut(from, to);
        let Some(conn) = net.conn(key) else { return };
        let me = &mut conn.sides[side];
        if hears {
            me.silent_since = None;
        } else if me.silent_since.is_none() {
            me.silent_since = Some(now);
            shared.arm(
                now + idle,
                Fire::Net(NetEvent::Idle {
                    conn: key,
                    side,
                    since: now,
                }),
            );
        }
    }
}

/// Links or nodes changed: who hears whom?
pub(crate) fn hearing_changed(shared: &Shared) {
    let mut net = shared.net.borrow_mut();
    for key in net.keys() {
        listen(shared, &mut net, key);
    }
}

/// Links were mended: what waited is sent again.
pub(super) fn mended(shared: &Shared) {
    {
        let mut net = shared.net.borrow_mut();
        for key in net.keys() {
            let mut again = Vec::new();
            for side in 0..2 {
                let Some(conn) = net.conn(key) else { continue };
                let (from, to) = (conn.sides[side].node, conn.sides[1 - side].node);
                let (cut, back_cut) = (net.is_cut(from, to), net.is_cut(to, from));
                let Some(conn) = net.conn(key) else { continue };
                for (index, slot) in conn.streams.iter_mut().enumerate() {
                    let Some(stream) = &mut slot.stream else {
                        continue;
                    };
                    let pipe = &mut stream.pipes[side];
                    if !back_cut && pipe.held_credit > 0 {
                        let held = std::mem::take(&mut pipe.held_credit);
                        pipe.credit(held);
                    }
                    if pipe.stalled && !cut {
                        pipe.stalled = false;
                        pipe.scheduled = true;
                        again.push((
                            StreamKey {
                                index: index as u32,
                                generation: slot.generation,
                            },
                            side,
                        ));
                    }
                }
            }
            for (stream, side) in again {
                let wait = net.rng.range(1_000_000, 300_000_000);
                shared.arm_in(
                    wait,
                    Fire::Net(NetEvent::Deliver {
                        conn: key,
                        stream,
                        side,
                    }),
                );
            }
        }
    }
    hearing_changed(shared);
}

/// A process is gone. Its peers learn of it at once (their packets are answered by its host) or when
/// they have heard nothing for the idle time-out, by seed.
pub(crate) fn node_ended(shared: &Shared, node: NodeId) {
    {
        let mut net = shared.net.borrow_mut();
        for endpoint in &mut net.endpoints {
            if endpoint.node == node {
                endpoint.accept.clear();
                endpoint.waiting.clear();
            }
        }
        let at_once = net.rng.chance(1, 2);
        for key in net.keys() {
            for side in 0..2 {
                let Some(conn) = net.conn(key) else { continue };
                if conn.sides[side].node != node || conn.sides[side].gone {
                    continue;
                }
                conn.sides[side].gone = true;
                conn.sides[side].ended.get_or_insert_with(|| {
                    NetError::new(NetErrorKind::Closed, "the process ended")
                });
                conn.sides[side].waiting.clear();
                if at_once {
                    let delay = net.rng.range(100_000, 5_000_000);
                    shared.arm_in(
                        delay,
                        Fire::Net(NetEvent::Unknown {
                            conn: key,
                            side: 1 - side,
                        }),
                    );
                }
            }
            net.forget_if_gone(key);
        }
    }
    hearing_changed(shared);
}

/// A process started anew: it answers packets of connections it does not know with resets.
pub(crate) fn node_started(shared: &Shared, node: NodeId) {
    let mut net = shared.net.borrow_mut();
    for key in net.keys() {
        for side in 0..2 {
            let Some(conn) = net.conn(key) else { continue };
            if conn.sides[1 - side].node == node
                && conn.sides[1 - side].gone
                && conn.sides[side].ended.is_none()
            {
                let delay = net.rng.range(1_000_000, 1_000_000_000);
                shared.arm_in(delay, Fire::Net(NetEvent::Unknown { conn: key, side }));
            }
        }
    }
}
