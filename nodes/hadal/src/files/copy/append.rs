//! `-appendToFile`: local files at the end of a file of the cluster.

use super::local_path;
use super::local_reader::LocalReader;
use crate::files::failure::{At, Failure};
use crate::files::path::PathData;
use crate::files::shell::Shell;
use crate::session;
use hadal_client::AppendOptions;
use std::path::{Path, PathBuf};

/// Runs the verb.
pub(crate) async fn run(shell: &Shell) -> Result<(), Failure> {
    let (last, sources) = shell
        .args
        .args
        .split_last()
        .expect("at least two arguments");
    if sources.len() > 1 && sources.iter().any(|source| source == "-") {
        return Err(Failure::Told(
            "`-': standard input is appended alone, not among files".into(),
        ));
    }
    // Every source is looked at before the target is touched.
    let mut readers = Vec::new();
    for source in sources {
        readers.push(open(source).await?);
    }
    let target = shell.look(last).await?;
    if target.is_dir() {
        return Err(Failure::is_directory(&target.shown));
    }
    if target.status.is_none() {
        let options = session::create_options(&shell.config, 0o666 & !shell.umask);
        let mut file = shell
            .dfs
            .create(&target.path, &options)
            .await
            .at(&target.shown)?;
        file.close().await.at(&target.shown)?;
    }
    append(shell, readers, &target).await
}

async fn open(source: &str) -> Result<(PathBuf, LocalReader), Failure> {
    if source == "-" {
        return Ok((source.into(), LocalReader::standard_input()));
    }
    let local = local_path(source);
    if local.is_dir() {
        return Err(Failure::is_directory(source));
    }
    let reader = LocalReader::open(local.clone()).await;
    match reader {
        Ok(reader) => Ok((local, reader)),
        Err(error) => Err(Failure::local(Path::new(source), &error)),
    }
}

async fn append(
    shell: &Shell,
    readers: Vec<(PathBuf, LocalReader)>,
    target: &PathData,
) -> Result<(), Failure> {
    let options = AppendOptions {
        new_block: shell.args.has("n"),
    };
    let opened = shell.dfs.append(&target.path, &options).await;
    let mut file = opened.at(&target.shown)?;
    let outcome = async {
        for (local, mut reader) in readers {
            let failed = |error| Failure::local(&local, &error);
            while let Some(bytes) = reader.next().await.map_err(failed)? {
                file.write_bytes(bytes).await.at(&target.shown)?;
            }
        }
        Ok(())
    }
    .await;
    match outcome {
        Ok(()) => file.close().await.at(&target.shown),
        Err(failure) => {
            // What was read of the sources is kept, as with Hadoop; the file is not left open.
            if let Err(error) = file.close().await {
                tracing::warn!("closing {}: {error}", target.shown);
            }
            Err(failure)
        }
    }
}
