//! The replicas in memory, sorted by the key by which everything about blocks is sorted.

use crate::body::Body;
use crate::extent::SlotLease;
use crate::geometry::Geometry;
use crate::replica_file::ReplicaFile;
use crate::volume::Volume;
use crate::{ReplicaInfo, StoreError};
use futures_util::lock::Mutex;
use hadal_env::Disk;
use hadal_types::{Block, BlockId, GenerationStamp, ReplicaState, mix};
use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, RangeInclusive};
use std::rc::Rc;

/// Where the bytes of a replica are.
pub(crate) enum Location<D: Disk> {
    /// Nowhere yet: a small open replica that was never flushed.
    Memory,
    /// In a slot, which is never written again.
    Slot(Rc<SlotLease<D>>),
    /// In its own file.
    File(Rc<ReplicaFile<D>>),
}

impl<D: Disk> Clone for Location<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Memory => Self::Memory,
            Self::Slot(lease) => Self::Slot(lease.clone()),
            Self::File(file) => Self::File(file.clone()),
        }
    }
}

/// What is known of a replica without asking the disk.
pub(crate) struct Meta<D: Disk> {
    pub(crate) stamp: GenerationStamp,
    /// Its state; with a recovery running, the one before it.
    pub(crate) state: ReplicaState,
    /// The recovery that runs: the replica is RUR (E-11).
    pub(crate) recovery: Option<GenerationStamp>,
    pub(crate) received: u64,
    pub(crate) on_disk: u64,
    pub(crate) acked: u64,
    pub(crate) durable: u64,
    pub(crate) location: Location<D>,
    /// Slots an older version of this replica is in. They are freed before the newest one, or a deleted
    /// replica could come back at a restart.
    pub(crate) stale: Vec<Rc<SlotLease<D>>>,
    /// Which writer may write; raised by every take-over.
    pub(crate) writer: u64,
    /// Out of the map.
    pub(crate) gone: bool,
    /// Bytes reserved on the volume and not yet allocated.
    pub(crate) reservation: u64,
}

/// What is known of a replica, and the one way to change it: whoever does keeps the digest tree of its volume
/// (protocols.md section 4), which therefore cannot tell of a replica that is not there.
pub(crate) struct MetaCell<D: Disk> {
    meta: RefCell<Meta<D>>,
    id: BlockId,
    volume: Rc<Volume<D>>,
    /// In the map.
    listed: Cell<bool>,
    /// What the digest tree has of it.
    counted: Cell<Option<Block>>,
}

impl<D: Disk> MetaCell<D> {
    pub(crate) fn new(meta: Meta<D>, id: BlockId, volume: Rc<Volume<D>>) -> Self {
        Self {
            meta: RefCell::new(meta),
            id,
            volume,
            listed: Cell::new(false),
            counted: Cell::new(None),
        }
    }

    pub(crate) fn borrow(&self) -> Ref<'_, Meta<D>> {
        self.meta.borrow()
    }

    pub(crate) fn borrow_mut(&self) -> Edit<'_, D> {
        Edit {
            meta: self.meta.borrow_mut(),
            cell: self,
        }
    }

    fn list(&self, listed: bool) {
        if self.listed.replace(listed) != listed {
            let here = &self.volume.listed;
            here.set(if listed {
                here.get() + 1
            } else {
                here.get() - 1
            });
            self.recount(&self.meta.borrow());
        }
    }

    fn recount(&self, meta: &Meta<D>) {
        let is_finalized = meta.state == ReplicaState::Finalized && meta.recovery.is_none();
        let now = (is_finalized && !meta.gone && self.listed.get()).then_some(Block {
            id: self.id,
            generation_stamp: meta.stamp,
            length: meta.received,
        });
        let before = self.counted.replace(now);
        if before == now {
            return;
        }
        let mut tree = self.volume.digest.borrow_mut();
        if let Some(before) = before {
            tree.remove(&before);
        }
        if let Some(now) = now {
            tree.insert(&now);
        }
    }
}

/// A change of a replica; ends in the digest tree.
pub(crate) struct Edit<'a, D: Disk> {
    meta: RefMut<'a, Meta<D>>,
    cell: &'a MetaCell<D>,
}

impl<D: Disk> Deref for Edit<'_, D> {
    type Target = Meta<D>;

    fn deref(&self) -> &Meta<D> {
        &self.meta
    }
}

impl<D: Disk> DerefMut for Edit<'_, D> {
    fn deref_mut(&mut self) -> &mut Meta<D> {
        &mut self.meta
    }
}

impl<D: Disk> Drop for Edit<'_, D> {
    fn drop(&mut self) {
        self.cell.recount(&self.meta);
    }
}

/// One replica.
pub(crate) struct Replica<D: Disk> {
    pub(crate) id: BlockId,
    pub(crate) instance: u64,
    pub(crate) volume: Rc<Volume<D>>,
    pub(crate) geometry: Geometry,
    pub(crate) meta: MetaCell<D>,
    /// Held by whoever changes the replica; `None` while nobody writes it.
    pub(crate) body: Mutex<Option<Box<Body<D>>>>,
}

impl<D: Disk> Replica<D> {
    pub(crate) fn state(&self) -> ReplicaState {
        let meta = self.meta.borrow();
        if meta.recovery.is_some() {
            ReplicaState::Rur
        } else {
            meta.state
        }
    }

    pub(crate) fn stamp(&self) -> GenerationStamp {
        self.meta.borrow().stamp
    }

    /// Bytes a reader may see: of a FINALIZED replica all, of an RBW what is on disk and acknowledged downstream,
    /// of others none (E-10, E-12).
    pub(crate) fn visible(&self) -> u64 {
        let meta = self.meta.borrow();
        match meta.state {
            ReplicaState::Finalized => meta.on_disk,
            ReplicaState::Rbw => meta.acked.min(meta.on_disk),
            ReplicaState::Rwr | ReplicaState::Temporary | ReplicaState::Rur => 0,
        }
    }

    pub(crate) fn info(&self) -> ReplicaInfo {
        let meta = self.meta.borrow();
        ReplicaInfo {
            block: Block {
                id: self.id,
                generation_stamp: meta.stamp,
                length: meta.received,
            },
            state: self.state(),
            original_state: meta.state,
            storage: self.volume.storage,
            instance: self.instance,
            bytes_on_disk: meta.on_disk,
            bytes_acked: meta.acked,
            bytes_durable: meta.durable,
            visible_length: self.visible(),
            bytes_per_checksum: self.geometry.bytes_per_checksum as u32,
        }
    }

    pub(crate) fn block(&self) -> Block {
        let meta = self.meta.borrow();
        Block {
            id: self.id,
            generation_stamp: meta.stamp,
            length: meta.received,
        }
    }

    /// An error once it has left the map or its volume has failed.
    pub(crate) fn here(&self) -> Result<(), StoreError> {
        self.volume.alive()?;
        if self.meta.borrow().gone {
            return Err(StoreError::NotFound { id: self.id });
        }
        Ok(())
    }

    /// Stops the present writer; returns the token of the next.
    pub(crate) fn take_over(&self) -> u64 {
        let mut meta = self.meta.borrow_mut();
        meta.writer += 1;
        meta.writer
    }

    /// Uses up part of the reservation.
    pub(crate) fn settle_reservation(&self, bytes: u64) {
        let mut meta = self.meta.borrow_mut();
        let part = meta.reservation.min(bytes);
        meta.reservation -= part;
        self.volume.release(part);
    }
}

/// All replicas of a store.
pub(crate) struct ReplicaMap<D: Disk> {
    by_key: BTreeMap<u64, Rc<Replica<D>>>,
}

impl<D: Disk> ReplicaMap<D> {
    pub(crate) fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, id: BlockId) -> Option<Rc<Replica<D>>> {
        self.by_key.get(&mix(id)).cloned()
    }

    pub(crate) fn insert(&mut self, replica: Rc<Replica<D>>) {
        let displaced = self.by_key.insert(mix(replica.id), replica.clone());
        if let Some(displaced) = displaced {
            displaced.meta.list(false);
        }
        replica.meta.list(true);
    }

    /// Takes this instance out, if it is still the one that is in.
    pub(crate) fn remove(&mut self, replica: &Rc<Replica<D>>) {
        replica.meta.borrow_mut().gone = true;
        if self
            .by_key
            .get(&mix(replica.id))
            .is_some_and(|here| Rc::ptr_eq(here, replica))
        {
            self.by_key.remove(&mix(replica.id));
            replica.meta.list(false);
        }
    }

    /// Forgets the replicas of failed volumes.
    pub(crate) fn drop_failed(&mut self) {
        self.by_key.retain(|_, replica| {
            let keep = !replica.volume.is_failed();
            if !keep {
                replica.meta.borrow_mut().gone = true;
                replica.meta.list(false);
            }
            keep
        });
    }

    /// Those with a key above this one, in order.
    pub(crate) fn iter_after(&self, after: Option<u64>) -> impl Iterator<Item = &Rc<Replica<D>>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.by_key
            .range((from, Unbounded))
            .map(|(_, replica)| replica)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<Replica<D>>> {
        self.by_key.values()
    }

    /// Those with keys in a range, in order.
    pub(crate) fn range(&self, keys: RangeInclusive<u64>) -> impl Iterator<Item = &Rc<Replica<D>>> {
        self.by_key.range(keys).map(|(_, replica)| replica)
    }
}
