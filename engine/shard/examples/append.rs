//! What the disk of a shard costs: latency of a durable append, and throughput and processor time of
//! bulk writes. `cargo run --release -p hadal-shard --example append [DIRECTORY]`

use futures_util::stream::{FuturesUnordered, StreamExt};
use hadal_env::{ALIGN, Disk, File, OpenOptions};
use hadal_shard::{ShardBuf, ShardDisk, ShardFile, ShardHandle, ShardOptions, run_on_this_thread};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const APPENDS: usize = 5000;
const WARM_UP: usize = 200;
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 200;
const BULK_BYTES: u64 = 1 << 30;
const CHUNK_BYTES: usize = 1 << 20;
const IN_FLIGHT: u64 = 8;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let directory = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    run_on_this_thread(ShardOptions::new("append"), async |shard: ShardHandle| {
        let disk = shard.disk();
        let path = directory.join(format!("hadal-append-{}", std::process::id()));
        let measured = measure(disk, &path).await;
        disk.remove_file(&path).await?;
        measured
    })?
}

async fn measure(disk: &ShardDisk, path: &Path) -> Outcome<()> {
    let file = disk
        .open(path, OpenOptions::create().direct().dsync())
        .await?;
    let length = ((APPENDS + WARM_UP) * ALIGN) as u64;
    zero_fill(disk, &file, length).await?;
    report(
        "durable append, idle shard",
        append(disk, &file, length).await?,
    );
    let busy = tokio::task::spawn_local(async {
        loop {
            let end = Instant::now() + Duration::from_micros(20);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    });
    report(
        "durable append, busy shard (20 us slices)",
        append(disk, &file, length).await?,
    );
    busy.abort();
    drop(file);

    let file = disk.open(path, OpenOptions::write().direct()).await?;
    file.allocate(0, BULK_BYTES).await?;
    for round in 0..3u8 {
        let (cpu, start) = (cpu_seconds()?, Instant::now());
        bulk(disk, &file, round).await?;
        file.sync_data().await?;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        let gib = BULK_BYTES as f64 / f64::from(1 << 30);
        println!(
            "bulk write: {:.2} GB/s, {:.3} CPU-s per GiB",
            BULK_BYTES as f64 / seconds / 1e9,
            cpu / gib
        );
    }
    Ok(())
}

async fn zero_fill(disk: &ShardDisk, file: &ShardFile, length: u64) -> Outcome<()> {
    file.allocate(0, length).await?;
    let mut buf = disk.buf(CHUNK_BYTES).await;
    buf.as_mut().fill(0);
    let mut offset = 0;
    while offset < length {
        let bytes = usize::try_from(length - offset)?.min(CHUNK_BYTES);
        let (result, returned) = file.write_at(buf, 0..bytes, offset).await;
        result?;
        buf = returned;
        offset += bytes as u64;
    }
    Ok(())
}

/// Appends in sequence; the latencies but for the first few, sorted.
async fn append(disk: &ShardDisk, file: &ShardFile, length: u64) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(APPENDS);
    let records = [0x5A; RECORDS * RECORD_BYTES];
    for number in 0..length / ALIGN as u64 {
        let start = Instant::now();
        let mut buf = disk.buf(ALIGN).await;
        buf.as_mut()[..records.len()].copy_from_slice(&records);
        buf.as_mut()[records.len()..].fill(0);
        file.write_at(buf, 0..ALIGN, number * ALIGN as u64)
            .await
            .0?;
        latencies.push(start.elapsed());
    }
    let mut latencies = latencies.split_off(WARM_UP);
    latencies.sort_unstable();
    Ok(latencies)
}

async fn bulk(disk: &ShardDisk, file: &ShardFile, round: u8) -> Outcome<()> {
    let mut writes = FuturesUnordered::new();
    for number in 0..BULK_BYTES / CHUNK_BYTES as u64 {
        let mut buf: ShardBuf = disk.buf(CHUNK_BYTES).await;
        // What a receiver does: fill the buffer once.
        buf.as_mut().fill(round);
        writes.push(file.write_at(buf, 0..CHUNK_BYTES, number * CHUNK_BYTES as u64));
        if number + 1 >= IN_FLIGHT
            && let Some((result, _)) = writes.next().await
        {
            result?;
        }
    }
    while let Some((result, _)) = writes.next().await {
        result?;
    }
    Ok(())
}

fn cpu_seconds() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
            / 1e6,
    )
}

fn report(what: &str, sorted: Vec<Duration>) {
    let at = |quantile: f64| sorted[((sorted.len() - 1) as f64 * quantile) as usize].as_micros();
    println!(
        "{what}: p50 {} us, p99 {} us, longest {} us ({} appends)",
        at(0.5),
        at(0.99),
        at(1.0),
        sorted.len()
    );
}
