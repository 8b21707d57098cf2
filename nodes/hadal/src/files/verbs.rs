//! The verbs of `hadal dfs`: one table that gives clap its commands and users Hadoop's usage and help.

use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::{BTreeMap, BTreeSet};

/// A verb as FsShell knows it.
#[derive(Debug)]
pub(crate) struct Verb {
    /// Its name without the dash.
    pub(crate) name: &'static str,
    /// Other names for it.
    pub(crate) aliases: &'static [&'static str],
    /// Options without a value; of one letter or a word.
    pub(crate) flags: &'static [&'static str],
    /// Options with a value.
    pub(crate) values: &'static [&'static str],
    /// Fewest other arguments.
    pub(crate) min: usize,
    /// Most other arguments.
    pub(crate) max: usize,
    /// What follows the name in its usage line.
    pub(crate) usage: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
    /// Whether it is there in this version.
    pub(crate) supported: bool,
}

const MANY: usize = usize::MAX;

macro_rules! verb {
    ($name:literal $([$($alias:literal)*])?, $flags:expr, $values:expr, $min:expr, $max:expr, $usage:literal, $about:literal) => {
        Verb { name: $name, aliases: &[$($($alias),*)?], flags: &$flags, values: &$values, min: $min, max: $max, usage: $usage, about: $about, supported: true }
    };
}

macro_rules! missing {
    ($name:literal, $usage:literal, $about:literal) => {
        Verb {
            name: $name,
            aliases: &[],
            flags: &[],
            values: &[],
            min: 0,
            max: MANY,
            usage: $usage,
            about: $about,
            supported: false,
        }
    };
}

/// All verbs in alphabetical order.
#[rustfmt::skip]
pub(crate) static VERBS: &[Verb] = &[
    verb!("appendToFile", ["n"], [], 2, MANY, "[-n] <localsrc> ... <dst>", "Append local files to a file, making it if need be; `-' is standard input, -n: begin a new block"),
    verb!("cat", ["ignoreCrc"], [], 1, MANY, "[-ignoreCrc] <src> ...", "Write files to standard output"),
    verb!("checksum", ["v"], [], 1, MANY, "[-v] <src> ...", "Print checksums of files"),
    verb!("chgrp", ["R"], [], 2, MANY, "[-R] GROUP PATH...", "Change the group of paths; -R: and of everything below"),
    verb!("chmod", ["R"], [], 2, MANY, "[-R] <MODE[,MODE]... | OCTALMODE> PATH...", "Change permissions, as in u+x,g-w or 755; -R: and of everything below"),
    verb!("chown", ["R"], [], 2, MANY, "[-R] [OWNER][:[GROUP]] PATH...", "Change owner and group of paths; -R: and of everything below"),
    verb!("concat", [], [], 2, MANY, "<target path> <src path> <src path> ...", "Move the content of files of one directory behind the target's, and remove them"),
    verb!("count", ["q", "h", "v", "u", "x"], [], 1, MANY, "[-q] [-h] [-v] [-u] [-x] <path> ...", "Count directories, files and bytes; -q: with quotas, -u: quotas only, -h: readable sizes, -v: with a header"),
    verb!("cp", ["f", "p", "d"], ["t", "q"], 2, MANY, "[-f] [-p | -p[topax]] [-d] [-t <thread count>] <src> ... <dst>", "Copy files and trees within the cluster; -f: overwrite, -p: keep times, owner and mode, -d: without a temporary name, -t: files at once"),
    missing!("createSnapshot", "<snapshotDir> [<snapshotName>]", "Make a snapshot (not in this version)"),
    missing!("deleteSnapshot", "<snapshotDir> <snapshotName>", "Remove a snapshot (not in this version)"),
    verb!("df", ["h"], [], 0, MANY, "[-h] [<path> ...]", "Show capacity, used and free space"),
    verb!("du", ["s", "h", "v", "x"], [], 0, MANY, "[-s] [-h] [-v] [-x] <path> ...", "Show bytes of files and of their replicas; -s: sums only, -h: readable sizes, -v: with a header"),
    missing!("expunge", "[-immediate]", "Empty the trash (not in this version)"),
    verb!("find", ["print", "print0", "a", "and"], ["name", "iname"], 0, MANY, "<path> ... <expression> ...", "Find paths; expressions: -name PATTERN, -iname PATTERN, -print, -print0"),
    verb!("get" ["copyToLocal"], ["f", "p", "crc", "ignoreCrc"], ["t", "q"], 1, MANY, "[-f] [-p] [-t <thread count>] <src> ... <localdst>", "Copy files and trees to the local disk; `-' is standard output"),
    missing!("getfacl", "[-R] <path>", "Show an access control list (not in this version)"),
    missing!("getfattr", "[-R] {-n name | -d} [-e en] <path>", "Show extended attributes (not in this version)"),
    verb!("getmerge", ["nl", "skip-empty-file"], [], 2, MANY, "[-nl] [-skip-empty-file] <src> ... <localdst>", "Copy files one after the other into one local file; -nl: a newline behind each"),
    verb!("head", [], [], 1, 1, "<file>", "Show the first KiB of a file"),
    verb!("help", [], [], 0, MANY, "[cmd ...]", "Say what commands do"),
    verb!("ls", ["C", "d", "h", "q", "R", "t", "S", "r", "u"], [], 0, MANY, "[-C] [-d] [-h] [-q] [-R] [-t] [-S] [-r] [-u] [<path> ...]", "List directories; -C: paths only, -d: not what is inside, -h: readable sizes, -q: ? for what cannot be printed, -R: recursively, -t: by time, -S: by size, -r: reversed, -u: access times"),
    verb!("mkdir", ["p"], [], 1, MANY, "[-p] <path> ...", "Make directories; -p: with those above, and no complaint when there"),
    missing!("moveFromLocal", "[-f] [-p] <localsrc> ... <dst>", "Copy to the cluster and remove the source (not in this version)"),
    missing!("moveToLocal", "<src> <localdst>", "Copy to the local disk and remove the source (not in this version)"),
    verb!("mv", [], [], 2, MANY, "<src> ... <dst>", "Rename files and directories"),
    verb!("put" ["copyFromLocal"], ["f", "p", "l", "d"], ["t", "q"], 1, MANY, "[-f] [-p] [-l] [-d] [-t <thread count>] <localsrc> ... <dst>", "Copy local files and trees to the cluster; `-' is standard input, -f: overwrite, -p: keep times, owner and mode, -l: one replica, -d: without a temporary name, -t: files at once"),
    missing!("renameSnapshot", "<snapshotDir> <oldName> <newName>", "Rename a snapshot (not in this version)"),
    verb!("rm", ["f", "r", "R", "skipTrash", "safely"], [], 1, MANY, "[-f] [-r|-R] [-skipTrash] [-safely] <src> ...", "Remove files; -r: and directories, -f: no complaint when there is nothing. There is no trash: what is removed is gone"),
    verb!("rmdir", ["ignore-fail-on-non-empty"], [], 1, MANY, "[--ignore-fail-on-non-empty] <dir> ...", "Remove empty directories"),
    verb!("rmr", [], [], 1, MANY, "<src> ...", "Deprecated: use -rm -r"),
    missing!("setfacl", "[-R] [{-b|-k} {-m|-x <acl_spec>} <path>]|[--set <acl_spec> <path>]", "Change an access control list (not in this version)"),
    missing!("setfattr", "{-n name [-v value] | -x name} <path>", "Change extended attributes (not in this version)"),
    verb!("setrep", ["R", "w"], [], 2, MANY, "[-R] [-w] <rep> <path> ...", "Set the replication of files, of a directory's too; -w: wait for it"),
    verb!("stat", [], [], 1, MANY, "[format] <path> ...", "Show a status; format: %a %A mode, %b bytes, %F type, %g group, %n name, %o block size, %r replication, %u owner, %x %X access, %y %Y change"),
    verb!("tail", ["f"], ["s"], 1, 1, "[-f] [-s <sleep interval>] <file>", "Show the last KiB of a file; -f: go on as it grows"),
    verb!("test", ["d", "e", "f", "s", "w", "r", "z"], [], 1, 1, "-[defswrz] <path>", "Answer by exit code: -d directory, -e exists, -f file, -s not empty, -w writable, -r readable, -z empty"),
    verb!("text", ["ignoreCrc"], [], 1, MANY, "[-ignoreCrc] <src> ...", "Write plain files to standard output; compressed and sequence files are not supported in this version"),
    verb!("touch", ["a", "m", "c"], ["t"], 1, MANY, "[-a] [-m] [-t TIMESTAMP (yyyyMMdd:HHmmss)] [-c] <path> ...", "Set times, making empty files; -a: access only, -m: change only, -c: make nothing"),
    verb!("touchz", [], [], 1, MANY, "<path> ...", "Make empty files"),
    verb!("truncate", ["w"], [], 2, MANY, "[-w] <length> <path> ...", "Cut files to a length; -w: wait until their last blocks are recovered"),
    verb!("usage", [], [], 0, MANY, "[cmd ...]", "Show usage lines"),
];

/// The verb of that name or alias.
pub(crate) fn find(name: &str) -> Option<&'static Verb> {
    VERBS
        .iter()
        .find(|verb| verb.name == name || verb.aliases.contains(&name))
}

impl Verb {
    /// `Usage: hadal dfs [generic options] -ls [-C] ...`.
    pub(crate) fn usage_line(&self) -> String {
        format!(
            "Usage: hadal dfs [generic options] -{}{}{}",
            self.name,
            if self.usage.is_empty() { "" } else { " " },
            self.usage
        )
    }

    /// Whether `word` is one of its options, with or without a value.
    pub(crate) fn knows(&self, word: &str) -> bool {
        self.flags.contains(&word) || self.values.contains(&word)
    }

    /// Its command in clap's terms.
    fn command(&self) -> Command {
        let mut command = Command::new(self.name)
            .about(self.about)
            .disable_help_flag(true)
            .visible_aliases(self.aliases.iter().copied());
        command = command.arg(
            Arg::new("help")
                .long("help")
                .action(ArgAction::Help)
                .help("Print help"),
        );
        let named = |name: &'static str| {
            let arg = Arg::new(name);
            let mut letters = name.chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) => arg.short(letter),
                _ => arg.long(name),
            }
        };
        for flag in self.flags {
            command = command.arg(named(flag).action(ArgAction::Count));
        }
        for value in self.values {
            command = command.arg(named(value).action(ArgAction::Set).value_name("VALUE"));
        }
        let rest = Arg::new("args").value_name("ARGS").num_args(0..);
        // What is not there takes any arguments, only to say so.
        command.arg(match self.supported {
            true => rest,
            false => rest.trailing_var_arg(true).allow_hyphen_values(true),
        })
    }
}

/// A verb with its arguments.
#[derive(Clone, Debug)]
pub(crate) struct VerbArgs {
    /// Which verb.
    pub(crate) verb: &'static Verb,
    flags: BTreeSet<&'static str>,
    values: BTreeMap<&'static str, String>,
    /// What is no option.
    pub(crate) args: Vec<String>,
}

impl VerbArgs {
    /// Whether the option was given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        debug_assert!(self.verb.flags.contains(&flag), "{flag}");
        self.flags.contains(flag)
    }

    /// The option's value, if it was given.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        debug_assert!(self.verb.values.contains(&name), "{name}");
        self.values.get(name).map(String::as_str)
    }

    fn from_matches(verb: &'static Verb, matches: &ArgMatches) -> Self {
        let flags = verb.flags.iter().copied();
        let values = verb.values.iter().copied();
        Self {
            verb,
            flags: flags.filter(|flag| matches.get_count(flag) > 0).collect(),
            values: values
                .filter_map(|name| Some((name, matches.get_one::<String>(name)?.clone())))
                .collect(),
            args: matches
                .get_many::<String>("args")
                .map_or_else(Vec::new, |args| args.cloned().collect()),
        }
    }
}

/// The arguments of `hadal dfs`, for clap's derive.
#[derive(Clone, Debug)]
pub(crate) struct DfsArgs(pub(crate) Option<VerbArgs>);

impl clap::FromArgMatches for DfsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.subcommand().map(|(name, matches)| {
            let verb = find(name).expect("clap knows only verbs of the table");
            VerbArgs::from_matches(verb, matches)
        })))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for DfsArgs {
    fn augment_args(command: Command) -> Command {
        let verbs = VERBS.iter().map(Verb::command);
        command.disable_help_subcommand(true).subcommands(verbs)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    #[test]
    fn the_table_is_sorted_and_every_verb_makes_a_command() {
        assert!(VERBS.is_sorted_by(|a, b| a.name.to_lowercase() <= b.name.to_lowercase()));
        DfsArgs::augment_args(Command::new("dfs")).debug_assert();
    }

    #[test]
    fn verbs_are_found_by_alias() {
        assert_eq!(find("copyFromLocal").unwrap().name, "put");
        assert!(find("bogus").is_none());
        assert_eq!(
            find("mkdir").unwrap().usage_line(),
            "Usage: hadal dfs [generic options] -mkdir [-p] <path> ..."
        );
    }
}
