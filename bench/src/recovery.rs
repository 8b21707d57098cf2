//! `recovery`: what the loss of a DataNode costs: how long until its blocks have their replicas again, and what a writer
//! notices.

use crate::cluster::{Cluster, Shape, in_words, runtime};
use crate::disk;
use crate::load::{closed, deal};
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hadal_client::{CreateOptions, Dfs};
use std::time::Instant;

/// Small files of 16 KiB. `--files 150000` leaves 100 000 on the DataNode that is lost: it comes back empty, so that the
/// other three hold two replicas of everything when the next one is lost.
const SMALL_FILES: usize = 3_000;
const SMALL_BYTES: u64 = 16 << 10;
/// Bytes of large files of 32 MiB at most in all (20 GiB are lost, and 60 GiB on the disk, with `--bytes 30GiB`).
const LARGE_TOTAL: u64 = 1 << 30;
const LARGE_BYTES: u64 = 32 << 20;
const LARGE_FILES: u64 = 16;
/// Copies of each.
const REPLICATION: u16 = 2;
const DATANODES: u16 = 4;
/// Callers that make the files.
const CALLERS: usize = 16;
/// Bytes handed over at once.
const CHUNK: usize = 1 << 20;
/// Blocks of the file that a writer writes past a dead DataNode, and their size at most; the first is not counted.
const BLOCK_BYTES: u64 = 64 << 20;
const BLOCKS: u64 = 9;
const ROOT: &str = "/bench/recovery";

/// HDFS's rates of re-replication are made for thousands of DataNodes that serve others as well; here it has all there is.
const FAST: &[(&str, &str)] = &[
    ("HADAL_NAMENODE__REPLICATION_INTERVAL", "50ms"),
    ("HADAL_NAMENODE__REPLICATION_WORK_MULTIPLIER", "1000"),
    ("HADAL_NAMENODE__MAX_TRANSFERS", "32"),
];

/// Asks the question.
///
/// # Errors
/// When the cluster does not come up, or does not become whole again.
pub fn run(settings: &Settings) -> Result<Question> {
    ensure!(
        settings.cluster.is_none(),
        "recovery kills DataNodes: it measures clusters of its own, not --cluster"
    );
    let runtime = runtime()?;
    let small = (settings.files.unwrap_or(SMALL_FILES), SMALL_BYTES);
    let total = settings.bytes.unwrap_or(LARGE_TOTAL);
    // Enough files that every DataNode has some.
    let large = ((total / LARGE_FILES) >> 20 << 20).clamp(1 << 20, LARGE_BYTES);
    let large = (usize::try_from(total.div_ceil(large))?, large);
    let shape = Shape {
        datanodes: DATANODES,
        set: FAST,
        ..Shape::default()
    };
    let mut rows = Vec::new();
    let mut values = String::new();
    for (figure, (files, bytes)) in [("small blocks", small), ("large blocks", large)] {
        let cluster = Cluster::open_shape(settings, shape)?;
        let lost = runtime.block_on(losses(&cluster, settings.runs, files, bytes))?;
        let load = format!(
            "{files} blocks of {} KiB, {REPLICATION} replicas on {DATANODES} DataNodes, one lost with its disk",
            bytes >> 10
        );
        let row = |what: &str, unit: (&str, Better), runs: &[Run]| {
            Row::new(
                format!("{figure}: {what}"),
                load.clone(),
                unit,
                "loss",
                runs,
            )
        };
        rows.push(row("whole again", ("s", Better::Lower), &lost.seconds)?);
        rows.push(row("copies", ("blocks/s", Better::Higher), &lost.blocks)?);
        rows.push(row("bytes", ("MB/s", Better::Higher), &lost.bytes)?);
        values = cluster.values()?;
    }
    rows.extend(runtime.block_on(past_the_dead(settings))?);
    rows.extend(disk::limit(settings)?);
    let set = in_words(FAST);
    Ok(Question {
        name: "recovery".into(),
        notes: vec![
            format!(
                "whole again: from the moment the NameNode takes the killed DataNode for dead until nothing is under-replicated; {set}"
            ),
            format!(
                "write past a dead DataNode: one of the pipeline is killed after the first MiB; rates from the second block of {} MiB on; the ratio is of runs next to each other",
                block_bytes(settings) >> 20
            ),
            "all replicas are on one device: what is copied is read and written there".into(),
            values,
        ],
        rows,
    })
}

/// Bytes per block of that file: so that it is no larger than the large files are together.
fn block_bytes(settings: &Settings) -> u64 {
    let most = settings.bytes.unwrap_or(LARGE_TOTAL) / BLOCKS;
    (most >> 20 << 20).clamp(1 << 20, BLOCK_BYTES)
}

#[derive(Default)]
struct Lost {
    seconds: Vec<Run>,
    blocks: Vec<Run>,
    bytes: Vec<Run>,
}

fn figure(value: f64) -> Run {
    Run {
        value,
        ..Run::default()
    }
}

/// Fills the cluster once, and loses one DataNode with its disk after the other. Each comes back empty before the next,
/// so that no more than all replicas is ever on the one device.
async fn losses(cluster: &Cluster, runs: usize, files: usize, bytes: u64) -> Result<Lost> {
    let dfs = cluster.clients(1, true)?.remove(0);
    let start = Instant::now();
    fill(&dfs, files, bytes).await?;
    said(&format!(
        "{files} files of {} KiB made in {:.1} s",
        bytes >> 10,
        start.elapsed().as_secs_f64()
    ));
    let mut lost = Lost::default();
    for round in 0..=runs {
        let all = u64::from(DATANODES);
        cluster
            .await_stats(&dfs, "the cluster is whole", |stats| {
                stats.live_datanodes == all
                    && stats.under_replicated == 0
                    && stats.pending_deletion == 0
                    && stats.pending_replication == 0
            })
            .await?;
        let victim = format!("dn{}", 1 + round % usize::from(DATANODES));
        tokio::task::block_in_place(|| cluster.kill(&victim))?;
        // Beside the measurement: what has died must not wait for its files to go.
        let disk = cluster.data(&victim);
        let emptied = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(disk));
        let dead = cluster
            .await_stats(&dfs, "it is dead", |stats| stats.live_datanodes < all)
            .await?;
        let start = Instant::now();
        cluster
            .await_stats(&dfs, "whole again", |stats| {
                stats.under_replicated == 0 && stats.pending_replication == 0
            })
            .await?;
        let seconds = start.elapsed().as_secs_f64();
        let blocks = dead.under_replicated as f64;
        ensure!(blocks > 0.0, "{victim} had no block");
        said(&format!(
            "loss {round} of {runs}: {blocks} blocks of {} KiB whole again in {seconds:.1} s",
            bytes >> 10
        ));
        if round > 0 {
            lost.seconds.push(figure(seconds));
            lost.blocks.push(figure(blocks / seconds));
            lost.bytes
                .push(figure(blocks * bytes as f64 / seconds / 1e6));
        }
        emptied.await??;
        tokio::task::block_in_place(|| cluster.start_again(&victim))?;
    }
    Ok(lost)
}

/// At the sizes asked for this takes many minutes: what is measured is told at once (the first loss is not counted).
fn said(what: &str) {
    eprintln!("hadal-bench: recovery: {what}");
}

async fn fill(dfs: &Dfs, files: usize, bytes: u64) -> Result<()> {
    let paths = (0..files).map(|file| format!("{ROOT}/{bytes}/f{file}"));
    let content = Bytes::from(vec![0x5A; CHUNK]);
    let context = |_| (dfs.clone(), content.clone());
    let write = move |(dfs, content): (Dfs, Bytes), path: String| async move {
        let options = CreateOptions {
            replication: Some(REPLICATION),
            block_size: Some(bytes),
            ..CreateOptions::default()
        };
        let mut file = dfs.create(&path, &options).await?;
        let mut left = usize::try_from(bytes)?;
        while left > 0 {
            let part = left.min(content.len());
            file.write_bytes(content.slice(..part)).await?;
            left -= part;
        }
        Ok(file.close().await?)
    };
    closed(deal(paths.collect(), CALLERS), context, write).await?;
    Ok(())
}

/// A write through three of five DataNodes with one dead from the start, and one where there are only four, in turn.
async fn past_the_dead(settings: &Settings) -> Result<Vec<Row>> {
    let shape = Shape {
        datanodes: 5,
        ..Shape::default()
    };
    let bytes = block_bytes(settings);
    let cluster = tokio::task::block_in_place(|| Cluster::open_shape(settings, shape))?;
    let dfs = cluster.clients(1, true)?.remove(0);
    let (mut past, mut four, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=settings.runs {
        cluster
            .await_stats(&dfs, "all are alive", |stats| stats.live_datanodes == 5)
            .await?;
        let mut victim = String::new();
        let with = write(
            &cluster,
            &dfs,
            &format!("{ROOT}/past{round}"),
            bytes,
            Some(&mut victim),
        )
        .await?;
        cluster
            .await_stats(&dfs, "it is dead", |stats| stats.live_datanodes == 4)
            .await?;
        let without = write(&cluster, &dfs, &format!("{ROOT}/four{round}"), bytes, None).await?;
        dfs.delete(ROOT, true).await?;
        tokio::task::block_in_place(|| cluster.start_again(&victim))?;
        if round > 0 {
            past.push(figure(with));
            four.push(figure(without));
            ratios.push(figure(with / without));
        }
    }
    let load = format!(
        "one file of {} blocks of {} MiB, replication 3",
        BLOCKS,
        bytes >> 20
    );
    let row = |what: &str, unit: &str, runs: &[Run]| {
        Row::new(what, load.clone(), (unit, Better::Higher), "GiB", runs)
    };
    Ok(vec![
        row("write, one of five dead", "MB/s", &past)?,
        row("write, four DataNodes", "MB/s", &four)?,
        row("one of five dead / four", "times", &ratios)?,
    ])
}

/// MB/s from the second block on. With `kill` a node of the first block's pipeline is killed at its start.
async fn write(
    cluster: &Cluster,
    dfs: &Dfs,
    path: &str,
    bytes: u64,
    kill: Option<&mut String>,
) -> Result<f64> {
    let options = CreateOptions {
        block_size: Some(bytes),
        ..CreateOptions::default()
    };
    let chunk = Bytes::from(vec![0x5A; CHUNK]);
    let mut file = dfs.create(path, &options).await?;
    file.write_bytes(chunk.clone()).await?;
    if let Some(victim) = kill {
        file.hflush().await?;
        let nodes = file.pipeline_nodes();
        *victim = nodes.get(1).context("a pipeline of three")?.clone();
        tokio::task::block_in_place(|| cluster.kill(victim))?;
    }
    let first = bytes / CHUNK as u64;
    let chunks = BLOCKS * first;
    let mut start = Instant::now();
    for at in 1..chunks {
        if at == first {
            file.hflush().await?;
            start = Instant::now();
        }
        file.write_bytes(chunk.clone()).await?;
    }
    file.close().await?;
    let counted = (chunks - first) * CHUNK as u64;
    Ok(counted as f64 / start.elapsed().as_secs_f64() / 1e6)
}
