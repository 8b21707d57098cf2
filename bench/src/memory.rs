//! `memory`: what a NameNode's core takes for files of one block and three locations.

use crate::fake_datanode::{FakeDatanode, homes};
use crate::image::{NOW, block_of, build, save};
use crate::report::{Better, Question, Row, Run};
use crate::restart::{DATANODES, REPLICATION, call};
use crate::settings::Settings;
use anyhow::{Context, Result, bail, ensure};
use hadal_blocks::BlockConfig;
use hadal_namesystem::{ImageLoader, LocationSource, Namesystem, NamesystemConfig};
use hadal_proto::datanode::{ChangeKind, IncrementalReport, ReplicaChange, Request};
use hadal_proto::decode;
use hadal_types::{Block, DatanodeUuid};
use serde::{Deserialize, Serialize};

/// Files of one block each.
const FILES: [usize; 2] = [100_000, 1_000_000];
/// Files whose replicas are reported at a time.
const BATCH: u64 = 10_000;

/// Bytes per file, as a process of its own found them.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Footprint {
    /// Memory the kernel gave to the process meanwhile.
    pub resident: f64,
    /// Counted: inodes, names, directory entries, block lists.
    pub tree: f64,
    /// Counted: the block map with locations and digests.
    pub map: f64,
}

/// Asks the question: each size in a process of its own, which this program is started as.
///
/// # Errors
/// When such a process fails.
pub fn run(settings: &Settings) -> Result<Question> {
    let sizes = match settings.files {
        None => FILES.to_vec(),
        Some(files) => vec![files],
    };
    let mut rows = Vec::new();
    for files in sizes {
        let program = std::env::current_exe().context("this program's own path")?;
        let child = std::process::Command::new(program)
            .args(["footprint", "--files", &files.to_string()])
            .output()
            .context("cannot start this program again")?;
        ensure!(
            child.status.success(),
            "measuring {files} files failed: {}",
            String::from_utf8_lossy(&child.stderr)
        );
        let footprint: Footprint = serde_json::from_slice(&child.stdout)?;
        let load =
            format!("{files} files of one block, {REPLICATION} locations, names of 13 bytes");
        for (figure, value) in [
            ("resident", footprint.resident),
            ("tree", footprint.tree),
            ("block map", footprint.map),
        ] {
            let run = Run {
                value,
                ..Run::default()
            };
            let unit = ("B/file", Better::Lower);
            rows.push(Row::new(figure, load.clone(), unit, "", &[run])?);
        }
    }
    Ok(Question {
        name: "memory".into(),
        notes: vec![
            "a namespace made by edits and incremental reports; resident: growth of the process, allocator included; tree and block map: as the core counts itself, room to grow included. One run: it repeats".into(),
        ],
        rows,
    })
}

/// What so many files take in this process, which must not have done anything before.
///
/// # Errors
/// When the core refuses something.
pub fn footprint(files: usize) -> Result<Footprint> {
    let before = resident()?;
    let namesystem = grown(files)?;
    let per_file = |bytes: u64| bytes as f64 / files as f64;
    Ok(Footprint {
        resident: per_file(resident()?.saturating_sub(before)),
        tree: per_file(namesystem.memory_estimate().tree_bytes),
        map: per_file(namesystem.blocks().map_bytes()),
    })
}

/// Resident bytes of this process.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("VmRSS of /proc/self/status")? * 1024)
}

/// A NameNode's core that got its files by edits and their locations by incremental reports.
///
/// # Errors
/// When the core refuses something.
pub fn grown(files: usize) -> Result<Namesystem> {
    let mut namesystem = build(files);
    namesystem.start(NOW);
    let info = namesystem.config().info.clone();
    let mut fakes: Vec<FakeDatanode> = (0..DATANODES)
        .map(|number| FakeDatanode::new(number, &info, Vec::new()))
        .collect();
    for fake in &mut fakes {
        let name = fake.name();
        call(&mut namesystem, &name, fake.registration(&info))?;
        // Until a storage has reported, changes are remembered beside the map.
        for part in fake.full_report() {
            call(&mut namesystem, &name, decode(part)?)?;
        }
    }
    for (sequence, from) in (1..).zip((0..files as u64).step_by(BATCH as usize)) {
        let mut changes = vec![Vec::new(); DATANODES];
        for number in from..(from + BATCH).min(files as u64) {
            for home in homes(number, DATANODES, REPLICATION)? {
                changes[home].push(ReplicaChange {
                    storage: fakes[home].storage(),
                    block: block_of(number),
                    kind: ChangeKind::Received,
                    delete_hint: DatanodeUuid(0),
                });
            }
        }
        for (fake, changes) in fakes.iter().zip(changes) {
            let report = IncrementalReport {
                uuid: fake.uuid(),
                sequence,
                changes,
            };
            call(
                &mut namesystem,
                &fake.name(),
                Request::IncrementalReport { report },
            )?;
        }
    }
    check(&namesystem, files)?;
    Ok(namesystem)
}

/// The same after a restart: from its image, with locations confirmed by digests.
///
/// # Errors
/// When the core refuses something.
pub fn reloaded(namesystem: Namesystem, files: usize) -> Result<Namesystem> {
    let mut image = save(&namesystem)?;
    let mut source = LocationSource::new(namesystem.view(), &namesystem);
    while let Some(chunk) = source.next_chunk(&namesystem) {
        image.push(chunk);
    }
    drop((namesystem, source));
    let config = NamesystemConfig::default();
    let mut loader = ImageLoader::new(&config);
    for (section, chunk) in image {
        loader.feed(section, &chunk)?;
    }
    let mut namesystem = Namesystem::load(config, BlockConfig::default(), 42, loader.finish()?);
    namesystem.start(NOW);
    let info = namesystem.config().info.clone();
    for number in 0..DATANODES {
        let mut here: Vec<Block> = Vec::new();
        for file in 0..files as u64 {
            if homes(file, DATANODES, REPLICATION)?.contains(&number) {
                here.push(block_of(file));
            }
        }
        let mut fake = FakeDatanode::new(number, &info, here);
        let name = fake.name();
        call(&mut namesystem, &name, fake.registration(&info))?;
        let traffic = fake.digest_report(|bytes| call(&mut namesystem, &name, decode(bytes)?))?;
        if traffic.calls != 1 {
            bail!(
                "{name} needed {} calls to confirm what is remembered",
                traffic.calls
            );
        }
    }
    check(&namesystem, files)?;
    Ok(namesystem)
}

fn check(namesystem: &Namesystem, files: usize) -> Result<()> {
    for number in 0..files as u64 {
        let block = block_of(number).id;
        let live = namesystem.blocks().stored(block).map(|stored| stored.live);
        ensure!(
            live == Some(REPLICATION as u16),
            "{block} has {live:?} of {REPLICATION} locations"
        );
    }
    let left = namesystem.blocks().unconfirmed();
    ensure!(left == 0, "{left} locations are not confirmed");
    Ok(())
}
