//! Which DataNodes belong to the cluster and which leave: the files `namenode.hosts` and `namenode.hosts_exclude`.

use anyhow::Result;
use hadal_blocks::HostLists;
use hadal_namenode::HostLookup;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Longest file that is read (bytes).
const FILE_MAX: u64 = 4 << 20;

/// Reads both files whenever it is called; an empty path is an empty list. Read once here, so that a wrong path stops
/// the start and not the first refresh.
pub(crate) fn lookup(include: &Path, exclude: &Path) -> Result<HostLookup> {
    let (include, exclude) = (include.to_owned(), exclude.to_owned());
    let lookup = move || {
        Ok(HostLists {
            include: read("namenode.hosts", &include)?,
            exclude: read("namenode.hosts_exclude", &exclude)?,
        })
    };
    lookup().map_err(|why: String| anyhow::anyhow!(why))?;
    Ok(Arc::new(lookup))
}

fn read(key: &str, file: &Path) -> Result<BTreeSet<String>, String> {
    if file.as_os_str().is_empty() {
        return Ok(BTreeSet::new());
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
    Ok(parse(&text))
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
        assert!(lookup(Path::new(""), &file).is_err(), "not there");
        std::fs::write(&file, "# leaving\n dn1 10.0.0.2:9866\n\ndn3 # soon\n").unwrap();
        let lookup = lookup(Path::new(""), &file).unwrap();
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
}
