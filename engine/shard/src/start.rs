//! Why a shard could not be started, and how to mend it.

use std::io;

/// A shard that could not be started. The messages are meant for the operator: they say what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel lacks the operations used here.
    #[error(
        "this kernel is Linux {found}; Hadal needs 5.11 or later for io_uring. Run a newer kernel"
    )]
    KernelTooOld {
        /// Release as `uname -r` shows it.
        found: String,
    },
    /// `ENOSYS`: no io_uring, or a seccomp filter pretends so.
    #[error(
        "io_uring is missing (ENOSYS): the kernel is built without CONFIG_IO_URING, or the container's seccomp profile hides it. \
         Allow io_uring_setup, io_uring_enter and io_uring_register in the profile (docker: --security-opt seccomp=PROFILE)"
    )]
    RingMissing,
    /// `EPERM`: switched off by sysctl, seccomp or a security module.
    #[error(
        "io_uring is forbidden (EPERM; kernel.io_uring_disabled = {disabled}). Run `sysctl kernel.io_uring_disabled=0`; if that is 0 already, \
         allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile or security module"
    )]
    RingForbidden {
        /// Value of `kernel.io_uring_disabled`, or why it is not known.
        disabled: String,
    },
    /// `ENOMEM`: the ring's memory counts against the locked-memory limit on older kernels.
    #[error(
        "no memory for the io_uring (ENOMEM; locked-memory limit {limit_bytes} bytes). Raise it to 64 MiB or more: \
         `ulimit -l 65536`, `LimitMEMLOCK=64M` in the unit, `--ulimit memlock=67108864` for a container"
    )]
    LockedMemory {
        /// `RLIMIT_MEMLOCK` of this process in bytes.
        limit_bytes: u64,
    },
    /// The runtime or its ring could not be made for another reason (out of file descriptors, say).
    #[error(
        "cannot make the shard's runtime: {0}. If it ran out of file descriptors, raise `ulimit -n`"
    )]
    Runtime(#[source] io::Error),
    /// The thread could not be bound to its processor.
    #[error(
        "cannot pin shard {name} to processor {processor}: {source}. Name a processor this process may use (taskset -p), or start unpinned"
    )]
    Pin {
        /// Name of the shard.
        name: String,
        /// Processor number asked for.
        processor: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The thread could not be started.
    #[error(
        "cannot start the thread of shard {name}: {source}. Check `ulimit -u` and the container's pids limit"
    )]
    Thread {
        /// Name of the shard.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    /// What the failure of `io_uring_setup` means.
    pub(crate) fn from_ring(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::RingMissing,
            Some(libc::EPERM | libc::EACCES) => {
                let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
                Self::RingForbidden {
                    disabled: disabled
                        .map_or_else(|_| "not readable".to_owned(), |text| text.trim().to_owned()),
                }
            }
            Some(libc::ENOMEM) => {
                let limit =
                    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK);
                Self::LockedMemory {
                    limit_bytes: limit.map_or(0, |(soft, _)| soft),
                }
            }
            _ => Self::Runtime(error),
        }
    }

    /// Refuses kernels whose io_uring lacks rename and unlink (new in 5.11).
    pub(crate) fn check_kernel() -> Result<(), Self> {
        let Ok(name) = nix::sys::utsname::uname() else {
            return Ok(());
        };
        let release = name.release().to_string_lossy().into_owned();
        match version(&release) {
            Some(version) if version < (5, 11) => Err(Self::KernelTooOld { found: release }),
            _ => Ok(()),
        }
    }
}

/// Major and minor number of a kernel release, `None` when it does not look like one.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_ring_say_how_to_mend_them() {
        let text = |errno| StartError::from_ring(io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(libc::ENOSYS).contains("seccomp"));
        assert!(text(libc::EPERM).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(text(libc::ENOMEM).contains("ulimit -l"));
        assert!(text(libc::EMFILE).contains("ulimit -n"));
    }

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("linux"), None);
        assert!(version("5.9.1") < version("5.11.0"));
    }
}
