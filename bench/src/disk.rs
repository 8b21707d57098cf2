//! `disk`: what the device and the shard's way to it give. The limit row of everything that is durable.

use crate::cpu::own_seconds;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use crate::stats::Latencies;
use anyhow::{Context, Result, ensure};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hadal_env::{ALIGN, Disk, File, OpenOptions};
use hadal_shard::{ShardBuf, ShardDisk, ShardFile, ShardHandle, ShardOptions, run_on_this_thread};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of the file that is written and read in bulk.
const BULK_BYTES: u64 = 1 << 30;
/// Bytes of one request.
const CHUNK_BYTES: usize = 1 << 20;
/// Requests in flight: what a block stream has, and one alone.
const IN_FLIGHT: [usize; 2] = [8, 1];
/// Durable appends per run.
const APPENDS: usize = 3000;
/// Bytes of one edit.
const RECORD_BYTES: usize = 200;
/// Edits of one append: a small and a large group commit.
const RECORDS: [usize; 2] = [16, 256];
const GIB: f64 = (1u64 << 30) as f64;

/// What is moved in bulk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Write,
    Read,
}

/// Asks the question.
///
/// # Errors
/// When the device, or the file system, does not do direct I/O.
pub fn run(settings: &Settings) -> Result<Question> {
    let bytes = settings.bytes.unwrap_or(BULK_BYTES);
    ensure!(
        bytes >= CHUNK_BYTES as u64 && bytes.is_multiple_of(CHUNK_BYTES as u64),
        "--bytes {bytes}: the disk is measured in whole MiB, at least one"
    );
    measure(settings, move |disk, path, runs| async move {
        let mut rows = Vec::new();
        for in_flight in IN_FLIGHT {
            rows.extend(bulk_rows(&disk, &path, bytes, in_flight, runs).await?);
        }
        for records in RECORDS {
            rows.push(append_row(&disk, &path, records, runs).await?);
        }
        Ok(rows)
    })
    .map(|rows| Question {
        name: "disk".into(),
        notes: vec![
            "write: O_DIRECT into a preallocated file, buffers filled once, one fdatasync at the end; read: O_DIRECT".into(),
            "append: into a preallocated, zero-filled file, O_DIRECT|O_DSYNC, padded to 4 KiB; the latency is the figure".into(),
        ],
        rows,
    })
}

/// Only bulk writing and reading, as the limit row of another question, whose `--bytes` are others.
///
/// # Errors
/// As [`run`].
pub fn limit(settings: &Settings) -> Result<Vec<Row>> {
    let rows = measure(settings, |disk, path, runs| async move {
        bulk_rows(&disk, &path, BULK_BYTES, IN_FLIGHT[0], runs).await
    })?;
    let limit = |row: Row| Row {
        figure: format!("limit: disk {}", row.figure),
        ..row
    };
    Ok(rows.into_iter().map(limit).collect())
}

/// Only the group commit, as the limit row of another question.
///
/// # Errors
/// As [`run`].
pub fn append_limit(settings: &Settings) -> Result<Row> {
    let row = measure(settings, |disk, path, runs| async move {
        append_row(&disk, &path, RECORDS[1], runs).await
    })?;
    Ok(Row {
        figure: format!("limit: {}", row.figure),
        ..row
    })
}

/// Runs `body` on a shard, with a file name that is removed afterwards whatever came of it.
fn measure<T, F>(
    settings: &Settings,
    body: impl FnOnce(ShardDisk, PathBuf, usize) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let path = settings
        .dir
        .join(format!("hadal-bench-{}", std::process::id()));
    let runs = settings.runs;
    run_on_this_thread(ShardOptions::new("bench-disk"), |shard: ShardHandle| {
        let disk = shard.disk().clone();
        async move {
            let measured = body(disk.clone(), path.clone(), runs).await;
            if disk.exists(&path).await? {
                disk.remove_file(&path).await?;
            }
            measured
        }
    })?
}

async fn bulk_rows(
    disk: &ShardDisk,
    path: &Path,
    bytes: u64,
    in_flight: usize,
    runs: usize,
) -> Result<Vec<Row>> {
    let file = disk.open(path, OpenOptions::create().direct()).await?;
    file.allocate(0, bytes).await?;
    let mut rows = Vec::new();
    for direction in [Direction::Write, Direction::Read] {
        let mut measured = Vec::new();
        for round in 0..=runs {
            let (cpu, start) = (own_seconds()?, Instant::now());
            bulk(disk, &file, direction, bytes, in_flight).await?;
            if direction == Direction::Write {
                file.sync_data().await?;
            }
            let seconds = start.elapsed().as_secs_f64();
            let run = Run {
                value: bytes as f64 / seconds / 1e9,
                latencies: None,
                cpu: Some((own_seconds()? - cpu) / (bytes as f64 / GIB)),
            };
            // The first round warms up: it also gives the file its blocks.
            if round > 0 {
                measured.push(run);
            }
        }
        let figure = match direction {
            Direction::Write => "sequential write",
            Direction::Read => "sequential read",
        };
        let load = format!("{} MiB by 1 MiB, {in_flight} in flight", bytes >> 20);
        rows.push(Row::new(
            figure,
            load,
            ("GB/s", Better::Higher),
            "GiB",
            &measured,
        )?);
    }
    Ok(rows)
}

async fn bulk(
    disk: &ShardDisk,
    file: &ShardFile,
    direction: Direction,
    bytes: u64,
    in_flight: usize,
) -> Result<()> {
    let mut requests = FuturesUnordered::new();
    for offset in (0..bytes).step_by(CHUNK_BYTES) {
        if requests.len() == in_flight {
            requests.next().await.context("requests are in flight")??;
        }
        let mut buf: ShardBuf = disk.buf(CHUNK_BYTES).await;
        if direction == Direction::Write {
            // What a receiver does: fill the buffer once.
            buf.as_mut()[..CHUNK_BYTES].fill(offset as u8);
        }
        requests.push(async move {
            match direction {
                Direction::Write => file.write_at(buf, 0..CHUNK_BYTES, offset).await.0?,
                Direction::Read => {
                    let read = file.read_at(buf, 0..CHUNK_BYTES, offset).await.0?;
                    ensure!(
                        read == CHUNK_BYTES,
                        "the file ended early, at {offset} and {read} bytes"
                    );
                }
            }
            Ok(())
        });
    }
    while let Some(done) = requests.next().await {
        done?;
    }
    Ok(())
}

async fn append_row(disk: &ShardDisk, path: &Path, records: usize, runs: usize) -> Result<Row> {
    let batch_bytes = (records * RECORD_BYTES).next_multiple_of(ALIGN);
    let file = disk
        .open(path, OpenOptions::create().direct().dsync())
        .await?;
    file.truncate(0).await?;
    zero_fill(disk, &file, (APPENDS * batch_bytes) as u64).await?;
    let mut measured = Vec::new();
    for round in 0..=runs {
        let cpu = own_seconds()?;
        let latencies = append(disk, &file, records, batch_bytes).await?;
        let run = Run {
            value: latencies.at_us(0.5),
            cpu: Some((own_seconds()? - cpu) / APPENDS as f64 * 1e3),
            latencies: Some(latencies),
        };
        if round > 0 {
            measured.push(run);
        }
    }
    let load = format!("{records} records of {RECORD_BYTES} B, one caller");
    Row::new(
        "durable append",
        load,
        ("us (p50)", Better::Lower),
        "1000 appends",
        &measured,
    )
}

async fn zero_fill(disk: &ShardDisk, file: &ShardFile, length: u64) -> Result<()> {
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

async fn append(
    disk: &ShardDisk,
    file: &ShardFile,
    records: usize,
    batch_bytes: usize,
) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    let content = vec![0x5A; records * RECORD_BYTES];
    for number in 0..APPENDS {
        let start = Instant::now();
        let mut buf = disk.buf(batch_bytes).await;
        buf.as_mut()[..content.len()].copy_from_slice(&content);
        buf.as_mut()[content.len()..].fill(0);
        file.write_at(buf, 0..batch_bytes, (number * batch_bytes) as u64)
            .await
            .0?;
        latencies.record(start.elapsed());
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_gives_every_row_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let settings = Settings {
            runs: 2,
            bytes: Some(4 << 20),
            ..Settings::new(dir.path().to_owned())
        };
        let rows = limit(&settings).unwrap();
        let figures: Vec<&str> = rows.iter().map(|row| row.figure.as_str()).collect();
        assert_eq!(
            figures,
            [
                "limit: disk sequential write",
                "limit: disk sequential read"
            ]
        );
        for row in &rows {
            assert_eq!(row.runs.len(), 2);
            assert!(row.median > 0.0 && row.cpu.is_some());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn sizes_that_are_not_whole_requests_are_refused() {
        let settings = Settings {
            bytes: Some(1000),
            ..Settings::new(std::env::temp_dir())
        };
        assert!(
            run(&settings)
                .unwrap_err()
                .to_string()
                .contains("whole MiB")
        );
    }
}
