//! When the next heartbeat and the next full report are due (A-14, A-28..A-32, T-D11, T-D12).

use hadal_types::Tick;

/// The schedule of one actor. `random` values are uniform 64-bit numbers drawn by the caller.
#[derive(Clone, Debug)]
pub struct ReportSchedule {
    heartbeat_interval_ms: u64,
    report_interval_ms: u64,
    next_heartbeat: Tick,
    next_report: Tick,
    /// The next report's successor is randomised inside one interval.
    reset_next: bool,
}

impl ReportSchedule {
    /// Nothing is due before the first [`ReportSchedule::start`].
    #[must_use]
    pub fn new(heartbeat_interval_ms: u64, report_interval_ms: u64) -> Self {
        assert!(
            heartbeat_interval_ms > 0 && report_interval_ms > 0,
            "intervals are positive"
        );
        Self {
            heartbeat_interval_ms,
            report_interval_ms,
            next_heartbeat: Tick::NEVER,
            next_report: Tick::NEVER,
            reset_next: true,
        }
    }

    /// After a registration: a heartbeat at once, the first report at a random point of `[now, now + delay)`, or
    /// with the next heartbeat when the delay is 0.
    pub fn start(&mut self, now: Tick, initial_delay_ms: u64, random: u64) {
        self.next_heartbeat = now;
        self.schedule_report(now, initial_delay_ms, random);
    }

    /// Next report at a random point of `[now, now + delay)`; its successor is randomised again.
    pub fn schedule_report(&mut self, now: Tick, delay_ms: u64, random: u64) {
        let wait = if delay_ms == 0 { 0 } else { random % delay_ms };
        self.next_report = now.after_ms(wait);
        self.reset_next = true;
    }

    /// A heartbeat goes out at the next opportunity.
    pub fn heartbeat_now(&mut self, now: Tick) {
        self.next_heartbeat = self.next_heartbeat.min(now);
    }

    /// When the next heartbeat is due.
    #[must_use]
    pub fn next_heartbeat(&self) -> Tick {
        self.next_heartbeat
    }

    /// When the next full report is due.
    #[must_use]
    pub fn next_report(&self) -> Tick {
        self.next_report
    }

    /// Whether a heartbeat is due.
    #[must_use]
    pub fn heartbeat_due(&self, now: Tick) -> bool {
        now >= self.next_heartbeat
    }

    /// Whether a full report is due.
    #[must_use]
    pub fn report_due(&self, now: Tick) -> bool {
        now >= self.next_report
    }

    /// A heartbeat was sent. One that was late moves the grid: no burst follows (T-D12).
    pub fn handle_heartbeat_sent(&mut self, now: Tick) {
        self.next_heartbeat = now.after_ms(self.heartbeat_interval_ms);
    }

    /// A full report was sent: the first one's successor is random inside one interval, later ones stay on
    /// the grid however late they were.
    pub fn handle_report_sent(&mut self, now: Tick, random: u64) {
        if self.reset_next {
            self.next_report = now.after_ms(random % self.report_interval_ms);
            self.reset_next = false;
            return;
        }
        let late_ms = now.ms_since(self.next_report);
        let intervals = late_ms / self.report_interval_ms + 1;
        self.next_report = self
            .next_report
            .after_ms(intervals.saturating_mul(self.report_interval_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn clock(hours: u64, minutes: u64, seconds: u64) -> Tick {
        Tick::from_ms(hours * HOUR + minutes * 60_000 + seconds * 1000)
    }

    #[test]
    fn reports_stay_on_their_grid_a30() {
        let mut schedule = ReportSchedule::new(3000, HOUR);
        schedule.start(clock(7, 0, 0), 0, 0);
        schedule.handle_report_sent(clock(7, 20, 14), HOUR - 1);
        schedule.next_report = clock(9, 20, 14);
        schedule.handle_report_sent(clock(9, 20, 18), 5);
        assert_eq!(schedule.next_report(), clock(10, 20, 14));
        schedule.handle_report_sent(clock(11, 35, 43), 5);
        assert_eq!(schedule.next_report(), clock(12, 20, 14));
    }

    #[test]
    fn first_report_and_its_successor_are_random_a28_a29_t_d11() {
        for random in [0, 1, 999, u64::MAX, u64::MAX / 3] {
            for now in [Tick(0), Tick::from_ms(1 << 40)] {
                let mut schedule = ReportSchedule::new(3000, HOUR);
                schedule.start(now, 1000, random);
                assert!(
                    schedule.next_report() >= now && schedule.next_report() < now.after_ms(1000)
                );
                schedule.start(now, 0, random);
                assert!(schedule.report_due(now), "delay 0 is now");
                schedule.handle_report_sent(now, random);
                assert!(
                    schedule.next_report() >= now && schedule.next_report() < now.after_ms(HOUR)
                );
                let second = schedule.next_report();
                schedule.handle_report_sent(second, random);
                assert_eq!(schedule.next_report(), second.after_ms(HOUR));
            }
        }
    }

    #[test]
    fn extreme_times_do_not_overflow_t_d11() {
        let mut schedule = ReportSchedule::new(3000, HOUR);
        for now in [Tick(0), Tick(u64::MAX - 1), Tick::NEVER] {
            schedule.start(now, u64::MAX, u64::MAX - 1);
            schedule.handle_heartbeat_sent(now);
            schedule.handle_report_sent(now, u64::MAX);
            schedule.handle_report_sent(now, u64::MAX);
        }
    }

    /// the next one is due when the interval has passed, and not before.
    #[test]
    fn a_late_heartbeat_is_not_followed_by_a_burst_t_d12() {
        let mut schedule = ReportSchedule::new(3000, HOUR);
        schedule.start(Tick(0), 0, 0);
        schedule.handle_heartbeat_sent(Tick::from_ms(30_000));
        assert!(!schedule.heartbeat_due(Tick::from_ms(32_999)));
        assert!(schedule.heartbeat_due(Tick::from_ms(33_000)));
    }
}
