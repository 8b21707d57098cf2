//! What a command says: results on standard output, complaints on standard error.

use std::io::{BufWriter, ErrorKind, IsTerminal, Stdout, Write, stderr, stdout};
use std::sync::{Mutex, PoisonError};

/// Bytes gathered before standard output is written to.
const BUFFER_BYTES: usize = 64 << 10;

/// The terminal or pipes of a command.
pub(crate) struct Console {
    /// Results as JSON.
    pub(crate) json: bool,
    /// No progress, no remarks.
    pub(crate) quiet: bool,
    /// Colours may be used.
    pub(crate) color: bool,
    out: Mutex<BufWriter<Stdout>>,
}

impl Console {
    /// On this process's standard output and error.
    pub(crate) fn new(json: bool, quiet: bool, no_color: bool) -> Self {
        let color = !no_color && std::env::var_os("NO_COLOR").is_none() && stdout().is_terminal();
        Self {
            json,
            quiet,
            color,
            out: Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, stdout())),
        }
    }

    /// Whether progress may be drawn: only for a person who looks.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && !self.json && stderr().is_terminal()
    }

    /// A line of results.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text.as_ref().as_bytes();
        settle(out.write_all(text).and_then(|()| out.write_all(b"\n")));
    }

    /// Bytes of results.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        settle(out.write_all(bytes));
    }

    /// A JSON value, pretty, on lines of its own.
    pub(crate) fn json(&self, value: &serde_json::Value) {
        self.line(format!("{value:#}"));
    }

    /// Makes everything said so far visible.
    pub(crate) fn flush(&self) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        settle(out.flush());
    }

    /// A complaint. Results so far come before it.
    pub(crate) fn error(&self, text: impl AsRef<str>) {
        self.flush();
        // Nobody is left to tell when standard error is gone.
        drop(writeln!(stderr(), "{}", text.as_ref()));
    }

    /// A remark that `--quiet` silences.
    pub(crate) fn remark(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.error(text);
        }
    }

    /// `text` in a colour (an SGR code such as 31 for red), when colours may be used.
    pub(crate) fn paint(&self, sgr: u8, text: &str) -> String {
        match self.color {
            true => format!("\x1b[{sgr}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Ends the process when the reader of standard output is gone, as `head` does to its writers.
fn settle(outcome: std::io::Result<()>) {
    match outcome {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(1),
        Err(error) => {
            drop(writeln!(stderr(), "cannot write standard output: {error}"));
            std::process::exit(1);
        }
    }
}
