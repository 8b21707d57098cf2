//! Processor time of this process and of others.

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

/// User and system time of this process so far, all threads, kernel I/O workers included, in seconds.
///
/// # Errors
/// What the kernel said.
pub fn own_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(us as f64 / 1e6)
}

/// User and system time of process `pid` so far, in seconds, to a clock tick (10 ms).
///
/// # Errors
/// When the process is gone.
pub fn process_seconds(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = parse_ticks(&text).with_context(|| format!("{path} has no processor times"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(ticks as f64 / per_second as f64)
}

/// `utime + stime` of a `/proc/PID/stat` line. The command's name, in brackets, may hold spaces and brackets.
fn parse_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    // `rest` starts with field 3, the state; utime is field 14, stime field 15.
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_command_name() {
        let stat = "4242 (a) b (c)) S 1 1 1 0 -1 4194560 900 0 0 0 123 45 0 0 20 0 5 0 1000 1 2";
        assert_eq!(parse_ticks(stat), Some(168));
        assert_eq!(parse_ticks("4242 (x) S 1"), None);
        assert_eq!(parse_ticks(""), None);
    }

    #[test]
    fn own_time_is_seen_both_ways() {
        let start = own_seconds().unwrap();
        while own_seconds().unwrap() - start < 0.05 {
            std::hint::spin_loop();
        }
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(process_seconds(pid).unwrap() >= 0.04);
    }
}
