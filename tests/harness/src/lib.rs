//! Real processes: a development cluster in a temporary directory, driven through the `hadal` command as a user drives
//! it, its nodes killed and started again. The tests are in `tests/`.

mod binary;
mod client;
mod cluster;
mod daemon;
mod disk;
mod load;
mod output;
mod pattern;
mod ports;
mod random;
mod reaper;
mod replicas;
mod roles;
mod settings;
mod writer;

pub use binary::{hadal, without_settings};
pub use client::{TestClient, refusal};
pub use cluster::TestCluster;
pub use daemon::daemon;
pub use disk::{ReadOnly, SmallDisk};
pub use load::{BUSY, CALLERS, Load};
pub use output::{Output, run};
pub use pattern::Pattern;
pub use ports::Ports;
pub use random::Random;
pub use reaper::{Reaper, processes};
pub use replicas::Replica;
pub use roles::Roles;
pub use writer::Writer;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a test waits for is so within this time, on a busy machine with slow disks too. It is no measure of anything: a
/// cluster that is well takes seconds.
pub const SOON: Duration = Duration::from_secs(120);
/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(20);

static MACHINE: Mutex<()> = Mutex::new(());

/// Held by a test while it has a cluster: one cluster at a time loads the machine.
pub fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks again and again until there is an answer.
///
/// # Panics
///
/// When there is none after `limit`; `probe`'s last reason is in the message.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(answer) => return answer,
            Err(reason) if Instant::now() > deadline => {
                panic!("{what}: not so after {} s: {reason}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
