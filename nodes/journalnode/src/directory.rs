//! A data directory in use: what the core wants done to promises and segments, and what is read of them. A JournalNode's own
//! and one that NameNodes share are the same.

use crate::load::{edits_dir, options};
use crate::records::edits;
use hadal_daemon::Notify;
use hadal_env::Disk;
use hadal_proto::qjournal::{CommitMark, Edits};
use hadal_qjournal::acceptor::{AcceptorRecord, FetchId, StoreOp};
use hadal_types::TxId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use store_journal::{Batch, Behind, Journal, JournalError, Place, SegmentCopy, Start};
use store_record::Record;

/// An open data directory.
pub struct Directory<D: Disk> {
    disk: D,
    dir: PathBuf,
    segment_bytes: u64,
    /// `None` while unformatted.
    journal: RefCell<Option<Rc<Journal<D>>>>,
    /// The promises. Away while they are written, and for good when that was abandoned.
    record: RefCell<Option<Record<D>>>,
    /// Complete copies waiting to be put in place; at most one per fetch, and the core has one fetch at a time.
    copies: RefCell<BTreeMap<FetchId, SegmentCopy<D>>>,
    /// Somebody sweeps; wakes who waits for the end of it.
    sweeping: Cell<bool>,
    swept: Notify,
}

/// Resets [`Directory::sweeping`], also when the sweep is abandoned.
struct Sweeping<'a, D: Disk>(&'a Directory<D>);

impl<D: Disk> Drop for Sweeping<'_, D> {
    fn drop(&mut self) {
        self.0.sweeping.set(false);
        self.0.swept.notify();
    }
}

impl<D: Disk> Directory<D> {
    pub(crate) fn new(
        disk: &D,
        dir: &Path,
        segment_bytes: u64,
        record: Record<D>,
        journal: Option<Journal<D>>,
    ) -> Self {
        Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            segment_bytes,
            journal: RefCell::new(journal.map(Rc::new)),
            record: RefCell::new(Some(record)),
            copies: RefCell::new(BTreeMap::new()),
            sweeping: Cell::new(false),
            swept: Notify::new(),
        }
    }

    /// The segments; `None` while unformatted.
    #[must_use]
    pub fn journal(&self) -> Option<Rc<Journal<D>>> {
        self.journal.borrow().clone()
    }

    /// A complete copy of a segment, for the [`StoreOp::Install`] of that fetch.
    pub(crate) fn keep_copy(&self, fetch: FetchId, copy: SegmentCopy<D>) {
        self.copies.borrow_mut().insert(fetch, copy);
    }

    /// Nobody will ask for the copy any more.
    pub(crate) fn drop_copy(&self, fetch: FetchId) {
        self.copies.borrow_mut().remove(&fetch);
    }

    fn formatted(&self) -> Result<Rc<Journal<D>>, String> {
        self.journal().ok_or_else(|| "no journal is open".into())
    }

    /// Does what the core wants; durable at return, but for what a purge removed: that is by the end of the next
    /// [`Directory::sweep`]. Appends to the open segment may run side by side, and share a sync then;
    /// nothing else may.
    ///
    /// # Errors
    /// What failed; whether it is durable is not known then, and nothing may be tried again.
    pub async fn perform(&self, op: StoreOp) -> Result<(), String> {
        match op {
            StoreOp::Record(content) => self.store(&content).await,
            StoreOp::Format { namespace_id } => {
                let dir = edits_dir(&self.dir);
                // What is swept is of the journal that goes.
                self.until_swept().await;
                *self.journal.borrow_mut() = None;
                Journal::erase(&self.disk, &dir).await.map_err(text)?;
                let options = options(namespace_id, self.segment_bytes);
                let journal = Journal::open(&self.disk, &dir, options, TxId(0)).await;
                *self.journal.borrow_mut() = Some(Rc::new(journal.map_err(text)?));
                Ok(())
            }
            StoreOp::Start {
                first,
                epoch,
                digest_before,
                restart,
            } => {
                let start = if restart {
                    Start::Restart
                } else {
                    Start::Fresh
                };
                let journal = self.formatted()?;
                let started = journal.start_segment(first, epoch, digest_before.0, start);
                started.await.map_err(text).map(|_| ())
            }
            StoreOp::Append {
                segment,
                first,
                records,
                digest_before,
                digest_end,
                ..
            } => {
                let journal = self.formatted()?;
                if journal.tail().is_none_or(|tail| tail.first != segment) {
                    journal.resume(segment).await.map_err(text)?;
                }
                let batch = Batch::verify(records, first, digest_before.0).map_err(text)?;
                assert_eq!(
                    batch.digest(),
                    digest_end.0,
                    "the core compared the digests"
                );
                journal.append(batch).await.map_err(text).map(|_| ())
            }
            StoreOp::Finalize { first, last } => {
                let journal = self.formatted()?;
                let finalised = journal.finalise(first, last, None).await;
                finalised.map_err(text).map(|_| ())
            }
            StoreOp::Install { fetch, segment } => {
                let copy = self.copies.borrow_mut().remove(&fetch);
                let copy =
                    copy.ok_or_else(|| format!("the copy of segment {} is gone", segment.first))?;
                let place = if segment.finalized {
                    Place::Finalised
                } else {
                    Place::InProgress
                };
                let installed = self.formatted()?.install(copy, place, Behind::Cut).await;
                installed.map_err(text).map(|_| ())
            }
            StoreOp::Purge { below } => {
                let purged = self.formatted()?.purge(below).await.map_err(text)?;
                tracing::info!("purged {} segments below {below}", purged.segments.len());
                Ok(())
            }
        }
    }

    /// Something is left to do that nobody waits for: [`Directory::sweep`].
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        let leftovers = |journal: Rc<Journal<D>>| journal.has_leftovers();
        !self.sweeping.get() && self.journal().is_some_and(leftovers)
    }

    /// Removes the files of what was purged, gives room back and prepares the next segment's file, beside whatever else is
    /// performed. Returns at once when that is under way.
    ///
    /// # Errors
    /// What failed: nothing may be written any more.
    pub async fn sweep(&self) -> Result<(), String> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        if self.sweeping.replace(true) {
            return Ok(());
        }
        let _sweeping = Sweeping(self);
        journal.sweep().await.map_err(text)
    }

    async fn until_swept(&self) {
        loop {
            let mark = self.swept.mark();
            if !self.sweeping.get() {
                return;
            }
            self.swept.changed(mark).await;
        }
    }

    async fn store(&self, content: &AcceptorRecord) -> Result<(), String> {
        store_record(&self.record, &hadal_proto::encode(content)).await?;
        if let Some(journal) = self.journal() {
            journal.note_committed(content.mark.txid);
        }
        Ok(())
    }

    /// Records from `from` on, to `upto` or as many as `max_bytes` hold, at least one, with the first txid of their segment;
    /// `None` when `from` is not here.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn read(
        &self,
        from: TxId,
        upto: TxId,
        max_bytes: u32,
        committed: CommitMark,
    ) -> Result<Option<(TxId, Edits)>, JournalError> {
        let Some(journal) = self.journal() else {
            return Ok(None);
        };
        let chunk = journal.read(from, upto, max_bytes as usize).await?;
        Ok(chunk.map(|chunk| (chunk.segment, edits(&chunk.batch, committed))))
    }
}

/// Stores a payload in a record that is away meanwhile, and for good when the caller gives up.
///
/// # Errors
/// What failed.
pub async fn store_record<D: Disk>(
    slot: &RefCell<Option<Record<D>>>,
    payload: &[u8],
) -> Result<(), String> {
    let record = slot.borrow_mut().take();
    let mut record = record.ok_or("an earlier write to the directory was abandoned")?;
    let stored = record.store(payload).await;
    *slot.borrow_mut() = Some(record);
    stored.map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
