//! A long write while nodes die.

use hadal_client::{CreateOptions, Dfs};
use harness::{Random, Roles, TestClient, TestCluster, alone};
use nix::sys::signal::Signal;

const MIB: usize = 1 << 20;
/// What is written, and after how much of it the nodes die.
const LENGTH: usize = 200 * MIB;
const STRIKE_AT: usize = 70 * MIB;
/// So that the write ends blocks and asks for others after the strike (T-H1).
const BLOCK: u64 = 32 << 20;

/// One megabyte of content, different at each place.
fn piece(random: &[u8], number: usize) -> Vec<u8> {
    let mut piece = random.to_vec();
    piece[..8].copy_from_slice(&number.to_le_bytes());
    piece
}

async fn write(dfs: &Dfs, path: &str, random: &[u8], strike: impl FnOnce()) {
    let options = CreateOptions {
        block_size: Some(BLOCK),
        ..CreateOptions::default()
    };
    let mut out = dfs.create(path, &options).await.expect("create");
    let mut strike = Some(strike);
    for number in 0..LENGTH / MIB {
        if number == STRIKE_AT / MIB {
            strike.take().expect("once")();
        }
        let written = out.write_all(&piece(random, number)).await;
        written.unwrap_or_else(|error| panic!("MiB {number}: {error}"));
    }
    out.close().await.expect("close");
}

async fn read(dfs: &Dfs, path: &str, random: &[u8]) {
    let mut file = dfs.open(path).await.expect("open");
    assert_eq!(file.length(), u64::try_from(LENGTH).unwrap());
    let mut content = Vec::with_capacity(MIB);
    for number in 0..LENGTH / MIB {
        content.resize(MIB, 0);
        let mut filled = 0;
        while filled < MIB {
            let read = file.read(&mut content[filled..]).await;
            let read = read.unwrap_or_else(|error| panic!("MiB {number}: {error}"));
            assert!(read > 0, "the file ends in MiB {number}");
            filled += read;
        }
        assert!(content == piece(random, number), "MiB {number} differs");
    }
}

fn written_while_these_die(with_datanode: bool) {
    let _alone = alone();
    let cluster = TestCluster::start_with(2, 3);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    let (active, _) = roles.settled();
    let random = Random::default().bytes(MIB);
    let dfs = client.dfs();
    let strike = || {
        cluster.signal(&active, Signal::SIGKILL);
        if with_datanode {
            cluster.signal("dn2", Signal::SIGKILL);
        }
    };
    client.block_on(write(&dfs, "/long", &random, strike));
    client.block_on(read(&dfs, "/long", &random));
    // Nothing of it is corrupt or missing, or pending, on the new active (T-H1).
    let told = cluster.run(&["fsck", "/long"]).stdout;
    for text in ["Corrupt blocks:\t\t0", "Missing blocks:\t\t0", "is HEALTHY"] {
        assert!(told.contains(text), "no `{text}' in {told}");
    }
    let stats = cluster.debug(&["nn-stats"]).expect("numbers");
    assert_eq!(stats["open_files"], 0);
    assert_eq!(stats["pending_datanode_messages"], 0);
    cluster.start_node(&active);
    if with_datanode {
        cluster.start_node("dn2");
    }
    roles.settled();
    roles.await_equal_digests(&["nn1", "nn2"]);
}

/// The active NameNode dies in the middle of a write of 200 MB: it ends without an error and its content is exact.
#[test]
fn a_long_write_outlives_the_active_namenode_t_h1() {
    written_while_these_die(false);
}

/// The same with a DataNode of the pipeline killed in the same moment (T-H2).
#[test]
fn a_long_write_outlives_the_active_namenode_and_a_datanode_t_h2() {
    written_while_these_die(true);
}
