//! How the questions are asked.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a run of the harness.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Measured runs of every row, after one warm-up.
    pub runs: usize,
    /// Length of a run of a row that is measured by time.
    pub time: Duration,
    /// Where files and the cluster's directories go: the device that is measured.
    pub dir: PathBuf,
    /// Bytes of one file in `disk` and `pipeline`; `None` is each question's own default.
    pub bytes: Option<u64>,
    /// A running development cluster to use, instead of one of its own.
    pub cluster: Option<PathBuf>,
    /// First port of its own cluster; a free range is looked for when absent.
    pub port_base: Option<u16>,
    /// Callers of `namespace`, `edits` and `small-files`; empty is each question's own default.
    pub threads: Vec<usize>,
    /// Connections that the callers of `namespace` and `small-files` share; `None` is its own default.
    pub connections: Option<usize>,
    /// Files (or operations) per run; `None` is each question's own default.
    pub files: Option<usize>,
    /// Calls per second in all that `standby` offers; `None` is half of what its callers can make.
    pub rate: Option<f64>,
    /// Operations of `namespace`; empty is all of them.
    pub operations: Vec<String>,
    /// Blocks per report of `block-report`, one row each; empty is its own default.
    pub blocks: Vec<usize>,
    /// DataNodes of `block-report`; `None` is its own default.
    pub datanodes: Option<usize>,
    /// Repeated reports of each DataNode in `block-report`; `None` is its own default.
    pub reports: Option<usize>,
    /// Bytes of UDP payload per datagram in a cluster of its own; `None`: as the path allows.
    pub mtu: Option<u16>,
    /// Leave what `namespace` made.
    pub keep_results: bool,
    /// `open` and `fileStatus` use what an earlier run left.
    pub use_existing: bool,
    /// `namespace` calls as a user who is not the superuser, so that permissions are checked.
    pub non_super_user: bool,
}

impl Settings {
    /// Defaults, measuring in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            runs: 3,
            time: Duration::from_secs(2),
            dir,
            bytes: None,
            cluster: None,
            port_base: None,
            threads: Vec::new(),
            connections: None,
            files: None,
            rate: None,
            operations: Vec::new(),
            blocks: Vec::new(),
            datanodes: None,
            reports: None,
            mtu: None,
            keep_results: false,
            use_existing: false,
            non_super_user: false,
        }
    }
}

/// The values given for an option, or the question's own when none were.
#[must_use]
pub fn given_or<'a, T>(given: &'a [T], own: &'a [T]) -> &'a [T] {
    match given {
        [] => own,
        given => given,
    }
}

/// A size as in `2GiB`, `64KiB`, `300`.
///
/// # Errors
/// When it is none.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        other => bail!("`{other}' is no unit of size: use B, KiB, MiB, GiB or TiB"),
    };
    let number: u64 = number
        .parse()
        .with_context(|| format!("`{text}' is no size"))?;
    number
        .checked_mul(1 << shift)
        .with_context(|| format!("{text} is more than there are bytes"))
}

/// Turns NNThroughputBenchmark's options (`-threads`, `-keepResults`) into those of this program (`--threads`,
/// `--keep-results`). Others pass.
#[must_use]
pub fn normalise(argument: String) -> String {
    let Some(name) = argument.strip_prefix('-') else {
        return argument;
    };
    if name.len() < 2
        || name.starts_with('-')
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return argument;
    }
    let mut long = String::from("--");
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            long.push('-');
        }
        long.push(c.to_ascii_lowercase());
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("300").unwrap(), 300);
        assert_eq!(parse_bytes("64KiB").unwrap(), 65_536);
        assert_eq!(parse_bytes("2GiB").unwrap(), 2 << 30);
        for wrong in ["", "GiB", "2 GiB", "2GB", "-1", "99999999999TiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_of_hadoops_benchmark_are_understood() {
        let normalised = |text: &str| normalise(text.to_owned());
        assert_eq!(normalised("-threads"), "--threads");
        assert_eq!(normalised("-keepResults"), "--keep-results");
        assert_eq!(normalised("-nonSuperUser"), "--non-super-user");
        for same in ["--threads", "-h", "-", "-1", "namespace", "--json"] {
            assert_eq!(normalised(same), same);
        }
    }
}
