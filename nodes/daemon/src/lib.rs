//! What all daemons share: the driver loop's wake-up, configuration and logging.
#![forbid(unsafe_code)]

pub mod config;
mod load;
mod logging;
mod notify;
mod units;

pub use config::Config;
pub use load::{ConfigError, Loaded, Origin, load};
pub use logging::init_logging;
pub use notify::Notify;
pub use units::{Duration, Size};
