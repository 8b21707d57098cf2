//! The data directories: what is in them at start, and what becomes of a DataNode whose volumes fail
//! (protocols.md section 6, A-14, A-41).

use crate::config::DatanodeConfig;
use crate::error::RunError;
use crate::node::Node;
use futures_util::future::{Either, select};
use hadal_env::{Disk, Env};
use hadal_types::{DatanodeUuid, Epoch, NamespaceInfo, StorageUuid};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use store_record::{Contents, Record};
use store_replica::{VolumeIdentity, read_identity};

/// HDFS's numbers of error reports (`DatanodeProtocol.DISK_ERROR`, `FATAL_DISK_ERROR`).
const DISK_ERROR: u16 = 1;
const FATAL_DISK_ERROR: u16 = 3;
/// A DataNode that stops tells the NameNodes, and waits for their answers no longer than this.
const LAST_WORDS_MS: u64 = 1_000;

/// Where the replica store of a data directory is.
pub(crate) fn volume_dir(dir: &Path) -> PathBuf {
    dir.join("current")
}

/// The record of the highest epoch acknowledged (M-L7), kept in every data directory: it outlives any failure of
/// volumes that the DataNode outlives.
pub(crate) struct EpochRecord<D: Disk> {
    records: Vec<(PathBuf, Record<D>)>,
}

impl<D: Disk> EpochRecord<D> {
    /// Makes the epoch durable in every directory. Returns the directories in which that failed: they are out of use.
    /// With none left the last error.
    pub(crate) async fn store(&mut self, epoch: Epoch) -> Result<Vec<(PathBuf, String)>, String> {
        let mut failed = Vec::new();
        let mut kept = Vec::new();
        for (dir, mut record) in std::mem::take(&mut self.records) {
            match record.store(&epoch.0.to_le_bytes()).await {
                Ok(()) => kept.push((dir, record)),
                Err(error) => failed.push((dir, error.to_string())),
            }
        }
        self.records = kept;
        match failed.last() {
            Some((_, error)) if self.records.is_empty() => Err(error.clone()),
            _ => Ok(failed),
        }
    }
}

/// What the data directories hold before any NameNode was asked.
pub(crate) struct Found<D: Disk> {
    pub(crate) locks: Vec<D::Lock>,
    /// Directories that can be used.
    pub(crate) dirs: Vec<PathBuf>,
    /// Directories that cannot.
    pub(crate) failed: Vec<(PathBuf, String)>,
    pub(crate) datanode: Option<DatanodeUuid>,
    pub(crate) namespace: Option<NamespaceInfo>,
    pub(crate) epoch: Epoch,
    pub(crate) record: EpochRecord<D>,
}

struct Opened<D: Disk> {
    lock: D::Lock,
    identity: Option<VolumeIdentity>,
    record: Record<D>,
    contents: Contents,
}

async fn open<D: Disk>(disk: &D, dir: &Path) -> Result<Opened<D>, RunError> {
    disk.create_dir_all(dir).await?;
    let lock = match disk.lock(&dir.join("node.lock")).await {
        Err(error) if error.is_locked() => {
            return Err(RunError::Locked {
                dir: dir.display().to_string(),
            });
        }
        other => other?,
    };
    let identity = read_identity(disk, &volume_dir(dir)).await?;
    let (record, contents) = Record::open(disk, &dir.join("acknowledged_epoch")).await?;
    Ok(Opened {
        lock,
        identity,
        record,
        contents,
    })
}

/// Whether an error says that the disk under a directory failed, and not that the directory is another's.
fn is_disk_failure(error: &RunError) -> bool {
    use store_record::RecordError;
    use store_replica::StoreError;
    matches!(
        error,
        RunError::Disk(_)
            | RunError::Store(StoreError::Disk(_))
            | RunError::Record(RecordError::Disk(_))
    )
}

/// Looks at every data directory. One that cannot be used counts as a failed volume.
pub(crate) async fn find<D: Disk>(disk: &D, config: &DatanodeConfig) -> Result<Found<D>, RunError> {
    let mut found = Found {
        locks: Vec::new(),
        dirs: Vec::new(),
        failed: Vec::new(),
        datanode: None,
        namespace: None,
        epoch: Epoch(0),
        record: EpochRecord {
            records: Vec::new(),
        },
    };
    let mut damaged = Vec::new();
    let mut sound = false;
    let mut owner: Option<(PathBuf, VolumeIdentity)> = None;
    for dir in &config.dirs {
        let opened = match open(disk, dir).await {
            Ok(opened) => opened,
            Err(error) if is_disk_failure(&error) => {
                found.failed.push((dir.clone(), error.to_string()));
                continue;
            }
            Err(error) => return Err(error),
        };
        let bytes = match &opened.contents {
            Contents::Empty => Some(None),
            Contents::Present { payload, .. } => {
                <[u8; 8]>::try_from(payload.as_ref()).ok().map(Some)
            }
            Contents::Unreadable => None,
        };
        match bytes {
            Some(Some(bytes)) => {
                sound = true;
                found.epoch = found.epoch.max(Epoch(u64::from_le_bytes(bytes)));
            }
            Some(None) => {}
            None => damaged.push((dir.clone(), opened.record.path().to_owned())),
        }
        if let Some(identity) = opened.identity {
            match &owner {
                Some((first, known)) => same_owner(first, known, dir, &identity)?,
                None => owner = Some((dir.clone(), identity)),
            }
        }
        found.locks.push(opened.lock);
        found.dirs.push(dir.clone());
        found.record.records.push((dir.clone(), opened.record));
    }
    for (dir, path) in damaged {
        // Every store reaches all directories in use, so a sound record elsewhere holds the highest epoch.
        if !sound {
            let path = path.display().to_string();
            return Err(RunError::Damaged { path });
        }
        tracing::warn!("{} is damaged; written again", path.display());
        found.record.records.retain(|(other, _)| *other != dir);
        let mut record = Record::recreate(disk, &path).await?;
        record.store(&found.epoch.0.to_le_bytes()).await?;
        found.record.records.push((dir, record));
    }
    check_tolerated(config, &found.failed)?;
    if let Some((_, identity)) = owner {
        found.datanode = Some(identity.datanode);
        found.namespace = Some(identity.namespace);
    }
    Ok(found)
}

fn same_owner(
    first: &Path,
    known: &VolumeIdentity,
    dir: &Path,
    here: &VolumeIdentity,
) -> Result<(), RunError> {
    let (a, b) = (&known.namespace, &here.namespace);
    let same = known.datanode == here.datanode
        && (&a.cluster_id, &a.block_pool_id, a.namespace_id)
            == (&b.cluster_id, &b.block_pool_id, b.namespace_id);
    if same {
        return Ok(());
    }
    Err(RunError::Config(format!(
        "{} holds data of {} in cluster {}, {} of {} in cluster {}: datanode.dirs must name directories of one DataNode",
        first.display(),
        known.datanode,
        a.cluster_id,
        dir.display(),
        here.datanode,
        b.cluster_id
    )))
}

/// An error when more volumes failed than are tolerated, or all.
pub(crate) fn check_tolerated(
    config: &DatanodeConfig,
    failed: &[(PathBuf, String)],
) -> Result<(), RunError> {
    let tolerated = config.failed_volumes_tolerated as usize;
    if failed.is_empty() || (failed.len() <= tolerated && failed.len() < config.dirs.len()) {
        return Ok(());
    }
    let each = |(dir, error): &(PathBuf, String)| format!("{}: {error}", dir.display());
    Err(RunError::VolumesFailed {
        failed: failed.len(),
        volumes: config.dirs.len(),
        tolerated,
        why: failed.iter().map(each).collect::<Vec<_>>().join("; "),
    })
}

/// Looks after the volumes for ever: a failed one is dropped, its replicas are reported lost with the next
/// heartbeat, the others serve on; too many of them end the process.
pub(crate) async fn watch<E: Env>(node: Rc<Node<E>>) {
    let mut known = 0;
    loop {
        let mark = node.alarm.mark();
        if let Ok(store) = node.store() {
            store.refresh_space().await;
            let failed = node.failed_volumes();
            if failed.len() > known {
                for (dir, reason) in &failed[known..] {
                    tracing::error!("volume {} failed: {reason}", dir.display());
                }
                let new = failed[known..].to_vec();
                known = failed.len();
                if let Err(error) = check_tolerated(&node.config, &failed) {
                    return give_up(&node, &error.to_string()).await;
                }
                drop_failed(&node, &new);
            }
        }
        let deadline = node
            .env
            .now()
            .after_ms(node.config.actor.heartbeat_interval_ms);
        let woken = pin!(node.alarm.changed(mark));
        select(woken, pin!(node.env.sleep_until(deadline))).await;
    }
}

fn drop_failed<E: Env>(node: &Rc<Node<E>>, new: &[(PathBuf, String)]) {
    let Ok(store) = node.store() else { return };
    let alive: Vec<StorageUuid> = store
        .volumes()
        .iter()
        .filter(|volume| volume.failed.is_none())
        .map(|volume| volume.storage)
        .collect();
    let now = node.env.now();
    for slot in node.slots() {
        let mut core = slot.core.borrow_mut();
        core.set_storages(alive.clone());
        for (dir, reason) in new {
            let message = format!("volume {} failed: {reason}", dir.display());
            core.push_error(DISK_ERROR, message);
        }
        core.heartbeat_now(now);
        drop(core);
        slot.wake.notify();
    }
}

/// Tells every NameNode, then stops the process.
async fn give_up<E: Env>(node: &Rc<Node<E>>, reason: &str) {
    let now = node.env.now();
    for slot in node.slots() {
        let mut core = slot.core.borrow_mut();
        core.push_error(FATAL_DISK_ERROR, reason.to_owned());
        core.heartbeat_now(now);
        drop(core);
        slot.wake.notify();
    }
    let told = async {
        loop {
            let mark = node.answered.mark();
            let now = node.env.now();
            if !node
                .slots()
                .iter()
                .any(|slot| slot.core.borrow().has_last_words(now))
            {
                return;
            }
            node.answered.changed(mark).await;
        }
    };
    let deadline = node.env.sleep_until(now.after_ms(LAST_WORDS_MS));
    if let Either::Right(_) = select(pin!(told), pin!(deadline)).await {
        tracing::warn!("not every NameNode answered within {LAST_WORDS_MS} ms");
    }
    node.env.stop(crate::EXIT_VOLUMES_FAILED, reason);
}
