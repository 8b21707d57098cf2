//! How fast the daemons of a seed's cluster talk when nothing happens.

use crate::rng::Rng;
use crate::scenario::Run;
use hadal_blockpool::{ActorConfig, ScannerConfig};
use hadal_blocks::BlockConfig;
use hadal_namenode::HaSettings;

/// Renewals per lease, as by default.
const RENEWALS: u32 = 4;
/// Heartbeats missed before a DataNode is stale, and before it is dead.
const STALE_BEATS: u64 = 4;
const DEAD_BEATS: u64 = 10;

/// Intervals that differ from seed to seed: a rule that holds only for one of them is found, and an idle cluster costs
/// less than if all were as short as they may be.
#[derive(Clone, Copy, Debug)]
pub(in crate::scenarios) struct Tempo {
    lease_ttl_ms: u32,
    heartbeat_ms: u64,
    /// Between two scans of all blocks.
    scan_ms: u64,
    /// Between two comparisons of the directories with the map of replicas.
    compare_ms: u64,
}

/// The fastest there is: the default lease, and heartbeats that let many things happen in a short run.
pub(in crate::scenarios) const QUICK: Tempo = Tempo {
    lease_ttl_ms: 600,
    heartbeat_ms: 500,
    scan_ms: 60_000,
    compare_ms: 20_000,
};

impl Tempo {
    /// That of a run: drawn for long ones. Short ones have no time to wait, and those with a planted bug look for that.
    pub(super) fn of(run: &Run<'_>, rng: &mut Rng) -> Self {
        if run.duration <= super::workload::BUSY_TIME || run.planted.is_some() {
            return QUICK;
        }
        // By powers of two, but for the lease, which ends at three seconds.
        let scale = rng.below(3);
        Self {
            lease_ttl_ms: [600, 1_200, 2_000, 3_000][rng.below(4) as usize],
            heartbeat_ms: QUICK.heartbeat_ms << rng.below(3),
            scan_ms: QUICK.scan_ms << scale,
            compare_ms: QUICK.compare_ms << scale,
        }
    }

    /// How long a lease of the active role lasts, at both ends of it.
    pub(super) fn lease_ttl_ms(self) -> u32 {
        self.lease_ttl_ms
    }

    pub(super) fn ha(self, usual: HaSettings) -> HaSettings {
        HaSettings {
            lease_ttl_ms: self.lease_ttl_ms,
            renew_interval_ms: u64::from(self.lease_ttl_ms / RENEWALS),
            ..usual
        }
    }

    pub(super) fn blocks(self, usual: BlockConfig) -> BlockConfig {
        BlockConfig {
            heartbeat_interval_ms: self.heartbeat_ms,
            stale_interval_ms: STALE_BEATS * self.heartbeat_ms,
            dead_interval_ms: DEAD_BEATS * self.heartbeat_ms,
            replication_interval_ms: self.heartbeat_ms,
            ..usual
        }
    }

    pub(super) fn actor(self, usual: ActorConfig) -> ActorConfig {
        ActorConfig {
            heartbeat_interval_ms: self.heartbeat_ms,
            ..usual
        }
    }

    pub(super) fn scanner(self, usual: ScannerConfig) -> ScannerConfig {
        ScannerConfig {
            period_ms: self.scan_ms,
            directory_interval_ms: self.compare_ms,
            ..usual
        }
    }
}
