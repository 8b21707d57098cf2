//! `standby`: how far a standby is behind the active, and what a checkpoint on it costs the active's callers.

use crate::cluster::{Cluster, runtime};
use crate::fill;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use crate::stats::{Latencies, median};
use anyhow::{Context, Result, bail, ensure};
use hadal_client::Dfs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ROOT: &str = "/bench/standby";
/// Files in the image of a checkpoint.
const FILES: usize = 100_000;
/// Callers of the load under which the lag is looked at, and connections they share.
const WRITERS: usize = 256;
const CONNECTIONS: usize = 4;
/// Callers whose calls are measured beside a checkpoint, as in `failover`.
const CALLERS: usize = 16;
/// Between two looks at the lag.
const PAUSE: Duration = Duration::from_millis(10);
/// A standby that is further behind than this has stopped.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Load until the first look.
const WARM_UP: Duration = Duration::from_millis(500);
/// Makes one image after the other.
const EAGER: [(&str, &str); 2] = [
    ("checkpoint_txns", "1"),
    ("checkpoint_check_period", "\"100ms\""),
];

/// Asks the question of a cluster of its own: it changes a NameNode's configuration.
///
/// # Errors
/// When the cluster does not come up, a call fails, or no checkpoint is made.
pub fn run(settings: &Settings) -> Result<Question> {
    ensure!(
        settings.cluster.is_none(),
        "standby changes how a NameNode makes images: it measures a cluster of its own, not --cluster"
    );
    let cluster = Cluster::open_with(settings, 2)?;
    let runtime = runtime()?;
    let files = settings.files.unwrap_or(FILES);
    let (runs, time) = (settings.runs, settings.time);
    let (rest, under_load, alone, beside, images) = runtime.block_on(async {
        let admin = cluster.clients(1, true)?.remove(0);
        cluster.settled(&admin).await?;
        let rest = lags(&cluster, &admin, runs, time, 0).await?;
        let under_load = lags(&cluster, &admin, runs, time, WRITERS).await?;
        fill::files(&cluster, &format!("{ROOT}/filled"), 0, files).await?;
        let (_, standby) = cluster.settled(&admin).await?;
        let (alone, _) = latencies(&cluster, &admin, runs, time, None, "alone").await?;
        tokio::task::block_in_place(|| cluster.reconfigure(&standby, &EAGER))?;
        cluster.settled(&admin).await?;
        let making = Some(&*standby);
        let (beside, images) = latencies(&cluster, &admin, runs, time, making, "beside").await?;
        anyhow::Ok((rest, under_load, alone, beside, images))
    })?;
    let lag = |load: &str, runs: &[Run]| Row::new("lag", load, ("ms", Better::Lower), "", runs);
    let cost = |figure: &str, runs: &[Run]| {
        let load = format!("{CALLERS} callers of mkdirs, {files} files there");
        Row::new(figure, load, ("ms", Better::Lower), "", runs)
    };
    let middle = |runs: &[Run]| {
        let values: Vec<f64> = runs.iter().map(|run| run.value).collect();
        median(&values).context("no run was measured")
    };
    Ok(Question {
        name: "standby".into(),
        notes: vec![
            "lag: from the acknowledgement of an edit (at rest), or from a question for the active's last committed one (under load), \
             until the standby says that it has applied it: an upper bound by one call. 99 of 100 looks are below the figure"
                .into(),
            format!(
                "p99 of mkdirs at the active: {:.2} times as long while the standby makes images ({images} of them in all runs)",
                middle(&beside)? / middle(&alone)?
            ),
            cluster.values()?,
        ],
        rows: vec![
            lag("at rest, an edit every 10 ms", &rest)?,
            lag(&format!("{WRITERS} callers of mkdirs"), &under_load)?,
            cost("p99 of mkdirs, no checkpoint", &alone)?,
            cost("p99 of mkdirs, the standby makes images", &beside)?,
        ],
    })
}

/// One run per element: the lag at 99 of 100 looks.
async fn lags(
    cluster: &Cluster,
    admin: &Dfs,
    runs: usize,
    time: Duration,
    writers: usize,
) -> Result<Vec<Run>> {
    let mut figures = Vec::new();
    for run in 0..runs {
        let (active, standby) = cluster.settled(admin).await?;
        let base = format!("{ROOT}/lag-{writers}-{run}");
        admin.mkdirs(&base, 0o755, true).await?;
        let load = Writers::start(cluster, writers, &base)?;
        if writers > 0 {
            tokio::time::sleep(WARM_UP).await;
        }
        let mut latencies = Latencies::default();
        let end = Instant::now() + time;
        let mut number = 0;
        while Instant::now() < end || latencies.count() == 0 {
            let (wanted, since) = if writers == 0 {
                // Nobody else writes: this edit is the one behind the last.
                let before = cluster.namenode_stats(admin, &active).await?.last_applied;
                number += 1;
                admin
                    .mkdirs(&format!("{base}/{number}"), 0o755, true)
                    .await?;
                (before.next(), Instant::now())
            } else {
                let asked = Instant::now();
                let stats = cluster.namenode_stats(admin, &active).await?;
                (stats.committed, asked)
            };
            while cluster.namenode_stats(admin, &standby).await?.last_applied < wanted {
                if since.elapsed() > GIVE_UP {
                    bail!("{standby} does not apply edit {wanted}");
                }
            }
            latencies.record(since.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
        load.end().await?;
        figures.push(p99(latencies));
    }
    Ok(figures)
}

fn p99(latencies: Latencies) -> Run {
    Run {
        value: latencies.at_us(0.99) / 1e3,
        latencies: Some(latencies),
        cpu: None,
    }
}

/// One run per element: the p99 of mkdirs at the active; with a standby that makes images until one was made in each run.
async fn latencies(
    cluster: &Cluster,
    admin: &Dfs,
    runs: usize,
    time: Duration,
    making: Option<&str>,
    name: &str,
) -> Result<(Vec<Run>, u64)> {
    let mut figures = Vec::new();
    let mut images = 0;
    for run in 0..runs {
        cluster.settled(admin).await?;
        let base = format!("{ROOT}/{name}-{run}");
        admin.mkdirs(&base, 0o755, true).await?;
        let load = Writers::start(cluster, CALLERS, &base)?;
        tokio::time::sleep(WARM_UP).await;
        load.forget();
        let begun = Instant::now();
        let checkpoint = async |id: &str| {
            let stats = cluster.namenode_stats(admin, id).await?;
            anyhow::Ok(stats.last_checkpoint)
        };
        match making {
            None => tokio::time::sleep(time).await,
            Some(id) => {
                let mut last = checkpoint(id).await?;
                let mut made = 0;
                while begun.elapsed() < time || made == 0 {
                    ensure!(begun.elapsed() < GIVE_UP, "{id} makes no image");
                    tokio::time::sleep(PAUSE).await;
                    let newest = checkpoint(id).await?;
                    made += u64::from(newest > last);
                    last = newest;
                }
                images += made;
            }
        }
        figures.push(p99(load.end().await?));
    }
    Ok((figures, images))
}

/// Callers that make directories all the time.
struct Writers {
    stop: Arc<AtomicBool>,
    /// Raised when what was measured so far counts no longer.
    forget: Arc<AtomicBool>,
    callers: JoinSet<Result<Latencies>>,
}

impl Writers {
    fn start(cluster: &Cluster, callers: usize, base: &str) -> Result<Self> {
        let clients = cluster.clients(CONNECTIONS.min(callers), true)?;
        let mut writers = Self {
            stop: Arc::default(),
            forget: Arc::default(),
            callers: JoinSet::new(),
        };
        for caller in 0..callers {
            let dfs = clients[caller % CONNECTIONS].clone();
            let (stop, forget) = (Arc::clone(&writers.stop), Arc::clone(&writers.forget));
            let own = format!("{base}/c{caller}");
            writers.callers.spawn(async move {
                let mut latencies = Latencies::default();
                let mut warm = false;
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    if !warm && forget.load(Ordering::Relaxed) {
                        warm = true;
                        latencies = Latencies::default();
                    }
                    number += 1;
                    let start = Instant::now();
                    dfs.mkdirs(&format!("{own}/{number}"), 0o755, true).await?;
                    latencies.record(start.elapsed());
                }
                Ok(latencies)
            });
        }
        Ok(writers)
    }

    /// What was measured so far was warm-up.
    fn forget(&self) {
        self.forget.store(true, Ordering::Relaxed);
    }

    async fn end(mut self) -> Result<Latencies> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Latencies::default();
        while let Some(ended) = self.callers.join_next().await {
            all.merge(&ended.context("a caller panicked")??);
        }
        Ok(all)
    }
}
