//! What the balancer is told and may order (HDFS's NamenodeProtocol.getBlocks, and `-setBalancerBandwidth`).
//!
//! The NameNode stays the one that decides: a replica moved is a copy that arrives with a hint, and only then is
//! one replica too many, of which the hinted one goes if the racks allow.

use crate::BlockManager;
use crate::partition::Partition;
use crate::view::View;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use hadal_proto::admin::{BlocksPage, HeldBy};
use hadal_proto::datanode::Action;
use hadal_types::{DatanodeUuid, PARTITION_COUNT};

/// Blocks in one page.
const PAGE_MAX: usize = 1_000;

impl Partition {
    /// Where the replicas of a block are, if one of them may be moved: it is COMPLETE, has just the replicas it wants on
    /// DataNodes that stay, nothing is under way, and no storage may have accepted another active's deletions.
    fn movable(&self, key: u64, min_bytes: u64, view: &View<'_>) -> Option<Vec<u32>> {
        let entry = self.table.get(key)?;
        if !entry.is_complete()
            || entry.block().length < min_bytes
            || entry.has_pending()
            || entry.has_excess()
            || entry.has_corrupt()
        {
            return None;
        }
        let replicas = self.live_replicas(key);
        let settled = |storage: &u32| {
            view.nodes.is_usable(*storage)
                && !view.nodes.storage(*storage).content_stale
                && !view.nodes.owner(*storage).is_leaving()
        };
        (replicas.len() == usize::from(entry.replication) && replicas.iter().all(settled))
            .then_some(replicas)
    }
}

impl BlockManager {
    /// Blocks of at least `min_bytes` that may be moved away from a live DataNode, in the map's order behind `after`; at
    /// most `limit`, and 1000. `None`: there is no such DataNode. Costs a look at the blocks of the partitions the page
    /// covers.
    #[must_use]
    pub fn movable_blocks(
        &self,
        datanode: DatanodeUuid,
        after: Option<u64>,
        min_bytes: u64,
        limit: usize,
    ) -> Option<BlocksPage> {
        let node = self.nodes.find(datanode);
        let node = node.filter(|node| self.nodes.node(*node).alive)?;
        let (storages, view) = (&self.nodes.node(node).storages, self.view());
        let limit = limit.clamp(1, PAGE_MAX);
        let mut page = BlocksPage::default();
        let mut known: BTreeMap<u32, u32> = BTreeMap::new();
        let first = after.map_or(0, |key| (key >> 56) as usize);
        for partition in &self.partitions[first..PARTITION_COUNT] {
            let mut keys: Vec<u64> = storages
                .iter()
                .flat_map(|storage| partition.table.keys_in(*storage))
                .filter(|key| after.is_none_or(|after| *key > after))
                .collect();
            keys.sort_unstable();
            for key in keys {
                let Some(replicas) = partition.movable(key, min_bytes, &view) else {
                    continue;
                };
                let Some(entry) = partition.table.get(key) else {
                    continue;
                };
                let holders = replicas.into_iter().map(|storage| {
                    *known.entry(storage).or_insert_with(|| {
                        page.holders.push(self.nodes.target(storage));
                        (page.holders.len() - 1) as u32
                    })
                });
                let holders = holders.collect();
                page.blocks.push(HeldBy {
                    block: entry.block(),
                    holders,
                });
                if page.blocks.len() >= limit {
                    page.next = Some(key);
                    return Some(page);
                }
            }
        }
        Some(page)
    }

    /// Tells every live DataNode what it may spend on balancing, in bytes per second. One that registers later, or again
    /// after a restart, goes by its own configuration (as in HDFS).
    pub fn set_balancer_bandwidth(&mut self, bytes_per_s: u64) {
        let cause = self.txid;
        for node in self.nodes.alive.clone() {
            let action = Action::BalancerBandwidth { bytes_per_s };
            self.nodes.node_mut(node).outbox.push(cause, action);
        }
    }
}
