//! Callers that write and read all the time, and what they were promised.

use crate::cluster::Cluster;
use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hadal_client::{ClientError, CreateOptions, Dfs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Callers, each with connections of its own.
pub(super) const CALLERS: usize = 16;
/// What they do.
pub(super) const WORK: &str =
    "mkdirs and getFileInfo in turn, every eighth time a file written and read back";
/// A cluster that does not write again by then has failed.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Every so many directories a caller writes a file.
const FILE_EVERY: u64 = 8;
/// Checks under way at a time.
const CHECKS: usize = 64;

/// What the callers noticed.
#[derive(Default)]
pub(super) struct Seen {
    /// Acknowledged changes: when.
    pub(super) acknowledged: Vec<Instant>,
    /// Longest of any call that any caller waited for.
    pub(super) longest: Duration,
    /// Directories that must exist.
    made: Vec<String>,
    /// Files that must exist with the content that goes with their names.
    written: Vec<String>,
    errors: Vec<String>,
}

/// Callers at work.
pub(super) struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

/// The first acknowledgement after a moment.
pub(super) fn first_after(acknowledged: &[Instant], after: Instant) -> Result<Instant> {
    let later = acknowledged.iter().filter(|at| **at > after);
    later.min().copied().context("no write after the strike")
}

/// The longest time without an acknowledgement that ended after a moment.
pub(super) fn longest_gap(acknowledged: &[Instant], from: Instant) -> Duration {
    let mut times = acknowledged.to_vec();
    times.sort_unstable();
    let gaps = times.windows(2).filter(|pair| pair[1] > from);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

impl Load {
    pub(super) async fn start(cluster: &Cluster, base: &str) -> Result<Self> {
        let clients = cluster.clients(CALLERS, true)?;
        clients[0].mkdirs(base, 0o755, true).await?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for (caller, dfs) in clients.into_iter().enumerate() {
            let own = format!("{base}/c{caller}");
            callers.spawn(call(dfs, own, Arc::clone(&seen), Arc::clone(&stop)));
        }
        Ok(Self {
            seen,
            stop,
            callers,
        })
    }

    pub(super) fn forget_longest(&self) {
        lock(&self.seen).longest = Duration::ZERO;
    }

    pub(super) async fn wait_for_write_after(&self, after: Instant) -> Result<()> {
        let give_up = Instant::now() + GIVE_UP;
        loop {
            if first_after(&lock(&self.seen).acknowledged, after).is_ok() {
                return Ok(());
            }
            if Instant::now() > give_up {
                bail!(
                    "no write was acknowledged within {} s of the strike: {:?}",
                    GIVE_UP.as_secs(),
                    lock(&self.seen).errors.first()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops the callers; none of their calls may have failed.
    pub(super) async fn end(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.context("a caller panicked")?;
        }
        let seen = std::mem::take(&mut *lock(&self.seen));
        if let Some(error) = seen.errors.first() {
            bail!("{} calls failed; the first: {error}", seen.errors.len());
        }
        Ok(seen)
    }
}

impl Seen {
    /// Everything acknowledged is there, and every file has its content.
    pub(super) async fn verify(&self, cluster: &Cluster) -> Result<()> {
        let dfs = cluster.clients(1, true)?.remove(0);
        let directories = self.made.iter().map(|path| (path, false));
        let files = self.written.iter().map(|path| (path, true));
        let mut left = directories.chain(files);
        let mut checks = FuturesUnordered::new();
        loop {
            while checks.len() < CHECKS
                && let Some((path, is_file)) = left.next()
            {
                checks.push(check(&dfs, path, is_file));
            }
            let Some(checked) = checks.next().await else {
                return Ok(());
            };
            checked?;
        }
    }
}

async fn check(dfs: &Dfs, path: &str, is_file: bool) -> Result<()> {
    ensure!(
        dfs.try_file_status(path).await?.is_some(),
        "{path} was acknowledged and is not there"
    );
    if is_file {
        let read = dfs.open(path).await?.read_to_end().await?;
        ensure!(
            read == content_of(path),
            "{path} was closed and has another content now"
        );
    }
    Ok(())
}

fn content_of(path: &str) -> Vec<u8> {
    path.repeat(100).into_bytes()
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One caller, until told to stop.
async fn call(dfs: Dfs, own: String, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>) {
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let path = format!("{own}/d{number}");
        if let Err(error) = directory(&dfs, &path, &seen).await {
            lock(&seen).errors.push(format!("{path}: {error}"));
        }
        if number.is_multiple_of(FILE_EVERY) {
            let path = format!("{own}/f{number}");
            if let Err(error) = file(&dfs, &path, &seen).await {
                lock(&seen).errors.push(format!("{path}: {error}"));
            }
        }
    }
}

/// Waits for a call and remembers how long it took.
async fn timed<T>(
    seen: &Mutex<Seen>,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let start = Instant::now();
    let outcome = call.await;
    let mut seen = lock(seen);
    seen.longest = seen.longest.max(start.elapsed());
    outcome
}

async fn directory(dfs: &Dfs, path: &str, seen: &Mutex<Seen>) -> Result<()> {
    timed(seen, dfs.mkdirs(path, 0o755, true)).await?;
    {
        let mut seen = lock(seen);
        seen.acknowledged.push(Instant::now());
        seen.made.push(path.to_owned());
    }
    let status = timed(seen, dfs.try_file_status(path)).await?;
    ensure!(status.is_some(), "not there after it was acknowledged");
    Ok(())
}

async fn file(dfs: &Dfs, path: &str, seen: &Mutex<Seen>) -> Result<()> {
    let content = content_of(path);
    let mut out = timed(seen, dfs.create(path, &CreateOptions::default())).await?;
    timed(seen, out.write_all(&content)).await?;
    timed(seen, out.close()).await?;
    {
        let mut seen = lock(seen);
        seen.acknowledged.push(Instant::now());
        seen.written.push(path.to_owned());
    }
    let mut input = timed(seen, dfs.open(path)).await?;
    let read = timed(seen, input.read_to_end()).await?;
    ensure!(read == content, "another content than was written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_and_the_first_write_are_those_after_the_strike() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let acknowledged = [at(0), at(50), at(60), at(900), at(910)];
        assert_eq!(longest_gap(&acknowledged, at(55)).as_millis(), 840);
        assert_eq!(longest_gap(&acknowledged, at(905)).as_millis(), 10);
        assert_eq!(first_after(&acknowledged, at(60)).unwrap(), at(900));
        assert!(first_after(&acknowledged, at(910)).is_err());
    }
}
