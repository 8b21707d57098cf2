//! `-find`: paths below others, by name.

use super::failure::Failure;
use super::glob::Pattern;
use super::shell::{Shell, paths};
use futures_util::StreamExt;
use serde_json::json;
use std::pin::pin;

/// Runs the verb.
pub(crate) async fn run(shell: &Shell) -> Result<(), Failure> {
    let here = [".".to_owned()];
    let arguments = match &shell.args.args[..] {
        [] => &here[..],
        some => some,
    };
    let compile = |pattern: &str| Pattern::new(pattern).map_err(Failure::Usage);
    let name = shell.args.value("name").map(compile).transpose()?;
    let any_case = shell
        .args
        .value("iname")
        .map(|pattern| compile(&pattern.to_lowercase()))
        .transpose()?;
    let tops = shell.existing(arguments).await;
    let mut found = pin!(paths(shell, tops, true));
    while let Some(path) = found.next().await {
        let fits = name.as_ref().is_none_or(|name| name.matches(path.name()))
            && any_case
                .as_ref()
                .is_none_or(|name| name.matches(&path.name().to_lowercase()));
        if !fits {
            continue;
        }
        if shell.console.json {
            shell.row(json!(path.path));
        } else if shell.args.has("print0") {
            shell.console.bytes(path.shown.as_bytes());
            shell.console.bytes(b"\0");
        } else {
            shell.line(&path.shown);
        }
    }
    Ok(())
}
