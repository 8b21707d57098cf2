//! `-ls`: listings in FsShell's form.

use super::failure::Failure;
use super::path::PathData;
use super::shell::Shell;
use crate::humanize;
use hadal_client::FileStatus;
use serde_json::{Value, json};

/// Widths of columns so far: like Hadoop's, they only grow within one command.
struct Widths {
    replication: usize,
    owner: usize,
    group: usize,
    length: usize,
}

impl Default for Widths {
    fn default() -> Self {
        Self {
            replication: 3,
            owner: 0,
            group: 0,
            length: 10,
        }
    }
}

/// How lines are written.
#[derive(Clone, Copy)]
struct Form {
    human: bool,
    accessed: bool,
    /// `?` for what cannot be printed.
    mask: bool,
}

/// Runs the verb.
pub(crate) async fn run(shell: &Shell) -> Result<(), Failure> {
    let here = [".".to_owned()];
    let arguments = match &shell.args.args[..] {
        [] => &here[..],
        some => some,
    };
    let (recursive, directories_as_files) = (shell.args.has("R"), shell.args.has("d"));
    let mut listing = Listing {
        shell,
        widths: Widths::default(),
        form: Form {
            human: shell.args.has("h"),
            accessed: shell.args.has("u"),
            mask: shell.args.has("q"),
        },
        paths_only: shell.args.has("C"),
    };
    let found = shell.existing(arguments).await;
    let (directories, files): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|path| path.is_dir() && !directories_as_files);
    listing.print(listing.sorted(files));
    for directory in directories {
        if shell.is_over() {
            break;
        }
        shell.settle(listing.directory(&directory, recursive).await);
    }
    Ok(())
}

struct Listing<'a> {
    shell: &'a Shell,
    widths: Widths,
    form: Form,
    paths_only: bool,
}

impl Listing<'_> {
    async fn directory(&mut self, directory: &PathData, recursive: bool) -> Result<(), Failure> {
        let entries = self.sorted(self.shell.children(directory).await?);
        if !recursive {
            if !entries.is_empty() && !self.paths_only && !self.shell.console.json {
                self.shell.line(format!("Found {} items", entries.len()));
            }
            self.print(entries);
            return Ok(());
        }
        self.adjust(&entries);
        let mut left: Vec<PathData> = entries.into_iter().rev().collect();
        while let Some(entry) = left.pop() {
            if self.shell.is_over() {
                break;
            }
            self.line(&entry);
            match self.shell.children(&entry).await {
                Ok(children) => {
                    let children = self.sorted(children);
                    self.adjust(&children);
                    left.extend(children.into_iter().rev());
                }
                Err(failure) => self.shell.complain(&failure),
            }
        }
        Ok(())
    }

    fn sorted(&self, mut entries: Vec<PathData>) -> Vec<PathData> {
        let args = &self.shell.args;
        let accessed = self.form.accessed;
        let status = |path: &PathData| path.status.clone();
        if args.has("t") {
            let time = |status: FileStatus| match accessed {
                true => status.accessed_ms,
                false => status.modified_ms,
            };
            entries.sort_by_key(|path| std::cmp::Reverse(status(path).map(time)));
        } else if args.has("S") {
            entries.sort_by_key(|path| std::cmp::Reverse(status(path).map(|s| s.length)));
        }
        if args.has("r") {
            entries.reverse();
        }
        entries
    }

    fn adjust(&mut self, entries: &[PathData]) {
        for status in entries.iter().filter_map(|path| path.status.as_ref()) {
            let widths = &mut self.widths;
            let grow = |width: &mut usize, text: &str| *width = (*width).max(text.chars().count());
            grow(&mut widths.replication, &status.replication.to_string());
            grow(&mut widths.owner, &status.owner);
            grow(&mut widths.group, &status.group);
            let length = humanize::size(status.length, self.form.human);
            grow(&mut widths.length, &length);
        }
    }

    fn print(&mut self, entries: Vec<PathData>) {
        self.adjust(&entries);
        for entry in &entries {
            self.line(entry);
        }
    }

    fn line(&self, path: &PathData) {
        let Some(status) = &path.status else { return };
        if self.shell.console.json {
            self.shell.row(to_json(&path.path, status));
        } else if self.paths_only {
            self.shell.line(shown(&path.shown, self.form.mask));
        } else {
            self.shell
                .line(format_line(&path.shown, status, &self.widths, self.form));
        }
    }
}

fn shown(path: &str, mask: bool) -> String {
    match mask {
        true => path
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
        false => path.to_owned(),
    }
}

fn format_line(path: &str, status: &FileStatus, widths: &Widths, form: Form) -> String {
    let (kind, replication) = match status.is_dir {
        true => ('d', "-".to_owned()),
        false => ('-', status.replication.to_string()),
    };
    let time = match form.accessed {
        true => status.accessed_ms,
        false => status.modified_ms,
    };
    format!(
        "{kind}{} {replication:>r$} {:<o$} {:<g$} {:>l$} {} {}",
        humanize::permission(status.permission),
        status.owner,
        status.group,
        humanize::size(status.length, form.human),
        humanize::listing_time(time),
        shown(path, form.mask),
        r = widths.replication,
        o = widths.owner,
        g = widths.group,
        l = widths.length,
    )
}

/// A status for programs.
pub(crate) fn to_json(path: &str, status: &FileStatus) -> Value {
    json!({
        "path": path,
        "type": if status.is_dir { "directory" } else { "file" },
        "inode": status.inode.0,
        "length": status.length,
        "replication": status.replication,
        "block_size": status.block_size,
        "modified_ms": status.modified_ms,
        "accessed_ms": status.accessed_ms,
        "permission": format!("{:03o}", status.permission),
        "owner": status.owner,
        "group": status.group,
        "children": status.children,
        "under_construction": status.under_construction,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::InodeId;

    /// A status to format.
    pub(crate) fn status(is_dir: bool, length: u64) -> FileStatus {
        FileStatus {
            name: "x".into(),
            inode: InodeId(7),
            is_dir,
            length,
            replication: if is_dir { 0 } else { 3 },
            block_size: 0,
            modified_ms: 1_795_219_445_678,
            accessed_ms: 0,
            permission: if is_dir { 0o1755 } else { 0o644 },
            owner: "root".into(),
            group: "supergroup".into(),
            children: 0,
            under_construction: false,
        }
    }

    const PLAIN: Form = Form {
        human: false,
        accessed: false,
        mask: false,
    };

    fn without_time(line: &str) -> String {
        let time = humanize::listing_time(1_795_219_445_678);
        assert!(line.contains(&time), "{line}");
        line.replace(&time, "TIME")
    }

    #[test]
    fn lines_are_hdfs_s() {
        let widths = Widths::default();
        let line = format_line("/path", &status(false, 3_000_000), &widths, PLAIN);
        assert_eq!(
            without_time(&line),
            "-rw-r--r--   3 root supergroup    3000000 TIME /path"
        );
        let line = format_line("/d", &status(true, 0), &widths, PLAIN);
        assert_eq!(
            without_time(&line),
            "drwxr-xr-t   - root supergroup          0 TIME /d"
        );
        let human = Form {
            human: true,
            ..PLAIN
        };
        let line = format_line("/path", &status(false, 3_000_000), &widths, human);
        assert_eq!(
            without_time(&line),
            "-rw-r--r--   3 root supergroup      2.9 M TIME /path"
        );
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_entry() {
        let widths = Widths {
            owner: 6,
            ..Widths::default()
        };
        let line = format_line("/path", &status(false, 1), &widths, PLAIN);
        assert!(line.contains(" root   supergroup "), "{line}");
    }

    #[test]
    fn control_characters_can_be_masked() {
        assert_eq!(shown("/a\nb", true), "/a?b");
        assert_eq!(shown("/a\nb", false), "/a\nb");
    }
}
