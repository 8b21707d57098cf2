//! `block-report`: the block manager's core in this process, with DataNodes that send what real ones would (T-B2).

use crate::cpu::own_seconds;
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use crate::stats::Latencies;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hadal_blocks::{BlockConfig, BlockManager};
use hadal_proto::datanode::{
    BlockReport, REPORT_PART_MAX, Registration, ReportEntries, Request, StorageReport,
};
use hadal_proto::{decode, encode};
use hadal_types::{
    Block, BlockId, CURRENT_LAYOUT, DatanodeUuid, Epoch, GenerationStamp, HaState, InodeId,
    NamespaceInfo, StorageUuid, Tick, TxId, mix,
};
use std::time::Instant;

/// Blocks of one storage.
const BLOCKS: [usize; 2] = [100_000, 1_000_000];
/// DataNodes, one storage each; every block has a replica on each.
const DATANODES: usize = 3;
/// Repeated reports of each DataNode per run.
const REPORTS: usize = 2;
/// Bytes of one part: as many replicas as one call takes.
const PART_BYTES: usize = REPORT_PART_MAX * ReportEntries::ENTRY_LEN;
const FIRST_BLOCK: u64 = 1 << 30;
const STAMP: u64 = 1001;
const BLOCK_BYTES: u64 = 128 << 20;
const DISK_BYTES: u64 = 1 << 50;

/// Asks the question.
///
/// # Errors
/// When the block manager refuses a report, or does not count what was reported.
pub fn run(settings: &Settings) -> Result<Question> {
    let sizes = match settings.blocks.as_slice() {
        [] => &BLOCKS[..],
        given => given,
    };
    let datanodes = settings.datanodes.unwrap_or(DATANODES);
    let reports = settings.reports.unwrap_or(REPORTS);
    ensure!(
        datanodes > 0 && reports > 0 && !sizes.contains(&0),
        "-datanodes, -reports and -blocks are at least 1"
    );
    let mut rows = Vec::new();
    let mut sent = Vec::new();
    for blocks in sizes {
        let stored: Vec<Block> = (0..*blocks as u64).map(block).collect();
        let entries = packed(&stored);
        sent.push(format!("{} of {blocks} blocks", entries.len()));
        let (mut first, mut again) = (Vec::new(), Vec::new());
        for round in 0..=settings.runs {
            let mut world = World::new(&stored, datanodes)?;
            let fresh = world.reports(&entries, 1)?;
            let unchanged = world.reports(&entries, reports)?;
            world.check(&stored)?;
            if round > 0 {
                first.push(fresh);
                again.push(unchanged);
            }
        }
        let load = format!("{blocks} blocks, {datanodes} DataNodes");
        let rate = ("replicas/s", Better::Higher);
        rows.push(Row::new(
            "full report, first",
            load.clone(),
            rate,
            "1 M replicas",
            &first,
        )?);
        rows.push(Row::new(
            "full report, nothing changed",
            load,
            rate,
            "1 M replicas",
            &again,
        )?);
    }
    Ok(Question {
        name: "block-report".into(),
        notes: vec![
            "in process, on one core, decoding included, network not; the latency is that of one whole report of one storage".into(),
            format!("bytes sent per report: {}", sent.join(", ")),
        ],
        rows,
    })
}

fn block(number: u64) -> Block {
    Block {
        id: BlockId(FIRST_BLOCK + number),
        generation_stamp: GenerationStamp(STAMP),
        length: BLOCK_BYTES,
    }
}

/// What a DataNode sends for these replicas: sorted as reports are.
fn packed(blocks: &[Block]) -> Bytes {
    let mut sorted = blocks.to_vec();
    sorted.sort_by_key(|block| mix(block.id));
    let mut out = Vec::with_capacity(blocks.len() * ReportEntries::ENTRY_LEN);
    for block in &sorted {
        ReportEntries::push(&mut out, block);
    }
    out.into()
}

/// A standby that has loaded its image, and DataNodes that registered.
struct World {
    manager: BlockManager,
    datanodes: usize,
    report_id: u64,
}

fn name(datanode: usize) -> String {
    format!("dn{datanode}")
}

fn uuid(datanode: usize) -> DatanodeUuid {
    DatanodeUuid(100 + datanode as u128)
}

fn storage(datanode: usize) -> StorageUuid {
    StorageUuid(1_000_000 + datanode as u128)
}

impl World {
    const NOW: Tick = Tick::from_ms(1_000_000);

    fn new(blocks: &[Block], datanodes: usize) -> Result<Self> {
        let info = NamespaceInfo {
            layout: CURRENT_LAYOUT,
            namespace_id: 1,
            ..NamespaceInfo::default()
        };
        let mut manager = BlockManager::new(BlockConfig::default(), info.clone(), 42);
        for block in blocks {
            let inode = InodeId(block.id.0 - FIRST_BLOCK + 20_000);
            manager.load(*block, inode, u16::try_from(datanodes)?, false);
        }
        let next = BlockId(FIRST_BLOCK + blocks.len() as u64);
        manager.applied(TxId(1), next, GenerationStamp(STAMP));
        manager.become_standby(Self::NOW, HaState::Standby);
        manager.start(Self::NOW);
        let mut world = Self {
            manager,
            datanodes,
            report_id: 0,
        };
        for datanode in 0..datanodes {
            let registration = Registration {
                uuid: uuid(datanode),
                name: name(datanode),
                address: format!("10.0.{}.{}:9866", datanode / 256, datanode % 256),
                http_address: String::new(),
                shards: 1,
                rack: "/default-rack".into(),
                layout: CURRENT_LAYOUT,
                info: info.clone(),
                software: String::new(),
                storages: vec![StorageReport {
                    storage: storage(datanode),
                    capacity: DISK_BYTES,
                    remaining: DISK_BYTES,
                    ..StorageReport::default()
                }],
            };
            world.send(datanode, Request::Register { registration })?;
        }
        Ok(world)
    }

    fn send(&mut self, datanode: usize, request: Request) -> Result<()> {
        let answer = self
            .manager
            .handle_request(Self::NOW, &name(datanode), request, TxId(1));
        answer
            .map(drop)
            .with_context(|| format!("a request of {}", name(datanode)))
    }

    /// Every block must be known on every DataNode, or what was timed was not the work.
    fn check(&self, blocks: &[Block]) -> Result<()> {
        for block in blocks {
            let live = self
                .manager
                .stored(block.id)
                .map_or(0, |stored| usize::from(stored.live));
            ensure!(
                live == self.datanodes,
                "{} has {live} of {} replicas after all reports",
                block.id,
                self.datanodes
            );
        }
        Ok(())
    }

    /// Every DataNode sends `times` full reports of its storage.
    fn reports(&mut self, entries: &Bytes, times: usize) -> Result<Run> {
        let calls: Vec<Vec<Vec<Bytes>>> = (0..times)
            .map(|_| {
                self.report_id += 1;
                (0..self.datanodes)
                    .map(|datanode| parts(datanode, self.report_id, entries))
                    .collect()
            })
            .collect();
        let mut latencies = Latencies::default();
        let (cpu, start) = (own_seconds()?, Instant::now());
        for calls in calls {
            for (datanode, parts) in calls.into_iter().enumerate() {
                let begun = Instant::now();
                for part in parts {
                    self.send(datanode, decode(part)?)?;
                }
                latencies.record(begun.elapsed());
                while self.manager.poll_event().is_some() {}
            }
        }
        let replicas = (times * self.datanodes * entries.len() / ReportEntries::ENTRY_LEN) as f64;
        Ok(Run {
            value: replicas / start.elapsed().as_secs_f64(),
            cpu: Some((own_seconds()? - cpu) / replicas * 1e6),
            latencies: Some(latencies),
        })
    }
}

/// A full report as it crosses the network: one encoded call per part.
fn parts(datanode: usize, report_id: u64, entries: &Bytes) -> Vec<Bytes> {
    let count = entries.len().div_ceil(PART_BYTES).max(1);
    let part = |part: usize| {
        let from = part * PART_BYTES;
        encode(&Request::BlockReport {
            report: BlockReport {
                uuid: uuid(datanode),
                storage: storage(datanode),
                report_id,
                part: part as u32,
                parts: count as u32,
                includes: 0,
                acknowledged: Epoch(0),
                finalized: entries.slice(from..entries.len().min(from + PART_BYTES)),
                open: Vec::new(),
            },
        })
    };
    (0..count).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T-B2: D DataNodes, R reports, B blocks per report; first and repeated.
    #[test]
    fn t_b2_every_replica_of_every_report_is_counted() {
        let settings = Settings {
            blocks: vec![1000],
            datanodes: Some(5),
            reports: Some(4),
            ..Settings::new(std::env::temp_dir())
        };
        let question = run(&settings).unwrap();
        let samples: Vec<u64> = question
            .rows
            .iter()
            .map(|row| row.latency.as_ref().unwrap().samples)
            .collect();
        // Per measured run: one first report of each DataNode, then four of each.
        assert_eq!(samples, [3 * 5, 3 * 5 * 4]);
    }

    #[test]
    fn t_b2_a_report_over_one_part_is_cut_and_adds_up() {
        let stored: Vec<Block> = (0..(REPORT_PART_MAX * 2 + 7) as u64).map(block).collect();
        let entries = packed(&stored);
        assert_eq!(parts(0, 1, &entries).len(), 3);
        let mut world = World::new(&stored, 1).unwrap();
        world.reports(&entries, 1).unwrap();
        world.check(&stored).unwrap();
        // And the check can fail: a block nobody reported.
        assert!(world.check(&[block(u64::from(u32::MAX))]).is_err());
    }
}
