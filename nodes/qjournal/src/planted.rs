//! The simulator's test of tests.

/// Rules that can be switched off at run time, so that a test suite can be shown to notice
/// (reliability.md S10). Everything is off in production; only tests and the simulator set any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Planted {
    /// Replies and acks leave before their writes are durable.
    pub ack_before_persist: bool,
    /// Requests of lower epochs are obeyed.
    pub skip_epoch_check: bool,
    /// A promise is answered but not written down.
    pub forget_promise: bool,
    /// An accepted recovery is answered but not written down.
    pub forget_acceptance: bool,
    /// Recovery compares lengths only, as HDFS does (model-journal.md R7).
    pub compare_lengths: bool,
    /// A doubtful record counts as absent (R4, R5).
    pub drop_doubtful: bool,
    /// The doubt about a bad record is taken to end with that record, wherever the node's bytes end.
    pub bound_doubt_early: bool,
    /// Records are served as committed without comparing the mark's digest.
    pub trust_marks: bool,
    /// A writer counts an edit as committed when one JournalNode has it.
    pub commit_on_one: bool,
    /// Recovery prefers the longest log whatever its epoch.
    pub longest_wins: bool,
    /// A claimant counts promises of older incarnations (R1).
    pub count_old_incarnations: bool,
    /// A writer sends batches however many are on their way.
    pub send_ahead: bool,
    /// A node that may have forgotten votes.
    pub learner_votes: bool,
}
