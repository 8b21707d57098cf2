//! The DataNode daemon: the block pool's mind (`hadal-blockpool`) on a replica store and the network.
//!
//! One shard serves the whole node; a node with several shards answers `Unsupported` at start until the replica
//! store is split over them.
#![forbid(unsafe_code)]

mod actors;
mod balance;
mod calls;
mod commands;
mod config;
mod copy;
mod downstream;
mod error;
mod farewell;
mod local;
mod node;
mod patience;
mod peers;
mod read;
mod receive;
mod recovery;
mod reports;
mod scanner;
mod serve;
mod volumes;

pub use config::{DatanodeConfig, NamenodeList, NamenodePeer};
pub use error::RunError;
pub use local::LocalDoor;
pub use node::{run, run_with};

/// Exit code when the record of the acknowledged epoch cannot be made durable.
pub const EXIT_EPOCH_RECORD: i32 = 74;
/// Exit code when more volumes failed than `datanode.failed_volumes_tolerated` allows.
pub const EXIT_VOLUMES_FAILED: i32 = 75;
/// Exit code when every NameNode refuses this DataNode for good: another cluster, another version, a certificate that
/// may not, or one that is not trusted from the start on.
pub const EXIT_REFUSED: i32 = 76;
