//! A standby's subscription to committed edits (Q20): carries out what the [`Tail`] wants.

use crate::catch_up::{applied, apply};
use crate::error::RunError;
use crate::links::{self, in_time};
use crate::node::Node;
use hadal_env::Env;
use hadal_journalnode::log_digest;
use hadal_proto::qjournal::{CommitMark, LogDigest};
use hadal_qjournal::tail::{Output, Tail, TailConfig};
use hadal_types::Tick;
use std::future::{Future, pending};
use std::pin::Pin;
use std::rc::Rc;

/// Applies committed edits for ever; `digest` is the journal's at the last applied one. Ends only with what cannot be
/// mended.
pub(crate) async fn follow<E: Env>(node: &Rc<Node<E>>, digest: &mut LogDigest) -> RunError {
    let names = node.config.journalnodes.iter();
    let config = TailConfig::new(
        names.map(|peer| peer.name.clone()).collect(),
        node.config.namesystem.info.namespace_id,
        log_digest,
    );
    let position = CommitMark {
        txid: applied(node),
        digest: *digest,
    };
    let mut tail = Tail::new(config, position);
    let mut call: Pin<Box<dyn Future<Output = _>>> = Box::pin(pending());
    loop {
        while let Some(output) = tail.poll_output() {
            match output {
                Output::Call { jn, id, request } => {
                    let node = Rc::clone(node);
                    call = Box::pin(async move { (id, links::ask(&node, jn, &request).await) });
                }
                Output::Edits(edits) => {
                    if let Err(error) = apply(node, edits, digest) {
                        return error;
                    }
                    node.kick();
                }
                Output::Missing { from, asked } => tracing::error!(
                    "edit {from} is missing on the JournalNodes that answer ({}): if it was purged, this NameNode needs a newer image (`hadal namenode -bootstrapStandby -force`)",
                    asked.join("; ")
                ),
            }
        }
        let missing = tail.committed().0.saturating_sub(tail.position().txid.0);
        let behind = missing > 0;
        node.behind_txids.set(missing);
        let since = node.behind_since.get().unwrap_or(node.env.now());
        node.behind_since.set(behind.then_some(since));
        let until = tail.poll_timeout().unwrap_or(Tick::NEVER);
        let answered = in_time(&node.env, until, call.as_mut()).await;
        match answered {
            Some((id, outcome)) => {
                call = Box::pin(pending());
                tail.handle_reply(node.env.now(), id, outcome);
            }
            None => tail.handle_timeout(node.env.now()),
        }
    }
}
