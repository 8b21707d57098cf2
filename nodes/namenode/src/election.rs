//! The failover controller's hands: its calls to JournalNodes and peers, its orders to the life, and role changes that
//! operators and peers ask for.

use crate::links;
use crate::node::{Node, Ordering};
use crate::peers;
use hadal_env::Env;
use hadal_failover::{Command, CommandError, CommandId, Output, StepDownReason};
use hadal_proto::{Fault, FaultClass, admin, election, ha};
use hadal_quic::{CallError, Responder};
use hadal_types::HaState;
use std::rc::Rc;

/// Who claims the journal begins no image for so long (`preventCheckpointsUntil`): longer than a claim may take.
const PREVENT_MS: u64 = 30_000;
/// Between two looks at the NameNode's own health.
const PROBE_INTERVAL_MS: u64 = 1_000;

/// Most orders that wait for the life: the controller gives the next one when the last was carried out, but for one that
/// ends it.
const ORDERS_MAX: usize = 8;

/// What the life must do about its role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Claim the journal and serve.
    Claim,
    /// Stop at once.
    StepDown(StepDownReason),
    /// Finish what was accepted, then leave the role to this NameNode.
    HandOver { to: String, reason: String },
    /// Become standby or observer.
    Follow(HaState),
}

/// Does what the controller wants; `true` when there was something.
pub(crate) fn turn<E: Env>(node: &Rc<Node<E>>) -> bool {
    let mut any = false;
    loop {
        let output = node.controller.borrow_mut().poll_output();
        let Some(output) = output else { return any };
        any = true;
        match output {
            Output::Call { jn, id, request } => {
                let node = Rc::clone(node);
                let env = node.env.clone();
                env.spawn("namenode election call", async move {
                    let outcome = ask(&node, jn, &request).await;
                    let now = node.env.now();
                    let mut controller = node.controller.borrow_mut();
                    match outcome {
                        Ok(outcome) => controller.handle_reply(now, jn, id, outcome),
                        Err(reason) => controller.handle_call_failed(now, jn, id, &reason),
                    }
                    drop(controller);
                    node.kick();
                });
            }
            Output::CallPeer { peer, id, request } => {
                let node = Rc::clone(node);
                let env = node.env.clone();
                env.spawn("namenode peer call", async move {
                    let at = node
                        .config
                        .peers
                        .iter()
                        .position(|known| known.name == peer);
                    let at = at.expect("the controller knows the peers of the configuration");
                    let outcome = peers::ask(&node, at, &request).await;
                    let now = node.env.now();
                    let mut controller = node.controller.borrow_mut();
                    match outcome {
                        Ok(outcome) => controller.handle_peer_reply(now, &peer, id, outcome),
                        Err(reason) => controller.handle_peer_failed(now, &peer, id, &reason),
                    }
                    drop(controller);
                    node.kick();
                });
            }
            Output::StartClaim => match look_for_bar(node) {
                Some(reason) => {
                    let mut controller = node.controller.borrow_mut();
                    controller.handle_claim_failed(node.env.now(), &reason);
                }
                None => {
                    // A claim is waited for, an image is not (C-06).
                    let until = node.env.now().after_ms(PREVENT_MS);
                    node.images.policy.borrow_mut().prevent(until);
                    order(node, Order::Claim);
                }
            },
            Output::StepDown { reason } => order(node, Order::StepDown(reason)),
            Output::HandOver { to, reason } => order(node, Order::HandOver { to, reason }),
            Output::Follow { state } => order(node, Order::Follow(state)),
            Output::CommandDone { command, outcome } => finish(node, command, outcome),
        }
    }
}

/// Tells the controller whether this NameNode may become active, as it is now; why not.
fn look_for_bar<E: Env>(node: &Rc<Node<E>>) -> Option<String> {
    let reason = node.barred();
    let mut controller = node.controller.borrow_mut();
    controller.handle_barred(node.env.now(), reason.clone());
    reason
}

fn order<E: Env>(node: &Rc<Node<E>>, order: Order) {
    let mut orders = node.orders.borrow_mut();
    orders.push_back(order);
    node.env
        .queue_length("orders of the controller", orders.len(), ORDERS_MAX);
    drop(orders);
    node.kick();
}

/// The JournalNode's answer, or why there is none.
async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    jn: usize,
    request: &election::Request,
) -> Result<Result<election::Response, Fault>, String> {
    let Some(client) = node.links[jn].election() else {
        return Err("not connected".into());
    };
    let ttl_ms = u64::from(node.config.ha.lease_ttl_ms);
    let deadline = node.env.now().after_ms(ttl_ms);
    match links::in_time(&node.env, deadline, client.call(request)).await {
        Some(Ok(response)) => Ok(Ok(response)),
        Some(Err(CallError::Fault(fault))) => Ok(Err(fault)),
        Some(Err(error)) => Err(error.to_string()),
        None => Err(format!("no answer within {ttl_ms} ms")),
    }
}

/// A role change that an operator or a peer asks for; answered when it is over.
pub(crate) fn command<E: Env>(node: &Rc<Node<E>>, command: Command, whom: Ordering) {
    let id = CommandId(node.next_command.get());
    node.next_command.set(id.0 + 1);
    node.commands.borrow_mut().insert(id, whom);
    look_for_bar(node);
    node.controller
        .borrow_mut()
        .handle_command(node.env.now(), id, command);
    node.kick();
}

fn finish<E: Env>(node: &Rc<Node<E>>, id: CommandId, outcome: Result<(), CommandError>) {
    let Some(whom) = node.commands.borrow_mut().remove(&id) else {
        return;
    };
    let outcome = outcome.map_err(|error| Fault::new(class(&error), error.to_string()));
    match whom {
        Ordering::Operator(responder) => {
            responder.answer(outcome.map(|()| admin::Response::Done));
        }
        Ordering::Peer(responder) => responder.answer(outcome.map(|()| ha::Response::Done)),
    }
}

fn class(error: &CommandError) -> FaultClass {
    match error {
        CommandError::Busy => FaultClass::Busy,
        _ => FaultClass::InvalidArgument,
    }
}

/// Looks after the NameNode's health and tells the controller, for ever.
pub(crate) async fn probe<E: Env>(node: Rc<Node<E>>) {
    loop {
        let now = node.env.now();
        let health = node.health();
        let outcome = if health.healthy {
            Ok(())
        } else {
            Err(health.reason)
        };
        node.controller.borrow_mut().handle_health(now, outcome);
        look_for_bar(&node);
        node.kick();
        node.env.sleep_until(now.after_ms(PROBE_INTERVAL_MS)).await;
    }
}

/// A call of HaProtocol arrived.
pub(crate) fn peer_call<E: Env>(
    node: &Rc<Node<E>>,
    request: ha::Request,
    responder: Responder<ha::HaProtocol>,
) {
    match request {
        ha::Request::GetHealth => {
            let health = node.health();
            responder.answer(Ok(ha::Response::Health { health }));
        }
        ha::Request::Stand { from } => {
            look_for_bar(node);
            let stood = node
                .controller
                .borrow_mut()
                .handle_stand(node.env.now(), &from);
            node.kick();
            responder.answer(stood.map(|()| ha::Response::Done));
        }
        ha::Request::Yield { to, force_active } => command(
            node,
            Command::FailoverTo {
                peer: to,
                force_active,
            },
            Ordering::Peer(responder),
        ),
    }
}
