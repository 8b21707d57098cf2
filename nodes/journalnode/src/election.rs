//! The active lease at this JournalNode: the grantor beside the acceptor (protocols.md section 2).

use crate::node::Node;
use hadal_env::Env;
use hadal_failover::Voter;
use hadal_proto::Fault;
use hadal_proto::election::{Request, Response};
use hadal_proto::qjournal::Standing;
use hadal_types::Principal;
use std::rc::Rc;

/// Answers at once: nothing of it is written down. A promise that is not durable yet counts already, which only makes
/// the node refuse earlier.
pub(crate) fn answer<E: Env>(
    node: &Rc<Node<E>>,
    from: &Principal,
    request: &Request,
) -> Result<Response, Fault> {
    let acceptor = node.acceptor.borrow();
    let voter = Voter {
        namespace_id: acceptor.info().map(|info| info.namespace_id),
        votes: acceptor.standing() == Standing::Voter && !acceptor.is_stopped(),
        promised: acceptor.record().promised,
    };
    let now = node.env.now();
    let mut grantor = node.grantor.borrow_mut();
    grantor.handle_request(now, from, request, voter)
}
