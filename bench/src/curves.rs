//! `curves`: how costs grow, at several sizes each: tables and pictures in a directory, and the cost model of
//! `SCALE.md` with the figures of this run.

use crate::growth::{self, Series};
use crate::report::{Document, Question, Row, number};
use crate::settings::Settings;
use crate::{block_report, image, memory, namespace, restart};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;

/// Sizes of the questions about blocks of a storage and about files in memory.
const MANY: [usize; 3] = [100_000, 1_000_000, 10_000_000];
/// Sizes of images and restarts.
const FILES: [usize; 3] = [100_000, 1_000_000, 5_000_000];
const CALLERS: [usize; 4] = [1, 16, 64, 256];
const BEGIN: &str = "<!-- figures: hadal-bench curves -->";
const END: &str = "<!-- end of figures -->";

/// Whether a question's core alone is measured, or a whole cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// In this process: reports, images, restarts, memory.
    Core,
    /// Callers of a development cluster.
    Cluster,
}

/// Asks everything of one part.
///
/// # Errors
/// Those of the questions.
pub fn measure(part: Part, settings: &Settings) -> Result<Vec<Question>> {
    let scaled = |sizes: &[usize]| -> Vec<usize> {
        match settings.files {
            None => sizes.to_vec(),
            Some(most) => [100, 10, 1].map(|part| (most / part).max(1)).to_vec(),
        }
    };
    let sizes = |sizes: &[usize], run: fn(&Settings) -> Result<Question>| -> Result<Question> {
        let mut all = Question::default();
        for files in scaled(sizes) {
            let mut settings = settings.clone();
            settings.files = Some(files);
            let question = run(&settings)?;
            all.rows.extend(question.rows);
            (all.name, all.notes) = (question.name, question.notes);
        }
        Ok(all)
    };
    if part == Part::Cluster {
        let mut settings = settings.clone();
        settings.threads = CALLERS.to_vec();
        settings.operations = ["mkdirs", "fileStatus"].map(String::from).to_vec();
        settings.files = None;
        return Ok(vec![namespace::run(&settings)?]);
    }
    let mut blocks = settings.clone();
    blocks.blocks = scaled(&MANY);
    Ok(vec![
        block_report::run(&blocks)?,
        sizes(&FILES, image::run)?,
        sizes(&FILES, restart::run)?,
        sizes(&MANY, memory::run)?,
    ])
}

/// One picture.
struct Curve {
    file: &'static str,
    title: &'static str,
    size: &'static str,
    figure: &'static str,
    question: &'static str,
    /// Figures of the question, one line each.
    lines: &'static [&'static str],
    value: fn(&Row) -> Option<f64>,
}

/// Processor nanoseconds of one of a million.
fn ns_of_a_million(row: &Row) -> Option<f64> {
    Some(row.cpu.as_ref()?.seconds * 1e3)
}

/// Processor microseconds of one of a thousand.
fn us_of_a_thousand(row: &Row) -> Option<f64> {
    Some(row.cpu.as_ref()?.seconds * 1e3)
}

const CURVES: [Curve; 8] = [
    Curve {
        file: "full-report.svg",
        title: "A full block report",
        size: "blocks of the storage",
        figure: "processor ns per replica",
        question: "block-report",
        lines: &["full report, first", "full report, nothing changed"],
        value: ns_of_a_million,
    },
    Curve {
        file: "digest-report.svg",
        title: "A digest report",
        size: "blocks of the storage",
        figure: "ms per storage, both ends",
        question: "block-report",
        lines: &[
            "digest report, nothing changed",
            "digest report, 10 replicas lost",
        ],
        value: |row| Some(row.median),
    },
    Curve {
        file: "digest-bytes.svg",
        title: "Bytes of a digest report",
        size: "blocks of the storage",
        figure: "bytes per storage, calls and answers",
        question: "block-report",
        lines: &[
            "digest report, nothing changed: bytes",
            "digest report, 10 replicas lost: bytes",
        ],
        value: |row| Some(row.median),
    },
    Curve {
        file: "image.svg",
        title: "Images",
        size: "files of one block",
        figure: "processor ns per inode",
        question: "image",
        lines: &["save", "load"],
        value: ns_of_a_million,
    },
    Curve {
        file: "restart.svg",
        title: "A restart with 30 DataNodes",
        size: "files of one block, three replicas",
        figure: "seconds of the core",
        question: "restart",
        lines: &[
            "start to all reported, digests",
            "start to all reported, full reports",
            "image to started",
        ],
        value: |row| Some(row.median),
    },
    Curve {
        file: "restart-bytes.svg",
        title: "Reports behind a restart",
        size: "files of one block, three replicas",
        figure: "bytes per storage",
        question: "restart",
        lines: &[
            "bytes per storage, digests",
            "bytes per storage, full reports",
        ],
        value: |row| Some(row.median),
    },
    Curve {
        file: "memory.svg",
        title: "Memory of the NameNode's core",
        size: "files of one block, three locations",
        figure: "bytes per file",
        question: "memory",
        lines: &["resident", "tree", "block map"],
        value: |row| Some(row.median),
    },
    Curve {
        file: "callers.svg",
        title: "Callers of the NameNode",
        size: "callers",
        figure: "processor us per operation, all processes",
        question: "namespace",
        lines: &["mkdirs", "fileStatus"],
        value: us_of_a_thousand,
    },
];

/// The size a row was measured at: the first number of its load.
fn size_of(row: &Row) -> Option<f64> {
    let digits: String = row.load.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn series(document: &Document, curve: &Curve) -> Vec<Series> {
    let question = document
        .questions
        .iter()
        .find(|it| it.name == curve.question);
    let rows = question.map_or(&[][..], |question| &question.rows);
    let of = |name: &&'static str| {
        let mut points: Vec<(f64, f64)> = rows
            .iter()
            .filter(|row| row.figure == **name)
            .filter_map(|row| Some((size_of(row)?, (curve.value)(row)?)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        (!points.is_empty()).then(|| ((*name).to_owned(), points))
    };
    curve.lines.iter().filter_map(of).collect()
}

/// Writes tables, pictures and the document into `out`, and the figures of the model into `model`, if it is there.
///
/// # Errors
/// When a file cannot be written.
pub fn save(document: &Document, out: &Path, model: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    document.save(&out.join("curves.json"))?;
    let mut page = format!(
        "# Growth\n\nMade by `cargo run --release -p hadal-bench -- {}`; do not edit.\n\nMeasured on: {}.\n",
        document.command,
        document.environment.line()
    );
    if busy(document) {
        page.push_str("\n**Others were at work on this machine: processor times and bytes are right, rates and seconds are too low by an unknown factor.**\n");
    }
    for curve in &CURVES {
        let lines = series(document, curve);
        if lines.is_empty() {
            continue;
        }
        let picture = growth::draw(curve.title, curve.size, curve.figure, &lines);
        let path = out.join(curve.file);
        svg::save(&path, &picture).with_context(|| format!("cannot write {}", path.display()))?;
        write!(
            page,
            "\n## {}\n\n![{}]({})\n",
            curve.title, curve.title, curve.file
        )?;
    }
    page.push_str("\n## Tables\n");
    for question in &document.questions {
        write!(page, "\n```\n{}```\n", question.table())?;
    }
    let path = out.join("README.md");
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    if let Ok(text) = std::fs::read_to_string(model) {
        let text = with_figures(&text, &figures(document))
            .with_context(|| format!("{} has no place for figures", model.display()))?;
        std::fs::write(model, text).with_context(|| format!("cannot write {}", model.display()))?;
    }
    Ok(())
}

/// The load average when the run began says that somebody else was at work.
fn busy(document: &Document) -> bool {
    let load = document.environment.load_average.split(' ').next();
    load.and_then(|load| load.parse::<f64>().ok())
        .is_some_and(|load| load > 0.2)
}

/// Puts figures between the marks.
fn with_figures(text: &str, figures: &str) -> Option<String> {
    let begin = text.find(BEGIN)? + BEGIN.len();
    let end = begin + text[begin..].find(END)?;
    Some(format!("{}\n\n{figures}\n{}", &text[..begin], &text[end..]))
}

/// What the model is carried to.
const AT_BLOCKS: f64 = 1e9;
const AT_REPLICAS: f64 = 3e9;
const AT_DATANODES: f64 = 5_000.0;
const AT_STORAGES: f64 = 50_000.0;
/// Seconds between reports of a storage.
const REPORT_PERIOD: f64 = 6.0 * 3_600.0;

/// The table of the model: unit costs of the largest size measured, and what they make.
fn figures(document: &Document) -> String {
    let largest = |question: &str, figure: &str| -> Option<&Row> {
        let question = document.questions.iter().find(|it| it.name == question)?;
        let rows = question.rows.iter().filter(|row| row.figure == figure);
        rows.max_by(|a, b| {
            size_of(a)
                .unwrap_or(0.0)
                .total_cmp(&size_of(b).unwrap_or(0.0))
        })
    };
    let mut table = format!(
        "Measured on: {}.\n\n| Cost | measured per unit, at | carried to 1 B files of one block, 3 B replicas, 5 000 DataNodes of 10 storages |\n|---|---|---|\n",
        document.environment.line()
    );
    let mut row = |what: &str, unit: Option<(f64, &str, &Row)>, total: &dyn Fn(f64) -> String| {
        if let Some((value, unit, row)) = unit {
            let at = size_of(row).unwrap_or(0.0);
            table.push_str(&format!(
                "| {what} | {} {unit}, at {} | {} |\n",
                number(value),
                number(at),
                total(value)
            ));
        }
    };
    let median = |question: &str, figure: &str, unit: &'static str| {
        largest(question, figure).map(|row| (row.median, unit, row))
    };
    let cpu = |question: &str, figure: &str, times: f64, unit: &'static str| {
        let row = largest(question, figure)?;
        Some((row.cpu.as_ref()?.seconds * times, unit, row))
    };
    let gib = |bytes: f64| format!("{} GiB", number(bytes / f64::from(1u32 << 30)));
    let seconds = |seconds: f64| format!("{} s of one core", number(seconds));
    row(
        "NameNode memory, resident",
        median("memory", "resident", "B/file"),
        &|it| gib(it * AT_BLOCKS),
    );
    row(
        "image with locations",
        median("restart", "image with locations", "B/file"),
        &|it| {
            format!(
                "{}; {} s from a disk of 2 GB/s",
                gib(it * AT_BLOCKS),
                number(it * AT_BLOCKS / 2e9)
            )
        },
    );
    row("image load", cpu("image", "load", 1e3, "ns/inode"), &|it| {
        seconds(it * AT_BLOCKS / 1e9)
    });
    row("image save", cpu("image", "save", 1e3, "ns/inode"), &|it| {
        seconds(it * AT_BLOCKS / 1e9)
    });
    let confirm = largest("restart", "start to all reported, digests").and_then(|row| {
        let begun = largest("restart", "image to started")?.median;
        let replicas = size_of(row)? * 3.0;
        Some((
            (row.median - begun).max(0.0) / replicas * 1e9,
            "ns/replica",
            row,
        ))
    });
    row("restart: digests confirm locations", confirm, &|it| {
        seconds(it * AT_REPLICAS / 1e9)
    });
    row(
        "restart: bytes of digests",
        median("restart", "bytes per storage, digests", "B/storage"),
        &|it| format!("{} MB", number(it * AT_STORAGES / 1e6)),
    );
    row(
        "restart by full reports instead",
        cpu("block-report", "full report, first", 1e3, "ns/replica"),
        &|it| {
            format!(
                "{}, {} GB",
                seconds(it * AT_REPLICAS / 1e9),
                number(24.0 * AT_REPLICAS / 1e9)
            )
        },
    );
    row(
        "steady state: digests every 6 h",
        cpu(
            "block-report",
            "digest report, nothing changed",
            1e3,
            "ms/storage",
        ),
        &|it| {
            let share = it / 1e3 * AT_STORAGES / REPORT_PERIOD;
            format!("{} % of one core", number(share * 100.0))
        },
    );
    row(
        "steady state by full reports instead",
        cpu(
            "block-report",
            "full report, nothing changed",
            1e3,
            "ns/replica",
        ),
        &|it| {
            let share = it / 1e9 * AT_REPLICAS / REPORT_PERIOD;
            let rate = 24.0 * AT_REPLICAS / REPORT_PERIOD / 1e6;
            format!(
                "{} % of one core, {} MB/s",
                number(share * 100.0),
                number(rate)
            )
        },
    );
    row(
        "one DataNode dies",
        median("restart", "bytes per storage, digests", "B/storage")
            .map(|(_, _, row)| (AT_REPLICAS / AT_DATANODES, "replicas to copy", row)),
        &|it| {
            format!(
                "{} copies, spread over {} sources",
                number(it),
                number(AT_DATANODES - 1.0)
            )
        },
    );
    row(
        "mkdirs, all processes",
        cpu("namespace", "mkdirs", 1e3, "us/operation"),
        &|it| format!("{} operations/s per core", number(1e6 / it)),
    );
    row(
        "getFileInfo, all processes",
        cpu("namespace", "fileStatus", 1e3, "us/operation"),
        &|it| format!("{} operations/s per core", number(1e6 / it)),
    );
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::report::DOCUMENT_VERSION;

    #[test]
    fn one_command_makes_tables_pictures_and_the_model() {
        let settings = Settings {
            files: Some(2_000),
            ..Settings::new(std::env::temp_dir())
        };
        let mut blocks = settings.clone();
        blocks.blocks = vec![200, 2_000];
        let questions = vec![
            block_report::run(&blocks).unwrap(),
            image::run(&settings).unwrap(),
            restart::run(&settings).unwrap(),
        ];
        let document = Document {
            version: DOCUMENT_VERSION,
            environment: Environment::read(Path::new("/")),
            command: "curves".into(),
            questions,
        };
        let dir = tempfile::tempdir().unwrap();
        let (out, model) = (dir.path().join("results"), dir.path().join("SCALE.md"));
        std::fs::write(&model, format!("before\n{BEGIN}\nold\n{END}\nbehind\n")).unwrap();
        save(&document, &out, &model).unwrap();
        let page = std::fs::read_to_string(out.join("README.md")).unwrap();
        assert!(page.contains("digest-report.svg") && page.contains("digest report, first"));
        assert!(!page.contains("memory.svg"), "not measured");
        for file in [
            "full-report.svg",
            "digest-bytes.svg",
            "image.svg",
            "restart.svg",
            "curves.json",
        ] {
            assert!(out.join(file).is_file(), "{file}");
        }
        let text = std::fs::read_to_string(&model).unwrap();
        assert!(
            text.starts_with("before") && text.ends_with("behind\n") && !text.contains("old\n")
        );
        assert!(text.contains("digests confirm locations"), "{text}");
        // Again, over what is there.
        save(&document, &out, &model).unwrap();
        assert_eq!(
            std::fs::read_to_string(&model)
                .unwrap()
                .matches("| Cost |")
                .count(),
            1
        );
    }
}
