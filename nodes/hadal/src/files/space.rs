//! `-du`, `-df`, `-count`: how much there is.

use super::failure::{At, Failure};
use super::path::PathData;
use super::shell::Shell;
use crate::humanize::{self, Table};
use futures_util::{StreamExt, stream};
use hadal_client::ContentSummary;
use serde_json::json;

/// Summaries asked for at once.
const SUMMARIES: usize = 16;

/// The arguments, or the user's home when there are none.
fn arguments(shell: &Shell) -> Vec<String> {
    match &shell.args.args[..] {
        [] => vec![".".into()],
        some => some.to_vec(),
    }
}

/// Runs `-du`.
pub(crate) async fn du(shell: &Shell) -> Result<(), Failure> {
    let (sums, human) = (shell.args.has("s"), shell.args.has("h"));
    let mut wanted = Vec::new();
    for path in shell.existing(&arguments(shell)).await {
        if sums || !path.is_dir() {
            wanted.push(path);
            continue;
        }
        match shell.children(&path).await {
            Ok(children) => wanted.extend(children),
            Err(failure) => shell.complain(&failure),
        }
    }
    let mut table = Table::new(&[false, false, false]);
    if shell.args.has("v") {
        table.row(
            [
                "SIZE",
                "DISK_SPACE_CONSUMED_WITH_ALL_REPLICAS",
                "FULL_PATH_NAME",
            ]
            .map(str::to_owned),
        );
    }
    let mut answers = stream::iter(wanted)
        .map(|path| summary(shell, path))
        .buffered(SUMMARIES);
    while let Some((path, outcome)) = answers.next().await {
        match outcome {
            Ok(summary) if shell.console.json => shell.row(json!({
                "path": path.path,
                "length": summary.length,
                "space_consumed": summary.space_consumed,
            })),
            Ok(summary) => table.row([
                humanize::size(summary.length, human),
                humanize::size(summary.space_consumed, human),
                path.shown,
            ]),
            Err(failure) => shell.complain(&failure),
        }
    }
    for line in table.lines() {
        shell.line(line);
    }
    Ok(())
}

async fn summary(shell: &Shell, path: PathData) -> (PathData, Result<ContentSummary, Failure>) {
    let outcome = shell.dfs.content_summary(&path.path).await.at(&path.shown);
    (path, outcome)
}

/// Runs `-df`.
pub(crate) async fn df(shell: &Shell) -> Result<(), Failure> {
    let human = shell.args.has("h");
    // There is one file system; the paths only have to be there.
    if !shell.args.args.is_empty() && shell.existing(&shell.args.args).await.is_empty() {
        return Ok(());
    }
    let stats = shell.dfs.fs_stats().await.at("/")?;
    if shell.console.json {
        shell.row(json!({
            "filesystem": "hadal:///",
            "capacity": stats.capacity,
            "used": stats.used,
            "remaining": stats.remaining,
        }));
        return Ok(());
    }
    let mut table = Table::new(&[false, true, true, true, true]);
    table.row(["Filesystem", "Size", "Used", "Available", "Use%"].map(str::to_owned));
    let used = match stats.capacity {
        0 => 0.0,
        capacity => stats.used as f64 * 100.0 / capacity as f64,
    };
    table.row([
        "hadal:///".into(),
        humanize::size(stats.capacity, human),
        humanize::size(stats.used, human),
        humanize::size(stats.remaining, human),
        format!("{used:.0}%"),
    ]);
    for line in table.lines() {
        shell.line(line);
    }
    Ok(())
}

/// Runs `-count`.
pub(crate) async fn count(shell: &Shell) -> Result<(), Failure> {
    let columns = Columns {
        quota: shell.args.has("q") || shell.args.has("u"),
        counts: !shell.args.has("u"),
        human: shell.args.has("h"),
    };
    if shell.args.has("v") && !shell.console.json {
        shell.line(columns.header());
    }
    let found = shell.existing(&shell.args.args).await;
    let mut answers = stream::iter(found)
        .map(|path| summary(shell, path))
        .buffered(SUMMARIES);
    while let Some((path, outcome)) = answers.next().await {
        match outcome {
            Ok(summary) if shell.console.json => shell.row(json!({
                "path": path.path,
                "directories": summary.directories,
                "files": summary.files,
                "length": summary.length,
                "space_consumed": summary.space_consumed,
                "quota": (summary.quota != u64::MAX).then_some(summary.quota),
                "space_quota": (summary.space_quota != u64::MAX).then_some(summary.space_quota),
            })),
            Ok(summary) => shell.line(columns.line(&summary, &path.shown)),
            Err(failure) => shell.complain(&failure),
        }
    }
    Ok(())
}

/// Which columns `-count` shows.
struct Columns {
    quota: bool,
    counts: bool,
    human: bool,
}

impl Columns {
    fn header(&self) -> String {
        let mut text = String::new();
        if self.quota {
            text += &format!(
                "{:>12} {:>15} {:>15} {:>15} ",
                "QUOTA", "REM_QUOTA", "SPACE_QUOTA", "REM_SPACE_QUOTA"
            );
        }
        if self.counts {
            text += &format!(
                "{:>12} {:>12} {:>18} ",
                "DIR_COUNT", "FILE_COUNT", "CONTENT_SIZE"
            );
        }
        text + "PATHNAME"
    }

    fn line(&self, summary: &ContentSummary, path: &str) -> String {
        let mut text = String::new();
        let size = |bytes| humanize::size(bytes, self.human);
        if self.quota {
            // A quota may have been passed before it was set: what remains is then negative.
            let rest = |quota: u64, used: u64| match quota {
                u64::MAX => ("none".to_owned(), "inf".to_owned()),
                _ if used > quota => (size(quota), format!("-{}", size(used - quota))),
                _ => (size(quota), size(quota - used)),
            };
            let (quota, left) = rest(summary.quota, summary.directories + summary.files);
            let (space, space_left) = rest(summary.space_quota, summary.space_consumed);
            text += &format!("{quota:>12} {left:>15} {space:>15} {space_left:>15} ");
        }
        if self.counts {
            text += &format!(
                "{:>12} {:>12} {:>18} ",
                size(summary.directories),
                size(summary.files),
                size(summary.length)
            );
        }
        text + path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stand_in_hdfs_s_columns() {
        let mut summary = ContentSummary {
            directories: 2,
            files: 3,
            length: 1536,
            space_consumed: 4608,
            quota: u64::MAX,
            space_quota: u64::MAX,
        };
        let mut columns = Columns {
            quota: false,
            counts: true,
            human: false,
        };
        assert_eq!(
            columns.line(&summary, "/a"),
            "           2            3               1536 /a"
        );
        columns.quota = true;
        assert_eq!(
            columns.line(&summary, "/a"),
            "        none             inf            none             inf            2            3               1536 /a"
        );
        assert_eq!(
            columns.header(),
            "       QUOTA       REM_QUOTA     SPACE_QUOTA REM_SPACE_QUOTA    DIR_COUNT   FILE_COUNT       CONTENT_SIZE PATHNAME"
        );
        summary.quota = 4;
        columns.counts = false;
        assert_eq!(
            columns.line(&summary, "/a"),
            "           4              -1            none             inf /a"
        );
    }
}
