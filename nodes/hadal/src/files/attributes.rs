//! `-chmod`, `-chown`, `-chgrp`, `-setrep`: what is written at files and directories.

use super::failure::{At, Failure};
use super::mode::Mode;
use super::path::PathData;
use super::shell::{Shell, paths};
use futures_util::StreamExt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// Changes under way at once.
const CHANGES: usize = 16;
/// Between two looks at the replicas of a file that is waited for.
const WAIT: Duration = Duration::from_millis(250);
/// A dot is printed after so many looks.
const LOOKS_PER_DOT: u32 = 40;

/// Does `work` on the paths of `arguments`, with `recursive` on everything below; it may return a line to print.
async fn change<'a, F, W>(shell: &'a Shell, arguments: &[String], recursive: bool, work: W)
where
    F: Future<Output = Result<Option<String>, Failure>>,
    W: Fn(&'a Shell, PathData) -> F,
{
    let tops = shell.existing(arguments).await;
    let mut changes = pin!(
        paths(shell, tops, recursive)
            .map(|path| work(shell, path))
            .buffered(CHANGES)
    );
    while let Some(outcome) = changes.next().await {
        match outcome {
            Ok(Some(line)) => shell.line(line),
            Ok(None) => {}
            Err(failure) => shell.complain(&failure),
        }
    }
}

/// Runs `-chmod`.
pub(crate) async fn chmod(shell: &Shell) -> Result<(), Failure> {
    let (text, arguments) = shell.args.args.split_first().expect("two arguments");
    let mode = &Mode::parse(text).map_err(Failure::Usage)?;
    let recursive = shell.args.has("R");
    change(shell, arguments, recursive, |shell, path| async move {
        let status = path.require()?;
        let bits = mode.apply(status.permission, status.is_dir);
        if bits != status.permission {
            let done = shell.dfs.set_permission(&path.path, bits).await;
            done.at(&path.shown)?;
        }
        Ok(None)
    })
    .await;
    Ok(())
}

/// Runs `-chown`.
pub(crate) async fn chown(shell: &Shell) -> Result<(), Failure> {
    let (text, arguments) = shell.args.args.split_first().expect("two arguments");
    let (owner, group) = parse_owner(text)?;
    set_owner(shell, arguments, owner, group).await;
    Ok(())
}

/// Runs `-chgrp`.
pub(crate) async fn chgrp(shell: &Shell) -> Result<(), Failure> {
    let (text, arguments) = shell.args.args.split_first().expect("two arguments");
    if text.is_empty() || !is_account(text) {
        return Err(Failure::Usage(format!(
            "'{text}' does not match expected pattern for group"
        )));
    }
    set_owner(shell, arguments, None, Some(text)).await;
    Ok(())
}

async fn set_owner(shell: &Shell, arguments: &[String], owner: Option<&str>, group: Option<&str>) {
    let recursive = shell.args.has("R");
    change(shell, arguments, recursive, |shell, path| async move {
        let status = path.require()?;
        let owner = owner.filter(|owner| *owner != status.owner);
        let group = group.filter(|group| *group != status.group);
        if owner.is_some() || group.is_some() {
            let done = shell.dfs.set_owner(&path.path, owner, group).await;
            done.at(&path.shown)?;
        }
        Ok(None)
    })
    .await;
}

/// `[OWNER][:[GROUP]]`.
fn parse_owner(text: &str) -> Result<(Option<&str>, Option<&str>), Failure> {
    let (owner, group) = text.split_once(':').unwrap_or((text, ""));
    if text.is_empty() || !is_account(owner) || !is_account(group) {
        return Err(Failure::Usage(format!(
            "'{text}' does not match expected pattern for [owner][:group]."
        )));
    }
    let some = |name: &'_ str| !name.is_empty();
    Ok((
        Some(owner).filter(|name| some(name)),
        Some(group).filter(|name| some(name)),
    ))
}

/// Letters Hadoop takes in the name of a user or group.
fn is_account(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_./@".contains(c))
}

/// Runs `-setrep`.
pub(crate) async fn setrep(shell: &Shell) -> Result<(), Failure> {
    let (text, arguments) = shell.args.args.split_first().expect("two arguments");
    let replication: u16 = match text.parse() {
        Ok(0) => return Err(Failure::Usage("replication must be >= 1".into())),
        Ok(count) => count,
        Err(_) => {
            return Err(Failure::Usage(
                "Illegal replication, a positive integer expected".into(),
            ));
        }
    };
    // A directory means the files below it, with and without -R.
    change(shell, arguments, true, |shell, path| async move {
        if path.is_dir() {
            return Ok(None);
        }
        let done = shell.dfs.set_replication(&path.path, replication).await;
        Ok(match done.at(&path.shown)? {
            true => Some(format!("Replication {replication} set: {}", path.shown)),
            false => {
                return Err(Failure::Told(format!(
                    "Could not set replication for: {}",
                    path.shown
                )));
            }
        })
    })
    .await;
    if !shell.args.has("w") {
        return Ok(());
    }
    let tops = shell.existing(arguments).await;
    let mut files = pin!(paths(shell, tops, true).filter(|path| {
        let is_file = !path.is_dir();
        async move { is_file }
    }));
    while let Some(file) = files.next().await {
        shell.settle(wait_for_replicas(shell, &file, replication).await);
    }
    Ok(())
}

async fn wait_for_replicas(
    shell: &Shell,
    file: &PathData,
    replication: u16,
) -> Result<(), Failure> {
    let say = |text: &str| {
        shell.console.bytes(text.as_bytes());
        shell.console.flush();
    };
    say(&format!("Waiting for {} ...", file.shown));
    let mut looks = 0;
    loop {
        let located = shell
            .dfs
            .locations(&file.path, 0, u64::MAX)
            .await
            .at(&file.shown)?;
        let wanted = usize::from(replication);
        let reached = located
            .blocks
            .iter()
            .all(|block| block.locations.len() == wanted);
        if reached {
            say(" done\n");
            return Ok(());
        }
        looks += 1;
        if looks % LOOKS_PER_DOT == 0 {
            say(".");
        }
        tokio::time::sleep(WAIT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_groups_are_told_apart() {
        assert_eq!(parse_owner("a").unwrap(), (Some("a"), None));
        assert_eq!(parse_owner("a:b").unwrap(), (Some("a"), Some("b")));
        assert_eq!(parse_owner(":b").unwrap(), (None, Some("b")));
        assert_eq!(parse_owner("a:").unwrap(), (Some("a"), None));
        for bad in ["", "a b", "a:b:c", "a!"] {
            assert!(parse_owner(bad).is_err(), "{bad}");
        }
    }
}
