//! A machine without io_uring, as a container's seccomp profile makes one: `doctor` and the daemons say what is wrong and
//! how to mend it.

use harness::{TestCluster, alone, daemon};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The same on every architecture.
const IO_URING_SETUP: i64 = 425;

/// Runs commands that get this error when they ask for an io_uring. The filter is of the thread they are started from,
/// and goes with it.
fn without_io_uring(errno: u32, commands: impl FnOnce() + Send) {
    let arch = std::env::consts::ARCH
        .try_into()
        .expect("an architecture that filters know");
    let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
    let (other, matched) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    let filter = SeccompFilter::new(rules, other, matched, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    std::thread::scope(|scope| {
        let filtered = scope.spawn(move || {
            seccompiler::apply_filter(&program).expect("the filter is applied");
            commands();
        });
        filtered.join().expect("the commands");
    });
}

#[test]
fn without_io_uring_doctor_and_daemons_say_how_to_mend_it() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/kept"]).ok();
    cluster.dev(&["down"]).ok();
    for (errno, texts) in [
        (
            EPERM,
            [
                "io_uring is forbidden (EPERM; kernel.io_uring_disabled = ",
                "sysctl kernel.io_uring_disabled=0",
            ],
        ),
        (
            ENOSYS,
            [
                "io_uring is missing (ENOSYS)",
                "io_uring_setup, io_uring_enter and io_uring_register in the profile",
            ],
        ),
    ] {
        without_io_uring(errno, || {
            let doctor = cluster.run(&["doctor"]);
            assert_eq!(doctor.code, 1, "{}{}", doctor.stdout, doctor.stderr);
            let bad = doctor
                .stdout
                .lines()
                .find(|line| line.contains("io_uring: "));
            let bad = bad.unwrap_or_else(|| panic!("no word of io_uring: {}", doctor.stdout));
            assert!(bad.trim_start().starts_with("bad"), "{bad}");
            for text in texts {
                assert!(bad.contains(text), "{text:?} is not in: {bad}");
            }
            for (role, id) in [
                ("namenode", "nn1"),
                ("journalnode", "jn1"),
                ("datanode", "dn1"),
            ] {
                let config = cluster.root().join(format!("conf/{id}.toml"));
                daemon(role, id, &config).fails(1, &texts);
            }
        });
    }
    // Nothing of it left a trace.
    cluster.up().ok();
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, "/kept\n");
}
