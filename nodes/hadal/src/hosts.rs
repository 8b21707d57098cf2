//! Which DataNodes belong to the cluster and which leave: the files `namenode.hosts`, `namenode.hosts_exclude` and
//! `namenode.hosts_maintenance`.

use crate::humanize::now_ms;
use anyhow::Result;
use hadal_blocks::HostLists;
use hadal_namenode::HostLookup;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Longest file that is read (bytes).
const FILE_MAX: u64 = 4 << 20;

/// Reads all files whenever it is called; an empty path is an empty list. Read once here, so that a wrong path stops
/// the start and not the first refresh.
pub(crate) fn lookup(include: &Path, exclude: &Path, maintenance: &Path) -> Result<HostLookup> {
    let (include, exclude) = (include.to_owned(), exclude.to_owned());
    let maintenance = maintenance.to_owned();
    let lookup = move || {
        Ok(HostLists {
            include: parse(&read("namenode.hosts", &include)?),
            exclude: parse(&read("namenode.hosts_exclude", &exclude)?),
            maintenance: parse_maintenance(
                &read("namenode.hosts_maintenance", &maintenance)?,
                now_ms(),
            )?,
        })
    };
    lookup().map_err(|why: String| anyhow::anyhow!(why))?;
    Ok(Arc::new(lookup))
}

fn read(key: &str, file: &Path) -> Result<String, String> {
    if file.as_os_str().is_empty() {
        return Ok(String::new());
    }
    let mut text = String::new();
    let read = std::fs::File::open(file)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot read {key} {}: {error}", file.display()))?;
    if read as u64 > FILE_MAX {
        return Err(format!(
            "{key} {} is longer than {FILE_MAX} bytes",
            file.display()
        ));
    }
    Ok(text)
}

/// One DataNode per line: node id, address or `address:port`, and behind it, if maintenance is to end by itself, when:
/// milliseconds since 1970 (HDFS `maintenanceExpireTimeInMS`); `#` starts a comment.
fn parse_maintenance(text: &str, now_ms: u64) -> Result<BTreeMap<String, u64>, String> {
    let mut list = BTreeMap::new();
    for line in text.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let Some(name) = words.next() else { continue };
        let left_ms = match (words.next(), words.next()) {
            (None, _) => u64::MAX,
            (Some(end), None) => match end.parse::<u64>() {
                Ok(end) => end.saturating_sub(now_ms),
                Err(_) => return Err(bad_line(line)),
            },
            _ => return Err(bad_line(line)),
        };
        list.insert(name.to_owned(), left_ms);
    }
    Ok(list)
}

fn bad_line(line: &str) -> String {
    format!(
        "namenode.hosts_maintenance: `{line}' is not a DataNode and, if it ends, the end in milliseconds since 1970"
    )
}

/// One DataNode per line or several with blanks between: node id, address or `address:port`; `#` starts a comment.
fn parse(text: &str) -> BTreeSet<String> {
    text.lines()
        .flat_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace().map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("exclude");
        let nothing = Path::new("");
        assert!(lookup(nothing, &file, nothing).is_err(), "not there");
        std::fs::write(&file, "# leaving\n dn1 10.0.0.2:9866\n\ndn3 # soon\n").unwrap();
        let lookup = lookup(nothing, &file, nothing).unwrap();
        let lists = lookup().unwrap();
        assert!(lists.include.is_empty());
        let names: Vec<_> = lists.exclude.into_iter().collect();
        assert_eq!(names, ["10.0.0.2:9866", "dn1", "dn3"]);
        std::fs::write(&file, "").unwrap();
        assert!(lookup().unwrap().exclude.is_empty());
        std::fs::remove_file(&file).unwrap();
        let why = lookup().unwrap_err();
        assert!(why.contains("namenode.hosts_exclude"), "{why}");
    }

    #[test]
    fn maintenance_may_end_by_itself() {
        let list = parse_maintenance("dn1\n\n10.0.0.2:9866 5000 # disks\ndn3 100", 2_000);
        let list: Vec<_> = list.unwrap().into_iter().collect();
        let expected = [("10.0.0.2:9866", 3_000), ("dn1", u64::MAX), ("dn3", 0)];
        assert_eq!(list, expected.map(|(name, left)| (name.to_owned(), left)));
        for bad in ["dn1 tomorrow", "dn1 5 6"] {
            let why = parse_maintenance(bad, 0).unwrap_err();
            assert!(why.contains(bad), "{why}");
        }
    }
}
