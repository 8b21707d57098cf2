//! What a JournalNode is told at start.

use hadal_qjournal::Planted;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of a JournalNode.
#[derive(Clone, Debug)]
pub struct JournalnodeConfig {
    /// Node id, the name in its certificate.
    pub name: String,
    /// Directory of the journal.
    pub dir: PathBuf,
    /// The other JournalNodes: id and QUIC address.
    pub peers: Vec<(String, SocketAddr)>,
    /// Software version, for status answers.
    pub software: String,
    /// Rules switched off, to prove that the tests notice.
    pub planted: Planted,
}

impl JournalnodeConfig {
    /// Defaults for this node.
    #[must_use]
    pub fn new(name: String, dir: PathBuf, peers: Vec<(String, SocketAddr)>) -> Self {
        let software = env!("CARGO_PKG_VERSION").into();
        Self {
            name,
            dir,
            peers,
            software,
            planted: Planted::default(),
        }
    }
}
