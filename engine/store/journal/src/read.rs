//! Reading records back.

use crate::journal::Journal;
use crate::records::{Parsed, chain_framed, parse};
use crate::scan::{Entry, Stream};
use crate::{BATCH_BYTES_MAX, Batch, Chunk, JournalError};
use bytes::Bytes;
use hadal_env::{ALIGN, Disk, DiskError, File};
use hadal_types::TxId;

/// Length of the record at the stream's place, which must be `txid`; `None` when it is not.
pub(crate) async fn next_record<D: Disk>(
    stream: &mut Stream<'_, D>,
    txid: TxId,
) -> Result<Option<usize>, DiskError> {
    loop {
        match parse(stream.rest()) {
            Parsed::Short(bytes) => {
                if !stream.fill(bytes).await? {
                    return Ok(None);
                }
            }
            Parsed::Record(record) if record.txid == txid => return Ok(Some(record.length)),
            Parsed::Record(_) | Parsed::Zero | Parsed::TooLong(_) | Parsed::Bad => return Ok(None),
        }
    }
}

impl<D: Disk> Journal<D> {
    /// Durable records from `from` on, up to `up_to` and about `max_bytes` (at least one record, at most
    /// [`BATCH_BYTES_MAX`]), of one segment. Verified, and handed out without a copy.
    ///
    /// `None` when nothing from `from` on is durable here yet and `from` is not beyond the next txid. Where segments
    /// overlap, the later one counts: it was started knowing where the earlier one ends.
    ///
    /// # Errors
    /// [`JournalError::NotHere`] when the records were purged or lie in a gap between segments (never "no new edits",
    /// Q21), [`JournalError::Unreadable`] when they are damaged, or the disk fails.
    pub async fn read(
        &self,
        from: TxId,
        up_to: TxId,
        max_bytes: usize,
    ) -> Result<Option<Chunk>, JournalError> {
        if up_to < from {
            return Ok(None);
        }
        let Some((first, limit, end_of_segment)) = self.holder(from)? else {
            return Ok(None);
        };
        let limit = limit.min(up_to);
        let place = self.locate(first, from).await?;
        let file = self.file(first).await?;
        let base = place.offset / ALIGN as u64 * ALIGN as u64;
        let skip = usize::try_from(place.offset - base).expect("within a block");
        let max_bytes = max_bytes.min(BATCH_BYTES_MAX);
        let mut window = skip
            + max_bytes
                .max(1)
                .min(self.bytes_behind(first, place.offset)?);
        loop {
            let wanted = window.next_multiple_of(ALIGN);
            let buf = self.disk.buf(wanted).await;
            let (read, buf) = file.read_at(buf, 0..wanted, base).await;
            let read = read?;
            let mut batch = Walk {
                place,
                at: skip,
                bytes: 0,
            };
            let short = batch.walk(&buf.as_ref()[..read], limit, max_bytes);
            if batch.bytes == 0 {
                match short {
                    Some(needed) if read == wanted => {
                        window = skip + needed;
                        continue;
                    }
                    _ => return Err(JournalError::Unreadable { first, from }),
                }
            }
            let end = batch.place;
            let framed = Bytes::from_owner(buf).slice(skip..batch.at);
            let batch = Batch::verified(
                framed,
                place.txid,
                place.digest,
                TxId(end.txid.0 - 1),
                end.digest,
            );
            if let Ok(segment) = self.inner.borrow_mut().segment_mut(first) {
                segment.index.note(end);
                segment.index.hint = Some(end);
            }
            let end_of_segment = end_of_segment == Some(batch.last());
            return Ok(Some(Chunk {
                batch,
                segment: first,
                end_of_segment,
            }));
        }
    }

    /// How much of a segment may be read from a place on: behind its last record stand preallocated zeros, and a reader that
    /// follows the writer wants a few hundred bytes. Unbounded while the segment was not scanned.
    fn bytes_behind(&self, first: TxId, offset: u64) -> Result<usize, JournalError> {
        let end = self.inner.borrow().segment(first)?.offset;
        let behind = (end > 0).then(|| usize::try_from(end.saturating_sub(offset)).ok());
        // Never nothing: a record at the place decides by its own length how much is read.
        Ok(behind.flatten().unwrap_or(usize::MAX).max(1))
    }

    /// The segment that holds `txid`, the last txid to be read from it, and where it ends when finalised.
    fn holder(&self, txid: TxId) -> Result<Option<(TxId, TxId, Option<TxId>)>, JournalError> {
        let inner = self.inner.borrow();
        let oldest = inner.segments.keys().next().copied();
        let not_here = JournalError::NotHere { txid, oldest };
        let Some((&first, segment)) = inner.segments.range(..=txid).next_back() else {
            return Err(not_here);
        };
        let following = inner.segments.range(txid.next()..).next();
        if txid > segment.last() || segment.unreadable_from().is_some_and(|from| txid >= from) {
            return match (segment.unreadable_from(), following) {
                (Some(from), _) if txid >= from => Err(JournalError::Unreadable { first, from }),
                (_, None) if txid == segment.last().next() => Ok(None),
                _ => Err(not_here),
            };
        }
        let mut limit = segment.last();
        if let Some(from) = segment.unreadable_from() {
            limit = limit.min(TxId(from.0 - 1));
        }
        if let Some((&following, _)) = following {
            limit = limit.min(TxId(following.0 - 1));
        }
        Ok(Some((
            first,
            limit,
            segment.info.last.filter(|_| segment.info.finalised),
        )))
    }
}

/// Walks over records in a buffer.
struct Walk {
    /// Behind the records taken.
    place: Entry,
    /// The same place in the buffer.
    at: usize,
    /// Bytes taken.
    bytes: usize,
}

impl Walk {
    /// Takes whole records up to `limit` and `max_bytes`; answers how many bytes the next one needs when the buffer
    /// ends inside it.
    fn walk(&mut self, buffer: &[u8], limit: TxId, max_bytes: usize) -> Option<usize> {
        while self.place.txid <= limit {
            let rest = &buffer[self.at..];
            let record = match parse(rest) {
                Parsed::Record(record) if record.txid == self.place.txid => record,
                Parsed::Short(needed) => return Some(needed),
                _ => return None,
            };
            if self.bytes > 0 && self.bytes + record.length > max_bytes {
                return None;
            }
            let digest = chain_framed(&self.place.digest, &rest[..record.length]);
            self.at += record.length;
            self.bytes += record.length;
            self.place = Entry {
                txid: record.txid.next(),
                offset: self.place.offset + record.length as u64,
                digest,
            };
        }
        None
    }
}
