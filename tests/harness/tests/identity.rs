//! Whose certificate, whose data: daemons and clients refuse what is not theirs, by name, and touch nothing.

use hadal_quic::{ClusterCa, Validity};
use hadal_types::Role;
use harness::{Output, TestCluster, alone, daemon};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[track_caller]
fn refuses(output: &Output, texts: &[&str]) {
    output.fails(1, texts);
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

/// A certificate of another node or of another role ends a daemon at its start: nobody would believe it.
#[test]
fn certificates_of_others_are_refused_by_their_holders() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let tls = cluster.root().join("tls");
    for (holder, role) in [("jn2", Role::Journalnode), ("dn1", Role::Datanode)] {
        for (kind, id, wanted) in roles() {
            if holder == id {
                continue;
            }
            let dir = cluster.local(&format!("{holder}-for-{id}"));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::copy(tls.join("ca.pem"), dir.join("ca.pem")).unwrap();
            for end in [".pem", "-key.pem"] {
                let (from, to) = (format!("{holder}{end}"), format!("{id}{end}"));
                std::fs::copy(tls.join(from), dir.join(to)).unwrap();
            }
            let (from, to) = (tls.to_string_lossy(), dir.to_string_lossy());
            let file = cluster.local(&format!("{holder}-for-{id}.toml"));
            std::fs::write(&file, cluster.config(id).replace(&*from, &to)).unwrap();
            daemon(kind, id, &file).fails(
                1,
                &[
                    &format!("{id}.pem"),
                    &format!("the certificate of {role}/{holder}"),
                    &format!("hadal tls issue --role {wanted} --name {id}"),
                ],
            );
        }
    }
}

/// Certificates that fit each other, but are another cluster's: a DataNode or NameNode that starts with them ends and says
/// so, and changes nothing.
#[test]
fn daemons_with_a_foreign_authority_are_told_so() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let foreign = cluster.local("foreign");
    std::fs::create_dir_all(&foreign).unwrap();
    let authority = ClusterCa::init(&foreign, "other").unwrap();
    let from = cluster.root().join("tls");
    let config = |id: &str| {
        let file = cluster.local(&format!("foreign-{id}.toml"));
        let text = cluster.config(id);
        let text = text.replace(&*from.to_string_lossy(), &foreign.to_string_lossy());
        std::fs::write(&file, text).unwrap();
        file
    };
    for (role, id, kind, other) in [
        ("namenode", "nn1", Role::Namenode, "jn1"),
        ("datanode", "dn1", Role::Datanode, "nn1"),
    ] {
        authority
            .issue_to(&foreign, kind, id, &[], Validity::days(1))
            .unwrap();
        cluster.kill_node(id);
        let ended = daemon(role, id, &config(id));
        ended.fails(76, &["trust each other", "foreign CA", other]);
        assert!(!ended.stderr.contains("active in epoch"), "{ended:?}");
        cluster.start_node(id);
    }
    cluster.dfs(&["-mkdir", "/still"]).ok();
}
