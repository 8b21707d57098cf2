//! `-mkdir`, `-rm`, `-rmdir`, `-mv`, `-touch`, `-touchz`: what changes the tree.

use super::failure::{At, Failure};
use super::path::{PathData, parent_of};
use super::shell::Shell;
use crate::humanize;
use crate::session;
use chrono::{Local, NaiveDateTime, TimeZone};
use hadal_client::FaultClass;

/// Runs `-mkdir`.
pub(crate) async fn mkdir(shell: &Shell) -> Result<(), Failure> {
    for path in shell.expand_all(&shell.args.args).await {
        if shell.is_over() {
            break;
        }
        shell.settle(make_directory(shell, &path).await);
    }
    Ok(())
}

async fn make_directory(shell: &Shell, path: &PathData) -> Result<(), Failure> {
    let with_parents = shell.args.has("p");
    match &path.status {
        Some(status) if !status.is_dir => return Err(Failure::not_directory(&path.shown)),
        Some(_) if !with_parents => return Err(Failure::exists(&path.shown)),
        Some(_) => return Ok(()),
        None => {}
    }
    let outcome = shell
        .dfs
        .mkdirs(&path.path, 0o777 & !shell.umask, with_parents)
        .await;
    // It is the parent that is missing, and that HDFS names.
    let parent = parent_of(&path.path).unwrap_or("/");
    match outcome.at(&path.shown) {
        Err(failure) if failure.is_not_found() => Err(Failure::not_found(parent)),
        other => other.map(drop),
    }
}

/// Runs `-rm`, and `-rmr`.
pub(crate) async fn rm(shell: &Shell, recursive: bool, force: bool) -> Result<(), Failure> {
    let mut found = Vec::new();
    for argument in &shell.args.args {
        match shell.expand(argument).await {
            Ok(paths) => found.extend(paths),
            // A pattern that fits nothing.
            Err(Failure::Told(text)) if force && text == Failure::not_found(argument).message() => {
            }
            Err(failure) => shell.complain(&failure),
        }
    }
    for path in found {
        if shell.is_over() {
            break;
        }
        shell.settle(remove(shell, &path, recursive, force).await);
    }
    Ok(())
}

async fn remove(
    shell: &Shell,
    path: &PathData,
    recursive: bool,
    force: bool,
) -> Result<(), Failure> {
    if path.status.is_none() && force {
        return Ok(());
    }
    if path.require()?.is_dir && !recursive {
        return Err(Failure::is_directory(&path.shown));
    }
    let there = shell.dfs.delete(&path.path, recursive).await;
    match there.at(&path.shown)? {
        true if !shell.console.quiet => shell.line(format!("Deleted {}", path.shown)),
        false if !force => return Err(Failure::not_found(&path.shown)),
        _ => {}
    }
    Ok(())
}

/// Runs `-rmdir`.
pub(crate) async fn rmdir(shell: &Shell) -> Result<(), Failure> {
    let ignore = shell.args.has("ignore-fail-on-non-empty");
    for path in shell.existing(&shell.args.args).await {
        if shell.is_over() {
            break;
        }
        if !path.is_dir() {
            shell.complain(&Failure::not_directory(&path.shown));
            continue;
        }
        match shell.dfs.delete(&path.path, false).await {
            Ok(true) => {}
            Ok(false) => shell.complain(&Failure::not_found(&path.shown)),
            Err(error) if error.class() == Some(FaultClass::NotEmpty) && ignore => {}
            Err(error) => shell.settle(Err(error).at(&path.shown)),
        }
    }
    Ok(())
}

/// The target of `-mv`, `-put`, `-cp`: FsShell's rules of what it may be.
pub(crate) async fn destination(
    shell: &Shell,
    written: &str,
    sources: usize,
    overwrite: bool,
) -> Result<PathData, Failure> {
    let mut found = shell.expand(written).await?;
    if found.len() > 1 {
        return Err(Failure::Usage(
            "Too many arguments: expected 1 but got several that fit the target".into(),
        ));
    }
    let target = found.pop().expect("an argument stands for something");
    match &target.status {
        None if sources > 1 => return Err(Failure::not_found(written)),
        Some(status) if sources > 1 && !status.is_dir => {
            return Err(Failure::not_directory(written));
        }
        Some(status) if !status.is_dir && !overwrite => return Err(Failure::exists(written)),
        Some(_) => {}
        None => {
            let above = match target.represents_directory() {
                true => None,
                false => parent_of(&target.path),
            };
            let there = match above {
                Some(parent) => shell.dfs.try_file_status(parent).await.at(written)?,
                None => None,
            };
            if there.is_none() {
                return Err(Failure::not_found(written));
            }
        }
    }
    Ok(target)
}

/// Where a source called `name` goes.
pub(crate) fn target_of(destination: &PathData, name: &str) -> PathData {
    match destination.is_dir() {
        true => destination.child(name),
        false => destination.clone(),
    }
}

/// Runs `-mv`.
pub(crate) async fn mv(shell: &Shell) -> Result<(), Failure> {
    let (last, sources) = shell
        .args
        .args
        .split_last()
        .expect("at least two arguments");
    let sources = shell.existing(sources).await;
    if sources.is_empty() {
        return Ok(());
    }
    let destination = destination(shell, last, sources.len(), false).await?;
    for source in sources {
        if shell.is_over() {
            break;
        }
        shell.settle(rename(shell, &source, &destination).await);
    }
    Ok(())
}

async fn rename(shell: &Shell, source: &PathData, destination: &PathData) -> Result<(), Failure> {
    let target = target_of(destination, source.name());
    // The NameNode refuses an existing target too: what fails there is the target, not the source.
    shell
        .dfs
        .rename(&source.path, &target.path, false)
        .await
        .at(&target.shown)
}

/// Runs `-touchz`.
pub(crate) async fn touchz(shell: &Shell) -> Result<(), Failure> {
    for path in shell.expand_all(&shell.args.args).await {
        if shell.is_over() {
            break;
        }
        let outcome = match &path.status {
            Some(status) if status.is_dir => Err(Failure::is_directory(&path.shown)),
            Some(status) if status.length > 0 => Err(Failure::Told(format!(
                "`{}': Not a zero-length file",
                path.shown
            ))),
            _ => make_empty(shell, &path).await,
        };
        shell.settle(outcome);
    }
    Ok(())
}

async fn make_empty(shell: &Shell, path: &PathData) -> Result<(), Failure> {
    let mut options = session::create_options(&shell.config, 0o666 & !shell.umask);
    options.overwrite = path.status.is_some();
    let mut file = shell
        .dfs
        .create(&path.path, &options)
        .await
        .at(&path.shown)?;
    file.close().await.at(&path.shown)
}

/// Runs `-touch`.
pub(crate) async fn touch(shell: &Shell) -> Result<(), Failure> {
    let time = match shell.args.value("t") {
        Some(text) => timestamp(text)?,
        None => humanize::now_ms(),
    };
    let (access, change) = (shell.args.has("a"), shell.args.has("m"));
    let (access, change) = (access || !change, change || !access);
    for path in shell.expand_all(&shell.args.args).await {
        if shell.is_over() {
            break;
        }
        let outcome = async {
            if path.status.is_none() {
                if shell.args.has("c") {
                    return Ok(());
                }
                make_empty(shell, &path).await?;
            }
            shell
                .dfs
                .set_times(&path.path, change.then_some(time), access.then_some(time))
                .await
                .at(&path.shown)
        };
        shell.settle(outcome.await);
    }
    Ok(())
}

/// `yyyyMMdd:HHmmss` in local time, as milliseconds since 1970.
fn timestamp(text: &str) -> Result<u64, Failure> {
    NaiveDateTime::parse_from_str(text, "%Y%m%d:%H%M%S")
        .ok()
        .and_then(|time| Local.from_local_datetime(&time).earliest())
        .and_then(|time| u64::try_from(time.timestamp_millis()).ok())
        .ok_or_else(|| {
            Failure::Usage(format!(
                "Unable to parse the specified timestamp {text}. The expected format is yyyyMMdd:HHmmss"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_hadoop_s() {
        let ms = timestamp("20261121:000405").unwrap();
        assert_eq!(humanize::listing_time(ms), "2026-11-21 00:04");
        assert!(timestamp("2026-11-21").is_err());
    }
}
