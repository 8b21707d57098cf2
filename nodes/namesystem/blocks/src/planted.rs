//! The simulator's test of tests.

/// Rules of the block manager that can be switched off at run time, so that the simulator's checks can be shown to
/// notice (reliability.md S10). Everything is off in production.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    /// Orders leave before the edit that caused them is committed.
    pub order_before_commit: bool,
    /// A reported replica of a closed block counts whatever its generation stamp, length and state.
    pub accept_stale_replicas: bool,
    /// A digest report is believed to agree whatever it says, except a storage's first one.
    pub trust_any_digest: bool,
    /// Locations an image remembers count as soon as their DataNode registers.
    pub trust_remembered_locations: bool,
    /// Nothing is copied.
    pub skip_replication: bool,
}
