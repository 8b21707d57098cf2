//! The development cluster as a user has it: in the current directory, with no configuration.

use harness::{Output, Ports, Reaper, SOON, alone, eventually, processes, run, without_settings};
use std::path::Path;

/// `hadal` in a directory, with nobody's settings.
fn hadal_in(dir: &Path, args: &[&str]) -> Output {
    run(without_settings()
        .args(args)
        .current_dir(dir)
        .env("HOME", dir))
}

#[test]
fn another_shell_in_the_same_directory_needs_no_configuration() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let ports = Ports::take();
    let refused = hadal_in(&dir, &["dev", "kill", "dn1"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("no development cluster in"),
        "{}",
        refused.stderr
    );
    let _reaper = Reaper::over(&dir);
    let base = ports.base().to_string();
    hadal_in(
        &dir,
        &[
            "dev",
            "--detach",
            "--namenodes",
            "1",
            "--datanodes",
            "2",
            "--port-base",
            &base,
        ],
    )
    .ok();
    std::fs::write(dir.join("hello"), "hello\n").unwrap();
    hadal_in(&dir, &["dfs", "-put", "hello", "/hello"]).ok();
    hadal_in(&dir, &["dfs", "-get", "/hello", "back"]).ok();
    assert_eq!(
        std::fs::read_to_string(dir.join("back")).unwrap(),
        "hello\n"
    );
    for id in ["nn1", "jn1", "jn2", "jn3", "dn1", "dn2"] {
        hadal_in(&dir, &["dev", "kill", id]).ok();
        hadal_in(&dir, &["dev", "start", id]).ok();
        eventually("the file can be read", SOON, || {
            let output = hadal_in(&dir, &["dfs", "-cat", "/hello"]);
            (output.stdout == "hello\n")
                .then_some(())
                .ok_or(output.stderr)
        });
    }
    let status = hadal_in(&dir, &["--json", "dev", "status"]).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["processes"].as_array().unwrap().len(), 6, "{status}");
    assert_eq!(processes(&dir).len(), 6);
    hadal_in(&dir, &["dev", "down"]).ok();
    assert_eq!(processes(&dir), [""; 0]);
    // A client of a cluster that is down is told so, and ends.
    let output = hadal_in(
        &dir,
        &["-D", "client.retry_window=2s", "dfs", "-ls", "/hello"],
    );
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("nn1"), "{}", output.stderr);
}
