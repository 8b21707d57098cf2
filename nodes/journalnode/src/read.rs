//! Answers made of records.

use crate::load::loaded;
use crate::node::Node;
use hadal_env::Env;
use hadal_proto::qjournal::{CommitMark, Edits, LogDigest, QjournalProtocol, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_quic::Responder;
use hadal_types::TxId;
use std::rc::Rc;
use store_journal::JournalError;

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
    let Some(journal) = node.journal.borrow().clone() else {
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
    let journal = node.journal.borrow().clone().ok_or_else(changed)?;
    let chunk = journal
        .read(run.from, run.upto, run.max_bytes as usize)
        .await
        .map_err(|error| fault(&error))?;
    let chunk = chunk
        .filter(|chunk| chunk.segment == run.segment)
        .ok_or_else(changed)?;
    let batch = chunk.batch;
    let count = batch.last().0 + 1 - batch.first().0;
    Ok(Edits {
        first: batch.first(),
        count: u32::try_from(count).expect("a run of a few MiB"),
        records: batch.bytes().clone(),
        digest_before: LogDigest(batch.digest_before()),
        digest_end: LogDigest(batch.digest()),
        committed: run.committed,
    })
}

fn fault(error: &JournalError) -> Fault {
    let class = match error {
        JournalError::Disk(_) | JournalError::Poisoned(_) => FaultClass::DiskFailed,
        JournalError::Unreadable { .. } => FaultClass::Corrupt,
        JournalError::NotHere { .. } | JournalError::NoSegment { .. } => FaultClass::NotFound,
        _ => FaultClass::Internal,
    };
    Fault::new(class, error.to_string())
}
