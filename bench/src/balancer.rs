//! `balancer`: how fast blocks move to a DataNode that was added.

use crate::cluster::{Cluster, Shape, in_words, runtime};
use crate::disk;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hadal_client::CreateOptions;
use serde::Deserialize;

/// Bytes of all files together, and of one, which is one block.
const TOTAL_BYTES: u64 = 768 << 20;
const FILE_BYTES: u64 = 16 << 20;
const CHUNK: usize = 1 << 20;
const ROOT: &str = "/bench/balancer";

/// The bandwidth is what is measured, so it is not bounded; capacities are small, so that the files fill something.
const SET: &[(&str, &str)] = &[
    ("HADAL_DATANODE__BALANCE_BANDWIDTH", "1TiB"),
    ("HADAL_DATANODE__VOLUME_CAPACITY", "3GiB"),
];

#[derive(Deserialize)]
struct Told {
    result: String,
    moves: u64,
    failed_moves: u64,
    bytes_moved: u64,
    moving_ms: u64,
}

/// Asks the question.
///
/// # Errors
/// When a cluster does not come up, or is not balanced in the end.
pub fn run(settings: &Settings) -> Result<Question> {
    ensure!(
        settings.cluster.is_none(),
        "balancer adds DataNodes: it measures clusters of its own, not --cluster"
    );
    let total = settings.bytes.unwrap_or(TOTAL_BYTES);
    let files = total.div_ceil(FILE_BYTES);
    let runtime = runtime()?;
    let (mut rates, mut values) = (Vec::new(), String::new());
    for round in 0..=settings.runs {
        let shape = Shape {
            datanodes: 3,
            set: SET,
            ..Shape::default()
        };
        let mut cluster = Cluster::open_shape(settings, shape)?;
        runtime.block_on(fill(&cluster, files))?;
        cluster.grow(4)?;
        runtime.block_on(async {
            let dfs = cluster.clients(1, true)?.remove(0);
            cluster
                .await_stats(&dfs, "four are alive", |stats| {
                    stats.live_datanodes == 4 && stats.under_replicated == 0
                })
                .await
        })?;
        let before = cluster.cpu_seconds()?;
        let told = cluster.client_command(&["balancer", "-threshold", "1", "--json"])?;
        let cpu = cluster.cpu_seconds()? - before;
        let told: Told = serde_json::from_slice(&told).context("the balancer gave no result")?;
        ensure!(
            told.result == "balanced",
            "the balancer ended with {}",
            told.result
        );
        ensure!(
            told.moves > 0 && told.failed_moves == 0,
            "{} moves failed",
            told.failed_moves
        );
        if round > 0 {
            let bytes = told.bytes_moved as f64;
            rates.push(Run {
                value: bytes / (told.moving_ms.max(1) as f64 / 1e3) / 1e6,
                latencies: None,
                cpu: Some(cpu / (bytes / (1u64 << 30) as f64)),
            });
        }
        values = cluster.values()?;
    }
    let load = format!(
        "{files} blocks of {} MiB, 3 replicas on 3 DataNodes, a fourth is added",
        FILE_BYTES >> 20
    );
    let mut rows = vec![Row::new(
        "moved",
        load,
        ("MB/s", Better::Higher),
        "GiB",
        &rates,
    )?];
    rows.extend(disk::limit(settings)?);
    let set = in_words(SET);
    Ok(Question {
        name: "balancer".into(),
        notes: vec![
            format!(
                "bytes moved per second of the iterations, without the pauses between them; {set}"
            ),
            "what is moved is read and written on one device; CPU is that of the daemons".into(),
            values,
        ],
        rows,
    })
}

async fn fill(cluster: &Cluster, files: u64) -> Result<()> {
    let dfs = cluster.clients(1, true)?.remove(0);
    let chunk = Bytes::from(vec![0x5A; CHUNK]);
    let options = CreateOptions {
        replication: Some(3),
        block_size: Some(FILE_BYTES),
        ..CreateOptions::default()
    };
    for file in 0..files {
        let mut file = dfs.create(&format!("{ROOT}/f{file}"), &options).await?;
        for _ in 0..FILE_BYTES / CHUNK as u64 {
            file.write_bytes(chunk.clone()).await?;
        }
        file.close().await?;
    }
    Ok(())
}
