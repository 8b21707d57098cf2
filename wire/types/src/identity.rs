//! Who a peer is, and which namespace it belongs to (F-15).

use alloc::string::String;
use core::fmt;

/// Layout of everything Hadal keeps on disk. A node refuses data of a layout it does not know, by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LayoutVersion(pub u32);

/// The layout this build writes.
pub const CURRENT_LAYOUT: LayoutVersion = LayoutVersion(1);

/// Name of a cluster, chosen at format (`CID-...`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClusterId(pub String);

/// Name of a namespace's block pool (`BP-...`), chosen at format.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockPoolId(pub String);

/// What every exchange between nodes agrees on before anything else (A-09, F-15, T-J12).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NamespaceInfo {
    /// Layout of the data on disk.
    pub layout: LayoutVersion,
    /// Random number chosen at format.
    pub namespace_id: u64,
    /// Name of the cluster.
    pub cluster_id: ClusterId,
    /// Name of the block pool.
    pub block_pool_id: BlockPoolId,
    /// Wall time of the format, milliseconds since 1970.
    pub created_ms: u64,
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BlockPoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The role written in a certificate; it decides which calls its holder may make.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// A NameNode.
    Namenode,
    /// A JournalNode.
    Journalnode,
    /// A DataNode.
    Datanode,
    /// A user; the certificate's common name is the user name.
    Client,
    /// An operator: a client that may also call the admin protocol.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [
        Self::Namenode,
        Self::Journalnode,
        Self::Datanode,
        Self::Client,
        Self::Admin,
    ];

    /// The word in certificates and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namenode => "namenode",
            Self::Journalnode => "journalnode",
            Self::Datanode => "datanode",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A verified peer: the role and common name of its certificate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Principal {
    /// What it may do.
    pub role: Role,
    /// Node id (`nn1`) or user name.
    pub name: String,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role, self.name)
    }
}
