//! Images: in half of all seeds standbys make them often, in some of those the superuser orders more, and NameNodes end
//! behind them. Whoever starts from an image remembers where blocks were; the DataNodes' digests must prove it.
//!
//! In half of those seeds the journal is purged soon behind the oldest image kept. A NameNode that was away may then lack
//! edits that nobody has any more; its operator has it take the image of the other one (`namenode -bootstrapStandby -force`).

use super::audit::Audit;
use super::nodes::{Cluster, Dfs, NAMENODE_DIR, namenode_address, namenode_name};
use crate::disk::SimDisk;
use crate::node::{Crash, NodeId};
use crate::rng::Rng;
use crate::world::Handle;
use futures_util::future::{Either, select};
use hadal_client::ClientError;
use hadal_env::Expect;
use hadal_namesystem::CheckpointConfig;
use hadal_proto::admin::{Request, Response, SafeModeAction};
use hadal_types::Role;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Between two orders to save an image.
const ORDER_EVERY_MS: (u64, u64) = (3_000, 30_000);
/// An order that is not answered for so long is given up.
const ORDER_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at the images there are.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to leave safe mode.
const LEAVE_EVERY: Duration = Duration::from_millis(500);
/// An order without an answer may still come true so much later: no connection is silent for longer.
const LATE: Duration = Duration::from_secs(15);

/// Between two looks for NameNodes that lack purged edits, and how many of them must agree.
const GAP_EVERY: Duration = Duration::from_secs(2);
/// See [`GAP_EVERY`].
const GAP_LOOKS: u32 = 3;
/// Word of the statistics.
const STANDBY: &str = "standby";
/// No run has as many edits.
const ALL_EDITS: u64 = 1_000_000;

/// How the NameNodes of a seed make images.
#[derive(Clone)]
pub(in crate::scenarios) struct Images {
    pub(super) checkpoint: CheckpointConfig,
    pub(super) retained: usize,
    pub(super) bytes_per_second: u64,
    /// Edits that stay in the journal behind the oldest image kept.
    pub(super) extra_edits: u64,
    /// NameNodes that take the image of another one when they start.
    behind: Rc<RefCell<BTreeSet<usize>>>,
    /// The superuser orders some.
    ordered: bool,
    /// NameNodes end behind them.
    ends: bool,
}

impl Images {
    /// No run is long enough for one.
    pub(in crate::scenarios) fn never() -> Self {
        Self {
            checkpoint: CheckpointConfig::default(),
            retained: 2,
            bytes_per_second: 0,
            extra_edits: ALL_EDITS,
            behind: Rc::default(),
            ordered: false,
            ends: false,
        }
    }

    /// As the seed has it.
    pub(super) fn of(rng: &mut Rng) -> Self {
        if rng.chance(1, 2) {
            return Self::never();
        }
        let slow = rng.chance(1, 4);
        Self {
            checkpoint: CheckpointConfig {
                txns: rng.range(10, 400),
                period_ms: rng.range(2_000, 60_000),
                check_ms: 1_000,
                ..CheckpointConfig::default()
            },
            retained: rng.range(1, 2) as usize,
            bytes_per_second: if slow { rng.range(1_000, 20_000) } else { 0 },
            behind: Rc::default(),
            ordered: rng.chance(1, 2),
            ends: rng.chance(1, 2),
            extra_edits: match rng.chance(1, 2) {
                true => rng.range(0, 200),
                false => ALL_EDITS,
            },
        }
    }

    /// Edits are purged in this seed.
    pub(super) fn purges(&self) -> bool {
        self.extra_edits < ALL_EDITS
    }

    /// Whether this NameNode is to take the image of another one before it serves.
    pub(super) fn is_behind(&self, namenode: usize) -> bool {
        self.behind.borrow().contains(&namenode)
    }

    /// This NameNode has taken the image of another one.
    pub(super) fn caught_up(&self, namenode: usize) {
        self.behind.borrow_mut().remove(&namenode);
    }
}

/// The txid of the newest image that a NameNode with this directory would find if it started now.
pub(super) fn newest(disk: &SimDisk, dir: &Path) -> Option<u64> {
    let images = dir.join("images");
    let txid = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("fsimage_")?.parse().ok()
    };
    let files = disk.files().into_iter().map(|(path, _)| path);
    let files = files.filter(|path| path.parent() == Some(&images));
    files.filter_map(|path| txid(&path)).max()
}

/// Counts images and orders some, and ends NameNodes behind those, until `end`, as the seed has it.
pub(super) fn start(
    world: &Handle,
    cluster: &Cluster,
    images: &Images,
    audit: &Rc<RefCell<Audit>>,
    mut rng: Rng,
    end: Duration,
) {
    if images.checkpoint == CheckpointConfig::default() {
        return;
    }
    let namenodes = cluster.namenodes.clone();
    if images.purges() {
        let operator = Operator {
            handle: world.clone(),
            dfs: cluster.admin_dfs(world),
            namenodes: namenodes.clone(),
            ends: false,
            rng: rng.fork(),
        };
        audit
            .borrow_mut()
            .allow_purges(&namenodes, images.extra_edits);
        let task = operator.find_gaps(images.clone(), Rc::clone(audit));
        world.spawn_on(cluster.admin, "gaps", task);
    }
    world.spawn("count images", count(world.clone(), namenodes.clone(), end));
    if images.ordered || namenodes.len() == 1 {
        let operator = Operator {
            handle: world.clone(),
            dfs: cluster.admin_dfs(world),
            namenodes,
            ends: images.ends,
            rng,
        };
        world.spawn_on(cluster.admin, "images", operator.run(end));
    }
}

async fn count(handle: Handle, namenodes: Vec<NodeId>, end: Duration) {
    let mut known = vec![None; namenodes.len()];
    while handle.now() < end {
        handle.sleep(LOOK_EVERY).await;
        for (node, known) in namenodes.iter().zip(&mut known) {
            let found = newest(&handle.disk_of(*node), Path::new(NAMENODE_DIR));
            if std::mem::replace(known, found) != found {
                handle.count("checkpoints", 1);
            }
        }
    }
}

/// The superuser.
struct Operator {
    handle: Handle,
    dfs: Dfs,
    namenodes: Vec<NodeId>,
    ends: bool,
    rng: Rng,
}

impl Operator {
    async fn run(mut self, end: Duration) {
        loop {
            let wait = self.rng.range(ORDER_EVERY_MS.0, ORDER_EVERY_MS.1);
            self.handle.sleep(Duration::from_millis(wait)).await;
            if self.handle.now() >= end {
                return;
            }
            let index = self.rng.below(self.namenodes.len() as u64) as usize;
            self.save(index).await;
        }
    }

    /// Safe mode, an image, safe mode off. A NameNode that ended meanwhile has left safe mode by that.
    async fn save(&mut self, index: usize) {
        let (handle, node) = (self.handle.clone(), self.namenodes[index]);
        let ask = Request::SafeMode {
            action: SafeModeAction::Get,
        };
        let Some(Ok(Response::SafeMode { on: false, .. })) = self.order(index, &ask).await else {
            return;
        };
        let enter = Request::SafeMode {
            action: SafeModeAction::Enter,
        };
        let entered = self.order(index, &enter).await;
        // Not before: an order may wait until the NameNode was started again, and find its next life.
        let life = handle.life(node);
        let mut certain = matches!(entered, Some(Ok(_)));
        let saved = match entered {
            Some(Ok(_)) => self.order(index, &Request::SaveNamespace).await,
            _ => None,
        };
        let ends = self.ends && self.rng.chance(1, 2);
        match saved {
            Some(Ok(Response::AtTxid { .. })) => handle.count("images saved by order", 1),
            Some(_) => handle.count("images refused", 1),
            None => {}
        }
        if ends && handle.life(node) == life && matches!(saved, Some(Ok(_))) {
            handle.count("NameNode ended behind an image", 1);
            let wait = Duration::from_millis(self.rng.below(3_000));
            handle.sleep(wait).await;
            let crash = match self.rng.chance(1, 2) {
                true => Crash::Power,
                false => Crash::Process,
            };
            handle.crash(node, crash);
            let wait = Duration::from_millis(self.rng.range(10, 5_000));
            handle.at(wait, move |handle| handle.restart(node));
        }
        let leave = Request::SafeMode {
            action: SafeModeAction::Leave,
        };
        while handle.life(node) == life {
            match self.order(index, &leave).await {
                Some(Ok(_)) if certain => return,
                Some(Ok(_)) => {
                    certain = true;
                    handle.sleep(LATE).await;
                }
                _ => handle.sleep(LEAVE_EVERY).await,
            }
        }
    }

    /// NameNodes that stand by and lack edits which nobody has any more are started again, to take a newer image. Faults may
    /// be over: it is for the cluster to become whole.
    async fn find_gaps(mut self, images: Images, audit: Rc<RefCell<Audit>>) {
        let mut seen = vec![0; self.namenodes.len()];
        loop {
            self.handle.sleep(GAP_EVERY).await;
            for (index, seen) in seen.iter_mut().enumerate() {
                let stats = self.order(index, &Request::NamenodeStats).await;
                let lacks = match stats {
                    Some(Ok(Response::NamenodeStats { stats })) if stats.state == STANDBY => {
                        let mut audit = audit.borrow_mut();
                        audit.look();
                        audit.is_gone_behind(stats.last_applied.0)
                    }
                    _ => false,
                };
                *seen = if lacks { *seen + 1 } else { 0 };
                if *seen < GAP_LOOKS {
                    continue;
                }
                *seen = 0;
                self.handle.count("NameNodes that lacked purged edits", 1);
                images.behind.borrow_mut().insert(index);
                let node = self.namenodes[index];
                self.handle.crash(node, Crash::Process);
                let wait = Duration::from_millis(self.rng.range(10, 1_000));
                self.handle.at(wait, move |handle| handle.restart(node));
            }
        }
    }

    async fn order(
        &self,
        index: usize,
        request: &Request,
    ) -> Option<Result<Response, ClientError>> {
        let expect = Expect::node(Role::Namenode, namenode_name(index));
        let asked = pin!(self.dfs.admin(namenode_address(index), &expect, request));
        match select(asked, pin!(self.handle.sleep(ORDER_LIMIT))).await {
            Either::Left((outcome, _)) => Some(outcome),
            Either::Right(_) => None,
        }
    }
}
