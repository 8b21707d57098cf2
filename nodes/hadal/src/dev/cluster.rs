//! Starting and stopping the development cluster as a whole.

use super::layout::{Layout, UpArgs};
use super::process::{log_tail, pid_of, signal_and_wait, spawn};
use super::status;
use crate::session;
use anyhow::{Context, Result, bail};
use hadal_types::Role;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the cluster may take to be ready.
const READY_WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A cluster that is stopped when this is dropped.
pub(crate) struct Cluster {
    pub(crate) layout: Layout,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = stop_all(&self.layout, Signal::SIGKILL) {
            eprintln!("hadal: {error:#}");
        }
    }
}

impl Cluster {
    /// Starts a cluster and waits until it is ready.
    pub(crate) fn start(args: &UpArgs) -> Result<Self> {
        let layout = Layout::prepare(args)?;
        let cluster = Self { layout };
        launch(&cluster.layout)?;
        wait_ready(&cluster.layout)?;
        Ok(cluster)
    }

    /// Kills every daemon with SIGKILL and starts all again.
    pub(crate) fn crash_and_restart(&self) -> Result<()> {
        stop_all(&self.layout, Signal::SIGKILL)?;
        launch(&self.layout)?;
        wait_ready(&self.layout)
    }

    /// Starts one node again.
    pub(crate) fn start_node(&self, id: &str) -> Result<()> {
        spawn(&self.layout, &self.layout.node(id)?).map(|_| ())
    }
}

/// SIGKILL to one node; `false` when it did not run.
pub(crate) fn kill_process(layout: &Layout, id: &str) -> Result<bool> {
    signal_and_wait(layout, id, Signal::SIGKILL)
}

/// `hadal dev`.
pub(crate) fn up(args: &UpArgs) -> Result<i32> {
    if args.namenodes == 0 {
        bail!("--namenodes 0: a cluster needs a NameNode");
    }
    if args.shards != 1 {
        bail!(
            "UnsupportedOperation: --shards {}: this version serves a node with one shard",
            args.shards
        );
    }
    if let Some(mut running) = Layout::read(&args.dir)?
        && running
            .nodes()
            .iter()
            .any(|node| pid_of(&running, &node.id).is_some())
    {
        if args.fresh {
            stop_all(&running, Signal::SIGKILL)?;
        } else if args.detach {
            running.add_datanodes(args.datanodes)?;
            launch(&running)?;
            wait_ready(&running)?;
            println!("already running in {}", running.dir.display());
            return Ok(0);
        } else {
            bail!(
                "a cluster is running in {}: `hadal dev down` stops it",
                running.dir.display()
            );
        }
    }
    let layout = Layout::prepare(args)?;
    if let Err(error) = launch(&layout).and_then(|()| wait_ready(&layout)) {
        stop_all(&layout, Signal::SIGKILL)?;
        return Err(error);
    }
    println!("cluster ready in {}", layout.dir.display());
    println!("client configuration: {}", layout.client_config().display());
    if args.detach {
        return Ok(0);
    }
    println!("press Ctrl-C to stop it");
    wait_for_interrupt()?;
    stop_all(&layout, Signal::SIGTERM)?;
    Ok(0)
}

fn wait_for_interrupt() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    })?;
    Ok(())
}

/// Starts every node that does not run. The first NameNode of a new cluster formats it; the others take over its
/// identity and newest image.
fn launch(layout: &Layout) -> Result<()> {
    let nodes = layout.nodes();
    for node in nodes.iter().filter(|node| node.role == Role::Journalnode) {
        spawn(layout, node)?;
    }
    let namenodes = nodes.iter().filter(|node| node.role == Role::Namenode);
    let (old, new): (Vec<_>, Vec<_>) = namenodes.partition(|node| is_formatted(layout, &node.id));
    for node in &old {
        spawn(layout, node)?;
    }
    for (at, node) in new.iter().enumerate() {
        let verb = match at {
            0 if old.is_empty() => "-format",
            _ => "-bootstrapStandby",
        };
        prepare_namenode(layout, &node.id, verb)?;
        spawn(layout, node)?;
    }
    for node in nodes.iter().filter(|node| node.role == Role::Datanode) {
        spawn(layout, node)?;
    }
    Ok(())
}

fn is_formatted(layout: &Layout, id: &str) -> bool {
    let dir = layout.dir.join("data").join(id);
    dir.join("VERSION").exists()
}

/// Runs `namenode -format` or `-bootstrapStandby` in a process of its own: a shard wants a thread without another
/// runtime on it.
fn prepare_namenode(layout: &Layout, id: &str, verb: &str) -> Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .args(["namenode", verb, "-nonInteractive", "--id", id, "--config"])
        .arg(layout.config(id))
        .output()?;
    if !output.status.success() {
        bail!(
            "namenode {verb} of {id} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Waits until one NameNode is active and out of safe mode with all DataNodes registered, and the others stand by.
fn wait_ready(layout: &Layout) -> Result<()> {
    let config = session::load_config(Some(&layout.client_config()))?.config;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let deadline = Instant::now() + READY_WAIT;
    runtime.block_on(async {
        let dfs = session::connect(&config)?;
        loop {
            let reason = match status::readiness(&dfs, layout).await {
                Ok(()) => {
                    dfs.close().await;
                    return Ok(());
                }
                Err(reason) => reason,
            };
            for node in layout.nodes() {
                if pid_of(layout, &node.id).is_none() {
                    bail!(
                        "{} ended while the cluster started:\n{}",
                        node.id,
                        log_tail(layout, &node.id)
                    );
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the cluster is not ready after {} s: {reason}",
                    READY_WAIT.as_secs()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    })
}

fn stop_all(layout: &Layout, signal: Signal) -> Result<()> {
    let mut nodes = layout.nodes();
    nodes.reverse();
    for node in nodes {
        signal_and_wait(layout, &node.id, signal)
            .with_context(|| format!("stopping {}", node.id))?;
    }
    Ok(())
}

/// `hadal dev down`.
pub(crate) fn down(dir: &Path) -> Result<i32> {
    stop_all(&Layout::require(dir)?, Signal::SIGTERM)?;
    Ok(0)
}

/// `hadal dev kill ID`.
pub(crate) fn kill(dir: &Path, id: &str) -> Result<i32> {
    signal_node(dir, id, Signal::SIGKILL)
}

/// `hadal dev stop ID`.
pub(crate) fn stop(dir: &Path, id: &str) -> Result<i32> {
    signal_node(dir, id, Signal::SIGTERM)
}

fn signal_node(dir: &Path, id: &str, signal: Signal) -> Result<i32> {
    let layout = Layout::require(dir)?;
    layout.node(id)?;
    if signal_and_wait(&layout, id, signal)? {
        return Ok(0);
    }
    bail!("{id} is not running");
}

/// `hadal dev start ID`.
pub(crate) fn start(dir: &Path, id: &str) -> Result<i32> {
    let layout = Layout::require(dir)?;
    spawn(&layout, &layout.node(id)?)?;
    Ok(0)
}
