//! Connections and calls.

use crate::checkpoint;
use crate::election;
use crate::fetch;
use crate::node::{NetConn, Node, Ordering};
use crate::upload;
use hadal_env::{Conn, Env, Net};
use hadal_failover::Command;
use hadal_proto::admin::{Request, Response};
use hadal_proto::client::ClientProtocol;
use hadal_proto::ha::Health;
use hadal_proto::image::{self, ImageProtocol};
use hadal_proto::{FaultClass, ProtocolId};
use hadal_quic::{Incoming, accept};
use hadal_types::HaState;
use std::rc::Rc;

/// Reads of one stream that are answered before the answers leave. Callers wait for a batch as one; with its first
/// answers sent early the client is at work on these while the rest are looked up. Mutations go into the journal's batch
/// together, as each batch costs three JournalNodes a write.
const READS_IN_A_ROW: usize = 16;

pub(crate) async fn accept_connections<E: Env>(node: Rc<Node<E>>) {
    while let Some(conn) = node.env.net().accept().await {
        node.env.spawn(
            "namenode connection",
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
            Incoming::Call(ProtocolId::Client, stream) => {
                let (mut requests, writer) = stream.split::<ClientProtocol>();
                env.spawn("namenode answers", writer);
                env.spawn("namenode client calls", async move {
                    let mut reads = 0;
                    while let Some((call, responder)) = requests.next().await {
                        let read = !call.request.is_mutation();
                        node.client_call(&peer, call, responder);
                        reads = if read { reads + 1 } else { 0 };
                        if reads == READS_IN_A_ROW {
                            reads = 0;
                            node.env.give_way().await;
                        }
                    }
                });
            }
            Incoming::Call(ProtocolId::Datanode, stream) => {
                let (mut requests, writer) = stream.split();
                env.spawn("namenode answers", writer);
                env.spawn("namenode datanode calls", async move {
                    while let Some((request, responder)) = requests.next().await {
                        node.datanode_call(&peer, request, responder);
                    }
                });
            }
            Incoming::Call(ProtocolId::Admin, stream) => {
                let (mut requests, writer) = stream.split();
                env.spawn("namenode answers", writer);
                env.spawn("namenode admin calls", async move {
                    while let Some((request, responder)) = requests.next().await {
                        match request {
                            Request::SaveNamespace => {
                                let saved = checkpoint::save_namespace(Rc::clone(&node));
                                node.env.spawn("namenode save", async move {
                                    responder
                                        .answer(saved.await.map(|txid| Response::AtTxid { txid }));
                                });
                            }
                            Request::CheckHealth => {
                                let Health {
                                    healthy, reason, ..
                                } = node.health();
                                responder.answer(Ok(Response::Health { healthy, reason }));
                            }
                            Request::Transition { to, force } => {
                                let command = match to {
                                    HaState::Active => Command::TransitionToActive { force },
                                    HaState::Observer => Command::TransitionToObserver,
                                    _ => Command::TransitionToStandby,
                                };
                                election::command(&node, command, Ordering::Operator(responder));
                            }
                            Request::Failover {
                                to, force_active, ..
                            } => {
                                let command = Command::FailoverTo {
                                    peer: to,
                                    force_active,
                                };
                                election::command(&node, command, Ordering::Operator(responder));
                            }
                            Request::RefreshNodes => responder.answer(node.refresh_nodes()),
                            other => node.admin_call(other, responder),
                        }
                    }
                });
            }
            Incoming::Call(ProtocolId::Ha, stream) => {
                let (mut requests, writer) = stream.split();
                env.spawn("namenode answers", writer);
                env.spawn("namenode peer calls", async move {
                    while let Some((request, responder)) = requests.next().await {
                        election::peer_call(&node, request, responder);
                    }
                });
            }
            Incoming::Append(ProtocolId::Image, stream) => {
                env.spawn("namenode image arrives", async move {
                    let images = Rc::clone(&node.images);
                    let received = upload::receive(images, stream, peer.role).await;
                    let mut slot = node.namesystem.borrow_mut();
                    if let Some((txid, namesystem)) = received.zip(slot.as_mut()) {
                        namesystem.set_last_checkpoint(txid);
                    }
                });
            }
            Incoming::Read(ProtocolId::Image, stream) => {
                let images = Rc::clone(&node.images);
                env.spawn("namenode image leaves", fetch::serve(images, stream));
            }
            Incoming::Call(ProtocolId::Image, stream) => {
                let (mut requests, writer) = stream.split::<ImageProtocol>();
                env.spawn("namenode answers", writer);
                env.spawn("namenode image calls", async move {
                    while let Some((image::Request::Describe, responder)) = requests.next().await {
                        responder.answer(node.describe());
                    }
                });
            }
            other => other.refuse(FaultClass::Unsupported),
        }
    }
}
