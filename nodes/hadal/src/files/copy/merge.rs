//! `-getmerge`: several files of the cluster as one local file.

use super::local_path;
use super::local_writer::LocalWriter;
use crate::files::failure::{At, Failure};
use crate::files::path::PathData;
use crate::files::shell::Shell;
use bytes::Bytes;

/// Runs the verb.
pub(crate) async fn run(shell: &Shell) -> Result<(), Failure> {
    let (last, sources) = shell
        .args
        .args
        .split_last()
        .expect("at least two arguments");
    let local = local_path(last);
    if local.is_dir() {
        return Err(Failure::is_directory(last));
    }
    let mut files = Vec::new();
    for source in shell.existing(sources).await {
        if !source.is_dir() {
            files.push(source);
            continue;
        }
        // A directory stands for the files right below it.
        let children = shell.children(&source).await?;
        files.extend(children.into_iter().filter(|child| !child.is_dir()));
    }
    // What could not be found was told; half a merge would look like a whole one.
    if shell.exit_code() != 0 {
        return Ok(());
    }
    let (newlines, skip_empty) = (shell.args.has("nl"), shell.args.has("skip-empty-file"));
    let mut writer = LocalWriter::new(local.clone());
    for file in files {
        append(shell, &mut writer, &file, newlines, skip_empty)
            .await?
            .map_err(|error| Failure::local(&local, &error))?;
    }
    let written = writer.finish().await;
    written
        .map(drop)
        .map_err(|error| Failure::local(&local, &error))
}

/// The outer error is the cluster's, the inner the local disk's.
async fn append(
    shell: &Shell,
    writer: &mut LocalWriter,
    source: &PathData,
    newline: bool,
    skip_empty: bool,
) -> Result<std::io::Result<()>, Failure> {
    let mut file = shell.dfs.open(&source.path).await.at(&source.shown)?;
    let mut empty = true;
    while let Some(bytes) = file.read_chunk().await.at(&source.shown)? {
        empty = false;
        if let Err(error) = writer.write(bytes).await {
            return Ok(Err(error));
        }
    }
    if newline && !(empty && skip_empty) {
        return Ok(writer.write(Bytes::from_static(b"\n")).await);
    }
    Ok(Ok(()))
}
