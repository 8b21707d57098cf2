//! The task that makes images on a standby and uploads them; what and when is [`hadal_namesystem::Checkpointer`]'s.

use crate::checkpoint::{self, Saved};
use crate::node::Node;
use crate::upload::upload;
use futures_util::future::select;
use hadal_env::Env;
use hadal_namesystem::{CheckpointOrder, Namesystem};
use hadal_types::{HaState, TxId};
use std::pin::pin;
use std::rc::Rc;

/// How soon a change of role is noticed that nobody told of.
const ROLE_CHECK_MS: u64 = 1_000;

/// Runs for ever; acts only while the role is standby. Work in progress when the role ends is given up by itself, and
/// nobody waits for it (C-06, F-12).
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>) {
    let images = Rc::clone(&node.images);
    let mut was_standby = false;
    loop {
        let mark = images.wake.mark();
        let now = node.env.now();
        let (standby, applied, image) = look(&node);
        if standby != was_standby {
            was_standby = standby;
            let mut policy = images.policy.borrow_mut();
            match standby {
                true => policy.handle_standby(now, image),
                false => policy.handle_role_ended(),
            }
        }
        let order = images.policy.borrow_mut().poll_order(now, applied);
        match order {
            Some(CheckpointOrder::Save) => {
                save(&node).await;
                continue;
            }
            Some(CheckpointOrder::Upload { txid, targets }) => {
                for number in targets {
                    let node = Rc::clone(&node);
                    let env = node.env.clone();
                    env.spawn("namenode image upload", send(node, number, txid));
                }
                continue;
            }
            None => {}
        }
        let due = images.policy.borrow().poll_timeout();
        let look = now.after_ms(ROLE_CHECK_MS);
        let until = due.map_or(look, |due| due.min(look));
        let woken = pin!(images.wake.changed(mark));
        select(woken, pin!(node.env.sleep_until(until))).await;
    }
}

/// Whether this is a standby, its last edit, its newest image.
fn look<E: Env>(node: &Node<E>) -> (bool, TxId, TxId) {
    match node.namesystem.borrow().as_ref() {
        Some(namesystem) => (
            namesystem.state() == HaState::Standby,
            namesystem.applied(),
            namesystem.last_checkpoint(),
        ),
        None => (false, TxId(0), TxId(0)),
    }
}

fn is_standby<E: Env>(node: &Node<E>) -> bool {
    let slot = node.namesystem.borrow();
    slot.as_ref().map(Namesystem::state) == Some(HaState::Standby)
}

async fn save<E: Env>(node: &Rc<Node<E>>) {
    let saved = checkpoint::save_standby(node, &|| !is_standby(node)).await;
    let now = node.env.now();
    let mut policy = node.images.policy.borrow_mut();
    match saved {
        Ok(Saved::Published(txid)) => policy.handle_saved(now, txid),
        Ok(Saved::Cancelled) => {
            tracing::info!("the checkpoint was cancelled: this is a standby no more");
            policy.handle_cancelled();
        }
        Err(fault) => {
            tracing::warn!("no checkpoint: {fault}");
            policy.handle_save_failed(now);
        }
    }
}

async fn send<E: Env>(node: Rc<Node<E>>, number: usize, txid: TxId) {
    let peer = &node.config.peers[number];
    let outcome = upload(&node.images, peer, txid, &|| !is_standby(&node)).await;
    let now = node.env.now();
    let mut policy = node.images.policy.borrow_mut();
    policy.handle_uploaded(now, number, txid, outcome);
    if outcome == hadal_namesystem::UploadOutcome::Cancelled {
        policy.handle_cancelled();
    }
    drop(policy);
    node.images.wake.notify();
}
