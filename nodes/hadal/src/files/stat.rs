//! `-stat`, `-test`, `-checksum`: what one path is.

use super::failure::{At, Failure};
use super::ls::to_json;
use super::path::PathData;
use super::shell::Shell;
use crate::groups;
use crate::humanize;
use hadal_client::FileStatus;
use serde_json::json;

/// What `-stat` prints without a format.
const DEFAULT_FORMAT: &str = "%y";

/// Runs `-stat`.
pub(crate) async fn stat(shell: &Shell) -> Result<(), Failure> {
    let (format, arguments) = match &shell.args.args[..] {
        [format, paths @ ..] if format.contains('%') => (format.as_str(), paths),
        paths => (DEFAULT_FORMAT, paths),
    };
    if arguments.is_empty() {
        return Err(Failure::Usage(
            "Not enough arguments: expected 1 but got 0".into(),
        ));
    }
    for path in shell.existing(arguments).await {
        let status = path.require()?;
        match shell.console.json {
            true => shell.row(to_json(&path.path, status)),
            false => shell.line(formatted(format, path.name(), status)),
        }
    }
    Ok(())
}

/// A status in the words of a format.
fn formatted(format: &str, name: &str, status: &FileStatus) -> String {
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        text += &match chars.next() {
            Some('a') => format!("{:o}", status.permission),
            Some('A') => humanize::permission(status.permission),
            Some('b') => status.length.to_string(),
            Some('F') => match status.is_dir {
                true => "directory",
                false => "regular file",
            }
            .to_owned(),
            Some('g') => status.group.clone(),
            Some('n') => name.to_owned(),
            Some('o') => status.block_size.to_string(),
            Some('r') => status.replication.to_string(),
            Some('u') => status.owner.clone(),
            Some('x') => humanize::stat_time(status.accessed_ms),
            Some('X') => status.accessed_ms.to_string(),
            Some('y') => humanize::stat_time(status.modified_ms),
            Some('Y') => status.modified_ms.to_string(),
            Some(other) => other.to_string(),
            None => "%".into(),
        };
    }
    text
}

/// Runs `-test`.
pub(crate) async fn test(shell: &Shell) -> Result<(), Failure> {
    let asked: Vec<&str> = ["d", "e", "f", "s", "w", "r", "z"]
        .into_iter()
        .filter(|flag| shell.args.has(flag))
        .collect();
    let [flag] = asked[..] else {
        return Err(Failure::Usage(match asked.len() {
            0 => "No test flag given".into(),
            _ => "Only one test flag is allowed".into(),
        }));
    };
    let paths = shell.expand_all(&shell.args.args).await;
    for path in paths {
        let holds = match &path.status {
            None => false,
            Some(status) => match flag {
                "d" => status.is_dir,
                "f" => !status.is_dir,
                "s" => status.is_dir || status.length > 0,
                "z" => !status.is_dir && status.length == 0,
                "r" => may(shell, status, 4)?,
                "w" => may(shell, status, 2)?,
                _ => true,
            },
        };
        if !holds {
            shell.fail();
        }
    }
    Ok(())
}

/// Whether the user has these of `rwx` on a path, by the groups this host knows of.
fn may(shell: &Shell, status: &FileStatus, wanted: u16) -> Result<bool, Failure> {
    let cluster = &shell.config.cluster;
    let lookup =
        groups::lookup(&cluster.groups).map_err(|error| Failure::Told(format!("{error:#}")))?;
    let groups = lookup(&shell.user);
    let is_super = shell.user == cluster.superuser || groups.contains(&cluster.supergroup);
    let bits = if status.owner == shell.user {
        status.permission >> 6
    } else if groups.contains(&status.group) {
        status.permission >> 3
    } else {
        status.permission
    };
    Ok(is_super || bits & wanted == wanted)
}

/// Runs `-checksum`.
pub(crate) async fn checksum(shell: &Shell) -> Result<(), Failure> {
    for path in shell.existing(&shell.args.args).await {
        if shell.is_over() {
            break;
        }
        shell.settle(checksum_of(shell, &path).await);
    }
    Ok(())
}

async fn checksum_of(shell: &Shell, path: &PathData) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::is_directory(&path.shown));
    }
    let checksum = shell.dfs.file_checksum(&path.path).await.at(&path.shown)?;
    if shell.console.json {
        let (algorithm, value) = checksum.split_once('\t').unwrap_or(("", &checksum));
        shell.row(json!({ "path": path.path, "algorithm": algorithm, "checksum": value }));
    } else if shell.args.has("v") {
        let block = path.require()?.block_size;
        shell.line(format!("{}\t{checksum}\tBlockSize={block}", path.shown));
    } else {
        shell.line(format!("{}\t{checksum}", path.shown));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::InodeId;

    #[test]
    fn formats_are_filled_in() {
        let status = FileStatus {
            name: "f".into(),
            inode: InodeId(7),
            is_dir: false,
            length: 12,
            replication: 3,
            block_size: 1 << 20,
            modified_ms: 1_795_219_445_678,
            accessed_ms: 1000,
            permission: 0o1640,
            owner: "me".into(),
            group: "us".into(),
            children: 0,
            under_construction: false,
        };
        let text = |format| formatted(format, "f", &status);
        assert_eq!(text(DEFAULT_FORMAT), "2026-11-21 00:04:05");
        assert_eq!(
            text("%F %a %A %u:%g %b %r %o %n"),
            "regular file 1640 rw-r----T me:us 12 3 1048576 f"
        );
        assert_eq!(
            text("%Y %X %x 100%% %"),
            "1795219445678 1000 1970-01-01 00:00:01 100% %"
        );
        let directory = FileStatus {
            is_dir: true,
            ..status
        };
        assert_eq!(formatted("%F", "d", &directory), "directory");
    }
}
