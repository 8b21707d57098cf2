//! Edit segments on one disk: what a JournalNode (and a shared-directory journal) keeps.
//!
//! Payloads are opaque. Which segment wins, who may write, what is committed: that is `nodes/qjournal`; this crate
//! answers what is on the disk, and makes bytes durable.
//!
//! # Files of a journal directory
//!
//! | name | holds |
//! |---|---|
//! | `edits_inprogress_<first>` | a segment being written; `<first>` is its first txid, 20 digits |
//! | `edits_<first>-<last>` | a finalised segment |
//! | `edits_<first>.copy` | a segment being fetched from a peer, not yet in place |
//! | `accepted_<first>` | the accepted recovery of a segment: a [`store_record::Record`] |
//! | `spare` | a zero-written file that becomes the next segment |
//! | `retired_<number>` | what was purged and is not removed yet, or a spare in the making; removed at open |
//! | `*.tmp` | something cut short; removed at open |
//!
//! # A segment
//!
//! One header block ([`SegmentHeader`]), then records back to back ([`frame`]), then zeros to the end of the file.
//! The same records stand at the same offsets on every node. The file grows in known steps, really written with
//! zeros ahead of the records, so that a durable append changes no metadata; a length that is none of the steps
//! shows a cut file.
//!
//! What a scan makes of a segment is the table [`RECOVERY`].
#![forbid(unsafe_code)]

mod copy;
mod error;
mod follower;
mod header;
mod journal;
mod purge;
mod read;
mod records;
mod recovery;
mod scan;
mod segments;
mod types;
mod view;
mod writer;

pub use copy::SegmentCopy;
pub use error::{BatchError, JournalError};
pub use follower::{Follower, Listed, list};
pub use header::SegmentHeader;
pub use journal::Journal;
pub use records::{
    BATCH_BYTES_MAX, Batch, Digest, EMPTY_DIGEST, PAYLOAD_BYTES_MAX, RECORD_HEAD_LEN, Record,
    digest_after, frame,
};
pub use recovery::{End, Facts, RECOVERY, Row, Stop};
pub use types::{Appended, Behind, Chunk, Options, Place, Purged, SegmentInfo, Start, Tail};
pub use view::{SegmentView, ViewError};
pub use writer::QUEUE_BYTES_MAX;
