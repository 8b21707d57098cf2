//! Putting gathered bytes in their place: the replica's own file, or a slot; and what makes them durable.

use crate::StoreError;
use crate::body::{Body, What};
use crate::extent::take_slot;
use crate::format::{FileHeader, SlotHeader, StoredState, TailRecord, encode_checksums};
use crate::geometry::{PAGE, SlotClass};
use crate::map::{Location, Replica};
use crate::replica_file::{ReplicaFile, TailRef};
use futures_util::stream::StreamExt;
use hadal_env::{Disk, File};
use hadal_types::{GenerationStamp, ReplicaState};
use std::ops::Range;
use std::rc::Rc;
use store_record::checksum::crc32c;

impl<D: Disk> Body<D> {
    // ---- own file

    /// The replica's own file, created when it has none. The bytes gathered so far are not in it yet.
    async fn ensure_file(
        &mut self,
        replica: &Replica<D>,
    ) -> Result<Rc<ReplicaFile<D>>, StoreError> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let (file, handle) =
            ReplicaFile::create(&replica.volume, replica.id, self.geometry).await?;
        let file = Rc::new(file);
        let new = file.allocate_to(self.geometry.group_offset(1)).await?;
        replica.settle_reservation(new);
        let (state, stamp) = {
            let meta = replica.meta.borrow();
            let temporary = meta.state == ReplicaState::Temporary;
            (
                if temporary {
                    StoredState::Temporary
                } else {
                    StoredState::Rbw
                },
                meta.stamp,
            )
        };
        let header = file.header(state, stamp, replica.meta.borrow().durable);
        self.put_header(replica, &file, header).await?;
        // Not before: a file without a header is nothing to a restart.
        self.file = Some(file.clone());
        self.handle = Some(handle);
        Ok(file)
    }

    /// Starts writing a header.
    async fn put_header(
        &mut self,
        replica: &Replica<D>,
        file: &Rc<ReplicaFile<D>>,
        header: FileHeader,
    ) -> Result<(), StoreError> {
        let mut page = self.acquire(replica, PAGE).await?;
        page.as_mut()[..PAGE].fill(0);
        header.encode(page.as_mut());
        let (file, offset) = (file.open().await?, file.turn_page());
        self.submit(
            replica,
            async move { file.write_at(page, 0..PAGE, offset).await },
            What::Page,
        )
        .await
    }

    /// The current group is full: starts writing it, begins the next.
    pub(crate) async fn close_group(&mut self, replica: &Replica<D>) -> Result<(), StoreError> {
        let file = self.ensure_file(replica).await?;
        while self.in_flight.len() >= replica.volume.options.writes_in_flight.max(1) {
            if let Some(done) = self.in_flight.next().await {
                self.completed(replica, done)?;
            }
        }
        self.ensure_gather(replica, self.fill).await?;
        if self.submitted < self.received() {
            self.put_units(replica, &file, self.fill, false).await?;
        } else {
            self.spare = self.gather.take();
        }
        self.group += 1;
        self.fill = 0;
        self.checksums.clear();
        Ok(())
    }

    /// Starts writing the current group's head and its units up to `end` that are not in place yet.
    async fn put_units(
        &mut self,
        replica: &Replica<D>,
        file: &Rc<ReplicaFile<D>>,
        end: usize,
        keep: bool,
    ) -> Result<(), StoreError> {
        let (geometry, front, start, from) = (
            self.geometry,
            self.front,
            self.group_start(),
            self.submitted,
        );
        let stop = start + end as u64;
        let new = file.allocate_to(geometry.data_offset(stop - 1) + 1).await?;
        replica.settle_reservation(new);
        let handle = file.open().await?;
        let mut buf = self.gather.take().expect("bytes are gathered");
        self.fill_head(replica, buf.as_mut(), end);
        self.submitted = stop;
        self.units_in_flight.insert(from);
        let (head, head_offset) = (
            front - geometry.head..front,
            geometry.group_offset(self.group),
        );
        let write = async move {
            if from == start {
                return handle
                    .write_at(buf, head.start..front + end, head_offset)
                    .await;
            }
            let data = front + (from - start) as usize..front + end;
            match handle.write_at(buf, data, geometry.data_offset(from)).await {
                (Ok(()), buf) => handle.write_at(buf, head, head_offset).await,
                failed => failed,
            }
        };
        self.submit(replica, write, What::Units { from, keep })
            .await
    }

    /// Writes the checksums of the group's first `end` bytes before its data in the buffer.
    fn fill_head(&self, replica: &Replica<D>, buf: &mut [u8], end: usize) {
        let chunks = self.geometry.chunks(end);
        let first = self.group_start() / self.geometry.bytes_per_checksum as u64;
        let head = &mut buf[self.front - self.geometry.head..self.front];
        head.fill(0);
        encode_checksums(replica.id, first, &self.checksums[..chunks], head);
    }

    /// Everything gathered is in the file when this returns (not yet durable).
    async fn flush_file(
        &mut self,
        replica: &Replica<D>,
        file: &Rc<ReplicaFile<D>>,
    ) -> Result<(), StoreError> {
        self.drain(replica).await?;
        // A file found after a crash may be shorter than its fixed part.
        let new = file.allocate_to(self.geometry.group_offset(0)).await?;
        replica.settle_reservation(new);
        let (unit, fill) = (self.geometry.unit, self.fill);
        let full = fill / unit * unit;
        if self.group_start() + full as u64 > self.submitted {
            self.put_units(replica, file, full, true).await?;
            self.drain(replica).await?;
        }
        let index = (self.group_start() + full as u64) / unit as u64;
        let bytes = (fill - full) as u32;
        let floor = file.tail_floor.get();
        let written = file.tail.get().is_some_and(|tail| {
            (tail.unit, tail.bytes) == (index, bytes) && tail.sequence >= floor && !self.cut
        });
        if bytes > 0 && !written {
            let record = TailRecord {
                id: replica.id,
                unit: index,
                bytes,
                sequence: replica.volume.next_sequence(),
                synced_length: replica.meta.borrow().durable.min(self.received()),
                checksums: self.checksums[self.geometry.chunks(full)..].to_vec(),
            };
            self.ensure_gather(replica, fill).await?;
            let handle = file.open().await?;
            let slot = file.free_tail_slot();
            let tail = TailRef {
                slot,
                sequence: record.sequence,
                unit: index,
                bytes,
            };
            let mut buf = self.gather.take().expect("bytes are gathered");
            // The page before the tail is free for its header: units before it are in place, and heads are
            // filled anew before each write.
            let (start, stop) = (self.front + full, self.front + fill);
            let padded = start + (bytes as usize).next_multiple_of(PAGE);
            record.encode(&self.geometry, &mut buf.as_mut()[start - PAGE..start]);
            buf.as_mut()[stop..padded].fill(0);
            let offset = self.geometry.tail_offset(slot);
            let write = async move { handle.write_at(buf, start - PAGE..padded, offset).await };
            self.submit(replica, write, What::Tail(tail)).await?;
            self.cut = false;
            self.drain(replica).await?;
        }
        file.in_place.set(self.submitted);
        self.moved_to_file(replica, file, self.received());
        Ok(())
    }

    // ---- slots

    fn slot_class(&self, replica: &Replica<D>) -> Option<SlotClass> {
        if self.file.is_some() || self.group > 0 {
            return None;
        }
        let small = replica.volume.options.small_bytes as usize;
        SlotClass::for_length(self.received(), self.geometry.bytes_per_checksum, small)
    }

    /// Writes the whole replica into a fresh slot; the one it was in becomes stale.
    async fn write_slot(
        &mut self,
        replica: &Replica<D>,
        class: SlotClass,
        state: StoredState,
        stamp: GenerationStamp,
    ) -> Result<(), StoreError> {
        self.drain(replica).await?;
        self.ensure_gather(replica, self.fill).await?;
        let lease = take_slot(&replica.volume, class).await?;
        let (sequence, synced_sequence) = replica.volume.begin_slot_write();
        let header = SlotHeader {
            state,
            id: replica.id,
            stamp,
            length: self.received(),
            synced_length: replica.meta.borrow().durable.min(self.received()),
            sequence,
            synced_sequence,
            bytes_per_checksum: self.geometry.bytes_per_checksum as u32,
            place: lease.place(),
            checksums: self.checksums.clone(),
        };
        let mut buf = self.gather.take().expect("ensured");
        let (start, stop) = (self.front - class.header(), self.front + self.fill);
        let padded = self.front + self.fill.next_multiple_of(PAGE);
        header.encode(&mut buf.as_mut()[start..self.front]);
        buf.as_mut()[stop..padded].fill(0);
        let lease = Rc::new(lease);
        let (owner, offset) = (lease.clone(), lease.offset());
        let write = async move { owner.extent.file.write_at(buf, start..padded, offset).await };
        self.submit(
            replica,
            write,
            What::Slot {
                lease,
                sequence,
                length: self.received(),
            },
        )
        .await?;
        self.drain(replica).await
    }

    // ---- commands

    /// The kernel has everything when this returns; a TEMPORARY replica promises nothing and skips it.
    pub(crate) async fn flush(&mut self, replica: &Replica<D>) -> Result<(), StoreError> {
        self.usable(replica)?;
        self.drain(replica).await?;
        let (location, state, stamp, on_disk) = {
            let meta = replica.meta.borrow();
            (meta.location.clone(), meta.state, meta.stamp, meta.on_disk)
        };
        if state == ReplicaState::Temporary && self.file.is_none() {
            return Ok(());
        }
        if matches!(location, Location::Slot(_))
            && on_disk == self.received()
            && self.file.is_none()
        {
            return Ok(());
        }
        match self.slot_class(replica) {
            Some(class) if self.flushes < replica.volume.options.slot_flushes => {
                self.flushes += 1;
                self.write_slot(replica, class, StoredState::Rbw, stamp)
                    .await
            }
            _ => {
                let file = self.ensure_file(replica).await?;
                self.flush_file(replica, &file).await
            }
        }
    }

    /// Everything received is on the device when this returns.
    pub(crate) async fn sync(&mut self, replica: &Replica<D>) -> Result<(), StoreError> {
        self.flush(replica).await?;
        self.sync_location(replica).await?;
        Self::free_stale(replica).await
    }

    async fn sync_location(&self, replica: &Replica<D>) -> Result<(), StoreError> {
        let (location, on_disk) = {
            let meta = replica.meta.borrow();
            (meta.location.clone(), meta.on_disk)
        };
        match location {
            Location::Memory => return Ok(()),
            Location::Slot(lease) => lease.sync().await?,
            Location::File(file) => file.sync().await?,
        }
        replica.meta.borrow_mut().durable = on_disk;
        Ok(())
    }

    /// Frees the slots of older versions, once the newest is durable.
    pub(crate) async fn free_stale(replica: &Replica<D>) -> Result<(), StoreError> {
        loop {
            let Some(lease) = replica.meta.borrow().stale.last().cloned() else {
                return Ok(());
            };
            lease.detach().await?;
            replica
                .meta
                .borrow_mut()
                .stale
                .retain(|other| !Rc::ptr_eq(other, &lease));
        }
    }

    /// Freezes the replica with this stamp. With `durable` it is on the device at return.
    pub(crate) async fn finish(
        &mut self,
        replica: &Replica<D>,
        stamp: GenerationStamp,
        durable: bool,
    ) -> Result<(), StoreError> {
        self.usable(replica)?;
        self.drain(replica).await?;
        if let Some(class) = self.slot_class(replica) {
            self.write_slot(replica, class, StoredState::Finalized, stamp)
                .await?;
            if durable {
                self.sync_location(replica).await?;
            }
            replica.volume.counters.update(|c| c.slots_finalized += 1);
        } else {
            let file = self.ensure_file(replica).await?;
            self.flush_file(replica, &file).await?;
            self.finish_file(replica, &file, stamp, durable).await?;
        }
        if durable {
            Self::free_stale(replica).await?;
        }
        let rest = {
            let mut meta = replica.meta.borrow_mut();
            meta.stamp = stamp;
            meta.state = ReplicaState::Finalized;
            meta.recovery = None;
            meta.acked = meta.on_disk;
            meta.received = meta.on_disk;
            meta.reservation
        };
        replica.settle_reservation(rest);
        Ok(())
    }

    async fn finish_file(
        &mut self,
        replica: &Replica<D>,
        file: &Rc<ReplicaFile<D>>,
        stamp: GenerationStamp,
        durable: bool,
    ) -> Result<(), StoreError> {
        let length = self.received();
        let end = self.geometry.file_end(length);
        // Units behind the end still belong to the version the durable header names: they go after the sync.
        if !file.stale_beyond.get() {
            file.cut_to(end).await?;
        }
        if file.stale_beyond.get() {
            // A truncation: the header must not become durable before the copy of the tail it names.
            file.sync().await?;
        }
        let tail = file
            .tail
            .get()
            .filter(|_| !length.is_multiple_of(self.geometry.unit as u64));
        let header = FileHeader {
            length,
            tail_sequence: tail.map_or(0, |tail| tail.sequence),
            ..file.header(
                StoredState::Finalized,
                stamp,
                replica.meta.borrow().durable.min(length),
            )
        };
        self.put_header(replica, file, header).await?;
        self.drain(replica).await?;
        if durable {
            self.sync_location(replica).await?;
            file.cut_to(end).await?;
            let settled = FileHeader {
                settled: true,
                synced_length: length,
                sequence: replica.volume.next_sequence(),
                ..header
            };
            self.put_header(replica, file, settled).await?;
            self.drain(replica).await?;
        }
        Ok(())
    }

    /// Makes this open replica's state durable under a new stamp, with exactly the bytes this body holds.
    pub(crate) async fn restate(
        &mut self,
        replica: &Replica<D>,
        stamp: GenerationStamp,
    ) -> Result<(), StoreError> {
        self.usable(replica)?;
        self.drain(replica).await?;
        if let Some(file) = self.file.clone() {
            let stale = file.stale_beyond.get();
            let was_open = replica.meta.borrow().state != ReplicaState::Finalized;
            self.flush_file(replica, &file).await?;
            let partial = !self.received().is_multiple_of(self.geometry.unit as u64);
            let tail = file.tail.get().filter(|_| partial);
            let tail_durable = tail.is_none_or(|tail| file.durable_tail.get() == Some(tail.slot));
            if stale || !(was_open || tail_durable) {
                // What follows may remove, or no longer count, other copies of the tail's bytes.
                file.sync().await?;
            }
            if stale && !was_open {
                // The durable header names an exact length, so what is behind it can go first. The other way round, a
                // crash would leave an open replica with bytes from before a truncation.
                self.scrub(replica, &file).await?;
            }
            if stale || !was_open {
                let floor = tail.map(|tail| tail.sequence);
                file.tail_floor
                    .set(floor.unwrap_or_else(|| replica.volume.next_sequence()));
            }
            let header = file.header(
                StoredState::Rbw,
                stamp,
                replica.meta.borrow().durable.min(self.received()),
            );
            self.put_header(replica, &file, header).await?;
            self.drain(replica).await?;
            if stale && was_open {
                // Until the new header is durable the old one claims what is behind the cut; what is there is
                // this same stream's.
                file.sync().await?;
                self.scrub(replica, &file).await?;
            }
        } else if matches!(replica.meta.borrow().location, Location::Slot(_)) {
            match self.slot_class(replica) {
                Some(class) => {
                    self.write_slot(replica, class, StoredState::Rbw, stamp)
                        .await?
                }
                None => {
                    let file = self.ensure_file(replica).await?;
                    self.flush_file(replica, &file).await?;
                    let header =
                        file.header(StoredState::Rbw, stamp, replica.meta.borrow().durable);
                    self.put_header(replica, &file, header).await?;
                    self.drain(replica).await?;
                }
            }
        }
        self.sync_location(replica).await?;
        let mut meta = replica.meta.borrow_mut();
        meta.stamp = stamp;
        meta.state = ReplicaState::Rbw;
        meta.received = self.received();
        Ok(())
    }

    /// Removes units and checksums behind the length, durably, before the replica is open again: a restart takes
    /// what verifies, and bytes from before a truncation must not.
    async fn scrub(
        &mut self,
        replica: &Replica<D>,
        file: &Rc<ReplicaFile<D>>,
    ) -> Result<(), StoreError> {
        file.cut_to(self.geometry.file_end(self.submitted)).await?;
        let end = (self.submitted - self.group_start()) as usize;
        if end > 0 {
            let mut buf = self.acquire(replica, self.front).await?;
            self.fill_head(replica, buf.as_mut(), end);
            let (handle, range) = (
                file.open().await?,
                self.front - self.geometry.head..self.front,
            );
            let offset = self.geometry.group_offset(self.group);
            let write = async move { handle.write_at(buf, range, offset).await };
            self.submit(replica, write, What::Page).await?;
        }
        self.drain(replica).await?;
        file.sync().await?;
        file.stale_beyond.set(false);
        Ok(())
    }

    /// Shortens to `length` if those bytes are still gathered here (nothing on disk changes).
    pub(crate) fn cut_in_memory(&mut self, replica: &Replica<D>, length: u64) -> bool {
        let start = self.group_start();
        if length < start
            || length < self.submitted
            || length > self.received()
            || (self.gather.is_none() && length > start)
        {
            return false;
        }
        self.cut |= length < self.received();
        self.fill = (length - start) as usize;
        self.cut_checksums();
        replica.meta.borrow_mut().received = length;
        true
    }

    /// Drops checksums behind `fill` and computes the last chunk's anew, from the gathered bytes.
    pub(crate) fn cut_checksums(&mut self) {
        let chunk = self.geometry.bytes_per_checksum;
        self.checksums.truncate(self.geometry.chunks(self.fill));
        if !self.fill.is_multiple_of(chunk) {
            let range: Range<usize> =
                self.front + self.fill / chunk * chunk..self.front + self.fill;
            let buf = self.gather.as_ref().expect("a begun chunk is gathered");
            *self
                .checksums
                .last_mut()
                .expect("a begun chunk has a checksum") = crc32c(&buf.as_ref()[range]);
        }
    }
}
