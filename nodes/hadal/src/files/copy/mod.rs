//! Copies between the local disk and the cluster, and within the cluster.

mod append;
mod cp;
mod get;
mod jobs;
mod local_reader;
mod local_writer;
mod merge;
mod progress;
mod put;
mod target_file;

pub(crate) use append::run as append;
pub(crate) use cp::run as cp;
pub(crate) use get::run as get;
pub(crate) use merge::run as getmerge;
pub(crate) use put::run as put;

use std::path::PathBuf;

/// A local path as the user wrote it, perhaps as a `file:` URI.
fn local_path(written: &str) -> PathBuf {
    let path = written
        .strip_prefix("file://")
        .or_else(|| written.strip_prefix("file:"))
        .unwrap_or(written);
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_may_be_uris() {
        for written in ["/a/b", "file:///a/b", "file:/a/b"] {
            assert_eq!(local_path(written), PathBuf::from("/a/b"), "{written}");
        }
        assert_eq!(local_path("a:b"), PathBuf::from("a:b"));
    }
}
