//! DataNodes come, beat, fall silent and go (A-08..A-17, T-H24).

use crate::decommission::Service;
use crate::entry::STORAGES_MAX;
use crate::registry::host_of;
use crate::{BlockEvent, BlockManager};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{
    Action, Command, Heartbeat, Registration, Request, Response, StorageReport,
};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{DatanodeUuid, Tick, TxId, mix};

/// Storages one DataNode may have.
const NODE_STORAGES_MAX: usize = 1_024;

impl BlockManager {
    /// Answers everything of DatanodeProtocol but CommitBlockSynchronization, which makes edits and is the
    /// namesystem's (answered here with `Unsupported`). `from` is the name in the caller's certificate. Commands
    /// leave only as far as `committed` covers their cause (protocols.md section 0).
    ///
    /// Faults: `UnregisteredNode` (register first), `IncorrectVersion`, `IdentityMismatch`, `Forbidden` (another
    /// DataNode's name), `Busy` with milliseconds (no report slot), `Retry` (make the report again), `BadRequest`,
    /// `Standby` (bad blocks told to a NameNode that is not active, A-40).
    pub fn handle_request(
        &mut self,
        now: Tick,
        from: &str,
        request: Request,
        committed: TxId,
    ) -> Result<Response, Fault> {
        self.advance(now);
        match request {
            Request::VersionRequest => Ok(Response::Version {
                info: self.info.clone(),
                software: env!("CARGO_PKG_VERSION").to_string(),
                claim: self.claim(committed),
            }),
            Request::Register { registration } => self.register(from, &registration),
            Request::Heartbeat { heartbeat } => self.heartbeat(from, &heartbeat, committed),
            Request::BlockReport { report } => self.block_report(from, report, committed),
            Request::DigestReport { report } => self.digest_report(from, &report, committed),
            Request::IncrementalReport { report } => {
                self.incremental_report(from, &report, committed)
            }
            Request::ReportBadBlocks { blocks } => {
                if !self.is_active() {
                    return Err(Fault::new(
                        FaultClass::Standby,
                        format!(
                            "bad blocks are reported to the active NameNode; this one is {}",
                            self.role
                        ),
                    ));
                }
                self.report_bad_blocks(now, &blocks);
                Ok(Response::Done)
            }
            Request::ErrorReport { .. } => Ok(Response::Done),
            Request::TransferFailed {
                uuid,
                block,
                target,
            } => {
                let source = self.caller(from, uuid)?;
                // A target that is not known any more will not be chosen anyway; the source never is.
                let blamed = self.nodes.find(target).unwrap_or(source);
                let target = (target != DatanodeUuid::default()).then_some(blamed);
                self.with(block.id, |partition, view, out| {
                    partition.copy_failed(mix(block.id), source, target, view, out);
                });
                Ok(Response::Done)
            }
            Request::CommitBlockSynchronization { block, .. } => Err(Fault::new(
                FaultClass::Unsupported,
                format!("{block}: block recoveries are concluded by the namesystem"),
            )),
        }
    }

    /// Replicas found corrupt: no longer read, copied from the good ones, deleted once those reach the factor.
    /// Unknown blocks, DataNodes and replicas are passed over.
    pub fn report_bad_blocks(&mut self, now: Tick, blocks: &[BadReplica]) {
        self.advance(now);
        for bad in blocks {
            let Some(node) = self.nodes.find(bad.datanode) else {
                continue;
            };
            let storages: Vec<u32> = match self.nodes.find_storage(node, bad.storage) {
                Some(storage) => alloc::vec![storage],
                None => self.nodes.node(node).storages.clone(),
            };
            let news = self.with(bad.block.id, |partition, view, out| {
                let mut news = false;
                for storage in storages {
                    news |= partition.report_bad(storage, bad.block, view, out);
                }
                news
            });
            if news {
                let (name, block) = (self.nodes.node(node).name.clone(), bad.block);
                self.event(BlockEvent::Corrupt { name, block });
            }
        }
        self.check_safe_mode();
    }

    fn register(&mut self, from: &str, registration: &Registration) -> Result<Response, Fault> {
        self.check_registration(from, registration)?;
        if let Some(other) = self.nodes.find_name(&registration.name)
            && self.nodes.node(other).uuid != registration.uuid
        {
            // The same machine with its storage wiped: what the old identity had is gone.
            self.drop_node(other);
            self.nodes.forget(other);
        }
        let again = self.nodes.find(registration.uuid).is_some();
        let node = self.nodes.enter(self.now, registration);
        let (epoch, orders_forgotten) = (self.epoch, self.nodes.orders_forgotten);
        let entry = self.nodes.node_mut(node);
        entry.incremental = 0;
        entry.touched.stop();
        entry.touched.start(0);
        entry.register_again = false;
        entry.report_asked = false;
        entry.deletions.resend_all();
        if !again {
            entry.outbox.restart(epoch);
            entry.outbox.number_above(orders_forgotten);
        }
        for storage in entry.storages.clone() {
            self.admission.release(storage);
            let entry = self.nodes.storage_mut(storage);
            entry.session = None;
            entry.digest = None;
            entry.last_report = None;
            entry.reported = false;
            let listed = registration
                .storages
                .iter()
                .any(|report| report.storage == entry.uuid);
            if !listed && !entry.gone {
                self.lose_storage(storage);
            }
        }
        self.forget_queued(node);
        for report in &registration.storages {
            self.note_storage(node, report)?;
        }
        if self.config.planted.trust_remembered_locations {
            for storage in self.nodes.node(node).storages.clone() {
                self.confirm_leaves(storage, 0, hadal_types::DIGEST_LEAVES - 1);
            }
        }
        self.apply_exclusion(node);
        self.event(BlockEvent::Registered {
            datanode: registration.uuid,
            name: registration.name.clone(),
            again,
        });
        self.check_safe_mode();
        Ok(Response::Registered {
            info: self.info.clone(),
        })
    }

    /// and who may call itself what.
    fn check_registration(&self, from: &str, registration: &Registration) -> Result<(), Fault> {
        let name = &registration.name;
        if name != from {
            return Err(Fault::new(
                FaultClass::Forbidden,
                format!("the certificate of {from} does not allow to register as datanode {name}"),
            ));
        }
        let address = &registration.address;
        if !self.hosts.admits(name, host_of(address), address) {
            return Err(Fault::new(
                FaultClass::Forbidden,
                format!(
                    "Datanode denied communication with namenode because the host is not in the include-list: {name} \
                     ({address}); add it there and run dfsadmin -refreshNodes"
                ),
            ));
        }
        let (oldest, newest) = (self.config.oldest_layout, self.config.newest_layout);
        if registration.layout < oldest || registration.layout > newest {
            return Err(Fault::new(
                FaultClass::IncorrectVersion,
                format!(
                    "layout version mismatch: datanode {name} has layout version {}, this NameNode takes {} to {}; \
                     upgrade the older of the two",
                    registration.layout.0, oldest.0, newest.0
                ),
            ));
        }
        let (ours, theirs) = (&self.info, &registration.info);
        let mismatch = |what: &str, ours: String, theirs: String| {
            Err(Fault::new(
                FaultClass::IdentityMismatch,
                format!(
                    "{what} mismatch: this NameNode serves {what} {ours} but datanode {name} was connected to {what} \
                     {theirs}; give it storage of its own or point it at its own NameNodes"
                ),
            ))
        };
        if ours.namespace_id != theirs.namespace_id {
            return mismatch(
                "namespace id",
                ours.namespace_id.to_string(),
                theirs.namespace_id.to_string(),
            );
        }
        if ours.cluster_id != theirs.cluster_id {
            return mismatch(
                "cluster id",
                ours.cluster_id.to_string(),
                theirs.cluster_id.to_string(),
            );
        }
        if ours.block_pool_id != theirs.block_pool_id {
            return mismatch(
                "block pool id",
                ours.block_pool_id.to_string(),
                theirs.block_pool_id.to_string(),
            );
        }
        if registration.storages.len() > NODE_STORAGES_MAX {
            return Err(too_many_storages(name));
        }
        if let Some(node) = self.nodes.find(registration.uuid) {
            let known = self.nodes.node(node);
            let silent_ms = self.now.ms_since(known.last_heartbeat);
            if known.name != *name && known.alive && silent_ms < self.config.stale_interval_ms {
                return Err(Fault::new(
                    FaultClass::IdentityMismatch,
                    format!(
                        "datanode {name} has the identity {} of live datanode {}: its storage is a copy; stop one, or \
                         format the storage of the other",
                        registration.uuid, known.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Storage numbers of a heartbeat or registration; a failed storage loses its replicas.
    fn note_storage(&mut self, node: u32, report: &StorageReport) -> Result<(), Fault> {
        if self.nodes.find_storage(node, report.storage).is_none() {
            let name = &self.nodes.node(node).name;
            if self.nodes.node(node).storages.len() >= NODE_STORAGES_MAX {
                return Err(too_many_storages(name));
            }
            if !self.nodes.has_room() {
                return Err(no_room(name));
            }
        }
        let storage = self.nodes.enter_storage(node, report);
        self.nodes.refresh_storage(storage, report);
        match (report.failed, self.nodes.storage(storage).gone) {
            (true, false) => {
                self.lose_storage(storage);
            }
            (false, true) => {
                let entry = self.nodes.storage_mut(storage);
                entry.gone = false;
                entry.reported = false;
                entry.content_stale = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The index of a storage an incremental or full report names, added when new.
    pub(crate) fn storage_for(
        &mut self,
        node: u32,
        storage: hadal_types::StorageUuid,
    ) -> Result<u32, Fault> {
        if let Some(known) = self.nodes.find_storage(node, storage) {
            return Ok(known);
        }
        let report = StorageReport {
            storage,
            ..StorageReport::default()
        };
        self.note_storage(node, &report)?;
        Ok(self.nodes.enter_storage(node, &report))
    }

    fn lose_storage(&mut self, storage: u32) -> u64 {
        self.admission.release(storage);
        let entry = self.nodes.storage_mut(storage);
        entry.gone = true;
        entry.session = None;
        entry.digest = None;
        entry.last_report = None;
        let mut replicas = 0;
        for at in 0..self.partitions.len() {
            replicas += self.with_partition(at, |partition, view, out| {
                partition.drop_storage(storage, view, out)
            });
        }
        self.end_remembering(storage);
        replicas
    }

    /// Takes a DataNode out of the live ones, its replicas stay in the map.
    fn rest_node(&mut self, node: u32) -> u64 {
        for storage in self.silence(node) {
            self.admission.release(storage);
            let entry = self.nodes.storage_mut(storage);
            entry.session = None;
            entry.last_report = None;
            entry.reported = false;
            entry.content_stale = true;
        }
        for at in 0..self.partitions.len() {
            self.with_partition(at, |partition, view, out| {
                partition.expire_pending(Some(node), view, out);
            });
        }
        0
    }

    /// Not among the live ones any more; its storages.
    fn silence(&mut self, node: u32) -> Vec<u32> {
        let entry = self.nodes.node_mut(node);
        entry.alive = false;
        entry.stale = false;
        entry.assigned = 0;
        entry.deletions.clear();
        entry.touched.stop();
        let storages = entry.storages.clone();
        self.nodes.index();
        storages
    }

    /// Takes a DataNode out of the live ones with all its replicas. Costs a pass over the partitions it has
    /// replicas in.
    pub(crate) fn drop_node(&mut self, node: u32) -> u64 {
        let storages = self.silence(node);
        let mut replicas = 0;
        for storage in storages {
            replicas += self.lose_storage(storage);
            let entry = self.nodes.storage_mut(storage);
            entry.reported = false;
            entry.has_unknown = false;
            entry.content_stale = true;
        }
        for at in 0..self.partitions.len() {
            self.with_partition(at, |partition, view, out| {
                partition.expire_pending(Some(node), view, out);
            });
        }
        replicas
    }

    /// The DataNode that calls, checked: registered, alive, and the one its certificate names.
    pub(crate) fn caller(&self, from: &str, uuid: DatanodeUuid) -> Result<u32, Fault> {
        let node = self
            .nodes
            .find(uuid)
            .filter(|node| self.nodes.node(*node).alive);
        let Some(node) = node else {
            return Err(Fault::new(
                FaultClass::UnregisteredNode,
                format!("datanode {from} is not registered with this NameNode; register first"),
            ));
        };
        let name = &self.nodes.node(node).name;
        if name != from {
            return Err(Fault::new(
                FaultClass::Forbidden,
                format!("{from} may not speak for datanode {name}"),
            ));
        }
        Ok(node)
    }

    pub(crate) fn order_to_register(&self) -> Command {
        Command {
            epoch: self.epoch,
            sequence: 0,
            action: Action::Register,
        }
    }

    fn heartbeat(
        &mut self,
        from: &str,
        heartbeat: &Heartbeat,
        committed: TxId,
    ) -> Result<Response, Fault> {
        let claim = self.claim(committed);
        let node = match self.caller(from, heartbeat.uuid) {
            Ok(node) if !self.nodes.node(node).register_again => node,
            Err(fault) if fault.class == FaultClass::Forbidden => return Err(fault),
            // also after this NameNode was restarted or had declared it dead.
            _ => {
                return Ok(Response::Heartbeat {
                    claim,
                    commands: alloc::vec![self.order_to_register()],
                    report_slot: None,
                });
            }
        };
        let now = self.now;
        let entry = self.nodes.node_mut(node);
        entry.last_heartbeat = now;
        entry.stale = false;
        entry.streams = heartbeat.streams;
        entry.failed_volumes = heartbeat.failed_volumes;
        entry.acknowledged = heartbeat.acknowledged;
        entry
            .outbox
            .acknowledge(heartbeat.acknowledged, heartbeat.executed);
        for report in &heartbeat.storages {
            self.note_storage(node, report)?;
        }
        let commands = self.commands(node, committed);
        let report_slot = self.offer_slot(node, heartbeat);
        self.check_safe_mode();
        Ok(Response::Heartbeat {
            claim,
            commands,
            report_slot,
        })
    }

    /// What a DataNode is to do now: nothing unless active and out of safe mode.
    fn commands(&mut self, node: u32, committed: TxId) -> Vec<Command> {
        if !self.is_populated() {
            return Vec::new();
        }
        let (now, epoch, cause) = (self.now, self.epoch, self.txid);
        let committed = if self.config.planted.order_before_commit {
            cause
        } else {
            committed
        };
        let wants_report = self.nodes.node(node).storages.iter().any(|storage| {
            let storage = self.nodes.storage(*storage);
            storage.reported && !storage.gone && (storage.content_stale || storage.has_unknown)
        });
        let config = &self.config;
        let entry = &mut self.nodes.nodes[node as usize];
        // Only a report made after it followed us ends content-stale, so it is asked for only then (F-02).
        if wants_report && !entry.report_asked && entry.acknowledged == epoch {
            entry.report_asked = true;
            entry.outbox.push(cause, Action::ReportNow);
        }
        if entry.outbox.has_room() {
            let blocks = entry.deletions.take(
                now,
                committed,
                config.deletion_timeout_ms,
                config.invalidate_limit,
            );
            if !blocks.is_empty() {
                entry.outbox.send(Action::Invalidate { blocks });
            }
        }
        entry.outbox.take(committed)
    }

    fn offer_slot(&mut self, node: u32, heartbeat: &Heartbeat) -> Option<hadal_types::StorageUuid> {
        for wanted in heartbeat.wants_report.iter().take(NODE_STORAGES_MAX) {
            let Some(storage) = self.nodes.find_storage(node, *wanted) else {
                continue;
            };
            let (slots, length) = (self.config.report_slots, self.config.report_slot_ms);
            // Who asks is not sending: what is left of an earlier report will not go on.
            let entry = self.nodes.storage_mut(storage);
            entry.session = None;
            entry.digest = None;
            if self.admission.grant(self.now, storage, slots, length) {
                let entry = self.nodes.node_mut(node);
                entry.touched.start(entry.incremental);
                return Some(*wanted);
            }
        }
        None
    }

    /// Marks silent DataNodes stale, then dead.
    pub(crate) fn check_heartbeats(&mut self) {
        for node in self.nodes.alive.clone() {
            let silent_ms = self.now.ms_since(self.nodes.node(node).last_heartbeat);
            if silent_ms >= self.config.dead_interval_ms {
                let replicas = match self.nodes.node(node).service {
                    // What it has comes back with it.
                    Service::InMaintenance { .. } => self.rest_node(node),
                    _ => self.drop_node(node),
                };
                let entry = self.nodes.node(node);
                let event = BlockEvent::Dead {
                    datanode: entry.uuid,
                    name: entry.name.clone(),
                    replicas,
                };
                self.event(event);
            } else {
                self.nodes.node_mut(node).stale = silent_ms >= self.config.stale_interval_ms;
            }
        }
    }
}

fn too_many_storages(name: &str) -> Fault {
    Fault::new(
        FaultClass::BadRequest,
        format!("datanode {name} has more than {NODE_STORAGES_MAX} storages"),
    )
}

fn no_room(name: &str) -> Fault {
    Fault::new(
        FaultClass::BadRequest,
        format!(
            "a storage of datanode {name} cannot be entered: {STORAGES_MAX} were since this namenode started, and it \
             knows no more; restart it, and it forgets those that are gone"
        ),
    )
}
