//! Where the time of a failover went, as the new active's log tells it.

use anyhow::{Context, Result};
use std::time::{Duration, SystemTime};

/// What the new active logs when it serves, behind the time and before the times it took.
const SERVES: &str = "active in epoch ";

/// The end of a failover, as the new active saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Split {
    /// When it began to serve.
    pub(super) serving: SystemTime,
    /// From the lease to the end of the journal's recovery.
    pub(super) claim: Duration,
    /// Applying what was recovered.
    pub(super) catch_up: Duration,
}

impl Split {
    /// Of the last failover in this log.
    pub(super) fn read(log: &str) -> Result<Self> {
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains(SERVES) && line.contains("catch-up "))
            .context("the new active's log does not say how long the failover took")?;
        let ms_behind = |word: &str| -> Result<Duration> {
            let rest = line.split(word).nth(1).context("no such time")?;
            let digits = rest.split(' ').next().unwrap_or_default();
            let ms = digits.parse().with_context(|| format!("`{digits}' ms"))?;
            Ok(Duration::from_millis(ms))
        };
        Ok(Self {
            serving: time_of(line).context("a line of the log begins with its time")?,
            claim: ms_behind(", claim ")?,
            catch_up: ms_behind(", catch-up ")?,
        })
    }
}

/// The time of a log line, `2026-11-21T12:45:16.123456Z`, with or without colours around it.
fn time_of(line: &str) -> Option<SystemTime> {
    let end = line.find('Z')?;
    let text = line.get(end.checked_sub(26)?..end)?;
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let micros = number(20, 26)?;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let years = (1970..year).map(|year| 365 + u64::from(leap(year)));
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let months = lengths
        .iter()
        .take(usize::try_from(month.checked_sub(1)?).ok()?);
    let days = years.sum::<u64>() + months.sum::<u64>() + day.checked_sub(1)?;
    let since = Duration::from_secs(days * 86_400 + seconds) + Duration::from_micros(micros);
    Some(SystemTime::UNIX_EPOCH + since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failover_of_a_log_is_read() {
        let log = "\
\u{1b}[2m2026-11-21T12:45:10.000001Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m active in epoch 3: lease with no other NameNode heard of, claim 1 ms, catch-up 2 ms
\u{1b}[2m2026-11-21T12:45:16.123456Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m active in epoch 4: lease 612 ms after the last renewal of another NameNode, claim 13 ms, catch-up 40 ms
2026-11-21T12:45:17.000000Z  INFO active in epoch 4 from txid 9";
        let split = Split::read(log).unwrap();
        assert_eq!(split.claim, Duration::from_millis(13));
        assert_eq!(split.catch_up, Duration::from_millis(40));
        let since = split
            .serving
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(since.as_micros(), 1_795_265_116_123_456);
        assert!(Split::read("nothing of it").is_err());
    }
}
