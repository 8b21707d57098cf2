//! Who is in which group: the `cluster.groups` file, or else the operating system.

use anyhow::{Context, Result, bail};
use hadal_namenode::GroupLookup;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer of the operating system is used (HDFS `hadoop.security.groups.cache.secs`: 300 s).
const CACHE: Duration = Duration::from_secs(300);
/// Users remembered; the table is emptied when it grows past this.
const CACHE_MAX: usize = 10_000;

/// The lookup for a `cluster.groups` file; an empty path asks the operating system.
pub(crate) fn lookup(file: &Path) -> Result<GroupLookup> {
    if file.as_os_str().is_empty() {
        return Ok(from_os());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read cluster.groups {}", file.display()))?;
    let users = parse(&text).with_context(|| format!("in cluster.groups {}", file.display()))?;
    Ok(Arc::new(move |user| {
        users.get(user).cloned().unwrap_or_default()
    }))
}

/// Lines `group: user, user`; `#` starts a comment. Returns the groups of each user.
fn parse(text: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let Some((group, members)) = line.split_once(':') else {
            bail!(
                "line {}: `{line}' is not of the form `group: user, user'",
                number + 1
            );
        };
        for user in members
            .split(',')
            .map(str::trim)
            .filter(|user| !user.is_empty())
        {
            users
                .entry(user.to_owned())
                .or_default()
                .push(group.trim().to_owned());
        }
    }
    Ok(users)
}

fn from_os() -> GroupLookup {
    let cache: Mutex<HashMap<String, (Instant, Vec<String>)>> = Mutex::new(HashMap::new());
    Arc::new(move |user| {
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, groups)) = cache.get(user)
            && at.elapsed() < CACHE
        {
            return groups.clone();
        }
        let groups = os_groups(user);
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(user.to_owned(), (Instant::now(), groups.clone()));
        groups
    })
}

fn os_groups(name: &str) -> Vec<String> {
    let (Ok(Some(user)), Ok(c_name)) = (nix::unistd::User::from_name(name), CString::new(name))
    else {
        return Vec::new();
    };
    let ids = nix::unistd::getgrouplist(&c_name, user.gid).unwrap_or_default();
    ids.into_iter()
        .filter_map(|id| nix::unistd::Group::from_gid(id).ok().flatten())
        .map(|group| group.name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_file_names_members() {
        let users = parse("# admins\nsupergroup: ada, hdfs\nstaff: ada\n\n").unwrap();
        assert_eq!(users["ada"], ["supergroup", "staff"]);
        assert_eq!(users["hdfs"], ["supergroup"]);
        assert!(
            parse("no colon here")
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
    }

    #[test]
    fn the_operating_system_knows_root() {
        assert!(os_groups("root").contains(&"root".to_owned()));
        assert!(os_groups("no such user").is_empty());
    }
}
