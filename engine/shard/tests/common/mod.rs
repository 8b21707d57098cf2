//! What the tests share: a place on a real disk, a network that has nobody, and child processes.
#![allow(dead_code, reason = "each test file uses its part")]

use bytes::Bytes;
use hadal_env::{Conn, Expect, Net, NetError, NetErrorKind, RecvStream, SendStream};
use hadal_shard::{ShardHandle, ShardOptions, run_on_this_thread};
use hadal_types::Principal;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A directory under the target directory: a real file system, where `/tmp` may be memory.
pub(crate) fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs `main` on a shard on this thread.
pub(crate) fn on_shard<F: Future>(main: impl FnOnce(ShardHandle) -> F) -> F::Output {
    run_on_this_thread(ShardOptions::new("test"), main).unwrap()
}

/// The environment variable that tells a child what to be.
pub(crate) const ROLE: &str = "HADAL_SHARD_TEST_ROLE";

/// This very test program again, running only its test `child` in the role given.
pub(crate) fn child_process(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A network without anybody.
#[derive(Clone, Debug)]
pub(crate) struct NoNet;

/// No connection can exist.
#[derive(Clone, Debug)]
pub(crate) enum NoConn {}

impl Net for NoNet {
    type Conn = NoConn;

    async fn connect(&self, addr: SocketAddr, _: &Expect) -> Result<NoConn, NetError> {
        Err(NetError::new(NetErrorKind::Unreachable, addr.to_string()))
    }

    async fn accept(&self) -> Option<NoConn> {
        None
    }

    fn local_addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }
}

impl Conn for NoConn {
    type Send = Self;
    type Recv = Self;

    fn peer(&self) -> &Principal {
        match *self {}
    }

    fn remote_addr(&self) -> SocketAddr {
        match *self {}
    }

    async fn open(&self) -> Result<(Self, Self), NetError> {
        match *self {}
    }

    async fn accept(&self) -> Result<(Self, Self), NetError> {
        match *self {}
    }

    fn close(&self, _: u64, _: &str) {
        match *self {}
    }

    async fn closed(&self) -> NetError {
        match *self {}
    }

    fn is_closed(&self) -> bool {
        match *self {}
    }
}

impl SendStream for NoConn {
    async fn write_chunk(&mut self, _: Bytes) -> Result<(), NetError> {
        match *self {}
    }

    async fn write_chunks(&mut self, _: &mut [Bytes]) -> Result<(), NetError> {
        match *self {}
    }

    fn finish(&mut self) {
        match *self {}
    }

    fn reset(&mut self, _: u64) {
        match *self {}
    }
}

impl RecvStream for NoConn {
    async fn read_chunk(&mut self, _: usize) -> Result<Option<Bytes>, NetError> {
        match *self {}
    }

    fn stop(&mut self, _: u64) {
        match *self {}
    }
}
