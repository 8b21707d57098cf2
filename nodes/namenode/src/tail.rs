//! A standby's subscription: committed edits as soon as a JournalNode knows them (protocols.md section 3, Q20).
//!
//! One JournalNode is asked to answer as soon as it has more. One that has nothing for a while, lacks the next edit or does
//! not answer is left for the next: it may be cut off from the writer.

use crate::catch_up::{Stop, applied, apply, ask};
use crate::error::RunError;
use crate::links::in_time;
use crate::node::Node;
use hadal_env::Env;
use hadal_proto::qjournal::{Call, Edits, LogDigest, READ_CAP, Response};
use hadal_types::TxId;
use std::rc::Rc;

/// A JournalNode without news for this long is left for the next.
const WAIT_MS: u32 = 1_000;
/// ... and one that does not answer at all, this much later.
const ANSWER_MS: u64 = 500;
/// Between two rounds in which nobody had anything.
const PAUSE_MS: u64 = 50;

/// Applies committed edits for ever; `digest` is the journal's at the last applied one. Ends only with what cannot be mended.
pub(crate) async fn follow<E: Env>(node: &Rc<Node<E>>, digest: &mut LogDigest) -> RunError {
    let count = node.links.len();
    let mut jn = 0;
    loop {
        for _ in 0..count {
            match follow_one(node, jn, digest).await {
                Stop::Peer(reason) => tracing::trace!(
                    "leaving JournalNode {}: {reason}",
                    node.config.journalnodes[jn].name
                ),
                Stop::Final(error) => return error,
            }
            jn = (jn + 1) % count;
        }
        let pause = node.env.now().after_ms(PAUSE_MS);
        node.env.sleep_until(pause).await;
    }
}

/// Applies what this JournalNode has, until it has no more news.
async fn follow_one<E: Env>(node: &Rc<Node<E>>, jn: usize, digest: &mut LogDigest) -> Stop {
    loop {
        let edits = match next_run(node, jn).await {
            Ok(edits) if edits.count == 0 => return Stop::Peer("no news".into()),
            Ok(edits) => edits,
            Err(stop) => return stop,
        };
        if let Err(stop) = apply(node, edits, digest, TxId(u64::MAX)) {
            return stop;
        }
        node.kick();
    }
}

async fn next_run<E: Env>(node: &Rc<Node<E>>, jn: usize) -> Result<Edits, Stop> {
    let call = Call::AwaitCommitted {
        after: applied(node),
        wait_ms: WAIT_MS,
        max_bytes: READ_CAP,
    };
    let deadline = node.env.now().after_ms(u64::from(WAIT_MS) + ANSWER_MS);
    match in_time(&node.env, deadline, ask(node, jn, call)).await {
        None => Err(Stop::Peer("no answer".into())),
        Some(Ok(Response::Edits { edits })) => Ok(edits),
        Some(Ok(other)) => Err(Stop::Peer(format!("{} to AwaitCommitted", other.name()))),
        Some(Err(stop)) => Err(stop),
    }
}
