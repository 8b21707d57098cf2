//! The way to the other NameNodes: a connection and the calls of HaProtocol on it.
//!
//! A NameNode of another cluster in the configuration is a mistake that could move a role there: nothing is asked of it,
//! and the log and every order that names it say what it is.

use crate::config::NamenodePeer;
use crate::fetch::describe;
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
    /// Why it is not asked, when it is of another cluster.
    foreign: RefCell<Option<String>>,
}

/// Keeps a connection to the other NameNode number `peer` for ever.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>, peer: usize) {
    let member = node.config.peers[peer].clone();
    let expect = Expect::node(Role::Namenode, member.name.clone());
    loop {
        check_identity(&node, peer, &member).await;
        let opened = match node.env.net().connect(member.address, &expect).await {
            Ok(conn) => CallClient::open(&conn).await.map(|opened| (conn, opened)),
            Err(error) => Err(error),
        };
        match opened {
            Ok(_) if node.peers[peer].foreign.borrow().is_some() => {}
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

/// Asks it whose NameNode it is. One that does not say, because it starts or is gone, is no stranger.
async fn check_identity<E: Env>(node: &Rc<Node<E>>, peer: usize, member: &NamenodePeer) {
    let Ok(description) = describe(&node.env, member).await else {
        return;
    };
    let (own, its) = (&node.config.namesystem.info, &description.info);
    let same = (own.namespace_id, &own.cluster_id) == (its.namespace_id, &its.cluster_id);
    let reason = (!same).then(|| {
        format!(
            "{} at {} is of cluster {}, namespace {}; this is {}, {}: the configuration names NameNodes of two clusters",
            member.name,
            member.address,
            its.cluster_id,
            its.namespace_id,
            own.cluster_id,
            own.namespace_id
        )
    });
    let known = node.peers[peer].foreign.replace(reason.clone());
    if let Some(reason) = reason.filter(|reason| known.as_ref() != Some(reason)) {
        tracing::error!("{reason}");
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
        let foreign = node.peers[peer].foreign.borrow().clone();
        return Err(foreign.unwrap_or_else(|| "not connected".into()));
    };
    match client.call(request).await {
        Ok(response) => Ok(Ok(response)),
        Err(CallError::Fault(fault)) => Ok(Err(fault)),
        Err(error) => Err(error.to_string()),
    }
}
