//! The Unix socket where readers on a DataNode's host fetch descriptors of replica files.

use anyhow::{Context, Result, ensure};
use hadal_datanode::LocalDoor;
use hadal_env::Env;
use hadal_shard::machine_memory_bytes;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::cell::Cell;
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Readers that are being served at once; more wait in the socket's queue.
const READERS_MAX: u32 = 256;
/// A reader shows its ticket within this, or is sent away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens the door, under a name nobody can guess or take. A machine that cannot is served over the network.
pub(crate) fn open<E: Env>(env: &E) -> Option<LocalDoor> {
    let name = format!("hadal-{:016x}{:016x}", env.random_u64(), env.random_u64());
    match bind(&name) {
        Ok(listener) => {
            // Half of the memory is left to the page cache, the other half to processes.
            let door = LocalDoor::new(&name, (machine_memory_bytes() / 2) as u64);
            env.spawn("local door", serve(env.clone(), door.clone(), listener));
            Some(door)
        }
        Err(error) => {
            tracing::warn!("no short-circuit reads: {error:#}");
            None
        }
    }
}

fn bind(name: &str) -> Result<tokio::net::UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
        .context("cannot make a Unix socket in the abstract namespace")?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::UnixListener::from_std(listener)?)
}

async fn serve<E: Env>(env: E, door: LocalDoor, listener: tokio::net::UnixListener) {
    let readers = Rc::new(Cell::new(0));
    let left = Rc::new(hadal_daemon::Notify::new());
    loop {
        let mark = left.mark();
        if readers.get() >= READERS_MAX {
            left.changed(mark).await;
            continue;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: readers go over the network until there are some again.
                tracing::warn!("a local reader was not served: {error}");
                env.sleep_until(env.now().after_ms(1_000)).await;
                continue;
            }
        };
        readers.set(readers.get() + 1);
        let (served, gone) = (Rc::clone(&readers), Rc::clone(&left));
        let (door, clock) = (door.clone(), env.clone());
        env.spawn("local reader", async move {
            let handed = tokio::time::timeout(PATIENCE, hand_out(&clock, &door, stream)).await;
            if let Ok(Err(error)) = handed {
                tracing::debug!("a local reader goes over the network: {error:#}");
            }
            served.set(served.get() - 1);
            gone.notify();
        });
    }
}

async fn hand_out<E: Env>(env: &E, door: &LocalDoor, mut stream: UnixStream) -> Result<()> {
    let ticket = stream.read_u128_le().await?;
    let path = door
        .redeem(env.now(), ticket)
        .context("its ticket is not good, or not any more")?;
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let sent = stream
        .async_io(tokio::io::Interest::WRITABLE, || {
            let files = [file.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(
                control.push(SendAncillaryMessage::ScmRights(&files)),
                "there is room for one descriptor"
            );
            let byte = [IoSlice::new(&[1])];
            Ok(sendmsg(&stream, &byte, &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    ensure!(sent == 1, "nothing was sent");
    Ok(())
}
