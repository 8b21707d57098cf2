//! S12: QUIC in the loop: `wire/quic` over quinn on the world's clock and simulated datagrams.

mod cluster;
mod paths;

use sim::runner::sweep;
use sim::scenario::find;

/// S12: 50 seeds of a virtual minute, about 39 processor seconds; `HADAL_S12_SEEDS` sets how many. The longer
/// form is `cargo run --release -p sim -- --scenario quic --seeds 0..2000 --minutes 2 --record`.
#[test]
fn s12_calls_and_streams_keep_their_promises_over_a_bad_network() {
    let seeds = std::env::var("HADAL_S12_SEEDS").map_or(50, |n| n.parse().expect("a number"));
    let quic = find(Some("quic")).expect("QUIC in the loop");
    let summary = sweep(quic, 0..seeds, 1, None, false, 2, &|failure| {
        eprintln!("{}: {}", failure.seed, failure.violation)
    });
    println!(
        "{:.2} CPU s per seed; {}",
        summary.busy_seconds / seeds as f64,
        summary.counters
    );
    assert!(summary.failures.is_empty());
    for name in quic.floors() {
        assert!(summary.counters.get(name) > 0, "{name} is zero");
    }
}
