//! The seam itself: clock, randomness, network, disk and tasks of one shard.

use crate::panic::{guard_task, stop_process};
use crate::{Cores, ShardClock, ShardDisk};
use hadal_env::{Clock, Compute, Env, Net, Random, Seam};
use hadal_types::Tick;
use std::future::Future;

/// `hadal_env` for drivers that run on a shard, over whatever network they are given.
/// Clones share everything. Made by `ShardHandle::env`.
#[derive(Clone, Debug)]
pub struct ShardEnv<N> {
    clock: ShardClock,
    disk: ShardDisk,
    net: N,
}

impl<N: Net> ShardEnv<N> {
    pub(crate) fn new(disk: ShardDisk, net: N) -> Self {
        Self {
            clock: ShardClock::new(),
            disk,
            net,
        }
    }
}

impl<N: Net> Clock for ShardEnv<N> {
    fn now(&self) -> Tick {
        self.clock.now()
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn sleep_until(&self, deadline: Tick) -> impl Future<Output = ()> {
        self.clock.sleep_until(deadline)
    }
}

impl<N: Net> Random for ShardEnv<N> {
    fn random_u64(&self) -> u64 {
        self.clock.random_u64()
    }
}

impl<N: Net> Seam for ShardEnv<N> {
    type Net = N;

    fn net(&self) -> &N {
        &self.net
    }
}

impl<N: Net> Compute for ShardEnv<N> {
    fn lanes(&self) -> usize {
        Cores.lanes()
    }

    fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + 'static {
        Cores.compute(work)
    }
}

impl<N: Net> Env for ShardEnv<N> {
    type Disk = ShardDisk;

    fn disk(&self) -> &ShardDisk {
        &self.disk
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(guard_task(name, task)));
    }

    /// To wake oneself would not do: tasks of the `LocalSet` go on among themselves, up to 61 polls, before the shard's
    /// main future and quinn's tasks have their turn.
    async fn give_way(&self) {
        tokio::task::yield_now().await;
    }

    fn stop(&self, exit_code: i32, reason: &str) {
        stop_process(exit_code, reason);
    }
}
