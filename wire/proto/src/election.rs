//! ElectionProtocol: who may be active, decided by a majority of JournalNodes (protocols.md section 2).
//!
//! A NameNode asks every JournalNode for the **active lease**; a majority of grants lets it claim the journal, and
//! serve once the claim is through. The holder is the caller: its name stands in its certificate, not in the message.
//! Everybody else may ask who is active.
//!
//! The JournalNode keeps all of this in memory only. After a start it grants nothing for one ttl of its own.

use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use alloc::string::String;
use hadal_types::Epoch;

/// The protocol towards JournalNodes about the active role.
pub struct ElectionProtocol;

impl Protocol for ElectionProtocol {
    const ID: ProtocolId = ProtocolId::Election;
    const VERSION: u16 = 1;
    type Request = Request;
    type Response = Response;
}

wire_struct! {
    /// Every call names the namespace it is about (F-15). [`Call::Ask`] is answered whatever stands here: clients do
    /// not know the number.
    #[derive(Hash)]
    pub struct Request {
        /// `NamespaceInfo::namespace_id`.
        pub namespace_id: u64,
        /// What is asked.
        pub call: Call,
    }
}

wire_enum! {
    /// The calls. All but [`Call::Ask`] are for NameNodes. A (term, seq) that is not above the highest one seen of the
    /// caller has no effect, so that duplicates and late messages are harmless.
    #[derive(Hash)]
    pub enum Call {
        /// Grant or renew the lease. Answered by [`Response::Granted`] or [`Response::Refused`].
        0 => Lease { lease: LeaseRequest },
        /// Gives up the lease or what was granted on the way to it. Answered by [`Response::View`].
        1 => Release { term: u64, seq: u64 },
        /// As Release, and for one ttl only NameNode `to` is granted the lease (hand-over). Reserves nothing unless the
        /// caller's lease runs here. Answered by [`Response::View`].
        2 => Reserve { term: u64, seq: u64, to: String },
        /// Who is active? Answered by [`Response::View`], in any standing; allowed to clients, DataNodes and operators.
        3 => Ask,
    }
}

wire_struct! {
    /// A NameNode asks for the lease, or renews it.
    #[derive(Copy, Hash)]
    pub struct LeaseRequest {
        /// Rises with every attempt of this NameNode, also across its restarts: a lease that lapsed is never resumed,
        /// it is asked for anew under a higher term.
        pub term: u64,
        /// Rises with every message of a term.
        pub seq: u64,
        /// How long the caller reckons a lease to last, in milliseconds. A JournalNode whose own leases are shorter
        /// refuses by fault, else both could be right at once about who holds it.
        pub ttl_ms: u32,
        /// The epoch the caller proposes or writes in; 0 before its first claim message. Not below the promise of the
        /// JournalNode, or it is refused (model-lease.md rule 1, rule 4).
        pub epoch: Epoch,
        /// The epoch this process served in last; 0 for none. Equal to the promise, it makes the caller the owner of the
        /// last epoch, who is asked first after an outage (T-A13).
        pub last_epoch: Epoch,
        /// The caller serves: its claim is through and applied.
        pub serving: bool,
    }
}

wire_enum! {
    /// The answers.
    #[derive(Hash)]
    pub enum Response {
        /// The lease is the caller's for one ttl from now on the JournalNode's clock. The caller counts a shorter time,
        /// from when it sent the request.
        0 => Granted { view: ActiveView },
        /// It is not.
        1 => Refused { refusal: Refusal, view: ActiveView },
        /// To everything else.
        2 => View { view: ActiveView },
    }
}

wire_enum! {
    /// Why there is no lease.
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub enum Refusal {
        /// The JournalNode started less than one ttl ago: it may have granted a lease it does not remember.
        0 => Silence,
        /// Another NameNode's lease runs.
        1 => Held,
        /// It is reserved for another NameNode.
        2 => Reserved,
        /// After its silence the JournalNode waits one more ttl for the owner of the last epoch.
        3 => OwnerFirst,
        /// The epoch of a renewal is below the promise ([`ActiveView::promised`]): a newer claimant exists.
        4 => BelowPromise,
        /// A message with this (term, seq) of the caller was here before: nothing was done.
        5 => Stale { term: u64, seq: u64 },
    }
}

wire_struct! {
    /// What a JournalNode knows about who is active. A hint: only a majority of grants decides.
    #[derive(Default, Hash)]
    pub struct ActiveView {
        /// Whose lease runs; empty: nobody's.
        pub holder: String,
        /// The epoch the holder proposed last; 0 before its first claim message.
        pub epoch: Epoch,
        /// The holder said that it serves.
        pub serving: bool,
        /// What is left of that lease here, in milliseconds.
        pub left_ms: u32,
        /// For whom the lease is reserved; empty: nobody.
        pub reserved_for: String,
        /// After this many milliseconds a request of the caller would be granted, if nothing happens meanwhile. 0: now.
        /// For others than NameNodes: when any NameNode's would. Does not count `owner_first_ms`.
        pub free_in_ms: u32,
        /// For this many milliseconds more only the owner of the last epoch is granted the lease (T-A13).
        pub owner_first_ms: u32,
        /// Highest epoch promised here.
        pub promised: Epoch,
    }
}
