//! Reading a replica in parts, one part ahead.

use crate::extent::SlotLease;
use crate::format::{Found, SlotHeader, verified};
use crate::geometry::{PAGE, round_up};
use crate::load::read_tail;
use crate::map::{Location, Replica};
use crate::replica_file::ReplicaFile;
use crate::{ReadPart, ReplicaStore, StoreError};
use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, ready, try_join};
use hadal_env::Disk;
use hadal_types::{BlockId, GenerationStamp, ReplicaState};
use std::rc::Rc;
use std::task::Poll;
use store_record::checksum::crc32c;

/// Bytes that are rather read along than looked up with a read of their own.
const READ_ALONG: u64 = 128 << 10;

/// Reads a range of a replica; see [`ReplicaStore::open_reader`]. Holds at most two buffers beside those the caller
/// still has.
pub struct ReplicaReader<D: Disk> {
    replica: Rc<Replica<D>>,
    location: Location<D>,
    /// Keeps the file open, under whatever name.
    _handle: Option<Rc<D::File>>,
    stamp: GenerationStamp,
    length: u64,
    position: u64,
    end: u64,
    ahead: Option<LocalBoxFuture<'static, Result<ReadPart, StoreError>>>,
}

impl<D: Disk> ReplicaStore<D> {
    /// Opens `offset..offset + length`, widened to whole chunks, of a replica whose stamp is at least `stamp`. Of an
    /// RBW only bytes on disk and acknowledged downstream can be read; TEMPORARY and RWR replicas not at all (E-10, E-12).
    /// The reader keeps what it reads: a slot is not given to another replica while it is open.
    pub async fn open_reader(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        offset: u64,
        length: u64,
    ) -> Result<ReplicaReader<D>, StoreError> {
        let replica = self.find(id)?;
        let (state, here) = {
            let meta = replica.meta.borrow();
            (meta.state, meta.stamp)
        };
        if matches!(state, ReplicaState::Temporary | ReplicaState::Rwr) {
            return Err(StoreError::NotReadable {
                id,
                state: replica.state(),
            });
        }
        if here < stamp {
            return Err(StoreError::StaleStamp {
                id,
                here,
                wanted: stamp,
            });
        }
        let visible = replica.visible();
        let end = offset.checked_add(length).filter(|end| *end <= visible);
        end.ok_or(StoreError::OutOfRange {
            id,
            offset,
            length,
            visible,
        })?;
        self.reader(replica, offset, length, visible).await
    }

    /// Reads all of a replica that nobody writes, whatever its state, against its checksums.
    pub(crate) async fn check_frozen(&self, replica: Rc<Replica<D>>) -> Result<(), StoreError> {
        let length = replica.meta.borrow().on_disk;
        let mut reader = self.reader(replica, 0, length, length).await?;
        while reader.next_verified().await?.is_some() {}
        Ok(())
    }

    async fn reader(
        &self,
        replica: Rc<Replica<D>>,
        offset: u64,
        length: u64,
        visible: u64,
    ) -> Result<ReplicaReader<D>, StoreError> {
        let end = offset + length;
        let here = replica.stamp();
        let chunk = replica.geometry.bytes_per_checksum as u64;
        let (position, end) = if length == 0 {
            (offset, offset)
        } else {
            (offset / chunk * chunk, round_up(end, chunk).min(visible))
        };
        let location = replica.meta.borrow().location.clone();
        let handle = match &location {
            Location::File(file) if position < end => Some(file.open().await?),
            _ => None,
        };
        Ok(ReplicaReader {
            replica,
            location,
            _handle: handle,
            stamp: here,
            length: visible,
            position,
            end,
            ahead: None,
        })
    }
}

impl<D: Disk> ReplicaReader<D> {
    /// Readable bytes of the replica when the reader was opened.
    #[must_use]
    pub fn visible_length(&self) -> u64 {
        self.length
    }

    /// Stamp of the replica when the reader was opened.
    #[must_use]
    pub fn generation_stamp(&self) -> GenerationStamp {
        self.stamp
    }

    /// Bytes per checksum.
    #[must_use]
    pub fn bytes_per_checksum(&self) -> u32 {
        self.replica.geometry.bytes_per_checksum as u32
    }

    /// What is left to read: the first byte (a chunk's start) and the end.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.position..self.end
    }

    /// The next part in order, `None` at the end, [`StoreError::OutOfRange`] when the replica was cut below it; the one after it is being read meanwhile. Data are not
    /// verified here (whoever uses them does), but for a chunk that must be cut at the visible length.
    pub async fn next(&mut self) -> Result<Option<ReadPart>, StoreError> {
        let read = match self.ahead.take() {
            Some(read) => read,
            None if self.position < self.end => self.read(self.position),
            None => return Ok(None),
        };
        let part = read.await?;
        if part.data.is_empty() {
            return Err(cut(&self.replica, self.position, self.end));
        }
        self.position = part.offset + part.data.len() as u64;
        if self.position < self.end {
            let mut read = self.read(self.position);
            self.ahead = Some(match futures_util::poll!(&mut read) {
                Poll::Ready(result) => Box::pin(ready(result)),
                Poll::Pending => read,
            });
        }
        self.replica
            .volume
            .counters
            .update(|c| c.bytes_read += part.data.len() as u64);
        Ok(Some(part))
    }

    /// As [`ReplicaReader::next`], with every chunk checked: [`StoreError::Corrupt`] instead of bytes that do not match.
    /// For copies to other DataNodes, whose source must know which of the two is bad.
    pub async fn next_verified(&mut self) -> Result<Option<ReadPart>, StoreError> {
        let Some(part) = self.next().await? else {
            return Ok(None);
        };
        let checksums: Vec<u32> = part
            .checksums
            .chunks_exact(4)
            .map(|crc| u32::from_le_bytes(crc.try_into().expect("four bytes")))
            .collect();
        let chunk = self.replica.geometry.bytes_per_checksum;
        if verified(chunk, &part.data, &checksums) < part.data.len() {
            return Err(StoreError::Corrupt {
                id: self.replica.id,
                what: "data does not match its checksums",
            });
        }
        Ok(Some(part))
    }

    fn read(&self, position: u64) -> LocalBoxFuture<'static, Result<ReadPart, StoreError>> {
        let (replica, end) = (self.replica.clone(), self.end);
        match self.location.clone() {
            Location::Memory => Box::pin(ready(Err(StoreError::Corrupt {
                id: replica.id,
                what: "nothing on disk",
            }))),
            Location::Slot(lease) => Box::pin(async move {
                match read_slot(&replica, &lease, position, end).await {
                    // Deleted, or written elsewhere: the slot was freed before it was read.
                    Err(StoreError::Corrupt { .. }) if !is_in(&replica, &lease) => {
                        Err(cut(&replica, position, end))
                    }
                    read => read,
                }
            }),
            Location::File(file) => {
                Box::pin(async move { read_file(&replica, &file, position, end).await })
            }
        }
    }
}

/// The slot still holds the replica.
fn is_in<D: Disk>(replica: &Replica<D>, lease: &Rc<SlotLease<D>>) -> bool {
    let meta = replica.meta.borrow();
    !meta.gone && matches!(&meta.location, Location::Slot(at) if Rc::ptr_eq(at, lease))
}

/// The replica ends before what is to be read: it was truncated meanwhile.
fn cut<D: Disk>(replica: &Replica<D>, position: u64, end: u64) -> StoreError {
    StoreError::OutOfRange {
        id: replica.id,
        offset: position,
        length: end - position,
        visible: replica.visible(),
    }
}

/// The range as a part: data `at..` in the buffer up to `stop`, of which only bytes up to `end` are to be seen.
fn part<D: Disk>(
    replica: &Replica<D>,
    buf: D::Buf,
    at: usize,
    (position, stop, end): (u64, u64, u64),
    mut checksums: Vec<u32>,
) -> Result<ReadPart, StoreError> {
    let end = end.min(stop);
    if end < stop {
        // The last chunk is longer than may be seen: check it whole, then give the checksum of what is left.
        let chunk = replica.geometry.bytes_per_checksum as u64;
        let last = at + (end.saturating_sub(1) / chunk * chunk - position) as usize;
        let (seen, whole) = (
            at + (end - position) as usize,
            at + (stop - position) as usize,
        );
        let crc = checksums.last_mut().expect("a part has a chunk");
        if crc32c(&buf.as_ref()[last..whole]) != *crc {
            return Err(StoreError::Corrupt {
                id: replica.id,
                what: "data does not match its checksums",
            });
        }
        *crc = crc32c(&buf.as_ref()[last..seen]);
    }
    let checksums: Vec<u8> = checksums.iter().flat_map(|crc| crc.to_le_bytes()).collect();
    let data = Bytes::from_owner(Owner(buf)).slice(at..at + (end - position) as usize);
    Ok(ReadPart {
        offset: position,
        data,
        checksums: checksums.into(),
    })
}

struct Owner<B>(B);

impl<B: AsRef<[u8]>> AsRef<[u8]> for Owner<B> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

async fn read_slot<D: Disk>(
    replica: &Replica<D>,
    lease: &SlotLease<D>,
    position: u64,
    end: u64,
) -> Result<ReadPart, StoreError> {
    let (id, chunk) = (replica.id, replica.geometry.bytes_per_checksum as u64);
    let header = lease.extent.class.header();
    let bytes = (header + round_up(round_up(end, chunk), PAGE as u64) as usize)
        .min(lease.extent.class.slot() as usize);
    let buf = replica.volume.disk.buf(bytes).await;
    let buf = replica
        .volume
        .read(id, &lease.extent.file, buf, 0..bytes, lease.offset())
        .await?;
    let Found::Valid(mut slot) = SlotHeader::decode(lease.place(), &buf.as_ref()[..header]) else {
        return Err(StoreError::Corrupt {
            id,
            what: "slot header",
        });
    };
    if slot.id != id || slot.length < end || u64::from(slot.bytes_per_checksum) != chunk {
        return Err(StoreError::Corrupt {
            id,
            what: "slot holds something else",
        });
    }
    let stop = round_up(end, chunk).min(slot.length);
    slot.checksums.truncate(stop.div_ceil(chunk) as usize);
    let checksums = slot.checksums.split_off((position / chunk) as usize);
    part(
        replica,
        buf,
        header + position as usize,
        (position, stop, end),
        checksums,
    )
}

async fn read_file<D: Disk>(
    replica: &Replica<D>,
    file: &ReplicaFile<D>,
    position: u64,
    end: u64,
) -> Result<ReadPart, StoreError> {
    loop {
        let in_place = file.in_place.get();
        if position < in_place {
            match read_units(replica, file, position, end).await {
                // It was truncated while it was read.
                Err(StoreError::Corrupt { .. }) if file.in_place.get() < in_place => continue,
                read => return read,
            }
        }
        let g = &file.geometry;
        let (chunk, unit) = (g.bytes_per_checksum as u64, g.unit as u64);
        let tail = file.tail.get().filter(|tail| tail.unit == position / unit);
        let Some(tail) = tail else {
            if replica.meta.borrow().on_disk <= position {
                return Err(cut(replica, position, end));
            }
            return Err(StoreError::Corrupt {
                id: file.id,
                what: "no tail record",
            });
        };
        let buf = replica.volume.disk.buf(PAGE + tail.bytes as usize).await;
        let (buf, mut record) = match read_tail(file, tail, buf, 0).await {
            // An open replica's tail moved on while it was read: its bytes are in the newer one, or in place.
            Err(StoreError::Corrupt { .. })
                if file.tail.get() != Some(tail) || position < file.in_place.get() =>
            {
                continue;
            }
            other => other?,
        };
        let start = tail.unit * unit;
        let stop = round_up(end, chunk).min(start + u64::from(tail.bytes));
        if stop <= position {
            return Err(cut(replica, position, end));
        }
        record
            .checksums
            .truncate((stop - start).div_ceil(chunk) as usize);
        let checksums = record
            .checksums
            .split_off(((position - start) / chunk) as usize);
        return part(
            replica,
            buf,
            PAGE + (position - start) as usize,
            (position, stop, end),
            checksums,
        );
    }
}

/// From `position` to the end of its group, or of what is in place.
async fn read_units<D: Disk>(
    replica: &Replica<D>,
    file: &ReplicaFile<D>,
    position: u64,
    end: u64,
) -> Result<ReadPart, StoreError> {
    let g = &file.geometry;
    let (chunk, group_bytes) = (g.bytes_per_checksum as u64, g.group as u64);
    let group = position / group_bytes;
    let start = group * group_bytes;
    let stop = round_up(end, chunk)
        .min(start + group_bytes)
        .min(file.in_place.get());
    if stop <= position {
        return Err(cut(replica, position, end));
    }
    let chunks = ((stop - start) / chunk) as usize;
    let (volume, disk) = (&replica.volume, &replica.volume.disk);
    let handle = file.open().await?;
    let (buf, at, mut checksums) = if position - start <= READ_ALONG {
        let bytes = g.head + round_up(stop - start, PAGE as u64) as usize;
        let buf = volume
            .read(
                file.id,
                &handle,
                disk.buf(bytes).await,
                0..bytes,
                g.group_offset(group),
            )
            .await?;
        let first = start / chunk;
        let checksums = crate::format::decode_checksums(file.id, first, chunks, buf.as_ref());
        (buf, g.head + (position - start) as usize, checksums)
    } else {
        let from = position / PAGE as u64 * PAGE as u64;
        let bytes = round_up(stop - from, PAGE as u64) as usize;
        let data = async {
            volume
                .read(
                    file.id,
                    &handle,
                    disk.buf(bytes).await,
                    0..bytes,
                    g.data_offset(from),
                )
                .await
        };
        let (checksums, buf) = try_join(file.read_group_checksums(group, chunks), data).await?;
        (buf, (position - from) as usize, checksums)
    };
    let checksums = checksums.split_off(((position - start) / chunk) as usize);
    part(replica, buf, at, (position, stop, end), checksums)
}
