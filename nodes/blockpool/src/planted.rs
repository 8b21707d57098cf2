//! The simulator's test of tests.

/// Rules of a DataNode that can be switched off at run time, so that the simulator's checks can be shown to notice
/// (reliability.md S10). Everything is off in production.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    /// New replicas are not reported until the next full report.
    pub forget_received: bool,
    /// An unregistered DataNode goes on as if it were registered.
    pub ignore_register: bool,
    /// Replicas are neither synced by `hsync` nor when they are finalised.
    pub skip_sync: bool,
    /// `hsync` does not sync; finalised replicas are.
    pub skip_hsync: bool,
    /// `hflush` is acknowledged while the bytes are in memory.
    pub skip_hflush: bool,
    /// Readers of an open replica do not see the last, partial chunk.
    pub hide_tail: bool,
    /// Readers of an open replica see what was received, acknowledged downstream or not.
    pub show_unacked: bool,
    /// Acknowledges without waiting for the nodes behind.
    pub ack_before_downstream: bool,
    /// The block scanner finds rotten replicas and does not report them.
    pub silent_scanner: bool,
}
