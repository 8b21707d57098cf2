//! The simulator's test of tests.

/// Rules of the namesystem that can be switched off at run time, so that the simulator's checks can be shown to
/// notice (reliability.md S10). Everything is off in production.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    /// Answers to clients leave before what they tell is committed.
    pub skip_commit_barrier: bool,
    /// Answers to reads leave before what they saw is committed.
    pub skip_read_barrier: bool,
    /// A call that ran runs again.
    pub forget_retries: bool,
    /// Replayed edits leave nothing in the retry cache.
    pub forget_retries_on_replay: bool,
    /// A replayed creation leaves no lease.
    pub forget_leases_on_replay: bool,
    /// A standby answers reads at once, whatever the client has seen and whatever blocks it knows.
    pub stale_standby_reads: bool,
}
