//! Hostile bytes: whatever arrives, decoders answer with an error or a value, and never panic.

use crate::memory::MemoryConn;
use bytes::Bytes;
use futures_util::FutureExt;
use hadal_env::{Conn, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{Ack, Answer, AppendFrame, FrameKind, Prelude, StreamKind};
use hadal_proto::{Protocol, ProtocolId, admin, client, datanode, decode, qjournal, transfer};
use hadal_quic::{Incoming, accept, open_append};
use proptest::prelude::*;

fn requests_and_responses<P: Protocol>(bytes: &Bytes) {
    decode::<P::Request>(bytes.clone()).ok();
    decode::<Answer<P::Response>>(bytes.clone()).ok();
}

/// Cuts `bytes` into chunks of the given lengths, over and over.
fn cut(mut bytes: Bytes, lengths: &[usize]) -> Vec<Bytes> {
    let mut out = Vec::new();
    let mut lengths = lengths.iter().cycle();
    while !bytes.is_empty() {
        let length = (*lengths.next().unwrap()).clamp(1, bytes.len());
        out.push(bytes.split_to(length));
    }
    out
}

/// What a listener makes of these bytes on a stream.
async fn receive(chunks: Vec<Bytes>) {
    let (dialler, listener) = MemoryConn::pair();
    let (mut send, _recv) = dialler.open().await.unwrap();
    for chunk in chunks {
        send.write_chunk(chunk).await.unwrap();
    }
    send.finish();
    dialler.close(0, "");
    match accept(&listener).await {
        Ok(Incoming::Call(_, stream)) => {
            let (mut requests, _driver) = stream.split::<transfer::TransferProtocol>();
            while requests.next().await.is_some() {}
        }
        Ok(Incoming::Append(_, stream)) => {
            let (mut frames, _acks) = stream.into_parts();
            while let Ok(Some(_)) = frames.next().await {}
        }
        Ok(Incoming::Read(_, stream)) => drop(stream.header_bytes()),
        Err(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let bytes = Bytes::from(bytes);
        decode::<Prelude>(bytes.clone()).ok();
        decode::<AppendFrame>(bytes.clone()).ok();
        decode::<Ack>(bytes.clone()).ok();
        requests_and_responses::<client::ClientProtocol>(&bytes);
        requests_and_responses::<datanode::DatanodeProtocol>(&bytes);
        requests_and_responses::<qjournal::QjournalProtocol>(&bytes);
        requests_and_responses::<transfer::TransferProtocol>(&bytes);
        requests_and_responses::<admin::AdminProtocol>(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_prelude_never_panic_a_listener(
        kind in prop_oneof![Just(StreamKind::Call), Just(StreamKind::Append), Just(StreamKind::Read)],
        header in 0u32..64,
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        lengths in proptest::collection::vec(1usize..50, 1..8),
    ) {
        let mut all = Vec::new();
        Prelude { kind, protocol: ProtocolId::Transfer, version: 1 }.encode(&mut all);
        if kind == StreamKind::Call {
            // Frames of plausible length, with any content.
            for body in bytes.chunks(40) {
                (body.len() as u32).encode(&mut all);
                all.extend_from_slice(body);
            }
        } else {
            header.encode(&mut all);
            all.extend_from_slice(&bytes);
        }
        prop_assert!(receive(cut(Bytes::from(all), &lengths)).now_or_never().is_some());
    }

    /// However the transport cuts the bytes, the frames are those that were sent; with a bit flipped in a
    /// head or its aux they are not.
    #[test]
    fn frames_survive_any_cut_and_no_flip(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
        lengths in proptest::collection::vec(1usize..80, 1..8),
        flip in proptest::option::of((0usize..36, 0u8..8)),
    ) {
        let run = async {
            let (dialler, listener) = MemoryConn::pair();
            let (mut sender, _acks) =
                open_append(&dialler, ProtocolId::Transfer, 1, &7u64).await.unwrap();
            for (n, payload) in payloads.iter().enumerate() {
                let mut pieces: Vec<Bytes> =
                    payload.chunks(50).map(Bytes::copy_from_slice).collect();
                let aux = Bytes::copy_from_slice(&(n as u32).to_le_bytes());
                sender.send(FrameKind::Data, 0, n as u64, aux, &mut pieces).await.unwrap();
            }
            sender.finish();
            let (_, mut recv) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            while let Some(chunk) = hadal_env::RecvStream::read_chunk(&mut recv, usize::MAX).await.unwrap() {
                all.extend_from_slice(&chunk);
            }
            // Prelude, length and header come first; then head and aux of the first frame.
            let first_head = 8 + 4 + 8;
            if let Some((at, bit)) = flip {
                all[first_head + at] ^= 1 << bit;
            }
            let (mut again, _) = dialler.open().await.unwrap();
            for chunk in cut(Bytes::from(all), &lengths) {
                again.write_chunk(chunk).await.unwrap();
            }
            again.finish();
            let Incoming::Append(_, stream) = accept(&listener).await.unwrap() else {
                panic!("expected an append stream")
            };
            let (mut frames, _acks) = stream.into_parts();
            if flip.is_some() {
                assert!(frames.next().await.is_err());
                return;
            }
            for (n, payload) in payloads.iter().enumerate() {
                let frame = frames.next().await.unwrap().unwrap();
                assert_eq!(frame.head.sequence, n as u64);
                assert_eq!(frame.aux, (n as u32).to_le_bytes()[..]);
                assert_eq!(&frame.payload.concat(), payload);
            }
            assert_eq!(frames.next().await.unwrap(), None);
            assert_eq!(frames.payload_bytes_copied(), 0);
        };
        prop_assert!(run.now_or_never().is_some());
    }
}
