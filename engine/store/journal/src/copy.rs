//! Replacing a segment by a peer's copy, and what was accepted in recovery.

use crate::header::{
    HEADER_LEN, SegmentHeader, accepted_name, copy_name, finalised_name, in_progress_name,
};
use crate::journal::{Journal, Segment};
use crate::scan::{Index, digest_at, place_of, read_header, scan};
use crate::{Batch, Behind, Digest, End, JournalError, Place, SegmentInfo};
use bytes::Bytes;
use hadal_env::{ALIGN, Disk, DiskError, File, OpenOptions};
use hadal_types::{CURRENT_LAYOUT, Epoch, TxId};
use std::path::PathBuf;
use std::rc::Rc;
use store_record::{Contents, Record};

/// Collected before a write.
const STAGE_LEN: usize = 1 << 20;
const BLOCK: u64 = ALIGN as u64;

/// A segment being fetched from a peer, in a file of its own (`edits_<first>.copy`).
///
/// The header is written last, after the records are durable: a copy with a header is complete. So a copy that was
/// finished, and whose acceptance was stored, can be installed after a crash in between ([`Journal::finished_copy`]).
pub struct SegmentCopy<D: Disk> {
    disk: D,
    file: D::File,
    path: PathBuf,
    namespace_id: u64,
    first: TxId,
    writer_epoch: Epoch,
    digest_before: Digest,
    next: TxId,
    digest: Digest,
    epoch: Epoch,
    stage: Vec<u8>,
    /// File offset of the stage.
    offset: u64,
    finished: bool,
    /// Held as long as the copy is.
    _held: Rc<()>,
}

impl<D: Disk> SegmentCopy<D> {
    /// First txid of the segment.
    #[must_use]
    pub fn first(&self) -> TxId {
        self.first
    }

    /// The txid that has to come next.
    #[must_use]
    pub fn next(&self) -> TxId {
        self.next
    }

    /// Running digest behind what was copied.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Appends framed records, verified and chained to those before.
    ///
    /// # Errors
    /// [`JournalError::Batch`] without having written anything, or the disk fails: then drop the copy and begin anew.
    pub async fn write(&mut self, framed: Bytes) -> Result<(), JournalError> {
        assert!(!self.finished, "the copy is finished");
        let batch = Batch::verify(framed, self.next, self.digest)?;
        let (low, high) = batch.epochs();
        if low < self.epoch {
            return Err(crate::BatchError::EpochWentDown {
                before: self.epoch,
                found: low,
            }
            .into());
        }
        (self.next, self.digest, self.epoch) = (batch.last().next(), batch.digest(), high);
        self.stage.extend_from_slice(batch.bytes());
        let whole = self.stage.len() / ALIGN * ALIGN;
        if self.stage.len() >= STAGE_LEN {
            self.flush(whole).await?;
        }
        Ok(())
    }

    /// Writes the first `bytes` of the stage, whole blocks.
    async fn flush(&mut self, bytes: usize) -> Result<(), DiskError> {
        if bytes > 0 {
            let mut buf = self.disk.buf(bytes).await;
            buf.as_mut()[..bytes].copy_from_slice(&self.stage[..bytes]);
            self.file.write_at(buf, 0..bytes, self.offset).await.0?;
            self.stage.drain(..bytes);
            self.offset += bytes as u64;
        }
        Ok(())
    }

    /// Makes the copy durable; it must end at `last` with running digest `digest`.
    ///
    /// # Errors
    /// [`JournalError::NotWritten`] or [`JournalError::HoldsMore`] when it ends elsewhere,
    /// [`JournalError::DigestDiffers`], or the disk fails.
    pub async fn finish(&mut self, last: TxId, digest: Digest) -> Result<(), JournalError> {
        let (first, have) = (self.first, TxId(self.next.0 - 1));
        if have < last || have < first {
            return Err(JournalError::NotWritten {
                first,
                have,
                asked: last,
            });
        }
        if have > last {
            return Err(JournalError::HoldsMore {
                first,
                have,
                asked: last,
            });
        }
        if digest != self.digest {
            return Err(JournalError::DigestDiffers { at: last });
        }
        let end = self.offset + self.stage.len() as u64;
        self.stage
            .resize(self.stage.len().next_multiple_of(ALIGN), 0);
        self.flush(self.stage.len()).await?;
        self.file.sync_data().await?;
        self.write_header(end.next_multiple_of(BLOCK)).await?;
        self.disk
            .sync_dir(self.path.parent().expect("lies in the journal's directory"))
            .await?;
        self.finished = true;
        Ok(())
    }

    async fn write_header(&self, initial_length: u64) -> Result<(), DiskError> {
        let header = SegmentHeader {
            layout: CURRENT_LAYOUT.0,
            namespace_id: self.namespace_id,
            first: self.first,
            writer_epoch: self.writer_epoch,
            digest_before: self.digest_before,
            initial_length,
        };
        let mut buf = self.disk.buf(HEADER_LEN).await;
        header.encode(buf.as_mut());
        self.file.write_at(buf, 0..HEADER_LEN, 0).await.0?;
        self.file.sync_data().await
    }

    /// Gives the copy up and removes its file.
    ///
    /// # Errors
    /// When the disk fails; what is left is removed when the next copy begins.
    pub async fn abort(self) -> Result<(), DiskError> {
        self.disk.remove_file(&self.path).await
    }
}

impl<D: Disk> Journal<D> {
    /// Starts fetching a segment from a peer, beside the one that may be here. An earlier copy of it is dropped.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn begin_copy(
        &self,
        first: TxId,
        writer_epoch: Epoch,
        digest_before: Digest,
    ) -> Result<SegmentCopy<D>, JournalError> {
        assert!(first.0 > 0, "transactions count from 1");
        self.inner.borrow().check_poison()?;
        let path = self.directory.join(copy_name(first));
        match self.disk.remove_file(&path).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let file = self
            .disk
            .open(&path, OpenOptions::create_new().direct())
            .await?;
        Ok(self.copy(path, file, first, writer_epoch, digest_before))
    }

    fn copy(
        &self,
        path: PathBuf,
        file: D::File,
        first: TxId,
        writer_epoch: Epoch,
        digest_before: Digest,
    ) -> SegmentCopy<D> {
        let held = Rc::new(());
        let copying = &mut self.inner.borrow_mut().copying;
        copying.retain(|_, copy| copy.strong_count() > 0);
        copying.insert(first, Rc::downgrade(&held));
        SegmentCopy {
            disk: self.disk.clone(),
            file,
            path,
            namespace_id: self.options.namespace_id,
            first,
            writer_epoch,
            digest_before,
            next: first,
            digest: digest_before,
            epoch: Epoch(0),
            stage: Vec::new(),
            offset: HEADER_LEN as u64,
            finished: false,
            _held: held,
        }
    }

    /// The finished copy of a segment that a crash kept from being installed. A copy that was not finished is removed.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn finished_copy(&self, first: TxId) -> Result<Option<SegmentCopy<D>>, JournalError> {
        self.inner.borrow().check_poison()?;
        let path = self.directory.join(copy_name(first));
        if !self.disk.exists(&path).await? {
            return Ok(None);
        }
        let file = self.disk.open(&path, OpenOptions::write().direct()).await?;
        file.sync_data().await?;
        let namespace_id = self.options.namespace_id;
        let scanned = scan(
            &self.disk,
            &file,
            first,
            None,
            namespace_id,
            self.committed.get(),
        )
        .await?;
        let (Some(header), Some(last), End::Clean) = (scanned.header, scanned.last, scanned.end)
        else {
            self.disk.remove_file(&path).await?;
            return Ok(None);
        };
        let mut copy = self.copy(path, file, first, header.writer_epoch, header.digest_before);
        copy.next = last.next();
        copy.digest = scanned.digest.expect("the header is good");
        copy.offset = scanned.offset;
        copy.finished = true;
        Ok(Some(copy))
    }

    /// Puts a finished copy in the place of the segment here, if any. Durable on return; after a crash there is the
    /// old segment or the copy. The segment is not open for appending afterwards.
    ///
    /// # Errors
    /// [`JournalError::NoSegment`] when the file of the copy is gone, [`JournalError::AlreadyFinalised`] with another end, [`JournalError::DigestDiffers`] when, with
    /// [`Behind::Keep`], what can be read here is not what the copy holds, or the disk fails.
    pub async fn install(
        &self,
        copy: SegmentCopy<D>,
        place: Place,
        behind: Behind,
    ) -> Result<SegmentInfo, JournalError> {
        assert!(copy.finished, "an unfinished copy may be torn");
        let (first, last) = (copy.first, TxId(copy.next.0 - 1));
        let mut guard = self.exclusive().await?;
        let there = self
            .inner
            .borrow()
            .segment(first)
            .ok()
            .map(|segment| segment.info.clone());
        if !self.disk.exists(&copy.path).await? {
            // Somebody else took it away.
            return Err(JournalError::NoSegment { first });
        }
        let finalised = there.as_ref().filter(|info| info.finalised);
        if let Some(info) = finalised
            && (place == Place::InProgress || info.last != Some(last))
        {
            return Err(JournalError::AlreadyFinalised {
                first,
                last: info.last.unwrap_or(first),
            });
        }
        let keep = there.is_some() && place == Place::InProgress && behind == Behind::Keep;
        if keep {
            self.check_agreement(&copy).await?;
        }
        guard.arm("install of a copied segment");
        self.close(first, &mut guard);
        if keep {
            self.keep_behind(&copy).await?;
        }
        let name = match place {
            Place::Finalised => finalised_name(first, last),
            Place::InProgress => in_progress_name(first),
        };
        self.disk
            .rename(&copy.path, &self.directory.join(name))
            .await?;
        self.disk.sync_dir(&self.directory).await?;
        if place == Place::Finalised && there.is_some_and(|info| !info.finalised) {
            self.disk
                .remove_file(&self.directory.join(in_progress_name(first)))
                .await?;
            self.disk.sync_dir(&self.directory).await?;
        }
        let name_last = (place == Place::Finalised).then_some(last);
        self.inner
            .borrow_mut()
            .segments
            .insert(first, Segment::unscanned(first, name_last));
        let info = self.rescan(first).await?;
        guard.disarm();
        Ok(info)
    }

    /// What both hold is the same.
    async fn check_agreement(&self, copy: &SegmentCopy<D>) -> Result<(), JournalError> {
        let (first, last) = (copy.first, TxId(copy.next.0 - 1));
        let (have, ours) = {
            let inner = self.inner.borrow();
            let segment = inner.segment(first)?;
            (segment.last(), segment.info.digest)
        };
        let differs = |at| Err(JournalError::DigestDiffers { at });
        let Some(ours) = ours else {
            // Without a header nothing could be read here: there is nothing to disagree with.
            return Ok(());
        };
        if have > last {
            let ours = self.locate(first, last.next()).await?.digest;
            return if ours == copy.digest {
                Ok(())
            } else {
                differs(last)
            };
        }
        let index = Index::starting(&self.copy_header(copy).await?);
        let theirs = digest_at(&self.disk, &copy.file, &index, have).await?;
        if theirs == Some(ours) {
            Ok(())
        } else {
            differs(have)
        }
    }

    async fn copy_header(&self, copy: &SegmentCopy<D>) -> Result<SegmentHeader, JournalError> {
        let first = copy.first;
        let header = read_header(&self.disk, &copy.file, first, self.options.namespace_id).await?;
        header.ok_or(JournalError::Unreadable { first, from: first })
    }

    /// Takes over what stands behind the copy's end in the segment here, byte for byte: records stand at the same
    /// offsets on every node, and a bad record stays the bad record it was.
    async fn keep_behind(&self, copy: &SegmentCopy<D>) -> Result<(), JournalError> {
        let ours = self.file(copy.first).await?;
        let index = Index::starting(&self.copy_header(copy).await?);
        // The copy's own offset counts the padding of its last block.
        let end = place_of(&self.disk, &copy.file, &index, copy.next).await?;
        let end = end
            .ok_or(JournalError::Unreadable {
                first: copy.first,
                from: copy.first,
            })?
            .offset;
        let length = ours.length().await?;
        let mut at = end / BLOCK * BLOCK;
        let mut total = end.next_multiple_of(BLOCK);
        while at < length {
            let bytes = usize::try_from((length - at).min(STAGE_LEN as u64))
                .expect("bounded")
                .next_multiple_of(ALIGN);
            let (read, mut buf) = {
                let buf = self.disk.buf(bytes).await;
                let (read, buf) = ours.read_at(buf, 0..bytes, at).await;
                (read?, buf)
            };
            buf.as_mut()[read..bytes].fill(0);
            if at < end {
                let own = usize::try_from(end - at).expect("within a block");
                let (block, copied) = {
                    let block = self.disk.buf(ALIGN).await;
                    let (copied, block) = copy.file.read_at(block, 0..ALIGN, at).await;
                    (block, copied?)
                };
                assert!(copied >= own, "the copy was written up to its end");
                buf.as_mut()[..own].copy_from_slice(&block.as_ref()[..own]);
            }
            copy.file.write_at(buf, 0..bytes, at).await.0?;
            at += bytes as u64;
            total = total.max(at);
        }
        copy.file.sync_data().await?;
        // A cut file lost nobody knows what: the doubt about it stays, in the form of a length that cannot be.
        let legal = self.inner.borrow().segment(copy.first)?.length_legal;
        copy.write_header(if legal { total } else { total + BLOCK })
            .await?;
        Ok(())
    }

    /// The accepted recovery of a segment, as stored (T-Q12).
    ///
    /// # Errors
    /// When the disk fails. An unreadable record is [`Contents::Unreadable`].
    pub async fn accepted(&self, first: TxId) -> Result<Contents, JournalError> {
        let path = self.directory.join(accepted_name(first));
        if !self.disk.exists(&path).await? {
            return Ok(Contents::Empty);
        }
        Ok(Record::open(&self.disk, &path).await?.1)
    }

    /// Stores the accepted recovery of a segment, opaque here, at most [`store_record::PAYLOAD_MAX`] bytes. Durable on
    /// return. An unreadable one is replaced: storing is a new acceptance.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn store_accepted(&self, first: TxId, payload: &[u8]) -> Result<(), JournalError> {
        let mut guard = self.acquire().await?;
        guard.arm("store of an accepted recovery");
        let path = self.directory.join(accepted_name(first));
        let (mut record, contents) = Record::open(&self.disk, &path).await?;
        if contents == Contents::Unreadable {
            record = Record::recreate(&self.disk, &path).await?;
        }
        record.store(payload).await?;
        guard.disarm();
        Ok(())
    }

    /// Forgets the accepted recovery of a segment. Durable on return.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove_accepted(&self, first: TxId) -> Result<(), JournalError> {
        let mut guard = self.acquire().await?;
        let path = self.directory.join(accepted_name(first));
        if self.disk.exists(&path).await? {
            guard.arm("removal of an accepted recovery");
            self.disk.remove_file(&path).await?;
            self.disk.sync_dir(&self.directory).await?;
            guard.disarm();
        }
        Ok(())
    }
}
