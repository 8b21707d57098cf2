//! Files of other processes on this machine: fetched over a Unix socket, read on tokio's threads for blocking calls.

use bytes::Bytes;
use hadal_env::{LocalFile, Opening, Reading};
use rustix::buffer::spare_capacity;
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
pub(crate) fn open(socket: &str, ticket: u128) -> Opening {
    let socket = socket.to_owned();
    let fetched = spawn_blocking(move || fetch(&socket, ticket));
    Box::pin(async move {
        match fetched.await {
            Ok(Ok(file)) => Ok(Arc::new(Descriptor(Arc::new(file))) as Arc<dyn LocalFile>),
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

struct Descriptor(Arc<OwnedFd>);

impl LocalFile for Descriptor {
    fn read(&self, offset: u64, length: usize) -> Reading {
        let file = Arc::clone(&self.0);
        let read = spawn_blocking(move || read_at(&file, offset, length));
        Box::pin(async move {
            match read.await {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

fn read_at(file: &OwnedFd, mut offset: u64, length: usize) -> Result<Bytes, Errno> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        match pread(file, spare_capacity(&mut bytes), offset) {
            Ok(0) => break,
            Ok(read) => offset += read as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(Bytes::from(bytes))
}
