//! A NameNode's block manager with DataNodes that answer as told.

use bytes::Bytes;
use hadal_blocks::{BlockConfig, BlockManager};
use hadal_proto::datanode::{
    Action, BlockReport, ChangeKind, Command, Heartbeat, IncrementalReport, OpenReplica,
    Registration, ReplicaChange, ReportEntries, Request, Response, StorageReport,
};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{
    Block, BlockId, BlockPoolId, CURRENT_LAYOUT, ClusterId, DatanodeUuid, Epoch, GenerationStamp,
    HaState, InodeId, NamespaceInfo, StorageUuid, Tick, TxId, mix,
};

pub(crate) const EPOCH: Epoch = Epoch(3);
pub(crate) const GB: u64 = 1 << 30;

/// A DataNode.
#[derive(Clone, Debug)]
pub(crate) struct Dn {
    pub(crate) uuid: DatanodeUuid,
    pub(crate) name: String,
    pub(crate) rack: String,
    pub(crate) address: String,
    pub(crate) storages: Vec<StorageUuid>,
    pub(crate) remaining: u64,
    pub(crate) streams: u32,
    pub(crate) acknowledged: Epoch,
    pub(crate) executed: u64,
    pub(crate) wants: Vec<StorageUuid>,
    pub(crate) sequence: u64,
    pub(crate) report_id: u64,
}

pub(crate) struct World {
    pub(crate) m: BlockManager,
    pub(crate) dns: Vec<Dn>,
    pub(crate) now: Tick,
    pub(crate) txid: u64,
    pub(crate) committed: u64,
    pub(crate) next_block: u64,
    pub(crate) stamp: u64,
}

pub(crate) fn info() -> NamespaceInfo {
    NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: 77,
        cluster_id: ClusterId("CID-x".into()),
        block_pool_id: BlockPoolId("BP-x".into()),
        created_ms: 1,
    }
}

pub(crate) fn block(id: u64, stamp: u64, length: u64) -> Block {
    Block {
        id: BlockId(id),
        generation_stamp: GenerationStamp(stamp),
        length,
    }
}

pub(crate) fn config() -> BlockConfig {
    BlockConfig {
        safe_mode_extension_ms: 0,
        // Blocks of tests are small; each counts as a whole one.
        whole_copy_bytes: 1,
        ..BlockConfig::default()
    }
}

impl World {
    /// A manager still loading, with DataNodes `dn0`.. on the racks given, not registered.
    pub(crate) fn new(config: BlockConfig, racks: &[&str]) -> Self {
        let dns = racks
            .iter()
            .enumerate()
            .map(|(at, rack)| Dn {
                uuid: DatanodeUuid(100 + at as u128),
                name: format!("dn{at}"),
                rack: (*rack).into(),
                address: format!("10.0.0.{at}:9866"),
                storages: vec![StorageUuid(1000 + at as u128)],
                remaining: 100 * GB,
                streams: 0,
                acknowledged: Epoch(0),
                executed: 0,
                wants: Vec::new(),
                sequence: 0,
                report_id: 0,
            })
            .collect();
        Self {
            m: BlockManager::new(config, info(), 42),
            dns,
            now: Tick::from_ms(1_000_000),
            txid: 0,
            committed: u64::MAX,
            next_block: 1,
            stamp: 1000,
        }
    }

    /// An active out of safe mode, all DataNodes registered, fully reported, following it.
    pub(crate) fn active(config: BlockConfig, racks: &[&str]) -> Self {
        let mut w = Self::new(config, racks);
        w.m.become_standby(w.now, HaState::Standby);
        w.applied();
        w.m.start(w.now);
        w.m.become_active(w.now, EPOCH);
        for dn in 0..w.dns.len() {
            w.dns[dn].acknowledged = EPOCH;
            w.register(dn);
            w.heartbeat(dn);
            w.report(dn, &[]);
        }
        w.settle();
        assert!(!w.m.in_safe_mode());
        assert_eq!(w.m.stats().content_stale_storages, 0);
        w
    }

    pub(crate) fn registration(&self, dn: usize) -> Registration {
        let dn = &self.dns[dn];
        Registration {
            uuid: dn.uuid,
            name: dn.name.clone(),
            address: dn.address.clone(),
            http_address: String::new(),
            shards: 2,
            rack: dn.rack.clone(),
            layout: CURRENT_LAYOUT,
            info: info(),
            software: "1".into(),
            storages: self.storage_reports(dn),
        }
    }

    fn storage_reports(&self, dn: &Dn) -> Vec<StorageReport> {
        dn.storages
            .iter()
            .map(|storage| StorageReport {
                storage: *storage,
                failed: false,
                capacity: 200 * GB,
                used: 200 * GB - dn.remaining,
                remaining: dn.remaining,
                pool_used: 0,
                blocks: 0,
            })
            .collect()
    }

    pub(crate) fn request(&mut self, from: &str, request: Request) -> Result<Response, Fault> {
        self.m
            .handle_request(self.now, from, request, TxId(self.committed))
    }

    pub(crate) fn call(&mut self, dn: usize, request: Request) -> Result<Response, Fault> {
        let name = self.dns[dn].name.clone();
        self.request(&name, request)
    }

    pub(crate) fn register(&mut self, dn: usize) {
        self.dns[dn].sequence = 0;
        let registration = self.registration(dn);
        self.call(dn, Request::Register { registration }).unwrap();
    }

    pub(crate) fn heartbeat_response(&mut self, dn: usize) -> Response {
        let it = &self.dns[dn];
        let heartbeat = Heartbeat {
            uuid: it.uuid,
            storages: self.storage_reports(it),
            transfers: 0,
            streams: it.streams,
            failed_volumes: 0,
            acknowledged: it.acknowledged,
            wants_report: it.wants.clone(),
            executed: it.executed,
        };
        self.call(dn, Request::Heartbeat { heartbeat }).unwrap()
    }

    /// A heartbeat; commands stay unexecuted.
    pub(crate) fn heartbeat(&mut self, dn: usize) -> Vec<Command> {
        let Response::Heartbeat { commands, .. } = self.heartbeat_response(dn) else {
            panic!("no heartbeat response");
        };
        commands
    }

    /// A heartbeat whose commands count as executed.
    pub(crate) fn execute(&mut self, dn: usize) -> Vec<Action> {
        let commands = self.heartbeat(dn);
        if let Some(last) = commands.last() {
            self.dns[dn].executed = last.sequence;
        }
        commands.into_iter().map(|command| command.action).collect()
    }

    /// Blocks a DataNode is told to delete.
    pub(crate) fn deletions(&mut self, dn: usize) -> Vec<Block> {
        self.execute(dn)
            .into_iter()
            .filter_map(|action| match action {
                Action::Invalidate { blocks } => Some(blocks),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Copies a DataNode is told to make: block and target names.
    pub(crate) fn transfers(&mut self, dn: usize) -> Vec<(Block, Vec<String>)> {
        self.execute(dn)
            .into_iter()
            .filter_map(|action| match action {
                Action::Transfer { work } => Some(work),
                _ => None,
            })
            .flatten()
            .map(|work| {
                let names = work.targets.into_iter().map(|target| target.name);
                (work.block, names.collect())
            })
            .collect()
    }

    /// Rounds in which copies and deletions are made as ordered; returns how many copies.
    pub(crate) fn copies(&mut self, rounds: usize) -> usize {
        let mut made = 0;
        for _ in 0..rounds {
            self.round();
            for dn in 0..self.dns.len() {
                for action in self.execute(dn) {
                    match action {
                        Action::Transfer { work } => {
                            for item in work {
                                for target in item.targets {
                                    let to: usize = target.name[2..].parse().unwrap();
                                    self.received(to, item.block);
                                    made += 1;
                                }
                            }
                        }
                        Action::Invalidate { blocks } => {
                            for gone in blocks {
                                self.deleted(dn, gone);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        made
    }

    /// What the report says of a DataNode.
    pub(crate) fn state(&self, dn: usize) -> String {
        let report = self.m.datanode_report(self.now);
        let name = &self.dns[dn].name;
        let mut its = report.into_iter().filter(|status| status.name == *name);
        its.next().unwrap().state
    }

    pub(crate) fn packed(blocks: &[Block]) -> Bytes {
        let mut sorted = blocks.to_vec();
        sorted.sort_by_key(|block| mix(block.id));
        let mut packed = Vec::new();
        for block in &sorted {
            ReportEntries::push(&mut packed, block);
        }
        packed.into()
    }

    pub(crate) fn part(&mut self, dn: usize, part: u32, parts: u32, finalized: Bytes) -> Request {
        let it = &mut self.dns[dn];
        if part == 0 {
            it.report_id += 1;
        }
        Request::BlockReport {
            report: BlockReport {
                uuid: it.uuid,
                storage: it.storages[0],
                report_id: it.report_id,
                part,
                parts,
                includes: it.sequence,
                acknowledged: it.acknowledged,
                finalized,
                open: Vec::new(),
            },
        }
    }

    /// A full report of the first storage.
    pub(crate) fn report(&mut self, dn: usize, blocks: &[Block]) {
        self.report_with(dn, blocks, Vec::new());
    }

    pub(crate) fn report_with(&mut self, dn: usize, blocks: &[Block], open: Vec<OpenReplica>) {
        let mut request = self.part(dn, 0, 1, Self::packed(blocks));
        if let Request::BlockReport { report } = &mut request {
            report.open = open;
        }
        self.call(dn, request).unwrap();
    }

    pub(crate) fn change(&self, dn: usize, kind: ChangeKind, block: Block) -> ReplicaChange {
        ReplicaChange {
            storage: self.dns[dn].storages[0],
            block,
            kind,
            delete_hint: DatanodeUuid(0),
        }
    }

    pub(crate) fn incremental(&mut self, dn: usize, changes: Vec<ReplicaChange>) {
        self.dns[dn].sequence += 1;
        let report = IncrementalReport {
            uuid: self.dns[dn].uuid,
            sequence: self.dns[dn].sequence,
            changes,
        };
        let sequence = report.sequence;
        match self.call(dn, Request::IncrementalReport { report }) {
            Ok(Response::Reported { sequence: got, .. }) => assert_eq!(got, sequence),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn change_now(&mut self, dn: usize, kind: ChangeKind, block: Block) {
        let change = self.change(dn, kind, block);
        self.incremental(dn, vec![change]);
    }

    pub(crate) fn received(&mut self, dn: usize, block: Block) {
        self.change_now(dn, ChangeKind::Received, block);
    }

    pub(crate) fn deleted(&mut self, dn: usize, block: Block) {
        self.change_now(dn, ChangeKind::Deleted, block);
    }

    pub(crate) fn next_txid(&mut self) -> TxId {
        self.txid += 1;
        TxId(self.txid)
    }

    /// Tells the counters of the edits so far.
    pub(crate) fn applied(&mut self) {
        let (txid, next) = (TxId(self.txid), BlockId(self.next_block));
        self.m.applied(txid, next, GenerationStamp(self.stamp));
    }

    /// A block allocated by an edit.
    pub(crate) fn allocate(&mut self, replication: u16) -> Block {
        let txid = self.next_txid();
        self.stamp += 1;
        let new = block(self.next_block, self.stamp, 0);
        self.next_block += 1;
        self.m.allocated(txid, new, InodeId(7), replication);
        self.applied();
        new
    }

    /// A block allocated and closed by edits.
    pub(crate) fn create(&mut self, replication: u16, length: u64) -> Block {
        let new = self.allocate(replication);
        let done = block(new.id.0, new.generation_stamp.0, length);
        let txid = self.next_txid();
        self.m.completed(txid, done);
        self.applied();
        done
    }

    /// A closed block with replicas on these DataNodes.
    pub(crate) fn stored_on(&mut self, replication: u16, dns: &[usize]) -> Block {
        let new = self.create(replication, 100);
        for dn in dns {
            self.received(*dn, new);
        }
        new
    }

    pub(crate) fn new_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.txid += 1;
        self.applied();
        self.stamp
    }

    pub(crate) fn remove(&mut self, ids: &[BlockId]) {
        let txid = self.next_txid();
        self.m.removed(txid, ids);
        self.applied();
    }

    pub(crate) fn set_replication(&mut self, id: BlockId, replication: u16) {
        let txid = self.next_txid();
        self.m.replication_changed(txid, &[id], replication);
        self.applied();
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
    }

    /// Everything that is due now.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            match self.m.poll_timeout() {
                Some(due) if due <= self.now => self.m.handle_timeout(self.now),
                _ => return,
            }
        }
        panic!("never settles");
    }

    /// One round of replication work, with every DataNode beating before it.
    pub(crate) fn round(&mut self) {
        self.advance(3_000);
        for dn in 0..self.dns.len() {
            self.heartbeat(dn);
        }
        self.settle();
    }

    pub(crate) fn locations(&self, id: BlockId) -> Vec<String> {
        let located = self.m.locate(id, "").unwrap();
        let mut names: Vec<String> = located
            .locations
            .into_iter()
            .map(|target| target.name)
            .collect();
        names.sort();
        names
    }

    pub(crate) fn live(&self, id: BlockId) -> u16 {
        self.m.stored(id).unwrap().live
    }

    pub(crate) fn safe(&self) -> (u64, u64) {
        let stats = self.m.stats();
        (stats.safe, stats.complete)
    }
}

pub(crate) fn class(result: Result<Response, Fault>) -> FaultClass {
    result.unwrap_err().class
}
