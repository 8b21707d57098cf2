//! What operators and tests may ask of a JournalNode.

use crate::node::Node;
use hadal_env::Env;
use hadal_proto::admin::{JournalStats, NodeStatus, Request, Response, SegmentStatus};
use hadal_proto::qjournal::Standing;
use hadal_proto::{Fault, FaultClass};
use hadal_types::HaState;
use std::rc::Rc;

pub(crate) fn answer<E: Env>(node: &Rc<Node<E>>, request: &Request) -> Result<Response, Fault> {
    let acceptor = node.acceptor.borrow();
    match request {
        Request::GetStatus => Ok(Response::Status {
            status: NodeStatus {
                name: node.config.name.clone(),
                role: "journalnode".into(),
                state: HaState::Initializing,
                safe_mode: acceptor.standing() == Standing::Unconfirmed,
                info: acceptor.info().cloned().unwrap_or_default(),
                software: node.config.software.clone(),
            },
        }),
        Request::JournalStats => {
            let state = acceptor.state();
            Ok(Response::JournalStats {
                stats: JournalStats {
                    promised: state.promised,
                    writer: state.writer,
                    committed: state.committed.txid,
                    learner: state.standing == Standing::Learner,
                    segments: acceptor
                        .segments()
                        .map(|segment| SegmentStatus {
                            first: segment.first,
                            last: segment.last,
                            finalized: segment.finalized,
                        })
                        .collect(),
                },
            })
        }
        other => Err(Fault::new(
            FaultClass::Unsupported,
            format!("a JournalNode does not serve {}", other.name()),
        )),
    }
}
