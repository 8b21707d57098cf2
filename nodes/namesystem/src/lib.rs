//! The NameNode's mind, pure: inodes, leases, edits, retry cache and the commit barrier.
//!
//! # How a driver uses it
//!
//! 1. Start-up: [`Namesystem::format`], or [`ImageLoader`] and [`Namesystem::load`]; [`Namesystem::replay`] per
//!    durable edit; [`Namesystem::start`]. It is a standby then and goes on with [`Namesystem::replay`].
//! 2. Promotion: claim the epoch, recover the tail, replay it, then [`Namesystem::become_active`].
//! 3. Calls come in with the time ([`Namesystem::handle_client`] and its siblings), timers with
//!    [`Namesystem::handle_timeout`] at [`Namesystem::poll_timeout`]. After a burst of them the driver performs
//!    what [`Namesystem::poll_output`] yields until it yields nothing: one batch of edits for the journal
//!    writer, and the replies that may leave.
//! 4. Journal progress comes back with [`Namesystem::handle_committed`] and releases parked replies.
//!    While no majority of JournalNodes answers, [`Namesystem::read_committed`] answers reads.
//! 5. [`Namesystem::become_standby`] at any time; when it returns `true`, load again from image and journal.
//! 6. Checkpoints: [`Namesystem::view`] and [`ImageSource`], on whatever thread; then [`LocationSource`], a chunk at a time.
//!
//! Every mutation is one [`hadal_proto::edit::Edit`]; applying edits is the only way the tree changes, for the
//! active, the standby and replay alike (protocols.md section 7).
//!
//! # Where HDFS leaves a choice
//!
//! * Reads do not move access times (HDFS with `dfs.namenode.accesstime.precision` 0).
//! * A rename that replaces something respects the sticky bit of the target's directory.
//! * A trailing slash is an empty component and refused.
//! * Deleting the root is an error, not a silent `false`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod apply;
mod barrier;
mod caller;
mod checkpointer;
mod children;
mod config;
mod digest;
mod effect;
mod image;
mod inode;
mod inode_page;
mod inode_view;
mod lease;
mod namesystem;
mod ops;
mod output;
mod owners;
mod packed;
mod path;
mod permission;
mod planted;
mod radix;
mod retry;
mod standby_reads;
mod state;
mod stats;
mod status;
mod trail;
mod tree;

pub use caller::Caller;
pub use checkpointer::{CheckpointConfig, CheckpointOrder, Checkpointer, Unwanted, UploadOutcome};
pub use config::NamesystemConfig;
pub use image::{
    ChunkDone, ChunkWork, ImageError, ImageLoader, ImagePiece, ImageSource, Loaded, LocationSource,
    Section,
};
pub use inode_view::{FileView, InodeView, LastIds};
pub use lease::{NAMENODE_HOLDER, TRUNCATE_HOLDER};
pub use namesystem::Namesystem;
pub use output::{Answer, Event, Output};
pub use planted::Planted;
pub use state::View;
pub use stats::MemoryEstimate;
