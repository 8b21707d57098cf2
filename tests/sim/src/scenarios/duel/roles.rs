//! Duels of a pair for the lease: candidates that hear nothing, actives that sleep and wake up.

use super::Scene;
use crate::node::Crash;
use crate::rng::Rng;
use std::time::Duration;

/// How long a candidate hears nothing: about a lease, so that what it heard last says that the lease is free.
const DEAF_MS: (u64, u64) = (380, 640);
/// Who is silent for longer has lost its lease.
const LAPSE_MS: (u64, u64) = (620, 1_500);
/// The other one takes over within this time, or the figure is given up.
const TAKE_OVER_MS: u64 = 3_000;

/// Figures until `end`.
pub(super) async fn run(scene: Scene, rng: Rng, end: Duration) {
    let mut roles = Roles { scene, rng };
    while roles.scene.handle.now() < end {
        match roles.rng.below(4) {
            0 => roles.deaf().await,
            1 | 2 => roles.sleepers().await,
            _ => roles.crash().await,
        }
        roles.scene.calm(&mut roles.rng).await;
    }
}

struct Roles {
    scene: Scene,
    rng: Rng,
}

impl Roles {
    /// The one that serves, and the other.
    fn pair(&self) -> (usize, usize) {
        let active = self.scene.acknowledged_by.get();
        (active, 1 - active)
    }

    /// From now on only this NameNode is written to.
    fn write_to(&self, namenode: usize) {
        for (index, writers) in self.scene.writers.iter().enumerate() {
            writers.set(if index == namenode { super::WRITERS } else { 0 });
        }
    }

    /// The candidate hears nothing of JournalNodes for about a lease: by what it heard last, the lease is free by now.
    async fn deaf(&mut self) {
        let (active, other) = self.pair();
        let scene = self.scene.clone();
        scene.handle.count("figure deaf", 1);
        // The active one is only read: it does not notice by its writes that it was deposed.
        self.write_to(other);
        let candidate = scene.namenodes[other];
        for journalnode in scene.journalnodes.iter() {
            scene.handle.cut_one_way(*journalnode, candidate);
        }
        scene.wait(&mut self.rng, DEAF_MS.0, DEAF_MS.1).await;
        for journalnode in scene.journalnodes.iter() {
            scene.handle.heal_between(*journalnode, candidate);
        }
        let before = scene.frontier.get();
        scene
            .until(TAKE_OVER_MS / 2, |scene| scene.frontier.get() > before)
            .await;
        scene.wait(&mut self.rng, 50, 700).await;
        self.write_to(active);
    }

    /// The active one sleeps, the other takes over and falls asleep, too; then the first one wakes up.
    async fn sleepers(&mut self) {
        let (active, other) = self.pair();
        let scene = self.scene.clone();
        scene.handle.count("figure sleepers", 1);
        self.write_to(other);
        let (first, second) = (scene.namenodes[active], scene.namenodes[other]);
        let before = scene.frontier.get();
        scene.handle.pause(first);
        scene
            .until(TAKE_OVER_MS, |scene| scene.frontier.get() > before)
            .await;
        scene.wait(&mut self.rng, 0, 100).await;
        let early = self.rng.chance(1, 3);
        if early {
            scene.handle.resume(first);
        }
        match self.rng.chance(3, 4) {
            true => scene.handle.pause(second),
            false => scene.handle.crash(second, Crash::Process),
        }
        if !early {
            scene.wait(&mut self.rng, 0, LAPSE_MS.0).await;
            scene.handle.resume(first);
        }
        scene.wait(&mut self.rng, LAPSE_MS.0, LAPSE_MS.1).await;
        if self.rng.chance(1, 2) {
            self.write_to(active);
            scene.wait(&mut self.rng, 50, 500).await;
        }
        scene.handle.resume(second);
        scene.handle.restart(second);
        scene.wait(&mut self.rng, 50, 500).await;
    }

    /// JournalNodes restart, which forget their leases, and the active one dies or is cut off.
    async fn crash(&mut self) {
        let (active, other) = self.pair();
        let scene = self.scene.clone();
        scene.handle.count("figure crash", 1);
        let count = self.rng.range(1, 2) as usize;
        for index in 0..count {
            let after = self.rng.range(1, 300);
            scene.restart_journalnode(index, Crash::Process, after);
        }
        let node = scene.namenodes[active];
        match self.rng.below(3) {
            0 => scene.handle.crash(node, Crash::Process),
            1 => scene.handle.isolate(node),
            _ => {
                for journalnode in scene.journalnodes.iter() {
                    scene.handle.cut_one_way(node, *journalnode);
                }
            }
        }
        self.write_to(other);
        let before = scene.frontier.get();
        scene
            .until(TAKE_OVER_MS, |scene| scene.frontier.get() > before)
            .await;
        scene.wait(&mut self.rng, 0, 500).await;
    }
}
