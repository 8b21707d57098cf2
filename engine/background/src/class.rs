//! Kinds of background work.

/// A kind of background work: its own queue, shares and byte budget, so that none holds up another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Saving and loading checkpoint images.
    Checkpoint,
    /// Reading images for other nodes.
    Transfer,
    /// Block and directory scanners.
    Scan,
    /// Reading blocks that lack replicas.
    Rereplication,
    /// Reading blocks the balancer moves.
    Balance,
}

impl Class {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 5] = [
        Self::Checkpoint,
        Self::Transfer,
        Self::Scan,
        Self::Rereplication,
        Self::Balance,
    ];

    /// Position in [`Class::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Name for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Transfer => "transfer",
            Self::Scan => "scan",
            Self::Rereplication => "rereplication",
            Self::Balance => "balance",
        }
    }
}

/// Shares of the executor's time when several classes want it: what brings back safety first (images
/// for a standby, lost replicas), what can wait last.
pub(crate) const DEFAULT_SHARES: [usize; Class::ALL.len()] = [300, 300, 50, 300, 50];
