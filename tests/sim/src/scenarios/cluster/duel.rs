//! Faults aimed at the rule of one writer: claims that overlap, JournalNodes that miss them, restarts in the middle of
//! one; and a JournalNode that forgets.

use super::audit::{Audit, is_finalised_segment};
use super::nodes::{Cluster, journalnode_address, journalnode_name};
use crate::env::SimEnv;
use crate::node::{Crash, NodeId};
use crate::rng::Rng;
use crate::world::Handle;
use futures_util::future::select;
use hadal_env::{Expect, Net, Seam};
use hadal_proto::qjournal::{self, QjournalProtocol};
use hadal_quic::CallClient;
use hadal_types::Role;
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A lease and a half: who is silent for longer is no longer active.
const SILENCE_MS: (u64, u64) = (500, 2_500);
/// A claim takes so long at most, mostly.
const CLAIM_MS: u64 = 400;
/// Between two glances at the promises while a claim is expected.
const GLANCE_MS: u64 = 3;
/// Questions about promises end after this.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// So long after a JournalNode's disk was remembered that state of it comes back.
const IMAGE_WAIT_MS: (u64, u64) = (2_000, 30_000);

/// Duels between two NameNodes until `end`, in a seeded half of all runs.
pub(super) fn start(
    world: &Handle,
    cluster: &Cluster,
    audit: &Rc<RefCell<Audit>>,
    mut rng: Rng,
    end: Duration,
) {
    let (duels, forgetful) = (rng.chance(1, 2), rng.chance(1, 3));
    if duels && cluster.namenodes.len() > 1 {
        let duel = Duel {
            handle: world.clone(),
            journalnodes: cluster.journalnodes.clone(),
            namenodes: cluster.namenodes.clone(),
            auditor: cluster.auditor,
            audit: Rc::clone(audit),
            rng: rng.fork(),
        };
        world.spawn("duels", duel.run(end));
    }
    if forgetful {
        let task = forget(
            world.clone(),
            cluster.journalnodes.clone(),
            Rc::clone(audit),
            rng,
            end,
        );
        world.spawn("a JournalNode forgets", task);
    }
}

struct Duel {
    handle: Handle,
    journalnodes: Vec<NodeId>,
    namenodes: Vec<NodeId>,
    auditor: NodeId,
    audit: Rc<RefCell<Audit>>,
    rng: Rng,
}

/// Asks a JournalNode again and again what it promised: what it says must be on its disk.
async fn ask_promises(
    handle: Handle,
    env: SimEnv,
    index: usize,
    audit: Rc<RefCell<Audit>>,
    until: Duration,
) {
    let expect = Expect::node(Role::Journalnode, journalnode_name(index));
    let Ok(conn) = env.net().connect(journalnode_address(index), &expect).await else {
        return;
    };
    let Ok((client, driver)) = CallClient::<QjournalProtocol>::open(&conn).await else {
        return;
    };
    let asking = async {
        while handle.now() < until {
            let request = qjournal::Request {
                namespace_id: 0,
                call: qjournal::Call::GetState,
            };
            match client.call(&request).await {
                Ok(qjournal::Response::State { state }) => {
                    audit.borrow_mut().told(index, state.promised.0);
                }
                _ => return,
            }
            handle.sleep(Duration::from_millis(GLANCE_MS)).await;
        }
    };
    let gone = handle.sleep(CALL_LIMIT);
    select(pin!(asking), select(pin!(driver), pin!(gone))).await;
}

impl Duel {
    async fn run(mut self, end: Duration) {
        while self.handle.now() < end {
            self.wait(2_000, 15_000).await;
            // Several in a row: what one leaves behind, the next finds.
            for _ in 0..self.rng.range(1, 4) {
                if self.handle.now() >= end {
                    return;
                }
                self.handle.count("duels", 1);
                self.round().await;
                self.wait(0, 1_500).await;
            }
        }
    }

    async fn wait(&mut self, low: u64, high: u64) {
        let wait = self.rng.range(low, high);
        self.handle.sleep(Duration::from_millis(wait)).await;
    }

    /// Each NameNode hears other JournalNodes than the other; one of them is silenced, so that the other claims; and
    /// JournalNodes end in the middle of it.
    async fn round(&mut self) {
        let handle = self.handle.clone();
        self.rng.shuffle(&mut self.namenodes);
        self.rng.shuffle(&mut self.journalnodes);
        let (one, other) = (self.namenodes[0], self.namenodes[1]);
        let (near, far) = (self.journalnodes[0], self.journalnodes[2]);
        let mut cuts = Vec::new();
        // The one's last words reach one JournalNode, the other's claim the others.
        let alone = self.rng.chance(1, 2);
        for journalnode in self.journalnodes[1..].iter().filter(|_| alone) {
            cuts.push((one, *journalnode));
        }
        if self.rng.chance(2, 3) {
            cuts.push((other, if self.rng.chance(2, 3) { near } else { far }));
        }
        // Words of an old writer that arrive when there is a new one.
        let late = self.rng.chance(1, 2).then(|| self.rng.range(5, 4_000));
        for (from, to) in &cuts {
            match self.rng.chance(1, 2) {
                true => handle.cut_one_way(*from, *to),
                false => handle.cut(*from, *to),
            }
        }
        if let Some(ms) = late {
            let both = self.rng.chance(1, 2);
            for node in [one, other].into_iter().take(1 + usize::from(both)) {
                let to = *self.rng.pick(&self.journalnodes).expect("there are some");
                handle.clog(node, to, Duration::from_millis(ms));
            }
        }
        self.wait(0, 300).await;
        let how = self.rng.below(4);
        match how {
            0 => handle.crash(one, Crash::Process),
            1 | 2 => handle.pause(one),
            _ => handle.cut(one, other),
        }
        self.wait(SILENCE_MS.0, SILENCE_MS.1 / 2).await;
        self.restart_some().await;
        if self.rng.chance(1, 2) {
            // The claimant dies of its claim.
            self.wait(0, CLAIM_MS).await;
            handle.crash(other, Crash::Process);
            let wait = Duration::from_millis(self.rng.range(1, 1_000));
            handle.at(wait, move |handle| handle.restart(other));
        }
        for node in [one, other] {
            for journalnode in &self.journalnodes {
                handle.clog(node, *journalnode, Duration::ZERO);
            }
        }
        self.audit.borrow_mut().look();
        match how {
            0 => handle.restart(one),
            1 | 2 => handle.resume(one),
            _ => handle.heal_between(one, other),
        }
        self.wait(0, SILENCE_MS.1 / 2).await;
        self.audit.borrow_mut().look();
        for (from, to) in cuts {
            handle.heal_between(from, to);
        }
    }

    /// Ends JournalNodes while a claim is expected, and holds what they say against what is on their disks.
    async fn restart_some(&mut self) {
        let handle = self.handle.clone();
        let until = handle.now() + Duration::from_millis(CLAIM_MS);
        for index in 0..self.journalnodes.len() {
            let asked = ask_promises(
                handle.clone(),
                handle.env_of(self.auditor),
                index,
                Rc::clone(&self.audit),
                until,
            );
            handle.spawn_on(self.auditor, "promises", asked);
        }
        let victims = self.rng.range(0, 2) as usize;
        self.rng.shuffle(&mut self.journalnodes);
        let crash = match self.rng.chance(1, 2) {
            true => Crash::Power,
            false => Crash::Process,
        };
        let mut struck = 0;
        while handle.now() < until {
            self.audit.borrow_mut().glance();
            if struck < victims && self.rng.chance(1, 40) {
                let node = self.journalnodes[struck];
                struck += 1;
                handle.crash(node, crash);
                let wait = Duration::from_millis(self.rng.range(1, 300));
                handle.at(wait, move |handle| handle.restart(node));
            }
            handle.sleep(Duration::from_millis(GLANCE_MS)).await;
        }
    }
}

/// One JournalNode, once in a run, finds its disk empty, an old state of it, or bits of its finalised segments turned:
/// the most that is survived (P2).
async fn forget(
    handle: Handle,
    journalnodes: Vec<NodeId>,
    audit: Rc<RefCell<Audit>>,
    mut rng: Rng,
    end: Duration,
) {
    let span = end.saturating_sub(handle.now()).as_millis() as u64;
    handle
        .sleep(Duration::from_millis(rng.range(0, span * 2 / 3)))
        .await;
    let index = rng.below(journalnodes.len() as u64) as usize;
    let node = journalnodes[index];
    let disk = handle.disk_of(node);
    let image = disk.image();
    let kind = rng.below(3);
    if kind == 1 {
        let wait = rng.range(IMAGE_WAIT_MS.0, IMAGE_WAIT_MS.1);
        handle.sleep(Duration::from_millis(wait)).await;
    }
    if handle.now() >= end {
        return;
    }
    audit.borrow_mut().forget(index);
    handle.crash(node, Crash::Power);
    let disk = handle.disk_of(node);
    match kind {
        0 => {
            handle.count("JournalNode wiped", 1);
            disk.wipe();
        }
        1 => {
            handle.count("JournalNode rolled back", 1);
            disk.put_back(&image);
        }
        _ => {
            handle.count("JournalNode rots", 1);
            for (path, length) in disk.files() {
                if is_finalised_segment(&path) && rng.chance(1, 2) {
                    disk.flip_bit(&path, rng.below(length * 8));
                }
            }
        }
    }
    let wait = Duration::from_millis(rng.range(10, 5_000));
    handle.at(wait, move |handle| handle.restart(node));
}
