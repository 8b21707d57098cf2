//! The simulator's test of tests.

/// Rules of a client that can be switched off at run time, so that the simulator's checks can be shown to notice
/// (reliability.md S10). Everything is off in production.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    /// Bytes are taken without comparing their checksums.
    pub skip_verify: bool,
}
