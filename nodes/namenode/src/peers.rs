//! The way to the other NameNodes: a connection and the calls of HaProtocol on it.

use crate::node::Node;
use hadal_env::{Env, Expect, Net};
use hadal_proto::Fault;
use hadal_proto::ha::{HaProtocol, Request, Response};
use hadal_quic::{CallClient, CallError};
use hadal_types::Role;
use std::cell::RefCell;
use std::rc::Rc;

/// Between two tries to reach a NameNode.
const REDIAL_MS: u64 = 300;

/// Another NameNode.
#[derive(Default)]
pub(crate) struct Peer {
    client: RefCell<Option<CallClient<HaProtocol>>>,
}

/// Keeps a connection to the other NameNode number `peer` for ever.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>, peer: usize) {
    let member = node.config.peers[peer].clone();
    let expect = Expect::node(Role::Namenode, member.name.clone());
    loop {
        let opened = match node.env.net().connect(member.address, &expect).await {
            Ok(conn) => CallClient::open(&conn).await.map(|opened| (conn, opened)),
            Err(error) => Err(error),
        };
        match opened {
            Ok((_conn, (client, driver))) => {
                tracing::debug!("connected to NameNode {}", member.name);
                *node.peers[peer].client.borrow_mut() = Some(client);
                let error = driver.await;
                tracing::info!("lost NameNode {}: {error}", member.name);
                *node.peers[peer].client.borrow_mut() = None;
            }
            Err(error) => tracing::debug!("NameNode {}: {error}", member.name),
        }
        let jitter = node.env.random_u64() % REDIAL_MS;
        node.env
            .sleep_until(node.env.now().after_ms(REDIAL_MS / 2 + jitter))
            .await;
    }
}

/// One call to another NameNode: its answer, or why there is none.
pub(crate) async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    peer: usize,
    request: &Request,
) -> Result<Result<Response, Fault>, String> {
    let client = node.peers[peer].client.borrow().clone();
    let Some(client) = client else {
        return Err("not connected".into());
    };
    match client.call(request).await {
        Ok(response) => Ok(Ok(response)),
        Err(CallError::Fault(fault)) => Ok(Err(fault)),
        Err(error) => Err(error.to_string()),
    }
}
