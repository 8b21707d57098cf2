//! `hadal dev`: a cluster of real processes on this machine, with its own certificates and configuration.

mod cluster;
mod layout;
mod process;
mod status;

pub(crate) use cluster::{down, kill, start, stop, up};
pub(crate) use layout::UpArgs;
pub(crate) use status::status;

pub(crate) use cluster::{Cluster, kill_process};
