//! The life of a segment: start, resume, finalise, cut.

use crate::header::{HEADER_LEN, SPARE_NAME, SegmentHeader, finalised_name, in_progress_name};
use crate::journal::{Guard, Journal, Segment};
use crate::scan::{Entry, Index, zero};
use crate::writer::Open;
use crate::{Digest, End, JournalError, SegmentInfo, Start, Tail};
use hadal_env::{ALIGN, Disk, DiskError, File, OpenOptions};
use hadal_types::{CURRENT_LAYOUT, Epoch, TxId};
use std::path::Path;
use std::rc::Rc;

impl<D: Disk> Journal<D> {
    /// Starts a segment and opens it for appending; one open before stays in progress (T-J10). Durable on return.
    ///
    /// The file is made ready under a temporary name (or is the spare) and then renamed, over the segment in progress
    /// that it replaces, if any: after a crash there is the old segment or the new one.
    ///
    /// # Errors
    /// [`JournalError::SegmentExists`] (T-J11), [`JournalError::Unreadable`] when the one there has a bad record and
    /// `start` does not allow to replace it, or the disk fails.
    pub async fn start_segment(
        &self,
        first: TxId,
        writer_epoch: Epoch,
        digest_before: Digest,
        start: Start,
    ) -> Result<Tail, JournalError> {
        assert!(first.0 > 0, "transactions count from 1");
        let mut guard = self.exclusive().await?;
        if let Ok(there) = self.inner.borrow().segment(first) {
            let exists = JournalError::SegmentExists {
                first,
                finalised: there.info.finalised,
            };
            if there.info.finalised {
                return Err(exists);
            }
            if start == Start::Fresh {
                if let Some(from) = there.unreadable_from() {
                    return Err(JournalError::Unreadable { first, from });
                }
                if there.last() > first {
                    return Err(exists);
                }
            }
        }
        guard.arm("start of a segment");
        let name = self.directory.join(in_progress_name(first));
        let temporary = name.with_added_extension("tmp");
        let spare = self.inner.borrow().spare;
        let file = if spare {
            self.disk
                .rename(&self.directory.join(SPARE_NAME), &temporary)
                .await?;
            // Not before: a sweep makes another one then, under that name.
            self.inner.borrow_mut().spare = false;
            self.disk
                .open(&temporary, OpenOptions::write().direct().dsync())
                .await?
        } else {
            self.zeroed_file(&temporary).await?
        };
        let length = self.initial_length();
        let header = SegmentHeader {
            layout: CURRENT_LAYOUT.0,
            namespace_id: self.options.namespace_id,
            first,
            writer_epoch,
            digest_before,
            initial_length: length,
        };
        let mut buf = self.disk.buf(HEADER_LEN).await;
        header.encode(buf.as_mut());
        file.write_at(buf, 0..HEADER_LEN, 0).await.0?;
        file.sync_data().await?;
        self.disk.rename(&temporary, &name).await?;
        self.disk.sync_dir(&self.directory).await?;
        let file = Rc::new(file);
        let end = Entry {
            txid: first,
            offset: HEADER_LEN as u64,
            digest: digest_before,
        };
        let open = Open::new(
            first,
            writer_epoch,
            file.clone(),
            end,
            Epoch(0),
            Vec::new(),
            length,
        );
        let tail = open.tail();
        let segment = Segment {
            info: SegmentInfo {
                first,
                last: None,
                finalised: false,
                writer_epoch: Some(writer_epoch),
                digest_before: Some(digest_before),
                digest: Some(digest_before),
                bytes: Some(0),
                doubtful_bytes: None,
                epochs: None,
                end: Some(End::Clean),
                closed_gap: None,
            },
            index: Index::starting(&header),
            offset: end.offset,
            data_end: end.offset,
            length_legal: true,
            file: Some(file),
        };
        let mut inner = self.inner.borrow_mut();
        inner.segments.insert(first, segment);
        inner.open = Some(open);
        drop(inner);
        guard.disarm();
        Ok(tail)
    }

    /// A new file as long as a new segment, really written with zeros.
    pub(crate) async fn zeroed_file(&self, path: &Path) -> Result<D::File, DiskError> {
        match self.disk.remove_file(path).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let file = self
            .disk
            .open(path, OpenOptions::create_new().direct().dsync())
            .await?;
        file.allocate(0, self.initial_length()).await?;
        zero(&self.disk, &file, 0, self.initial_length()).await?;
        Ok(file)
    }

    /// Opens a segment in progress for appending again: after a restart, an installed copy or a cut.
    ///
    /// # Errors
    /// [`JournalError::NoSegment`], [`JournalError::AlreadyFinalised`], [`JournalError::Unreadable`], or the disk fails.
    pub async fn resume(&self, first: TxId) -> Result<Tail, JournalError> {
        let _guard = self.exclusive().await?;
        if let Some(tail) = self.tail().filter(|tail| tail.first == first) {
            return Ok(tail);
        }
        let file = self.file(first).await?;
        let (end, writer_epoch, epoch) = {
            let inner = self.inner.borrow();
            let segment = inner.segment(first)?;
            if segment.info.finalised {
                return Err(JournalError::AlreadyFinalised {
                    first,
                    last: segment.last(),
                });
            }
            if let Some(from) = segment.unreadable_from() {
                return Err(JournalError::Unreadable { first, from });
            }
            let (Some(writer_epoch), Some(digest)) =
                (segment.info.writer_epoch, segment.info.digest)
            else {
                return Err(JournalError::Unreadable { first, from: first });
            };
            let end = Entry {
                txid: segment.last().next(),
                offset: segment.offset,
                digest,
            };
            (
                end,
                writer_epoch,
                segment.info.epochs.map_or(Epoch(0), |(_, high)| high),
            )
        };
        let kept = usize::try_from(end.offset % ALIGN as u64).expect("within a block");
        let mut block = Vec::new();
        if kept > 0 {
            let buf = self.disk.buf(ALIGN).await;
            let (read, buf) = file.read_at(buf, 0..ALIGN, end.offset - kept as u64).await;
            if read? < kept {
                return Err(JournalError::Unreadable {
                    first,
                    from: TxId(end.txid.0 - 1),
                });
            }
            block.extend_from_slice(&buf.as_ref()[..kept]);
        }
        let length = file.length().await?;
        let open = Open::new(first, writer_epoch, file, end, epoch, block, length);
        let tail = open.tail();
        self.inner.borrow_mut().open = Some(open);
        Ok(tail)
    }

    /// Finalises a segment: its last record must be `last`, and the running digest there `digest` when given.
    /// Durable on return; [`Journal::sweep`] gives back the room behind its end. Repeating it is allowed.
    ///
    /// # Errors
    /// [`JournalError::NoSegment`] (T-J9), [`JournalError::NotWritten`] (T-J8), [`JournalError::HoldsMore`],
    /// [`JournalError::AlreadyFinalised`] elsewhere, [`JournalError::DigestDiffers`], [`JournalError::Unreadable`], or
    /// the disk fails.
    pub async fn finalise(
        &self,
        first: TxId,
        last: TxId,
        digest: Option<Digest>,
    ) -> Result<SegmentInfo, JournalError> {
        let mut guard = self.exclusive().await?;
        let info = self.inner.borrow().segment(first)?.info.clone();
        if info.finalised {
            return self.finalised_before(info, last, digest).await;
        }
        self.check_end(first, last, digest)?;
        let file = self.file(first).await?;
        guard.arm("finalise of a segment");
        // The name says that the content is complete: it must be durable first (F-14).
        file.sync_data().await?;
        self.disk
            .rename(
                &self.path(&info),
                &self.directory.join(finalised_name(first, last)),
            )
            .await?;
        self.disk.sync_dir(&self.directory).await?;
        let mut inner = self.inner.borrow_mut();
        if inner.is_open(first) {
            inner.open = None;
        }
        let segment = inner.segment_mut(first)?;
        segment.info.finalised = true;
        segment.file = None;
        let (info, end) = (segment.info.clone(), segment.offset);
        // Only gives room back, and nobody waits for that: the name, not the length, says where a finalised segment ends.
        let end = end.next_multiple_of(ALIGN as u64);
        inner.leftovers.long.push_back((file, end));
        drop(inner);
        guard.disarm();
        Ok(info)
    }

    async fn finalised_before(
        &self,
        info: SegmentInfo,
        last: TxId,
        digest: Option<Digest>,
    ) -> Result<SegmentInfo, JournalError> {
        let first = info.first;
        if info.last != Some(last) {
            return Err(JournalError::AlreadyFinalised {
                first,
                last: info.last.unwrap_or(first),
            });
        }
        let Some(digest) = digest else {
            return Ok(info);
        };
        let info = if info.end.is_some() {
            info
        } else {
            self.rescan(first).await?
        };
        if info.end != Some(End::Clean) {
            let from = self
                .inner
                .borrow()
                .segment(first)?
                .unreadable_from()
                .unwrap_or(first);
            return Err(JournalError::Unreadable { first, from });
        }
        if info.digest != Some(digest) {
            return Err(JournalError::DigestDiffers { at: last });
        }
        Ok(info)
    }

    fn check_end(
        &self,
        first: TxId,
        last: TxId,
        digest: Option<Digest>,
    ) -> Result<(), JournalError> {
        let inner = self.inner.borrow();
        let segment = inner.segment(first)?;
        let have = segment.last();
        if have < last && segment.unreadable_from().is_none() || last < first {
            return Err(JournalError::NotWritten {
                first,
                have,
                asked: last,
            });
        }
        if let Some(from) = segment.unreadable_from() {
            return Err(JournalError::Unreadable { first, from });
        }
        if have > last {
            return Err(JournalError::HoldsMore {
                first,
                have,
                asked: last,
            });
        }
        if digest.is_some_and(|digest| segment.info.digest != Some(digest)) {
            return Err(JournalError::DigestDiffers { at: last });
        }
        Ok(())
    }

    /// Drops everything behind `last` (`first - 1` for all) of a segment in progress, readable or not: recovery has
    /// decided that the log ends there. Durable on return. The segment is not open for appending afterwards.
    ///
    /// Until this has returned, what was doubtful stays doubtful, also across a crash in the middle, or it is gone.
    ///
    /// # Errors
    /// [`JournalError::NoSegment`], [`JournalError::AlreadyFinalised`], [`JournalError::NotWritten`] when the segment
    /// ends before `last`, [`JournalError::Unreadable`] when its header is, or the disk fails.
    pub async fn cut(&self, first: TxId, last: TxId) -> Result<SegmentInfo, JournalError> {
        let mut guard = self.exclusive().await?;
        {
            let inner = self.inner.borrow();
            let segment = inner.segment(first)?;
            if segment.info.finalised {
                return Err(JournalError::AlreadyFinalised {
                    first,
                    last: segment.last(),
                });
            }
            if segment.info.digest_before.is_none() {
                return Err(JournalError::Unreadable { first, from: first });
            }
            if last > segment.last() || last.next() < first {
                return Err(JournalError::NotWritten {
                    first,
                    have: segment.last(),
                    asked: last,
                });
            }
        }
        let place = self.locate(first, last.next()).await?;
        let file = self.file(first).await?;
        guard.arm("cut of a segment");
        self.close(first, &mut guard);
        let length = file.length().await?;
        let data_end = self.inner.borrow().segment(first)?.data_end;
        zero(&self.disk, &file, place.offset, data_end.min(length)).await?;
        // A length that is no step of growth makes what lies behind doubtful; the decision has covered that too.
        self.restore_length(first, &file).await?;
        file.sync_data().await?;
        if let Ok(segment) = self.inner.borrow_mut().segment_mut(first) {
            segment.index.cut(last);
        }
        let info = self.rescan(first).await?;
        guard.disarm();
        Ok(info)
    }

    /// Brings a cut file back to a length that growth passes through.
    async fn restore_length(&self, first: TxId, file: &D::File) -> Result<(), JournalError> {
        let header =
            crate::scan::read_header(&self.disk, file, first, self.options.namespace_id).await?;
        let header = header.ok_or(JournalError::Unreadable { first, from: first })?;
        let length = file.length().await?;
        let mut step = header.initial_length;
        while step < length {
            step = crate::scan::grown(step);
        }
        if step > length {
            file.allocate(length, step - length).await?;
        }
        Ok(())
    }

    /// Closes a segment for appending. Nothing is queued while the guard is held.
    pub(crate) fn close(&self, first: TxId, _guard: &mut Guard<'_, D>) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_open(first) {
            inner.open = None;
        }
    }
}
