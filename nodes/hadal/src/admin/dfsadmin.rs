//! `hadal dfsadmin`.

use super::{Operator, missing, unexpected};
use super::{fetch_image, report};
use crate::cli::Global;
use crate::console::Console;
use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use hadal_proto::admin::{Request, Response, SafeModeAction};
use hadal_types::Role;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Between two questions of `-safemode wait`.
const WAIT: Duration = Duration::from_millis(250);

/// Verbs of `dfsadmin`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Dfsadmin {
    /// Show the cluster and its DataNodes
    Report {
        /// Only live DataNodes
        #[arg(long)]
        live: bool,
        /// Only dead DataNodes
        #[arg(long)]
        dead: bool,
        /// Only DataNodes being decommissioned
        #[arg(long)]
        decommissioning: bool,
        /// Only DataNodes about to be in maintenance
        #[arg(long = "enteringmaintenance")]
        entering_maintenance: bool,
        /// Only DataNodes in maintenance
        #[arg(long = "inmaintenance")]
        in_maintenance: bool,
    },
    /// Enter, leave, ask for or wait for the end of safe mode
    Safemode {
        /// What to do
        action: SafemodeAction,
    },
    /// Write an image now (in safe mode only)
    #[command(alias = "saveNamespace")]
    SaveNamespace {
        /// Only if the last image is old
        #[arg(long = "beforeShutdown", hide = true)]
        before_shutdown: bool,
    },
    /// Finish the edit segment and start another
    #[command(alias = "rollEdits")]
    RollEdits,
    /// Read the include and exclude files again
    #[command(alias = "refreshNodes")]
    RefreshNodes,
    /// Show racks and their DataNodes
    #[command(alias = "printTopology")]
    PrintTopology,
    /// Make a DataNode send a full block report
    #[command(alias = "triggerBlockReport")]
    TriggerBlockReport {
        /// Only what changed
        #[arg(long)]
        incremental: bool,
        /// Node id or address of the DataNode
        id: String,
    },
    /// Make a DataNode read its list of NameNodes again
    #[command(alias = "refreshNamenodes")]
    RefreshNamenodes {
        /// Node id or address of the DataNode
        id: String,
    },
    /// Let every live DataNode spend so many bytes per second on balancing, until it is restarted
    #[command(alias = "setBalancerBandwidth")]
    SetBalancerBandwidth {
        /// Bytes per second, as in 10m or 104857600
        bandwidth: hadal_daemon::Size,
    },
    /// What a DataNode may spend on balancing
    #[command(alias = "getBalancerBandwidth")]
    GetBalancerBandwidth {
        /// Node id or address of the DataNode
        id: String,
    },
    /// End a DataNode; with `upgrade' its writers are told that it comes back
    #[command(alias = "shutdownDatanode")]
    ShutdownDatanode {
        /// Node id or address of the DataNode
        id: String,
        /// It comes back soon
        upgrade: Option<UpgradeWord>,
    },
    /// Have all who write through a DataNode go on without it
    #[command(alias = "evictWriters")]
    EvictWriters {
        /// Node id or address of the DataNode
        id: String,
    },
    /// Fetch the newest image of the active NameNode
    #[command(alias = "fetchImage")]
    FetchImage {
        /// Local directory for it
        dir: PathBuf,
    },
    /// List files open for write
    #[command(alias = "listOpenFiles")]
    ListOpenFiles {
        /// Only below this path
        #[arg(long, default_value = "/")]
        path: String,
        /// Only those that hold up a decommission
        #[arg(long = "blockingDecommission")]
        blocking_decommission: bool,
    },
    /// Verbs known by name only
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// The second word of `-shutdownDatanode`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UpgradeWord {
    /// It comes back soon
    Upgrade,
}

/// What to do about safe mode.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SafemodeAction {
    /// Enter it
    Enter,
    /// Leave it
    Leave,
    /// Ask
    Get,
    /// Return when it is off
    Wait,
}

/// Runs a verb.
pub(crate) fn run(global: &Global, console: Arc<Console>, verb: Dfsadmin) -> Result<i32> {
    let not_there = match &verb {
        Dfsadmin::Other(words) => Some(words[0].clone()),
        Dfsadmin::TriggerBlockReport {
            incremental: true, ..
        } => Some("triggerBlockReport -incremental".into()),
        Dfsadmin::SaveNamespace {
            before_shutdown: true,
        } => Some("saveNamespace -beforeShutdown".into()),
        _ => None,
    };
    if let Some(words) = not_there {
        return Ok(missing(&console, &format!("dfsadmin -{words}")));
    }
    super::run(global, console, async |operator| {
        let operator = &*operator;
        match verb {
            Dfsadmin::Report {
                live,
                dead,
                decommissioning,
                entering_maintenance,
                in_maintenance,
            } => {
                let wanted = report::Wanted {
                    live,
                    dead,
                    decommissioning,
                    entering_maintenance,
                    in_maintenance,
                };
                report::run(operator, wanted).await
            }
            Dfsadmin::Safemode { action } => safemode(operator, action).await,
            Dfsadmin::SaveNamespace { .. } => {
                let txid = at_txid(operator, &Request::SaveNamespace).await?;
                done(operator, "image_txid", txid, "Save namespace successful");
                Ok(0)
            }
            Dfsadmin::RollEdits => {
                let txid = at_txid(operator, &Request::RollEdits).await?;
                let words =
                    format!("Successfully rolled edit logs.\nNew segment starts at txid {txid}");
                done(operator, "segment_txid", txid, &words);
                Ok(0)
            }
            Dfsadmin::RefreshNodes => refresh_nodes(operator).await,
            Dfsadmin::PrintTopology => topology(operator).await,
            Dfsadmin::TriggerBlockReport { id, .. } => trigger_report(operator, &id).await,
            Dfsadmin::RefreshNamenodes { id } => refresh_namenodes(operator, &id).await,
            Dfsadmin::SetBalancerBandwidth { bandwidth } => {
                set_bandwidth(operator, bandwidth.0).await
            }
            Dfsadmin::GetBalancerBandwidth { id } => get_bandwidth(operator, &id).await,
            Dfsadmin::ShutdownDatanode { id, upgrade } => {
                let for_upgrade = upgrade.is_some();
                let request = Request::ShutdownDatanode { for_upgrade };
                let (name, _) = order_datanode(operator, &id, &request).await?;
                let words = format!("Submitted a shutdown request to datanode {name}");
                operator.console.line(words);
                Ok(0)
            }
            Dfsadmin::EvictWriters { id } => {
                let (name, _) = order_datanode(operator, &id, &Request::EvictWriters).await?;
                let words = format!("Requested writer eviction to datanode {name}");
                operator.console.line(words);
                Ok(0)
            }
            Dfsadmin::FetchImage { dir } => fetch_image::run(operator, &dir).await,
            Dfsadmin::ListOpenFiles {
                path,
                blocking_decommission,
            } => open_files(operator, &path, blocking_decommission).await,
            Dfsadmin::Other(_) => unreachable!("answered above"),
        }
    })
}

/// Every NameNode reads its lists: a standby that takes over goes on with them.
async fn refresh_nodes(operator: &Operator) -> Result<i32> {
    let mut failed = Vec::new();
    for member in &operator.config.cluster.namenodes {
        match operator.ask_namenode(member, &Request::RefreshNodes).await {
            Ok(_) => operator
                .console
                .line(format!("Refresh nodes successful for {}", member.address)),
            Err(error) => failed.push(format!("Refresh nodes failed for {}: {error}", member.id)),
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    anyhow::bail!("{}", failed.join("\n"))
}

async fn at_txid(operator: &Operator, request: &Request) -> Result<u64> {
    match operator.ask_active(request).await? {
        Response::AtTxid { txid } => Ok(txid.0),
        other => Err(unexpected(&other)),
    }
}

fn done(operator: &Operator, key: &str, txid: u64, words: &str) {
    match operator.console.json {
        true => operator.console.json(&json!({ key: txid })),
        false => operator.console.line(words),
    }
}

async fn safemode(operator: &Operator, action: SafemodeAction) -> Result<i32> {
    let members = &operator.config.cluster.namenodes;
    let several = members.len() > 1;
    let request = Request::SafeMode {
        action: match action {
            SafemodeAction::Enter => SafeModeAction::Enter,
            SafemodeAction::Leave => SafeModeAction::Leave,
            SafemodeAction::Get | SafemodeAction::Wait => SafeModeAction::Get,
        },
    };
    let mut rows = Vec::new();
    let mut code = 0;
    for member in members {
        let (on, message) = loop {
            match operator.ask_namenode(member, &request).await {
                Ok(Response::SafeMode { on: true, .. }) if action == SafemodeAction::Wait => {
                    tokio::time::sleep(WAIT).await;
                }
                Ok(Response::SafeMode { on, message }) => break (on, message),
                Ok(other) => return Err(unexpected(&other)),
                // The others are asked all the same.
                Err(error) if several => {
                    operator
                        .console
                        .error(format!("safemode: {}: {error}", member.id));
                    code = 1;
                    break (false, String::new());
                }
                Err(error) => return Err(error.into()),
            }
        };
        if code != 0 {
            continue;
        }
        let word = if on { "ON" } else { "OFF" };
        if operator.console.json {
            rows.push(json!({ "namenode": member.id, "safe_mode": on, "message": message }));
        } else if several {
            operator.console.line(format!(
                "Safe mode is {word} in {}/{}",
                member.id, member.address
            ));
        } else {
            operator.console.line(format!("Safe mode is {word}"));
        }
        if on && action == SafemodeAction::Get && !operator.console.json {
            for line in message.lines() {
                operator.console.remark(line);
            }
        }
    }
    if operator.console.json {
        operator.console.json(&json!(rows));
    }
    Ok(code)
}

async fn topology(operator: &Operator) -> Result<i32> {
    let (_, nodes) = operator.datanodes().await?;
    let mut racks: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for node in &nodes {
        let rack = racks.entry(&node.rack).or_default();
        rack.push((&node.address, &node.name));
    }
    if operator.console.json {
        let racks = racks.iter().map(|(rack, nodes)| {
            let nodes: Vec<_> = nodes
                .iter()
                .map(|(address, name)| json!({ "address": address, "name": name }))
                .collect();
            json!({ "rack": rack, "datanodes": nodes })
        });
        operator.console.json(&json!(racks.collect::<Vec<_>>()));
        return Ok(0);
    }
    for (rack, nodes) in racks {
        operator.console.line(format!("Rack: {rack}"));
        for (address, name) in nodes {
            operator.console.line(format!("   {address} ({name})"));
        }
        operator.console.line("");
    }
    Ok(0)
}

async fn trigger_report(operator: &Operator, id: &str) -> Result<i32> {
    let (name, address) = operator.datanode(id).await?;
    let answer = operator
        .ask(Role::Datanode, &name, address, &Request::TriggerBlockReport)
        .await?;
    match answer {
        Response::Done => {
            operator
                .console
                .line(format!("Triggering a full block report on {name}."));
            Ok(0)
        }
        other => Err(unexpected(&other)),
    }
}

async fn refresh_namenodes(operator: &Operator, id: &str) -> Result<i32> {
    let (name, address) = operator.datanode(id).await?;
    let answer = operator
        .ask(Role::Datanode, &name, address, &Request::RefreshNamenodes)
        .await?;
    match answer {
        Response::Done => {
            operator
                .console
                .line(format!("Refreshed the NameNodes of {name}."));
            Ok(0)
        }
        other => Err(unexpected(&other)),
    }
}

/// Tells a DataNode to do something that is answered with `Done`.
async fn order_datanode(
    operator: &Operator,
    id: &str,
    request: &Request,
) -> Result<(String, SocketAddr)> {
    let (name, address) = operator.datanode(id).await?;
    let answer = operator.ask(Role::Datanode, &name, address, request);
    match answer.await? {
        Response::Done => Ok((name, address)),
        other => Err(unexpected(&other)),
    }
}

async fn set_bandwidth(operator: &Operator, bytes_per_s: u64) -> Result<i32> {
    let request = Request::SetBalancerBandwidth { bytes_per_s };
    match operator.ask_active(&request).await? {
        Response::Done => {
            operator
                .console
                .line(format!("Balancer bandwidth is set to {bytes_per_s}"));
            Ok(0)
        }
        other => Err(unexpected(&other)),
    }
}

async fn get_bandwidth(operator: &Operator, id: &str) -> Result<i32> {
    let (name, address) = operator.datanode(id).await?;
    let request = Request::GetBalancerBandwidth;
    let answer = operator.ask(Role::Datanode, &name, address, &request);
    match answer.await? {
        Response::BalancerBandwidth { bytes_per_s } => {
            let console = &operator.console;
            match console.json {
                true => console.json(&json!({ "datanode": name, "bytes_per_s": bytes_per_s })),
                false => console.line(format!(
                    "Balancer bandwidth is {bytes_per_s} bytes per second."
                )),
            }
            Ok(0)
        }
        other => Err(unexpected(&other)),
    }
}

async fn open_files(operator: &Operator, path: &str, blocking: bool) -> Result<i32> {
    let files = match blocking {
        true => operator.dfs.list_files_blocking_decommission(path).await?,
        false => operator.dfs.list_open_files(path).await?,
    };
    if operator.console.json {
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                json!({
                    "inode": file.inode.0,
                    "path": file.path,
                    "holder": file.holder.to_string(),
                })
            })
            .collect();
        operator.console.json(&json!(files));
        return Ok(0);
    }
    operator
        .console
        .line(format!("{:<48}\t{}", "Client Name", "Open File Path"));
    for file in files {
        operator
            .console
            .line(format!("{:<48}\t{}", file.holder.to_string(), file.path));
    }
    Ok(0)
}
