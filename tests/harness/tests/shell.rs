//! `hadal dfs` against a real cluster, in FsShell's words and exit codes.

use harness::{Output, Random, TestCluster, alone, hadal, run};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

#[track_caller]
fn fails(output: &Output, code: i32, error: &str) {
    assert_eq!((output.code, output.error()), (code, error));
    assert_eq!(output.stdout, "");
}

/// Lines of a listing without the date: mode, replication, owner, group, size, path.
fn listing(output: Output) -> Vec<String> {
    let words = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Found", ..] => line.to_owned(),
            [mode, replication, _, _, size, _, _, path] => {
                format!("{mode} {replication} {size} {path}")
            }
            _ => panic!("not a listing: {line}"),
        }
    };
    output.ok().stdout.lines().map(words).collect()
}

#[test]
fn files_go_in_and_come_back() {
    let _alone = alone();
    let cluster = TestCluster::start(3);
    let content = Random::default().bytes(3_000_000);
    cluster.write_local("three", &content);
    cluster.write_local("hello", "hello\n");
    assert_eq!(cluster.dfs(&["-ls", "/"]).ok().stdout, "");
    cluster.dfs(&["-mkdir", "-p", "/a/b"]).ok();
    cluster.dfs(&["-put", "three", "/a/f"]).ok();
    cluster.dfs(&["-put", "hello", "/a"]).ok();
    assert_eq!(cluster.dfs(&["-cat", "/a/f"]).ok().bytes, content);
    cluster.dfs(&["-get", "/a/f", "back"]).ok();
    assert_eq!(std::fs::read(cluster.local("back")).unwrap(), content);
    assert_eq!(
        listing(cluster.dfs(&["-ls", "/a"])),
        [
            "Found 3 items",
            "drwxr-xr-x - 0 /a/b",
            "-rw-r--r-- 3 3000000 /a/f",
            "-rw-r--r-- 3 6 /a/hello"
        ]
    );
    cluster.dfs(&["-mv", "/a/hello", "/a/b"]).ok();
    assert_eq!(
        listing(cluster.dfs(&["-ls", "-R", "/a"])),
        [
            "drwxr-xr-x - 0 /a/b",
            "-rw-r--r-- 3 6 /a/b/hello",
            "-rw-r--r-- 3 3000000 /a/f"
        ]
    );
    for (args, told) in [
        (&["-cat", "/a/b/hello"][..], "hello\n"),
        (
            &["-du", "/a"],
            "6        18       /a/b\n3000000  9000000  /a/f\n",
        ),
        (&["-du", "-s", "/a"], "3000006  9000018  /a\n"),
        (
            &["-count", "/a"],
            "           2            2            3000006 /a\n",
        ),
        (
            &["-stat", "%n %b %r %F %a %o", "/a/f"],
            "f 3000000 3 regular file 644 134217728\n",
        ),
        (&["-touchz", "/a/empty"], ""),
        (&["-chmod", "600", "/a/empty"], ""),
        (&["-stat", "%a %b", "/a/empty"], "600 0\n"),
        (&["-rm", "/a/empty"], "Deleted /a/empty\n"),
        (&["-rm", "-f", "/a/empty"], ""),
        (&["-mkdir", "/x/../e"], ""),
        (&["-stat", "%F", "/e"], "directory\n"),
    ] {
        assert_eq!(cluster.dfs(args).ok().stdout, told, "{args:?}");
    }
    for (flag, path, code) in [
        ("-e", "/a/f", 0),
        ("-e", "/none", 1),
        ("-d", "/a", 0),
        ("-d", "/a/f", 1),
        ("-f", "/a/f", 0),
        ("-z", "/a/f", 1),
        ("-s", "/a/f", 0),
    ] {
        assert_eq!(
            cluster.dfs(&["-test", flag, path]).code,
            code,
            "{flag} {path}"
        );
    }
    let checksum = |path| {
        let told = cluster.dfs(&["-checksum", path]).ok().stdout;
        let words: Vec<&str> = told.trim_end().split('\t').collect();
        assert_eq!((words[0], words.len()), (path, 3), "{told}");
        words[2].to_owned()
    };
    cluster.dfs(&["-put", "three", "/a/same"]).ok();
    assert_eq!(checksum("/a/f"), checksum("/a/same"));
    assert_ne!(checksum("/a/f"), checksum("/a/b/hello"));
    // Overwritten only when asked to.
    cluster.dfs(&["-put", "-f", "hello", "/a/same"]).ok();
    assert_eq!(cluster.dfs(&["-cat", "/a/same"]).ok().stdout, "hello\n");
    assert_eq!(
        cluster.dfs(&["-rm", "-r", "/a"]).ok().stdout,
        "Deleted /a\n"
    );
    assert_eq!(
        listing(cluster.dfs(&["-ls", "/"])),
        ["Found 1 items", "drwxr-xr-x - 0 /e"]
    );
}

#[test]
fn what_cannot_be_done_is_said_in_fsshell_s_words() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.write_local("hello", "hello\n");
    cluster.dfs(&["-mkdir", "-p", "/a/b"]).ok();
    cluster.dfs(&["-put", "hello", "/a/f"]).ok();
    cluster.dfs(&["-put", "hello", "/a/g"]).ok();
    cluster.dfs(&["-mkdir", "-p", "/taken/hello"]).ok();
    std::fs::create_dir_all(cluster.local("tree/below")).unwrap();
    for (args, error) in [
        (
            &["-ls", "/none"][..],
            "ls: `/none': No such file or directory",
        ),
        (
            &["-cat", "/none"],
            "cat: `/none': No such file or directory",
        ),
        (&["-cat", "/a"], "cat: `/a': Is a directory"),
        (
            &["-get", "/none", "x"],
            "get: `/none': No such file or directory",
        ),
        (&["-get", "/a/f", "hello"], "get: `hello': File exists"),
        (
            &["-put", "none", "/a/h"],
            "put: `none': No such file or directory",
        ),
        (&["-put", "hello", "/a/f"], "put: `/a/f': File exists"),
        (
            &["-put", "-f", "hello", "/taken"],
            "put: `/taken/hello': Is a directory",
        ),
        (&["-put", "tree", "/a/f"], "put: `/a/f': File exists"),
        (
            &["-put", "hello", "/no/h"],
            "put: `/no/h': No such file or directory",
        ),
        (&["-mkdir", "/a"], "mkdir: `/a': File exists"),
        (
            &["-mkdir", "/no/x"],
            "mkdir: `/no': No such file or directory",
        ),
        (
            &["-mv", "/none", "/a/z"],
            "mv: `/none': No such file or directory",
        ),
        (&["-mv", "/a/f", "/a/g"], "mv: `/a/g': File exists"),
        (&["-rm", "/a"], "rm: `/a': Is a directory"),
        (&["-rm", "/none"], "rm: `/none': No such file or directory"),
        (&["-rmdir", "/a"], "rmdir: `/a': Directory is not empty"),
        (
            &["-stat", "/none"],
            "stat: `/none': No such file or directory",
        ),
        (&["-checksum", "/a"], "checksum: `/a': Is a directory"),
        (&["-touchz", "/a"], "touchz: `/a': Is a directory"),
        (
            &["-touchz", "/a/f"],
            "touchz: `/a/f': Not a zero-length file",
        ),
    ] {
        fails(&cluster.dfs(args), 1, error);
    }
    for (args, error) in [
        (&["-bogus"][..], "-bogus: Unknown command"),
        (&["-ls", "-Q", "/"], "-ls: Illegal option -Q"),
        (
            &["-mv", "/a"],
            "-mv: Not enough arguments: expected 2 but got 1",
        ),
        (
            &["-chmod", "999", "/a/f"],
            "-chmod: chmod : mode '999' does not match the expected pattern.",
        ),
    ] {
        fails(&cluster.dfs(args), 255, error);
    }
    assert_eq!(cluster.run(&["bogus"]).code, 255);
    // A directory cannot go below itself, and nothing goes below a file.
    for args in [
        &["-mv", "/a", "/a/b"][..],
        &["-mkdir", "/a/f/x"],
        &["-put", "hello", "/a/f/x"],
        &["-rm", "-r", "/"],
    ] {
        let output = cluster.dfs(args);
        assert_eq!(output.code, 1, "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    // Nothing of all that left a trace.
    let names = cluster.dfs(&["-ls", "-C", "-R", "/"]).ok().stdout;
    assert_eq!(names, "/a\n/a/b\n/a/f\n/a/g\n/taken\n/taken/hello\n");
    assert_eq!(cluster.dfs(&["-cat", "/a/f"]).ok().stdout, "hello\n");
}

/// What a name may be: 255 bytes, not characters; any UTF-8; 8000 bytes and 1000 components in a path; `..`, `.` and empty
/// components vanish before anybody is asked.
#[test]
fn names_that_make_sense_go_through_and_others_are_named() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.write_local("hello", "hello\n");
    let longest = format!("/{}", "n".repeat(255));
    let too_long = format!("/{}", "m".repeat(256));
    // 'ä' has two bytes: bytes count, not characters.
    let too_many_bytes = format!("/{}", "ä".repeat(128));
    cluster.dfs(&["-mkdir", &longest]).ok();
    cluster
        .dfs(&["-put", "hello", &format!("{longest}/f")])
        .ok();
    for name in [&too_long, &too_many_bytes] {
        let output = cluster.dfs(&["-mkdir", name]);
        assert_eq!(output.code, 1);
        let error = output.error();
        assert!(
            error.starts_with("mkdir: ") && error.contains(&name[1..]),
            "{error}"
        );
        assert!(
            error.contains("the maximum path component name limit"),
            "{error}"
        );
    }
    // Too long, or too deep, as a whole.
    let long = format!("/{}", "x".repeat(199)).repeat(41);
    let deep = "/a".repeat(1001);
    for (path, error) in [
        (&long, "path too long: 8200 bytes, limit 8000 bytes"),
        (&deep, "path too deep, limit 1000 components"),
    ] {
        for args in [
            &["-mkdir", "-p", path][..],
            &["-ls", path],
            &["-put", "hello", path],
        ] {
            let output = cluster.dfs(args);
            output.fails(1, &[error]);
            let verb = format!("{}: ", &args[0][1..]);
            assert!(output.stderr.starts_with(&verb), "{}", output.stderr);
            assert_eq!(output.stdout, "");
        }
    }
    // As the file system sees them.
    for (written, path) in [
        ("//d//e", "/d/e"),
        ("/d/./../d/e/../g", "/d/g"),
        ("/../d/ä b\u{1f40b}\n", "/d/ä b\u{1f40b}\n"),
    ] {
        cluster.dfs(&["-mkdir", "-p", written]).ok();
        cluster.dfs(&["-test", "-d", path]).ok();
        cluster.dfs(&["-rmdir", path]).ok();
    }
    fails(
        &cluster.dfs(&["-mkdir", ""]),
        1,
        "mkdir: Can not create a Path from an empty string",
    );
    // Names that are not UTF-8: on the command line, and in a local tree.
    let bad = OsStr::from_bytes(b"bad\xff");
    let mut command = Command::new(hadal());
    command.env("HADAL_CONFIG", cluster.root().join("client.toml"));
    let output = run(command.args(["dfs", "-mkdir"]).arg(bad));
    output.fails(255, &["bad\u{fffd}", "is not valid UTF-8"]);
    let tree = cluster.local("tree");
    std::fs::create_dir_all(&tree).unwrap();
    for name in [OsStr::new("good"), bad] {
        std::fs::write(tree.join(name), "x").unwrap();
    }
    let output = cluster.dfs(&["-put", "tree", "/d"]);
    output.fails(1, &["put: `tree/bad\u{fffd}': the name is not valid UTF-8"]);
    assert_eq!(cluster.dfs(&["-cat", "/d/tree/good"]).ok().stdout, "x");
    cluster.dfs(&["-rm", "-r", "/d"]).ok();
    let names = cluster.dfs(&["-ls", "-C", "-R", "/"]).ok().stdout;
    assert_eq!(names, format!("{longest}\n{longest}/f\n"));
}
