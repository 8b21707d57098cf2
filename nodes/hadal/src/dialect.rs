//! Hadoop's dash forms, turned into what clap reads: `dfs -ls -R /` becomes `dfs ls -R /`.

use crate::admin;
use crate::files::verbs;
use clap::Command;

/// A command line that is refused before clap sees it; the text is for standard error, the exit code 255.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal(pub(crate) String);

/// Commands whose first argument is a verb, with or without a dash.
const VERB_GROUPS: [&str; 3] = ["dfsadmin", "haadmin", "debug"];
/// Commands whose word options have one dash in Hadoop.
const WORD_GROUPS: [&str; 7] = [
    "fsck",
    "getconf",
    "namenode",
    "journalnode",
    "datanode",
    "oiv",
    "oev",
];
/// Options of `hadal` itself that take a value.
const VALUED: [&str; 2] = ["--config", "-D"];

/// Rewrites a command line (without the program's name). `root` is the whole command, asked for verbs.
pub(crate) fn normalise(args: Vec<String>, root: &Command) -> Result<Vec<String>, Refusal> {
    let mut rest = args.into_iter();
    let mut out = Vec::new();
    // Options before the command are clap's own.
    let command = loop {
        let Some(arg) = rest.next() else {
            return Ok(out);
        };
        if !arg.starts_with('-') {
            break if arg == "fs" { "dfs".into() } else { arg };
        }
        let valued = VALUED.contains(&arg.as_str());
        out.push(arg);
        if valued {
            out.extend(rest.next());
        }
    };
    out.push(command.clone());
    let rest: Vec<String> = rest.collect();
    match command.as_str() {
        "dfs" => dfs(&mut out, rest)?,
        name if VERB_GROUPS.contains(&name) => {
            let group = root
                .find_subcommand(name)
                .expect("every group is a command");
            group_verb(&mut out, rest, group)?;
        }
        "balancer" => out.extend(lists(rest).map(word)),
        name if WORD_GROUPS.contains(&name) => out.extend(rest.into_iter().map(word)),
        _ => out.extend(rest),
    }
    Ok(out)
}

/// Hadoop's balancer takes a list (`-exclude a,b`) or a file with one (`-exclude -f FILE`): the latter as `@FILE`.
fn lists(args: Vec<String>) -> impl Iterator<Item = String> {
    let mut args = args.into_iter();
    let mut of_list = false;
    std::iter::from_fn(move || {
        let arg = args.next()?;
        if of_list && arg == "-f" {
            of_list = false;
            return Some(format!("@{}", args.next().unwrap_or_default()));
        }
        of_list = matches!(&*arg, "-include" | "-exclude" | "-source");
        Some(arg)
    })
}

/// `-files` as `--files`; everything else as it is.
fn word(arg: String) -> String {
    let mut chars = arg.chars();
    let is_word = chars.next() == Some('-')
        && chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.next().is_some()
        && !arg.starts_with("-D");
    if is_word { format!("-{arg}") } else { arg }
}

fn group_verb(out: &mut Vec<String>, rest: Vec<String>, group: &Command) -> Result<(), Refusal> {
    let mut rest = rest.into_iter().peekable();
    // Generic options, clap's own, may stand before the verb.
    while let Some(arg) = rest.next_if(|arg| arg.starts_with("--") || arg.starts_with("-D")) {
        let valued = VALUED.contains(&arg.as_str());
        out.push(arg);
        if valued {
            out.extend(rest.next());
        }
    }
    if let Some(verb) = rest.next() {
        let bare = verb.strip_prefix('-').unwrap_or(&verb);
        let known = group.find_subcommand(bare).is_some()
            || admin::is_missing(group.get_name(), bare)
            || matches!(bare, "help" | "h");
        if !known {
            return Err(Refusal(format!(
                "{verb}: Unknown command\n`hadal {} --help' lists the commands",
                group.get_name()
            )));
        }
        // HAAdmin takes the question without a command for a usage error (T-A1).
        if matches!(bare, "help" | "h") && group.get_name() == "haadmin" && rest.peek().is_none() {
            return Err(Refusal(group.clone().render_help().to_string()));
        }
        out.push(if bare == "h" { "help" } else { bare }.to_owned());
        out.extend(rest.map(word));
    }
    Ok(())
}

fn dfs(out: &mut Vec<String>, rest: Vec<String>) -> Result<(), Refusal> {
    let mut rest = rest.into_iter();
    let asked = loop {
        let Some(arg) = rest.next() else {
            return Ok(());
        };
        match arg.as_str() {
            "-conf" => out.push("--config".into()),
            _ if arg.starts_with("--") || arg.starts_with("-D") => {
                let valued = VALUED.contains(&arg.as_str());
                out.push(arg);
                if !valued {
                    continue;
                }
            }
            _ => break arg,
        }
        out.extend(rest.next());
    };
    let name = asked.strip_prefix('-').unwrap_or(&asked);
    let Some(verb) = verbs::find(name) else {
        return Err(Refusal(format!(
            "{asked}: Unknown command\nUsage: hadal dfs [generic options]\n`hadal dfs -help' lists the commands"
        )));
    };
    out.push(verb.name.to_owned());
    if matches!(verb.name, "help" | "usage") {
        // What is asked about may have its dash.
        let bare = |arg: String| match arg.strip_prefix('-') {
            Some(name) if verbs::find(name).is_some() => name.to_owned(),
            _ => arg,
        };
        out.extend(rest.map(bare));
        return Ok(());
    }
    if !verb.supported {
        out.extend(rest);
        return Ok(());
    }
    let mut options = true;
    for arg in rest {
        options &= arg != "--";
        let word = arg.strip_prefix('-').filter(|word| {
            options && !word.is_empty() && !word.starts_with('-') && !word.starts_with('D')
        });
        let Some(word) = word else {
            out.push(arg);
            continue;
        };
        if verb.knows(word) {
            out.push(match word.len() {
                1 => arg,
                _ => format!("-{arg}"),
            });
        } else if verb.name == "cp" && is_preserve(word) {
            out.push("-p".into());
        } else if is_cluster(verb, word) {
            out.push(arg);
        } else {
            return Err(Refusal(format!(
                "-{}: Illegal option {arg}\n{}",
                verb.name,
                verb.usage_line()
            )));
        }
    }
    Ok(())
}

/// `-ptopa`: which attributes `cp` keeps; times, owner and mode are kept together.
fn is_preserve(word: &str) -> bool {
    word.strip_prefix('p')
        .is_some_and(|which| which.chars().all(|c| "topax".contains(c)))
}

/// Letters run together (`-Rh`), or a letter with its value (`-t16`).
fn is_cluster(verb: &verbs::Verb, word: &str) -> bool {
    let known = |letter: char, names: &[&str]| {
        let mut buffer = [0; 4];
        names.contains(&&*letter.encode_utf8(&mut buffer))
    };
    let mut letters = word.chars();
    letters.next().is_some_and(|c| known(c, verb.values))
        || word.chars().all(|c| known(c, verb.flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(line: &str) -> Result<String, String> {
        let args = line.split(' ').map(str::to_owned).collect();
        normalise(args, &crate::cli::Cli::command())
            .map(|args| args.join(" "))
            .map_err(|refusal| refusal.0)
    }

    #[test]
    fn dash_forms_become_subcommands_and_long_options() {
        for (from, to) in [
            ("dfs -ls -R /", "dfs ls -R /"),
            ("fs -ls /", "dfs ls /"),
            ("dfs ls -Rh /", "dfs ls -Rh /"),
            ("dfs -rm -r -skipTrash /a", "dfs rm -r --skipTrash /a"),
            ("dfs -copyFromLocal a b", "dfs put a b"),
            ("dfs -put - /a", "dfs put - /a"),
            ("dfs -put -t 4 a /a", "dfs put -t 4 a /a"),
            ("dfs -put -t4 a /a", "dfs put -t4 a /a"),
            ("dfs -cp -ptop /a /b", "dfs cp -p /a /b"),
            (
                "dfs -D dfs.replication=2 -put a b",
                "dfs -D dfs.replication=2 put a b",
            ),
            ("dfs -conf c.toml -ls", "dfs --config c.toml ls"),
            ("dfs -mkdir -- -odd", "dfs mkdir -- -odd"),
            ("dfs -find / -name x", "dfs find / --name x"),
            ("dfs -usage -ls mv", "dfs usage ls mv"),
            ("dfs -truncate -w 1 /a", "dfs truncate -w 1 /a"),
            ("dfsadmin -metasave f", "dfsadmin metasave f"),
            ("dfsadmin -report -live", "dfsadmin report --live"),
            ("dfsadmin -safemode get", "dfsadmin safemode get"),
            (
                "haadmin -failover --forcefence nn1 nn2",
                "haadmin failover --forcefence nn1 nn2",
            ),
            (
                "fsck / -files -blocks -list-corruptfileblocks",
                "fsck / --files --blocks --list-corruptfileblocks",
            ),
            (
                "debug recoverLease -path /a -retries 3",
                "debug recoverLease --path /a --retries 3",
            ),
            (
                "namenode -format -clusterid C -nonInteractive",
                "namenode --format --clusterid C --nonInteractive",
            ),
            ("getconf -confKey tls.dir", "getconf --confKey tls.dir"),
            (
                "balancer -threshold 5 -exclude -f list -source dn1,dn2",
                "balancer --threshold 5 --exclude @list --source dn1,dn2",
            ),
            (
                "--config dfs dfsadmin -rollEdits",
                "--config dfs dfsadmin rollEdits",
            ),
            ("tls issue --role client", "tls issue --role client"),
        ] {
            assert_eq!(run(from).as_deref(), Ok(to), "{from}");
        }
    }

    #[test]
    fn unknown_verbs_and_options_are_refused_as_fsshell_does() {
        for (line, text) in [
            ("dfs -bogus /", "-bogus: Unknown command\n"),
            ("dfs bogus", "bogus: Unknown command\n"),
            ("dfsadmin -bogus", "-bogus: Unknown command\n"),
            (
                "dfs -ls -z /",
                "-ls: Illegal option -z\nUsage: hadal dfs [generic options] -ls [-C]",
            ),
            ("dfs -rm -skiptrash /", "-rm: Illegal option -skiptrash\n"),
        ] {
            let refused = run(line).unwrap_err();
            assert!(refused.starts_with(text), "{line}: {refused}");
        }
    }
}
