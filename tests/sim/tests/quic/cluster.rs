//! The real daemons and the real client over QUIC: one world, one small cluster, its datagrams treated badly.

use crate::paths::{bad, identity};
use hadal_client::{ClientOptions, CreateOptions, DistributedFileSystem};
use hadal_env::Clock;
use hadal_quic::{ClusterCa, TransportOptions, Validity};
use hadal_types::Role;
use sim::daemons::{
    SUPERUSER, await_datanodes, datanode_address, datanode_name, datanode_of_one,
    journalnode_address, journalnode_name, namenode_address, namenode_name, only_journalnode,
    only_namenode,
};
use sim::quic::{Datagrams, QuicEnv};
use sim::{Crash, NodeId, SimEnv, World};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

const DATANODES: usize = 4;

/// Adds a daemon that listens on QUIC.
fn add<F: Future<Output = ()> + 'static>(
    world: &World,
    net: &Datagrams,
    ca: &ClusterCa,
    (role, name, addr): (Role, &str, SocketAddr),
    run: impl Fn(QuicEnv) -> F + 'static,
) -> NodeId {
    let (net, who) = (net.clone(), identity(ca, role, name));
    world.add_node(name, role, addr, move |env: SimEnv| {
        let options = TransportOptions::default();
        let env = net.env(&env, addr, &who, &options, true).expect("it binds");
        Box::pin(run(env))
    })
}

/// S12, whole cluster: a file is written over a bad network while a DataNode and then the NameNode are killed and started
/// again; what was flushed and closed is read back byte for byte.
#[test]
fn s12_a_cluster_keeps_its_promises_over_quic() {
    let world = World::new(23);
    let net = Datagrams::new(&world);
    let (ca, _) = ClusterCa::generate("simulated", Validity::days(30)).expect("a CA");
    let (name, addr) = (journalnode_name(0), journalnode_address(0));
    let jn = (Role::Journalnode, &*name, addr);
    add(&world, &net, &ca, jn, only_journalnode);
    let (name, addr) = (namenode_name(0), namenode_address(0));
    let nn = (Role::Namenode, &*name, addr);
    let nn = add(&world, &net, &ca, nn, |env| only_namenode(env, 64 << 10));
    let datanodes: Vec<NodeId> = (0..DATANODES)
        .map(|index| {
            let name = datanode_name(index);
            let dn = (Role::Datanode, &*name, datanode_address(index));
            add(&world, &net, &ca, dn, move |env| {
                datanode_of_one(env, index)
            })
        })
        .collect();
    let client = world.add_client(SUPERUSER);
    let who = identity(&ca, Role::Client, SUPERUSER);
    let addr = SocketAddr::from(([10, 0, 3, 1], 40_000));
    let options = TransportOptions::default();
    let env = net
        .env(&world.env_of(client), addr, &who, &options, false)
        .expect("it binds");
    let mut options = ClientOptions::new([(namenode_name(0), namenode_address(0))]);
    options.packet_bytes = 8 << 10;
    let (dfs, background) = DistributedFileSystem::new(env.clone(), options);
    world.spawn_on(client, "background", background.run());
    net.set_faults(bad());
    let handle = world.handle();
    let content: Rc<Vec<u8>> = Rc::new((0..300_000u32).map(|at| (at ^ (at >> 7)) as u8).collect());
    world.block_on(client, async move {
        let three = CreateOptions {
            replication: Some(3),
            ..CreateOptions::default()
        };
        let wait = |ms| env.sleep_until(env.now().after_ms(ms));
        await_datanodes(&env, &dfs, DATANODES).await;
        let mut file = dfs.create("/f", &three).await.expect("made");
        for (n, part) in content.chunks(30_000).enumerate() {
            file.write_all(part).await.expect("written");
            if n == 3 {
                file.hflush().await.expect("flushed");
                handle.crash(datanodes[0], Crash::Process);
            }
            if n == 6 {
                handle.restart(datanodes[0]);
                handle.crash(nn, Crash::Process);
                wait(200).await;
                handle.restart(nn);
            }
        }
        file.close().await.expect("closed");
        let mut file = dfs.open("/f").await.expect("it opens");
        let read = file.read_to_end().await.expect("it is read");
        assert!(
            read == *content,
            "{} bytes of {}",
            read.len(),
            content.len()
        );
    });
    let counters = net.counters();
    assert!(counters.lost > 50 && counters.overtook > 50, "{counters:?}");
}
