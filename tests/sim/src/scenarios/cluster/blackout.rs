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
            journalnodes.extend(cluster.some_namenode(rng));
            journalnodes
        }
        2 => {
            journalnodes.extend(cluster.some_namenode(rng));
            journalnodes
        }
        // The whole site.
        _ => {
            journalnodes.extend(&cluster.namenodes);
            journalnodes.extend(&cluster.datanodes);
            journalnodes
        }
    }
}

/// The cluster's nodes by role.
#[derive(Clone)]
struct Groups {
    journalnodes: Vec<NodeId>,
    namenodes: Vec<NodeId>,
    datanodes: Vec<NodeId>,
}

impl Groups {
    /// Any of them: which one is active is not for a fault to know.
    fn some_namenode(&self, rng: &mut Rng) -> Option<NodeId> {
        match self.namenodes.as_slice() {
            [alone] => Some(*alone),
            several => rng.pick(several).copied(),
        }
    }
}

/// Power failures of several nodes at once until `end`; in a seeded half of all runs. In another half, overlapping,
/// the NameNode now and then loses the JournalNodes, and soon after its life.
pub(super) fn start(world: &Handle, cluster: &Cluster, mut rng: Rng, end: Duration) {
    let groups = Groups {
        journalnodes: cluster.journalnodes.clone(),
        namenodes: cluster.namenodes.clone(),
        datanodes: cluster.datanodes.clone(),
    };
    let (blackouts, last_words) = (rng.chance(1, 2), rng.chance(1, 2));
    if blackouts {
        world.spawn(
            "blackouts",
            strike_together(world.clone(), groups.clone(), rng.fork(), end),
        );
    }
    if last_words {
        world.spawn(
            "last words",
            cut_off_and_kill(world.clone(), groups, rng, end),
        );
    }
}

async fn strike_together(handle: Handle, groups: Groups, mut rng: Rng, end: Duration) {
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
}

/// What a NameNode applied and told others, DataNodes above all, while no JournalNode heard it, is gone with it. One of
/// two may also live on: it comes back to a cluster that another one leads.
async fn cut_off_and_kill(handle: Handle, groups: Groups, mut rng: Rng, end: Duration) {
    loop {
        handle
            .sleep(Duration::from_millis(rng.range(2_000, 40_000)))
            .await;
        if handle.now() >= end {
            return;
        }
        handle.count("NameNode cut off and killed", 1);
        let Some(namenode) = groups.some_namenode(&mut rng) else {
            return;
        };
        for journalnode in &groups.journalnodes {
            handle.cut_one_way(namenode, *journalnode);
        }
        handle
            .sleep(Duration::from_millis(rng.range(50, 4_000)))
            .await;
        let ends = groups.namenodes.len() == 1 || rng.chance(1, 2);
        if ends {
            handle.crash(namenode, Crash::Process);
        }
        for journalnode in &groups.journalnodes {
            handle.heal_between(namenode, *journalnode);
        }
        if ends {
            let wait = Duration::from_millis(rng.range(100, 3_000));
            handle.at(wait, move |handle| handle.restart(namenode));
        }
    }
}
