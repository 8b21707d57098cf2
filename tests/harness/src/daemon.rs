//! Daemons started by hand, and what they say.

use crate::{Output, eventually, hadal, run};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A daemon says what is wrong with it within this time.
const SAID_WAIT: Duration = Duration::from_secs(20);

/// Runs a daemon to its end.
pub fn daemon(role: &str, id: &str, config: &Path) -> Output {
    let mut command = Command::new(hadal());
    run(command
        .arg(role)
        .arg("--config")
        .arg(config)
        .args(["--id", id]))
}

impl Output {
    /// It failed with this exit code, and said all of these.
    ///
    /// # Panics
    ///
    /// When that is not so.
    #[track_caller]
    pub fn fails(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "{text:?} is not in: {}",
                self.stderr
            );
        }
    }
}

/// Starts a command that does not end by itself, and kills it once it has said all of `texts` on standard error.
/// Returns what it said.
///
/// # Panics
///
/// When it has not said them after a while, or ends.
pub fn said(command: &mut Command, texts: &[&str]) -> String {
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let errors = log.reopen().expect("a second handle");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    let mut child = Running(child.spawn().expect("the command"));
    eventually("the daemon says it", SAID_WAIT, || {
        let ended = child.0.try_wait().expect("the child's status");
        let text = std::fs::read_to_string(log.path()).expect("what it said");
        assert!(ended.is_none(), "it ended, {ended:?}: {text}");
        let all = texts.iter().all(|wanted| text.contains(wanted));
        if all { Ok(text) } else { Err(text) }
    })
}

/// Killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
