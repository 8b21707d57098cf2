//! What the nodes of a development cluster are doing.

use super::layout::{Layout, NodeId};
use super::process::pid_of;
use crate::session;
use anyhow::Result;
use futures_util::future::join_all;
use hadal_client::Dfs;
use hadal_env::Expect;
use hadal_proto::admin::{Request, Response};
use hadal_types::{HaState, Role};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// A node that does not answer for this long is `up` but without a known state.
const ANSWER_WAIT: Duration = Duration::from_millis(1500);

#[derive(Serialize)]
struct Status {
    dir: String,
    ui: String,
    client_config: String,
    processes: Vec<Process>,
}

#[derive(Serialize)]
struct Process {
    id: String,
    role: String,
    pid: Option<i32>,
    state: String,
    http: String,
    log: String,
}

/// `hadal dev status`.
pub(crate) fn status(dir: &Path, json: bool) -> Result<i32> {
    let layout = Layout::require(dir)?;
    let config = session::load_config(Some(&layout.client_config()))?.config;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let processes = runtime.block_on(async {
        let dfs = session::connect(&config)?;
        // Side by side: one that hangs holds up no other.
        let processes = join_all(layout.nodes().into_iter().map(async |node| {
            let pid = pid_of(&layout, &node.id);
            let state = match pid {
                None => "down".to_owned(),
                Some(_) => state(&dfs, &layout, &node).await,
            };
            Process {
                role: node.role.to_string(),
                pid: pid.map(nix::unistd::Pid::as_raw),
                state,
                http: layout.http(&node.id).to_string(),
                log: layout.log(&node.id).display().to_string(),
                id: node.id,
            }
        }))
        .await;
        dfs.close().await;
        anyhow::Ok(processes)
    })?;
    let status = Status {
        dir: layout.dir.display().to_string(),
        ui: format!("http://{}", layout.http("nn1")),
        client_config: layout.client_config().display().to_string(),
        processes,
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(0);
    }
    println!("{:<5} {:<12} {:>8} {:<8} log", "id", "role", "pid", "state");
    for process in &status.processes {
        let pid = process
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let Process {
            id,
            role,
            state,
            log,
            ..
        } = process;
        println!("{id:<5} {role:<12} {pid:>8} {state:<8} {log}");
    }
    Ok(0)
}

async fn ask(dfs: &Dfs, layout: &Layout, node: &NodeId, request: &Request) -> Option<Response> {
    let expect = Expect::node(node.role, node.id.clone());
    let asked = dfs.admin(layout.address(&node.id), &expect, request);
    tokio::time::timeout(ANSWER_WAIT, asked).await.ok()?.ok()
}

async fn state(dfs: &Dfs, layout: &Layout, node: &NodeId) -> String {
    match ask(dfs, layout, node, &Request::GetStatus).await {
        Some(Response::Status { status }) if node.role == Role::Namenode => match status.state {
            HaState::Initializing => "up".into(),
            state => state.to_string(),
        },
        _ => "up".into(),
    }
}

/// `Ok` when a NameNode is active and out of safe mode, every other answers and every DataNode is registered; else why
/// not.
pub(super) async fn readiness(dfs: &Dfs, layout: &Layout) -> Result<(), String> {
    let nodes = layout.nodes();
    let namenodes = nodes.iter().filter(|node| node.role == Role::Namenode);
    let answers = join_all(namenodes.map(async |node| {
        let answer = ask(dfs, layout, node, &Request::NamenodeStats).await;
        (&node.id, answer)
    }))
    .await;
    let (mut active, mut states) = (None, Vec::new());
    for (id, answer) in answers {
        let Some(Response::NamenodeStats { stats }) = answer else {
            return Err(format!("{id} does not answer yet"));
        };
        states.push(format!("{id} is {}", stats.state));
        if stats.state == HaState::Active.to_string() {
            active = Some(stats);
        }
    }
    let Some(stats) = active else {
        return Err(states.join(", "));
    };
    let wanted = u64::from(layout.shape.datanodes);
    if stats.live_datanodes < wanted {
        return Err(format!(
            "{} of {wanted} DataNodes are registered",
            stats.live_datanodes
        ));
    }
    if stats.safe_mode {
        return Err(format!(
            "safe mode is on: {} of {} blocks reported",
            stats.safe_blocks, stats.total_blocks
        ));
    }
    Ok(())
}
