//! Where something was measured. Absolute figures mean nothing without it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Libraries whose versions decide the figures.
const LIBRARIES: [&str; 6] = [
    "quinn",
    "rustls",
    "aws-lc-rs",
    "tokio",
    "tokio-uring",
    "crc32c",
];
const LOCK: &str = include_str!("../../Cargo.lock");

/// The machine and the build.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// Kernel release.
    pub kernel: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Processor model.
    pub processor: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// File system of the measured directory, and its device.
    pub filesystem: String,
    /// Load averages over 1, 5 and 15 minutes when the run began: above 0.2 somebody else is at work.
    pub load_average: String,
    /// This crate's version and the commit of the tree, if known.
    pub hadal: String,
    /// Compiler.
    pub rustc: String,
    /// Optimised build.
    pub optimised: bool,
    /// Versions of the libraries that matter.
    pub libraries: BTreeMap<String, String>,
}

impl Environment {
    /// This machine, measuring in `dir`.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib = after(&text("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
        let uname = nix::sys::utsname::uname();
        Self {
            kernel: uname.map_or_else(
                |_| "unknown".into(),
                |name| name.release().to_string_lossy().into_owned(),
            ),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: after(&text("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            filesystem: filesystem(&text("/proc/self/mounts"), dir),
            load_average: text("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            hadal: format!("{} {}", env!("CARGO_PKG_VERSION"), commit())
                .trim()
                .to_owned(),
            rustc: env!("HADAL_BENCH_RUSTC").into(),
            optimised: !cfg!(debug_assertions),
            libraries: LIBRARIES
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), locked(LOCK, name)?)))
                .collect(),
        }
    }

    /// All of it in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let libraries: Vec<String> = self
            .libraries
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        format!(
            "Linux {}, {} cores ({}), {} MiB, {}, load {}; hadal {}{}, {}, {}",
            self.kernel,
            self.cores,
            self.processor,
            self.memory_mib,
            self.filesystem,
            self.load_average,
            self.hadal,
            if self.optimised { "" } else { " UNOPTIMISED" },
            self.rustc,
            libraries.join(", "),
        )
    }
}

/// Type and device of the file system that holds `dir`: the mount with the longest path above it.
fn filesystem(mounts: &str, dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut best = (0, "unknown".to_owned());
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(point), Some(kind)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if dir.starts_with(point) && point.len() >= best.0 {
            best = (point.len(), format!("{kind} on {device}"));
        }
    }
    best.1
}

/// Version of a package in a lock file.
fn locked(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    let version = lines.next()?.strip_prefix("version = \"")?;
    Some(version.trim_end_matches('"').to_owned())
}

fn commit() -> String {
    let mut git = std::process::Command::new("git");
    git.args(["rev-parse", "--short", "HEAD"]);
    match git.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_named() {
        let mounts =
            "/dev/vda / ext4 rw 0 0\ntmpfs /tmpfs tmpfs rw 0 0\n/dev/vdb /usr xfs rw 0 0\n";
        assert_eq!(filesystem(mounts, Path::new("/usr")), "xfs on /dev/vdb");
        assert_eq!(filesystem(mounts, Path::new("/etc")), "ext4 on /dev/vda");
        assert_eq!(filesystem("", Path::new("/etc")), "unknown");
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        let lock = "[[package]]\nname = \"quinn-udp\"\nversion = \"0.5.1\"\n\n[[package]]\nname = \"quinn\"\nversion = \"0.11.9\"\n";
        assert_eq!(locked(lock, "quinn").as_deref(), Some("0.11.9"));
        assert_eq!(locked(lock, "absent"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let environment = Environment::read(Path::new("/"));
        assert!(environment.cores > 0 && environment.memory_mib > 0);
        assert!(environment.line().contains(&environment.kernel));
        assert!(environment.libraries.contains_key("quinn"));
    }
}
