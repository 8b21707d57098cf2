//! What the network promises and what it may do.

use super::NetConfig;
use crate::world::on;
use crate::{Crash, NodeId, SimConn, SimEnv, SimRecv, SimSend, World, WorldConfig};
use bytes::Bytes;
use hadal_env::{Clock, Conn, Env, Expect, Net, NetErrorKind, RecvStream, Seam, SendStream};
use hadal_types::Role;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 8485))
}

/// A server that sends back what it gets, on every stream.
async fn echo(env: SimEnv) {
    while let Some(conn) = env.net().accept().await {
        let env2 = env.clone();
        env.spawn("conn", async move {
            while let Ok((mut send, mut recv)) = conn.accept().await {
                env2.spawn("stream", async move {
                    while let Ok(Some(chunk)) = recv.read_chunk(1000).await {
                        if send.write_chunk(chunk).await.is_err() {
                            return;
                        }
                    }
                    send.finish();
                    // The halves stay until the peer has read all.
                    std::future::pending::<()>().await;
                });
            }
        });
    }
}

fn world(seed: u64) -> (World, NodeId, NodeId) {
    let world = World::new(seed);
    let server = world.add_node("jn1", Role::Journalnode, addr(1), |env| Box::pin(echo(env)));
    let client = world.add_client("user");
    (world, server, client)
}

async fn dial(env: &SimEnv) -> SimConn {
    env.net()
        .connect(addr(1), &Expect::node(Role::Journalnode, "jn1"))
        .await
        .expect("a connection")
}

async fn read(recv: &mut SimRecv, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend_from_slice(
            &recv
                .read_chunk(count - all.len())
                .await
                .expect("bytes")
                .expect("not the end"),
        );
    }
    all
}

async fn ping(send: &mut SimSend, recv: &mut SimRecv) {
    send.write_chunk(Bytes::from_static(b"ping"))
        .await
        .expect("written");
    assert_eq!(read(recv, 4).await, b"ping");
}

#[test]
fn streams_are_ordered_and_end() {
    let (world, _, client) = world(1);
    on(&world, client, |env| async move {
        let conn = dial(&env).await;
        assert_eq!(conn.peer().name, "jn1");
        assert_eq!(conn.remote_addr(), addr(1));
        let (mut send, mut recv) = conn.open().await.expect("a stream");
        let sent: Vec<u8> = (0..50_000u32).map(|number| number as u8).collect();
        let mut chunks: Vec<Bytes> = sent.chunks(777).map(Bytes::copy_from_slice).collect();
        send.write_chunks(&mut chunks).await.expect("written");
        assert!(chunks.iter().all(Bytes::is_empty), "slots are emptied");
        send.finish();
        assert_eq!(read(&mut recv, sent.len()).await, sent);
        assert_eq!(recv.read_chunk(1).await, Ok(None));
        assert!(
            send.write_chunk(Bytes::from_static(b"x")).await.is_err(),
            "finished"
        );
    });
}

#[test]
fn the_expected_peer_is_checked() {
    let (world, server, client) = world(2);
    on(&world, client, move |env| async move {
        for expect in [
            Expect::role(Role::Namenode),
            Expect::node(Role::Journalnode, "jn2"),
        ] {
            let error = env
                .net()
                .connect(addr(1), &expect)
                .await
                .expect_err("another peer");
            assert_eq!(error.kind, NetErrorKind::Untrusted, "{error}");
        }
        env.net()
            .connect(addr(1), &Expect::role(Role::Journalnode))
            .await
            .expect("the role is enough");
        env.world().distrust(server, true);
        let error = env
            .net()
            .connect(addr(1), &Expect::role(Role::Journalnode))
            .await
            .expect_err("revoked");
        assert_eq!(error.kind, NetErrorKind::Untrusted);
        let error = env
            .net()
            .connect(addr(9), &Expect::role(Role::Journalnode))
            .await
            .expect_err("nobody there");
        assert_eq!(error.kind, NetErrorKind::Unreachable);
    });
}

#[test]
fn writers_wait_for_credit() {
    let mut config = WorldConfig::new(3);
    config.net = NetConfig {
        stream_window: 10_000,
        ..NetConfig::default()
    };
    let world = World::with_config(config);
    let conns: Rc<RefCell<Vec<SimConn>>> = Rc::default();
    let kept = Rc::clone(&conns);
    let server = world.add_node("jn1", Role::Journalnode, addr(1), move |env| {
        let kept = Rc::clone(&kept);
        Box::pin(async move {
            while let Some(conn) = env.net().accept().await {
                kept.borrow_mut().push(conn);
            }
        })
    });
    let client = world.add_client("user");
    let written = Rc::new(Cell::new(0));
    let counter = Rc::clone(&written);
    let env = world.env_of(client);
    world.spawn_on(client, "writer", async move {
        let conn = dial(&env).await;
        let (mut send, _recv) = conn.open().await.expect("a stream");
        loop {
            send.write_chunk(Bytes::from(vec![0; 3000]))
                .await
                .expect("written");
            assert!(send.in_flight() <= 10_000);
            counter.set(counter.get() + 3000);
        }
    });
    world.run_for(Duration::from_secs(2));
    assert_eq!(written.get(), 9000, "the fourth chunk does not fit");
    let conn = conns.borrow().first().expect("accepted").clone();
    let handle = world.handle();
    let _halves = world.block_on(server, async move {
        let (send, mut recv) = conn.accept().await.expect("a stream");
        read(&mut recv, 5000).await;
        handle.sleep(Duration::from_secs(1)).await;
        (send, recv)
    });
    assert_eq!(written.get(), 15_000, "credit for 5 000 bytes came back");
}

#[test]
fn a_cut_holds_messages_and_longer_ends_the_connection() {
    let (world, server, client) = world(4);
    on(&world, client, move |env| async move {
        let conn = dial(&env).await;
        let (mut send, mut recv) = conn.open().await.expect("a stream");
        ping(&mut send, &mut recv).await;
        env.world().cut(server, client);
        let handle = env.world();
        env.world()
            .at(Duration::from_secs(2), move |_| handle.heal());
        let before = env.now();
        ping(&mut send, &mut recv).await;
        assert!(
            env.now().since(before) >= Duration::from_secs(2),
            "nothing passes a cut"
        );
        assert!(!conn.is_closed(), "two seconds are below the idle time-out");
        env.world().cut(server, client);
        let before = env.now();
        assert_eq!(conn.closed().await.kind, NetErrorKind::Lost);
        assert_eq!(env.now().since(before).as_secs(), 5, "the idle time-out");
        let error = recv.read_chunk(10).await.expect_err("lost");
        assert_eq!(error.kind, NetErrorKind::Lost);
        let error = env
            .net()
            .connect(addr(1), &Expect::role(Role::Journalnode))
            .await
            .expect_err("cut");
        assert_eq!(error.kind, NetErrorKind::Unreachable);
    });
}

#[test]
fn partitions_cut_what_they_say() {
    let world = World::new(5);
    let nodes: Vec<NodeId> = (1..=4)
        .map(|host| {
            world.add_node(&format!("n{host}"), Role::Datanode, addr(host), |env| {
                Box::pin(echo(env))
            })
        })
        .collect();
    let links = |world: &World| -> String {
        let pairs = nodes
            .iter()
            .flat_map(|a| nodes.iter().map(move |b| (*a, *b)));
        pairs
            .map(|(a, b)| if world.is_cut(a, b) { 'x' } else { '.' })
            .collect()
    };
    world.isolate(nodes[0]);
    assert_eq!(links(&world), ".xxxx...x...x...");
    world.heal();
    world.split(&nodes[..2]);
    assert_eq!(links(&world), "..xx..xxxx..xx..");
    world.heal();
    world.cut(nodes[0], nodes[1]);
    assert_eq!(links(&world), ".x..x...........");
    world.heal_between(nodes[0], nodes[1]);
    world.cut_one_way(nodes[2], nodes[3]);
    assert_eq!(links(&world), "...........x....");
    world.heal();
    assert_eq!(links(&world), "................");
}

/// One way cut: the side that hears nothing gives up first; the other after a further time-out.
#[test]
fn a_one_way_cut_ends_the_deaf_side_first() {
    let (world, server, client) = world(6);
    on(&world, client, move |env| async move {
        let conn = dial(&env).await;
        let (mut send, mut recv) = conn.open().await.expect("a stream");
        ping(&mut send, &mut recv).await;
        env.world().cut_one_way(client, server);
        let before = env.now();
        assert_eq!(conn.closed().await.kind, NetErrorKind::Lost);
        assert_eq!(
            env.now().since(before).as_secs(),
            10,
            "heard the server until the server gave up"
        );
    });
}

#[test]
fn a_crashed_peer_is_lost_at_once_or_by_time_out() {
    let (mut at_once, mut late) = (0, 0);
    for seed in 0..20 {
        let (world, server, client) = world(seed);
        let waited = on(&world, client, move |env| async move {
            let conn = dial(&env).await;
            env.world().crash(server, Crash::Power);
            let before = env.now();
            assert_eq!(conn.closed().await.kind, NetErrorKind::Lost);
            env.now().since(before)
        });
        if waited < Duration::from_millis(100) {
            at_once += 1
        } else {
            late += 1
        }
    }
    assert!(at_once > 0 && late > 0, "{at_once} at once, {late} late");
    // A restarted peer does not know the connection.
    for seed in 0..20 {
        let (world, server, client) = world(seed);
        on(&world, client, move |env| async move {
            let conn = dial(&env).await;
            env.world().crash(server, Crash::Process);
            env.world().restart(server);
            let before = env.now();
            assert_eq!(conn.closed().await.kind, NetErrorKind::Lost);
            assert!(env.now().since(before) <= Duration::from_secs(1));
            let (mut send, mut recv) = dial(&env).await.open().await.expect("a stream");
            ping(&mut send, &mut recv).await;
        });
    }
}

#[test]
fn a_paused_peer_is_not_heard() {
    let (world, server, client) = world(7);
    on(&world, client, move |env| async move {
        let conn = dial(&env).await;
        env.world().pause(server);
        assert_eq!(conn.closed().await.kind, NetErrorKind::Lost);
        env.world().resume(server);
        let (mut send, mut recv) = dial(&env).await.open().await.expect("a stream");
        ping(&mut send, &mut recv).await;
    });
}

#[test]
fn resets_stops_and_closes_reach_the_peer() {
    let world = World::new(8);
    world.add_node("jn1", Role::Journalnode, addr(1), |env| {
        Box::pin(async move {
            let conn = env.net().accept().await.expect("a connection");
            let (mut send, mut recv) = conn.accept().await.expect("a stream");
            assert_eq!(
                recv.read_chunk(10).await.expect("bytes"),
                Some(Bytes::from_static(b"a"))
            );
            assert_eq!(
                recv.read_chunk(10).await.expect_err("reset").kind,
                NetErrorKind::Reset(7)
            );
            send.reset(9);
            let (_send, mut recv) = conn.accept().await.expect("a stream");
            recv.stop(11);
            assert_eq!(conn.closed().await.kind, NetErrorKind::Closed);
            env.world().count("seen", 1);
        })
    });
    let client = world.add_client("user");
    on(&world, client, |env| async move {
        let conn = dial(&env).await;
        let (mut send, mut recv) = conn.open().await.expect("a stream");
        send.write_chunk(Bytes::from_static(b"a"))
            .await
            .expect("written");
        env.world().sleep(Duration::from_millis(100)).await;
        send.reset(7);
        assert_eq!(
            recv.read_chunk(10).await.expect_err("reset").kind,
            NetErrorKind::Reset(9)
        );
        let (mut send, _recv) = conn.open().await.expect("a stream");
        let stopped = loop {
            match send.write_chunk(Bytes::from_static(b"b")).await {
                Ok(()) => env.world().sleep(Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(stopped.kind, NetErrorKind::Reset(11));
        conn.close(3, "done");
        assert_eq!(conn.closed().await.kind, NetErrorKind::Closed);
    });
    assert!(world.run_until(Duration::from_secs(1), || world.counters().get("seen") == 1));
}

/// As in QUIC: a stream shows with its first frame, and with it all opened before it.
#[test]
fn streams_show_once_written_and_bring_older_ones_along() {
    let world = World::new(9);
    world.add_node("jn1", Role::Journalnode, addr(1), |env| {
        Box::pin(async move {
            let conn = env.net().accept().await.expect("a connection");
            let mut held = Vec::new();
            loop {
                held.push(conn.accept().await.expect("a stream"));
                env.world().count("streams", 1);
            }
        })
    });
    let client = world.add_client("user");
    on(&world, client, |env| async move {
        let conn = dial(&env).await;
        let _first = conn.open().await.expect("a stream");
        let mut second = conn.open().await.expect("a stream");
        env.world().sleep(Duration::from_secs(1)).await;
        assert_eq!(env.world().counters().get("streams"), 0);
        second
            .0
            .write_chunk(Bytes::from_static(b"x"))
            .await
            .expect("written");
        env.world().sleep(Duration::from_secs(1)).await;
        assert_eq!(env.world().counters().get("streams"), 2);
    });
}

#[test]
fn open_streams_are_bounded() {
    let mut config = WorldConfig::new(10);
    config.net = NetConfig {
        streams_per_side: 2,
        ..NetConfig::default()
    };
    let world = World::with_config(config);
    world.add_node("jn1", Role::Journalnode, addr(1), |env| {
        Box::pin(async move {
            let conn = env.net().accept().await.expect("a connection");
            while let Ok((mut send, mut recv)) = conn.accept().await {
                while let Ok(Some(_)) = recv.read_chunk(10).await {}
                send.finish();
            }
        })
    });
    let client = world.add_client("user");
    let opened = Rc::new(Cell::new(0));
    let counter = Rc::clone(&opened);
    on(&world, client, move |env| async move {
        let conn = dial(&env).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(conn.open().await.expect("a stream"));
        }
        let (env2, conn2) = (env.clone(), conn.clone());
        env.spawn("third", async move {
            let _third = conn2.open().await.expect("a stream");
            counter.set(3);
            env2.world().sleep(Duration::from_secs(9)).await;
        });
        env.world().sleep(Duration::from_secs(1)).await;
        assert_eq!(opened.get(), 0, "the third waits");
        held.clear();
        env.world().sleep(Duration::from_secs(1)).await;
        assert_eq!(opened.get(), 3, "the third goes on");
    });
}

#[test]
fn a_dropped_connection_closes_and_an_address_can_move() {
    let (world, server, client) = world(11);
    on(&world, client, move |env| async move {
        let conn = dial(&env).await;
        env.world().move_endpoint(server, 0, addr(77));
        assert_eq!(conn.remote_addr(), addr(77));
        let (mut send, mut recv) = conn.open().await.expect("a stream");
        drop(conn);
        ping(&mut send, &mut recv).await;
    });
    assert!(
        world.run_until(Duration::from_secs(5), || world.task_count() <= 2),
        "the server's tasks ended with the connection"
    );
}
