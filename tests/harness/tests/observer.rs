//! An observer NameNode: named so by haadmin, outside every election, and read from by clients that ask for it.

use hadal_client::{ClientError, CreateOptions, Dfs, FaultClass, ReadFrom};
use hadal_types::HaState;
use harness::{Roles, SOON, TestClient, TestCluster, alone, eventually};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

const WINDOW_MS: u64 = 2_000;

async fn written(dfs: &Dfs, path: &str, content: &[u8]) {
    let mut out = dfs
        .create(path, &CreateOptions::default())
        .await
        .expect("create");
    out.write_all(content).await.expect("write");
    out.close().await.expect("close");
}

async fn content(dfs: &Dfs, path: &str) -> Result<Vec<u8>, ClientError> {
    dfs.open(path).await?.read_to_end().await
}

/// Reads a file that is there until somebody answers: on a busy machine a NameNode may not do so in the first moment, nor
/// know the DataNode yet. It is never said not to be there.
fn await_content(client: &TestClient, dfs: &Dfs, path: &str) -> Vec<u8> {
    eventually("the file is read", SOON, || {
        client
            .block_on(content(dfs, path))
            .map_err(|error| match error.is_not_found() {
                true => panic!("{path} is not seen: {error}"),
                false => error.to_string(),
            })
    })
}

/// Asks until the answer is a refusal of this class; nobody may answer otherwise.
fn await_refusal<T>(
    class: FaultClass,
    mut asked: impl FnMut() -> Result<T, ClientError>,
) -> ClientError {
    eventually("it is refused", SOON, || match asked() {
        Ok(_) => panic!("it is answered, not refused with {class:?}"),
        Err(error) if error.class() == Some(class) => Ok(error),
        Err(error) => Err(error.to_string()),
    })
}

/// T-A4, Q36 and the rule of protocols.md section 2: with both other NameNodes gone nobody is active, the observer goes
/// on answering whom it may, and refuses everyone else; as a standby again it takes over by itself.
#[test]
fn t_a4_q36_an_observer_answers_reads_and_stands_for_no_election() {
    let _alone = alone();
    let cluster = TestCluster::start_with(3, 1);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    let (active, standby) = roles.settled();
    let (other, observer) = (&standby[0], &standby[1]);

    let refused = cluster.run(&["haadmin", "-transitionToObserver", &active]);
    assert_ne!(refused.code, 0, "T-A4: an active becomes no observer");
    for _ in 0..2 {
        cluster
            .run(&["haadmin", "-transitionToObserver", observer])
            .ok();
    }
    let state = cluster.run(&["haadmin", "-getServiceState", observer]).ok();
    assert_eq!(state.stdout.trim(), "observer");
    let refused = cluster.run(&["haadmin", "-transitionToActive", "--forceactive", observer]);
    assert_ne!(refused.code, 0, "T-A4: an observer becomes no active");
    let refused = cluster.run(&["haadmin", "-failover", &active, observer]);
    assert_ne!(refused.code, 0, "and none is handed the role");

    let writer = client.dfs();
    client.block_on(written(&writer, "/seen", b"before"));
    let reader = client.dfs_with(
        |_| true,
        |options| {
            options.read_from = ReadFrom::Observer;
            options.failover.window_ms = WINDOW_MS;
        },
    );
    // The first read brings an msync, so it shows what another client has just written.
    assert_eq!(await_content(&client, &reader, "/seen"), b"before");
    client.block_on(written(&writer, "/synced", b"after"));
    eventually("the active answers", SOON, || {
        client.block_on(reader.msync()).map_err(|it| it.to_string())
    });

    // What it has not applied it would not answer for.
    roles.await_equal_digests(&[&active, observer]);
    cluster.signal(&active, Signal::SIGKILL);
    cluster.signal(other, Signal::SIGKILL);
    eventually("only the observer answers", SOON, || {
        let states = roles.states();
        let up: Vec<_> = states.iter().filter_map(|(_, state)| *state).collect();
        match up[..] {
            [HaState::Observer] => Ok(()),
            _ => Err(format!("{states:?}")),
        }
    });
    for (path, expected) in [("/seen", &b"before"[..]), ("/synced", b"after")] {
        assert_eq!(await_content(&client, &reader, path), expected);
    }
    await_refusal(FaultClass::NotFound, || {
        client.block_on(content(&reader, "/nowhere"))
    });
    client
        .block_on(reader.msync())
        .expect_err("nobody is active, so nobody knows");
    let only = client.dfs_of(observer, Duration::from_millis(WINDOW_MS));
    // It did not ask for an observer.
    await_refusal(FaultClass::Standby, || {
        client.block_on(only.file_status("/seen"))
    });

    cluster
        .run(&["haadmin", "-transitionToStandby", observer])
        .ok();
    assert_eq!(roles.active_but(&[&active, other]), *observer);
    client.block_on(written(&writer, "/later", b"on"));
    cluster.start_node(&active);
    cluster.start_node(other);
    roles.settled();
    // From whoever may.
    assert_eq!(await_content(&client, &reader, "/later"), b"on");
    fetches_images(&cluster, &roles);
}

/// `dfsadmin -fetchImage` on the same cluster: the very bytes of the active's newest image.
fn fetches_images(cluster: &TestCluster, roles: &Roles<'_>) {
    let (active, _) = roles.settled();
    let without = cluster.run(&["dfsadmin", "-fetchImage", "fetched"]);
    assert_ne!(without.code, 0, "there is none yet");
    assert!(
        without.stderr.contains("-saveNamespace"),
        "{}",
        without.stderr
    );
    cluster.run(&["dfsadmin", "-safemode", "enter"]).ok();
    cluster.run(&["dfsadmin", "-saveNamespace"]).ok();
    cluster.run(&["dfsadmin", "-safemode", "leave"]).ok();
    let told = cluster
        .run(&["--json", "dfsadmin", "-fetchImage", "fetched"])
        .ok();
    let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
    let name = told["image"].as_str().expect("a path");
    let fetched = std::fs::read(cluster.local(name)).expect("the image");
    let name = name.rsplit('/').next().expect("a name");
    let here = walk(&cluster.data(&active), name).expect("at the NameNode, too");
    assert_eq!(fetched, std::fs::read(here).expect("the NameNode's image"));
}

fn walk(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    entries
        .map(|entry| entry.path())
        .find_map(|path| match path.is_dir() {
            true => walk(&path, name),
            false => path.ends_with(name).then_some(path),
        })
}
