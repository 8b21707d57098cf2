//! Small durable records, and the checksum everything durable uses.
//!
//! A [`Record`] is for what a node must not forget and must not half remember: a promised epoch, an accepted
//! recovery, an identity. It fits into one block, is replaced as a whole, and a read tells three things apart that
//! demand opposite answers: never written, written and readable, written and lost ([`Contents`]).
#![forbid(unsafe_code)]

pub mod checksum;
mod record;
mod slot;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use record::{Contents, Record, RecordError, peek};
pub use slot::{Decision, PAYLOAD_MAX, Pair, RECOVERY, Row, SLOT_LEN, Take, Why};
