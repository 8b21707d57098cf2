//! The quorum journal's decisions, both ends, without a clock, a disk or a network (protocols.md section 1).
//!
//! * [`acceptor`]: a JournalNode's mind: promises, batches in order, recovery, counts.
//! * [`writer`]: a NameNode's mind towards the JournalNodes: claim, recover, write, roll, purge.
//! * [`reader`]: which records to read from which JournalNode.
//! * [`tail`]: what a standby reads, as it is committed.
//! * [`recovery`]: which content of an unfinished segment survives.
//!
//! All of them have the same shape: `handle_*` says that something arrived, commands start something,
//! `poll_output` hands out what the driver must now do, `poll_timeout` says when to call `handle_timeout`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod acceptor;
mod planted;
pub mod reader;
pub mod recovery;
pub mod tail;
pub mod writer;

pub use planted::Planted;

/// Verifies framed records and computes the running digest: from the digest before them and the txid of the first
/// one to the last txid and the digest behind it; `None` when a checksum, a length or the order of txids is
/// wrong. One function for a whole cluster, supplied by the driver (the store has it), so that this crate
/// needs no checksum of its own.
pub type DigestFn = fn(
    hadal_proto::qjournal::LogDigest,
    hadal_types::TxId,
    &bytes::Bytes,
) -> Option<(hadal_types::TxId, hadal_proto::qjournal::LogDigest)>;

/// Nodes that make a majority of `nodes`.
#[must_use]
pub const fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// SplitMix64: enough to tell claims and identities apart.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = *state;
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
