//! Reading a segment from one end to the other.

use crate::header::{HEADER_LEN, SegmentHeader};
use crate::records::{Parsed, chain_framed, parse};
use crate::recovery::{End, Facts, Stop};
use crate::{Digest, JournalError};
use hadal_env::{ALIGN, Disk, DiskError, File};
use hadal_types::{CURRENT_LAYOUT, Epoch, TxId};

/// Bytes read at a time.
const READ_LEN: usize = 256 << 10;
/// Zeros written at a time.
const ZERO_LEN: usize = 1 << 20;
/// Bytes between two entries of an index.
const INDEX_STRIDE: u64 = 64 << 10;
/// A crash keeps or loses whole sectors.
const SECTOR: u64 = 512;
/// A segment grows by at most this.
pub(crate) const GROWTH_MAX: u64 = 16 << 20;
const HEADER: u64 = HEADER_LEN as u64;
const BLOCK: u64 = ALIGN as u64;

/// Where a record stands, and the digest before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) txid: TxId,
    pub(crate) offset: u64,
    pub(crate) digest: Digest,
}

/// Where some records of a segment stand, in order; the first entry is the first record's place.
#[derive(Clone, Default, Debug)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    /// Where the last read ended: the next one starts there.
    pub(crate) hint: Option<Entry>,
}

impl Index {
    pub(crate) fn starting(header: &SegmentHeader) -> Self {
        Self {
            entries: vec![Entry {
                txid: header.first,
                offset: HEADER,
                digest: header.digest_before,
            }],
            hint: None,
        }
    }

    /// Notes a record's place, when it is far enough behind the last one noted.
    pub(crate) fn note(&mut self, entry: Entry) {
        if self
            .entries
            .last()
            .is_some_and(|last| entry.offset >= last.offset + INDEX_STRIDE)
        {
            self.entries.push(entry);
        }
    }

    /// The nearest known place at or before a record.
    pub(crate) fn nearest(&self, txid: TxId) -> Option<Entry> {
        let behind = self.entries.partition_point(|entry| entry.txid <= txid);
        let entry = *self.entries.get(behind.checked_sub(1)?)?;
        match self.hint {
            Some(hint) if hint.txid <= txid && hint.txid > entry.txid => Some(hint),
            _ => Some(entry),
        }
    }

    /// Forgets places behind `txid`.
    pub(crate) fn cut(&mut self, txid: TxId) {
        self.entries.retain(|entry| entry.txid <= txid);
        self.hint = None;
    }
}

/// What a scan found.
pub(crate) struct Scanned {
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) last: Option<TxId>,
    pub(crate) end: End,
    pub(crate) epochs: Option<(Epoch, Epoch)>,
    pub(crate) digest: Option<Digest>,
    /// Behind the last readable record.
    pub(crate) offset: u64,
    /// Behind the last byte that is not zero.
    pub(crate) data_end: u64,
    /// See [`Facts::length_legal`].
    pub(crate) length_legal: bool,
    pub(crate) index: Index,
}

impl Scanned {
    /// See [`crate::SegmentInfo::doubtful_bytes`].
    pub(crate) fn doubtful_bytes(&self) -> Option<u64> {
        let known = self.header.is_some() && self.length_legal;
        (known && matches!(self.end, End::Doubtful(_))).then(|| self.data_end - HEADER)
    }
}

/// A window over a file that moves forward.
pub(crate) struct Stream<'a, D: Disk> {
    disk: &'a D,
    file: &'a D::File,
    window: Vec<u8>,
    /// Consumed bytes of the window.
    at: usize,
    /// File offset of the next read.
    next: u64,
    ended: bool,
}

impl<'a, D: Disk> Stream<'a, D> {
    /// Starts at any offset.
    pub(crate) async fn at(disk: &'a D, file: &'a D::File, offset: u64) -> Result<Self, DiskError> {
        let next = offset / BLOCK * BLOCK;
        let mut stream = Self {
            disk,
            file,
            window: Vec::new(),
            at: 0,
            next,
            ended: false,
        };
        let skip = usize::try_from(offset - next).expect("within a block");
        stream.fill(skip).await?;
        stream.at = skip.min(stream.window.len());
        Ok(stream)
    }

    /// What is there from the current place on.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.window[self.at..]
    }

    /// File offset of the current place.
    pub(crate) fn offset(&self) -> u64 {
        self.next - (self.window.len() - self.at) as u64
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.at += bytes;
        assert!(self.at <= self.window.len(), "consumed what was never read");
    }

    /// Reads until `bytes` are there; false when the file ends before.
    pub(crate) async fn fill(&mut self, bytes: usize) -> Result<bool, DiskError> {
        while self.rest().len() < bytes && !self.ended {
            self.window.drain(..self.at);
            self.at = 0;
            let buf = self.disk.buf(READ_LEN).await;
            let (read, buf) = self.file.read_at(buf, 0..READ_LEN, self.next).await;
            let read = read?;
            self.window.extend_from_slice(&buf.as_ref()[..read]);
            self.next += read as u64;
            self.ended = read < READ_LEN;
        }
        Ok(self.rest().len() >= bytes)
    }

    /// Reads to the end of the file: file offsets of the first byte that is not zero and behind the last one.
    async fn non_zero(&mut self) -> Result<Option<(u64, u64)>, DiskError> {
        let mut found: Option<(u64, u64)> = None;
        loop {
            let (here, rest) = (self.offset(), self.rest());
            if let Some((first, last)) = non_zero_span(rest) {
                let start = found.map_or(here + first as u64, |(start, _)| start);
                found = Some((start, here + last as u64 + 1));
            }
            self.consume(self.rest().len());
            if !self.fill(1).await? {
                return Ok(found);
            }
        }
    }
}

/// First and last byte that are not zero. Most of a segment is preallocated: zeros are passed over in pieces, each
/// compared as a whole.
fn non_zero_span(bytes: &[u8]) -> Option<(usize, usize)> {
    const PIECE: usize = 256;
    const ZEROS: [u8; PIECE] = [0; PIECE];
    let is_zero = |piece: &[u8]| *piece == ZEROS[..piece.len()];
    let place = bytes.chunks(PIECE).position(|piece| !is_zero(piece))?;
    let skipped = place * PIECE;
    let first = skipped + bytes[skipped..].iter().position(|&byte| byte != 0)?;
    let tail = bytes
        .rchunks(PIECE)
        .take_while(|piece| is_zero(piece))
        .map(<[u8]>::len)
        .sum::<usize>();
    let last = bytes[..bytes.len() - tail]
        .iter()
        .rposition(|&byte| byte != 0)?;
    Some((first, last))
}

/// The length is one that growth from `initial` passes through.
fn length_legal(length: u64, initial: u64) -> bool {
    let mut step = initial;
    if initial <= HEADER {
        return false;
    }
    while step < length {
        step = grown(step);
    }
    step == length
}

/// The length after the next growth.
pub(crate) fn grown(length: u64) -> u64 {
    length + (length - HEADER).min(GROWTH_MAX)
}

/// Reads the header of a segment; `None` when it is damaged or another segment's.
pub(crate) async fn read_header<D: Disk>(
    disk: &D,
    file: &D::File,
    first: TxId,
    namespace_id: u64,
) -> Result<Option<SegmentHeader>, JournalError> {
    let buf = disk.buf(HEADER_LEN).await;
    let (read, buf) = file.read_at(buf, 0..HEADER_LEN, 0).await;
    let Some(header) =
        SegmentHeader::decode(&buf.as_ref()[..read?]).filter(|header| header.first == first)
    else {
        return Ok(None);
    };
    if header.layout != CURRENT_LAYOUT.0 {
        return Err(JournalError::UnknownLayout {
            first,
            found: header.layout,
            known: CURRENT_LAYOUT.0,
        });
    }
    if header.namespace_id != namespace_id {
        return Err(JournalError::OtherNamespace {
            first,
            found: header.namespace_id,
            expected: namespace_id,
        });
    }
    Ok(Some(header))
}

/// Scans the segment that its name says starts at `first` and, when finalised, ends at `name_last`.
pub(crate) async fn scan<D: Disk>(
    disk: &D,
    file: &D::File,
    first: TxId,
    name_last: Option<TxId>,
    namespace_id: u64,
    committed: TxId,
) -> Result<Scanned, JournalError> {
    let length = file.length().await?;
    let header = read_header(disk, file, first, namespace_id).await?;
    let mut stream = Stream::at(disk, file, HEADER).await?;
    let mut next = first;
    let mut epochs: Option<(Epoch, Epoch)> = None;
    let mut digest = header.map(|header| header.digest_before);
    let mut index = header.as_ref().map(Index::starting).unwrap_or_default();
    let mut offset = HEADER.min(length);
    let mut zero_head = false;
    let complete = |next: TxId| name_last.is_some_and(|last| next > last);
    let mut stop = loop {
        let (Some(running), false) = (digest, complete(next)) else {
            break Stop::Zeros;
        };
        match parse(stream.rest()) {
            Parsed::Short(bytes) => {
                if stream.fill(bytes).await? {
                    continue;
                }
                break if stream.rest().iter().all(|&b| b == 0) {
                    Stop::Zeros
                } else {
                    Stop::Bad
                };
            }
            Parsed::Zero => {
                zero_head = true;
                break Stop::Hole;
            }
            Parsed::TooLong(_) | Parsed::Bad => break Stop::Bad,
            Parsed::Record(record) => {
                if record.txid != next || epochs.is_some_and(|(_, high)| record.epoch < high) {
                    break Stop::OutOfSequence;
                }
                digest = Some(chain_framed(&running, &stream.rest()[..record.length]));
                epochs = Some((epochs.map_or(record.epoch, |(low, _)| low), record.epoch));
                stream.consume(record.length);
                next = next.next();
                offset = stream.offset();
                index.note(Entry {
                    txid: next,
                    offset,
                    digest: digest.expect("just computed"),
                });
            }
        }
    };
    let behind = stream.non_zero().await?;
    if zero_head {
        stop = match behind {
            None => Stop::Zeros,
            Some((start, _)) if start / SECTOR > offset / SECTOR => Stop::Hole,
            Some(_) => Stop::Bad,
        };
    }
    let facts = Facts {
        finalised: name_last.is_some(),
        header_good: header.is_some(),
        empty: next == first && behind.is_none(),
        stop,
        length_legal: match &header {
            Some(header) => length_legal(length, header.initial_length),
            None => length >= HEADER + BLOCK && length.is_multiple_of(BLOCK),
        },
        complete: header.is_some() && complete(next),
        committed: next <= committed,
    };
    Ok(Scanned {
        header,
        last: (next > first).then(|| TxId(next.0 - 1)),
        end: facts.decide(next),
        epochs,
        digest,
        offset,
        data_end: behind.map_or(offset, |(_, end)| end),
        length_legal: facts.length_legal,
        index,
    })
}

/// The place of record `txid` in a file, walking from the nearest place known; `None` when it cannot be reached.
pub(crate) async fn place_of<D: Disk>(
    disk: &D,
    file: &D::File,
    index: &Index,
    txid: TxId,
) -> Result<Option<Entry>, DiskError> {
    let Some(mut place) = index.nearest(txid) else {
        return Ok(None);
    };
    let mut stream = Stream::at(disk, file, place.offset).await?;
    while place.txid < txid {
        let Some(length) = crate::read::next_record(&mut stream, place.txid).await? else {
            return Ok(None);
        };
        let digest = chain_framed(&place.digest, &stream.rest()[..length]);
        stream.consume(length);
        place = Entry {
            txid: place.txid.next(),
            offset: stream.offset(),
            digest,
        };
    }
    Ok(Some(place))
}

/// Running digest behind record `txid` of a file.
pub(crate) async fn digest_at<D: Disk>(
    disk: &D,
    file: &D::File,
    index: &Index,
    txid: TxId,
) -> Result<Option<Digest>, DiskError> {
    Ok(place_of(disk, file, index, txid.next())
        .await?
        .map(|place| place.digest))
}

/// Zeroes `from..to` (the file is open with direct and dsync): first the rest of the block that `from` lies in, so
/// that what is left after a crash still begins with a hole, then the blocks behind.
pub(crate) async fn zero<D: Disk>(
    disk: &D,
    file: &D::File,
    from: u64,
    to: u64,
) -> Result<(), DiskError> {
    if from >= to {
        return Ok(());
    }
    let block = from / BLOCK * BLOCK;
    let mut at = block;
    if from > block {
        let buf = disk.buf(ALIGN).await;
        let (read, mut buf) = file.read_at(buf, 0..ALIGN, block).await;
        let keep = usize::try_from(from - block)
            .expect("within a block")
            .min(read?);
        buf.as_mut()[keep..ALIGN].fill(0);
        file.write_at(buf, 0..ALIGN, block).await.0?;
        at = block + BLOCK;
    }
    let end = to.next_multiple_of(BLOCK);
    while at < end {
        let bytes = usize::try_from((end - at).min(ZERO_LEN as u64)).expect("bounded");
        let mut buf = disk.buf(bytes).await;
        buf.as_mut()[..bytes].fill(0);
        file.write_at(buf, 0..bytes, at).await.0?;
        at += bytes as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_what_is_not_zero_is_found_anywhere() {
        let mut bytes = vec![0u8; 1500];
        assert_eq!(non_zero_span(&bytes), None);
        assert_eq!(non_zero_span(&[]), None);
        for at in [0, 1, 255, 256, 700, 1499] {
            bytes[at] = 7;
            assert_eq!(non_zero_span(&bytes), Some((at, at)));
            bytes[900] = 1;
            assert_eq!(non_zero_span(&bytes), Some((at.min(900), at.max(900))));
            bytes.fill(0);
        }
    }

    #[test]
    fn growth_passes_through_known_lengths() {
        let initial = HEADER + (1 << 20);
        let mut length = initial;
        for _ in 0..20 {
            assert!(length_legal(length, initial));
            assert!(!length_legal(length - BLOCK, initial) && !length_legal(length + 1, initial));
            length = grown(length);
        }
        assert_eq!(grown(initial), HEADER + (2 << 20));
        assert!(!length_legal(0, 0) && !length_legal(HEADER + 1, HEADER));
    }
}
