//! Files of other processes on this machine: fetched over a Unix socket, read on tokio's threads for blocking calls.

use crate::pages::Buffers;
use bytes::Bytes;
use hadal_env::{LocalFile, Opening, Reading};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, pread};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;

/// A DataNode answers a ticket within this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows the ticket, takes the descriptor.
pub(crate) fn open(socket: &str, ticket: u128, buffers: Buffers) -> Opening {
    let socket = socket.to_owned();
    let fetched = spawn_blocking(move || fetch(&socket, ticket));
    Box::pin(async move {
        match fetched.await {
            Ok(Ok(file)) => Ok(Arc::new(Descriptor {
                file: Arc::new(file),
                buffers,
            }) as Arc<dyn LocalFile>),
            Ok(Err(error)) => Err(format!("fetching the file: {error}")),
            Err(error) => Err(error.to_string()),
        }
    })
}

fn fetch(socket: &str, ticket: u128) -> io::Result<OwnedFd> {
    let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(socket)?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&ticket.to_le_bytes())?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let refused = || io::Error::new(io::ErrorKind::PermissionDenied, "the ticket was refused");
    if received.bytes != 1 {
        return Err(refused());
    }
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    rights.ok_or_else(refused)
}

struct Descriptor {
    file: Arc<OwnedFd>,
    buffers: Buffers,
}

impl LocalFile for Descriptor {
    fn read(&self, offset: u64, length: usize) -> Reading {
        let (file, buffers) = (Arc::clone(&self.file), self.buffers.clone());
        let read = spawn_blocking(move || read_at(&file, &buffers, offset, length));
        Box::pin(async move {
            match read.await {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn pass_cache(&self, past: bool) {
        if let Err(error) = set_direct(&self.file, past) {
            tracing::debug!("a local file is read through the page cache: {error}");
        }
    }
}

/// The DataNode opens the file anew for every ticket, so that the flag is this reader's own.
fn set_direct(file: &OwnedFd, direct: bool) -> Result<(), Errno> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    fcntl_setfl(file, flags)
}

fn read_at(file: &OwnedFd, buffers: &Buffers, offset: u64, length: usize) -> Result<Bytes, Errno> {
    through_the_cache_if_refused(
        || buffers.fill(offset, length, |into, at| pread(file, into, at)),
        || set_direct(file, false),
    )
}

/// Some file systems take the flag and refuse the reads.
fn through_the_cache_if_refused<T>(
    read: impl Fn() -> Result<T, Errno>,
    leave_direct: impl FnOnce() -> Result<(), Errno>,
) -> Result<T, Errno> {
    match read() {
        Err(Errno::INVAL) => {
            leave_direct()?;
            read()
        }
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs::File;

    /// Opened like a DataNode's file, past the page cache.
    fn past_the_cache(path: &std::path::Path) -> OwnedFd {
        let file = OwnedFd::from(File::open(path).unwrap());
        let is_direct = || fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT);
        // Where the file system cannot, the bytes must be right all the same.
        let taken = set_direct(&file, true).is_ok();
        assert_eq!(is_direct(), taken);
        file
    }

    #[test]
    fn bytes_past_the_page_cache_are_those_of_the_file() {
        let path = std::env::temp_dir().join(format!("hadal-client-{}", std::process::id()));
        let content: Vec<u8> = (0..1_300_007_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let (file, cached) = (
            past_the_cache(&path),
            OwnedFd::from(File::open(&path).unwrap()),
        );
        std::fs::remove_file(&path).unwrap();
        let buffers = Buffers::default();
        let edges = [
            0, 1, 4_095, 4_096, 4_097, 65_537, 1_048_576, 1_299_999, 1_300_007, 2_000_000,
        ];
        for from in edges {
            for wanted in edges {
                let end = (from + wanted).min(content.len());
                let expected = content.get(from..end).unwrap_or_default();
                for file in [&file, &cached] {
                    let found = read_at(file, &buffers, from as u64, wanted).unwrap();
                    assert!(found == expected, "{wanted} bytes at {from}");
                }
            }
        }
    }

    #[test]
    fn a_file_system_that_does_no_direct_io_is_read_through_the_cache() {
        let expected = std::fs::read("/proc/version").unwrap();
        let file = OwnedFd::from(File::open("/proc/version").unwrap());
        assert_eq!(set_direct(&file, true), Err(Errno::INVAL));
        let found = read_at(&file, &Buffers::default(), 0, 100_000).unwrap();
        assert!(found == expected);
    }

    #[test]
    fn direct_reads_that_are_refused_are_made_through_the_cache() {
        let direct = Cell::new(true);
        let left = || {
            direct.set(false);
            Ok(())
        };
        let refused = || match direct.get() {
            true => Err(Errno::INVAL),
            false => Ok(7),
        };
        assert_eq!(through_the_cache_if_refused(refused, left), Ok(7));
        let broken = through_the_cache_if_refused(|| Err::<(), _>(Errno::INVAL), || Ok(()));
        assert_eq!(broken, Err(Errno::INVAL));
        direct.set(true);
        let failed = through_the_cache_if_refused(|| Err::<(), _>(Errno::IO), left);
        assert_eq!((failed, direct.get()), (Err(Errno::IO), true));
    }
}
