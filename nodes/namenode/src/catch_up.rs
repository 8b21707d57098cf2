//! Reading the journal up to the recovered end. Only finalised segments are read: what they hold is decided, and
//! recovery has finalised everything up to the end at a majority. Each run must continue the running digest.

use crate::error::RunError;
use crate::links;
use crate::node::Node;
use bytes::Bytes;
use hadal_env::Env;
use hadal_proto::decode;
use hadal_proto::edit::Edit;
use hadal_proto::qjournal::{
    Call, CommitMark, Edits, LogDigest, READ_CAP, Request, Response, SegmentState,
};
use hadal_types::TxId;
use std::rc::Rc;
use store_journal::Batch;

/// Rounds over all JournalNodes before a gap is called one: nodes that were away may come back.
const ROUNDS_MAX: u32 = 40;
/// Between two rounds.
const ROUND_WAIT_MS: u64 = 250;
/// For so long one JournalNode is waited for before the next one is asked (F-12); twice as long in each round that brought
/// nothing,
const QUESTION_MS: u64 = 1_000;
/// ... so many times.
const QUESTION_DOUBLINGS: u32 = 3;

/// Applies everything from the last applied edit to `end`.
pub(crate) async fn catch_up<E: Env>(
    node: &Rc<Node<E>>,
    digest: &mut LogDigest,
    end: CommitMark,
) -> Result<(), RunError> {
    let mut rounds = 0;
    let mut asked = Vec::new();
    // The JournalNode that helped last is asked first, one that failed last.
    let mut start = 0;
    loop {
        let next = applied(node).next();
        if next.0 > end.txid.0 + 1 {
            return Err(RunError::JournalBehind {
                applied: next.0 - 1,
                end: end.txid.0,
            });
        }
        if next > end.txid {
            assert_eq!(*digest, end.digest, "the applied log is the recovered one");
            return Ok(());
        }
        let mut progressed = false;
        asked.clear();
        let first = start;
        let limit_ms = QUESTION_MS << rounds.min(QUESTION_DOUBLINGS);
        for step in 0..node.links.len() {
            let jn = (first + step) % node.links.len();
            let name = node.config.journalnodes[jn].name.clone();
            let before = applied(node);
            let outcome = read_from(node, jn, digest, end.txid, limit_ms).await;
            progressed = applied(node) > before;
            match outcome {
                Ok(()) if progressed => start = jn,
                Ok(()) => asked.push(name),
                Err(Stop::Peer(reason)) => {
                    tracing::debug!("reading edits from {name}: {reason}");
                    asked.push(format!("{name}: {reason}"));
                    start = (jn + 1) % node.links.len();
                }
                Err(Stop::Final(error)) => return Err(error),
            }
            if progressed {
                break;
            }
        }
        if progressed {
            rounds = 0;
            continue;
        }
        rounds += 1;
        if rounds == ROUNDS_MAX {
            let asked = asked.join("; ");
            return Err(RunError::Gap {
                expected: next.0,
                end: end.txid.0,
                asked,
            });
        }
        node.env
            .sleep_until(node.env.now().after_ms(ROUND_WAIT_MS))
            .await;
    }
}

/// Why a JournalNode is read no further.
enum Stop {
    /// This JournalNode cannot help.
    Peer(String),
    /// Nobody can.
    Final(RunError),
}

/// The last edit applied here.
pub(crate) fn applied<E: Env>(node: &Rc<Node<E>>) -> TxId {
    node.namesystem
        .borrow()
        .as_ref()
        .map_or(TxId(0), hadal_namesystem::Namesystem::applied)
}

/// Applies what this JournalNode has of the segment that holds the next edit.
async fn read_from<E: Env>(
    node: &Rc<Node<E>>,
    jn: usize,
    digest: &mut LogDigest,
    end: TxId,
    limit_ms: u64,
) -> Result<(), Stop> {
    let from = applied(node).next();
    let call = Call::GetManifest {
        from,
        in_progress: false,
    };
    let manifest = match ask(node, jn, call, limit_ms).await? {
        Response::Manifest { manifest } => manifest,
        other => return Err(Stop::Peer(format!("{} to GetManifest", other.name()))),
    };
    let holds = |segment: &&SegmentState| {
        segment.finalized && segment.first <= from && from <= segment.last
    };
    let Some(segment) = manifest.segments.iter().find(holds) else {
        return Ok(());
    };
    loop {
        let from = applied(node).next();
        if from > segment.last || from > end {
            return Ok(());
        }
        let call = Call::ReadSegment {
            first: segment.first,
            from,
            max_bytes: READ_CAP,
        };
        let edits = match ask(node, jn, call, limit_ms).await? {
            Response::Edits { edits } => edits,
            other => return Err(Stop::Peer(format!("{} to ReadSegment", other.name()))),
        };
        apply(node, edits, digest, end)?;
    }
}

async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    jn: usize,
    call: Call,
    limit_ms: u64,
) -> Result<Response, Stop> {
    let namespace_id = node.config.namesystem.info.namespace_id;
    let request = Request { namespace_id, call };
    let answer = links::ask(node, jn, &request);
    let answer = match &node.shared {
        // There is no other one to ask.
        Some(_) => answer.await,
        None => {
            let deadline = node.env.now().after_ms(limit_ms);
            let in_time = links::in_time(&node.env, deadline, answer).await;
            in_time.ok_or_else(|| Stop::Peer(format!("no answer within {limit_ms} ms")))?
        }
    };
    answer.map_err(|fault| Stop::Peer(fault.message))
}

/// Applies a run that continues the log.
fn apply<E: Env>(
    node: &Rc<Node<E>>,
    edits: Edits,
    digest: &mut LogDigest,
    end: TxId,
) -> Result<(), Stop> {
    let from = applied(node).next();
    if edits.count == 0 || edits.first != from {
        return Err(Stop::Peer(format!(
            "asked for {from}, got {} edits from {}",
            edits.count, edits.first
        )));
    }
    if edits.digest_before != *digest {
        return Err(Stop::Peer(format!(
            "its log differs from ours before txid {from}"
        )));
    }
    let batch = Batch::verify(edits.records, from, digest.0)
        .map_err(|error| Stop::Peer(error.to_string()))?;
    // All or nothing: the digest goes with whole runs.
    if batch.last() > end {
        return Err(Stop::Peer(format!(
            "its segment goes on behind the recovered end {end}"
        )));
    }
    for record in batch.records() {
        apply_record(node, record.txid, record.payload).map_err(Stop::Final)?;
    }
    *digest = LogDigest(batch.digest());
    // Images carry it.
    node.start_log(*digest);
    Ok(())
}

/// Applies one verified record.
pub(crate) fn apply_record<E: Env>(
    node: &Rc<Node<E>>,
    txid: TxId,
    op: Bytes,
) -> Result<(), RunError> {
    let edit: Edit = decode(op).map_err(|source| RunError::Edit {
        txid: txid.0,
        source,
    })?;
    let mut slot = node.namesystem.borrow_mut();
    let namesystem = slot.as_mut().expect("loaded before it follows the journal");
    namesystem.replay(node.env.now(), txid, &edit);
    Ok(())
}
