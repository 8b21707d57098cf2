//! The DataNode's mind: which NameNode to obey, what to report to whom and when, and what may be acknowledged
//! on a block stream. Pure: no clock, no socket, no file.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod ack_book;
pub mod actor;
mod notices;
pub mod offer_service;
pub mod opened;
pub mod pending_reports;
mod planted;
pub mod recovery;
pub mod scanner;
pub mod schedule;

pub use ack_book::{AckBook, AckDebt};
pub use actor::{Actor, ActorConfig, ActorOutput, Failure};
pub use offer_service::{Admission, ClaimOutcome, IdentityError, OfferService};
pub use opened::OpenedBlocks;
pub use pending_reports::PendingReports;
pub use planted::Planted;
pub use scanner::{BlockScanner, ScannerConfig};
pub use schedule::ReportSchedule;
