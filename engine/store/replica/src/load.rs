//! Opening the writing side of a replica whose bytes are on disk.

use crate::StoreError;
use crate::body::Body;
use crate::extent::SlotLease;
use crate::format::{Found, SlotHeader, TailRecord, verified};
use crate::geometry::PAGE;
use crate::map::{Location, Replica};
use crate::replica_file::{ReplicaFile, TailRef};
use hadal_env::Disk;
use std::rc::Rc;

impl<D: Disk> Body<D> {
    /// A body that holds the replica's first `length` bytes, so that writing can go on from there. Reads and
    /// verifies what it will need; changes nothing.
    pub(crate) async fn load(replica: &Replica<D>, length: u64) -> Result<Self, StoreError> {
        let small = replica.volume.options.small_bytes as usize;
        let mut body = Self::new(replica.geometry, small, 0);
        let (location, on_disk) = {
            let meta = replica.meta.borrow();
            (meta.location.clone(), meta.on_disk)
        };
        assert!(
            length <= on_disk,
            "{}: {length} of {on_disk} bytes",
            replica.id
        );
        match location {
            Location::Memory => {}
            Location::Slot(lease) => body.load_slot(replica, &lease, on_disk, length).await?,
            Location::File(file) => body.load_file(replica, file, on_disk, length).await?,
        }
        Ok(body)
    }

    async fn load_slot(
        &mut self,
        replica: &Replica<D>,
        lease: &SlotLease<D>,
        on_disk: u64,
        length: u64,
    ) -> Result<(), StoreError> {
        let (id, header) = (replica.id, lease.extent.class.header());
        let start = self.front - header;
        let buf = replica
            .volume
            .disk
            .buf(self.front + self.geometry.group)
            .await;
        let end = self.front + (on_disk as usize).next_multiple_of(PAGE);
        let buf = replica
            .volume
            .read(id, &lease.extent.file, buf, start..end, lease.offset())
            .await?;
        let found = SlotHeader::decode(lease.place(), &buf.as_ref()[start..self.front]);
        let Found::Valid(slot) = found else {
            return Err(StoreError::Corrupt {
                id,
                what: "slot header",
            });
        };
        if slot.id != id || slot.length < on_disk {
            return Err(StoreError::Corrupt {
                id,
                what: "slot holds something else",
            });
        }
        let data = &buf.as_ref()[self.front..self.front + on_disk as usize];
        if (verified(self.geometry.bytes_per_checksum, data, &slot.checksums) as u64) < length {
            return Err(StoreError::Corrupt {
                id,
                what: "data does not match its checksums",
            });
        }
        self.checksums = slot.checksums;
        self.fill = length as usize;
        self.gather = Some(buf);
        self.cut_checksums();
        Ok(())
    }

    async fn load_file(
        &mut self,
        replica: &Replica<D>,
        file: Rc<ReplicaFile<D>>,
        on_disk: u64,
        length: u64,
    ) -> Result<(), StoreError> {
        let (id, geometry) = (replica.id, self.geometry);
        let handle = file.open().await?;
        self.group = length / geometry.group as u64;
        let start = self.group * geometry.group as u64;
        let whole = geometry.whole(length);
        let (inside, partial) = ((whole - start) as usize, (length - whole) as usize);
        self.submitted = whole;
        self.fill = inside + partial;
        if partial == 0 {
            self.checksums = file
                .read_group_checksums(self.group, geometry.chunks(inside))
                .await?;
        } else {
            let at = self.front + inside;
            let buf = replica.volume.disk.buf(self.front + geometry.group).await;
            let (buf, unit) = if whole + geometry.unit as u64 <= geometry.whole(on_disk) {
                let end = inside + geometry.unit;
                self.checksums = file
                    .read_group_checksums(self.group, geometry.chunks(end))
                    .await?;
                let range = at..at + geometry.unit;
                let buf = replica
                    .volume
                    .read(id, &handle, buf, range, geometry.data_offset(whole))
                    .await?;
                (buf, geometry.unit)
            } else {
                self.checksums = file
                    .read_group_checksums(self.group, geometry.chunks(inside))
                    .await?;
                let tail = file
                    .tail
                    .get()
                    .filter(|tail| tail.unit == whole / geometry.unit as u64);
                let tail = tail.ok_or(StoreError::Corrupt {
                    id,
                    what: "no tail record",
                })?;
                let (buf, record) = read_tail(&file, tail, buf, at - PAGE).await?;
                self.checksums.extend(record.checksums);
                (buf, tail.bytes as usize)
            };
            let first = geometry.chunks(inside);
            let data = &buf.as_ref()[at..at + unit];
            if verified(geometry.bytes_per_checksum, data, &self.checksums[first..]) < partial {
                return Err(StoreError::Corrupt {
                    id,
                    what: "data does not match its checksums",
                });
            }
            self.gather = Some(buf);
            self.cut_checksums();
        }
        if length < on_disk {
            file.stale_beyond.set(true);
            self.cut = true;
        }
        self.file = Some(file);
        self.handle = Some(handle);
        Ok(())
    }
}

/// Reads a tail record into `buf[at..]`, its data behind its page. A record that is not the one meant (another
/// took its slot meanwhile) is [`StoreError::Corrupt`]. The data is for the caller to verify.
pub(crate) async fn read_tail<D: Disk>(
    file: &ReplicaFile<D>,
    tail: TailRef,
    buf: D::Buf,
    at: usize,
) -> Result<(D::Buf, TailRecord), StoreError> {
    let end = at + PAGE + (tail.bytes as usize).next_multiple_of(PAGE);
    let offset = file.geometry.tail_offset(tail.slot);
    let buf = file
        .volume
        .read(file.id, &*file.open().await?, buf, at..end, offset)
        .await?;
    let record = TailRecord::decode(&file.geometry, &buf.as_ref()[at..at + PAGE])
        .filter(|record| (record.id, record.unit) == (file.id, tail.unit))
        .filter(|record| (record.sequence, record.bytes) == (tail.sequence, tail.bytes))
        .ok_or(StoreError::Corrupt {
            id: file.id,
            what: "tail record",
        })?;
    Ok((buf, record))
}
