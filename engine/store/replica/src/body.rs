//! The writing side of one replica: gathers bytes, and puts them on disk.
//!
//! Every disk write belongs to the body and not to the call that began it, so that a dropped call leaves
//! nothing behind that the next one does not wait for.

use crate::StoreError;
use crate::extent::SlotLease;
use crate::format::extend;
use crate::geometry::{Geometry, SlotClass};
use crate::map::{Location, Replica};
use crate::replica_file::{ReplicaFile, TailRef};
use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hadal_env::{Disk, DiskError};
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use store_record::checksum::crc32c_append;

/// What a completed write was.
pub(crate) enum What<D: Disk> {
    /// Complete units from this byte on; `keep` when the buffer is still being gathered into.
    Units { from: u64, keep: bool },
    /// A tail record.
    Tail(TailRef),
    /// A header page or a group's head.
    Page,
    /// A whole slot.
    Slot {
        lease: Rc<SlotLease<D>>,
        sequence: u64,
        length: u64,
    },
}

pub(crate) struct Done<D: Disk> {
    result: Result<(), DiskError>,
    buf: D::Buf,
    what: What<D>,
}

/// See the module.
pub(crate) struct Body<D: Disk> {
    pub(crate) geometry: Geometry,
    /// Bytes kept free before the data in a gather buffer, for a head or header.
    pub(crate) front: usize,
    /// Holds the current group's bytes that are not in place yet; away while it is being written.
    pub(crate) gather: Option<D::Buf>,
    gather_bytes: usize,
    pub(crate) spare: Option<D::Buf>,
    /// Index of the current group, and bytes in it.
    pub(crate) group: u64,
    pub(crate) fill: usize,
    /// CRC32C of the current group's chunks.
    pub(crate) checksums: Vec<u32>,
    /// Bytes, from the start, handed to the disk in complete units.
    pub(crate) submitted: u64,
    pub(crate) file: Option<Rc<ReplicaFile<D>>>,
    /// Keeps the file open.
    pub(crate) handle: Option<Rc<D::File>>,
    pub(crate) flushes: u32,
    /// Starts of unit writes that have not completed.
    pub(crate) units_in_flight: BTreeSet<u64>,
    pub(crate) in_flight: FuturesUnordered<LocalBoxFuture<'static, Done<D>>>,
    /// A write failed: what is on disk is not what this body believes.
    pub(crate) broken: bool,
    /// Shortened since the last tail was written: what comes may differ from what was there.
    pub(crate) cut: bool,
}

/// Reads slices in order.
struct Pieces<'a> {
    data: &'a [Bytes],
    index: usize,
    at: usize,
}

impl<'a> Pieces<'a> {
    fn each(&mut self, mut bytes: usize, mut f: impl FnMut(&'a [u8])) {
        while bytes > 0 {
            let slice = &self.data[self.index][self.at..];
            let take = slice.len().min(bytes);
            f(&slice[..take]);
            bytes -= take;
            self.at += take;
            if self.at == self.data[self.index].len() {
                self.index += 1;
                self.at = 0;
            }
        }
    }
}

impl<D: Disk> Body<D> {
    pub(crate) fn new(geometry: Geometry, small_bytes: usize, expected_length: u64) -> Self {
        let hint = if expected_length == 0 {
            u64::MAX
        } else {
            expected_length
        };
        let class = SlotClass::for_length(hint, geometry.bytes_per_checksum, small_bytes);
        Self {
            geometry,
            front: SlotClass::front(&geometry, small_bytes),
            gather: None,
            gather_bytes: class.map_or(geometry.group, |class| class.data().min(geometry.group)),
            spare: None,
            group: 0,
            fill: 0,
            checksums: Vec::new(),
            submitted: 0,
            file: None,
            handle: None,
            flushes: 0,
            units_in_flight: BTreeSet::new(),
            in_flight: FuturesUnordered::new(),
            broken: false,
            cut: false,
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.group_start() + self.fill as u64
    }

    pub(crate) fn group_start(&self) -> u64 {
        self.group * self.geometry.group as u64
    }

    pub(crate) fn usable(&self, replica: &Replica<D>) -> Result<(), StoreError> {
        replica.here()?;
        if self.broken {
            return Err(StoreError::OutOfSpace { wanted: 0 });
        }
        Ok(())
    }

    // ---- completed writes

    pub(crate) fn completed(
        &mut self,
        replica: &Replica<D>,
        done: Done<D>,
    ) -> Result<(), StoreError> {
        let Done { result, buf, what } = done;
        match &what {
            What::Units { keep: true, .. } | What::Tail(_) | What::Slot { .. } => {
                self.gather = Some(buf)
            }
            What::Units { keep: false, .. } => self.spare = Some(buf),
            What::Page => drop(buf),
        }
        if result.is_err() {
            self.broken = true;
        }
        replica.volume.check(result)?;
        match what {
            What::Units { from, .. } => {
                self.units_in_flight.remove(&from);
                let file = self.file.clone().expect("units are written to a file");
                file.in_place.set(
                    self.units_in_flight
                        .first()
                        .copied()
                        .unwrap_or(self.submitted),
                );
                if file.in_place.get() >= replica.meta.borrow().on_disk {
                    self.moved_to_file(replica, &file, file.in_place.get());
                }
            }
            What::Tail(tail) => self
                .file
                .as_ref()
                .expect("tails are written to a file")
                .tail
                .set(Some(tail)),
            What::Page => {}
            What::Slot {
                lease,
                sequence,
                length,
            } => {
                lease.extent.wrote(sequence);
                let mut meta = replica.meta.borrow_mut();
                if let Location::Slot(old) =
                    std::mem::replace(&mut meta.location, Location::Slot(lease))
                {
                    meta.stale.push(old);
                }
                meta.on_disk = length;
            }
        }
        Ok(())
    }

    pub(crate) fn moved_to_file(
        &self,
        replica: &Replica<D>,
        file: &Rc<ReplicaFile<D>>,
        on_disk: u64,
    ) {
        let mut meta = replica.meta.borrow_mut();
        if let Location::Slot(old) =
            std::mem::replace(&mut meta.location, Location::File(file.clone()))
        {
            meta.stale.push(old);
        }
        meta.on_disk = on_disk;
    }

    /// Waits for every write.
    pub(crate) async fn drain(&mut self, replica: &Replica<D>) -> Result<(), StoreError> {
        let mut first = Ok(());
        while let Some(done) = self.in_flight.next().await {
            let result = self.completed(replica, done);
            first = first.and(result);
        }
        first
    }

    /// Starts a write. Polled once here, so that it reaches the kernel now and not at the next wait.
    pub(crate) async fn submit(
        &mut self,
        replica: &Replica<D>,
        write: impl Future<Output = (Result<(), DiskError>, D::Buf)> + 'static,
        what: What<D>,
    ) -> Result<(), StoreError> {
        self.in_flight.push(Box::pin(async move {
            let (result, buf) = write.await;
            Done { result, buf, what }
        }));
        if let std::task::Poll::Ready(Some(done)) = futures_util::poll!(self.in_flight.next()) {
            self.completed(replica, done)?;
        }
        Ok(())
    }

    // ---- buffers

    /// A buffer; while writes are in flight the first of theirs to come back will do, since waiting for
    /// the pool alone while holding buffers nobody polls could wait for ever.
    pub(crate) async fn acquire(
        &mut self,
        replica: &Replica<D>,
        bytes: usize,
    ) -> Result<D::Buf, StoreError> {
        loop {
            if let Some(spare) = self.spare.take_if(|spare| spare.as_ref().len() >= bytes) {
                return Ok(spare);
            }
            if self.in_flight.is_empty() {
                return Ok(replica.volume.disk.buf(bytes).await);
            }
            let done =
                match select(pin!(replica.volume.disk.buf(bytes)), self.in_flight.next()).await {
                    Either::Left((buf, _)) => return Ok(buf),
                    Either::Right((done, _)) => done,
                };
            if let Some(done) = done {
                self.completed(replica, done)?;
            }
        }
    }

    /// Makes sure the gather buffer is here and has room for `room` bytes of the current group.
    pub(crate) async fn ensure_gather(
        &mut self,
        replica: &Replica<D>,
        room: usize,
    ) -> Result<(), StoreError> {
        if self.gather.is_none() && self.fill > 0 {
            self.drain(replica).await?;
        }
        if self.gather.is_none() && self.submitted < self.received() {
            self.fetch(replica).await?;
        }
        if self.gather.is_none() {
            // Bytes in place need not be here; a body loaded at the end of a unit has no others.
            assert!(
                self.submitted == self.received(),
                "gathered bytes went missing"
            );
            let wide = room > self.gather_bytes || self.group > 0;
            let bytes = if wide {
                self.geometry.group
            } else {
                self.gather_bytes
            };
            self.gather = Some(self.acquire(replica, self.front + bytes).await?);
        }
        let have = self.gather.as_ref().expect("just put there").as_ref().len() - self.front;
        if have < room {
            let mut wide = self
                .acquire(replica, self.front + self.geometry.group)
                .await?;
            let old = self.gather.take().expect("just put there");
            let range = self.front..self.front + self.fill;
            wide.as_mut()[range.clone()].copy_from_slice(&old.as_ref()[range]);
            replica
                .volume
                .counters
                .update(|c| c.bytes_copied += self.fill as u64);
            self.gather = Some(wide);
        }
        Ok(())
    }

    /// Gives the buffers back, as the writer is idle: what they hold is flushed, and read again when it goes on. A small
    /// copy in flight is in memory only, and keeps its buffer.
    pub(crate) async fn rest(&mut self, replica: &Replica<D>) -> Result<(), StoreError> {
        if self.gather.is_some() || !self.in_flight.is_empty() {
            self.flush(replica).await?;
        }
        self.spare = None;
        if replica.meta.borrow().on_disk == self.received() {
            self.gather = None;
        }
        Ok(())
    }

    /// Reads the gathered bytes again after a rest, which left them all on disk.
    async fn fetch(&mut self, replica: &Replica<D>) -> Result<(), StoreError> {
        let loaded = Self::load(replica, self.received()).await?;
        if loaded.checksums != self.checksums {
            return Err(StoreError::Corrupt {
                id: replica.id,
                what: "other bytes are read than were written",
            });
        }
        self.gather = loaded.gather;
        Ok(())
    }

    // ---- taking bytes

    /// Takes a packet; see [`crate::ReplicaWriter::write`].
    pub(crate) async fn write(
        &mut self,
        replica: &Replica<D>,
        offset: u64,
        data: &[Bytes],
        checksums: &[u8],
    ) -> Result<(), StoreError> {
        self.usable(replica)?;
        let id = replica.id;
        let chunk = self.geometry.bytes_per_checksum as u64;
        let total: u64 = data.iter().map(|slice| slice.len() as u64).sum();
        let known = self.received();
        if offset > known || (offset != known && !offset.is_multiple_of(chunk)) {
            return Err(StoreError::Gap {
                id,
                offset,
                length: known,
            });
        }
        let (end, max) = (
            offset.saturating_add(total),
            replica.volume.options.block_bytes_max,
        );
        if end > max {
            return Err(StoreError::TooLong {
                id,
                length: end,
                max,
            });
        }
        let first = offset / chunk;
        let needed = if total == 0 {
            0
        } else {
            (end.div_ceil(chunk) - first) as usize * 4
        };
        if checksums.len() != needed {
            return Err(StoreError::ChecksumCount {
                id,
                given: checksums.len(),
                needed,
            });
        }
        let mut pieces = Pieces {
            data,
            index: 0,
            at: 0,
        };
        let mut position = offset;
        for (index, wire) in checksums.chunks_exact(4).enumerate() {
            let expected = u32::from_le_bytes(wire.try_into().expect("four bytes"));
            let piece_end = ((first + index as u64 + 1) * chunk).min(end);
            let known = self.received();
            let computed = if piece_end <= known {
                let mut crc = 0;
                pieces.each((piece_end - position) as usize, |slice| {
                    crc = crc32c_append(crc, slice)
                });
                crc
            } else {
                pieces.each((known - position) as usize, |_| {});
                self.take(
                    replica,
                    &mut pieces,
                    (piece_end - known) as usize,
                    position == known,
                    expected,
                )
                .await?
            };
            if computed != expected {
                return Err(StoreError::ChecksumMismatch {
                    id,
                    chunk: first + index as u64,
                    expected,
                    computed,
                });
            }
            position = piece_end;
            replica.meta.borrow_mut().received = self.received();
        }
        Ok(())
    }

    /// Copies `bytes` (within one chunk) behind what is there and checks them; they count only if they match.
    /// `alone`: the checksum covers just these bytes, otherwise the chunk from its start. Returns what was computed.
    async fn take(
        &mut self,
        replica: &Replica<D>,
        pieces: &mut Pieces<'_>,
        bytes: usize,
        alone: bool,
        expected: u32,
    ) -> Result<u32, StoreError> {
        if self.fill == self.geometry.group {
            self.close_group(replica).await?;
        }
        self.ensure_gather(replica, self.fill + bytes).await?;
        let chunk = self.geometry.bytes_per_checksum;
        let inside = self.fill % chunk;
        let before = if inside == 0 {
            0
        } else {
            *self.checksums.last().expect("a begun chunk has a checksum")
        };
        let start = self.front + self.fill;
        let target = &mut self.gather.as_mut().expect("ensured").as_mut()[start..start + bytes];
        let (mut at, mut crc) = (0, if alone { 0 } else { before });
        pieces.each(bytes, |slice| {
            let place = &mut target[at..at + slice.len()];
            place.copy_from_slice(slice);
            crc = crc32c_append(crc, place);
            at += slice.len();
        });
        if crc != expected {
            return Ok(crc);
        }
        let whole = if alone && inside > 0 {
            extend(before, inside, target)
        } else {
            crc
        };
        if inside == 0 {
            self.checksums.push(whole);
        } else {
            *self
                .checksums
                .last_mut()
                .expect("a begun chunk has a checksum") = whole;
        }
        self.fill += bytes;
        replica.volume.counters.update(|c| {
            c.bytes_copied += bytes as u64;
            c.bytes_stored += bytes as u64;
        });
        Ok(crc)
    }
}
