//! Results: rows, tables, the JSON document.

use crate::environment::Environment;
use crate::stats::{Latencies, Quantiles, median, spread};
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of [`Document`]. Raised when a reader of the older one would misread a newer one.
pub const DOCUMENT_VERSION: u32 = 1;

/// Which way a figure gets better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better (rates).
    Higher,
    /// Less is better (times, costs).
    Lower,
}

/// Processor seconds, all processes, per unit of work.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CpuCost {
    /// Median over the runs.
    pub seconds: f64,
    /// Per what (`GiB`, `1000 files`).
    pub per: String,
}

/// One figure under one load. Question, figure and load together name it: [`crate::compare`] goes by them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// Under which load.
    pub load: String,
    /// Unit of `median` and `runs`.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// Median of the runs.
    pub median: f64,
    /// Every measured run, in order; the warm-up is not among them.
    pub runs: Vec<f64>,
    /// Latency of single operations over all runs, where there are such.
    pub latency: Option<Quantiles>,
    /// Processor time, where it was taken.
    pub cpu: Option<CpuCost>,
}

/// One measured run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The figure, in the row's unit.
    pub value: f64,
    /// Latencies of single operations.
    pub latencies: Option<Latencies>,
    /// Processor seconds per unit of work.
    pub cpu: Option<f64>,
}

impl Row {
    /// A row from its measured runs.
    ///
    /// # Errors
    /// Without runs.
    pub fn new(
        figure: impl Into<String>,
        load: impl Into<String>,
        (unit, better): (&str, Better),
        cpu_per: &str,
        runs: &[Run],
    ) -> Result<Self> {
        let figure = figure.into();
        let values: Vec<f64> = runs.iter().map(|run| run.value).collect();
        let middle = median(&values).with_context(|| format!("{figure}: no run was measured"))?;
        let mut latencies = Latencies::default();
        for run in runs.iter().filter_map(|run| run.latencies.as_ref()) {
            latencies.merge(run);
        }
        let cpu: Vec<f64> = runs.iter().filter_map(|run| run.cpu).collect();
        Ok(Self {
            figure,
            load: load.into(),
            unit: unit.into(),
            better,
            median: middle,
            runs: values,
            latency: latencies.quantiles(),
            cpu: median(&cpu).map(|seconds| CpuCost {
                seconds,
                per: cpu_per.into(),
            }),
        })
    }
}

/// What one question gave.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Question {
    /// Its name on the command line.
    pub name: String,
    /// What a reader must know to judge the rows.
    pub notes: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// All a run of the harness gave: the JSON document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`DOCUMENT_VERSION`].
    pub version: u32,
    /// Where it was measured.
    pub environment: Environment,
    /// What was asked, as it was typed.
    pub command: String,
    /// The answers.
    pub questions: Vec<Question>,
}

impl Document {
    /// Writes the document as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// When it cannot be read, is no such document, or is of another version.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no result", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(text)?;
        if version != DOCUMENT_VERSION {
            bail!("it has version {version}, this program reads {DOCUMENT_VERSION}: measure again");
        }
        Ok(serde_json::from_str(text)?)
    }
}

/// A number with three or four digits that matter.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        return format!("{:.2} M", value / 1e6);
    }
    if size >= 1e4 {
        return format!("{:.1} k", value / 1e3);
    }
    let decimals = match size {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 || size == 0.0 => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

impl Question {
    /// The question as one table, with its notes below.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "figure",
            "load",
            "median",
            "unit",
            "spread",
            "runs",
            "p50 us",
            "p99 us",
            "p999 us",
            "CPU-s per",
        ]);
        for row in &self.rows {
            let quantile = |take: fn(&Quantiles) -> f64| {
                row.latency
                    .as_ref()
                    .map_or_else(String::new, |latency| number(take(latency)))
            };
            table.add_row([
                row.figure.clone(),
                row.load.clone(),
                number(row.median),
                row.unit.clone(),
                spread(&row.runs)
                    .map_or_else(String::new, |share| format!("{:.0} %", share * 100.0)),
                row.runs.len().to_string(),
                quantile(|latency| latency.p50_us),
                quantile(|latency| latency.p99_us),
                quantile(|latency| latency.p999_us),
                row.cpu.as_ref().map_or_else(String::new, |cpu| {
                    format!("{} / {}", number(cpu.seconds), cpu.per)
                }),
            ]);
        }
        for column in [2, 4, 5, 6, 7, 8] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{}\n{table}\n", self.name);
        for note in &self.notes {
            text.push_str(&format!("  {note}\n"));
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    pub(crate) fn row(figure: &str, values: &[f64], better: Better) -> Row {
        let runs: Vec<Run> = values
            .iter()
            .map(|value| {
                let mut latencies = Latencies::default();
                latencies.record(Duration::from_micros(120));
                Run {
                    value: *value,
                    latencies: Some(latencies),
                    cpu: Some(2.0),
                }
            })
            .collect();
        Row::new(figure, "64 callers", ("ops/s", better), "1000 ops", &runs).unwrap()
    }

    pub(crate) fn document(rows: Vec<Row>) -> Document {
        Document {
            version: DOCUMENT_VERSION,
            environment: Environment::default(),
            command: "namespace".into(),
            questions: vec![Question {
                name: "namespace".into(),
                notes: vec!["a note".into()],
                rows,
            }],
        }
    }

    #[test]
    fn a_row_is_the_median_of_its_runs_and_all_their_latencies() {
        let row = row("mkdirs", &[3.0, 1.0, 2.0], Better::Higher);
        assert_eq!(row.median, 2.0);
        assert_eq!(row.runs, [3.0, 1.0, 2.0]);
        assert_eq!(row.latency.unwrap().samples, 3);
        assert_eq!(row.cpu.unwrap().seconds, 2.0);
        assert!(Row::new("x", "y", ("ops/s", Better::Higher), "", &[]).is_err());
    }

    #[test]
    fn a_document_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result.json");
        let mut rows = vec![row("mkdirs", &[1.5, 2.5, 1e6], Better::Higher)];
        rows[0].latency = None;
        rows.push(row("append", &[0.1, 0.2, 0.3], Better::Lower));
        let written = document(rows);
        written.save(&path).unwrap();
        assert_eq!(Document::load(&path).unwrap(), written);
    }

    #[test]
    fn a_document_of_another_version_is_refused_by_version() {
        let mut other = document(Vec::new());
        other.version = 99;
        let text = serde_json::to_string(&other).unwrap();
        let error = Document::parse(&text).unwrap_err().to_string();
        assert!(error.contains("version 99"), "{error}");
        assert!(Document::parse("{}").is_err());
    }

    #[test]
    fn numbers_keep_the_digits_that_matter() {
        let shown: Vec<String> = [
            0.0,
            0.021,
            0.5,
            12.34,
            843.2,
            9300.0,
            110_000.0,
            2_000_000.0,
        ]
        .into_iter()
        .map(number)
        .collect();
        assert_eq!(
            shown,
            [
                "0.00", "0.0210", "0.50", "12.3", "843", "9300", "110.0 k", "2.00 M"
            ]
        );
    }

    #[test]
    fn the_table_names_every_row_and_note() {
        let question = document(vec![row("mkdirs", &[1.0, 2.0, 3.0], Better::Higher)])
            .questions
            .remove(0);
        let text = question.table();
        for wanted in [
            "namespace",
            "mkdirs",
            "64 callers",
            "100 %",
            "a note",
            "2.00 / 1000 ops",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
    }
}
