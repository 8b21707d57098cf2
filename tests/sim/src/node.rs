//! Nodes (processes) and the machines they run on.

use crate::disk::DiskCell;
use crate::env::SimEnv;
use crate::executor::{TaskFuture, TaskKey};
use crate::rng::Rng;
use hadal_types::{Principal, Role};
use std::net::SocketAddr;
use std::rc::Rc;

/// Names a node of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(crate) u16);

impl NodeId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a process ends unasked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// `kill -9`: the page cache lives on; operations in flight may or may not happen.
    Process,
    /// The machine loses power: unsynced writes are lost, kept or torn, by seed; its clock starts anew.
    Power,
}

/// What a node is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// Running.
    Up,
    /// Stopped in its tracks (SIGSTOP); nothing of it runs.
    Paused,
    /// Crashed.
    Down,
    /// Left through `Env::stop`.
    Exited {
        /// The exit code.
        code: i32,
        /// What it said.
        reason: String,
    },
}

/// A node to be added.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Name in its certificate; also the user name of a client.
    pub name: String,
    /// Role in its certificate.
    pub role: Role,
    /// One endpoint per shard, at least one.
    pub endpoints: Vec<SocketAddr>,
    /// The node whose machine (disk and clock) it shares; its own when `None`.
    pub machine_of: Option<NodeId>,
}

impl NodeSpec {
    /// A node with one endpoint and a machine of its own.
    #[must_use]
    pub fn new(name: impl Into<String>, role: Role, addr: SocketAddr) -> Self {
        Self {
            name: name.into(),
            role,
            endpoints: vec![addr],
            machine_of: None,
        }
    }
}

/// Called at each start of the node with a fresh environment on the same disk.
pub(crate) type Start = Rc<dyn Fn(SimEnv) -> TaskFuture>;

pub(crate) struct Node {
    pub(crate) principal: Principal,
    pub(crate) machine: usize,
    /// Indices into the network's endpoints, one per shard.
    pub(crate) endpoints: Vec<usize>,
    pub(crate) start: Option<Start>,
    pub(crate) status: Status,
    /// Raised at every start and every end: what an older one holds is dead.
    pub(crate) incarnation: u32,
    /// Ready tasks of a paused node.
    pub(crate) parked: Vec<TaskKey>,
    pub(crate) rng: Rng,
}

impl Node {
    /// The process exists (running or paused).
    pub(crate) fn exists(&self) -> bool {
        matches!(self.status, Status::Up | Status::Paused)
    }
}

/// A machine: disk and clock. Usually one node runs on it.
pub(crate) struct Machine {
    pub(crate) clock: MachineClock,
    pub(crate) disk: Rc<DiskCell>,
    pub(crate) rng: Rng,
}

/// Virtual start of wall time in milliseconds since 1970 (2026-11-21).
const WALL_START_MS: i64 = 1_795_219_200_000;

/// A monotonic clock with a rate error and a wall clock with an offset.
#[derive(Clone, Debug)]
pub(crate) struct MachineClock {
    /// World time in nanoseconds at which the present rate began.
    since: u64,
    /// What the clock showed then.
    base: u64,
    /// Parts per million it runs fast.
    rate_ppm: i32,
    pub(crate) wall_offset_ms: i64,
}

const MILLION: u128 = 1_000_000;

impl MachineClock {
    pub(crate) const fn new(now: u64, base: u64) -> Self {
        Self {
            since: now,
            base,
            rate_ppm: 0,
            wall_offset_ms: 0,
        }
    }

    const fn factor(&self) -> u128 {
        (1_000_000 + self.rate_ppm as i64) as u128
    }

    /// What the clock shows at world time `now`.
    pub(crate) const fn tick(&self, now: u64) -> u64 {
        if self.rate_ppm == 0 {
            return self.base + (now - self.since);
        }
        self.base + ((now - self.since) as u128 * self.factor() / MILLION) as u64
    }

    /// The first world time at which the clock shows at least `tick`; `u64::MAX` when that never comes.
    pub(crate) fn world_time(&self, tick: u64) -> u64 {
        let ahead = u128::from(tick.saturating_sub(self.base));
        let wait = if self.rate_ppm == 0 {
            ahead
        } else {
            (ahead * MILLION).div_ceil(self.factor())
        };
        u64::try_from(wait).map_or(u64::MAX, |wait| self.since.saturating_add(wait))
    }

    pub(crate) fn set_rate_ppm(&mut self, now: u64, rate_ppm: i32) {
        assert!(
            rate_ppm.abs() <= 50_000,
            "rate error {rate_ppm} ppm is beyond the fault model's 5 %"
        );
        self.base = self.tick(now);
        self.since = now;
        self.rate_ppm = rate_ppm;
    }

    /// The machine starts anew: the monotonic clock begins at `base`.
    pub(crate) fn reboot(&mut self, now: u64, base: u64) {
        self.since = now;
        self.base = base;
    }

    pub(crate) fn wall_ms(&self, now: u64) -> u64 {
        u64::try_from(WALL_START_MS + self.wall_offset_ms + (now / 1_000_000) as i64).unwrap_or(0)
    }
}
