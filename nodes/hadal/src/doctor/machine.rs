//! Kernel, io_uring, limits.

use super::{Finding, Verdict};
use hadal_shard::{Shard, ShardOptions};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;

/// Locked memory an io_uring may need on older kernels, bytes.
const MEMLOCK: u64 = 64 << 20;
/// Open files a busy node may need.
const OPEN_FILES: u64 = 65_536;

/// All checks.
pub(super) fn check() -> Vec<Finding> {
    vec![kernel(), ring(), locked_memory(), open_files()]
}

fn kernel() -> Finding {
    match uname() {
        Ok(name) => Finding::good("kernel", name.release().to_string_lossy()),
        Err(error) => Finding::skipped("kernel", error.to_string()),
    }
}

/// Starts a shard, as every daemon does: its error says what to mend.
fn ring() -> Finding {
    match Shard::spawn(ShardOptions::new("doctor"), |_| async {}) {
        Ok(shard) => {
            shard.join();
            Finding::good("io_uring", "a shard starts")
        }
        Err(error) => Finding::new("io_uring", Verdict::Bad, error.to_string(), ""),
    }
}

fn locked_memory() -> Finding {
    limit(
        "locked memory",
        Resource::RLIMIT_MEMLOCK,
        MEMLOCK,
        "older kernels count io_uring's memory against it: `ulimit -l 65536', `LimitMEMLOCK=64M' in the unit, `--ulimit memlock=67108864' for a container",
    )
}

fn open_files() -> Finding {
    limit(
        "open files",
        Resource::RLIMIT_NOFILE,
        OPEN_FILES,
        "a busy DataNode needs more: `ulimit -n 65536', `LimitNOFILE=65536' in the unit, `--ulimit nofile=65536' for a container",
    )
}

fn limit(check: &str, resource: Resource, wanted: u64, remedy: &str) -> Finding {
    let limit = match getrlimit(resource) {
        Ok((soft, _)) => soft,
        Err(error) => return Finding::skipped(check, error.to_string()),
    };
    judge(check, limit, wanted, remedy)
}

fn judge(check: &str, limit: u64, wanted: u64, remedy: &str) -> Finding {
    let text = match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => format!("limit {limit}"),
    };
    match limit >= wanted {
        true => Finding::good(check, text),
        false => Finding::new(
            check,
            Verdict::Poor,
            format!("{text}, {wanted} are better"),
            remedy,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_limits_come_with_a_remedy() {
        let low = judge("open files", 1024, OPEN_FILES, "raise it");
        assert_eq!(
            (low.verdict, low.remedy.as_str()),
            (Verdict::Poor, "raise it")
        );
        let high = judge("open files", u64::MAX, OPEN_FILES, "raise it");
        assert_eq!(
            (high.verdict, high.detail.as_str()),
            (Verdict::Good, "unlimited")
        );
    }
}
