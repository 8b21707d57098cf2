//! What a disk can be made to do, and how often it did.

use hadal_env::DiskOp;

/// Latencies and sizes of a disk. Pairs are the ends of a uniform distribution in microseconds.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Bytes it holds.
    pub capacity: u64,
    /// Bytes of I/O buffers handed out at most per process.
    pub pool_bytes: usize,
    /// A read.
    pub read_us: (u64, u64),
    /// A write into the page cache, or by `O_DIRECT` into the device's cache.
    pub write_us: (u64, u64),
    /// An `O_DSYNC` write.
    pub dsync_us: (u64, u64),
    /// A sync of a file or directory.
    pub sync_us: (u64, u64),
    /// Everything else.
    pub metadata_us: (u64, u64),
    /// Bytes moved per microsecond, on top of the latency.
    pub bytes_per_us: u64,
    /// One operation in so many takes 10 to 50 ms; 0: none does.
    pub hiccup_one_in: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            capacity: 64 << 30,
            pool_bytes: 64 << 20,
            read_us: (40, 120),
            write_us: (5, 120),
            dsync_us: (80, 200),
            sync_us: (80, 300),
            metadata_us: (2, 30),
            bytes_per_us: 1500,
            hiccup_one_in: 2000,
        }
    }
}

/// What happens to one chosen operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// It fails with an I/O error. A failed sync marks pages clean; part of their bytes is lost.
    Eio,
    /// It fails for lack of space; a write may have done a part.
    Full,
    /// A write does a part, then fails with an I/O error; anything else just fails.
    Short,
    /// A write is confirmed and never reaches the medium; no effect on others.
    LostWrite,
    /// A write is confirmed and lands some pages further; a read returns another page's bytes.
    Misdirected,
    /// The node crashes before the operation has any effect.
    CrashBefore(crate::Crash),
    /// The node crashes in the middle: the effect is there, in part (writes) or not, by seed.
    CrashDuring(crate::Crash),
    /// The node crashes after the effect, before it hears of it.
    CrashAfter(crate::Crash),
}

/// How often operations fail by themselves, per million.
#[derive(Clone, Copy, Default, Debug)]
pub struct FaultRates {
    /// Reads that fail.
    pub read_eio: u32,
    /// Writes that fail, half of them after a part.
    pub write_eio: u32,
    /// Syncs that fail.
    pub sync_eio: u32,
    /// Writes that fail for lack of space.
    pub write_full: u32,
    /// Writes confirmed but never done.
    pub lost_write: u32,
    /// Writes that land elsewhere.
    pub misdirected_write: u32,
    /// Reads that return another page's bytes.
    pub misdirected_read: u32,
}

/// Planted bugs below the seam: the disk (or the code that should have asked it) leaves a step out.
/// Every scenario must find them (reliability.md S10).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Omissions {
    /// `sync_data` returns without syncing.
    pub file_sync: bool,
    /// `sync_dir` returns without syncing.
    pub dir_sync: bool,
    /// `O_DSYNC` is ignored.
    pub dsync: bool,
    /// Failed writes and syncs are reported as done.
    pub write_errors: bool,
    /// `lock` always succeeds.
    pub lock: bool,
}

/// What a disk did and suffered.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DiskCounters {
    /// Operations that faults can strike, begun.
    pub operations: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Syncs of files and directories that succeeded.
    pub syncs: u64,
    /// Operations failed with an I/O error.
    pub errors: u64,
    /// Operations failed for lack of space.
    pub full: u64,
    /// Writes confirmed but not done, or done elsewhere, and reads from elsewhere.
    pub lies: u64,
    /// Bits turned at rest.
    pub bit_flips: u64,
    /// Unsynced writes a power failure took.
    pub writes_lost: u64,
    /// Unsynced writes a power failure left.
    pub writes_kept: u64,
    /// Unsynced writes a power failure tore.
    pub writes_torn: u64,
    /// Power failures.
    pub power_failures: u64,
}

/// What [`FaultRates`] can do to which kind of operation.
pub(super) fn rolls(rates: &FaultRates, op: DiskOp) -> [(u32, DiskFault); 4] {
    match op {
        DiskOp::Read => [
            (rates.read_eio, DiskFault::Eio),
            (rates.misdirected_read, DiskFault::Misdirected),
            (0, DiskFault::Eio),
            (0, DiskFault::Eio),
        ],
        DiskOp::Write | DiskOp::Allocate => [
            (rates.write_eio, DiskFault::Short),
            (rates.write_full, DiskFault::Full),
            (rates.lost_write, DiskFault::LostWrite),
            (rates.misdirected_write, DiskFault::Misdirected),
        ],
        DiskOp::Sync => [
            (rates.sync_eio, DiskFault::Eio),
            (0, DiskFault::Eio),
            (0, DiskFault::Eio),
            (0, DiskFault::Eio),
        ],
        _ => [(0, DiskFault::Eio); 4],
    }
}
