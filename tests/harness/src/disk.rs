//! Disks that are full, or not to be written to.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of some MiB, unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// In the place of this directory, with what is in it. Nobody uses the directory.
    ///
    /// # Panics
    ///
    /// When it cannot be mounted.
    #[must_use]
    pub fn instead_of(dir: &Path, mebibytes: u32) -> Self {
        let before = dir.with_extension("before");
        std::fs::rename(dir, &before).expect("the directory moves");
        let disk = Self::at(dir, mebibytes);
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(before.join(".")).arg(dir);
        assert!(copy.status().expect("cp").success(), "{copy:?}");
        std::fs::remove_dir_all(before).expect("the old directory goes");
        disk
    }

    /// At this directory, which is made.
    ///
    /// # Panics
    ///
    /// When it cannot be mounted: that needs root.
    #[must_use]
    pub fn at(dir: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(dir).expect("a mount point");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]);
        let status = mount.arg(dir).status().expect("mount");
        assert!(
            status.success(),
            "{mount:?} failed: tests of full disks mount small file systems, which needs root"
        );
        Self(dir.to_owned())
    }

    /// Takes all the space there is; it is free again once the file is removed.
    ///
    /// # Panics
    ///
    /// When the file cannot be made.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).expect("a file");
        // Smaller and smaller pieces, so that nothing is left.
        for size in [1 << 16, 1 << 12, 1] {
            let piece = vec![0x5a; size];
            while file.write_all(&piece).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// A directory that nobody may write to, not even root, until this is dropped.
#[derive(Debug)]
pub struct ReadOnly(PathBuf);

impl ReadOnly {
    /// This directory, mounted over itself.
    ///
    /// # Panics
    ///
    /// When it cannot be mounted: that needs root.
    #[must_use]
    pub fn make(dir: &Path) -> Self {
        for options in ["bind", "remount,bind,ro"] {
            let mut mount = Command::new("mount");
            mount.args(["-o", options]).arg(dir).arg(dir);
            let status = mount.status().expect("mount");
            assert!(status.success(), "{mount:?} failed: it needs root");
        }
        Self(dir.to_owned())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn unmount(dir: &Path) {
    // Lazily: a node that was not stopped, for a test failed, may still use it.
    let status = Command::new("umount").arg("-l").arg(dir).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("{} stays mounted", dir.display());
    }
}
