//! Batches kept for JournalNodes that have not acknowledged them yet.

use super::EditBatch;
use alloc::collections::VecDeque;
use hadal_types::TxId;

/// The latest batches of the log, contiguous, oldest first.
#[derive(Clone, Hash, Debug, Default)]
pub(super) struct Window {
    batches: VecDeque<Kept>,
    /// Bytes of all batches ever pushed, and of those forgotten.
    pushed: u64,
    forgotten: u64,
}

#[derive(Clone, Hash, Debug)]
struct Kept {
    batch: EditBatch,
    /// Bytes pushed up to and with this one.
    end: u64,
}

/// Last txid of a batch.
pub(super) fn last_of(batch: &EditBatch) -> TxId {
    TxId(batch.first.0 + u64::from(batch.count) - 1)
}

impl Window {
    pub(super) fn push(&mut self, batch: EditBatch) {
        self.pushed += batch.records.len() as u64;
        self.batches.push_back(Kept {
            batch,
            end: self.pushed,
        });
    }

    /// The batch that holds `txid`, unless it is gone or not there yet.
    pub(super) fn holding(&self, txid: TxId) -> Option<&EditBatch> {
        let behind = self
            .batches
            .partition_point(|kept| last_of(&kept.batch) < txid);
        self.batches
            .get(behind)
            .map(|kept| &kept.batch)
            .filter(|batch| batch.first <= txid)
    }

    /// Bytes of batches behind `txid`.
    pub(super) fn bytes_behind(&self, txid: TxId) -> usize {
        let behind = self
            .batches
            .partition_point(|kept| last_of(&kept.batch) <= txid);
        let before = match behind.checked_sub(1) {
            Some(index) => self.batches[index].end,
            None => self.forgotten,
        };
        usize::try_from(self.pushed - before).expect("the window is bounded")
    }

    /// Forgets batches up to `everyone` (all have them), and committed ones, oldest first, while over `cap` bytes.
    pub(super) fn trim(&mut self, everyone: TxId, committed: TxId, cap: usize) {
        while let Some(oldest) = self.batches.front() {
            let last = last_of(&oldest.batch);
            let held = self.pushed - self.forgotten;
            if last > everyone && (last > committed || held <= cap as u64) {
                return;
            }
            self.forgotten = oldest.end;
            self.batches.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hadal_proto::qjournal::LogDigest;

    #[test]
    fn finds_and_forgets() {
        let mut window = Window::default();
        for (first, count) in [(1, 3), (4, 1), (5, 5)] {
            window.push(EditBatch {
                first: TxId(first),
                count,
                records: Bytes::from_static(&[0; 100]),
                digest_end: LogDigest::default(),
            });
        }
        assert_eq!(window.holding(TxId(3)).unwrap().first, TxId(1));
        assert_eq!(window.holding(TxId(9)).unwrap().first, TxId(5));
        assert!(window.holding(TxId(10)).is_none());
        assert_eq!(window.bytes_behind(TxId(3)), 200);
        window.trim(TxId(0), TxId(4), 1000);
        assert_eq!(
            window.len(),
            3,
            "under its cap it keeps what a laggard may need"
        );
        window.trim(TxId(0), TxId(4), 50);
        assert_eq!(window.len(), 1, "uncommitted batches stay whatever the cap");
        assert!(window.holding(TxId(4)).is_none());
        window.trim(TxId(9), TxId(9), 1000);
        assert_eq!(window.len(), 0);
    }
}
