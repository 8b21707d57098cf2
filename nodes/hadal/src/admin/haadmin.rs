//! `hadal haadmin`: who is active, and moving the role, in the words of Hadoop's HAAdmin.

use super::{Operator, fence, missing, unexpected};
use crate::cli::{Global, USAGE};
use crate::console::Console;
use anyhow::Result;
use clap::Subcommand;
use futures_util::future::join_all;
use hadal_client::{ClientError, FaultClass};
use hadal_daemon::config::Member;
use hadal_failover::fence::{Failover, FailoverPlan, FenceOutcome, Step, fence_environment};
use hadal_proto::admin::{NodeStatus, Request, Response};
use hadal_types::HaState;
use serde_json::json;
use std::sync::Arc;

/// Hadoop's HAAdmin ends with -1 whenever an order was not carried out, a NameNode is unknown or not well (T-A1..T-A5).
const REFUSED: i32 = USAGE;

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
    /// Make a NameNode active
    #[command(alias = "transitionToActive")]
    TransitionToActive {
        /// Although another is active, or failover is automatic
        #[arg(long, alias = "forcemanual")]
        forceactive: bool,
        /// Node id of the NameNode
        id: String,
    },
    /// Make a NameNode standby
    #[command(alias = "transitionToStandby")]
    TransitionToStandby {
        /// Although failover is automatic
        #[arg(long)]
        forcemanual: bool,
        /// Node id of the NameNode
        id: String,
    },
    /// Make a standby NameNode observer
    #[command(alias = "transitionToObserver")]
    TransitionToObserver {
        /// Although failover is automatic
        #[arg(long)]
        forcemanual: bool,
        /// Node id of the NameNode
        id: String,
    },
    /// Hand the active role from one NameNode to another
    Failover {
        /// Fence the old one even when it hands over by itself
        #[arg(long)]
        forcefence: bool,
        /// Although the new one is not ready
        #[arg(long)]
        forceactive: bool,
        /// Node id of the NameNode that is active
        from: String,
        /// Node id of the NameNode that is to be
        to: String,
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
    let told = Arc::clone(&console);
    let done = super::run(global, console, async |operator| {
        let operator = &*operator;
        match verb {
            Haadmin::GetServiceState { id } => service_state(operator, &id).await,
            Haadmin::GetAllServiceState => all_states(operator).await,
            Haadmin::CheckHealth { id } => check_health(operator, &id).await,
            Haadmin::TransitionToActive { forceactive, id } => {
                to_active(operator, &id, forceactive).await
            }
            Haadmin::TransitionToStandby { forcemanual, id } => {
                transition(operator, &id, HaState::Standby, forcemanual).await
            }
            Haadmin::TransitionToObserver { forcemanual, id } => {
                transition(operator, &id, HaState::Observer, forcemanual).await
            }
            Haadmin::Failover {
                forcefence,
                forceactive,
                from,
                to,
            } => {
                let words = format!("Failover from {from} to {to} successful");
                let fence = &operator.config.fence;
                let plan = FailoverPlan {
                    from,
                    to,
                    fence_required: fence.required || shares_edits(operator),
                    fence_configured: !fence.command.is_empty(),
                    force_fence: forcefence,
                    force_active: forceactive,
                };
                match failover(operator, plan).await? {
                    Ok(()) => {
                        operator.console.line(words);
                        Ok(0)
                    }
                    Err(reason) => {
                        operator.console.error(format!("Failover failed: {reason}"));
                        Ok(REFUSED)
                    }
                }
            }
            Haadmin::Other(_) => unreachable!("answered above"),
        }
    });
    done.or_else(|error| {
        told.error(format!("Operation failed: {}", crate::told(&error)));
        Ok(REFUSED)
    })
}

async fn service_state(operator: &Operator, id: &str) -> Result<i32> {
    let member = operator.namenode(id)?;
    let state = match operator.ask_namenode(member, &Request::GetStatus).await? {
        Response::Status { status } => status.state.to_string(),
        other => return Err(unexpected(&other)),
    };
    match operator.console.json {
        true => operator.console.json(&json!({ "id": id, "state": state })),
        false => operator.console.line(state),
    }
    Ok(0)
}

async fn all_states(operator: &Operator) -> Result<i32> {
    let console = &operator.console;
    let statuses = operator.statuses().await;
    if console.json {
        let row = async |(member, status): &(&Member, Result<NodeStatus, String>)| {
            let behind = match status {
                Ok(_) => behind(operator, member).await,
                Err(_) => None,
            };
            json!({
                "id": member.id,
                "address": member.address.to_string(),
                "state": status.as_ref().map(|s| s.state.to_string()).ok(),
                "error": status.as_ref().err(),
                "behind_txids": behind.map(|(txids, _)| txids),
                "behind_ms": behind.map(|(_, ms)| ms),
            })
        };
        console.json(&json!(join_all(statuses.iter().map(row)).await));
    } else {
        for (member, status) in &statuses {
            let state = match status {
                Ok(status) => status.state.to_string(),
                Err(error) => format!("Failed to connect: {error}"),
            };
            let address = member.address.to_string();
            console.line(format!("{address:<50} {state:<10}"));
        }
    }
    Ok(i32::from(
        statuses.iter().any(|(_, status)| status.is_err()),
    ))
}

/// How far it is behind what it knows to be committed, in edits and in milliseconds; `None` while it does not say.
async fn behind(operator: &Operator, member: &Member) -> Option<(u64, u64)> {
    match operator.ask_namenode(member, &Request::NamenodeStats).await {
        Ok(Response::NamenodeStats { stats }) => Some((stats.behind_txids, stats.behind_ms)),
        _ => None,
    }
}

/// Whether it is well, and if not why.
async fn health(operator: &Operator, member: &Member) -> Result<Result<(), String>, ClientError> {
    match operator.ask_namenode(member, &Request::CheckHealth).await {
        Ok(Response::Health { healthy: true, .. }) => Ok(Ok(())),
        Ok(Response::Health { reason, .. }) => Ok(Err(reason)),
        Ok(other) => Ok(Err(unexpected(&other).to_string())),
        // A NameNode that answers at all, but knows no more, is up.
        Err(error) if error.class() == Some(FaultClass::Unsupported) => Ok(Ok(())),
        Err(error) => Err(error),
    }
}

async fn check_health(operator: &Operator, id: &str) -> Result<i32> {
    let member = operator.namenode(id)?;
    let console = &operator.console;
    let health = health(operator, member).await?;
    let reason = health.as_ref().err().map_or("", String::as_str);
    if console.json {
        console.json(&json!({ "id": id, "healthy": health.is_ok(), "reason": reason }));
    } else if health.is_err() {
        console.error(format!("Health check failed: {reason}"));
    }
    Ok(if health.is_ok() { 0 } else { REFUSED })
}

async fn to_active(operator: &Operator, id: &str, force: bool) -> Result<i32> {
    operator.namenode(id)?;
    if !force {
        let others = operator.statuses().await;
        let silent = others
            .iter()
            .find(|(member, status)| member.id != id && status.is_err());
        if let Some((member, Err(reason))) = silent.filter(|_| shares_edits(operator)) {
            operator.console.error(format!(
                "transitionToActive: {} does not answer ({reason}) and may still write to the shared directory: use -failover {} {id}, which fences it, or --forceactive if it is surely gone",
                member.id, member.id
            ));
            return Ok(REFUSED);
        }
        let active = others.iter().find(|(member, status)| {
            let active = matches!(status, Ok(status) if status.state == HaState::Active);
            member.id != id && active
        });
        if let Some((member, _)) = active {
            operator.console.error(format!(
                "transitionToActive: Node {} is already active\nUsage: haadmin [-transitionToActive [--forceactive] <serviceId>]",
                member.id
            ));
            return Ok(REFUSED);
        }
    }
    transition(operator, id, HaState::Active, force).await
}

async fn transition(operator: &Operator, id: &str, to: HaState, force: bool) -> Result<i32> {
    let member = operator.namenode(id)?;
    let request = Request::Transition { to, force };
    match operator.ask_namenode(member, &request).await {
        Ok(Response::Done) => Ok(0),
        Ok(other) => Err(unexpected(&other)),
        Err(error) if error.class() == Some(FaultClass::Unsupported) => Err(error.into()),
        Err(error) => {
            operator.console.error(format!("Operation failed: {error}"));
            Ok(REFUSED)
        }
    }
}

/// Runs the order of a failover: demote, else fence where that is required, else stop; only then promote. The inner
/// error is Hadoop's `FailoverFailedException`.
async fn failover(operator: &Operator, plan: FailoverPlan) -> Result<Result<(), String>> {
    let (source, target) = (operator.namenode(&plan.from)?, operator.namenode(&plan.to)?);
    let force_active = plan.force_active;
    let mut failover = Failover::new(plan);
    loop {
        match failover.step().clone() {
            Step::CheckTarget => failover.handle_ready(ready(operator, target).await?),
            Step::Demote => demote(operator, &mut failover, source, target, force_active).await?,
            Step::Fence => failover.handle_fenced(fence_off(operator, source).await),
            Step::Promote => failover.handle_promoted(promote(operator, target).await?),
            Step::Withdraw => failover.handle_withdrawn(withdraw(operator, target).await),
            Step::FenceTarget => failover.handle_target_fenced(fence_off(operator, target).await),
            Step::Restore => failover.handle_restored(promote(operator, source).await?),
            Step::Done(outcome) => return Ok(outcome.map(drop).map_err(|it| it.to_string())),
        }
    }
}

async fn fence_off(operator: &Operator, member: &Member) -> FenceOutcome {
    let fence = &operator.config.fence;
    let words = format!("fencing {} by `{}'", member.id, fence.command);
    operator.console.remark(words);
    let (host, port) = (member.address.ip().to_string(), member.address.port());
    fence::run(fence, fence_environment(&member.id, &host, port)).await
}

/// Makes one standby that was to be active and is not. Whatever goes wrong, it did not say that it is.
async fn withdraw(operator: &Operator, member: &Member) -> Result<(), String> {
    let request = Request::Transition {
        to: HaState::Standby,
        force: false,
    };
    match operator.ask_namenode(member, &request).await {
        Ok(Response::Done) => Ok(()),
        Ok(other) => Err(unexpected(&other).to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The journal is a shared directory: fencing is mandatory (D-03).
fn shares_edits(operator: &Operator) -> bool {
    let dir = &operator.config.cluster.shared_edits_dir;
    !dir.as_os_str().is_empty()
}

/// Whether the target could take over (T-A5).
async fn ready(operator: &Operator, target: &Member) -> Result<Result<(), String>> {
    match operator.status(target).await.1 {
        Err(reason) => Ok(Err(reason)),
        Ok(status) if status.state != HaState::Standby => {
            Ok(Err(format!("it is {}", status.state)))
        }
        Ok(_) => Ok(health(operator, target).await?),
    }
}

/// Lets the source hand over. One that is gone hands nothing over; one that is not active has nothing to.
async fn demote(
    operator: &Operator,
    failover: &mut Failover,
    source: &Member,
    target: &Member,
    force_active: bool,
) -> Result<()> {
    match operator.status(source).await.1 {
        Ok(status) if status.state == HaState::Active => {}
        // It may be about to become active: without a lease, only its own word that it is not counts.
        Ok(status) if status.state == HaState::Standby && shares_edits(operator) => {}
        Ok(_) => {
            failover.handle_demoted(Ok(()));
            return Ok(());
        }
        Err(reason) => {
            let words = format!("{} does not hand over ({reason})", source.id);
            operator.console.remark(words);
            failover.handle_demoted(Err(reason));
            return Ok(());
        }
    }
    // Who shares a directory hands nothing over: it stops, and the other starts.
    let hand_over = match shares_edits(operator) {
        true => Request::Transition {
            to: HaState::Standby,
            force: false,
        },
        false => Request::Failover {
            to: target.id.clone(),
            force_fence: false,
            force_active,
        },
    };
    match operator.ask_namenode(source, &hand_over).await {
        Ok(Response::Done) => failover.handle_demoted(Ok(())),
        Ok(other) => return Err(unexpected(&other)),
        Err(error @ ClientError::Unreachable { .. }) => {
            failover.handle_demoted(Err(error.to_string()));
        }
        Err(error) if error.class() == Some(FaultClass::Unsupported) => return Err(error.into()),
        Err(error) => failover.handle_refused(error.to_string()),
    }
    Ok(())
}

/// Makes it active, or finds it active. It stands for the lease in any case: force means only that an operator
/// may ask although failover is automatic.
async fn promote(operator: &Operator, member: &Member) -> Result<Result<(), String>> {
    let request = Request::Transition {
        to: HaState::Active,
        force: true,
    };
    match operator.ask_namenode(member, &request).await {
        Ok(Response::Done) => Ok(Ok(())),
        Ok(other) => Err(unexpected(&other)),
        Err(error) if error.class() == Some(FaultClass::Unsupported) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}
