//! Endpoints: datagram sizes, hand-shakes side by side, floods, closing.

use crate::common::{Cluster, Echo, endpoint, endpoint_with, pair_with, patient, socket};
use bytes::Bytes;
use futures_util::future::join_all;
use hadal_env::{Conn, Expect, Net, NetErrorKind};
use hadal_proto::frame::FrameKind;
use hadal_proto::{Protocol, ProtocolId};
use hadal_quic::{
    Identity, Incoming, QuicNet, TransportError, TransportOptions, accept, open_append,
};
use hadal_types::Role;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Large datagrams travel with as few segments as the kernel takes, and the path never falls back.
#[tokio::test]
async fn every_datagram_size_carries_data() {
    for (mtu, expected) in [
        (None, 65_000),
        (Some(65_000), 65_000),
        (Some(20_000), 20_000),
        (Some(8_900), 8_900),
        (Some(1_452), 1_452),
    ] {
        let options = TransportOptions { mtu, ..patient() };
        let pair = pair_with(Role::Datanode, &options).await;
        let total = 16 << 20;
        let sending = async {
            let (mut sender, acks) = open_append(&pair.dialler, ProtocolId::Transfer, 1, &0u64)
                .await
                .unwrap();
            let payload = Bytes::from(vec![1; 1 << 20]);
            for _ in 0..total >> 20 {
                sender
                    .send(FrameKind::Data, 0, 0, Bytes::new(), &mut [payload.clone()])
                    .await
                    .unwrap();
            }
            sender.finish();
            acks
        };
        let receiving = async {
            let Incoming::Append(_, stream) = accept(&pair.listener).await.unwrap() else {
                panic!("expected an append stream")
            };
            let (mut incoming, acks) = stream.into_parts();
            let mut read = 0;
            while let Some(frame) = incoming.next().await.unwrap() {
                read += frame.payload.iter().map(Bytes::len).sum::<usize>();
            }
            (read, acks)
        };
        let (_acks, (read, _)) = futures_util::join!(sending, receiving);
        assert_eq!(read, total);
        for conn in [&pair.dialler, &pair.listener] {
            let path = conn.stats().path;
            assert_eq!(path.current_mtu, expected);
            assert_eq!(path.black_holes_detected, 0);
        }
    }
}

fn first_flight(cluster: &Cluster) -> impl Future<Output = Vec<u8>> {
    let dialling = endpoint(&cluster.identity(Role::Client, "alice"), false);
    async move {
        let capture = tokio::net::UdpSocket::from_std(socket()).unwrap();
        let addr = capture.local_addr().unwrap();
        let mut datagram = vec![0; 65_536];
        let expect = Expect::role(Role::Namenode);
        let length = tokio::select! {
            _ = dialling.connect(addr, &expect) => panic!("nobody answers there"),
            length = capture.recv(&mut datagram) => length.unwrap(),
        };
        datagram.truncate(length);
        datagram
    }
}

async fn connects(cluster: &Cluster, addr: SocketAddr, name: &str) -> hadal_quic::QuicConn {
    endpoint(&cluster.identity(Role::Client, name), false)
        .connect(addr, &Expect::role(Role::Namenode))
        .await
        .unwrap()
}

/// One hand-shake that never goes on does not hold the next.
#[tokio::test]
async fn a_slow_handshake_does_not_hold_the_next() {
    let cluster = Cluster::new();
    let flight = first_flight(&cluster).await;
    let listening = endpoint(&cluster.identity(Role::Namenode, "nn1"), true);
    let silent = socket();
    silent.send_to(&flight, listening.local_addr()).unwrap();
    while listening.half_open() == 0 {
        tokio::task::yield_now().await;
    }
    let conns = join_all((0..16).map(|n| {
        let cluster = &cluster;
        let addr = listening.local_addr();
        async move { connects(cluster, addr, &format!("user{n}")).await }
    }));
    let accepting = async {
        let mut peers = Vec::new();
        for _ in 0..16 {
            peers.push(listening.accept().await.unwrap().peer().name.clone());
        }
        peers
    };
    let (_conns, mut peers) = futures_util::join!(conns, accepting);
    assert_eq!(listening.half_open(), 1);
    peers.sort();
    peers.dedup();
    assert_eq!(peers.len(), 16);
}

/// T-A3: a recorded first flight, replayed, executes nothing. T-A6: above the threshold unproven addresses
/// are asked to prove themselves, honest peers do and get in.
#[tokio::test]
async fn t_a3_t_a6_replayed_first_flights_do_nothing_and_hold_nobody_up() {
    let cluster = Cluster::new();
    let flight = first_flight(&cluster).await;
    let options = TransportOptions {
        retry_above: 4,
        refuse_above: 8,
        ..patient()
    };
    let listening = endpoint_with(&cluster.identity(Role::Namenode, "nn1"), true, &options);
    // From the same address it is one hand-shake; from others one each, up to the threshold.
    for round in 0..20 {
        let replayer = socket();
        for _ in 0..50 {
            replayer.send_to(&flight, listening.local_addr()).unwrap();
        }
        while round == 0 && listening.half_open() == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(listening.half_open() <= options.retry_above);
    }
    let honest = connects(&cluster, listening.local_addr(), "bob").await;
    let accepted = listening.accept().await.unwrap();
    assert_eq!(accepted.peer().name, "bob");
    drop(honest);
}

#[tokio::test]
async fn address_validation_lets_honest_peers_in() {
    let cluster = Cluster::new();
    let options = TransportOptions {
        retry_above: 0,
        ..patient()
    };
    let listening = endpoint_with(&cluster.identity(Role::Namenode, "nn1"), true, &options);
    let _conn = connects(&cluster, listening.local_addr(), "bob").await;
    assert_eq!(listening.accept().await.unwrap().peer().name, "bob");
}

#[tokio::test]
async fn an_endpoint_without_room_refuses() {
    let cluster = Cluster::new();
    let options = TransportOptions {
        refuse_above: 0,
        ..patient()
    };
    let listening = endpoint_with(&cluster.identity(Role::Namenode, "nn1"), true, &options);
    let dialling = endpoint(&cluster.identity(Role::Client, "bob"), false);
    let refused = dialling
        .connect(listening.local_addr(), &Expect::role(Role::Namenode))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, NetErrorKind::Unreachable);
}

#[tokio::test]
async fn nobody_there_is_unreachable_in_bounded_time() {
    let cluster = Cluster::new();
    let options = TransportOptions {
        handshake_timeout_ms: 50,
        ..patient()
    };
    let dialling = endpoint_with(&cluster.identity(Role::Client, "bob"), false, &options);
    let mute = socket();
    let error = dialling
        .connect(mute.local_addr().unwrap(), &Expect::role(Role::Namenode))
        .await
        .unwrap_err();
    assert_eq!(error.kind, NetErrorKind::Unreachable);
    assert!(error.detail.contains("namenode at 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn noise_on_the_port_is_ignored() {
    let cluster = Cluster::new();
    let listening = endpoint(&cluster.identity(Role::Namenode, "nn1"), true);
    let noisy = socket();
    for length in [0, 1, 20, 1200, 9000] {
        for fill in [0u8, 0x40, 0xc0, 0xff] {
            noisy
                .send_to(&vec![fill; length], listening.local_addr())
                .unwrap();
        }
    }
    let _conn = connects(&cluster, listening.local_addr(), "bob").await;
    assert_eq!(listening.accept().await.unwrap().peer().name, "bob");
}

#[tokio::test]
async fn closing_an_endpoint_ends_its_connections_and_its_listening() {
    let cluster = Cluster::new();
    let listening = endpoint(&cluster.identity(Role::Namenode, "nn1"), true);
    let conn = connects(&cluster, listening.local_addr(), "bob").await;
    let accepted = listening.accept().await.unwrap();
    listening.close(3, "node stops");
    assert!(listening.accept().await.is_none());
    let ended = conn.closed().await;
    assert_eq!(ended.kind, NetErrorKind::Closed);
    assert!(ended.detail.contains("node stops"), "{ended}");
    assert!(accepted.is_closed() && conn.is_closed());
    assert!(conn.open().await.is_err());
    listening.wait_idle().await;
}

#[tokio::test]
async fn a_connection_outlives_its_endpoint_and_ends_with_its_last_clone() {
    let cluster = Cluster::new();
    let listening = endpoint(&cluster.identity(Role::Namenode, "nn1"), true);
    let conn = connects(&cluster, listening.local_addr(), "bob").await;
    let accepted = listening.accept().await.unwrap();
    drop(listening);
    let (client, driver) = hadal_quic::CallClient::<Echo>::open(&conn).await.unwrap();
    let driver = tokio::spawn(driver);
    let serve = async {
        let Incoming::Call(Echo::ID, stream) = accept(&accepted).await.unwrap() else {
            panic!("expected calls")
        };
        let (mut requests, driver) = stream.split::<Echo>();
        tokio::spawn(driver);
        let (request, responder) = requests.next().await.unwrap();
        responder.answer(Ok(request));
        requests
    };
    let request = Bytes::from_static(b"still here");
    let (answer, requests) = futures_util::join!(client.call(&request), serve);
    assert_eq!(answer.unwrap(), request);
    drop((conn, client, requests));
    driver.await.unwrap();
    assert_eq!(accepted.closed().await.kind, NetErrorKind::Closed);
}

#[tokio::test]
async fn options_out_of_range_are_refused_by_name() {
    let cluster = Cluster::new();
    let identity = cluster.identity(Role::Namenode, "nn1");
    let defaults = TransportOptions::default;
    for (bad, name) in [
        (
            TransportOptions {
                mtu: Some(1000),
                ..defaults()
            },
            "mtu",
        ),
        (
            TransportOptions {
                stream_window: 1,
                ..defaults()
            },
            "stream_window",
        ),
        (
            TransportOptions {
                connection_window: 1,
                ..defaults()
            },
            "connection_window",
        ),
        (
            TransportOptions {
                keep_alive_ms: 20_000,
                ..defaults()
            },
            "keep_alive_ms",
        ),
        (
            TransportOptions {
                handshake_timeout_ms: 0,
                ..defaults()
            },
            "handshake_timeout_ms",
        ),
        (
            TransportOptions {
                backlog: 0,
                ..defaults()
            },
            "backlog",
        ),
    ] {
        let refused = hadal_quic::QuicNet::new(
            socket(),
            std::sync::Arc::new(quinn::TokioRuntime),
            &identity,
            &bad,
            true,
        );
        let Err(TransportError::Option { option, .. }) = refused else {
            panic!("{name} must be refused")
        };
        assert_eq!(option, name);
    }
}

/// A process is killed and another one takes its port: its peers learn of it from the newcomer at once, not from a
/// time-out; one with another key cannot end their connections.
#[tokio::test]
async fn peers_of_a_killed_process_learn_of_it_from_its_successor() {
    let cluster = Cluster::new();
    let identity = cluster.identity(Role::Namenode, "nn1");
    // Keep-alives are what an idle peer sends; nothing times out.
    let options = TransportOptions {
        keep_alive_ms: 50,
        ..patient()
    };
    let dialling = endpoint_with(&cluster.identity(Role::Client, "me"), false, &options);
    let port = socket();
    let address = port.local_addr().unwrap();
    let process = |socket: std::net::UdpSocket, identity: Identity, options: TransportOptions| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (kill, killed) = futures_util::future::abortable(std::future::pending::<()>());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let running = async {
                let runtime = Arc::new(quinn::TokioRuntime);
                let net = QuicNet::new(socket, runtime, &identity, &options, true).unwrap();
                ready.send(()).unwrap();
                let mut conns = Vec::new();
                let accepting = async {
                    while let Some(conn) = net.accept().await {
                        conns.push(conn);
                    }
                };
                let _ = futures_util::future::select(pin!(accepting), pin!(kill)).await;
                (net, conns)
            };
            let dead = runtime.block_on(running);
            // In this order not a word leaves, as after SIGKILL.
            drop(runtime);
            drop(dead);
        });
        is_ready.recv().unwrap();
        (killed, thread)
    };
    // The socket is handed on, so that nobody else gets the port in between.
    let again = || port.try_clone().unwrap();
    let (kill, thread) = process(again(), identity.clone(), options.clone());
    let conn = connects_to(&dialling, address).await;
    kill.abort();
    thread.join().unwrap();
    // Somebody else on the port says nothing the peer would believe.
    let stranger = cluster.identity(Role::Namenode, "nn2");
    let (kill, thread) = process(again(), stranger, options.clone());
    let told = tokio::time::timeout(Duration::from_millis(300), conn.closed()).await;
    assert!(told.is_err(), "{told:?}");
    kill.abort();
    thread.join().unwrap();
    let (kill, thread) = process(again(), identity, options);
    let error = conn.closed().await;
    assert_eq!(error.kind, NetErrorKind::Lost);
    assert!(error.detail.contains("the peer restarted"), "{error}");
    kill.abort();
    thread.join().unwrap();
}

async fn connects_to(dialling: &QuicNet, address: SocketAddr) -> hadal_quic::QuicConn {
    let expect = Expect::node(Role::Namenode, "nn1");
    dialling.connect(address, &expect).await.unwrap()
}
