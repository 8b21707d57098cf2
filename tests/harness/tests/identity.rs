//! Whose certificate, whose data: daemons and clients refuse what is not theirs, by name, and touch nothing.

use hadal_quic::{ClusterCa, Validity};
use hadal_types::Role;
use harness::{Output, TestCluster, alone, hadal, run};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn daemon(role: &str, id: &str, config: &Path) -> Output {
    let mut command = Command::new(hadal());
    run(command
        .arg(role)
        .arg("--config")
        .arg(config)
        .args(["--id", id]))
}

#[track_caller]
fn refuses(output: &Output, texts: &[&str]) {
    assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
    for text in texts {
        assert!(
            output.stderr.contains(text),
            "{text:?} is not in: {}",
            output.stderr
        );
    }
}

/// The role a node's id stands for.
fn roles() -> [(&'static str, &'static str, Role); 3] {
    [
        ("namenode", "nn1", Role::Namenode),
        ("journalnode", "jn1", Role::Journalnode),
        ("datanode", "dn1", Role::Datanode),
    ]
}

/// An expired certificate, and one of another authority than the `ca.pem` beside it, end a daemon at its start and a
/// client at once.
#[test]
fn expired_and_foreign_certificates_are_refused_by_their_holders() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let tls = cluster.root().join("tls");
    let client = cluster.config("client");
    let user = client
        .lines()
        .find_map(|line| line.strip_prefix("superuser = \"")?.strip_suffix('"'))
        .expect("the superuser");
    let own = ClusterCa::load(&tls).unwrap();
    let (other_dir, now) = (cluster.local("other-ca"), SystemTime::now());
    std::fs::create_dir_all(&other_dir).unwrap();
    let other = ClusterCa::init(&other_dir, "other").unwrap();
    let over = Validity {
        not_before: now - 2 * DAY,
        not_after: now - DAY,
    };
    for (name, ca, validity, texts) in [
        ("expired", &own, over, ["expired", "hadal tls issue"]),
        ("foreign", &other, Validity::days(1), ["ca.pem", "CA"]),
    ] {
        let dir = cluster.local(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(tls.join("ca.pem"), dir.join("ca.pem")).unwrap();
        let (from, to) = (tls.to_string_lossy(), dir.to_string_lossy());
        for (role, id, kind) in roles() {
            ca.issue_to(&dir, kind, id, &[], validity).unwrap();
            let file = cluster.local(&format!("{name}-{id}.toml"));
            std::fs::write(&file, cluster.config(id).replace(&*from, &to)).unwrap();
            let pem = dir.join(format!("{id}.pem")).display().to_string();
            let output = daemon(role, id, &file);
            refuses(&output, &texts);
            refuses(&output, &[&pem]);
        }
        ca.issue_to(&dir, Role::Admin, user, &[], validity).unwrap();
        cluster.write_local("client.toml", client.replace(&*from, &to));
        let output = cluster.run(&["--config", "client.toml", "dfs", "-mkdir", "/x"]);
        refuses(&output, &texts);
    }
    assert_eq!(cluster.dfs(&["-ls", "/"]).ok().stdout, "");
}

/// CRC32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// A DataNode whose directory belongs to another cluster, or was written by a newer version, ends with an error that
/// names the difference, and leaves the directory as it was (F-15). What is in the place of a data directory
/// but is none is refused too.
#[test]
fn directories_of_others_are_refused_and_left_alone() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.write_local("hello", "hello\n");
    cluster.dfs(&["-put", "hello", "/hello"]).ok();
    cluster.kill_node("dn1");
    let version = cluster.data("dn1").join("current/VERSION");
    let mine = std::fs::read_to_string(&version).unwrap();
    let config = cluster.root().join("conf/dn1.toml");
    let dir = cluster.data("dn1").display().to_string();
    let told = |texts: &[&str]| {
        let output = daemon("datanode", "dn1", &config);
        assert_eq!(output.code, 76, "{}{}", output.stdout, output.stderr);
        for text in texts {
            assert!(output.stderr.contains(text), "{text:?}: {}", output.stderr);
        }
    };
    let (body, _) = mine.rsplit_once("crc32c=").unwrap();
    for (key, value, message) in [
        ("cluster", "CID-of-another", "Cluster ID mismatch"),
        ("block_pool", "BP-of-another", "Blockpool ID mismatch"),
        ("layout", "999", &*dir),
    ] {
        let changed: String = body
            .lines()
            .map(|line| match line.split_once('=') {
                Some((name, _)) if name == key => format!("{key}={value}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_ne!(changed, body, "{key}");
        let text = format!("{changed}crc32c={:08x}\n", crc32c(changed.as_bytes()));
        std::fs::write(&version, &text).unwrap();
        told(&[message, value]);
        assert_eq!(std::fs::read_to_string(&version).unwrap(), text);
    }
    // Edited without its checksum.
    std::fs::write(&version, mine.replace("layout=", "layout=9")).unwrap();
    refuses(
        &daemon("datanode", "dn1", &config),
        &[&dir, "VERSION", "damaged"],
    );
    std::fs::write(&version, &mine).unwrap();
    for (role, id, _) in roles() {
        if id != "dn1" {
            cluster.kill_node(id);
        }
        let file = cluster.local(&format!("file-{id}"));
        std::fs::write(&file, "").unwrap();
        let (from, to) = (cluster.data(id), file.display().to_string());
        let text = cluster.config(id).replace(&*from.to_string_lossy(), &to);
        let config = cluster.local(&format!("in-file-{id}.toml"));
        std::fs::write(&config, text).unwrap();
        refuses(&daemon(role, id, &config), &[&to]);
    }
    for (_, id, _) in roles() {
        cluster.start_node(id);
    }
    harness::eventually("all is as before", Duration::from_secs(40), || {
        let output = cluster.dfs(&["-cat", "/hello"]);
        (output.stdout == "hello\n")
            .then_some(())
            .ok_or(output.stderr)
    });
}
