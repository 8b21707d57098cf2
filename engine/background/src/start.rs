//! Why the executor could not be started, and how to mend it.

use hadal_env::DiskError;
use nix::sys::resource::{Resource, getrlimit};
use std::io;

/// Locked memory glommio demands before it starts, in bytes.
pub(crate) const MIN_LOCKED_BYTES: u64 = 512 << 10;

/// The background executor could not be started. The messages say what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The limit on locked memory is too low for its rings.
    #[error(
        "the background executor needs a locked-memory limit of {MIN_LOCKED_BYTES} bytes, this process has {limit_bytes}. Raise it: \
         `ulimit -l 65536`, `LimitMEMLOCK=64M` in the unit, `--ulimit memlock=67108864` for a container"
    )]
    LockedMemory {
        /// Soft `RLIMIT_MEMLOCK` in bytes.
        limit_bytes: u64,
    },
    /// io_uring is missing or forbidden.
    #[error(
        "the background executor cannot use io_uring (kernel.io_uring_disabled = {disabled}): {detail}. Run `sysctl kernel.io_uring_disabled=0`, \
         allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile, and use Linux 5.11 or later"
    )]
    Ring {
        /// Value of `kernel.io_uring_disabled`, or that it is not known.
        disabled: String,
        /// What glommio said.
        detail: String,
    },
    /// A data directory cannot be read from or written to.
    #[error("the background executor cannot use a data directory: {0}")]
    DataDir(#[from] DiskError),
    /// A budget smaller than one page for each class.
    #[error("a background budget of {bytes} bytes is too small; use {least} or more")]
    Budget {
        /// What was asked for.
        bytes: usize,
        /// The least that works.
        least: usize,
    },
    /// The thread could not be started.
    #[error(
        "cannot start the thread of the background executor: {0}. Check `ulimit -u` and the container's pids limit"
    )]
    Thread(#[source] io::Error),
}

impl StartError {
    pub(crate) fn check_locked_memory() -> Result<(), Self> {
        match getrlimit(Resource::RLIMIT_MEMLOCK) {
            Ok((limit_bytes, _)) if limit_bytes < MIN_LOCKED_BYTES => {
                Err(Self::LockedMemory { limit_bytes })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn ring(detail: String) -> Self {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        Self::Ring {
            disabled: disabled
                .map_or_else(|_| "not readable".to_owned(), |text| text.trim().to_owned()),
            detail,
        }
    }
}
