//! The NameNode's knowledge of blocks: which there are, where their replicas are, what must be copied or deleted,
//! which DataNodes live and what they are told. Pure: time, randomness and the txid barrier are arguments.
//!
//! # How a namesystem drives it
//!
//! 1. Start-up: [`BlockManager::new`], then [`BlockManager::load`] per block of the image (or, where it remembers
//!    locations, [`BlockManager::load_remembered`]), or on several threads [`Staged`] and [`Sorting`]; then the edit methods
//!    per replayed edit, then [`BlockManager::start`] (safe mode begins to count).
//! 2. For every applied edit: the method of what it does to blocks ([`BlockManager::allocated`],
//!    [`BlockManager::committed`], [`BlockManager::completed`], [`BlockManager::updated`], [`BlockManager::reopened`],
//!    [`BlockManager::removed`], [`BlockManager::replication_changed`], [`BlockManager::moved`]), then
//!    [`BlockManager::applied`] with the counters after it. Every effect these cause carries the edit's txid.
//! 3. DataNodes: [`BlockManager::handle_request`], with the txid known committed: only commands whose cause is
//!    committed leave (protocols.md section 0).
//! 4. [`BlockManager::handle_timeout`] at [`BlockManager::poll_timeout`]; [`BlockManager::poll_event`] for what to log.
//! 5. Role changes: [`BlockManager::become_active`], [`BlockManager::become_standby`].
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod api;
mod balance;
mod commands;
mod config;
mod datanodes;
mod decommission;
mod digest_reports;
mod digests;
mod entry;
mod failed_copies;
mod loading;
mod manager;
mod merge;
mod partition;
mod placement;
mod planted;
mod random;
mod recovery;
mod redundancy;
mod registry;
mod remembered;
mod replicas;
mod reports;
mod rounds;
mod safe_mode;
mod session;
mod stats;
mod table;
mod under_construction;
mod view;

pub use api::{
    BlockEvent, BlockStats, NotEnoughTargets, PlacementRequest, RecoveryError, StoredBlock,
};
pub use config::BlockConfig;
pub use decommission::{HeldBlock, HostLists};
pub use entry::REPLICAS_MAX;
pub use loading::{Sorted, Sorting, Staged};
pub use manager::BlockManager;
pub use planted::Planted;
