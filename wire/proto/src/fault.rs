//! What went wrong at the other side, in a form the caller can act on.

use crate::wire_enum;
use crate::wire_struct;
use alloc::string::String;
use core::fmt;

wire_enum! {
    /// The kind of a remote error; each has the Hadoop exception users know it by ([`FaultClass::hadoop_name`]).
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub enum FaultClass {
        /// No such file, directory, block or replica.
        0 => NotFound,
        /// The target exists already.
        1 => AlreadyExists,
        /// Permission denied.
        2 => AccessDenied,
        /// A path component is a file.
        3 => ParentNotDirectory,
        /// A directory was given where a file is needed.
        4 => IsDirectory,
        /// Recursive removal was not asked for.
        5 => NotEmpty,
        /// The path or a name in it is malformed, or another argument is out of range.
        6 => InvalidArgument,
        /// Namespace is read-only: `value` 0 by an operator's order; 1 after the start, until enough blocks are reported.
        7 => SafeMode,
        /// This NameNode is not the active one; `hint` names who is, when known.
        8 => Standby,
        /// A majority of JournalNodes does not answer; the message names them.
        9 => JournalUnavailable,
        /// The caller does not hold the file's lease.
        10 => LeaseExpired,
        /// Another client holds the file's lease.
        11 => AlreadyBeingCreated,
        /// Lease or block recovery is under way; try again.
        12 => RecoveryInProgress,
        /// The previous block has not reached minimal replication; try again.
        13 => NotReplicatedYet,
        /// No DataNode can take the block; try again or add nodes.
        14 => NoDatanodes,
        /// Over a quota.
        15 => QuotaExceeded,
        /// Known by name, not there in this version.
        16 => Unsupported,
        /// Over a bound; try again after `value` milliseconds.
        17 => Busy,
        /// The DataNode must register first.
        18 => UnregisteredNode,
        /// Software or layout versions do not fit.
        19 => IncorrectVersion,
        /// Another cluster, namespace or block pool.
        20 => IdentityMismatch,
        /// A newer writer was promised epoch `value`.
        21 => Fenced,
        /// The journal lacks what the request builds on; it expects txid `value` next.
        22 => OutOfSync,
        /// The disk under it failed or is full.
        23 => DiskFailed,
        /// A checksum did not match.
        24 => Corrupt,
        /// The replica or block has another generation stamp or state.
        25 => StaleReplica,
        /// The caller's role or token does not allow it.
        26 => Forbidden,
        /// The message could not be decoded.
        27 => BadRequest,
        /// The node is starting or stopping, or lost the active role before the outcome was known; try again.
        28 => Retry,
        /// This JournalNode may have forgotten promises and does not vote.
        29 => Learner,
        /// Anything else: a bug worth reporting.
        30 => Internal,
        /// This DataNode announces that it restarts: a writer may wait for it (HDFS's out-of-band acknowledgement).
        31 => Restarting,
    }
}

wire_struct! {
    /// A remote error.
    pub struct Fault {
        /// What kind; programs decide by it.
        pub class: FaultClass,
        /// For people: names the thing, the value and the remedy.
        pub message: String,
        /// A number some classes carry (milliseconds, an epoch, a txid).
        pub value: u64,
        /// A name some classes carry (the active NameNode's id).
        pub hint: String,
    }
}

impl Fault {
    /// A fault of this class.
    #[must_use]
    pub fn new(class: FaultClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            value: 0,
            hint: String::new(),
        }
    }

    /// With the number its class carries.
    #[must_use]
    pub fn with_value(self, value: u64) -> Self {
        Self { value, ..self }
    }

    /// With the name its class carries.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }

    /// Whether the same call may succeed a little later, at this or another NameNode.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        // Start-up safe mode ends by itself, one entered by hand does not (HDFS's RetriableException around it).
        (self.class == FaultClass::SafeMode && self.value > 0)
            || matches!(
                self.class,
                FaultClass::Standby
                    | FaultClass::JournalUnavailable
                    | FaultClass::RecoveryInProgress
                    | FaultClass::NotReplicatedYet
                    | FaultClass::Busy
                    | FaultClass::Retry
            )
    }
}

impl FaultClass {
    /// The exception Hadoop users know this by.
    #[must_use]
    pub fn hadoop_name(self) -> &'static str {
        match self {
            Self::NotFound => "FileNotFoundException",
            Self::AlreadyExists => "FileAlreadyExistsException",
            Self::AccessDenied => "AccessControlException",
            Self::ParentNotDirectory => "ParentNotDirectoryException",
            Self::IsDirectory => "PathIsDirectoryException",
            Self::NotEmpty => "PathIsNotEmptyDirectoryException",
            Self::InvalidArgument => "IllegalArgumentException",
            Self::SafeMode => "SafeModeException",
            Self::Standby => "StandbyException",
            Self::JournalUnavailable => "QuorumException",
            Self::LeaseExpired => "LeaseExpiredException",
            Self::AlreadyBeingCreated => "AlreadyBeingCreatedException",
            Self::RecoveryInProgress => "RecoveryInProgressException",
            Self::NotReplicatedYet => "NotReplicatedYetException",
            Self::NoDatanodes => "IOException",
            Self::QuotaExceeded => "QuotaExceededException",
            Self::Unsupported => "UnsupportedOperationException",
            Self::Busy | Self::Retry | Self::Restarting => "RetriableException",
            Self::UnregisteredNode => "UnregisteredNodeException",
            Self::IncorrectVersion => "IncorrectVersionException",
            Self::IdentityMismatch => "InconsistentFSStateException",
            Self::Fenced => "FencedException",
            Self::OutOfSync => "JournalOutOfSyncException",
            Self::DiskFailed => "DiskErrorException",
            Self::Corrupt => "ChecksumException",
            Self::StaleReplica => "ReplicaNotFoundException",
            Self::Forbidden => "AuthorizationException",
            Self::BadRequest => "RpcServerException",
            Self::Learner => "JournalNotFormattedException",
            Self::Internal => "RemoteException",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Fault {}
