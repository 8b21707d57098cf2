//! The task that changes the disk: one operation after the other, appends together.

use crate::load::edits_dir;
use crate::node::Node;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::{FuturesOrdered, StreamExt};
use hadal_env::Env;
use hadal_qjournal::acceptor::{AcceptorRecord, StoreOp, WriteId};
use std::pin::pin;
use std::rc::Rc;
use store_journal::{Batch, Behind, Journal, Options, Place, Start};
use store_record::Record;

type Appends = FuturesOrdered<LocalBoxFuture<'static, (WriteId, Result<(), String>)>>;

/// Carries out the core's writes for ever.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>) {
    let mut record = node.record.borrow_mut().take().expect("taken once");
    let mut appends: Appends = FuturesOrdered::new();
    loop {
        let mark = node.write_wake.mark();
        admit_appends(&node, &mut appends);
        if !appends.is_empty() {
            // More may join the group commit while it is under way.
            let changed = pin!(node.write_wake.changed(mark));
            if let Either::Left((Some((write, outcome)), _)) = select(appends.next(), changed).await
            {
                stored(&node, write, outcome);
            }
            continue;
        }
        let next = node.writes.borrow_mut().pop_front();
        match next {
            None => node.write_wake.changed(mark).await,
            Some((write, op)) => {
                let outcome = perform(&node, &mut record, op).await;
                stored(&node, write, outcome);
            }
        }
    }
}

fn stored<E: Env>(node: &Rc<Node<E>>, write: WriteId, outcome: Result<(), String>) {
    let now = node.env.now();
    node.acceptor
        .borrow_mut()
        .handle_stored(now, write, outcome);
    node.pump();
}

/// Hands the appends at the head of the queue to the journal, which makes one write of them.
fn admit_appends<E: Env>(node: &Rc<Node<E>>, appends: &mut Appends) {
    loop {
        let mut writes = node.writes.borrow_mut();
        if !matches!(writes.front(), Some((_, StoreOp::Append { .. }))) {
            return;
        }
        // Opening the segment again after a restart is an operation of its own: nothing else may be under way.
        let open = node.journal.borrow().as_ref().and_then(|j| j.tail());
        let Some((_, StoreOp::Append { segment, .. })) = writes.front() else {
            return;
        };
        if open.is_none_or(|tail| tail.first != *segment) {
            return;
        }
        let Some((write, op)) = writes.pop_front() else {
            return;
        };
        drop(writes);
        let node = Rc::clone(node);
        appends.push_back(Box::pin(async move { (write, append(&node, op).await) }));
    }
}

async fn append<E: Env>(node: &Rc<Node<E>>, op: StoreOp) -> Result<(), String> {
    let StoreOp::Append {
        segment,
        first,
        records,
        digest_before,
        digest_end,
        ..
    } = op
    else {
        return Err("not an append".into());
    };
    let journal = journal(node)?;
    if journal.tail().is_none_or(|tail| tail.first != segment) {
        journal.resume(segment).await.map_err(text)?;
    }
    let batch = Batch::verify(records, first, digest_before.0).map_err(text)?;
    assert_eq!(
        batch.digest(),
        digest_end.0,
        "the core compared the digests"
    );
    journal.append(batch).await.map_err(text)?;
    Ok(())
}

async fn perform<E: Env>(
    node: &Rc<Node<E>>,
    record: &mut Record<E::Disk>,
    op: StoreOp,
) -> Result<(), String> {
    match op {
        StoreOp::Record(content) => store_record(node, record, &content).await,
        StoreOp::Format { namespace_id } => {
            let dir = edits_dir(&node.config.dir);
            let disk = node.env.disk();
            *node.journal.borrow_mut() = None;
            Journal::erase(disk, &dir).await.map_err(text)?;
            let mut options = Options::new(namespace_id);
            options.initial_bytes = node.config.segment_bytes;
            let journal = Journal::open(disk, &dir, options, hadal_types::TxId(0)).await;
            *node.journal.borrow_mut() = Some(Rc::new(journal.map_err(text)?));
            Ok(())
        }
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
            let journal = journal(node)?;
            let started = journal.start_segment(first, epoch, digest_before.0, start);
            started.await.map_err(text).map(|_| ())
        }
        StoreOp::Append { .. } => append(node, op).await,
        StoreOp::Finalize { first, last } => {
            let finalised = journal(node)?;
            let finalised = finalised.finalise(first, last, None).await;
            finalised.map_err(text).map(|_| ())
        }
        StoreOp::Install { fetch, segment } => {
            let copy = node.copies.borrow_mut().remove(&fetch);
            let copy =
                copy.ok_or_else(|| format!("the copy of segment {} is gone", segment.first))?;
            let journal = journal(node)?;
            let place = if segment.finalized {
                Place::Finalised
            } else {
                Place::InProgress
            };
            let installed = journal.install(copy, place, Behind::Cut).await;
            installed.map_err(text).map(|_| ())
        }
        StoreOp::Purge { below } => {
            let purged = journal(node)?.purge(below).await.map_err(text)?;
            tracing::info!("purged {} segments below {below}", purged.segments.len());
            Ok(())
        }
    }
}

async fn store_record<E: Env>(
    node: &Rc<Node<E>>,
    record: &mut Record<E::Disk>,
    content: &AcceptorRecord,
) -> Result<(), String> {
    let encoded = hadal_proto::encode(content);
    record.store(&encoded).await.map_err(text)?;
    if let Some(journal) = &*node.journal.borrow() {
        journal.note_committed(content.mark.txid);
    }
    Ok(())
}

fn journal<E: Env>(node: &Rc<Node<E>>) -> Result<Rc<Journal<E::Disk>>, String> {
    let journal = node.journal.borrow().clone();
    journal.ok_or_else(|| "no journal is open".into())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
