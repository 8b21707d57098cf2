//! Records and digests for tests: any function that tells logs apart will do.

use bytes::Bytes;
use hadal_proto::qjournal::{LogDigest, Records};
use hadal_types::{Epoch, TxId};

fn mix(mut h: u64, bytes: &[u8]) -> u64 {
    for b in bytes {
        h = (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        h ^= h >> 29;
    }
    h
}

/// One framed record.
pub fn frame(epoch: Epoch, txid: TxId, op: &[u8]) -> Bytes {
    let mut out = Vec::new();
    out.extend_from_slice(&(op.len() as u32).to_le_bytes());
    let crc = mix(mix(epoch.0, &txid.0.to_le_bytes()), op) as u32;
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&txid.0.to_le_bytes());
    out.extend_from_slice(op);
    Bytes::from(out)
}

/// The function handed to acceptors.
pub fn digest(before: LogDigest, first: TxId, records: &Bytes) -> Option<(TxId, LogDigest)> {
    let mut at = before;
    let mut next = first;
    let mut high = Epoch(0);
    for record in Records::new(records.clone()) {
        let record = record.ok()?;
        let crc = mix(
            mix(record.epoch.0, &record.txid.0.to_le_bytes()),
            &record.op,
        ) as u32;
        if crc != record.crc || record.txid != next || record.epoch < high {
            return None;
        }
        high = record.epoch;
        let mut link = at.0.to_vec();
        link.extend_from_slice(&record.epoch.0.to_le_bytes());
        link.extend_from_slice(&record.txid.0.to_le_bytes());
        link.extend_from_slice(&record.op);
        at.0[..8].copy_from_slice(&mix(17, &link).to_le_bytes());
        at.0[8..].copy_from_slice(&mix(99, &link).to_le_bytes());
        next = next.next();
    }
    Some((TxId(next.0 - 1), at))
}

pub fn digest_of(before: LogDigest, first: TxId, records: &Bytes) -> (TxId, LogDigest) {
    digest(before, first, records).expect("good records")
}

/// The single records of a payload.
pub fn split(records: &Bytes) -> Vec<Bytes> {
    let mut walk = Records::new(records.clone());
    let mut out = Vec::new();
    let mut start = 0;
    while let Some(record) = walk.next() {
        record.expect("well-formed");
        let end = records.len() - walk.left();
        out.push(records.slice(start..end));
        start = end;
    }
    out
}
