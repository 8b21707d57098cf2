//! What the demo writes: a real tree, and one large file whose bytes are a function of their place.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Without `--full` no more files than this.
const FILES_MAX: usize = 5_000;
/// Without `--full` no more bytes than this.
const BYTES_MAX: u64 = 600_000_000;
/// Length of the generated file: over 1 GiB, and not a multiple of anything.
pub(super) const BIG_BYTES: u64 = (1 << 30) + 12_345_679;

/// One file of the tree.
pub(super) struct Entry {
    /// Where it is.
    pub(super) local: PathBuf,
    /// Where it goes.
    pub(super) remote: String,
    /// Bytes.
    pub(super) length: u64,
}

/// A tree of regular files.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) files: Vec<Entry>,
    pub(super) directories: Vec<String>,
    pub(super) bytes: u64,
}

impl Tree {
    /// The tree at `path`, or the Rust toolchain's own, or the cargo registry.
    pub(super) fn collect(path: Option<&Path>, full: bool) -> Result<Self> {
        let root = match path {
            Some(path) => path.to_owned(),
            None => default_root()?,
        };
        if !root.is_dir() {
            bail!("{} is not a directory", root.display());
        }
        let mut tree = Self {
            root: root.clone(),
            files: Vec::new(),
            directories: vec!["/demo/tree".into()],
            bytes: 0,
        };
        let mut todo = vec![(root, "/demo/tree".to_owned())];
        while let Some((local, remote)) = todo.pop() {
            let mut entries: Vec<_> = std::fs::read_dir(&local)
                .with_context(|| format!("cannot list {}", local.display()))?
                .collect::<Result<_, _>>()?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let kind = entry.file_type()?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let target = format!("{remote}/{name}");
                if kind.is_dir() {
                    tree.directories.push(target.clone());
                    todo.push((entry.path(), target));
                } else if kind.is_file() {
                    let length = entry.metadata()?.len();
                    let over = tree.files.len() >= FILES_MAX || tree.bytes + length > BYTES_MAX;
                    if full || !over {
                        tree.bytes += length;
                        tree.files.push(Entry {
                            local: entry.path(),
                            remote: target,
                            length,
                        });
                    }
                }
            }
        }
        if tree.files.is_empty() {
            bail!("{} holds no files", tree.root.display());
        }
        Ok(tree)
    }
}

fn default_root() -> Result<PathBuf> {
    if let Ok(output) = Command::new("rustc").args(["--print", "sysroot"]).output()
        && output.status.success()
    {
        return Ok(String::from_utf8(output.stdout)?.trim().into());
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registry = home
        .map(|home| home.join("registry"))
        .filter(|registry| registry.is_dir());
    registry.context(
        "neither the Rust toolchain nor the cargo registry is here: name a directory with --tree",
    )
}

/// Bytes `offset..offset + length` of the generated file. `offset` is a multiple of 8.
pub(super) fn big_bytes(offset: u64, length: usize) -> Bytes {
    assert!(offset.is_multiple_of(8), "generated in words");
    let words = length.div_ceil(8) as u64;
    let mut out = Vec::with_capacity(length + 8);
    for word in offset / 8..offset / 8 + words {
        // splitmix64 of the word's place: no two places look alike.
        let mut z = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(length);
    Bytes::from(out)
}
