//! Running a command with an end in time.

use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No command of a test takes longer.
const LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(2);

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard output as it is: file contents need not be text.
    pub bytes: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Itself, when the exit code is 0.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// First line of standard error.
    pub fn error(&self) -> &str {
        self.stderr.lines().next().unwrap_or_default()
    }
}

/// Runs a command to its end.
///
/// # Panics
///
/// When it cannot be started, does not end within three minutes (it is killed then), or ends by a signal.
pub fn run(command: &mut Command) -> Output {
    let (mut out, mut err) = (temporary(), temporary());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("a second handle"))
        .stderr(err.try_clone().expect("a second handle"))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child's status") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("kill");
            child.wait().expect("the child's status");
            let told = String::from_utf8_lossy(&read(&mut err)).into_owned();
            panic!("{command:?} does not end; it said: {told}");
        }
        std::thread::sleep(POLL);
    };
    let bytes = read(&mut out);
    Output {
        code: status
            .code()
            .unwrap_or_else(|| panic!("{command:?}: {status}")),
        stdout: String::from_utf8_lossy(&bytes).into_owned(),
        bytes,
        stderr: String::from_utf8_lossy(&read(&mut err)).into_owned(),
    }
}

fn temporary() -> std::fs::File {
    tempfile::tempfile().expect("a temporary file")
}

fn read(file: &mut std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("rewind");
    file.read_to_end(&mut bytes).expect("read");
    bytes
}
