//! `goals`: what HDFS does on a machine like this one, what Hadal is to do there, and what it does. Failover with a million
//! files beside a thousand, and what an image costs the active's callers, take longer and are questions of their own
//! (`failover --files`, `standby`).
//!
//! HDFS here is Apache Hadoop 2.7.3 on Java 17 with native CRC32C, warm, 3 JournalNodes, 3 DataNodes, not encrypted, data in the
//! page cache (it does not sync on close); 2 cores, 24 GiB, ext4 on NVMe, all on loopback with the client.

use crate::report::{Better, Document, Question, Row, number};
use crate::settings::Settings;
use crate::{
    block_report, edits, failover, image, memory, namespace, pipeline, quic, restart, small_files,
};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use std::path::Path;

/// Sizes of reports, images and restarts.
const SIZES: [usize; 2] = [1_000_000, 5_000_000];
/// Files whose memory is counted.
const IN_MEMORY: usize = 10_000_000;
/// Kills of the active NameNode.
const KILLS: usize = 10;
/// The datagrams of a network without jumbo frames.
const SMALL_MTU: u16 = 1452;

/// Asks every question that has a goal, at the goal's size. One that fails is told on standard error and left out: the
/// table says what is missing.
#[must_use]
pub fn measure(settings: &Settings) -> Vec<Question> {
    let with = |change: fn(&mut Settings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        settings
    };
    let callers = with(|it| it.threads = vec![1, 64]);
    let writers = with(|it| it.threads = vec![16]);
    let reports = with(|it| it.blocks = SIZES.to_vec());
    let memory = with(|it| it.files = Some(IN_MEMORY));
    let kills = with(|it| it.runs = it.runs.max(KILLS));
    let narrow = with(|it| it.mtu = Some(SMALL_MTU));
    let mut all: Vec<Result<Question>> = vec![
        quic::run(settings),
        edits::run(settings),
        namespace::run(&callers),
        small_files::run(&writers),
        pipeline::run(settings),
        pipeline::run(&narrow),
        block_report::run(&reports),
    ];
    for files in SIZES {
        let mut sized = settings.clone();
        sized.files = Some(files);
        all.extend([image::run(&sized), restart::run(&sized)]);
    }
    all.extend([memory::run(&memory), failover::run(&kills)]);
    let mut questions = Vec::new();
    for answer in all {
        match answer {
            Ok(question) => questions.push(question),
            Err(error) => eprintln!("hadal-bench: {error:#}"),
        }
    }
    questions
}

/// What of a row is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Take {
    Median,
    /// The sum over the figures named.
    Sum,
    /// The best of all rows with that name.
    Best,
    Worst,
    P50,
    P99,
    Cpu,
}

/// One goal.
struct Goal {
    work: &'static str,
    question: &'static str,
    figures: &'static [&'static str],
    /// Parts of the row's load.
    load: &'static [&'static str],
    take: Take,
    hdfs: &'static str,
    goal: f64,
    better: Better,
    unit: &'static str,
}

const fn goal(
    work: &'static str,
    (question, figures, load): (
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    ),
    take: Take,
    hdfs: &'static str,
    (better, goal, unit): (Better, f64, &'static str),
) -> Goal {
    Goal {
        work,
        question,
        figures,
        load,
        take,
        hdfs,
        goal,
        better,
        unit,
    }
}

use Better::{Higher, Lower};
use Take::{Best, Cpu, Median, P50, P99, Sum, Worst};

const MANY: &[&str] = &["64 callers"];
const ONE: &[&str] = &[" 1 callers"];
const MILLION: &[&str] = &[" 1000000 "];
const FIVE: &[&str] = &[" 5000000 "];
const WIDE: &[&str] = &[];
const NARROW: &[&str] = &["MTU 1452"];

#[rustfmt::skip]
const GOALS: [Goal; 34] = [
    goal("mkdirs, 64 callers", ("namespace", &["mkdirs"], MANY), Median, "9.3-11.2 k", (Higher, 110e3, "ops/s")),
    goal("- p99", ("namespace", &["mkdirs"], MANY), P99, "11-16 k", (Lower, 3e3, "us")),
    goal("create + complete, 64 callers", ("namespace", &["create"], MANY), Median, "4.9-5.7 k", (Higher, 57e3, "ops/s")),
    goal("rename, 64 callers", ("namespace", &["rename"], MANY), Median, "9.1 k", (Higher, 91e3, "ops/s")),
    goal("delete, 64 callers", ("namespace", &["delete"], MANY), Median, "11.3 k", (Higher, 113e3, "ops/s")),
    goal("getFileInfo, 64 callers", ("namespace", &["fileStatus"], MANY), Median, "30 k", (Higher, 300e3, "ops/s")),
    goal("mkdirs, one caller: p50", ("namespace", &["mkdirs"], ONE), P50, "1260", (Lower, 450.0, "us")),
    goal("edits to the quorum, best row", ("edits", &["edits to the quorum"], WIDE), Best, "11.4 k", (Higher, 600e3, "txn/s")),
    goal("full block report, first, 1 M", ("block-report", &["full report, first"], MILLION), Median, "1.2-3.1 M", (Higher, 30e6, "replicas/s")),
    goal("full block report, first, 5 M", ("block-report", &["full report, first"], FIVE), Median, "1.2-3.1 M", (Higher, 30e6, "replicas/s")),
    goal("report, nothing changed, 1 M", ("block-report", &["digest report, nothing changed"], MILLION), Median, "83-143 ms", (Lower, 1.0, "ms/storage")),
    goal("report, nothing changed, 5 M", ("block-report", &["digest report, nothing changed"], FIVE), Median, "417-714 ms", (Lower, 1.0, "ms/storage")),
    goal("- bytes", ("block-report", &["digest report, nothing changed: bytes"], FIVE), Median, "58 M", (Lower, 1024.0, "B/storage")),
    goal("write x3, 2 GiB", ("pipeline", &["write"], &["MiB, rep"]), Median, "283-296", (Higher, 720.0, "MB/s")),
    goal("- processor time", ("pipeline", &["write"], &["MiB, rep"]), Cpu, "6.0", (Lower, 2.4, "CPU-s/GiB")),
    goal("write x3, MTU 1452", ("pipeline", &["write"], NARROW), Median, "283-296", (Higher, 340.0, "MB/s")),
    goal("- processor time", ("pipeline", &["write"], NARROW), Cpu, "6.0", (Lower, 5.7, "CPU-s/GiB")),
    goal("read, remote DataNode", ("pipeline", &["read, remote"], &["MiB, one"]), Median, "1700-2000", (Higher, 2500.0, "MB/s")),
    goal("- processor time", ("pipeline", &["read, remote"], &["MiB, one"]), Cpu, "0.95", (Lower, 0.8, "CPU-s/GiB")),
    goal("read, same host, cached", ("pipeline", &["read, same host, cached"], &["MiB, one"]), Median, "3600-4000", (Higher, 6000.0, "MB/s")),
    goal("read, same host, cold", ("pipeline", &["read, same host, cold"], &["MiB, one"]), Median, "", (Higher, 2000.0, "MB/s")),
    goal("small files, 16 callers", ("small-files", &["create + write + close"], &["16 callers"]), Median, "100-139", (Higher, 2400.0, "files/s")),
    goal("image load, 1 M files", ("image", &["load"], MILLION), Median, "430-530 k", (Higher, 5e6, "inodes/s")),
    goal("image load, 5 M files", ("image", &["load"], FIVE), Median, "430-530 k", (Higher, 5e6, "inodes/s")),
    goal("image size", ("image", &["image size"], FIVE), Median, "70", (Lower, 60.0, "B/file")),
    goal("memory per file, counted", ("memory", &["tree", "block map"], &[]), Sum, "238", (Lower, 110.0, "B/file")),
    goal("memory per file, resident", ("memory", &["resident"], &[]), Median, "305", (Lower, 110.0, "B/file")),
    goal("failover, killed: p50", ("failover", &["kill: first write"], &[]), Median, "1800-2600, by hand", (Lower, 1000.0, "ms")),
    goal("- worst", ("failover", &["kill: first write"], &[]), Worst, "10-60 s with ZooKeeper", (Lower, 2000.0, "ms")),
    goal("planned failover, 16 callers: gap", ("failover", &["order: gap"], &[]), Median, "600-2500", (Lower, 100.0, "ms")),
    goal("- worst", ("failover", &["order: gap"], &[]), Worst, "4300", (Lower, 100.0, "ms")),
    goal("start to serving, 1 M, digests", ("restart", &["start to serving, digests"], MILLION), Median, "3.3 + reports", (Lower, 1.0, "s")),
    goal("start to serving, 5 M, digests", ("restart", &["start to serving, digests"], FIVE), Median, "10.4 + reports", (Lower, 2.0, "s")),
    goal("- bytes of reports, digests", ("restart", &["bytes of reports, digests"], FIVE), Median, "", (Lower, 30_720.0, "B")),
];

impl Goal {
    fn value(&self, document: &Document) -> Option<f64> {
        let rows: Vec<&Row> = document
            .questions
            .iter()
            .filter(|question| question.name == self.question)
            .flat_map(|question| &question.rows)
            .filter(|row| {
                // A leading blank asks for a whole word.
                let load = format!(" {} ", row.load);
                self.figures.contains(&&*row.figure)
                    && self.load.iter().all(|part| load.contains(part))
            })
            .collect();
        let first = rows.first()?;
        match self.take {
            Take::Median => Some(first.median),
            Take::Sum => {
                (rows.len() == self.figures.len()).then(|| rows.iter().map(|row| row.median).sum())
            }
            Take::Best => rows.iter().map(|row| row.median).reduce(f64::max),
            Take::Worst => first.runs.iter().copied().reduce(f64::max),
            Take::P50 => Some(first.latency.as_ref()?.p50_us),
            Take::P99 => Some(first.latency.as_ref()?.p99_us),
            Take::Cpu => Some(first.cpu.as_ref()?.seconds),
        }
    }

    /// How much of the goal is reached: 1 and more is all of it.
    fn reached(&self, value: f64) -> f64 {
        match self.better {
            Better::Higher => value / self.goal,
            Better::Lower => self.goal / value,
        }
    }
}

/// Whether every goal has its figure.
#[must_use]
pub fn is_complete(document: &Document) -> bool {
    GOALS.iter().all(|goal| goal.value(document).is_some())
}

/// The goals beside what was measured.
#[must_use]
pub fn table(document: &Document) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "work",
        "unit",
        "HDFS",
        "goal",
        "Hadal",
        "of the goal",
    ]);
    for goal in &GOALS {
        let value = goal.value(document);
        let sign = match goal.better {
            Better::Higher => ">=",
            Better::Lower => "<=",
        };
        table.add_row([
            goal.work.to_owned(),
            goal.unit.to_owned(),
            goal.hdfs.to_owned(),
            format!("{sign} {}", number(goal.goal)),
            value.map_or_else(|| "not measured".to_owned(), number),
            value.map_or_else(String::new, |value| {
                let reached = goal.reached(value);
                let met = if reached >= 1.0 { "met" } else { "short" };
                format!("{met}, {reached:.2}")
            }),
        ]);
    }
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// Writes `goals.md` and `goals.json` into a directory.
///
/// # Errors
/// When they cannot be written.
pub fn save(document: &Document, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    document.save(&out.join("goals.json"))?;
    let mut page = format!(
        "# Goals\n\nMade by `cargo run --release -p hadal-bench -- {}`; do not edit.\n\nMeasured on: {}.\n\n\
         HDFS: Apache Hadoop 2.7.3, Java 17, native CRC32C, warm, not encrypted, not synced on close, on a machine of this kind: \
         2 cores, 24 GiB, ext4 on NVMe, client and servers on loopback. Why a row is short is in [SCALE.md](../SCALE.md).\n\n{}\n",
        document.command,
        document.environment.line(),
        table(document)
    );
    page.push_str("\n## Tables\n");
    for question in &document.questions {
        page.push_str(&format!("\n```\n{}```\n", question.table()));
    }
    let path = out.join("goals.md");
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{document, row};

    #[test]
    fn a_goal_finds_its_row_and_says_how_much_of_it_is_reached() {
        let measured = document(vec![row("mkdirs", &[50e3, 55e3, 60e3], Better::Higher)]);
        let mkdirs = &GOALS[0];
        assert_eq!(mkdirs.value(&measured), Some(55e3));
        assert_eq!(mkdirs.reached(55e3), 0.5);
        let p99 = &GOALS[1];
        assert_eq!(p99.take, Take::P99);
        assert!((p99.reached(1500.0) - 2.0).abs() < 1e-9);
        let text = table(&measured);
        assert!(text.contains("short, 0.50"), "{text}");
        assert!(text.contains("not measured"), "{text}");
    }

    /// One caller is not sixty-one, and 1 000 000 not 11 000 000.
    #[test]
    fn a_load_is_matched_by_whole_numbers() {
        let mut one = row("mkdirs", &[1.0, 2.0, 3.0], Better::Higher);
        one.load = "61 callers, 1 connections".into();
        let goal = GOALS.iter().find(|goal| goal.load == ONE).unwrap();
        assert_eq!(goal.value(&document(vec![one.clone()])), None);
        one.load = "1 callers, 1 connections".into();
        assert!(goal.value(&document(vec![one])).is_some());
    }

    #[test]
    fn memory_is_the_sum_of_tree_and_map() {
        let goal = GOALS.iter().find(|goal| goal.take == Take::Sum).unwrap();
        let mut rows = vec![row("tree", &[60.0, 60.0, 60.0], Better::Lower)];
        let named = |rows: &[Row]| {
            let mut measured = document(rows.to_vec());
            measured.questions[0].name = "memory".into();
            measured
        };
        assert_eq!(goal.value(&named(&rows)), None);
        rows.push(row("block map", &[42.0, 42.0, 42.0], Better::Lower));
        assert_eq!(goal.value(&named(&rows)), Some(102.0));
    }
}
