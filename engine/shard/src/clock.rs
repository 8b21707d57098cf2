//! Time and randomness of the machine.

use hadal_env::{Clock, Random};
use hadal_types::Tick;
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest single sleep of the runtime. Its timers stand still while the machine is suspended,
/// `CLOCK_BOOTTIME` does not: after a resume a longer sleep notices within this time.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// The clocks of the kernel and its random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardClock(());

impl ShardClock {
    /// The clock; it has no state of its own.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl Clock for ShardClock {
    fn now(&self) -> Tick {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
        Tick(u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall_ms(&self) -> u64 {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, deadline: Tick) {
        if deadline == Tick::NEVER {
            return std::future::pending().await;
        }
        loop {
            let now = self.now();
            if now >= deadline {
                return;
            }
            tokio::time::sleep(deadline.since(now).min(LONGEST_NAP)).await;
        }
    }
}

impl Random for ShardClock {
    fn random_u64(&self) -> u64 {
        // A ChaCha generator per thread, seeded and reseeded from the operating system.
        rand::random()
    }
}
