//! `hadal haadmin`.

use super::{missing, unexpected};
use crate::cli::Global;
use crate::console::Console;
use anyhow::Result;
use clap::Subcommand;
use hadal_client::FaultClass;
use hadal_proto::admin::{Request, Response};
use serde_json::json;
use std::sync::Arc;

/// Verbs of `haadmin`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Haadmin {
    /// Print active, standby or observer
    #[command(alias = "getServiceState")]
    GetServiceState {
        /// Node id of the NameNode
        id: String,
    },
    /// Print the state of every NameNode
    #[command(alias = "getAllServiceState")]
    GetAllServiceState,
    /// Exit code 0 if the NameNode is healthy
    #[command(alias = "checkHealth")]
    CheckHealth {
        /// Node id of the NameNode
        id: String,
    },
    /// Verbs known by name only
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Runs a verb.
pub(crate) fn run(global: &Global, console: Arc<Console>, verb: Haadmin) -> Result<i32> {
    if let Haadmin::Other(words) = &verb {
        return Ok(missing(&console, &format!("haadmin -{}", words[0])));
    }
    super::run(global, console, async |operator| {
        let console = &operator.console;
        match verb {
            Haadmin::GetServiceState { id } => {
                let member = operator.namenode(&id)?;
                let status = match operator.ask_namenode(member, &Request::GetStatus).await? {
                    Response::Status { status } => status,
                    other => return Err(unexpected(&other)),
                };
                match console.json {
                    true => console.json(&json!({ "id": id, "state": status.state.to_string() })),
                    false => console.line(status.state.to_string()),
                }
                Ok(0)
            }
            Haadmin::GetAllServiceState => {
                let statuses = operator.statuses().await;
                let state = |status: &Result<_, String>| match status {
                    Ok(hadal_proto::admin::NodeStatus { state, .. }) => state.to_string(),
                    Err(error) => format!("Failed to connect: {error}"),
                };
                if console.json {
                    let rows: Vec<_> = statuses
                        .iter()
                        .map(|(member, status)| {
                            json!({
                                "id": member.id,
                                "address": member.address.to_string(),
                                "state": status.as_ref().map(|s| s.state.to_string()).ok(),
                                "error": status.as_ref().err(),
                            })
                        })
                        .collect();
                    console.json(&json!(rows));
                } else {
                    for (member, status) in &statuses {
                        console.line(format!(
                            "{:<50} {:<10}",
                            member.address.to_string(),
                            state(status)
                        ));
                    }
                }
                Ok(i32::from(
                    statuses.iter().any(|(_, status)| status.is_err()),
                ))
            }
            Haadmin::CheckHealth { id } => {
                let member = operator.namenode(&id)?;
                let answer = operator.ask_namenode(member, &Request::CheckHealth).await;
                let (healthy, reason) = match answer {
                    Ok(Response::Health { healthy, reason }) => (healthy, reason),
                    Ok(other) => return Err(unexpected(&other)),
                    // A NameNode that answers at all, but knows no more, is asked whether it is up.
                    Err(error) if error.class() == Some(FaultClass::Unsupported) => {
                        match operator.ask_namenode(member, &Request::GetStatus).await? {
                            Response::Status { .. } => (true, String::new()),
                            other => return Err(unexpected(&other)),
                        }
                    }
                    Err(error) => return Err(error.into()),
                };
                if console.json {
                    console.json(&json!({ "id": id, "healthy": healthy, "reason": reason }));
                } else if !healthy {
                    console.error(format!("Operation failed: {reason}"));
                }
                Ok(i32::from(!healthy))
            }
            Haadmin::Other(_) => unreachable!("answered above"),
        }
    })
}
