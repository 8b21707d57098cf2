//! Operators' calls to one node.

use crate::dfs::DistributedFileSystem;
use crate::error::{Attempt, ClientError};
use crate::timeout::until;
use hadal_env::{Expect, Seam};
use hadal_proto::admin::{Request, Response};
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
}
