//! `pipeline`: one large file written to three DataNodes and read back.

use crate::cluster::{Cluster, runtime};
use crate::disk;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use anyhow::{Result, ensure};
use bytes::Bytes;
use hadal_client::{CreateOptions, Dfs, DfsInputStream, TokioSeam};
use std::time::Instant;

/// Bytes of the file.
const FILE_BYTES: u64 = 2 << 30;
/// Bytes handed over at once.
const CHUNK_BYTES: u64 = 1 << 20;
const REPLICATION: u16 = 3;
const PATH: &str = "/bench/pipeline";
const GIB: f64 = (1u64 << 30) as f64;

/// Asks the question.
///
/// # Errors
/// When the cluster does not come up, or the file cannot be written or read.
pub fn run(settings: &Settings) -> Result<Question> {
    let bytes = settings.bytes.unwrap_or(FILE_BYTES);
    ensure!(bytes > 0, "--bytes 0: there is nothing to measure");
    let cluster = Cluster::open(settings)?;
    let runs = runtime()?.block_on(runs_of(&cluster, settings.runs, bytes))?;
    let values = cluster.values()?;
    drop(cluster);
    let mut size = format!("one file of {} MiB", bytes >> 20);
    if let Some(mtu) = settings.mtu {
        size.push_str(&format!(", MTU {mtu}"));
    }
    let rate = ("MB/s", Better::Higher);
    let written = Row::new(
        "write",
        format!("{size}, replication {REPLICATION}"),
        rate,
        "GiB",
        &runs.writes,
    )?;
    let read = |name: &str, runs: &[Run]| {
        let load = format!("{size}, one reader");
        Row::new(name, load, rate, "GiB", runs)
    };
    let limits = disk::limit(settings)?;
    let mut rows = vec![
        written,
        read("read, remote", &runs.remote)?,
        read("read, same host, cold", &runs.local)?,
        read("read, same host, second", &runs.second)?,
        read("read, same host, cached", &runs.cached)?,
    ];
    rows.extend(limits);
    Ok(Question {
        name: "pipeline".into(),
        notes: vec![
            "encrypted, checksummed end to end, durable on all replicas on close; CPU is that of all processes".into(),
            format!("all {REPLICATION} replicas are on one device: its write limit divided by {REPLICATION} bounds the write"),
            "same host: a new file each run, whose replicas were written, and read for the row above, past the page cache. cold: its first opening, past the page cache; second: fills the page cache from the disk; cached: the third, from memory".into(),
            values,
        ],
        rows,
    })
}

/// The measured runs of every row.
#[derive(Default)]
struct Runs {
    writes: Vec<Run>,
    /// Over the network.
    remote: Vec<Run>,
    /// From the DataNodes' files, which were written past the page cache and never opened by a reader.
    local: Vec<Run>,
    /// The same once more, which fills the page cache.
    second: Vec<Run>,
    /// And a third time, from there.
    cached: Vec<Run>,
}

async fn runs_of(cluster: &Cluster, runs: usize, bytes: u64) -> Result<Runs> {
    let dfs = cluster.clients(1, true)?.remove(0);
    let here = cluster.local_reader()?;
    let mut all = Runs::default();
    for round in 0..=runs {
        let path = format!("{PATH}/r{round}");
        let count = if round == 0 { bytes.div_ceil(4) } else { bytes };
        let run = |start: Instant, cpu: f64| -> Result<Run> {
            let seconds = start.elapsed().as_secs_f64();
            Ok(Run {
                value: count as f64 / seconds / 1e6,
                latencies: None,
                cpu: Some((cluster.cpu_seconds()? - cpu) / (count as f64 / GIB)),
            })
        };
        let (cpu, start) = (cluster.cpu_seconds()?, Instant::now());
        write(&dfs, &path, count).await?;
        let written = run(start, cpu)?;
        let (cpu, start) = (cluster.cpu_seconds()?, Instant::now());
        let found = read(&mut dfs.open(&path).await?).await?;
        let remote = run(start, cpu)?;
        ensure!(
            found == count,
            "{path}: wrote {count} bytes and read {found}"
        );
        let (cpu, start) = (cluster.cpu_seconds()?, Instant::now());
        let mut file = here.open(&path).await?;
        read(&mut file).await?;
        let local = run(start, cpu)?;
        // One stream keeps to its replicas.
        let (cpu, start) = (cluster.cpu_seconds()?, Instant::now());
        file.seek(0);
        read(&mut file).await?;
        let second = run(start, cpu)?;
        let (cpu, start) = (cluster.cpu_seconds()?, Instant::now());
        file.seek(0);
        read(&mut file).await?;
        let cached = run(start, cpu)?;
        let short = file.short_circuit_bytes();
        ensure!(
            short == 3 * count,
            "{path}: {short} of {} bytes came from files here",
            3 * count
        );
        dfs.delete(&path, false).await?;
        if round > 0 {
            all.writes.push(written);
            all.remote.push(remote);
            all.local.push(local);
            all.second.push(second);
            all.cached.push(cached);
        }
    }
    Ok(all)
}

async fn write(dfs: &Dfs, path: &str, bytes: u64) -> Result<()> {
    let chunk: Bytes = (0..CHUNK_BYTES)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8)
        .collect();
    let options = CreateOptions {
        replication: Some(REPLICATION),
        overwrite: true,
        ..CreateOptions::default()
    };
    let mut file = dfs.create(path, &options).await?;
    let mut left = bytes;
    while left > 0 {
        let part = left.min(CHUNK_BYTES);
        file.write_bytes(chunk.slice(..usize::try_from(part)?))
            .await?;
        left -= part;
    }
    Ok(file.close().await?)
}

/// Reads the file to its end; the library checks every chunk's checksum.
async fn read(file: &mut DfsInputStream<TokioSeam>) -> Result<u64> {
    let mut bytes = 0;
    while let Some(chunk) = file.read_chunk().await? {
        bytes += chunk.len() as u64;
    }
    Ok(bytes)
}
