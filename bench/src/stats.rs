//! Medians, spreads and latencies.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest latency a histogram holds, in nanoseconds; longer ones count as this.
const LONGEST_NS: u64 = 600_000_000_000;
/// Digits a histogram keeps.
const DIGITS: u8 = 3;

/// Latencies of one load.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
                .expect("fixed bounds that the library takes"),
        )
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST_NS);
        self.0.saturating_record(ns.clamp(1, LONGEST_NS));
    }

    /// Adds all of another load.
    pub fn merge(&mut self, other: &Self) {
        self.0
            .add(&other.0)
            .expect("all histograms here have the same bounds");
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency below which this share (0 to 1) of them lies, in microseconds.
    #[must_use]
    pub fn at_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// The usual quantiles; `None` when nothing was recorded.
    #[must_use]
    pub fn quantiles(&self) -> Option<Quantiles> {
        (self.count() > 0).then(|| Quantiles {
            p50_us: self.at_us(0.5),
            p99_us: self.at_us(0.99),
            p999_us: self.at_us(0.999),
            max_us: self.0.max() as f64 / 1e3,
            samples: self.count(),
        })
    }
}

/// Latency in microseconds over all measured runs together.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of them were at most this.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// All of them.
    pub max_us: f64,
    /// How many there were.
    pub samples: u64,
}

/// The middle value; the mean of the two middle ones of an even number. `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Largest less smallest value, as a share of the median. `None` when there is no median but zero.
#[must_use]
pub fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values).filter(|middle| *middle != 0.0)?;
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    Some((largest - smallest) / middle.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn the_spread_is_a_share_of_the_median() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[0.0, 0.0]), None);
        assert_eq!(spread(&[5.0]), Some(0.0));
        assert_eq!(spread(&[8.0, 10.0, 12.0]), Some(0.4));
    }

    #[test]
    fn quantiles_come_from_all_runs_together() {
        let (mut a, mut b) = (Latencies::default(), Latencies::default());
        assert!(a.quantiles().is_none());
        (1..=500).for_each(|us| a.record(Duration::from_micros(us)));
        (501..=1000).for_each(|us| b.record(Duration::from_micros(us)));
        a.merge(&b);
        let quantiles = a.quantiles().unwrap();
        let close =
            |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 2e-3, "{found}");
        close(quantiles.p50_us, 500.0);
        close(quantiles.p99_us, 990.0);
        close(quantiles.p999_us, 999.0);
        close(quantiles.max_us, 1000.0);
        assert_eq!(quantiles.samples, 1000);
    }

    #[test]
    fn a_latency_over_the_bound_is_kept_at_the_bound() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_secs(100_000));
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.at_us(1.0) >= LONGEST_NS as f64 / 1e3);
    }
}
