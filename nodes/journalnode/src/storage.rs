//! Carrying out the acceptor's writes, in order, each durable before the next; appends that follow each other share a
//! sync (the journal groups what waits).

use crate::load::segments_dir;
use crate::node::Node;
use futures_util::StreamExt;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::FuturesOrdered;
use hadal_env::Env;
use hadal_proto::encode;
use hadal_qjournal::acceptor::{StoreOp, WriteId};
use std::pin::pin;
use std::rc::Rc;
use store_journal::{Batch, Behind, Journal, Options, Place, Start};

type Appends = FuturesOrdered<LocalBoxFuture<'static, (WriteId, Result<(), String>)>>;

/// Runs for as long as the process.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>) {
    let mut appends: Appends = FuturesOrdered::new();
    loop {
        let mark = node.ops_wake.mark();
        let next = {
            let mut ops = node.ops.borrow_mut();
            let is_append = matches!(ops.front(), Some((_, StoreOp::Append { .. })));
            if is_append || appends.is_empty() {
                ops.pop_front()
            } else {
                None
            }
        };
        match next {
            Some((write, op @ StoreOp::Append { .. })) => {
                // Polled at once, so that the journal takes the batches in order.
                let node = Rc::clone(&node);
                appends.push_back(Box::pin(async move { (write, perform(&node, op).await) }));
            }
            Some((write, op)) => {
                let outcome = perform(&node, op).await;
                stored(&node, write, outcome);
            }
            None if appends.is_empty() => node.ops_wake.changed(mark).await,
            None => {
                let done = pin!(appends.next());
                let woken = pin!(node.ops_wake.changed(mark));
                if let Either::Left((Some((write, outcome)), _)) = select(done, woken).await {
                    stored(&node, write, outcome);
                }
            }
        }
    }
}

fn stored<E: Env>(node: &Rc<Node<E>>, write: WriteId, outcome: Result<(), String>) {
    if let Err(reason) = &outcome {
        tracing::error!("{reason}");
    }
    node.acceptor
        .borrow_mut()
        .handle_stored(node.env.now(), write, outcome);
    node.turn();
}

async fn perform<E: Env>(node: &Rc<Node<E>>, op: StoreOp) -> Result<(), String> {
    match op {
        StoreOp::Record(record) => {
            // Only this task takes the record, one write at a time.
            let mut file = node
                .record
                .borrow_mut()
                .take()
                .expect("one write at a time");
            let outcome = file
                .store(&encode(&record))
                .await
                .map_err(|error| error.to_string());
            *node.record.borrow_mut() = Some(file);
            outcome
        }
        StoreOp::Format { namespace_id } => {
            let dir = segments_dir(&node.config.dir);
            let disk = node.env.disk();
            *node.journal.borrow_mut() = None;
            node.copies.borrow_mut().clear();
            Journal::erase(disk, &dir)
                .await
                .map_err(|error| error.to_string())?;
            let opened =
                Journal::open(disk, &dir, Options::new(namespace_id), hadal_types::TxId(0)).await;
            let journal = opened.map_err(|error| error.to_string())?;
            *node.journal.borrow_mut() = Some(Rc::new(journal));
            Ok(())
        }
        other => {
            let journal = node
                .journal
                .borrow()
                .clone()
                .ok_or("the journal is not formatted")?;
            perform_on(node, &journal, other).await
        }
    }
}

async fn perform_on<E: Env>(
    node: &Rc<Node<E>>,
    journal: &Journal<E::Disk>,
    op: StoreOp,
) -> Result<(), String> {
    let outcome = match op {
        StoreOp::Start {
            first,
            epoch,
            digest_before,
            restart,
        } => {
            let start = if restart {
                Start::Restart
            } else {
                Start::Fresh
            };
            journal
                .start_segment(first, epoch, digest_before.0, start)
                .await
                .map(|_| ())
        }
        StoreOp::Append {
            segment,
            first,
            records,
            digest_before,
            ..
        } => {
            if journal.tail().is_none_or(|tail| tail.first != segment) {
                journal
                    .resume(segment)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            let batch = Batch::verify(records, first, digest_before.0)
                .map_err(|error| error.to_string())?;
            journal.append(batch).await.map(|_| ())
        }
        StoreOp::Finalize { first, last } => journal.finalise(first, last, None).await.map(|_| ()),
        StoreOp::Install { fetch, segment } => {
            let copy = node
                .copies
                .borrow_mut()
                .remove(&fetch)
                .ok_or("the fetched copy is gone")?;
            let place = if segment.finalized {
                Place::Finalised
            } else {
                Place::InProgress
            };
            // Recovery has decided that the log ends with the copy.
            journal.install(copy, place, Behind::Cut).await.map(|_| ())
        }
        StoreOp::Purge { below } => journal.purge(below).await.map(|_| ()),
        StoreOp::Record(_) | StoreOp::Format { .. } => unreachable!("handled by the caller"),
    };
    outcome.map_err(|error| error.to_string())
}
