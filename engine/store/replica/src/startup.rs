//! Opening a store: formats empty volumes, and finds out what every replica is after whatever happened.

use crate::counters::Counters;
use crate::extent::{Extent, SlotLease, extent_path, parse_extent_name};
use crate::format::{Found, SlotHeader, StoredState, verified};
use crate::geometry::{Geometry, PAGE};
use crate::inspect::{self, FileFound};
use crate::map::{Location, Meta, Replica};
use crate::recovery::{Data, Decision, Evidence, Header, Home, Version, choose, decide};
use crate::unreadable::Unreadable;
use crate::volume::{EXTENTS, Volume};
use crate::{
    CorruptReplica, ReplicaStore, StartupReport, StoreError, StoreIdentity, StoreOptions,
    VolumeSpec,
};
use futures_util::stream::{self, StreamExt};
use hadal_env::{Disk, File, OpenOptions};
use hadal_types::{Block, BlockId, GenerationStamp, ReplicaState};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

/// Small slots are scanned in reads of this many bytes.
const SCAN_BYTES: u64 = 1 << 20;
/// Slots up to this size are read whole and in sequence, since their headers are most of it.
const SCAN_WHOLE: u64 = 32 << 10;
/// Reads in flight while scanning.
const SCAN_READS: usize = 8;
/// Replica files looked at side by side.
const FILES_AT_ONCE: usize = 8;

/// One version of a block on a volume.
struct Candidate<D: Disk> {
    block: Block,
    geometry: Option<Geometry>,
    decision: Decision,
    row: &'static str,
    sequence: u64,
    settled: bool,
    intact: bool,
    /// A slot whose header says FINALIZED, of bytes that are not all there.
    overstated: bool,
    durable: u64,
    home: Place<D>,
}

enum Place<D: Disk> {
    Slot(Rc<Extent<D>>, u32),
    File(Box<FileFound>),
}

/// A slot's header as kept between the two passes.
struct SlotFound<D: Disk> {
    extent: Rc<Extent<D>>,
    slot: u32,
    found: Found<SlotHeader>,
}

impl<D: Disk> ReplicaStore<D> {
    /// Opens the volumes, formatting empty ones, and recovers their replicas by the table of `recovery`:
    /// FINALIZED ones by their metadata (read only if a crash may have torn them), RBW ones become RWR of their longest
    /// verified prefix, TEMPORARY ones and leftovers are removed. A volume that cannot be used is reported and left
    /// out; with none left this is [`StoreError::NoVolume`].
    pub async fn open(
        disk: D,
        volumes: Vec<VolumeSpec>,
        identity: StoreIdentity,
        options: StoreOptions,
    ) -> Result<(Self, StartupReport), StoreError> {
        let counters = Rc::new(Counters::default());
        let mut report = StartupReport::default();
        let mut open = Vec::new();
        for spec in &volumes {
            match Volume::open(&disk, spec, &identity, options, counters.clone()).await {
                Ok(volume) => open.push(volume),
                Err(error) => report.failed.push((spec.dir.clone(), error)),
            }
        }
        let store = Self::new(open, options, counters);
        for volume in store.inner.volumes.clone() {
            if let Err(error) = store.recover_volume(&volume, &mut report).await {
                volume.fail(&error);
                report.failed.push((volume.dir.clone(), error));
            }
        }
        if store.inner.volumes.iter().all(|volume| volume.is_failed()) {
            return match report.failed.pop() {
                Some((_, error)) if volumes.len() == 1 => Err(error),
                _ => Err(StoreError::NoVolume),
            };
        }
        let map = store.inner.map.borrow();
        for replica in map.iter().filter(|replica| !replica.volume.is_failed()) {
            match replica.state() {
                ReplicaState::Finalized => report.finalized += 1,
                _ => report.waiting += 1,
            }
        }
        drop(map);
        Ok((store, report))
    }

    async fn recover_volume(
        &self,
        volume: &Rc<Volume<D>>,
        report: &mut StartupReport,
    ) -> Result<(), StoreError> {
        let mut blocks: BTreeMap<BlockId, Vec<Candidate<D>>> = BTreeMap::new();
        let unreadable = Unreadable::default();
        let slots = scan_extents(volume, &unreadable, report).await?;
        let files = list_files(volume, &unreadable, report).await?;
        let mut synced = 0;
        for slot in &slots {
            let (sequence, synced_here) = match &slot.found {
                Found::Valid(header) => (header.sequence, header.synced_sequence),
                Found::Damaged(Some((_, sequence))) => (*sequence, 0),
                Found::Damaged(None) | Found::Empty => (0, 0),
            };
            volume.raise_sequence(sequence);
            synced = synced.max(synced_here);
        }
        let mut free: BTreeMap<(u8, u32), BTreeSet<u32>> = BTreeMap::new();
        for slot in slots {
            match judge_slot(volume, &unreadable, slot, synced).await? {
                Judged::Free(extent, index) => {
                    free.entry((extent.class.0, extent.number))
                        .or_default()
                        .insert(index);
                }
                Judged::Unknown(extent, index) => {
                    report.damaged_slots += 1;
                    SlotLease::found(volume, &extent, index).detach().await?;
                }
                Judged::Candidate(candidate) => blocks
                    .entry(candidate.block.id)
                    .or_default()
                    .push(candidate),
            }
        }
        for found in files {
            volume.raise_sequence(found.last_sequence);
            let candidate = judge_file(found);
            blocks
                .entry(candidate.block.id)
                .or_default()
                .push(candidate);
        }
        let extents = volume.pools.borrow().all();
        let pool = |extent: Rc<Extent<D>>| {
            let slots = free.remove(&(extent.class.0, extent.number));
            async move {
                let slots = slots.unwrap_or_default();
                // A slot may be free in the kernel's memory only: written again before the medium knows it, it could show the
                // header of the replica it had with the bytes of the new one.
                if !slots.is_empty() {
                    extent.sync(volume).await?;
                }
                volume.pools.borrow_mut().add(extent, slots.into_iter());
                Ok::<(), StoreError>(())
            }
        };
        let mut pooled = stream::iter(extents.into_iter().map(pool)).buffered(FILES_AT_ONCE);
        while let Some(pooled) = pooled.next().await {
            pooled?;
        }
        drop(pooled);
        for (id, candidates) in blocks {
            self.settle_block(volume, id, candidates, report).await?;
        }
        volume.sync_replicas_dir().await
    }

    /// Keeps the version that counts, removes the others.
    async fn settle_block(
        &self,
        volume: &Rc<Volume<D>>,
        id: BlockId,
        mut candidates: Vec<Candidate<D>>,
        report: &mut StartupReport,
    ) -> Result<(), StoreError> {
        let versions: Vec<Version> = candidates
            .iter()
            .map(|c| Version {
                decision: c.decision,
                sequence: c.sequence,
                settled: c.settled,
                intact: c.intact,
                stamp: c.block.generation_stamp,
                length: c.block.length,
            })
            .collect();
        let choice = choose(&versions);
        let kept = match choice {
            Ok(Some(index)) | Err(index) => Some(candidates.swap_remove(index)),
            Ok(None) => None,
        };
        if let Some(kept) = &kept
            && !candidates.is_empty()
        {
            // A process that was killed left it to the kernel only: it must not go with the power when the version
            // that was synced has gone.
            settle(volume, kept).await?;
        }
        // The newest goes last, so that a crash here leaves no outdated version as the newest.
        candidates.sort_by_key(|candidate| candidate.sequence);
        for other in candidates {
            report.removed += 1;
            remove(volume, other.home).await?;
        }
        let Some(kept) = kept else { return Ok(()) };
        if choice.is_err() {
            let known = (kept.block.generation_stamp, kept.block.length);
            let known = kept.geometry.is_some().then_some(known);
            let mut corrupt = CorruptReplica {
                id,
                known,
                storage: volume.storage,
                kept: None,
                what: kept.row,
            };
            match kept.home {
                Place::Slot(..) => remove(volume, kept.home).await?,
                Place::File(file) => {
                    let name = format!("bad_{}_{}", id.0, volume.next_sequence());
                    let path = volume.replicas_dir().join(name);
                    volume.check(volume.disk.rename(&file.path, &path).await)?;
                    corrupt.kept = Some(path);
                }
            }
            report.corrupt.push(corrupt);
            return Ok(());
        }
        self.keep(volume, kept, report).await
    }

    async fn keep(
        &self,
        volume: &Rc<Volume<D>>,
        kept: Candidate<D>,
        report: &mut StartupReport,
    ) -> Result<(), StoreError> {
        let geometry = kept.geometry.expect("a sound replica has a geometry");
        let state = match kept.decision {
            Decision::Finalized => ReplicaState::Finalized,
            _ => ReplicaState::Rwr,
        };
        let location = match kept.home {
            Place::Slot(extent, slot) => {
                let overstated = kept.overstated.then_some(kept.sequence);
                if !kept.settled {
                    // The next slot write says of all before it that they are durable.
                    extent.sync(volume).await?;
                }
                let lease = SlotLease::found(volume, &extent, slot);
                Location::Slot(Rc::new(lease.overstated(overstated)))
            }
            Place::File(found) => {
                let settled = found.evidence.settled;
                let file = found.into_file(volume, kept.block.length);
                if !settled {
                    // The tail it is known by may not be the one that was synced, which the next may be written over.
                    file.sync().await?;
                }
                Location::File(Rc::new(file))
            }
        };
        let length = kept.block.length;
        let meta = Meta {
            stamp: kept.block.generation_stamp,
            state,
            recovery: None,
            received: length,
            on_disk: length,
            acked: length,
            durable: kept.durable.min(length),
            location,
            stale: Vec::new(),
            writer: 0,
            gone: false,
            reservation: 0,
        };
        let other = self.inner.map.borrow().get(kept.block.id);
        let worth =
            |replica: &Replica<D>| (replica.stamp(), replica.state(), replica.block().length);
        let replica = self.admit(volume, kept.block.id, geometry, meta, None);
        if let Some(other) = other {
            // The same block on two volumes (one was away for a while): the better one stays.
            report.removed += 1;
            let loser = if worth(&other) >= worth(&replica) {
                self.inner.map.borrow_mut().insert(other);
                replica
            } else {
                other
            };
            let deleted = self.delete_replica(&loser).await?;
            self.collect(deleted).await?;
        }
        Ok(())
    }
}

/// Makes what was found of this version durable, its name too.
async fn settle<D: Disk>(
    volume: &Rc<Volume<D>>,
    candidate: &Candidate<D>,
) -> Result<(), StoreError> {
    match &candidate.home {
        Place::Slot(extent, _) => extent.sync(volume).await,
        Place::File(found) => {
            let options = OpenOptions::write().direct();
            let file = volume.check(volume.disk.open(&found.path, options).await)?;
            volume.check(file.sync_data().await)?;
            volume.sync_replicas_dir().await
        }
    }
}

async fn remove<D: Disk>(volume: &Rc<Volume<D>>, home: Place<D>) -> Result<(), StoreError> {
    match home {
        Place::Slot(extent, slot) => SlotLease::found(volume, &extent, slot).detach().await,
        Place::File(file) => {
            volume.check(volume.disk.remove_file(&file.path).await)?;
            volume.sync_replicas_dir().await
        }
    }
}

/// Every slot's header.
async fn scan_extents<D: Disk>(
    volume: &Rc<Volume<D>>,
    unreadable: &Unreadable,
    report: &mut StartupReport,
) -> Result<Vec<SlotFound<D>>, StoreError> {
    let dir = volume.dir.join(EXTENTS);
    // A name may be newer than the last sync of the directory (killed in between), and its slots be written from now on.
    volume.sync_extents_dir().await?;
    let mut slots = Vec::new();
    for entry in volume.check(volume.disk.read_dir(&dir).await)? {
        let Some((class, number)) = parse_extent_name(&entry.name).filter(|_| !entry.is_dir) else {
            report.foreign.push(dir.join(entry.name));
            continue;
        };
        let extent = Rc::new(Extent::open(volume, class, number).await?);
        volume
            .pools
            .borrow_mut()
            .add(extent.clone(), std::iter::empty());
        let per_read = if class.slot() <= SCAN_WHOLE {
            (SCAN_BYTES / class.slot()) as u32
        } else {
            1
        };
        let firsts = (0..extent.slots).step_by(per_read as usize);
        let reads = firsts.map(|first| {
            let count = per_read.min(extent.slots - first);
            read_each(volume, &extent, first, count, unreadable)
        });
        let mut reads = stream::iter(reads).buffered(SCAN_READS);
        while let Some(found) = reads.next().await {
            for (slot, found) in found? {
                match found {
                    Some(found) => slots.push(SlotFound {
                        extent: extent.clone(),
                        slot,
                        found,
                    }),
                    None => {
                        // Nobody knows what it is of: nothing of this life is said to come behind it.
                        volume.distrust(1);
                        let path = extent_path(volume, class, number);
                        report.unreadable_slots.push((path, extent.offset(slot)));
                    }
                }
            }
        }
    }
    Ok(slots)
}

/// The headers of `count` slots; `None` for one that cannot be read. Where one read of all of them fails, each is read
/// by itself.
async fn read_each<D: Disk>(
    volume: &Rc<Volume<D>>,
    extent: &Rc<Extent<D>>,
    first: u32,
    count: u32,
    unreadable: &Unreadable,
) -> Result<Vec<(u32, Option<Found<SlotHeader>>)>, StoreError> {
    match read_headers(volume, extent, first, count).await {
        Err(error) if Unreadable::is_local(&error) => {}
        all => {
            let some = |(slot, found)| (slot, Some(found));
            return Ok(all?.into_iter().map(some).collect());
        }
    }
    let mut each = Vec::new();
    for slot in first..first + count {
        let found = unreadable.insist(|| read_headers(volume, extent, slot, 1));
        let header = found.await?.and_then(|mut found| found.pop());
        each.push((slot, header.map(|(_, header)| header)));
    }
    Ok(each)
}

/// The headers of `count` slots, in one read. Checksums are dropped: most slots are not looked at again.
async fn read_headers<D: Disk>(
    volume: &Rc<Volume<D>>,
    extent: &Rc<Extent<D>>,
    first: u32,
    count: u32,
) -> Result<Vec<(u32, Found<SlotHeader>)>, StoreError> {
    let (slot, header) = (extent.class.slot() as usize, extent.class.header());
    let bytes = (count as usize - 1) * slot + header;
    let buf = volume.disk.buf(bytes).await;
    let buf = volume
        .read(
            BlockId(0),
            &extent.file,
            buf,
            0..bytes,
            extent.offset(first),
        )
        .await?;
    let found = |index: u32| {
        let at = index as usize * slot;
        let place = extent.place(volume, first + index);
        let mut found = SlotHeader::decode(place, &buf.as_ref()[at..at + header]);
        if let Found::Valid(header) = &mut found {
            header.checksums = Vec::new();
        }
        (first + index, found)
    };
    Ok((0..count).map(found).collect())
}

enum Judged<D: Disk> {
    Free(Rc<Extent<D>>, u32),
    Unknown(Rc<Extent<D>>, u32),
    Candidate(Candidate<D>),
}

async fn judge_slot<D: Disk>(
    volume: &Rc<Volume<D>>,
    unreadable: &Unreadable,
    slot: SlotFound<D>,
    synced: u64,
) -> Result<Judged<D>, StoreError> {
    let SlotFound {
        extent,
        slot,
        found,
    } = slot;
    let group_bytes = volume.options.group_bytes;
    let mut evidence = Evidence {
        home: Home::Slot,
        header: Header::Empty,
        settled: false,
        whole: true,
        data: Data::All,
    };
    let (mut block, sequence, mut durable, geometry) = match found {
        Found::Empty => return Ok(Judged::Free(extent, slot)),
        Found::Damaged(None) => return Ok(Judged::Unknown(extent, slot)),
        Found::Damaged(Some((block, sequence))) => {
            evidence.header = Header::Damaged;
            (block, sequence, 0, None)
        }
        Found::Valid(header) => {
            let block = Block {
                id: header.id,
                generation_stamp: header.stamp,
                length: header.length,
            };
            evidence.header = Header::Valid(header.state);
            let geometry = Geometry::new(header.bytes_per_checksum, group_bytes).ok();
            if geometry.is_none() || header.length > extent.class.data() as u64 {
                evidence.header = Header::Damaged;
            }
            (block, header.sequence, header.synced_length, geometry)
        }
    };
    evidence.settled = sequence <= synced;
    let mut verified_length = block.length;
    let torn = matches!(evidence.header, Header::Valid(StoredState::Rbw))
        || (matches!(evidence.header, Header::Valid(StoredState::Finalized)) && !evidence.settled);
    if torn {
        let verified = unreadable.insist(|| verify_slot(volume, &extent, slot, &block));
        match verified.await? {
            Some(length) => verified_length = length,
            None => evidence.header = Header::Unreadable,
        }
        evidence.data = match verified_length {
            length if length < durable => Data::Short,
            length if length < block.length => Data::Prefix,
            _ => Data::All,
        };
    } else if evidence.settled {
        durable = block.length;
    }
    let (decision, row) = decide(&evidence);
    if decision == Decision::Waiting {
        block.length = verified_length;
    }
    let (settled, intact) = (evidence.settled, evidence.data == Data::All);
    let overstated = matches!(evidence.header, Header::Valid(StoredState::Finalized)) && !intact;
    let home = Place::Slot(extent, slot);
    Ok(Judged::Candidate(Candidate {
        block,
        geometry,
        decision,
        row,
        sequence,
        settled,
        intact,
        overstated,
        durable,
        home,
    }))
}

/// How many bytes of a slot verify.
async fn verify_slot<D: Disk>(
    volume: &Rc<Volume<D>>,
    extent: &Rc<Extent<D>>,
    slot: u32,
    block: &Block,
) -> Result<u64, StoreError> {
    let header = extent.class.header();
    let bytes = header + (block.length as usize).next_multiple_of(PAGE);
    let buf = volume.disk.buf(bytes).await;
    let buf = volume
        .read(block.id, &extent.file, buf, 0..bytes, extent.offset(slot))
        .await?;
    let place = extent.place(volume, slot);
    let Found::Valid(found) = SlotHeader::decode(place, &buf.as_ref()[..header]) else {
        return Ok(0);
    };
    let data = &buf.as_ref()[header..header + block.length as usize];
    Ok(verified(found.bytes_per_checksum as usize, data, &found.checksums) as u64)
}

/// Opens and inspects every replica file; removes what was deleted.
async fn list_files<D: Disk>(
    volume: &Rc<Volume<D>>,
    unreadable: &Unreadable,
    report: &mut StartupReport,
) -> Result<Vec<FileFound>, StoreError> {
    let dir = volume.replicas_dir();
    let mut ids = Vec::new();
    for entry in volume.check(volume.disk.read_dir(&dir).await)? {
        let id = entry
            .name
            .strip_prefix("blk_")
            .and_then(|id| id.parse::<u64>().ok());
        let path = dir.join(&entry.name);
        // Names are unique as long as the process lives: numbers of earlier lives are passed.
        if let Some((_, sequence)) = entry.name.rsplit_once('_').filter(|_| id.is_none()) {
            volume.raise_sequence(sequence.parse().unwrap_or(0));
        }
        match id {
            Some(id) if !entry.is_dir && entry.name == format!("blk_{id}") => {
                ids.push((BlockId(id), path, entry.length))
            }
            _ if entry.name.starts_with("del_") && !entry.is_dir => {
                report.removed += 1;
                volume.check(volume.disk.remove_file(&path).await)?;
            }
            _ if entry.name.starts_with("bad_") => {}
            _ => report.foreign.push(path),
        }
    }
    let inspect = |(id, path, length): (BlockId, PathBuf, u64)| async move {
        let found = unreadable.insist(|| inspect::inspect(volume, id, path.clone(), length));
        let found = found.await?;
        Ok::<_, StoreError>(found.unwrap_or_else(|| FileFound::unreadable(id, path, length)))
    };
    let mut found = Vec::new();
    let mut all = stream::iter(ids.into_iter().map(inspect)).buffered(FILES_AT_ONCE);
    while let Some(file) = all.next().await {
        found.push(file?);
    }
    Ok(found)
}

fn judge_file<D: Disk>(found: FileFound) -> Candidate<D> {
    let (decision, row) = decide(&found.evidence);
    let header = found.header;
    let block = Block {
        id: found.id,
        generation_stamp: header.map_or(GenerationStamp(0), |header| header.stamp),
        length: found.length,
    };
    Candidate {
        block,
        geometry: found.geometry,
        decision,
        row,
        sequence: header.map_or(u64::MAX, |header| header.sequence),
        // A file header is one sector and cannot be torn: a damaged one is rot, whatever else there is.
        settled: found.evidence.settled || found.evidence.header == Header::Unknown,
        intact: found.evidence.data == Data::All,
        overstated: false,
        durable: found.durable,
        home: Place::File(Box::new(found)),
    }
}
