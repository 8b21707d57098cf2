//! Everything that edits change, and its point-in-time view.

use crate::lease::Leases;
use crate::radix::{Radix, Sparse};
use crate::retry::{RetryCache, RetryView};
use crate::tree::Tree;
use hadal_types::{BlockId, ClientId, GenerationStamp, InodeId, TxId};

/// Ids handed out so far; all are journaled and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counters {
    /// Last edit applied.
    pub(crate) txid: TxId,
    /// Last inode id.
    pub(crate) inode: InodeId,
    /// Last block id.
    pub(crate) block: BlockId,
    /// Last generation stamp.
    pub(crate) generation_stamp: GenerationStamp,
}

impl Counters {
    /// At format: HDFS starts its blocks at 2^30 and its stamps at 1000.
    pub(crate) const FIRST: Self = Self {
        txid: TxId(0),
        inode: InodeId::ROOT,
        block: BlockId(1 << 30),
        generation_stamp: GenerationStamp(1000),
    };
}

/// The namespace as edits make it.
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) leases: Leases,
    pub(crate) retry: RetryCache,
    pub(crate) counters: Counters,
}

/// Rough sizes in an image, with the places of a block.
const IMAGE_BYTES_PER_INODE: u64 = 36;
const IMAGE_BYTES_PER_BLOCK: u64 = 24;

/// A namespace at one txid, for checkpoints and digests. Taking one is cheap and does not stop the writer; it
/// can be read on another thread. While it lives, the writer copies the pages it changes (a few KiB each, once).
#[derive(Clone)]
pub struct View {
    pub(crate) tree: Tree,
    pub(crate) open: Radix<Sparse<ClientId>>,
    pub(crate) retry: RetryView,
    pub(crate) counters: Counters,
}

impl View {
    /// The last edit in it.
    #[must_use]
    pub fn txid(&self) -> TxId {
        self.counters.txid
    }

    /// About how long an image of it will be, in bytes.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        let counts = &self.tree.counts;
        IMAGE_BYTES_PER_INODE * (counts.directories + counts.files)
            + IMAGE_BYTES_PER_BLOCK * counts.blocks
    }
}

impl State {
    /// A view of what is applied now.
    pub(crate) fn view(&self) -> View {
        View {
            tree: self.tree.clone(),
            open: self.leases.view(),
            retry: self.retry.view(),
            counters: self.counters,
        }
    }
}
