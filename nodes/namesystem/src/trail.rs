//! The way back to the committed namespace.
//!
//! The tree is what edits made of it, committed or not. While no majority of JournalNodes answers, edits can hang
//! in between: a NameNode configured alone still answers reads (protocols.md section 2), as of the last committed
//! edit. For that it keeps a copy-on-write snapshot of some committed txid and the encoded edits behind it; the namespace at
//! any later committed txid is that snapshot with those edits applied, made when somebody asks.

use crate::lease::Leases;
use crate::radix::{Radix, Sparse};
use crate::retry::RetryCache;
use crate::state::{Counters, State};
use crate::tree::Tree;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_proto::decode;
use hadal_proto::edit::Edit;
use hadal_types::{ClientId, InodeId, TxId};

/// Edits from one snapshot to the next. More edits make a read through an outage dearer to begin with and hold
/// more copied pages, fewer make pages be copied more often.
const INTERVAL: u64 = 2_048;

struct Snapshot {
    tree: Tree,
    open: Radix<Sparse<ClientId>>,
    counters: Counters,
}

impl Snapshot {
    fn of(state: &State) -> Self {
        Self {
            tree: state.tree.clone(),
            open: state.leases.view(),
            counters: state.counters,
        }
    }

    fn state(&self) -> State {
        let mut leases = Leases::default();
        for (inode, holder) in self.open.range(0) {
            leases.add(InodeId(inode), *holder);
        }
        State {
            tree: self.tree.clone(),
            leases,
            // Reads do not look at outcomes.
            retry: RetryCache::new(1, 1),
            counters: self.counters,
        }
    }
}

/// Encoded edits, in order.
struct Records {
    first: TxId,
    records: Vec<Bytes>,
}

impl Records {
    fn last(&self) -> TxId {
        TxId(self.first.0 + self.records.len() as u64 - 1)
    }
}

/// A committed snapshot and what came behind it.
pub(crate) struct Trail {
    /// At or below the committed txid.
    base: Snapshot,
    /// Becomes the base once it is committed.
    next: Option<Snapshot>,
    /// All edits behind the base that were handed to the journal.
    batches: VecDeque<Records>,
    /// The namespace at the txid in its counters.
    built: Option<State>,
}

impl Trail {
    /// Starts at a state that is committed.
    pub(crate) fn new(committed: &State) -> Self {
        Self {
            base: Snapshot::of(committed),
            next: None,
            batches: VecDeque::new(),
            built: None,
        }
    }

    /// An edit was applied.
    pub(crate) fn edited(&mut self, state: &State) {
        if self.next.is_none() && state.counters.txid.0 - self.base.counters.txid.0 >= INTERVAL {
            self.next = Some(Snapshot::of(state));
        }
    }

    /// Edits were handed to the journal.
    pub(crate) fn handed_out(&mut self, first: TxId, records: &[Bytes]) {
        self.batches.push_back(Records {
            first,
            records: records.to_vec(),
        });
    }

    /// Everything up to `txid` is committed.
    pub(crate) fn committed(&mut self, txid: TxId) {
        self.built = None;
        if let Some(next) = self.next.take_if(|next| next.counters.txid <= txid) {
            self.base = next;
            let base = self.base.counters.txid;
            while self
                .batches
                .front()
                .is_some_and(|batch| batch.last() <= base)
            {
                self.batches.pop_front();
            }
        }
    }

    /// The namespace at `txid`, the last one committed. Whoever gets it puts it back with [`Self::keep`].
    pub(crate) fn state_at(&mut self, txid: TxId) -> State {
        if let Some(state) = self.built.take_if(|state| state.counters.txid == txid) {
            return state;
        }
        let mut state = self.base.state();
        let mut effects = Vec::new();
        for batch in &self.batches {
            for (at, record) in (batch.first.0..).zip(&batch.records) {
                if at <= state.counters.txid.0 || at > txid.0 {
                    continue;
                }
                let edit: Edit = decode(record.clone()).expect("encoded here");
                let applied = state.apply(&edit, &mut effects);
                assert_eq!(applied.0, at, "the trail has no gaps");
                effects.clear();
            }
        }
        assert_eq!(state.counters.txid, txid, "committed edits were handed out");
        state
    }

    /// Keeps what [`Self::state_at`] made for the next read.
    pub(crate) fn keep(&mut self, state: State) {
        self.built = Some(state);
    }
}
