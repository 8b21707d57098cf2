//! Group commit: many batches, one durable write.

use crate::header::HEADER_LEN;
use crate::journal::{Guard, Journal};
use crate::scan::{Entry, grown};
use crate::{Appended, Batch, BatchError, Digest, JournalError, Tail};
use futures_util::future::join;
use hadal_env::{ALIGN, Disk, DiskError, File};
use hadal_types::{Epoch, TxId};
use std::rc::Rc;

/// Batches are coalesced up to this many bytes per write, so that with the block in front they fit a buffer of 1 MiB;
/// a single batch may be larger.
const GROUP_BYTES_MAX: usize = (1 << 20) - ALIGN;
/// Bytes handed in and not yet written; more are refused.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Zeros written ahead beside one group, at least and at most. The first write of a block journals metadata, and every
/// durable append on the file at that moment waits for it: so rarely, and many at a time.
const ZEROS_MIN: u64 = 256 << 10;
const ZEROS_MAX: u64 = 1 << 20;
const BLOCK: u64 = ALIGN as u64;

/// The segment open for appending.
pub(crate) struct Open<D: Disk> {
    pub(crate) first: TxId,
    pub(crate) writer_epoch: Epoch,
    pub(crate) file: Rc<D::File>,
    /// Behind everything handed in.
    pub(crate) next: TxId,
    pub(crate) digest: Digest,
    pub(crate) epoch: Epoch,
    /// Behind everything durable.
    pub(crate) durable: Entry,
    /// The bytes of the block that `durable.offset` lies in, up to it.
    pub(crate) block: Vec<u8>,
    /// Of the file.
    pub(crate) length: u64,
    /// Zeros were really written up to here.
    pub(crate) zeroed: u64,
}

impl<D: Disk> Open<D> {
    /// A segment whose last durable record ends at `end`, in a file of `length` bytes.
    pub(crate) fn new(
        first: TxId,
        writer_epoch: Epoch,
        file: Rc<D::File>,
        end: Entry,
        epoch: Epoch,
        block: Vec<u8>,
        length: u64,
    ) -> Self {
        assert_eq!(
            block.len() as u64,
            end.offset % BLOCK,
            "the last block goes up to the end of the log"
        );
        Self {
            first,
            writer_epoch,
            file,
            next: end.txid,
            digest: end.digest,
            epoch,
            durable: end,
            block,
            length,
            zeroed: length,
        }
    }

    pub(crate) fn tail(&self) -> Tail {
        Tail {
            first: self.first,
            writer_epoch: self.writer_epoch,
            next: self.next,
            digest: self.digest,
            durable: TxId(self.durable.txid.0 - 1),
            durable_digest: self.durable.digest,
        }
    }

    /// The batch continues what was handed in so far.
    fn check(&self, batch: &Batch) -> Result<(), JournalError> {
        if batch.first() != self.next {
            return Err(JournalError::OutOfSync {
                expected: self.next,
                found: batch.first(),
            });
        }
        if batch.digest_before() != self.digest {
            return Err(JournalError::DigestDiffers {
                at: TxId(self.next.0 - 1),
            });
        }
        if batch.epochs().0 < self.epoch {
            return Err(BatchError::EpochWentDown {
                before: self.epoch,
                found: batch.epochs().0,
            }
            .into());
        }
        Ok(())
    }
}

/// Batches that go into one write.
struct Group<D: Disk> {
    batches: Vec<Batch>,
    file: Rc<D::File>,
    /// What stands before them in the first block.
    block: Vec<u8>,
    /// Where the first block starts.
    start: u64,
    /// Bytes of records.
    bytes: usize,
    length: u64,
    zeroed: u64,
}

impl<D: Disk> Journal<D> {
    /// Appends a batch that continues [`Journal::tail`]. Durable when this returns.
    ///
    /// The order of the log is the order in which the futures are first polled. Batches that wait while a write is
    /// under way go out together in the next one. A future dropped while it waits takes nothing back; dropped while
    /// it writes, it poisons the journal (the outcome is unknown).
    ///
    /// # Errors
    /// Before anything is written: [`JournalError::NoOpenSegment`], [`JournalError::OutOfSync`],
    /// [`JournalError::DigestDiffers`], [`JournalError::Batch`] (epoch went down), [`JournalError::QueueFull`]. After
    /// a failed write: the failure for the one who wrote, [`JournalError::Poisoned`] for all others.
    pub async fn append(&self, batch: Batch) -> Result<Appended, JournalError> {
        let appended = Appended {
            last: batch.last(),
            digest: batch.digest(),
        };
        let ticket = {
            let mut inner = self.inner.borrow_mut();
            inner.check_poison()?;
            inner
                .open
                .as_ref()
                .ok_or(JournalError::NoOpenSegment)?
                .check(&batch)?;
            if inner.queued_bytes + batch.bytes().len() > QUEUE_BYTES_MAX {
                return Err(JournalError::QueueFull {
                    queued: inner.queued_bytes,
                });
            }
            let open = inner.open.as_mut().expect("checked above");
            open.next = batch.last().next();
            open.digest = batch.digest();
            open.epoch = batch.epochs().1;
            inner.queued_bytes += batch.bytes().len();
            inner.queue.push_back(batch);
            inner.tickets += 1;
            inner.tickets
        };
        loop {
            {
                let inner = self.inner.borrow();
                if inner.written >= ticket {
                    return Ok(appended);
                }
                inner.check_poison()?;
            }
            // Whoever finds nobody writing writes for all.
            match self.try_acquire() {
                Some(guard) => self.write_group(guard).await?,
                None => self.changed().await,
            }
        }
    }

    /// Writes what is queued, as much as fits one write.
    pub(crate) async fn write_group(&self, mut guard: Guard<'_, D>) -> Result<(), JournalError> {
        let Some(group) = self.take_group() else {
            return Ok(());
        };
        guard.arm("append");
        let count = group.batches.len() as u64;
        let last = group.batches.last().expect("a group has batches");
        let (txid, digest) = (last.last().next(), last.digest());
        let end = group.start + (group.block.len() + group.bytes) as u64;
        let (length, zeroed, block) = self.write(group, end).await?;
        let mut inner = self.inner.borrow_mut();
        inner.written += count;
        let inner = &mut *inner;
        let open = inner
            .open
            .as_mut()
            .expect("stays open while batches are queued");
        open.durable = Entry {
            txid,
            offset: end,
            digest,
        };
        (open.length, open.zeroed, open.block) = (length, zeroed, block);
        let segment = inner
            .segments
            .get_mut(&open.first)
            .expect("the open segment is listed");
        segment.appended(open.durable, open.epoch);
        guard.disarm();
        Ok(())
    }

    fn take_group(&self) -> Option<Group<D>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut batches = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = inner.queue.front() {
            let more = batch.bytes().len();
            if bytes > 0 && bytes + more > GROUP_BYTES_MAX {
                break;
            }
            bytes += more;
            batches.push(inner.queue.pop_front()?);
        }
        inner.queued_bytes -= bytes;
        let open = inner.open.as_ref()?;
        let block = open.block.clone();
        let start = open.durable.offset - block.len() as u64;
        let group = Group {
            batches,
            file: open.file.clone(),
            block,
            start,
            bytes,
            length: open.length,
            zeroed: open.zeroed,
        };
        (group.bytes > 0).then_some(group)
    }

    /// One write of whole blocks: the same bytes as before in front, the new records, zeros behind. Beside it zeros
    /// are written ahead, so that later appends find blocks that need no allocation.
    async fn write(&self, group: Group<D>, end: u64) -> Result<(u64, u64, Vec<u8>), DiskError> {
        let Group {
            batches,
            file,
            block,
            start,
            bytes,
            mut length,
            mut zeroed,
        } = group;
        let blocks_end = end.next_multiple_of(BLOCK);
        while blocks_end > length {
            length = grow(&*file, length).await?;
        }
        if blocks_end + self.options.zero_ahead_bytes > length {
            match grow(&*file, length).await {
                Ok(longer) => length = longer,
                // This group still has room; the one that has not will say so.
                Err(error) if error.is_full() => {}
                Err(error) => return Err(error),
            }
        }
        let mut last_block = Vec::new();
        let records = async {
            let total = usize::try_from(blocks_end - start).expect("bounded by the group");
            let mut buf = self.disk.buf(total).await;
            let out = &mut buf.as_mut()[..total];
            out[..block.len()].copy_from_slice(&block);
            let mut at = block.len();
            for batch in &batches {
                out[at..at + batch.bytes().len()].copy_from_slice(batch.bytes());
                at += batch.bytes().len();
            }
            assert_eq!(at, block.len() + bytes, "the group is what was counted");
            out[at..].fill(0);
            last_block.extend_from_slice(&out[at / ALIGN * ALIGN..at]);
            file.write_at(buf, 0..total, start).await.0
        };
        let from = zeroed.max(blocks_end);
        let runway = self.options.zero_ahead_bytes;
        let wanted = if from - blocks_end > runway / 2 {
            0
        } else {
            (2 * bytes as u64)
                .clamp(ZEROS_MIN, ZEROS_MAX)
                .next_multiple_of(BLOCK)
        };
        let ahead = blocks_end.saturating_add(runway).min(length);
        let zeros = usize::try_from(wanted.min(ahead.saturating_sub(from))).expect("bounded");
        let ahead = async {
            if zeros > 0 {
                let mut buf = self.disk.buf(zeros).await;
                buf.as_mut()[..zeros].fill(0);
                file.write_at(buf, 0..zeros, from).await.0?;
            }
            Ok(())
        };
        let (records, ahead): (_, Result<(), DiskError>) = join(records, ahead).await;
        records?;
        ahead?;
        if zeros > 0 {
            zeroed = from + zeros as u64;
        }
        Ok((length, zeroed, last_block))
    }
}

async fn grow<F: File>(file: &F, length: u64) -> Result<u64, DiskError> {
    let longer = grown(length);
    file.allocate(length, longer - length).await?;
    // Before anything is written there: a crash must leave one of the lengths that growth passes through.
    file.sync_data().await?;
    Ok(longer)
}

const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN), "records start at a block");
