//! What operators ask of nodes: the calls behind `dfsadmin`, `haadmin`, `debug` and `fsck`.

pub(crate) mod debug;
pub(crate) mod dfsadmin;
mod fence;
mod fetch_image;
pub(crate) mod haadmin;
mod report;

use crate::cli::Global;
use crate::console::Console;
use crate::session;
use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use hadal_client::{ClientError, Dfs, FaultClass};
use hadal_daemon::Config;
use hadal_daemon::config::Member;
use hadal_env::Expect;
use hadal_proto::admin::{DatanodeStatus, NodeStatus, Request, Response};
use hadal_proto::client::FsStats;
use hadal_types::{HaState, Role};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

/// Hadoop's verbs of `dfsadmin` that this version answers as unsupported, by name.
const DFSADMIN_MISSING: &[&str] = &[
    "allowSnapshot",
    "clrQuota",
    "clrSpaceQuota",
    "deleteBlockPool",
    "disallowSnapshot",
    "finalizeUpgrade",
    "getDatanodeInfo",
    "metasave",
    "provisionSnapshotTrash",
    "reconfig",
    "refreshCallQueue",
    "refreshServiceAcl",
    "refreshSuperUserGroupsConfiguration",
    "refreshUserToGroupsMappings",
    "restoreFailedStorage",
    "rollingUpgrade",
    "setQuota",
    "setSpaceQuota",
    "upgrade",
];
/// The same of `debug`.
const DEBUG_MISSING: &[&str] = &["computeMeta", "verifyEC", "verifyMeta"];

/// Whether `verb` of a group is known by name, but not there.
pub(crate) fn is_missing(group: &str, verb: &str) -> bool {
    let verbs = match group {
        "dfsadmin" => DFSADMIN_MISSING,
        "debug" => DEBUG_MISSING,
        _ => &[],
    };
    verbs.contains(&verb)
}

/// Says that something is known by name, but not there.
pub(crate) fn missing(console: &Console, what: &str) -> i32 {
    console.error(format!(
        "{what}: UnsupportedOperationException: {what} is not supported in this version"
    ));
    1
}

/// An operator with a connection.
pub(crate) struct Operator {
    pub(crate) dfs: Dfs,
    pub(crate) config: Config,
    pub(crate) console: Arc<Console>,
}

/// Runs `work` with a connection.
pub(crate) fn run<F, W>(global: &Global, console: Arc<Console>, work: W) -> Result<i32>
where
    F: Future<Output = Result<i32>>,
    W: FnOnce(Arc<Operator>) -> F,
{
    let config = session::load_config_with(global.config.as_deref(), &global.settings()?)?.config;
    let runtime = session::runtime()?;
    let code = runtime.block_on(async {
        let operator = Arc::new(Operator {
            dfs: session::connect(&config)?,
            config,
            console: Arc::clone(&console),
        });
        let code = work(Arc::clone(&operator)).await;
        operator.dfs.close().await;
        code
    });
    console.flush();
    runtime.shutdown_background();
    code.map_err(|error| match error.downcast_ref::<ClientError>() {
        Some(fault) if fault.class() == Some(FaultClass::Unsupported) => {
            anyhow::anyhow!("UnsupportedOperationException: {fault}")
        }
        _ => error,
    })
}

impl Operator {
    /// The NameNode of that id; without one the only one there is.
    pub(crate) fn namenode(&self, id: &str) -> Result<&Member> {
        member("NameNode", &self.config.cluster.namenodes, id)
    }

    /// The JournalNode of that id.
    pub(crate) fn journalnode(&self, id: &str) -> Result<&Member> {
        member("JournalNode", &self.config.cluster.journalnodes, id)
    }

    /// Asks one node.
    pub(crate) async fn ask(
        &self,
        role: Role,
        id: &str,
        address: SocketAddr,
        request: &Request,
    ) -> Result<Response, ClientError> {
        let expect = Expect::node(role, id.to_owned());
        self.dfs.admin(address, &expect, request).await
    }

    /// Asks a NameNode.
    pub(crate) async fn ask_namenode(
        &self,
        member: &Member,
        request: &Request,
    ) -> Result<Response, ClientError> {
        self.ask(Role::Namenode, &member.id, member.address, request)
            .await
    }

    /// Status of a NameNode.
    pub(crate) async fn status<'a>(
        &self,
        member: &'a Member,
    ) -> (&'a Member, Result<NodeStatus, String>) {
        let answer = self.ask_namenode(member, &Request::GetStatus).await;
        let status = match answer {
            Ok(Response::Status { status }) => Ok(status),
            Ok(other) => Err(unexpected(&other).to_string()),
            Err(error) => Err(error.to_string()),
        };
        (member, status)
    }

    /// Status of every NameNode, in the order of the configuration.
    pub(crate) async fn statuses(&self) -> Vec<(&Member, Result<NodeStatus, String>)> {
        let members = &self.config.cluster.namenodes;
        join_all(members.iter().map(|member| self.status(member))).await
    }

    /// The active NameNode: the first that says so, whatever the others are doing. One that is alone is taken for it
    /// unasked.
    pub(crate) async fn active(&self) -> Result<&Member> {
        let members = &self.config.cluster.namenodes;
        if let [only] = &members[..] {
            return Ok(only);
        }
        let mut answers: FuturesUnordered<_> =
            members.iter().map(|member| self.status(member)).collect();
        let mut told = Vec::new();
        while let Some((member, status)) = answers.next().await {
            match status {
                Ok(status) if status.state == HaState::Active => return Ok(member),
                Ok(status) => told.push(format!("{} is {}", member.id, status.state)),
                Err(error) => told.push(format!("{}: {error}", member.id)),
            }
        }
        told.sort();
        bail!("no NameNode is active: {}", told.join("; "))
    }

    /// Asks the active NameNode.
    pub(crate) async fn ask_active(&self, request: &Request) -> Result<Response> {
        let active = self.active().await?;
        Ok(self.ask_namenode(active, request).await?)
    }

    /// All DataNodes as the active NameNode sees them.
    pub(crate) async fn datanodes(&self) -> Result<(FsStats, Vec<DatanodeStatus>)> {
        match self.ask_active(&Request::DatanodeReport).await? {
            Response::Datanodes { stats, nodes } => Ok((stats, nodes)),
            other => Err(unexpected(&other)),
        }
    }

    /// The DataNode of that id, or at that address, and where it listens.
    pub(crate) async fn datanode(&self, id: &str) -> Result<(String, SocketAddr)> {
        let (_, nodes) = self.datanodes().await?;
        let found = nodes
            .iter()
            .find(|node| node.name == id || node.address == id);
        let Some(node) = found else {
            let known: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            bail!(
                "the NameNode knows no DataNode `{id}'; it knows: {}",
                listed(&known)
            );
        };
        let address = node.address.parse().with_context(|| {
            format!(
                "{} registered with the malformed address {}",
                node.name, node.address
            )
        })?;
        Ok((node.name.clone(), address))
    }
}

fn member<'a>(what: &str, members: &'a [Member], id: &str) -> Result<&'a Member> {
    members
        .iter()
        .find(|member| member.id == id)
        .with_context(|| {
            let known: Vec<&str> = members.iter().map(|member| member.id.as_str()).collect();
            format!(
                "the configuration names no {what} `{id}'; it names: {}",
                listed(&known)
            )
        })
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        _ => names.join(", "),
    }
}

/// An answer that does not fit the question.
pub(crate) fn unexpected(response: &Response) -> anyhow::Error {
    anyhow::anyhow!(
        "unexpected answer {}: the node runs another version",
        response.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_ids_name_the_known_ones() {
        let members = [Member {
            id: "nn1".into(),
            address: ([127, 0, 0, 1], 1).into(),
            http: None,
        }];
        assert_eq!(member("NameNode", &members, "nn1").unwrap().id, "nn1");
        let error = member("NameNode", &members, "nn2").unwrap_err().to_string();
        assert_eq!(
            error,
            "the configuration names no NameNode `nn2'; it names: nn1"
        );
        let error = member("JournalNode", &[], "jn1").unwrap_err().to_string();
        assert!(error.ends_with("it names: none"));
    }

    #[test]
    fn lists_of_missing_verbs_are_sorted() {
        for verbs in [DFSADMIN_MISSING, DEBUG_MISSING] {
            assert!(verbs.is_sorted());
        }
        assert!(is_missing("dfsadmin", "metasave") && !is_missing("dfsadmin", "report"));
    }
}
