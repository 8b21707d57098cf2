//! `-help` and `-usage`.

use super::verbs::{VERBS, Verb, find};
use crate::cli::USAGE;
use crate::console::Console;

/// All usage lines, as FsShell prints them without arguments.
pub(super) fn all_usages() -> String {
    let lines = VERBS
        .iter()
        .map(|verb| format!("\t[-{} {}]", verb.name, verb.usage).replace(" ]", "]"));
    let head = "Usage: hadal dfs [generic options]".to_owned();
    std::iter::once(head)
        .chain(lines)
        .chain(["Generic options: -D KEY=VALUE, -conf FILE".to_owned()])
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs `-usage`.
pub(super) fn usage(console: &Console, names: &[String]) -> i32 {
    if names.is_empty() {
        console.line(all_usages());
        console.flush();
        return 0;
    }
    tell(console, "usage", names, |verb| verb.usage_line())
}

/// Runs `-help`.
pub(super) fn help(console: &Console, names: &[String]) -> i32 {
    if names.is_empty() {
        console.line(all_usages());
        let all: Vec<String> = VERBS.iter().map(|verb| verb.name.to_owned()).collect();
        return tell(console, "help", &all, described);
    }
    tell(console, "help", names, described)
}

fn described(verb: &Verb) -> String {
    format!("-{} {} :\n  {}\n", verb.name, verb.usage, verb.about)
}

fn tell(console: &Console, own: &str, names: &[String], text: impl Fn(&Verb) -> String) -> i32 {
    let mut code = 0;
    for name in names {
        match find(name.strip_prefix('-').unwrap_or(name)) {
            Some(verb) => console.line(text(verb)),
            None => {
                console.error(format!("-{own}: {name}: Unknown command"));
                code = USAGE;
            }
        }
    }
    console.flush();
    code
}
