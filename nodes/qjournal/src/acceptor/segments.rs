//! The segments of one journal, as the acceptor keeps them in memory.

use alloc::collections::{BTreeMap, VecDeque};
use hadal_proto::qjournal::{CommitMark, LogDigest, SegmentState};
use hadal_types::TxId;

/// Ends of batches behind the last verified mark that are remembered with their digests.
const ENDS_CAP: usize = 1024;
/// Commit marks ahead of this node, or not verifiable yet, that are remembered.
const MARKS_CAP: usize = 64;

/// A segment as a scan of the disk found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadedSegment {
    /// What can be read of it. `doubtful_from` is set for a record that is there and unreadable, torn or rotted.
    /// For an unreadable header, `epoch` is ignored.
    pub state: SegmentState,
    /// The header could be read.
    pub header_readable: bool,
    /// The unreadable record was committed: rot, not a torn tail.
    pub damaged: bool,
}

/// A segment in memory. `last` and the digests run ahead of the disk while appends are on their way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Segment {
    pub(super) state: SegmentState,
    pub(super) damaged: bool,
    /// Highest mark inside it that agrees with its own digest; at `first - 1` when there is none.
    pub(super) committed: CommitMark,
    /// Ends of batches behind `committed`.
    ends: VecDeque<CommitMark>,
}

impl Segment {
    pub(super) fn new(state: SegmentState, damaged: bool) -> Self {
        let before = CommitMark {
            txid: TxId(state.first.0 - 1),
            digest: state.digest_before,
        };
        let end = CommitMark {
            txid: state.last,
            digest: state.digest_end,
        };
        Self {
            committed: if state.finalized && state.doubtful_from.is_none() {
                end
            } else {
                before
            },
            ends: VecDeque::from([end]),
            state,
            damaged,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.last < self.state.first && self.state.doubtful_from.is_none()
    }

    pub(super) fn end(&self) -> CommitMark {
        CommitMark {
            txid: self.state.last,
            digest: self.state.digest_end,
        }
    }

    /// `bytes` more of records, up to `last`.
    pub(super) fn append(&mut self, last: TxId, digest: LogDigest, bytes: u64) {
        self.state.last = last;
        self.state.digest_end = digest;
        self.state.bytes += bytes;
        if self.ends.len() >= ENDS_CAP {
            self.ends.pop_front();
        }
        self.ends.push_back(self.end());
    }

    /// Its running digest at `txid`, when it is remembered.
    fn digest_at(&self, txid: TxId) -> Option<LogDigest> {
        self.ends
            .binary_search_by_key(&txid, |end| end.txid)
            .ok()
            .map(|index| self.ends[index].digest)
    }

    fn commit(&mut self, mark: CommitMark) {
        self.committed = mark;
        while self.ends.len() > 1 && self.ends[0].txid <= mark.txid {
            self.ends.pop_front();
        }
    }
}

/// All segments, and the commit marks waiting to be verified against them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Segments {
    by_first: BTreeMap<TxId, Segment>,
    marks: VecDeque<CommitMark>,
}

impl Segments {
    pub(super) fn get(&self, first: TxId) -> Option<&Segment> {
        self.by_first.get(&first)
    }

    pub(super) fn get_mut(&mut self, first: TxId) -> Option<&mut Segment> {
        self.by_first.get_mut(&first)
    }

    pub(super) fn put(&mut self, segment: Segment) {
        self.by_first.insert(segment.state.first, segment);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.by_first.values()
    }

    /// First txid of the newest segment that has records, or may have (T-J4, T-J6).
    pub(super) fn newest_with_records(&self) -> Option<TxId> {
        let newest = self.iter().rev().find(|segment| !segment.is_empty())?;
        Some(newest.state.first)
    }

    pub(super) fn newest(&self) -> Option<&Segment> {
        self.iter().next_back()
    }

    pub(super) fn last(&self) -> TxId {
        self.iter().map(|s| s.state.last).max().unwrap_or_default()
    }

    /// The newest segment that starts at or before `txid`, and where it stops being the one to read: below
    /// the segment behind it, since what an abandoned segment holds there is another log's.
    pub(super) fn holding(&self, txid: TxId) -> Option<(&Segment, TxId)> {
        let (_, segment) = self.by_first.range(..=txid).next_back()?;
        let next = self.by_first.range(txid.next()..).next();
        let limit = next.map_or(TxId(u64::MAX), |(first, _)| TxId(first.0 - 1));
        Some((segment, limit))
    }

    /// The highest finalised end below `first`.
    pub(super) fn finalized_before(&self, first: TxId) -> Option<CommitMark> {
        let below = self.by_first.range(..first).rev();
        below
            .map(|(_, segment)| segment)
            .find(|s| s.state.finalized && s.state.doubtful_from.is_none() && s.state.last < first)
            .map(Segment::end)
    }

    /// Another segment that is finalised holds some of the same txids.
    pub(super) fn overlaps_finalized(&self, target: &SegmentState) -> bool {
        self.by_first
            .range(..=target.last)
            .rev()
            .filter(|(first, _)| **first != target.first)
            .filter(|(_, segment)| segment.state.finalized)
            .take(2)
            .any(|(first, segment)| *first > target.first || segment.state.last >= target.first)
    }

    /// The highest mark that agrees with this node's own log.
    pub(super) fn committed(&self) -> CommitMark {
        let with_records = self
            .iter()
            .filter(|segment| segment.committed.txid >= segment.state.first);
        with_records
            .map(|segment| segment.committed)
            .max()
            .unwrap_or_default()
    }

    /// Drops segments wholly below `below`, oldest first; whether there were any.
    pub(super) fn purge(&mut self, below: TxId) -> bool {
        let mut any = false;
        while let Some((&first, oldest)) = self.by_first.first_key_value() {
            let next = self.by_first.range(first.next()..).next();
            let superseded = next.is_some_and(|(next, _)| *next <= below);
            let over = if oldest.state.finalized {
                oldest.state.last < below
            } else {
                superseded
            };
            if !over {
                break;
            }
            self.by_first.remove(&first);
            any = true;
        }
        any
    }

    /// Takes a mark, and verifies it or remembers it for later.
    pub(super) fn note_mark(&mut self, mark: CommitMark, trust: bool) {
        if mark.txid == TxId(0) || self.marks.contains(&mark) {
            return;
        }
        if self.marks.len() >= MARKS_CAP {
            self.marks.pop_front();
        }
        self.marks.push_back(mark);
        self.verify_marks(trust);
    }

    /// Compares remembered marks with the log as it now is.
    pub(super) fn verify_marks(&mut self, trust: bool) {
        let segments = &mut self.by_first;
        self.marks.retain(|mark| {
            let Some((_, segment)) = segments.range_mut(..=mark.txid).next_back() else {
                return true;
            };
            if mark.txid <= segment.committed.txid {
                return false;
            }
            if trust {
                let txid = mark.txid.min(segment.state.last);
                segment.commit(CommitMark { txid, ..*mark });
                return mark.txid > segment.state.last;
            }
            match segment.digest_at(mark.txid) {
                // Another record n of an older epoch: never served (protocols.md section 1). The mark is kept, the
                // segment may be replaced.
                Some(digest) if digest != mark.digest => true,
                Some(_) => {
                    segment.commit(*mark);
                    false
                }
                // Ahead of this node, or in the middle of a batch; the next one will do.
                None => mark.txid > segment.state.last,
            }
        });
    }
}
