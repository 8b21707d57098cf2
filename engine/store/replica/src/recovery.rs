//! What becomes of a replica at start: one table, every input on exactly one row (reliability.md X7).

use crate::format::StoredState;
use hadal_types::GenerationStamp;

/// Where it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    Slot,
    File,
}

/// What its header is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Header {
    /// Never written (or freed).
    Empty,
    /// Damaged so that not even the block is known.
    Unknown,
    /// The block is known, its checksums are not.
    Damaged,
    /// A sector that had to be read cannot be.
    Unreadable,
    /// Valid, saying this.
    Valid(StoredState),
}

/// How much of its data verifies. Read only where the table needs it: for what may be torn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    /// All that the header names (of an open replica: all there is).
    All,
    /// A prefix, not shorter than what was known durable.
    Prefix,
    /// Less than was known durable.
    Short,
}

/// All that the decision rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Evidence {
    pub(crate) home: Home,
    pub(crate) header: Header,
    /// Known to have been durable as it is: a file's *settled* mark, a slot's sequence up to the synced one.
    pub(crate) settled: bool,
    /// The metadata agree: the file is long enough, its tail record is there.
    pub(crate) whole: bool,
    pub(crate) data: Data,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// The slot is free.
    Free,
    /// Never acknowledged to anyone, or not worth keeping: removed.
    Remove,
    /// Damaged: reported, and kept aside if it is a file.
    Corrupt,
    /// FINALIZED.
    Finalized,
    /// RWR, as long as its verified prefix (E-10).
    Waiting,
}

struct Row {
    name: &'static str,
    applies: fn(&Evidence) -> bool,
    decision: Decision,
}

fn valid(evidence: &Evidence, state: StoredState) -> bool {
    evidence.header == Header::Valid(state)
}

/// The order of writes behind it: data and checksums, then (same flush) the state that names them, then, for files,
/// the settled mark; a slot's header and data are one write. So a valid FINALIZED header proves that its data were
/// *submitted*, and *settled* that they are durable.
const TABLE: [Row; 13] = [
    Row {
        name: "a free slot",
        applies: |e| e.header == Header::Empty && e.home == Home::Slot,
        decision: Decision::Free,
    },
    Row {
        name: "a file created, nothing durable in it: nobody was told",
        applies: |e| e.header == Header::Empty && e.home == Home::File,
        decision: Decision::Remove,
    },
    Row {
        name: "a damaged header that names no block",
        applies: |e| e.header == Header::Unknown,
        decision: Decision::Corrupt,
    },
    Row {
        name: "a sector that cannot be read",
        applies: |e| e.header == Header::Unreadable,
        decision: Decision::Corrupt,
    },
    Row {
        name: "a header torn by the crash, its write never acknowledged",
        applies: |e| e.header == Header::Damaged && !e.settled,
        decision: Decision::Remove,
    },
    Row {
        name: "a header that was durable and is damaged",
        applies: |e| e.header == Header::Damaged && e.settled,
        decision: Decision::Corrupt,
    },
    Row {
        name: "a copy in flight (E-12)",
        applies: |e| valid(e, StoredState::Temporary),
        decision: Decision::Remove,
    },
    Row {
        name: "FINALIZED and durable, metadata agree: not read",
        applies: |e| valid(e, StoredState::Finalized) && e.settled && e.whole,
        decision: Decision::Finalized,
    },
    Row {
        name: "FINALIZED and durable, metadata do not agree",
        applies: |e| valid(e, StoredState::Finalized) && e.settled && !e.whole,
        decision: Decision::Corrupt,
    },
    Row {
        name: "FINALIZED, perhaps not durable, and all there",
        applies: |e| valid(e, StoredState::Finalized) && !e.settled && e.data == Data::All,
        decision: Decision::Finalized,
    },
    Row {
        name: "FINALIZED, not durable, torn by the crash",
        applies: |e| valid(e, StoredState::Finalized) && !e.settled && e.data == Data::Prefix,
        decision: Decision::Waiting,
    },
    Row {
        name: "shorter than what was durable: rot, not a torn tail",
        applies: |e| {
            (valid(e, StoredState::Finalized) && !e.settled || valid(e, StoredState::Rbw))
                && e.data == Data::Short
        },
        decision: Decision::Corrupt,
    },
    Row {
        name: "RBW becomes RWR",
        applies: |e| valid(e, StoredState::Rbw) && e.data != Data::Short,
        decision: Decision::Waiting,
    },
];

/// The decision, and the name of its row.
pub(crate) fn decide(evidence: &Evidence) -> (Decision, &'static str) {
    let row = TABLE
        .iter()
        .find(|row| (row.applies)(evidence))
        .expect("every input has a row");
    (row.decision, row.name)
}

/// One version of a block found on a volume, as far as the choice between several goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    pub(crate) decision: Decision,
    pub(crate) sequence: u64,
    pub(crate) settled: bool,
    /// All that its header names is there.
    pub(crate) intact: bool,
    pub(crate) stamp: GenerationStamp,
    /// Bytes that verify.
    pub(crate) length: u64,
}

/// Which of several versions of a block on one volume counts (an interrupted change leaves the old and the new one).
///
/// * The newest sound one that is intact: a torn one was never acknowledged, the one before it may have been.
/// * A newer damaged one that was durable is not passed over, since the older one is then outdated (`Err` names the
///   damaged one); one that was not durable is, since nobody was told of it.
/// * Within one generation stamp a replica only grows, so of the sound ones with the stamp chosen the longest counts: a
///   move from slot to file that has not caught up yet is behind the slot.
pub(crate) fn choose(versions: &[Version]) -> Result<Option<usize>, usize> {
    let mut order: Vec<usize> = (0..versions.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(versions[*index].sequence));
    let sound = |index: &usize| {
        matches!(
            versions[*index].decision,
            Decision::Finalized | Decision::Waiting
        )
    };
    let (mut torn, mut damaged, mut chosen) = (None, None, None);
    for index in order {
        let version = &versions[index];
        match version.decision {
            Decision::Finalized | Decision::Waiting if version.intact => {
                chosen = Some(index);
                break;
            }
            Decision::Finalized | Decision::Waiting => torn = torn.or(Some(index)),
            Decision::Corrupt if version.settled => {
                return torn.map_or(Err(index), |torn| Ok(Some(torn)));
            }
            Decision::Corrupt => damaged = damaged.or(Some(index)),
            Decision::Free | Decision::Remove => {}
        }
    }
    let Some(chosen) = chosen.or(torn) else {
        return damaged.map_or(Ok(None), Err);
    };
    let same = (0..versions.len())
        .filter(sound)
        .filter(|index| versions[*index].stamp == versions[chosen].stamp);
    Ok(same.max_by_key(|index| (versions[*index].length, versions[*index].sequence)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X7: every input matches exactly one row, and every row is reached.
    #[test]
    fn x7_every_input_matches_exactly_one_row() {
        let mut reached = [0; TABLE.len()];
        let headers = [
            Header::Empty,
            Header::Unknown,
            Header::Damaged,
            Header::Unreadable,
            Header::Valid(StoredState::Rbw),
            Header::Valid(StoredState::Temporary),
            Header::Valid(StoredState::Finalized),
        ];
        for home in [Home::Slot, Home::File] {
            for header in headers {
                for bits in 0..4 {
                    for data in [Data::All, Data::Prefix, Data::Short] {
                        let evidence = Evidence {
                            home,
                            header,
                            settled: bits & 1 != 0,
                            whole: bits & 2 != 0,
                            data,
                        };
                        let rows: Vec<_> = (0..TABLE.len())
                            .filter(|row| (TABLE[*row].applies)(&evidence))
                            .collect();
                        assert_eq!(
                            rows.len(),
                            1,
                            "{evidence:?}: {:?}",
                            rows.iter().map(|row| TABLE[*row].name).collect::<Vec<_>>()
                        );
                        reached[rows[0]] += 1;
                    }
                }
            }
        }
        assert!(reached.iter().all(|count| *count > 0), "{reached:?}");
    }

    #[test]
    fn the_newest_sound_version_counts() {
        let version = |decision, sequence, settled| Version {
            decision,
            sequence,
            settled,
            intact: true,
            stamp: GenerationStamp(sequence),
            length: 100,
        };
        let old = version(Decision::Finalized, 1, true);
        let newer = version(Decision::Waiting, 2, false);
        assert_eq!(choose(&[old, newer]), Ok(Some(1)));
        assert_eq!(
            choose(&[
                Version {
                    intact: false,
                    ..newer
                },
                old
            ]),
            Ok(Some(1)),
            "torn, never acknowledged"
        );
        assert_eq!(
            choose(&[Version {
                intact: false,
                ..newer
            }]),
            Ok(Some(0))
        );
        assert_eq!(
            choose(&[version(Decision::Corrupt, 2, false), old]),
            Ok(Some(1)),
            "torn, never acknowledged"
        );
        assert_eq!(
            choose(&[version(Decision::Corrupt, 2, true), old]),
            Err(0),
            "rotten: the old one is outdated"
        );
        assert_eq!(choose(&[version(Decision::Corrupt, 2, false)]), Err(0));
        assert_eq!(choose(&[version(Decision::Remove, 2, false)]), Ok(None));
        let moving = Version {
            stamp: old.stamp,
            length: 50,
            ..newer
        };
        assert_eq!(
            choose(&[old, moving]),
            Ok(Some(0)),
            "a move that has not caught up"
        );
        assert_eq!(choose(&[]), Ok(None));
    }
}
