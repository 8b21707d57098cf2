//! `namespace`: operations of the NameNode, named as NNThroughputBenchmark names them, over QUIC from one client process.

use crate::cluster::{Cluster, one_worker};
use crate::load::{Measured, closed, deal};
use crate::report::{Better, Question, Row, Run};
use crate::settings::{Settings, given_or};
use anyhow::{Context, Result, bail, ensure};
use hadal_client::{CreateOptions, Dfs};

/// Connections that the callers share evenly: one, as callers in one program share a file system, and as HDFS's own
/// client keeps one per server and user. (HDFS was measured with 64 callers on 16, which served it better.)
const CONNECTIONS: usize = 1;
/// Callers: one, an odd number that shares nothing evenly, and the goal's.
const THREADS: [usize; 3] = [1, 3, 64];
/// Operations per run.
const FILES: usize = 20_000;
/// Operations per run and caller at most, unless told otherwise: one caller need not make 20 000.
const FILES_PER_THREAD: usize = 2_000;
/// Files of one directory.
const FILES_PER_DIR: usize = 100;
const ROOT: &str = "/bench";

/// One operation of the NameNode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A directory below one that is there.
    Mkdirs,
    /// A file, created and completed.
    Create,
    /// Block locations, which is what opening asks for.
    Open,
    /// `getFileInfo`.
    FileStatus,
    /// Within the directory.
    Rename,
    /// One file.
    Delete,
}

impl Operation {
    /// In the order in which one run makes them: each needs what those before it made.
    pub const ALL: [Self; 6] = [
        Self::Mkdirs,
        Self::Create,
        Self::Open,
        Self::FileStatus,
        Self::Rename,
        Self::Delete,
    ];

    /// NNThroughputBenchmark's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mkdirs => "mkdirs",
            Self::Create => "create",
            Self::Open => "open",
            Self::FileStatus => "fileStatus",
            Self::Rename => "rename",
            Self::Delete => "delete",
        }
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// [`bail`]s with the names there are; NNThroughputBenchmark's others are unsupported by name.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some(operation) = Self::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
        {
            return Ok(operation);
        }
        let known: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
        if ["append", "blockReport", "replication", "clean"].contains(&name) {
            bail!(
                "UnsupportedOperation: {name} is not measured by this version; there are: {}",
                known.join(", ")
            );
        }
        bail!("no operation `{name}'; there are: {}", known.join(", "))
    }

    /// Whether it needs files that are there.
    fn needs_files(self) -> bool {
        !matches!(self, Self::Mkdirs | Self::Create)
    }
}

/// Paths of one run: directories first, then a name per operation.
struct Paths {
    base: String,
    files: usize,
}

impl Paths {
    fn new(threads: usize, run: usize, files: usize) -> Self {
        Self {
            base: format!("{ROOT}/namespace/t{threads}/r{run}"),
            files,
        }
    }

    fn directories(&self) -> impl Iterator<Item = String> {
        (0..self.files.div_ceil(FILES_PER_DIR)).map(|number| format!("{}/d{number}", self.base))
    }

    fn names(&self, prefix: &str) -> impl Iterator<Item = String> {
        (0..self.files).map(move |number| {
            format!("{}/d{}/{prefix}{number}", self.base, number / FILES_PER_DIR)
        })
    }

    /// Inputs of an operation: a path, and for a rename the one it moves to. `renamed` says that the files were
    /// renamed by the operation before.
    fn inputs(&self, operation: Operation, renamed: bool) -> Vec<(String, String)> {
        let here = match operation {
            Operation::Mkdirs => "sub",
            Operation::Delete if renamed => "moved",
            _ => "file",
        };
        let to = |path: &String| path.replace("/file", "/moved");
        self.names(here)
            .map(|path| match operation {
                Operation::Rename => (path.clone(), to(&path)),
                _ => (path, String::new()),
            })
            .collect()
    }
}

/// Asks the question of a cluster of its own, or of the one the settings name.
///
/// # Errors
/// When the cluster does not come up, or an operation fails.
pub fn run(settings: &Settings) -> Result<Question> {
    let operations = operations(settings)?;
    let cluster = Cluster::open(settings)?;
    let threads = given_or(&settings.threads, &THREADS);
    let mut rows = Vec::new();
    for threads in threads {
        rows.extend(rows_of(&cluster, settings, *threads, &operations)?);
    }
    let who = if settings.non_super_user {
        "a user, permissions checked"
    } else {
        "the superuser"
    };
    Ok(Question {
        name: "namespace".into(),
        notes: vec![
            format!(
                "called by {who}; every mutation is durable on a majority of JournalNodes before it is answered"
            ),
            "create is create + complete of an empty file, two calls; open is getBlockLocations"
                .into(),
            cluster.values()?,
        ],
        rows,
    })
}

fn operations(settings: &Settings) -> Result<Vec<Operation>> {
    let wanted: Result<Vec<Operation>> = settings
        .operations
        .iter()
        .map(|name| Operation::parse(name))
        .collect();
    let wanted = wanted?;
    if settings.use_existing
        && (wanted.is_empty()
            || wanted
                .iter()
                .any(|op| *op != Operation::Open && *op != Operation::FileStatus))
    {
        bail!(
            "--use-existing goes with --op open and --op fileStatus: the other operations make or change files"
        );
    }
    let all = Operation::ALL.into_iter();
    Ok(all
        .filter(|operation| wanted.is_empty() || wanted.contains(operation))
        .collect())
}

fn files_per_run(settings: &Settings, threads: usize) -> usize {
    settings
        .files
        .unwrap_or_else(|| FILES.min(threads * FILES_PER_THREAD))
}

fn rows_of(
    cluster: &Cluster,
    settings: &Settings,
    threads: usize,
    operations: &[Operation],
) -> Result<Vec<Row>> {
    ensure!(threads > 0, "--threads 0: at least one caller is needed");
    let files = files_per_run(settings, threads);
    ensure!(files > 0, "--files 0: there is nothing to measure");
    let connections = settings.connections.unwrap_or(CONNECTIONS).min(threads);
    ensure!(connections > 0, "--connections 0: at least one is needed");
    let mut measured: Vec<Vec<Run>> = vec![Vec::new(); operations.len()];
    one_worker()?.block_on(async {
        let admin = cluster.clients(1, true)?.remove(0);
        let clients = cluster.clients(connections, !settings.non_super_user)?;
        admin.mkdirs(ROOT, 0o777, true).await?;
        admin.set_permission(ROOT, 0o777).await?;
        for round in 0..=settings.runs {
            // The first round warms up with a quarter of the files.
            let count = if round == 0 { files.div_ceil(4) } else { files };
            let paths = Paths::new(threads, round, count);
            let existing = settings.use_existing;
            if !existing {
                admin.delete(&paths.base, true).await?;
                prepare(&clients, &paths, operations).await?;
            }
            let mut renamed = false;
            for (operation, runs) in operations.iter().zip(&mut measured) {
                let cpu = cluster.cpu_seconds()?;
                let inputs = deal(paths.inputs(*operation, renamed), threads);
                let load = load(*operation, inputs, &clients).await;
                let load =
                    load.with_context(|| format!("{} with {threads} callers", operation.name()))?;
                renamed |= *operation == Operation::Rename;
                if round > 0 {
                    runs.push(Run {
                        value: load.per_second(),
                        cpu: Some((cluster.cpu_seconds()? - cpu) / load.operations as f64 * 1e3),
                        latencies: Some(load.latencies),
                    });
                }
            }
            if !settings.keep_results && !existing {
                admin.delete(&paths.base, true).await?;
            }
        }
        anyhow::Ok(())
    })?;
    let label = format!("{threads} callers, {connections} connections, {files} ops");
    let rows = operations.iter().zip(&measured);
    rows.map(|(operation, runs)| {
        Row::new(
            operation.name(),
            label.clone(),
            ("ops/s", Better::Higher),
            "1000 ops",
            runs,
        )
    })
    .collect()
}

/// Makes what the operations need, unmeasured: directories, and files when nothing measured makes them.
async fn prepare(clients: &[Dfs], paths: &Paths, operations: &[Operation]) -> Result<()> {
    const PREPARERS: usize = 64;
    clients[0].mkdirs(&paths.base, 0o777, true).await?;
    let directories = paths
        .directories()
        .map(|path| (path, String::new()))
        .collect();
    load(Operation::Mkdirs, deal(directories, PREPARERS), clients).await?;
    if operations.iter().any(|operation| operation.needs_files())
        && !operations.contains(&Operation::Create)
    {
        let inputs = paths.inputs(Operation::Create, false);
        load(Operation::Create, deal(inputs, PREPARERS), clients).await?;
    }
    Ok(())
}

async fn load(
    operation: Operation,
    inputs: Vec<Vec<(String, String)>>,
    clients: &[Dfs],
) -> Result<Measured> {
    let client = |caller: usize| clients[caller % clients.len()].clone();
    closed(inputs, client, move |dfs: Dfs, (path, to)| async move {
        match operation {
            Operation::Mkdirs => ensure!(
                dfs.mkdirs(&path, 0o755, false).await?,
                "{path} was not made"
            ),
            Operation::Create => {
                let options = CreateOptions {
                    create_parent: false,
                    ..CreateOptions::default()
                };
                dfs.create(&path, &options).await?.close().await?;
            }
            Operation::Open => drop(dfs.locations(&path, 0, u64::MAX).await?),
            Operation::FileStatus => drop(dfs.file_status(&path).await?),
            Operation::Rename => dfs.rename(&path, &to, false).await?,
            Operation::Delete => ensure!(dfs.delete(&path, false).await?, "{path} was not there"),
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// T-B1: inputs are all there before the clock starts, each once, for 1, 3 and 64 callers.
    #[test]
    fn t_b1_inputs_are_distinct_and_below_prepared_directories() {
        let paths = Paths::new(64, 1, 1001);
        let directories: BTreeSet<String> = paths.directories().collect();
        assert_eq!(directories.len(), 11);
        for operation in Operation::ALL {
            let inputs = paths.inputs(operation, false);
            let distinct: BTreeSet<&String> = inputs.iter().map(|(path, _)| path).collect();
            assert_eq!(distinct.len(), 1001);
            let parent = |path: &str| path.rsplit_once('/').unwrap().0.to_owned();
            assert!(
                distinct
                    .iter()
                    .all(|path| directories.contains(&parent(path)))
            );
        }
    }

    #[test]
    fn a_delete_removes_what_a_rename_left() {
        let paths = Paths::new(1, 1, 5);
        let moved: Vec<String> = paths
            .inputs(Operation::Rename, false)
            .into_iter()
            .map(|(_, to)| to)
            .collect();
        let deleted = |renamed| {
            paths
                .inputs(Operation::Delete, renamed)
                .into_iter()
                .map(|(path, _)| path)
        };
        assert!(deleted(true).eq(moved));
        assert!(deleted(false).eq(paths.names("file")));
    }

    #[test]
    fn operations_are_known_by_hadoops_names() {
        for operation in Operation::ALL {
            assert_eq!(Operation::parse(operation.name()).unwrap(), operation);
        }
        let unsupported = Operation::parse("blockReport").unwrap_err().to_string();
        assert!(
            unsupported.starts_with("UnsupportedOperation: blockReport"),
            "{unsupported}"
        );
        assert!(
            Operation::parse("bogus")
                .unwrap_err()
                .to_string()
                .contains("fileStatus")
        );
    }

    #[test]
    fn existing_files_are_only_read() {
        let mut settings = Settings::new(std::env::temp_dir());
        settings.use_existing = true;
        assert!(operations(&settings).is_err());
        settings.operations = vec!["delete".into()];
        assert!(operations(&settings).is_err());
        settings.operations = vec!["fileStatus".into(), "open".into()];
        assert_eq!(
            operations(&settings).unwrap(),
            [Operation::Open, Operation::FileStatus]
        );
    }

    #[test]
    fn one_caller_makes_fewer_operations_unless_told() {
        let mut settings = Settings::new(std::env::temp_dir());
        assert_eq!(files_per_run(&settings, 1), 2_000);
        assert_eq!(files_per_run(&settings, 64), 20_000);
        settings.files = Some(7);
        assert_eq!(files_per_run(&settings, 64), 7);
    }
}
