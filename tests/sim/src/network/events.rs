//! What happens on the network: deliveries, credit, ends of connections, silence.

use super::pipe::Item;
use super::state::{ConnKey, NetEvent, NetState, StreamKey};
use crate::node::{NodeId, Status};
use crate::trace::Tag;
use crate::world::{Fire, Shared};
use hadal_env::{NetError, NetErrorKind};
use std::task::Waker;

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
    let Some(pipe) = net.pipe(conn, stream, side) else {
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
            let Some(pipe) = net.pipe(conn, stream, side) else {
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
            let Some(pipe) = net.pipe(conn, stream, side) else {
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
