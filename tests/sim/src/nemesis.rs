//! A seeded schedule of faults. Each seed uses its own subset of all kinds, as a swarm does: faults
//! that hide each other then have seeds of their own.

use crate::disk::{DiskFault, FaultRates};
use crate::node::{Crash, NodeId, Status};
use crate::rng::{Rng, Stream};
use crate::world::Handle;
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// `kill -9`.
    Kill,
    /// Power failure.
    PowerFailure,
    /// SIGSTOP for a while.
    Pause,
    /// One node cut off.
    Isolate,
    /// The nodes fall into two groups.
    Split,
    /// One direction between two nodes cut.
    OneWay,
    /// Two nodes cut from each other, both see the rest.
    Partial,
    /// Messages between two nodes take long.
    Clog,
    /// Messages to and from a node are lost and repeated.
    Loss,
    /// All connections between two nodes reset.
    Reset,
    /// Dials to a node fail.
    FailDials,
    /// A disk a hundred times slower.
    SlowDisk,
    /// A disk whose writes and syncs fail now and then.
    DiskErrors,
    /// A disk without room.
    DiskFull,
    /// A monotonic clock up to 5 % off.
    ClockRate,
    /// A wall clock up to ten years off.
    WallJump,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::Kill,
        Self::PowerFailure,
        Self::Pause,
        Self::Isolate,
        Self::Split,
        Self::OneWay,
        Self::Partial,
        Self::Clog,
        Self::Loss,
        Self::Reset,
        Self::FailDials,
        Self::SlowDisk,
        Self::DiskErrors,
        Self::DiskFull,
        Self::ClockRate,
        Self::WallJump,
    ];

    /// Its counter.
    #[must_use]
    pub const fn counter(self) -> &'static str {
        match self {
            Self::Kill => "fault kill",
            Self::PowerFailure => "fault power failure",
            Self::Pause => "fault pause",
            Self::Isolate => "fault isolate",
            Self::Split => "fault split",
            Self::OneWay => "fault one-way cut",
            Self::Partial => "fault partial cut",
            Self::Clog => "fault clog",
            Self::Loss => "fault loss",
            Self::Reset => "fault reset",
            Self::FailDials => "fault dials",
            Self::SlowDisk => "fault slow disk",
            Self::DiskErrors => "fault disk errors",
            Self::DiskFull => "fault disk full",
            Self::ClockRate => "fault clock rate",
            Self::WallJump => "fault wall jump",
        }
    }
}

/// Strikes nodes at random times until it is told to stop; starts crashed nodes again.
pub struct Nemesis {
    handle: Handle,
    rng: Rng,
    /// Nodes that may be struck.
    nodes: Vec<NodeId>,
    /// Nodes that may be cut off but never end (clients).
    bystanders: Vec<NodeId>,
    faults: Vec<Fault>,
    /// Mean time between two faults.
    pub mean_gap: Duration,
    /// How many nodes may be down or paused at a time.
    pub down_max: usize,
}

impl Nemesis {
    /// A schedule over these nodes, with a seeded subset of `faults` and a seeded pace.
    #[must_use]
    pub fn swarm(
        handle: &Handle,
        nodes: &[NodeId],
        bystanders: &[NodeId],
        faults: &[Fault],
    ) -> Self {
        let mut rng = handle.rng(Stream::Faults, 0);
        let mut chosen: Vec<Fault> = faults
            .iter()
            .copied()
            .filter(|_| rng.chance(1, 2))
            .collect();
        if chosen.is_empty() {
            chosen.extend(rng.pick(faults));
        }
        let mean_gap = Duration::from_millis(rng.range(300, 8000));
        let down_max = rng.range(1, nodes.len().max(1) as u64) as usize;
        Self {
            handle: handle.clone(),
            rng,
            nodes: nodes.to_vec(),
            bystanders: bystanders.to_vec(),
            faults: chosen,
            mean_gap,
            down_max,
        }
    }

    /// Strikes until `end` of virtual time, then makes everything whole again: links, disks, nodes.
    pub async fn run(mut self, end: Duration) {
        while self.handle.now() < end {
            let mean = self.mean_gap.as_millis() as u64;
            let gap = Duration::from_millis(self.rng.range(mean / 4, mean * 7 / 4));
            self.handle
                .sleep(gap.min(end.saturating_sub(self.handle.now())))
                .await;
            self.restart_some();
            if let Some(fault) = self.rng.pick(&self.faults).copied() {
                self.strike(fault);
            }
        }
        make_whole(&self.handle, &self.nodes);
    }

    fn restart_some(&mut self) {
        for node in self.nodes.clone() {
            let down = matches!(
                self.handle.status(node),
                Status::Down | Status::Exited { .. }
            );
            if down && self.rng.chance(1, 2) {
                self.handle.restart(node);
            }
        }
    }

    fn down(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| !self.handle.is_up(**node))
            .count()
    }

    fn later(&mut self, low_ms: u64, high_ms: u64, action: impl FnOnce(&Handle) + 'static) {
        let wait = Duration::from_millis(self.rng.range(low_ms, high_ms));
        self.handle.at(wait, action);
    }

    /// Ends a node now, or at one of its next disk operations: most of a node's time is idle, and what
    /// a crash breaks, it breaks between two writes.
    fn end(&mut self, node: NodeId, crash: Crash) {
        if self.rng.chance(1, 3) {
            self.handle.crash(node, crash);
            return;
        }
        let disk = self.handle.disk_of(node);
        let k = disk.operations() + self.rng.below(8);
        let fault = match self.rng.below(4) {
            0 => DiskFault::CrashBefore(crash),
            1 => DiskFault::CrashAfter(crash),
            _ => DiskFault::CrashDuring(crash),
        };
        disk.fail_op(k, fault);
    }

    fn strike(&mut self, fault: Fault) {
        let Some(node) = self.rng.pick(&self.nodes).copied() else {
            return;
        };
        let mut all = [self.nodes.clone(), self.bystanders.clone()].concat();
        self.rng.shuffle(&mut all);
        let Some(other) = all.iter().copied().find(|other| *other != node) else {
            return;
        };
        let ends_node = matches!(fault, Fault::Kill | Fault::PowerFailure | Fault::Pause);
        if ends_node && (!self.handle.is_up(node) || self.down() >= self.down_max) {
            return;
        }
        self.handle.count(fault.counter(), 1);
        let handle = self.handle.clone();
        match fault {
            Fault::Kill => {
                self.end(node, Crash::Process);
                self.later(1, 5000, move |handle| handle.restart(node));
            }
            Fault::PowerFailure => {
                self.end(node, Crash::Power);
                self.later(100, 10_000, move |handle| handle.restart(node));
            }
            Fault::Pause => {
                handle.pause(node);
                self.later(10, 20_000, move |handle| handle.resume(node));
            }
            Fault::Isolate => {
                handle.isolate(node);
                self.later(100, 15_000, |handle| handle.heal());
            }
            Fault::Split => {
                let size = self.rng.range(1, all.len() as u64 - 1) as usize;
                handle.split(&all[..size]);
                self.later(100, 15_000, |handle| handle.heal());
            }
            Fault::OneWay => {
                handle.cut_one_way(node, other);
                self.later(100, 15_000, move |handle| handle.heal_between(node, other));
            }
            Fault::Partial => {
                handle.cut(node, other);
                self.later(100, 15_000, move |handle| handle.heal_between(node, other));
            }
            Fault::Clog => {
                let extra = Duration::from_millis(self.rng.range(10, 3000));
                handle.clog(node, other, extra);
                self.later(100, 10_000, move |handle| {
                    handle.clog(node, other, Duration::ZERO)
                });
            }
            Fault::Loss => {
                let loss = self.rng.range(10_000, 300_000) as u32;
                handle.set_loss(node, other, loss);
                handle.set_loss(other, node, loss);
                self.later(1000, 20_000, move |handle| {
                    handle.set_loss(node, other, 0);
                    handle.set_loss(other, node, 0);
                });
            }
            Fault::Reset => {
                handle.reset_connections(node, other);
            }
            Fault::FailDials => handle.fail_dials(node, self.rng.range(1, 5) as u32),
            Fault::SlowDisk => {
                handle.disk_of(node).set_slow(self.rng.range(10, 100));
                self.later(500, 20_000, move |handle| handle.disk_of(node).set_slow(1));
            }
            Fault::DiskErrors => {
                let rate = self.rng.range(1000, 100_000) as u32;
                let rates = FaultRates {
                    write_eio: rate,
                    sync_eio: rate,
                    read_eio: rate,
                    ..FaultRates::default()
                };
                handle.disk_of(node).set_rates(rates);
                self.later(500, 10_000, move |handle| {
                    handle.disk_of(node).set_rates(FaultRates::default())
                });
            }
            Fault::DiskFull => {
                let disk = handle.disk_of(node);
                disk.set_capacity(disk.used() + self.rng.below(32 << 10));
                self.later(500, 10_000, move |handle| {
                    handle.disk_of(node).set_capacity(u64::MAX / 2)
                });
            }
            Fault::ClockRate => {
                handle.set_clock_rate_ppm(node, self.rng.range(0, 100_000) as i32 - 50_000)
            }
            Fault::WallJump => {
                const TEN_YEARS_MS: u64 = 10 * 365 * 24 * 3_600_000;
                handle.set_wall_offset_ms(
                    node,
                    self.rng.range(0, 2 * TEN_YEARS_MS) as i64 - TEN_YEARS_MS as i64,
                );
            }
        }
    }
}

/// Mends links, disks and processes of these nodes: from here on progress is owed. What wore out at
/// rest stays so; clocks keep their rates.
pub fn make_whole(handle: &Handle, nodes: &[NodeId]) {
    handle.heal();
    for node in nodes {
        let disk = handle.disk_of(*node);
        disk.set_rates(FaultRates::default());
        disk.set_slow(1);
        disk.set_dead(false);
        disk.set_capacity(u64::MAX / 2);
        disk.forget_planned();
        handle.fail_dials(*node, 0);
        handle.resume(*node);
        handle.restart(*node);
    }
}
