//! The store: its map and volumes, making and removing replicas.

use crate::body::Body;
use crate::counters::Counters;
use crate::extent::extent_path;
use crate::geometry::{Geometry, PAGE};
use crate::map::{Location, Meta, MetaCell, Replica, ReplicaMap};
use crate::volume::Volume;
use crate::{
    CreateSpec, Deleted, LocalReplicaFile, ReplicaInfo, ReplicaWriter, StoreCounters, StoreError,
    StoreOptions, VolumeStatus,
};
use futures_util::lock::Mutex;
use hadal_env::Disk;
use hadal_types::{Block, BlockId, DigestTree, GenerationStamp, ReplicaState, StorageUuid};
use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The replicas of one shard of a DataNode, on one or several volumes. Clones share it; it is not `Send`.
///
/// A failed write, sync or directory operation marks its volume failed, finally: its replicas leave the map and the
/// other volumes go on serving.
pub struct ReplicaStore<D: Disk> {
    pub(crate) inner: Rc<Inner<D>>,
}

impl<D: Disk> Clone for ReplicaStore<D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

pub(crate) struct Inner<D: Disk> {
    pub(crate) volumes: Vec<Rc<Volume<D>>>,
    pub(crate) map: RefCell<ReplicaMap<D>>,
    pub(crate) options: StoreOptions,
    pub(crate) counters: Rc<Counters>,
    next_instance: Cell<u64>,
    next_volume: Cell<usize>,
}

impl<D: Disk> ReplicaStore<D> {
    pub(crate) fn new(
        volumes: Vec<Rc<Volume<D>>>,
        options: StoreOptions,
        counters: Rc<Counters>,
    ) -> Self {
        Self {
            inner: Rc::new(Inner {
                volumes,
                map: RefCell::new(ReplicaMap::new()),
                options,
                counters,
                next_instance: Cell::new(1),
                next_volume: Cell::new(0),
            }),
        }
    }

    /// Forgets the replicas of volumes that failed since the last call.
    pub(crate) fn forget_failed(&self) {
        if self.inner.volumes.iter().any(|volume| volume.is_failed()) {
            self.inner.map.borrow_mut().drop_failed();
        }
    }

    pub(crate) fn find(&self, id: BlockId) -> Result<Rc<Replica<D>>, StoreError> {
        self.forget_failed();
        self.inner
            .map
            .borrow()
            .get(id)
            .ok_or(StoreError::NotFound { id })
    }

    /// What is known of a replica.
    #[must_use]
    pub fn get(&self, id: BlockId) -> Option<ReplicaInfo> {
        self.find(id).ok().map(|replica| replica.info())
    }

    /// The FINALIZED replicas of a storage, sorted by `mix(id)` (the order of block reports).
    #[must_use]
    pub fn finalized(&self, storage: StorageUuid) -> Vec<Block> {
        self.forget_failed();
        let map = self.inner.map.borrow();
        map.iter()
            .filter(|replica| {
                replica.volume.storage == storage && replica.state() == ReplicaState::Finalized
            })
            .map(|replica| replica.block())
            .collect()
    }

    /// The FINALIZED replicas of a storage whose keys `mix(id)` are in a range, in order of key. Costs what is in the
    /// range in all storages.
    #[must_use]
    pub fn finalized_in(&self, storage: StorageUuid, keys: RangeInclusive<u64>) -> Vec<Block> {
        self.forget_failed();
        let map = self.inner.map.borrow();
        map.range(keys)
            .filter(|replica| {
                replica.volume.storage == storage && replica.state() == ReplicaState::Finalized
            })
            .map(|replica| replica.block())
            .collect()
    }

    /// Looks at the digest tree of a storage: always that of the FINALIZED replicas [`Self::finalized`] would list.
    /// `None` for an unknown storage and for a failed one.
    pub fn with_digest<R>(
        &self,
        storage: StorageUuid,
        look: impl FnOnce(&DigestTree) -> R,
    ) -> Option<R> {
        self.forget_failed();
        let mut volumes = self.inner.volumes.iter();
        let volume = volumes.find(|volume| volume.storage == storage && !volume.is_failed())?;
        Some(look(&volume.digest.borrow()))
    }

    /// The replicas of a storage in every other state (TEMPORARY too), sorted by `mix(id)`.
    #[must_use]
    pub fn open_replicas(&self, storage: StorageUuid) -> Vec<ReplicaInfo> {
        self.forget_failed();
        let map = self.inner.map.borrow();
        map.iter()
            .filter(|replica| {
                replica.volume.storage == storage && replica.state() != ReplicaState::Finalized
            })
            .map(|replica| replica.info())
            .collect()
    }

    /// Every volume, failed ones too, in the order given at open.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        self.forget_failed();
        let volumes = self.inner.volumes.iter();
        volumes.map(|volume| volume.status()).collect()
    }

    /// Takes a volume out of use, finally, because something else on its disk failed.
    pub fn fail_volume(&self, dir: &Path, reason: &str) {
        for volume in &self.inner.volumes {
            if volume.dir == dir {
                volume.fail_because(reason);
            }
        }
        self.forget_failed();
    }

    /// The file of a FINALIZED replica that has one of its own, for readers on this host; `None` for any other: a slot
    /// in a shared extent may be given to another block while somebody reads it (protocols.md section 5).
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleStamp`].
    pub fn local_file(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
    ) -> Result<Option<LocalReplicaFile>, StoreError> {
        let replica = self.find(id)?;
        let meta = replica.meta.borrow();
        if meta.stamp < stamp {
            return Err(StoreError::StaleStamp {
                id,
                here: meta.stamp,
                wanted: stamp,
            });
        }
        let Location::File(file) = &meta.location else {
            return Ok(None);
        };
        if replica.state() != ReplicaState::Finalized {
            return Ok(None);
        }
        let tail = file
            .tail
            .get()
            .map_or(0, |tail| file.geometry.tail_offset(tail.slot));
        Ok(Some(LocalReplicaFile {
            path: file.path.clone(),
            block: Block {
                id,
                generation_stamp: meta.stamp,
                length: replica.visible(),
            },
            geometry: file.geometry,
            whole: file.in_place.get(),
            tail,
        }))
    }

    /// The file that holds a replica's first byte and the byte's offset in it; `None` while it is only in memory or
    /// not here. For people, and for tests that break things.
    #[must_use]
    pub fn locate(&self, id: BlockId) -> Option<(PathBuf, u64)> {
        let replica = self.find(id).ok()?;
        let location = replica.meta.borrow().location.clone();
        match location {
            Location::Memory => None,
            Location::Slot(lease) => {
                let extent = &lease.extent;
                let path = extent_path(&replica.volume, extent.class, extent.number);
                Some((path, lease.offset() + extent.class.header() as u64))
            }
            Location::File(file) => {
                let offset = match file.tail.get() {
                    // Nothing in place: all of it is in the tail record.
                    Some(tail) if file.in_place.get() == 0 => {
                        file.geometry.tail_offset(tail.slot) + PAGE as u64
                    }
                    _ => file.geometry.data_offset(0),
                };
                Some((file.path.clone(), offset))
            }
        }
    }

    /// Asks every file system for its free room; call before each heartbeat. A volume that cannot answer has failed.
    pub async fn refresh_space(&self) {
        for volume in &self.inner.volumes {
            if volume.refresh_space().await.is_err() {
                self.forget_failed();
            }
        }
    }

    /// Counters since start.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        self.inner.counters.get()
    }

    /// Where and how a volume with this much room is, by turns.
    fn choose_volume(&self, spec: &CreateSpec) -> Result<Rc<Volume<D>>, StoreError> {
        let volumes = &self.inner.volumes;
        let wanted = spec.expected_length.max(1);
        if let Some(storage) = spec.storage {
            let volume = volumes
                .iter()
                .find(|volume| volume.storage == storage)
                .ok_or(StoreError::NoStorage(storage))?;
            volume.alive()?;
            if volume.remaining() < wanted {
                return Err(StoreError::OutOfSpace { wanted });
            }
            return Ok(volume.clone());
        }
        if volumes.iter().all(|volume| volume.is_failed()) {
            return Err(StoreError::NoVolume);
        }
        for step in 0..volumes.len() {
            let index = (self.inner.next_volume.get() + step) % volumes.len();
            if !volumes[index].is_failed() && volumes[index].remaining() >= wanted {
                self.inner.next_volume.set(index + 1);
                return Ok(volumes[index].clone());
            }
        }
        Err(StoreError::OutOfSpace { wanted })
    }

    /// Puts a replica into the map.
    pub(crate) fn admit(
        &self,
        volume: &Rc<Volume<D>>,
        id: BlockId,
        geometry: Geometry,
        meta: Meta<D>,
        body: Option<Box<Body<D>>>,
    ) -> Rc<Replica<D>> {
        let instance = self.inner.next_instance.get();
        self.inner.next_instance.set(instance + 1);
        let replica = Rc::new(Replica {
            id,
            instance,
            volume: volume.clone(),
            geometry,
            meta: MetaCell::new(meta, id, volume.clone()),
            body: Mutex::new(body),
        });
        self.inner.map.borrow_mut().insert(replica.clone());
        replica
    }

    fn create(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        spec: &CreateSpec,
        state: ReplicaState,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        let max = self.inner.options.block_bytes_max;
        if spec.expected_length > max {
            return Err(StoreError::TooLong {
                id,
                length: spec.expected_length,
                max,
            });
        }
        let geometry = Geometry::new(spec.bytes_per_checksum, self.inner.options.group_bytes)?;
        let volume = self.choose_volume(spec)?;
        volume.reserve(spec.expected_length);
        let meta = Meta {
            stamp,
            state,
            recovery: None,
            received: 0,
            on_disk: 0,
            acked: 0,
            durable: 0,
            location: Location::Memory,
            stale: Vec::new(),
            writer: 1,
            gone: false,
            reservation: spec.expected_length,
        };
        let body = Body::new(
            geometry,
            self.inner.options.small_bytes as usize,
            spec.expected_length,
        );
        let replica = self.admit(&volume, id, geometry, meta, Some(Box::new(body)));
        Ok(ReplicaWriter::new(self.clone(), replica, 1))
    }

    /// A new RBW replica. Costs no disk operation: its first flush, sync or finish (or a full group) writes it, and
    /// until then it promises nothing.
    pub async fn create_rbw(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        spec: CreateSpec,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        if let Ok(here) = self.find(id) {
            return Err(StoreError::AlreadyExists {
                id,
                state: here.state(),
                stamp: here.stamp(),
            });
        }
        self.create(id, stamp, &spec, ReplicaState::Rbw)
    }

    /// A new TEMPORARY replica: a copy in flight, invisible, deleted at restart (E-12). One of an older stamp that is
    /// here as TEMPORARY or RBW gives way; anything else is [`StoreError::AlreadyExists`].
    pub async fn create_temporary(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        spec: CreateSpec,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        while let Ok(here) = self.find(id) {
            let open = matches!(here.state(), ReplicaState::Temporary | ReplicaState::Rbw);
            if !open || here.stamp() >= stamp {
                return Err(StoreError::AlreadyExists {
                    id,
                    state: here.state(),
                    stamp: here.stamp(),
                });
            }
            match self.delete_replica(&here).await {
                Ok(deleted) => self.collect(deleted).await?,
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.create(id, stamp, &spec, ReplicaState::Temporary)
    }

    /// Accepts a deletion: when this returns the replica is durably renamed or its slot freed, and out of the
    /// map; the bytes of a file go with [`ReplicaStore::collect`]. Bound to the instance: a replica with a newer stamp than
    /// `stamp` is not touched ([`StoreError::StaleStamp`]). Readers that are open read on.
    pub async fn delete(&self, id: BlockId, stamp: GenerationStamp) -> Result<Deleted, StoreError> {
        let replica = self.find(id)?;
        if replica.stamp() > stamp {
            return Err(StoreError::StaleStamp {
                id,
                here: replica.stamp(),
                wanted: stamp,
            });
        }
        self.delete_replica(&replica).await
    }

    pub(crate) async fn delete_replica(
        &self,
        replica: &Rc<Replica<D>>,
    ) -> Result<Deleted, StoreError> {
        replica.take_over();
        let mut held = replica.body.lock().await;
        replica.here()?;
        let state = replica.state();
        if let Some(body) = held.as_mut() {
            // Whether its last writes found room does not matter any more.
            let _ = body.drain(replica).await;
            replica.volume.alive()?;
        }
        let file = held.as_ref().and_then(|body| body.file.clone());
        *held = None;
        let location = replica.meta.borrow().location.clone();
        let (mut path, mut bytes) = (None, 0);
        let mut file_bytes = 0;
        // Older versions go first: a crash in between must not leave one of them as the newest.
        Body::free_stale(replica).await?;
        if let Location::Slot(lease) = &location {
            lease.detach().await?;
            bytes += lease.extent.class.slot();
        }
        let file = match &location {
            Location::File(file) => Some(file.clone()),
            _ => file,
        };
        if let Some(file) = file {
            let volume = &replica.volume;
            let gone = volume.replicas_dir().join(format!(
                "del_{}_{}",
                replica.id.0,
                volume.next_sequence()
            ));
            match volume.disk.rename(&file.path, &gone).await {
                // An earlier call got this far and was dropped: the next start removes the file.
                Err(error) if error.is_not_found() => {}
                other => {
                    volume.check(other)?;
                    path = Some(gone);
                }
            }
            volume.sync_replicas_dir().await?;
            file_bytes = file.allocated.get();
        }
        let rest = replica.meta.borrow().reservation;
        replica.settle_reservation(rest);
        self.inner.map.borrow_mut().remove(replica);
        bytes += file_bytes;
        replica.volume.free_bytes(file_bytes);
        Ok(Deleted {
            block: replica.block(),
            state,
            storage: replica.volume.storage,
            instance: replica.instance,
            bytes,
            path,
        })
    }

    /// Removes the bytes of a deleted replica.
    pub async fn collect(&self, deleted: Deleted) -> Result<(), StoreError> {
        let Some(path) = deleted.path else {
            return Ok(());
        };
        let volume = self
            .inner
            .volumes
            .iter()
            .find(|volume| volume.storage == deleted.storage);
        let volume = volume.ok_or(StoreError::NoStorage(deleted.storage))?;
        volume.alive()?;
        match volume.disk.remove_file(&path).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => volume.check(other),
        }
    }
}

/// Every test of the store ends in this one too: the trees say what the map says (protocols.md section 4).
#[cfg(test)]
impl<D: Disk> Drop for Inner<D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for volume in self.volumes.iter().filter(|volume| !volume.is_failed()) {
            let map = self.map.borrow();
            let here = || map.iter().filter(|it| Rc::ptr_eq(&it.volume, volume));
            assert_eq!(volume.listed.get(), here().count());
            let mut tree = volume.digest.borrow().clone();
            here()
                .filter(|replica| replica.state() == ReplicaState::Finalized)
                .for_each(|replica| tree.remove(&replica.block()));
            let rest = (tree.replicas(), tree.root());
            assert_eq!(rest, Default::default(), "in the tree and not in the map");
        }
    }
}
