//! The client library: files on a Hadal cluster.
//!
//! [`DistributedFileSystem`] is generic over [`hadal_env::Seam`]; [`connect`] gives one on tokio:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = hadal_client::ClientOptions::new([("nn1", "127.0.0.1:8020".parse()?)]);
//! let identity = hadal_client::Identity::load("ca.pem".as_ref(), "me.pem".as_ref(), "me-key.pem".as_ref())?;
//! let dfs = hadal_client::connect(options, &identity)?;
//! let mut file = dfs.create("/hello", &hadal_client::CreateOptions::default()).await?;
//! file.write_all(b"hello, world").await?;
//! file.close().await?;
//! println!("{} bytes", dfs.file_status("/hello").await?.length);
//! # Ok(())
//! # }
//! ```
//!
//! The library needs no task of its own but one: the background future (call streams, lease renewal), which
//! [`connect`] spawns. Its futures are `Send` when the seam's connections are.
#![forbid(unsafe_code)]

mod admin;
mod background;
mod checksum;
mod dfs;
mod error;
mod input;
mod local;
mod local_file;
mod namenode;
mod options;
mod output;
mod pages;
mod peers;
mod pipeline;
mod planted;
mod reopen;
mod replace;
mod standby_reads;
mod timeout;
mod tokio_seam;

pub use background::Background;
pub use dfs::DistributedFileSystem;
pub use error::ClientError;
pub use hadal_datastream::{FailoverOptions, ReadFrom, ReplaceOptions, ReplacePolicy};
pub use hadal_proto::client::{
    ContentSummary, FileStatus, FsStats, LocatedBlock, LocatedBlocks, OpenFile, ServerDefaults,
};
pub use hadal_proto::{Fault, FaultClass};
pub use hadal_quic::Identity;
pub use input::DfsInputStream;
pub use options::{AppendOptions, ClientOptions, CreateOptions, NamenodeAddress, SyncOptions};
pub use output::DfsOutputStream;
pub use planted::Planted;
pub use tokio_seam::{TokioSeam, connect, connect_on};

/// A file system on tokio.
pub type Dfs = DistributedFileSystem<TokioSeam>;
