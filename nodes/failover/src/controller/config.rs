//! What a controller is told at its making.

use crate::planted::Planted;
use alloc::string::String;
use alloc::vec::Vec;

/// Settings of a [`super::Controller`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerConfig {
    /// Node id of this NameNode.
    pub name: String,
    /// Node ids of the other NameNodes.
    pub peers: Vec<String>,
    /// Node ids of all JournalNodes; their index here is what [`super::Jn`] counts.
    pub journalnodes: Vec<String>,
    /// `NamespaceInfo::namespace_id`.
    pub namespace_id: u64,
    /// The cluster has this one NameNode: it claims at once and serves without a lease (protocols.md section 2).
    pub alone: bool,
    /// The journal is a shared directory: there are no JournalNodes to grant a lease. Only operators move the role, a NameNode
    /// that lost it waits for the next order, and fencing keeps two from writing (protocols.md section 1).
    pub shared_directory: bool,
    /// Stand for election without an operator (`ha.automatic`).
    pub automatic: bool,
    /// How often this NameNode was started: durable, higher at every start. It goes into the term of every lease.
    pub starts: u64,
    /// Lease duration as the JournalNodes count it.
    pub lease_ttl_ms: u32,
    /// Between two renewals, and between two questions of a candidate.
    pub renew_interval_ms: u64,
    /// Between two questions about a peer's health.
    pub probe_interval_ms: u64,
    /// So many bad probes in a row make ill health (Q30).
    pub bad_probes: u32,
    /// A peer that is behind for no longer than this is caught up.
    pub peer_lag_ms: u64,
    /// Who yielded for ill health stands again after this; doubles each time.
    pub rejoin_ms: u64,
    /// ... up to this.
    pub rejoin_max_ms: u64,
    /// A hand-over or an operator's command that is not through after this has failed. Less than the 15 s for which `haadmin`
    /// waits, so that the reason arrives.
    pub command_timeout_ms: u64,
    /// Switched-off rules.
    pub planted: Planted,
}

impl ControllerConfig {
    /// Whether it serves without a lease.
    pub(super) fn leaseless(&self) -> bool {
        self.alone || self.shared_directory
    }

    /// Defaults for this NameNode; `alone` when there are no peers.
    #[must_use]
    pub fn new(name: String, peers: Vec<String>, journalnodes: Vec<String>) -> Self {
        Self {
            name,
            alone: peers.is_empty(),
            peers,
            journalnodes,
            shared_directory: false,
            namespace_id: 0,
            automatic: true,
            starts: 1,
            lease_ttl_ms: 600,
            renew_interval_ms: 150,
            probe_interval_ms: 1_000,
            bad_probes: 3,
            peer_lag_ms: 2_000,
            rejoin_ms: 10_000,
            rejoin_max_ms: 60_000,
            command_timeout_ms: 13_000,
            planted: Planted::default(),
        }
    }
}
