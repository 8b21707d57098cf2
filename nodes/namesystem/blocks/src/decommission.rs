//! DataNodes that leave in good order: include and exclude lists, decommissioning (HDFS's `DatanodeAdminManager`).
//!
//! A DataNode being decommissioned takes no new replicas; what it has is readable and may be copied from, but counts
//! no longer towards a block's factor. It is decommissioned once every block it has a replica of has its factor on
//! others (an open block: minimal replication), seen in one pass without exception.

use crate::entry::Entry;
use crate::partition::{Counters, Partition};
use crate::view::View;
use crate::{BlockEvent, BlockManager};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{BlockState, DatanodeUuid, PARTITION_COUNT, Tick};

/// The operator's lists of DataNodes (`dfs.hosts`, `dfs.hosts.exclude`): node ids, addresses, or `address:port`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostLists {
    /// Who may register; everybody when empty.
    pub include: BTreeSet<String>,
    /// Who is being decommissioned.
    pub exclude: BTreeSet<String>,
}

impl HostLists {
    fn names(list: &BTreeSet<String>, name: &str, host: &str, address: &str) -> bool {
        [name, host, address].iter().any(|way| list.contains(*way))
    }

    /// Whether a DataNode may be part of the cluster.
    pub(crate) fn admits(&self, name: &str, host: &str, address: &str) -> bool {
        self.include.is_empty() || Self::names(&self.include, name, host, address)
    }

    fn excludes(&self, name: &str, host: &str, address: &str) -> bool {
        Self::names(&self.exclude, name, host, address)
    }
}

/// Where a DataNode stands between in service and gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Service {
    #[default]
    Normal,
    /// Blocks are looked at from this partition on; `clean` while the pass began at the first and found nothing.
    Decommissioning {
        partition: usize,
        clean: bool,
    },
    Decommissioned,
}

impl Service {
    pub(crate) const LEAVING: Self = Self::Decommissioning {
        partition: 0,
        clean: true,
    };
}

impl Partition {
    /// Replicas that count towards the factor: live ones on DataNodes that stay.
    pub(crate) fn staying(&self, entry: &Entry, view: &View<'_>) -> usize {
        if view.nodes.leaving == 0 {
            self.live(entry)
        } else {
            self.staying_replicas(entry.key, view).len()
        }
    }

    pub(crate) fn staying_replicas(&self, key: u64, view: &View<'_>) -> Vec<u32> {
        let mut replicas = self.live_replicas(key);
        if view.nodes.leaving > 0 {
            replicas.retain(|storage| !view.nodes.owner(*storage).is_leaving());
        }
        replicas
    }

    /// Whether a block needs the replica in one of these storages, which are about to leave.
    fn needs(&self, key: u64, view: &View<'_>) -> bool {
        let Some(entry) = self.table.get(key) else {
            return false;
        };
        let min = usize::from(view.config.min_replication);
        match entry.state() {
            BlockState::Complete => self.staying(entry, view) < usize::from(entry.replication),
            _ => {
                let mut nodes: BTreeSet<u32> = BTreeSet::new();
                let open = self.open.get(&key);
                let expected = open.into_iter().flat_map(|open| open.expected.iter());
                for storage in expected.copied().chain(self.table.replicas(key)) {
                    if view.nodes.is_usable(storage) && !view.nodes.owner(storage).is_leaving() {
                        nodes.insert(view.nodes.node_of(storage));
                    }
                }
                nodes.len() < min
            }
        }
    }

    /// Blocks with a replica in one of these storages.
    fn keys_on(&self, storages: &[u32]) -> Vec<u64> {
        let mut keys: Vec<u64> = storages
            .iter()
            .flat_map(|storage| self.table.keys_in(*storage))
            .collect();
        keys.extend(self.open.iter().filter_map(|(key, open)| {
            let expected = open.expected.iter().copied();
            let reported = open.reported.iter().map(|replica| replica.storage);
            expected
                .chain(reported)
                .any(|storage| storages.contains(&storage))
                .then_some(*key)
        }));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The sum of what these blocks add to the counters.
    fn weight(&self, keys: &[u64], view: &View<'_>) -> Counters {
        let mut sum = Counters::default();
        for key in keys {
            sum.add(self.weigh(*key, view));
        }
        sum
    }
}

impl BlockManager {
    /// Takes the operator's lists: DataNodes no longer admitted are dropped and may not register, excluded ones are
    /// decommissioned, those no longer excluded are back in service.
    pub fn set_hosts(&mut self, now: Tick, hosts: HostLists) {
        self.advance(now);
        self.hosts = hosts;
        for node in 0..self.nodes.nodes.len() as u32 {
            if !self.nodes.is_known(node) {
                continue;
            }
            let entry = self.nodes.node(node);
            let admitted = self.hosts.admits(&entry.name, entry.host(), &entry.address);
            if !admitted && entry.alive {
                let replicas = self.drop_node(node);
                let entry = self.nodes.node(node);
                let event = BlockEvent::Dead {
                    datanode: entry.uuid,
                    name: entry.name.clone(),
                    replicas,
                };
                self.event(event);
            }
            self.apply_exclusion(node);
        }
        self.check_safe_mode();
    }

    /// What the exclude list says of a DataNode (also when it registers).
    pub(crate) fn apply_exclusion(&mut self, node: u32) {
        let entry = self.nodes.node(node);
        let excluded = self
            .hosts
            .excludes(&entry.name, entry.host(), &entry.address);
        self.set_leaving(node, excluded);
    }

    /// Starts to decommission a DataNode, or takes it back into service; `false` when it is unknown. The lists of
    /// [`Self::set_hosts`] decide again when they are read next.
    pub fn set_decommissioning(&mut self, datanode: DatanodeUuid, on: bool) -> bool {
        let Some(node) = self.nodes.find(datanode) else {
            return false;
        };
        self.set_leaving(node, on);
        true
    }

    /// Every block it has counts anew. Costs a pass over the tables of its storages.
    fn set_leaving(&mut self, node: u32, on: bool) {
        if self.nodes.node(node).is_leaving() == on {
            return;
        }
        let storages = self.nodes.node(node).storages.clone();
        let mut weights = Vec::with_capacity(PARTITION_COUNT);
        for at in 0..self.partitions.len() {
            weights.push(self.with_partition(at, |partition, view, _| {
                let keys = partition.keys_on(&storages);
                let weight = partition.weight(&keys, view);
                (keys, weight)
            }));
        }
        let entry = self.nodes.node_mut(node);
        entry.service = if on {
            Service::LEAVING
        } else {
            Service::Normal
        };
        self.nodes.index();
        for (at, (keys, before)) in weights.into_iter().enumerate() {
            if keys.is_empty() {
                continue;
            }
            self.with_partition(at, |partition, view, out| {
                let after = partition.weight(&keys, view);
                partition.counters.replace(before, after);
                if view.populated {
                    for key in keys {
                        partition.evaluate(key, view, out);
                    }
                }
            });
        }
    }

    /// One step for each DataNode being decommissioned: up to `scan_batch` of its blocks.
    pub(crate) fn check_decommissions(&mut self) {
        if self.nodes.leaving == 0 {
            return;
        }
        for node in self.nodes.alive.clone() {
            let entry = self.nodes.node(node);
            let Service::Decommissioning {
                mut partition,
                mut clean,
            } = entry.service
            else {
                continue;
            };
            let storages = entry.storages.clone();
            // What it has is not known before it has told.
            if storages.iter().any(|storage| {
                let storage = self.nodes.storage(*storage);
                !storage.reported && !storage.gone
            }) {
                continue;
            }
            let mut budget = self.config.scan_batch.max(1);
            while partition < PARTITION_COUNT && budget > 0 {
                let (looked, needed) = self.with_partition(partition, |partition, view, _| {
                    let keys = partition.keys_on(&storages);
                    let needed = keys.iter().any(|key| partition.needs(*key, view));
                    (keys.len(), needed)
                });
                if needed {
                    clean = false;
                    break;
                }
                budget -= looked.clamp(1, budget);
                partition += 1;
            }
            let done = partition == PARTITION_COUNT;
            let entry = self.nodes.node_mut(node);
            entry.service = match (done, clean) {
                (true, true) => Service::Decommissioned,
                (true, false) => Service::LEAVING,
                (false, _) => Service::Decommissioning { partition, clean },
            };
            if entry.service == Service::Decommissioned {
                let event = BlockEvent::Decommissioned {
                    datanode: entry.uuid,
                    name: entry.name.clone(),
                };
                self.event(event);
            }
        }
    }
}
