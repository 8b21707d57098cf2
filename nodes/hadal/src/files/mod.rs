//! `hadal dfs`: files and directories, in FsShell's words.

mod attributes;
mod copy;
mod failure;
mod find;
mod glob;
mod help;
mod length;
mod ls;
mod mode;
mod namespace;
pub(crate) mod path;
mod read;
mod shell;
mod space;
mod stat;
pub(crate) mod verbs;

use crate::cli::{Global, USAGE};
use crate::console::Console;
use crate::session;
use anyhow::Result;
use failure::Failure;
use shell::Shell;
use std::sync::Arc;
use std::time::Duration;
use verbs::{DfsArgs, VerbArgs};

/// Exit code of a command ended by Ctrl-C.
const INTERRUPTED: i32 = 130;
/// How long an interrupted command may tidy up.
const TIDY_UP: Duration = Duration::from_secs(3);

/// Runs `hadal dfs`.
pub(crate) fn run(global: &Global, console: Arc<Console>, args: DfsArgs) -> Result<i32> {
    let Some(args) = args.0 else {
        console.error(help::all_usages());
        return Ok(USAGE);
    };
    let verb = args.verb;
    match verb.name {
        "help" => return Ok(help::help(&console, &args.args)),
        "usage" => return Ok(help::usage(&console, &args.args)),
        _ => {}
    }
    if !verb.supported {
        let failure = Failure::unsupported(&format!("dfs -{}", verb.name));
        console.error(format!("{}: {}", verb.name, failure.message()));
        return Ok(1);
    }
    let refusal = check_count(&args).or_else(|| check_form(&args));
    if let Some(refusal) = refusal {
        console.error(usage_error(&args, &refusal));
        return Ok(USAGE);
    }
    let config = session::load_config_with(global.config.as_deref(), &global.settings()?)?.config;
    let umask = session::umask(&config)?;
    let runtime = session::runtime()?;
    let code = runtime.block_on(async {
        let (dfs, user) = session::connect_as(&config)?;
        let shell = Arc::new(Shell::new(dfs, config, user, console, args, umask));
        let code = tokio::select! {
            code = run_verb(&shell) => code,
            _ = tokio::signal::ctrl_c() => {
                shell.console.flush();
                if tokio::time::timeout(TIDY_UP, shell.remove_temporary()).await.is_err() {
                    shell.console.error("interrupted; temporary files may be left behind (*._COPYING_)");
                }
                INTERRUPTED
            }
        };
        shell.dfs.close().await;
        Ok(code)
    });
    // A thread that waits for standard input must not hold the command.
    runtime.shutdown_background();
    code
}

/// What the number of arguments is wrong about.
fn check_count(args: &VerbArgs) -> Option<String> {
    let (verb, got) = (args.verb, args.args.len());
    if got < verb.min {
        Some(format!(
            "Not enough arguments: expected {} but got {got}",
            verb.min
        ))
    } else if got > verb.max {
        Some(format!(
            "Too many arguments: expected {} but got {got}",
            verb.max
        ))
    } else {
        None
    }
}

/// What is wrong about arguments that can be judged without a cluster.
fn check_form(args: &VerbArgs) -> Option<String> {
    match args.verb.name {
        "chmod" => mode::Mode::parse(&args.args[0]).err(),
        "truncate" => length::wanted_length(&args.args[0]).err(),
        _ => None,
    }
}

fn usage_error(args: &VerbArgs, refusal: &str) -> String {
    format!("-{}: {refusal}\n{}", args.verb.name, args.verb.usage_line())
}

async fn run_verb(shell: &Arc<Shell>) -> i32 {
    let outcome = match shell.verb().name {
        "appendToFile" => copy::append(shell).await,
        "cat" => read::cat(shell, false).await,
        "checksum" => stat::checksum(shell).await,
        "chgrp" => attributes::chgrp(shell).await,
        "chmod" => attributes::chmod(shell).await,
        "chown" => attributes::chown(shell).await,
        "concat" => length::concat(shell).await,
        "count" => space::count(shell).await,
        "cp" => copy::cp(shell).await,
        "df" => space::df(shell).await,
        "du" => space::du(shell).await,
        "find" => find::run(shell).await,
        "get" => copy::get(shell).await,
        "getmerge" => copy::getmerge(shell).await,
        "head" => read::head(shell).await,
        "ls" => ls::run(shell).await,
        "mkdir" => namespace::mkdir(shell).await,
        "mv" => namespace::mv(shell).await,
        "put" => copy::put(shell).await,
        "rm" => {
            let args = &shell.args;
            namespace::rm(shell, args.has("r") || args.has("R"), args.has("f")).await
        }
        "rmr" => {
            shell
                .console
                .remark("rmr: DEPRECATED: Please use '-rm -r' instead.");
            namespace::rm(shell, true, false).await
        }
        "rmdir" => namespace::rmdir(shell).await,
        "setrep" => attributes::setrep(shell).await,
        "stat" => stat::stat(shell).await,
        "tail" => read::tail(shell).await,
        "test" => stat::test(shell).await,
        "text" => read::cat(shell, true).await,
        "touch" => namespace::touch(shell).await,
        "touchz" => namespace::touchz(shell).await,
        "truncate" => length::truncate(shell).await,
        name => Err(Failure::unsupported(&format!("dfs -{name}"))),
    };
    match outcome {
        Err(Failure::Usage(refusal)) => {
            shell.console.error(usage_error(&shell.args, &refusal));
            return USAGE;
        }
        outcome => shell.settle(outcome),
    }
    if shell.console.json && has_json(shell.verb().name) {
        shell.console.json(&shell.take_rows());
    }
    shell.console.flush();
    shell.exit_code()
}

/// Verbs that tell a status.
fn has_json(verb: &str) -> bool {
    matches!(
        verb,
        "ls" | "du" | "df" | "count" | "stat" | "checksum" | "find"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_verb_is_run_by_its_own_name() {
        let source = include_str!("mod.rs");
        for verb in verbs::VERBS.iter().filter(|verb| verb.supported) {
            let arm = format!("\"{}\" =>", verb.name);
            assert!(source.contains(&arm), "nothing runs -{}", verb.name);
        }
    }
}
