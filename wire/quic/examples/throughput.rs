//! Stream throughput and call rate between two endpoints on loopback, each on a thread of its own.
//!
//! `cargo run --release -p hadal-quic --example throughput [SECONDS [ADDRESS]]`; ADDRESS is one of this
//! machine's own (127.0.0.1 unless given).

use bytes::Bytes;
use futures_util::future::join_all;
use hadal_env::{Expect, Net};
use hadal_proto::frame::FrameKind;
use hadal_proto::{Protocol, ProtocolId};
use hadal_quic::{
    CallClient, ClusterCa, Identity, Incoming, QuicConn, QuicNet, TransportOptions, Validity,
    accept, open_append,
};
use hadal_types::Role;
use socket2::SockRef;
use std::cell::Cell;
use std::error::Error;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

/// Bytes of one frame's payload, and of one of its chunks.
const FRAME: usize = 1 << 20;
const CHUNK: usize = 64 << 10;
/// Bytes of a request and of its answer.
const MESSAGE: usize = 100;
/// Bytes asked of the system for each socket buffer.
const SOCKET_BUFFER: usize = 8 << 20;
/// Calls in flight at any time.
const OUTSTANDING: usize = 64;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Echo;

impl Protocol for Echo {
    const ID: ProtocolId = ProtocolId::Transfer;
    const VERSION: u16 = 1;
    type Request = Bytes;
    type Response = Bytes;
}

fn main() -> Outcome<()> {
    let seconds = match std::env::args().nth(1) {
        Some(argument) => argument.parse()?,
        None => 3,
    };
    let ip: IpAddr = match std::env::args().nth(2) {
        Some(argument) => argument.parse()?,
        None => IpAddr::from([127, 0, 0, 1]),
    };
    let (ca, _) = ClusterCa::generate("throughput", Validity::days(1))?;
    let identity = |role, name| -> Outcome<Identity> {
        let issued = ca.issue(role, name, &[], Validity::days(1))?;
        Ok(Identity::from_pem(
            ca.certificate_pem(),
            &issued.certificate_pem,
            &issued.key_pem,
            SystemTime::now(),
        )?)
    };
    let (listening, dialling) = (
        identity(Role::Datanode, "dn1")?,
        identity(Role::Namenode, "nn1")?,
    );
    for mtu in [Some(1452), Some(8900), None] {
        let options = TransportOptions {
            mtu,
            ..TransportOptions::default()
        };
        let (announce, announced) = mpsc::channel();
        let server = {
            let (identity, options) = (listening.clone(), options.clone());
            std::thread::spawn(move || run(serve(ip, identity, options, announce)))
        };
        let addr = announced.recv()?;
        let time = Duration::from_secs(seconds);
        run(measure(ip, dialling.clone(), options, addr, time))??;
        server.join().expect("the server does not panic")??;
    }
    Ok(())
}

fn run<T>(future: impl Future<Output = T>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(tokio::task::LocalSet::new().run_until(future)))
}

fn endpoint(
    ip: IpAddr,
    identity: &Identity,
    options: &TransportOptions,
    listen: bool,
) -> Outcome<QuicNet> {
    let socket = UdpSocket::bind((ip, 0))?;
    socket.set_nonblocking(true)?;
    // As much as the system allows: the default loses packets at these rates.
    let buffers = SockRef::from(&socket);
    buffers.set_recv_buffer_size(SOCKET_BUFFER)?;
    buffers.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(QuicNet::new(
        socket,
        Arc::new(quinn::TokioRuntime),
        identity,
        options,
        listen,
    )?)
}

/// Answers calls and swallows frames until the connection ends.
async fn serve(
    ip: IpAddr,
    identity: Identity,
    options: TransportOptions,
    announce: mpsc::Sender<SocketAddr>,
) -> Outcome<()> {
    let net = endpoint(ip, &identity, &options, true)?;
    announce.send(net.local_addr())?;
    let conn = net.accept().await.ok_or("the endpoint was closed")?;
    while let Ok(incoming) = accept(&conn).await {
        tokio::task::spawn_local(async move {
            match incoming {
                Incoming::Call(_, stream) => {
                    let (mut requests, driver) = stream.split::<Echo>();
                    tokio::task::spawn_local(driver);
                    while let Some((request, responder)) = requests.next().await {
                        responder.answer(Ok(request));
                    }
                }
                Incoming::Append(_, stream) => {
                    let (mut frames, mut acks) = stream.into_parts();
                    while let Ok(Some(frame)) = frames.next().await {
                        drop(frame);
                    }
                    acks.finish();
                }
                Incoming::Read(_, stream) => drop(stream),
            }
        });
    }
    Ok(())
}

async fn measure(
    ip: IpAddr,
    identity: Identity,
    options: TransportOptions,
    addr: SocketAddr,
    time: Duration,
) -> Outcome<()> {
    let net = endpoint(ip, &identity, &options, false)?;
    let conn = net
        .connect(addr, &Expect::node(Role::Datanode, "dn1"))
        .await?;
    let before_s = cpu_s()?;
    let (bytes, bytes_per_s) = stream_rate(&conn, time).await?;
    let between_s = cpu_s()?;
    let path = conn.stats().path;
    let (calls, calls_per_s) = call_rate(&conn, time).await?;
    let after_s = cpu_s()?;
    println!(
        "mtu {:5}  stream {:.2} GB/s, {:.2} CPU-s per GiB, {} packets lost; \
         calls {:.0} k/s, {:.2} CPU-us each ({OUTSTANDING} outstanding, {MESSAGE} B)",
        path.current_mtu,
        bytes_per_s / 1e9,
        (between_s - before_s) * (1u64 << 30) as f64 / bytes as f64,
        path.lost_packets,
        calls_per_s / 1e3,
        (after_s - between_s) * 1e6 / calls as f64,
    );
    Ok(())
}

/// CPU seconds of this process so far, both ends together; steadier than rates on a busy machine.
fn cpu_s() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name in parentheses; fields 14 and 15 of proc(5), in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (ticks.next(), ticks.next());
    let (Some(user), Some(system)) = (user, system) else {
        return Err("/proc/self/stat is too short".into());
    };
    Ok((user? + system?) as f64 / 100.0)
}

/// Bytes sent, and their rate per second.
async fn stream_rate(conn: &QuicConn, time: Duration) -> Outcome<(u64, f64)> {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let (mut sender, mut acks) = open_append(conn, ProtocolId::Transfer, 1, &0u64).await?;
    let start = Instant::now();
    while start.elapsed() < time {
        let mut payload = vec![chunk.clone(); FRAME / CHUNK];
        let offset = sender.payload_bytes();
        sender
            .send(FrameKind::Data, 0, offset, Bytes::new(), &mut payload)
            .await?;
    }
    sender.finish();
    // The receiver ends its acks once it has read everything.
    while acks.next().await?.is_some() {}
    let bytes = sender.payload_bytes();
    Ok((bytes, bytes as f64 / start.elapsed().as_secs_f64()))
}

/// Calls answered, and their rate per second.
async fn call_rate(conn: &QuicConn, time: Duration) -> Outcome<(u64, f64)> {
    let (client, driver) = CallClient::<Echo>::open(conn).await?;
    let driver = tokio::task::spawn_local(driver);
    let request = Bytes::from(vec![7; MESSAGE]);
    let done = Cell::new(0u64);
    let start = Instant::now();
    let callers = join_all((0..OUTSTANDING).map(|_| async {
        while start.elapsed() < time {
            client.call(&request).await?;
            done.set(done.get() + 1);
        }
        Outcome::Ok(())
    }));
    for caller in callers.await {
        caller?;
    }
    let elapsed = start.elapsed().as_secs_f64();
    drop(client);
    driver.await?;
    Ok((done.get(), done.get() as f64 / elapsed))
}
