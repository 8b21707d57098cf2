//! States of replicas, blocks and NameNodes.

use core::fmt;

/// State of one replica on a DataNode (E-08..E-12). The order is "how much it is worth" in block
/// recovery: FINALIZED beats RBW beats RWR (E-19).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReplicaState {
    /// Copy in flight, invisible to readers, deleted when the copy fails and at restart.
    Temporary,
    /// Taking part in block recovery; remembers the state it had before.
    Rur,
    /// What an RBW becomes when the DataNode restarts.
    Rwr,
    /// Being written, readable up to its visible length.
    Rbw,
    /// Frozen length.
    Finalized,
}

/// State of a block at the NameNode (E-13), not persisted except as "complete or last of an open file".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BlockState {
    /// Last block of an open file.
    UnderConstruction,
    /// Block recovery was started.
    UnderRecovery,
    /// Length and stamp fixed, min-replication not yet reported.
    Committed,
    /// Min-replication FINALIZED replicas reported.
    Complete,
}

/// What a NameNode says it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum HaState {
    /// Starting, or between roles: serves nothing.
    #[default]
    Initializing,
    /// Serves clients and commands DataNodes.
    Active,
    /// Follows the journal, ready to take over.
    Standby,
    /// Follows the journal, serves opt-in reads, never elected directly.
    Observer,
}

impl fmt::Display for HaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initializing => "initializing",
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Observer => "observer",
        })
    }
}

impl fmt::Display for ReplicaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Temporary => "TEMPORARY",
            Self::Rur => "RUR",
            Self::Rwr => "RWR",
            Self::Rbw => "RBW",
            Self::Finalized => "FINALIZED",
        })
    }
}
