//! What all daemons share: the driver loop's small tools, configuration, identity files, logging and signals.
#![forbid(unsafe_code)]

mod notify;

pub use notify::Notify;
