//! Writers that outlive DataNodes, files that outlive their writers, readers of files that grow (issue 5).

use hadal_client::{CreateOptions, Dfs, DfsOutputStream, TokioSeam};
use harness::{Pattern, Roles, SOON, TestClient, TestCluster, Writer, alone, eventually};
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const WRITER: &str = env!("CARGO_BIN_EXE_harness-writer");
const MIB: usize = 1 << 20;

/// MiB of the long write; the bench-sized form asks for 2048.
const LONG_MIB: usize = 140;
/// Every member of a pipeline is killed once and stopped once.
const STRIKES: usize = 6;

fn long_mib() -> usize {
    let asked = std::env::var("HARNESS_WRITE_MIB").ok();
    asked.map_or(LONG_MIB, |text| text.parse().expect("a number of MiB"))
}

/// The last block of a file: id, stamp, pipeline.
fn last_block(client: &TestClient, dfs: &Dfs, path: &str) -> (u64, u64, Vec<String>) {
    let located = client.block_on(dfs.locations(path, 0, u64::MAX));
    let located = located.expect("locations");
    let last = located.blocks.last().expect("a block");
    let nodes = last.locations.iter().map(|node| node.name.clone());
    (
        last.block.id.0,
        last.block.generation_stamp.0,
        nodes.collect(),
    )
}

/// Everything a file has from `from` on, checked against its pattern; its length.
async fn check(dfs: &Dfs, path: &str, pattern: Pattern, from: u64) -> u64 {
    let mut file = dfs.open(path).await.expect("open");
    file.seek(from.min(file.length()));
    loop {
        let at = file.position();
        let bytes = file.read_chunk().await;
        let Some(bytes) = bytes.unwrap_or_else(|error| panic!("{path} at {at}: {error}")) else {
            break;
        };
        let checked = pattern.check(at, &bytes);
        checked.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    assert_eq!(file.position(), file.length(), "{path} ends early");
    file.length()
}

async fn write(out: &mut DfsOutputStream<TokioSeam>, pattern: Pattern, mib: usize) {
    for _ in 0..mib {
        let at = out.position();
        let written = out.write_bytes(pattern.bytes(at, MIB).into()).await;
        written.unwrap_or_else(|error| panic!("at {at}: {error}"));
    }
    out.hflush().await.expect("hflush");
}

/// A write through 3 of 5 DataNodes while each member of its pipeline in turn is killed or stopped: no error, another
/// DataNode takes the place of the lost one under a raised generation stamp, the content is exact, and in the end there
/// are three equal replicas of everything (E-21, T-P6 without its upgrade, T-P9, T-P14).
#[test]
fn a_long_write_outlives_every_member_of_its_pipeline_e21_t_p9_t_p14() {
    let _alone = alone();
    let cluster = TestCluster::start(5);
    let client = TestClient::new(&cluster);
    let dfs = client.dfs_quick(|options| options.replacement.best_effort = false);
    let pattern = Pattern(5);
    let (path, part) = ("/long", long_mib() / (STRIKES + 1));
    let mut out = client
        .block_on(dfs.create(path, &CreateOptions::default()))
        .expect("create");
    let mut raised = 0;
    for strike in 0..STRIKES {
        client.block_on(write(&mut out, pattern, part - 1));
        let (block, stamp, pipeline) = last_block(&client, &dfs, path);
        assert_eq!(pipeline.len(), 3, "{pipeline:?}");
        let victim = pipeline[strike % 3].clone();
        let killed = strike < STRIKES / 2;
        let at = Instant::now();
        let signal = if killed {
            Signal::SIGKILL
        } else {
            Signal::SIGSTOP
        };
        cluster.signal(&victim, signal);
        client.block_on(write(&mut out, pattern, 1));
        println!(
            "strike {strike}, {signal} of {victim} in {pipeline:?}: flushed after {} ms",
            at.elapsed().as_millis()
        );
        let (same, newer, members) = last_block(&client, &dfs, path);
        if same == block {
            assert!(newer > stamp, "{newer} after {stamp}");
            assert_eq!(members.len(), 3, "{members:?}");
            assert!(!members.contains(&victim), "{members:?}");
            raised += 1;
        }
        if killed {
            cluster.start_node(&victim);
        } else {
            cluster.signal(&victim, Signal::SIGCONT);
        }
        cluster.await_live(5, SOON);
    }
    assert!(raised >= STRIKES - 1, "{raised} recoveries of one block");
    client.block_on(write(&mut out, pattern, part));
    client.block_on(out.close()).expect("close");
    let length = client.block_on(check(&dfs, path, pattern, 0));
    assert_eq!(length, ((STRIKES + 1) * part * MIB) as u64);
    cluster.await_healthy(path, SOON);
    // What the stopped ones still hold open is outdated, and goes with their next full reports (E-17).
    for id in cluster.datanode_ids() {
        cluster
            .debug(&["block-report", "--id", &id])
            .expect("asked");
    }
    cluster.await_equal_replicas(&client, &dfs, path, 3, SOON);
}

/// A DataNode evicts its writers, and the pipeline goes on without it (T-P7); the only one left restarts for an upgrade, and
/// the write goes on there, from where it was (T-P5).
#[test]
fn writers_are_evicted_and_wait_for_a_restart_t_p5_t_p7() {
    let _alone = alone();
    let cluster = TestCluster::start(2);
    let client = TestClient::new(&cluster);
    let dfs = client.dfs_quick(|_| {});
    let (path, pattern) = ("/upgrade", Pattern(31));
    let mut writer = Writer::create(WRITER, &cluster, path, pattern.0);
    writer.write(1_500_001, "hflush");
    let (_, first, nodes) = last_block(&client, &dfs, path);
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    let (evicting, left) = (&nodes[1], &nodes[0]);
    let said = cluster.run(&["dfsadmin", "-evictWriters", evicting]).ok();
    let words = format!("Requested writer eviction to datanode {evicting}\n");
    assert_eq!(said.stdout, words);
    writer.write(1_000_001, "hflush");
    let (_, second, nodes) = last_block(&client, &dfs, path);
    assert!(second > first, "{second} after {first}");
    assert_eq!(&nodes, std::slice::from_ref(left));
    let order = ["dfsadmin", "-shutdownDatanode", left, "upgrade"];
    let said = cluster.run(&order).ok();
    let words = format!("Submitted a shutdown request to datanode {left}\n");
    assert_eq!(said.stdout, words);
    eventually("it has ended", SOON, || {
        let told = cluster.dev(&["status", "--json"]).ok().stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        let processes = told["processes"].as_array().expect("processes");
        let it = processes.iter().find(|process| process["id"] == **left);
        let state = it.expect("it is known")["state"].clone();
        (state == "down").then_some(()).ok_or(state.to_string())
    });
    cluster.start_node(left);
    let flushed = writer.write(1_000_001, "hsync");
    let (_, third, same) = last_block(&client, &dfs, path);
    assert!(third > second, "{third} after {second}");
    assert_eq!(same, nodes);
    assert_eq!(writer.order("close"), Ok(flushed));
    let length = client.block_on(check(&dfs, path, pattern, 0));
    assert_eq!(length, flushed);
    cluster.await_equal_replicas(&client, &dfs, path, 2, SOON);
    let no_word = cluster.run(&["dfsadmin", "-shutdownDatanode", left, "soon"]);
    assert_eq!(no_word.code, 255, "{no_word:?}");
}

/// Takes a file from its dead writer by the command line (T-L24).
fn recover_lease(cluster: &TestCluster, path: &str) {
    let said = cluster.run(&["debug", "recoverLease", "-path", path, "-retries", "100"]);
    let told = said.ok().stdout;
    assert_eq!(told, format!("recoverLease SUCCEEDED on {path}\n"));
}

/// Writers die by SIGKILL with more written than flushed. After lease recovery the files are closed, hold at least what
/// was flushed and nothing that was not written, and all replicas are equal (T-L24, T-H22; T-L18 for the one appended
/// to). What was hsynced outlives the DataNodes, whether they die after the recovery or before it (P4, T-L6).
#[test]
fn files_outlive_their_writers_t_l18_t_l24_t_h22() {
    let _alone = alone();
    let cluster = TestCluster::start_with(2, 4);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    roles.settled();
    let dfs = client.dfs_quick(|_| {});
    let started = |path: &str, seed, flush: &str| {
        let mut writer = Writer::create(WRITER, &cluster, path, seed);
        let flushed = writer.write(3_000_001, flush);
        let written = writer.order("write 2500000").expect("written");
        (writer, flushed, written)
    };
    let checked = |path: &str, seed, flushed: u64, written: u64| {
        let length = client.block_on(check(&dfs, path, Pattern(seed), 0));
        assert!(
            (flushed..=written).contains(&length),
            "{path}: {length} of {flushed} flushed, {written} written"
        );
        cluster.await_equal_replicas(&client, &dfs, path, 3, SOON);
        length
    };
    for (path, seed, flush) in [("/flushed", 11, "hflush"), ("/synced", 12, "hsync")] {
        let (writer, flushed, written) = started(path, seed, flush);
        writer.kill();
        recover_lease(&cluster, path);
        checked(path, seed, flushed, written);
    }
    // Again at its end: the recovered file is appended to, and its new writer dies.
    let before = client.block_on(dfs.file_status("/synced")).expect("status");
    let mut writer = Writer::append(WRITER, &cluster, "/synced", 12).expect("it is closed");
    let appended = writer.write(100_001, "hsync");
    assert_eq!(appended, before.length + 100_001);
    writer.kill();
    recover_lease(&cluster, "/synced");
    let synced = checked("/synced", 12, appended, appended);
    // Through a failover: the NameNode the writer knew is gone as well.
    let (writer, flushed, written) = started("/failover", 13, "hflush");
    let (active, _) = roles.settled();
    writer.kill();
    cluster.signal(&active, Signal::SIGKILL);
    roles.active_but(&[&active]);
    recover_lease(&cluster, "/failover");
    checked("/failover", 13, flushed, written);
    cluster.start_node(&active);
    roles.settled();
    // All DataNodes die with the writer: what they come back with is waiting to be recovered, and never less than was
    // hsynced.
    let (writer, flushed, written) = started("/open", 14, "hsync");
    writer.kill();
    for id in cluster.datanode_ids() {
        cluster.signal(&id, Signal::SIGKILL);
    }
    for id in cluster.datanode_ids() {
        cluster.start_node(&id);
    }
    cluster.await_live(4, SOON);
    recover_lease(&cluster, "/open");
    checked("/open", 14, flushed, written);
    let length = client.block_on(check(&dfs, "/synced", Pattern(12), 0));
    assert_eq!(length, synced);
    cluster.await_healthy("/", SOON);
}

/// A reader that tails a growing file sees every byte at latest on its first poll after the hflush was acknowledged, and
/// none that disappears later; a DataNode of the pipeline dies, the active NameNode dies, in the end the writer dies
/// (F-08, T-P17, T-P21, T-P22, T-H8).
#[test]
fn a_tailing_reader_sees_what_was_flushed_and_it_stays_f08_t_p17_t_h8() {
    let _alone = alone();
    let cluster = TestCluster::start_with(2, 4);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    let (active, _) = roles.settled();
    let dfs = client.dfs_quick(|_| {});
    let (path, pattern) = ("/tail", Pattern(21));
    let mut writer = Writer::create(WRITER, &cluster, path, pattern.0);
    let over = AtomicBool::new(false);
    // One reader polls all the time, another after each flush.
    let seen = std::thread::scope(|scope| {
        let restless = scope.spawn(|| {
            let dfs = client.dfs_quick(|_| {});
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = client.block_on(check(&dfs, path, pattern, most)).max(most);
            }
            most
        });
        // A failed check must not leave the reader running.
        struct OverAtEnd<'a>(&'a AtomicBool);
        impl Drop for OverAtEnd<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let at_end = OverAtEnd(&over);
        let mut seen = 0;
        for round in 0..60_usize {
            match round {
                20 => {
                    let (.., pipeline) = last_block(&client, &dfs, path);
                    cluster.signal(&pipeline[1], Signal::SIGKILL);
                }
                40 => cluster.signal(&active, Signal::SIGKILL),
                _ => {}
            }
            let flush = ["hflush", "hsync"][round % 2];
            let flushed = writer.write(1 + round * 1_733, flush);
            let length = client.block_on(check(&dfs, path, pattern, seen));
            assert!(
                length >= flushed,
                "round {round}: {length} of {flushed} flushed bytes"
            );
            seen = length;
        }
        writer.order("write 1000000").expect("written");
        writer.kill();
        drop(at_end);
        seen.max(restless.join().expect("the restless reader"))
    });
    recover_lease(&cluster, path);
    cluster.up().ok();
    cluster.await_live(4, SOON);
    let length = client.block_on(check(&dfs, path, pattern, 0));
    assert!(length >= seen, "{length} bytes are left of {seen} seen");
    cluster.await_equal_replicas(&client, &dfs, path, 3, SOON);
}
