//! What stands on the JournalNodes' disks, looked at again and again while faults strike (reliability.md S4).
//!
//! * **One writer per epoch** (P3): a record is named by its epoch and txid; two records of one name never exist.
//! * **Promises bind** (P3): a record that nobody had before does not appear under an epoch lower than what its
//!   JournalNode had promised; a segment of an epoch stands only where a majority has promised it.
//! * **Acknowledged edits stay** (P2): each is durable at a majority when it is acknowledged, and somewhere ever after.
//! * **Finalised is final** (P2): what two JournalNodes finalised at a txid is the same record, and a finalised segment
//!   ends where the others of its first txid end.
//!
//! A JournalNode that was made to forget (wiped, rolled back, rotten) binds nobody any more. Edits far enough behind an
//! image that a NameNode has may be purged.

use super::images;
use super::nodes::NAMENODE_DIR;
use crate::disk::SimDisk;
use crate::node::NodeId;
use crate::report::Promise;
use crate::rng::Rng;
use crate::world::Handle;
use hadal_qjournal::acceptor::AcceptorRecord;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use store_record::SLOT_LEN;
use store_record::checksum::{crc32c, crc32c_append};

/// Between two looks at everything, at most.
const LOOK_EVERY_MS: u64 = 3_000;
/// Bytes before the first record of a segment, and before the payload of a record.
const SEGMENT_HEAD: usize = 4096;
const RECORD_HEAD: usize = 24;
/// The small record.
const PROMISES: &str = "/journal/promises";
/// Bytes before the payload of a slot of it.
const SLOT_HEAD: usize = 40;

/// One record: its epoch, and a hash of all its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Edit {
    epoch: u64,
    hash: u64,
}

/// What is readable of one segment file.
#[derive(Clone, Default)]
struct Segment {
    /// The file up to the first record that is not readable.
    bytes: Vec<u8>,
    /// Its records, by txid.
    edits: BTreeMap<u64, Edit>,
    /// How many of them are of an epoch.
    by_epoch: BTreeMap<u64, usize>,
}

impl Segment {
    /// Takes in what the file holds now. Returns the records that are not known from before.
    fn read(&mut self, bytes: &[u8]) -> Vec<(u64, Edit)> {
        let mut before = BTreeMap::new();
        if !bytes.starts_with(&self.bytes) || self.bytes.is_empty() {
            before = std::mem::take(self).edits;
            let Some(head) = bytes.get(..SEGMENT_HEAD) else {
                return Vec::new();
            };
            self.bytes.extend_from_slice(head);
        }
        let mut fresh = Vec::new();
        while let Some((txid, edit, length)) = record(&bytes[self.bytes.len()..]) {
            let at = self.bytes.len();
            self.bytes.extend_from_slice(&bytes[at..at + length]);
            if let Some(old) = self.edits.insert(txid, edit) {
                *self.by_epoch.entry(old.epoch).or_default() -= 1;
            }
            *self.by_epoch.entry(edit.epoch).or_default() += 1;
            if before.get(&txid) != Some(&edit) {
                fresh.push((txid, edit));
            }
        }
        fresh
    }

    fn last(&self) -> Option<u64> {
        self.edits.keys().next_back().copied()
    }
}

/// Changes when the synced bytes of a file do.
type Mark = (u64, u64);

/// What one JournalNode holds.
#[derive(Default)]
struct Journal {
    segments: BTreeMap<PathBuf, (Mark, Segment)>,
    /// Its small record, and the mark of the file it was read from.
    record: (Mark, AcceptorRecord),
    /// Highest epoch its disk ever promised durably.
    promised: u64,
    /// It was made to forget.
    forgetful: bool,
    /// Segment files that may change: not finalised ones that were read.
    open: Vec<PathBuf>,
    /// [`SimDisk::names_version`] when it was last looked at.
    names: u64,
    /// [`SimDisk::changes`] then.
    changes: u64,
}

impl Journal {
    /// All edits of that txid: an abandoned segment may hold another one than its successor.
    fn edits(&self, txid: u64) -> impl Iterator<Item = Edit> + '_ {
        let segments = self.segments.values();
        segments.filter_map(move |(_, segment)| segment.edits.get(&txid).copied())
    }

    fn holds(&self, txid: u64, edit: Edit) -> bool {
        self.edits(txid).any(|held| held == edit)
    }
}

/// See the module.
pub(in crate::scenarios) struct Audit {
    handle: Handle,
    /// Highest txid of an acknowledged mutation.
    frontier: Rc<Cell<u64>>,
    nodes: Vec<NodeId>,
    journals: Vec<Journal>,
    /// Every record ever seen, by epoch and txid.
    known: BTreeMap<(u64, u64), u64>,
    acknowledged: BTreeMap<u64, Edit>,
    finalised: BTreeMap<u64, (usize, Edit)>,
    /// Last txids of finalised segments, by their first, and at whom.
    ends: BTreeMap<u64, (usize, u64)>,
    writers: BTreeSet<u64>,
    /// NameNodes whose images allow purges, and how many edits behind an image stay.
    purgers: (Vec<NodeId>, u64),
    /// Edits below this one may be purged.
    purgeable: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The record at the start of these bytes of a segment file, and its length; `None` when it is not readable.
fn record(bytes: &[u8]) -> Option<(u64, Edit, usize)> {
    let head = bytes.get(..RECORD_HEAD)?;
    let record = bytes.get(..RECORD_HEAD + u32_at(head, 0) as usize)?;
    let txid = u64_at(head, 16);
    if txid == 0 || u32_at(head, 4) != crc32c_append(crc32c(&record[..4]), &record[8..]) {
        return None;
    }
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(&record[8..]);
    let edit = Edit {
        epoch: u64_at(head, 8),
        hash: hash.finish(),
    };
    Some((txid, edit, record.len()))
}

/// What the small record says, by the newest of its two slots that is whole.
fn promises(bytes: &[u8]) -> Option<AcceptorRecord> {
    let slot = |index: usize| {
        let slot = bytes.get(index * SLOT_LEN..(index + 1) * SLOT_LEN)?;
        let whole = u32_at(slot, 12) == crc32c_append(crc32c(&slot[..12]), &slot[16..]);
        let payload = slot.get(SLOT_HEAD..SLOT_HEAD + u32_at(slot, 32) as usize)?;
        whole.then(|| (u64_at(slot, 16), payload.to_vec()))
    };
    let (_, payload) = slot(0).into_iter().chain(slot(1)).max()?;
    hadal_proto::decode(payload.into()).ok()
}

/// A segment file of a JournalNode, by its name.
fn is_segment(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    let of_edits = path.parent() == Some(Path::new("/journal/edits"));
    of_edits && name.starts_with("edits_") && !name.contains('.')
}

/// Whether a segment file is a finalised one.
fn is_finalised(path: &Path) -> bool {
    !path.to_string_lossy().contains("inprogress")
}

/// A finalised segment of a JournalNode.
pub(super) fn is_finalised_segment(path: &Path) -> bool {
    is_segment(path) && is_finalised(path)
}

impl Audit {
    pub(in crate::scenarios) fn new(
        handle: Handle,
        frontier: Rc<Cell<u64>>,
        nodes: &[NodeId],
    ) -> Self {
        Self {
            handle,
            frontier,
            nodes: nodes.to_vec(),
            journals: nodes.iter().map(|_| Journal::default()).collect(),
            known: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            finalised: BTreeMap::new(),
            ends: BTreeMap::new(),
            writers: BTreeSet::new(),
            purgers: (Vec::new(), 0),
            purgeable: 0,
        }
    }

    /// Edits that images of these NameNodes hold may be purged, but for the last `extra`.
    pub(super) fn allow_purges(&mut self, namenodes: &[NodeId], extra: u64) {
        self.purgers = (namenodes.to_vec(), extra);
    }

    /// What came behind this edit is nowhere any more, as of the last look.
    pub(super) fn is_gone_behind(&self, txid: u64) -> bool {
        let mut segments = self.journals.iter().flat_map(|j| j.segments.values());
        let later = segments.any(|(_, segment)| segment.last().is_some_and(|last| last > txid));
        let next = self
            .journals
            .iter()
            .any(|j| j.edits(txid + 1).next().is_some());
        later && !next
    }

    fn refresh_purgeable(&mut self) {
        let (namenodes, extra) = &self.purgers;
        let images = namenodes.iter().filter_map(|node| {
            images::newest(&self.handle.disk_of(*node), Path::new(NAMENODE_DIR))
        });
        let newest = images.max().unwrap_or(0);
        self.purgeable = self.purgeable.max((newest + 1).saturating_sub(*extra));
    }

    fn disk(&self, index: usize) -> SimDisk {
        self.handle.disk_of(self.nodes[index])
    }

    fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    fn name(&self, index: usize) -> String {
        self.handle.name(self.nodes[index])
    }

    fn violate(&self, promise: Promise, detail: String) {
        self.handle.violate(promise, detail);
    }

    /// This JournalNode is about to lose what it knew.
    pub(in crate::scenarios) fn forget(&mut self, index: usize) {
        let journal = &mut self.journals[index];
        journal.forgetful = true;
        journal.segments.clear();
        journal.names = u64::MAX;
    }

    /// Reads this JournalNode's small record again if it changed.
    fn refresh(&mut self, index: usize) {
        let disk = self.disk(index);
        let record = &mut self.journals[index].record;
        match disk.mark(Path::new(PROMISES)) {
            Some(mark) if mark != record.0 => {
                let bytes = disk.peek_synced(Path::new(PROMISES));
                let read = bytes.and_then(|bytes| promises(&bytes));
                *record = (mark, read.unwrap_or_default());
            }
            Some(_) => {}
            None => *record = Default::default(),
        }
    }

    /// What this JournalNode's small record says, as of the last look or glance.
    fn record(&self, index: usize) -> &AcceptorRecord {
        &self.journals[index].record.1
    }

    /// A JournalNode said that it had promised this epoch: its disk says so too.
    pub(in crate::scenarios) fn told(&mut self, index: usize, promised: u64) {
        self.handle.count("promises asked for", 1);
        self.refresh(index);
        let durable = self.record(index).promised.0;
        if durable < promised && !self.journals[index].forgetful {
            let detail = format!(
                "{} told of its promise of epoch {promised}, its disk of {durable}",
                self.name(index)
            );
            self.violate(Promise::P3, detail);
        }
    }

    /// Reads promises and the epochs of segments: cheap, and often.
    pub(in crate::scenarios) fn glance(&mut self) {
        let mut promised = Vec::new();
        for index in 0..self.nodes.len() {
            self.refresh(index);
            let record = self.record(index);
            promised.push(record.promised.0);
            let writer = record.writer.0;
            self.writers.insert(writer);
        }
        let enough = self.majority();
        for writer in self.writers.iter().rev().take(1) {
            let bound = (0..promised.len())
                .filter(|index| promised[*index] >= *writer || self.journals[*index].forgetful);
            if bound.count() < enough {
                self.violate(
                    Promise::P3,
                    format!("a segment of epoch {writer} was started, promised are {promised:?}"),
                );
            }
        }
    }

    /// Reads everything and compares.
    pub(in crate::scenarios) fn look(&mut self) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.look_at(&all);
        self.find_acknowledged();
    }

    fn look_at(&mut self, indices: &[usize]) {
        self.handle.count("looks at the journals", 1);
        self.glance();
        self.refresh_purgeable();
        let mut fresh: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
        for index in indices {
            self.read(*index, &mut fresh);
        }
        for ((epoch, txid), holders) in &fresh {
            // A copy of a record that only this look found elsewhere is no word of its writer.
            let journals = holders.iter().map(|index| &self.journals[*index]);
            let mut bound = journals.map(|journal| !journal.forgetful && journal.promised > *epoch);
            if bound.all(|bound| bound) {
                let names: Vec<String> = holders.iter().map(|index| self.name(*index)).collect();
                self.violate(
                    Promise::P3,
                    format!("{names:?} took edit {txid} of epoch {epoch} after a higher promise"),
                );
            }
        }
        for index in 0..self.nodes.len() {
            let promised = self.record(index).promised.0;
            self.journals[index].promised = self.journals[index].promised.max(promised);
        }
        self.note_acknowledged();
    }

    /// Reads one JournalNode's segments.
    fn read(&mut self, index: usize, fresh: &mut BTreeMap<(u64, u64), Vec<usize>>) {
        let disk = self.disk(index);
        let journal = &mut self.journals[index];
        let names = disk.names_version();
        if std::mem::replace(&mut journal.names, names) != names {
            let paths = disk.files().into_iter().map(|(path, _)| path);
            let present: BTreeSet<PathBuf> = paths.filter(|path| is_segment(path)).collect();
            let (handle, purgeable) = (&self.handle, self.purgeable);
            journal.segments.retain(|path, (_, segment)| {
                let stays = present.contains(path);
                let purgeable = segment.last().is_some_and(|last| last < purgeable);
                if !stays && purgeable && is_finalised(path) {
                    handle.count("segments purged", 1);
                }
                stays
            });
            let finalised =
                |path: &PathBuf| is_finalised(path) && journal.segments.contains_key(path);
            journal.open = present
                .into_iter()
                .filter(|path| !finalised(path))
                .collect();
        }
        let mut changed = Vec::new();
        for path in &journal.open {
            let mark = disk.mark(path).unwrap_or_default();
            if journal
                .segments
                .get(path)
                .is_none_or(|(old, _)| *old != mark)
            {
                changed.push((path.clone(), mark));
            }
        }
        for (path, mark) in changed {
            let Some(bytes) = disk.peek_synced(&path) else {
                continue;
            };
            let segments = &mut self.journals[index].segments;
            let entry = segments.entry(path.clone()).or_default();
            entry.0 = mark;
            let new = entry.1.read(&bytes);
            for (txid, edit) in new {
                self.take(index, txid, edit, fresh);
                if is_finalised(&path) {
                    self.take_final(index, txid, edit);
                }
            }
            if is_finalised(&path) {
                self.take_end(index, &path);
            }
        }
    }

    fn take(
        &mut self,
        index: usize,
        txid: u64,
        edit: Edit,
        fresh: &mut BTreeMap<(u64, u64), Vec<usize>>,
    ) {
        let key = (edit.epoch, txid);
        match self.known.get(&key) {
            Some(hash) if *hash != edit.hash => {
                let detail = format!(
                    "two edits {txid} of epoch {}, one of them at {}",
                    edit.epoch,
                    self.name(index)
                );
                self.violate(Promise::P3, detail);
            }
            Some(_) if !fresh.contains_key(&key) => {}
            _ => {
                self.known.insert(key, edit.hash);
                fresh.entry(key).or_default().push(index);
            }
        }
    }

    fn take_final(&mut self, index: usize, txid: u64, edit: Edit) {
        let (other, first) = *self.finalised.entry(txid).or_insert((index, edit));
        self.handle.count("finalised edits compared", 1);
        if first != edit {
            let detail = format!(
                "{} and {} finalised different edits {txid}: of epochs {} and {}",
                self.name(other),
                self.name(index),
                first.epoch,
                edit.epoch
            );
            self.violate(Promise::P2, detail);
        }
    }

    fn take_end(&mut self, index: usize, path: &Path) {
        let journal = &self.journals[index];
        if journal.forgetful {
            return;
        }
        let segment = &journal.segments[path].1;
        let Some((first, last)) = segment.edits.keys().next().zip(segment.last()) else {
            return;
        };
        let first = *first;
        let (other, end) = *self.ends.entry(first).or_insert((index, last));
        if end != last {
            let detail = format!(
                "{} finalised segment {first} at {end}, {} at {last}",
                self.name(other),
                self.name(index)
            );
            self.violate(Promise::P2, detail);
        }
    }

    /// Edits acknowledged to clients since the last look are at a majority.
    fn note_acknowledged(&mut self) {
        let frontier = self.frontier.get();
        let from = self
            .acknowledged
            .keys()
            .next_back()
            .map_or(1, |last| last + 1);
        let forgetful = self
            .journals
            .iter()
            .filter(|journal| journal.forgetful)
            .count();
        let enough = self.majority() - forgetful.min(1);
        for txid in from..=frontier {
            let held: Vec<Edit> = self.journals.iter().flat_map(|j| j.edits(txid)).collect();
            let holders = |edit: &Edit| {
                let journals = self.journals.iter();
                journals
                    .filter(|journal| journal.holds(txid, *edit))
                    .count()
            };
            // Where a JournalNode forgot, a tail that nobody committed may have as many holders as what was acknowledged: of
            // an older writer.
            let Some(edit) = held
                .iter()
                .copied()
                .max_by_key(|edit| (holders(edit), edit.epoch))
            else {
                if txid < self.purgeable {
                    continue;
                }
                return self.violate(Promise::P2, format!("acknowledged edit {txid} is nowhere"));
            };
            if holders(&edit) < enough && txid >= self.purgeable {
                let detail = format!(
                    "acknowledged edit {txid} is durable at {} JournalNodes: {held:?}",
                    holders(&edit)
                );
                return self.violate(Promise::P2, detail);
            }
            self.handle
                .count("acknowledged edits found at a majority", 1);
            self.acknowledged.insert(txid, edit);
        }
    }

    /// The newest acknowledged edits are somewhere.
    fn find_acknowledged(&self) {
        for (txid, edit) in self.acknowledged.iter().rev().take(64) {
            let held = self
                .journals
                .iter()
                .any(|journal| journal.holds(*txid, *edit));
            if !held && *txid >= self.purgeable {
                let detail = format!("acknowledged edit {txid} of epoch {} is gone", edit.epoch);
                return self.violate(Promise::P2, detail);
            }
        }
    }

    /// Looks at the JournalNodes whose disks changed since the last step; whether any did. A JournalNode carries its
    /// writes out in the order it took them on: what it took before a promise is durable before the promise is.
    pub(in crate::scenarios) fn step(&mut self) -> bool {
        let mut changed = Vec::new();
        for index in 0..self.nodes.len() {
            let changes = self.disk(index).changes();
            if std::mem::replace(&mut self.journals[index].changes, changes) != changes {
                changed.push(index);
            }
        }
        if changed.is_empty() {
            return false;
        }
        self.look_at(&changed);
        true
    }

    /// What a JournalNode's small record says now.
    pub(in crate::scenarios) fn promised(&self, index: usize) -> u64 {
        self.record(index).promised.0
    }

    /// Epoch of the segment a JournalNode started last.
    pub(in crate::scenarios) fn writer(&self, index: usize) -> u64 {
        self.record(index).writer.0
    }

    /// Records of that epoch at a JournalNode, as of the last step.
    pub(in crate::scenarios) fn written(&self, index: usize, epoch: u64) -> usize {
        let segments = self.journals[index].segments.values();
        let counts = segments.filter_map(|(_, segment)| segment.by_epoch.get(&epoch));
        counts.sum()
    }

    /// Finalised segments of a JournalNode, as of the last step.
    pub(in crate::scenarios) fn finalised(&self, index: usize) -> usize {
        let paths = self.journals[index].segments.keys();
        paths.filter(|path| is_finalised(path)).count()
    }

    /// Epochs in which a segment was started.
    pub(in crate::scenarios) fn epochs(&self) -> u64 {
        self.writers.iter().filter(|epoch| **epoch > 0).count() as u64
    }
}

/// Looks until `end`.
pub(super) async fn watch(handle: Handle, audit: Rc<RefCell<Audit>>, mut rng: Rng, end: Duration) {
    while handle.now() < end {
        handle
            .sleep(Duration::from_millis(
                rng.range(LOOK_EVERY_MS / 2, LOOK_EVERY_MS),
            ))
            .await;
        audit.borrow_mut().look();
    }
    let epochs = audit.borrow().epochs();
    handle.count("epochs of writers during faults", epochs);
}
