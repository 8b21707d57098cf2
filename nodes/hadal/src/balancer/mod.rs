//! `hadal balancer`: moves replicas from full DataNodes to empty ones until all are about as full as the average
//! (HDFS's balancer, with its options, words and exit codes).

mod iteration;
mod lock;

use crate::admin::{self, Operator};
use crate::cli::Global;
use crate::console::Console;
use crate::humanize::{binary, now_ms, report_time};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use hadal_balancer::{NodeUsage, PlanOptions, Policy, plan};
use hadal_proto::admin::DatanodeStatus;
use iteration::{Mover, Outcome};
use lock::Lock;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Exit codes of Hadoop's balancer, as a shell sees its negative numbers.
const BALANCED: i32 = 0;
const ALREADY_RUNNING: i32 = 255;
const NO_MOVE_BLOCK: i32 = 254;
const NO_MOVE_PROGRESS: i32 = 253;
const IO_EXCEPTION: i32 = 252;
const ILLEGAL_ARGUMENTS: i32 = 251;
const INTERRUPTED: i32 = 250;

/// What counts as used.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum BalancePolicy {
    /// Everything on a DataNode
    #[default]
    Datanode,
    /// What the block pool has there
    Blockpool,
}

/// Options of `balancer`.
#[derive(Args, Clone, Debug)]
pub(crate) struct BalancerArgs {
    /// How many per cent of its capacity a DataNode may be away from the average, from 1 to 100
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
    threshold: f64,
    /// What counts as used
    #[arg(long, value_enum, default_value_t)]
    policy: BalancePolicy,
    /// Leave these DataNodes alone: ids, hosts or addresses with commas between, or -f FILE
    #[arg(long, value_name = "LIST")]
    exclude: Option<String>,
    /// Balance among these DataNodes only
    #[arg(long, value_name = "LIST")]
    include: Option<String>,
    /// Move blocks away from these DataNodes only
    #[arg(long, value_name = "LIST")]
    source: Option<String>,
    /// Give up after so many iterations in which nothing moved; -1: never
    #[arg(
        long = "idleiterations",
        default_value_t = 5,
        value_name = "N",
        allow_hyphen_values = true
    )]
    idle_iterations: i64,
    /// There is no upgrade to wait for
    #[arg(long = "runDuringUpgrade", hide = true)]
    run_during_upgrade: bool,
    /// There is one block pool (not in this version)
    #[arg(long = "blockpools", hide = true, value_name = "LIST")]
    blockpools: Option<String>,
    /// Run for ever (not in this version)
    #[arg(long = "asService", hide = true)]
    as_service: bool,
}

/// DataNodes the operator names.
struct Names(BTreeSet<String>);

impl Names {
    /// A list, or `@FILE` with one per line.
    fn read(list: Option<&str>) -> Result<Self> {
        let text = match list.and_then(|list| list.strip_prefix('@')) {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?
            }
            None => list.unwrap_or_default().to_owned(),
        };
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or(""));
        let names = lines.flat_map(|line| line.split([',', ' ', '\t']));
        let names = names.map(str::trim).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }

    fn name(&self, node: &DatanodeStatus) -> bool {
        let host = node.address.rsplit_once(':');
        let host = host.map_or(&*node.address, |(host, _)| host);
        [&*node.name, &*node.address, host]
            .iter()
            .any(|way| self.0.contains(*way))
    }
}

/// What is done over all iterations.
#[derive(Default)]
struct Done {
    iterations: u64,
    moves: u64,
    failed: u64,
    bytes_moved: u64,
    bytes_left: u64,
    average_percent: f64,
    /// Time spent in iterations, without the pauses between them.
    moving: Duration,
}

/// Runs the command.
pub(crate) fn run(global: &Global, console: Arc<Console>, args: BalancerArgs) -> Result<i32> {
    for (given, what) in [
        (args.blockpools.is_some(), "-blockpools"),
        (args.as_service, "-asService"),
    ] {
        if given {
            return Ok(admin::missing(&console, &format!("balancer {what}")));
        }
    }
    if !(1.0..=100.0).contains(&args.threshold) {
        console.error(format!(
            "balancer: -threshold {}: expecting a number in the range of [1.0, 100.0]",
            args.threshold
        ));
        return Ok(ILLEGAL_ARGUMENTS);
    }
    if args.include.is_some() && args.exclude.is_some() {
        console.error("balancer: -include and -exclude cannot be given together");
        return Ok(ILLEGAL_ARGUMENTS);
    }
    admin::run(global, console, async |operator| {
        let console = &operator.console;
        let Some(lock) = Lock::take(&operator.dfs).await? else {
            console.error("Another Balancer is running.. Exiting ...");
            return Ok(ALREADY_RUNNING);
        };
        let outcome = tokio::select! {
            outcome = balance(&operator, &args) => outcome,
            _ = tokio::signal::ctrl_c() => {
                console.error("balancer: interrupted");
                Ok(INTERRUPTED)
            }
        };
        let released = lock.release().await;
        match outcome.and_then(|code| released.map(|()| code)) {
            Ok(code) => Ok(code),
            Err(error) => {
                console.error(format!("balancer: {error:#}"));
                Ok(IO_EXCEPTION)
            }
        }
    })
}

fn usage_of(node: &DatanodeStatus) -> NodeUsage {
    let good = || node.storages.iter().filter(|storage| !storage.failed);
    NodeUsage {
        datanode: node.uuid,
        rack: node.rack.clone(),
        capacity: good().map(|storage| storage.capacity).sum(),
        used: good().map(|storage| storage.used).sum(),
        pool_used: good().map(|storage| storage.pool_used).sum(),
        remaining: good().map(|storage| storage.remaining).sum(),
    }
}

async fn balance(operator: &Operator, args: &BalancerArgs) -> Result<i32> {
    let console = &operator.console;
    let config = &operator.config;
    let (include, exclude, sources) = (
        Names::read(args.include.as_deref())?,
        Names::read(args.exclude.as_deref())?,
        Names::read(args.source.as_deref())?,
    );
    // As long as it takes until the DataNodes have said how full they are now.
    let pause_ms =
        2 * config.datanode.heartbeat_interval.0 + config.namenode.replication_interval.0;
    let mut mover = Mover::new(operator);
    let mut done = Done::default();
    let mut idle = 0;
    if !console.json {
        console.line(format!(
            "{:<24} {:>10}  {:>19}  {:>18}  {:>17}",
            "Time Stamp",
            "Iteration#",
            "Bytes Already Moved",
            "Bytes Left To Move",
            "Bytes Being Moved"
        ));
    }
    let (code, words) = loop {
        let (_, nodes) = operator.datanodes().await?;
        let chosen: Vec<DatanodeStatus> = nodes
            .into_iter()
            .filter(|node| node.state == "live")
            .filter(|node| include.0.is_empty() || include.name(node))
            .filter(|node| !exclude.name(node))
            .collect();
        let giving = chosen.iter().filter(|node| sources.name(node));
        let giving: BTreeSet<_> = giving.map(|node| node.uuid).collect();
        if giving.is_empty() && !sources.0.is_empty() {
            break (NO_MOVE_BLOCK, "none of the DataNodes of -source is live");
        }
        let options = PlanOptions {
            threshold_percent: args.threshold,
            policy: match args.policy {
                BalancePolicy::Datanode => Policy::Datanode,
                BalancePolicy::Blockpool => Policy::Blockpool,
            },
            max_bytes_per_node: config.balancer.max_size_to_move.0,
            sources: giving,
        };
        let usages: Vec<NodeUsage> = chosen.iter().map(usage_of).collect();
        let plan = plan(&usages, &options);
        done.bytes_left = plan.bytes_left;
        done.average_percent = plan.average_percent;
        if plan.bytes_left == 0 {
            break (BALANCED, "The cluster is balanced. Exiting...");
        }
        if plan.tasks.is_empty() {
            break (NO_MOVE_BLOCK, "No block can be moved. Exiting...");
        }
        if !console.json {
            let size = |bytes| binary(bytes, "B", 2);
            console.line(format!(
                "{:<24} {:>10}  {:>19}  {:>18}  {:>17}",
                report_time(now_ms()),
                done.iterations,
                size(done.bytes_moved),
                size(plan.bytes_left),
                size(plan.bytes_planned())
            ));
            console.flush();
        }
        let began = Instant::now();
        let Outcome {
            moves,
            failed,
            bytes_moved,
        } = mover.iterate(&plan.tasks, &chosen).await?;
        done.moving += began.elapsed();
        done.iterations += 1;
        done.moves += moves;
        done.failed += failed;
        done.bytes_moved += bytes_moved;
        idle = if bytes_moved == 0 { idle + 1 } else { 0 };
        if args.idle_iterations >= 0 && idle >= args.idle_iterations.max(1) {
            break (
                NO_MOVE_PROGRESS,
                "No block has been moved for as many iterations as -idleiterations says. Exiting...",
            );
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    };
    report(console, code, words, &done);
    Ok(code)
}

fn report(console: &Console, code: i32, words: &str, done: &Done) {
    if console.json {
        let result = match code {
            BALANCED => "balanced",
            NO_MOVE_BLOCK => "no_move_block",
            _ => "no_move_progress",
        };
        console.json(&json!({
            "result": result,
            "iterations": done.iterations,
            "moves": done.moves,
            "failed_moves": done.failed,
            "bytes_moved": done.bytes_moved,
            "bytes_left": done.bytes_left,
            "moving_ms": done.moving.as_millis() as u64,
            "average_percent": done.average_percent,
        }));
        return;
    }
    console.line(words);
    console.line(format!(
        "{} moved in {} blocks, {} moves failed, {} iterations",
        binary(done.bytes_moved, "B", 2),
        done.moves,
        done.failed,
        done.iterations
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datanodes_are_named_by_id_host_or_address() {
        let node = |name: &str, address: &str| DatanodeStatus {
            uuid: Default::default(),
            name: name.into(),
            address: address.into(),
            http_address: String::new(),
            rack: String::new(),
            state: "live".into(),
            last_contact_ms: 0,
            streams: 0,
            failed_volumes: 0,
            storages: Vec::new(),
            software: String::new(),
            held_up: Vec::new(),
            shards: 1,
        };
        let names = Names::read(Some("dn1, 10.0.0.2,10.0.0.3:9866")).unwrap();
        assert!(names.name(&node("dn1", "10.0.0.1:9866")));
        assert!(names.name(&node("dn2", "10.0.0.2:9866")));
        assert!(names.name(&node("dn3", "10.0.0.3:9866")));
        assert!(!names.name(&node("dn4", "10.0.0.3:9867")));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("list");
        std::fs::write(&file, "# two\ndn5\ndn6 # the other\n").unwrap();
        let names = Names::read(Some(&format!("@{}", file.display()))).unwrap();
        assert_eq!(names.0.len(), 2);
        assert!(names.name(&node("dn6", "10.0.0.6:1")));
        assert!(Names::read(Some("@/not/there")).is_err());
        assert!(!Names::read(None).unwrap().name(&node("dn1", "x:1")));
    }
}
