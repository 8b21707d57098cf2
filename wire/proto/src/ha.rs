//! HaProtocol: what NameNodes ask each other, and operators ask of one, about the active role (behaviour F-13).

use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use alloc::string::String;
use hadal_types::{Epoch, HaState, TxId};

/// The protocol between NameNodes.
pub struct HaProtocol;

impl Protocol for HaProtocol {
    const ID: ProtocolId = ProtocolId::Ha;
    const VERSION: u16 = 1;
    type Request = Request;
    type Response = Response;
}

wire_enum! {
    /// What is asked.
    #[derive(Hash)]
    pub enum Request {
        /// How are you? Answered by [`Response::Health`] in any state.
        0 => GetHealth,
        /// The caller, `from`, gave up the lease in your favour: stand for election now, whatever `ha.automatic` says.
        /// Answered by Done once the receiver stands, not once it is active; [`Request::GetHealth`] tells the rest. Refused
        /// with a reason by a NameNode that is not ready.
        1 => Stand { from: String },
        /// Give the active role up in favour of NameNode `to`. Answered by Done when `to` is active.
        2 => Yield { to: String, force_active: bool },
    }
}

wire_enum! {
    /// The answers; a refusal is a fault.
    #[derive(Hash)]
    pub enum Response {
        /// Done.
        0 => Done,
        /// To GetHealth.
        1 => Health { health: Health },
    }
}

wire_struct! {
    /// How a NameNode is.
    #[derive(Default, Hash)]
    pub struct Health {
        /// Its role.
        pub state: HaState,
        /// Whether it could serve: its last probes of itself were good.
        pub healthy: bool,
        /// What is wrong; empty when healthy.
        pub reason: String,
        /// Whether it could take over by order now: loaded, not in safe mode (T-A5), and with a full report of every storage
        /// of live DataNodes (Q5). An election waits for none of that.
        pub ready: bool,
        /// Why not; empty when ready.
        pub not_ready: String,
        /// Last edit applied.
        pub applied: TxId,
        /// Last edit it knows to be committed.
        pub committed: TxId,
        /// For how long it has been behind what it knows to be committed, in milliseconds; 0 when it is not.
        pub lag_ms: u64,
        /// The epoch it serves or follows.
        pub epoch: Epoch,
    }
}
