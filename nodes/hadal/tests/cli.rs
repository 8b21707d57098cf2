//! The command line without a cluster: what it refuses, and what it answers by itself.

use assert_cmd::Command;
use std::path::Path;

/// The command in an empty directory, with nobody's configuration.
struct Shell {
    dir: tempfile::TempDir,
}

/// What a command said.
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Shell {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> Answer {
        self.run_as(assert_cmd::cargo::cargo_bin!("hadal"), args)
    }

    fn run_as(&self, program: &Path, args: &[&str]) -> Answer {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .output()
            .unwrap();
        Answer {
            code: output.status.code().expect("no signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Writes `hadal-dev/client.toml`, where the command finds it.
    fn configure(&self, text: &str) {
        std::fs::create_dir_all(self.dir.path().join("hadal-dev")).unwrap();
        std::fs::write(self.dir.path().join("hadal-dev/client.toml"), text).unwrap();
    }
}

#[test]
fn usage_errors_exit_with_255_in_fsshell_s_words() {
    let shell = Shell::new();
    for (args, first) in [
        (&["dfs", "-bogus"][..], "-bogus: Unknown command"),
        (&["dfs", "bogus", "/"], "bogus: Unknown command"),
        (&["fs", "-ls", "-z"], "-ls: Illegal option -z"),
        (
            &["dfs", "-mkdir"],
            "-mkdir: Not enough arguments: expected 1 but got 0",
        ),
        (
            &["dfs", "-cp", "/a"],
            "-cp: Not enough arguments: expected 2 but got 1",
        ),
        (
            &["dfs", "-test", "-e", "/a", "/b"],
            "-test: Too many arguments: expected 1 but got 2",
        ),
        (
            &["dfs", "-chmod", "u+q", "/a"],
            "-chmod: chmod : mode 'u+q' does not match the expected pattern.",
        ),
        (
            &["dfs", "-truncate", "-1", "/a"],
            "-truncate: Illegal option -1",
        ),
        (
            &["dfs", "-truncate", "-w", "1k", "/a"],
            "-truncate: the length must be a number of bytes, not `1k'",
        ),
        (&["dfs"], "Usage: hadal dfs [generic options]"),
        (&["dfsadmin", "-bogus"], "-bogus: Unknown command"),
        (&["haadmin", "-bogus"], "-bogus: Unknown command"),
        (&["namenode", "-bogus"], "namenode: Illegal option --bogus"),
    ] {
        let answer = shell.run(args);
        assert_eq!(answer.code, 255, "{args:?}");
        assert_eq!(answer.err.lines().next(), Some(first), "{args:?}");
        assert_eq!(answer.out, "", "{args:?}");
    }
    for args in [
        &["bogus"][..],
        &["fsck"],
        &["dfsadmin", "-safemode", "maybe"],
        &["haadmin", "-getServiceState"],
        &["debug", "jn-stats"],
        &["tls", "issue", "--role", "king", "--name", "a", "dir"],
        &[],
    ] {
        let answer = shell.run(args);
        assert_eq!(answer.code, 255, "{args:?}: {}", answer.err);
        assert_eq!(answer.out, "", "{args:?}");
    }
    let usage = shell.run(&["dfs", "-mkdir"]);
    assert!(
        usage
            .err
            .ends_with("Usage: hadal dfs [generic options] -mkdir [-p] <path> ...\n")
    );
}

#[test]
fn what_is_not_there_says_so_by_name() {
    let shell = Shell::new();
    for (args, name) in [
        (&["dfs", "-expunge"][..], "dfs -expunge"),
        (&["dfsadmin", "-metasave", "f"], "dfsadmin -metasave"),
        (&["debug", "verifyMeta"], "debug verifyMeta"),
        (&["fsck", "/", "-delete"], "fsck -delete"),
        (&["namenode", "-rollback"], "namenode -rollback"),
        (&["balancer", "-asService"], "balancer -asService"),
        (&["oiv", "-i", "f", "-p", "Web"], "oiv -p Web"),
    ] {
        let answer = shell.run(args);
        assert_eq!(answer.code, 1, "{args:?}: {}", answer.err);
        assert!(
            answer.err.contains("UnsupportedOperation") && answer.err.contains(name),
            "{args:?}: {}",
            answer.err
        );
    }
}

#[test]
fn help_is_given_on_standard_output() {
    let shell = Shell::new();
    for (args, part) in [
        (&["--help"][..], "hadal dfs -ls /"),
        (&["dfs", "-help"], "-ls [-C] [-d]"),
        (
            &["dfs", "-help", "mkdir"],
            "-mkdir [-p] <path> ... :\n  Make directories",
        ),
        (
            &["dfs", "-usage", "-mkdir"],
            "Usage: hadal dfs [generic options] -mkdir [-p] <path> ...",
        ),
        (&["dfsadmin", "-help"], "safemode"),
        (&["version"], "Hadal "),
        (&["completions", "bash"], "hadal"),
        (&["man"], ".TH hadal 1"),
    ] {
        let answer = shell.run(args);
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.err);
        assert!(answer.out.contains(part), "{args:?}: {}", answer.out);
        assert_eq!(answer.err, "", "{args:?}");
    }
    assert_eq!(shell.run(&["dfs", "-help", "bogus"]).code, 255);
}

/// T-A1: help with a command is an answer, without one a usage error, as with HAAdmin; a node nobody knows is one too
/// (asked of a cluster in `tests/harness/tests/journal.rs`).
#[test]
fn t_a1_haadmin_helps_with_a_command() {
    let shell = Shell::new();
    let answer = shell.run(&["haadmin", "-help"]);
    assert_eq!((answer.code, &*answer.out), (255, ""));
    assert!(answer.err.contains("failover"), "{}", answer.err);
    let answer = shell.run(&["haadmin", "-help", "failover"]);
    assert_eq!((answer.code, &*answer.err), (0, ""));
    assert!(answer.out.contains("--forcefence"), "{}", answer.out);
    let answer = shell.run(&["haadmin", "-help", "transitionToActive"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    // T-A2: two arguments and no junk.
    for args in [
        &["haadmin", "-failover", "nn1"][..],
        &["haadmin", "-failover", "nn1", "nn2", "nn3"],
        &["haadmin", "-failover", "-bogus", "nn1", "nn2"],
    ] {
        assert_eq!(shell.run(args).code, 255, "{args:?}");
    }
}

#[test]
fn the_program_may_be_called_hdfs() {
    let shell = Shell::new();
    let link = shell.dir.path().join("hdfs");
    std::os::unix::fs::symlink(assert_cmd::cargo::cargo_bin!("hadal"), &link).unwrap();
    let answer = shell.run_as(&link, &["dfs", "-usage", "ls"]);
    assert_eq!(answer.code, 0);
    assert!(answer.out.contains("-ls [-C]"));
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let shell = Shell::new();
    std::fs::create_dir(shell.path("man")).unwrap();
    assert_eq!(shell.run(&["man", "--dir", "man"]).code, 0);
    for page in ["hadal.1", "hadal-dfs-put.1", "hadal-dfsadmin.1"] {
        assert!(Path::new(&shell.path("man")).join(page).exists(), "{page}");
    }
}

#[test]
fn a_client_without_configuration_is_told_where_to_put_it() {
    let shell = Shell::new();
    let answer = shell.run(&["dfs", "-ls", "/"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer.err.contains("no NameNode is configured")
            && answer.err.contains("hadal-dev/client.toml"),
        "{}",
        answer.err
    );
}

#[test]
fn a_client_without_a_certificate_is_told_which_is_missing() {
    let shell = Shell::new();
    shell.configure(
        "[cluster]\nnamenodes = [{ id = \"nn1\", address = \"127.0.0.1:9\" }]\n[tls]\ndir = \"keys\"\nname = \"me\"\n",
    );
    let answer = shell.run(&["dfs", "-ls", "/"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer.err.contains("tls.name = me") && answer.err.contains("keys/"),
        "{}",
        answer.err
    );
}

#[test]
fn configuration_errors_name_the_key_and_the_nearest() {
    let shell = Shell::new();
    shell.configure("[client]\nreplicaton = 2\n");
    let answer = shell.run(&["getconf", "-confKey", "client.replication"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer
            .err
            .contains("unknown key `client.replicaton' in hadal-dev/client.toml; did you mean `client.replication'?"),
        "{}",
        answer.err
    );
    let answer = shell.run(&["getconf", "--config", "nowhere.toml"]);
    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("nowhere.toml"), "{}", answer.err);
    let answer = shell.run(&["-D", "client.umsk=1", "dfs", "-ls", "/"]);
    assert_eq!(answer.code, 1);
}

/// T-F3: names are not looked up (Q18): a JournalNode that is not given by its address is a clear error at once.
#[test]
fn t_f3_a_journalnode_without_an_address_is_refused_by_name() {
    let shell = Shell::new();
    std::fs::write(
        shell.path("nn.toml"),
        "[[cluster.namenodes]]\nid = \"nn1\"\naddress = \"127.0.0.1:8020\"\n\
         [[cluster.journalnodes]]\nid = \"jn1\"\naddress = \"no-such-host.invalid:8485\"\n",
    )
    .unwrap();
    let answer = shell.run(&["namenode", "--config", "nn.toml", "--id", "nn1"]);
    assert_eq!(answer.code, 1);
    for text in ["cluster.journalnodes", "no-such-host.invalid:8485"] {
        assert!(answer.err.contains(text), "{text}: {}", answer.err);
    }
}

#[test]
fn getconf_tells_values_and_where_they_came_from() {
    let shell = Shell::new();
    shell.configure(
        "[client]\nreplication = 2\n[cluster]\nnamenodes = [{ id = \"nn1\", address = \"127.0.0.1:8020\" }]\n",
    );
    let answer = shell.run(&["getconf", "-confKey", "client.replication"]);
    assert_eq!((answer.code, answer.out.as_str()), (0, "2\n"));
    assert!(answer.err.contains("hadal-dev/client.toml"));
    let answer = shell.run(&["getconf", "--quiet", "-confKey", "dfs.blocksize"]);
    assert_eq!((answer.out.as_str(), answer.err.as_str()), ("128MiB\n", ""));
    let answer = shell.run(&[
        "-D",
        "client.replication=5",
        "getconf",
        "--json",
        "-confKey",
        "client.replication",
    ]);
    assert!(
        answer.out.contains("\"value\": \"5\"") && answer.out.contains("command line"),
        "{}",
        answer.out
    );
    assert_eq!(
        shell.run(&["getconf", "-namenodes"]).out,
        "127.0.0.1:8020\n"
    );
    let all = shell.run(&["getconf"]).out;
    assert!(all.contains("client.replication = 2  # hadal-dev/client.toml\n"));
    assert!(all.contains("datanode.heartbeat_interval = 3s  # default\n"));
    let answer = shell.run(&["getconf", "-confKey", "client.replicaton"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer.err.contains("is missing") && answer.err.contains("client.replication"),
        "{}",
        answer.err
    );
}

#[test]
fn certificates_are_made_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let shell = Shell::new();
    let early = shell.run(&["tls", "issue", "--role", "client", "--name", "me", "keys"]);
    assert_eq!(early.code, 1);
    assert!(early.err.contains("hadal tls init-ca"), "{}", early.err);
    assert_eq!(shell.run(&["tls", "init-ca", "keys"]).code, 0);
    let issue = [
        "tls", "issue", "--role", "datanode", "--name", "dn1", "keys", "--days", "30",
    ];
    let answer = shell.run(&issue);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(answer.out, "keys/dn1.pem\nkeys/dn1-key.pem\n");
    for key in ["keys/ca-key.pem", "keys/dn1-key.pem"] {
        let mode = std::fs::metadata(shell.path(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let before = std::fs::read(shell.path("keys/dn1.pem")).unwrap();
    for again in [&issue[..], &["tls", "init-ca", "keys"]] {
        let answer = shell.run(again);
        assert_eq!(answer.code, 1);
        assert!(answer.err.contains("exists"), "{}", answer.err);
    }
    assert_eq!(std::fs::read(shell.path("keys/dn1.pem")).unwrap(), before);
    let elsewhere = shell.run(&[
        "tls", "issue", "--role", "admin", "--name", "me", "keys", "--out", "mine",
    ]);
    assert_eq!(elsewhere.out, "mine/me.pem\nmine/me-key.pem\n");
}

#[test]
fn the_doctor_says_what_is_wrong_and_how_to_mend_it() {
    let shell = Shell::new();
    let answer = shell.run(&["doctor", "--json", "--dir", "nowhere"]);
    assert_eq!(answer.code, 1);
    let found: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(found["healthy"], false);
    let findings = found["findings"].as_array().unwrap();
    let finding = |start: &str| {
        let of =
            |finding: &&serde_json::Value| finding["check"].as_str().unwrap().starts_with(start);
        findings
            .iter()
            .find(of)
            .unwrap_or_else(|| panic!("{start}"))
    };
    assert_eq!(finding("O_DIRECT in nowhere")["verdict"], "bad");
    assert_ne!(finding("O_DIRECT in nowhere")["remedy"], "");
    assert_eq!(finding("certificate")["verdict"], "bad");
    assert_eq!(finding("NameNode")["verdict"], "skipped");
    for check in [
        "kernel",
        "io_uring",
        "locked memory",
        "open files",
        "UDP buffers",
        "port",
    ] {
        finding(check);
    }
}

#[test]
fn arguments_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let output = Command::new(assert_cmd::cargo::cargo_bin!("hadal"))
        .args(["dfs", "-ls"])
        .arg(std::ffi::OsStr::from_bytes(b"/bad\xff"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not valid UTF-8"));
}
