//! A writer in another process.

use crate::TestCluster;
use crate::client::LIMIT;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

/// `harness-writer` at work on one file; killed when this is dropped.
#[derive(Debug)]
pub struct Writer {
    process: Child,
    orders: ChildStdin,
    /// Lines of its output, from a thread that ends with it.
    answers: Receiver<String>,
}

impl Writer {
    /// Starts `program` (`env!("CARGO_BIN_EXE_harness-writer")`, which only a test knows) on a new file; its bytes are
    /// those of the pattern of `seed`.
    ///
    /// # Panics
    ///
    /// When it cannot be started or the file cannot be made.
    #[must_use]
    pub fn create(program: &str, cluster: &TestCluster, path: &str, seed: u64) -> Self {
        let (writer, opened) = Self::start(program, cluster, &[path, &seed.to_string()]);
        assert_eq!(opened, Ok(0), "creating {path}");
        writer
    }

    /// As [`Writer::create`], at the end of a file that is there; or the refusal.
    ///
    /// # Errors
    ///
    /// What the client library said.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn append(
        program: &str,
        cluster: &TestCluster,
        path: &str,
        seed: u64,
    ) -> Result<Self, String> {
        let words = [path, &seed.to_string(), "append"];
        let (writer, opened) = Self::start(program, cluster, &words);
        opened.map(|_| writer)
    }

    fn start(program: &str, cluster: &TestCluster, words: &[&str]) -> (Self, Result<u64, String>) {
        let mut process = Command::new(program)
            .arg(cluster.root().join("client.toml"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("harness-writer starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (said, answers) = channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.map(|line| said.send(line)).all(|sent| sent.is_ok())
        });
        let mut writer = Self {
            orders: process.stdin.take().expect("piped"),
            answers,
            process,
        };
        let opened = writer.answer();
        (writer, opened)
    }

    fn answer(&mut self) -> Result<u64, String> {
        let line = match self.answers.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                panic!("the writer does not answer within {} s", LIMIT.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => panic!("the writer is gone"),
        };
        match line.trim().split_once(' ') {
            Some(("ok", position)) => Ok(position.parse().expect("a position")),
            Some(("error", words)) => Err(words.to_owned()),
            _ => panic!("the writer answered `{line}'"),
        }
    }

    /// Says a line of orders; where the writer is then.
    ///
    /// # Errors
    ///
    /// What the client library said.
    ///
    /// # Panics
    ///
    /// When the process is gone, or does not answer.
    #[track_caller]
    pub fn order(&mut self, line: &str) -> Result<u64, String> {
        writeln!(self.orders, "{line}").expect("the writer lives");
        self.answer()
    }

    /// Writes that many bytes and flushes them (`hflush` or `hsync`); where it is then.
    ///
    /// # Panics
    ///
    /// When that fails.
    #[track_caller]
    pub fn write(&mut self, length: usize, flush: &str) -> u64 {
        self.order(&format!("write {length}")).expect("written");
        self.order(flush).expect("flushed")
    }

    /// SIGKILL.
    ///
    /// # Panics
    ///
    /// When it cannot be killed.
    pub fn kill(mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
