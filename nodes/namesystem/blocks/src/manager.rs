//! The block manager: one type in front of partitions, DataNodes, safe mode and replication work.

use crate::decommission::HostLists;
use crate::partition::{Counters, Partition, PartitionCommand};
use crate::random::Random;
use crate::registry::Registry;
use crate::safe_mode::{Progress, SafeMode};
use crate::session::Admission;
use crate::view::{Effect, View};
use crate::{BlockConfig, BlockEvent};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::RefCell;
use hadal_proto::datanode::Claim;
use hadal_types::{
    Block, BlockId, DigestKey, Epoch, GenerationStamp, HaState, InodeId, NamespaceInfo,
    PARTITION_COUNT, Tick, TxId, mix, partition_of, unmix,
};

/// Events kept for the driver; older ones are dropped first.
const EVENTS_MAX: usize = 8_192;

/// Everything the NameNode knows about blocks and DataNodes.
#[derive(Debug)]
pub struct BlockManager {
    pub(crate) config: BlockConfig,
    pub(crate) info: NamespaceInfo,
    pub(crate) partitions: Vec<Partition>,
    /// Partitions that are away to be sorted.
    pub(crate) away: usize,
    /// Sums over the partitions.
    pub(crate) totals: Counters,
    pub(crate) nodes: Registry,
    /// Who may register, and who is being decommissioned.
    pub(crate) hosts: HostLists,
    /// When those were given.
    pub(crate) hosts_read: Tick,
    pub(crate) safe_mode: SafeMode,
    pub(crate) admission: Admission,
    /// Looking for a place draws numbers but changes nothing else.
    pub(crate) random: RefCell<Random>,
    /// Open block streams per live DataNode, as of the last round.
    pub(crate) average_streams: f64,
    pub(crate) role: HaState,
    pub(crate) epoch: Epoch,
    /// Last edit applied: the cause of what is decided now.
    pub(crate) txid: TxId,
    next_block: BlockId,
    stamp: GenerationStamp,
    /// When storages of the image that have not come are given up.
    pub(crate) absent_at: Tick,
    /// When it last became active.
    pub(crate) active_since: Tick,
    /// Time of the last thing handled.
    pub(crate) now: Tick,
    /// Next round of checks and replication work.
    pub(crate) round: Tick,
    /// Where the scan that fills the replication queues stands.
    pub(crate) scan: Option<(usize, u64)>,
    /// Postponed blocks want another look.
    pub(crate) recheck: bool,
    /// Where replication work goes on, per priority.
    pub(crate) bookmarks: [(usize, u64); crate::redundancy::LEVELS],
    pub(crate) queued: u64,
    pub(crate) future: u64,
    overflow: Vec<u32>,
    events: VecDeque<BlockEvent>,
    effects: Vec<Effect>,
}

/// Start-up, progress and role.
impl BlockManager {
    /// An empty map in start-up safe mode, not active. `seed` drives placement.
    #[must_use]
    pub fn new(mut config: BlockConfig, info: NamespaceInfo, seed: u64) -> Self {
        config.min_replication = config.min_replication.max(1);
        let key = DigestKey::new(&info);
        Self {
            config,
            info,
            partitions: (0..PARTITION_COUNT)
                .map(|index| Partition::new(index, key))
                .collect(),
            away: 0,
            totals: Counters::default(),
            nodes: Registry::default(),
            hosts: HostLists::default(),
            hosts_read: Tick(0),
            safe_mode: SafeMode::new(),
            admission: Admission::default(),
            random: RefCell::new(Random::new(seed)),
            average_streams: 0.0,
            role: HaState::Initializing,
            epoch: Epoch(0),
            txid: TxId(0),
            next_block: BlockId(0),
            stamp: GenerationStamp(0),
            absent_at: Tick::NEVER,
            active_since: Tick(0),
            now: Tick(0),
            round: Tick(0),
            scan: None,
            recheck: false,
            bookmarks: [(0, 0); crate::redundancy::LEVELS],
            queued: 0,
            future: 0,
            overflow: Vec::new(),
            events: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    /// A block of the image: `open` for the last block of an open file, else COMPLETE (E-15). Cheapest in one run,
    /// before edits and DataNodes; a partition sorts its blocks when the first of those or [`Self::start`] reaches it.
    pub fn load(&mut self, block: Block, inode: InodeId, replication: u16, open: bool) {
        self.load_remembered(block, inode, replication, open, &[]);
    }

    /// Image and edits are loaded: safe mode counts from now (F-03); it is over at once when there is no block.
    pub fn start(&mut self, now: Tick) {
        self.advance(now);
        for at in 0..self.partitions.len() {
            self.with_partition(at, |_, _, _| {});
        }
        self.safe_mode.start();
        self.absent_at = now.after_ms(self.config.dead_interval_ms);
        self.round = now.after_ms(self.config.replication_interval_ms);
        self.check_safe_mode();
    }

    /// All edits up to `txid` are applied: block ids below `next_block` and generation stamps up to `stamp` were
    /// handed out by them. What a DataNode reports beyond these waits on a standby (F-01). Call it after each edit
    /// or batch, before DataNode messages are handled.
    pub fn applied(&mut self, txid: TxId, next_block: BlockId, stamp: GenerationStamp) {
        self.txid = self.txid.max(txid);
        self.next_block = next_block;
        self.stamp = stamp;
    }

    /// Serves as active in `epoch`: queued reports are applied, every storage becomes content stale (F-02), commands
    /// start a new count, a scan in the background fills the replication queues. Waits for nothing.
    pub fn become_active(&mut self, now: Tick, epoch: Epoch) {
        self.change_role(now, HaState::Active, epoch);
        self.active_since = now;
        for at in 0..self.partitions.len() {
            let keys: Vec<u64> = self.partitions[at].queued.keys().copied().collect();
            for key in keys {
                self.with(unmix(key), |partition, view, out| {
                    partition.replay_queued(key, view, out);
                });
            }
        }
        self.populate();
        self.check_safe_mode();
    }

    /// Serves as `state` (anything but active): replication queues, commands and queued deletions are dropped.
    pub fn become_standby(&mut self, now: Tick, state: HaState) {
        let state = if state == HaState::Active {
            HaState::Standby
        } else {
            state
        };
        self.change_role(now, state, Epoch(0));
    }

    fn change_role(&mut self, now: Tick, role: HaState, epoch: Epoch) {
        self.advance(now);
        self.role = role;
        self.epoch = epoch;
        self.scan = None;
        for at in 0..self.partitions.len() {
            self.with_partition(at, |partition, view, out| {
                partition.forget_decisions(view, out);
            });
        }
        for node in &mut self.nodes.nodes {
            node.outbox.restart(epoch);
            node.deletions.clear();
            node.report_asked = false;
        }
        for storage in &mut self.nodes.storages {
            storage.content_stale = true;
        }
    }

    /// Whether every live DataNode has fully reported every storage: promotion would miss no block (Q5).
    #[must_use]
    pub fn ready_to_become_active(&self) -> bool {
        self.unreported() == 0
    }

    /// What DataNodes are told: role, epoch, and the last txid known committed.
    #[must_use]
    pub fn claim(&self, committed: TxId) -> Claim {
        Claim {
            state: self.role,
            epoch: self.epoch,
            txid: committed,
        }
    }

    /// The next fact to log or act on.
    pub fn poll_event(&mut self) -> Option<BlockEvent> {
        self.events.pop_front()
    }
}

/// Applied edits. `txid` is the edit's; every effect waits until it is committed. Blocks that are not known are
/// passed over: the tree is the authority on which blocks exist.
impl BlockManager {
    /// A block was allocated to an open file (AddBlock): UNDER_CONSTRUCTION.
    pub fn allocated(&mut self, txid: TxId, block: Block, inode: InodeId, replication: u16) {
        self.command(
            txid,
            PartitionCommand::Allocate {
                block,
                inode,
                replication,
            },
        );
    }

    /// Final length and stamp of a block (AddBlock's `previous`; complete() before its Close edit): COMMITTED, and
    /// COMPLETE as soon as minimal replication is reported. On a NameNode that is not active COMPLETE at once (E-14).
    pub fn committed(&mut self, txid: TxId, block: Block) {
        self.command(txid, PartitionCommand::Commit { block });
    }

    /// Forced COMPLETE with this stamp and length (Close; replay).
    pub fn completed(&mut self, txid: TxId, block: Block) {
        self.command(txid, PartitionCommand::Complete { block });
    }

    /// New stamp or length of an open block (UpdatePipeline, UpdateLength).
    pub fn updated(&mut self, txid: TxId, block: Block) {
        self.command(txid, PartitionCommand::Update { block });
    }

    /// The last block of a closed file is open again (Append, Truncate) with this stamp and length. Give the stamp its
    /// replicas still have and raise it by [`Self::updated`] once a pipeline or recovery has it: replicas below the
    /// block's stamp count as stale.
    pub fn reopened(&mut self, txid: TxId, block: Block) {
        self.command(txid, PartitionCommand::Reopen { block });
    }

    /// Blocks dropped (Delete, overwrite, AbandonBlock, Truncate): an active deletes all known replicas.
    pub fn removed(&mut self, txid: TxId, blocks: &[BlockId]) {
        for block in blocks {
            self.command(txid, PartitionCommand::Remove { block: *block });
        }
    }

    /// Copies wanted changed.
    pub fn replication_changed(&mut self, txid: TxId, blocks: &[BlockId], replication: u16) {
        for block in blocks {
            self.command(
                txid,
                PartitionCommand::SetReplication {
                    block: *block,
                    replication,
                },
            );
        }
    }

    /// Blocks now belong to another file (Concat).
    pub fn moved(&mut self, txid: TxId, blocks: &[BlockId], inode: InodeId) {
        for block in blocks {
            self.command(
                txid,
                PartitionCommand::Move {
                    block: *block,
                    inode,
                },
            );
        }
    }

    fn command(&mut self, txid: TxId, command: PartitionCommand) {
        self.txid = self.txid.max(txid);
        let id = command.id();
        if let PartitionCommand::Allocate { block, .. } = &command {
            // The edit itself hands these out, whenever `applied` is called.
            self.next_block = self.next_block.max(BlockId(id.0.saturating_add(1)));
            self.stamp = self.stamp.max(block.generation_stamp);
        }
        self.with(id, |partition, view, out| {
            partition.apply(txid, command, view, out);
        });
        self.check_safe_mode();
    }
}

/// How everything reaches a partition.
impl BlockManager {
    pub(crate) fn is_active(&self) -> bool {
        self.role == HaState::Active
    }

    /// Replicas may be copied and deleted.
    pub(crate) fn is_populated(&self) -> bool {
        self.is_active() && !self.safe_mode.is_on()
    }

    pub(crate) fn advance(&mut self, now: Tick) {
        self.now = self.now.max(now);
    }

    pub(crate) fn with<R>(
        &mut self,
        block: BlockId,
        f: impl FnOnce(&mut Partition, &View<'_>, &mut Vec<Effect>) -> R,
    ) -> R {
        self.with_partition(partition_of(block), |partition, view, out| {
            partition.accounted(mix(block), |partition| f(partition, view, out))
        })
    }

    /// The rest of the NameNode as a partition sees it.
    pub(crate) fn view(&self) -> View<'_> {
        View {
            active: self.is_active(),
            populated: self.is_populated(),
            nodes: &self.nodes,
            config: &self.config,
            now: self.now,
            next_block: self.next_block.0,
            stamp: self.stamp.0,
        }
    }

    /// Runs something on a partition, keeps the totals, does what it asks for. What changes where a block's replicas
    /// are believed to be goes through [`Partition::accounted`], as all of [`Self::with`] does.
    pub(crate) fn with_partition<R>(
        &mut self,
        at: usize,
        f: impl FnOnce(&mut Partition, &View<'_>, &mut Vec<Effect>) -> R,
    ) -> R {
        assert!(self.away == 0, "every partition is here again");
        let mut out = core::mem::take(&mut self.effects);
        let view = View {
            active: self.is_active(),
            populated: self.is_populated(),
            nodes: &self.nodes,
            config: &self.config,
            now: self.now,
            next_block: self.next_block.0,
            stamp: self.stamp.0,
        };
        let partition = &mut self.partitions[at];
        let before = partition.counters;
        if partition.table.is_staged() {
            partition.unstage();
        }
        let result = f(partition, &view, &mut out);
        self.totals.replace(before, partition.counters);
        for effect in out.drain(..) {
            self.absorb(effect);
        }
        self.effects = out;
        while let Some(node) = self.overflow.pop() {
            self.drop_queued(node);
        }
        result
    }

    fn absorb(&mut self, effect: Effect) {
        match effect {
            Effect::Delete { storage, block } => self.delete(storage, block),
            Effect::Keep { storage, block } => {
                let (node, key) = (self.nodes.node_of(storage), mix(block.id));
                if self.nodes.node_mut(node).deletions.revoke(key) {
                    self.with(block.id, |partition, view, out| {
                        let before = partition.weigh(key, view);
                        partition.drop_excess(key, storage);
                        partition.settle(key, before, view, out);
                    });
                }
            }
            Effect::Unknown { storage, block } => {
                if self.is_populated() {
                    self.delete(storage, block);
                } else {
                    self.nodes.storage_mut(storage).has_unknown = true;
                }
            }
            Effect::Future => self.future += 1,
            Effect::Completed { block, inode } => self.event(BlockEvent::Completed {
                block: block.id,
                inode,
            }),
            Effect::Unassign { node, parts } => {
                let node = self.nodes.node_mut(node);
                node.assigned = node.assigned.saturating_sub(parts);
            }
            Effect::Queued { node } => {
                self.queued += 1;
                if self.queued > self.config.queued_reports_max as u64 {
                    self.overflow.push(node);
                }
            }
            Effect::Dequeued { count } => self.queued -= count as u64,
        }
    }

    fn delete(&mut self, storage: u32, block: Block) {
        let node = self.nodes.node_of(storage);
        if !self.is_active() || !self.nodes.node(node).alive {
            return;
        }
        let (cause, max) = (self.txid, self.config.deletions_max);
        let entry = self.nodes.node_mut(node);
        if entry.deletions.len() < max {
            entry.deletions.add(mix(block.id), block, storage, cause);
        } else {
            self.nodes.storage_mut(storage).has_unknown = true;
        }
    }

    /// The queue is full: a DataNode's reports are dropped and it starts over with full reports.
    fn drop_queued(&mut self, node: u32) {
        if self.nodes.node(node).register_again {
            return;
        }
        self.nodes.node_mut(node).register_again = true;
        let name = self.nodes.node(node).name.clone();
        self.event(BlockEvent::ReportsDropped { name });
        self.forget_queued(node);
    }

    pub(crate) fn forget_queued(&mut self, node: u32) {
        let mut dropped = 0;
        for partition in &mut self.partitions {
            dropped += partition.forget_queued(|storage| self.nodes.node_of(storage) == node);
        }
        self.queued -= dropped as u64;
    }

    pub(crate) fn event(&mut self, event: BlockEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            safe: self.totals.safe,
            total: self.totals.complete,
            live: self.nodes.alive.len() as u64,
        }
    }

    pub(crate) fn check_safe_mode(&mut self) {
        if !self.safe_mode.is_startup() {
            return;
        }
        let progress = self.progress();
        if self.safe_mode.check(self.now, progress, &self.config) {
            self.event(BlockEvent::LeftSafeMode {
                safe: progress.safe,
                total: progress.total,
            });
            self.populate();
        }
    }

    /// Copying and deleting is allowed from now on: the queues are filled by a scan in steps (B: not in one go), and
    /// storages that held unknown replicas are asked for a report.
    pub(crate) fn populate(&mut self) {
        if self.is_populated() {
            self.scan = Some((0, 0));
            for node in &mut self.nodes.nodes {
                node.report_asked = false;
            }
        }
    }

    /// Live storages that have not sent a full report since their DataNode registered.
    pub(crate) fn unreported(&self) -> u64 {
        self.nodes
            .storages
            .iter()
            .filter(|storage| {
                !storage.reported && !storage.gone && self.nodes.node(storage.node).alive
            })
            .count() as u64
    }
}
