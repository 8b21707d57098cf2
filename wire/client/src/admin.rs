//! Operators' calls to one node, and the balancer's.

use crate::dfs::DistributedFileSystem;
use crate::error::{Attempt, ClientError};
use crate::timeout::until;
use hadal_env::{Expect, Seam};
use hadal_proto::admin::{Request, Response};
use hadal_proto::client::{BlockToken, ReplicaTarget};
use hadal_proto::{Fault, FaultClass, transfer};
use hadal_types::{Block, DatanodeUuid, Role};
use std::net::SocketAddr;

impl<S: Seam> DistributedFileSystem<S> {
    /// One call of the admin protocol to the node at `address`; needs a certificate of the admin role.
    ///
    /// # Errors
    /// [`ClientError`]: `Unreachable` when the node does not answer within the retry window.
    pub async fn admin(
        &self,
        address: SocketAddr,
        expect: &Expect,
        request: &Request,
    ) -> Result<Response, ClientError> {
        let shared = &self.shared;
        let deadline = shared
            .seam
            .now()
            .after_ms(shared.options.failover.window_ms);
        let attempt = async {
            let client = shared.peers.admin(address, expect).await?;
            Ok::<_, Attempt>(client.call(request).await?)
        };
        let reason = match until(&shared.seam, deadline, attempt).await {
            Some(Ok(response)) => return Ok(response),
            Some(Err(Attempt::Fault(fault))) => return Err(fault.into()),
            Some(Err(Attempt::Net(reason))) => reason,
            None => format!("no answer within {} ms", shared.options.failover.window_ms),
        };
        let node = expect.name.as_deref().unwrap_or("any");
        Err(ClientError::Unreachable {
            namenodes: format!("{} {node} at {address}", expect.role),
            reason,
        })
    }

    /// Has `proxy` give `target` a copy of a block, in place of the replica of `delete_hint`: the NameNode deletes that
    /// one once it knows of the copy (HDFS's replaceBlock). Takes as long as the copy does; needs a certificate of the
    /// admin role.
    ///
    /// # Errors
    /// [`ClientError`]: `Unreachable` when the proxy is lost, a fault of class `Busy` when it or the target has too many
    /// copies for the balancer running.
    pub async fn replace_block(
        &self,
        block: Block,
        proxy: &ReplicaTarget,
        target: &ReplicaTarget,
        delete_hint: DatanodeUuid,
    ) -> Result<(), ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable {
            namenodes: format!("DataNode {} at {}", proxy.name, proxy.address),
            reason,
        };
        let address = proxy
            .address_for(block.id)
            .ok_or_else(|| unreachable("the address is malformed".into()))?;
        let request = transfer::Request::ReplaceBlock {
            pool: self.server_defaults().await?.pool,
            block,
            target: target.clone(),
            delete_hint,
            token: BlockToken::default(),
        };
        let expect = Expect::node(Role::Datanode, proxy.name.clone());
        let attempt = async {
            let client = self.shared.peers.transfer(address, &expect).await?;
            Ok::<_, Attempt>(client.call(&request).await?)
        };
        match attempt.await {
            Ok(transfer::Response::Done) => Ok(()),
            Ok(other) => {
                let message = format!("{} does not answer ReplaceBlock", other.name());
                Err(Fault::new(FaultClass::BadRequest, message).into())
            }
            Err(Attempt::Fault(fault)) => Err(fault.into()),
            Err(Attempt::Net(reason)) => Err(unreachable(reason)),
        }
    }
}
