//! `flush`: a program that writes a log: appended records, each made durable or visible before the next.

use crate::cluster::{Cluster, runtime};
use crate::disk;
use crate::report::{Better, Question, Row, Run};
use crate::settings::{Settings, given_or};
use crate::stats::Latencies;
use anyhow::{Context, Result};
use bytes::Bytes;
use hadal_client::{CreateOptions, Dfs};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Files written side by side: one log, and those of a busy program.
const FILES: [usize; 2] = [1, 16];
/// Bytes of one record.
const RECORD_BYTES: usize = 512;
const ROOT: &str = "/bench/flush";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Hflush,
    Hsync,
}

impl Flush {
    const fn name(self) -> &'static str {
        match self {
            Self::Hflush => "append + hflush",
            Self::Hsync => "append + hsync",
        }
    }
}

/// Asks the question.
///
/// # Errors
/// When the cluster does not come up, or a record cannot be written.
pub fn run(settings: &Settings) -> Result<Question> {
    let cluster = Cluster::open(settings)?;
    let files = given_or(&settings.threads, &FILES);
    let runtime = runtime()?;
    let mut rows = Vec::new();
    for flush in [Flush::Hsync, Flush::Hflush] {
        for files in files {
            let runs = runtime.block_on(runs_of(&cluster, settings, flush, *files))?;
            rows.push(Row::new(
                flush.name(),
                format!("{files} files, records of {RECORD_BYTES} bytes, replication 3"),
                ("records/s", Better::Higher),
                "1000 records",
                &runs,
            )?);
        }
    }
    let values = cluster.values()?;
    drop(cluster);
    rows.push(disk::append_limit(settings)?);
    Ok(Question {
        name: "flush".into(),
        notes: vec![
            "the latency is that of one record from its write to its flush; CPU is that of all processes".into(),
            "hsync: on the devices of all three DataNodes, which are one device here; hflush: with the kernels of all three".into(),
            values,
        ],
        rows,
    })
}

async fn runs_of(
    cluster: &Cluster,
    settings: &Settings,
    flush: Flush,
    files: usize,
) -> Result<Vec<Run>> {
    let dfs = cluster.clients(1, true)?.remove(0);
    let mut measured = Vec::new();
    for round in 0..=settings.runs {
        let base = format!("{ROOT}/{}-{files}-{round}", flush.name().replace(' ', ""));
        let (cpu, start) = (cluster.cpu_seconds()?, Instant::now());
        let mut writers = JoinSet::new();
        for file in 0..files {
            let (dfs, path) = (dfs.clone(), format!("{base}/f{file}"));
            writers.spawn(write(dfs, path, flush, settings.time));
        }
        let mut latencies = Latencies::default();
        while let Some(written) = writers.join_next().await {
            latencies.merge(&written.context("a writer ended")??);
        }
        let records = latencies.count() as f64;
        let run = Run {
            value: records / start.elapsed().as_secs_f64(),
            cpu: Some((cluster.cpu_seconds()? - cpu) / records * 1e3),
            latencies: Some(latencies),
        };
        if round > 0 {
            measured.push(run);
        }
        dfs.delete(&base, true).await?;
    }
    Ok(measured)
}

/// One file, for as long as a run takes.
async fn write(dfs: Dfs, path: String, flush: Flush, time: Duration) -> Result<Latencies> {
    let record = Bytes::from(vec![0x5A; RECORD_BYTES]);
    let mut file = dfs.create(&path, &CreateOptions::default()).await?;
    let (start, mut latencies) = (Instant::now(), Latencies::default());
    while start.elapsed() < time {
        let began = Instant::now();
        file.write_bytes(record.clone()).await?;
        match flush {
            Flush::Hflush => file.hflush().await?,
            Flush::Hsync => file.hsync().await?,
        }
        latencies.record(began.elapsed());
    }
    file.close().await?;
    Ok(latencies)
}
