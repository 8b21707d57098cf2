//! Copying a segment from a peer, beside the one that may be here.

use crate::node::Node;
use crate::peers;
use hadal_env::Env;
use hadal_proto::qjournal::{Call, READ_CAP, Request, Response, SegmentState};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::acceptor::{FetchId, StoreOp};
use std::rc::Rc;
use store_journal::{JournalError, SegmentCopy};

pub(crate) async fn run<E: Env>(
    node: Rc<Node<E>>,
    fetch: FetchId,
    source: String,
    segment: SegmentState,
) {
    let outcome = match copy(&node, fetch, &source, &segment).await {
        Ok(copy) => {
            node.directory.keep_copy(fetch, copy);
            Ok(())
        }
        Err(Stop::Disk(reason)) => {
            node.disk_failed(&reason);
            return;
        }
        Err(Stop::Peer(fault)) => {
            tracing::warn!("segment {} from {source}: {fault}", segment.first);
            Err(fault)
        }
        Err(Stop::Replaced) => return,
    };
    let now = node.env.now();
    node.acceptor
        .borrow_mut()
        .handle_fetched(now, fetch, outcome);
    node.pump();
    // Overtaken meanwhile: nobody will ask for the copy any more.
    let wanted =
        node.writes.borrow().iter().any(
            |(_, op)| matches!(op, StoreOp::Install { fetch: wanted, .. } if *wanted == fetch),
        );
    if !wanted {
        node.directory.drop_copy(fetch);
    }
}

enum Stop {
    /// This disk failed.
    Disk(String),
    /// The peer cannot help, or helped wrongly.
    Peer(Fault),
    /// A newer fetch is under way.
    Replaced,
}

fn retry(message: String) -> Stop {
    Stop::Peer(Fault::new(FaultClass::Retry, message))
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Disk(_) | JournalError::Poisoned(_) => Self::Disk(error.to_string()),
            other => Self::Peer(Fault::new(FaultClass::Corrupt, other.to_string())),
        }
    }
}

async fn copy<E: Env>(
    node: &Rc<Node<E>>,
    fetch: FetchId,
    source: &str,
    segment: &SegmentState,
) -> Result<SegmentCopy<E::Disk>, Stop> {
    let peer = node.peers.iter().position(|peer| peer.name == source);
    let peer = peer.ok_or_else(|| {
        retry(format!(
            "{source} is not among the configured peers of JournalNode {}",
            node.config.name
        ))
    })?;
    let namespace_id = {
        let acceptor = node.acceptor.borrow();
        let info = acceptor.info();
        info.map(|info| info.namespace_id).ok_or(Stop::Replaced)?
    };
    let client = peers::client(node, peer).await.map_err(retry)?;
    let journal = node.directory.journal().ok_or(Stop::Replaced)?;
    // A finalised segment that rotted keeps its end.
    if let Some(own) = journal.segment(segment.first)
        && own.finalised
        && own.last != Some(segment.last)
    {
        let message = format!(
            "segment {} is finalised here at {}, at {source} at {}",
            segment.first,
            own.last.unwrap_or_default(),
            segment.last
        );
        return Err(Stop::Peer(Fault::new(FaultClass::Corrupt, message)));
    }
    let mut copy = journal
        .begin_copy(segment.first, segment.epoch, segment.digest_before.0)
        .await?;
    while copy.next() <= segment.last {
        let request = Request {
            namespace_id,
            call: Call::ReadSegment {
                first: segment.first,
                from: copy.next(),
                max_bytes: READ_CAP,
            },
        };
        let edits = match client.call(&request).await {
            Ok(Response::Edits { edits }) if edits.count > 0 && edits.first == copy.next() => edits,
            Ok(other) => return Err(retry(format!("{source} answered with {}", other.name()))),
            Err(error) => return Err(retry(format!("{source}: {error}"))),
        };
        if node.fetching.get() != Some(fetch) {
            return Err(Stop::Replaced);
        }
        copy.write(edits.records).await?;
    }
    copy.finish(segment.last, segment.digest_end.0).await?;
    Ok(copy)
}
