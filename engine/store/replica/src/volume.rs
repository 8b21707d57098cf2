//! One data directory: identity, lock, room, sequence numbers, and its one failure.

use crate::counters::Counters;
use crate::extent::Pools;
use crate::geometry::PAGE;
use crate::group_sync::GroupSync;
use crate::identity::{self, VolumeIdentity};
use crate::{StoreError, StoreIdentity, StoreOptions, VolumeSpec, VolumeStatus};
use futures_util::lock::Mutex;
use hadal_env::{Disk, DiskError, DiskOp, File, Space};
use hadal_types::{BlockId, DigestKey, DigestTree, StorageUuid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Directory of the replicas that have files of their own.
pub(crate) const REPLICAS: &str = "replicas";
/// Directory of the extents.
pub(crate) const EXTENTS: &str = "extents";
/// Locked while a process uses the volume.
const LOCK: &str = "in_use.lock";

/// An open data directory.
pub(crate) struct Volume<D: Disk> {
    pub(crate) disk: D,
    pub(crate) dir: PathBuf,
    pub(crate) storage: StorageUuid,
    pub(crate) options: StoreOptions,
    pub(crate) counters: Rc<Counters>,
    failed: RefCell<Option<String>>,
    sequence: Cell<u64>,
    /// Sequences of slot writes not known durable yet.
    unsynced: RefCell<BTreeSet<u64>>,
    space: Cell<Space>,
    /// Bytes allocated since `space` was asked for.
    taken: Cell<u64>,
    used: Cell<u64>,
    reserved: Cell<u64>,
    replicas_sync: GroupSync,
    extents_sync: GroupSync,
    pub(crate) pools: RefCell<Pools<D>>,
    /// Replicas of this volume in the map.
    pub(crate) listed: Cell<usize>,
    /// Of the FINALIZED ones among them.
    pub(crate) digest: RefCell<DigestTree>,
    /// Held while an extent is added.
    pub(crate) growing: Mutex<()>,
    _lock: D::Lock,
}

impl<D: Disk> Volume<D> {
    /// Locks the directory and checks (or, in an empty one, writes) its identity.
    pub(crate) async fn open(
        disk: &D,
        spec: &VolumeSpec,
        identity: &StoreIdentity,
        options: StoreOptions,
        counters: Rc<Counters>,
    ) -> Result<Rc<Self>, StoreError> {
        disk.create_dir_all(&spec.dir).await?;
        let lock = disk.lock(&spec.dir.join(LOCK)).await?;
        let expected = VolumeIdentity {
            datanode: identity.datanode,
            storage: spec.storage_if_new,
            namespace: identity.namespace.clone(),
        };
        let storage = match identity::read(disk, &spec.dir).await? {
            Some(found) => {
                found.check(&expected, &spec.dir)?;
                // Its name may be newer than the last sync of the directory (killed in between).
                disk.sync_dir(&spec.dir).await?;
                found.storage
            }
            None => {
                identity::write(disk, &spec.dir, &expected).await?;
                expected.storage
            }
        };
        disk.create_dir_all(&spec.dir.join(REPLICAS)).await?;
        disk.create_dir_all(&spec.dir.join(EXTENTS)).await?;
        let space = disk.space(&spec.dir).await?;
        Ok(Rc::new(Self {
            disk: disk.clone(),
            dir: spec.dir.clone(),
            storage,
            options,
            counters,
            failed: RefCell::new(None),
            sequence: Cell::new(0),
            unsynced: RefCell::default(),
            space: Cell::new(space),
            taken: Cell::new(0),
            used: Cell::new(0),
            reserved: Cell::new(0),
            replicas_sync: GroupSync::default(),
            extents_sync: GroupSync::default(),
            pools: RefCell::new(Pools::default()),
            listed: Cell::new(0),
            digest: RefCell::new(DigestTree::new(DigestKey::new(&identity.namespace))),
            growing: Mutex::new(()),
            _lock: lock,
        }))
    }

    pub(crate) fn replicas_dir(&self) -> PathBuf {
        self.dir.join(REPLICAS)
    }

    pub(crate) fn replica_path(&self, id: BlockId) -> PathBuf {
        self.replicas_dir().join(format!("blk_{}", id.0))
    }

    /// Why the volume failed, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// An error if the volume has failed.
    pub(crate) fn alive(&self) -> Result<(), StoreError> {
        match &*self.failed.borrow() {
            None => Ok(()),
            Some(reason) => Err(StoreError::VolumeFailed {
                dir: self.dir.clone(),
                reason: reason.clone(),
            }),
        }
    }

    /// Passes a result on. A failure other than a failed read, or a full disk where space is asked for, is final for the
    /// volume. A flush that finds no room (the file system allocates late, a quota) has lost bytes like any other that fails.
    pub(crate) fn check<T>(&self, result: Result<T, DiskError>) -> Result<T, StoreError> {
        result.map_err(|error| {
            let asks = matches!(error.op, DiskOp::Write | DiskOp::Allocate | DiskOp::Open);
            if asks && error.is_full() {
                return StoreError::OutOfSpace { wanted: 0 };
            }
            // Too many open files, of the process (24) or the machine (23), say nothing of the disk.
            let descriptors = matches!(error.source.raw_os_error(), Some(23 | 24));
            if error.op != DiskOp::Read && !descriptors {
                self.failed
                    .borrow_mut()
                    .get_or_insert_with(|| error.to_string());
            }
            StoreError::Disk(error)
        })
    }

    /// The volume cannot be used, for this reason.
    pub(crate) fn fail(&self, error: &StoreError) {
        self.fail_because(&error.to_string());
    }

    pub(crate) fn fail_because(&self, reason: &str) {
        self.failed
            .borrow_mut()
            .get_or_insert_with(|| reason.to_owned());
    }

    /// The next sequence number of this volume.
    pub(crate) fn next_sequence(&self) -> u64 {
        let next = self.sequence.get() + 1;
        self.sequence.set(next);
        next
    }

    /// Sequence numbers continue after this one.
    pub(crate) fn raise_sequence(&self, seen: u64) {
        self.sequence.set(self.sequence.get().max(seen));
    }

    /// A sequence for a slot write that begins now, and the sequence up to which all are durable.
    pub(crate) fn begin_slot_write(&self) -> (u64, u64) {
        let sequence = self.next_sequence();
        let mut unsynced = self.unsynced.borrow_mut();
        unsynced.insert(sequence);
        (sequence, unsynced.first().map_or(0, |first| first - 1))
    }

    /// No header tells the next process that writes up to this sequence were durable, until [`Self::slots_durable`] has it: that
    /// process verifies them.
    pub(crate) fn distrust(&self, sequence: u64) {
        self.unsynced.borrow_mut().insert(sequence);
    }

    pub(crate) fn slots_durable(&self, sequences: &[u64]) {
        let mut unsynced = self.unsynced.borrow_mut();
        for sequence in sequences {
            unsynced.remove(sequence);
        }
    }

    /// Makes names in `replicas` durable.
    pub(crate) async fn sync_replicas_dir(&self) -> Result<(), StoreError> {
        self.sync_dir(&self.replicas_sync, &self.replicas_dir())
            .await
    }

    /// Makes names in `extents` durable.
    pub(crate) async fn sync_extents_dir(&self) -> Result<(), StoreError> {
        self.sync_dir(&self.extents_sync, &self.dir.join(EXTENTS))
            .await
    }

    async fn sync_dir(&self, group: &GroupSync, path: &Path) -> Result<(), StoreError> {
        group
            .run(|| async {
                self.alive()?;
                self.counters.update(|c| c.dir_syncs += 1);
                self.check(self.disk.sync_dir(path).await)
            })
            .await
    }

    /// Reads all of `range`; a file that ends before its last page is [`StoreError::Corrupt`]. (A crash can cut the padding
    /// of the last page; it reads as zeros.)
    pub(crate) async fn read(
        &self,
        id: BlockId,
        file: &D::File,
        buf: D::Buf,
        range: Range<usize>,
        offset: u64,
    ) -> Result<D::Buf, StoreError> {
        let wanted = range.len();
        let (start, end) = (range.start, range.end);
        let (result, mut buf) = file.read_at(buf, range, offset).await;
        let got = self.check(result)?;
        if got + PAGE <= wanted {
            return Err(StoreError::Corrupt {
                id,
                what: "file ends early",
            });
        }
        buf.as_mut()[start + got..end].fill(0);
        Ok(buf)
    }

    /// Asks the file system how much room there is.
    pub(crate) async fn refresh_space(&self) -> Result<(), StoreError> {
        self.alive()?;
        let space = self.check(self.disk.space(&self.dir).await)?;
        self.space.set(space);
        self.taken.set(0);
        Ok(())
    }

    /// Bytes that can still be promised to replicas.
    pub(crate) fn remaining(&self) -> u64 {
        let gone = self.options.reserved_bytes + self.taken.get() + self.reserved.get();
        let there = self.space.get().available.saturating_sub(gone);
        let allowed = self.options.capacity_bytes;
        let allowed = allowed.saturating_sub(self.used.get() + self.reserved.get());
        (there + self.pools.borrow().free_bytes()).min(allowed)
    }

    pub(crate) fn reserve(&self, bytes: u64) {
        self.reserved.set(self.reserved.get() + bytes);
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.reserved.set(self.reserved.get().saturating_sub(bytes));
    }

    /// Bytes were allocated from the file system.
    pub(crate) fn took(&self, bytes: u64) {
        self.taken.set(self.taken.get() + bytes);
    }

    pub(crate) fn use_bytes(&self, bytes: u64) {
        self.used.set(self.used.get() + bytes);
    }

    pub(crate) fn free_bytes(&self, bytes: u64) {
        self.used.set(self.used.get().saturating_sub(bytes));
    }

    pub(crate) fn status(&self) -> VolumeStatus {
        let failed = self.failure();
        VolumeStatus {
            storage: self.storage,
            dir: self.dir.clone(),
            capacity: self
                .space
                .get()
                .capacity
                .saturating_sub(self.options.reserved_bytes)
                .min(self.options.capacity_bytes),
            used: self.used.get(),
            remaining: if failed.is_some() {
                0
            } else {
                self.remaining()
            },
            reserved: self.reserved.get(),
            replicas: self.listed.get(),
            failed,
        }
    }
}
