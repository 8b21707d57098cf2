//! Two NameNodes on one directory of a simulated disk, on which locks keep nobody out: a network file system at its worst.

use super::*;
use bytes::Bytes;
use hadal_env::{Clock, File, OpenOptions, Random};
use hadal_qjournal::writer::{EditBatch, Event, Output, Writer, WriterConfig};
use hadal_types::{BlockPoolId, CURRENT_LAYOUT, ClusterId, Epoch};
use sim::{Crash, DiskFault, NodeId, Omissions, SimEnv, World};
use std::net::SocketAddr;
use store_journal::Batch;

const DIR: &str = "/filer/edits";

fn info() -> NamespaceInfo {
    NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: 7,
        cluster_id: ClusterId("CID-test".into()),
        block_pool_id: BlockPoolId("BP-test".into()),
        created_ms: 1,
    }
}

struct Scene {
    world: World,
    node: NodeId,
}

impl Scene {
    fn new(locks: bool) -> Self {
        let world = World::new(11);
        let address = SocketAddr::from(([10, 0, 1, 1], 8020));
        let node = world.add_node("nn1", Role::Namenode, address, |_| {
            Box::pin(std::future::pending())
        });
        world.disk_of(node).set_omissions(Omissions {
            lock: !locks,
            ..Omissions::default()
        });
        let scene = Self { world, node };
        scene.run(|env| async move {
            format(&env, Path::new(DIR), &info(), "nn1", false)
                .await
                .expect("formats");
        });
        scene
    }

    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(SimEnv) -> F + 'static,
    ) -> T {
        let env = self.world.env_of(self.node);
        self.world.block_on(self.node, work(env))
    }
}

/// The journal writer of a NameNode on the directory.
struct Namenode {
    env: SimEnv,
    shared: SharedDirectory<SimEnv>,
    writer: Writer,
    events: Vec<Event>,
    sequence: u64,
}

impl Namenode {
    fn new(env: &SimEnv, name: &str) -> Self {
        let shared = SharedDirectory::new(env.clone(), DIR.into(), name, 7);
        let mut writer = Writer::new(
            WriterConfig::new(vec![NAME.into()]),
            info(),
            env.random_u64(),
        );
        writer.handle_connected(env.now(), 0);
        Self {
            env: env.clone(),
            shared,
            writer,
            events: Vec::new(),
            sequence: 0,
        }
    }

    async fn pump(&mut self) {
        while let Some(output) = self.writer.poll_output() {
            let now = self.env.now();
            match output {
                Output::Call { jn, id, request } => {
                    let outcome = self.shared.call(&request).await;
                    self.writer.handle_reply(now, jn, id, outcome);
                }
                Output::Batch {
                    jn,
                    stream,
                    head,
                    records,
                } => {
                    self.sequence += 1;
                    let acks = self.shared.append(self.sequence, &head, records).await;
                    for ack in acks {
                        self.writer.handle_ack(now, jn, stream, &ack);
                    }
                }
                Output::OpenStream { .. } | Output::CloseStream { .. } => {}
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// Claims the journal; where it ends, or why not.
    async fn claim(&mut self) -> Result<CommitMark, String> {
        self.events.clear();
        self.writer.start_claim(self.env.now());
        self.pump().await;
        match self.events.pop() {
            Some(Event::Recovered { end, .. }) => Ok(end),
            other => Err(format!("{other:?}")),
        }
    }

    async fn begin(&mut self) {
        self.writer.begin(self.env.now()).expect("recovered");
        self.pump().await;
    }

    /// Appends `count` edits; the last one known committed afterwards.
    async fn write(&mut self, count: u64) -> Option<TxId> {
        let before = self.writer.appended()?;
        let first = before.txid.next();
        let ops = (0..count).map(|n| format!("edit {}", first.0 + n));
        let batch = Batch::frame(self.writer.epoch(), first, before.digest.0, ops).expect("small");
        let edits = EditBatch {
            first,
            count: u32::try_from(count).expect("few"),
            records: batch.bytes().clone(),
            digest_end: LogDigest(batch.digest()),
        };
        self.writer.append(self.env.now(), edits).ok()?;
        self.pump().await;
        // A pause: the mark goes out.
        let later = self.env.now().after_ms(20);
        self.env.sleep_until(later).await;
        self.writer.handle_timeout(later);
        self.pump().await;
        self.writer.committed().map(|mark| mark.txid)
    }

    /// What a standby sees behind `after`.
    async fn sees(&self, after: u64) -> (u64, Vec<Bytes>) {
        let edits = self
            .shared
            .await_committed(TxId(after), 50)
            .await
            .expect("read");
        if edits.count == 0 {
            return (after, Vec::new());
        }
        let batch = Batch::verify(edits.records, edits.first, edits.digest_before.0).expect("good");
        let ops = batch.records().map(|record| record.payload).collect();
        (batch.last().0, ops)
    }
}

/// D-02: what the active has logged the standby reads, in a segment that is still written and across its end.
#[test]
fn d_02_a_standby_reads_what_is_committed_while_it_is_written() {
    Scene::new(true).run(|env| async move {
        let (mut active, standby) = (Namenode::new(&env, "nn1"), Namenode::new(&env, "nn2"));
        assert_eq!(standby.sees(0).await.0, 0, "nothing yet");
        assert_eq!(active.claim().await.expect("free").txid, TxId(0));
        active.begin().await;
        assert_eq!(active.write(3).await, Some(TxId(3)));
        let (last, ops) = standby.sees(0).await;
        assert_eq!(last, 3);
        assert_eq!(ops[2], Bytes::from("edit 3"));
        assert_eq!(active.write(2).await, Some(TxId(5)));
        assert_eq!(standby.sees(3).await.0, 5);
        assert_eq!(standby.sees(5).await.0, 5, "no more");
        active.writer.roll(env.now()).expect("writes");
        assert_eq!(active.write(2).await, Some(TxId(7)));
        // The first segment has another name now.
        assert_eq!(standby.sees(3).await.0, 5);
        assert_eq!(standby.sees(5).await.0, 7);
        // What was purged is named, never taken for "nothing new" (Q21).
        active.writer.roll(env.now()).expect("writes");
        active.write(1).await;
        active.writer.purge(TxId(6)).expect("writes");
        active.pump().await;
        let missing = standby.shared.await_committed(TxId(2), 50).await;
        let missing = missing.expect_err("purged");
        assert_eq!(missing.class, FaultClass::NotFound, "{missing}");
        assert!(standby.shared.trouble().is_some());
        assert_eq!(standby.sees(5).await.0, 7);
        assert!(standby.shared.trouble().is_none());
    });
}

/// D-03: one that was followed while it slept commits nothing more and learns why, though locks keep nobody out.
#[test]
fn d_03_a_writer_that_was_followed_writes_no_more() {
    let scene = Scene::new(false);
    scene.run(|env| async move {
        let mut first = Namenode::new(&env, "nn1");
        first.claim().await.expect("free");
        first.begin().await;
        assert_eq!(first.write(4).await, Some(TxId(4)));
        let mut second = Namenode::new(&env, "nn2");
        let end = second.claim().await.expect("fenced, says the operator");
        assert_eq!(end.txid, TxId(4), "everything committed is there");
        assert_eq!(second.writer.epoch(), Epoch(2));
        assert_eq!(first.write(1).await, None, "nothing is committed any more");
        let fenced = |event: &Event| matches!(event, Event::Fenced { by: Epoch(2) });
        assert!(first.events.iter().any(fenced), "{:?}", first.events);
        second.begin().await;
        assert_eq!(second.write(1).await, Some(TxId(5)));
        let (_, ops) = Namenode::new(&env, "nn3").sees(4).await;
        assert_eq!(ops, [Bytes::from("edit 5")]);
        // Not by claiming its old epoch again, either: the next one is higher.
        assert_eq!(first.claim().await.expect("a new claim").txid, TxId(5));
        assert_eq!(first.writer.epoch(), Epoch(3));
        assert_eq!(second.write(1).await, None);
    });
}

/// Where locks work, two on one host are kept apart before anything is written.
#[test]
fn a_second_writer_on_the_same_host_is_refused_by_the_lock() {
    Scene::new(true).run(|env| async move {
        let mut first = Namenode::new(&env, "nn1");
        first.claim().await.expect("free");
        first.begin().await;
        let mut second = Namenode::new(&env, "nn2");
        let refused = second.claim().await.expect_err("in use");
        assert!(refused.contains("locked by another NameNode"), "{refused}");
        assert_eq!(first.write(1).await, Some(TxId(1)), "undisturbed");
        first.writer.resign();
        first.shared.close();
        assert_eq!(second.claim().await.expect("free now").txid, TxId(1));
        // Formatting is refused while it is in use, and afterwards without force.
        let format = format(&env, Path::new(DIR), &info(), "nn1", true).await;
        assert!(format.expect_err("in use").message.contains("locked"));
        second.shared.close();
        let other = NamespaceInfo {
            namespace_id: 8,
            ..info()
        };
        let refused = super::format(&env, Path::new(DIR), &other, "nn1", false).await;
        assert_eq!(
            refused.expect_err("another journal").class,
            FaultClass::AlreadyExists
        );
    });
}

/// A power failure: everything acknowledged is there for the next writer.
#[test]
fn acknowledged_edits_outlive_a_power_failure() {
    let scene = Scene::new(true);
    scene.run(|env| async move {
        let mut active = Namenode::new(&env, "nn1");
        active.claim().await.expect("free");
        active.begin().await;
        for _ in 0..20 {
            active.write(5).await.expect("committed");
        }
    });
    scene.world.crash(scene.node, Crash::Power);
    scene.world.restart(scene.node);
    scene.run(|env| async move {
        let mut next = Namenode::new(&env, "nn2");
        let end = next.claim().await.expect("free after the crash");
        assert_eq!(end.txid, TxId(100));
        next.begin().await;
        assert_eq!(next.write(1).await, Some(TxId(101)));
        assert_eq!(next.sees(0).await.0, 100);
    });
}

/// There is one copy: what rots at or below the commit mark is an error that names it, a torn tail above it is cut.
#[test]
fn rot_below_the_commit_mark_ends_the_claim_and_a_torn_tail_does_not() {
    let damage = |at: u64| {
        move |env: SimEnv| async move {
            let listed = store_journal::list(env.disk(), &edits_dir(Path::new(DIR))).await;
            let first = listed.expect("a directory")[0].first;
            let name = format!("edits_inprogress_{:020}", first.0);
            let path = edits_dir(Path::new(DIR)).join(name);
            let file = env
                .disk()
                .open(&path, OpenOptions::write())
                .await
                .expect("there");
            let mut buf = env.disk().buf(1).await;
            buf.as_mut()[0] = 0xa5;
            file.write_at(buf, 0..1, at).await.0.expect("writes");
            file.sync_data().await.expect("syncs");
        }
    };
    let written = || {
        let scene = Scene::new(true);
        scene.run(|env| async move {
            let mut active = Namenode::new(&env, "nn1");
            active.claim().await.expect("free");
            active.begin().await;
            assert_eq!(active.write(3).await, Some(TxId(3)));
        });
        scene
    };
    // Behind the last record, where the next one's bytes would stand.
    let scene = written();
    scene.run(damage(4096 + 3 * (24 + 6) + 8));
    scene.run(|env| async move {
        let mut next = Namenode::new(&env, "nn2");
        assert_eq!(next.claim().await.expect("cut").txid, TxId(3));
        next.begin().await;
        assert_eq!(next.write(1).await, Some(TxId(4)));
    });
    // Inside the second record.
    let scene = written();
    scene.run(damage(4096 + (24 + 6) + 26));
    scene.run(|env| async move {
        let refused = Namenode::new(&env, "nn2").claim().await;
        let refused = refused.expect_err("committed edits are lost");
        assert!(refused.contains("damaged from txid 2 on"), "{refused}");
    });
}

/// A write fails, and the core is silent from then on: whoever asks or appends is told, each time.
#[test]
fn after_a_failed_write_everybody_is_told() {
    let scene = Scene::new(true);
    let disk = scene.world.disk_of(scene.node);
    scene.run(move |env| async move {
        let writing = Writing::open(&env, Path::new(DIR)).await.expect("free");
        let principal = Principal {
            role: Role::Namenode,
            name: "nn1".into(),
        };
        let claim = |epoch| Request {
            namespace_id: 7,
            call: Call::NewEpoch {
                info: info(),
                epoch: Epoch(epoch),
                claim: epoch,
            },
        };
        writing.call(&principal, claim(1)).await.expect("free");
        disk.fail_op(disk.operations(), DiskFault::Eio);
        for epoch in 2..4 {
            let refused = writing.call(&principal, claim(epoch)).await;
            let fault = refused.expect_err("its disk failed");
            assert_eq!(fault.class, FaultClass::DiskFailed, "{fault}");
        }
        assert_eq!(disk.forget_planned(), 0, "the fault struck");
        let head = BatchHead {
            epoch: Epoch(1),
            segment: TxId(1),
            first: TxId(1),
            count: 0,
            committed: CommitMark::default(),
            digest_end: LogDigest::default(),
        };
        let refused = writing.append(1, &head, Bytes::new()).await;
        let fault = refused.expect_err("its disk failed");
        assert_eq!(fault.class, FaultClass::DiskFailed, "{fault}");
    });
}
