//! O_DIRECT on data directories.

use super::{Finding, Verdict};
use hadal_daemon::Config;
use nix::fcntl::OFlag;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What O_DIRECT wants buffers and lengths to be multiples of.
const BLOCK: usize = 4096;

/// `given`, or else the configured directories that exist.
pub(super) fn directories(config: &Config, given: &[PathBuf]) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let configured = [&config.namenode.dir, &config.journalnode.dir];
    let all = configured.into_iter().chain(&config.datanode.dirs);
    all.filter(|dir| dir.is_dir()).cloned().collect()
}

/// One finding per directory.
pub(super) fn check(directories: &[PathBuf]) -> Vec<Finding> {
    if directories.is_empty() {
        return vec![Finding::skipped(
            "O_DIRECT",
            "no data directory is there yet; name one with --dir",
        )];
    }
    let finding = |dir: &PathBuf| {
        let check = format!("O_DIRECT in {}", dir.display());
        match write_directly(dir) {
            Ok(()) => Finding::good(check, "a direct, synchronous write succeeds"),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Finding::new(
                check,
                Verdict::Bad,
                "the file system does not support it",
                "use ext4 or XFS on a local disk; overlay and network file systems, and tmpfs on older kernels, do not do",
            ),
            Err(error) => Finding::new(
                check,
                Verdict::Bad,
                error.to_string(),
                "the directory must exist and be writable for this user",
            ),
        }
    };
    directories.iter().map(finding).collect()
}

fn write_directly(dir: &Path) -> io::Result<()> {
    // Named, not anonymous: some file systems have no anonymous files.
    let file = tempfile::Builder::new()
        .prefix("doctor-")
        .tempfile_in(dir)?;
    let flags = OFlag::O_DIRECT | OFlag::O_DSYNC;
    let mut direct = OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits())
        .open(file.path())?;
    let buffer = vec![0u8; 2 * BLOCK];
    let start = buffer.as_ptr().align_offset(BLOCK);
    direct.write_all(&buffer[start..start + BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_bad() {
        let findings = check(&["/nowhere/at/all".into()]);
        assert_eq!(findings[0].verdict, Verdict::Bad);
        assert!(!findings[0].remedy.is_empty());
        assert_eq!(check(&[])[0].verdict, Verdict::Skipped);
    }

    #[test]
    fn given_directories_win_over_configured_ones() {
        let config = Config::default();
        let given = [PathBuf::from("/x")];
        assert_eq!(directories(&config, &given), given);
    }
}
