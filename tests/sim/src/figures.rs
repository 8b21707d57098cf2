//! The record of runs: a row per run in `tests/FIGURES.md`, sums of all rows in README.

use crate::report::Counters;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// One run of a range of seeds.
pub struct Record<'a> {
    /// Scenario.
    pub scenario: &'a str,
    /// Range of seeds, as on the command line.
    pub seeds: String,
    /// Virtual minutes of faults per seed.
    pub minutes: u64,
    /// Seeds without and with a violation.
    pub passed: u64,
    /// See `passed`.
    pub failed: u64,
    /// Processor seconds per seed.
    pub seconds_per_seed: f64,
    /// What the seeds counted.
    pub counters: &'a Counters,
}

/// Where rows go; the sums are over the rows of this table.
const TABLE: &str = "| Date | Commit | Scenario | Seeds | Minutes | Passed | Failed | CPU s per seed | Acknowledged | Bytes read back |";
const README_START: &str = "<!-- simulator figures: cargo run --release -p sim -- --record -->\n";
const README_END: &str = "<!-- end of simulator figures -->\n";

/// The repository this was built from.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Appends the run's row and works the sums out anew.
///
/// # Errors
/// A file that cannot be read, written or understood.
pub fn record(run: &Record<'_>) -> io::Result<()> {
    let path = root().join("tests/FIGURES.md");
    let text = with_row(&fs::read_to_string(&path)?, &row(run, &today(), &commit()));
    fs::write(&path, &text)?;
    sum_up()
}

/// Works README's sums out anew from `tests/FIGURES.md`.
///
/// # Errors
/// A file that cannot be read, written or understood.
pub fn sum_up() -> io::Result<()> {
    let text = fs::read_to_string(root().join("tests/FIGURES.md"))?;
    let path = root().join("README.md");
    let readme = with_sums(&fs::read_to_string(&path)?, &text)
        .ok_or_else(|| io::Error::other("README.md lacks the marks of the simulator's figures"))?;
    fs::write(path, readme)
}

fn row(run: &Record<'_>, date: &str, commit: &str) -> String {
    format!(
        "| {date} | {commit} | {} | {} | {} | {} | {} | {:.2} | {} | {} |\n",
        run.scenario,
        run.seeds,
        run.minutes,
        run.passed,
        run.failed,
        run.seconds_per_seed,
        run.counters.get("operations acknowledged"),
        run.counters.get("bytes read back"),
    )
}

/// The record with one more row in its table, which is begun when it is not there.
fn with_row(text: &str, row: &str) -> String {
    let mut text = text.trim_end().to_owned();
    if !text.contains(TABLE) {
        let columns = TABLE.matches('|').count() - 1;
        text.push_str("\n\n## Simulator\n\nAdded by `cargo run --release -p sim -- --record`.\n\n");
        text.push_str(TABLE);
        text.push_str(&format!("\n|{}", "---|".repeat(columns)));
    }
    text.push('\n');
    text.push_str(row);
    text
}

/// README with the sums over the record's table, by scenario; `None` without the marks.
fn with_sums(readme: &str, record: &str) -> Option<String> {
    let (before, rest) = readme.split_once(README_START)?;
    let (_, after) = rest.split_once(README_END)?;
    let mut sums: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
    let rows = record.split_once(TABLE).map_or("", |(_, rows)| rows);
    for row in rows.lines().skip(2).take_while(|row| row.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let number = |at: usize| cells[at].parse().unwrap_or(0);
        let (minutes, passed, failed) = (number(5), number(6), number(7));
        let adds = [
            passed + failed,
            failed,
            (passed + failed) * minutes,
            number(9),
            number(10),
        ];
        let sums = sums.entry(cells[3]).or_default();
        for (sum, add) in sums.iter_mut().zip(adds) {
            *sum += add;
        }
    }
    let mut table = "| Scenario | seeds | failed | virtual hours | operations acknowledged and checked | bytes read back and compared |\n\
         |---|---|---|---|---|---|\n"
        .to_owned();
    for (scenario, [seeds, failed, minutes, acknowledged, bytes]) in sums {
        let hours = minutes / 60;
        table.push_str(&format!(
            "| {scenario} | {seeds} | {failed} | {hours} | {acknowledged} | {bytes} |\n"
        ));
    }
    Some(format!(
        "{before}{README_START}\n{table}\n{README_END}{after}"
    ))
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .current_dir(root())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    date_of(seconds / 86_400)
}

/// The Gregorian date so many days after 1970-01-01.
fn date_of(days: u64) -> String {
    let (mut year, mut left) = (1970, days);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date_of(0), "1970-01-01");
        assert_eq!(date_of(59), "1970-03-01");
        assert_eq!(date_of(11_016), "2000-02-29");
        assert_eq!(date_of(19_722), "2023-12-31");
        assert_eq!(date_of(19_723), "2024-01-01");
    }

    #[test]
    fn rows_add_up() {
        let mut counters = Counters::default();
        counters.add("operations acknowledged", 7);
        counters.add("bytes read back", 100);
        let run = Record {
            scenario: "cluster",
            seeds: "0..3".into(),
            minutes: 60,
            passed: 2,
            failed: 1,
            seconds_per_seed: 0.5,
            counters: &counters,
        };
        let line = row(&run, "2026-01-01", "abc");
        let twice = with_row(&with_row("# Runs\n", &line), &line);
        assert_eq!(twice.matches(TABLE).count(), 1);
        let readme = format!("before\n{README_START}old\n{README_END}after\n");
        let readme = with_sums(&readme, &twice).expect("the marks are there");
        assert!(
            readme.contains("| cluster | 6 | 2 | 6 | 14 | 200 |"),
            "{readme}"
        );
        assert!(readme.starts_with("before\n") && readme.ends_with("after\n"));
        assert!(!readme.contains("old"));
        assert_eq!(with_sums("no marks", &twice), None);
    }

    /// README's table is the sums of the record's; `sim --figures` makes it so.
    #[test]
    fn readme_shows_the_sums_of_the_record() {
        let read = |name| fs::read_to_string(root().join(name)).expect(name);
        let readme = read("README.md");
        assert_eq!(
            with_sums(&readme, &read("tests/FIGURES.md")),
            Some(readme),
            "run: cargo run --release -p sim -- --figures"
        );
    }
}
