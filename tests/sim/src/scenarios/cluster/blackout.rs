//! Faults that strike several nodes at once: what single faults reach only by rare coincidence.

use super::nodes::Cluster;
use crate::disk::DiskFault;
use crate::node::{Crash, NodeId};
use crate::rng::Rng;
use crate::world::Handle;
use std::time::Duration;

/// Which nodes lose power together.
fn victims(rng: &mut Rng, cluster: &Groups) -> Vec<NodeId> {
    let mut journalnodes = cluster.journalnodes.clone();
    rng.shuffle(&mut journalnodes);
    match rng.below(4) {
        // All votes at once, under a NameNode that goes on.
        0 => journalnodes,
        // A majority and the writer.
        1 => {
            journalnodes.truncate(2);
            journalnodes.push(cluster.namenode);
            journalnodes
        }
        2 => {
            journalnodes.push(cluster.namenode);
            journalnodes
        }
        // The whole site.
        _ => {
            journalnodes.push(cluster.namenode);
            journalnodes.extend(&cluster.datanodes);
            journalnodes
        }
    }
}

/// The cluster's nodes by role.
struct Groups {
    journalnodes: Vec<NodeId>,
    namenode: NodeId,
    datanodes: Vec<NodeId>,
}

/// Power failures of several nodes at once until `end`; in a seeded half of all runs.
pub(super) fn start(world: &Handle, cluster: &Cluster, mut rng: Rng, end: Duration) {
    if rng.chance(1, 2) {
        return;
    }
    let groups = Groups {
        journalnodes: cluster.journalnodes.clone(),
        namenode: cluster.namenode,
        datanodes: cluster.datanodes.clone(),
    };
    let handle = world.clone();
    world.spawn("blackouts", async move {
        loop {
            handle
                .sleep(Duration::from_millis(rng.range(1_000, 30_000)))
                .await;
            if handle.now() >= end {
                return;
            }
            handle.count("blackouts", 1);
            let victims = victims(&mut rng, &groups);
            // At the same instant, or each at one of its next disk operations.
            let at_once = rng.chance(1, 2);
            for node in &victims {
                if at_once {
                    handle.crash(*node, Crash::Power);
                } else {
                    let disk = handle.disk_of(*node);
                    disk.fail_op(
                        disk.operations() + rng.below(4),
                        DiskFault::CrashAfter(Crash::Power),
                    );
                }
            }
            for node in victims {
                let wait = Duration::from_millis(rng.range(100, 8_000));
                handle.at(wait, move |handle| handle.restart(node));
            }
        }
    });
}
