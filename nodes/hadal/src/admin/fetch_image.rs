//! `dfsadmin -fetchImage DIR`: the active NameNode's newest image as a local file.

use super::Operator;
use crate::{daemons, session};
use anyhow::{Context, Result, bail};
use hadal_namenode::{NamenodePeer, fetch_image};
use hadal_shard::{ShardOptions, run_on_this_thread};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Fetches it, verified on the way and on disk, under the name it has at the NameNode.
pub(super) async fn run(operator: &Operator, dir: &Path) -> Result<i32> {
    let active = operator.active().await?;
    let from = NamenodePeer {
        name: active.id.clone(),
        address: active.address,
    };
    let identity = session::identity(&operator.config)?;
    let transport = daemons::transport(&operator.config.cluster);
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let into = dir.to_owned();
    // A shard has a thread of its own.
    let fetching = std::thread::spawn(move || {
        run_on_this_thread(ShardOptions::new("fetch-image"), |shard| async move {
            let any: IpAddr = match from.address.is_ipv6() {
                true => Ipv6Addr::UNSPECIFIED.into(),
                false => Ipv4Addr::UNSPECIFIED.into(),
            };
            let net = daemons::endpoint(SocketAddr::new(any, 0), &identity, &transport, false)?;
            let env = shard.env(net);
            anyhow::Ok(fetch_image(&env, &into, &from, 0).await?)
        })
    });
    let fetched = tokio::task::spawn_blocking(move || fetching.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the thread that fetches the image panicked"))???;
    let Some(image) = fetched.image else {
        bail!(
            "{} has no image yet: make one with `hadal dfsadmin -safemode enter' and `-saveNamespace'",
            active.id
        );
    };
    let path = dir.join(hadal_namenode::image_name(image.txid));
    match operator.console.json {
        true => operator.console.json(&json!({
            "image": path.display().to_string(),
            "txid": image.txid.0,
            "bytes": image.length,
            "namenode": active.id,
        })),
        false => operator.console.line(format!(
            "{}: {} bytes of {}, at txid {}",
            path.display(),
            image.length,
            active.id,
            image.txid
        )),
    }
    Ok(0)
}
