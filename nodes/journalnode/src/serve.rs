//! Connections, calls and the append streams of writers.

use crate::node::{AckQueue, NetConn, Node};
use futures_util::future::{Either, select};
use hadal_env::{Conn, Env, Net};
use hadal_proto::admin::{self, AdminProtocol, JournalStats, NodeStatus, SegmentStatus};
use hadal_proto::frame::{Ack, FrameKind};
use hadal_proto::qjournal::{BatchHead, JournalStream, Standing};
use hadal_proto::{Fault, FaultClass, ProtocolId, decode};
use hadal_qjournal::acceptor::StreamKey;
use hadal_quic::{AckSender, AppendReceiver, FrameReceiver, Incoming, accept};
use hadal_types::{HaState, Principal};
use std::pin::pin;
use std::rc::Rc;

pub(crate) async fn accept_connections<E: Env>(node: Rc<Node<E>>) {
    while let Some(conn) = node.env.net().accept().await {
        node.env.spawn(
            "journalnode connection",
            serve_connection(Rc::clone(&node), conn),
        );
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
                let (mut requests, writer) = stream.split();
                env.spawn("journalnode answers", writer);
                env.spawn("journalnode calls", async move {
                    while let Some((request, responder)) = requests.next().await {
                        let ticket =
                            node.acceptor
                                .borrow_mut()
                                .handle_call(node.env.now(), &peer, request);
                        node.wait_for(ticket, responder);
                        node.turn();
                    }
                });
            }
            Incoming::Call(ProtocolId::Admin, stream) => {
                let (mut requests, writer) = stream.split::<AdminProtocol>();
                env.spawn("journalnode answers", writer);
                env.spawn("journalnode admin", async move {
                    while let Some((request, responder)) = requests.next().await {
                        responder.answer(admin(&node, &request));
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

async fn serve_stream<E: Env, C: Conn>(
    node: Rc<Node<E>>,
    peer: Principal,
    stream: AppendReceiver<C>,
) {
    let header: Result<JournalStream, _> = decode(stream.header_bytes());
    let (mut frames, mut acks) = stream.into_parts();
    let admitted = match &header {
        Ok(header) => node.acceptor.borrow().check_stream(&peer, header),
        Err(error) => Err(Fault::new(FaultClass::BadRequest, error.to_string())),
    };
    if let Err(fault) = admitted {
        refuse(&mut acks, fault).await;
        return;
    }
    let (key, queue) = node.open_stream();
    let ended = {
        let receiving = pin!(receive(&node, key, &mut frames));
        let acking = pin!(send_acks(&queue, &mut acks));
        match select(receiving, acking).await {
            Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
        }
    };
    node.close_stream(key);
    match ended {
        Ok(()) => acks.finish(),
        Err(fault) => refuse(&mut acks, fault).await,
    }
}

async fn refuse<C: Conn>(acks: &mut AckSender<C>, fault: Fault) {
    let ack = Ack {
        sequence: 0,
        offset: 0,
        fault: Some(fault),
        bad_node: u8::MAX,
        slow_nodes: 0,
    };
    // The writer may be gone already; then there is nobody to tell.
    drop(acks.send(&ack).await);
    acks.finish();
}

async fn receive<E: Env, C: Conn>(
    node: &Rc<Node<E>>,
    key: StreamKey,
    frames: &mut FrameReceiver<C>,
) -> Result<(), Fault> {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => return Err(Fault::new(FaultClass::BadRequest, error.to_string())),
        };
        if frame.head.kind != FrameKind::Data {
            continue;
        }
        let head: BatchHead = decode(frame.aux)
            .map_err(|error| Fault::new(FaultClass::BadRequest, error.to_string()))?;
        let records = join(frame.payload);
        node.acceptor.borrow_mut().handle_batch(
            node.env.now(),
            key,
            frame.head.sequence,
            &head,
            records,
        );
        node.turn();
    }
}

/// One run of bytes. A batch that arrived in several datagrams is gathered; its copy into the disk's buffer would need
/// the pieces in one anyway.
fn join(mut pieces: Vec<bytes::Bytes>) -> bytes::Bytes {
    match pieces.len() {
        0 => bytes::Bytes::new(),
        1 => pieces.remove(0),
        _ => pieces.concat().into(),
    }
}

async fn send_acks<C: Conn>(queue: &AckQueue, acks: &mut AckSender<C>) -> Result<(), Fault> {
    loop {
        let mark = queue.wake.mark();
        // Acks are cumulative: of those that wait only the newest is sent, unless one carries a fault.
        let newest = {
            let mut waiting = queue.acks.borrow_mut();
            let fault = waiting.iter().position(|ack| ack.fault.is_some());
            let newest = match fault {
                Some(at) => waiting.get(at).cloned(),
                None => waiting.back().cloned(),
            };
            waiting.clear();
            newest
        };
        let Some(ack) = newest else {
            queue.wake.changed(mark).await;
            continue;
        };
        let failed = ack.fault.is_some();
        if acks.send(&ack).await.is_err() || failed {
            return Ok(());
        }
    }
}

fn admin<E: Env>(node: &Rc<Node<E>>, request: &admin::Request) -> Result<admin::Response, Fault> {
    let acceptor = node.acceptor.borrow();
    let state = acceptor.state();
    match request {
        admin::Request::GetStatus => Ok(admin::Response::Status {
            status: NodeStatus {
                name: state.name,
                role: "journalnode".into(),
                state: HaState::Initializing,
                safe_mode: false,
                info: state.info.unwrap_or_default(),
                software: node.config.software.clone(),
            },
        }),
        admin::Request::JournalStats => {
            let segments = acceptor
                .segments()
                .map(|segment| SegmentStatus {
                    first: segment.first,
                    last: segment.last,
                    finalized: segment.finalized,
                })
                .collect();
            Ok(admin::Response::JournalStats {
                stats: JournalStats {
                    promised: state.promised,
                    writer: state.writer,
                    committed: state.committed.txid,
                    learner: state.standing == Standing::Learner,
                    segments,
                },
            })
        }
        other => Err(Fault::new(
            FaultClass::Unsupported,
            format!("{} is not something a JournalNode answers", other.name()),
        )),
    }
}
