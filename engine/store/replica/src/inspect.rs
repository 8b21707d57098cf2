//! What a replica file is, from its bytes alone.

use crate::StoreError;
use crate::format::{
    FILE_HEADER, FileHeader, Found, StoredState, TailRecord, decode_checksums, verified,
};
use crate::geometry::{Geometry, PAGE, TAIL_SLOTS};
use crate::recovery::{Data, Evidence, Header, Home};
use crate::replica_file::{ReplicaFile, TailRef};
use crate::volume::Volume;
use hadal_env::{Disk, File, OpenOptions};
use hadal_types::BlockId;
use std::path::PathBuf;
use std::rc::Rc;

/// Longest block a header may name; more is damage.
const LENGTH_MAX: u64 = 1 << 46;
/// The two header pages.
const LOOK_BYTES: usize = 2 * PAGE;

/// A replica file as found.
pub(crate) struct FileFound {
    pub(crate) id: BlockId,
    pub(crate) path: PathBuf,
    file_length: u64,
    pub(crate) header: Option<FileHeader>,
    /// Header page that is not the newest.
    next_page: u8,
    pub(crate) geometry: Option<Geometry>,
    pub(crate) evidence: Evidence,
    /// Bytes that count.
    pub(crate) length: u64,
    pub(crate) durable: u64,
    tail: Option<TailRef>,
    pub(crate) last_sequence: u64,
}

impl FileFound {
    /// A file of which the device gives too little.
    pub(crate) fn unreadable(id: BlockId, path: PathBuf, file_length: u64) -> Self {
        Self {
            id,
            path,
            file_length,
            header: None,
            next_page: 0,
            geometry: None,
            evidence: Evidence {
                home: Home::File,
                header: Header::Unreadable,
                settled: true,
                whole: true,
                data: Data::All,
            },
            length: 0,
            durable: 0,
            tail: None,
            last_sequence: 0,
        }
    }

    /// The open file of a replica of this length.
    pub(crate) fn into_file<D: Disk>(self, volume: &Rc<Volume<D>>, length: u64) -> ReplicaFile<D> {
        let geometry = self.geometry.expect("a sound replica has a geometry");
        let file = ReplicaFile::new(volume, self.id, self.path, geometry);
        file.allocated.set(self.file_length);
        volume.use_bytes(self.file_length);
        file.in_place.set(geometry.whole(length));
        file.tail.set(self.tail);
        file.durable_tail.set(self.tail.map(|tail| tail.slot));
        file.next_page.set(self.next_page);
        file.stale_beyond.set(true);
        file
    }
}

/// Reads the headers of a file and, where a crash may have torn it, its data.
pub(crate) async fn inspect<D: Disk>(
    volume: &Rc<Volume<D>>,
    id: BlockId,
    path: PathBuf,
    file_length: u64,
) -> Result<FileFound, StoreError> {
    // What an error of this one file means is for the caller to say.
    let options = OpenOptions::write().direct();
    let file = &volume.disk.open(&path, options).await?;
    let mut buf = volume.disk.buf(LOOK_BYTES).await;
    buf.as_mut()[..LOOK_BYTES].fill(0);
    let (result, buf) = file.read_at(buf, 0..LOOK_BYTES, 0).await;
    volume.check(result)?;
    let (start, mut newest, mut next_page) = (&buf.as_ref()[..LOOK_BYTES], None::<FileHeader>, 0);
    for page in 0..2_u8 {
        let at = usize::from(page) * PAGE;
        if let Found::Valid(header) = FileHeader::decode(&start[at..at + FILE_HEADER])
            && newest.is_none_or(|newest| newest.sequence < header.sequence)
        {
            newest = Some(header);
            next_page = 1 - page;
        }
    }
    // Headers are synced with whatever else of the file is: without one, nothing of it was durable.
    let empty = start.iter().all(|byte| *byte == 0);
    drop(buf);
    let geometry = newest.and_then(|header| {
        let geometry = Geometry::new(header.bytes_per_checksum, header.group_bytes).ok()?;
        let ours = header.id == id && header.storage == volume.storage;
        let sane = geometry.group == header.group_bytes as usize && header.length <= LENGTH_MAX;
        (ours && sane).then_some(geometry)
    });
    let header = newest.filter(|_| geometry.is_some());
    let mut found = FileFound {
        id,
        path,
        file_length,
        header,
        next_page,
        geometry,
        evidence: Evidence {
            home: Home::File,
            header: if empty {
                Header::Empty
            } else {
                Header::Unknown
            },
            settled: header.is_some_and(|header| header.settled),
            whole: true,
            data: Data::All,
        },
        length: 0,
        durable: 0,
        tail: None,
        last_sequence: header.map_or(0, |header| header.sequence),
    };
    if let (Some(header), Some(geometry)) = (header, geometry) {
        found.evidence.header = Header::Valid(header.state);
        match header.state {
            StoredState::Temporary => {}
            StoredState::Finalized if header.settled => {
                inspect_settled(volume, file, &mut found, &header, &geometry).await?;
            }
            StoredState::Finalized | StoredState::Rbw => {
                inspect_data(volume, file, &mut found, &header, &geometry).await?;
            }
        }
    }
    Ok(found)
}

/// A tail record, where it is, and how many bytes of it verify.
struct TailFound {
    tail: TailRef,
    synced_length: u64,
    verified: usize,
}

/// The valid tail records of a file.
async fn read_tails<D: Disk>(
    volume: &Rc<Volume<D>>,
    file: &D::File,
    found: &mut FileFound,
    geometry: &Geometry,
) -> Result<Vec<TailFound>, StoreError> {
    let mut tails = Vec::new();
    let bytes = PAGE + geometry.unit;
    for slot in 0..TAIL_SLOTS as u8 {
        let mut buf = volume.disk.buf(bytes).await;
        buf.as_mut()[..bytes].fill(0);
        let (result, buf) = file
            .read_at(buf, 0..bytes, geometry.tail_offset(slot))
            .await;
        volume.check(result)?;
        let Some(record) = TailRecord::decode(geometry, &buf.as_ref()[..PAGE]) else {
            continue;
        };
        if record.id != found.id {
            continue;
        }
        found.last_sequence = found.last_sequence.max(record.sequence);
        let data = &buf.as_ref()[PAGE..PAGE + record.bytes as usize];
        tails.push(TailFound {
            tail: TailRef {
                slot,
                sequence: record.sequence,
                unit: record.unit,
                bytes: record.bytes,
            },
            synced_length: record.synced_length,
            verified: verified(geometry.bytes_per_checksum, data, &record.checksums),
        });
    }
    Ok(tails)
}

/// FINALIZED and settled: the file is long enough, and its tail record is there.
async fn inspect_settled<D: Disk>(
    volume: &Rc<Volume<D>>,
    file: &D::File,
    found: &mut FileFound,
    header: &FileHeader,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    let whole = geometry.whole(header.length);
    let partial = header.length - whole;
    (found.length, found.durable) = (header.length, header.length);
    found.evidence.whole = found.file_length >= geometry.file_end(header.length);
    if partial > 0 {
        let unit = whole / geometry.unit as u64;
        let tails = read_tails(volume, file, found, geometry).await?;
        let tail = tails.iter().find(|tail| {
            (tail.tail.sequence, tail.tail.unit) == (header.tail_sequence, unit)
                && tail.verified as u64 >= partial
        });
        found.tail = tail.map(|tail| tail.tail);
        found.evidence.whole &= tail.is_some();
    }
    Ok(())
}

/// RBW, or FINALIZED and perhaps torn: the longest prefix that verifies, in place and then in a tail record. A FINALIZED one
/// whose own tail is lost may still have an earlier, durable one.
async fn inspect_data<D: Disk>(
    volume: &Rc<Volume<D>>,
    file: &D::File,
    found: &mut FileFound,
    header: &FileHeader,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    let named = match header.state {
        StoredState::Finalized => header.length,
        _ => u64::MAX,
    };
    let units = verify_units(volume, file, found, geometry, geometry.whole(named)).await?;
    let mut tails = read_tails(volume, file, found, geometry).await?;
    tails.retain(|tail| tail.tail.sequence >= header.tail_floor);
    let synced = tails
        .iter()
        .map(|tail| tail.synced_length)
        .max()
        .unwrap_or(0);
    let synced = synced.max(header.synced_length).min(named);
    let unit = units / geometry.unit as u64;
    let best = tails
        .iter()
        .filter(|tail| tail.tail.unit == unit && tail.verified > 0)
        .max_by_key(|tail| (tail.verified, tail.tail.sequence));
    found.tail = best.map(|tail| tail.tail);
    found.length = (units + best.map_or(0, |tail| tail.verified as u64)).min(named);
    found.durable = synced;
    found.evidence.data = match found.length {
        length if length < synced => Data::Short,
        length if length < named && header.state == StoredState::Finalized => Data::Prefix,
        _ => Data::All,
    };
    Ok(())
}

/// How many bytes, from the start, lie in complete units that verify; at most `limit`.
async fn verify_units<D: Disk>(
    volume: &Rc<Volume<D>>,
    file: &D::File,
    found: &FileFound,
    geometry: &Geometry,
    limit: u64,
) -> Result<u64, StoreError> {
    let mut done = 0;
    for group in 0.. {
        let at = geometry.group_offset(group);
        let there = found
            .file_length
            .saturating_sub(at + geometry.head as u64)
            .min(geometry.group as u64);
        let units = (there.min(limit - done) / geometry.unit as u64) as usize;
        if units == 0 {
            break;
        }
        let bytes = geometry.head + units * geometry.unit;
        let mut buf = volume.disk.buf(bytes).await;
        buf.as_mut()[..bytes].fill(0);
        let (result, buf) = file.read_at(buf, 0..bytes, at).await;
        volume.check(result)?;
        let first = group * (geometry.group / geometry.bytes_per_checksum) as u64;
        let chunks = geometry.chunks(units * geometry.unit);
        let checksums = decode_checksums(found.id, first, chunks, buf.as_ref());
        let good = verified(
            geometry.bytes_per_checksum,
            &buf.as_ref()[geometry.head..bytes],
            &checksums,
        );
        done += geometry.whole(good as u64);
        if good < geometry.group {
            break;
        }
    }
    Ok(done)
}
