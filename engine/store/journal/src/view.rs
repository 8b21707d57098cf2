//! Looking into one segment file, wherever it is: for operators (`hadal oev`), not for those who serve a journal.

use crate::header::HEADER_LEN;
use crate::records::{Parsed, Record, parse};
use crate::{RECORD_HEAD_LEN, SegmentHeader};
use bytes::Bytes;
use hadal_types::TxId;
use thiserror::Error;

/// Why a segment file can be read no further.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ViewError {
    /// The first block is not that of a segment.
    #[error(
        "this is no segment of edits: its first {HEADER_LEN} bytes are not a header, or are damaged"
    )]
    NotASegment,
    /// What comes next is not a record.
    #[error("the record behind txid {after}, at byte {offset}, {what}")]
    Damaged {
        /// The last good one.
        after: TxId,
        /// Where in the file.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// The records of a segment, in order; ends with the zeros behind the last one, or with the first error.
#[derive(Clone, Debug)]
pub struct SegmentView {
    header: SegmentHeader,
    bytes: Bytes,
    at: usize,
    last: TxId,
    ended: bool,
}

impl SegmentView {
    /// Of a file's content.
    ///
    /// # Errors
    /// [`ViewError::NotASegment`].
    pub fn new(bytes: Bytes) -> Result<Self, ViewError> {
        let header = SegmentHeader::decode(&bytes).ok_or(ViewError::NotASegment)?;
        Ok(Self {
            last: TxId(header.first.0.saturating_sub(1)),
            header,
            bytes,
            at: HEADER_LEN,
            ended: false,
        })
    }

    /// The segment's header.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    fn damaged(&mut self, what: &'static str) -> Option<Result<Record, ViewError>> {
        self.ended = true;
        Some(Err(ViewError::Damaged {
            after: self.last,
            offset: self.at,
            what,
        }))
    }
}

impl Iterator for SegmentView {
    type Item = Result<Record, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|_| !self.ended)?;
        match parse(rest) {
            Parsed::Record(framed) if framed.txid != self.last.next() => {
                self.damaged("has another txid than the next")
            }
            Parsed::Record(framed) => {
                let payload = self.at + RECORD_HEAD_LEN..self.at + framed.length;
                self.at += framed.length;
                self.last = framed.txid;
                Some(Ok(Record {
                    epoch: framed.epoch,
                    txid: framed.txid,
                    payload: self.bytes.slice(payload),
                }))
            }
            Parsed::Zero => None,
            Parsed::Short(_) if rest.iter().all(|byte| *byte == 0) => None,
            Parsed::Short(_) => self.damaged("is cut short"),
            Parsed::TooLong(_) => self.damaged("announces more bytes than a record may have"),
            Parsed::Bad => self.damaged("does not match its checksum"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EMPTY_DIGEST, frame};
    use hadal_types::{CURRENT_LAYOUT, Epoch};

    fn segment(txids: &[u64]) -> Vec<u8> {
        let header = SegmentHeader {
            layout: CURRENT_LAYOUT.0,
            namespace_id: 7,
            first: TxId(5),
            writer_epoch: Epoch(2),
            digest_before: EMPTY_DIGEST,
            initial_length: 8192,
        };
        let mut bytes = vec![0; HEADER_LEN];
        header.encode(&mut bytes);
        for txid in txids {
            frame(&mut bytes, Epoch(2), TxId(*txid), &[*txid as u8; 9]);
        }
        bytes
    }

    fn read(bytes: Vec<u8>) -> (Vec<u64>, Option<ViewError>) {
        let mut view = SegmentView::new(bytes.into()).unwrap();
        assert_eq!(view.header().namespace_id, 7);
        let mut txids = Vec::new();
        let error = loop {
            match view.next() {
                None => break None,
                Some(Err(error)) => break Some(error),
                Some(Ok(record)) => {
                    assert_eq!(record.payload, vec![record.txid.0 as u8; 9]);
                    txids.push(record.txid.0);
                }
            }
        };
        assert!(view.next().is_none() || error.is_none());
        (txids, error)
    }

    #[test]
    fn a_segment_is_read_to_its_zeros_or_to_the_first_damage() {
        let mut bytes = segment(&[5, 6, 7]);
        assert_eq!(read(bytes.clone()), (vec![5, 6, 7], None));
        let end = bytes.len();
        bytes.extend([0; 100]);
        assert_eq!(read(bytes.clone()), (vec![5, 6, 7], None));
        bytes[end - 1] ^= 1;
        let (txids, error) = read(bytes.clone());
        assert_eq!(txids, [5, 6]);
        assert!(error.unwrap().to_string().contains("checksum"));
        let (txids, error) = read(bytes[..end - 3].to_vec());
        assert_eq!(txids, [5, 6]);
        assert!(error.unwrap().to_string().contains("cut short"));
        let (txids, error) = read(segment(&[5, 7]));
        assert_eq!(txids, [5]);
        assert!(error.unwrap().to_string().contains("behind txid 5"));
        assert_eq!(
            SegmentView::new(vec![0; 5000].into()).err(),
            Some(ViewError::NotASegment)
        );
    }
}
