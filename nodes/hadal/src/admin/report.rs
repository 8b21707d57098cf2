//! `dfsadmin -report`, in HDFS's layout.

use super::Operator;
use crate::humanize::{described, now_ms, percent, report_time};
use anyhow::Result;
use hadal_proto::admin::DatanodeStatus;
use hadal_proto::client::FsStats;
use hadal_proto::datanode::StorageReport;
use serde_json::{Value, json};

/// Which DataNodes to show; none chosen: all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub(super) live: bool,
    pub(super) dead: bool,
    pub(super) decommissioning: bool,
    pub(super) entering_maintenance: bool,
    pub(super) in_maintenance: bool,
}

impl Wanted {
    fn all(self) -> bool {
        !(self.live
            || self.dead
            || self.decommissioning
            || self.entering_maintenance
            || self.in_maintenance)
    }
}

/// Sums over the storages of a node, bytes.
#[derive(Default)]
struct Sums {
    capacity: u64,
    used: u64,
    remaining: u64,
    blocks: u64,
}

impl Sums {
    fn of(node: &DatanodeStatus) -> Self {
        let mut sums = Self::default();
        for storage in &node.storages {
            sums.capacity += storage.capacity;
            sums.used += storage.used;
            sums.remaining += storage.remaining;
            sums.blocks += storage.blocks;
        }
        sums
    }
}

fn is_dead(node: &DatanodeStatus) -> bool {
    node.state.starts_with("dead")
}

fn is_entering_maintenance(node: &DatanodeStatus) -> bool {
    node.state == "entering maintenance"
}

fn is_in_maintenance(node: &DatanodeStatus) -> bool {
    node.state.ends_with("in maintenance")
}

fn is_decommissioning(node: &DatanodeStatus) -> bool {
    node.state == "decommissioning"
}

/// Runs the verb.
pub(super) async fn run(operator: &Operator, wanted: Wanted) -> Result<i32> {
    let (stats, nodes) = operator.datanodes().await?;
    if operator.console.json {
        let nodes: Vec<Value> = nodes
            .iter()
            .filter(|node| {
                wanted.all()
                    || wanted.dead && is_dead(node)
                    || wanted.live && !is_dead(node)
                    || wanted.decommissioning && is_decommissioning(node)
                    || wanted.entering_maintenance && is_entering_maintenance(node)
                    || wanted.in_maintenance && is_in_maintenance(node)
            })
            .map(node_json)
            .collect();
        operator.console.json(&json!({
            "capacity": stats.capacity,
            "used": stats.used,
            "remaining": stats.remaining,
            "under_replicated": stats.under_replicated,
            "corrupt_blocks": stats.corrupt_blocks,
            "missing_blocks": stats.missing_blocks,
            "inodes": stats.inodes,
            "blocks": stats.blocks,
            "bytes_per_inode": per(stats.tree_bytes, stats.inodes),
            "bytes_per_block": per(stats.map_bytes, stats.blocks),
            "datanodes": nodes,
        }));
        return Ok(0);
    }
    for line in lines(&stats, &nodes, wanted, now_ms()) {
        operator.console.line(line);
    }
    Ok(0)
}

/// The NameNode's memory per unit, in bytes with one decimal; null without any.
fn per(bytes: u64, units: u64) -> Option<f64> {
    (units > 0).then(|| (bytes as f64 / units as f64 * 10.0).round() / 10.0)
}

fn lines(stats: &FsStats, nodes: &[DatanodeStatus], wanted: Wanted, now_ms: u64) -> Vec<String> {
    let present = stats.used + stats.remaining;
    let mut lines = vec![
        format!("Configured Capacity: {}", described(stats.capacity)),
        format!("Present Capacity: {}", described(present)),
        format!("DFS Remaining: {}", described(stats.remaining)),
        format!("DFS Used: {}", described(stats.used)),
        format!("DFS Used%: {}", percent(stats.used, present)),
        "Replicated Blocks:".into(),
        format!("\tUnder replicated blocks: {}", stats.under_replicated),
        format!("\tBlocks with corrupt replicas: {}", stats.corrupt_blocks),
        format!("\tMissing blocks: {}", stats.missing_blocks),
        String::new(),
        "-".repeat(49),
    ];
    let mut group = |title: &str, shown: bool, member: &dyn Fn(&DatanodeStatus) -> bool| {
        let members: Vec<&DatanodeStatus> = nodes.iter().filter(|node| member(node)).collect();
        let always = shown && !wanted.all();
        if !(shown || wanted.all()) || members.is_empty() && !always {
            return;
        }
        lines.push(format!("{title} datanodes ({}):", members.len()));
        lines.push(String::new());
        for node in members {
            lines.extend(node_lines(node, now_ms));
            lines.push(String::new());
        }
        lines.push(String::new());
    };
    group("Live", wanted.live, &|node| !is_dead(node));
    group("Dead", wanted.dead, &is_dead);
    group(
        "Decommissioning",
        wanted.decommissioning,
        &is_decommissioning,
    );
    group(
        "Entering maintenance",
        wanted.entering_maintenance,
        &is_entering_maintenance,
    );
    group("In maintenance", wanted.in_maintenance, &is_in_maintenance);
    lines
}

fn node_lines(node: &DatanodeStatus, now_ms: u64) -> Vec<String> {
    let sums = Sums::of(node);
    let others = sums
        .capacity
        .saturating_sub(sums.used)
        .saturating_sub(sums.remaining);
    let status = match node.state.as_str() {
        "decommissioning" => "Decommission in progress",
        "decommissioned" => "Decommissioned",
        "entering maintenance" => "Entering Maintenance",
        "in maintenance" | "dead in maintenance" => "In Maintenance",
        _ => "Normal",
    };
    let mut lines = vec![
        format!("Name: {} ({})", node.address, node.name),
        format!("Hostname: {}", node.name),
        format!("Rack: {}", node.rack),
        format!("Decommission Status : {status}"),
        format!("State: {}", node.state),
        format!("Configured Capacity: {}", described(sums.capacity)),
        format!("DFS Used: {}", described(sums.used)),
        format!("Non DFS Used: {}", described(others)),
        format!("DFS Remaining: {}", described(sums.remaining)),
        format!("DFS Used%: {}", percent(sums.used, sums.capacity)),
        format!("DFS Remaining%: {}", percent(sums.remaining, sums.capacity)),
        format!("Xceivers: {}", node.streams),
        format!("Failed Volumes: {}", node.failed_volumes),
        format!(
            "Last contact: {}",
            report_time(now_ms.saturating_sub(node.last_contact_ms))
        ),
        format!("Num of Blocks: {}", sums.blocks),
        format!("Software: {}", node.software),
    ];
    lines.extend(
        node.held_up
            .iter()
            .map(|held| format!("Held up by: {held}")),
    );
    lines
}

fn node_json(node: &DatanodeStatus) -> Value {
    json!({
        "name": node.name,
        "uuid": node.uuid.to_string(),
        "address": node.address,
        "http_address": node.http_address,
        "rack": node.rack,
        "state": node.state,
        "last_contact_ms": node.last_contact_ms,
        "streams": node.streams,
        "failed_volumes": node.failed_volumes,
        "software": node.software,
        "held_up": node.held_up,
        "storages": node.storages.iter().map(storage_json).collect::<Vec<_>>(),
    })
}

fn storage_json(storage: &StorageReport) -> Value {
    json!({
        "storage": storage.storage.to_string(),
        "failed": storage.failed,
        "capacity": storage.capacity,
        "used": storage.used,
        "remaining": storage.remaining,
        "pool_used": storage.pool_used,
        "blocks": storage.blocks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{DatanodeUuid, StorageUuid};

    fn node(name: &str, state: &str) -> DatanodeStatus {
        DatanodeStatus {
            uuid: DatanodeUuid(1),
            name: name.into(),
            address: "127.0.0.1:9866".into(),
            http_address: String::new(),
            rack: "/default-rack".into(),
            state: state.into(),
            last_contact_ms: 1000,
            streams: 0,
            failed_volumes: 0,
            storages: vec![StorageReport {
                storage: StorageUuid(2),
                failed: false,
                capacity: 4096,
                used: 1024,
                remaining: 2048,
                pool_used: 1024,
                blocks: 5,
            }],
            software: "0.1.0".into(),
            held_up: Vec::new(),
            shards: 1,
        }
    }

    const ALL: Wanted = Wanted {
        live: false,
        dead: false,
        decommissioning: false,
        entering_maintenance: false,
        in_maintenance: false,
    };

    #[test]
    fn reports_have_hdfs_s_layout() {
        let stats = FsStats {
            capacity: 4096,
            used: 1024,
            remaining: 2048,
            missing_blocks: 1,
            ..FsStats::default()
        };
        let mut leaving = node("dn3", "entering maintenance");
        leaving.held_up = vec!["/a (blk_1: 0 of 1)".into()];
        let nodes = [node("dn1", "live"), node("dn2", "dead"), leaving];
        let text = lines(&stats, &nodes, ALL, 10_000).join("\n");
        for part in [
            "Configured Capacity: 4096 (4 KB)\nPresent Capacity: 3072 (3 KB)\nDFS Remaining: 2048 (2 KB)\nDFS Used: 1024 (1 KB)\nDFS Used%: 33.33%\n",
            "\tMissing blocks: 1\n",
            "\nLive datanodes (2):\n\nName: 127.0.0.1:9866 (dn1)\nHostname: dn1\n",
            "\nDead datanodes (1):\n\nName: 127.0.0.1:9866 (dn2)\n",
            "Non DFS Used: 1024 (1 KB)\n",
            "Num of Blocks: 5\n",
            "\nEntering maintenance datanodes (1):\n",
            "Decommission Status : Entering Maintenance\n",
            "Held up by: /a (blk_1: 0 of 1)\n",
        ] {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
        assert!(!text.contains("Decommissioning datanodes"));
    }

    #[test]
    fn only_the_wanted_nodes_are_shown() {
        let nodes = [node("dn1", "live")];
        let dead = Wanted { dead: true, ..ALL };
        let text = lines(&FsStats::default(), &nodes, dead, 0).join("\n");
        assert!(text.contains("Dead datanodes (0):") && !text.contains("dn1"));
    }
}
