//! `hadal demo`: the main job in one command. A fresh cluster, a real file tree written with replication 3 and read
//! back, with processes killed in the middle of both, everything compared byte for byte.

mod tree;
mod work;

use crate::dev::{Cluster, UpArgs, kill_process};
use crate::session;
use anyhow::{Context, Result, bail};
use hadal_client::Dfs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tree::Tree;

/// First port of the demo's cluster: not the development cluster's, so that both can run.
const PORT_BASE: u16 = 18_400;
/// DataNodes: one more than the replication, so that a lost one can be made good.
const DATANODES: u16 = 4;
/// How long the cluster may take to make every block whole again.
const HEAL_WAIT: Duration = Duration::from_secs(300);

/// What the demo was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct DemoArgs {
    /// The tree to write; by default the Rust toolchain's own directory.
    pub(crate) tree: Option<PathBuf>,
    /// All of it, not only the first 5 000 files and 600 MB.
    pub(crate) full: bool,
    /// Leave the cluster's directory behind.
    pub(crate) keep: bool,
}

/// A moment in the work at which something is killed.
struct Strike {
    /// After this many bytes of the phase.
    after: u64,
    /// Whom.
    whom: Whom,
}

/// Who is killed.
#[derive(Clone, Copy)]
enum Whom {
    /// This node.
    Node(&'static str),
    /// The NameNode that is active at that moment.
    Active,
}

/// Runs the demo; 0 only if every byte matched.
pub(crate) fn run(args: &DemoArgs) -> Result<i32> {
    let started = Instant::now();
    let tree = Arc::new(Tree::collect(args.tree.as_deref(), args.full)?);
    println!(
        "tree: {} files, {} directories, {:.0} MB from {}; and one generated file of {:.2} GiB",
        tree.files.len(),
        tree.directories.len(),
        tree.bytes as f64 / 1e6,
        tree.root.display(),
        tree::BIG_BYTES as f64 / f64::from(1 << 30),
    );
    let scratch = tempfile::Builder::new()
        .prefix("hadal-demo-")
        .tempdir()
        .context("cannot make a directory")?;
    let dir = scratch.path().join("cluster");
    let cluster = Cluster::start(&UpArgs {
        dir: dir.clone(),
        namenodes: 2,
        journalnodes: 3,
        datanodes: DATANODES,
        shards: 1,
        port_base: PORT_BASE,
        fresh: true,
        detach: true,
    })?;
    println!(
        "cluster: 2 NameNodes, 3 JournalNodes, {DATANODES} DataNodes ready after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let config = session::load_config(Some(&cluster.layout.client_config()))?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome =
        runtime.block_on(async { phases(&cluster, session::connect(&config)?, &tree).await });
    if outcome.is_err() || args.keep {
        println!(
            "the cluster's directory is kept: {}",
            scratch.keep().display()
        );
    }
    outcome?;
    drop(cluster);
    println!(
        "every byte matched; {:.1} s in all",
        started.elapsed().as_secs_f64()
    );
    Ok(0)
}

async fn phases(cluster: &Cluster, dfs: Dfs, tree: &Arc<Tree>) -> Result<()> {
    let total = tree.bytes;
    let strikes = [
        Strike {
            after: total / 4,
            whom: Whom::Node("dn1"),
        },
        Strike {
            after: total / 2,
            whom: Whom::Node("jn1"),
        },
    ];
    phase(
        cluster,
        "write the tree",
        tree.files.len(),
        total,
        &strikes,
        &dfs,
        |done| work::write_tree(dfs.clone(), Arc::clone(tree), done),
    )
    .await?;
    for id in ["dn1", "jn1"] {
        cluster.start_node(id)?;
    }
    let strikes = [
        Strike {
            after: tree::BIG_BYTES / 4,
            whom: Whom::Active,
        },
        Strike {
            after: tree::BIG_BYTES / 2,
            whom: Whom::Node("dn2"),
        },
    ];
    let killed = phase(
        cluster,
        "write the large file",
        1,
        tree::BIG_BYTES,
        &strikes,
        &dfs,
        |done| work::write_big(dfs.clone(), done),
    )
    .await?;
    for id in killed {
        cluster.start_node(&id)?;
    }
    healed(&dfs).await?;
    let everything = total + tree::BIG_BYTES;
    let strikes = [Strike {
        after: everything / 3,
        whom: Whom::Node("dn3"),
    }];
    phase(
        cluster,
        "read and compare",
        tree.files.len() + 1,
        everything,
        &strikes,
        &dfs,
        |done| work::compare_all(dfs.clone(), Arc::clone(tree), done),
    )
    .await?;
    let restart = Instant::now();
    tokio::task::block_in_place(|| cluster.crash_and_restart())?;
    println!(
        "killed every daemon with SIGKILL and started all again: ready after {:.1} s",
        restart.elapsed().as_secs_f64()
    );
    phase(
        cluster,
        "read and compare again",
        tree.files.len() + 1,
        everything,
        &[],
        &dfs,
        |done| work::compare_all(dfs.clone(), Arc::clone(tree), done),
    )
    .await?;
    healed(&dfs).await
}

/// Runs one phase, kills at its strikes, prints its rate; returns who was killed.
async fn phase<F>(
    cluster: &Cluster,
    name: &str,
    files: usize,
    bytes: u64,
    strikes: &[Strike],
    dfs: &Dfs,
    work: impl FnOnce(Arc<AtomicU64>) -> F,
) -> Result<Vec<String>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut task = tokio::spawn(work(Arc::clone(&done)));
    let (mut killed, mut notes, mut deaths) = (Vec::new(), Vec::new(), Vec::new());
    for strike in strikes {
        while done.load(Ordering::Relaxed) < strike.after && !task.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if task.is_finished() {
            (&mut task)
                .await?
                .with_context(|| format!("{name} failed"))?;
            bail!("{name}: ended before all of its kills");
        }
        let (id, role) = match strike.whom {
            Whom::Node(id) => (id.to_owned(), ""),
            Whom::Active => (dfs.service_state().await?.1, ", the active NameNode,"),
        };
        // It may be a while until nothing is left of it: the work goes on, and the next kill is not late.
        let (layout, whom) = (cluster.layout.clone(), id.clone());
        deaths.push(tokio::task::spawn_blocking(move || {
            kill_process(&layout, &whom)
        }));
        let at = done.load(Ordering::Relaxed) as f64 * 100.0 / bytes.max(1) as f64;
        notes.push(format!("{id}{role} killed at {at:.0} %"));
        killed.push(id);
    }
    (&mut task)
        .await?
        .with_context(|| format!("{name} failed"))?;
    for death in deaths {
        death.await??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let note = if notes.is_empty() {
        String::new()
    } else {
        format!("   ({})", notes.join(", "))
    };
    println!(
        "{name}: {seconds:.2} s, {:.0} MB/s, {:.0} files/s{note}",
        bytes as f64 / 1e6 / seconds,
        files as f64 / seconds
    );
    Ok(killed)
}

/// Waits until no block is missing or below its replication.
async fn healed(dfs: &Dfs) -> Result<()> {
    let started = Instant::now();
    loop {
        let stats = dfs.fs_stats().await?;
        if stats.under_replicated == 0 && stats.missing_blocks == 0 && stats.corrupt_blocks == 0 {
            println!(
                "all {} blocks at their replication after {:.1} s",
                stats.blocks,
                started.elapsed().as_secs_f64()
            );
            return Ok(());
        }
        if started.elapsed() > HEAL_WAIT {
            bail!(
                "after {} s still {} blocks under-replicated, {} missing, {} corrupt",
                HEAL_WAIT.as_secs(),
                stats.under_replicated,
                stats.missing_blocks,
                stats.corrupt_blocks
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
