//! The scanners of a DataNode: every replica at rest is read once in a period and those that rotted are reported; the
//! directories are compared with the replica map now and then (behaviour; HDFS `VolumeScanner`,
//! `DirectoryScanner`).
//!
//! They read through the shard's own disk: at a mebibyte per second a part is read every second, and in the simulator
//! that disk is the one whose bytes rot.

use crate::node::Node;
use futures_util::future::select;
use hadal_blockpool::scanner::{Cursor, Reading, ScanStep, Verdict};
use hadal_blockpool::{BlockScanner, ScannerConfig};
use hadal_env::{Disk, Env};
use hadal_proto::datanode::ChangeKind;
use hadal_types::{BlockId, StorageUuid};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use store_record::{Contents, Record, RecordError};
use store_replica::{StoreError, VerifyOutcome};

/// Reading a replica costs at least this much: its headers.
const LEAST_BYTES: u64 = 4096;
/// A pause of the directory scanner after so many names.
const NAMES_PAUSE_MS: u64 = 1;
/// Differences named in the log; of the rest only the number.
const NAMED_MAX: usize = 10;

/// Waits until a NameNode has had all reports it asked for, then looks after every volume for ever.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>) {
    let store = loop {
        let mark = node.answered.mark();
        let reported = node
            .slots()
            .iter()
            .any(|slot| slot.core.borrow().has_reported());
        //
        if let Ok(store) = node.store()
            && reported
        {
            break store;
        }
        node.answered.changed(mark).await;
    };
    for volume in store.volumes() {
        // Beside the replica store's own directory.
        let dir = volume.dir.parent().unwrap_or(&volume.dir).to_owned();
        let storage = volume.storage;
        let env = &node.env;
        env.spawn(
            "datanode block scanner",
            scan_blocks(Rc::clone(&node), storage, dir.clone()),
        );
        if node.config.scanner.directory_interval_ms > 0 {
            env.spawn(
                "datanode directory scanner",
                scan_directories(Rc::clone(&node), storage, dir),
            );
        }
    }
}

/// A replica gave trouble: it is read next. Before the scanner of its volume has begun it is read here and now.
pub(crate) fn suspect<E: Env>(node: &Rc<Node<E>>, id: BlockId) {
    node.alarm.notify();
    let Some(info) = node.store().ok().and_then(|store| store.get(id)) else {
        return;
    };
    let now = node.env.now();
    match with(node, info.storage, |scanner| scanner.suspect(now, id)) {
        Some(true) => node.suspected.notify(),
        Some(false) => {}
        None => {
            let on = Rc::clone(node);
            let check = async move { on.check_replica(id).await };
            node.env.spawn("datanode suspect", check);
        }
    }
}

/// The block scanner of a volume, while it has one.
fn with<E: Env, T>(
    node: &Node<E>,
    storage: StorageUuid,
    act: impl FnOnce(&mut BlockScanner) -> T,
) -> Option<T> {
    node.scanners.borrow_mut().get_mut(&storage).map(act)
}

/// Whether the volume is gone.
fn has_failed<E: Env>(node: &Node<E>, storage: StorageUuid) -> bool {
    !node.store().is_ok_and(|store| store.is_usable(storage))
}

/// The place reached, or nothing where it was lost: the round begins anew, nothing worse.
async fn open_cursor<D: Disk>(
    disk: &D,
    path: &Path,
) -> Result<(Record<D>, Option<Cursor>), RecordError> {
    let (record, contents) = Record::open(disk, path).await?;
    match contents {
        Contents::Empty => Ok((record, None)),
        Contents::Present { payload, .. } => Ok((record, Cursor::decode(payload.as_ref()))),
        Contents::Unreadable => Ok((Record::recreate(disk, path).await?, None)),
    }
}

async fn scan_blocks<E: Env>(node: Rc<Node<E>>, storage: StorageUuid, dir: PathBuf) {
    let opened = open_cursor(node.env.disk(), &dir.join("scanner_cursor")).await;
    let (mut record, saved) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            return node.fail_volume(&dir, &error.to_string());
        }
    };
    let env = &node.env;
    let config: ScannerConfig = ScannerConfig {
        // An empty round ends at once.
        period_ms: node.config.scanner.period_ms.max(1_000),
        ..node.config.scanner
    };
    let scanner = BlockScanner::new(config, saved, env.now(), env.wall_ms());
    node.scanners.borrow_mut().insert(storage, scanner);
    while !has_failed(&node, storage) {
        let mark = node.suspected.mark();
        let (now, wall_ms) = (env.now(), env.wall_ms());
        if let Some(cursor) = with(&node, storage, |scanner| scanner.poll_save(now)).flatten()
            && let Err(error) = record.store(&cursor.encode()).await
        {
            node.fail_volume(&dir, &error.to_string());
            break;
        }
        let step = with(&node, storage, |scanner| scanner.poll_step(now, wall_ms));
        match step.unwrap_or(ScanStep::Wait(now)) {
            ScanStep::Suspect(id) => examine(&node, storage, id, false).await,
            ScanStep::After(after) => {
                let Ok(store) = node.store() else { break };
                match store.next_finalized(storage, after) {
                    Some(info) => {
                        examine(&node, storage, info.block.id, true).await;
                        with(&node, storage, |scanner| scanner.handle_done(info.block.id));
                    }
                    None => {
                        let late = with(&node, storage, |scanner| scanner.handle_end(wall_ms));
                        if let Some(late_ms) = late.flatten() {
                            tracing::warn!(
                                "reading every replica in {} took {late_ms} ms longer than datanode.scan_period: raise datanode.scan_rate",
                                dir.display()
                            );
                        }
                    }
                }
            }
            ScanStep::Wait(until) => {
                let save_at = with(&node, storage, |scanner| scanner.poll_timeout());
                let until = save_at.map_or(until, |save_at| save_at.min(until));
                let woken = node.suspected.changed(mark);
                select(pin!(woken), pin!(env.sleep_until(until))).await;
            }
        }
    }
    node.scanners.borrow_mut().remove(&storage);
}

/// Reads a replica against its checksums, twice if need be, and reports it when it is bad.
async fn examine<E: Env>(node: &Rc<Node<E>>, storage: StorageUuid, id: BlockId, paced: bool) {
    let Ok(store) = node.store() else { return };
    let pace = async |bytes: u64| {
        let now = node.env.now();
        let next = with(node, storage, |scanner| scanner.handle_read(now, bytes));
        if let Some(next) = next.filter(|_| paced) {
            node.env.sleep_until(next).await;
        }
    };
    loop {
        let Some(info) = store.get(id) else { return };
        pace(LEAST_BYTES).await;
        let reading = match store.verify_paced(id, &pace).await {
            Ok(VerifyOutcome::Ok { .. }) => Reading::Sound,
            Ok(VerifyOutcome::Corrupt { chunk }) => {
                tracing::warn!("chunk {chunk} of {} does not verify", info.block);
                Reading::Bad
            }
            Ok(VerifyOutcome::Gone) => Reading::Unknown,
            Err(error) => {
                tracing::warn!("reading {} for its checksums: {error}", info.block);
                node.alarm.notify();
                Reading::Unknown
            }
        };
        let verdict = with(node, storage, |scanner| scanner.handle_reading(reading));
        match verdict.unwrap_or(Verdict::Next) {
            Verdict::Next => return,
            Verdict::ReadAgain => {}
            Verdict::Report => {
                // Of the bytes that were read, or of nothing.
                if store
                    .get(id)
                    .is_some_and(|now| now.instance == info.instance)
                {
                    node.report_bad(info.block, info.storage);
                }
                return;
            }
        }
    }
}

async fn scan_directories<E: Env>(node: Rc<Node<E>>, storage: StorageUuid, dir: PathBuf) {
    let env = &node.env;
    let interval_ms = node.config.scanner.directory_interval_ms;
    // The first one inside the first interval, so that the nodes of a cluster do not do it together.
    let mut due = env.now().after_ms(env.random_u64() % interval_ms);
    loop {
        env.sleep_until(due).await;
        due = env.now().after_ms(interval_ms);
        let Ok(store) = node.store() else { return };
        if has_failed(&node, storage) {
            return;
        }
        let pause = async |_| env.sleep_until(env.now().after_ms(NAMES_PAUSE_MS)).await;
        let found = match store.compare_directories(storage, pause).await {
            Ok(found) => found,
            Err(error @ StoreError::NoStorage(_)) => {
                return tracing::warn!("{error}");
            }
            Err(error) => {
                tracing::warn!("comparing {} with the replica map: {error}", dir.display());
                node.alarm.notify();
                continue;
            }
        };
        for block in &found.missing {
            tracing::warn!("the file of {block} in {} is gone", dir.display());
            node.report_change(storage, *block, ChangeKind::Deleted);
        }
        for id in &found.short {
            tracing::warn!("the file of {id} in {} ends early", dir.display());
            suspect(&node, *id);
        }
        for path in found.extra.iter().take(NAMED_MAX) {
            tracing::warn!(
                "{} is the file of a replica nobody knows ({} such files): the next start decides what it is",
                path.display(),
                found.extra.len()
            );
        }
        if let Some(path) = found.lost_extents.first() {
            let reason = format!("{} is gone", path.display());
            return node.fail_volume(&dir, &reason);
        }
    }
}
