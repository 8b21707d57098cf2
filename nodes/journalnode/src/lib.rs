//! The JournalNode daemon: the acceptor's mind (`hadal-qjournal`) on the edit segments of one disk and the network.
//!
//! [`node::Node::turn`] is where the acceptor and the world meet. What it wants on disk goes through one task in order
//! ([`storage`]); a failed write or sync is final and ends the process.
#![forbid(unsafe_code)]

mod config;
mod error;
mod fetch;
mod load;
mod node;
mod peers;
mod serve;
mod storage;

pub use config::JournalnodeConfig;
pub use error::RunError;
pub use node::run;

/// Exit code when the disk failed: restarting does not help before it is mended.
pub const EXIT_DISK_FAILED: i32 = 74;
