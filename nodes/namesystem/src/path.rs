//! Paths: what is a valid one, and where it leads.

use crate::tree::{Entry, Tree};
use alloc::format;
use alloc::string::String;
use hadal_proto::client::{NAME_LEN_MAX, PATH_DEPTH_MAX, PATH_LEN_MAX};
use hadal_proto::{Fault, FaultClass};
use smallvec::SmallVec;

/// The components of a valid absolute path; none for the root.
pub(crate) type Components<'p> = SmallVec<[&'p str; 16]>;

fn invalid(path: &str, why: &str) -> Fault {
    // A hostile path must not be echoed at full length.
    let shown: String = path.chars().take(256).collect();
    Fault::new(
        FaultClass::InvalidArgument,
        format!("Invalid path name `{shown}': {why}"),
    )
}

/// Splits a path, refusing what HDFS's `DFSUtil.isValidName` and its limits refuse: relative paths, `.`,
/// `..`, empty components, `:`, components over [`NAME_LEN_MAX`] bytes, paths over [`PATH_LEN_MAX`] bytes or
/// [`PATH_DEPTH_MAX`] components.
pub(crate) fn components(path: &str) -> Result<Components<'_>, Fault> {
    if path.len() > PATH_LEN_MAX {
        return Err(invalid(
            path,
            &format!(
                "path too long: {} bytes, limit {PATH_LEN_MAX} bytes",
                path.len()
            ),
        ));
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Err(invalid(path, "not an absolute path, it must start with /"));
    };
    let mut components = Components::new();
    if rest.is_empty() {
        return Ok(components);
    }
    for name in rest.split('/') {
        match name {
            "" => {
                return Err(invalid(
                    path,
                    "it has an empty component (// or a trailing /)",
                ));
            }
            "." | ".." => return Err(invalid(path, &format!("component {name} is not allowed"))),
            _ if name.contains(':') => {
                return Err(invalid(
                    path,
                    &format!("component {name} contains a colon, which HDFS does not allow"),
                ));
            }
            _ if name.len() > NAME_LEN_MAX => {
                return Err(invalid(
                    path,
                    &format!(
                        "the maximum path component name limit of {name} is exceeded: limit={NAME_LEN_MAX} length={}",
                        name.len()
                    ),
                ));
            }
            _ => {}
        }
        if components.len() == PATH_DEPTH_MAX {
            return Err(invalid(
                path,
                &format!("path too deep, limit {PATH_DEPTH_MAX} components"),
            ));
        }
        components.push(name);
    }
    Ok(components)
}

/// A path followed into the tree as far as it exists.
pub(crate) struct Resolved<'t, 'p> {
    /// The path as asked.
    pub(crate) path: &'p str,
    /// Its components.
    pub(crate) components: Components<'p>,
    /// The root and the inodes of as many components as exist.
    pub(crate) entries: SmallVec<[Entry<'t>; 12]>,
}

impl<'t, 'p> Resolved<'t, 'p> {
    /// Follows `path`.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed path. A missing or blocking component is no error here.
    pub(crate) fn new(tree: &'t Tree, path: &'p str) -> Result<Self, Fault> {
        let components = components(path)?;
        let mut entries = SmallVec::new();
        let mut at = tree.root();
        entries.push(at);
        for name in &components {
            let Some(next) = tree.child(at.inode, name) else {
                break;
            };
            entries.push(next);
            at = next;
        }
        Ok(Self {
            path,
            components,
            entries,
        })
    }

    /// The inode of the whole path, when it exists.
    pub(crate) fn target(&self) -> Option<Entry<'t>> {
        (self.entries.len() > self.components.len()).then(|| self.last())
    }

    /// The deepest inode that exists.
    pub(crate) fn last(&self) -> Entry<'t> {
        self.entries[self.entries.len() - 1]
    }

    /// The directory the target stands in, when it exists; `None` for the root too.
    pub(crate) fn parent(&self) -> Option<Entry<'t>> {
        let at = self.components.len().checked_sub(1)?;
        self.entries.get(at).copied()
    }

    /// Whether the path is `/`.
    pub(crate) fn is_root(&self) -> bool {
        self.components.is_empty()
    }

    /// The target's name; empty for the root.
    pub(crate) fn name(&self) -> &'p str {
        self.components.last().copied().unwrap_or("")
    }

    /// The path of the first `count` components.
    pub(crate) fn prefix(&self, count: usize) -> &'p str {
        match self.components[..count].last() {
            None => "/",
            Some(name) => {
                // The component is a slice of the path, so its end is found by its address-free length sum.
                let end: usize = self.components[..count].iter().map(|c| c.len() + 1).sum();
                debug_assert!(self.path[..end].ends_with(name));
                &self.path[..end]
            }
        }
    }

    /// The path of the target's parent.
    pub(crate) fn parent_path(&self) -> &'p str {
        self.prefix(self.components.len().saturating_sub(1))
    }

    /// The existing target, or HDFS's error for a missing one.
    pub(crate) fn require(&self) -> Result<Entry<'t>, Fault> {
        self.target().ok_or_else(|| missing(self.path))
    }

    /// The existing target, which must be a file.
    pub(crate) fn require_file(&self) -> Result<Entry<'t>, Fault> {
        let entry = self.require()?;
        if entry.inode.is_dir() {
            return Err(Fault::new(
                FaultClass::IsDirectory,
                format!("Path is not a file: {}", self.path),
            ));
        }
        Ok(entry)
    }
}

/// HDFS's error for a path that leads nowhere.
pub(crate) fn missing(path: &str) -> Fault {
    Fault::new(FaultClass::NotFound, format!("File does not exist: {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_valid_paths() {
        assert!(components("/").unwrap().is_empty());
        assert_eq!(components("/a/b c/ü").unwrap()[..], ["a", "b c", "ü"]);
        let deep = "/a".repeat(PATH_DEPTH_MAX);
        assert_eq!(components(&deep).unwrap().len(), PATH_DEPTH_MAX);
        let long = format!("/{}", "x".repeat(NAME_LEN_MAX));
        assert_eq!(components(&long).unwrap().len(), 1);
    }

    #[test]
    fn malformed_paths_are_refused_with_the_reason() {
        let too_deep = "/a".repeat(PATH_DEPTH_MAX + 1);
        let long_name = format!("/{}", "x".repeat(NAME_LEN_MAX + 1));
        let long_path = format!("/{}", "x/".repeat(PATH_LEN_MAX));
        for (path, why) in [
            ("", "absolute"),
            ("a", "absolute"),
            ("//", "empty component"),
            ("/a//b", "empty component"),
            ("/a/", "empty component"),
            ("/a/./b", "component . "),
            ("/..", "component .. "),
            ("/a:b", "colon"),
            (&long_name, "limit=255 length=256"),
            (&too_deep, "too deep"),
            (&long_path, "too long"),
        ] {
            let fault = components(path).unwrap_err();
            assert_eq!(fault.class, FaultClass::InvalidArgument);
            assert!(fault.message.contains(why), "{path}: {}", fault.message);
            assert!(fault.message.len() < 2_000);
        }
    }

    #[test]
    fn prefixes_are_slices_of_the_path() {
        let tree = Tree::with_root("hdfs", "supergroup", 0o755, 0);
        let resolved = Resolved::new(&tree, "/a/bc/d").unwrap();
        assert_eq!(resolved.prefix(0), "/");
        assert_eq!(resolved.prefix(2), "/a/bc");
        assert_eq!(resolved.parent_path(), "/a/bc");
        assert_eq!(resolved.name(), "d");
        assert!(resolved.target().is_none() && resolved.parent().is_none());
        assert!(Resolved::new(&tree, "/").unwrap().target().is_some());
    }
}
