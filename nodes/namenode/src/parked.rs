//! Calls that arrive while the active role comes here or goes from here: they wait the moment it takes, instead of being
//! sent away and coming back after a pause.

use crate::node::Node;
use hadal_env::Env;
use hadal_proto::client::{ClientCall, ClientProtocol};
use hadal_quic::Responder;
use hadal_types::{HaState, Principal};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Most calls that wait; more are answered as by a standby.
const PARKED_MAX: usize = 4096;

/// The calls, in the order of their arrival.
#[derive(Default)]
pub(crate) struct Parked(RefCell<VecDeque<(Principal, ClientCall, Responder<ClientProtocol>)>>);

impl Parked {
    /// Keeps a call; gives the responder back when there is no room.
    pub(crate) fn push(
        &self,
        peer: &Principal,
        call: ClientCall,
        responder: Responder<ClientProtocol>,
    ) -> Result<(), Responder<ClientProtocol>> {
        let mut calls = self.0.borrow_mut();
        if calls.len() >= PARKED_MAX {
            return Err(responder);
        }
        calls.push_back((peer.clone(), call, responder));
        Ok(())
    }
}

/// Once the role is taken, or was not to be had, the calls that wait are answered.
pub(crate) fn release<E: Env>(node: &Rc<Node<E>>) {
    if node.parked.0.borrow().is_empty() || node.role_changes() {
        return;
    }
    let calls = std::mem::take(&mut *node.parked.0.borrow_mut());
    for (peer, call, responder) in calls {
        node.client_call(&peer, call, responder);
    }
}

impl<E: Env> Node<E> {
    /// The role is on its way to this NameNode, or away from it.
    pub(crate) fn role_changes(&self) -> bool {
        let slot = self.namesystem.borrow();
        let standby = slot
            .as_ref()
            .is_some_and(|namesystem| namesystem.state() == HaState::Standby);
        self.handing_over.get() || standby && self.controller.borrow().is_standing()
    }
}
