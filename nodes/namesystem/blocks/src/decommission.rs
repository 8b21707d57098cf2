//! DataNodes that leave in good order: include and exclude lists, decommissioning and maintenance (HDFS's
//! `DatanodeAdminManager`).
//!
//! A DataNode being decommissioned takes no new replicas; what it has is readable and may be copied from, but counts
//! no longer towards a block's factor. It is decommissioned once every block it has a replica of has its factor on
//! others (an open block: minimal replication), seen in one pass without exception.
//!
//! A DataNode that enters maintenance takes no new replicas either, and is in maintenance once every block it has has
//! `maintenance_min_replication` replicas on DataNodes that stay. Then it may be stopped until its time is over: its
//! replicas count as there, dead or alive, so nothing more is copied.

use crate::entry::Entry;
use crate::partition::{Counters, Partition};
use crate::registry::id_of;
use crate::view::View;
use crate::{BlockEvent, BlockManager, StoredBlock};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{BlockId, BlockState, DatanodeUuid, PARTITION_COUNT, Tick, mix, partition_of};

/// The operator's lists of DataNodes (`dfs.hosts`, `dfs.hosts.exclude`): node ids, addresses, or `address:port`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostLists {
    /// Who may register; everybody when empty.
    pub include: BTreeSet<String>,
    /// Who is being decommissioned.
    pub exclude: BTreeSet<String>,
    /// Who is in maintenance, and for how many milliseconds from the moment the lists are given (`u64::MAX`: until
    /// taken off the list). Being decommissioned goes before.
    pub maintenance: BTreeMap<String, u64>,
}

/// Examples kept of the blocks that hold up a DataNode that leaves.
const HELD_MAX: usize = 5;

/// A block that holds up a DataNode that leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldBlock {
    /// The block, as the map knows it.
    pub stored: StoredBlock,
    /// Replicas on DataNodes that stay.
    pub staying: usize,
    /// As many are needed there.
    pub needed: usize,
}

/// What the lists say of a DataNode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    Stay,
    Decommission,
    Maintain { until: Tick },
}

impl HostLists {
    fn names(list: &BTreeSet<String>, name: &str, host: &str, address: &str) -> bool {
        [name, host, address].iter().any(|way| list.contains(*way))
    }

    /// Whether a DataNode may be part of the cluster.
    pub(crate) fn admits(&self, name: &str, host: &str, address: &str) -> bool {
        self.include.is_empty() || Self::names(&self.include, name, host, address)
    }

    fn wish(&self, read: Tick, name: &str, host: &str, address: &str) -> Wish {
        if Self::names(&self.exclude, name, host, address) {
            return Wish::Decommission;
        }
        let mut ways = [name, host, address].into_iter();
        match ways.find_map(|way| self.maintenance.get(way)) {
            Some(left_ms) => Wish::Maintain {
                until: read.after_ms(*left_ms),
            },
            None => Wish::Stay,
        }
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
    /// As above; `until`: back in service.
    EnteringMaintenance {
        partition: usize,
        clean: bool,
        until: Tick,
    },
    InMaintenance {
        until: Tick,
    },
}

impl Service {
    /// Where a DataNode begins that is to be elsewhere than it is; `None`: it is there, or on its way.
    fn towards(self, wish: Wish, alive: bool) -> Option<Self> {
        match (wish, self) {
            (Wish::Stay, Self::Normal)
            | (Wish::Decommission, Self::Decommissioning { .. } | Self::Decommissioned) => None,
            (Wish::Stay, _) => Some(Self::Normal),
            (Wish::Decommission, _) => Some(Self::Decommissioning {
                partition: 0,
                clean: true,
            }),
            // Of one that is dead nothing is there to wait for.
            (Wish::Maintain { until }, _) if !alive => Some(Self::InMaintenance { until }),
            (Wish::Maintain { until }, Self::InMaintenance { .. }) => {
                Some(Self::InMaintenance { until })
            }
            (
                Wish::Maintain { until },
                Self::EnteringMaintenance {
                    partition, clean, ..
                },
            ) => Some(Self::EnteringMaintenance {
                partition,
                clean,
                until,
            }),
            (Wish::Maintain { until }, _) => Some(Self::EnteringMaintenance {
                partition: 0,
                clean: true,
                until,
            }),
        }
    }

    /// In maintenance, or about to be.
    pub(crate) fn is_maintained(self) -> bool {
        matches!(
            self,
            Self::EnteringMaintenance { .. } | Self::InMaintenance { .. }
        )
    }

    /// When maintenance is over.
    fn until(self) -> Option<Tick> {
        match self {
            Self::EnteringMaintenance { until, .. } | Self::InMaintenance { until } => Some(until),
            _ => None,
        }
    }
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

    /// Replicas a block needs on DataNodes that stay: its factor, less those in maintenance, which come back, but never
    /// less than the least during maintenance (HDFS `getExpectedLiveRedundancyNum`).
    pub(crate) fn wanted(&self, entry: &Entry, view: &View<'_>) -> usize {
        let wanted = usize::from(entry.replication);
        if view.nodes.maintained == 0 {
            return wanted;
        }
        let replicas = self.live_replicas(entry.key).into_iter();
        let maintained = replicas
            .filter(|storage| view.nodes.owner(*storage).service.is_maintained())
            .count();
        let least = usize::from(view.config.maintenance_min_replication).min(wanted);
        wanted.saturating_sub(maintained).max(least)
    }

    /// Replicas that make up a block's spread over racks: live ones, but for those on DataNodes that leave for good.
    pub(crate) fn spread(&self, key: u64, view: &View<'_>) -> Vec<u32> {
        let mut replicas = self.live_replicas(key);
        if view.nodes.leaving > 0 {
            replicas.retain(|storage| {
                let owner = view.nodes.owner(*storage);
                !owner.is_leaving() || owner.service.is_maintained()
            });
        }
        replicas
    }

    /// How many replicas a block has on DataNodes that stay and how many it needs there, when those are more.
    fn lacks(&self, key: u64, maintenance: bool, view: &View<'_>) -> Option<(usize, usize)> {
        let entry = self.table.get(key)?;
        let min = usize::from(view.config.min_replication);
        let (staying, needed) = match entry.state() {
            BlockState::Complete => {
                let least = usize::from(view.config.maintenance_min_replication);
                let needed = match maintenance {
                    true => least.min(usize::from(entry.replication)),
                    false => self.wanted(entry, view),
                };
                (self.staying(entry, view), needed)
            }
            _ => {
                let mut nodes: BTreeSet<u32> = BTreeSet::new();
                let open = self.open.get(&key);
                let expected = open.into_iter().flat_map(|open| open.expected.iter());
                for storage in expected.copied().chain(self.table.replicas(key)) {
                    if view.nodes.is_usable(storage) && !view.nodes.owner(storage).is_leaving() {
                        nodes.insert(view.nodes.node_of(storage));
                    }
                }
                (nodes.len(), min)
            }
        };
        (staying < needed).then_some((staying, needed))
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
    /// decommissioned or put into maintenance, those no longer listed are back in service.
    pub fn set_hosts(&mut self, now: Tick, hosts: HostLists) {
        self.advance(now);
        self.hosts = hosts;
        self.hosts_read = now;
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

    /// What the lists say of a DataNode (also when it registers).
    pub(crate) fn apply_exclusion(&mut self, node: u32) {
        let entry = self.nodes.node(node);
        let wish = self
            .hosts
            .wish(self.hosts_read, &entry.name, entry.host(), &entry.address);
        // Maintenance that is over is over, whatever the list still says.
        let over = matches!(wish, Wish::Maintain { until } if until <= self.now);
        self.set_service(node, if over { Wish::Stay } else { wish });
    }

    /// Starts to decommission a DataNode, or takes it back into service; `false` when it is unknown. The lists of
    /// [`Self::set_hosts`] decide again when they are read next.
    pub fn set_decommissioning(&mut self, datanode: DatanodeUuid, on: bool) -> bool {
        let Some(node) = self.nodes.find(datanode) else {
            return false;
        };
        self.set_service(node, if on { Wish::Decommission } else { Wish::Stay });
        true
    }

    /// Every block it has counts anew. Costs a pass over the tables of its storages.
    fn set_service(&mut self, node: u32, wish: Wish) {
        let entry = self.nodes.node(node);
        let (before, alive) = (entry.service, entry.alive);
        let Some(service) = before.towards(wish, alive) else {
            return;
        };
        if before.is_maintained() && service.is_maintained() {
            self.nodes.node_mut(node).service = service;
            return;
        }
        self.recount(node, service);
        // What it had was kept for its return, which nobody waits for any more.
        if !alive && matches!(before, Service::InMaintenance { .. }) {
            self.drop_node(node);
        }
    }

    /// Changes where a DataNode stands.
    fn recount(&mut self, node: u32, service: Service) {
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
        entry.service = service;
        entry.held.clear();
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

    /// Takes back into service whose maintenance is over.
    pub(crate) fn end_maintenance(&mut self) {
        if self.nodes.maintained == 0 {
            return;
        }
        for node in 0..self.nodes.nodes.len() as u32 {
            let until = self.nodes.node(node).service.until();
            if until.is_some_and(|until| until <= self.now) {
                self.set_service(node, Wish::Stay);
            }
        }
    }

    /// Examples of blocks that hold up a DataNode that leaves, from the last look at what it has.
    #[must_use]
    pub fn held_up(&self, datanode: DatanodeUuid) -> Vec<HeldBlock> {
        let node = self.nodes.find(datanode).map(|node| self.nodes.node(node));
        let held = node.into_iter().flat_map(|node| &node.held);
        held.filter_map(|(block, staying, needed)| {
            Some(HeldBlock {
                stored: self.stored(*block)?,
                staying: *staying,
                needed: *needed,
            })
        })
        .collect()
    }

    /// Whether a block has a replica on a DataNode that is being decommissioned, and too few on those that stay for that
    /// to end.
    #[must_use]
    pub fn holds_decommission_up(&self, block: BlockId) -> bool {
        if self.nodes.leaving == 0 {
            return false;
        }
        let (key, view) = (mix(block), self.view());
        let partition = &self.partitions[partition_of(block)];
        let open = partition.open.get(&key).into_iter();
        let mut known = open
            .flat_map(|open| {
                let reported = open.reported.iter().map(|replica| replica.storage);
                open.expected.iter().copied().chain(reported)
            })
            .chain(partition.table.replicas(key));
        known.any(|storage| {
            let service = self.nodes.owner(storage).service;
            matches!(service, Service::Decommissioning { .. })
        }) && partition.lacks(key, false, &view).is_some()
    }

    /// One step for each DataNode that leaves: up to `scan_batch` of its blocks.
    pub(crate) fn check_decommissions(&mut self) {
        if self.nodes.leaving == 0 {
            return;
        }
        for node in self.nodes.alive.clone() {
            let entry = self.nodes.node(node);
            let (Service::Decommissioning {
                mut partition,
                mut clean,
            }
            | Service::EnteringMaintenance {
                mut partition,
                mut clean,
                ..
            }) = entry.service
            else {
                continue;
            };
            let until = entry.service.until();
            let storages = entry.storages.clone();
            // What it has is not known before it has told.
            if storages.iter().any(|storage| {
                let storage = self.nodes.storage(*storage);
                !storage.reported && !storage.gone
            }) {
                continue;
            }
            let mut budget = self.config.scan_batch.max(1);
            let mut held = Vec::new();
            while partition < PARTITION_COUNT && budget > 0 {
                let looked = self.with_partition(partition, |partition, view, _| {
                    let keys = partition.keys_on(&storages);
                    let lacking = keys.iter().filter_map(|key| {
                        let (staying, needed) = partition.lacks(*key, until.is_some(), view)?;
                        Some((id_of(*key), staying, needed))
                    });
                    held.extend(lacking.take(HELD_MAX));
                    keys.len()
                });
                if !held.is_empty() {
                    clean = false;
                    break;
                }
                budget -= looked.clamp(1, budget);
                partition += 1;
            }
            let done = partition == PARTITION_COUNT;
            let entry = self.nodes.node_mut(node);
            entry.held = held;
            let (partition, clean, ready) = match (done, clean) {
                (true, clean) => (0, true, clean),
                (false, clean) => (partition, clean, false),
            };
            entry.service = match until {
                None if ready => Service::Decommissioned,
                Some(until) if ready => Service::InMaintenance { until },
                None => Service::Decommissioning { partition, clean },
                Some(until) => Service::EnteringMaintenance {
                    partition,
                    clean,
                    until,
                },
            };
            if ready {
                let (datanode, name) = (entry.uuid, entry.name.clone());
                self.event(match until {
                    None => BlockEvent::Decommissioned { datanode, name },
                    Some(_) => BlockEvent::InMaintenance { datanode, name },
                });
            }
        }
    }
}
