//! What a file's blocks say about it.

use super::Names;
use hadal_client::{FileStatus, LocatedBlock, LocatedBlocks};
use hadal_types::BlockPoolId;

/// Replicas below which a block is "under minimal replication" (HDFS: `dfs.namenode.replication.min`).
pub(super) const MIN_REPLICATION: usize = 1;

/// How a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    Whole,
    /// Fewer replicas than wanted.
    Under,
    /// More replicas than wanted.
    Over,
    /// No replica is left.
    Missing,
    /// All replicas are corrupt.
    Corrupt,
    /// Still being written.
    Open,
}

/// DataNodes on their way out of the cluster: what they hold does not count (HDFS's live replicas).
#[derive(Default)]
pub(super) struct Leaving {
    pub(super) decommissioned: Names,
    pub(super) decommissioning: Names,
}

/// Replicas of a block by where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Replicas {
    pub(super) live: usize,
    pub(super) decommissioned: usize,
    pub(super) decommissioning: usize,
}

impl Replicas {
    fn of(block: &LocatedBlock, leaving: &Leaving) -> Self {
        let among = |names: &Names| {
            let nodes = block.locations.iter();
            nodes.filter(|node| names.contains(&node.name)).count()
        };
        let decommissioned = among(&leaving.decommissioned);
        let decommissioning = among(&leaving.decommissioning);
        Self {
            live: block.locations.len() - decommissioned - decommissioning,
            decommissioned,
            decommissioning,
        }
    }
}

/// One block.
pub(super) struct BlockCheck {
    pub(super) located: LocatedBlock,
    pub(super) replicas: Replicas,
    pub(super) condition: Condition,
}

/// One file.
pub(super) struct FileCheck {
    pub(super) path: String,
    pub(super) length: u64,
    pub(super) replication: usize,
    pub(super) open: bool,
    pub(super) pool: BlockPoolId,
    pub(super) blocks: Vec<BlockCheck>,
}

impl FileCheck {
    pub(super) fn new(
        path: String,
        status: &FileStatus,
        located: LocatedBlocks,
        leaving: &Leaving,
    ) -> Self {
        let wanted = usize::from(status.replication);
        let check = |block: LocatedBlock| {
            let replicas = Replicas::of(&block, leaving);
            BlockCheck {
                condition: condition(&block, replicas.live, wanted),
                replicas,
                located: block,
            }
        };
        let blocks = located.blocks.into_iter().map(check).collect();
        Self {
            path,
            length: located.file_length,
            replication: wanted,
            open: located.under_construction,
            pool: located.pool,
            blocks,
        }
    }

    /// Number and bytes of the blocks in a condition.
    pub(super) fn count(&self, condition: Condition) -> (u64, u64) {
        self.blocks
            .iter()
            .filter(|block| block.condition == condition)
            .fold((0, 0), |(count, bytes), block| {
                (count + 1, bytes + block.located.block.length)
            })
    }

    /// Nothing to complain of.
    pub(super) fn is_whole(&self) -> bool {
        self.blocks
            .iter()
            .all(|block| matches!(block.condition, Condition::Whole | Condition::Open))
    }
}

fn condition(block: &LocatedBlock, live: usize, wanted: usize) -> Condition {
    if block.under_construction {
        Condition::Open
    } else if block.corrupt {
        Condition::Corrupt
    } else if block.locations.is_empty() {
        Condition::Missing
    } else if live < wanted {
        Condition::Under
    } else if live > wanted {
        Condition::Over
    } else {
        Condition::Whole
    }
}

/// Sums over all files.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) datanodes: Names,
    pub(super) racks: Names,
    pub(super) default_replication: u16,
    pub(super) directories: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) open_files: u64,
    pub(super) open_bytes: u64,
    pub(super) open_blocks: u64,
    pub(super) min_replicated: u64,
    pub(super) under: u64,
    pub(super) over: u64,
    pub(super) missing: u64,
    pub(super) missing_bytes: u64,
    pub(super) corrupt: u64,
    pub(super) bad_files: u64,
    pub(super) replicas: u64,
    pub(super) replicas_wanted: u64,
    pub(super) replicas_missing: u64,
}

impl Tally {
    /// Counts a file that is being written and was not asked for.
    pub(super) fn add_open(&mut self, located: &LocatedBlocks) {
        self.open_files += 1;
        self.open_bytes += located.file_length;
        self.open_blocks += located.blocks.len() as u64;
    }

    /// Counts a file.
    pub(super) fn add(&mut self, file: &FileCheck) {
        self.files += 1;
        self.bytes += file.length;
        let mut bad = false;
        for block in &file.blocks {
            for node in &block.located.locations {
                self.datanodes.insert(node.name.clone());
                self.racks.insert(node.rack.clone());
            }
            if block.condition == Condition::Open {
                self.open_blocks += 1;
                continue;
            }
            let live = block.replicas.live;
            self.blocks += 1;
            self.replicas += live as u64;
            self.replicas_wanted += file.replication as u64;
            self.replicas_missing += file.replication.saturating_sub(live) as u64;
            self.min_replicated += u64::from(block.located.locations.len() >= MIN_REPLICATION);
            match block.condition {
                Condition::Under => self.under += 1,
                Condition::Over => self.over += 1,
                Condition::Missing | Condition::Corrupt => {
                    bad = true;
                    self.missing_bytes += block.located.block.length;
                    self.missing += 1;
                    self.corrupt += u64::from(block.condition == Condition::Corrupt);
                }
                Condition::Whole | Condition::Open => {}
            }
        }
        self.bad_files += u64::from(bad);
    }

    /// Every block can be read.
    pub(super) fn is_healthy(&self) -> bool {
        self.missing == 0 && self.corrupt == 0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hadal_proto::client::{BlockToken, ReplicaTarget};
    use hadal_types::{Block, BlockId, DatanodeUuid, GenerationStamp, InodeId, StorageUuid};

    /// A file with blocks of these numbers of replicas, of ten bytes each, 3 wanted.
    pub(in crate::fsck) fn file(path: &str, replicas: &[usize], corrupt: bool) -> FileCheck {
        let block = |(at, replicas): (usize, &usize)| LocatedBlock {
            block: Block {
                id: BlockId(at as u64 + 1),
                generation_stamp: GenerationStamp(1001),
                length: 10,
            },
            offset: at as u64 * 10,
            locations: (0..*replicas)
                .map(|node| ReplicaTarget {
                    datanode: DatanodeUuid(node as u128),
                    storage: StorageUuid(node as u128),
                    name: format!("dn{node}"),
                    address: format!("127.0.0.1:{node}"),
                    shards: 1,
                    rack: "/default-rack".into(),
                })
                .collect(),
            corrupt,
            under_construction: false,
            corrupt_replicas: 0,
            token: BlockToken::default(),
        };
        let status = FileStatus {
            name: String::new(),
            inode: InodeId(2),
            is_dir: false,
            length: replicas.len() as u64 * 10,
            replication: 3,
            block_size: 10,
            modified_ms: 0,
            accessed_ms: 0,
            permission: 0o644,
            owner: String::new(),
            group: String::new(),
            children: 0,
            under_construction: false,
        };
        let located = LocatedBlocks {
            pool: BlockPoolId("BP-1".into()),
            inode: InodeId(2),
            file_length: status.length,
            under_construction: false,
            blocks: replicas.iter().enumerate().map(block).collect(),
        };
        let leaving = Leaving {
            decommissioned: [String::from("dn8")].into(),
            decommissioning: [String::from("dn9"), String::from("dn10")].into(),
        };
        FileCheck::new(path.into(), &status, located, &leaving)
    }

    #[test]
    fn replicas_on_datanodes_that_leave_do_not_count() {
        // dn0 to dn10: three of them leave.
        let file = file("/f", &[11, 3], false);
        let expected = Replicas {
            live: 8,
            decommissioned: 1,
            decommissioning: 2,
        };
        assert_eq!(file.blocks[0].replicas, expected);
        assert_eq!(file.blocks[1].replicas.live, 3);
        let block = &file.blocks[0].located;
        assert_eq!(condition(block, 2, 3), Condition::Under);
        assert_eq!(condition(block, 0, 3), Condition::Under, "it can be read");
    }

    #[test]
    fn blocks_are_judged_by_their_replicas() {
        let conditions: Vec<Condition> = file("/f", &[3, 2, 4, 0], false)
            .blocks
            .iter()
            .map(|block| block.condition)
            .collect();
        assert_eq!(
            conditions,
            [
                Condition::Whole,
                Condition::Under,
                Condition::Over,
                Condition::Missing
            ]
        );
        assert_eq!(
            file("/f", &[1], true).blocks[0].condition,
            Condition::Corrupt
        );
    }

    #[test]
    fn a_tally_is_healthy_until_a_block_cannot_be_read() {
        let mut tally = Tally::default();
        tally.add(&file("/a", &[3, 1], false));
        assert!(tally.is_healthy());
        assert_eq!(
            (tally.blocks, tally.under, tally.replicas_missing),
            (2, 1, 2)
        );
        tally.add(&file("/b", &[0], false));
        assert!(!tally.is_healthy());
        assert_eq!((tally.bad_files, tally.missing_bytes), (1, 10));
    }
}
