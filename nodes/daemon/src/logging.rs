//! Log lines on standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging at `level` (`info`, `debug`, or any filter `HADAL_LOG` gives). Call once per process; later calls
/// change nothing.
pub fn init_logging(level: &str) {
    let filter = EnvFilter::try_from_env("HADAL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let built = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    drop(built.try_init());
}
