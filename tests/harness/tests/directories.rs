//! Data directories that are another's, of a newer version, or not to be written to: refused by name, and left alone.

use harness::{ReadOnly, SOON, TestCluster, alone, daemon, eventually};
use std::path::Path;
use std::process::Command;

const NODES: [(&str, &str); 3] = [
    ("namenode", "nn1"),
    ("journalnode", "jn1"),
    ("datanode", "dn1"),
];

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
    let config = cluster.config_file("dn1");
    let dir = cluster.data("dn1").display().to_string();
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
        daemon("datanode", "dn1", &config).fails(76, &[message, value, &dir]);
        assert_eq!(std::fs::read_to_string(&version).unwrap(), text);
    }
    // Edited without its checksum.
    std::fs::write(&version, mine.replace("layout=", "layout=9")).unwrap();
    daemon("datanode", "dn1", &config).fails(1, &[&dir, "VERSION", "damaged"]);
    std::fs::write(&version, &mine).unwrap();
    for (role, id) in NODES {
        if id != "dn1" {
            cluster.kill_node(id);
        }
        let file = cluster.local(&format!("file-{id}"));
        std::fs::write(&file, "").unwrap();
        let (from, to) = (cluster.data(id), file.display().to_string());
        let text = cluster.config(id).replace(&*from.to_string_lossy(), &to);
        let config = cluster.local(&format!("in-file-{id}.toml"));
        std::fs::write(&config, text).unwrap();
        daemon(role, id, &config).fails(1, &[&to]);
    }
    for (_, id) in NODES {
        cluster.start_node(id);
    }
    eventually("all is as before", SOON, || {
        let output = cluster.dfs(&["-cat", "/hello"]);
        (output.stdout == "hello\n")
            .then_some(())
            .ok_or(output.stderr)
    });
}

/// Changes both copies in a two-slot record (its format is in `engine/store/record`), with checksums that fit.
fn change_record(path: &Path, change: impl Fn(&mut [u8])) {
    let mut file = std::fs::read(path).unwrap();
    for slot in file.chunks_exact_mut(4096) {
        assert!(slot.starts_with(b"HADALREC"), "{}", path.display());
        change(&mut slot[40..]);
        let summed: Vec<u8> = [&slot[..12], &slot[16..]].concat();
        slot[12..16].copy_from_slice(&crc32c(&summed).to_le_bytes());
    }
    std::fs::write(path, file).unwrap();
}

/// A NameNode and a JournalNode refuse the directory of a newer version, and leave it as it was.
#[test]
fn a_newer_layout_is_refused_by_name() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/kept"]).ok();
    for (role, id, record, at) in [
        ("namenode", "nn1", "VERSION", 0),
        // Behind the byte that says that there is an identity.
        ("journalnode", "jn1", "promises", 1),
    ] {
        cluster.kill_node(id);
        let path = cluster.data(id).join(record);
        let before = std::fs::read(&path).unwrap();
        change_record(&path, |payload| payload[at] = 99);
        let changed = std::fs::read(&path).unwrap();
        let config = cluster.root().join(format!("conf/{id}.toml"));
        let dir = cluster.data(id).display().to_string();
        daemon(role, id, &config)
            .fails(1, &[&dir, "has layout 99", "run the version that wrote it"]);
        assert!(std::fs::read(&path).unwrap() == changed, "{id} wrote to it");
        std::fs::write(&path, before).unwrap();
        cluster.start_node(id);
    }
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, "/kept\n");
}

/// Puts a copy of one directory into the place of another; what was there comes back when this is dropped.
struct Swapped<'a>(&'a Path);

impl<'a> Swapped<'a> {
    fn with(dir: &'a Path, other: &Path) -> Self {
        std::fs::rename(dir, dir.with_extension("own")).unwrap();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(other).arg(dir);
        assert!(copy.status().unwrap().success(), "{copy:?}");
        Self(dir)
    }
}

impl Drop for Swapped<'_> {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.0).expect("the other's directory goes");
        std::fs::rename(self.0.with_extension("own"), self.0).expect("the own directory is back");
    }
}

/// T-N3, F-15: a NameNode whose directory is of another cluster than the JournalNodes ends and names both; one
/// JournalNode of another cluster is told of and does not hold up the others, two keep the NameNode from starting.
#[test]
fn t_n3_directories_of_another_cluster_are_named() {
    let _alone = alone();
    let other = TestCluster::start(1);
    other.dev(&["down"]).ok();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/kept"]).ok();
    let config = cluster.config_file("nn1");
    let [nn1, jn1, jn2, dn1] = ["nn1", "jn1", "jn2", "dn1"].map(|id| cluster.data(id));
    cluster.kill_node("nn1");
    cluster.kill_node("dn1");
    {
        let _swapped = Swapped::with(&nn1, &other.data("nn1"));
        let dir = nn1.display().to_string();
        daemon("namenode", "nn1", &config).fails(
            76,
            &[
                &dir,
                "JournalNode jn",
                "holds namespace",
                "-bootstrapStandby",
            ],
        );
    }
    cluster.start_node("nn1");
    {
        let _swapped = Swapped::with(&dn1, &other.data("dn1"));
        let dir = dn1.display().to_string();
        daemon("datanode", "dn1", &cluster.config_file("dn1")).fails(
            76,
            &[
                &dir,
                "mismatch: previously connected to",
                "empty directories",
            ],
        );
    }
    cluster.start_node("dn1");
    for id in ["jn1", "jn2"] {
        cluster.kill_node(id);
    }
    {
        let _first = Swapped::with(&jn1, &other.data("jn1"));
        for id in ["jn1", "jn2"] {
            cluster.start_node(id);
        }
        let dir = jn1.display().to_string();
        for (id, text) in [
            ("nn1", "JournalNode jn1 holds namespace"),
            (
                "jn1",
                &format!("{dir} is of another cluster than JournalNode"),
            ),
        ] {
            eventually("it is told", SOON, || {
                let log = cluster.log(id);
                log.contains(text).then_some(()).ok_or(log)
            });
        }
        cluster.dfs(&["-mkdir", "/with-two"]).ok();
        cluster.kill_node("jn1");
    }
    cluster.start_node("jn1");
    cluster.dfs(&["-mkdir", "/with-three"]).ok();
    for id in ["nn1", "jn1", "jn2"] {
        cluster.kill_node(id);
    }
    {
        let _first = Swapped::with(&jn1, &other.data("jn1"));
        let _second = Swapped::with(&jn2, &other.data("jn2"));
        for id in ["jn1", "jn2"] {
            cluster.start_node(id);
        }
        daemon("namenode", "nn1", &config).fails(76, &["JournalNode jn1", "JournalNode jn2"]);
        for id in ["jn1", "jn2"] {
            cluster.kill_node(id);
        }
    }
    for id in ["jn1", "jn2", "nn1"] {
        cluster.start_node(id);
    }
    let names = cluster.dfs(&["-ls", "-C", "/"]).ok().stdout;
    assert_eq!(names, "/kept\n/with-three\n/with-two\n");
}

/// A directory that must not be written to ends a daemon at its start with the directory's name; `doctor` tells of it too.
#[test]
fn directories_that_are_not_writable_are_named() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/kept"]).ok();
    for (role, id) in NODES {
        cluster.kill_node(id);
        let dir = cluster.data(id);
        let read_only = ReadOnly::make(&dir);
        let config = cluster.root().join(format!("conf/{id}.toml"));
        let named = dir.display().to_string();
        daemon(role, id, &config).fails(1, &[&named, "Read-only file system"]);
        let doctor = cluster.run(&["doctor", "--dir", &named]);
        assert_eq!(doctor.code, 1, "{}", doctor.stdout);
        for text in [
            &*named,
            "Read-only file system",
            "be writable for this user",
        ] {
            assert!(doctor.stdout.contains(text), "{text}: {}", doctor.stdout);
        }
        drop(read_only);
        cluster.start_node(id);
    }
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, "/kept\n");
}
