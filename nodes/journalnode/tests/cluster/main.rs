//! Three JournalNodes, the real driver over the real store, in the simulated world.
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod election;
mod namenode;

use hadal_env::Env;
use hadal_journalnode::{EXIT_DISK_FAILED, JournalnodeConfig, RunError};
use hadal_proto::FaultClass;
use hadal_proto::qjournal::{Call, Response, Standing};
use hadal_qjournal::reader::Until;
use hadal_types::{Role, TxId};
use namenode::{Namenode, info};
use sim::{Crash, DiskFault, NodeId, NodeSpec, SimEnv, Status, World};
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::time::Duration;

struct Cluster {
    world: World,
    journalnodes: Vec<NodeId>,
    namenode: NodeId,
    addresses: Vec<(String, SocketAddr)>,
}

fn addresses() -> Vec<(String, SocketAddr)> {
    (0..3)
        .map(|jn| {
            (
                format!("jn{jn}"),
                SocketAddr::from(([10, 0, 0, jn + 1], 8485)),
            )
        })
        .collect()
}

async fn journalnode(env: SimEnv, jn: usize) {
    let mut peers = addresses();
    let (name, _) = peers.remove(jn);
    let config = JournalnodeConfig::new(name, "/data".into(), peers);
    if let Err(error) = hadal_journalnode::run(env.clone(), config).await {
        env.stop(1, &error.to_string());
    }
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let mut journalnodes = Vec::new();
        for (jn, (name, address)) in addresses().into_iter().enumerate() {
            let start = move |env| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
                Box::pin(journalnode(env, jn))
            };
            journalnodes.push(world.add_node(&name, Role::Journalnode, address, start));
        }
        let address = SocketAddr::from(([10, 0, 1, 1], 8020));
        let namenode = world.add_node("nn1", Role::Namenode, address, |_| Box::pin(pending()));
        Self {
            world,
            journalnodes,
            namenode,
            addresses: addresses(),
        }
    }

    fn formatted(seed: u64) -> Self {
        let cluster = Self::new(seed);
        cluster.run(seed, |mut nn| async move {
            for jn in 0..3 {
                let call = Call::Format {
                    info: info(),
                    initial: true,
                    force: false,
                };
                nn.call(jn, call).await.expect("formats");
            }
        });
        cluster
    }

    /// Runs a scenario on the NameNode's machine.
    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        seed: u64,
        scenario: impl FnOnce(Namenode) -> F + 'static,
    ) -> T {
        let env = self.world.env_of(self.namenode);
        let addresses = self.addresses.clone();
        self.world.block_on(self.namenode, async move {
            scenario(Namenode::new(env, addresses, seed).await).await
        })
    }

    fn restart(&self, jn: usize, crash: Crash) {
        self.world.crash(self.journalnodes[jn], crash);
        self.world.restart(self.journalnodes[jn]);
    }
}

async fn claimed(nn: &mut Namenode) -> u64 {
    // A node that has just started waits for its peers first; one that promised a dead claim is claimed above.
    for _ in 0..3 {
        if let Ok(end) = nn.claim().await {
            let (ops, _) = nn.read(Until::End(end)).await.expect("readable");
            for (n, op) in ops.iter().enumerate() {
                let wanted = format!("edit {} ", n + 1);
                assert!(
                    op.starts_with(wanted.as_bytes()),
                    "edit {} is another",
                    n + 1
                );
            }
            assert_eq!(ops.len() as u64, end.txid.0);
            return end.txid.0;
        }
    }
    panic!("no claim got through: {:?}", nn.claim().await);
}

/// T-Q1, T-Q15 over the wire: two segments, a dead writer, a power failure of every JournalNode.
#[test]
fn writes_survive_power_failures() {
    for seed in 1..=8 {
        let cluster = Cluster::formatted(seed);
        cluster.run(seed, |mut nn| async move {
            assert_eq!(claimed(&mut nn).await, 0);
            assert!(nn.begin().await);
            assert!(nn.write(3).await && nn.roll().await && nn.write(5).await);
        });
        for jn in 0..3 {
            cluster.restart(jn, Crash::Power);
        }
        cluster.run(seed + 100, |mut nn| async move {
            assert_eq!(claimed(&mut nn).await, 8);
            assert!(nn.begin().await && nn.write(2).await && nn.roll().await);
            let (ops, end) = nn.read(Until::Committed).await.unwrap();
            assert_eq!((ops.len(), end.txid), (10, TxId(10)));
        });
    }
}

/// T-Q7: what only one of two holds is copied to the other by the recovery.
#[test]
fn recovery_copies_from_a_peer() {
    for seed in 1..=8 {
        let cluster = Cluster::formatted(seed);
        cluster.run(seed, |mut nn| async move {
            claimed(&mut nn).await;
            assert!(nn.begin().await && nn.write(3).await);
        });
        // The writer is gone; the next one loses JN0 in the middle of a segment.
        let world = cluster.world.handle();
        let jns = cluster.journalnodes.clone();
        cluster.run(seed + 1, move |mut nn| async move {
            assert_eq!(claimed(&mut nn).await, 3);
            assert!(nn.begin().await && nn.write(2).await);
            world.crash(jns[0], Crash::Power);
            assert!(nn.write(40).await && nn.write(2).await);
            world.crash(jns[2], Crash::Process);
            world.restart(jns[0]);
        });
        cluster.run(seed + 2, |mut nn| async move {
            assert_eq!(claimed(&mut nn).await, 47);
            assert!(nn.begin().await && nn.write(1).await);
            let call = Call::GetManifest {
                from: TxId(1),
                in_progress: false,
            };
            let Ok(Response::Manifest { manifest }) = nn.call(0, call).await else {
                panic!("a manifest");
            };
            assert_eq!(
                manifest.segments.last().unwrap().last,
                TxId(47),
                "JN0 has the copy"
            );
        });
    }
}

/// A JournalNode that restarts in the middle of a segment goes on in it.
#[test]
fn laggards_catch_up_inside_the_segment() {
    let cluster = Cluster::formatted(3);
    let world = cluster.world.handle();
    let jns = cluster.journalnodes.clone();
    cluster.run(3, move |mut nn| async move {
        claimed(&mut nn).await;
        assert!(nn.begin().await);
        for jn in [0, 1, 2, 1, 0] {
            assert!(nn.write(3).await);
            world.crash(jns[jn], Crash::Power);
            assert!(nn.write(3).await);
            world.restart(jns[jn]);
            assert!(nn.write(3).await);
        }
        assert!(nn.roll().await);
        let (ops, _) = nn.read(Until::Committed).await.unwrap();
        assert_eq!(ops.len(), 45);
    });
}

/// T-J7.
#[test]
fn t_j7_second_process_on_the_directory() {
    let cluster = Cluster::formatted(1);
    let mut spec = NodeSpec::new(
        "jn9",
        Role::Journalnode,
        SocketAddr::from(([10, 0, 0, 9], 1)),
    );
    spec.machine_of = Some(cluster.journalnodes[0]);
    let second = cluster
        .world
        .add_node_with(&spec, |env| Box::pin(journalnode(env, 0)));
    cluster.world.run_for(Duration::from_secs(5));
    match cluster.world.status(second) {
        Status::Exited { reason, .. } => assert!(reason.contains("in use"), "{reason}"),
        other => panic!("{other:?}"),
    }
    cluster.world.crash(cluster.journalnodes[0], Crash::Process);
    cluster.world.restart(second);
    cluster.world.run_for(Duration::from_secs(5));
    assert!(
        cluster.world.is_up(second),
        "free after the first one ended"
    );
}

/// T-J12 and Q16 over the wire.
#[test]
fn strangers_and_unformatted_nodes() {
    let cluster = Cluster::new(5);
    cluster.run(5, |mut nn| async move {
        let fault = nn.claim().await.unwrap_err();
        assert!(fault.to_string().contains("not formatted"), "{fault}");
        for jn in 0..2 {
            let mut info = info();
            info.namespace_id += jn as u64;
            let call = Call::Format {
                info,
                initial: true,
                force: false,
            };
            nn.call(jn, call).await.unwrap();
        }
        let fault = nn
            .call(
                1,
                Call::CommitMark {
                    epoch: hadal_types::Epoch(1),
                    mark: Default::default(),
                },
            )
            .await;
        assert_eq!(fault.unwrap_err().class, FaultClass::IdentityMismatch);
    });
}

/// X5: the k-th disk operation of a JournalNode fails, for every k: it stops with its own exit code, the others carry
/// on, and after a restart nothing is wrong. X6: the same with a power failure in the middle of the operation.
#[test]
fn x5_x6_every_disk_operation_fails_or_is_cut() {
    let count = {
        let cluster = Cluster::formatted(11);
        let disk = cluster.world.disk_of(cluster.journalnodes[1]);
        let before = disk.operations();
        cluster.run(11, workload);
        disk.operations() - before
    };
    assert!(count > 20, "{count} operations");
    let mut stopped = 0;
    for fault in [
        DiskFault::Eio,
        DiskFault::Full,
        DiskFault::CrashDuring(Crash::Power),
    ] {
        for k in 0..count {
            let cluster = Cluster::formatted(11);
            let jn1 = cluster.journalnodes[1];
            let disk = cluster.world.disk_of(jn1);
            disk.fail_op(disk.operations() + k, fault);
            cluster.run(11, workload);
            // What nobody waits for (the next segment's file) may be under way, and fail behind the workload.
            cluster.world.run_for(Duration::from_secs(1));
            let status = cluster.world.status(jn1);
            match &status {
                Status::Exited { code, .. } => {
                    assert_eq!(*code, EXIT_DISK_FAILED, "{fault:?} {k}: {status:?}");
                    stopped += 1;
                }
                Status::Up | Status::Down => {}
                Status::Paused => panic!("paused"),
            }
            let disk = cluster.world.disk_of(jn1);
            disk.forget_planned();
            cluster.world.restart(jn1);
            // The one that failed must count now.
            cluster.world.crash(cluster.journalnodes[2], Crash::Power);
            cluster.run(12, |mut nn| async move {
                assert_eq!(claimed(&mut nn).await, 6);
                assert!(nn.begin().await && nn.write(1).await);
            });
        }
    }
    assert!(stopped > 10, "{stopped} stopped");
}

async fn workload(mut nn: Namenode) {
    claimed(&mut nn).await;
    assert!(nn.begin().await && nn.write(3).await && nn.roll().await && nn.write(3).await);
}

/// R2 (M-J2) over the wire: an old disk image comes back as a learner.
#[test]
fn m_j2_old_image_is_a_learner() {
    let cluster = Cluster::formatted(21);
    let jn2 = cluster.journalnodes[2];
    let image = cluster.world.disk_of(jn2).image();
    cluster.run(21, workload);
    cluster.world.run_for(Duration::from_secs(3));
    cluster.world.crash(jn2, Crash::Process);
    cluster.world.disk_of(jn2).put_back(&image);
    cluster.world.restart(jn2);
    cluster.world.run_for(Duration::from_secs(5));
    cluster.run(22, |mut nn| async move {
        let Ok(Response::State { state }) = nn.call(2, Call::GetState).await else {
            panic!("a state");
        };
        assert_eq!(state.standing, Standing::Learner);
        assert_eq!(claimed(&mut nn).await, 6);
    });
}

#[test]
fn unreadable_promises_are_not_new_ones() {
    let cluster = Cluster::formatted(31);
    let jn0 = cluster.journalnodes[0];
    cluster.world.crash(jn0, Crash::Process);
    let disk = cluster.world.disk_of(jn0);
    let path = std::path::Path::new("/data/promises");
    for bit in [2000, 4096 * 8 + 2000] {
        assert!(disk.flip_bit(path, bit));
    }
    cluster.world.restart(jn0);
    cluster.world.run_for(Duration::from_secs(2));
    match cluster.world.status(jn0) {
        Status::Exited { code: 1, reason } => assert!(reason.contains("damaged"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let error = RunError::PromisesMissing {
        dir: "/data".into(),
    };
    assert!(error.to_string().contains("learner"));
}

/// T-N6 over the wire: segments finalised while a JournalNode was down are copied, and durable there.
#[test]
fn t_n6_missed_segments_are_copied() {
    let cluster = Cluster::formatted(41);
    let world = cluster.world.handle();
    let jn2 = cluster.journalnodes[2];
    cluster.run(41, move |mut nn| async move {
        claimed(&mut nn).await;
        assert!(nn.begin().await && nn.write(2).await);
        world.crash(jn2, Crash::Power);
        for _ in 0..4 {
            assert!(nn.write(30).await && nn.roll().await);
        }
        world.restart(jn2);
    });
    cluster.world.run_for(Duration::from_secs(60));
    cluster.restart(2, Crash::Power);
    cluster.world.run_for(Duration::from_secs(10));
    cluster.run(42, |mut nn| async move {
        let mut ends = Vec::new();
        for jn in [0, 2] {
            let call = Call::GetManifest {
                from: TxId(1),
                in_progress: false,
            };
            let Ok(Response::Manifest { manifest }) = nn.call(jn, call).await else {
                panic!("a manifest");
            };
            assert!(manifest.damaged.is_empty());
            let end = |s: &hadal_proto::qjournal::SegmentState| (s.first, s.last, s.digest_end);
            ends.push(manifest.segments.iter().map(end).collect::<Vec<_>>());
        }
        assert_eq!(ends[0].len(), 4);
        assert_eq!(ends[0], ends[1]);
    });
}

/// T-N7, T-N8 over the wire: a JournalNode on an empty disk is formatted and filled by its peers and the writer, votes
/// again, and carries the cluster with one of the others gone.
#[test]
fn t_n7_t_n8_a_wiped_journalnode_votes_again() {
    for seed in 51..=54 {
        let cluster = Cluster::new(seed);
        let empty = cluster.world.disk_of(cluster.journalnodes[2]).image();
        cluster.run(seed, |mut nn| async move {
            for jn in 0..3 {
                let call = Call::Format {
                    info: info(),
                    initial: true,
                    force: false,
                };
                nn.call(jn, call).await.expect("formats");
            }
        });
        let world = cluster.world.handle();
        let disk = cluster.world.disk_of(cluster.journalnodes[2]);
        let jns = cluster.journalnodes.clone();
        cluster.run(seed, move |mut nn| async move {
            claimed(&mut nn).await;
            assert!(nn.begin().await && nn.write(3).await && nn.roll().await);
            assert!(nn.write(3).await);
            world.crash(jns[2], Crash::Power);
            disk.put_back(&empty);
            world.restart(jns[2]);
            let mut voter = false;
            for _ in 0..200 {
                assert!(nn.write(1).await, "two voters are enough meanwhile");
                nn.pause(250).await;
                if let Ok(Response::State { state }) = nn.call(2, Call::GetState).await {
                    voter = state.standing == Standing::Voter;
                }
                if voter {
                    break;
                }
            }
            assert!(voter, "it votes again: {:?}", nn.writer.lags());
            world.crash(jns[0], Crash::Power);
            assert!(nn.write(2).await, "it counts");
        });
        cluster.run(seed + 100, |mut nn| async move {
            assert!(claimed(&mut nn).await >= 9);
            assert!(nn.begin().await && nn.write(1).await);
        });
    }
}
