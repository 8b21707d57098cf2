//! `failover`: the active NameNode dies under load, and the role moves by order. What callers notice.

mod load;
mod split;

use crate::cluster::{Cluster, runtime};
use crate::fill;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use crate::stats::{Latencies, median};
use anyhow::{Context, Result, ensure};
use hadal_client::Dfs;
use load::{CALLERS, Load, WORK, first_after, longest_gap};
use split::Split;
use std::time::{Duration, Instant, SystemTime};

const ROOT: &str = "/bench/failover";
/// Files there are at least, and those that larger namespaces are compared with.
const FILES: usize = 1_000;
/// Load before the strike, and after the first new write.
const STEADY: Duration = Duration::from_millis(1_500);
/// An answer that was on its way when the NameNode died may arrive this much later.
const UNDER_WAY: Duration = Duration::from_millis(10);

/// Asks the question: with a thousand files, and with `files` of them when those are more.
///
/// # Errors
/// When the cluster does not come up, a call fails, or something acknowledged is not there.
pub fn run(settings: &Settings) -> Result<Question> {
    ensure!(
        settings.cluster.is_none(),
        "failover kills NameNodes: it measures a cluster of its own, not --cluster"
    );
    let cluster = Cluster::open_with(settings, 2)?;
    let runtime = runtime()?;
    let asked = settings.files.unwrap_or(FILES);
    let least = asked.min(FILES);
    let mut question = Question {
        name: "failover".into(),
        ..Question::default()
    };
    let strikes = |strike| runtime.block_on(strikes(&cluster, settings.runs, strike));
    runtime.block_on(filled(&cluster, 0, least))?;
    let killed = strikes(Strike::Kill(least))?;
    let ordered = strikes(Strike::Order(least))?;
    report_kills(&mut question, &killed, least)?;
    report_orders(&mut question, &ordered, least)?;
    if asked > least {
        runtime.block_on(filled(&cluster, least, asked))?;
        let many = strikes(Strike::Kill(asked))?;
        report_kills(&mut question, &many, asked)?;
        let middle = |struck: &Struck| {
            let values: Vec<f64> = struck.first.iter().map(|run| run.value).collect();
            median(&values).context("no run was measured")
        };
        question.notes.push(format!(
            "kill: the median first write with {asked} files takes {:.2} times that with {least}",
            middle(&many)? / middle(&killed)?
        ));
    }
    question.notes.push(
        "detect: from the signal to the lease; claim: epoch and recovery of the journal; catch up: applying what was recovered; \
         then write: to the first acknowledged write. detect and then write by the clock of the day, the others to the millisecond"
            .into(),
    );
    question.notes.push(
        "no call failed with the client's default retries, and everything acknowledged was there at the end, files with their content"
            .into(),
    );
    question.notes.push(cluster.values()?);
    Ok(question)
}

fn load_of(files: usize) -> String {
    format!("{CALLERS} callers, {WORK}, {files} files there")
}

fn report_kills(question: &mut Question, struck: &Struck, files: usize) -> Result<()> {
    question.notes.push(format!(
        "kill with {files} files: SIGKILL of the active, {} times; first write: from the signal to the next acknowledged write of any caller; worst {:.0} ms; longest stall of any call {:.0} ms",
        struck.first.len(),
        worst(&struck.first),
        worst(&struck.longest)
    ));
    for (figure, runs) in [
        ("kill: first write", &struck.first),
        ("kill: detect", &struck.detect),
        ("kill: claim and recover", &struck.claim),
        ("kill: catch up", &struck.catch_up),
        ("kill: then write", &struck.then_write),
        ("kill: longest call", &struck.longest),
    ] {
        question.rows.push(row(figure, files, runs)?);
    }
    Ok(())
}

fn report_orders(question: &mut Question, struck: &Struck, files: usize) -> Result<()> {
    question.notes.push(format!(
        "order: haadmin -failover, {} times; longest gap between two acknowledged writes; worst {:.0} ms",
        struck.first.len(),
        worst(&struck.first)
    ));
    for (figure, runs) in [
        ("order: gap", &struck.first),
        ("order: longest call", &struck.longest),
    ] {
        question.rows.push(row(figure, files, runs)?);
    }
    Ok(())
}

fn row(figure: &str, files: usize, runs: &[Run]) -> Result<Row> {
    let unit = ("ms", Better::Lower);
    Row::new(figure, load_of(files), unit, "failover", runs)
}

fn worst(runs: &[Run]) -> f64 {
    runs.iter().map(|run| run.value).fold(0.0, f64::max)
}

/// What strikes the active NameNode, with how many files there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strike {
    Kill(usize),
    Order(usize),
}

#[derive(Default)]
struct Struck {
    first: Vec<Run>,
    longest: Vec<Run>,
    detect: Vec<Run>,
    claim: Vec<Run>,
    catch_up: Vec<Run>,
    then_write: Vec<Run>,
}

fn figure(value: Duration) -> Run {
    let mut latencies = Latencies::default();
    latencies.record(value);
    Run {
        value: value.as_secs_f64() * 1e3,
        latencies: Some(latencies),
        cpu: None,
    }
}

/// Brings the namespace from one number of files to another, and gives both NameNodes an image of it, so that one that
/// was killed is soon back.
async fn filled(cluster: &Cluster, from: usize, to: usize) -> Result<()> {
    let dfs = cluster.clients(1, true)?.remove(0);
    fill::files(cluster, &format!("{ROOT}/filled"), from, to).await?;
    for _ in 0..2 {
        let (active, standby) = cluster.settled(&dfs).await?;
        tokio::task::block_in_place(|| {
            cluster.save_namespace()?;
            cluster.failover(&active, &standby)
        })?;
    }
    cluster.settled(&dfs).await.map(|_| ())
}

async fn strikes(cluster: &Cluster, runs: usize, strike: Strike) -> Result<Struck> {
    let mut struck = Struck::default();
    let admin = cluster.clients(1, true)?.remove(0);
    for round in 0..runs {
        one(cluster, &admin, strike, round, &mut struck).await?;
    }
    Ok(struck)
}

async fn one(
    cluster: &Cluster,
    admin: &Dfs,
    strike: Strike,
    round: usize,
    struck: &mut Struck,
) -> Result<()> {
    let base = match strike {
        Strike::Kill(files) => format!("{ROOT}/kill-{files}-{round}"),
        Strike::Order(files) => format!("{ROOT}/order-{files}-{round}"),
    };
    let (active, standby) = cluster.settled(admin).await?;
    let load = Load::start(cluster, &base).await?;
    tokio::time::sleep(STEADY).await;
    let pid = tokio::task::block_in_place(|| cluster.pid(&active))?;
    load.forget_longest();
    let (at, clock) = (Instant::now(), SystemTime::now());
    match strike {
        Strike::Kill(_) => nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL)?,
        Strike::Order(_) => tokio::task::block_in_place(|| cluster.failover(&active, &standby))?,
    }
    load.wait_for_write_after(at + UNDER_WAY).await?;
    tokio::time::sleep(STEADY).await;
    let seen = load.end().await?;
    struck.longest.push(figure(seen.longest));
    match strike {
        Strike::Kill(_) => {
            let first = first_after(&seen.acknowledged, at + UNDER_WAY)? - at;
            struck.first.push(figure(first));
            let split = Split::read(&cluster.log(&standby)?)?;
            // By two processes' readings of one clock.
            let until_serving = split.serving.duration_since(clock).unwrap_or_default();
            let detect = until_serving.saturating_sub(split.claim + split.catch_up);
            struck.detect.push(figure(detect));
            struck.claim.push(figure(split.claim));
            struck.catch_up.push(figure(split.catch_up));
            let then_write = first.saturating_sub(until_serving);
            struck.then_write.push(figure(then_write));
        }
        Strike::Order(_) => {
            let gap = longest_gap(&seen.acknowledged, at);
            struck.first.push(figure(gap));
        }
    }
    seen.verify(cluster).await?;
    if let Strike::Kill(_) = strike {
        tokio::task::block_in_place(|| cluster.start_again(&active))?;
    }
    cluster.settled(admin).await.map(|_| ())
}
