//! The state all tasks of a DataNode share, and its start.

use crate::actors;
use crate::config::DatanodeConfig;
use crate::error::RunError;
use crate::serve;
use hadal_blockpool::{Actor, OfferService};
use hadal_daemon::Notify;
use hadal_env::{Conn, Disk, Env, Net, Seam};
use hadal_proto::client::BadReplica;
use hadal_proto::datanode::{ChangeKind, ReplicaChange};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, DatanodeUuid, Epoch, NamespaceInfo, StorageUuid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use store_record::{Contents, Record};
use store_replica::{ReplicaStore, StoreIdentity, StoreOptions, VolumeSpec, read_identity};

pub(crate) type NetConn<E> = <<E as Seam>::Net as Net>::Conn;

/// One actor and what it waits for.
pub(crate) struct ActorSlot {
    pub(crate) core: RefCell<Actor>,
    pub(crate) wake: Notify,
    /// Corrupt replicas not reported to this NameNode yet.
    pub(crate) bad: RefCell<Vec<BadReplica>>,
}

/// Everything the tasks of one DataNode share. One shard: no locks.
pub(crate) struct Node<E: Env> {
    pub(crate) env: E,
    pub(crate) config: DatanodeConfig,
    pub(crate) uuid: DatanodeUuid,
    pub(crate) store: RefCell<Option<ReplicaStore<E::Disk>>>,
    pub(crate) service: RefCell<OfferService>,
    pub(crate) actors: Vec<ActorSlot>,
    pub(crate) streams: Cell<u32>,
    pub(crate) copies: Cell<u32>,
    pub(crate) epoch_record: RefCell<Option<Record<E::Disk>>>,
    pub(crate) opening: Cell<bool>,
    peers: RefCell<BTreeMap<SocketAddr, NetConn<E>>>,
}

/// Bad replicas remembered for one NameNode; more are found again by the next reader.
const BAD_MAX: usize = 1000;
/// Connections to other DataNodes kept.
const PEERS_MAX: usize = 1024;

/// Runs a DataNode until the process ends.
///
/// # Errors
/// [`RunError`] when it cannot start.
pub async fn run<E: Env>(env: E, config: DatanodeConfig) -> Result<(), RunError> {
    if config.dirs.is_empty() {
        return Err(RunError::Config(
            "datanode.dirs is empty: name at least one data directory".into(),
        ));
    }
    if config.namenodes.is_empty() {
        //
        return Err(RunError::Config("must pass at least one NameNode".into()));
    }
    let disk = env.disk().clone();
    let mut locks = Vec::new();
    let mut uuid = None;
    for dir in &config.dirs {
        disk.create_dir_all(dir).await?;
        match disk.lock(&dir.join("node.lock")).await {
            Ok(lock) => locks.push(lock),
            Err(error) if error.is_locked() => {
                return Err(RunError::Locked {
                    dir: dir.display().to_string(),
                });
            }
            Err(error) => return Err(error.into()),
        }
        let found = read_identity(&disk, &volume_dir(dir)).await?;
        uuid = uuid.or(found.map(|identity| identity.datanode));
    }
    let path = config.dirs[0].join("acknowledged_epoch");
    let (record, contents) = Record::open(&disk, &path).await?;
    let epoch = match contents {
        Contents::Empty => Epoch(0),
        Contents::Present { payload, .. } => match <[u8; 8]>::try_from(payload.as_ref()) {
            Ok(bytes) => Epoch(u64::from_le_bytes(bytes)),
            Err(_) => {
                return Err(RunError::Damaged {
                    path: path.display().to_string(),
                });
            }
        },
        Contents::Unreadable => {
            return Err(RunError::Damaged {
                path: path.display().to_string(),
            });
        }
    };
    let fresh = (u128::from(env.random_u64()) << 64) | u128::from(env.random_u64());
    let actors = config
        .namenodes
        .iter()
        .map(|_| ActorSlot {
            core: RefCell::new(Actor::new(
                config.actor.clone(),
                Vec::new(),
                env.random_u64(),
            )),
            wake: Notify::new(),
            bad: RefCell::new(Vec::new()),
        })
        .collect();
    let node = Rc::new(Node {
        uuid: uuid.unwrap_or(DatanodeUuid(fresh)),
        store: RefCell::new(None),
        service: RefCell::new(OfferService::new(None, epoch)),
        actors,
        streams: Cell::new(0),
        copies: Cell::new(0),
        epoch_record: RefCell::new(Some(record)),
        opening: Cell::new(false),
        peers: RefCell::new(BTreeMap::new()),
        env: env.clone(),
        config,
    });
    for index in 0..node.actors.len() {
        env.spawn("datanode actor", actors::run(Rc::clone(&node), index));
    }
    serve::accept_connections(Rc::clone(&node)).await;
    drop(locks);
    Ok(())
}

fn volume_dir(dir: &std::path::Path) -> std::path::PathBuf {
    dir.join("current")
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
        let volumes: Vec<VolumeSpec> = self
            .config
            .dirs
            .iter()
            .map(|dir| VolumeSpec {
                dir: volume_dir(dir),
                storage_if_new: fresh(),
            })
            .collect();
        let identity = StoreIdentity {
            datanode: self.uuid,
            namespace: info.clone(),
        };
        let options: StoreOptions = self.config.store;
        let opened = ReplicaStore::open(self.env.disk().clone(), volumes, identity, options).await;
        self.opening.set(false);
        let (store, report) = opened?;
        for (dir, error) in &report.failed {
            tracing::error!("volume {} cannot be used: {error}", dir.display());
        }
        for corrupt in &report.corrupt {
            tracing::warn!("{} is damaged: {}", corrupt.id, corrupt.what);
        }
        tracing::info!(
            "replica store: {} finalized, {} waiting for recovery, {} leftovers removed",
            report.finalized,
            report.waiting,
            report.removed
        );
        let storages: Vec<StorageUuid> = store
            .volumes()
            .iter()
            .map(|volume| volume.storage)
            .collect();
        for slot in &self.actors {
            let seed = self.env.random_u64();
            slot.core.borrow_mut().set_storages(storages.clone(), seed);
        }
        *self.store.borrow_mut() = Some(store);
        Ok(())
    }

    /// Tells every NameNode that a replica changed.
    pub(crate) fn report_change(&self, storage: StorageUuid, block: Block, kind: ChangeKind) {
        let now = self.env.now();
        for slot in &self.actors {
            let change = ReplicaChange {
                storage,
                block,
                kind,
                delete_hint: DatanodeUuid(0),
            };
            slot.core.borrow_mut().push_change(now, change);
            slot.wake.notify();
        }
    }

    /// Tells every NameNode that a replica is corrupt, here or elsewhere.
    pub(crate) fn report_bad(&self, block: Block, storage: StorageUuid) {
        for slot in &self.actors {
            let mut bad = slot.bad.borrow_mut();
            if bad.len() < BAD_MAX && !bad.iter().any(|known| known.block.id == block.id) {
                bad.push(BadReplica {
                    block,
                    datanode: self.uuid,
                    storage,
                });
            }
            slot.wake.notify();
        }
    }

    /// A connection to another DataNode, kept for the next stream.
    pub(crate) async fn peer(
        &self,
        address: SocketAddr,
        expect: &hadal_env::Expect,
    ) -> Result<NetConn<E>, hadal_env::NetError> {
        let known = self
            .peers
            .borrow()
            .get(&address)
            .filter(|conn| !conn.is_closed())
            .cloned();
        if let Some(conn) = known {
            return Ok(conn);
        }
        let conn = self.env.net().connect(address, expect).await?;
        let mut peers = self.peers.borrow_mut();
        if peers.len() >= PEERS_MAX {
            peers.retain(|_, conn| !conn.is_closed());
        }
        peers.insert(address, conn.clone());
        Ok(conn)
    }

    /// Counts an open block stream for as long as the returned value lives.
    pub(crate) fn count_stream(self: &Rc<Self>) -> Result<StreamCount<E>, Fault> {
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
