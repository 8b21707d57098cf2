//! The simulator's test of tests.

/// Rules that can be switched off at run time, so that a test suite can be shown to notice
/// (reliability.md S10). Everything is off in production; only tests and the simulator set any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Planted {
    /// A JournalNode grants although another NameNode's lease or reservation runs.
    pub grant_over_lease: bool,
    /// A NameNode counts its lease from the answer's arrival, not from the request's departure.
    pub count_from_receive: bool,
    /// A NameNode believes in its lease for the whole ttl.
    pub whole_ttl: bool,
    /// A NameNode counts from the newest acknowledged send, not from the (f+1)-th newest.
    pub newest_ack_counts: bool,
    /// A restarted JournalNode grants at once.
    pub no_silence: bool,
    /// A lease that lapsed goes on when it is granted again. Masked by the refusal of old renewals: harm needs
    /// [`Planted::accept_old_renewals`] too.
    pub resume_after_lapse: bool,
    /// A JournalNode renews for an epoch below its promise. Masked by the lapse rule: harm needs
    /// [`Planted::resume_after_lapse`] too.
    pub accept_old_renewals: bool,
    /// A JournalNode obeys messages in any order.
    pub ignore_order: bool,
    /// A NameNode serves until the last word of its hand-over is out.
    pub serve_while_releasing: bool,
}
