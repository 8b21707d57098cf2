//! `standby`: how far a standby is behind the active, and what a checkpoint on it costs the active's callers.

use crate::cluster::{Cluster, runtime};
use crate::fill;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use crate::stats::{Latencies, median};
use anyhow::{Context, Result, bail, ensure};
use hadal_client::Dfs;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

const ROOT: &str = "/bench/standby";
/// Files in the image of a checkpoint.
const FILES: usize = 100_000;
/// Callers of the load under which the lag is looked at, and connections they share.
const WRITERS: usize = 256;
const CONNECTIONS: usize = 4;
/// Callers whose calls are measured beside a checkpoint, as in `failover`.
const CALLERS: usize = 16;
/// Part of what they can make that they are asked for: a machine without a processor to spare feels whatever runs on it.
const LOAD: f64 = 0.5;
/// Longest that an image may take, from its beginning until the active has it.
const IMAGE_WAIT: Duration = Duration::from_secs(300);
/// Between two writes to the device beside the calls, and their bytes.
const PROBE: Duration = Duration::from_millis(5);
const PROBE_BYTES: usize = 4 << 10;
/// Between two looks at the lag.
const PAUSE: Duration = Duration::from_millis(10);
/// A standby that is further behind than this has stopped.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Load until the first look.
const WARM_UP: Duration = Duration::from_millis(500);
/// Load until the first image of a standby that makes them is under way: it looks every second.
const UNTIL_IMAGE: Duration = Duration::from_millis(2_500);
/// Makes one image after the other, and takes every image. An active starts a new segment every 40 000 edits then: no more
/// often than its callers can bear.
const EAGER: [(&str, &str); 2] = [
    ("checkpoint_txns", "20000"),
    ("checkpoint_check_period", "\"100ms\""),
];
/// Makes none.
const CALM: [(&str, &str); 1] = [("checkpoint_txns", "1000000000000")];

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
    let mut phases = Phases::new();
    let (rest, under_load, beside) = runtime.block_on(async {
        let admin = cluster.clients(1, true)?.remove(0);
        cluster.settled(&admin).await?;
        phases.ended("cluster");
        let rest = lags(&cluster, &admin, runs, time, 0).await?;
        let under_load = lags(&cluster, &admin, runs, time, WRITERS).await?;
        phases.ended("lag");
        fill::files(&cluster, &format!("{ROOT}/filled"), 0, files).await?;
        phases.ended("files");
        let beside = beside(&cluster, &admin, settings, &mut phases).await?;
        anyhow::Ok((rest, under_load, beside))
    })?;
    let Beside {
        alone,
        making,
        device_alone,
        device_making,
        images,
        peak,
        rate,
    } = &beside;
    let lag = |load: &str, runs: &[Run]| Row::new("lag", load, ("ms", Better::Lower), "", runs);
    let cost = |figure: &str, runs: &[Run]| {
        let pace = match settings.rate {
            Some(rate) => format!("{rate:.0}/s"),
            None => "half of their peak rate".into(),
        };
        let load = format!("{CALLERS} callers of mkdirs, {pace}, {files} files there");
        Row::new(figure, load, ("ms", Better::Lower), "", runs)
    };
    let limit = |when: &str, runs: &[Run]| {
        let figure = format!("limit: p99 of a synced write, {when}");
        let load = format!("4 KiB every {} ms beside the calls", PROBE.as_millis());
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
                "p99 of mkdirs at the active: {:.2} times as long while the standby makes images and sends them ({images} of them in \
                 all runs), runs without and with in turn; {rate:.0} calls/s were offered, {peak:.0}/s is what the callers can make. A call \
                 that is late because the one before took long is measured from when it was due. The limit rows are writes to the same \
                 device in the same seconds: all NameNodes and JournalNodes share it here, and where it pauses by itself a RAM disk \
                 (--dir /dev/shm) tells what is left",
                middle(making)? / middle(alone)?
            ),
            phases.in_words(),
            cluster.values()?,
        ],
        rows: vec![
            lag("at rest, an edit every 10 ms", &rest)?,
            lag(&format!("{WRITERS} callers of mkdirs"), &under_load)?,
            cost("p99 of mkdirs, no checkpoint", alone)?,
            cost("p99 of mkdirs, the standby makes images", making)?,
            limit("no checkpoint", device_alone)?,
            limit("the standby makes images", device_making)?,
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
        let load = Writers::start(cluster, writers, &base, None)?;
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

/// What checkpoints cost the active's callers.
struct Beside {
    /// One run per element: the p99 of mkdirs at the active.
    alone: Vec<Run>,
    /// The same while the standby makes images.
    making: Vec<Run>,
    /// The p99 of a write to the device that holds the journals, during the same runs.
    device_alone: Vec<Run>,
    device_making: Vec<Run>,
    /// Images of all runs that arrived at the active.
    images: u64,
    /// Calls per second that the callers can make, and that were offered.
    peak: f64,
    rate: f64,
}

/// Measures with and without images in turn, so that what else changes with time changes both.
async fn beside(
    cluster: &Cluster,
    admin: &Dfs,
    settings: &Settings,
    phases: &mut Phases,
) -> Result<Beside> {
    let reconfigure = |id: &str, how: &[(&str, &str)]| {
        tokio::task::block_in_place(|| cluster.reconfigure(id, how))
    };
    // Who takes every image becomes active and stays it.
    let (old, active) = cluster.settled(admin).await?;
    // The one that is started again for every run starts from this, and not from the first edit.
    tokio::task::block_in_place(|| cluster.save_namespace())?;
    phases.ended("image");
    reconfigure(&active, &EAGER)?;
    cluster.settled(admin).await?;
    tokio::task::block_in_place(|| cluster.failover(&old, &active))?;
    let standby = old;
    reconfigure(&standby, &CALM)?;
    cluster.settled(admin).await?;
    phases.ended("roles");
    let base = format!("{ROOT}/peak");
    admin.mkdirs(&base, 0o755, true).await?;
    let load = Writers::start(cluster, CALLERS, &base, None)?;
    tokio::time::sleep(WARM_UP).await;
    load.forget();
    let begun = Instant::now();
    tokio::time::sleep(settings.time).await;
    let elapsed = begun.elapsed().as_secs_f64();
    let peak = load.end().await?.count() as f64 / elapsed;
    phases.ended("peak");
    let rate = settings.rate.unwrap_or(peak * LOAD);
    let mut beside = Beside {
        alone: Vec::new(),
        making: Vec::new(),
        device_alone: Vec::new(),
        device_making: Vec::new(),
        images: 0,
        peak,
        rate,
    };
    for run in 0..settings.runs {
        if run > 0 {
            reconfigure(&standby, &CALM)?;
        }
        let alone = format!("{ROOT}/alone-{run}");
        let one_run = one(cluster, admin, settings, &alone, rate, false).await?;
        beside.alone.push(one_run.calls);
        beside.device_alone.push(one_run.device);
        phases.ended("alone");
        reconfigure(&standby, &EAGER)?;
        let making = format!("{ROOT}/beside-{run}");
        let one_run = one(cluster, admin, settings, &making, rate, true).await?;
        beside.making.push(one_run.calls);
        beside.device_making.push(one_run.device);
        beside.images += one_run.images;
        phases.ended("images");
    }
    Ok(beside)
}

/// One run of [`Beside`].
struct One {
    calls: Run,
    device: Run,
    images: u64,
}

/// The p99 of mkdirs at the active, for so long; with images, until one arrived there.
async fn one(
    cluster: &Cluster,
    admin: &Dfs,
    settings: &Settings,
    base: &str,
    rate: f64,
    images: bool,
) -> Result<One> {
    let time = settings.time;
    let (active, standby) = cluster.settled(admin).await?;
    admin.mkdirs(base, 0o755, true).await?;
    let load = Writers::start(cluster, CALLERS, base, Some(rate))?;
    tokio::time::sleep(UNTIL_IMAGE).await;
    load.forget();
    let probe = Probe::start(settings)?;
    let begun = Instant::now();
    let newest = async || {
        let stats = cluster.namenode_stats(admin, &active).await?;
        anyhow::Ok(stats.last_checkpoint)
    };
    let mut last = newest().await?;
    let mut arrived = 0;
    while begun.elapsed() < time || (images && arrived == 0) {
        ensure!(
            begun.elapsed() < time + IMAGE_WAIT,
            "{standby} makes no image"
        );
        tokio::time::sleep(10 * PAUSE).await;
        let now = newest().await?;
        arrived += u64::from(now > last);
        last = now;
    }
    ensure!(images || arrived == 0, "{standby} made an image");
    Ok(One {
        calls: p99(load.end().await?),
        device: p99(probe.end().await?),
        images: arrived,
    })
}

/// Writes to the device that holds the journals, one every [`PROBE`], each late one counted from when it was due: what
/// the calls would feel of the device if nothing else kept them waiting.
struct Probe {
    stop: Arc<AtomicBool>,
    writes: JoinHandle<Result<Latencies>>,
}

impl Probe {
    fn start(settings: &Settings) -> Result<Self> {
        let mut file = tempfile::tempfile_in(&settings.dir)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let writes = tokio::task::spawn_blocking(move || {
            let block = [0x5A; PROBE_BYTES];
            // What is written over needs no new room, as in a journal's segment.
            file.write_all(&block)?;
            file.sync_all()?;
            let mut latencies = Latencies::default();
            let mut due = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let start = match due.elapsed() {
                    late if late > PROBE => due,
                    _ => Instant::now(),
                };
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&block)?;
                file.sync_data()?;
                latencies.record(start.elapsed());
                due += PROBE;
            }
            Ok(latencies)
        });
        Ok(Self { stop, writes })
    }

    async fn end(self) -> Result<Latencies> {
        self.stop.store(true, Ordering::Relaxed);
        self.writes.await.context("the probe panicked")?
    }
}

/// How long the parts of the question take, for who waits for it.
struct Phases {
    since: Instant,
    took: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            took: Vec::new(),
        }
    }

    /// What was done since the last one ended.
    fn ended(&mut self, name: &'static str) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        eprintln!(
            "hadal-bench: standby: {name} took {:.1} s",
            took.as_secs_f64()
        );
        self.took.push((name, took));
    }

    fn in_words(&self) -> String {
        let seconds =
            |(name, took): &(&str, Duration)| format!("{name} {:.0} s", took.as_secs_f64());
        let all: Vec<String> = self.took.iter().map(seconds).collect();
        format!("the question took: {}", all.join(", "))
    }
}

/// Callers that make directories all the time, or so many a second.
struct Writers {
    stop: Arc<AtomicBool>,
    /// Raised when what was measured so far counts no longer.
    forget: Arc<AtomicBool>,
    callers: JoinSet<Result<Latencies>>,
}

impl Writers {
    /// `rate`: calls per second in all, instead of one call of each caller after the other.
    fn start(cluster: &Cluster, callers: usize, base: &str, rate: Option<f64>) -> Result<Self> {
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
            let mut schedule = rate.map(|rate| Schedule::new(rate, callers, caller));
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
                    let start = match &mut schedule {
                        Some(schedule) => schedule.next().await,
                        None => Instant::now(),
                    };
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

/// When one caller's calls are due.
struct Schedule {
    due: Instant,
    interval: Duration,
}

impl Schedule {
    /// Of caller number `caller` of so many, who make `rate` calls a second together.
    fn new(rate: f64, callers: usize, caller: usize) -> Self {
        let interval = Duration::from_secs_f64(callers as f64 / rate.max(f64::MIN_POSITIVE));
        Self {
            due: Instant::now() + interval.mul_f64(caller as f64 / callers as f64),
            interval,
        }
    }

    /// Waits for the next call. It counts from when it was due if the caller was busy then, else from now: the timer's delay
    /// is nobody's.
    async fn next(&mut self) -> Instant {
        let due = self.due;
        self.due += self.interval;
        if due <= Instant::now() {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller that was held up makes up for it, and what it was late counts.
    #[tokio::test]
    async fn late_calls_count_from_when_they_were_due() {
        let mut schedule = Schedule::new(100.0, 1, 0);
        let first = schedule.due;
        schedule.due -= Duration::from_secs(1);
        let late = schedule.next().await;
        assert_eq!(late, first - Duration::from_secs(1));
        let next = schedule.next().await;
        assert_eq!(next - late, Duration::from_millis(10));
        schedule.due = Instant::now() + Duration::from_millis(5);
        let due = schedule.due;
        assert!(schedule.next().await >= due);
    }
}
