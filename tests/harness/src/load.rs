//! Clients that write and read all the time, and what they were promised.

use crate::{SOON, TestClient};
use hadal_client::{ClientError, CreateOptions, Dfs};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Clients, each with an endpoint, connections and a lease of its own.
pub const CALLERS: usize = 16;
/// Every so many directories a caller writes a file.
const FILE_EVERY: u64 = 6;
/// Changes after which the callers are busy with all that they do: twenty a caller, files among them.
pub const BUSY: usize = 20 * CALLERS;

/// What the callers noticed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When each acknowledged change was asked for, and when acknowledged.
    changes: Vec<(Instant, Instant)>,
    /// Full paths that must be there, and nothing else.
    there: BTreeSet<String>,
    /// Calls that failed.
    errors: Vec<String>,
}

/// Callers at work below one directory.
#[derive(Debug)]
pub struct Load<'a> {
    client: &'a TestClient,
    base: String,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl<'a> Load<'a> {
    /// Starts [`CALLERS`] callers below `base`.
    ///
    /// # Panics
    ///
    /// When `base` cannot be made.
    #[must_use]
    pub fn start(client: &'a TestClient, base: &str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let dfs = client.dfs();
            let own = format!("{base}/c{caller}");
            let made = client.block_on(dfs.mkdirs(&own, 0o755, true));
            made.expect("a caller's directory");
            let work = call(dfs, own, Arc::clone(&seen), Arc::clone(&stop));
            callers.spawn_on(work, client.runtime().handle());
        }
        let load = Self {
            client,
            base: base.into(),
            seen,
            stop,
            callers,
        };
        load.await_changes(1);
        load
    }

    /// Waits for a change that was asked for after `at`; returns when it was acknowledged. What was on its way then does not
    /// count, so whoever serves it serves after `at`.
    ///
    /// # Panics
    ///
    /// When there is none for long.
    pub fn await_change_after(&self, at: Instant) -> Instant {
        self.eventually("a change is acknowledged", |seen| {
            let later = seen.changes.iter().filter(|(start, _)| *start > at);
            later.map(|(_, end)| *end).min()
        })
    }

    /// Waits until `count` more changes are acknowledged than now.
    ///
    /// # Panics
    ///
    /// When they are not for long.
    pub fn await_changes(&self, count: usize) {
        let wanted = lock(&self.seen).changes.len() + count;
        self.eventually("changes are acknowledged", |seen| {
            (seen.changes.len() >= wanted).then_some(())
        });
    }

    fn eventually<T>(&self, what: &str, probe: impl Fn(&Seen) -> Option<T>) -> T {
        crate::eventually(what, SOON, || {
            let seen = lock(&self.seen);
            let errors = || format!("errors: {:?}", seen.errors.iter().take(3));
            probe(&seen).ok_or_else(errors)
        })
    }

    /// Errors so far.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        lock(&self.seen).errors.clone()
    }

    /// Stops the callers; no call may have failed, and the tree is exactly what was acknowledged. Returns how many
    /// changes there were, and the longest that any caller waited for one that was under way after `since`.
    ///
    /// # Panics
    ///
    /// When that is not so.
    pub fn end(mut self, since: Instant) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.client.block_on(async {
            while let Some(ended) = self.callers.join_next().await {
                ended.expect("a caller panicked");
            }
        });
        let seen = std::mem::take(&mut *lock(&self.seen));
        assert!(
            seen.errors.is_empty(),
            "{} calls failed: {:#?}",
            seen.errors.len(),
            &seen.errors[..seen.errors.len().min(5)]
        );
        let dfs = self.client.dfs();
        let found = self.client.block_on(tree(&dfs, &self.base));
        let lost: Vec<_> = seen.there.difference(&found).take(5).collect();
        assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        let extra: Vec<_> = found.difference(&seen.there).take(5).collect();
        assert!(extra.is_empty(), "there and never acknowledged: {extra:?}");
        let later = seen.changes.iter().filter(|(_, end)| *end > since);
        let longest = later.map(|(start, end)| *end - *start).max();
        (seen.changes.len(), longest.unwrap_or_default())
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything below the callers' directories.
async fn tree(dfs: &Dfs, base: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for caller in 0..CALLERS {
        let own = format!("{base}/c{caller}");
        for entry in dfs.list(&own).await.expect("a listing") {
            found.insert(format!("{own}/{}", entry.name));
        }
    }
    found
}

/// One caller, until it is told to stop. Every change is of the kind that tells whether it was made once: a second
/// execution of a create, a rename or a delete has another answer (T-H27).
async fn call(dfs: Dfs, own: String, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        if let Err((what, error)) = step(&dfs, &own, number, &seen).await {
            lock(&seen).errors.push(format!("{what}: {error}"));
        }
    }
}

async fn step(
    dfs: &Dfs,
    own: &str,
    number: u64,
    seen: &Mutex<Seen>,
) -> Result<(), (String, ClientError)> {
    let told = |what: String| move |error| (what, error);
    let changed = |start: Instant| lock(seen).changes.push((start, Instant::now()));
    let wrong = |what: String| lock(seen).errors.push(what);
    let path = format!("{own}/d{number}");
    let start = Instant::now();
    let made = dfs.mkdirs(&path, 0o755, false).await;
    made.map_err(told(format!("mkdirs {path}")))?;
    changed(start);
    lock(seen).there.insert(path.clone());
    let status = dfs.try_file_status(&path).await;
    if status.map_err(told(format!("status {path}")))?.is_none() {
        wrong(format!("{path} is not there after it was acknowledged"));
    }
    if !number.is_multiple_of(FILE_EVERY) {
        return Ok(());
    }
    let (new, kept) = (format!("{own}/new{number}"), format!("{own}/f{number}"));
    let content = kept.repeat(200);
    let start = Instant::now();
    let mut out = dfs
        .create(&new, &CreateOptions::default())
        .await
        .map_err(told(format!("create {new}")))?;
    changed(start);
    let written = out.write_all(content.as_bytes()).await;
    written.map_err(told(format!("write {new}")))?;
    let start = Instant::now();
    out.close().await.map_err(told(format!("close {new}")))?;
    changed(start);
    let start = Instant::now();
    let renamed = dfs.rename(&new, &kept, false).await;
    renamed.map_err(told(format!("rename {new}")))?;
    changed(start);
    lock(seen).there.insert(kept.clone());
    let mut file = dfs
        .open(&kept)
        .await
        .map_err(told(format!("open {kept}")))?;
    let read = file.read_to_end().await;
    if read.map_err(told(format!("read {kept}")))? != content.as_bytes() {
        wrong(format!("{kept} has another content than was written"));
    }
    if number.is_multiple_of(2 * FILE_EVERY) {
        let start = Instant::now();
        let deleted = dfs.delete(&kept, false).await;
        if !deleted.map_err(told(format!("delete {kept}")))? {
            wrong(format!("{kept} was gone when it was deleted"));
        }
        changed(start);
        lock(seen).there.remove(&kept);
    }
    Ok(())
}
