//! Daemons started by hand, and what they say.

use crate::cluster::with_settings;
use crate::{Output, run};
use std::path::Path;

/// Runs a daemon to its end.
pub fn daemon(role: &str, id: &str, config: &Path) -> Output {
    let mut command = with_settings();
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
