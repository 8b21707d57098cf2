//! Paths as Hadoop's `Path` and `PathData` treat them.

use super::failure::Failure;
use hadal_client::FileStatus;

/// A path of the file system: as the user sees it, absolute, and what is there.
#[derive(Clone, Debug)]
pub(crate) struct PathData {
    /// As the user wrote it, or grown from what was written.
    pub(crate) shown: String,
    /// Absolute and normalised.
    pub(crate) path: String,
    /// Its status, when there is something.
    pub(crate) status: Option<FileStatus>,
}

impl PathData {
    /// A path as written by a user whose home is `home`; nothing is asked yet.
    pub(crate) fn new(written: &str, home: &str) -> Result<Self, Failure> {
        Ok(Self {
            shown: written.to_owned(),
            path: absolute(written, home)?,
            status: None,
        })
    }

    /// The path `name` below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self {
            shown: join_shown(&self.shown, name),
            path: join(&self.path, name),
            status: None,
        }
    }

    /// The entry of this directory that `status` tells of.
    pub(crate) fn entry(&self, status: FileStatus) -> Self {
        let child = self.child(&status.name);
        Self {
            status: Some(status),
            ..child
        }
    }

    /// Last component; empty for the root.
    pub(crate) fn name(&self) -> &str {
        name_of(&self.path)
    }

    /// Whether there is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.is_dir)
    }

    /// Whether it was written so that only a directory can be meant.
    pub(crate) fn represents_directory(&self) -> bool {
        self.shown.ends_with('/') || self.shown.ends_with("/.") || self.shown == "."
    }

    /// Its status, or FsShell's error when there is nothing.
    pub(crate) fn require(&self) -> Result<&FileStatus, Failure> {
        self.status
            .as_ref()
            .ok_or_else(|| Failure::not_found(&self.shown))
    }
}

/// Last component of a normalised path; empty for the root.
pub(crate) fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The directory above a normalised path; `None` for the root.
pub(crate) fn parent_of(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

/// `name` below a normalised directory.
pub(crate) fn join(directory: &str, name: &str) -> String {
    match directory {
        "/" => format!("/{name}"),
        _ => format!("{directory}/{name}"),
    }
}

fn join_shown(shown: &str, name: &str) -> String {
    match shown {
        "." => name.to_owned(),
        _ if shown.ends_with('/') => format!("{shown}{name}"),
        _ => format!("{shown}/{name}"),
    }
}

/// Takes a scheme and authority away: `hdfs://nn:8020/a`, `hadal:///a` are `/a`.
fn without_scheme(written: &str) -> Result<&str, Failure> {
    let Some((scheme, rest)) = written.split_once(':') else {
        return Ok(written);
    };
    let is_scheme = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_scheme || !rest.starts_with('/') {
        return Ok(written);
    }
    if scheme != "hdfs" && scheme != "hadal" {
        return Err(Failure::Told(format!(
            "No FileSystem for scheme \"{scheme}\""
        )));
    }
    Ok(match rest.strip_prefix("//") {
        Some(after) => after.find('/').map_or("/", |at| &after[at..]),
        None => rest,
    })
}

/// The absolute path a user means: relative ones are below `home`; `//`, `.`, `..` and a trailing `/` vanish.
pub(crate) fn absolute(written: &str, home: &str) -> Result<String, Failure> {
    if written.is_empty() {
        return Err(Failure::Told(
            "Can not create a Path from an empty string".into(),
        ));
    }
    let path = without_scheme(written)?;
    let mut names: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { home };
    for name in base.split('/').chain(path.split('/')) {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            _ => names.push(name),
        }
    }
    Ok(format!("/{}", names.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_as_hadoop_s() {
        for (written, path) in [
            ("/", "/"),
            ("//", "/"),
            ("/a//b/", "/a/b"),
            ("a", "/user/u/a"),
            (".", "/user/u"),
            ("..", "/user"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("hdfs://nn1:8020/a", "/a"),
            ("hdfs://nn1", "/"),
            ("hadal:///a/b/", "/a/b"),
            ("hdfs:/a", "/a"),
            ("a:b", "/user/u/a:b"),
        ] {
            assert_eq!(absolute(written, "/user/u").unwrap(), path, "{written}");
        }
        assert!(absolute("", "/user/u").is_err());
        let error = absolute("s3a://bucket/x", "/user/u").unwrap_err();
        assert_eq!(error.message(), "No FileSystem for scheme \"s3a\"");
    }

    #[test]
    fn children_keep_the_form_of_their_parent() {
        for (parent, shown, path) in [
            (".", "x", "/user/u/x"),
            ("a", "a/x", "/user/u/a/x"),
            ("/", "/x", "/x"),
            ("/a/", "/a/x", "/a/x"),
            ("hdfs://n/a", "hdfs://n/a/x", "/a/x"),
        ] {
            let child = PathData::new(parent, "/user/u").unwrap().child("x");
            assert_eq!(
                (child.shown.as_str(), child.path.as_str()),
                (shown, path),
                "{parent}"
            );
        }
    }

    #[test]
    fn parents_and_names() {
        assert_eq!(parent_of("/"), None);
        assert_eq!(parent_of("/a"), Some("/"));
        assert_eq!(parent_of("/a/b"), Some("/a"));
        assert_eq!((name_of("/"), name_of("/a/b")), ("", "b"));
        assert_eq!(join("/", "a"), "/a");
    }
}
