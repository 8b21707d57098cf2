//! Which DataNodes give and which take, and how much (HDFS's `Balancer.init` and `chooseStorageGroups`).

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::DatanodeUuid;

/// What counts as used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Everything of Hadal's on a DataNode.
    #[default]
    Datanode,
    /// What this block pool has there.
    Blockpool,
}

/// How full one DataNode is; bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeUsage {
    /// Which.
    pub datanode: DatanodeUuid,
    /// Where it stands.
    pub rack: String,
    /// Bytes it has for Hadal, used and free.
    pub capacity: u64,
    /// Bytes used.
    pub used: u64,
    /// Of them by this block pool.
    pub pool_used: u64,
    /// Bytes free.
    pub remaining: u64,
}

/// What the operator wants.
#[derive(Clone, PartialEq, Debug)]
pub struct PlanOptions {
    /// How many per cent of its capacity a DataNode may be away from the average.
    pub threshold_percent: f64,
    /// What counts as used.
    pub policy: Policy,
    /// Most bytes from or to one DataNode in one iteration.
    pub max_bytes_per_node: u64,
    /// Only these give; all when empty.
    pub sources: BTreeSet<DatanodeUuid>,
}

/// Bytes to move from one DataNode to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    /// Fuller than the average.
    pub source: DatanodeUuid,
    /// Emptier than the average.
    pub target: DatanodeUuid,
    /// How much.
    pub bytes: u64,
}

/// One iteration.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// How full the DataNodes are together, in per cent.
    pub average_percent: f64,
    /// DataNodes above the threshold, those that may give.
    pub over: Vec<DatanodeUuid>,
    /// DataNodes below it.
    pub under: Vec<DatanodeUuid>,
    /// The least that must move until none is outside the threshold; 0: the cluster is balanced.
    pub bytes_left: u64,
    /// What this iteration moves.
    pub tasks: Vec<Task>,
}

impl Plan {
    /// What this iteration moves, in bytes.
    #[must_use]
    pub fn bytes_planned(&self) -> u64 {
        self.tasks.iter().map(|task| task.bytes).sum()
    }
}

/// A DataNode with room for so many bytes in this iteration.
struct Side<'a> {
    node: &'a NodeUsage,
    room: u64,
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn bytes_of(percent: f64, whole: u64) -> u64 {
    (percent * whole as f64 / 100.0) as u64
}

/// Plans an iteration. DataNodes without capacity are passed over.
///
/// Those above the threshold give to those below it, then to others below the average; those below it take from others
/// above the average: first within a rack, then across. None gives or takes more than its distance to the average.
#[must_use]
pub fn plan(nodes: &[NodeUsage], options: &PlanOptions) -> Plan {
    let used = |node: &NodeUsage| match options.policy {
        Policy::Datanode => node.used,
        Policy::Blockpool => node.pool_used,
    };
    let there = || nodes.iter().filter(|node| node.capacity > 0);
    let capacity: u64 = there().map(|node| node.capacity).sum();
    if capacity == 0 {
        return Plan::default();
    }
    let average = percent(there().map(used).sum(), capacity);
    let mut plan = Plan {
        average_percent: average,
        ..Plan::default()
    };
    let (mut over, mut above) = (Vec::new(), Vec::new());
    let (mut below, mut under) = (Vec::new(), Vec::new());
    let (mut too_much, mut too_little) = (0u64, 0u64);
    for node in there() {
        let distance = percent(used(node), node.capacity) - average;
        let outside = distance.abs() - options.threshold_percent;
        let room = bytes_of(distance.abs(), node.capacity).min(options.max_bytes_per_node);
        if distance > 0.0 {
            if !options.sources.is_empty() && !options.sources.contains(&node.datanode) {
                continue;
            }
            let side = Side { node, room };
            if outside > 0.0 {
                too_much = too_much.saturating_add(bytes_of(outside, node.capacity).max(1));
                plan.over.push(node.datanode);
                over.push(side);
            } else {
                above.push(side);
            }
        } else {
            let room = room.min(node.remaining);
            let side = Side { node, room };
            if outside > 0.0 {
                too_little = too_little.saturating_add(bytes_of(outside, node.capacity).max(1));
                plan.under.push(node.datanode);
                under.push(side);
            } else {
                below.push(side);
            }
        }
    }
    plan.bytes_left = too_much.max(too_little);
    if plan.bytes_left == 0 {
        return plan;
    }
    for same_rack in [true, false] {
        pair(&mut over, &mut under, same_rack, &mut plan.tasks);
        pair(&mut over, &mut below, same_rack, &mut plan.tasks);
        pair(&mut above, &mut under, same_rack, &mut plan.tasks);
    }
    plan
}

fn pair(
    sources: &mut [Side<'_>],
    targets: &mut [Side<'_>],
    same_rack: bool,
    tasks: &mut Vec<Task>,
) {
    for source in sources {
        for target in targets.iter_mut() {
            let bytes = source.room.min(target.room);
            if bytes == 0 || same_rack && source.node.rack != target.node.rack {
                continue;
            }
            source.room -= bytes;
            target.room -= bytes;
            tasks.push(Task {
                source: source.node.datanode,
                target: target.node.datanode,
                bytes,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn node(id: u128, rack: &str, capacity: u64, used: u64) -> NodeUsage {
        NodeUsage {
            datanode: DatanodeUuid(id),
            rack: rack.into(),
            capacity,
            used,
            pool_used: used,
            remaining: capacity - used,
        }
    }

    fn options() -> PlanOptions {
        PlanOptions {
            threshold_percent: 10.0,
            policy: Policy::Datanode,
            max_bytes_per_node: u64::MAX,
            sources: BTreeSet::new(),
        }
    }

    fn task(source: u128, target: u128, bytes: u64) -> Task {
        Task {
            source: DatanodeUuid(source),
            target: DatanodeUuid(target),
            bytes,
        }
    }

    #[test]
    fn the_full_give_to_the_empty_up_to_the_average() {
        let nodes = [
            node(1, "/a", 1000, 900),
            node(2, "/a", 1000, 500),
            node(3, "/a", 1000, 100),
        ];
        let plan = plan(&nodes, &options());
        assert_eq!(plan.average_percent, 50.0);
        assert_eq!(plan.bytes_left, 300, "300 of 400 are beyond the threshold");
        assert_eq!(plan.tasks, [task(1, 3, 400)]);
        assert_eq!((plan.over.len(), plan.under.len()), (1, 1));
    }

    #[test]
    fn within_the_threshold_nothing_moves() {
        let nodes = [node(1, "/a", 1000, 590), node(2, "/a", 1000, 410)];
        let plan = plan(&nodes, &options());
        assert_eq!((plan.bytes_left, plan.tasks.len()), (0, 0));
        assert_eq!(super::plan(&[], &options()), Plan::default());
    }

    /// Capacity counts, not bytes: a small DataNode is full sooner.
    #[test]
    fn a_new_datanode_takes_from_all_above_the_average() {
        let nodes = [
            node(1, "/a", 1000, 400),
            node(2, "/a", 1000, 400),
            node(3, "/a", 500, 0),
        ];
        let plan = plan(&nodes, &options());
        assert_eq!(plan.average_percent, 32.0);
        assert!(plan.over.is_empty() && plan.under == [DatanodeUuid(3)]);
        assert_eq!(plan.tasks, [task(1, 3, 80), task(2, 3, 80)]);
        assert_eq!(plan.bytes_planned(), 160);
        assert_eq!(plan.bytes_left, 110);
    }

    #[test]
    fn a_rack_balances_within_before_across() {
        let nodes = [
            node(1, "/a", 1000, 800),
            node(2, "/b", 1000, 200),
            node(3, "/a", 1000, 350),
            node(4, "/b", 1000, 650),
        ];
        let plan = plan(&nodes, &options());
        assert_eq!(
            plan.tasks,
            [task(1, 3, 150), task(4, 2, 150), task(1, 2, 150)]
        );
    }

    #[test]
    fn sources_limits_and_pools_are_respected() {
        let nodes = vec![
            node(1, "/a", 1000, 900),
            node(2, "/a", 1000, 900),
            node(3, "/a", 1000, 0),
        ];
        let mut wanted = options();
        wanted.sources.insert(DatanodeUuid(2));
        wanted.max_bytes_per_node = 50;
        assert_eq!(plan(&nodes, &wanted).tasks, [task(2, 3, 50)]);
        let mut nodes = nodes;
        for node in &mut nodes {
            node.pool_used = 100;
        }
        wanted.policy = Policy::Blockpool;
        assert_eq!(plan(&nodes, &wanted).bytes_left, 0);
        // A target that is full of other things takes no more than it has room for.
        nodes[2].remaining = 7;
        let plan = plan(&nodes, &options());
        assert_eq!(plan.bytes_planned(), 7);
    }
}
