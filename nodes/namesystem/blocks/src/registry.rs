//! DataNodes, their storages and racks.

use crate::commands::{Deletions, Outbox};
use crate::decommission::Service;
use crate::entry::STORAGES_MAX;
use crate::session::{DigestSession, ReportSession, Touched};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::client::ReplicaTarget;
use hadal_proto::datanode::{Registration, StorageReport};
use hadal_types::{BlockId, DatanodeUuid, Epoch, StorageUuid, Tick};

/// One DataNode.
#[derive(Debug)]
pub(crate) struct Datanode {
    pub(crate) uuid: DatanodeUuid,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) http_address: String,
    pub(crate) software: String,
    pub(crate) shards: u16,
    pub(crate) rack: u32,
    /// Storage indices.
    pub(crate) storages: Vec<u32>,
    pub(crate) alive: bool,
    /// No heartbeat for the stale interval.
    pub(crate) stale: bool,
    pub(crate) service: Service,
    /// Blocks that hold up its leaving: replicas on DataNodes that stay, and as many as are needed there.
    pub(crate) held: Vec<(BlockId, usize, usize)>,
    pub(crate) last_heartbeat: Tick,
    pub(crate) streams: u32,
    pub(crate) failed_volumes: u32,
    /// Copies it is the source of and that are not reported yet, in parts of whole ones.
    pub(crate) assigned: u32,
    /// Incremental reports applied.
    pub(crate) incremental: u64,
    pub(crate) touched: Touched,
    /// The epoch it acknowledged last.
    pub(crate) acknowledged: Epoch,
    /// ReportNow was sent since the last registration or role change.
    pub(crate) report_asked: bool,
    /// Must register again (a bound was hit).
    pub(crate) register_again: bool,
    pub(crate) outbox: Outbox,
    pub(crate) deletions: Deletions,
}

impl Datanode {
    /// Decommissioned, in maintenance or about to be: its replicas do not count as staying.
    pub(crate) fn is_leaving(&self) -> bool {
        self.service != Service::Normal
    }

    /// Host part of its address.
    pub(crate) fn host(&self) -> &str {
        host_of(&self.address)
    }
}

/// Host part of `ip:port` or `[ip]:port`.
pub(crate) fn host_of(address: &str) -> &str {
    address
        .rsplit_once(':')
        .map_or(address, |(host, _)| host)
        .trim_start_matches('[')
        .trim_end_matches(']')
}

/// One storage of a DataNode. Its index is never used again for another.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) uuid: StorageUuid,
    pub(crate) node: u32,
    pub(crate) report: StorageReport,
    /// A full report was processed since the DataNode registered (Q2).
    pub(crate) reported: bool,
    /// It may have accepted deletions of an older active: do not trust over-replication (F-02).
    pub(crate) content_stale: bool,
    /// Held replicas of unknown blocks when they could not be deleted (standby, safe mode).
    pub(crate) has_unknown: bool,
    pub(crate) session: Option<ReportSession>,
    pub(crate) digest: Option<DigestSession>,
    /// The last full report processed, so that a repeated call is answered, not processed (Q1).
    pub(crate) last_report: Option<u64>,
    /// Bytes placed here since the last heartbeat and not reported as received yet.
    pub(crate) scheduled: u64,
    /// How many blocks that is.
    pub(crate) scheduled_blocks: u64,
    /// Gone or failed: nothing is placed or kept here.
    pub(crate) gone: bool,
    /// Its place in the image that was loaded, as long as something is remembered of it.
    pub(crate) remembered: Option<u32>,
}

impl Storage {
    /// Bytes that may still be placed here.
    pub(crate) fn free(&self) -> u64 {
        self.report.remaining.saturating_sub(self.scheduled)
    }
}

/// All DataNodes, known ones that are dead included.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) nodes: Vec<Datanode>,
    pub(crate) storages: Vec<Storage>,
    /// Nodes alive, in order of index.
    pub(crate) alive: Vec<u32>,
    /// Nodes alive per rack.
    pub(crate) rack_nodes: Vec<Vec<u32>>,
    pub(crate) racks: Vec<String>,
    /// More than one rack has live DataNodes.
    pub(crate) many_racks: bool,
    /// How many DataNodes are leaving, dead ones included.
    pub(crate) leaving: usize,
    /// How many of them are in maintenance or about to be.
    pub(crate) maintained: usize,
    /// The highest number an order to a DataNode had that is forgotten by now.
    pub(crate) orders_forgotten: u64,
    /// When a DataNode registered last.
    pub(crate) entered_at: Tick,
    /// Places in the image of storages that have not come yet.
    remembered: BTreeMap<(DatanodeUuid, StorageUuid), u32>,
    by_uuid: BTreeMap<DatanodeUuid, u32>,
    by_name: BTreeMap<String, u32>,
    by_host: BTreeMap<String, Vec<u32>>,
}

impl Registry {
    pub(crate) fn find(&self, uuid: DatanodeUuid) -> Option<u32> {
        self.by_uuid.get(&uuid).copied()
    }

    pub(crate) fn find_name(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn node(&self, node: u32) -> &Datanode {
        &self.nodes[node as usize]
    }

    pub(crate) fn node_mut(&mut self, node: u32) -> &mut Datanode {
        &mut self.nodes[node as usize]
    }

    pub(crate) fn storage(&self, storage: u32) -> &Storage {
        &self.storages[storage as usize]
    }

    pub(crate) fn storage_mut(&mut self, storage: u32) -> &mut Storage {
        &mut self.storages[storage as usize]
    }

    /// The DataNode a storage is in.
    pub(crate) fn node_of(&self, storage: u32) -> u32 {
        self.storages[storage as usize].node
    }

    pub(crate) fn owner(&self, storage: u32) -> &Datanode {
        self.node(self.node_of(storage))
    }

    pub(crate) fn rack_of(&self, storage: u32) -> u32 {
        self.owner(storage).rack
    }

    /// Usable: its DataNode is alive and it has not failed.
    pub(crate) fn is_usable(&self, storage: u32) -> bool {
        self.owner(storage).alive && !self.storage(storage).gone
    }

    pub(crate) fn find_storage(&self, node: u32, uuid: StorageUuid) -> Option<u32> {
        self.node(node)
            .storages
            .iter()
            .copied()
            .find(|storage| self.storage(*storage).uuid == uuid)
    }

    /// Live DataNodes on a host, by address or node name.
    pub(crate) fn on_host(&self, host: &str) -> Vec<u32> {
        if host.is_empty() {
            return Vec::new();
        }
        let mut nodes = self.by_host.get(host).cloned().unwrap_or_default();
        if let Some(node) = self.find_name(host)
            && !nodes.contains(&node)
        {
            nodes.push(node);
        }
        nodes.retain(|node| self.node(*node).alive);
        nodes
    }

    /// A storage as clients see it.
    pub(crate) fn target(&self, storage: u32) -> ReplicaTarget {
        let node = self.owner(storage);
        ReplicaTarget {
            datanode: node.uuid,
            storage: self.storage(storage).uuid,
            name: node.name.clone(),
            address: node.address.clone(),
            shards: node.shards,
            rack: self.racks[node.rack as usize].clone(),
        }
    }

    pub(crate) fn targets(&self, storages: &[u32]) -> Vec<ReplicaTarget> {
        storages
            .iter()
            .map(|storage| self.target(*storage))
            .collect()
    }

    /// The storage a target names, if it is known.
    pub(crate) fn storage_of(&self, datanode: DatanodeUuid, storage: StorageUuid) -> Option<u32> {
        self.find_storage(self.find(datanode)?, storage)
    }

    /// Adds a DataNode or replaces address, rack and names of a known one. Storages are not touched.
    pub(crate) fn enter(&mut self, now: Tick, registration: &Registration) -> u32 {
        let rack = self.rack(&registration.rack);
        let node = match self.find(registration.uuid) {
            Some(node) => {
                let old_name = self.node(node).name.clone();
                if self.by_name.get(&old_name) == Some(&node) {
                    self.by_name.remove(&old_name);
                }
                node
            }
            None => {
                let node = u32::try_from(self.nodes.len()).expect("fewer than 2^32 DataNodes");
                self.nodes.push(Datanode {
                    uuid: registration.uuid,
                    name: String::new(),
                    address: String::new(),
                    http_address: String::new(),
                    software: String::new(),
                    shards: 1,
                    rack,
                    storages: Vec::new(),
                    alive: false,
                    stale: false,
                    service: Service::Normal,
                    held: Vec::new(),
                    last_heartbeat: now,
                    streams: 0,
                    failed_volumes: 0,
                    assigned: 0,
                    incremental: 0,
                    touched: Touched::default(),
                    acknowledged: Epoch(0),
                    report_asked: false,
                    register_again: false,
                    outbox: Outbox::default(),
                    deletions: Deletions::default(),
                });
                self.by_uuid.insert(registration.uuid, node);
                node
            }
        };
        self.entered_at = now;
        let entry = self.node_mut(node);
        entry.name.clone_from(&registration.name);
        entry.address.clone_from(&registration.address);
        entry.http_address.clone_from(&registration.http_address);
        entry.software.clone_from(&registration.software);
        entry.shards = registration.shards.max(1);
        entry.rack = rack;
        entry.alive = true;
        entry.stale = false;
        entry.last_heartbeat = now;
        self.by_name.insert(registration.name.clone(), node);
        self.index();
        node
    }

    fn rack(&mut self, rack: &str) -> u32 {
        let rack = if rack.is_empty() {
            "/default-rack"
        } else {
            rack
        };
        let at = self.racks.iter().position(|known| known == rack);
        let at = at.unwrap_or_else(|| {
            self.racks.push(String::from(rack));
            self.racks.len() - 1
        });
        u32::try_from(at).expect("fewer than 2^32 racks")
    }

    /// Rebuilds what is derived from liveness, racks and addresses.
    pub(crate) fn index(&mut self) {
        self.alive.clear();
        self.by_host.clear();
        self.rack_nodes = self.racks.iter().map(|_| Vec::new()).collect();
        for (at, node) in self.nodes.iter().enumerate() {
            if node.alive {
                let at = at as u32;
                self.alive.push(at);
                self.rack_nodes[node.rack as usize].push(at);
                self.by_host
                    .entry(String::from(node.host()))
                    .or_default()
                    .push(at);
            }
        }
        let racks = self.rack_nodes.iter().filter(|nodes| !nodes.is_empty());
        self.many_racks = racks.count() > 1;
        self.leaving = self.nodes.iter().filter(|node| node.is_leaving()).count();
        let maintained = self
            .nodes
            .iter()
            .filter(|node| node.service.is_maintained());
        self.maintained = maintained.count();
    }

    /// Whether another storage can be entered: the block map has so many numbers for them.
    pub(crate) fn has_room(&self) -> bool {
        self.storages.len() < STORAGES_MAX
    }

    /// Index of a storage of a DataNode, added (content stale, not reported) when new.
    ///
    /// # Panics
    ///
    /// When it is new and there is no room ([`Self::has_room`]).
    pub(crate) fn enter_storage(&mut self, node: u32, report: &StorageReport) -> u32 {
        if let Some(storage) = self.find_storage(node, report.storage) {
            return storage;
        }
        let storage = self.storages.len();
        assert!(
            self.has_room(),
            "a NameNode knows {STORAGES_MAX} storages at most"
        );
        let storage = storage as u32;
        let owner = self.node(node).uuid;
        let remembered = self.remembered.remove(&(owner, report.storage));
        self.storages.push(Storage {
            uuid: report.storage,
            node,
            report: report.clone(),
            reported: false,
            content_stale: true,
            has_unknown: false,
            session: None,
            digest: None,
            last_report: None,
            scheduled: 0,
            scheduled_blocks: 0,
            gone: false,
            remembered,
        });
        self.node_mut(node).storages.push(storage);
        storage
    }

    /// The storages of an image, in the order of their places.
    pub(crate) fn remember(&mut self, storages: Vec<(DatanodeUuid, StorageUuid)>) {
        self.remembered = storages.into_iter().zip(0..).collect();
    }

    /// Nothing is remembered of a storage any more; its place.
    pub(crate) fn forget_remembered(&mut self, storage: u32) -> Option<u32> {
        self.storage_mut(storage).remembered.take()
    }

    /// Storages of the image that have not come are given up; their places.
    pub(crate) fn forget_absent(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.remembered)
            .into_values()
            .collect()
    }

    /// Notes numbers of a storage from a heartbeat or registration.
    pub(crate) fn refresh_storage(&mut self, storage: u32, report: &StorageReport) {
        let entry = self.storage_mut(storage);
        entry.report = report.clone();
        entry.scheduled = 0;
        entry.scheduled_blocks = 0;
    }

    /// Forgets a DataNode's name and identity (another one took its name); its index stays.
    pub(crate) fn forget(&mut self, node: u32) {
        let (uuid, name) = (self.node(node).uuid, self.node(node).name.clone());
        self.by_uuid.remove(&uuid);
        if self.by_name.get(&name) == Some(&node) {
            self.by_name.remove(&name);
        }
        self.orders_forgotten = self
            .orders_forgotten
            .max(self.node(node).outbox.last_number());
        self.node_mut(node).alive = false;
        self.index();
    }

    /// Whether this DataNode is still one of the cluster's (not forgotten).
    pub(crate) fn is_known(&self, node: u32) -> bool {
        self.find(self.node(node).uuid) == Some(node)
    }

    /// Notes that a block was placed in a storage.
    pub(crate) fn note_scheduled(&mut self, storage: u32, bytes: u64) {
        let entry = self.storage_mut(storage);
        entry.scheduled = entry.scheduled.saturating_add(bytes);
        entry.scheduled_blocks += 1;
    }

    /// Notes that a block placed in a storage has arrived: its place is given back, in the size of the average one, as
    /// a block is planned with its full size and most are smaller. Without this many small files fill a storage on paper
    /// between two heartbeats.
    pub(crate) fn note_received(&mut self, storage: u32) {
        let entry = self.storage_mut(storage);
        if let Some(average) = entry.scheduled.checked_div(entry.scheduled_blocks) {
            entry.scheduled -= average;
            entry.scheduled_blocks -= 1;
        }
    }
}

/// The block a key stands for.
pub(crate) fn id_of(key: u64) -> BlockId {
    hadal_types::unmix(key)
}
