//! `failover`: the active NameNode dies under load, and the role moves by order. What callers notice.

use crate::cluster::{Cluster, runtime};
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use crate::stats::Latencies;
use anyhow::{Context, Result, bail, ensure};
use hadal_client::Dfs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Callers, each with connections of its own.
const CALLERS: usize = 16;
const ROOT: &str = "/bench/failover";
/// Load before the strike, and after the first new write.
const STEADY: Duration = Duration::from_millis(1_500);
/// An answer that was on its way when the NameNode died may arrive this much later.
const UNDER_WAY: Duration = Duration::from_millis(10);
/// A cluster that does not write again by then has failed.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What the callers noticed.
#[derive(Default)]
struct Seen {
    /// Acknowledged writes: when.
    acknowledged: Vec<Instant>,
    /// Longest of each kind of call that any caller waited for.
    longest: Duration,
    /// Directories that must exist.
    made: Vec<String>,
    errors: Vec<String>,
}

struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

/// Asks the question.
///
/// # Errors
/// When the cluster does not come up, a call fails, or something acknowledged is not there.
pub fn run(settings: &Settings) -> Result<Question> {
    ensure!(
        settings.cluster.is_none(),
        "failover kills NameNodes: it measures a cluster of its own, not --cluster"
    );
    let cluster = Cluster::open_with(settings, 2)?;
    let runtime = runtime()?;
    let killed = runtime.block_on(strikes(&cluster, settings.runs, Strike::Kill))?;
    let ordered = runtime.block_on(strikes(&cluster, settings.runs, Strike::Order))?;
    let load = format!("{CALLERS} callers, mkdirs and getFileInfo in turn");
    let row = |figure: &str, runs: &[Run]| {
        Row::new(
            figure,
            load.clone(),
            ("ms", Better::Lower),
            "failover",
            runs,
        )
    };
    Ok(Question {
        name: "failover".into(),
        notes: vec![
            format!(
                "kill: SIGKILL of the active; first write: from the signal to the next acknowledged write of any caller; worst of {}: {:.0} ms",
                killed.first.len(),
                worst(&killed.first)
            ),
            format!(
                "order: haadmin -failover; longest gap between two acknowledged writes; worst of {}: {:.0} ms",
                ordered.first.len(),
                worst(&ordered.first)
            ),
            "no call failed, and every acknowledged directory was there at the end".into(),
            cluster.values()?,
        ],
        rows: vec![
            row("kill: first write", &killed.first)?,
            row("kill: longest call", &killed.longest)?,
            row("order: gap", &ordered.first)?,
            row("order: longest call", &ordered.longest)?,
        ],
    })
}

fn worst(runs: &[Run]) -> f64 {
    runs.iter().map(|run| run.value).fold(0.0, f64::max)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strike {
    Kill,
    Order,
}

#[derive(Default)]
struct Struck {
    first: Vec<Run>,
    longest: Vec<Run>,
}

fn figure(value: Duration) -> Run {
    let mut latencies = Latencies::default();
    latencies.record(value);
    Run {
        value: value.as_secs_f64() * 1e3,
        latencies: Some(latencies),
        cpu: None,
    }
}

async fn strikes(cluster: &Cluster, runs: usize, strike: Strike) -> Result<Struck> {
    let mut struck = Struck::default();
    for round in 0..runs {
        let kind = if strike == Strike::Kill {
            "kill"
        } else {
            "order"
        };
        let load = Load::start(cluster, &format!("{ROOT}/{kind}{round}")).await?;
        tokio::time::sleep(STEADY).await;
        let states = tokio::task::block_in_place(|| cluster.namenode_states())?;
        let id_of = |wanted: &str| {
            let found = states.iter().find(|(_, state)| state == wanted);
            found.map(|(id, _)| id.clone())
        };
        let active = id_of("active").context("no NameNode is active")?;
        let standby = id_of("standby").context("no NameNode stands by")?;
        let pid = tokio::task::block_in_place(|| cluster.pid(&active))?;
        load.forget_longest();
        let at = Instant::now();
        match strike {
            Strike::Kill => nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL)?,
            Strike::Order => tokio::task::block_in_place(|| cluster.failover(&active, &standby))?,
        }
        load.wait_for_write_after(at + UNDER_WAY).await?;
        tokio::time::sleep(STEADY).await;
        let seen = load.end().await?;
        struck.first.push(figure(match strike {
            Strike::Kill => first_after(&seen.acknowledged, at + UNDER_WAY)? - at,
            Strike::Order => longest_gap(&seen.acknowledged, at),
        }));
        struck.longest.push(figure(seen.longest));
        verify(cluster, &seen).await?;
        if strike == Strike::Kill {
            tokio::task::block_in_place(|| cluster.start_again(&active))?;
        }
        settled(cluster).await?;
    }
    Ok(struck)
}

fn first_after(acknowledged: &[Instant], after: Instant) -> Result<Instant> {
    let later = acknowledged.iter().filter(|at| **at > after);
    later.min().copied().context("no write after the strike")
}

fn longest_gap(acknowledged: &[Instant], from: Instant) -> Duration {
    let mut times = acknowledged.to_vec();
    times.sort_unstable();
    let gaps = times.windows(2).filter(|pair| pair[1] > from);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Everything acknowledged is there.
async fn verify(cluster: &Cluster, seen: &Seen) -> Result<()> {
    let dfs = cluster.clients(1, true)?.remove(0);
    for path in &seen.made {
        ensure!(
            dfs.try_file_status(path).await?.is_some(),
            "{path} was acknowledged and is not there"
        );
    }
    Ok(())
}

/// Waits until one NameNode is active and the other stands by.
async fn settled(cluster: &Cluster) -> Result<()> {
    let give_up = Instant::now() + GIVE_UP;
    loop {
        let states = tokio::task::block_in_place(|| cluster.namenode_states())?;
        let is = |wanted: &str| states.iter().any(|(_, state)| state == wanted);
        if is("active") && is("standby") {
            return Ok(());
        }
        if Instant::now() > give_up {
            bail!("the NameNodes do not settle: {states:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Load {
    async fn start(cluster: &Cluster, base: &str) -> Result<Self> {
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

    fn forget_longest(&self) {
        lock(&self.seen).longest = Duration::ZERO;
    }

    async fn wait_for_write_after(&self, after: Instant) -> Result<()> {
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

    async fn end(mut self) -> Result<Seen> {
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

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One caller: makes a directory and looks at it, until told to stop.
async fn call(dfs: Dfs, own: String, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = format!("{own}/d{number}");
        number += 1;
        let start = Instant::now();
        let made = dfs.mkdirs(&path, 0o755, true).await;
        let end = Instant::now();
        {
            let mut seen = lock(&seen);
            seen.longest = seen.longest.max(end - start);
            match made {
                Ok(_) => {
                    seen.acknowledged.push(end);
                    seen.made.push(path.clone());
                }
                Err(error) => seen.errors.push(format!("mkdirs {path}: {error}")),
            }
        }
        let start = Instant::now();
        let status = dfs.try_file_status(&path).await;
        let mut seen = lock(&seen);
        seen.longest = seen.longest.max(start.elapsed());
        match status {
            Ok(Some(_)) => {}
            Ok(None) => seen
                .errors
                .push(format!("{path} is not there after it was acknowledged")),
            Err(error) => seen.errors.push(format!("getFileInfo {path}: {error}")),
        }
    }
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
