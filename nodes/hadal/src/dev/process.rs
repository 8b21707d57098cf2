//! The processes of a development cluster: started, signalled, looked up.

use super::layout::{Layout, NodeId};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a stopped process may take to end.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How long a killed one may take: it may be held up in the kernel by a slow disk.
const KILL_WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// In the flags of `/proc/PID/stat`: the process is on its way out.
const PF_EXITING: u64 = 4;

/// What the kernel tells of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// It runs, or is stopped.
    Runs,
    /// It was killed, or ends by itself: it has no command line any more, but may have its sockets and locks.
    Ends,
    /// Nothing of it is left but its exit code.
    Over,
}

impl Life {
    /// From `/proc/PID/stat` and `/proc/PID/status`.
    fn read(stat: &str, status: &str) -> Self {
        // Behind the name, which may hold anything: field 3 and on of proc(5).
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let field = |number: usize| fields.split_whitespace().nth(number - 3);
        let number = |of: usize| field(of).and_then(|text| text.parse::<u64>().ok());
        let (state, flags, threads) = (field(3), number(9), number(20));
        // The first thread may be dead while others are held up in the kernel, and keep everything open.
        if matches!(state, None | Some("Z" | "X")) && threads.is_none_or(|threads| threads <= 1) {
            return Self::Over;
        }
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let killed = pending.is_some_and(|mask| mask & (1 << (Signal::SIGKILL as u32 - 1)) != 0);
        match killed || flags.is_some_and(|flags| flags & PF_EXITING != 0) {
            true => Self::Ends,
            false => Self::Runs,
        }
    }
}

/// The process of a node, and whether it only ends: its pid file names a process of this node.
fn process_of(layout: &Layout, id: &str) -> Option<(Pid, Life)> {
    let text = std::fs::read_to_string(layout.pid_file(id)).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).ok();
    let arguments = read("cmdline")?;
    let (stat, status) = (read("stat")?, read("status")?);
    let life = Life::read(
        &String::from_utf8_lossy(&stat),
        &String::from_utf8_lossy(&status),
    );
    // A pid may have been given to another process meanwhile.
    let names_node = || {
        let mut words = arguments.split(|byte| *byte == 0);
        words.any(|word| word == id.as_bytes())
    };
    let is_it = match life {
        Life::Runs => names_node(),
        Life::Ends => arguments.is_empty() || names_node(),
        Life::Over => false,
    };
    is_it.then(|| (Pid::from_raw(pid), life))
}

/// The process of a node, until nothing of it is left that its successor could run into.
pub(super) fn pid_of(layout: &Layout, id: &str) -> Option<Pid> {
    process_of(layout, id).map(|(pid, _)| pid)
}

/// Starts a node's daemon in a session of its own, logging to its file.
pub(super) fn spawn(layout: &Layout, node: &NodeId) -> Result<Pid> {
    match process_of(layout, &node.id) {
        Some((pid, Life::Runs)) => return Ok(pid),
        // Killed a moment ago: its port is not free yet.
        Some(_) => await_end(layout, &node.id)?,
        None => {}
    }
    let path = layout.log(&node.id);
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .arg(node.role.as_str())
        .arg("--config")
        .arg(layout.config(&node.id))
        .arg("--id")
        .arg(&node.id)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", node.id))?;
    let pid = i32::try_from(child.id()).context("process id out of range")?;
    std::fs::write(layout.pid_file(&node.id), pid.to_string())?;
    // Reaped when it ends while we live, so that it does not stay a zombie that looks alive.
    std::thread::spawn(move || {
        let mut child = child;
        drop(child.wait());
    });
    Ok(Pid::from_raw(pid))
}

/// Sends a signal and waits for the process to end. `false` when it did not run.
pub(super) fn signal_and_wait(layout: &Layout, id: &str, signal: Signal) -> Result<bool> {
    let Some(pid) = pid_of(layout, id) else {
        return Ok(false);
    };
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot signal {id} (process {pid})"));
        }
    }
    if signal != Signal::SIGKILL && !has_ended(layout, id, STOP_WAIT) {
        kill(pid, Signal::SIGKILL).ok();
    }
    await_end(layout, id)?;
    std::fs::remove_file(layout.pid_file(id)).ok();
    Ok(true)
}

/// Waits until nothing is left of a node's process, or `limit` is over; whether that is so.
fn has_ended(layout: &Layout, id: &str, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while pid_of(layout, id).is_some() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Waits for the end of a process that was killed.
fn await_end(layout: &Layout, id: &str) -> Result<()> {
    match has_ended(layout, id, KILL_WAIT) {
        true => Ok(()),
        false => anyhow::bail!("{id} does not end after SIGKILL"),
    }
}

/// The end of a node's log, for messages.
pub(super) fn log_tail(layout: &Layout, id: &str) -> String {
    let text = std::fs::read_to_string(layout.log(id)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process called `a) Z b` in this state, with these flags and threads, and these signals for all of it pending.
    fn life(state: &str, flags: u64, threads: u64, pending: &str) -> Life {
        let between = "0 ".repeat(10);
        let stat = format!("17 (a) Z b) {state} 1 17 17 0 -1 {flags} {between}{threads} 0 99 1\n");
        let status = format!("Name:\ta) Z b\nSigPnd:\t0000000000000100\nShdPnd:\t{pending}\n");
        Life::read(&stat, &status)
    }

    #[test]
    fn a_process_is_over_when_none_of_its_threads_is_left() {
        let (none, sigkill) = ("0000000000000000", "0000000000000100");
        for state in ["R", "S", "D", "T"] {
            assert_eq!(life(state, 0x40_0100, 3, none), Life::Runs, "{state}");
        }
        assert_eq!(life("S", 0x40_0100, 3, sigkill), Life::Ends);
        // Without its memory, so without a command line, and its sockets still open.
        assert_eq!(life("R", 0x40_0104, 1, none), Life::Ends);
        // The first thread is dead, another is in the kernel.
        assert_eq!(life("Z", 0x40_0104, 2, sigkill), Life::Ends);
        assert_eq!(life("Z", 0x40_0104, 1, sigkill), Life::Over);
        assert_eq!(life("X", 0x40_0104, 1, none), Life::Over);
    }

    #[test]
    fn this_process_runs() {
        let read = |file| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        assert_eq!(Life::read(&read("stat"), &read("status")), Life::Runs);
    }
}
