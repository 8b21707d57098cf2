//! The commit barrier: edits on their way to the journal, and answers that wait for them (protocols.md
//! section 0).

use crate::output::{Answer, Output};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_proto::Wire;
use hadal_proto::edit::Edit;
use hadal_types::TxId;

/// Edits and answers in order.
#[derive(Default)]
pub(crate) struct Barrier {
    committed: TxId,
    /// Batches closed early, and segment rolls, that go before the open batch.
    journal: VecDeque<Output>,
    first: TxId,
    buffer: Vec<u8>,
    ends: Vec<usize>,
    /// Answers with the last edit each could have seen; never decreasing.
    parked: VecDeque<(TxId, u64, Answer)>,
    ready: VecDeque<Output>,
}

impl Barrier {
    /// Last edit known durable at a majority.
    pub(crate) fn committed(&self) -> TxId {
        self.committed
    }

    /// How many answers wait.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// An edit was applied: it joins the open batch.
    pub(crate) fn push_edit(&mut self, txid: TxId, edit: &Edit) {
        if self.ends.is_empty() {
            self.first = txid;
        }
        debug_assert_eq!(self.first.0 + self.ends.len() as u64, txid.0);
        edit.encode(&mut self.buffer);
        self.ends.push(self.buffer.len());
    }

    fn take_batch(&mut self) -> Option<Output> {
        if self.ends.is_empty() {
            return None;
        }
        // The next batch is likely to be as large as this one.
        let buffer = core::mem::replace(&mut self.buffer, Vec::with_capacity(1024));
        let buffer = Bytes::from(buffer);
        let mut start = 0;
        let records = self
            .ends
            .drain(..)
            .map(|end| {
                let record = buffer.slice(start..end);
                start = end;
                record
            })
            .collect();
        Some(Output::Edits {
            first: self.first,
            records,
        })
    }

    /// Ends the segment behind the edits so far.
    pub(crate) fn roll(&mut self, next: TxId) {
        if let Some(batch) = self.take_batch() {
            self.journal.push_back(batch);
        }
        self.journal.push_back(Output::RollSegment { next });
    }

    /// Gives an answer that could have seen edits up to `seen`.
    pub(crate) fn answer(&mut self, seen: TxId, ticket: u64, answer: Answer) {
        if seen <= self.committed {
            self.send(ticket, answer);
        } else {
            debug_assert!(self.parked.back().is_none_or(|(last, ..)| *last <= seen));
            self.parked.push_back((seen, ticket, answer));
        }
    }

    /// Gives an answer that saw no state at all.
    pub(crate) fn send(&mut self, ticket: u64, answer: Answer) {
        self.ready.push_back(Output::Reply { ticket, answer });
    }

    /// Something for the driver that needs no barrier.
    pub(crate) fn emit(&mut self, output: Output) {
        self.ready.push_back(output);
    }

    /// Everything up to `txid` is durable: what waited for it may go.
    pub(crate) fn commit(&mut self, txid: TxId) {
        self.committed = self.committed.max(txid);
        while let Some((seen, ..)) = self.parked.front()
            && *seen <= self.committed
        {
            let (_, ticket, answer) = self.parked.pop_front().expect("looked at above");
            self.send(ticket, answer);
        }
    }

    /// Drops edits not handed out and takes back all parked answers, to be failed.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = (u64, Answer)> + use<> {
        self.journal.clear();
        self.buffer.clear();
        self.ends.clear();
        core::mem::take(&mut self.parked)
            .into_iter()
            .map(|(_, ticket, answer)| (ticket, answer))
    }

    /// The next thing for the driver: edits first.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.journal
            .pop_front()
            .or_else(|| self.take_batch())
            .or_else(|| self.ready.pop_front())
    }
}
