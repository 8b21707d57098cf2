//! When a failed node of a pipeline is replaced by another, and which nodes are slow enough to be taken for failed.

use alloc::vec::Vec;
use hadal_types::DatanodeUuid;

/// Other nodes tried in place of one that failed (E-21: up to 3 tries).
pub const REPLACEMENT_TRIES_MAX: u32 = 3;

/// HDFS's `dfs.client.block.write.replace-datanode-on-failure.policy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplacePolicy {
    /// Never: the pipeline goes on with the nodes that are left.
    Never,
    /// With three copies or more: when half of them or fewer are left, and always for bytes somebody relies on already
    /// (an appended block, or one that was flushed).
    #[default]
    Default,
    /// Always.
    Always,
}

/// How failed nodes of a pipeline are replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplaceOptions {
    /// When.
    pub policy: ReplacePolicy,
    /// Go on with the nodes that are left when no replacement can be had; otherwise the write fails.
    pub best_effort: bool,
    /// A node that calls itself slow in so many acknowledgements in a row is taken for failed; 0: never (HDFS
    /// `dfs.client.mark.slownode.as.badnode.threshold`, T-P12).
    pub slow_acks_max: u32,
}

impl Default for ReplaceOptions {
    fn default() -> Self {
        Self {
            policy: ReplacePolicy::Default,
            best_effort: false,
            slow_acks_max: 10,
        }
    }
}

impl ReplacePolicy {
    /// Whether a pipeline with `live` nodes left of a file with `replication` copies gets another node (T-P13).
    /// `relied_on`: the block was reopened for append, or was flushed.
    #[must_use]
    pub fn wants(self, replication: u16, live: usize, relied_on: bool) -> bool {
        let replication = usize::from(replication);
        if live == 0 || live >= replication {
            return false;
        }
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Default => replication >= 3 && (relied_on || live <= replication / 2),
        }
    }
}

/// How often each node of a pipeline called itself slow, in a row.
#[derive(Clone, Debug, Default)]
pub struct SlowNodes {
    counts: Vec<(DatanodeUuid, u32)>,
}

impl SlowNodes {
    /// One acknowledgement: bit k of `slow` is set when node k of the pipeline called itself slow. The index of the
    /// first node that did so `threshold` times in a row, never the only one left.
    pub fn handle_ack(
        &mut self,
        pipeline: impl ExactSizeIterator<Item = DatanodeUuid>,
        slow: u64,
        threshold: u32,
    ) -> Option<usize> {
        if slow == 0 {
            self.counts.clear();
            return None;
        }
        if threshold == 0 || pipeline.len() < 2 {
            return None;
        }
        let before = core::mem::take(&mut self.counts);
        let mut over = None;
        for (index, node) in pipeline.enumerate().take(64) {
            if slow & (1 << index) == 0 {
                continue;
            }
            let known = before.iter().find(|(known, _)| *known == node);
            let count = known.map_or(0, |(_, count)| *count) + 1;
            if count >= threshold && over.is_none() {
                over = Some(index);
            }
            self.counts.push((node, count));
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_p13_the_default_policy_replaces_what_is_relied_on_or_half_gone() {
        for replication in 1..=5u16 {
            for live in 0..=5usize {
                for relied_on in [false, true] {
                    let wanted = ReplacePolicy::Default.wants(replication, live, relied_on);
                    let expected = live > 0
                        && live < usize::from(replication)
                        && replication >= 3
                        && (relied_on || live <= usize::from(replication) / 2);
                    assert_eq!(wanted, expected, "{replication} {live} {relied_on}");
                    assert!(!ReplacePolicy::Never.wants(replication, live, relied_on));
                    assert_eq!(
                        ReplacePolicy::Always.wants(replication, live, relied_on),
                        live > 0 && live < usize::from(replication)
                    );
                }
            }
        }
        // Spelled out for the usual case.
        assert!(!ReplacePolicy::Default.wants(3, 2, false));
        assert!(ReplacePolicy::Default.wants(3, 2, true));
        assert!(ReplacePolicy::Default.wants(3, 1, false));
        assert!(!ReplacePolicy::Default.wants(2, 1, true));
    }

    #[test]
    fn t_p12_a_node_slow_many_times_in_a_row_is_named() {
        let nodes = [DatanodeUuid(1), DatanodeUuid(2), DatanodeUuid(3)];
        let mut slow = SlowNodes::default();
        for _ in 0..2 {
            assert_eq!(slow.handle_ack(nodes.into_iter(), 0b100, 3), None);
        }
        assert_eq!(slow.handle_ack(nodes.into_iter(), 0, 3), None);
        for _ in 0..2 {
            assert_eq!(slow.handle_ack(nodes.into_iter(), 0b110, 3), None);
        }
        assert_eq!(slow.handle_ack(nodes.into_iter(), 0b100, 3), Some(2));
        let alone = [DatanodeUuid(3)];
        assert_eq!(slow.handle_ack(alone.into_iter(), 1, 3), None);
        assert_eq!(slow.handle_ack(nodes.into_iter(), 0b100, 0), None);
    }
}
