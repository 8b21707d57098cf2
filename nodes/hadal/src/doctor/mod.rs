//! `hadal doctor`: what is wrong with this machine, and how to mend it.

mod certificates;
mod machine;
mod network;
mod storage;

use crate::cli::Global;
use crate::console::Console;
use crate::session;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// What to look at.
#[derive(Args, Clone, Debug)]
pub(crate) struct DoctorArgs {
    /// Directories that are to hold data [default: those of the configuration that exist]
    #[arg(long = "dir", value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Good,
    /// It works, but slower or not for long.
    Poor,
    Bad,
    /// It could not be looked at.
    Skipped,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    check: String,
    verdict: Verdict,
    detail: String,
    /// What to do about it; empty when there is nothing to do.
    remedy: String,
}

impl Finding {
    fn good(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(check, Verdict::Good, detail, "")
    }

    fn skipped(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skipped, detail, "")
    }

    fn new(
        check: impl Into<String>,
        verdict: Verdict,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            check: check.into(),
            verdict,
            detail: detail.into(),
            remedy: remedy.into(),
        }
    }
}

/// Runs all checks; exit code 1 when one came out bad.
pub(crate) fn run(global: &Global, console: Arc<Console>, args: &DoctorArgs) -> Result<i32> {
    let loaded = session::load_config_with(global.config.as_deref(), &global.settings()?)?;
    let config = &loaded.config;
    let mut findings = machine::check();
    findings.extend(network::buffers());
    findings.extend(storage::check(&storage::directories(config, &args.dirs)));
    findings.extend(network::ports(config));
    findings.extend(certificates::check(config));
    findings.extend(network::namenodes(config)?);
    let bad = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Bad);
    match console.json {
        true => {
            let rows: Vec<_> = findings.iter().map(to_json).collect();
            console.json(&json!({ "healthy": !bad, "findings": rows }));
        }
        false => findings.iter().for_each(|finding| print(&console, finding)),
    }
    console.flush();
    Ok(i32::from(bad))
}

fn word(verdict: Verdict) -> (&'static str, u8) {
    match verdict {
        Verdict::Good => ("good", 32),
        Verdict::Poor => ("poor", 33),
        Verdict::Bad => ("bad", 31),
        Verdict::Skipped => ("skipped", 90),
    }
}

fn to_json(finding: &Finding) -> serde_json::Value {
    json!({
        "check": finding.check,
        "verdict": word(finding.verdict).0,
        "detail": finding.detail,
        "remedy": finding.remedy,
    })
}

fn print(console: &Console, finding: &Finding) {
    let (word, colour) = word(finding.verdict);
    let painted = console.paint(colour, &format!("{word:>7}"));
    console.line(format!("{painted}  {}: {}", finding.check, finding.detail));
    if !finding.remedy.is_empty() {
        console.line(format!("         {}", finding.remedy));
    }
}
