//! `small-files`: create, 64 KiB, close, durable on all replicas.

use crate::cluster::{Cluster, runtime};
use crate::load::{closed, deal};
use crate::report::{Better, Question, Row, Run};
use crate::settings::{Settings, given_or};
use anyhow::{Result, ensure};
use bytes::Bytes;
use hadal_client::{CreateOptions, Dfs};

/// Callers: one alone and the goal's.
const THREADS: [usize; 2] = [1, 16];
/// Connections to each node that the callers share, as callers in one program share a file system.
const CONNECTIONS: usize = 1;
/// Files per run, and per run and caller at most.
const FILES: usize = 2_000;
const FILES_PER_THREAD: usize = 200;
/// Bytes of one file.
const FILE_BYTES: usize = 64 << 10;
const ROOT: &str = "/bench/small-files";

/// Asks the question.
///
/// # Errors
/// When the cluster does not come up, or a file cannot be written.
pub fn run(settings: &Settings) -> Result<Question> {
    let cluster = Cluster::open(settings)?;
    let threads = given_or(&settings.threads, &THREADS);
    let mut rows = Vec::new();
    for threads in threads {
        ensure!(*threads > 0, "--threads 0: at least one caller is needed");
        let files = settings
            .files
            .unwrap_or_else(|| FILES.min(threads * FILES_PER_THREAD));
        let connections = settings
            .connections
            .unwrap_or(CONNECTIONS)
            .clamp(1, *threads);
        let load = (*threads, connections, files);
        let runs = runtime()?.block_on(runs_of(&cluster, settings.runs, load))?;
        let load = format!(
            "{threads} callers, {connections} connections, {files} files of {} KiB",
            FILE_BYTES >> 10
        );
        rows.push(Row::new(
            "create + write + close",
            load,
            ("files/s", Better::Higher),
            "1000 files",
            &runs,
        )?);
    }
    Ok(Question {
        name: "small-files".into(),
        notes: vec![
            "the latency is that of one file from create to close; CPU is that of all processes"
                .into(),
            cluster.values()?,
        ],
        rows,
    })
}

async fn runs_of(
    cluster: &Cluster,
    runs: usize,
    (threads, connections, files): (usize, usize, usize),
) -> Result<Vec<Run>> {
    let clients = cluster.clients(connections, true)?;
    let content = Bytes::from(vec![0x5A; FILE_BYTES]);
    let mut measured = Vec::new();
    for round in 0..=runs {
        let count = if round == 0 { files.div_ceil(4) } else { files };
        let base = format!("{ROOT}/t{threads}/r{round}");
        clients[0].delete(&base, true).await?;
        clients[0].mkdirs(&base, 0o755, true).await?;
        let inputs = deal(
            (0..count)
                .map(|number| format!("{base}/f{number}"))
                .collect(),
            threads,
        );
        let cpu = cluster.cpu_seconds()?;
        let context = |caller: usize| (clients[caller % clients.len()].clone(), content.clone());
        let load = closed(
            inputs,
            context,
            |(dfs, content): (Dfs, Bytes), path| async move {
                let options = CreateOptions {
                    first_block: true,
                    ..CreateOptions::default()
                };
                let mut file = dfs.create(&path, &options).await?;
                file.write_bytes(content).await?;
                Ok(file.close().await?)
            },
        )
        .await?;
        if round > 0 {
            measured.push(Run {
                value: load.per_second(),
                cpu: Some((cluster.cpu_seconds()? - cpu) / load.operations as f64 * 1e3),
                latencies: Some(load.latencies),
            });
        }
        clients[0].delete(&base, true).await?;
    }
    Ok(measured)
}
