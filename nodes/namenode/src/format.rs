//! `namenode -format`: a new namespace here and on every JournalNode.

use crate::config::NamenodeConfig;
use crate::error::{FormatError, RunError};
use crate::identity;
use futures_util::future::{Either, select};
use hadal_env::{Disk, Env, Expect, Net};
use hadal_proto::qjournal::{Call, QjournalProtocol, Request, Response};
use hadal_quic::CallClient;
use hadal_types::{BlockPoolId, CURRENT_LAYOUT, ClusterId, NamespaceInfo, Role};
use std::pin::pin;

/// What formatting is told.
#[derive(Clone, Debug, Default)]
pub struct FormatOptions {
    /// Name of the cluster; made up when empty.
    pub cluster_id: String,
    /// Give up a namespace that is there.
    pub force: bool,
}

/// A JournalNode that does not answer for this long fails the format.
const JOURNALNODE_WAIT_MS: u64 = 15_000;
/// Between two tries.
const RETRY_MS: u64 = 100;

/// Formats: JournalNodes first, the local identity last, so that a format cut short is not taken for a namespace.
///
/// # Errors
/// [`FormatError`].
pub async fn format<E: Env>(
    env: E,
    config: &NamenodeConfig,
    options: &FormatOptions,
) -> Result<NamespaceInfo, FormatError> {
    let disk = env.disk().clone();
    let _lock = identity::lock(&disk, &config.dir).await?;
    // A damaged or newer identity is a namespace too.
    if !options.force && !matches!(identity::read(&disk, &config.dir).await, Ok(None)) {
        return Err(FormatError::Exists {
            dir: config.dir.display().to_string(),
        });
    }
    let random = env.random_u64();
    let cluster_id = match options.cluster_id.as_str() {
        "" => format!("CID-{:016x}{:016x}", env.random_u64(), env.random_u64()),
        given => given.to_owned(),
    };
    let info = NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: random.max(1),
        cluster_id: ClusterId(cluster_id),
        block_pool_id: BlockPoolId(format!("BP-{:016x}-{}", env.random_u64(), env.wall_ms())),
        created_ms: env.wall_ms(),
    };
    format_journal(&env, config, &info, options.force).await?;
    let images = crate::images::images_dir(&config.dir);
    if disk.exists(&images).await.map_err(RunError::from)? {
        disk.remove_dir_all(&images).await.map_err(RunError::from)?;
    }
    identity::write(&disk, &config.dir, &info).await?;
    Ok(info)
}

/// Makes the journal, wherever it is, an empty one of this namespace. With `force` off a journal of the same namespace is
/// left as it is, and one of another is an error.
pub(crate) async fn format_journal<E: Env>(
    env: &E,
    config: &NamenodeConfig,
    info: &NamespaceInfo,
    force: bool,
) -> Result<(), FormatError> {
    if let Some(shared) = &config.shared_edits_dir {
        crate::shared::format(env, shared, info, &config.name, force)
            .await
            .map_err(|fault| FormatError::Shared {
                dir: shared.display().to_string(),
                reason: fault.message,
            })?;
    }
    for journalnode in &config.journalnodes {
        let deadline = env.now().after_ms(JOURNALNODE_WAIT_MS);
        loop {
            let attempt = pin!(format_journalnode(env, journalnode, info, force));
            let reason = match select(attempt, pin!(env.sleep_until(deadline))).await {
                Either::Left((Ok(()), _)) => break,
                Either::Left((Err((reason, retry)), _)) if retry && env.now() < deadline => {
                    tracing::debug!("{reason}");
                    env.sleep_until(env.now().after_ms(RETRY_MS)).await;
                    continue;
                }
                Either::Left((Err((reason, _)), _)) => reason,
                Either::Right(_) => "no answer".into(),
            };
            return Err(FormatError::Journalnode {
                name: journalnode.name.clone(),
                address: journalnode.address.to_string(),
                reason,
            });
        }
    }
    Ok(())
}

/// `Err((reason, worth another try))`.
async fn format_journalnode<E: Env>(
    env: &E,
    peer: &crate::config::JournalnodePeer,
    info: &NamespaceInfo,
    force: bool,
) -> Result<(), (String, bool)> {
    let expect = Expect::node(Role::Journalnode, peer.name.clone());
    let conn = env
        .net()
        .connect(peer.address, &expect)
        .await
        .map_err(|error| (error.to_string(), true))?;
    let (client, driver) = CallClient::<QjournalProtocol>::open(&conn)
        .await
        .map_err(|error| (error.to_string(), true))?;
    let call = Call::Format {
        info: info.clone(),
        initial: true,
        force,
    };
    let request = Request {
        namespace_id: info.namespace_id,
        call,
    };
    let call = async { client.call(&request).await };
    match select(pin!(call), pin!(driver)).await {
        Either::Left((Ok(Response::Done), _)) => Ok(()),
        Either::Left((Ok(other), _)) => Err((format!("{} to Format", other.name()), false)),
        Either::Left((Err(error), _)) => Err((error.to_string(), error.is_retriable())),
        Either::Right((error, _)) => Err((error.to_string(), true)),
    }
}
