//! Answers made of records.

use crate::load::loaded;
use crate::node::Node;
use crate::records::journal_fault;
use hadal_env::Env;
use hadal_proto::qjournal::{CommitMark, Edits, QjournalProtocol, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_quic::Responder;
use hadal_types::TxId;
use std::rc::Rc;

/// What the core allows to be read.
pub(crate) struct Run {
    pub(crate) segment: TxId,
    pub(crate) from: TxId,
    pub(crate) upto: TxId,
    pub(crate) max_bytes: u32,
    pub(crate) committed: CommitMark,
}

pub(crate) async fn answer<E: Env>(
    node: Rc<Node<E>>,
    responder: Responder<QjournalProtocol>,
    run: Run,
) {
    let outcome = read(&node, &run).await;
    let unreadable = outcome
        .as_ref()
        .is_err_and(|f| f.class == FaultClass::Corrupt);
    responder.answer(outcome.map(|edits| Response::Edits { edits }));
    if unreadable {
        examine(&node, run.segment).await;
    }
}

/// Tells the core what is left of a segment that could not be read.
async fn examine<E: Env>(node: &Rc<Node<E>>, first: TxId) {
    let Some(journal) = node.directory.journal() else {
        return;
    };
    match journal.scan(first).await {
        Ok(info) => {
            let scanned = loaded(&info);
            if let Some(from) = scanned.state.doubtful_from {
                tracing::error!("segment {first} is damaged from txid {from} on");
            }
            let now = node.env.now();
            node.acceptor.borrow_mut().handle_scanned(now, scanned);
            node.pump();
        }
        Err(error) => tracing::error!("segment {first} cannot be scanned: {error}"),
    }
}

async fn read<E: Env>(node: &Rc<Node<E>>, run: &Run) -> Result<Edits, Fault> {
    let changed = || {
        Fault::new(
            FaultClass::Retry,
            format!("segment {} changed while it was read", run.segment),
        )
    };
    let read = node
        .directory
        .read(run.from, run.upto, run.max_bytes, run.committed)
        .await
        .map_err(|error| journal_fault(&error))?;
    let edits = read.filter(|(segment, _)| *segment == run.segment);
    edits.map(|(_, edits)| edits).ok_or_else(changed)
}
