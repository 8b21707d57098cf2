//! Running the fencing command, bounded (Q35).

use hadal_daemon::config::Fence;
use hadal_failover::fence::FenceOutcome;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Runs `fence.command` by `sh -c` in a process group of its own; past `fence.timeout` all of it is killed. What it prints
/// to its error output is shown, the rest is dropped.
pub(super) async fn run(fence: &Fence, environment: [(&str, String); 3]) -> FenceOutcome {
    let failed = |reason: String| FenceOutcome::Failed { reason };
    let spawned = Command::new("sh")
        .arg("-c")
        .arg(&fence.command)
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return failed(format!("`{}' cannot be started: {error}", fence.command)),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    match tokio::time::timeout(Duration::from_millis(fence.timeout.0), child.wait()).await {
        Ok(Ok(status)) if status.success() => FenceOutcome::Fenced,
        Ok(Ok(status)) => failed(format!("`{}' ended with {status}", fence.command)),
        Ok(Err(error)) => failed(format!("`{}': {error}", fence.command)),
        Err(_) => {
            if let Some(group) = group {
                // Gone already is as good.
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.wait().await;
            failed(format!(
                "`{}' was killed after {} (fence.timeout)",
                fence.command, fence.timeout
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_failover::fence::fence_environment;

    async fn outcome(command: &str, timeout_ms: u64) -> FenceOutcome {
        let fence = Fence {
            required: true,
            command: command.into(),
            timeout: hadal_daemon::Duration(timeout_ms),
        };
        run(&fence, fence_environment("nn1", "10.0.0.1", 8020)).await
    }

    fn reason(outcome: FenceOutcome) -> String {
        match outcome {
            FenceOutcome::Failed { reason } => reason,
            FenceOutcome::Fenced => panic!("it must fail"),
        }
    }

    #[tokio::test]
    async fn t_a6_the_command_knows_whom_it_fences() {
        let check = "test $HADAL_TARGET_ID = nn1 -a $HADAL_TARGET_HOST = 10.0.0.1 -a $HADAL_TARGET_PORT = 8020";
        assert_eq!(outcome(check, 60_000).await, FenceOutcome::Fenced);
    }

    #[tokio::test]
    async fn t_a16_any_other_exit_is_a_failure() {
        assert!(reason(outcome("exit 3", 60_000).await).contains("exit status: 3"));
        assert!(reason(outcome("/no/such/fencer", 60_000).await).contains("127"));
        assert!(reason(outcome("kill -9 $$", 60_000).await).contains("signal: 9"));
    }

    #[tokio::test]
    async fn q35_a_command_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("child");
        let command = format!("sleep 100000 & echo $! > {}; wait", file.display());
        let reason = reason(outcome(&command, 3_000).await);
        assert!(reason.contains("fence.timeout"), "{reason}");
        let child = std::fs::read_to_string(&file).expect("it got that far");
        let child = Pid::from_raw(child.trim().parse().expect("a process id"));
        // A zombie counts as gone: its new parent collects it when it likes. The signal was sent; dying takes a moment.
        let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let gone = async {
            while !(state().is_empty() || state().contains(") Z")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), gone).await;
        assert!(waited.is_ok(), "{}", state());
    }
}
