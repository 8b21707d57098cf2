//! What all daemons share: the driver loop's wake-up, configuration, logging, and when a certificate is taken for wrong.
#![forbid(unsafe_code)]

pub mod config;
mod distrust;
mod load;
mod logging;
mod notify;
mod units;

pub use config::Config;
pub use distrust::Distrust;
pub use load::{ConfigError, Loaded, Origin, load};
pub use logging::init_logging;
pub use notify::Notify;
pub use units::{Duration, Size};
