//! A JournalNode's disk as the acceptor sees it: operations in order, each atomic but for torn appends.

use super::framing::{digest_of, split};
use bytes::Bytes;
use hadal_proto::qjournal::{LogDigest, SegmentState};
use hadal_qjournal::acceptor::{AcceptorRecord, FetchId, Loaded, LoadedSegment, StoreOp};
use hadal_types::{Epoch, TxId};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DiskSegment {
    pub first: TxId,
    pub epoch: Epoch,
    pub finalized: bool,
    pub digest_before: LogDigest,
    /// Framed records.
    pub records: Vec<Bytes>,
    /// This one is there and cannot be read.
    pub bad: Option<TxId>,
}

impl DiskSegment {
    pub fn last(&self) -> TxId {
        TxId(self.first.0 + self.records.len() as u64 - 1)
    }

    fn readable_last(&self) -> TxId {
        self.bad.map_or(self.last(), |bad| TxId(bad.0 - 1))
    }

    pub fn digest_at(&self, txid: TxId) -> LogDigest {
        let count = (txid.0 + 1 - self.first.0) as usize;
        let records = self.records[..count].concat();
        digest_of(self.digest_before, self.first, &Bytes::from(records)).1
    }

    /// Records `from..=upto` back to back.
    pub fn slice(&self, from: TxId, upto: TxId) -> Bytes {
        let at = |txid: TxId| (txid.0 - self.first.0) as usize;
        Bytes::from(self.records[at(from)..=at(upto)].concat())
    }

    fn bytes(&self, records: usize) -> u64 {
        self.records[..records].iter().map(|r| r.len() as u64).sum()
    }

    /// The bytes of a segment with a bad record end as early as they can: just behind the start of its last one.
    pub fn state(&self) -> SegmentState {
        let last = self.readable_last();
        let readable = (last.0 + 1 - self.first.0) as usize;
        let doubtful_bytes = self.bad.map(|_| self.bytes(self.records.len() - 1) + 1);
        SegmentState {
            first: self.first,
            last,
            epoch: self.epoch,
            finalized: self.finalized,
            digest_before: self.digest_before,
            digest_end: self.digest_at(last),
            doubtful_from: self.bad,
            bytes: self.bytes(readable),
            doubtful_bytes: doubtful_bytes.filter(|_| !self.finalized),
        }
    }
}

#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Disk {
    pub record: Option<AcceptorRecord>,
    pub segments: BTreeMap<TxId, DiskSegment>,
    pub fetched: BTreeMap<FetchId, DiskSegment>,
}

impl Disk {
    pub fn load(&self) -> Loaded {
        let mark = self.record.as_ref().map_or(TxId(0), |r| r.mark.txid);
        let segments = self.segments.values().map(|segment| LoadedSegment {
            state: segment.state(),
            header_readable: true,
            damaged: segment
                .bad
                .is_some_and(|bad| segment.finalized || bad <= mark),
        });
        Loaded {
            record: self.record.clone(),
            segments: segments.collect(),
        }
    }

    pub fn apply(&mut self, op: StoreOp) {
        match op {
            StoreOp::Record(record) => self.record = Some(record),
            StoreOp::Start {
                first,
                epoch,
                digest_before,
                restart,
            } => {
                let old = self.segments.insert(
                    first,
                    DiskSegment {
                        first,
                        epoch,
                        finalized: false,
                        digest_before,
                        records: Vec::new(),
                        bad: None,
                    },
                );
                assert!(
                    old.is_none_or(|old| restart && !old.finalized),
                    "segment {first} silently replaced"
                );
            }
            StoreOp::Append {
                segment,
                first,
                last,
                records,
                digest_before,
                digest_end,
            } => {
                let segment = self.segments.get_mut(&segment).expect("started");
                assert_eq!(segment.last().next(), first, "appends are contiguous");
                assert!(!segment.finalized && segment.bad.is_none());
                assert_eq!(segment.digest_at(segment.last()), digest_before);
                segment.records.extend(split(&records));
                assert_eq!(segment.last(), last);
                assert_eq!(segment.digest_at(last), digest_end);
            }
            StoreOp::Finalize { first, last } => {
                assert!(first <= last, "an empty segment is never finalised");
                let segment = self.segments.get_mut(&first).expect("exists");
                assert_eq!(segment.last(), last);
                assert!(segment.bad.is_none());
                segment.finalized = true;
            }
            StoreOp::Install { fetch, segment } => {
                let mut copy = self.fetched.remove(&fetch).expect("fetched before");
                copy.finalized = segment.finalized;
                assert_eq!(copy.state(), segment);
                let old = self.segments.insert(segment.first, copy);
                if let Some(old) = old.filter(|old| old.finalized) {
                    assert!(old.bad.is_some() && segment.finalized);
                    assert_eq!(old.last(), segment.last, "a repair keeps the end");
                }
            }
            StoreOp::Purge { below } => {
                while let Some((&first, segment)) = self.segments.first_key_value() {
                    let next = self.segments.range(first.next()..).next();
                    let over = if segment.finalized {
                        segment.last() < below
                    } else {
                        next.is_some_and(|(next, _)| *next <= below)
                    };
                    if !over {
                        break;
                    }
                    self.segments.remove(&first);
                }
            }
            StoreOp::Format { .. } => self.segments.clear(),
        }
    }

    /// A power cut while an append was on its way: the first of its records is there, torn.
    pub fn tear(&mut self, op: StoreOp) {
        if let StoreOp::Append { segment, first, .. } = &op {
            let (segment, first) = (*segment, *first);
            self.apply(op);
            self.segments.get_mut(&segment).expect("started").bad = Some(first);
        }
    }
}
