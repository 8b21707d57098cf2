//! The NameNode daemon: the namesystem's mind on the quorum journal, the image store and the network.
//!
//! One task, the *life*, follows the journal as a standby, claims it when the election wants so, catches up, serves, and
//! starts over when it lost the role. All other
//! tasks only hand requests in and answers out; [`node::Node::turn`] is the one place where the namesystem, the
//! journal writer and the world meet.
#![forbid(unsafe_code)]

mod bootstrap;
mod catch_up;
mod checkpoint;
mod checkpointer;
mod config;
mod election;
mod error;
mod fetch;
mod format;
mod identity;
mod images;
#[cfg(test)]
mod images_tests;
mod initialize;
mod life;
mod links;
mod loading;
mod node;
mod parked;
mod peers;
mod recover;
mod saving;
mod segments;
mod serve;
mod shared;
mod tail;
mod transfer;
mod upload;

pub use bootstrap::{Bootstrapped, bootstrap_standby};
pub use checkpoint::{ImageContents, read_image};
pub use config::{
    GroupLookup, HaSettings, HostLookup, JournalnodePeer, NamenodeConfig, NamenodePeer,
};
pub use error::{BootstrapError, FetchError, FormatError, InitializeError, RecoverError, RunError};
pub use fetch::{Description, Fetched, describe, fetch_image};
pub use format::{FormatOptions, format};
pub use initialize::{Initialized, initialize_shared_edits};
pub use life::run;
pub use loading::{ImageLoading, namesystem_of};
pub use recover::{Damage, Recovered, recover};
pub use saving::ImageSaving;
pub use store_fsimage::image_name;

/// Exit code when a majority of JournalNodes holds another namespace than the directory of this NameNode, or none of them
/// and a NameNode that starts trust each other's certificates.
pub const EXIT_REFUSED: i32 = 76;
