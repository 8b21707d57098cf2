//! `image`: the namespace's core in this process: writing it as an image, reading it back.

use crate::cpu::own_seconds;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use anyhow::{Result, ensure};
use bytes::Bytes;
use hadal_blocks::BlockConfig;
use hadal_env::Compute;
use hadal_namenode::{ImageLoading, ImageSaving, namesystem_of};
use hadal_namesystem::{ImageSource, Namesystem, NamesystemConfig, Section};
use hadal_proto::edit::{Edit, EditOp};
use hadal_shard::Cores;
use hadal_types::{Block, BlockId, CallId, ClientId, GenerationStamp, InodeId, Tick};
use std::time::Instant;

/// Files of one block each.
const FILES: [usize; 2] = [100_000, 1_000_000];
/// Files of one directory.
const FILES_PER_DIR: usize = 100;
const BLOCK_BYTES: u64 = 128 << 20;
pub(crate) const NOW: Tick = Tick::from_ms(1_000_000);
pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

/// Asks the question.
///
/// # Errors
/// When what was read is not what was written.
pub fn run(settings: &Settings) -> Result<Question> {
    let sizes = match settings.files {
        None => FILES.to_vec(),
        Some(files) => vec![files],
    };
    ensure!(
        !sizes.contains(&0),
        "--files 0: there is nothing to measure"
    );
    let mut rows = Vec::new();
    for files in sizes {
        rows.extend(rows_of(files, settings.runs)?);
    }
    Ok(Question {
        name: "image".into(),
        notes: vec![
            format!("in process, to and from memory: disk and checksums are the container's; on {} as a NameNode does, loading the block map included", Cores.lanes()),
            "an inode is a file or a directory; tree memory is inodes, names, entries and block lists, without the block map".into(),
        ],
        rows,
    })
}

fn rows_of(files: usize, runs: usize) -> Result<Vec<Row>> {
    let namesystem = build(files);
    let memory = namesystem.memory_estimate();
    let inodes = memory.inodes as f64;
    let (mut saves, mut loads, mut bytes) = (Vec::new(), Vec::new(), 0);
    for round in 0..=runs {
        let (cpu, start) = (own_seconds()?, Instant::now());
        let image = save(&namesystem)?;
        let save = run_of(inodes, start, cpu)?;
        bytes = image.iter().map(|(_, chunk)| chunk.len()).sum::<usize>();
        let (cpu, start) = (own_seconds()?, Instant::now());
        let loaded = load(&image, BlockConfig::default())?;
        let load = run_of(inodes, start, cpu)?;
        let found = loaded.memory_estimate();
        ensure!(
            (found.inodes, found.blocks) == (memory.inodes, memory.blocks),
            "wrote {} inodes and {} blocks, read {} and {}",
            memory.inodes,
            memory.blocks,
            found.inodes,
            found.blocks
        );
        if round > 0 {
            saves.push(save);
            loads.push(load);
        }
    }
    let label = format!("{files} files of one block, {FILES_PER_DIR} per directory");
    let rate = ("inodes/s", Better::Higher);
    let size = |value: f64| {
        [Run {
            value,
            ..Run::default()
        }]
    };
    let per_file = ("B/file", Better::Lower);
    Ok(vec![
        Row::new("save", label.clone(), rate, "1 M inodes", &saves)?,
        Row::new("load", label.clone(), rate, "1 M inodes", &loads)?,
        Row::new(
            "image size",
            label.clone(),
            per_file,
            "",
            &size(bytes as f64 / files as f64),
        )?,
        Row::new(
            "tree memory",
            label,
            per_file,
            "",
            &size(memory.tree_bytes as f64 / files as f64),
        )?,
    ])
}

fn run_of(inodes: f64, start: Instant, cpu: f64) -> Result<Run> {
    Ok(Run {
        value: inodes / start.elapsed().as_secs_f64(),
        latencies: None,
        cpu: Some((own_seconds()? - cpu) / inodes * 1e6),
    })
}

/// The block of a file of [`build`]'s.
pub(crate) fn block_of(number: u64) -> Block {
    Block {
        // HDFS's first block and stamp follow these.
        id: BlockId((1 << 30) + 1 + number),
        generation_stamp: GenerationStamp(1001 + number),
        length: BLOCK_BYTES - number % 1000,
    }
}

/// A namespace as replay makes it: directories of files, each with one closed block.
pub(crate) fn build(files: usize) -> Namesystem {
    let mut namesystem =
        Namesystem::format(NamesystemConfig::default(), BlockConfig::default(), 42);
    let apply = |namesystem: &mut Namesystem, op: EditOp| {
        let edit = Edit {
            time_ms: WALL_MS,
            client: ClientId(0),
            call: CallId(0),
            op,
        };
        namesystem.replay(NOW, namesystem.applied().next(), &edit);
    };
    let (owner, group) = ("hdfs".to_owned(), "supergroup".to_owned());
    let (mut inode, mut parent) = (InodeId::ROOT, InodeId::ROOT);
    for number in 0..files {
        if number % FILES_PER_DIR == 0 {
            inode = InodeId(inode.0 + 1);
            parent = inode;
            let name = format!("directory-{:06}", number / FILES_PER_DIR);
            let (owner, group) = (owner.clone(), group.clone());
            let root = InodeId::ROOT;
            apply(
                &mut namesystem,
                EditOp::Mkdir {
                    parent: root,
                    inode,
                    name,
                    permission: 0o755,
                    owner,
                    group,
                },
            );
        }
        inode = InodeId(inode.0 + 1);
        let last = block_of(number as u64);
        let create = EditOp::Create {
            parent,
            inode,
            name: format!("part-{number:08}"),
            permission: 0o644,
            owner: owner.clone(),
            group: group.clone(),
            replication: 3,
            block_size: BLOCK_BYTES,
            holder: ClientId(1),
            replaced: None,
        };
        apply(&mut namesystem, create);
        apply(
            &mut namesystem,
            EditOp::AddBlock {
                inode,
                block: last.id,
                generation_stamp: last.generation_stamp,
                previous: None,
            },
        );
        apply(
            &mut namesystem,
            EditOp::Close {
                inode,
                last: Some(last),
            },
        );
    }
    namesystem
}

/// As a NameNode does: on all cores.
pub(crate) fn save(namesystem: &Namesystem) -> Result<Vec<(Section, Bytes)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(async {
        let mut saving = ImageSaving::new(Cores, ImageSource::new(namesystem.view()));
        let mut image = Vec::new();
        while let Some(chunk) = saving.next().await {
            image.push(chunk);
        }
        image
    }))
}

/// As a NameNode starts: on all cores.
pub(crate) fn load(image: &[(Section, Bytes)], blocks: BlockConfig) -> Result<Namesystem> {
    let config = NamesystemConfig::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let mut loading = ImageLoading::new(Cores, &config);
        for (section, chunk) in image {
            loading.feed(*section, chunk.clone()).await?;
        }
        let loaded = loading.finish().await?;
        Ok(namesystem_of(&Cores, config, blocks, 42, loaded).await)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_namespace_is_written_and_read_back() {
        let settings = Settings {
            files: Some(250),
            ..Settings::new(std::env::temp_dir())
        };
        let question = run(&settings).unwrap();
        let figures: Vec<&str> = question
            .rows
            .iter()
            .map(|row| row.figure.as_str())
            .collect();
        assert_eq!(figures, ["save", "load", "image size", "tree memory"]);
        assert!(question.rows.iter().all(|row| row.median > 0.0));
        // 250 files in 3 directories, and the root.
        assert_eq!(build(250).memory_estimate().inodes, 254);
    }
}
