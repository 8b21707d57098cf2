//! Filling a namespace with empty files, as fast as one program can.

use crate::cluster::Cluster;
use crate::load::{closed, deal};
use anyhow::Result;
use hadal_client::CreateOptions;

/// Callers, and the connections they share.
const CALLERS: usize = 1_024;
const CONNECTIONS: usize = 4;
/// Files of one directory.
const FILES_PER_DIR: usize = 1_000;

/// Makes files number `from` to `to` below `base`, each created and completed. Must be called within a runtime.
///
/// # Errors
/// When a call fails.
pub async fn files(cluster: &Cluster, base: &str, from: usize, to: usize) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    let clients = cluster.clients(CONNECTIONS, true)?;
    let directories = from / FILES_PER_DIR..=(to - 1) / FILES_PER_DIR;
    let directories: Vec<String> = directories.map(|at| format!("{base}/d{at}")).collect();
    closed(
        deal(directories, CALLERS),
        |caller| clients[caller % CONNECTIONS].clone(),
        |dfs, path: String| async move {
            dfs.mkdirs(&path, 0o755, true).await?;
            Ok(())
        },
    )
    .await?;
    let files: Vec<String> = (from..to)
        .map(|at| format!("{base}/d{}/f{at}", at / FILES_PER_DIR))
        .collect();
    closed(
        deal(files, CALLERS),
        |caller| clients[caller % CONNECTIONS].clone(),
        |dfs, path: String| async move {
            let mut out = dfs.create(&path, &CreateOptions::default()).await?;
            out.close().await?;
            Ok(())
        },
    )
    .await?;
    for client in clients {
        client.close().await;
    }
    Ok(())
}
