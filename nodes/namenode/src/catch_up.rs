//! Reading the journal up to the recovered end: carries out what [`Reader`]s want, pass after pass.

use crate::error::RunError;
use crate::links::{self, in_time};
use crate::node::Node;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hadal_env::Env;
use hadal_journalnode::log_digest;
use hadal_proto::edit::Edit;
use hadal_proto::qjournal::{CommitMark, Edits, LogDigest, Records, Request, Response};
use hadal_proto::{Fault, FaultClass, decode};
use hadal_qjournal::reader::{Output, ReadError, Reader, Until};
use hadal_types::TxId;
use std::rc::Rc;

/// Passes that bring nothing before a gap is called one: nodes that were away may come back.
const PASSES_MAX: u32 = 40;
/// Between two passes.
const PASS_WAIT_MS: u64 = 250;
/// For so long one JournalNode is waited for before the next one is asked (F-12); twice as long in each pass that brought
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
    let mut passes = 0;
    loop {
        let before = applied(node);
        if before > end.txid {
            return Err(RunError::JournalBehind {
                applied: before.0,
                end: end.txid.0,
            });
        }
        let limit_ms = QUESTION_MS << passes.min(QUESTION_DOUBLINGS);
        let asked = match pass(node, digest, end, limit_ms).await? {
            Ok(()) => return Ok(()),
            Err(ReadError::Missing { asked, .. } | ReadError::NoMajority { reasons: asked }) => {
                asked.join("; ")
            }
            Err(error @ ReadError::DigestDiffers { .. }) => {
                panic!("the applied log is not the recovered one: {error}")
            }
        };
        if applied(node) > before {
            passes = 0;
            continue;
        }
        tracing::debug!("reading edits: {asked}");
        passes += 1;
        if passes == PASSES_MAX {
            return Err(RunError::Gap {
                expected: before.next().0,
                end: end.txid.0,
                asked,
            });
        }
        let again = node.env.now().after_ms(PASS_WAIT_MS);
        node.env.sleep_until(again).await;
    }
}

/// One pass; what it brought is applied, however it ends.
async fn pass<E: Env>(
    node: &Rc<Node<E>>,
    digest: &mut LogDigest,
    end: CommitMark,
    limit_ms: u64,
) -> Result<Result<(), ReadError>, RunError> {
    let names = node.config.journalnodes.iter();
    let mut reader = Reader::new(
        names.map(|peer| peer.name.clone()).collect(),
        node.config.namesystem.info.namespace_id,
        applied(node),
        Some(*digest),
        Until::End(end),
        log_digest,
    );
    let mut calls = FuturesUnordered::new();
    loop {
        while let Some(output) = reader.poll_output() {
            match output {
                Output::Call { jn, request } => calls.push(ask(node, jn, request, limit_ms)),
                Output::Edits(edits) => apply(node, edits, digest)?,
                Output::Done(_) => return Ok(Ok(())),
                Output::Failed(error) => return Ok(Err(error)),
            }
        }
        let answered = calls.next().await;
        let (jn, outcome) = answered.expect("a pass that is not over waits for an answer");
        reader.handle_reply(jn, outcome);
    }
}

/// The last edit applied here.
pub(crate) fn applied<E: Env>(node: &Rc<Node<E>>) -> TxId {
    node.namesystem
        .borrow()
        .as_ref()
        .map_or(TxId(0), hadal_namesystem::Namesystem::applied)
}

async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    jn: usize,
    request: Request,
    limit_ms: u64,
) -> (usize, Result<Response, Fault>) {
    let answer = links::ask(node, jn, &request);
    if node.shared.is_some() {
        // There is no other one to ask.
        return (jn, answer.await);
    }
    let deadline = node.env.now().after_ms(limit_ms);
    let answer = in_time(&node.env, deadline, answer).await;
    let late = || {
        let message = format!("no answer within {limit_ms} ms");
        Err(Fault::new(FaultClass::Retry, message))
    };
    (jn, answer.unwrap_or_else(late))
}

/// Applies a verified run that continues the log.
pub(crate) fn apply<E: Env>(
    node: &Rc<Node<E>>,
    edits: Edits,
    digest: &mut LogDigest,
) -> Result<(), RunError> {
    for record in Records::new(edits.records) {
        let record = record.expect("it is verified");
        apply_record(node, record.txid, record.op)?;
    }
    *digest = edits.digest_end;
    // Images carry it.
    node.start_log(*digest);
    Ok(())
}

fn apply_record<E: Env>(node: &Rc<Node<E>>, txid: TxId, op: Bytes) -> Result<(), RunError> {
    let edit: Edit = decode(op).map_err(|source| RunError::Edit {
        txid: txid.0,
        source,
    })?;
    let mut slot = node.namesystem.borrow_mut();
    let namesystem = slot.as_mut().expect("loaded before it follows the journal");
    namesystem.replay(node.env.now(), txid, &edit);
    Ok(())
}
