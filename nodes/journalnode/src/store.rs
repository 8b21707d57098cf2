//! The task that changes the disk: one operation after the other, appends together.

use crate::node::Node;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::{FuturesOrdered, StreamExt};
use hadal_env::Env;
use hadal_qjournal::acceptor::{StoreOp, WriteId};
use std::pin::pin;
use std::rc::Rc;

type Appends = FuturesOrdered<LocalBoxFuture<'static, (WriteId, Result<(), String>)>>;

/// Carries out the core's writes for ever.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>) {
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
                let outcome = node.directory.perform(op).await;
                stored(&node, write, outcome);
                if node.directory.has_leftovers() {
                    node.env.spawn("journalnode sweep", sweep(Rc::clone(&node)));
                }
            }
        }
    }
}

/// What takes long and appends need not wait for (T-Q13).
async fn sweep<E: Env>(node: Rc<Node<E>>) {
    if let Err(reason) = node.directory.sweep().await {
        node.disk_failed(&reason);
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
        let open = node.directory.journal().and_then(|journal| journal.tail());
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
        appends.push_back(Box::pin(async move {
            (write, node.directory.perform(op).await)
        }));
    }
}
