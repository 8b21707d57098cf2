//! Which replica of a block a reader asks next.

use alloc::vec::Vec;
use hadal_types::DatanodeUuid;

/// Rounds over all replicas, with fresh locations in between, before a read fails
/// (HDFS `dfs.client.max.block.acquire.failures`).
pub const ACQUIRE_ROUNDS_MAX: u32 = 4;

/// What a reader knows about DataNodes that failed it. Nodes are given another chance when every location of a
/// block has failed.
#[derive(Clone, Debug, Default)]
pub struct ReplicaChoice {
    dead: Vec<DatanodeUuid>,
    rounds: u32,
}

impl ReplicaChoice {
    /// The first location that has not failed.
    #[must_use]
    pub fn choose(&self, locations: impl IntoIterator<Item = DatanodeUuid>) -> Option<usize> {
        locations
            .into_iter()
            .position(|node| !self.dead.contains(&node))
    }

    /// The node failed (no connection, no replica, or wrong bytes).
    pub fn handle_failure(&mut self, node: DatanodeUuid) {
        if !self.dead.contains(&node) {
            self.dead.push(node);
        }
    }

    /// Every location failed: `true` when the locations should be asked for again and all nodes tried once more.
    pub fn next_round(&mut self) -> bool {
        self.rounds += 1;
        self.dead.clear();
        self.rounds < ACQUIRE_ROUNDS_MAX
    }

    /// How long to wait before this round, in ms: longer each time, as locations come back with the DataNodes.
    #[must_use]
    pub fn wait_ms(&self, random: u64) -> u64 {
        let base = 250u64 << self.rounds.min(6);
        base + random % base
    }

    /// Bytes arrived: failures so far do not count against the next one.
    pub fn handle_progress(&mut self) {
        self.rounds = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_nodes_are_avoided_then_tried_again_a_bounded_number_of_times() {
        let nodes = [DatanodeUuid(1), DatanodeUuid(2)];
        let mut choice = ReplicaChoice::default();
        let mut tried = Vec::new();
        loop {
            match choice.choose(nodes) {
                Some(index) => {
                    tried.push(index);
                    choice.handle_failure(nodes[index]);
                }
                None if choice.next_round() => {}
                None => break,
            }
        }
        assert_eq!(tried, [0, 1, 0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn waits_between_rounds_grow_and_are_jittered() {
        let mut choice = ReplicaChoice::default();
        let mut before = 0;
        for _ in 0..3 {
            choice.next_round();
            let (least, most) = (choice.wait_ms(0), choice.wait_ms(u64::MAX));
            assert!(least > before && most > least && most < 2 * least);
            before = least;
        }
        choice.handle_progress();
        assert!(choice.wait_ms(0) < before, "progress starts anew");
    }
}
