//! Bugs that can be planted in the daemons and the clients.

/// Which rules are switched off, by whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::scenarios) struct Planted {
    /// JournalNodes, and the NameNode's journal writer.
    pub(in crate::scenarios) journal: hadal_qjournal::Planted,
    pub(in crate::scenarios) namesystem: hadal_namesystem::Planted,
    pub(in crate::scenarios) blocks: hadal_blocks::Planted,
    pub(in crate::scenarios) datanode: hadal_blockpool::Planted,
    pub(in crate::scenarios) client: hadal_client::Planted,
    /// The lease of the active role, at both ends.
    pub(in crate::scenarios) election: hadal_failover::Planted,
    /// The NameNode does not look at permissions.
    pub(in crate::scenarios) skip_permissions: bool,
}

/// Bugs that only two NameNodes can have.
const TWO: [&str; 1] = ["forget-promise"];

/// Whether a bug needs two NameNodes to show.
pub(in crate::scenarios) fn needs_two(name: &str) -> bool {
    TWO.contains(&name)
}

/// Found by this scenario, each within 300 seeds.
pub(in crate::scenarios) const NAMES: [&str; 23] = [
    "forget-promise",
    "ack-before-persist",
    "commit-on-one",
    "skip-commit-barrier",
    "skip-read-barrier",
    "forget-retries",
    "forget-retries-on-replay",
    "forget-leases-on-replay",
    "order-before-commit",
    "accept-stale-replicas",
    "skip-replication",
    "forget-received",
    "ignore-register",
    "skip-sync",
    "skip-hsync",
    "skip-hflush",
    "hide-tail",
    "ack-before-downstream",
    "show-unacked",
    "send-ahead",
    "trust-any-digest",
    "skip-verify",
    "skip-permissions",
];

/// Rules that others stand behind: the README says why.
pub(in crate::scenarios) const UNPROVEN: [&str; 1] = ["trust-remembered-locations"];

impl Planted {
    /// The bug of that name; nothing for bugs planted elsewhere.
    pub(in crate::scenarios) fn named(name: Option<&str>) -> Self {
        let mut planted = Self::default();
        match name {
            Some("ack-before-persist") => planted.journal.ack_before_persist = true,
            Some("commit-on-one") => planted.journal.commit_on_one = true,
            Some("skip-commit-barrier") => planted.namesystem.skip_commit_barrier = true,
            Some("skip-read-barrier") => planted.namesystem.skip_read_barrier = true,
            Some("forget-retries") => planted.namesystem.forget_retries = true,
            Some("forget-retries-on-replay") => planted.namesystem.forget_retries_on_replay = true,
            Some("forget-leases-on-replay") => planted.namesystem.forget_leases_on_replay = true,
            Some("order-before-commit") => planted.blocks.order_before_commit = true,
            Some("accept-stale-replicas") => planted.blocks.accept_stale_replicas = true,
            Some("trust-any-digest") => planted.blocks.trust_any_digest = true,
            Some("trust-remembered-locations") => {
                planted.blocks.trust_remembered_locations = true;
            }
            Some("skip-replication") => planted.blocks.skip_replication = true,
            Some("forget-received") => planted.datanode.forget_received = true,
            Some("ignore-register") => planted.datanode.ignore_register = true,
            Some("skip-sync") => planted.datanode.skip_sync = true,
            Some("skip-hsync") => planted.datanode.skip_hsync = true,
            Some("skip-hflush") => planted.datanode.skip_hflush = true,
            Some("hide-tail") => planted.datanode.hide_tail = true,
            Some("show-unacked") => planted.datanode.show_unacked = true,
            Some("ack-before-downstream") => planted.datanode.ack_before_downstream = true,
            Some("skip-verify") => planted.client.skip_verify = true,
            Some("send-ahead") => planted.journal.send_ahead = true,
            Some("forget-promise") => planted.journal.forget_promise = true,
            Some("skip-epoch-check") => planted.journal.skip_epoch_check = true,
            Some("forget-acceptance") => planted.journal.forget_acceptance = true,
            Some("compare-lengths") => planted.journal.compare_lengths = true,
            Some("trust-marks") => planted.journal.trust_marks = true,
            Some("longest-wins") => planted.journal.longest_wins = true,
            Some("count-old-incarnations") => planted.journal.count_old_incarnations = true,
            Some("grant-over-lease") => planted.election.grant_over_lease = true,
            Some("serve-after-lapse") => {
                planted.election.resume_after_lapse = true;
                planted.election.accept_old_renewals = true;
            }
            Some("skip-permissions") => planted.skip_permissions = true,
            _ => {}
        }
        planted
    }
}

#[cfg(test)]
mod tests {
    use super::{NAMES, Planted, UNPROVEN};

    #[test]
    fn every_name_switches_something_off() {
        for name in NAMES.into_iter().chain(UNPROVEN) {
            assert_ne!(Planted::named(Some(name)), Planted::default(), "{name}");
        }
    }
}
