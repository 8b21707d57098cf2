//! `hadal completions`, `hadal man`.

use crate::cli::Cli;
use crate::console::Console;
use anyhow::{Context, Result};
use clap::CommandFactory;
use std::path::Path;

/// Prints a completion script.
pub(crate) fn completions(console: &Console, shell: clap_complete::Shell) -> Result<i32> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hadal", &mut script);
    console.bytes(&script);
    console.flush();
    Ok(0)
}

/// Prints the manual page, or writes all of them into `dir`.
pub(crate) fn manual(console: &Console, dir: Option<&Path>) -> Result<i32> {
    if let Some(dir) = dir {
        clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("cannot write manual pages into {}", dir.display()))?;
        return Ok(0);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .context("cannot make the manual page")?;
    console.bytes(&page);
    console.flush();
    Ok(0)
}
