//! Replicas whose bytes did not match their checksums at a reader, and when that is held against them.
//!
//! A reader with bad memory finds every replica wrong. So a mismatch is evidence only once the same reader got the same
//! bytes right from another replica (HDFS's `reportCheckSumFailure`: a client to which all replicas look corrupt "might
//! be handicapped").

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;
use hadal_proto::client::BadReplica;
use hadal_types::{BlockId, DatanodeUuid};

/// Doubts remembered; the oldest is forgotten first. A reader meets few, and the DataNodes verify by themselves.
const DOUBTS_MAX: usize = 64;

/// What one reader found wrong and could not compare yet.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    /// Each with the first byte of the block that was wrong.
    open: VecDeque<(BadReplica, u64)>,
}

impl Doubts {
    /// The chunk of `replica` at byte `at` of its block does not match its checksum. Whether that is to be reported now:
    /// a block with a single location has no other to compare it with, and none to lose.
    #[must_use]
    pub fn handle_mismatch(&mut self, replica: &BadReplica, at: u64, locations: usize) -> bool {
        if locations <= 1 {
            return true;
        }
        let known = |(other, from): &(BadReplica, u64)| {
            other.block == replica.block && other.datanode == replica.datanode && *from == at
        };
        if !self.open.iter().any(known) {
            if self.open.len() == DOUBTS_MAX {
                self.open.pop_front();
            }
            self.open.push_back((replica.clone(), at));
        }
        false
    }

    /// These bytes of the block came from `node` and are right. The replicas to report: those that were wrong there. One
    /// that gives the right bytes itself by now is cleared.
    #[must_use]
    pub fn handle_verified(
        &mut self,
        block: BlockId,
        node: DatanodeUuid,
        bytes: &Range<u64>,
    ) -> Vec<BadReplica> {
        let mut bad: Vec<BadReplica> = Vec::new();
        self.open.retain(|(replica, at)| {
            let compared = replica.block.id == block && bytes.contains(at);
            let told = bad.iter().any(|told| told.datanode == replica.datanode);
            if compared && replica.datanode != node && !told {
                bad.push(replica.clone());
            }
            !compared
        });
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use hadal_types::{Block, GenerationStamp, StorageUuid};

    fn replica(id: u64, node: u128) -> BadReplica {
        BadReplica {
            block: Block {
                id: BlockId(id),
                generation_stamp: GenerationStamp(1),
                length: 100_000,
            },
            datanode: DatanodeUuid(node),
            storage: StorageUuid(node),
        }
    }

    const ALL: Range<u64> = 0..65_536;

    #[test]
    fn wrong_replicas_are_reported_once_another_gave_the_same_bytes() {
        let mut doubts = Doubts::default();
        assert!(!doubts.handle_mismatch(&replica(7, 1), 4_096, 3));
        assert!(!doubts.handle_mismatch(&replica(7, 2), 0, 3));
        let third = DatanodeUuid(3);
        assert!(
            doubts.handle_verified(BlockId(8), third, &ALL).is_empty(),
            "another block"
        );
        assert!(
            doubts
                .handle_verified(BlockId(7), third, &(8_192..65_536))
                .is_empty(),
            "other bytes"
        );
        let reported = doubts.handle_verified(BlockId(7), third, &ALL);
        assert_eq!(reported, vec![replica(7, 1), replica(7, 2)]);
        assert!(
            doubts.handle_verified(BlockId(7), third, &ALL).is_empty(),
            "once"
        );
    }

    #[test]
    fn a_replica_that_is_right_the_second_time_is_cleared() {
        let mut doubts = Doubts::default();
        assert!(!doubts.handle_mismatch(&replica(7, 1), 0, 2));
        assert!(!doubts.handle_mismatch(&replica(7, 2), 0, 2));
        let reported = doubts.handle_verified(BlockId(7), DatanodeUuid(1), &ALL);
        assert_eq!(reported, vec![replica(7, 2)]);
    }

    #[test]
    fn the_only_location_is_reported_at_once() {
        let mut doubts = Doubts::default();
        assert!(doubts.handle_mismatch(&replica(7, 1), 0, 1));
        assert!(
            doubts
                .handle_verified(BlockId(7), DatanodeUuid(2), &ALL)
                .is_empty()
        );
    }

    #[test]
    fn a_reader_to_which_all_is_wrong_reports_nobody_and_stays_small() {
        let mut doubts = Doubts::default();
        for round in 0..4 {
            for id in 0..100 {
                for node in 0..3 {
                    let at = round * 4_096;
                    assert!(!doubts.handle_mismatch(&replica(id, node), at, 3));
                }
            }
        }
        assert_eq!(doubts.open.len(), DOUBTS_MAX);
    }
}
