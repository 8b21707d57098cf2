//! `namenode -recover`: a journal that lost a segment everywhere is read up to it, and begun anew there.

use harness::{Output, SOON, TestCluster, alone, eventually, hadal, run};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

const JOURNALNODES: [&str; 3] = ["jn1", "jn2", "jn3"];

/// Files below a directory whose names begin so.
fn find(dir: &PathBuf, start: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, start, found);
        } else if entry.file_name().to_string_lossy().starts_with(start) {
            found.push(path);
        }
    }
}

fn recover(cluster: &TestCluster, more: &[&str]) -> Output {
    let mut command = Command::new(hadal());
    command.args(["namenode", "-recover"]).args(more);
    command.args(["--id", "nn1", "--config"]);
    run(command.arg(cluster.config_file("nn1")))
}

/// T-H25, Q19 and the last resort behind them: without a gap nothing is touched; with one the range that is lost is named,
/// nothing is lost unasked, and afterwards the namespace is as it was before the gap, and writable.
#[test]
fn t_h25_q19_what_a_gap_took_is_named_and_dropped_on_demand_only() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    for at in 0..5 {
        cluster.dfs(&["-mkdir", &format!("/kept-{at}")]).ok();
    }
    cluster.run(&["dfsadmin", "-rollEdits"]).ok();
    cluster.dfs(&["-mkdir", "/lost-1", "/lost-2"]).ok();
    cluster.run(&["dfsadmin", "-rollEdits"]).ok();
    cluster.dfs(&["-mkdir", "/behind"]).ok();
    let in_use = recover(&cluster, &["-force"]);
    assert_ne!(in_use.code, 0);
    assert!(in_use.stderr.contains("in use"), "{}", in_use.stderr);
    cluster.kill_node("nn1");
    let whole = recover(&cluster, &["-force"]).ok();
    assert!(
        whole.stdout.contains("nothing was changed"),
        "{}",
        whole.stdout
    );
    cluster.start_node("nn1");
    let all = cluster.dfs(&["-ls", "-C", "/"]).ok().stdout;
    assert_eq!(all.lines().count(), 8, "{all}");
    cluster.kill_node("nn1");

    // A minority may have lagged behind when the NameNode died.
    let ended = |id: &str| {
        let mut segments = Vec::new();
        find(&cluster.data(id), "edits_0", &mut segments);
        let names = segments.iter().map(|path| path.file_name().map(Into::into));
        let mut names: Vec<Option<OsString>> = names.collect();
        names.sort();
        names
    };
    eventually("all have the same segments", SOON, || {
        let all = JOURNALNODES.map(ended);
        let equal = all.iter().all(|it| *it == all[0] && it.len() >= 3);
        equal.then_some(()).ok_or_else(|| format!("{all:?}"))
    });
    // The segment with the two in the middle goes from every JournalNode.
    for id in JOURNALNODES {
        cluster.kill_node(id);
        let mut segments = Vec::new();
        find(&cluster.data(id), "edits_0", &mut segments);
        segments.sort();
        assert!(segments.len() >= 3, "{segments:?}");
        std::fs::remove_file(&segments[1]).expect("a segment");
    }
    for id in JOURNALNODES {
        cluster.start_node(id);
    }
    the_viewer_shows_a_segment(&cluster);
    let declined = recover(&cluster, &["-nonInteractive"]);
    assert_eq!(declined.code, 1, "{}{}", declined.stdout, declined.stderr);
    for text in [
        "gap in the edit log",
        "jn1",
        "jn2",
        "jn3",
        "would be dropped",
        "-force",
    ] {
        assert!(
            declined.stderr.contains(text),
            "{text}: {}",
            declined.stderr
        );
    }
    let done = recover(&cluster, &["-force"]).ok();
    assert!(done.stdout.contains("were dropped"), "{}", done.stdout);
    cluster.start_node("nn1");
    let kept = "/kept-0\n/kept-1\n/kept-2\n/kept-3\n/kept-4\n";
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, kept);
    cluster.dfs(&["-mkdir", "/new"]).ok();
    cluster.kill_node("nn1");
    cluster.start_node("nn1");
    assert_eq!(
        cluster.dfs(&["-ls", "-C", "/"]).ok().stdout,
        format!("{kept}/new\n")
    );
    let again = recover(&cluster, &[]);
    assert!(again.stderr.contains("in use"), "{}", again.stderr);
    the_viewer_shows_an_image(&cluster);
}

/// `oiv` of a saved image, also under another name; what is no image, or rotted, is named.
fn the_viewer_shows_an_image(cluster: &TestCluster) {
    cluster.write_local("f", "thirteen byte");
    cluster.dfs(&["-put", "f", "/kept-0/f"]).ok();
    cluster.run(&["dfsadmin", "-safemode", "enter"]).ok();
    cluster.run(&["dfsadmin", "-saveNamespace"]).ok();
    cluster.run(&["dfsadmin", "-safemode", "leave"]).ok();
    let mut images = Vec::new();
    find(&cluster.data("nn1"), "fsimage_", &mut images);
    images.sort();
    let image = std::fs::read(images.last().expect("an image")).expect("readable");
    cluster.write_local("image", &image);
    let xml = cluster.run(&["oiv", "-i", "image"]).ok().stdout;
    for text in [
        "<fsimage>",
        "<name>kept-4</name>",
        "<name>new</name>",
        "<numBytes>13</numBytes>",
        "</fsimage>\n",
    ] {
        assert!(xml.contains(text), "{text}: {xml}");
    }
    let written = ["oiv", "-i", "image", "-o", "table", "-p", "Delimited"];
    assert_eq!(cluster.run(&written).ok().stdout, "");
    let table = std::fs::read_to_string(cluster.local("table")).expect("a table");
    let file = table.lines().find(|line| line.starts_with("/kept-0/f\t"));
    let file = file.expect("the file's line");
    assert!(file.contains("\t1\t13\t"), "{file}");
    let counts = cluster.run(&["oiv", "-i", "image", "-p", "FileDistribution"]);
    let counts = counts.ok().stdout;
    assert!(counts.contains("totalFiles = 1\n"), "{counts}");
    let mut rotten = image;
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    cluster.write_local("rotten-image", rotten);
    let refused = cluster.run(&["oiv", "-i", "rotten-image"]);
    refused.fails(1, &["rotten-image", "does not verify"]);
    assert_eq!(refused.stdout, "");
    let refused = cluster.run(&["oiv", "-i", "table"]);
    refused.fails(1, &["table", "header does not verify"]);
}

/// `oev` of a segment: every edit, and the first damage by its place.
fn the_viewer_shows_a_segment(cluster: &TestCluster) {
    let mut segments = Vec::new();
    find(&cluster.data("jn1"), "edits_0", &mut segments);
    segments.sort();
    let file = segments[0].display().to_string();
    let xml = cluster.run(&["oev", "-i", &file]).ok().stdout;
    assert!(
        xml.contains("<EDITS>") && xml.trim_end().ends_with("</EDITS>"),
        "{xml}"
    );
    for name in ["kept-0", "kept-4"] {
        assert!(xml.contains(&format!("<NAME>{name}</NAME>")), "{xml}");
    }
    let json = cluster.run(&["oev", "-i", &file, "-p", "JSON"]).ok().stdout;
    let opcodes: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let made = opcodes.iter().filter(|edit| edit["OPCODE"] == "OP_MKDIR");
    assert_eq!(made.count(), 5, "{json}");
    let counts = cluster
        .run(&["oev", "-i", &file, "-p", "stats", "-o", "counts"])
        .ok();
    assert_eq!(counts.stdout, "");
    let counts = std::fs::read_to_string(cluster.local("counts")).expect("counts");
    assert!(counts.contains("OP_MKDIR"), "{counts}");
    // The payload of the first record.
    let mut bytes = std::fs::read(&segments[0]).expect("a segment");
    bytes[4096 + 24] ^= 1;
    cluster.write_local("rotten", bytes);
    let rotten = cluster.run(&["oev", "-i", "rotten"]);
    rotten.fails(1, &["rotten", "txid 0", "checksum"]);
    let other = cluster.run(&["oev", "-i", "counts"]);
    other.fails(1, &["counts", "no segment"]);
}
