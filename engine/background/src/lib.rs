//! The patient path: one glommio executor per node, on a thread of its own, for what is long and not
//! urgent. Checkpoints, image transfer, scanning, re-replication and balancing each have a task
//! queue with shares of its processor time and a budget of bytes in flight; files are read by direct
//! I/O and handed to shards as `Bytes` over a bounded channel.
//!
//! [`Background::start`] starts it; handles are cheap to clone and may be used on any thread. It ends
//! when the last handle is gone and the work taken on is done. A panic on it ends the process with
//! [`PANIC_EXIT_CODE`], and so does the executor ending while handles remain.
//!
//! This is the only crate of the house that names glommio. What is not here: deadlines for work that
//! must end within its period (pace it by what is left to do), and writing.
#![forbid(unsafe_code)]

mod budget;
mod class;
mod executor;
mod pulse;
mod reading;
mod source;
mod start;
mod supervise;

pub use class::Class;
pub use executor::{Background, BackgroundOptions};
pub use reading::Reading;
pub use start::StartError;
pub use supervise::PANIC_EXIT_CODE;
