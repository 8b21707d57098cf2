//! Calls that arrive while the active role comes here or goes from here: they wait the moment it takes, instead of being
//! sent away and coming back after a pause.

use crate::node::Node;
use hadal_env::Env;
use hadal_proto::client::{ClientCall, ClientProtocol};
use hadal_proto::encode;
use hadal_quic::Responder;
use hadal_types::{HaState, Principal};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Most calls that wait; more are answered as by a standby.
const PARKED_MAX: usize = 4096;
/// Most bytes of them, encoded: a single one may have the size of a frame.
const PARKED_BYTES_MAX: usize = 64 << 20;

/// A call, and whom its answer goes to.
type Answerable<R> = (ClientCall, R);

/// The calls, in the order of their arrival.
pub(crate) struct Parked<R = Responder<ClientProtocol>>(RefCell<Queue<R>>);

struct Queue<R> {
    calls: VecDeque<(Principal, ClientCall, R)>,
    bytes: usize,
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self {
            calls: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<R> Default for Parked<R> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<R> Parked<R> {
    /// Keeps a call; gives it back when there is no room.
    #[expect(clippy::result_large_err, reason = "what comes back is what went in")]
    pub(crate) fn push(
        &self,
        peer: &Principal,
        call: ClientCall,
        responder: R,
    ) -> Result<(), Answerable<R>> {
        let mut queue = self.0.borrow_mut();
        let bytes = encode(&call).len();
        if queue.calls.len() >= PARKED_MAX || queue.bytes + bytes > PARKED_BYTES_MAX {
            return Err((call, responder));
        }
        queue.bytes += bytes;
        queue.calls.push_back((peer.clone(), call, responder));
        Ok(())
    }
}

/// Once the role is taken, or was not to be had, the calls that wait are answered.
pub(crate) fn release<E: Env>(node: &Rc<Node<E>>) {
    if node.parked.0.borrow().calls.is_empty() || node.role_changes() {
        return;
    }
    let queue = node.parked.0.take();
    for (peer, call, responder) in queue.calls {
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

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_proto::client::Request;
    use hadal_types::{CallId, ClientId, Role, TxId};

    fn rename(bytes: usize) -> ClientCall {
        ClientCall {
            client: ClientId(1),
            call: CallId(1),
            seen: TxId(0),
            from_standby: false,
            request: Request::Rename {
                from: "/".into(),
                to: "x".repeat(bytes),
                overwrite: false,
            },
        }
    }

    /// Calls as large as frames may be do not fill the memory of who waits for its role; small ones still find room.
    #[test]
    fn waiting_calls_are_bounded_by_bytes_too() {
        let parked = Parked::<u32>::default();
        let peer = Principal {
            role: Role::Client,
            name: "u".into(),
        };
        let large = 7 << 20;
        for number in 0..9 {
            assert!(parked.push(&peer, rename(large), number).is_ok());
        }
        let (call, responder) = parked.push(&peer, rename(large), 9).expect_err("no room");
        assert_eq!((call, responder), (rename(large), 9));
        assert!(parked.push(&peer, rename(10), 10).is_ok());
    }
}
