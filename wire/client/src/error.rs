//! What can go wrong for a user of the library.

use hadal_datastream::PipelineError;
use hadal_env::NetError;
use hadal_proto::{Fault, FaultClass};
use hadal_quic::CallError;
use hadal_types::Block;
use thiserror::Error;

/// A failed operation.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The NameNode (or a DataNode) refused it; act on the class.
    #[error("{0}")]
    Fault(Fault),
    /// No NameNode could be reached in the retry window.
    #[error(
        "no NameNode answers ({namenodes}): {reason}; check that the cluster is up and the addresses in the client configuration are right"
    )]
    Unreachable {
        /// Who was asked.
        namenodes: String,
        /// What the last attempt met.
        reason: String,
    },
    /// A block's pipeline failed for good.
    #[error("{0}")]
    Pipeline(#[from] PipelineError),
    /// No replica of a block could be read.
    #[error("could not obtain block {block} of {path}: {reason}")]
    BlockMissing {
        /// Which block.
        block: Block,
        /// Of which file.
        path: String,
        /// What the last replica met.
        reason: String,
    },
    /// No DataNode says how far the open last block of a file can be read: less than was flushed is never shown
    /// instead (F-08, HDFS's `CannotObtainBlockLengthException`).
    #[error(
        "could not obtain the length of the open block {block} of {path}: {reason}; recover its lease if its writer is gone"
    )]
    LengthUnknown {
        /// Which block.
        block: Block,
        /// Of which file.
        path: String,
        /// What the DataNodes said.
        reason: String,
    },
    /// The file could not be closed in time.
    #[error(
        "could not close {path}: its last block has not reached minimal replication after {waited_ms} ms; the data is at the DataNodes, closing can be tried again"
    )]
    NotClosed {
        /// Which file.
        path: String,
        /// How long it was tried.
        waited_ms: u64,
    },
    /// The stream failed before or was closed; the first error told why.
    #[error("stream of {path} is closed")]
    StreamClosed {
        /// Which file.
        path: String,
    },
    /// A peer sent something that does not fit the protocol.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// The local endpoint or identity could not be set up.
    #[error("{0}")]
    Setup(String),
}

impl ClientError {
    /// The fault class, when a node refused the operation.
    #[must_use]
    pub fn class(&self) -> Option<FaultClass> {
        match self {
            Self::Fault(fault) => Some(fault.class),
            _ => None,
        }
    }

    /// Whether it says that there is no such path.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.class() == Some(FaultClass::NotFound)
    }
}

impl From<Fault> for ClientError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Why one attempt with one peer failed.
#[derive(Debug)]
pub(crate) enum Attempt {
    Fault(Fault),
    Net(String),
}

impl From<CallError> for Attempt {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Fault(fault) => Self::Fault(fault),
            other => Self::Net(other.to_string()),
        }
    }
}

impl From<NetError> for Attempt {
    fn from(error: NetError) -> Self {
        Self::Net(error.to_string())
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::Net(reason) => f.write_str(reason),
        }
    }
}
