//! `hadal fsck`: which files below a path are whole, in HDFS's words.

mod check;
mod report;

use crate::admin::{self, Operator};
use crate::cli::Global;
use crate::console::Console;
use crate::files::path::{absolute, join};
use crate::humanize::{now_ms, report_time};
use anyhow::{Result, anyhow};
use check::{FileCheck, Leaving, Tally};
use clap::Args;
use futures_util::{StreamExt, stream};
use hadal_client::{FaultClass, FileStatus};
use hadal_proto::client::{Request, Response};
use indicatif::ProgressBar;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files asked for at once.
const QUESTIONS: usize = 32;

/// Options of `fsck`.
#[derive(Args, Clone, Debug)]
pub(crate) struct FsckArgs {
    /// Where to start
    path: String,
    /// Print every file
    #[arg(long)]
    files: bool,
    /// Print every block of the files
    #[arg(long)]
    blocks: bool,
    /// Print where the blocks' replicas are
    #[arg(long)]
    locations: bool,
    /// Print the racks of the replicas
    #[arg(long)]
    racks: bool,
    /// Only list files with missing blocks
    #[arg(long = "list-corruptfileblocks")]
    list_corruptfileblocks: bool,
    /// Look at files open for write too
    #[arg(long)]
    openforwrite: bool,
    /// Move corrupted files away (not in this version)
    #[arg(long = "move")]
    move_corrupt: bool,
    /// Delete corrupted files (not in this version)
    #[arg(long)]
    delete: bool,
}

/// Runs the command.
pub(crate) fn run(global: &Global, console: Arc<Console>, args: FsckArgs) -> Result<i32> {
    for (given, what) in [(args.move_corrupt, "-move"), (args.delete, "-delete")] {
        if given {
            return Ok(admin::missing(&console, &format!("fsck {what}")));
        }
    }
    admin::run(global, console, async |operator| {
        let path = absolute(&args.path, "/").map_err(|failure| anyhow!(failure.message()))?;
        match args.list_corruptfileblocks {
            true => list_corrupt(&operator, &path).await,
            false => check_all(&operator, &args, &path).await,
        }
    })
}

async fn list_corrupt(operator: &Operator, path: &str) -> Result<i32> {
    let mut found: Vec<String> = Vec::new();
    let mut cookie = 0;
    loop {
        let request = Request::ListCorruptFileBlocks {
            path: path.to_owned(),
            cookie,
        };
        let (paths, next) = match operator.dfs.call(request).await? {
            Response::CorruptFiles { paths, cookie } => (paths, cookie),
            other => return Err(anyhow!("unexpected answer {}", other.name())),
        };
        found.extend(paths);
        // A page may hold only files of other directories.
        if next == cookie {
            break;
        }
        cookie = next;
    }
    found.sort();
    found.dedup();
    let console = &operator.console;
    if console.json {
        console.json(&json!({ "path": path, "corrupt_files": found }));
    } else if found.is_empty() {
        console.line(format!(
            "The filesystem under path '{path}' has no CORRUPT files"
        ));
    } else {
        console.line(format!(
            "The list of corrupt files under path '{path}' are:"
        ));
        for file in &found {
            console.line(file);
        }
        console.line(format!(
            "The filesystem under path '{path}' has {} CORRUPT files",
            found.len()
        ));
    }
    Ok(i32::from(!found.is_empty()))
}

async fn check_all(operator: &Operator, args: &FsckArgs, path: &str) -> Result<i32> {
    let console = &operator.console;
    let started = Instant::now();
    let Some(top) = operator.dfs.try_file_status(path).await? else {
        match console.json {
            true => console.json(&json!({ "path": path, "status": "NONEXISTENT" })),
            false => console.line(format!("\nPath '{path}' does not exist")),
        }
        return Ok(1);
    };
    if !console.json {
        console.line(format!(
            "FSCK started for path {path} at {}",
            report_time(now_ms())
        ));
    }
    let mut tally = Tally {
        default_replication: operator.dfs.server_defaults().await?.replication,
        ..Tally::default()
    };
    // Only operators may ask for all DataNodes; others see those that hold something.
    let mut leaving = Leaving::default();
    if let Ok((_, nodes)) = operator.datanodes().await {
        let live = nodes.iter().filter(|node| node.state != "dead");
        for node in live {
            tally.datanodes.insert(node.name.clone());
            tally.racks.insert(node.rack.clone());
        }
        let in_state = |wanted: &str| {
            let found = nodes.iter().filter(|node| node.state == wanted);
            found.map(|node| node.name.clone()).collect()
        };
        leaving.decommissioned = in_state("decommissioned");
        leaving.decommissioning = in_state("decommissioning");
    }
    let spinner = match console.shows_progress() {
        true => {
            let spinner = ProgressBar::new_spinner();
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        }
        false => ProgressBar::hidden(),
    };
    let mut problems = Vec::new();
    let mut run = Run {
        operator,
        args,
        leaving: &leaving,
        tally: &mut tally,
        problems: &mut problems,
        spinner: &spinner,
    };
    run.walk(path, top).await?;
    spinner.finish_and_clear();
    let healthy = tally.is_healthy();
    let verdict = if healthy { "HEALTHY" } else { "CORRUPT" };
    if console.json {
        let mut summary = report::summary_json(&tally);
        summary["path"] = json!(path);
        summary["status"] = json!(verdict);
        summary["files"] = json!(problems);
        console.json(&summary);
    } else {
        for line in report::summary(&tally) {
            console.line(line);
        }
        console.line(format!(
            "FSCK ended at {} in {} milliseconds\n\n\nThe filesystem under path '{path}' is {verdict}",
            report_time(now_ms()),
            started.elapsed().as_millis()
        ));
    }
    Ok(i32::from(!healthy))
}

struct Run<'a> {
    operator: &'a Operator,
    args: &'a FsckArgs,
    leaving: &'a Leaving,
    tally: &'a mut Tally,
    /// For JSON: files with a problem, or with `-files` all.
    problems: &'a mut Vec<serde_json::Value>,
    spinner: &'a ProgressBar,
}

impl Run<'_> {
    async fn walk(&mut self, path: &str, top: FileStatus) -> Result<()> {
        if !top.is_dir {
            return self.files(vec![(path.to_owned(), top)]).await;
        }
        let mut left = vec![path.to_owned()];
        while let Some(directory) = left.pop() {
            self.tally.directories += 1;
            self.spinner.set_message(directory.clone());
            let entries = match self.operator.dfs.list(&directory).await {
                // Removed since it was listed.
                Err(error) if error.class() == Some(FaultClass::NotFound) => continue,
                entries => entries?,
            };
            if self.args.files && !self.operator.console.json {
                self.operator.console.line(format!("{directory} <dir>"));
            }
            let (directories, files): (Vec<_>, Vec<_>) = entries
                .into_iter()
                .map(|entry| (join(&directory, &entry.name), entry))
                .partition(|(_, entry)| entry.is_dir);
            left.extend(directories.into_iter().rev().map(|(path, _)| path));
            self.files(files).await?;
        }
        Ok(())
    }

    async fn files(&mut self, files: Vec<(String, FileStatus)>) -> Result<()> {
        let dfs = &self.operator.dfs;
        let mut answers = stream::iter(files)
            .map(async |(path, status)| {
                let located = dfs.locations(&path, 0, u64::MAX).await;
                (path, status, located)
            })
            .buffered(QUESTIONS);
        while let Some((path, status, located)) = answers.next().await {
            let located = match located {
                Err(error) if error.class() == Some(FaultClass::NotFound) => continue,
                located => located?,
            };
            self.spinner.inc(1);
            if located.under_construction && !self.args.openforwrite {
                self.tally.add_open(&located);
                continue;
            }
            let file = FileCheck::new(path, &status, located, self.leaving);
            self.tally.add(&file);
            if self.operator.console.json {
                if self.args.files || !file.is_whole() {
                    self.problems
                        .push(report::file_json(&file, self.args.blocks));
                }
                continue;
            }
            for line in report::file(&file, self.args) {
                self.operator.console.line(line);
            }
        }
        Ok(())
    }
}

/// Names seen, for counting.
type Names = BTreeSet<String>;
