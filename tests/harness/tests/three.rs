//! Three NameNodes: the active dies again and again, images reach all of them, a JournalNode that lost its directory votes
//! again, rotten images and strangers are refused. One cluster serves all of it.

use harness::{
    BUSY, Load, Roles, SOON, TestClient, TestCluster, alone, daemon, eventually, hadal, processes,
    run,
};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

const NAMENODES: [&str; 3] = ["nn1", "nn2", "nn3"];
/// Standbys make images all the time, and send them at once.
const EAGER: [(&str, &str); 3] = [
    ("checkpoint_txns", "100"),
    ("checkpoint_period", "\"3s\""),
    ("checkpoint_check_period", "\"1s\""),
];
/// No image is made any more.
const CALM: [(&str, &str); 2] = [
    ("checkpoint_txns", "1000000"),
    ("checkpoint_period", "\"1h\""),
];

/// The images of a NameNode, by their names.
fn images(cluster: &TestCluster, id: &str) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(cluster.data(id).join("images"));
    let entries = entries.into_iter().flatten().flatten();
    let named = entries.map(|entry| {
        (
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        )
    });
    named
        .filter(|(name, _)| name.starts_with("fsimage_"))
        .collect()
}

/// T-A10, T-H27, T-C1, T-C2, T-N7, T-N8, T-C8, Q16, Q23, Q33.
#[test]
fn three_namenodes_outlive_each_other_t_a10_t_c2_t_n8_t_c8_q23_q33() {
    let _alone = alone();
    let cluster = TestCluster::start_with(3, 1);
    let client = TestClient::new(&cluster);
    let roles = Roles::new(&cluster, &client);
    // The active reads it when it was killed.
    for id in NAMENODES {
        cluster.configure(id, &EAGER);
    }
    for id in roles.settled().1 {
        cluster.kill_node(&id);
        cluster.start_node(&id);
    }
    for round in 0..3 {
        let (active, _) = roles.settled();
        let load = Load::start(&client, &format!("/kill{round}"));
        load.await_changes(BUSY);
        let at = Instant::now();
        cluster.signal(&active, Signal::SIGKILL);
        load.await_change_after(at);
        cluster.start_node(&active);
        if round == 2 {
            a_wiped_journalnode_votes_again(&cluster, &load);
        }
        load.await_changes(BUSY);
        let (changes, longest) = load.end(at);
        let longest = longest.as_millis();
        println!("kill of {active}: longest wait {longest} ms, {changes} changes");
    }
    let (active, _) = roles.settled();
    no_other_daemon(&cluster);
    images_reach_all(&cluster, &active);
    roles.await_equal_digests(&NAMENODES);
    rotten_images_are_not_installed(&cluster, &roles);
    a_stranger_is_refused(&cluster, &roles);
    a_panic_leaves_no_process(cluster);
}

/// A failed test takes every process along that it started, whatever their ids.
fn a_panic_leaves_no_process(cluster: TestCluster) {
    let root = cluster.root();
    no_other_daemon(&cluster);
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(move || {
        let _cluster = cluster;
        panic!("on purpose");
    }));
    panicked.expect_err("it panicked");
    assert_eq!(processes(&root), [""; 0]);
}

/// Q33: nothing runs besides the daemons named in the configuration: whoever elects is among them.
fn no_other_daemon(cluster: &TestCluster) {
    let mut running: Vec<String> = cluster
        .processes()
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let id = words.iter().position(|word| *word == "--id");
            format!("{} {}", words[1], words[id.expect("an id") + 1])
        })
        .collect();
    running.sort();
    let expected = [
        "datanode dn1",
        "journalnode jn1",
        "journalnode jn2",
        "journalnode jn3",
        "namenode nn1",
        "namenode nn2",
        "namenode nn3",
    ];
    assert_eq!(running, expected);
}

/// T-N7, T-N8, Q16: under writes a JournalNode comes back with nothing, is filled, and votes: the next one may go.
fn a_wiped_journalnode_votes_again(cluster: &TestCluster, load: &Load<'_>) {
    cluster.kill_node("jn3");
    std::fs::rename(cluster.data("jn3"), cluster.local("lost")).expect("its directory");
    cluster.start_node("jn3");
    let stats = |id: &str| cluster.debug(&["jn-stats", "--id", id]);
    eventually("the wiped JournalNode votes again", SOON, || {
        let (wiped, other) = (stats("jn3")?, stats("jn2")?);
        let votes = wiped["learner"] == false && wiped["promised_epoch"] == other["promised_epoch"];
        let known = wiped["promised_epoch"].as_u64().unwrap_or_default() > 0;
        (votes && known)
            .then_some(())
            .ok_or_else(|| wiped.to_string())
    });
    let first = |stats: serde_json::Value| stats["segments"][0]["first"].clone();
    eventually("it has the whole journal", SOON, || {
        let (wiped, other) = (first(stats("jn3")?), first(stats("jn2")?));
        (wiped == other)
            .then_some(())
            .ok_or_else(|| format!("{wiped} {other}"))
    });
    cluster.kill_node("jn1");
    load.await_change_after(Instant::now());
    cluster.start_node("jn1");
}

/// T-C1, T-C2: every NameNode has images; the active, which makes none, has a standby's, the very bytes.
fn images_reach_all(cluster: &TestCluster, active: &str) {
    eventually("an image of a standby is at the active", SOON, || {
        // The load has ended: an edit now and then, so that there is something to save.
        cluster.dfs(&["-touchz", "/touched"]).ok();
        let all = NAMENODES.map(|id| (id, images(cluster, id)));
        let at_active = images(cluster, active);
        let everywhere = all.iter().all(|(_, images)| !images.is_empty());
        let shared = at_active.iter().find_map(|(name, path)| {
            let others = all.iter().filter(|(id, _)| *id != active);
            let twin = others.filter_map(|(_, images)| images.get(name)).next()?;
            // One of the two may just be replaced by newer ones.
            Some(std::fs::read(path).ok()? == std::fs::read(twin).ok()?)
        });
        match (everywhere, shared) {
            (true, Some(equal)) => {
                assert!(equal, "an image with other bytes than where it came from");
                Ok(())
            }
            _ => Err(format!("{all:?}")),
        }
    });
}

/// Flips a bit in the middle of a file.
fn rot(path: &PathBuf) {
    let mut bytes = std::fs::read(path).expect("an image");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).expect("an image");
}

/// T-C8, Q23: what does not verify is given to nobody, and started from by nobody who has another. The standbys, which made
/// images, make none any more.
fn rotten_images_are_not_installed(cluster: &TestCluster, roles: &Roles<'_>) {
    let (active, standby) = roles.settled();
    for id in &standby {
        cluster.kill_node(id);
        cluster.configure(id, &CALM);
        cluster.start_node(id);
    }
    roles.settled();
    let save = || {
        cluster.dfs(&["-touchz", "/touched"]).ok();
        cluster.run(&["dfsadmin", "-safemode", "enter"]).ok();
        cluster.run(&["dfsadmin", "-saveNamespace"]).ok();
        cluster.run(&["dfsadmin", "-safemode", "leave"]).ok();
    };
    save();
    save();
    let here = images(cluster, &active);
    let (newest, path) = here.last_key_value().expect("an image");
    let (older, _) = here.first_key_value().expect("another image");
    assert_ne!(newest, older);
    let fetched = cluster.local("fetched");
    let fetch = || {
        if fetched.exists() {
            std::fs::remove_dir_all(&fetched).expect("a directory");
        }
        std::fs::create_dir_all(&fetched).expect("a directory");
        cluster.run(&["dfsadmin", "-fetchImage", "fetched"])
    };
    rot(path);
    fetch().ok();
    assert!(fetched.join(older).exists());
    assert!(!fetched.join(newest).exists(), "a rotten image");
    // With no image that verifies left there is nothing to give: nothing is installed, and it is said why.
    rot(&here[older]);
    let refused = fetch();
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(refused.stderr.contains("image"), "{}", refused.stderr);
    let left = std::fs::read_dir(&fetched).expect("a directory");
    assert_eq!(left.count(), 0, "something is left of it");
    for path in here.values() {
        rot(path);
    }

    // A standby whose newest image rotted starts from the one before, and says so.
    let own = images(cluster, &standby[0]);
    let (name, path) = own.last_key_value().expect("an image");
    cluster.kill_node(&standby[0]);
    rot(path);
    cluster.start_node(&standby[0]);
    roles.settled();
    roles.await_equal_digests(&NAMENODES);
    if own.len() > 1 {
        let txid = name.trim_start_matches("fsimage_").trim_start_matches('0');
        let told = format!("image {txid} is passed over");
        assert!(cluster.log(&standby[0]).contains(&told), "{told}");
    }
}

/// Bad input: the configuration names a NameNode of another cluster. The role is not handed to it, whoever is told to do so
/// is told what it is, and the cluster works on.
fn a_stranger_is_refused(cluster: &TestCluster, roles: &Roles<'_>) {
    let (active, standby) = roles.settled();
    let stranger = &standby[1];
    cluster.kill_node(stranger);
    // Its namespace is its own: another directory, and a journal of its own.
    let dir = cluster.local("stranger");
    let own = cluster.data(stranger).display().to_string();
    let config = cluster.config(stranger);
    let config = config
        .replace(&own, &dir.display().to_string())
        .replace("automatic = true", "automatic = false")
        .replace("command = \"\"", "command = \"true\"")
        .replace(
            "shared_edits_dir = \"\"",
            &format!(
                "shared_edits_dir = \"{}\"",
                cluster.local("filer").display()
            ),
        );
    let mut inside = false;
    let without_journalnodes = config.lines().filter(|line| {
        if line.starts_with('[') {
            inside = *line == "[[cluster.journalnodes]]";
        }
        !inside
    });
    let config = without_journalnodes.collect::<Vec<_>>().join("\n");
    cluster.write_local("stranger.toml", &config);
    let file = cluster.local("stranger.toml");
    let format = [
        "namenode",
        "-format",
        "-nonInteractive",
        "-clusterid",
        "CID-other",
    ];
    run(Command::new(hadal())
        .args(format)
        .args(["--id", stranger, "--config"])
        .arg(&file))
    .ok();
    let mut daemon_of_it = Command::new(hadal())
        .args(["namenode", "--id", stranger, "--config"])
        .arg(&file)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the stranger");
    let texts = ["CID-other", "two clusters"];
    eventually("the active says who that is", SOON, || {
        let log = cluster.log(&active);
        let all = texts.iter().all(|text| log.contains(text));
        all.then_some(())
            .ok_or_else(|| log[log.len().saturating_sub(500)..].to_owned())
    });
    let refused = cluster.run(&["haadmin", "-failover", &active, stranger]);
    refused.fails(255, &texts);
    eventually("the DataNode says so", SOON, || {
        let log = cluster.log("dn1");
        let told = log.contains("mismatch: previously connected to");
        told.then_some(())
            .ok_or_else(|| log[log.len().saturating_sub(500)..].to_owned())
    });
    cluster.dfs(&["-mkdir", "/undisturbed"]).ok();
    daemon_of_it.kill().expect("it runs");
    daemon_of_it.wait().expect("it ends");
    // What it left is refused in the cluster's place.
    let mixed = cluster
        .config(stranger)
        .replace(&own, &dir.display().to_string());
    cluster.write_local("mixed.toml", mixed);
    let ended = daemon("namenode", stranger, &cluster.local("mixed.toml"));
    ended.fails(76, &["holds namespace"]);
    cluster.start_node(stranger);
    roles.settled();
    roles.await_equal_digests(&NAMENODES);
}
