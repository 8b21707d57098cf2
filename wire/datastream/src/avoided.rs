//! DataNodes a writer keeps away from for a while because they failed it.

use alloc::vec::Vec;
use hadal_types::{DatanodeUuid, Tick};

/// How long a node that failed is not asked for in the next blocks of the file (HDFS
/// `dfs.client.write.exclude.nodes.cache.expiry.interval.millis`): a NameNode may take as long to find it dead.
pub const AVOIDED_FOR_MS: u64 = 600_000;
/// Nodes remembered; the oldest go first.
const AVOIDED_MAX: usize = 64;

/// The nodes that failed in the blocks of one file lately. Without it each block could begin with the same dead node and
/// wait for it again.
#[derive(Clone, Debug, Default)]
pub struct AvoidedNodes {
    nodes: Vec<(DatanodeUuid, Tick)>,
}

impl AvoidedNodes {
    /// These nodes failed.
    pub fn handle_failed(&mut self, now: Tick, failed: &[DatanodeUuid]) {
        self.nodes.retain(|(node, _)| !failed.contains(node));
        self.nodes.extend(failed.iter().map(|node| (*node, now)));
        let over = self.nodes.len().saturating_sub(AVOIDED_MAX);
        self.nodes.drain(..over);
    }

    /// There are too few others: only the node that failed last is avoided from now on, the rest may have come back.
    pub fn keep_newest(&mut self) {
        let older = self.nodes.len().saturating_sub(1);
        self.nodes.drain(..older);
    }

    /// Whom to keep away from now, the one that failed last behind the others.
    #[must_use]
    pub fn list(&self, now: Tick) -> Vec<DatanodeUuid> {
        let fresh = |at: Tick| now.ms_since(at) < AVOIDED_FOR_MS;
        let fresh = self.nodes.iter().filter(|(_, at)| fresh(*at));
        fresh.map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_failed_are_avoided_for_ten_minutes() {
        let at = |ms| Tick(0).after_ms(ms);
        let [one, two] = [DatanodeUuid(1), DatanodeUuid(2)];
        let mut avoided = AvoidedNodes::default();
        avoided.handle_failed(at(0), &[one]);
        avoided.handle_failed(at(1_000), &[two]);
        assert_eq!(avoided.list(at(599_999)), [one, two]);
        assert_eq!(avoided.list(at(600_000)), [two]);
        avoided.handle_failed(at(600_500), &[one]);
        assert_eq!(avoided.list(at(601_500)), [one]);
        let many: Vec<_> = (0..100).map(DatanodeUuid).collect();
        avoided.handle_failed(at(700_000), &many);
        assert_eq!(avoided.list(at(700_000)), many[36..]);
        avoided.keep_newest();
        assert_eq!(avoided.list(at(700_000)), many[99..]);
    }
}
