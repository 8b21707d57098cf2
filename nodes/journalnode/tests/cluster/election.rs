//! The active lease over the wire: the grantor behind the JournalNode's own serve code, beside its acceptor.

use crate::namenode::info;
use crate::{Cluster, workload};
use hadal_env::{Clock, Env, Expect, Net, Seam};
use hadal_proto::FaultClass;
use hadal_proto::election::{
    ActiveView, Call, ElectionProtocol, LeaseRequest, Refusal, Request, Response,
};
use hadal_quic::{CallClient, CallError};
use hadal_types::{Epoch, Role};
use sim::{Crash, NodeId, SimEnv};
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::time::Duration;

const TTL: u32 = 600;

/// Somebody who asks JournalNodes about the active role.
struct Asker {
    env: SimEnv,
    addresses: Vec<(String, SocketAddr)>,
    seq: u64,
}

impl Asker {
    async fn ask(&self, jn: usize, call: Call) -> Result<Response, FaultClass> {
        let (name, address) = &self.addresses[jn];
        let expect = Expect::node(Role::Journalnode, name.clone());
        let conn = self.env.net().connect(*address, &expect).await;
        let conn = conn.expect("connects");
        let (client, driver) = CallClient::<ElectionProtocol>::open(&conn)
            .await
            .expect("opens");
        self.env.spawn("test calls", async move {
            driver.await;
        });
        let request = Request {
            namespace_id: info().namespace_id,
            call,
        };
        match client.call(&request).await {
            Ok(response) => Ok(response),
            Err(CallError::Fault(fault)) => Err(fault.class),
            Err(error) => panic!("{error}"),
        }
    }

    async fn lease(&mut self, jn: usize, epoch: u64, last: u64) -> Result<(), Refusal> {
        self.seq += 1;
        let lease = LeaseRequest {
            term: 1,
            seq: self.seq,
            ttl_ms: TTL,
            epoch: Epoch(epoch),
            last_epoch: Epoch(last),
            serving: epoch > 0,
        };
        match self.ask(jn, Call::Lease { lease }).await {
            Ok(Response::Granted { .. }) => Ok(()),
            Ok(Response::Refused { refusal, .. }) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    async fn view(&self, jn: usize) -> ActiveView {
        match self.ask(jn, Call::Ask).await {
            Ok(Response::View { view }) => view,
            other => panic!("{other:?}"),
        }
    }

    async fn wait(&self, ms: u64) {
        self.env.sleep_until(self.env.now().after_ms(ms)).await;
    }
}

impl Cluster {
    fn member(&self, name: &str, role: Role) -> NodeId {
        let last = name.bytes().last().expect("a name");
        let address = SocketAddr::from(([10, 0, 2, last], 8020));
        self.world
            .add_node(name, role, address, |_| Box::pin(pending()))
    }

    fn asking<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        node: NodeId,
        scenario: impl FnOnce(Asker) -> F + 'static,
    ) -> T {
        let env = self.world.env_of(node);
        // A later one of the same name goes on counting.
        let seq = env.now().as_ms();
        let addresses = self.addresses.clone();
        self.world.block_on(node, async move {
            scenario(Asker {
                env,
                addresses,
                seq,
            })
            .await
        })
    }
}

/// One lease per JournalNode, told to everybody who asks; a renewal below the acceptor's promise is refused.
#[test]
fn leases_are_granted_beside_real_promises() {
    let cluster = Cluster::formatted(41);
    let nn2 = cluster.member("nn2", Role::Namenode);
    let client = cluster.member("ada", Role::Client);
    cluster.world.run_for(Duration::from_millis(u64::from(TTL)));
    cluster.asking(cluster.namenode, |mut nn1| async move {
        for jn in 0..3 {
            assert_eq!(nn1.lease(jn, 1, 0).await, Ok(()));
        }
    });
    cluster.asking(nn2, |mut nn2| async move {
        for jn in 0..3 {
            assert_eq!(nn2.lease(jn, 0, 0).await, Err(Refusal::Held));
        }
    });
    cluster.asking(client, |client| async move {
        let view = client.view(1).await;
        assert_eq!((view.holder.as_str(), view.serving), ("nn1", true));
        assert!(view.left_ms <= TTL && view.left_ms > 0);
        let release = Call::Release { term: 1, seq: 1 };
        assert_eq!(client.ask(1, release).await, Err(FaultClass::Forbidden));
    });
    // The claim promises epoch 1, a second one epoch 2.
    cluster.run(41, workload);
    cluster.run(42, workload);
    cluster.asking(cluster.namenode, |mut nn1| async move {
        let view = nn1.view(0).await;
        assert_eq!(view.promised, Epoch(2));
        assert_eq!(nn1.lease(0, 1, 0).await, Err(Refusal::BelowPromise));
        assert_eq!(nn1.lease(0, 2, 0).await, Ok(()));
    });
}

/// T-A13 over the wire: a JournalNode that comes back grants nothing for a ttl, then the owner of the last epoch, then
/// anyone.
#[test]
fn t_a13_a_restarted_journalnode_is_silent_then_asks_the_owner_first() {
    let cluster = Cluster::formatted(43);
    let nn2 = cluster.member("nn2", Role::Namenode);
    cluster.run(43, workload);
    cluster.restart(0, Crash::Power);
    // Long enough for its peers to confirm its count, not for the silence.
    cluster.world.run_for(Duration::from_millis(300));
    cluster.asking(nn2, |mut nn2| async move {
        assert_eq!(nn2.lease(0, 0, 0).await, Err(Refusal::Silence));
        let view = nn2.view(0).await;
        assert_eq!(view.promised, Epoch(1));
        assert!(view.free_in_ms > 0 && view.free_in_ms < TTL);
        nn2.wait(u64::from(view.free_in_ms)).await;
        assert_eq!(nn2.lease(0, 0, 0).await, Err(Refusal::OwnerFirst));
    });
    cluster.asking(cluster.namenode, |mut nn1| async move {
        assert_eq!(nn1.lease(0, 0, 1).await, Ok(()));
    });
    cluster
        .world
        .run_for(Duration::from_millis(2 * u64::from(TTL)));
    cluster.asking(nn2, |mut nn2| async move {
        assert_eq!(nn2.lease(0, 0, 0).await, Ok(()));
    });
}

/// A node that may have forgotten promises grants nothing, but says what it knows.
#[test]
fn learners_grant_nothing() {
    let cluster = Cluster::formatted(44);
    let image = cluster.world.disk_of(cluster.journalnodes[2]).image();
    cluster.run(44, workload);
    cluster.world.run_for(Duration::from_secs(3));
    cluster.world.crash(cluster.journalnodes[2], Crash::Process);
    cluster
        .world
        .disk_of(cluster.journalnodes[2])
        .put_back(&image);
    cluster.world.restart(cluster.journalnodes[2]);
    cluster.world.run_for(Duration::from_secs(5));
    cluster.asking(cluster.namenode, |mut nn1| async move {
        assert_eq!(nn1.lease(0, 0, 1).await, Ok(()));
        let lease = LeaseRequest {
            term: 1,
            seq: 1 << 40,
            ttl_ms: TTL,
            epoch: Epoch(0),
            last_epoch: Epoch(1),
            serving: false,
        };
        let refused = nn1.ask(2, Call::Lease { lease }).await;
        assert_eq!(refused, Err(FaultClass::Learner));
        assert_eq!(nn1.view(2).await.holder, "");
    });
}
