//! Processes that end with the test that started them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What the reaper runs: once nobody holds its standard input, it kills whoever names `$DIR` until there is none. It hands
/// the name on by a pipe, for what it starts must not be found itself. Bounded, for a process may be stuck in the kernel.
const SCRIPT: &str = r#"
cat
for pass in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  found=$(printf %s "$DIR" | grep -laFs -f - /proc/[0-9]*/cmdline)
  [ -n "$found" ] || exit 0
  for path in $found; do
    path=${path%/cmdline}
    kill -9 "${path#/proc/}"
  done
  sleep 0.1
done
"#;

/// Kills every process with a directory in its command line when this is dropped, and when the test is gone, however it
/// went: daemons are nobody's children and in groups of their own, so neither Ctrl-C nor the test's death reaches them.
#[derive(Debug)]
pub struct Reaper(Child);

impl Reaper {
    /// Of the processes that name `dir`, which is a test's own.
    ///
    /// # Panics
    ///
    /// When there is no shell.
    #[must_use]
    pub fn over(dir: &Path) -> Self {
        let child = Command::new("sh")
            .args(["-c", SCRIPT])
            .env("DIR", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        Self(child.expect("a shell"))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It is there: nobody else waits for it.
        drop(self.0.wait());
    }
}

/// Command lines of the processes that name `dir`.
///
/// # Panics
///
/// When there is no `/proc`.
#[must_use]
pub fn processes(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|words| String::from_utf8_lossy(&words).replace('\0', " "))
        .filter(|line| line.contains(&*dir))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    /// Set for the process that dies.
    const DIR: &str = "REAPER_TEST_DIR";

    /// A process that names `dir` and ends for nobody.
    fn endless(dir: &Path) -> Child {
        let file = dir.join("file");
        std::fs::write(&file, "").expect("a file");
        let mut command = Command::new("tail");
        command.arg("-f").arg(file).stdin(Stdio::null());
        command.stdout(Stdio::null()).spawn().expect("tail")
    }

    #[test]
    fn what_names_the_directory_ends_with_the_reaper_and_nothing_else() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let reaper = Reaper::over(own.path());
        let (mut killed, mut left) = (endless(own.path()), endless(other.path()));
        drop(reaper);
        assert_eq!(processes(own.path()), [""; 0]);
        assert_eq!(killed.wait().unwrap().signal(), Some(9));
        assert_eq!(left.try_wait().unwrap(), None);
        left.kill().unwrap();
        left.wait().unwrap();
    }

    /// The test runs itself again; that one aborts, which drops nothing.
    #[test]
    fn what_names_the_directory_ends_when_the_test_is_gone() {
        if let Some(dir) = std::env::var_os(DIR) {
            let _reaper = Reaper::over(Path::new(&dir));
            endless(Path::new(&dir));
            std::process::abort();
        }
        let dir = tempfile::tempdir().unwrap();
        let this = "reaper::tests::what_names_the_directory_ends_when_the_test_is_gone";
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", this, "--nocapture"]);
        let status = again.env(DIR, dir.path()).status().unwrap();
        assert_eq!(status.signal(), Some(6), "it was to abort");
        crate::eventually("tail is gone", Duration::from_secs(20), || {
            let left = processes(dir.path());
            left.is_empty().then_some(()).ok_or(left.join("\n"))
        });
    }
}
