//! `hadal debug`: the stable JSON surface for black-box tests (cli.md section 4), and lease recovery.

use super::{Operator, missing, unexpected};
use crate::cli::Global;
use crate::console::Console;
use anyhow::Result;
use clap::Subcommand;
use hadal_proto::admin::{
    JournalStats, NamenodeStats, ReplicaStatus, Request, Response, SegmentStatus,
};
use hadal_types::{BlockId, Role};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Replicas asked for per page.
const REPLICAS_PAGE: u32 = 10_000;
/// Between two tries of a lease recovery (HDFS: 4 s).
const RECOVERY_WAIT: Duration = Duration::from_secs(1);

/// Verbs of `debug`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Debug {
    /// Numbers of a NameNode
    #[command(name = "nn-stats")]
    NnStats {
        /// Node id; without it the active NameNode
        #[arg(long)]
        id: Option<String>,
    },
    /// Segments and epochs of a JournalNode
    #[command(name = "jn-stats")]
    JnStats {
        /// Node id
        #[arg(long)]
        id: String,
    },
    /// Replicas of a DataNode
    #[command(name = "dn-replicas")]
    DnReplicas {
        /// Node id
        #[arg(long)]
        id: String,
    },
    /// Make a DataNode send a full block report
    #[command(name = "block-report")]
    BlockReport {
        /// Node id
        #[arg(long)]
        id: String,
    },
    /// Digest of a NameNode's tree and the txid it is at
    #[command(name = "namespace-digest")]
    NamespaceDigest {
        /// Node id; without it the active NameNode
        #[arg(long)]
        id: Option<String>,
    },
    /// Close a file its writer has left
    #[command(name = "recover-lease", alias = "recoverLease")]
    RecoverLease {
        /// The file
        #[arg(long)]
        path: String,
        /// Tries
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        retries: u32,
    },
    /// Verbs known by name only
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Runs a verb.
pub(crate) fn run(global: &Global, console: Arc<Console>, verb: Debug) -> Result<i32> {
    if let Debug::Other(words) = &verb {
        return Ok(missing(&console, &format!("debug {}", words[0])));
    }
    super::run(global, console, async |operator| {
        let answer = match verb {
            Debug::NnStats { id } => {
                let request = Request::NamenodeStats;
                match ask_namenode(&operator, id.as_deref(), &request).await? {
                    Response::NamenodeStats { stats } => namenode_json(&stats),
                    other => return Err(unexpected(&other)),
                }
            }
            Debug::JnStats { id } => {
                let member = operator.journalnode(&id)?;
                let asked = operator.ask(
                    Role::Journalnode,
                    &id,
                    member.address,
                    &Request::JournalStats,
                );
                match asked.await? {
                    Response::JournalStats { stats } => journal_json(&stats),
                    other => return Err(unexpected(&other)),
                }
            }
            Debug::DnReplicas { id } => replicas(&operator, &id).await?,
            Debug::BlockReport { id } => {
                let (name, address) = operator.datanode(&id).await?;
                let request = Request::TriggerBlockReport;
                match operator
                    .ask(Role::Datanode, &name, address, &request)
                    .await?
                {
                    Response::Done => json!({ "datanode": name, "triggered": true }),
                    other => return Err(unexpected(&other)),
                }
            }
            Debug::NamespaceDigest { id } => {
                let request = Request::NamespaceDigest;
                match ask_namenode(&operator, id.as_deref(), &request).await? {
                    Response::Digest { txid, digest } => {
                        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                        json!({ "txid": txid.0, "digest": hex })
                    }
                    other => return Err(unexpected(&other)),
                }
            }
            Debug::RecoverLease { path, retries } => {
                return recover_lease(&operator, &path, retries).await;
            }
            Debug::Other(_) => unreachable!("answered above"),
        };
        operator.console.json(&answer);
        Ok(0)
    })
}

async fn ask_namenode(
    operator: &Operator,
    id: Option<&str>,
    request: &Request,
) -> Result<Response> {
    let member = match id {
        Some(id) => operator.namenode(id)?,
        None => operator.active().await?,
    };
    Ok(operator.ask_namenode(member, request).await?)
}

async fn replicas(operator: &Operator, id: &str) -> Result<Value> {
    let (name, address) = operator.datanode(id).await?;
    let mut all: Vec<Value> = Vec::new();
    let mut after = 0;
    loop {
        let request = Request::Replicas {
            after,
            limit: REPLICAS_PAGE,
        };
        let (page, more) = match operator
            .ask(Role::Datanode, &name, address, &request)
            .await?
        {
            Response::Replicas { replicas, more } => (replicas, more),
            other => return Err(unexpected(&other)),
        };
        let last = page.iter().map(|replica| replica.block.id).max();
        all.extend(page.iter().map(replica_json));
        match last {
            Some(BlockId(last)) if more && last > after => after = last,
            _ => return Ok(json!({ "datanode": name, "replicas": all })),
        }
    }
}

fn replica_json(replica: &ReplicaStatus) -> Value {
    json!({
        "block": replica.block.id.0,
        "generation_stamp": replica.block.generation_stamp.0,
        "length": replica.block.length,
        "state": replica.state.to_string(),
        "storage": replica.storage.to_string(),
        "file": replica.file,
        "file_offset": replica.file_offset,
    })
}

fn namenode_json(stats: &NamenodeStats) -> Value {
    let lag: Vec<Value> = stats
        .journal_lag
        .iter()
        .map(|lag| {
            // `null`: this JournalNode was never written to (T-N4).
            let behind = (lag.behind != u64::MAX).then_some(lag.behind);
            json!({ "name": lag.name, "behind": behind })
        })
        .collect();
    json!({
        "state": stats.state,
        "epoch": stats.epoch.0,
        "safe_mode": stats.safe_mode,
        "safe_blocks": stats.safe_blocks,
        "total_blocks": stats.total_blocks,
        "under_replicated": stats.under_replicated,
        "corrupt": stats.corrupt,
        "missing": stats.missing,
        "pending_replication": stats.pending_replication,
        "postponed": stats.postponed,
        "pending_deletion": stats.pending_deletion,
        "pending_datanode_messages": stats.pending_datanode_messages,
        "inodes": stats.inodes,
        "open_files": stats.open_files,
        "last_written": stats.last_written.0,
        "last_applied": stats.last_applied.0,
        "committed": stats.committed.0,
        "last_checkpoint": stats.last_checkpoint.0,
        "live_datanodes": stats.live_datanodes,
        "journal_lag": lag,
        "behind_txids": stats.behind_txids,
        "behind_ms": stats.behind_ms,
        "checkpoints_cancelled": stats.checkpoints_cancelled,
    })
}

fn journal_json(stats: &JournalStats) -> Value {
    let segment = |segment: &SegmentStatus| {
        json!({
            "first": segment.first.0,
            "last": segment.last.0,
            "state": if segment.finalized { "finalized" } else { "in_progress" },
        })
    };
    json!({
        "promised_epoch": stats.promised.0,
        "writer_epoch": stats.writer.0,
        "committed": stats.committed.0,
        "learner": stats.learner,
        "segments": stats.segments.iter().map(segment).collect::<Vec<_>>(),
    })
}

async fn recover_lease(operator: &Operator, path: &str, retries: u32) -> Result<i32> {
    let console = &operator.console;
    for attempt in 1..=retries {
        if operator.dfs.recover_lease(path).await? {
            match console.json {
                true => console.json(&json!({ "path": path, "recovered": true })),
                false => console.line(format!("recoverLease SUCCEEDED on {path}")),
            }
            return Ok(0);
        }
        if attempt < retries {
            console.remark(format!(
                "recoverLease attempt {attempt} of {retries} on {path} is under way"
            ));
            tokio::time::sleep(RECOVERY_WAIT).await;
        }
    }
    match console.json {
        true => console.json(&json!({ "path": path, "recovered": false })),
        false => console.error(format!(
            "Giving up on recoverLease for {path} after {retries} attempts"
        )),
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_proto::admin::JournalLag;

    #[test]
    fn a_journalnode_never_written_has_no_lag_t_n4() {
        let stats = NamenodeStats {
            journal_lag: vec![
                JournalLag {
                    name: "jn1".into(),
                    behind: 3,
                },
                JournalLag {
                    name: "jn2".into(),
                    behind: u64::MAX,
                },
            ],
            ..NamenodeStats::default()
        };
        let json = namenode_json(&stats);
        assert_eq!(json["journal_lag"][0]["behind"], 3);
        assert!(json["journal_lag"][1]["behind"].is_null());
    }
}
