//! Duels for the journal: writers one after the other, of which each hears other JournalNodes than the one before and
//! leaves something unfinished behind.
//!
//! The figures are the counterexamples of `model-journal.md`, danced by the real daemons; each takes its steps when the
//! JournalNodes' disks say that the moment has come. Between them are turns by chance.

use super::{CLAIMANTS, Scene, WRITERS};
use crate::node::{Crash, NodeId};
use crate::rng::Rng;
use futures_util::future::select;
use std::pin::pin;
use std::time::Duration;

/// A claimant has its promises within this time, or the turn is given up.
const CLAIM_MS: u64 = 1_500;
/// Time for records to be written.
const WRITE_MS: u64 = 600;
/// Longer than a claim takes.
const SLOW_MS: u64 = 1_200;

/// Figures until `end`.
pub(super) async fn run(scene: Scene, rng: Rng, end: Duration) {
    let mut claims = Claims {
        scene,
        rng,
        writers: [0, 1, 2],
        journalnodes: [0, 1, 2],
    };
    while claims.scene.handle.now() < end {
        let Claims {
            rng,
            writers,
            journalnodes,
            ..
        } = &mut claims;
        rng.shuffle(writers);
        rng.shuffle(journalnodes);
        match claims.rng.below(6) {
            0 => claims.acceptance().await,
            1 => claims.lengths().await,
            2 => claims.longest().await,
            3 => claims.late_words().await,
            _ => claims.turns().await,
        }
        claims.scene.calm(&mut claims.rng).await;
    }
}

struct Claims {
    scene: Scene,
    rng: Rng,
    /// NameNodes in the order of their turns.
    writers: [usize; CLAIMANTS],
    /// JournalNodes by their part in a figure.
    journalnodes: [usize; 3],
}

impl Claims {
    fn namenode(&self, writer: usize) -> NodeId {
        self.scene.namenodes[writer]
    }

    fn journalnode(&self, index: usize) -> NodeId {
        self.scene.journalnodes[index]
    }

    /// Highest epoch promised anywhere.
    fn promised(&self) -> u64 {
        let audit = self.scene.audit.borrow();
        let promised = (0..3).map(|index| audit.promised(index));
        promised.max().unwrap_or_default()
    }

    fn cut(&self, writer: usize, journalnode: usize) {
        let (writer, journalnode) = (self.namenode(writer), self.journalnode(journalnode));
        self.scene.handle.cut(writer, journalnode);
    }

    fn heal(&self, writer: usize, journalnode: usize) {
        let (writer, journalnode) = (self.namenode(writer), self.journalnode(journalnode));
        self.scene.handle.heal_between(writer, journalnode);
    }

    /// The only one that acts from now on claims, and reaches these JournalNodes alone. The first epoch it was promised.
    async fn take_over(&mut self, writer: usize, reached: &[usize]) -> Option<u64> {
        let handle = self.scene.handle.clone();
        for other in 0..CLAIMANTS {
            if other != writer {
                handle.pause(self.namenode(other));
            }
        }
        for index in 0..3 {
            match reached.contains(&index) {
                true => self.heal(writer, index),
                false => self.cut(writer, index),
            }
        }
        let before = self.promised();
        let node = self.namenode(writer);
        if handle.is_up(node) || self.rng.chance(2, 3) {
            // A new process claims at once.
            handle.crash(node, Crash::Process);
            handle.restart(node);
        } else {
            // An old one goes on, and claims when its first edit is refused.
            handle.resume(node);
            handle.restart(node);
        }
        let claimed = self
            .scene
            .until(CLAIM_MS, |scene| {
                let audit = scene.audit.borrow();
                reached.iter().any(|index| audit.promised(*index) > before)
            })
            .await;
        let epoch = self.promised();
        claimed.then(|| {
            handle.count("claims taken up", 1);
            epoch
        })
    }

    /// It does nothing any more; what it said may still be on its way.
    fn silence(&mut self, writer: usize) {
        let node = self.namenode(writer);
        match self.rng.chance(1, 2) {
            true => self.scene.handle.pause(node),
            false => self.scene.handle.crash(node, Crash::Process),
        }
    }

    /// The writer starts its segment at those it reaches, and its records reach one of them alone: at least so many.
    async fn tail(&mut self, writer: usize, reached: [usize; 2], at: usize, records: usize) {
        let Some(epoch) = self.take_over(writer, &reached).await else {
            return;
        };
        let other = if reached[0] == at {
            reached[1]
        } else {
            reached[0]
        };
        let claims = &*self;
        let left = claims
            .scene
            .until(CLAIM_MS, |scene| {
                let audit = scene.audit.borrow();
                let handle = &scene.handle;
                let (from, to) = (claims.namenode(writer), claims.journalnode(other));
                if audit.writer(other) >= epoch && !handle.is_cut(from, to) {
                    handle.cut(from, to);
                }
                let begun = audit.writer(at);
                begun >= epoch && audit.written(at, begun) >= records
            })
            .await;
        self.scene.handle.count("tails left", u64::from(left));
        self.silence(writer);
    }

    /// The writer commits so many edits.
    async fn commit(&mut self, writer: usize, reached: &[usize], edits: u64) {
        if self.take_over(writer, reached).await.is_none() {
            return;
        }
        let before = self.scene.frontier.get();
        self.scene
            .until(CLAIM_MS, |scene| scene.frontier.get() >= before + edits)
            .await;
    }

    /// W1 leaves a tail at Y. W2 recovers X and Z without it, and dies when one of them has finalised; the other starts
    /// again. W3 recovers that one and Y: what was accepted must win over the longer tail.
    async fn acceptance(&mut self) {
        let [a, b, c] = self.writers;
        let [x, y, z] = self.journalnodes;
        self.scene.handle.count("figure acceptance", 1);
        let edits = self.rng.range(1, 2);
        self.commit(a, &[x, y, z], edits).await;
        self.cut(a, x);
        self.cut(a, z);
        let epoch = self.promised();
        self.scene
            .until(WRITE_MS, |scene| {
                let audit = scene.audit.borrow();
                let elsewhere = audit.written(x, epoch).max(audit.written(z, epoch));
                audit.written(y, epoch) > elsewhere
            })
            .await;
        self.silence(a);
        let finalised = |scene: &Scene, index| scene.audit.borrow().finalised(index);
        let before = [x, z].map(|index| finalised(&self.scene, index));
        if self.take_over(b, &[x, z]).await.is_none() {
            return;
        }
        self.scene
            .until(CLAIM_MS, |scene| {
                finalised(scene, x) > before[0] || finalised(scene, z) > before[1]
            })
            .await;
        let late = if finalised(&self.scene, x) > before[0] {
            z
        } else {
            x
        };
        self.silence(b);
        let after = self.rng.range(1, 20);
        self.scene.restart_journalnode(late, Crash::Process, after);
        let before = finalised(&self.scene, late);
        if self.take_over(c, &[late, y]).await.is_some() {
            self.scene
                .until(CLAIM_MS, |scene| finalised(scene, late) > before)
                .await;
        }
        self.scene.wait(&mut self.rng, 0, 300).await;
    }

    /// X holds a record of W1, Y another one of W2 in its place. W3 recovers Y and Z, and X hears of it late: its log is as
    /// long as the decided one, and another.
    async fn lengths(&mut self) {
        let [a, b, c] = self.writers;
        let [x, y, z] = self.journalnodes;
        self.scene.handle.count("figure lengths", 1);
        for writers in self.scene.writers.iter() {
            writers.set(1);
        }
        self.tail(a, [x, y], x, 1).await;
        self.tail(b, [y, z], y, 1).await;
        let handle = self.scene.handle.clone();
        let (source, copier) = (self.journalnode(y), self.journalnode(z));
        handle.clog(source, copier, Duration::from_millis(SLOW_MS));
        if let Some(epoch) = self.take_over(c, &[y, z]).await {
            self.scene
                .until(CLAIM_MS, |scene| {
                    let audit = scene.audit.borrow();
                    audit.promised(y) >= epoch && audit.promised(z) >= epoch
                })
                .await;
            let wait = Duration::from_micros(self.rng.range(0, 4_000));
            handle.sleep(wait).await;
            self.heal(c, x);
            let before = self.scene.audit.borrow().finalised(x);
            self.scene
                .until(SLOW_MS, |scene| scene.audit.borrow().finalised(x) > before)
                .await;
        }
        handle.clog(source, copier, Duration::ZERO);
        self.scene.wait(&mut self.rng, 0, 300).await;
    }

    /// X holds a long tail of W1. W2 commits less in its place at Y and Z. W3 recovers X and Y.
    async fn longest(&mut self) {
        let [a, b, c] = self.writers;
        let [x, y, z] = self.journalnodes;
        self.scene.handle.count("figure longest", 1);
        self.tail(a, [x, y], x, 3).await;
        self.scene.writers[b].set(1);
        self.commit(b, &[y, z], 1).await;
        self.silence(b);
        self.scene.write_all();
        self.commit(c, &[x, y], 1).await;
        self.scene.wait(&mut self.rng, 0, 300).await;
    }

    /// The last words of W1 reach X when it has promised W2 and W2 has not recovered it yet.
    async fn late_words(&mut self) {
        let [a, b, _] = self.writers;
        let [x, y, z] = self.journalnodes;
        self.scene.handle.count("figure late words", 1);
        self.commit(a, &[x, y, z], 1).await;
        let handle = self.scene.handle.clone();
        let delay = Duration::from_millis(self.rng.range(100, 600));
        let (from, to) = (self.namenode(a), self.journalnode(x));
        handle.clog(from, to, delay);
        self.scene.wait(&mut self.rng, 5, 60).await;
        handle.pause(from);
        let epoch = self.promised();
        let reached = if self.rng.chance(1, 2) { z } else { y };
        if self.take_over(b, &[x, reached]).await.is_some() {
            self.scene
                .until(CLAIM_MS, |scene| scene.audit.borrow().promised(x) > epoch)
                .await;
            let new = self.namenode(b);
            handle.clog(new, to, Duration::from_millis(SLOW_MS));
            handle.sleep(delay + Duration::from_millis(50)).await;
            handle.clog(new, to, Duration::ZERO);
        }
        handle.clog(from, to, Duration::ZERO);
        self.scene.wait(&mut self.rng, 0, 300).await;
    }

    /// Some writers by chance, at some JournalNodes, each of which ends in the middle of something.
    async fn turns(&mut self) {
        self.scene.handle.count("figure turns", 1);
        for _ in 0..self.rng.range(2, 6) {
            let writer = self.rng.below(CLAIMANTS as u64) as usize;
            self.rng.shuffle(&mut self.journalnodes);
            let all = self.journalnodes;
            let reached = if self.rng.chance(1, 4) { 3 } else { 2 };
            let late = self.rng.chance(1, 3).then(|| {
                let index = self.rng.below(3) as usize;
                let delay = Duration::from_millis(self.rng.range(5, 900));
                let (from, to) = (self.namenode(writer), self.journalnode(index));
                self.scene.handle.clog(from, to, delay);
                (from, to)
            });
            match self.rng.below(3) {
                0 => {
                    let records = self.rng.range(1, WRITERS as u64) as usize;
                    self.tail(writer, [all[0], all[1]], all[0], records).await;
                }
                1 => {
                    let edits = self.rng.range(1, 3);
                    self.commit(writer, &all[..reached], edits).await;
                    self.silence(writer);
                }
                _ => {
                    self.take_over(writer, &all[..reached]).await;
                    for _ in 0..self.rng.below(14) {
                        let late = self.scene.handle.sleep(Duration::from_millis(5));
                        select(pin!(self.scene.changed()), pin!(late)).await;
                    }
                    self.silence(writer);
                }
            }
            if self.rng.chance(1, 3) {
                let crash = match self.rng.chance(1, 2) {
                    true => Crash::Process,
                    false => Crash::Power,
                };
                let after = self.rng.range(1, 200);
                self.scene.restart_journalnode(all[0], crash, after);
            }
            if let Some((from, to)) = late
                && self.rng.chance(1, 2)
            {
                self.scene.handle.clog(from, to, Duration::ZERO);
            }
        }
    }
}
