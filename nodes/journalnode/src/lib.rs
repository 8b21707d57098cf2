//! The JournalNode: a driver around [`hadal_qjournal::acceptor::Acceptor`], the edit segments of `store-journal` and
//! the transport.
//!
//! The core decides at once and says what to write; one task carries the writes out in order (appends that wait share
//! a sync) and reports each back; replies leave when the core lets them. Nothing here decides anything.
//!
//! Files below the data directory:
//!
//! | name | holds |
//! |---|---|
//! | `in_use.lock` | locked while a process serves the directory (T-J7) |
//! | `promises` | a [`store_record::Record`] with the [`hadal_qjournal::acceptor::AcceptorRecord`] |
//! | `edits/` | the segments, see [`store_journal`] |
#![forbid(unsafe_code)]

mod admin;
mod config;
mod directory;
mod election;
mod fetch;
mod load;
mod node;
mod peers;
mod read;
mod records;
mod serve;
mod store;

pub use config::{JournalnodeConfig, RunError};
pub use directory::{Directory, store_record};
pub use load::{Opened, edits_dir, loaded, open_directory, promises, promises_path};
pub use records::{edits, journal_fault, log_digest};

use hadal_env::Env;
use node::Node;
use std::rc::Rc;

/// Exit code of a process that stopped because its disk failed: what was asked of it may or may not be durable, so it
/// answers nothing any more (protocols.md section 1).
pub const EXIT_DISK_FAILED: i32 = 75;

/// Opens the data directory and serves it until the endpoint closes. An unformatted directory is served too: a NameNode
/// formats it.
///
/// # Errors
/// [`RunError`] when the directory cannot be opened. Later failures of the disk stop the process with
/// [`EXIT_DISK_FAILED`].
pub async fn run<E: Env>(env: E, config: JournalnodeConfig) -> Result<(), RunError> {
    let lock = load::lock(&env, &config).await?;
    let opened = load::open(&env, &config).await?;
    let node = Rc::new(Node::new(env.clone(), config, opened));
    env.spawn("journalnode store", store::run(Rc::clone(&node)));
    env.spawn("journalnode timers", node::run_timers(Rc::clone(&node)));
    for peer in 0..node.peers.len() {
        env.spawn("journalnode peer", peers::run(Rc::clone(&node), peer));
    }
    node.pump();
    serve::accept_connections(node).await;
    drop(lock);
    Ok(())
}
