//! The words of `fsck`.

use super::FsckArgs;
use super::check::{BlockCheck, Condition, FileCheck, MIN_REPLICATION, Tally};
use serde_json::{Value, json};

/// `part` of `whole` in per cent, as Java prints a float.
fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!(" ({:?} %)", part as f32 * 100.0 / whole as f32),
    }
}

/// Lines about one file.
pub(super) fn file(file: &FileCheck, args: &FsckArgs) -> Vec<String> {
    let mut lines = Vec::new();
    let name = format!("{}:", file.pool);
    for block in &file.blocks {
        let replicas = block.replicas;
        let id = block_name(&name, block);
        match block.condition {
            Condition::Under => lines.push(format!(
                "{}:  Under replicated {id}. Target Replicas is {} but found {} live replica(s), {} decommissioned replica(s), {} decommissioning replica(s).",
                file.path,
                file.replication,
                replicas.live,
                replicas.decommissioned,
                replicas.decommissioning
            )),
            Condition::Corrupt => lines.push(format!(
                "{}: CORRUPT blockpool {} block {}",
                file.path, file.pool, block.located.block.id
            )),
            _ => {}
        }
    }
    let (corrupt, corrupt_bytes) = file.count(Condition::Corrupt);
    let (missing, missing_bytes) = file.count(Condition::Missing);
    if corrupt > 0 {
        lines.push(format!(
            "{}: CORRUPT {corrupt} blocks of total size {corrupt_bytes} B.",
            file.path
        ));
    }
    if missing > 0 {
        lines.push(format!(
            "{}: MISSING {missing} blocks of total size {missing_bytes} B.",
            file.path
        ));
    }
    if args.files {
        let (under, _) = file.count(Condition::Under);
        let condition = match (corrupt + missing, under) {
            (0, 0) => "OK".to_owned(),
            (0, under) => format!("Under replicated {under} block(s)"),
            (bad, _) => format!("{bad} block(s) cannot be read"),
        };
        lines.push(format!(
            "{} {} bytes, replicated: replication={}, {} block(s){}:  {condition}",
            file.path,
            file.length,
            file.replication,
            file.blocks.len(),
            if file.open { ", OPENFORWRITE" } else { "" },
        ));
    }
    if args.blocks || args.locations || args.racks {
        for (at, block) in file.blocks.iter().enumerate() {
            lines.push(block_line(at, &name, block, args));
        }
        lines.push(String::new());
    }
    lines
}

fn block_name(prefix: &str, block: &BlockCheck) -> String {
    let id = block.located.block;
    format!("{prefix}{}_{}", id.id, id.generation_stamp)
}

fn block_line(at: usize, prefix: &str, block: &BlockCheck, args: &FsckArgs) -> String {
    let located = &block.located;
    let mut line = format!(
        "{at}. {} len={}",
        block_name(prefix, block),
        located.block.length
    );
    line += &match block.condition {
        Condition::Missing => " MISSING!".to_owned(),
        Condition::Corrupt => " CORRUPT!".to_owned(),
        _ => format!(" Live_repl={}", located.locations.len()),
    };
    if args.locations || args.racks {
        let nodes: Vec<String> = located
            .locations
            .iter()
            .map(|node| match args.racks {
                true => format!("{}/{}", node.rack, node.address),
                false => format!(
                    "DatanodeInfoWithStorage[{},{},DISK]",
                    node.address, node.storage
                ),
            })
            .collect();
        line += &format!("  [{}]", nodes.join(", "));
    }
    line
}

/// The summary in HDFS's layout.
pub(super) fn summary(tally: &Tally) -> Vec<String> {
    let verdict = match tally.is_healthy() {
        true => "HEALTHY",
        false => "CORRUPT",
    };
    let open = |what: &str, count: u64, unit: &str| match tally.open_files + tally.open_blocks {
        0 => String::new(),
        _ => format!(" ({what}: {count}{unit})"),
    };
    let average = match tally.blocks {
        0 => String::new(),
        blocks => format!(" (avg. block size {} B)", tally.bytes / blocks),
    };
    let mut lines = vec![
        String::new(),
        format!("Status: {verdict}"),
        format!(" Number of data-nodes:\t{}", tally.datanodes.len()),
        format!(" Number of racks:\t\t{}", tally.racks.len()),
        format!(" Total dirs:\t\t\t{}", tally.directories),
        " Total symlinks:\t\t0".into(),
        String::new(),
        "Replicated Blocks:".into(),
        format!(
            " Total size:\t{} B{}",
            tally.bytes,
            open("Total open files size", tally.open_bytes, " B")
        ),
        format!(
            " Total files:\t{}{}",
            tally.files,
            open("Files currently being written", tally.open_files, "")
        ),
        format!(
            " Total blocks (validated):\t{}{average}{}",
            tally.blocks,
            open(
                "Total open file blocks (not validated)",
                tally.open_blocks,
                ""
            )
        ),
    ];
    if !tally.is_healthy() {
        let below = tally.blocks - tally.min_replicated;
        lines.extend([
            "  ********************************".into(),
            format!(
                "  UNDER MIN REPL'D BLOCKS:\t{below}{}",
                share(below, tally.blocks)
            ),
            format!("  MINIMAL BLOCK REPLICATION:\t{MIN_REPLICATION}"),
            format!("  CORRUPT FILES:\t{}", tally.bad_files),
            format!("  MISSING BLOCKS:\t{}", tally.missing),
            format!("  MISSING SIZE:\t\t{} B", tally.missing_bytes),
            format!("  CORRUPT BLOCKS: \t{}", tally.corrupt),
            "  ********************************".into(),
        ]);
    }
    let of_blocks = |count: u64| format!("{count}{}", share(count, tally.blocks));
    let average = match tally.blocks {
        0 => 0.0,
        blocks => tally.replicas as f32 / blocks as f32,
    };
    lines.extend([
        format!(
            " Minimally replicated blocks:\t{}",
            of_blocks(tally.min_replicated)
        ),
        format!(" Over-replicated blocks:\t{}", of_blocks(tally.over)),
        format!(" Under-replicated blocks:\t{}", of_blocks(tally.under)),
        format!(
            " Default replication factor:\t{}",
            tally.default_replication
        ),
        format!(" Average block replication:\t{average:?}"),
        format!(" Missing blocks:\t\t{}", tally.missing),
        format!(" Corrupt blocks:\t\t{}", tally.corrupt),
        format!(
            " Missing replicas:\t\t{}{}",
            tally.replicas_missing,
            share(tally.replicas_missing, tally.replicas_wanted)
        ),
    ]);
    lines
}

/// The summary for programs.
pub(super) fn summary_json(tally: &Tally) -> Value {
    json!({
        "datanodes": tally.datanodes.len(),
        "racks": tally.racks.len(),
        "total_directories": tally.directories,
        "total_files": tally.files,
        "total_bytes": tally.bytes,
        "total_blocks": tally.blocks,
        "open_files": tally.open_files,
        "open_bytes": tally.open_bytes,
        "open_blocks": tally.open_blocks,
        "minimally_replicated": tally.min_replicated,
        "over_replicated": tally.over,
        "under_replicated": tally.under,
        "default_replication": tally.default_replication,
        "replicas": tally.replicas,
        "missing_replicas": tally.replicas_missing,
        "missing_blocks": tally.missing,
        "missing_bytes": tally.missing_bytes,
        "corrupt_blocks": tally.corrupt,
        "corrupt_files": tally.bad_files,
    })
}

/// A file for programs.
pub(super) fn file_json(file: &FileCheck, blocks: bool) -> Value {
    let count = |condition| file.count(condition).0;
    let mut value = json!({
        "path": file.path,
        "length": file.length,
        "replication": file.replication,
        "open": file.open,
        "under_replicated": count(Condition::Under),
        "over_replicated": count(Condition::Over),
        "missing": count(Condition::Missing),
        "corrupt": count(Condition::Corrupt),
    });
    if blocks {
        let blocks = file.blocks.iter().map(|block| {
            let nodes = block.located.locations.iter().map(|node| {
                json!({
                    "datanode": node.name,
                    "address": node.address,
                    "storage": node.storage.to_string(),
                    "rack": node.rack,
                })
            });
            json!({
                "block": block.located.block.id.0,
                "generation_stamp": block.located.block.generation_stamp.0,
                "length": block.located.block.length,
                "corrupt_replicas": block.located.corrupt_replicas,
                "locations": nodes.collect::<Vec<_>>(),
            })
        });
        value["blocks"] = blocks.collect();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::file as checked;
    use super::*;

    fn args(files: bool, blocks: bool, locations: bool) -> FsckArgs {
        FsckArgs {
            path: "/".into(),
            files,
            blocks,
            locations,
            racks: false,
            list_corruptfileblocks: false,
            openforwrite: false,
            move_corrupt: false,
            delete: false,
        }
    }

    #[test]
    fn a_healthy_summary_has_hdfs_s_layout() {
        let mut tally = Tally {
            directories: 2,
            default_replication: 3,
            ..Tally::default()
        };
        tally.add(&checked("/a", &[3, 2, 3], false));
        let text = summary(&tally).join("\n");
        assert_eq!(
            text,
            "\nStatus: HEALTHY\n Number of data-nodes:\t3\n Number of racks:\t\t1\n Total dirs:\t\t\t2\n Total symlinks:\t\t0\n\n\
             Replicated Blocks:\n Total size:\t30 B\n Total files:\t1\n Total blocks (validated):\t3 (avg. block size 10 B)\n \
             Minimally replicated blocks:\t3 (100.0 %)\n Over-replicated blocks:\t0 (0.0 %)\n Under-replicated blocks:\t1 (33.333332 %)\n \
             Default replication factor:\t3\n Average block replication:\t2.6666667\n Missing blocks:\t\t0\n Corrupt blocks:\t\t0\n \
             Missing replicas:\t\t1 (11.111111 %)"
        );
    }

    #[test]
    fn a_corrupt_summary_says_what_is_lost() {
        let mut tally = Tally::default();
        tally.add(&checked("/a", &[0, 3], false));
        let text = summary(&tally).join("\n");
        for part in [
            "Status: CORRUPT",
            "  UNDER MIN REPL'D BLOCKS:\t1 (50.0 %)",
            "  CORRUPT FILES:\t1",
            "  MISSING BLOCKS:\t1",
            "  MISSING SIZE:\t\t10 B",
        ] {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
    }

    #[test]
    fn files_and_blocks_are_told_as_asked() {
        let whole = checked("/a", &[3], false);
        assert!(file(&whole, &args(false, false, false)).is_empty());
        assert_eq!(
            file(&whole, &args(true, false, false)),
            ["/a 10 bytes, replicated: replication=3, 1 block(s):  OK"]
        );
        let lines = file(&checked("/a", &[1], false), &args(false, true, true));
        assert_eq!(
            lines[0],
            "/a:  Under replicated BP-1:blk_1_1001. Target Replicas is 3 but found 1 live replica(s), 0 decommissioned replica(s), 0 decommissioning replica(s)."
        );
        assert_eq!(
            lines[1],
            "0. BP-1:blk_1_1001 len=10 Live_repl=1  [DatanodeInfoWithStorage[127.0.0.1:0,DS-00000000000000000000000000000000,DISK]]"
        );
        let lines = file(&checked("/a", &[0], false), &args(false, false, false));
        assert_eq!(lines, ["/a: MISSING 1 blocks of total size 10 B."]);
    }
}
