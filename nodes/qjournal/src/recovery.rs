//! Which content of an unfinished segment survives (F-04, T-Q5..T-Q12, T-Q23, model-journal.md R4, R5, R7).
//!
//! An answer is worth the highest epoch under which its node took the content: the epoch of the recovery it
//! accepted, else of the writer that started the segment. A finalised segment wins over all; then the highest
//! epoch; within one epoch the longest log. A record that cannot be read may have been acknowledged: it, and
//! everything behind it, is given up only when a majority definitely lacks it, or when every node answered
//! and none can read it.

use crate::{Planted, majority};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::qjournal::{LogDigest, Prepared, SegmentState};
use hadal_types::{Epoch, TxId};

/// What recovery makes of the answers so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The log ends with this content of the segment; the nodes listed hold it.
    Keep {
        /// What every node must hold.
        segment: SegmentState,
        /// Who can be copied from.
        sources: Vec<usize>,
    },
    /// No record of the segment survives: the log ends before it.
    Drop {
        /// Running digest there.
        digest_before: LogDigest,
    },
    /// More nodes must answer first.
    Wait(Doubt),
    /// The answers cannot all be true.
    Contradiction(String),
}

/// Why a decision has to wait for more answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// Fewer than a majority answered.
    NoMajority,
    /// This txid is there but unreadable on a node that may have acknowledged it.
    Doubtful(TxId),
    /// Nobody who answered knows the digest before the segment.
    DigestUnknown,
    /// A commit mark says the log goes on to this txid, and nobody who answered has it.
    CommittedMissing(TxId),
}

/// The epoch an answer counts with; `None` without a segment.
fn seen_epoch(prepared: &Prepared) -> Option<Epoch> {
    prepared
        .segment
        .as_ref()
        .map(|segment| segment.epoch.max(prepared.accepted_in))
}

/// Decides the segment that starts at `first` among `nodes` JournalNodes, from their answers (node, answer), at most
/// one per node.
#[must_use]
pub fn decide(
    first: TxId,
    nodes: usize,
    answers: &[(usize, &Prepared)],
    planted: Planted,
) -> Decision {
    let enough = majority(nodes);
    if answers.len() < enough {
        return Decision::Wait(Doubt::NoMajority);
    }
    let committed = answers
        .iter()
        .map(|(_, prepared)| prepared.committed.txid)
        .max()
        .unwrap_or_default();
    let decision = match finalized(first, answers) {
        Some(decision) => decision,
        None => in_progress(first, nodes, enough, answers, planted),
    };
    let end = match &decision {
        Decision::Keep { segment, .. } => segment.last,
        Decision::Drop { .. } => TxId(first.0 - 1),
        Decision::Wait(_) | Decision::Contradiction(_) => return decision,
    };
    if end >= committed {
        return decision;
    }
    if answers.len() < nodes {
        Decision::Wait(Doubt::CommittedMissing(committed))
    } else {
        Decision::Contradiction(format!(
            "txid {committed} is committed, but the log would end at {end}"
        ))
    }
}

fn finalized(first: TxId, answers: &[(usize, &Prepared)]) -> Option<Decision> {
    let mut whole = answers.iter().filter_map(|(jn, prepared)| {
        let segment = prepared.segment.as_ref()?;
        (segment.finalized && segment.doubtful_from.is_none()).then_some((*jn, segment))
    });
    let (jn, segment) = whole.next()?;
    let mut sources = Vec::from([jn]);
    for (other_jn, other) in whole {
        if (other.last, other.digest_end) != (segment.last, segment.digest_end) {
            return Some(Decision::Contradiction(format!(
                "segment {first} is finalised at {} with digest {} and at {} with digest {}",
                segment.last, segment.digest_end, other.last, other.digest_end
            )));
        }
        sources.push(other_jn);
    }
    Some(Decision::Keep {
        segment: *segment,
        sources,
    })
}

fn in_progress(
    first: TxId,
    nodes: usize,
    enough: usize,
    answers: &[(usize, &Prepared)],
    planted: Planted,
) -> Decision {
    let level_of = |prepared: &Prepared| {
        seen_epoch(prepared).map(|epoch| {
            if planted.longest_wins {
                Epoch(0)
            } else {
                epoch
            }
        })
    };
    let mut levels: Vec<Epoch> = answers.iter().filter_map(|(_, p)| level_of(p)).collect();
    levels.sort_unstable();
    levels.dedup();
    // A level whose records are all given up leaves the one below, whose records were not committed either (the
    // writer of the level above found that out): taking them is allowed, not required.
    for level in levels.into_iter().rev() {
        let at_level = || {
            answers.iter().filter_map(move |(jn, prepared)| {
                let segment = prepared.segment.as_ref()?;
                (level_of(prepared) == Some(level)).then_some((*jn, segment))
            })
        };
        let doubters = at_level()
            .filter(|(_, segment)| segment.doubtful_from.is_some())
            .count();
        let best = at_level()
            .map(|(_, segment)| segment)
            .filter(|segment| segment.last >= first)
            .max_by_key(|segment| segment.last);
        let end = best.map_or(TxId(first.0 - 1), |segment| segment.last);
        let absent = answers.len() - doubters;
        let given_up = doubters == 0 || absent >= enough || answers.len() == nodes;
        if !given_up && !planted.drop_doubtful {
            return Decision::Wait(Doubt::Doubtful(end.next()));
        }
        let Some(best) = best else { continue };
        let mut sources = Vec::new();
        for (jn, segment) in at_level() {
            if segment.last != best.last {
                continue;
            }
            if segment.digest_end != best.digest_end && !planted.longest_wins {
                return Decision::Contradiction(format!(
                    "two logs of epoch {level} end at {end} with digests {} and {}",
                    best.digest_end, segment.digest_end
                ));
            }
            if segment.digest_end == best.digest_end {
                sources.push(jn);
            }
        }
        return Decision::Keep {
            segment: SegmentState {
                doubtful_from: None,
                finalized: false,
                ..*best
            },
            sources,
        };
    }
    match digest_before(first, answers) {
        Some(digest_before) => Decision::Drop { digest_before },
        None => Decision::Wait(Doubt::DigestUnknown),
    }
}

fn digest_before(first: TxId, answers: &[(usize, &Prepared)]) -> Option<LogDigest> {
    if first == TxId(1) {
        return Some(LogDigest::default());
    }
    answers.iter().find_map(|(_, prepared)| {
        let from_segment = prepared.segment.as_ref().map(|s| s.digest_before);
        let from_before = prepared
            .before
            .filter(|before| before.txid.next() == first)
            .map(|before| before.digest);
        from_segment.or(from_before)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use hadal_proto::qjournal::{CommitMark, Incarnation};

    fn digest(n: u8) -> LogDigest {
        LogDigest([n; 16])
    }

    fn answer(last: u64, epoch: u64) -> Prepared {
        Prepared {
            first: TxId(1),
            segment: Some(SegmentState {
                first: TxId(1),
                last: TxId(last),
                epoch: Epoch(epoch),
                finalized: false,
                digest_before: LogDigest::default(),
                digest_end: digest(last as u8),
                doubtful_from: None,
            }),
            accepted_in: Epoch(0),
            committed: CommitMark::default(),
            before: None,
            incarnation: Incarnation::default(),
            known: Vec::new(),
        }
    }

    fn finalized(last: u64) -> Prepared {
        let mut prepared = answer(last, 1);
        prepared.segment.as_mut().unwrap().finalized = true;
        prepared
    }

    fn accepted(last: u64, epoch: u64, accepted_in: u64) -> Prepared {
        Prepared {
            accepted_in: Epoch(accepted_in),
            ..answer(last, epoch)
        }
    }

    fn doubtful(last: u64, epoch: u64) -> Prepared {
        let mut prepared = answer(last, epoch);
        prepared.segment.as_mut().unwrap().doubtful_from = Some(TxId(last + 1));
        prepared
    }

    fn absent() -> Prepared {
        Prepared {
            segment: None,
            ..answer(0, 0)
        }
    }

    fn run(answers: &[Prepared]) -> Decision {
        let list: Vec<_> = answers.iter().enumerate().collect();
        decide(TxId(1), 3, &list, Planted::default())
    }

    fn end(answers: &[Prepared]) -> u64 {
        match run(answers) {
            Decision::Keep { segment, .. } => segment.last.0,
            Decision::Drop { .. } => 0,
            other => panic!("{other:?}"),
        }
    }

    /// T-Q23.
    #[test]
    fn t_q23_comparator() {
        assert_eq!(end(&[answer(3, 1), answer(5, 1)]), 5, "longer wins");
        assert_eq!(end(&[finalized(3), answer(5, 1)]), 3, "finalised wins");
        assert_eq!(
            end(&[finalized(3), accepted(5, 1, 9)]),
            3,
            "even over an accepted one"
        );
        assert_eq!(end(&[accepted(3, 1, 2), answer(5, 1)]), 3, "T-Q9");
        assert_eq!(end(&[accepted(1, 1, 2), answer(50, 3)]), 50, "T-Q10");
        assert_eq!(end(&[absent(), answer(2, 1)]), 2);
        assert_eq!(end(&[absent(), absent()]), 0);
    }

    #[test]
    fn m_j4_a_torn_record_is_given_up_only_with_proof() {
        let wait = |answers: &[Prepared]| matches!(run(answers), Decision::Wait(_));
        assert!(wait(&[doubtful(1, 1), answer(1, 1)]));
        assert_eq!(end(&[doubtful(1, 1), answer(1, 1), answer(1, 1)]), 1);
        assert_eq!(
            end(&[doubtful(1, 1), doubtful(1, 1), answer(1, 1)]),
            1,
            "all answered, none reads it"
        );
        assert_eq!(
            end(&[doubtful(1, 1), answer(2, 1), answer(1, 1)]),
            2,
            "one reads it"
        );
        assert!(wait(&[doubtful(0, 3), answer(1, 1)]), "of a newer epoch");
        assert_eq!(end(&[doubtful(0, 3), answer(1, 1), absent()]), 1);
        assert_eq!(
            end(&[doubtful(0, 1), answer(2, 3)]),
            2,
            "doubt of an older epoch does not matter"
        );
    }

    /// R5: the doubt covers what stands behind the bad record.
    #[test]
    fn m_j5_doubt_covers_everything_behind() {
        let mut rotted = answer(0, 1);
        rotted.segment.as_mut().unwrap().doubtful_from = Some(TxId(1));
        assert_eq!(
            run(&[rotted.clone(), answer(1, 1)]),
            Decision::Wait(Doubt::Doubtful(TxId(2)))
        );
        assert_eq!(end(&[rotted, answer(1, 1), answer(2, 1)]), 2);
    }

    #[test]
    fn committed_records_are_never_given_up() {
        let mut marked = answer(1, 1);
        marked.committed.txid = TxId(2);
        assert_eq!(
            run(&[marked.clone(), answer(1, 1)]),
            Decision::Wait(Doubt::CommittedMissing(TxId(2)))
        );
        assert!(matches!(
            run(&[marked, answer(1, 1), absent()]),
            Decision::Contradiction(_)
        ));
        assert!(matches!(
            run(&[finalized(3), finalized(4)]),
            Decision::Contradiction(_)
        ));
    }

    #[test]
    fn unknown_digest_waits() {
        let list = [absent(), absent()];
        let list: Vec<_> = list.iter().enumerate().collect();
        assert_eq!(
            decide(TxId(5), 3, &list, Planted::default()),
            Decision::Wait(Doubt::DigestUnknown)
        );
        let mut knows = absent();
        knows.before = Some(CommitMark {
            txid: TxId(4),
            digest: digest(4),
        });
        assert_eq!(
            decide(
                TxId(5),
                3,
                &[(0, &absent()), (1, &knows)],
                Planted::default()
            ),
            Decision::Drop {
                digest_before: digest(4)
            }
        );
    }

    /// X7: every combination of answers of three nodes decides, waits, or contradicts, never panics, and more
    /// answers never turn a decision for a longer log into one for a shorter committed log.
    #[test]
    fn x7_every_combination_has_one_outcome() {
        let mut kinds = vec![absent()];
        for last in 0..3 {
            for epoch in 1..3 {
                kinds.push(answer(last, epoch));
                kinds.push(doubtful(last, epoch));
                kinds.push(accepted(last, epoch, 3));
            }
        }
        kinds.push(finalized(2));
        let mut seen = [0; 4];
        for a in &kinds {
            for b in &kinds {
                for c in &kinds {
                    let list = [(0, a), (1, b), (2, c)];
                    let outcome = decide(TxId(1), 3, &list, Planted::default());
                    seen[match outcome {
                        Decision::Keep {
                            segment,
                            ref sources,
                        } => {
                            assert!(!sources.is_empty() && segment.doubtful_from.is_none());
                            0
                        }
                        Decision::Drop { .. } => 1,
                        Decision::Wait(_) => panic!("all answered: {list:?} {outcome:?}"),
                        Decision::Contradiction(_) => 3,
                    }] += 1;
                }
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0);
    }
}
