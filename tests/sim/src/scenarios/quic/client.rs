//! Clients: sessions of calls and an append stream, each operation held against its time-out.

use super::{
    CLIENTS, Ctx, Echo, FRAME, certificates, client_addr, endpoint, is_pattern, options, pattern,
    server_addr,
};
use crate::env::SimEnv;
use crate::quic::QuicEnv;
use crate::report::Promise;
use bytes::Bytes;
use futures_util::future::{Either, join, join_all, select};
use hadal_env::{Clock, Env, Expect, Net, NetError, NetErrorKind, Random, Seam};
use hadal_proto::ProtocolId;
use hadal_proto::frame::FrameKind;
use hadal_quic::{CallClient, CallError, QuicConn, open_append};
use hadal_types::Role;
use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

/// Nothing takes longer: the idle time-out, the longest wait of the server, and the time until a path's losses are made
/// good, several times over.
pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// A dial is over by its time-out.
const DIAL_SLACK_MS: u64 = 1;

/// The future's outcome; `None`, and a violation, when it takes longer than anything may.
async fn timed<T>(
    ctx: &Ctx,
    env: &QuicEnv,
    what: &str,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let deadline = env.now().after_ms(limit.as_millis() as u64);
    let late = pin!(env.sleep_until(deadline));
    match select(pin!(future), late).await {
        Either::Left((outcome, _)) => Some(outcome),
        Either::Right(_) => {
            let detail = format!("{what} is not over after {limit:?}");
            ctx.handle.violate(Promise::P7, detail);
            None
        }
    }
}

async fn dial(ctx: &Ctx, env: &QuicEnv, expect: &Expect) -> Result<QuicConn, NetError> {
    let limit = u64::from(options().handshake_timeout_ms) + DIAL_SLACK_MS;
    let attempt = env.net().connect(server_addr(), expect);
    match timed(ctx, env, "a dial", Duration::from_millis(limit), attempt).await {
        Some(outcome) => outcome,
        None => Err(NetError::new(NetErrorKind::Unreachable, "never")),
    }
}

/// Sessions until `until`, and then one that must get through.
pub(super) async fn work(ctx: Ctx, env: SimEnv, index: usize, until: Duration) {
    let client = &certificates().client;
    let env = endpoint(&ctx, &env, client_addr(index), client, false);
    // Ids of calls and streams differ between clients.
    let next = Cell::new((index as u64 + 1) << 40);
    let expect = Expect::node(Role::Datanode, "dn1");
    while ctx.handle.now() < until {
        if let Ok(conn) = dial(&ctx, &env, &expect).await {
            session(&ctx, &env, conn, &next).await;
        }
        env.sleep_until(env.now().after_ms(env.random_u64() % 1_500))
            .await;
    }
    // The faults are over; what they broke may take a time-out to be noticed.
    let through = async {
        loop {
            if let Ok(conn) = dial(&ctx, &env, &expect).await
                && session(&ctx, &env, conn, &next).await
            {
                return;
            }
            env.sleep_until(env.now().after_ms(100)).await;
        }
    };
    timed(&ctx, &env, "a session without faults", LIMIT, through).await;
}

/// Calls and a stream at once; whether all of it went well.
async fn session(ctx: &Ctx, env: &QuicEnv, conn: QuicConn, next: &Cell<u64>) -> bool {
    let (calls, stream) = join(calls(ctx, env, &conn, next), append(ctx, env, &conn, next)).await;
    calls && stream
}

fn id(next: &Cell<u64>) -> u64 {
    next.replace(next.get() + 1)
}

async fn calls(ctx: &Ctx, env: &QuicEnv, conn: &QuicConn, next: &Cell<u64>) -> bool {
    let opening = CallClient::<Echo>::open(conn);
    let opened = timed(ctx, env, "opening a call stream", LIMIT, opening).await;
    let Some(Ok((client, driver))) = opened else {
        return false;
    };
    env.spawn("call stream", async move {
        driver.await;
    });
    let one = async |id: u64| {
        let asked = 12 + (env.random_u64() % 2_000) as usize;
        let told = (env.random_u64() % 20_000) as u32;
        let request = [
            Bytes::copy_from_slice(&id.to_le_bytes()),
            Bytes::copy_from_slice(&told.to_le_bytes()),
            pattern(id, 12, asked - 12),
        ];
        let request = request.concat().into();
        match timed(ctx, env, "a call", LIMIT, client.call(&request)).await {
            Some(Ok(answer)) => {
                let good = answer.len() == 8 + told as usize
                    && answer[..8] == id.to_le_bytes()
                    && is_pattern(id, 8, &answer[8..]);
                let executed = ctx.log.borrow().executed.get(&id).copied();
                if !good || executed != Some(1) {
                    let detail = format!(
                        "call {id:#x} is answered with {} bytes for {told}, and ran {executed:?} times",
                        answer.len()
                    );
                    ctx.handle.violate(Promise::P1, detail);
                }
                ctx.handle.count("operations acknowledged", 1);
                true
            }
            Some(Err(error)) => {
                let executed = ctx.log.borrow().executed.get(&id).copied();
                let named = match &error {
                    CallError::Fault(_) => executed == Some(1),
                    CallError::Net(error) => !error.detail.is_empty() && executed < Some(2),
                    CallError::BadAnswer(_) => false,
                };
                if !named {
                    let detail = format!("call {id:#x} fails with {error}, ran {executed:?} times");
                    ctx.handle.violate(Promise::P1, detail);
                }
                ctx.handle.count("calls failed by name", 1);
                matches!(error, CallError::Fault(_))
            }
            None => false,
        }
    };
    for _ in 0..3 {
        let batch = (0..6).map(|_| one(id(next)));
        if !join_all(batch).await.into_iter().all(|good| good) {
            return false;
        }
    }
    true
}

async fn append(ctx: &Ctx, env: &QuicEnv, conn: &QuicConn, next: &Cell<u64>) -> bool {
    let id = id(next);
    let opening = open_append(conn, ProtocolId::Transfer, 1, &id);
    let opened = timed(ctx, env, "opening a stream", LIMIT, opening).await;
    let Some(Ok((mut sender, mut acks))) = opened else {
        return false;
    };
    let received = || {
        let log = ctx.log.borrow();
        let stream = log.streams.get(&id);
        stream.map_or((0, false), |stream| (stream.bytes, stream.finished))
    };
    let frames = 4 + env.random_u64() % 24;
    let sent = Cell::new(0u64);
    let sending = async {
        for number in 0..=frames {
            let (kind, length) = if number == frames {
                (FrameKind::Finish, 0)
            } else {
                (
                    FrameKind::Data,
                    1 + (env.random_u64() % FRAME as u64) as usize,
                )
            };
            let offset = sent.get();
            sent.set(offset + length as u64);
            let mut payload = [pattern(id, offset, length)];
            let sending = sender.send(kind, 0, offset, Bytes::new(), &mut payload);
            match timed(ctx, env, "a frame", LIMIT, sending).await {
                Some(Ok(_)) => {}
                _ => return false,
            }
            // What is beyond the window is still here; the reader holds a frame at most.
            let ahead = sent.get() - received().0;
            let window = u64::from(options().stream_window) + FRAME as u64;
            if ahead > window {
                let detail = format!("stream {id:#x} is {ahead} bytes ahead of its reader");
                ctx.handle.violate(Promise::P9, detail);
            }
        }
        sender.finish();
        true
    };
    let listening = async {
        let mut last = 0;
        loop {
            match timed(ctx, env, "an acknowledgement", LIMIT, acks.next()).await {
                Some(Ok(Some(ack))) => {
                    let (bytes, _) = received();
                    if ack.offset < last || ack.offset > bytes || ack.offset > sent.get() {
                        let detail = format!(
                            "stream {id:#x}: {} acknowledged after {last}, of {bytes} read and {} sent",
                            ack.offset,
                            sent.get()
                        );
                        ctx.handle.violate(Promise::P5, detail);
                    }
                    last = ack.offset;
                }
                Some(Ok(None)) => return Some(last),
                _ => return None,
            }
        }
    };
    let (all_sent, all_acked) = join(sending, listening).await;
    let whole = all_sent && all_acked.is_some();
    if whole && (all_acked, received()) != (Some(sent.get()), (sent.get(), true)) {
        let detail = format!(
            "stream {id:#x} ended well with {all_acked:?} acknowledged, {:?} read, {} sent",
            received(),
            sent.get()
        );
        ctx.handle.violate(Promise::P5, detail);
    }
    ctx.handle.count(
        if whole {
            "streams finished"
        } else {
            "streams ended early"
        },
        1,
    );
    whole
}

/// Dials with a certificate of another cluster, and dials for somebody else, as long as it goes.
pub(super) async fn knock(ctx: Ctx, env: SimEnv, addr: SocketAddr, until: Duration) {
    debug_assert_eq!(addr, client_addr(CLIENTS));
    let elsewhere = SocketAddr::new(addr.ip(), addr.port() + 1);
    let stranger = endpoint(&ctx, &env, addr, &certificates().stranger, false);
    let mistaken = endpoint(&ctx, &env, elsewhere, &certificates().client, false);
    let right = Expect::node(Role::Datanode, "dn1");
    let wrong = [
        Expect::node(Role::Datanode, "dn2"),
        Expect::role(Role::Namenode),
    ];
    while ctx.handle.now() < until {
        for (env, expect) in [
            (&stranger, &right),
            (&mistaken, &wrong[0]),
            (&mistaken, &wrong[1]),
        ] {
            match dial(&ctx, env, expect).await {
                Ok(_) => {
                    let detail = format!("a dial for {expect:?} got through");
                    ctx.handle.violate(Promise::P8, detail);
                }
                Err(error) if error.kind == NetErrorKind::Untrusted => {
                    ctx.handle.count("strangers refused", 1);
                }
                Err(_) => {}
            }
        }
        env.sleep_until(env.now().after_ms(1_000)).await;
    }
}
