//! What is owed once faults have stopped.

use super::durability::LastBlow;
use super::model::{File, Found, content};
use super::nodes::{
    BLOCK_BYTES, Cluster, Dfs, JOURNALNODES, journalnode_address, journalnode_name,
    namenode_address, namenode_name, wait_ms,
};
use super::workload::{RACE_EVERY, SHARED, VAULT, check_bytes};
use super::{Ctx, START_LIMIT};
use crate::Crash;
use crate::env::SimEnv;
use crate::nemesis::make_whole;
use crate::report::Promise;
use crate::rng::Stream;
use crate::world::Handle;
use futures_util::future::{Either, select};
use hadal_client::{ClientError, CreateOptions};
use hadal_env::{Clock, Expect, Net, Seam};
use hadal_proto::admin::{NamenodeStats, Request, Response};
use hadal_proto::qjournal::{self, QjournalProtocol};
use hadal_quic::CallClient;
use hadal_types::{Role, TxId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Progress is owed within this time (reliability.md S8).
const HEAL_LIMIT: Duration = Duration::from_secs(120);
/// For reading everything back, which is bounded by the data and not by a promise.
const READ_LIMIT: Duration = Duration::from_secs(600);
/// Bytes of a file written to see whether one can be.
const PROBE_BYTES: u64 = 100_000;
/// A disk that rots loses a bit in each so many bytes.
const ROT_EVERY: u64 = 4096;
/// A standby may be so late after an edit.
const TAIL_WAIT_MS: u64 = 2_000;
/// Tries to find one active NameNode and the other one caught up, a second apart.
const SETTLE_ATTEMPTS: u32 = 60;
/// Words of the statistics.
const ACTIVE: &str = "active";
/// See [`ACTIVE`].
const STANDBY: &str = "standby";
/// Tries to recover a lease, a second apart.
const LEASE_ATTEMPTS: u32 = 120;
/// Tries to read a JournalNode, a second apart.
const AUDIT_ATTEMPTS: u32 = 60;

/// Directories for all clients and tokens to race for; ends when they are there.
pub(super) async fn set_up(
    dfs: Dfs,
    users: Vec<String>,
    duration: Duration,
    ready: Rc<Cell<bool>>,
) {
    let rounds = (duration + 2 * START_LIMIT).as_millis() / RACE_EVERY.as_millis();
    let mut wanted = vec![SHARED.to_owned()];
    wanted.extend((0..rounds).map(|round| format!("{SHARED}/token{round}")));
    wanted.extend(users.iter().map(|user| format!("/{user}")));
    while dfs.mkdirs(VAULT, 0o700, true).await.is_err() {}
    for path in wanted {
        // The umask is the caller's matter: the mode is as given.
        while dfs.mkdirs(&path, 0o777, true).await.is_err() {}
    }
    ready.set(true);
}

/// Heals everything and checks all that was promised.
pub(super) fn after_healing(world: &Handle, ctx: &Ctx, cluster: &Cluster, power_cycle: bool) {
    let daemons = cluster.daemons();
    ctx.stop.set(true);
    if power_cycle {
        make_whole(world, &daemons);
        for node in &daemons {
            world.crash(*node, Crash::Power);
        }
    }
    let dfs = cluster.admin_dfs(world);
    let mut up: Vec<usize> = (0..cluster.namenodes.len()).collect();
    let Some(active) = wait_whole(world, ctx, cluster, &dfs, &up) else {
        return;
    };
    // What the standby knows is seen when it serves.
    if up.len() > 1 && world.rng(Stream::Faults, 3).chance(1, 2) {
        world.count("last failovers", 1);
        world.crash(cluster.namenodes[active], Crash::Process);
        up.retain(|index| *index != active);
        if wait_whole(world, ctx, cluster, &dfs, &up).is_none() {
            return;
        }
    }
    let blow = last_blow(world, cluster);
    let finished = Rc::new(Cell::new(false));
    let verify = verify(
        ctx.clone(),
        dfs,
        up,
        world.env_of(cluster.admin),
        blow,
        Rc::clone(&finished),
    );
    world.spawn_on(cluster.admin, "verify", verify);
    let audited = Rc::new(Cell::new(false));
    let audit = audit_journals(
        ctx.clone(),
        world.env_of(cluster.auditor),
        Rc::clone(&audited),
    );
    world.spawn_on(cluster.auditor, "audit", audit);
    let verified = world.run_until(READ_LIMIT, || finished.get() && audited.get());
    if !verified && world.violation().is_none() {
        let detail = format!(
            "the checks do not end: read {}, audit {}",
            finished.get(),
            audited.get()
        );
        world.violate(Promise::P7, detail);
    }
}

/// Waits until the cluster with these NameNodes is whole, for as long as that may take; which one is active.
fn wait_whole(
    world: &Handle,
    ctx: &Ctx,
    cluster: &Cluster,
    dfs: &Dfs,
    up: &[usize],
) -> Option<usize> {
    let mut daemons = cluster.daemons();
    daemons.retain(|node| {
        let namenode = cluster.namenodes.iter().position(|other| other == node);
        namenode.is_none_or(|index| up.contains(&index))
    });
    let progress = Rc::new(RefCell::new("nothing".to_owned()));
    let whole = Rc::new(Cell::new(None));
    make_whole(world, &daemons);
    let task = becomes_whole(
        dfs.clone(),
        up.to_vec(),
        world.env_of(cluster.admin),
        cluster.datanodes.len() as u64,
        Rc::clone(&progress),
        Rc::clone(&whole),
    );
    world.spawn_on(cluster.admin, "becomes whole", task);
    let clients = ctx.trees.borrow().len();
    let done = || whole.get().is_some() && ctx.ended.get() == clients;
    for _ in 0..HEAL_LIMIT.as_secs() {
        if world.run_until(Duration::from_secs(1), done) || world.violation().is_some() {
            break;
        }
        // Crashes decided before the faults stopped can still end a node.
        make_whole(world, &daemons);
    }
    if world.violation().is_some() {
        return None;
    }
    if !done() {
        let ended = ctx.ended.get();
        let detail = format!(
            "not whole {HEAL_LIMIT:?} after the last fault: {}; {ended} of {clients} clients ended; {}",
            progress.borrow(),
            cluster.statuses(world)
        );
        world.violate(Promise::P7, detail);
        return None;
    }
    whole.get()
}

async fn stats_of(dfs: &Dfs, index: usize) -> Result<NamenodeStats, ClientError> {
    let expect = Expect::node(Role::Namenode, namenode_name(index));
    match dfs
        .admin(namenode_address(index), &expect, &Request::NamenodeStats)
        .await?
    {
        Response::NamenodeStats { stats } => Ok(stats),
        other => Err(ClientError::Protocol(other.name().into())),
    }
}

/// The active NameNode, once the others stand by and have applied all it committed.
async fn stats(dfs: &Dfs, up: &[usize]) -> Result<(usize, NamenodeStats), String> {
    let mut active = None;
    let mut applied = Vec::new();
    for index in up {
        let stats = stats_of(dfs, *index)
            .await
            .map_err(|error| format!("{}: {error}", namenode_name(*index)))?;
        match stats.state.as_str() {
            ACTIVE if active.is_none() => active = Some((*index, stats)),
            STANDBY => applied.push((*index, stats.last_applied)),
            other => return Err(format!("{} is {other}", namenode_name(*index))),
        }
    }
    let (index, stats) = active.ok_or("no NameNode is active")?;
    match applied.iter().find(|(_, txid)| *txid < stats.committed) {
        Some((behind, txid)) => Err(format!(
            "{} has applied {txid} of {}",
            namenode_name(*behind),
            stats.committed
        )),
        None => Ok((index, stats)),
    }
}

/// Ends when a directory can be made, safe mode is off, no block lacks a replica and every NameNode has its place.
async fn becomes_whole(
    dfs: Dfs,
    up: Vec<usize>,
    env: SimEnv,
    live: u64,
    progress: Rc<RefCell<String>>,
    whole: Rc<Cell<Option<usize>>>,
) {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let made = dfs.mkdirs(&format!("/healed{attempt}"), 0o755, true).await;
        if up.len() > 1 {
            wait_ms(&env, TAIL_WAIT_MS).await;
        }
        let state = match (made, stats(&dfs, &up).await) {
            (Err(error), _) => format!("mkdir fails: {error}"),
            (_, Err(error)) => format!("no statistics: {error}"),
            (Ok(_), Ok((active, stats))) => {
                if !stats.safe_mode
                    && stats.under_replicated == 0
                    && stats.missing == 0
                    && stats.live_datanodes == live
                {
                    match probe(&dfs, &format!("/probe{attempt}")).await {
                        Ok(()) => return whole.set(Some(active)),
                        Err(error) => format!("a new file: {error}"),
                    }
                } else {
                    format!("{stats:?}")
                }
            }
        };
        *progress.borrow_mut() = state;
        wait_ms(&env, 500).await;
    }
}

/// A file can be written, closed and read.
async fn probe(dfs: &Dfs, path: &str) -> Result<(), ClientError> {
    let bytes = content(u64::MAX, 0, PROBE_BYTES);
    let mut stream = dfs.create(path, &CreateOptions::default()).await?;
    stream.write_all(&bytes).await?;
    stream.close().await?;
    let read = dfs.open(path).await?.read_to_end().await?;
    assert!(read == bytes, "{path} reads other bytes than were written");
    Ok(())
}

/// Once every block has all its replicas, one DataNode may go for good, or rot: nothing may hang on it (P4, P5).
fn last_blow(world: &Handle, cluster: &Cluster) -> LastBlow {
    let mut rng = world.rng(Stream::Faults, 2);
    let mut blow = LastBlow::default();
    let Some(node) = rng.pick(&cluster.datanodes).copied() else {
        return blow;
    };
    match rng.below(3) {
        0 => {
            world.count("last blow: DataNode gone", 1);
            world.crash(node, Crash::Power);
            blow.gone = Some(node);
        }
        1 => {
            blow.rotten = Some(node);
            world.count("last blow: DataNode rots", 1);
            let disk = world.disk_of(node);
            for (path, length) in disk.files() {
                for page in 0..length / ROT_EVERY {
                    disk.flip_bit(&path, (page * ROT_EVERY + rng.below(ROT_EVERY)) * 8);
                }
            }
        }
        _ => {}
    }
    blow
}

/// The active's statistics; the standby may need a moment for the last edits.
async fn stats_when_settled(
    dfs: &Dfs,
    up: &[usize],
    env: &SimEnv,
) -> Result<(usize, NamenodeStats), String> {
    let mut last = stats(dfs, up).await;
    for _ in 0..SETTLE_ATTEMPTS {
        if last.is_ok() {
            break;
        }
        wait_ms(env, 1000).await;
        last = stats(dfs, up).await;
    }
    last
}

/// Namespaces of active and standby are equal at equal txid (S9).
async fn compare_digests(world: &Handle, dfs: &Dfs, up: &[usize], env: &SimEnv) {
    let mut seen: BTreeMap<u64, (usize, [u8; 16])> = BTreeMap::new();
    let mut compared = up.len() < 2;
    for _ in 0..SETTLE_ATTEMPTS {
        for index in up {
            let expect = Expect::node(Role::Namenode, namenode_name(*index));
            let ask = Request::NamespaceDigest;
            let answer = dfs.admin(namenode_address(*index), &expect, &ask).await;
            let Ok(Response::Digest { txid, digest }) = answer else {
                continue;
            };
            let (other, first) = *seen.entry(txid.0).or_insert((*index, digest));
            compared |= other != *index;
            if first != digest {
                let detail = format!(
                    "the namespaces of {} and {} differ at txid {txid}",
                    namenode_name(other),
                    namenode_name(*index)
                );
                return world.violate(Promise::P1, detail);
            }
        }
        if compared {
            return world.count("digests compared", u64::from(up.len() > 1));
        }
        wait_ms(env, 500).await;
    }
    world.violate(
        Promise::P7,
        format!("no two NameNodes of {up:?} are at one txid: {seen:?}"),
    );
}

async fn walk(dfs: &Dfs, root: &str) -> Result<BTreeMap<String, Found>, ClientError> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for status in dfs.list(&dir).await? {
            let path = format!("{dir}/{}", status.name);
            let kind = if status.is_dir {
                dirs.push(path.clone());
                Found::Dir
            } else {
                Found::File {
                    length: status.length,
                    open: status.under_construction,
                }
            };
            found.insert(path, kind);
        }
    }
    Ok(found)
}

async fn verify(
    ctx: Ctx,
    dfs: Dfs,
    up: Vec<usize>,
    env: SimEnv,
    blow: LastBlow,
    finished: Rc<Cell<bool>>,
) {
    let world = ctx.handle.clone();
    match stats_when_settled(&dfs, &up, &env).await {
        Ok((_, stats)) if stats.committed.0 < ctx.frontier.get() => {
            let detail = format!(
                "committed {}, acknowledged {}",
                stats.committed,
                ctx.frontier.get()
            );
            world.violate(Promise::P2, detail);
        }
        Ok(_) => {}
        Err(error) => world.violate(Promise::P7, format!("no statistics after healing: {error}")),
    }
    compare_digests(&world, &dfs, &up, &env).await;
    let trees = ctx.trees.borrow().clone();
    let mut open = Vec::new();
    for (index, tree) in trees.iter().enumerate() {
        let found = match walk(&dfs, &tree.path(0)).await {
            Ok(found) => found,
            Err(error) => {
                return world.violate(Promise::P7, format!("listing after healing: {error}"));
            }
        };
        match tree.check(&found) {
            Err(words) => {
                let last = ctx.last_operations(index);
                return world.violate(Promise::P2, format!("{words}; last operations: {last}"));
            }
            Ok(files) => {
                for (path, file) in files {
                    read_back(&world, &dfs, &env, &blow, &path, &file).await;
                    if !file.closed {
                        open.push((path, file));
                    }
                }
            }
        }
    }
    recover_leases(&world, &dfs, &env, &blow, &open).await;
    let shared = match dfs.list(SHARED).await {
        Ok(entries) => entries,
        Err(error) => return world.violate(Promise::P7, format!("listing after healing: {error}")),
    };
    let there = |name: &str| {
        shared
            .iter()
            .any(|entry| format!("{SHARED}/{}", entry.name) == name)
    };
    for (key, winner) in ctx.winners.borrow().iter() {
        let path = match key.split_once(" /shared/token") {
            Some((_, round)) => format!("{SHARED}/won{round}by{winner}"),
            None => key.trim_start_matches("create ").to_owned(),
        };
        if !there(&path) {
            world.violate(
                Promise::P2,
                format!("{path}, acknowledged to user{}, is lost", winner + 1),
            );
        }
    }
    finished.set(true);
}

async fn read_back(
    world: &Handle,
    dfs: &Dfs,
    env: &SimEnv,
    blow: &LastBlow,
    path: &str,
    file: &File,
) {
    let mut reason = String::new();
    let visible = file.witness.owes_visible(world, blow);
    // A file that cannot be read is one that is lost only if it stays so.
    for _ in 0..if file.closed || visible { 5 } else { 1 } {
        match read_whole(world, dfs, path, file).await {
            Ok(read) if file.closed || read >= file.owed(world, blow) => return,
            // Without its lease recovered an open file is read as far as its writer got, or not at all.
            Ok(read) => {
                let detail = format!(
                    "open file {path} reads {read} bytes, {} were flushed, {} synced: {:?}",
                    file.flushed, file.synced, file.witness
                );
                return world.violate(Promise::P4, detail);
            }
            Err(error) => reason = error.to_string(),
        }
        wait_ms(env, 1000).await;
    }
    if file.closed || visible {
        world.violate(
            Promise::P4,
            format!("{path} cannot be read (closed: {}): {reason}", file.closed),
        );
    }
    tracing::info!("the open {path} is not read: {reason}");
    world.count("open files not readable", 1);
}

/// Bytes read, compared with what was written.
async fn read_whole(
    world: &Handle,
    dfs: &Dfs,
    path: &str,
    file: &File,
) -> Result<u64, ClientError> {
    let bytes = dfs.open(path).await?.read_to_end().await?;
    if let Err(words) = check_bytes(path, file, &bytes) {
        world.violate(Promise::P5, words);
    }
    world.count("files read back", 1);
    world.count("bytes read back", bytes.len() as u64);
    Ok(bytes.len() as u64)
}

/// Files left open are closed without their writers, with all that is owed of them (P4, P7).
async fn recover_leases(
    world: &Handle,
    dfs: &Dfs,
    env: &SimEnv,
    blow: &LastBlow,
    files: &[(String, File)],
) {
    let mut open: Vec<&(String, File)> = files.iter().collect();
    let mut reasons: BTreeMap<&str, String> = BTreeMap::new();
    for _ in 0..LEASE_ATTEMPTS {
        let mut left = Vec::new();
        for (path, file) in std::mem::take(&mut open) {
            match dfs.recover_lease(path).await {
                Ok(true) => read_recovered(world, dfs, env, blow, path, file).await,
                Ok(false) => left.push((path, file)),
                Err(error) => {
                    reasons.insert(path, error.to_string());
                    left.push((path, file));
                }
            }
        }
        open = files
            .iter()
            .filter(|(path, _)| left.iter().any(|(other, _)| *other == path))
            .collect();
        if open.is_empty() {
            return;
        }
        wait_ms(env, 1000).await;
    }
    for (path, file) in open {
        // Bytes of the last block that nobody owes (a power failure took them elsewhere) may be at the node that was struck
        // alone. Recovery does not drop a block that somebody may hold: it waits for that node (RecoveryError::Unknown).
        world.count("leases not recovered", 1);
        let owed = file.owed_in_the_end(world, blow);
        let last_block = file.written.saturating_sub(1) / BLOCK_BYTES * BLOCK_BYTES;
        if owed > last_block || (owed > 0 && !blow.struck()) {
            let why = reasons.get(path.as_str()).map_or("", String::as_str);
            let detail = format!(
                "the lease of {path} is not recovered in {LEASE_ATTEMPTS} s: {why}; {owed} bytes are owed ({} written, {} flushed, {} synced): {:?}, {blow:?}",
                file.written, file.flushed, file.synced, file.witness
            );
            world.violate(Promise::P7, detail);
        }
    }
}

async fn read_recovered(
    world: &Handle,
    dfs: &Dfs,
    env: &SimEnv,
    blow: &LastBlow,
    path: &str,
    file: &File,
) {
    world.count("leases recovered", 1);
    let owed = file.owed_in_the_end(world, blow);
    let mut reason = String::new();
    for _ in 0..5 {
        match read_whole(world, dfs, path, file).await {
            Ok(read) if read >= owed => {
                let what = ["flushed bytes excused", "flushed files kept"];
                return world.count(what[usize::from(owed >= file.flushed)], 1);
            }
            Ok(read) => {
                let detail = format!(
                    "{path} has {read} bytes, owed are {owed} ({} flushed, {} synced, {} seen): {:?}, {blow:?}",
                    file.flushed, file.synced, file.seen, file.witness
                );
                return world.violate(Promise::P4, detail);
            }
            Err(error) => reason = error.to_string(),
        }
        wait_ms(env, 1000).await;
    }
    if owed > 0 {
        let detail = format!(
            "{path} cannot be read after its lease was recovered: {reason}; owed are {owed}: {:?}, {blow:?}",
            file.witness
        );
        world.violate(Promise::P4, detail);
    }
}

/// All JournalNodes hold the same committed edits.
async fn audit_journals(ctx: Ctx, env: SimEnv, audited: Rc<Cell<bool>>) {
    let mut edits: BTreeMap<u64, (usize, [u8; 16])> = BTreeMap::new();
    let mut furthest = 0;
    for index in 0..JOURNALNODES {
        let mut attempts = 0;
        let known = loop {
            match journal_of(&env, index).await {
                Ok(known) => break known,
                Err(reason) if attempts == AUDIT_ATTEMPTS => {
                    let detail = format!("{} cannot be read: {reason}", journalnode_name(index));
                    return ctx.handle.violate(Promise::P7, detail);
                }
                Err(_) => attempts += 1,
            }
            wait_ms(&env, 1000).await;
        };
        for (txid, digest) in known {
            furthest = furthest.max(txid);
            match edits.get(&txid) {
                None => {
                    edits.insert(txid, (index, digest));
                }
                Some((other, theirs)) => {
                    ctx.handle.count("edits compared", 1);
                    if *theirs != digest {
                        let detail = format!(
                            "{} and {} hold different committed edits up to {txid}",
                            journalnode_name(*other),
                            journalnode_name(index)
                        );
                        ctx.handle.violate(Promise::P2, detail);
                    }
                }
            }
        }
    }
    if furthest < ctx.frontier.get() {
        let detail = format!(
            "no JournalNode has committed edits beyond {furthest}, {} was acknowledged",
            ctx.frontier.get()
        );
        ctx.handle.violate(Promise::P2, detail);
    }
    audited.set(true);
}

/// Running digests of a JournalNode's committed log. Pages are cut at the same txids on all nodes only by chance:
/// pages of one record make all of them comparable.
async fn journal_of(env: &SimEnv, index: usize) -> Result<Vec<(u64, [u8; 16])>, String> {
    let expect = Expect::node(Role::Journalnode, journalnode_name(index));
    let conn = env
        .net()
        .connect(journalnode_address(index), &expect)
        .await
        .map_err(|error| error.to_string())?;
    let (client, driver) = CallClient::<QjournalProtocol>::open(&conn)
        .await
        .map_err(|error| error.to_string())?;
    let reading = async {
        let ask = async |namespace_id, call| {
            client
                .call(&qjournal::Request { namespace_id, call })
                .await
                .map_err(|error| error.to_string())
        };
        let namespace_id = match ask(0, qjournal::Call::GetState).await? {
            qjournal::Response::State { state } => state.info.map_or(0, |info| info.namespace_id),
            other => return Err(other.name().to_owned()),
        };
        let call = qjournal::Call::GetManifest {
            from: TxId(1),
            in_progress: true,
        };
        let segments = match ask(namespace_id, call).await? {
            qjournal::Response::Manifest { manifest } => manifest.segments,
            other => return Err(other.name().to_owned()),
        };
        let mut known = Vec::new();
        for segment in segments {
            let mut from = segment.first;
            while from <= segment.last {
                let call = qjournal::Call::ReadEdits {
                    from,
                    max_bytes: 1,
                    durable: true,
                };
                // A node that missed the end of a segment does not know yet what of it is committed.
                let Ok(qjournal::Response::Edits { edits }) = ask(namespace_id, call).await else {
                    break;
                };
                if edits.count == 0 {
                    break;
                }
                let last = edits.first.0 + u64::from(edits.count) - 1;
                known.push((last, edits.digest_end.0));
                from = TxId(last + 1);
            }
        }
        Ok(known)
    };
    let deadline = env.now().after_ms(300_000);
    match select(
        pin!(reading),
        select(pin!(driver), pin!(env.sleep_until(deadline))),
    )
    .await
    {
        Either::Left((known, _)) => known,
        Either::Right(_) => Err("the connection ended".into()),
    }
}
