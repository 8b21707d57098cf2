//! Connections and calls.

use crate::checkpoint;
use crate::election;
use crate::node::{NetConn, Node, Ordering};
use hadal_env::{Conn, Env, Net};
use hadal_failover::Command;
use hadal_proto::admin::{Request, Response};
use hadal_proto::ha::Health;
use hadal_proto::{Fault, FaultClass, ProtocolId};
use hadal_quic::{Incoming, accept};
use hadal_types::HaState;
use std::rc::Rc;

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
                let (mut requests, writer) = stream.split();
                env.spawn("namenode answers", writer);
                env.spawn("namenode client calls", async move {
                    while let Some((call, responder)) = requests.next().await {
                        node.client_call(&peer, call, responder);
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
                            Request::Transition {
                                to: HaState::Observer,
                                ..
                            } => responder.answer(Err(Fault::new(
                                FaultClass::Unsupported,
                                "UnsupportedOperation: this version has no observer NameNodes",
                            ))),
                            Request::Transition { to, force } => {
                                let command = match to {
                                    HaState::Active => Command::TransitionToActive { force },
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
            other => other.refuse(FaultClass::Unsupported),
        }
    }
}
