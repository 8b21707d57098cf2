//! The journal object: what is on this disk, and who may change it.

use crate::header::{HEADER_LEN, Name, SPARE_NAME, finalised_name, in_progress_name};
use crate::purge::Leftovers;
use crate::scan::{Entry, Index, Scanned, Stream, read_header, scan, zero};
use crate::writer::Open;
use crate::{Batch, Digest, End, JournalError, Options, SegmentInfo, Tail};
use hadal_env::{Disk, DiskError, File, OpenOptions};
use hadal_types::{Epoch, TxId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

/// The journal of one namespace on one disk, open.
///
/// Methods take `&self` and may run concurrently on one shard; any number of appends are coalesced. Operations that
/// change segments wait for what was handed in for appending and then run alone. After a failed or abandoned write
/// everything that writes answers [`JournalError::Poisoned`]; what was durable can still be read.
pub struct Journal<D: Disk> {
    pub(crate) disk: D,
    pub(crate) directory: PathBuf,
    pub(crate) options: Options,
    pub(crate) committed: Cell<TxId>,
    pub(crate) inner: RefCell<Inner<D>>,
}

/// One segment: what callers see, and how to read it.
pub(crate) struct Segment<D: Disk> {
    pub(crate) info: SegmentInfo,
    pub(crate) index: Index,
    /// Behind the last readable record; 0 until scanned.
    pub(crate) offset: u64,
    /// Behind the last byte that is not zero; 0 until scanned.
    pub(crate) data_end: u64,
    /// The file has a length it can have had.
    pub(crate) length_legal: bool,
    pub(crate) file: Option<Rc<D::File>>,
}

impl<D: Disk> Segment<D> {
    pub(crate) fn unscanned(first: TxId, last: Option<TxId>) -> Self {
        let info = SegmentInfo {
            first,
            last,
            finalised: last.is_some(),
            writer_epoch: None,
            digest_before: None,
            digest: None,
            bytes: None,
            doubtful_bytes: None,
            epochs: None,
            end: None,
            closed_gap: None,
        };
        Self {
            info,
            index: Index::default(),
            offset: 0,
            data_end: 0,
            length_legal: true,
            file: None,
        }
    }

    pub(crate) fn scanned(&mut self, scanned: Scanned) {
        if !self.info.finalised {
            self.info.last = scanned.last;
        }
        self.info.writer_epoch = scanned.header.map(|header| header.writer_epoch);
        self.info.digest_before = scanned.header.map(|header| header.digest_before);
        self.info.digest = scanned.digest;
        self.info.bytes = scanned.header.map(|_| scanned.offset - HEADER_LEN as u64);
        self.info.doubtful_bytes = scanned.doubtful_bytes();
        self.info.epochs = scanned.epochs;
        self.info.end = Some(scanned.end);
        self.index = scanned.index;
        self.offset = scanned.offset;
        self.data_end = scanned.data_end;
        self.length_legal = scanned.length_legal;
    }

    pub(crate) fn appended(&mut self, end: Entry, epoch: Epoch) {
        self.info.last = Some(TxId(end.txid.0 - 1));
        self.info.digest = Some(end.digest);
        self.info.bytes = Some(end.offset - HEADER_LEN as u64);
        self.info.epochs = Some((self.info.epochs.map_or(epoch, |(low, _)| low), epoch));
        self.index.note(end);
        self.offset = end.offset;
        self.data_end = end.offset;
    }

    /// Last readable txid, `first - 1` when there is none.
    pub(crate) fn last(&self) -> TxId {
        self.info.last.unwrap_or(TxId(self.info.first.0 - 1))
    }

    /// From where on the segment cannot be read.
    pub(crate) fn unreadable_from(&self) -> Option<TxId> {
        match self.info.end {
            Some(End::Doubtful(from) | End::Damaged(from) | End::Gap(from)) => Some(from),
            Some(End::Clean) | None => None,
        }
    }
}

pub(crate) struct Inner<D: Disk> {
    pub(crate) segments: BTreeMap<TxId, Segment<D>>,
    pub(crate) open: Option<Open<D>>,
    pub(crate) spare: bool,
    pub(crate) leftovers: Leftovers<D>,
    /// Copies of segments that somebody is fetching, or fetched and has not installed.
    pub(crate) copying: BTreeMap<TxId, Weak<()>>,
    pub(crate) queue: VecDeque<Batch>,
    pub(crate) queued_bytes: usize,
    /// Batches handed in and batches durable, ever.
    pub(crate) tickets: u64,
    pub(crate) written: u64,
    busy: bool,
    waiting: Vec<Waker>,
    poisoned: Option<String>,
}

impl<D: Disk> Inner<D> {
    pub(crate) fn check_poison(&self) -> Result<(), JournalError> {
        self.poisoned
            .as_ref()
            .map_or(Ok(()), |why| Err(JournalError::Poisoned(why.clone())))
    }

    pub(crate) fn segment(&self, first: TxId) -> Result<&Segment<D>, JournalError> {
        self.segments
            .get(&first)
            .ok_or(JournalError::NoSegment { first })
    }

    pub(crate) fn segment_mut(&mut self, first: TxId) -> Result<&mut Segment<D>, JournalError> {
        self.segments
            .get_mut(&first)
            .ok_or(JournalError::NoSegment { first })
    }

    /// Whether somebody holds a copy of this segment.
    pub(crate) fn is_copied(&self, first: TxId) -> bool {
        let copy = self.copying.get(&first);
        copy.is_some_and(|copy| copy.strong_count() > 0)
    }

    /// The segment is the open one.
    pub(crate) fn is_open(&self, first: TxId) -> bool {
        self.open.as_ref().is_some_and(|open| open.first == first)
    }
}

/// The right to write. Armed, it poisons the journal unless it is disarmed: that is how an error and a dropped future
/// both become final.
pub(crate) struct Guard<'a, D: Disk> {
    journal: &'a Journal<D>,
    armed: Option<&'static str>,
}

impl<D: Disk> Guard<'_, D> {
    pub(crate) fn arm(&mut self, what: &'static str) {
        self.armed = Some(what);
    }

    pub(crate) fn disarm(&mut self) {
        self.armed = None;
    }
}

impl<D: Disk> Drop for Guard<'_, D> {
    fn drop(&mut self) {
        let mut inner = self.journal.inner.borrow_mut();
        inner.busy = false;
        if let Some(what) = self.armed {
            let directory = self.journal.directory.display();
            inner.poisoned.get_or_insert_with(|| {
                format!("{what} in {directory} failed or was abandoned half way")
            });
        }
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in `directory` (created when missing), which the caller has locked. Removes what was cut
    /// short, scans the last finalised segment and all in progress, makes durable what it read, and zeroes what lies
    /// behind gaps. No segment is open for appending afterwards: [`Journal::resume`] or [`Journal::start_segment`].
    ///
    /// `committed` is the highest txid this disk knows to be committed: a bad record up to it is rot, above it in doubt.
    ///
    /// # Errors
    /// When the disk fails, or a segment is of another namespace or an unknown layout. Damage is no error: see
    /// [`SegmentInfo::end`].
    pub async fn open(
        disk: &D,
        directory: &Path,
        options: Options,
        committed: TxId,
    ) -> Result<Self, JournalError> {
        assert!(
            options.initial_bytes >= HEADER_LEN as u64
                && options.initial_bytes.is_multiple_of(HEADER_LEN as u64),
            "room in whole blocks"
        );
        disk.create_dir_all(directory).await?;
        let journal = Self {
            disk: disk.clone(),
            directory: directory.to_owned(),
            options,
            committed: Cell::new(committed),
            inner: RefCell::new(Inner {
                segments: BTreeMap::new(),
                open: None,
                spare: false,
                leftovers: Leftovers::default(),
                copying: BTreeMap::new(),
                queue: VecDeque::new(),
                queued_bytes: 0,
                tickets: 0,
                written: 0,
                busy: false,
                waiting: Vec::new(),
                poisoned: None,
            }),
        };
        journal.list().await?;
        let (scan, in_progress) = {
            let inner = journal.inner.borrow();
            let in_progress: Vec<_> = inner
                .segments
                .values()
                .filter(|segment| !segment.info.finalised)
                .map(|segment| segment.info.first)
                .collect();
            let finalised = inner
                .segments
                .values()
                .rfind(|segment| segment.info.finalised)
                .map(|segment| segment.info.first);
            (finalised, in_progress)
        };
        if let Some(first) = scan {
            journal.rescan(first).await?;
        }
        for first in in_progress {
            journal.recover(first).await?;
        }
        Ok(journal)
    }

    /// Removes the directory with everything in it and creates it empty (format, T-J5).
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn erase(disk: &D, directory: &Path) -> Result<(), DiskError> {
        if disk.exists(directory).await? {
            disk.remove_dir_all(directory).await?;
        }
        disk.create_dir_all(directory).await
    }

    /// Reads the directory, and finishes or undoes what a crash cut short in it.
    async fn list(&self) -> Result<(), JournalError> {
        // Names may be newer than the last sync of the directory (killed in between).
        self.disk.sync_dir(&self.directory).await?;
        let mut segments = BTreeMap::new();
        let mut spare = None;
        let mut stale = Vec::new();
        // Sorted by name, so finalised segments come before those in progress.
        for entry in self.disk.read_dir(&self.directory).await? {
            match Name::parse(&entry.name) {
                Name::Temporary | Name::Retired => stale.push(entry.name),
                Name::Finalised(first, last) => {
                    segments.insert(first, Segment::unscanned(first, Some(last)));
                }
                // Installing a finalised copy was cut short before the segment in progress was removed.
                Name::InProgress(first) if segments.contains_key(&first) => stale.push(entry.name),
                Name::InProgress(first) => {
                    segments.insert(first, Segment::unscanned(first, None));
                }
                Name::Other if entry.name == SPARE_NAME => spare = Some(entry.length),
                Name::Copy(_) | Name::Accepted(_) | Name::Other => {}
            }
        }
        if spare.is_some_and(|length| length != self.initial_length()) {
            stale.push(SPARE_NAME.to_owned());
            spare = None;
        }
        for name in &stale {
            self.disk.remove_file(&self.directory.join(name)).await?;
        }
        if !stale.is_empty() {
            self.disk.sync_dir(&self.directory).await?;
        }
        let mut inner = self.inner.borrow_mut();
        (inner.segments, inner.spare) = (segments, spare.is_some());
        Ok(())
    }

    /// Scans a segment in progress after a start, makes what was read durable, and closes a gap.
    async fn recover(&self, first: TxId) -> Result<(), JournalError> {
        let file = self
            .disk
            .open(
                &self.directory.join(in_progress_name(first)),
                OpenOptions::write().direct().dsync(),
            )
            .await?;
        // A killed process leaves bytes that can be read but not survive a power cut: they must not be reported before.
        file.sync_data().await?;
        let mut scanned = scan(
            &self.disk,
            &file,
            first,
            None,
            self.options.namespace_id,
            self.committed.get(),
        )
        .await?;
        let mut closed_gap = None;
        if let End::Gap(from) = scanned.end {
            closed_gap = Some(from);
            zero(&self.disk, &file, scanned.offset, scanned.data_end).await?;
            file.sync_data().await?;
            scanned = scan(
                &self.disk,
                &file,
                first,
                None,
                self.options.namespace_id,
                self.committed.get(),
            )
            .await?;
            assert_eq!(scanned.end, End::Clean, "what lay behind the gap is zeroed");
        }
        let mut inner = self.inner.borrow_mut();
        let segment = inner.segment_mut(first)?;
        segment.scanned(scanned);
        segment.info.closed_gap = closed_gap;
        segment.file = Some(Rc::new(file));
        Ok(())
    }

    /// Scans a segment and keeps what was found.
    pub(crate) async fn rescan(&self, first: TxId) -> Result<SegmentInfo, JournalError> {
        let file = self.file(first).await?;
        let name_last = {
            let info = &self.inner.borrow().segment(first)?.info.clone();
            info.last.filter(|_| info.finalised)
        };
        let scanned = scan(
            &self.disk,
            &file,
            first,
            name_last,
            self.options.namespace_id,
            self.committed.get(),
        )
        .await?;
        let mut inner = self.inner.borrow_mut();
        let open = inner.is_open(first);
        let segment = inner.segment_mut(first)?;
        // The open segment grew meanwhile; what is known of it is newer.
        if !open {
            segment.scanned(scanned);
        }
        Ok(segment.info.clone())
    }

    /// Reads a whole segment again and says how it ends.
    ///
    /// # Errors
    /// When there is none, or the disk fails.
    pub async fn scan(&self, first: TxId) -> Result<SegmentInfo, JournalError> {
        let _guard = self.exclusive().await?;
        self.rescan(first).await
    }

    /// Raises the highest txid known to be committed, for scans to come.
    pub fn note_committed(&self, txid: TxId) {
        self.committed.set(self.committed.get().max(txid));
    }

    /// All segments, by first txid.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.inner
            .borrow()
            .segments
            .values()
            .map(|segment| segment.info.clone())
            .collect()
    }

    /// The segment that starts at `first`.
    #[must_use]
    pub fn segment(&self, first: TxId) -> Option<SegmentInfo> {
        self.inner
            .borrow()
            .segments
            .get(&first)
            .map(|segment| segment.info.clone())
    }

    /// The segment open for appending.
    #[must_use]
    pub fn tail(&self) -> Option<Tail> {
        self.inner.borrow().open.as_ref().map(Open::tail)
    }

    /// Why the journal takes no more writes.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.inner.borrow().poisoned.clone()
    }

    /// File length of a new segment.
    pub(crate) fn initial_length(&self) -> u64 {
        HEADER_LEN as u64 + self.options.initial_bytes
    }

    pub(crate) fn path(&self, info: &SegmentInfo) -> PathBuf {
        self.directory.join(match info.last {
            Some(last) if info.finalised => finalised_name(info.first, last),
            _ => in_progress_name(info.first),
        })
    }

    /// The file of a segment, opened when it is not.
    pub(crate) async fn file(&self, first: TxId) -> Result<Rc<D::File>, JournalError> {
        let (path, options) = {
            let inner = self.inner.borrow();
            let segment = inner.segment(first)?;
            if let Some(file) = &segment.file {
                return Ok(file.clone());
            }
            let options = if segment.info.finalised {
                OpenOptions::read().direct()
            } else {
                OpenOptions::write().direct().dsync()
            };
            (self.path(&segment.info), options)
        };
        let file = Rc::new(self.disk.open(&path, options).await?);
        if let Ok(segment) = self.inner.borrow_mut().segment_mut(first) {
            segment.file = Some(file.clone());
        }
        Ok(file)
    }

    /// The place of record `txid` in a segment: where it stands, or would stand, and the digest before it.
    pub(crate) async fn locate(&self, first: TxId, txid: TxId) -> Result<Entry, JournalError> {
        let file = self.file(first).await?;
        let mut place = {
            let inner = self.inner.borrow();
            let segment = inner.segment(first)?;
            if let (true, Some(digest), true) = (
                txid == segment.last().next(),
                segment.info.digest,
                segment.offset > 0,
            ) {
                return Ok(Entry {
                    txid,
                    offset: segment.offset,
                    digest,
                });
            }
            segment.index.nearest(txid)
        };
        if place.is_none() {
            let header = read_header(&self.disk, &file, first, self.options.namespace_id).await?;
            let header = header.ok_or(JournalError::Unreadable { first, from: first })?;
            let mut inner = self.inner.borrow_mut();
            let segment = inner.segment_mut(first)?;
            segment.info.writer_epoch = Some(header.writer_epoch);
            segment.info.digest_before = Some(header.digest_before);
            segment.index = Index::starting(&header);
            place = segment.index.nearest(txid);
        }
        let mut place = place.ok_or(JournalError::NotHere {
            txid,
            oldest: Some(first),
        })?;
        if place.txid == txid {
            return Ok(place);
        }
        let mut stream = Stream::at(&self.disk, &file, place.offset).await?;
        let mut passed = Vec::new();
        while place.txid < txid {
            let length = crate::read::next_record(&mut stream, place.txid)
                .await?
                .ok_or(JournalError::Unreadable {
                    first,
                    from: place.txid,
                })?;
            let digest = crate::records::chain_framed(&place.digest, &stream.rest()[..length]);
            stream.consume(length);
            place = Entry {
                txid: place.txid.next(),
                offset: stream.offset(),
                digest,
            };
            passed.push(place);
        }
        let mut inner = self.inner.borrow_mut();
        if let Ok(segment) = inner.segment_mut(first) {
            passed
                .into_iter()
                .for_each(|place| segment.index.note(place));
        }
        Ok(place)
    }

    /// Running digest behind a durable record; behind the record before a segment's first one, too.
    ///
    /// # Errors
    /// [`JournalError::NotHere`], [`JournalError::Unreadable`], or the disk fails.
    pub async fn digest_at(&self, txid: TxId) -> Result<Digest, JournalError> {
        let first = {
            let inner = self.inner.borrow();
            let holds = inner
                .segments
                .range(..=txid)
                .next_back()
                .filter(|(_, segment)| txid <= segment.last());
            let follows = inner.segments.get(&txid.next());
            let oldest = inner.segments.keys().next().copied();
            let segment = holds
                .map(|(_, segment)| segment)
                .or(follows)
                .ok_or(JournalError::NotHere { txid, oldest })?;
            segment.info.first
        };
        Ok(self.locate(first, txid.next()).await?.digest)
    }

    /// The right to write, when nobody has it.
    pub(crate) fn try_acquire(&self) -> Option<Guard<'_, D>> {
        let mut inner = self.inner.borrow_mut();
        if inner.busy {
            return None;
        }
        inner.busy = true;
        Some(Guard {
            journal: self,
            armed: None,
        })
    }

    /// Waits until somebody gave the right to write back.
    pub(crate) async fn changed(&self) {
        poll_fn(|context| {
            let mut inner = self.inner.borrow_mut();
            if !inner.busy {
                return Poll::Ready(());
            }
            if !inner
                .waiting
                .iter()
                .any(|waker| waker.will_wake(context.waker()))
            {
                inner.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// The right to write, whatever is queued: for what does not touch the open segment.
    pub(crate) async fn acquire(&self) -> Result<Guard<'_, D>, JournalError> {
        loop {
            self.inner.borrow().check_poison()?;
            match self.try_acquire() {
                Some(guard) => return Ok(guard),
                None => self.changed().await,
            }
        }
    }

    /// The right to write, with nothing left to append.
    pub(crate) async fn exclusive(&self) -> Result<Guard<'_, D>, JournalError> {
        loop {
            self.inner.borrow().check_poison()?;
            match self.try_acquire() {
                None => self.changed().await,
                Some(guard) if self.inner.borrow().queue.is_empty() => return Ok(guard),
                Some(guard) => self.write_group(guard).await?,
            }
        }
    }
}
