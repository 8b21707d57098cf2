//! Another DataNode for one that failed: found by the NameNode, given the bytes by one that is left, joined to the
//! pipeline (E-21, T-P8..T-P15).

use crate::dfs::unexpected;
use crate::error::ClientError;
use crate::pipeline::Pipeline;
use crate::timeout::until;
use hadal_datastream::{PipelineError, REPLACEMENT_TRIES_MAX};
use hadal_env::{Expect, Seam};
use hadal_proto::FaultClass;
use hadal_proto::client::{BlockToken, ReplicaTarget, Request, Response};
use hadal_proto::transfer;
use hadal_types::Role;

impl<S: Seam> Pipeline<S> {
    /// Adds a node if the policy wants one. Without one the write goes on only when that was asked for.
    pub(crate) async fn replace_failed(&mut self) -> Result<(), ClientError> {
        let replication = self.file.replication;
        if !self.state.wants_replacement(replication) {
            return Ok(());
        }
        let Err(reason) = self.find_replacement().await? else {
            return Ok(());
        };
        if self.dfs.shared.options.replacement.best_effort {
            tracing::debug!("{} goes on with fewer nodes: {reason}", self.state.block());
            return Ok(());
        }
        Err(PipelineError::NoReplacement {
            block: self.state.block(),
            left: self.state.nodes().len(),
            replication,
            reason,
        }
        .into())
    }

    /// The inner error says why there is no replacement.
    async fn find_replacement(&mut self) -> Result<Result<(), String>, ClientError> {
        let mut tried = Vec::new();
        let mut reason = String::new();
        let mut attempt = 0;
        while attempt < REPLACEMENT_TRIES_MAX {
            let exclude = [self.state.bad_nodes(), &self.avoid, &tried].concat();
            let existing = self.state.nodes().to_vec();
            let request = Request::GetAdditionalDatanode {
                path: self.file.path.clone(),
                inode: self.file.inode,
                block: self.state.settled_block(),
                existing: existing.clone(),
                exclude: exclude.clone(),
                count: 1,
            };
            let located = match self.dfs.call(request).await {
                Ok(Response::LocatedBlock {
                    block: Some(located),
                }) => located,
                Ok(other) => return Err(unexpected(&other)),
                Err(ClientError::Fault(fault)) if fault.class == FaultClass::NoDatanodes => {
                    // Those that failed some time ago may be back.
                    let avoided = std::mem::take(&mut self.avoid);
                    if self.state.forgive() || !avoided.is_empty() {
                        continue;
                    }
                    return Ok(Err(match reason.is_empty() {
                        true => fault.message,
                        false => format!("{}; before that, {reason}", fault.message),
                    }));
                }
                Err(error) => return Err(error),
            };
            let known = |node: &ReplicaTarget| {
                existing.iter().any(|known| known.datanode == node.datanode)
                    || exclude.contains(&node.datanode)
            };
            let Some(fresh) = located.locations.into_iter().find(|node| !known(node)) else {
                return Ok(Err("no more good DataNodes".into()));
            };
            let source = existing[attempt as usize % existing.len()].clone();
            attempt += 1;
            match self.transfer(&source, &fresh, located.token).await {
                Ok(()) => {
                    self.state.handle_replacement(fresh);
                    return Ok(Ok(()));
                }
                Err(said) => {
                    tracing::debug!("{} to {}: {said}", source.name, fresh.name);
                    reason = format!("copying from {} to {}: {said}", source.name, fresh.name);
                    tried.push(fresh.datanode);
                }
            }
        }
        Ok(Err(reason))
    }

    /// Has `source` give its bytes of the block to `target`. No bytes are bytes, too (T-P8).
    async fn transfer(
        &self,
        source: &ReplicaTarget,
        target: &ReplicaTarget,
        token: BlockToken,
    ) -> Result<(), String> {
        let block = self.state.settled_block();
        let address = source
            .address_for(block.id)
            .ok_or_else(|| format!("malformed address {}", source.address))?;
        let expect = Expect::node(Role::Datanode, source.name.clone());
        let request = transfer::Request::TransferReplica {
            pool: self.file.pool.clone(),
            block,
            targets: vec![target.clone()],
            token,
        };
        let shared = &self.dfs.shared;
        let asked = async {
            let client = shared.peers.transfer(address, &expect).await;
            let client = client.map_err(|error| error.to_string())?;
            let answer = client.call(&request).await;
            answer.map_err(|error| error.to_string())
        };
        let deadline = shared.seam.now().after_ms(shared.options.stream_timeout_ms);
        match until(&shared.seam, deadline, asked).await {
            None => Err("no answer in time".into()),
            Some(Ok(transfer::Response::Done)) => Ok(()),
            Some(Ok(other)) => Err(format!("unexpected answer {}", other.name())),
            Some(Err(error)) => Err(error),
        }
    }
}
