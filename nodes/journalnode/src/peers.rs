//! Calls to other JournalNodes: counts, and segments to copy.

use crate::node::Node;
use futures_util::future::{Either, select};
use hadal_env::{Env, Expect, Net};
use hadal_proto::qjournal::{QjournalProtocol, Request, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_quic::{CallClient, CallError};
use hadal_types::Role;
use std::pin::pin;
use std::rc::Rc;

/// A peer that does not answer for this long cannot be reached now.
const PEER_WAIT_MS: u64 = 5_000;

/// One call to a peer over a connection of its own: such calls are rare.
pub(crate) async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    peer: &str,
    request: &Request,
) -> Result<Response, Fault> {
    let lost =
        |reason: String| Fault::new(FaultClass::Retry, format!("JournalNode {peer}: {reason}"));
    let address = node
        .config
        .peers
        .iter()
        .find(|(name, _)| name == peer)
        .map(|(_, address)| *address);
    let address = address.ok_or_else(|| lost("is not in cluster.journalnodes".into()))?;
    let expect = Expect::node(Role::Journalnode, peer);
    let call = async {
        let conn = node
            .env
            .net()
            .connect(address, &expect)
            .await
            .map_err(|error| lost(error.to_string()))?;
        let (client, driver) = CallClient::<QjournalProtocol>::open(&conn)
            .await
            .map_err(|error| lost(error.to_string()))?;
        let asked = pin!(client.call(request));
        match select(asked, pin!(driver)).await {
            Either::Left((Ok(response), _)) => Ok(response),
            Either::Left((Err(CallError::Fault(fault)), _)) => Err(fault),
            Either::Left((Err(error), _)) => Err(lost(error.to_string())),
            Either::Right((error, _)) => Err(lost(error.to_string())),
        }
    };
    let deadline = node.env.now().after_ms(PEER_WAIT_MS);
    match select(pin!(call), pin!(node.env.sleep_until(deadline))).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(lost("no answer".into())),
    }
}

/// Asks a peer what it knows of our count.
pub(crate) async fn exchange<E: Env>(node: Rc<Node<E>>, peer: String, request: Request) {
    let counts = match ask(&node, &peer, &request).await {
        Ok(Response::Counts { counts }) => Some(counts),
        Ok(other) => {
            tracing::warn!("{} from {peer} to ExchangeCounts", other.name());
            None
        }
        Err(fault) => {
            tracing::debug!("exchanging counts: {fault}");
            None
        }
    };
    node.acceptor
        .borrow_mut()
        .handle_counts(node.env.now(), &peer, counts);
    node.turn();
}
