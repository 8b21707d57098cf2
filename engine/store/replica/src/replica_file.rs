//! A replica in a file of its own: header, tail records, groups.

use crate::StoreError;
use crate::format::{FileHeader, StoredState};
use crate::geometry::{Geometry, PAGE, TAIL_SLOTS};
use crate::group_sync::GroupSync;
use crate::volume::Volume;
use hadal_env::{Disk, File, OpenOptions};
use hadal_types::{BlockId, GenerationStamp};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

/// The tail record that counts now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TailRef {
    pub(crate) slot: u8,
    pub(crate) sequence: u64,
    /// Index of the unit it holds.
    pub(crate) unit: u64,
    /// Bytes of the unit.
    pub(crate) bytes: u32,
}

/// An open replica file. What is on disk is changed by the replica's [`crate::body::Body`] only.
pub(crate) struct ReplicaFile<D: Disk> {
    pub(crate) volume: Rc<Volume<D>>,
    pub(crate) id: BlockId,
    pub(crate) path: PathBuf,
    /// The open file, as long as somebody reads or writes it: a FINALIZED replica at rest holds no descriptor.
    handle: RefCell<Weak<D::File>>,
    pub(crate) geometry: Geometry,
    pub(crate) allocated: Cell<u64>,
    /// Bytes of the block, from its start, whose writes in complete units have completed.
    pub(crate) in_place: Cell<u64>,
    pub(crate) tail: Cell<Option<TailRef>>,
    /// Slot of the newest tail known durable.
    pub(crate) durable_tail: Cell<Option<u8>>,
    /// Header page to write next.
    pub(crate) next_page: Cell<u8>,
    /// Its name survives a crash.
    pub(crate) name_durable: Cell<bool>,
    /// Units and checksums behind its length may be there, from before a truncation.
    pub(crate) stale_beyond: Cell<bool>,
    /// Least tail sequence that counts while it is open.
    pub(crate) tail_floor: Cell<u64>,
    sync: GroupSync,
}

impl<D: Disk> ReplicaFile<D> {
    /// Creates the file of a new replica: empty, nothing durable. A leftover of a cancelled call is emptied.
    pub(crate) async fn create(
        volume: &Rc<Volume<D>>,
        id: BlockId,
        geometry: Geometry,
    ) -> Result<(Self, Rc<D::File>), StoreError> {
        volume.alive()?;
        let path = volume.replica_path(id);
        let file = volume.check(
            volume
                .disk
                .open(&path, OpenOptions::create().direct())
                .await,
        )?;
        if volume.check(file.length().await)? > 0 {
            volume.check(file.truncate(0).await)?;
        }
        volume.counters.update(|c| c.files_created += 1);
        let handle = Rc::new(file);
        let file = Self::new(volume, id, path, geometry);
        *file.handle.borrow_mut() = Rc::downgrade(&handle);
        Ok((file, handle))
    }

    /// A replica file that is not open, as if nothing was in it.
    pub(crate) fn new(
        volume: &Rc<Volume<D>>,
        id: BlockId,
        path: PathBuf,
        geometry: Geometry,
    ) -> Self {
        Self {
            volume: volume.clone(),
            id,
            path,
            handle: RefCell::new(Weak::new()),
            geometry,
            allocated: Cell::new(0),
            in_place: Cell::new(0),
            tail: Cell::new(None),
            durable_tail: Cell::new(None),
            next_page: Cell::new(0),
            name_durable: Cell::new(false),
            stale_beyond: Cell::new(false),
            tail_floor: Cell::new(0),
            sync: GroupSync::default(),
        }
    }

    /// The open file, opened if nobody has it open.
    pub(crate) async fn open(&self) -> Result<Rc<D::File>, StoreError> {
        let open = self.handle.borrow().upgrade();
        if let Some(open) = open {
            return Ok(open);
        }
        self.volume.alive()?;
        let options = OpenOptions::write().direct();
        let handle = match self.volume.disk.open(&self.path, options).await {
            Err(error) if error.is_not_found() => {
                return Err(StoreError::Corrupt {
                    id: self.id,
                    what: "its file is missing",
                });
            }
            other => Rc::new(self.volume.check(other)?),
        };
        *self.handle.borrow_mut() = Rc::downgrade(&handle);
        Ok(handle)
    }

    /// A header of this replica with the next sequence.
    pub(crate) fn header(
        &self,
        state: StoredState,
        stamp: GenerationStamp,
        synced_length: u64,
    ) -> FileHeader {
        FileHeader {
            state,
            settled: false,
            id: self.id,
            stamp,
            length: 0,
            synced_length,
            sequence: self.volume.next_sequence(),
            tail_sequence: 0,
            tail_floor: self.tail_floor.get(),
            bytes_per_checksum: self.geometry.bytes_per_checksum as u32,
            group_bytes: self.geometry.group as u32,
            storage: self.volume.storage,
        }
    }

    /// Offset of the header page to write; the next call names the other one.
    pub(crate) fn turn_page(&self) -> u64 {
        let page = self.next_page.get();
        self.next_page.set(1 - page);
        u64::from(page) * PAGE as u64
    }

    /// A tail slot that holds neither the durable nor the last written tail.
    pub(crate) fn free_tail_slot(&self) -> u8 {
        let current = self.tail.get().map(|tail| tail.slot);
        let durable = self.durable_tail.get();
        (0..TAIL_SLOTS as u8)
            .find(|slot| Some(*slot) != current && Some(*slot) != durable)
            .expect("three slots, two in use at most")
    }

    /// Reserves space up to file offset `end`, in steps. Returns the bytes newly allocated.
    pub(crate) async fn allocate_to(&self, end: u64) -> Result<u64, StoreError> {
        let have = self.allocated.get();
        if end <= have {
            return Ok(0);
        }
        let step = self.volume.options.allocate_step.max(PAGE as u64);
        let target = end.max(have + step).next_multiple_of(PAGE as u64);
        let file = self.open().await?;
        let result = match file.allocate(have, target - have).await {
            // Near the end of the disk the step may be too much where the need is not.
            Err(error) if error.is_full() && target > end => {
                file.allocate(have, end - have).await.map(|()| end)
            }
            other => other.map(|()| target),
        };
        let reached = self.volume.check(result)?;
        self.allocated.set(reached);
        self.volume.took(reached - have);
        self.volume.use_bytes(reached - have);
        Ok(reached - have)
    }

    /// Gives back what was allocated beyond `end`.
    pub(crate) async fn cut_to(&self, end: u64) -> Result<(), StoreError> {
        let have = self.allocated.get();
        if have > end {
            let file = self.open().await?;
            self.volume.check(file.truncate(end).await)?;
            self.allocated.set(end);
            self.volume.free_bytes(have - end);
        }
        Ok(())
    }

    /// Makes all completed writes, and the file's name, durable.
    pub(crate) async fn sync(&self) -> Result<(), StoreError> {
        let tail = self.tail.get();
        let file = self.open().await?;
        self.sync
            .run(|| async {
                self.volume.alive()?;
                self.volume.counters.update(|c| c.syncs += 1);
                self.volume.check(file.sync_data().await)
            })
            .await?;
        if !self.name_durable.get() {
            self.volume.sync_replicas_dir().await?;
            self.name_durable.set(true);
        }
        if let Some(tail) = tail {
            self.durable_tail.set(Some(tail.slot));
        }
        Ok(())
    }

    /// Reads the checksums of a group's chunks from `first` (index in the group) on.
    pub(crate) async fn read_group_checksums(
        &self,
        group: u64,
        count: usize,
    ) -> Result<Vec<u32>, StoreError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = (count * 4).next_multiple_of(PAGE);
        let buf = self.volume.disk.buf(bytes).await;
        let buf = self
            .volume
            .read(
                self.id,
                &*self.open().await?,
                buf,
                0..bytes,
                self.geometry.group_offset(group),
            )
            .await?;
        let first = group * (self.geometry.group / self.geometry.bytes_per_checksum) as u64;
        Ok(crate::format::decode_checksums(
            self.id,
            first,
            count,
            buf.as_ref(),
        ))
    }
}
