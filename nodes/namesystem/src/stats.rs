//! What the namespace costs in memory.

use crate::namesystem::Namesystem;

/// Bytes of heap, as allocated by the structures themselves (the allocator's own overhead comes on top).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryEstimate {
    /// Files and directories.
    pub inodes: u64,
    /// Blocks.
    pub blocks: u64,
    /// Inodes, names, directory entries and block lists.
    pub tree_bytes: u64,
    /// Outcomes in the retry cache.
    pub retry_entries: u64,
}

impl Namesystem {
    /// Walks the tree and adds up what it takes; for metrics that are asked for rarely.
    #[must_use]
    pub fn memory_estimate(&self) -> MemoryEstimate {
        let counts = self.state.tree.counts;
        MemoryEstimate {
            inodes: counts.directories + counts.files,
            blocks: counts.blocks,
            tree_bytes: self.state.tree.heap_bytes() as u64,
            retry_entries: self.state.retry.len() as u64,
        }
    }
}
