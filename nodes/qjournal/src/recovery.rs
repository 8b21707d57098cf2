//! Which content of an unfinished segment survives (F-04, T-Q5..T-Q12, T-Q23, model-journal.md R4, R5, R7).
//!
//! An answer is worth the highest epoch under which its node took the content: the epoch of the recovery it
//! accepted, else of the writer that started the segment. A finalised segment wins over all; then the highest
//! epoch; within one epoch the longest log. A record that cannot be read may have been acknowledged: it, and
//! everything behind it, is given up only when a majority definitely lacks it, or when every node answered
//! and none can read it.
//!
//! # How far a doubt goes
//!
//! A node with a torn tail or a rotten record says where its bytes end (`doubtful_bytes`): no record that it ever had durable
//! begins there or behind. **When nobody is left to ask (every node has answered or is known to have forgotten), and the
//! longest log of the same epoch reaches that far, the node is in doubt about nothing that is behind that log**, and counts
//! as one that definitely lacks it. Protocols.md (section 1, "Rot and torn tails") does not have this rule: there a claim
//! waits for the node that forgot, which never answers. Why it is sound:
//!
//! 1. *Within one epoch there is one log.* Answers count with the same epoch when their nodes started the segment for one
//!    writer, which sends one record per txid, or accepted one recovery, which decided one content. Never one so and the other
//!    so: who recovers a segment in an epoch starts the next one behind it. So both logs are beginnings of the same one, and
//!    since records stand back to back, a record begins at the same byte in both.
//! 2. *Everything the doubtful node acknowledged begins before the bound.* A record is on the disk before its ack leaves,
//!    and its head holds bytes that are not zero (epoch and txid, both at least 1). The bound lies behind the last byte of the
//!    file that is not zero, whatever can be read there.
//! 3. The longest log ends between two records, at the bound or behind it. So each record of the one log that begins before
//!    the bound is wholly in it: with it survives all that the doubtful node may have acknowledged.
//!
//! Only bytes that are not zero count, so that it does not matter in which order the sectors of an interrupted write
//! reached the disk: a later one that did moves the bound up, which makes recovery wait more, not less; one that did not held
//! nothing that was acknowledged. Old bytes of a recycled file or a misdirected write move it up, too. A flipped bit
//! cannot move it down past the head of a record. What can is a disk that lost a write it had synced: zeros where
//! acknowledged records were. Point 2 fails there, and that is why the bound is not believed while a node that may have those
//! records is merely away: it is asked. With all others known to have forgotten, that disk is one more than may fail
//! at a time. Where the length of the file is itself in doubt, or the header is lost (the epoch is a guess then), nobody
//! says how far the doubt goes, and nothing is bounded.

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
/// one per node. `forgot` of those without an answer are known to have forgotten what they held (learners): they will
/// not answer.
#[must_use]
pub fn decide(
    first: TxId,
    nodes: usize,
    answers: &[(usize, &Prepared)],
    forgot: usize,
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
        None => in_progress(first, nodes, answers, forgot, planted),
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
    answers: &[(usize, &Prepared)],
    forgot: usize,
    planted: Planted,
) -> Decision {
    let all_asked = answers.len() + forgot >= nodes;
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
        let best = at_level()
            .map(|(_, segment)| segment)
            .filter(|segment| segment.last >= first)
            .max_by_key(|segment| segment.last);
        let doubters = at_level()
            .filter(|(_, segment)| match best {
                Some(best) if all_asked => is_in_doubt(segment, best, planted),
                _ => segment.doubtful_from.is_some(),
            })
            .count();
        let end = best.map_or(TxId(first.0 - 1), |segment| segment.last);
        let absent = answers.len() - doubters;
        let given_up = doubters == 0 || absent >= majority(nodes) || answers.len() == nodes;
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
                doubtful_bytes: None,
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

/// Whether a node may have had records that are not in `longest`, a log of the same epoch.
fn is_in_doubt(segment: &SegmentState, longest: &SegmentState, planted: Planted) -> bool {
    let Some(from) = segment.doubtful_from else {
        return false;
    };
    if planted.bound_doubt_early && from <= longest.last {
        return false;
    }
    segment
        .doubtful_bytes
        .is_none_or(|bytes| bytes > longest.bytes)
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

    /// Bytes of each record.
    const RECORD: u64 = 100;

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
                bytes: last * RECORD,
                doubtful_bytes: None,
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

    /// Doubtful, with nothing but zeros from this byte on.
    fn bounded(last: u64, epoch: u64, bytes: u64) -> Prepared {
        let mut prepared = doubtful(last, epoch);
        prepared.segment.as_mut().unwrap().doubtful_bytes = Some(bytes);
        prepared
    }

    fn absent() -> Prepared {
        Prepared {
            segment: None,
            ..answer(0, 0)
        }
    }

    fn run(answers: &[Prepared]) -> Decision {
        run_beside(answers, 0)
    }

    /// So many others forgot.
    fn run_beside(answers: &[Prepared], forgot: usize) -> Decision {
        let list: Vec<_> = answers.iter().enumerate().collect();
        decide(TxId(1), 3, &list, forgot, Planted::default())
    }

    fn end(answers: &[Prepared]) -> u64 {
        end_of(run(answers))
    }

    fn end_of(decision: Decision) -> u64 {
        match decision {
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

    /// The third node forgot and never answers: a log of the same epoch that reaches where the torn node's bytes end holds
    /// all that those two can have acknowledged. One byte less, and it may lack a record.
    #[test]
    fn a_doubt_ends_where_the_bytes_end() {
        let waits = |answers: &[Prepared]| {
            let decision = run_beside(answers, 1);
            assert!(matches!(decision, Decision::Wait(Doubt::Doubtful(_))));
        };
        let end = |answers: &[Prepared]| end_of(run_beside(answers, 1));
        // Edit 2 is torn: its bytes end within it, or with it.
        for bytes in [RECORD + 1, RECORD + 24, 2 * RECORD] {
            assert_eq!(end(&[bounded(1, 1, bytes), answer(2, 1)]), 2);
            assert_eq!(end(&[bounded(1, 1, bytes), answer(3, 1)]), 3);
            waits(&[bounded(1, 1, bytes), answer(1, 1)]);
        }
        // Something of edit 3 is there: it may have been acknowledged.
        waits(&[bounded(1, 1, 2 * RECORD + 1), answer(2, 1)]);
        assert_eq!(end(&[bounded(1, 1, 2 * RECORD + 1), answer(3, 1)]), 3);
        // The third node is merely away: it is waited for, whatever the bound.
        let away = run(&[bounded(1, 1, RECORD + 1), answer(3, 1)]);
        assert!(matches!(away, Decision::Wait(Doubt::Doubtful(_))));
        // Nobody knows how far the doubt goes.
        waits(&[doubtful(1, 1), answer(9, 1)]);
        // The log of another epoch is another log, and no log bounds nothing.
        waits(&[bounded(0, 3, 1), answer(9, 1)]);
        waits(&[bounded(0, 1, 1), absent()]);
        waits(&[bounded(1, 1, 2 * RECORD), bounded(0, 1, RECORD)]);
        // Its own readable records bound another node's doubt, not its own.
        waits(&[bounded(2, 1, 3 * RECORD), bounded(0, 1, RECORD)]);
        let mut kept = None;
        if let Decision::Keep { segment, sources } =
            run_beside(&[bounded(0, 1, 150), answer(2, 1)], 1)
        {
            kept = Some((segment.doubtful_from, segment.doubtful_bytes, sources));
        }
        assert_eq!(kept, Some((None, None, vec![1])));
    }

    /// Every log of one writer, every node that lost power or rotted in it, every other node's log: with the torn node's
    /// bound, recovery by these two never ends below what the torn node had durable; and ends at all when the other one
    /// holds whatever left bytes there.
    #[test]
    fn x7_no_bound_loses_what_was_durable() {
        let lengths = [40, 24, 513];
        let ends: Vec<u64> = lengths
            .iter()
            .scan(0, |end, length| {
                *end += length;
                Some(*end)
            })
            .collect();
        let at = |records: usize| records.checked_sub(1).map_or(0, |last| ends[last]);
        let (mut kept, mut waited, mut planted_losses) = (0, 0, 0);
        for durable in 0..=3_usize {
            for readable in 0..=durable {
                // A head shows something within its first 24 bytes.
                let least = durable.checked_sub(1).map_or(1, |last| at(last) + 1);
                for bound in least.max(at(readable) + 1)..=at(3) + 1 {
                    for other in 0..=3 {
                        let mut torn = bounded(readable as u64, 1, bound);
                        torn.segment.as_mut().unwrap().bytes = at(readable);
                        let mut whole = answer(other as u64, 1);
                        whole.segment.as_mut().unwrap().bytes = at(other);
                        let list = [(0, &torn), (1, &whole)];
                        let decide = |planted| decide(TxId(1), 3, &list, 1, planted);
                        match decide(Planted::default()) {
                            Decision::Keep { segment, .. } => {
                                assert!(segment.last.0 >= durable as u64, "{list:?}");
                                kept += 1;
                            }
                            Decision::Wait(_) => {
                                assert!(bound > at(other.max(readable)), "{list:?}");
                                waited += 1;
                            }
                            outcome => panic!("{list:?}: {outcome:?}"),
                        }
                        let early = decide(Planted {
                            bound_doubt_early: true,
                            ..Planted::default()
                        });
                        if let Decision::Keep { segment, .. } = early {
                            planted_losses += u32::from(segment.last.0 < durable as u64);
                        }
                    }
                }
            }
        }
        assert!(kept > 100 && waited > 100 && planted_losses > 100);
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
            decide(TxId(5), 3, &list, 0, Planted::default()),
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
                0,
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
                kinds.push(bounded(last, epoch, RECORD + 1));
                kinds.push(accepted(last, epoch, 3));
            }
        }
        kinds.push(finalized(2));
        let mut seen = [0; 4];
        for a in &kinds {
            for b in &kinds {
                for c in &kinds {
                    let list = [(0, a), (1, b), (2, c)];
                    let outcome = decide(TxId(1), 3, &list, 0, Planted::default());
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
