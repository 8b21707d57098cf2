//! Slots of equal size in preallocated files: homes of small replicas.

use crate::StoreError;
use crate::format::SlotPlace;
use crate::geometry::{PAGE, SlotClass};
use crate::group_sync::GroupSync;
use crate::volume::{EXTENTS, Volume};
use hadal_env::{Disk, File, OpenOptions};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

/// One extent file: `slots` slots of one class, named `x<class>_<number>`. It has no header of its own; a slot's
/// header names class, extent and slot, and a file cut short by a crash is extended again at the next start.
pub(crate) struct Extent<D: Disk> {
    pub(crate) class: SlotClass,
    pub(crate) number: u32,
    pub(crate) slots: u32,
    pub(crate) file: D::File,
    sync: GroupSync,
    /// Sequences of completed slot writes that no flush has covered yet.
    written: RefCell<Vec<u64>>,
}

/// Gives the sequences back if the flush is dropped half-way.
struct Covered<'a> {
    sequences: Vec<u64>,
    written: &'a RefCell<Vec<u64>>,
}

impl Drop for Covered<'_> {
    fn drop(&mut self) {
        self.written.borrow_mut().append(&mut self.sequences);
    }
}

impl<D: Disk> Extent<D> {
    /// Opens (creates, extends) an extent file. The caller makes its name durable.
    pub(crate) async fn open(
        volume: &Volume<D>,
        class: SlotClass,
        number: u32,
    ) -> Result<Self, StoreError> {
        let path = extent_path(volume, class, number);
        let file = volume.check(
            volume
                .disk
                .open(&path, OpenOptions::create().direct())
                .await,
        )?;
        let slots =
            (volume.options.extent_bytes / class.slot()).clamp(1, u64::from(u32::MAX)) as u32;
        let length = volume.check(file.length().await)?;
        let slots = slots.max(u32::try_from(length / class.slot()).unwrap_or(u32::MAX));
        let bytes = u64::from(slots) * class.slot();
        if length < bytes {
            if let Err(error) = file.allocate(length, bytes - length).await {
                // An extent that could not be had in full is not kept: it would look like room.
                if error.is_full() && length == 0 {
                    volume.check(volume.disk.remove_file(&path).await)?;
                }
                volume.check(Err(error))?;
            }
            volume.took(bytes - length);
        }
        Ok(Self {
            class,
            number,
            slots,
            file,
            sync: GroupSync::default(),
            written: RefCell::default(),
        })
    }

    pub(crate) fn offset(&self, slot: u32) -> u64 {
        u64::from(slot) * self.class.slot()
    }

    /// What the header of one of its slots names.
    pub(crate) fn place(&self, volume: &Volume<D>, slot: u32) -> SlotPlace {
        SlotPlace {
            storage: volume.storage,
            class: self.class.0,
            extent: self.number,
            slot,
        }
    }

    /// A write of this sequence completed.
    pub(crate) fn wrote(&self, sequence: u64) {
        self.written.borrow_mut().push(sequence);
    }

    /// Makes every completed write durable, in one flush for all who ask meanwhile.
    pub(crate) async fn sync(&self, volume: &Volume<D>) -> Result<(), StoreError> {
        self.sync
            .run(|| async {
                volume.alive()?;
                let mut covered = Covered {
                    sequences: self.written.take(),
                    written: &self.written,
                };
                volume.counters.update(|c| c.syncs += 1);
                volume.check(self.file.sync_data().await)?;
                volume.slots_durable(&std::mem::take(&mut covered.sequences));
                Ok(())
            })
            .await
    }
}

pub(crate) fn extent_path<D: Disk>(volume: &Volume<D>, class: SlotClass, number: u32) -> PathBuf {
    volume
        .dir
        .join(EXTENTS)
        .join(format!("x{}_{number}", class.0))
}

/// The class and number of an extent's file name.
pub(crate) fn parse_extent_name(name: &str) -> Option<(SlotClass, u32)> {
    let (class, number) = name.strip_prefix('x')?.split_once('_')?;
    let class = SlotClass::all().find(|known| known.0.to_string() == class)?;
    let parsed: u32 = number.parse().ok()?;
    (parsed.to_string() == number).then_some((class, parsed))
}

/// A slot somebody holds. It goes back to the free list when the last holder is gone **and** it was
/// detached: a slot whose write was cancelled may be written later still, so it is not given out again before the
/// next start.
pub(crate) struct SlotLease<D: Disk> {
    pub(crate) volume: Rc<Volume<D>>,
    pub(crate) extent: Rc<Extent<D>>,
    pub(crate) slot: u32,
    detached: Cell<bool>,
    /// The sequence of a header found at start that says more than there is.
    overstated: Option<u64>,
}

impl<D: Disk> Drop for SlotLease<D> {
    fn drop(&mut self) {
        if self.detached.get() {
            let mut pools = self.volume.pools.borrow_mut();
            pools
                .free
                .entry(self.extent.class)
                .or_default()
                .push((self.extent.number, self.slot));
        }
    }
}

impl<D: Disk> SlotLease<D> {
    /// A slot found in use at start.
    pub(crate) fn found(volume: &Rc<Volume<D>>, extent: &Rc<Extent<D>>, slot: u32) -> Self {
        volume.use_bytes(extent.class.slot());
        Self {
            volume: volume.clone(),
            extent: extent.clone(),
            slot,
            detached: Cell::new(false),
            overstated: None,
        }
    }

    /// A slot that was found torn stays as it is until it is detached; every start until then verifies it again.
    pub(crate) fn overstated(mut self, sequence: Option<u64>) -> Self {
        if let Some(sequence) = sequence {
            self.volume.distrust(sequence);
        }
        self.overstated = sequence;
        self
    }

    pub(crate) fn place(&self) -> SlotPlace {
        self.extent.place(&self.volume, self.slot)
    }

    pub(crate) fn offset(&self) -> u64 {
        self.extent.offset(self.slot)
    }

    pub(crate) async fn sync(&self) -> Result<(), StoreError> {
        self.extent.sync(&self.volume).await
    }

    /// Writes a free header and makes it durable: the replica is gone for every later start. Readers that hold
    /// the lease keep the slot's data from being overwritten.
    pub(crate) async fn detach(&self) -> Result<(), StoreError> {
        self.volume.alive()?;
        let mut page = self.volume.disk.buf(PAGE).await;
        page.as_mut()[..PAGE].fill(0);
        let (result, page) = self
            .extent
            .file
            .write_at(page, 0..PAGE, self.offset())
            .await;
        drop(page);
        self.volume.check(result)?;
        self.sync().await?;
        self.volume.slots_durable(self.overstated.as_slice());
        self.volume.free_bytes(self.extent.class.slot());
        self.detached.set(true);
        Ok(())
    }
}

/// The extents of a volume and their free slots.
pub(crate) struct Pools<D: Disk> {
    extents: BTreeMap<(SlotClass, u32), Rc<Extent<D>>>,
    free: BTreeMap<SlotClass, Vec<(u32, u32)>>,
}

impl<D: Disk> Default for Pools<D> {
    fn default() -> Self {
        Self {
            extents: BTreeMap::new(),
            free: BTreeMap::new(),
        }
    }
}

impl<D: Disk> Pools<D> {
    /// An extent with the slots of it that are free.
    pub(crate) fn add(
        &mut self,
        extent: Rc<Extent<D>>,
        free: impl DoubleEndedIterator<Item = u32>,
    ) {
        let list = self.free.entry(extent.class).or_default();
        list.extend(free.rev().map(|slot| (extent.number, slot)));
        self.extents.insert((extent.class, extent.number), extent);
    }

    /// Bytes of free slots.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free
            .iter()
            .map(|(class, list)| class.slot() * list.len() as u64)
            .sum()
    }

    fn take(&mut self, class: SlotClass) -> Option<(Rc<Extent<D>>, u32)> {
        let (number, slot) = self.free.get_mut(&class)?.pop()?;
        Some((self.extents[&(class, number)].clone(), slot))
    }

    fn next_number(&self, class: SlotClass) -> u32 {
        self.extents
            .range((class, 0)..=(class, u32::MAX))
            .next_back()
            .map_or(0, |((_, number), _)| number + 1)
    }

    pub(crate) fn all(&self) -> Vec<Rc<Extent<D>>> {
        self.extents.values().cloned().collect()
    }
}

/// A free slot; a new extent when there is none.
pub(crate) async fn take_slot<D: Disk>(
    volume: &Rc<Volume<D>>,
    class: SlotClass,
) -> Result<SlotLease<D>, StoreError> {
    volume.alive()?;
    loop {
        if let Some((extent, slot)) = volume.pools.borrow_mut().take(class) {
            return Ok(SlotLease::found(volume, &extent, slot));
        }
        let growing = volume.growing.lock().await;
        if volume
            .pools
            .borrow()
            .free
            .get(&class)
            .is_none_or(Vec::is_empty)
        {
            let number = volume.pools.borrow().next_number(class);
            let extent = Extent::open(volume, class, number).await?;
            volume.counters.update(|c| {
                c.files_created += 1;
                c.syncs += 1;
            });
            volume.check(extent.file.sync_data().await)?;
            volume.sync_extents_dir().await?;
            let slots = extent.slots;
            volume.pools.borrow_mut().add(Rc::new(extent), 0..slots);
        }
        drop(growing);
    }
}
