//! Connections, calls and append streams.

use crate::node::{AckQueue, NetConn, Node};
use crate::{admin, election};
use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use hadal_env::{Conn, Env, Net};
use hadal_proto::admin::AdminProtocol;
use hadal_proto::election::ElectionProtocol;
use hadal_proto::frame::{Ack, FrameKind};
use hadal_proto::qjournal::{BatchHead, JournalStream, QjournalProtocol};
use hadal_proto::{Fault, FaultClass, ProtocolId, decode};
use hadal_qjournal::acceptor::StreamKey;
use hadal_quic::{AckSender, AppendReceiver, FrameReceiver, Incoming, accept};
use hadal_types::Principal;
use std::pin::pin;
use std::rc::Rc;

pub(crate) async fn accept_connections<E: Env>(node: Rc<Node<E>>) {
    while let Some(conn) = node.env.net().accept().await {
        let serve = serve_connection(Rc::clone(&node), conn);
        node.env.spawn("journalnode connection", serve);
    }
}

async fn serve_connection<E: Env>(node: Rc<Node<E>>, conn: NetConn<E>) {
    loop {
        let incoming = match accept(&conn).await {
            Ok(incoming) => incoming,
            Err(error) => {
                tracing::debug!("connection of {} ended: {error}", conn.peer());
                return;
            }
        };
        let peer = conn.peer().clone();
        let env = node.env.clone();
        let node = Rc::clone(&node);
        match incoming {
            Incoming::Call(ProtocolId::Qjournal, stream) => {
                let (mut requests, writer) = stream.split::<QjournalProtocol>();
                env.spawn("journalnode answers", writer);
                env.spawn("journalnode calls", async move {
                    while let Some((request, responder)) = requests.next().await {
                        let now = node.env.now();
                        let ticket = {
                            let mut acceptor = node.acceptor.borrow_mut();
                            acceptor.handle_call(now, &peer, request)
                        };
                        node.responders.borrow_mut().insert(ticket, responder);
                        node.pump();
                    }
                });
            }
            Incoming::Call(ProtocolId::Admin, stream) => {
                let (mut requests, writer) = stream.split::<AdminProtocol>();
                env.spawn("journalnode answers", writer);
                env.spawn("journalnode admin calls", async move {
                    while let Some((request, responder)) = requests.next().await {
                        responder.answer(admin::answer(&node, &request));
                    }
                });
            }
            Incoming::Call(ProtocolId::Election, stream) => {
                let (mut requests, writer) = stream.split::<ElectionProtocol>();
                env.spawn("journalnode answers", writer);
                env.spawn("journalnode election calls", async move {
                    while let Some((request, responder)) = requests.next().await {
                        responder.answer(election::answer(&node, &peer, &request));
                    }
                });
            }
            Incoming::Append(ProtocolId::Qjournal, stream) => {
                env.spawn("journalnode stream", serve_stream(node, peer, stream));
            }
            other => other.refuse(FaultClass::Unsupported),
        }
    }
}

async fn serve_stream<E: Env>(
    node: Rc<Node<E>>,
    peer: Principal,
    stream: AppendReceiver<NetConn<E>>,
) {
    let header = decode::<JournalStream>(stream.header_bytes());
    let (mut frames, mut acks) = stream.into_parts();
    let admitted = header
        .map_err(|error| Fault::new(FaultClass::BadRequest, error.to_string()))
        .and_then(|header| node.acceptor.borrow().check_stream(&peer, &header));
    if let Err(fault) = admitted {
        node.note_fenced(&fault);
        let refusal = Ack {
            sequence: 0,
            offset: 0,
            fault: Some(fault),
            bad_node: 0,
            slow_nodes: 0,
        };
        if acks.send(&refusal).await.is_ok() {
            acks.finish();
        }
        return;
    }
    let key = StreamKey(node.next_stream.get());
    node.next_stream.set(key.0 + 1);
    let queue = Rc::new(AckQueue::default());
    node.streams.borrow_mut().insert(key, Rc::clone(&queue));
    let reason = {
        let reading = pin!(read_frames(&node, key, &mut frames));
        let acking = pin!(send_acks(&queue, &mut acks));
        match select(reading, acking).await {
            Either::Left((reason, _)) | Either::Right((reason, _)) => reason,
        }
    };
    node.streams.borrow_mut().remove(&key);
    tracing::debug!("append stream of {peer} ended: {reason}");
}

async fn read_frames<E: Env>(
    node: &Rc<Node<E>>,
    key: StreamKey,
    frames: &mut FrameReceiver<NetConn<E>>,
) -> String {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "finished".into(),
            Err(error) => return error.to_string(),
        };
        match frame.head.kind {
            FrameKind::Data => {}
            FrameKind::KeepAlive => continue,
            FrameKind::Finish | FrameKind::Abort => return "finished".into(),
            FrameKind::Flush | FrameKind::Sync => continue,
        }
        let head = match decode::<BatchHead>(frame.aux) {
            Ok(head) => head,
            Err(error) => return error.to_string(),
        };
        let records = join(frame.payload);
        let now = node.env.now();
        node.acceptor
            .borrow_mut()
            .handle_batch(now, key, frame.head.sequence, &head, records);
        node.pump();
    }
}

/// A batch in one piece: it is walked, hashed and written as one.
fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        all.extend_from_slice(piece);
    }
    all.freeze()
}

async fn send_acks<C: Conn>(queue: &AckQueue, acks: &mut AckSender<C>) -> String {
    loop {
        let mark = queue.wake.mark();
        let next = queue.acks.borrow_mut().pop_front();
        let Some(ack) = next else {
            queue.wake.changed(mark).await;
            continue;
        };
        let refused = ack.fault.is_some();
        if let Err(error) = acks.send(&ack).await {
            return error.to_string();
        }
        if refused {
            acks.finish();
            return "refused".into();
        }
    }
}
