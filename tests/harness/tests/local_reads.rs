//! Short-circuit reads: a client on the DataNodes' host reads their files.

use harness::{Random, TestClient, TestCluster, alone};

/// Whole and positional reads give the bytes that were written, from the files, tail included; small files, and a client
/// that does not want to, read over the network (protocols.md section 5). What becomes of rotten files:
/// `rotten_replicas_are_found_by_readers_and_replaced`, whose reader starts this way.
#[test]
fn readers_on_the_datanodes_host_read_the_files() {
    let _alone = alone();
    let cluster = TestCluster::start(3);
    // Several groups, not a multiple of a chunk.
    let content = Random::default().bytes(5_000_321);
    cluster.write_local("large", &content);
    cluster.write_local("small", &content[..50_000]);
    for name in ["large", "small"] {
        cluster.dfs(&["-put", name, "/"]).ok();
    }
    let client = TestClient::new(&cluster);
    let near = client.dfs();
    let far = client.dfs_with(|_| true, |options| options.local_reads = false);
    client.block_on(async {
        let mut file = near.open("/large").await.unwrap();
        assert!(file.read_to_end().await.unwrap() == content);
        assert_eq!(file.short_circuit_bytes(), content.len() as u64);
        for at in [0, 1, 4_095, 1_032_192, 3_000_000, 4_999_999, 5_000_320, 17] {
            file.seek(at as u64);
            let expected = &content[at..(at + 5_000).min(content.len())];
            let mut found = Vec::new();
            while found.len() < expected.len() {
                let mut part = vec![0; expected.len() - found.len()];
                let read = file.read(&mut part).await.unwrap();
                assert!(read > 0, "the file ends early behind {at}");
                found.extend_from_slice(&part[..read]);
            }
            assert!(found == *expected, "wrong bytes at {at}");
        }
        assert!(file.short_circuit_bytes() > content.len() as u64);

        // Opened again it is read through the page cache: past it the first time, into it, and from it.
        for _ in 0..2 {
            let mut file = near.open("/large").await.unwrap();
            assert!(file.read_to_end().await.unwrap() == content);
            assert_eq!(file.short_circuit_bytes(), content.len() as u64);
        }

        let mut file = near.open("/small").await.unwrap();
        assert!(file.read_to_end().await.unwrap() == content[..50_000]);
        assert_eq!(file.short_circuit_bytes(), 0, "it is in a shared extent");

        let mut file = far.open("/large").await.unwrap();
        assert!(file.read_to_end().await.unwrap() == content);
        assert_eq!(file.short_circuit_bytes(), 0);
    });
}
