//! Append and read streams.

use crate::common::{pair, pair_with, patient};
use crate::memory::MemoryConn;
use bytes::Bytes;
use futures_util::FutureExt;
use hadal_env::{Conn, NetErrorKind, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{
    APPEND_AUX_CAP, Ack, AppendFrame, FLAG_HSYNC, FrameKind, Prelude, StreamKind,
};
use hadal_proto::{DecodeError, Fault, FaultClass, ProtocolId};
use hadal_quic::{
    AppendReceiver, CallError, Incoming, ReadResponder, StreamError, TransportOptions, accept,
    code, open_append, open_read,
};
use hadal_types::Role;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const PROTOCOL: ProtocolId = ProtocolId::Transfer;

async fn append_stream<C: Conn>(conn: &C) -> AppendReceiver<C> {
    match accept(conn).await.unwrap() {
        Incoming::Append(PROTOCOL, stream) => stream,
        other => panic!("expected an append stream of {:?}", other.protocol()),
    }
}

async fn read_stream<C: Conn>(conn: &C) -> ReadResponder<C> {
    match accept(conn).await.unwrap() {
        Incoming::Read(PROTOCOL, stream) => stream,
        other => panic!("expected a read stream of {:?}", other.protocol()),
    }
}

fn ack(sequence: u64, offset: u64) -> Ack {
    Ack {
        sequence,
        offset,
        fault: None,
        bad_node: u8::MAX,
        slow_nodes: 0,
    }
}

fn pattern(seed: u64, length: usize) -> Bytes {
    (0..length as u64)
        .map(|i| (i.wrapping_mul(31) ^ seed.wrapping_mul(17)) as u8)
        .collect::<Vec<_>>()
        .into()
}

#[tokio::test]
async fn frames_arrive_in_order_and_are_acknowledged() {
    let pair = pair().await;
    let frames = 40u64;
    let length = 100_000;
    let sending = async {
        let (mut sender, mut acks) = open_append(&pair.dialler, PROTOCOL, 1, &42u64)
            .await
            .unwrap();
        for n in 0..frames {
            let mut payload = [pattern(n, length / 2), pattern(n + 1, length / 2)];
            let sequence = sender
                .send(
                    FrameKind::Data,
                    FLAG_HSYNC,
                    n * length as u64,
                    Bytes::from_static(b"checksums"),
                    &mut payload,
                )
                .await
                .unwrap();
            assert_eq!(sequence, n);
            assert!(payload.iter().all(Bytes::is_empty));
        }
        sender
            .send(
                FrameKind::Finish,
                0,
                frames * length as u64,
                Bytes::new(),
                &mut [],
            )
            .await
            .unwrap();
        sender.finish();
        assert_eq!(sender.payload_bytes(), frames * length as u64);
        assert_eq!(sender.payload_bytes_copied(), 0);
        let mut last = None;
        while let Some(ack) = acks.next().await.unwrap() {
            last = Some(ack);
        }
        last.unwrap()
    };
    let receiving = async {
        let stream = append_stream(&pair.listener).await;
        assert_eq!(stream.version(), 1);
        assert_eq!(stream.header_bytes(), 42u64.to_le_bytes()[..]);
        let (mut incoming, mut acks) = stream.into_parts();
        for n in 0..frames {
            let frame = incoming.next().await.unwrap().unwrap();
            assert_eq!(frame.head.kind, FrameKind::Data);
            assert_eq!(frame.head.flags, FLAG_HSYNC);
            assert_eq!(
                (frame.head.sequence, frame.head.offset),
                (n, n * length as u64)
            );
            assert_eq!(frame.aux, &b"checksums"[..]);
            let want = [pattern(n, length / 2), pattern(n + 1, length / 2)].concat();
            assert_eq!(frame.payload.concat(), want);
            acks.send(&ack(n, frame.head.offset + length as u64))
                .await
                .unwrap();
        }
        let end = incoming.next().await.unwrap().unwrap();
        assert_eq!(end.head.kind, FrameKind::Finish);
        assert!(incoming.next().await.unwrap().is_none());
        acks.finish();
        assert_eq!(incoming.payload_bytes_copied(), 0);
    };
    let (last, ()) = futures_util::join!(sending, receiving);
    assert_eq!(last, ack(frames - 1, frames * length as u64));
}

/// Between a sender and the next hop's receiver, a relay between them: the same memory.
#[tokio::test]
async fn payload_pieces_are_forwarded_without_a_copy() {
    let (first, relay_in) = MemoryConn::pair();
    let (relay_out, last) = MemoryConn::pair();
    let (mut sender, _acks) = open_append(&first, PROTOCOL, 1, &1u64).await.unwrap();
    let payload = [pattern(1, 1000), pattern(2, 3000)];
    sender
        .send(FrameKind::Data, 0, 0, Bytes::new(), &mut payload.clone())
        .await
        .unwrap();
    let (mut incoming, _) = append_stream(&relay_in).await.into_parts();
    let (mut onward, _acks) = open_append(&relay_out, PROTOCOL, 1, &1u64).await.unwrap();
    let mut frame = incoming.next().await.unwrap().unwrap();
    onward
        .send(
            frame.head.kind,
            frame.head.flags,
            frame.head.offset,
            frame.aux,
            &mut frame.payload,
        )
        .await
        .unwrap();
    let (mut arriving, _) = append_stream(&last).await.into_parts();
    let frame = arriving.next().await.unwrap().unwrap();
    assert_eq!(frame.payload.len(), payload.len());
    for (sent, arrived) in payload.iter().zip(&frame.payload) {
        assert_eq!(sent.as_ptr(), arrived.as_ptr());
        assert_eq!(sent.len(), arrived.len());
    }
}

/// What came in datagrams of 1 452 bytes goes on in few pieces: the transport goes along all of them for every datagram.
#[tokio::test]
async fn pieces_of_small_datagrams_are_joined_before_they_go_on() {
    let options = TransportOptions {
        mtu: Some(1452),
        ..patient()
    };
    let pair = pair_with(Role::Datanode, &options).await;
    let (relay_out, last) = MemoryConn::pair();
    let length = 1_000_001;
    let payload = pattern(7, length);
    let sending = async {
        let (mut sender, acks) = open_append(&pair.dialler, PROTOCOL, 1, &1u64)
            .await
            .unwrap();
        let mut whole = [payload.clone()];
        sender
            .send(FrameKind::Data, 0, 0, Bytes::new(), &mut whole)
            .await
            .unwrap();
        assert_eq!(sender.payload_bytes_copied(), 0);
        (sender, acks)
    };
    let relaying = async {
        let (mut incoming, _) = append_stream(&pair.listener).await.into_parts();
        let mut frame = incoming.next().await.unwrap().unwrap();
        assert!(frame.payload.len() > length / 1452);
        let (mut onward, _acks) = open_append(&relay_out, PROTOCOL, 1, &1u64).await.unwrap();
        onward
            .send(FrameKind::Data, 0, 0, frame.aux, &mut frame.payload)
            .await
            .unwrap();
        assert!(frame.payload.iter().all(Bytes::is_empty));
        assert_eq!(onward.payload_bytes_copied(), length as u64);
        onward
    };
    let (_kept, _onward) = futures_util::join!(sending, relaying);
    let (mut arriving, _) = append_stream(&last).await.into_parts();
    let frame = arriving.next().await.unwrap().unwrap();
    assert_eq!(frame.payload.len(), length.div_ceil(64 << 10));
    assert_eq!(frame.payload.concat(), payload);
}

/// The sender is never further ahead of the reader than the windows allow.
#[tokio::test]
async fn a_slow_reader_stalls_the_sender() {
    let options = TransportOptions {
        stream_window: 64 << 10,
        connection_window: 128 << 10,
        ..patient()
    };
    let pair = pair_with(Role::Datanode, &options).await;
    let (frame_length, frames) = (16 << 10, 512u64);
    let sent = Arc::new(AtomicU64::new(0));
    let sending = {
        let (sent, conn) = (Arc::clone(&sent), pair.dialler.clone());
        tokio::spawn(async move {
            let (mut sender, _acks) = open_append(&conn, PROTOCOL, 1, &0u64).await.unwrap();
            for n in 0..frames {
                let mut payload = [pattern(n, frame_length)];
                sender
                    .send(FrameKind::Data, 0, 0, Bytes::new(), &mut payload)
                    .await
                    .unwrap();
                sent.fetch_add(frame_length as u64, Ordering::Relaxed);
            }
            sender.finish();
        })
    };
    let (mut incoming, _acks) = append_stream(&pair.listener).await.into_parts();
    let mut read = 0;
    let mut largest_lead = 0;
    loop {
        // Leaves the sender every chance to run ahead.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let lead = sent.load(Ordering::Relaxed) - read;
        largest_lead = largest_lead.max(lead);
        match incoming.next().await.unwrap() {
            Some(frame) => read += u64::from(frame.head.payload_length),
            None => break,
        }
    }
    sending.await.unwrap();
    assert_eq!(read, frames * frame_length as u64);
    // What the reader took but did not hand out, what it may be sent, what the sender may hold.
    let bound = (64 << 10) + u64::from(options.stream_window + options.connection_window);
    assert!(
        largest_lead <= bound,
        "the sender was {largest_lead} bytes ahead, the windows allow {bound}"
    );
}

#[tokio::test]
async fn a_refused_append_stream_tells_why() {
    let pair = pair().await;
    let (mut sender, mut acks) = open_append(&pair.dialler, PROTOCOL, 1, &0u64)
        .await
        .unwrap();
    append_stream(&pair.listener)
        .await
        .refuse(FaultClass::DiskFailed);
    let reset = NetErrorKind::Reset(code::of(FaultClass::DiskFailed));
    assert_eq!(acks.next().await.unwrap_err().kind, reset);
    let refused = loop {
        let mut payload = [pattern(1, 10_000)];
        let sent = sender.send(FrameKind::Data, 0, 0, Bytes::new(), &mut payload);
        if let Err(error) = sent.await {
            break error;
        }
    };
    assert_eq!(refused.kind, reset);
}

#[tokio::test]
async fn a_fault_arrives_on_the_acks_before_the_stop() {
    let pair = pair().await;
    let (mut sender, mut acks) = open_append(&pair.dialler, PROTOCOL, 1, &0u64)
        .await
        .unwrap();
    let failed = Ack {
        fault: Some(Fault::new(FaultClass::Fenced, "epoch 7 was promised").with_value(7)),
        ..ack(0, 0)
    };
    let receiving = async {
        let (mut incoming, mut acks) = append_stream(&pair.listener).await.into_parts();
        incoming.next().await.unwrap().unwrap();
        acks.send(&failed).await.unwrap();
        acks.finish();
        incoming.stop(code::of(FaultClass::Fenced));
        // Its halves must stand until the sender has seen the stop.
        pair.listener.closed().await;
    };
    let sending = async {
        let refused = loop {
            let mut payload = [pattern(1, 10_000)];
            let sent = sender.send(FrameKind::Data, 0, 0, Bytes::new(), &mut payload);
            if let Err(error) = sent.await {
                break error;
            }
        };
        assert_eq!(
            refused.kind,
            NetErrorKind::Reset(code::of(FaultClass::Fenced))
        );
        assert_eq!(acks.next().await.unwrap(), Some(failed.clone()));
        assert_eq!(acks.next().await.unwrap(), None);
        pair.dialler.close(0, "done");
    };
    futures_util::join!(sending, receiving);
}

#[tokio::test]
async fn a_dropped_sender_is_told_from_a_finished_one() {
    let pair = pair().await;
    let (sender, _acks) = open_append(&pair.dialler, PROTOCOL, 1, &0u64)
        .await
        .unwrap();
    let (mut incoming, _) = append_stream(&pair.listener).await.into_parts();
    drop(sender);
    let StreamError::Net(error) = incoming.next().await.unwrap_err() else {
        panic!("a reset stream must not look like an end")
    };
    assert_eq!(error.kind, NetErrorKind::Reset(code::DROPPED));
}

/// Raw bytes behind a valid prelude and header.
async fn raw_frames(bytes: Vec<u8>) -> Result<Option<hadal_quic::Frame>, StreamError> {
    let (dialler, listener) = MemoryConn::pair();
    let (mut send, _recv) = dialler.open().await.unwrap();
    let mut first = Vec::new();
    Prelude {
        kind: StreamKind::Append,
        protocol: PROTOCOL,
        version: 1,
    }
    .encode(&mut first);
    0u32.encode(&mut first);
    send.write_chunk(Bytes::from(first)).await.unwrap();
    send.write_chunk(Bytes::from(bytes)).await.unwrap();
    send.finish();
    let (mut incoming, _) = append_stream(&listener).await.into_parts();
    incoming.next().await
}

fn encoded(mut frame: AppendFrame, aux: &[u8]) -> Vec<u8> {
    frame.crc = 0;
    let mut out = Vec::new();
    frame.encode(&mut out);
    frame.crc = crc32c::crc32c_append(crc32c::crc32c(&out), aux);
    out.clear();
    frame.encode(&mut out);
    out.extend_from_slice(aux);
    out
}

#[tokio::test]
async fn frames_that_are_wrong_are_refused_each_by_its_reason() {
    let good = AppendFrame {
        kind: FrameKind::Data,
        flags: 0,
        aux_length: 3,
        payload_length: 0,
        crc: 0,
        sequence: 0,
        offset: 9,
    };
    let frame = raw_frames(encoded(good, b"abc")).await.unwrap().unwrap();
    assert_eq!(frame.aux, &b"abc"[..]);

    let mut flipped = encoded(good, b"abc");
    flipped[33] ^= 1;
    assert!(matches!(
        raw_frames(flipped).await,
        Err(StreamError::Checksum { sequence: 0, .. })
    ));
    let gap = encoded(
        AppendFrame {
            sequence: 1,
            ..good
        },
        b"abc",
    );
    assert_eq!(
        raw_frames(gap).await,
        Err(StreamError::Sequence {
            expected: 0,
            found: 1
        })
    );
    let mut cut = encoded(good, b"abc");
    cut.pop();
    assert_eq!(
        raw_frames(cut).await,
        Err(StreamError::Truncated { sequence: 0 })
    );
    let over = AppendFrame {
        aux_length: APPEND_AUX_CAP as u32 + 1,
        ..good
    };
    assert!(matches!(
        raw_frames(encoded(over, b"")).await,
        Err(StreamError::Malformed(DecodeError::TooLong { .. }))
    ));
    assert_eq!(raw_frames(Vec::new()).await, Ok(None));
}

/// `next` may be dropped at any point and asked again.
#[tokio::test]
async fn receiving_is_cancel_safe() {
    let (dialler, listener) = MemoryConn::pair();
    let (mut send, _recv) = dialler.open().await.unwrap();
    let mut all = Vec::new();
    Prelude {
        kind: StreamKind::Append,
        protocol: PROTOCOL,
        version: 1,
    }
    .encode(&mut all);
    0u32.encode(&mut all);
    send.write_chunk(Bytes::from(all)).await.unwrap();
    let (mut incoming, _) = append_stream(&listener).await.into_parts();
    let payload = pattern(3, 50);
    let mut bytes = encoded(
        AppendFrame {
            kind: FrameKind::Data,
            flags: 0,
            aux_length: 3,
            payload_length: 50,
            crc: 0,
            sequence: 0,
            offset: 0,
        },
        b"abc",
    );
    bytes.extend_from_slice(&payload);
    let last = bytes.len() - 1;
    for (at, byte) in bytes.into_iter().enumerate() {
        send.write_chunk(Bytes::copy_from_slice(&[byte]))
            .await
            .unwrap();
        match incoming.next().now_or_never() {
            None => assert!(at < last),
            Some(frame) => {
                assert_eq!(at, last);
                assert_eq!(frame.unwrap().unwrap().payload.concat(), payload);
            }
        }
    }
}

#[tokio::test]
async fn a_read_is_replied_to_and_streamed() {
    let pair = pair().await;
    let asking = async {
        let (reply, mut frames): (u64, _) =
            open_read(&pair.dialler, PROTOCOL, 1, &5u64).await.unwrap();
        let mut got = Vec::new();
        while let Some(frame) = frames.next().await.unwrap() {
            got.extend(frame.payload);
        }
        (reply, got.concat())
    };
    let serving = async {
        let stream = read_stream(&pair.listener).await;
        assert_eq!(stream.header_bytes(), 5u64.to_le_bytes()[..]);
        let mut sender = stream.accept(&6u64).await.unwrap();
        for n in 0..3 {
            let mut payload = [pattern(n, 70_000)];
            sender
                .send(FrameKind::Data, 0, n, Bytes::new(), &mut payload)
                .await
                .unwrap();
        }
        sender.finish();
        sender
    };
    let ((reply, got), _sender) = futures_util::join!(asking, serving);
    assert_eq!(reply, 6);
    let want: Vec<_> = (0..3).map(|n| pattern(n, 70_000)).collect();
    assert_eq!(got, want.concat());
}

#[tokio::test]
async fn a_read_is_refused_with_its_fault() {
    let pair = pair().await;
    let fault = Fault::new(FaultClass::StaleReplica, "blk_1 has generation stamp 3");
    let serving = async {
        let stream = read_stream(&pair.listener).await;
        stream.refuse(fault.clone()).await;
        let stream = read_stream(&pair.listener).await;
        stream.reset(FaultClass::Busy);
    };
    let asking = async {
        let refused = open_read::<_, _, u64>(&pair.dialler, PROTOCOL, 1, &5u64).await;
        let reset = open_read::<_, _, u64>(&pair.dialler, PROTOCOL, 1, &5u64).await;
        (refused.err().unwrap(), reset.err().unwrap())
    };
    let ((refused, reset), ()) = futures_util::join!(asking, serving);
    assert_eq!(refused, CallError::Fault(fault.clone()));
    assert_eq!(reset.fault().unwrap().class, FaultClass::Busy);
    assert!(reset.is_retriable());
}

#[tokio::test]
async fn a_reader_that_has_enough_stops_the_sender() {
    let pair = pair().await;
    let asking = async {
        let (_, mut frames): (u64, _) = open_read(&pair.dialler, PROTOCOL, 1, &5u64).await.unwrap();
        frames.next().await.unwrap().unwrap();
        drop(frames);
    };
    let serving = async {
        let stream = read_stream(&pair.listener).await;
        let mut sender = stream.accept(&6u64).await.unwrap();
        loop {
            let mut payload = [pattern(1, 10_000)];
            let sent = sender.send(FrameKind::Data, 0, 0, Bytes::new(), &mut payload);
            if let Err(error) = sent.await {
                return error;
            }
        }
    };
    let ((), stopped) = futures_util::join!(asking, serving);
    assert_eq!(stopped.kind, NetErrorKind::Reset(code::DROPPED));
}
