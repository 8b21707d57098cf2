//! `quic`: what the transport gives on loopback, client and server on a shard each. The limit row of everything that
//! crosses the network.

use crate::cpu::own_seconds;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use crate::stats::Latencies;
use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::future::try_join_all;
use hadal_env::{Expect, Net};
use hadal_proto::frame::FrameKind;
use hadal_proto::{Protocol, ProtocolId};
use hadal_quic::{
    CallClient, ClusterCa, Identity, Incoming, QuicConn, QuicNet, TransportOptions, Validity,
    accept, open_append,
};
use hadal_shard::{Shard, ShardOptions, run_on_this_thread, udp};
use hadal_types::Role;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

/// Datagram sizes: any Ethernet, jumbo frames, loopback.
const MTUS: [u16; 3] = [1452, 8900, 65_000];
/// Callers at once.
const OUTSTANDING: [usize; 4] = [1, 16, 64, 256];
/// Bytes of one frame's payload, and of one of its chunks.
const FRAME_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of a request and of its answer.
const MESSAGE_BYTES: usize = 100;
const GIB: f64 = (1u64 << 30) as f64;

/// Calls that answer what they were asked.
struct Echo;

impl Protocol for Echo {
    const ID: ProtocolId = ProtocolId::Transfer;
    const VERSION: u16 = 1;
    type Request = Bytes;
    type Response = Bytes;
}

/// Asks the question.
///
/// # Errors
/// When the endpoints cannot be made.
pub fn run(settings: &Settings) -> Result<Question> {
    let mut rows = Vec::new();
    let mut notes = vec![
        "mutual TLS 1.3; CPU is that of both ends; streams carry 1 MiB frames with checksummed headers".into(),
        format!("calls: {MESSAGE_BYTES} B asked, {MESSAGE_BYTES} B answered, one connection"),
    ];
    for mtu in MTUS {
        let (time, runs) = (settings.time, settings.runs);
        let measured = with_pair(mtu, |conn| async move {
            stream_row(&conn, mtu, time, runs).await
        })?;
        rows.push(measured);
    }
    for mtu in [MTUS[2], MTUS[0]] {
        let (time, runs) = (settings.time, settings.runs);
        rows.extend(with_pair(mtu, |conn| async move {
            let mut rows = Vec::new();
            for outstanding in OUTSTANDING {
                rows.push(call_row(&conn, mtu, outstanding, time, runs).await?);
            }
            Ok(rows)
        })?);
    }
    if let Some(note) = buffers()? {
        notes.push(note);
    }
    Ok(Question {
        name: "quic".into(),
        notes,
        rows,
    })
}

/// Says so when the kernel gave smaller socket buffers than were asked for.
fn buffers() -> Result<Option<String>> {
    let bound = udp::bind((Ipv4Addr::LOCALHOST, 0).into(), udp::BUFFER_BYTES)?;
    Ok((!bound.has_buffers_of(udp::BUFFER_BYTES)).then(|| {
        format!(
            "the kernel gave socket buffers of {} and {} bytes instead of {}: packets are lost at these rates (`hadal doctor`)",
            bound.recv_buffer_bytes,
            bound.send_buffer_bytes,
            udp::BUFFER_BYTES
        )
    }))
}

/// Connects a client on this thread to a server on a shard of its own, and runs `body` with the connection.
fn with_pair<T, F>(mtu: u16, body: impl FnOnce(QuicConn) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (ca, _) = ClusterCa::generate("bench", Validity::days(1))?;
    let identity = |role, name| -> Result<Identity> {
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
    let (announce, announced) = mpsc::channel();
    let server = Shard::spawn(ShardOptions::new("bench-server"), move |_| async move {
        serve(mtu, &listening, &announce).await
    })?;
    let Ok(address) = announced.recv() else {
        server.join()?;
        anyhow::bail!("the server ended before it listened");
    };
    let outcome = run_on_this_thread(ShardOptions::new("bench-client"), |_| async move {
        let net = endpoint(mtu, &dialling, false)?;
        let conn = net
            .connect(address, &Expect::node(Role::Datanode, "dn1"))
            .await?;
        let measured = body(conn).await;
        // The server ends with its connection.
        net.close(0, "measured");
        net.wait_idle().await;
        measured
    })?;
    server.join()?;
    outcome
}

fn endpoint(mtu: u16, identity: &Identity, listen: bool) -> Result<QuicNet> {
    let bound = udp::bind((Ipv4Addr::LOCALHOST, 0).into(), udp::BUFFER_BYTES)?;
    let options = TransportOptions {
        mtu: Some(mtu),
        ..TransportOptions::default()
    };
    Ok(QuicNet::new(
        bound.socket,
        udp::runtime(),
        identity,
        &options,
        listen,
    )?)
}

/// Answers calls and swallows frames until the connection ends.
async fn serve(mtu: u16, identity: &Identity, announce: &mpsc::Sender<SocketAddr>) -> Result<()> {
    let net = endpoint(mtu, identity, true)?;
    announce.send(net.local_addr())?;
    let conn = net.accept().await.context("the endpoint was closed")?;
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

async fn stream_row(conn: &QuicConn, mtu: u16, time: Duration, runs: usize) -> Result<Row> {
    let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
    let mut measured = Vec::new();
    for round in 0..=runs {
        let cpu = own_seconds()?;
        let (mut sender, mut acks) = open_append(conn, ProtocolId::Transfer, 1, &0u64).await?;
        let start = Instant::now();
        while start.elapsed() < time {
            let mut payload = vec![chunk.clone(); FRAME_BYTES / CHUNK_BYTES];
            let offset = sender.payload_bytes();
            sender
                .send(FrameKind::Data, 0, offset, Bytes::new(), &mut payload)
                .await?;
        }
        sender.finish();
        // The receiver ends its acks once it has read everything.
        while acks.next().await?.is_some() {}
        let bytes = sender.payload_bytes() as f64;
        let run = Run {
            value: bytes / start.elapsed().as_secs_f64() / 1e9,
            latencies: None,
            cpu: Some((own_seconds()? - cpu) / (bytes / GIB)),
        };
        if round > 0 {
            measured.push(run);
        }
    }
    let load = format!("MTU {mtu}, one stream");
    Row::new("stream", load, ("GB/s", Better::Higher), "GiB", &measured)
}

async fn call_row(
    conn: &QuicConn,
    mtu: u16,
    outstanding: usize,
    time: Duration,
    runs: usize,
) -> Result<Row> {
    let (client, driver) = CallClient::<Echo>::open(conn).await?;
    let driver = tokio::task::spawn_local(driver);
    let request = Bytes::from(vec![7; MESSAGE_BYTES]);
    let mut measured = Vec::new();
    for round in 0..=runs {
        let (cpu, start) = (own_seconds()?, Instant::now());
        let callers = try_join_all((0..outstanding).map(|_| async {
            let mut latencies = Latencies::default();
            while start.elapsed() < time {
                let asked = Instant::now();
                client.call(&request).await?;
                latencies.record(asked.elapsed());
            }
            anyhow::Ok(latencies)
        }));
        let mut latencies = Latencies::default();
        for caller in callers.await? {
            latencies.merge(&caller);
        }
        let calls = latencies.count() as f64;
        let run = Run {
            value: calls / start.elapsed().as_secs_f64(),
            cpu: Some((own_seconds()? - cpu) / calls * 1e6),
            latencies: Some(latencies),
        };
        if round > 0 {
            measured.push(run);
        }
    }
    drop(client);
    driver.await?;
    let load = format!("MTU {mtu}, {outstanding} outstanding");
    Row::new(
        "call",
        load,
        ("calls/s", Better::Higher),
        "1 M calls",
        &measured,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_gives_a_stream_and_a_call_row() {
        let time = Duration::from_millis(20);
        let rows = with_pair(MTUS[2], |conn| async move {
            let stream = stream_row(&conn, MTUS[2], time, 2).await?;
            Ok([stream, call_row(&conn, MTUS[2], 16, time, 2).await?])
        })
        .unwrap();
        for row in &rows {
            assert_eq!(row.runs.len(), 2);
            assert!(row.median > 0.0, "{row:?}");
        }
        assert!(rows[1].latency.unwrap().samples >= 32);
    }
}
