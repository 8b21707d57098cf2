//! Reading records for others, and copying a segment from a peer.

use crate::node::Node;
use crate::peers;
use hadal_env::Env;
use hadal_proto::qjournal::{
    Call, CommitMark, Edits, LogDigest, READ_CAP, Request, Response, SegmentState,
};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::acceptor::FetchId;
use hadal_types::TxId;
use std::rc::Rc;

/// Serves records from disk.
pub(crate) async fn read<E: Env>(
    node: &Rc<Node<E>>,
    from: TxId,
    upto: TxId,
    max_bytes: u32,
    committed: CommitMark,
) -> Result<Response, Fault> {
    let journal = node.journal.borrow().clone().ok_or_else(|| {
        Fault::new(
            FaultClass::NotFound,
            format!("JournalNode {} is not formatted", node.config.name),
        )
    })?;
    let chunk = journal
        .read(from, upto, max_bytes as usize)
        .await
        .map_err(|error| Fault::new(FaultClass::Corrupt, error.to_string()))?
        .ok_or_else(|| {
            Fault::new(
                FaultClass::NotFound,
                format!("txid {from} is not on disk yet"),
            )
        })?;
    let batch = chunk.batch;
    let count = u32::try_from(batch.last().0 - batch.first().0 + 1).expect("a read is capped");
    let edits = Edits {
        first: batch.first(),
        count,
        records: batch.bytes().clone(),
        digest_before: LogDigest(batch.digest_before()),
        digest_end: LogDigest(batch.digest()),
        committed,
    };
    Ok(Response::Edits { edits })
}

/// Copies a segment into a temporary file, durable and compared, and tells the acceptor.
pub(crate) async fn run<E: Env>(
    node: Rc<Node<E>>,
    fetch: FetchId,
    source: String,
    segment: SegmentState,
) {
    let outcome = copy(&node, fetch, &source, &segment).await;
    if let Err(fault) = &outcome {
        tracing::warn!("copying segment {} from {source}: {fault}", segment.first);
    }
    node.acceptor
        .borrow_mut()
        .handle_fetched(node.env.now(), fetch, outcome);
    node.turn();
}

async fn copy<E: Env>(
    node: &Rc<Node<E>>,
    fetch: FetchId,
    source: &str,
    segment: &SegmentState,
) -> Result<(), Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::new(FaultClass::Retry, error.to_string());
    let journal = node
        .journal
        .borrow()
        .clone()
        .ok_or_else(|| failed(&"the journal is not formatted"))?;
    let namespace_id = node
        .acceptor
        .borrow()
        .info()
        .map_or(0, |info| info.namespace_id);
    let mut copy = journal
        .begin_copy(segment.first, segment.epoch, segment.digest_before.0)
        .await
        .map_err(|error| failed(&error))?;
    while copy.next() <= segment.last {
        let call = Call::ReadSegment {
            first: segment.first,
            from: copy.next(),
            max_bytes: READ_CAP,
        };
        let edits = match peers::ask(node, source, &Request { namespace_id, call }).await? {
            Response::Edits { edits } => edits,
            other => return Err(failed(&format!("{} to ReadSegment", other.name()))),
        };
        if edits.count == 0 {
            return Err(failed(&format!(
                "{source} has nothing from txid {} on",
                copy.next()
            )));
        }
        copy.write(edits.records)
            .await
            .map_err(|error| failed(&error))?;
    }
    copy.finish(segment.last, segment.digest_end.0)
        .await
        .map_err(|error| failed(&error))?;
    let mut copies = node.copies.borrow_mut();
    // An older copy was abandoned when this one was asked for.
    copies.clear();
    copies.insert(fetch, copy);
    Ok(())
}
