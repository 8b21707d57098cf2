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
const POLL: Duration = Duration::from_millis(10);

/// The process of a node, if it runs: its pid file names a live process of this binary.
pub(super) fn pid_of(layout: &Layout, id: &str) -> Option<Pid> {
    let text = std::fs::read_to_string(layout.pid_file(id)).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    // A pid may have been given to another process meanwhile.
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = arguments.split(|byte| *byte == 0);
    let names_node = words.any(|word| word == id.as_bytes());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let is_zombie = stat
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'));
    (names_node && !is_zombie).then(|| Pid::from_raw(pid))
}

/// Starts a node's daemon in a session of its own, logging to its file.
pub(super) fn spawn(layout: &Layout, node: &NodeId) -> Result<Pid> {
    if let Some(pid) = pid_of(layout, &node.id) {
        return Ok(pid);
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
    let deadline = Instant::now() + STOP_WAIT;
    while pid_of(layout, id).is_some() {
        if Instant::now() > deadline {
            if signal == Signal::SIGKILL {
                anyhow::bail!("{id} (process {pid}) does not end after SIGKILL");
            }
            kill(pid, Signal::SIGKILL).ok();
        }
        std::thread::sleep(POLL);
    }
    std::fs::remove_file(layout.pid_file(id)).ok();
    Ok(true)
}

/// The end of a node's log, for messages.
pub(super) fn log_tail(layout: &Layout, id: &str) -> String {
    let text = std::fs::read_to_string(layout.log(id)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
