//! Carrying out what the acknowledged active orders.

use crate::copy;
use crate::node::{ActorSlot, Node};
use crate::recovery;
use futures_util::StreamExt;
use futures_util::lock::Mutex;
use hadal_blockpool::Admission;
use hadal_env::Env;
use hadal_proto::datanode::{Action, ChangeKind, Command};
use hadal_types::Block;
use std::future::ready;
use std::rc::Rc;
use store_replica::{ReplicaStore, StoreError};

/// Deletions of one order that are under way at once.
const DELETIONS_AT_ONCE: usize = 32;

/// Admits the commands in order and starts those that run. A failure of one does not stop the rest.
pub(crate) fn run_all<E: Env>(node: &Rc<Node<E>>, slot: &ActorSlot, commands: Vec<Command>) {
    for command in commands {
        let admission = node.service.borrow_mut().admit(slot.index, &command);
        match admission {
            Admission::Run => run(node, slot, command.action),
            Admission::Repeated => {}
            Admission::Refuse(reason) => {
                let name = &slot.peer.name;
                tracing::warn!(
                    "{} from {name} is not obeyed: {reason}",
                    command.action.name()
                );
            }
        }
    }
}

fn run<E: Env>(node: &Rc<Node<E>>, slot: &ActorSlot, action: Action) {
    let now = node.env.now();
    match action {
        Action::Invalidate { blocks } => {
            node.doom(&blocks);
            node.env
                .spawn("datanode invalidate", invalidate(Rc::clone(node), blocks));
        }
        Action::Transfer { work } => {
            for work in work {
                node.env
                    .spawn("datanode copy", copy::copy(Rc::clone(node), work));
            }
        }
        Action::Register => slot.core.borrow_mut().handle_register_command(now),
        Action::ReportNow => {
            for slot in node.slots() {
                slot.core.borrow_mut().report_now(now);
                slot.wake.notify();
            }
        }
        Action::RecoverBlock { work } => recovery::recover_all(node, work),
        Action::BalancerBandwidth { bytes_per_s } => {
            node.balance.set_bytes_per_s(bytes_per_s);
            let rate = node.balance.bytes_per_s();
            tracing::info!("balancing may take {rate} bytes per second from now on");
        }
        other @ (Action::AccessKeyUpdate { .. } | Action::Shutdown) => {
            tracing::warn!("{} is not supported in this version", other.name());
        }
    }
}

/// Detaches the replicas, tells the NameNodes, then frees the bytes. Several are detached at once: each durably before it is
/// told, and those that wait at the same time share the device's flushes. Files are removed one by one, as that may
/// take the device a while.
async fn invalidate<E: Env>(node: Rc<Node<E>>, blocks: Vec<Block>) {
    let Ok(store) = node.store() else { return };
    let removing = Mutex::new(());
    let deletions = blocks
        .into_iter()
        .map(|block| invalidate_one(&node, &store, &removing, block));
    futures_util::stream::iter(deletions)
        .buffer_unordered(DELETIONS_AT_ONCE)
        .for_each(|()| ready(()))
        .await;
}

async fn invalidate_one<E: Env>(
    node: &Rc<Node<E>>,
    store: &ReplicaStore<E::Disk>,
    removing: &Mutex<()>,
    block: Block,
) {
    match store.delete(block.id, block.generation_stamp).await {
        Ok(deleted) => {
            node.report_change(deleted.storage, deleted.block, ChangeKind::Deleted);
            let _turn = removing.lock().await;
            if let Err(error) = store.collect(deleted).await {
                tracing::warn!("freeing the bytes of {block}: {error}");
            }
        }
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => {
            tracing::warn!("deleting {block}: {error}");
            node.alarm.notify();
        }
    }
    node.spare(&block);
}
