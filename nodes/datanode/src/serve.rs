//! Connections and the streams peers open on them.

use crate::calls;
use crate::node::{NetConn, Node};
use crate::read;
use crate::receive;
use hadal_env::{Conn, Env, Net};
use hadal_proto::{FaultClass, ProtocolId};
use hadal_quic::{Incoming, accept};
use std::rc::Rc;

pub(crate) async fn accept_connections<E: Env>(node: Rc<Node<E>>) {
    while let Some(conn) = node.env.net().accept().await {
        node.env.spawn(
            "datanode connection",
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
        let node = Rc::clone(&node);
        let env = node.env.clone();
        match incoming {
            Incoming::Append(ProtocolId::Transfer, stream) => {
                env.spawn(
                    "datanode write",
                    receive::receive(node, conn.peer().role, stream),
                );
            }
            Incoming::Read(ProtocolId::Transfer, stream) => {
                env.spawn("datanode read", read::serve_read(node, stream));
            }
            Incoming::Call(ProtocolId::Transfer, stream) => {
                let (requests, writer) = stream.split();
                env.spawn("datanode answers", writer);
                let caller = conn.peer().role;
                env.spawn(
                    "datanode calls",
                    calls::serve_transfer(node, caller, requests),
                );
            }
            Incoming::Call(ProtocolId::Admin, stream) => {
                let (requests, writer) = stream.split();
                env.spawn("datanode answers", writer);
                env.spawn("datanode admin", calls::serve_admin(node, requests));
            }
            other => other.refuse(FaultClass::Unsupported),
        }
    }
}
