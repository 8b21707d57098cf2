//! `hadal-bench QUESTION [--json FILE] [--plot FILE.svg]`, `hadal-bench compare A.json B.json`.

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use hadal_bench::environment::Environment;
use hadal_bench::report::{DOCUMENT_VERSION, Document, Question};
use hadal_bench::settings::{Settings, normalise, parse_bytes};
use hadal_bench::{
    balancer, block_report, compare, curves, disk, edits, failover, flush, goals, image, memory,
    namespace, pipeline, plot, quic, recovery, restart, small_files, standby,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Calls make many small allocations: with this and link-time optimisation a mkdirs costs 12 % less processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes, as `hadal` has them.
const FAILED: u8 = 1;
const USAGE: u8 = 255;

/// Measures Hadal: throughput, latency and cost of what it does, beside what the hardware allows.
#[derive(Parser)]
#[command(name = "hadal-bench", version)]
struct Arguments {
    #[command(subcommand)]
    question: Ask,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand, Clone, Copy, PartialEq, Eq, Debug)]
enum Measured {
    /// The device, through a shard.
    Disk,
    /// The transport on loopback.
    Quic,
    /// One large file, three replicas, written and read back.
    Pipeline,
    /// Records to a quorum of JournalNodes.
    Edits,
    /// Operations of the NameNode.
    Namespace,
    /// Create, 64 KiB, close.
    SmallFiles,
    /// Block reports, first and repeated.
    BlockReport,
    /// Saving and loading the namespace.
    Image,
    /// A NameNode's core from its image to serving, by digests and by full reports.
    Restart,
    /// Bytes per file with a block and three locations.
    Memory,
    /// From the death of the active NameNode to the next write.
    Failover,
    /// How far a standby is behind, and what its checkpoints cost the active.
    Standby,
    /// Appended records, each flushed.
    Flush,
    /// The loss of a DataNode: replicas made again, a writer that goes on.
    Recovery,
    /// Blocks moved to a DataNode that was added.
    Balancer,
}

#[derive(Subcommand)]
enum Ask {
    #[command(flatten)]
    One(Measured),
    /// Every question this version answers.
    All,
    /// How costs grow: tables, pictures and the figures of the cost model, into `--out`.
    Curves,
    /// Goals beside what HDFS does and what is measured here, into `--out`.
    Goals,
    /// What `memory` starts this program as.
    #[command(hide = true)]
    Footprint,
    /// Ratios of two results.
    Compare {
        /// The result compared with.
        first: PathBuf,
        /// The result compared.
        second: PathBuf,
    },
}

#[derive(Parser)]
struct Options {
    /// Also write the result as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the result.
    #[arg(long, global = true, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Measured runs of every row, after one warm-up.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..))]
    runs: u16,
    /// Seconds of one run of a row that is measured by time.
    #[arg(long, global = true, default_value_t = 2.0)]
    seconds: f64,
    /// Where curves and goals are written; the model is `SCALE.md` beside it.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "bench/results"
    )]
    out: PathBuf,
    /// Curves of the core only, no cluster is started.
    #[arg(long, global = true)]
    core_only: bool,
    /// Where files and clusters are made: the device that is measured.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Bytes of one file (disk, pipeline), as in 2GiB.
    #[arg(long, global = true, value_parser = size)]
    bytes: Option<u64>,
    /// A running development cluster (pipeline, namespace, small-files).
    #[arg(long, global = true, value_name = "DIR")]
    cluster: Option<PathBuf>,
    /// First port of a cluster of its own.
    #[arg(long, global = true)]
    port_base: Option<u16>,
    /// Callers, one row each (namespace, edits, small-files).
    #[arg(long, global = true, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Connections that the callers share (namespace, small-files): one by default, as callers in one program share a file system.
    #[arg(long, global = true)]
    connections: Option<usize>,
    /// Operations or files per run (namespace, small-files, image); files there are (failover, standby).
    #[arg(long, global = true)]
    files: Option<usize>,
    /// Calls per second in all, beside which checkpoints are made (standby): by default half of what the callers can make.
    #[arg(long, global = true)]
    rate: Option<f64>,
    /// Operations of namespace: mkdirs, create, open, fileStatus, rename, delete.
    #[arg(long, global = true, value_delimiter = ',')]
    op: Vec<String>,
    /// Blocks of one storage, one row each (block-report).
    #[arg(long, global = true, value_delimiter = ',')]
    blocks: Vec<usize>,
    /// DataNodes that report (block-report).
    #[arg(long, global = true)]
    datanodes: Option<usize>,
    /// Repeated reports of each DataNode (block-report).
    #[arg(long, global = true)]
    reports: Option<usize>,
    /// Bytes of UDP payload per datagram, in clusters of its own (`cluster.mtu`): as the path allows by default.
    #[arg(long, global = true)]
    mtu: Option<u16>,
    /// Leave what namespace made.
    #[arg(long, global = true)]
    keep_results: bool,
    /// Use what an earlier namespace run left.
    #[arg(long, global = true)]
    use_existing: bool,
    /// Call namespace as a user whose permissions are checked.
    #[arg(long, global = true)]
    non_super_user: bool,
}

fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

impl Options {
    fn settings(&self) -> Result<Settings> {
        let time =
            Duration::try_from_secs_f64(self.seconds).context("--seconds is no length of time")?;
        Ok(Settings {
            runs: usize::from(self.runs),
            time,
            bytes: self.bytes,
            cluster: self.cluster.clone(),
            port_base: self.port_base,
            threads: self.threads.clone(),
            connections: self.connections,
            files: self.files,
            rate: self.rate,
            operations: self.op.clone(),
            blocks: self.blocks.clone(),
            datanodes: self.datanodes,
            reports: self.reports,
            mtu: self.mtu,
            keep_results: self.keep_results,
            use_existing: self.use_existing,
            non_super_user: self.non_super_user,
            ..Settings::new(self.dir.clone().unwrap_or_else(std::env::temp_dir))
        })
    }
}

fn measure(question: Measured, settings: &Settings) -> Result<Question> {
    match question {
        Measured::Disk => disk::run(settings),
        Measured::Quic => quic::run(settings),
        Measured::Pipeline => pipeline::run(settings),
        Measured::Edits => edits::run(settings),
        Measured::Namespace => namespace::run(settings),
        Measured::SmallFiles => small_files::run(settings),
        Measured::BlockReport => block_report::run(settings),
        Measured::Image => image::run(settings),
        Measured::Restart => restart::run(settings),
        Measured::Memory => memory::run(settings),
        Measured::Failover => failover::run(settings),
        Measured::Standby => standby::run(settings),
        Measured::Flush => flush::run(settings),
        Measured::Recovery => recovery::run(settings),
        Measured::Balancer => balancer::run(settings),
    }
}

/// What `all` asks, limits first.
const ALL: [Measured; 15] = [
    Measured::Disk,
    Measured::Quic,
    Measured::Edits,
    Measured::Namespace,
    Measured::SmallFiles,
    Measured::Pipeline,
    Measured::BlockReport,
    Measured::Image,
    Measured::Restart,
    Measured::Memory,
    Measured::Failover,
    Measured::Standby,
    Measured::Flush,
    Measured::Recovery,
    Measured::Balancer,
];

/// Says where it is measured.
fn begin(environment: &Environment) {
    println!("{}\n", environment.line());
    if !environment.optimised {
        eprintln!(
            "hadal-bench: this is a debug build, its figures mean nothing: use cargo run --release"
        );
    }
}

/// Writes what the options ask for.
fn keep(document: &Document, options: &Options) -> Result<()> {
    if let Some(path) = &options.json {
        document.save(path)?;
    }
    if let Some(path) = &options.plot {
        plot::save(document, path)?;
    }
    Ok(())
}

fn ask(questions: &[Measured], options: &Options, command: String) -> Result<ExitCode> {
    let settings = options.settings()?;
    let environment = Environment::read(&settings.dir);
    begin(&environment);
    let mut document = Document {
        version: DOCUMENT_VERSION,
        environment,
        command,
        questions: Vec::new(),
    };
    let mut failed = false;
    for question in questions {
        match measure(*question, &settings) {
            Ok(answer) => {
                println!("{}", answer.table());
                document.questions.push(answer);
            }
            Err(error) => {
                eprintln!("hadal-bench: {error:#}");
                failed = true;
            }
        }
    }
    if !document.questions.is_empty() {
        keep(&document, options)?;
    }
    Ok(if failed {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn grow(options: &Options, command: String) -> Result<ExitCode> {
    let settings = options.settings()?;
    let environment = Environment::read(&settings.dir);
    println!("{}\n", environment.line());
    let mut questions = curves::measure(curves::Part::Core, &settings)?;
    let mut code = ExitCode::SUCCESS;
    if !options.core_only {
        match curves::measure(curves::Part::Cluster, &settings) {
            Ok(more) => questions.extend(more),
            Err(error) => {
                eprintln!("hadal-bench: {error:#}");
                code = ExitCode::from(FAILED);
            }
        }
    }
    let document = Document {
        version: DOCUMENT_VERSION,
        environment,
        command,
        questions,
    };
    for question in &document.questions {
        println!("{}", question.table());
    }
    let beside = options.out.parent().unwrap_or(std::path::Path::new("."));
    curves::save(&document, &options.out, &beside.join("SCALE.md"))?;
    Ok(code)
}

fn reach(options: &Options, command: String) -> Result<ExitCode> {
    let settings = options.settings()?;
    ensure!(
        settings.mtu.is_none() && settings.cluster.is_none(),
        "goals measures clusters of its own, with datagrams of its own: leave out --mtu and --cluster"
    );
    let environment = Environment::read(&settings.dir);
    begin(&environment);
    let document = Document {
        version: DOCUMENT_VERSION,
        environment,
        command,
        questions: goals::measure(&settings),
    };
    println!("{}", goals::table(&document));
    goals::save(&document, &options.out)?;
    keep(&document, options)?;
    Ok(match goals::is_complete(&document) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

fn run(arguments: &Arguments, command: String) -> Result<ExitCode> {
    match &arguments.question {
        Ask::One(question) => ask(&[*question], &arguments.options, command),
        Ask::All => ask(&ALL, &arguments.options, command),
        Ask::Goals => reach(&arguments.options, command),
        Ask::Curves => grow(&arguments.options, command),
        Ask::Footprint => {
            let files = arguments.options.files.context("--files is missing")?;
            println!("{}", serde_json::to_string(&memory::footprint(files)?)?);
            Ok(ExitCode::SUCCESS)
        }
        Ask::Compare { first, second } => {
            println!(
                "{}",
                compare::table(&Document::load(first)?, &Document::load(second)?)
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().map(normalise).collect();
    let command = words[1..].join(" ");
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
            drop(error.print());
            return code;
        }
    };
    run(&arguments, command).unwrap_or_else(|error| {
        eprintln!("hadal-bench: {error:#}");
        ExitCode::from(FAILED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("hadal-bench").chain(line.split(' '));
        Arguments::try_parse_from(words.map(|word| normalise(word.into())))
    }

    #[test]
    fn hadoops_form_of_the_options_is_taken() {
        let arguments =
            parse("namespace -op create,open -threads 1,64 -files 1000 -keepResults").unwrap();
        assert!(matches!(arguments.question, Ask::One(Measured::Namespace)));
        let settings = arguments.options.settings().unwrap();
        assert_eq!(settings.threads, [1, 64]);
        assert_eq!(settings.files, Some(1000));
        assert_eq!(settings.operations, ["create", "open"]);
        assert!(settings.keep_results && !settings.use_existing);
    }

    #[test]
    fn fewer_than_three_runs_are_refused() {
        assert!(parse("disk --runs 2").is_err());
        assert_eq!(
            parse("disk --runs 5 --bytes 64MiB").unwrap().options.bytes,
            Some(64 << 20)
        );
        assert!(parse("disk --bytes 64MB").is_err());
    }
}
