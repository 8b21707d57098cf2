//! The server: answers calls, reads append streams, and checks what arrives.

use super::{Ctx, Echo, certificates, endpoint, is_pattern, pattern, server_addr};
use crate::env::SimEnv;
use crate::quic::QuicEnv;
use crate::report::Promise;
use bytes::Bytes;
use hadal_env::{Clock, Conn, Env, Net, Random, Seam};
use hadal_proto::frame::{Ack, FrameKind};
use hadal_quic::{AppendReceiver, CallStream, Incoming, QuicConn, accept};

pub(super) async fn serve(ctx: Ctx, env: SimEnv) {
    let env = endpoint(&ctx, &env, server_addr(), &certificates().server, true);
    while let Some(conn) = env.net().accept().await {
        if conn.peer().name != "alice" {
            let detail = format!("{} was let in", conn.peer());
            ctx.handle.violate(Promise::P8, detail);
        }
        let (ctx, env) = (ctx.clone(), env.clone());
        env.clone().spawn("connection", async move {
            while let Ok(incoming) = accept(&conn).await {
                match incoming {
                    Incoming::Call(_, stream) => {
                        env.spawn("calls", calls(ctx.clone(), env.clone(), stream));
                    }
                    Incoming::Append(_, stream) => {
                        env.spawn("append", append(ctx.clone(), env.clone(), stream));
                    }
                    Incoming::Read(..) => unreachable!("nobody opens one"),
                }
            }
        });
    }
}

async fn pause(env: &QuicEnv, most_ms: u64) {
    let ms = env.random_u64() % (most_ms + 1);
    env.sleep_until(env.now().after_ms(ms)).await;
}

/// A request is `{id u64, length of the answer u32}` and padding; the answer `{id u64}` and bytes.
async fn calls(ctx: Ctx, env: QuicEnv, stream: CallStream<QuicConn>) {
    let (mut requests, answers) = stream.split::<Echo>();
    env.spawn("answers", answers);
    while let Some((request, responder)) = requests.next().await {
        let (ctx, now) = (ctx.clone(), env.clone());
        env.spawn("call", async move {
            let id = u64::from_le_bytes(request[..8].try_into().expect("an id"));
            let length = u32::from_le_bytes(request[8..12].try_into().expect("a length"));
            if !is_pattern(id, 12, &request[12..]) {
                let detail = format!("request {id:#x} arrived with other bytes");
                ctx.handle.violate(Promise::P5, detail);
            }
            *ctx.log.borrow_mut().executed.entry(id).or_default() += 1;
            pause(&now, 40).await;
            if ctx.is_planted("never-answer") && now.random_u64().is_multiple_of(50) {
                return std::future::pending().await;
            }
            if now.random_u64().is_multiple_of(16) {
                // Given up: the caller is told to try again.
                return drop(responder);
            }
            let id = id
                ^ u64::from(
                    ctx.is_planted("answer-another") && now.random_u64().is_multiple_of(50),
                );
            let answer = [
                Bytes::copy_from_slice(&id.to_le_bytes()),
                pattern(id, 8, length as usize),
            ];
            responder.answer(Ok(answer.concat().into()));
        });
    }
}

async fn append(ctx: Ctx, env: QuicEnv, stream: AppendReceiver<QuicConn>) {
    let header = stream.header_bytes();
    let id = u64::from_le_bytes(header[..8].try_into().expect("an id"));
    if ctx
        .log
        .borrow_mut()
        .streams
        .insert(id, Default::default())
        .is_some()
    {
        let detail = format!("stream {id:#x} was opened twice");
        ctx.handle.violate(Promise::P5, detail);
    }
    let (mut frames, mut acks) = stream.into_parts();
    while let Ok(Some(frame)) = frames.next().await {
        if ctx.is_planted("lose-frame") && env.random_u64().is_multiple_of(100) {
            continue;
        }
        let length: usize = frame.payload.iter().map(Bytes::len).sum();
        let end = {
            let mut log = ctx.log.borrow_mut();
            let received = log.streams.get_mut(&id).expect("inserted before");
            let good = frame.head.offset == received.bytes
                && !received.finished
                && is_pattern(id, received.bytes, &frame.payload.concat());
            if !good {
                let detail = format!(
                    "stream {id:#x}: frame {} of {length} bytes at {} where {} is due, or other bytes",
                    frame.head.sequence, frame.head.offset, received.bytes
                );
                ctx.handle.violate(Promise::P5, detail);
            }
            received.bytes += length as u64;
            received.finished = frame.head.kind == FrameKind::Finish;
            received.bytes
        };
        ctx.handle.count("bytes read back", length as u64);
        // A reader that is slow now and then: the sender feels it.
        if env.random_u64().is_multiple_of(8) {
            pause(&env, 200).await;
        }
        let ahead = u64::from(ctx.is_planted("ack-too-much"));
        let ack = Ack {
            sequence: frame.head.sequence,
            offset: end + ahead,
            fault: None,
            bad_node: u8::MAX,
            slow_nodes: 0,
        };
        if acks.send(&ack).await.is_err() {
            return;
        }
    }
    acks.finish();
}
