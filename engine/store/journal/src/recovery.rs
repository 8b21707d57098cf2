//! What a scan makes of a segment: the decision table.

use hadal_types::TxId;

/// How far a segment can be read, and what stands there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Records up to the end, zeros behind. Everything this disk acknowledged is there, as far as this disk can know.
    Clean,
    /// The log stops before this txid at a hole or at a record out of sequence. The node definitely lacks it; what
    /// lies behind was never acknowledged and is zeroed before anything is appended ([`crate::Journal::open`] does).
    Gap(TxId),
    /// From this txid on the records cannot be read and may have been acknowledged: a torn tail or rot. Covers
    /// everything behind it. Nothing is zeroed, cut or appended here until recovery or repair has decided.
    Doubtful(TxId),
    /// This txid was committed and cannot be read: rot. The node repairs from its peers.
    Damaged(TxId),
}

/// Where a scan stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Zeros from here to the end of the file, or the end of the file.
    Zeros,
    /// A head of zeros, with other bytes behind it that begin in a later 512-byte sector: what a crash leaves of
    /// writes that reached the disk out of order.
    Hole,
    /// A record that verifies, but has another txid than the next or an epoch below the one before.
    OutOfSequence,
    /// Bytes that are no record: a checksum mismatch, a length above the cap or beyond the file, or stray bytes in
    /// the sector where the log ends.
    Bad,
}

impl Stop {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Zeros, Self::Hole, Self::OutOfSequence, Self::Bad];
}

/// All that the decision over a segment depends on. `n` is the txid that would come next where the scan stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The file name says where the segment ends.
    pub finalised: bool,
    /// The header block verifies. When it does not, no record was looked at and `n` is the first txid.
    pub header_good: bool,
    /// Only zeros behind the header block.
    pub empty: bool,
    /// Where the scan stopped.
    pub stop: Stop,
    /// The file's length is one it can have had (in progress), whatever a crash did.
    pub length_legal: bool,
    /// Finalised, and every record up to the last one of the name is there.
    pub complete: bool,
    /// `n` is at or below the highest committed txid known to the caller.
    pub committed: bool,
}

/// What kind of [`End`] a row gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Clean,
    Gap,
    Doubtful,
    Damaged,
}

/// One row of the table: a field that is `None` matches anything.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Short name, for tests and logs.
    pub label: &'static str,
    finalised: bool,
    header_good: Option<bool>,
    empty: Option<bool>,
    stop: &'static [Stop],
    length_legal: Option<bool>,
    complete: Option<bool>,
    committed: Option<bool>,
    pub(crate) verdict: Verdict,
}

const ANY: &[Stop] = &Stop::ALL;
const ORDERLY: &[Stop] = &[Stop::Zeros, Stop::Hole, Stop::OutOfSequence];
const GAP: &[Stop] = &[Stop::Hole, Stop::OutOfSequence];

const FINALISED: Row = Row {
    label: "",
    finalised: true,
    header_good: Some(true),
    empty: None,
    stop: ANY,
    length_legal: None,
    complete: None,
    committed: None,
    verdict: Verdict::Damaged,
};
const IN_PROGRESS: Row = Row {
    finalised: false,
    ..FINALISED
};

/// The decision table. Every [`Facts`] matches exactly one row (tested over all of them).
///
/// Finalised segments were complete and durable before they got their name, so anything less is rot:
///
/// * `@A` header gone, `@B` whole (bytes behind the last record are nobody's), `@C` short or bad somewhere.
///
/// In progress, header unreadable. The name appears after the header is durable, so this is damage, not a crash
/// during creation. A file of legal length with nothing but zeros behind it never held a record (`@D`); otherwise
/// what was there is unknown from the first txid on (`@E`..`@H`).
///
/// In progress, header good:
///
/// * `@I` zeros behind the last record: the clean end, wherever the committed mark is (a lagging node).
/// * `@J`, `@K` a cut file: how much was behind is unknown.
/// * `@L` a hole or a record out of sequence above the mark: batches on their way when the power went.
///   `@M` at or below the mark a crash cannot have made it: the record was there.
/// * `@N` a bad record above the mark: torn, or rotted after it was acknowledged, the bytes cannot tell. `@O` at or
///   below: rotted.
pub const RECOVERY: [Row; 15] = [
    Row {
        label: "@A",
        header_good: Some(false),
        ..FINALISED
    },
    Row {
        label: "@B",
        complete: Some(true),
        verdict: Verdict::Clean,
        ..FINALISED
    },
    Row {
        label: "@C",
        complete: Some(false),
        ..FINALISED
    },
    Row {
        label: "@D",
        header_good: Some(false),
        empty: Some(true),
        length_legal: Some(true),
        verdict: Verdict::Clean,
        ..IN_PROGRESS
    },
    Row {
        label: "@E",
        header_good: Some(false),
        empty: Some(true),
        length_legal: Some(false),
        committed: Some(true),
        ..IN_PROGRESS
    },
    Row {
        label: "@F",
        header_good: Some(false),
        empty: Some(true),
        length_legal: Some(false),
        committed: Some(false),
        verdict: Verdict::Doubtful,
        ..IN_PROGRESS
    },
    Row {
        label: "@G",
        header_good: Some(false),
        empty: Some(false),
        committed: Some(true),
        ..IN_PROGRESS
    },
    Row {
        label: "@H",
        header_good: Some(false),
        empty: Some(false),
        committed: Some(false),
        verdict: Verdict::Doubtful,
        ..IN_PROGRESS
    },
    Row {
        label: "@I",
        stop: &[Stop::Zeros],
        length_legal: Some(true),
        verdict: Verdict::Clean,
        ..IN_PROGRESS
    },
    Row {
        label: "@J",
        stop: ORDERLY,
        length_legal: Some(false),
        committed: Some(true),
        ..IN_PROGRESS
    },
    Row {
        label: "@K",
        stop: ORDERLY,
        length_legal: Some(false),
        committed: Some(false),
        verdict: Verdict::Doubtful,
        ..IN_PROGRESS
    },
    Row {
        label: "@L",
        stop: GAP,
        length_legal: Some(true),
        committed: Some(false),
        verdict: Verdict::Gap,
        ..IN_PROGRESS
    },
    Row {
        label: "@M",
        stop: GAP,
        length_legal: Some(true),
        committed: Some(true),
        ..IN_PROGRESS
    },
    Row {
        label: "@N",
        stop: &[Stop::Bad],
        committed: Some(false),
        verdict: Verdict::Doubtful,
        ..IN_PROGRESS
    },
    Row {
        label: "@O",
        stop: &[Stop::Bad],
        committed: Some(true),
        ..IN_PROGRESS
    },
];

impl Row {
    /// The facts belong to this row.
    #[must_use]
    pub fn matches(&self, facts: &Facts) -> bool {
        let is = |wanted: Option<bool>, found: bool| wanted.is_none_or(|wanted| wanted == found);
        self.finalised == facts.finalised
            && is(self.header_good, facts.header_good)
            && is(self.empty, facts.empty)
            && self.stop.contains(&facts.stop)
            && is(self.length_legal, facts.length_legal)
            && is(self.complete, facts.complete)
            && is(self.committed, facts.committed)
    }
}

impl Facts {
    /// The row these facts belong to.
    ///
    /// # Panics
    /// When none does: the table is not total.
    #[must_use]
    pub fn row(&self) -> &'static Row {
        RECOVERY
            .iter()
            .find(|row| row.matches(self))
            .expect("the recovery table covers every segment")
    }

    /// The decision, with `next` the txid that would come next where the scan stopped.
    #[must_use]
    pub fn decide(&self, next: TxId) -> End {
        match self.row().verdict {
            Verdict::Clean => End::Clean,
            Verdict::Gap => End::Gap(next),
            Verdict::Doubtful => End::Doubtful(next),
            Verdict::Damaged => End::Damaged(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_facts() -> impl Iterator<Item = Facts> {
        (0..64u32).flat_map(|bits| {
            Stop::ALL.into_iter().map(move |stop| Facts {
                finalised: bits & 1 != 0,
                header_good: bits & 2 != 0,
                empty: bits & 4 != 0,
                stop,
                length_legal: bits & 8 != 0,
                complete: bits & 16 != 0,
                committed: bits & 32 != 0,
            })
        })
    }

    /// X7: every input matches exactly one row, and every row is reached.
    #[test]
    fn x7_every_segment_matches_exactly_one_row() {
        let mut reached = [0; RECOVERY.len()];
        for facts in all_facts() {
            let rows: Vec<_> = (0..RECOVERY.len())
                .filter(|&i| RECOVERY[i].matches(&facts))
                .collect();
            assert_eq!(
                rows.len(),
                1,
                "{facts:?} matches {:?}",
                rows.iter().map(|&i| RECOVERY[i].label).collect::<Vec<_>>()
            );
            reached[rows[0]] += 1;
        }
        assert!(
            reached.iter().all(|&n| n > 0),
            "unreachable row: {reached:?}"
        );
    }

    /// The rules of protocols.md section 1 hold over the whole table, however its rows are cut.
    #[test]
    fn x7_verdicts_keep_the_rules() {
        for facts in all_facts() {
            let verdict = facts.row().verdict;
            if verdict == Verdict::Gap {
                assert!(
                    !facts.committed && facts.stop != Stop::Bad,
                    "only an uncommitted hole may be zeroed: {facts:?}"
                );
            }
            if facts.stop == Stop::Bad && facts.header_good && !facts.complete {
                assert!(
                    matches!(verdict, Verdict::Doubtful | Verdict::Damaged),
                    "a bad record is never zeroed or passed over: {facts:?}"
                );
            }
            if verdict == Verdict::Doubtful {
                assert!(
                    !facts.committed && !facts.finalised,
                    "committed records are damaged, not doubtful: {facts:?}"
                );
            }
            if !facts.header_good && !facts.empty {
                assert_ne!(
                    verdict,
                    Verdict::Clean,
                    "records behind a lost header: {facts:?}"
                );
            }
        }
    }
}
