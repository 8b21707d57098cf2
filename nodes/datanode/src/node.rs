//! The state all tasks of a DataNode share, and its start.

use crate::actors;
use crate::balance::BalanceBudget;
use crate::config::{DatanodeConfig, NamenodeList, NamenodePeer};
use crate::error::RunError;
use crate::farewell::Farewell;
use crate::local::LocalDoor;
use crate::peers::Peers;
use crate::scanner;
use crate::serve;
use crate::volumes::{self, EpochRecord};
use hadal_blockpool::{Actor, BlockScanner, OfferService};
use hadal_daemon::{Distrust, Notify};
use hadal_env::{Env, Net, Seam};
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{ChangeKind, DatanodeProtocol, ReplicaChange};
use hadal_proto::{Fault, FaultClass};
use hadal_quic::CallClient;
use hadal_types::{Block, BlockId, DatanodeUuid, GenerationStamp, NamespaceInfo, StorageUuid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use store_replica::{
    ReplicaStore, StoreError, StoreIdentity, StoreOptions, VerifyOutcome, VolumeSpec,
};

pub(crate) type NetConn<E> = <<E as Seam>::Net as Net>::Conn;

/// One actor and what it waits for.
pub(crate) struct ActorSlot {
    /// Its number in the offer service; never used again.
    pub(crate) index: usize,
    pub(crate) peer: NamenodePeer,
    pub(crate) core: RefCell<Actor>,
    pub(crate) wake: Notify,
    /// The call stream while there is one.
    pub(crate) client: RefCell<Option<CallClient<DatanodeProtocol>>>,
    /// This NameNode is served no more.
    pub(crate) removed: Cell<bool>,
    /// How many of the last tries to connect ended for a certificate, and what was said of it.
    pub(crate) distrust: RefCell<Distrust>,
}

/// Everything the tasks of one DataNode share. One shard: no locks.
pub(crate) struct Node<E: Env> {
    pub(crate) env: E,
    pub(crate) config: DatanodeConfig,
    pub(crate) uuid: DatanodeUuid,
    pub(crate) store: RefCell<Option<ReplicaStore<E::Disk>>>,
    pub(crate) service: RefCell<OfferService>,
    actors: RefCell<BTreeMap<usize, Rc<ActorSlot>>>,
    next_actor: Cell<usize>,
    pub(crate) streams: Cell<u32>,
    pub(crate) copies: Cell<u32>,
    pub(crate) balance: BalanceBudget,
    pub(crate) farewell: Farewell,
    /// Block recoveries this node leads.
    pub(crate) recoveries: Cell<u32>,
    pub(crate) epoch_record: RefCell<Option<EpochRecord<E::Disk>>>,
    /// Something may be wrong with a volume.
    pub(crate) alarm: Notify,
    /// The block scanner of each volume, once it began.
    pub(crate) scanners: RefCell<BTreeMap<StorageUuid, BlockScanner>>,
    /// A scanner has a suspect to read.
    pub(crate) suspected: Notify,
    /// A NameNode answered, or is gone.
    pub(crate) answered: Notify,
    /// Usable data directories.
    dirs: Vec<PathBuf>,
    /// Data directories that could not be used when the process started, and those found broken since.
    failed_dirs: RefCell<Vec<(PathBuf, String)>>,
    opening: Cell<bool>,
    /// Replicas whose deletion is accepted and not carried out yet: up to these stamps. As many as the NameNode orders.
    pub(crate) doomed: RefCell<BTreeMap<BlockId, GenerationStamp>>,
    namenodes: Option<NamenodeList>,
    /// Where readers on this host get descriptors, if they may.
    pub(crate) local: Option<LocalDoor>,
    pub(crate) peers: Peers<E>,
}

/// Runs a DataNode until the process ends.
///
/// # Errors
/// [`RunError`] when it cannot start.
pub async fn run<E: Env>(env: E, config: DatanodeConfig) -> Result<(), RunError> {
    run_with(env, config, None, None).await
}

/// As [`run`], with a list of NameNodes that can be read again while it runs, and the door where readers on
/// this host get descriptors.
///
/// # Errors
/// As [`run`].
pub async fn run_with<E: Env>(
    env: E,
    config: DatanodeConfig,
    namenodes: Option<NamenodeList>,
    local: Option<LocalDoor>,
) -> Result<(), RunError> {
    if config.dirs.is_empty() {
        return Err(RunError::Config(
            "datanode.dirs is empty: name at least one data directory".into(),
        ));
    }
    if config.namenodes.is_empty() {
        //
        return Err(RunError::Config("must pass at least one NameNode".into()));
    }
    let found = volumes::find(env.disk(), &config).await?;
    let fresh = (u128::from(env.random_u64()) << 64) | u128::from(env.random_u64());
    let node = Rc::new(Node {
        uuid: found.datanode.unwrap_or(DatanodeUuid(fresh)),
        store: RefCell::new(None),
        service: RefCell::new(OfferService::new(found.namespace, found.epoch)),
        actors: RefCell::new(BTreeMap::new()),
        next_actor: Cell::new(0),
        streams: Cell::new(0),
        copies: Cell::new(0),
        balance: BalanceBudget::new(config.balance_bytes_per_s),
        farewell: Farewell::new(),
        recoveries: Cell::new(0),
        epoch_record: RefCell::new(Some(found.record)),
        alarm: Notify::new(),
        scanners: RefCell::default(),
        suspected: Notify::new(),
        answered: Notify::new(),
        dirs: found.dirs,
        failed_dirs: RefCell::new(found.failed),
        opening: Cell::new(false),
        doomed: RefCell::default(),
        namenodes,
        local,
        peers: Peers::new(env.clone()),
        env: env.clone(),
        config,
    });
    for peer in node.config.namenodes.clone() {
        node.add_actor(peer);
    }
    env.spawn("datanode volumes", volumes::watch(Rc::clone(&node)));
    env.spawn("datanode scanners", scanner::run(Rc::clone(&node)));
    serve::accept_connections(Rc::clone(&node)).await;
    drop(found.locks);
    Ok(())
}

/// Whether a volume could not be used because it is not ours.
fn is_foreign(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::WrongIdentity { .. } | StoreError::BadIdentity { .. }
    )
}

fn alive_storages<D: hadal_env::Disk>(store: &ReplicaStore<D>) -> Vec<StorageUuid> {
    store
        .volumes()
        .iter()
        .filter(|volume| volume.failed.is_none())
        .map(|volume| volume.storage)
        .collect()
}

impl<E: Env> Node<E> {
    /// The store, once a NameNode said whose data this is.
    pub(crate) fn store(&self) -> Result<ReplicaStore<E::Disk>, Fault> {
        self.store.borrow().clone().ok_or_else(|| {
            Fault::new(
                FaultClass::Retry,
                "this DataNode has not met its NameNode yet; try again",
            )
        })
    }

    /// The actors, in the order in which their NameNodes became known.
    pub(crate) fn slots(&self) -> Vec<Rc<ActorSlot>> {
        self.actors.borrow().values().cloned().collect()
    }

    /// Starts an actor for a NameNode.
    pub(crate) fn add_actor(self: &Rc<Self>, peer: NamenodePeer) {
        let index = self.next_actor.get();
        self.next_actor.set(index + 1);
        let mut core = Actor::new(self.config.actor.clone(), Vec::new(), self.env.random_u64());
        if let Ok(store) = self.store() {
            core.set_storages(alive_storages(&store));
        }
        let slot = Rc::new(ActorSlot {
            index,
            peer,
            core: RefCell::new(core),
            wake: Notify::new(),
            client: RefCell::new(None),
            removed: Cell::new(false),
            distrust: RefCell::default(),
        });
        self.actors.borrow_mut().insert(index, Rc::clone(&slot));
        self.env
            .spawn("datanode actor", actors::run(Rc::clone(self), slot));
    }

    /// Reads the list of NameNodes again: new ones get an actor, those that are gone lose theirs, the rest is left
    /// alone (A-03, T-D10). An empty list is refused.
    pub(crate) fn refresh_namenodes(self: &Rc<Self>) -> Result<(), Fault> {
        let read = self.namenodes.as_ref().ok_or_else(|| {
            Fault::new(
                FaultClass::Unsupported,
                "this DataNode has no configuration file to read its NameNodes from",
            )
        })?;
        let wanted = read().map_err(|error| Fault::new(FaultClass::InvalidArgument, error))?;
        if wanted.is_empty() {
            let message = "must pass at least one NameNode: cluster.namenodes is empty";
            return Err(Fault::new(FaultClass::InvalidArgument, message));
        }
        for slot in self.slots() {
            if !wanted.contains(&slot.peer) {
                tracing::info!("NameNode {} is off the list", slot.peer.name);
                slot.removed.set(true);
                self.service.borrow_mut().handle_actor_gone(slot.index);
                self.actors.borrow_mut().remove(&slot.index);
                slot.wake.notify();
            }
        }
        let served: Vec<NamenodePeer> = self.slots().iter().map(|slot| slot.peer.clone()).collect();
        for peer in wanted {
            if !served.contains(&peer) {
                tracing::info!("NameNode {} is on the list now", peer.name);
                self.add_actor(peer);
            }
        }
        Ok(())
    }

    /// An actor ended; with the last one the DataNode does.
    pub(crate) fn handle_actor_gone(&self, slot: &ActorSlot) {
        if slot.removed.get() {
            return;
        }
        self.service.borrow_mut().handle_actor_gone(slot.index);
        self.actors.borrow_mut().remove(&slot.index);
        self.answered.notify();
        if self.actors.borrow().is_empty() {
            let core = slot.core.borrow();
            let reason = core.refusal().unwrap_or("no NameNode is left");
            self.env.stop(
                crate::EXIT_REFUSED,
                &format!(
                    "every NameNode refuses {} for good, the last one was {}: {reason}",
                    self.config.name, slot.peer.name
                ),
            );
        }
    }

    /// Ends a process that never met a NameNode, because none of them and this node trust each other: its certificate
    /// is read at the start only. One that served before goes on trying, for then a NameNode is at fault (Q37).
    pub(crate) fn check_trusted(&self) {
        let slots = self.slots();
        let distrusted = |slot: &Rc<ActorSlot>| slot.distrust.borrow().reason();
        let reasons: Option<Vec<String>> = slots.iter().map(distrusted).collect();
        if let Some(reasons) = reasons.filter(|reasons| !reasons.is_empty())
            && self.store.borrow().is_none()
        {
            let (name, reasons) = (&self.config.name, reasons.join("; "));
            let text = format!("no NameNode and {name} trust each other: {reasons}");
            self.env.stop(crate::EXIT_REFUSED, &text);
        }
    }

    /// For the operator whose NameNode is of another cluster than the data.
    pub(crate) fn whose_data(&self) -> String {
        let dirs: Vec<String> = self
            .dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        format!(
            "the data in {} belongs to the former: configure the NameNodes of its cluster, or give {} empty directories",
            dirs.join(", "),
            self.config.name
        )
    }

    /// The data directories in use at start.
    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The data directories that failed, those of the start first.
    pub(crate) fn failed_volumes(&self) -> Vec<(PathBuf, String)> {
        let mut failed = self.failed_dirs.borrow().clone();
        if let Ok(store) = self.store() {
            for volume in store.volumes() {
                if let Some(reason) = volume.failed {
                    failed.push((volume.dir, reason));
                }
            }
        }
        failed
    }

    /// A data directory is out of use.
    pub(crate) fn fail_volume(&self, dir: &Path, reason: &str) {
        match self.store() {
            Ok(store) => store.fail_volume(&volumes::volume_dir(dir), reason),
            Err(_) => self
                .failed_dirs
                .borrow_mut()
                .push((dir.to_owned(), reason.to_owned())),
        }
        self.alarm.notify();
    }

    /// Opens the volumes for this namespace; only the first caller does it.
    pub(crate) async fn open_store(&self, info: &NamespaceInfo) -> Result<(), RunError> {
        if self.store.borrow().is_some() || self.opening.replace(true) {
            return Ok(());
        }
        let fresh = || {
            StorageUuid(
                (u128::from(self.env.random_u64()) << 64) | u128::from(self.env.random_u64()),
            )
        };
        let specs: Vec<VolumeSpec> = self
            .dirs
            .iter()
            .map(|dir| VolumeSpec {
                dir: volumes::volume_dir(dir),
                storage_if_new: fresh(),
            })
            .collect();
        let identity = StoreIdentity {
            datanode: self.uuid,
            namespace: info.clone(),
        };
        let options: StoreOptions = self.config.store;
        let opened = ReplicaStore::open(self.env.disk().clone(), specs, identity, options).await;
        if let Ok((store, _)) = &opened {
            self.resume_open(store).await;
        }
        // Nothing waits from here on until the store is in its place: another actor would open it a second time.
        self.opening.set(false);
        let (store, report) = opened?;
        // A directory of another DataNode or cluster is the operator's mistake, not a failed disk.
        let failed = report.failed.into_iter();
        let (broken, foreign): (Vec<_>, Vec<_>) = failed.partition(|(_, error)| !is_foreign(error));
        if let Some((_, error)) = foreign.into_iter().next() {
            return Err(error.into());
        }
        let known = store.volumes();
        for (dir, error) in broken {
            // Those the store lists as failed speak for themselves.
            if !known.iter().any(|volume| volume.dir == dir) {
                self.failed_dirs.borrow_mut().push((dir, error.to_string()));
            }
        }
        for corrupt in &report.corrupt {
            tracing::warn!("{} is damaged: {}", corrupt.id, corrupt.what);
        }
        for (extent, offset) in &report.unreadable_slots {
            let extent = extent.display();
            tracing::warn!(
                "{extent}: the slot at byte {offset} cannot be read; it is left out until the next start"
            );
        }
        tracing::info!(
            "replica store: {} finalized, {} waiting for recovery, {} leftovers removed",
            report.finalized,
            report.waiting,
            report.removed
        );
        for slot in self.slots() {
            slot.core.borrow_mut().set_storages(alive_storages(&store));
        }
        *self.store.borrow_mut() = Some(store);
        volumes::check_tolerated(&self.config, &self.failed_volumes())
    }

    /// The deletion of these replicas is accepted: they are gone from reports.
    pub(crate) fn doom(&self, blocks: &[Block]) {
        let mut doomed = self.doomed.borrow_mut();
        for block in blocks {
            let stamp = doomed.entry(block.id).or_default();
            *stamp = block.generation_stamp.max(*stamp);
        }
    }

    /// It was carried out, or failed.
    pub(crate) fn spare(&self, block: &Block) {
        self.doomed.borrow_mut().remove(&block.id);
    }

    /// Whether the deletion of this replica is accepted and not carried out.
    pub(crate) fn is_doomed(&self, block: &Block) -> bool {
        let doomed = self.doomed.borrow();
        let stamp = doomed.get(&block.id);
        stamp.is_some_and(|stamp| block.generation_stamp <= *stamp)
    }

    /// Tells every NameNode that a replica changed.
    pub(crate) fn report_change(&self, storage: StorageUuid, block: Block, kind: ChangeKind) {
        self.report_with_hint(storage, block, kind, DatanodeUuid(0));
    }

    /// As [`Self::report_change`], with the DataNode whose replica this one replaces.
    pub(crate) fn report_with_hint(
        &self,
        storage: StorageUuid,
        block: Block,
        kind: ChangeKind,
        delete_hint: DatanodeUuid,
    ) {
        let now = self.env.now();
        for slot in self.slots() {
            let change = ReplicaChange {
                storage,
                block,
                kind,
                delete_hint,
            };
            slot.core.borrow_mut().push_change(now, change);
            slot.wake.notify();
        }
    }

    /// Tells every NameNode that a replica of ours is corrupt.
    pub(crate) fn report_bad(&self, block: Block, storage: StorageUuid) {
        tracing::warn!("the replica of {block} in {storage} is corrupt");
        for slot in self.slots() {
            slot.core.borrow_mut().push_bad(BadReplica {
                block,
                datanode: self.uuid,
                storage,
            });
            slot.wake.notify();
        }
    }

    /// Tells the NameNode that orders copies that one failed, so that it chooses anew at once.
    pub(crate) fn report_failed_copy(&self, block: Block, target: DatanodeUuid) {
        let active = self.service.borrow().active();
        for slot in self.slots() {
            if Some(slot.index) == active {
                slot.core.borrow_mut().push_failed_copy(block, target);
                slot.wake.notify();
            }
        }
    }

    /// Something was wrong with a replica of ours: it is read again as a whole, and reported if it is bad twice over
    /// a read that fails once says little of the bytes.
    pub(crate) async fn check_replica(&self, id: BlockId) {
        self.alarm.notify();
        let Ok(store) = self.store() else { return };
        let Some(info) = store.get(id) else { return };
        for _ in 0..2 {
            match store.verify(id).await {
                Ok(VerifyOutcome::Corrupt { .. }) => {}
                Ok(VerifyOutcome::Ok { .. } | VerifyOutcome::Gone) => return,
                Err(error) => {
                    tracing::warn!("reading {} again: {error}", info.block);
                    return;
                }
            }
        }
        self.report_bad(info.block, info.storage);
    }

    /// Counts an open block stream for as long as the returned value lives.
    pub(crate) fn count_stream(self: &Rc<Self>) -> Result<StreamCount<E>, Fault> {
        if self.farewell.is_leaving() {
            return Err(self.farewell.fault(&self.config.name));
        }
        let open = self.streams.get();
        if open >= self.config.streams_max {
            let limit = self.config.streams_max;
            let message = format!(
                "{} has {open} block streams open, the limit of datanode.streams_max is {limit}",
                self.config.name
            );
            return Err(Fault::new(FaultClass::Busy, message).with_value(100));
        }
        self.streams.set(open + 1);
        Ok(StreamCount {
            node: Rc::clone(self),
        })
    }
}

/// Counts one open stream.
pub(crate) struct StreamCount<E: Env> {
    node: Rc<Node<E>>,
}

impl<E: Env> Drop for StreamCount<E> {
    fn drop(&mut self) {
        self.node.streams.set(self.node.streams.get() - 1);
    }
}
