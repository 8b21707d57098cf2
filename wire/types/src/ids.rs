//! Newtypes for every identifier, so that two integers can never be swapped.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:032x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A block's name inside its block pool; never reused (the NameNode counts up, journaled).
    BlockId, u64, "blk_"
);
id!(
    /// Version of a block; raised on create, append, pipeline failure and recovery (E-16). A
    /// replica with a lower stamp than its block is stale (E-17).
    GenerationStamp, u64, ""
);
id!(
    /// Number of one edit, counting from 1 without gaps. `TxId(0)` means "before the first edit".
    TxId, u64, ""
);
id!(
    /// A writer's term at the JournalNodes (F-04). `Epoch(0)` means "no writer yet".
    Epoch, u64, ""
);
id!(
    /// An inode's number inside its namespace; the root is [`InodeId::ROOT`].
    InodeId, u64, ""
);
id!(
    /// Sequence of a mutating call within its client; with [`ClientId`] the key of the retry cache (F-06).
    CallId, u64, ""
);
uuid!(
    /// One client library instance, random at start.
    ClientId, "client-"
);
uuid!(
    /// A DataNode's lasting identity, made at its first start and kept on disk.
    DatanodeUuid, "dn-"
);
uuid!(
    /// One storage (volume) of a DataNode, made when the volume is formatted.
    StorageUuid, "DS-"
);

impl InodeId {
    /// The root directory's inode.
    pub const ROOT: Self = Self(1);
}

impl TxId {
    /// The following transaction.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// The following epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl GenerationStamp {
    /// The following stamp.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
