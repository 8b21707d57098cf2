//! Framing of records, the running digest, and batches.

use crate::BatchError;
use bytes::Bytes;
use hadal_types::{Epoch, TxId};
use store_record::checksum::{crc32c, crc32c_append};
use xxhash_rust::xxh3::xxh3_128;

/// Bytes before a record's payload.
pub const RECORD_HEAD_LEN: usize = 24;
/// Largest payload of one record, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Largest batch, in bytes.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// The running digest of a log up to some record, 16 opaque bytes for whoever compares it.
///
/// `digest(n) = XXH3-128(digest(n-1) ‖ XXH3-128(epoch ‖ txid ‖ payload))`, all integers little-endian, and
/// [`EMPTY_DIGEST`] before the first record. It tells logs of different content or different writers apart; it is
/// not a defence against forgery (mutual TLS and roles are).
pub type Digest = [u8; 16];

/// The digest of a log without records.
pub const EMPTY_DIGEST: Digest = [0; 16];

/// The digest behind a framed record, given the digest before it. `framed` is the whole record, head included.
fn chain(before: &Digest, framed: &[u8]) -> Digest {
    let mut link = [0; 32];
    link[..16].copy_from_slice(before);
    link[16..].copy_from_slice(&xxh3_128(&framed[8..]).to_le_bytes());
    xxh3_128(&link).to_le_bytes()
}

/// The digest behind record `txid` of `epoch`, given the digest before it. [`Batch`] does this on its own; for
/// those who hold records in another form.
#[must_use]
pub fn digest_after(before: &Digest, epoch: Epoch, txid: TxId, payload: &[u8]) -> Digest {
    let mut framed = Vec::with_capacity(RECORD_HEAD_LEN + payload.len());
    frame(&mut framed, epoch, txid, payload);
    chain(before, &framed)
}

/// Appends one framed record to `out`: `{length u32, crc32c u32, epoch u64, txid u64, payload}`, little-endian.
///
/// `length` counts the payload only; `crc32c` covers everything else in the record, `length` included. Head first,
/// so that a scan knows where the next record starts before it has read the payload; txid is at least 1, so a head
/// of zeros is never a record.
///
/// # Panics
/// When `payload` exceeds [`PAYLOAD_BYTES_MAX`] or `txid` is zero: a writer's bug.
pub fn frame(out: &mut Vec<u8>, epoch: Epoch, txid: TxId, payload: &[u8]) {
    assert!(
        payload.len() <= PAYLOAD_BYTES_MAX,
        "record of {} bytes",
        payload.len()
    );
    assert!(txid.0 > 0, "transactions count from 1");
    let start = out.len();
    let length = u32::try_from(payload.len()).expect("capped above");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&txid.0.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = record_crc(&out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn record_crc(framed: &[u8]) -> u32 {
    crc32c_append(crc32c(&framed[..4]), &framed[8..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// One record, found at the start of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Framed {
    pub(crate) epoch: Epoch,
    pub(crate) txid: TxId,
    /// Bytes with the head.
    pub(crate) length: usize,
}

/// What stands at the start of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// A record whose checksum matches.
    Record(Framed),
    /// A head of zeros: no record was written here.
    Zero,
    /// More bytes are needed to tell: this many in all.
    Short(usize),
    /// The head announces more than the cap.
    TooLong(usize),
    /// Checksum mismatch.
    Bad,
}

/// Looks at the record at the start of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    if bytes.len() < RECORD_HEAD_LEN {
        return Parsed::Short(RECORD_HEAD_LEN);
    }
    let head = &bytes[..RECORD_HEAD_LEN];
    if head.iter().all(|&b| b == 0) {
        return Parsed::Zero;
    }
    let payload = u32_at(head, 0) as usize;
    if payload > PAYLOAD_BYTES_MAX {
        return Parsed::TooLong(payload);
    }
    let length = RECORD_HEAD_LEN + payload;
    if bytes.len() < length {
        return Parsed::Short(length);
    }
    let framed = &bytes[..length];
    if record_crc(framed) != u32_at(head, 4) {
        return Parsed::Bad;
    }
    let (epoch, txid) = (Epoch(u64_at(head, 8)), TxId(u64_at(head, 16)));
    if txid.0 == 0 {
        return Parsed::Bad;
    }
    Parsed::Record(Framed {
        epoch,
        txid,
        length,
    })
}

/// The digest behind the framed record `framed`.
pub(crate) fn chain_framed(before: &Digest, framed: &[u8]) -> Digest {
    chain(before, framed)
}

/// One record as a reader gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Epoch of the writer that made it.
    pub epoch: Epoch,
    /// Its number.
    pub txid: TxId,
    /// Opaque payload: a slice of the batch, not a copy.
    pub payload: Bytes,
}

/// Verified consecutive records, framed as they stand on disk, and the digests around them.
///
/// The same bytes go over the wire, to disk and to readers: frame once at the writer, verify wherever they arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    bytes: Bytes,
    first: TxId,
    last: TxId,
    epoch_low: Epoch,
    epoch_high: Epoch,
    before: Digest,
    after: Digest,
}

impl Batch {
    /// Verifies framed records in one pass (caps, checksums, txids without gap starting at `first`, epochs not going
    /// down) and computes the digest behind them from the digest `before` them.
    ///
    /// # Errors
    /// [`BatchError`], naming the first record that is wrong.
    pub fn verify(bytes: Bytes, first: TxId, before: Digest) -> Result<Self, BatchError> {
        if bytes.is_empty() {
            return Err(BatchError::Empty);
        }
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(BatchError::TooLong(bytes.len()));
        }
        let mut batch = Self {
            first,
            last: TxId(first.0.saturating_sub(1)),
            epoch_low: Epoch(0),
            epoch_high: Epoch(0),
            before,
            after: before,
            bytes,
        };
        let mut at = 0;
        while at < batch.bytes.len() {
            let rest = &batch.bytes[at..];
            let record = match parse(rest) {
                Parsed::Record(record) => record,
                Parsed::Short(_) => return Err(BatchError::Cut(batch.last)),
                Parsed::TooLong(length) => {
                    return Err(BatchError::RecordTooLong {
                        after: batch.last,
                        length,
                    });
                }
                Parsed::Zero | Parsed::Bad => return Err(BatchError::Checksum(batch.last)),
            };
            let expected = batch.last.next();
            if record.txid != expected {
                return Err(BatchError::Gap {
                    expected,
                    found: record.txid,
                });
            }
            if record.epoch < batch.epoch_high {
                return Err(BatchError::EpochWentDown {
                    before: batch.epoch_high,
                    found: record.epoch,
                });
            }
            if at == 0 {
                batch.epoch_low = record.epoch;
            }
            batch.epoch_high = record.epoch;
            batch.after = chain(&batch.after, &rest[..record.length]);
            batch.last = record.txid;
            at += record.length;
        }
        Ok(batch)
    }

    /// Records that were verified while they were read.
    pub(crate) fn verified(
        bytes: Bytes,
        first: TxId,
        before: Digest,
        last: TxId,
        after: Digest,
    ) -> Self {
        let mut batch = Self {
            bytes,
            first,
            last,
            epoch_low: Epoch(0),
            epoch_high: Epoch(0),
            before,
            after,
        };
        let mut epochs = batch.records().map(|record| record.epoch);
        let low = epochs.next().expect("a batch holds a record");
        let high = epochs.last().unwrap_or(low);
        (batch.epoch_low, batch.epoch_high) = (low, high);
        batch
    }

    /// Frames payloads as records `first`, `first + 1`, ... of one epoch. The writer's side.
    ///
    /// # Errors
    /// When empty, or a payload or the whole exceeds its cap.
    pub fn frame<P: AsRef<[u8]>>(
        epoch: Epoch,
        first: TxId,
        before: Digest,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Self, BatchError> {
        let mut out = Vec::new();
        let mut after = before;
        let mut last = TxId(first.0 - 1);
        for payload in payloads {
            let payload = payload.as_ref();
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(BatchError::RecordTooLong {
                    after: last,
                    length: payload.len(),
                });
            }
            let start = out.len();
            last = last.next();
            frame(&mut out, epoch, last, payload);
            after = chain(&after, &out[start..]);
            if out.len() > BATCH_BYTES_MAX {
                return Err(BatchError::TooLong(out.len()));
            }
        }
        if out.is_empty() {
            return Err(BatchError::Empty);
        }
        Ok(Self {
            bytes: Bytes::from(out),
            first,
            last,
            epoch_low: epoch,
            epoch_high: epoch,
            before,
            after,
        })
    }

    /// The framed records.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// First txid.
    #[must_use]
    pub fn first(&self) -> TxId {
        self.first
    }

    /// Last txid.
    #[must_use]
    pub fn last(&self) -> TxId {
        self.last
    }

    /// Lowest and highest epoch of its records.
    #[must_use]
    pub fn epochs(&self) -> (Epoch, Epoch) {
        (self.epoch_low, self.epoch_high)
    }

    /// Digest before the first record.
    #[must_use]
    pub fn digest_before(&self) -> Digest {
        self.before
    }

    /// Digest behind the last record.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.after
    }

    /// The records, payloads as slices of the batch.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let head = self.bytes.get(at..at + RECORD_HEAD_LEN)?;
            let start = at + RECORD_HEAD_LEN;
            at = start + u32_at(head, 0) as usize;
            Some(Record {
                epoch: Epoch(u64_at(head, 8)),
                txid: TxId(u64_at(head, 16)),
                payload: self.bytes.slice(start..at),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C7: the bytes of a record and the digest of a log are for ever; this pins layout version 1.
    #[test]
    fn c7_golden_record_and_digest() {
        let batch = Batch::frame(Epoch(7), TxId(1), EMPTY_DIGEST, ["mkdir", ""]).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(batch.bytes()),
            "05000000ac32ea67070000000000000001000000000000006d6b64697200000000686041fb07000000000000000200000000000000"
        );
        assert_eq!(hex(&batch.digest()), "00f4b37c208a153347db1331b23805a1");
        let by_hand = digest_after(
            &digest_after(&EMPTY_DIGEST, Epoch(7), TxId(1), b"mkdir"),
            Epoch(7),
            TxId(2),
            b"",
        );
        assert_eq!(by_hand, batch.digest());
    }

    #[test]
    fn batches_come_back_and_bind_order_epoch_and_content() {
        let whole = Batch::frame(Epoch(3), TxId(5), [9; 16], [&b"a"[..], b"", &[1; 5000]]).unwrap();
        let again = Batch::verify(whole.bytes().clone(), TxId(5), [9; 16]).unwrap();
        assert_eq!(again, whole);
        assert_eq!(
            (again.first(), again.last(), again.epochs()),
            (TxId(5), TxId(7), (Epoch(3), Epoch(3)))
        );
        let payloads: Vec<_> = again.records().map(|record| record.payload.len()).collect();
        assert_eq!(payloads, [1, 0, 5000]);
        let digest = |epoch, first, payload: &str| {
            Batch::frame(Epoch(epoch), TxId(first), EMPTY_DIGEST, [payload])
                .unwrap()
                .digest()
        };
        let base = digest(1, 1, "x");
        assert!(
            base != digest(2, 1, "x")
                && base != digest(1, 2, "x")
                && base != digest(1, 1, "y")
                && base != digest(1, 1, "")
        );
    }

    #[test]
    fn refusals_are_typed() {
        let good = Batch::frame(Epoch(3), TxId(5), EMPTY_DIGEST, ["a", "b"]).unwrap();
        let verify = |bytes: &[u8], first| {
            Batch::verify(Bytes::copy_from_slice(bytes), TxId(first), EMPTY_DIGEST).unwrap_err()
        };
        assert_eq!(verify(&[], 1), BatchError::Empty);
        assert_eq!(
            verify(good.bytes(), 6),
            BatchError::Gap {
                expected: TxId(6),
                found: TxId(5)
            }
        );
        assert_eq!(
            verify(&good.bytes()[..good.bytes().len() - 1], 5),
            BatchError::Cut(TxId(5))
        );
        assert_eq!(
            verify(&vec![0; BATCH_BYTES_MAX + 1], 1),
            BatchError::TooLong(BATCH_BYTES_MAX + 1)
        );
        assert_eq!(
            verify(&[0xff; 100], 1),
            BatchError::RecordTooLong {
                after: TxId(0),
                length: u32::MAX as usize
            }
        );
        let mut two = good.bytes().to_vec();
        frame(&mut two, Epoch(2), TxId(7), b"c");
        assert_eq!(
            verify(&two, 5),
            BatchError::EpochWentDown {
                before: Epoch(3),
                found: Epoch(2)
            }
        );
        let long = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert!(matches!(
            Batch::frame(Epoch(1), TxId(1), EMPTY_DIGEST, [long]),
            Err(BatchError::RecordTooLong { .. })
        ));
        for bit in 0..good.bytes().len() * 8 {
            let mut bytes = good.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Batch::verify(bytes.into(), TxId(5), EMPTY_DIGEST).is_err(),
                "bit {bit}"
            );
        }
    }

    /// C4: rubbish is refused, whatever it is.
    #[test]
    fn c4_rubbish_is_refused() {
        let mut random = 88_172_645_463_325_252u64;
        for round in 0..200_000 {
            let mut bytes = Vec::new();
            while bytes.len() < round % 97 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                bytes.extend_from_slice(&(random & (random >> 32)).to_le_bytes());
            }
            assert!(Batch::verify(bytes.into(), TxId(1), EMPTY_DIGEST).is_err());
        }
    }
}
