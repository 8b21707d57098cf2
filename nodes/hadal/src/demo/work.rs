//! Writing and comparing, many files at a time.

use super::tree::{BIG_BYTES, Entry, Tree, big_bytes};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hadal_client::{CreateOptions, Dfs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncReadExt;

/// Files in flight.
const FILES_AT_ONCE: usize = 16;
/// Bytes read from a local file at a time.
const PIECE: usize = 1 << 20;
/// Where the generated file goes.
const BIG_PATH: &str = "/demo/large";

/// Runs `work` on every file of the tree, some at a time.
async fn for_each_file<F>(tree: &Arc<Tree>, work: impl Fn(Arc<Tree>, usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let files = 0..tree.files.len();
    stream::iter(files)
        .map(|at| work(Arc::clone(tree), at))
        .buffer_unordered(FILES_AT_ONCE)
        .try_collect()
        .await
}

pub(super) async fn write_tree(dfs: Dfs, tree: Arc<Tree>, done: Arc<AtomicU64>) -> Result<()> {
    for directory in &tree.directories {
        dfs.mkdirs(directory, 0o755, true).await?;
    }
    for_each_file(&tree, |tree, at| {
        let (dfs, done) = (dfs.clone(), Arc::clone(&done));
        async move {
            let entry = &tree.files[at];
            write_file(&dfs, entry, &done)
                .await
                .with_context(|| entry.remote.clone())
        }
    })
    .await
}

async fn write_file(dfs: &Dfs, entry: &Entry, done: &AtomicU64) -> Result<()> {
    let mut local = tokio::fs::File::open(&entry.local).await?;
    let mut file = dfs.create(&entry.remote, &CreateOptions::default()).await?;
    loop {
        let mut piece = Vec::with_capacity(PIECE.min(usize::try_from(entry.length)? + 1));
        (&mut local)
            .take(PIECE as u64)
            .read_to_end(&mut piece)
            .await?;
        if piece.is_empty() {
            break;
        }
        let length = piece.len() as u64;
        file.write_bytes(Bytes::from(piece)).await?;
        done.fetch_add(length, Ordering::Relaxed);
    }
    file.close().await?;
    Ok(())
}

pub(super) async fn write_big(dfs: Dfs, done: Arc<AtomicU64>) -> Result<()> {
    let mut file = dfs.create(BIG_PATH, &CreateOptions::default()).await?;
    let mut offset = 0;
    while offset < BIG_BYTES {
        let length = usize::try_from((BIG_BYTES - offset).min(PIECE as u64))?;
        file.write_bytes(big_bytes(offset, length)).await?;
        offset += length as u64;
        done.store(offset, Ordering::Relaxed);
    }
    file.close().await?;
    Ok(())
}

pub(super) async fn compare_all(dfs: Dfs, tree: Arc<Tree>, done: Arc<AtomicU64>) -> Result<()> {
    for_each_file(&tree, |tree, at| {
        let (dfs, done) = (dfs.clone(), Arc::clone(&done));
        async move {
            let entry = &tree.files[at];
            compare_file(&dfs, entry, &done)
                .await
                .with_context(|| entry.remote.clone())
        }
    })
    .await?;
    compare_big(&dfs, &done).await.context(BIG_PATH)
}

async fn compare_file(dfs: &Dfs, entry: &Entry, done: &AtomicU64) -> Result<()> {
    let mut local = tokio::fs::File::open(&entry.local).await?;
    let mut file = dfs.open(&entry.remote).await?;
    ensure!(
        file.length() == entry.length,
        "{} bytes there, {} here",
        file.length(),
        entry.length
    );
    let mut expected = Vec::new();
    while let Some(bytes) = file.read_chunk().await? {
        expected.resize(bytes.len(), 0);
        local.read_exact(&mut expected).await?;
        if bytes != expected.as_slice() {
            bail!("bytes before {} differ", file.position());
        }
        done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    ensure!(
        file.position() == entry.length,
        "ended at byte {}",
        file.position()
    );
    Ok(())
}

async fn compare_big(dfs: &Dfs, done: &AtomicU64) -> Result<()> {
    let mut file = dfs.open(BIG_PATH).await?;
    ensure!(
        file.length() == BIG_BYTES,
        "{} bytes there, {BIG_BYTES} written",
        file.length()
    );
    let mut at = 0;
    while let Some(bytes) = file.read_chunk().await? {
        let skip = at % 8;
        let wanted = big_bytes(at - skip, bytes.len() + usize::try_from(skip)?);
        if bytes != wanted.slice(usize::try_from(skip)?..) {
            bail!("bytes between {at} and {} differ", file.position());
        }
        at += bytes.len() as u64;
        done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    ensure!(at == BIG_BYTES, "ended at byte {at}");
    Ok(())
}
