//! Block recovery as its primary sees it (E-18): which replicas take part, and how long they will be (E-19).
//!
//! The primary asks every location for its replica ([`Answer`]), decides ([`plan`]), updates the participants and
//! concludes ([`conclude`]); the result goes to the active NameNode (E-20).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use hadal_proto::client::ReplicaTarget;
use hadal_proto::datanode::RecoveryWork;
use hadal_proto::transfer::ReplicaInfo;
use hadal_types::{Block, BlockId, GenerationStamp, ReplicaState, StorageUuid};
use thiserror::Error;

/// What one location said to InitReplicaRecovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Its replica, frozen now.
    Replica(ReplicaInfo),
    /// It has none.
    Absent,
    /// A recovery of this or a higher id runs there (T-L7).
    Preempted,
    /// It refused; with words.
    Failed(String),
    /// It did not answer, or not yet; with words.
    Silent(String),
}

/// A replica that takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Participant {
    /// Which of the locations.
    pub location: usize,
    /// Bytes it has.
    pub old_length: u64,
}

/// What shall become of the block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Its length.
    pub length: u64,
    /// Replicas to update; with none the block goes (T-L9).
    pub participants: Vec<Participant>,
}

/// What the active NameNode is told (CommitBlockSynchronization).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synchronization {
    /// Length of the block.
    pub length: u64,
    /// Replicas that are FINALIZED with that length and the recovery's stamp.
    pub nodes: Vec<ReplicaTarget>,
    /// Nothing was there to recover.
    pub delete: bool,
}

/// Why a recovery came to nothing. The NameNode starts another one after a while.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecoveryError {
    /// A higher recovery id was here first: this attempt ends silently (T-L7).
    #[error("a recovery of {id} with an id not below {recovery_id} runs")]
    Preempted {
        /// The block.
        id: BlockId,
        /// This recovery.
        recovery_id: GenerationStamp,
    },
    /// Nobody answered (T-L8).
    #[error("all datanodes failed: {block}: {reasons}")]
    AllFailed {
        /// The block.
        block: Block,
        /// What each said.
        reasons: String,
    },
    /// Those that answered have nothing, and one that did not may have something.
    #[error("{block}: nothing at those that answered, and others did not: {reasons}")]
    Unknown {
        /// The block.
        block: Block,
        /// What the others said.
        reasons: String,
    },
    /// Those that answered were started again since they were written, and may have lost what was flushed; one that did
    /// not answer may have it (P4).
    #[error("{block}: only restarted replicas (RWR) answered, and others did not: {reasons}")]
    OnlyRestarted {
        /// The block.
        block: Block,
        /// What the others said.
        reasons: String,
    },
    /// FINALIZED replicas of one stamp cannot differ (T-L1).
    #[error("inconsistent size of finalized replicas of {block}: {one} and {other} bytes")]
    Inconsistent {
        /// The block.
        block: Block,
        /// One length.
        one: u64,
        /// Another.
        other: u64,
    },
    /// A truncation to more than there is.
    #[error("{block} cannot be truncated to {wanted} bytes: no replica is that long")]
    TooShort {
        /// The block.
        block: Block,
        /// Bytes wanted.
        wanted: u64,
    },
    /// No participant took the new length and stamp (T-L10).
    #[error("cannot recover {block}, the following datanodes failed: {reasons}")]
    UpdatesFailed {
        /// The block.
        block: Block,
        /// What each said.
        reasons: String,
    },
}

fn join<'a>(work: &RecoveryWork, reasons: impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut text = String::new();
    for (index, reason) in reasons {
        let separator = if text.is_empty() { "" } else { "; " };
        let name = work
            .locations
            .get(index)
            .map_or("?", |target| target.name.as_str());
        write!(text, "{separator}{name}: {reason}").expect("strings take everything");
    }
    text
}

/// Decides from the answers of all locations, in their order (E-19).
///
/// * A candidate has a stamp not below the block's, at least one byte, and was FINALIZED, RBW or RWR.
/// * The best state present decides: FINALIZED: their (one) length, with RBW replicas of that length; RBW: the least of
///   the RBW, RWR stay out; RWR: the least of them, unless a location did not answer (HDFS takes them all the same): it is
///   waited for until the NameNode counts it as dead and leaves it out.
/// * A truncation has its length given; replicas of the best state that are long enough take part. (Those that an
///   earlier attempt cut already are shorter than the others: no contradiction here.)
/// * Without a candidate the block is empty and goes, if an RBW or FINALIZED replica says that it is empty or every
///   location answered. An RWR does not say it: its node restarted, and left a pipeline that may have gone on without it. Where HDFS deletes also when the only location with bytes is away, this waits for it or for the NameNode
///   to leave it out.
///
/// # Errors
/// [`RecoveryError`], all but the last kind.
pub fn plan(work: &RecoveryWork, answers: &[Answer]) -> Result<Plan, RecoveryError> {
    let block = work.block;
    if answers
        .iter()
        .any(|answer| matches!(answer, Answer::Preempted))
    {
        return Err(RecoveryError::Preempted {
            id: block.id,
            recovery_id: work.recovery_id,
        });
    }
    let failures = || {
        answers
            .iter()
            .enumerate()
            .filter_map(|(index, answer)| match answer {
                Answer::Failed(reason) | Answer::Silent(reason) => Some((index, reason.as_str())),
                _ => None,
            })
    };
    if failures().count() == answers.len() {
        let reasons = join(work, failures());
        return Err(RecoveryError::AllFailed { block, reasons });
    }
    let replicas: Vec<(usize, &ReplicaInfo)> = answers
        .iter()
        .enumerate()
        .filter_map(|(index, answer)| match answer {
            Answer::Replica(info) => Some((index, info)),
            _ => None,
        })
        .filter(|(_, info)| {
            info.block.generation_stamp >= block.generation_stamp
                && matches!(
                    info.state,
                    ReplicaState::Finalized | ReplicaState::Rbw | ReplicaState::Rwr
                )
        })
        .collect();
    let best = replicas
        .iter()
        .filter(|(_, info)| info.block.length > 0)
        .map(|(_, info)| info.state)
        .max();
    let Some(best) = best else {
        let proven = replicas
            .iter()
            .any(|(_, info)| info.state != ReplicaState::Rwr);
        if !proven && failures().next().is_some() {
            let reasons = join(work, failures());
            return Err(RecoveryError::Unknown { block, reasons });
        }
        return Ok(Plan {
            length: 0,
            participants: Vec::new(),
        });
    };
    let is_silent = |answer: &Answer| matches!(answer, Answer::Silent(_));
    if best == ReplicaState::Rwr && answers.iter().any(is_silent) {
        let reasons = join(work, failures());
        return Err(RecoveryError::OnlyRestarted { block, reasons });
    }
    let of_best = || {
        replicas
            .iter()
            .filter(move |(_, info)| info.state == best && info.block.length > 0)
    };
    let participant = |(location, info): &(usize, &ReplicaInfo)| Participant {
        location: *location,
        old_length: info.block.length,
    };
    if let Some(wanted) = work.truncate_to {
        let participants: Vec<Participant> = of_best()
            .filter(|(_, info)| info.block.length >= wanted)
            .map(participant)
            .collect();
        if participants.is_empty() {
            return Err(RecoveryError::TooShort { block, wanted });
        }
        return Ok(Plan {
            length: wanted,
            participants,
        });
    }
    let least = of_best()
        .map(|(_, info)| info.block.length)
        .min()
        .expect("the best state has a replica");
    let most = of_best()
        .map(|(_, info)| info.block.length)
        .max()
        .expect("the best state has a replica");
    if best == ReplicaState::Finalized && least != most {
        return Err(RecoveryError::Inconsistent {
            block,
            one: least,
            other: most,
        });
    }
    let takes_part = |info: &ReplicaInfo| {
        info.block.length > 0
            && (info.state == best
                || best == ReplicaState::Finalized
                    && info.state == ReplicaState::Rbw
                    && info.block.length == least)
    };
    Ok(Plan {
        length: least,
        participants: replicas
            .iter()
            .filter(|(_, info)| takes_part(info))
            .map(participant)
            .collect(),
    })
}

/// What to commit after the participants were updated: `results` in their order, each the storage or why not.
///
/// # Errors
/// [`RecoveryError::UpdatesFailed`] when none took the update: nothing is committed (T-L10).
pub fn conclude(
    work: &RecoveryWork,
    plan: &Plan,
    results: &[Result<StorageUuid, String>],
) -> Result<Synchronization, RecoveryError> {
    assert_eq!(
        plan.participants.len(),
        results.len(),
        "every participant has a result"
    );
    let both = || plan.participants.iter().zip(results);
    let nodes: Vec<ReplicaTarget> = both()
        .filter_map(|(participant, result)| {
            let storage = *result.as_ref().ok()?;
            Some(ReplicaTarget {
                storage,
                ..work.locations[participant.location].clone()
            })
        })
        .collect();
    if nodes.is_empty() && !plan.participants.is_empty() {
        let failed = both().filter_map(|(participant, result)| {
            let reason = result.as_ref().err()?;
            Some((participant.location, reason.as_str()))
        });
        return Err(RecoveryError::UpdatesFailed {
            block: work.block,
            reasons: join(work, failed),
        });
    }
    Ok(Synchronization {
        length: plan.length,
        delete: nodes.is_empty(),
        nodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReplicaState::{Finalized, Rbw, Rwr};
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;
    use hadal_types::DatanodeUuid;

    const N: u64 = 1000;
    const M: u64 = 700;

    fn block(stamp: u64, length: u64) -> Block {
        Block {
            id: BlockId(1),
            generation_stamp: GenerationStamp(stamp),
            length,
        }
    }

    fn work(locations: usize, truncate_to: Option<u64>) -> RecoveryWork {
        let target = |index: usize| ReplicaTarget {
            datanode: DatanodeUuid(index as u128),
            storage: StorageUuid(0),
            name: format!("dn{index}"),
            address: "127.0.0.1:1".into(),
            shards: 1,
            rack: "/r".into(),
        };
        RecoveryWork {
            block: block(5, 0),
            recovery_id: GenerationStamp(9),
            locations: (0..locations).map(target).collect(),
            truncate_to,
        }
    }

    fn replica(state: ReplicaState, length: u64) -> Answer {
        Answer::Replica(ReplicaInfo {
            block: block(5, length),
            state,
            storage: StorageUuid(1),
        })
    }

    fn failed() -> Answer {
        Answer::Failed("gone".into())
    }

    /// Length and the locations that take part.
    fn decide(answers: &[Answer]) -> Result<(u64, Vec<usize>), RecoveryError> {
        let plan = plan(&work(answers.len(), None), answers)?;
        let locations = plan.participants.iter().map(|p| p.location).collect();
        Ok((plan.length, locations))
    }

    #[test]
    fn finalized_replicas_agree_or_it_is_an_error_t_l1() {
        let same = [replica(Finalized, N), replica(Finalized, N)];
        assert_eq!(decide(&same), Ok((N, vec![0, 1])));
        let error = decide(&[replica(Finalized, N), replica(Finalized, M)]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("inconsistent size of finalized"),
            "{error}"
        );
    }

    #[test]
    fn finalized_decides_over_rbw_t_l2() {
        let same = [replica(Finalized, N), replica(Rbw, N)];
        assert_eq!(decide(&same), Ok((N, vec![0, 1])));
        for other in [M, N + 1] {
            let differ = [replica(Finalized, N), replica(Rbw, other)];
            assert_eq!(decide(&differ), Ok((N, vec![0])));
        }
    }

    #[test]
    fn rwr_takes_no_part_beside_better_ones_t_l3_t_l5() {
        for length in [M, N, N + 1] {
            let beside = [replica(Rwr, length), replica(Finalized, N)];
            assert_eq!(decide(&beside), Ok((N, vec![1])), "T-L3");
            let beside = [replica(Rbw, N), replica(Rwr, length)];
            assert_eq!(decide(&beside), Ok((N, vec![0])), "T-L5");
        }
    }

    #[test]
    fn equals_below_finalized_take_the_least_t_l4_t_l6() {
        for state in [Rbw, Rwr] {
            let both = [replica(state, N), replica(state, M)];
            assert_eq!(decide(&both), Ok((M, vec![0, 1])));
        }
    }

    /// P4: the one that does not answer may go on with all that was flushed; one that refuses is rotten, and is not waited for.
    #[test]
    fn restarted_replicas_wait_for_who_does_not_answer() {
        let silent = || Answer::Silent("cut off".into());
        for known in [Answer::Absent, replica(Rwr, M), failed()] {
            let error = decide(&[replica(Rwr, N), known, silent()]).unwrap_err();
            assert!(
                matches!(error, RecoveryError::OnlyRestarted { .. }),
                "{error:?}"
            );
        }
        assert_eq!(decide(&[replica(Rwr, N), failed()]), Ok((N, vec![0])));
        for better in [Rbw, Finalized] {
            let answers = [replica(better, N), replica(Rwr, M), silent()];
            assert_eq!(decide(&answers), Ok((N, vec![0])), "T-L13");
        }
    }

    #[test]
    fn a_newer_recovery_ends_this_one_t_l7() {
        let error = decide(&[replica(Finalized, N), Answer::Preempted, failed()]).unwrap_err();
        assert!(
            matches!(error, RecoveryError::Preempted { .. }),
            "{error:?}"
        );
    }

    #[test]
    fn without_any_answer_nothing_is_committed_t_l8() {
        let error = decide(&[failed(), failed()]).unwrap_err();
        assert!(
            error.to_string().starts_with("all datanodes failed"),
            "{error}"
        );
        assert!(
            error.to_string().contains("dn0: gone; dn1: gone"),
            "{error}"
        );
        assert_eq!(
            decide(&[failed(), replica(Rbw, N), failed()]),
            Ok((N, vec![1])),
            "T-L13: one is enough"
        );
    }

    #[test]
    fn an_empty_block_is_deleted_t_l9() {
        for answers in [
            vec![replica(Rbw, 0), replica(Rwr, 0)],
            vec![Answer::Absent, replica(Rbw, 0)],
            vec![Answer::Absent, Answer::Absent],
            vec![replica(Rbw, 0), failed()],
        ] {
            let work = work(answers.len(), None);
            let plan = plan(&work, &answers).unwrap();
            let done = conclude(&work, &plan, &[]).unwrap();
            assert!(done.delete && done.length == 0 && done.nodes.is_empty());
        }
        for known in [Answer::Absent, replica(Rwr, 0)] {
            let error = decide(&[known, failed()]).unwrap_err();
            assert!(
                matches!(error, RecoveryError::Unknown { .. }),
                "the one that is away may have the bytes: {error:?}"
            );
        }
        assert_eq!(
            decide(&[replica(Finalized, 0), replica(Rbw, N)]),
            Ok((N, vec![1])),
            "an empty replica is no candidate"
        );
    }

    #[test]
    fn outdated_replicas_are_no_candidates_e17() {
        let old = Answer::Replica(ReplicaInfo {
            block: block(4, N),
            state: Finalized,
            storage: StorageUuid(1),
        });
        assert_eq!(decide(&[old, replica(Rwr, M)]), Ok((M, vec![1])));
    }

    #[test]
    fn updates_that_all_fail_commit_nothing_t_l10() {
        let answers = [replica(Rbw, N), replica(Rbw, M)];
        let work = work(2, None);
        let plan = plan(&work, &answers).unwrap();
        let refused = || Err("recovery id differs".to_string());
        let error = conclude(&work, &plan, &[refused(), refused()]).unwrap_err();
        assert!(
            matches!(error, RecoveryError::UpdatesFailed { .. }),
            "{error:?}"
        );
        let done = conclude(&work, &plan, &[refused(), Ok(StorageUuid(7))]).unwrap();
        assert!(!done.delete && done.length == M);
        let nodes: Vec<_> = done
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), node.storage))
            .collect();
        assert_eq!(nodes, [("dn1", StorageUuid(7))]);
    }

    #[test]
    fn a_truncation_has_its_length_given_e19() {
        let decide = |answers: &[Answer]| {
            let plan = plan(&work(answers.len(), Some(M)), answers)?;
            let locations: Vec<usize> = plan.participants.iter().map(|p| p.location).collect();
            Ok::<_, RecoveryError>((plan.length, locations))
        };
        let all = [replica(Finalized, N), replica(Finalized, N)];
        assert_eq!(decide(&all), Ok((M, vec![0, 1])));
        let cut_before = [replica(Finalized, M), replica(Finalized, N)];
        assert_eq!(
            decide(&cut_before),
            Ok((M, vec![0, 1])),
            "an earlier attempt got half way"
        );
        let short = [replica(Finalized, M - 1), replica(Finalized, N)];
        assert_eq!(decide(&short), Ok((M, vec![1])));
        assert!(matches!(
            decide(&[replica(Finalized, M - 1)]),
            Err(RecoveryError::TooShort { .. })
        ));
    }
}
