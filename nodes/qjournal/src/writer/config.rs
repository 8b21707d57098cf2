//! What a writer is told at its making.

use alloc::string::String;
use alloc::vec::Vec;

/// Batches on their way to one JournalNode, unless configured otherwise.
pub const BATCHES_MAX: usize = 8;

/// Settings of a [`super::Writer`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriterConfig {
    /// Node ids of all JournalNodes; their index here is what [`super::Jn`] counts. Not empty, at most 9.
    pub journalnodes: Vec<String>,
    /// A claim that is not through after this gives up with [`super::Event::ClaimFailed`].
    pub claim_timeout_ms: u64,
    /// No majority for this long is reported as [`super::Event::QuorumSlow`] (Q11).
    pub slow_quorum_ms: u64,
    /// Batches on their way to one JournalNode.
    pub max_in_flight: usize,
    /// Bytes of batches kept for JournalNodes that lag. At most half of them may wait for a majority, so that a
    /// laggard is not dropped by the commit that ends a stall.
    pub window_bytes: usize,
    /// A JournalNode that missed batches is sent them again from the window; off: it stays out until the
    /// next segment, as in HDFS (T-Q8).
    pub catch_up: bool,
    /// An idle writer sends its commit mark after this.
    pub mark_idle_ms: u64,
    /// Switched-off rules.
    pub planted: crate::Planted,
}

impl WriterConfig {
    /// Most bytes that may wait for a majority.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.window_bytes / 2
    }

    /// Defaults for these JournalNodes.
    #[must_use]
    pub fn new(journalnodes: Vec<String>) -> Self {
        Self {
            journalnodes,
            claim_timeout_ms: 20_000,
            slow_quorum_ms: 10_000,
            max_in_flight: BATCHES_MAX,
            window_bytes: 64 << 20,
            catch_up: true,
            mark_idle_ms: 5,
            planted: crate::Planted::default(),
        }
    }
}
