//! Safe mode (F-03): no change, copy or deletion until enough blocks are reported.

use crate::BlockConfig;
use alloc::format;
use alloc::string::String;
use hadal_types::Tick;

/// What safe mode waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// COMPLETE blocks with minimal replication.
    pub(crate) safe: u64,
    /// COMPLETE blocks.
    pub(crate) total: u64,
    /// Live DataNodes.
    pub(crate) live: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Image and edits are being loaded.
    Loading,
    /// Waiting for blocks, or (`reached`) through the extension.
    Startup {
        reached: Option<Tick>,
    },
    Off,
}

/// The state of safe mode. Totals are not kept here: they follow edits and reports in either order, wherever counted.
#[derive(Debug)]
pub(crate) struct SafeMode {
    phase: Phase,
    manual: bool,
}

impl SafeMode {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Loading,
            manual: false,
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.manual || self.phase != Phase::Off
    }

    /// Not all blocks had a chance to be reported yet.
    pub(crate) fn is_startup(&self) -> bool {
        self.phase != Phase::Off
    }

    /// On, and off again once enough is reported: nobody entered it by hand.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.is_startup() && !self.manual
    }

    pub(crate) fn start(&mut self) {
        if self.phase == Phase::Loading {
            self.phase = Phase::Startup { reached: None };
        }
    }

    pub(crate) fn enter(&mut self) {
        self.manual = true;
    }

    pub(crate) fn leave(&mut self) {
        self.manual = false;
        self.phase = Phase::Off;
    }

    /// When to look again, if a time decides.
    pub(crate) fn deadline(&self, config: &BlockConfig) -> Option<Tick> {
        match self.phase {
            Phase::Startup { reached: Some(at) } => {
                Some(at.after_ms(config.safe_mode_extension_ms))
            }
            _ => None,
        }
    }

    /// Moves on; `true` when the start-up phase just ended.
    pub(crate) fn check(&mut self, now: Tick, progress: Progress, config: &BlockConfig) -> bool {
        let Phase::Startup { reached } = self.phase else {
            return false;
        };
        let met = progress.safe >= needed(progress.total, config)
            && progress.live >= config.safe_mode_min_datanodes;
        if !met {
            return false;
        }
        let since = *match &mut self.phase {
            Phase::Startup { reached } => reached.get_or_insert(now),
            _ => return false,
        };
        // Nothing to wait for in an empty namespace, as in HDFS.
        let immediately = reached.is_none() && progress.total == 0;
        if immediately || now.ms_since(since) >= config.safe_mode_extension_ms {
            self.phase = Phase::Off;
            return true;
        }
        false
    }

    /// HDFS's words; `examples` are blocks not reported (Q9).
    pub(crate) fn message(
        &self,
        now: Tick,
        progress: Progress,
        config: &BlockConfig,
        examples: &str,
    ) -> String {
        if !self.is_on() {
            return String::new();
        }
        let Progress { safe, total, live } = progress;
        let threshold = config.safe_mode_threshold;
        let needed = needed(total, config);
        let mut text = if safe < needed {
            format!(
                "The reported blocks {safe} needs additional {} blocks to reach the threshold {threshold:.4} of total \
                 blocks {total}. ",
                needed - safe
            )
        } else {
            format!(
                "The reported blocks {safe} has reached the threshold {threshold:.4} of total blocks {total}. "
            )
        };
        let min = config.safe_mode_min_datanodes;
        if live < min {
            text += &format!(
                "The number of live datanodes {live} needs an additional {} live datanodes to reach the minimum \
                 number {min}. ",
                min - live
            );
        } else {
            text += &format!(
                "The number of live datanodes {live} has reached the minimum number {min}. "
            );
        }
        text += examples;
        if self.manual {
            text += "It was turned on manually. Use \"hadal dfsadmin -safemode leave\" to turn safe mode off.";
            return text;
        }
        match self.phase {
            Phase::Loading => text += "Image and edits are still being loaded.",
            Phase::Startup { reached: Some(at) } => {
                let end = at.after_ms(config.safe_mode_extension_ms);
                text += &format!(
                    "In safe mode extension. Safe mode will be turned off automatically in {} seconds.",
                    end.ms_since(now).div_ceil(1000)
                );
            }
            _ => {
                text += "Safe mode will be turned off automatically once the thresholds have been reached.";
            }
        }
        text
    }
}

/// Blocks that must be safe: the share, rounded down as in HDFS.
fn needed(total: u64, config: &BlockConfig) -> u64 {
    ((total as f64) * config.safe_mode_threshold) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(safe: u64, total: u64, live: u64) -> Progress {
        Progress { safe, total, live }
    }

    #[test]
    fn f_03_leaves_after_threshold_and_extension_only() {
        let config = BlockConfig {
            safe_mode_min_datanodes: 2,
            ..BlockConfig::default()
        };
        let mut safe = SafeMode::new();
        let t = Tick::from_ms;
        assert!(!safe.check(t(0), progress(10, 10, 2), &config), "loading");
        safe.start();
        assert!(!safe.check(t(0), progress(998, 1000, 2), &config));
        assert_eq!(safe.deadline(&config), None);
        assert!(!safe.check(t(5), progress(999, 1000, 1), &config));
        assert!(!safe.check(t(10), progress(999, 1000, 2), &config));
        assert_eq!(safe.deadline(&config), Some(t(30_010)));
        assert!(
            !safe.check(t(30_010), progress(998, 1000, 2), &config),
            "fell back"
        );
        assert!(safe.check(t(30_010), progress(999, 1000, 2), &config));
        assert!(!safe.is_on());
    }

    #[test]
    fn f_03_empty_namespace_leaves_at_once_and_manual_needs_manual() {
        let config = BlockConfig::default();
        let mut safe = SafeMode::new();
        safe.start();
        safe.enter();
        assert!(safe.check(Tick(0), progress(0, 0, 0), &config));
        assert!(safe.is_on() && !safe.is_startup());
        safe.leave();
        assert!(!safe.is_on());
    }

    #[test]
    fn q9_message_in_the_words_users_know() {
        let config = BlockConfig::default();
        let mut safe = SafeMode::new();
        safe.start();
        let text = safe.message(Tick(0), progress(390, 407, 3), &config, "");
        assert!(
            text.starts_with(
                "The reported blocks 390 needs additional 16 blocks to reach the threshold 0.9990 of total blocks 407. "
            ),
            "{text}"
        );
        assert!(text.contains("The number of live datanodes 3 has reached the minimum number 0."));
    }
}
