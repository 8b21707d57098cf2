//! Which protocols there are, their versions, and which role may call which.

use crate::codec::Wire;
use hadal_types::Role;

/// A protocol's number on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ProtocolId {
    /// Clients to NameNodes.
    Client = 1,
    /// DataNodes to NameNodes.
    Datanode = 2,
    /// NameNodes (and peers) to JournalNodes.
    Qjournal = 3,
    /// Clients, DataNodes and NameNodes to DataNodes: small calls beside the block streams.
    Transfer = 4,
    /// Operators to every node.
    Admin = 5,
    /// NameNodes to JournalNodes about the active lease; everybody else may ask who is active.
    Election = 6,
    /// NameNodes to each other about health and hand-over.
    Ha = 7,
    /// Images between NameNodes, and from a NameNode to an operator.
    Image = 8,
}

impl ProtocolId {
    /// All protocols.
    pub const ALL: [Self; 8] = [
        Self::Client,
        Self::Datanode,
        Self::Qjournal,
        Self::Transfer,
        Self::Admin,
        Self::Election,
        Self::Ha,
        Self::Image,
    ];

    /// The protocol of that number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|id| *id as u8 == number)
    }

    /// The role table (reliability.md A2): who may open a stream of this protocol at all. Single calls
    /// may narrow it further.
    #[must_use]
    pub fn allows(self, caller: Role) -> bool {
        match self {
            Self::Client => matches!(caller, Role::Client | Role::Admin),
            Self::Datanode => caller == Role::Datanode,
            Self::Qjournal => matches!(caller, Role::Namenode | Role::Journalnode),
            Self::Transfer => matches!(
                caller,
                Role::Client | Role::Admin | Role::Datanode | Role::Namenode
            ),
            Self::Admin => caller == Role::Admin,
            Self::Election => caller != Role::Journalnode,
            Self::Ha => matches!(caller, Role::Namenode | Role::Admin),
            Self::Image => matches!(caller, Role::Namenode | Role::Admin),
        }
    }
}

/// A call protocol: its messages and version.
pub trait Protocol: 'static {
    /// Number on the wire.
    const ID: ProtocolId;
    /// Version spoken; a peer with another major one is refused by name.
    const VERSION: u16;
    /// What is asked.
    type Request: Wire;
    /// What is answered; errors are [`crate::Fault`]s.
    type Response: Wire;
}
