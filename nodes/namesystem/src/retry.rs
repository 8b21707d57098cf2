//! The retry cache: a mutating call runs at most once, also across a failover (F-06).
//!
//! Every edit names the call it answers, and what that call is answered follows from the edit alone, so the
//! cache is rebuilt by replay and carried by the image:
//!
//! | Edit | Call | Outcome |
//! |---|---|---|
//! | `Mkdir` | Mkdirs | `Flag(true)`; directories above it carry no call, so the cache knows only a whole path |
//! | `Create` | Create | the new file's status as it was created, with its first block if that was asked for; the block's edit carries no call |
//! | `AddBlock` | AddBlock | the allocated block; targets are the pipeline's, or chosen anew after a failover |
//! | `AbandonBlock`, `UpdateLength`, `UpdatePipeline`, `Rename`, `SetPermission`, `SetOwner`, `SetTimes` | of the same name | `Done` |
//! | `Close` | Complete | `Flag(true)` |
//! | `AllocateStamp` | UpdateBlockForPipeline | the stamp |
//! | `Append` | Append | the open file with its last block (`Block`; block 0 when none was reopened) |
//! | `Truncate` | Truncate | `Flag(true)` (`Yes`), or `Flag(false)` (`Done`) when a recovery was begun |
//! | `Concat` | Concat | `Done` |
//! | `Delete`, `SetReplication` | of the same name | `Flag(true)` |
//!
//! A call that changed nothing (an error, `false`, a directory that was there) leaves no edit and no entry:
//! running it again is the same as running it later.
//!
//! # Expiry
//!
//! Outcomes age on the cache's own clock, which edits drive (the [`EditClock`]): from one edit to the next it
//! advances by the difference of their timestamps, by nothing when time went back, and by at most a
//! [`STEPS`]th of the time outcomes are kept. So it is a function of the edits alone, the same on the active, on the standby and
//! in replay; a wall clock that jumps ahead costs an outcome a second of its ten minutes, not all of them; and it
//! never runs faster than honest time, so that clients, which give up retrying earlier, never outlive an outcome.
//! In an idle namespace it lags behind: at most [`STEPS`] outcomes stay longer than need be.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hadal_proto::edit::{Edit, EditOp};
use hadal_types::{BlockId, CallId, ClientId, GenerationStamp, InodeId, TxId};

const CHUNK: usize = 256;

/// Least number of edits it takes to age an outcome to its end.
pub(crate) const STEPS: u64 = 600;

/// What a call was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// `Done`.
    Done,
    /// `Flag(true)`.
    Yes,
    /// A new file.
    Created(Box<CreatedFile>),
    /// A new block of a file.
    Block {
        inode: InodeId,
        block: BlockId,
        generation_stamp: GenerationStamp,
    },
    /// A new generation stamp.
    Stamp(GenerationStamp),
}

/// A file as it was created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CreatedFile {
    pub(crate) inode: InodeId,
    pub(crate) name: String,
    pub(crate) permission: u16,
    pub(crate) owner: String,
    pub(crate) group: String,
    pub(crate) replication: u16,
    pub(crate) block_size: u64,
}

/// One call and its outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RetryEntry {
    pub(crate) client: ClientId,
    pub(crate) call: CallId,
    pub(crate) txid: TxId,
    pub(crate) time_ms: u64,
    /// What the cache's clock showed when it was recorded.
    pub(crate) recorded_ms: u64,
    pub(crate) outcome: Outcome,
}

/// The time by which outcomes age, driven by edits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct EditClock {
    /// Milliseconds since format, as far as edits show them.
    pub(crate) now_ms: u64,
    /// Timestamp of the last edit; `None` before the first.
    pub(crate) last_edit_ms: Option<u64>,
}

impl EditClock {
    fn advance(&mut self, time_ms: u64, step_ms: u64) {
        let passed = self
            .last_edit_ms
            .map_or(0, |last| time_ms.saturating_sub(last));
        self.now_ms = self.now_ms.saturating_add(passed.min(step_ms));
        self.last_edit_ms = Some(time_ms);
    }
}

/// The outcome an edit stands for; `None` for the NameNode's own.
pub(crate) fn outcome_of(edit: &Edit) -> Option<Outcome> {
    if edit.client == ClientId::default() {
        return None;
    }
    Some(match &edit.op {
        EditOp::Create {
            inode,
            name,
            permission,
            owner,
            group,
            replication,
            block_size,
            ..
        } => Outcome::Created(Box::new(CreatedFile {
            inode: *inode,
            name: name.clone(),
            permission: *permission,
            owner: owner.clone(),
            group: group.clone(),
            replication: *replication,
            block_size: *block_size,
        })),
        EditOp::AddBlock {
            inode,
            block,
            generation_stamp,
            ..
        } => Outcome::Block {
            inode: *inode,
            block: *block,
            generation_stamp: *generation_stamp,
        },
        EditOp::Append { inode, block, .. } => Outcome::Block {
            inode: *inode,
            block: block.map_or(BlockId(0), |block| block.id),
            generation_stamp: block.map_or(GenerationStamp(0), |block| block.generation_stamp),
        },
        EditOp::AllocateStamp { generation_stamp } => Outcome::Stamp(*generation_stamp),
        EditOp::Truncate {
            recovering: None, ..
        }
        | EditOp::Mkdir { .. }
        | EditOp::Close { .. }
        | EditOp::Delete { .. }
        | EditOp::SetReplication { .. } => Outcome::Yes,
        _ => Outcome::Done,
    })
}

/// The cache: outcomes in the order of their edits, found by (client, call).
pub(crate) struct RetryCache {
    keep_ms: u64,
    max: usize,
    chunks: VecDeque<Arc<Vec<RetryEntry>>>,
    /// Entries of the first chunk that are gone.
    skipped: usize,
    /// Number of the first chunk's first entry.
    base: u64,
    /// Numbers of entries. A tree: a hash table of a million calls is moved as a whole when it grows, and every caller, and
    /// the lease, waits for that.
    index: BTreeMap<(ClientId, CallId), u64>,
    clock: EditClock,
}

/// The cache's entries at one point in time.
#[derive(Clone, Default)]
pub(crate) struct RetryView {
    chunks: VecDeque<Arc<Vec<RetryEntry>>>,
    skipped: usize,
    pub(crate) clock: EditClock,
}

impl RetryView {
    /// The entries in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RetryEntry> {
        self.from(0)
    }

    /// The entries in order, from the one of that number on.
    pub(crate) fn from(&self, number: usize) -> impl Iterator<Item = &RetryEntry> {
        let at = self.skipped + number;
        self.chunks
            .iter()
            .skip(at / CHUNK)
            .flat_map(|chunk| chunk.iter())
            .skip(at % CHUNK)
    }
}

impl RetryCache {
    /// An empty cache that keeps outcomes for `keep_ms` of edit time, `max` of them at most.
    pub(crate) fn new(keep_ms: u64, max: usize) -> Self {
        Self {
            keep_ms,
            max: max.max(1),
            chunks: VecDeque::new(),
            skipped: 0,
            base: 0,
            index: BTreeMap::new(),
            clock: EditClock::default(),
        }
    }

    /// How many outcomes.
    pub(crate) fn len(&self) -> usize {
        // All chunks but the last are full.
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        full + self.chunks.back().map_or(0, |chunk| chunk.len()) - self.skipped
    }

    /// The outcome of a call that ran.
    pub(crate) fn get(&self, client: ClientId, call: CallId) -> Option<&RetryEntry> {
        let number = *self.index.get(&(client, call))? - self.base;
        let number = usize::try_from(number).expect("bounded by the cache's size");
        Some(&self.chunks[number / CHUNK][number % CHUNK])
    }

    /// Remembers the outcome of an edit, if it has one, and forgets what is too old by edit time.
    pub(crate) fn record(&mut self, txid: TxId, edit: &Edit) {
        self.clock
            .advance(edit.time_ms, (self.keep_ms / STEPS).max(1));
        if let Some(outcome) = outcome_of(edit) {
            self.push(RetryEntry {
                client: edit.client,
                call: edit.call,
                txid,
                time_ms: edit.time_ms,
                recorded_ms: self.clock.now_ms,
                outcome,
            });
        }
        while self
            .front()
            .is_some_and(|entry| entry.recorded_ms.saturating_add(self.keep_ms) < self.clock.now_ms)
        {
            self.pop();
        }
    }

    /// Appends an entry (record, image load), dropping the oldest beyond the bound.
    pub(crate) fn push(&mut self, entry: RetryEntry) {
        let key = (entry.client, entry.call);
        let number = self.base + (self.skipped + self.len()) as u64;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => Arc::make_mut(chunk).push(entry),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(entry);
                self.chunks.push_back(Arc::new(chunk));
            }
        }
        self.index.insert(key, number);
        while self.index.len() > self.max {
            self.pop();
        }
    }

    /// Sets the clock (image load).
    pub(crate) fn set_clock(&mut self, clock: EditClock) {
        self.clock = clock;
    }

    fn front(&self) -> Option<&RetryEntry> {
        self.chunks.front()?.get(self.skipped)
    }

    fn pop(&mut self) {
        let Some(entry) = self.front() else {
            return;
        };
        let key = (entry.client, entry.call);
        let number = self.base + self.skipped as u64;
        if self.index.get(&key) == Some(&number) {
            self.index.remove(&key);
        }
        self.skipped += 1;
        if self.skipped == self.chunks[0].len() {
            self.base += self.skipped as u64;
            self.skipped = 0;
            self.chunks.pop_front();
        }
    }

    /// The entries as a view.
    pub(crate) fn view(&self) -> RetryView {
        RetryView {
            chunks: self.chunks.clone(),
            skipped: self.skipped,
            clock: self.clock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(call: u64, time_ms: u64) -> Edit {
        Edit {
            time_ms,
            client: ClientId(1),
            call: CallId(call),
            op: EditOp::Delete { inode: InodeId(7) },
        }
    }

    /// F-06: outcomes expire by edit time, not by anybody's clock.
    #[test]
    fn f06_expiry_follows_edit_timestamps() {
        let mut cache = RetryCache::new(1_000, 1_000_000);
        for call in 0..2_000 {
            cache.record(TxId(call + 1), &edit(call, call));
        }
        assert_eq!(cache.len(), 1_001);
        assert!(cache.get(ClientId(1), CallId(998)).is_none());
        let oldest = cache.get(ClientId(1), CallId(999)).unwrap();
        assert_eq!((oldest.txid, &oldest.outcome), (TxId(1_000), &Outcome::Yes));
        let view = cache.view();
        for call in 2_000..3_500 {
            cache.record(TxId(call + 1), &edit(call, call));
        }
        assert_eq!(cache.get(ClientId(1), CallId(2_498)), None);
        assert_eq!(cache.len(), 1_001);
        assert_eq!(view.iter().count(), 1_001);
        assert_eq!(view.iter().next().unwrap().call, CallId(999));
    }

    /// F-06: a clock that jumps, ahead or back, takes from no outcome more than one step of its time.
    #[test]
    fn f06_a_jumping_clock_drops_no_recent_outcome() {
        const MINUTE: u64 = 60_000;
        for jump in [1 << 62, 3_600_000, -3_600_000, -(1 << 62)] {
            let mut cache = RetryCache::new(10 * MINUTE, 1_000_000);
            let mut wall = 1u64 << 62;
            let mut call = 0;
            // An edit every 100 ms; the jump is behind the first minute.
            let mut run = |cache: &mut RetryCache, wall: &mut u64, ms: u64| {
                for _ in 0..ms / 100 {
                    *wall = wall.saturating_add(100);
                    call += 1;
                    cache.record(TxId(call), &edit(call, *wall));
                }
            };
            run(&mut cache, &mut wall, MINUTE);
            wall = wall.saturating_add_signed(jump);
            run(&mut cache, &mut wall, 9 * MINUTE - 1_000);
            assert!(cache.get(ClientId(1), CallId(1)).is_some(), "jump {jump}");
            run(&mut cache, &mut wall, 2_000);
            assert!(cache.get(ClientId(1), CallId(1)).is_none(), "jump {jump}");
            assert!(cache.len() >= 5_990, "jump {jump}: {}", cache.len());
        }
    }

    /// F-06: an idle namespace keeps outcomes longer, but not many of them.
    #[test]
    fn f06_sparse_edits_keep_a_bounded_number_of_outcomes() {
        let mut cache = RetryCache::new(600_000, 1_000_000);
        for call in 0..5_000 {
            cache.record(TxId(call + 1), &edit(call, call * 3_600_000));
        }
        assert_eq!(cache.len() as u64, STEPS + 1);
    }

    #[test]
    fn the_bound_drops_the_oldest() {
        let mut cache = RetryCache::new(1_000, 300);
        for call in 0..1_000 {
            cache.record(TxId(call + 1), &edit(call, 5));
        }
        assert_eq!(cache.len(), 300);
        assert!(cache.get(ClientId(1), CallId(699)).is_none());
        assert!(cache.get(ClientId(1), CallId(700)).is_some());
    }

    #[test]
    fn the_namenodes_own_edits_have_no_outcome() {
        let mut cache = RetryCache::new(1_000, 300);
        let own = Edit {
            client: ClientId::default(),
            ..edit(1, 1)
        };
        cache.record(TxId(1), &own);
        assert_eq!(cache.len(), 0);
    }
}
