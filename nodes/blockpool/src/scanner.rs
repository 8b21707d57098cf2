//! The block scanner's mind, one per storage: which replica is read next, how fast, and what a bad reading means
//! (behaviour; HDFS `VolumeScanner`).

use alloc::collections::{BTreeMap, VecDeque};
use hadal_types::{BlockId, Tick, mix};

/// Suspects that wait; more are left to the ordinary turn.
const SUSPECTS_MAX: usize = 1024;

/// How replicas at rest are looked after; HDFS's defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScannerConfig {
    /// Bytes per second and volume the block scanner reads; 0: only suspects are read
    /// (HDFS `dfs.block.scanner.volume.bytes.per.second`).
    pub bytes_per_second: u64,
    /// Every replica is read once in this time, if the rate allows (HDFS `dfs.datanode.scan.period.hours`).
    pub period_ms: u64,
    /// How often the place reached is made durable (HDFS `dfs.block.scanner.cursor.save.interval.ms`).
    pub save_interval_ms: u64,
    /// A suspect is not read again within this time (HDFS: 10 minutes).
    pub suspect_hold_ms: u64,
    /// Between two comparisons of directories and replica map; 0: never (HDFS `dfs.datanode.directoryscan.interval`).
    pub directory_interval_ms: u64,
    /// Bugs planted by the simulator.
    pub planted: crate::Planted,
}

impl Default for ScannerConfig {
    fn default() -> Self {
        Self {
            bytes_per_second: 1 << 20,
            period_ms: 21 * 24 * 3_600_000,
            save_interval_ms: 600_000,
            suspect_hold_ms: 600_000,
            directory_interval_ms: 6 * 3_600_000,
            planted: crate::Planted::default(),
        }
    }
}

/// How far the scanner got. Replicas are read in the order of `mix(block id)`.
///
/// Durable form, 17 bytes: start of the round in wall milliseconds (`u64`, little-endian), whether a replica was read
/// (`u8`, 0 or 1), key of the last replica read (`u64`, little-endian; 0 without).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// When this round began, or may begin, in wall milliseconds.
    pub round_ms: u64,
    /// Key of the last replica read in it.
    pub after: Option<u64>,
}

impl Cursor {
    /// Length of the durable form.
    pub const LEN: usize = 17;

    /// The durable form.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.round_ms.to_le_bytes());
        bytes[8] = u8::from(self.after.is_some());
        bytes[9..].copy_from_slice(&self.after.unwrap_or(0).to_le_bytes());
        bytes
    }

    /// From the durable form; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let word = bytes[at..at + 8]
                .try_into()
                .expect("a slice of eight bytes");
            u64::from_le_bytes(word)
        };
        let after = match bytes[8] {
            0 if word(9) == 0 => None,
            1 => Some(word(9)),
            _ => return None,
        };
        Some(Self {
            round_ms: word(0),
            after,
        })
    }
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanStep {
    /// Read this replica at once: somebody had trouble with it.
    Suspect(BlockId),
    /// Read the first replica with a key above this, or call [`BlockScanner::handle_end`].
    After(Option<u64>),
    /// Nothing before this moment, unless a suspect comes.
    Wait(Tick),
}

/// What one reading of a replica showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// All of it matches its checksums.
    Sound,
    /// Some of it does not, or cannot be read.
    Bad,
    /// Deleted or changed meanwhile, or not read for another reason: its turn comes again.
    Unknown,
}

/// What follows from a reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On to the next.
    Next,
    /// Read it once more: one bad reading says little of the bytes.
    ReadAgain,
    /// Report it to every NameNode.
    Report,
}

/// The scanner of one storage.
#[derive(Clone, Debug)]
pub struct BlockScanner {
    config: ScannerConfig,
    cursor: Cursor,
    /// The rate allows the next read from here on.
    allowed_from: Tick,
    /// Thousandths of a byte read beyond what `allowed_from` covers.
    rest: u64,
    suspects: VecDeque<BlockId>,
    /// Suspects of late, and until when they are not taken again.
    recent: BTreeMap<BlockId, Tick>,
    /// Bad readings in a row of the replica that is being read.
    bad: u32,
    unsaved: bool,
    save_at: Tick,
    rounds: u64,
}

impl BlockScanner {
    /// Goes on where `saved` ends; without it a round begins now.
    #[must_use]
    pub fn new(config: ScannerConfig, saved: Option<Cursor>, now: Tick, wall_ms: u64) -> Self {
        let mut cursor = saved.unwrap_or(Cursor {
            round_ms: wall_ms,
            after: None,
        });
        // A clock that was set back must not stop the scanner for longer than a period.
        if cursor.round_ms > wall_ms.saturating_add(config.period_ms) {
            cursor.round_ms = wall_ms;
        }
        Self {
            config,
            cursor,
            allowed_from: now,
            rest: 0,
            suspects: VecDeque::new(),
            recent: BTreeMap::new(),
            bad: 0,
            unsaved: saved.is_none(),
            save_at: now.after_ms(config.save_interval_ms),
            rounds: 0,
        }
    }

    /// How far it got.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Rounds completed since the start.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Somebody had trouble with this replica: it is read next. False when it was suspected of late, or too many wait.
    pub fn suspect(&mut self, now: Tick, id: BlockId) -> bool {
        if self.recent.get(&id).is_some_and(|until| now < *until) {
            return false;
        }
        if self.suspects.len() >= SUSPECTS_MAX {
            return false;
        }
        if self.recent.len() >= SUSPECTS_MAX {
            self.recent.retain(|_, until| now < *until);
            if self.recent.len() >= SUSPECTS_MAX {
                return false;
            }
        }
        let until = now.after_ms(self.config.suspect_hold_ms);
        self.recent.insert(id, until);
        self.suspects.push_back(id);
        true
    }

    /// What to do now. A suspect is handed out once. Times are this moment on both clocks.
    pub fn poll_step(&mut self, now: Tick, wall_ms: u64) -> ScanStep {
        self.bad = 0;
        if let Some(id) = self.suspects.pop_front() {
            return ScanStep::Suspect(id);
        }
        if self.config.bytes_per_second == 0 {
            return ScanStep::Wait(Tick::NEVER);
        }
        if now < self.allowed_from {
            return ScanStep::Wait(self.allowed_from);
        }
        let early = self.cursor.round_ms.saturating_sub(wall_ms);
        if early > 0 {
            return ScanStep::Wait(now.after_ms(early.min(self.config.period_ms)));
        }
        ScanStep::After(self.cursor.after)
    }

    /// Bytes were read. Returns when the rate allows the next ones; suspects do not wait for it, but count.
    pub fn handle_read(&mut self, now: Tick, bytes: u64) -> Tick {
        let rate = self.config.bytes_per_second;
        if rate == 0 {
            return now;
        }
        let owed = bytes.saturating_mul(1000).saturating_add(self.rest);
        self.rest = owed % rate;
        self.allowed_from = self.allowed_from.max(now).after_ms(owed / rate);
        self.allowed_from
    }

    /// A replica was read to its end.
    pub fn handle_reading(&mut self, reading: Reading) -> Verdict {
        match reading {
            Reading::Sound | Reading::Unknown => Verdict::Next,
            Reading::Bad if self.bad == 0 => {
                self.bad = 1;
                Verdict::ReadAgain
            }
            Reading::Bad if self.config.planted.silent_scanner => Verdict::Next,
            Reading::Bad => Verdict::Report,
        }
    }

    /// The replica handed out by [`ScanStep::After`] is done with.
    pub fn handle_done(&mut self, id: BlockId) {
        self.cursor.after = Some(mix(id));
        self.unsaved = true;
    }

    /// No replica has a higher key: the round is complete. Returns how late it is, in milliseconds, when it took longer
    /// than the period.
    pub fn handle_end(&mut self, wall_ms: u64) -> Option<u64> {
        let due = self.cursor.round_ms.saturating_add(self.config.period_ms);
        // An empty round at the end of a period must not make the next begin in the past, without end.
        self.cursor = Cursor {
            round_ms: due.max(wall_ms),
            after: None,
        };
        self.rounds += 1;
        self.unsaved = true;
        wall_ms.checked_sub(due).filter(|late| *late > 0)
    }

    /// The cursor to make durable, when it is time.
    pub fn poll_save(&mut self, now: Tick) -> Option<Cursor> {
        if now < self.save_at {
            return None;
        }
        self.save_at = now.after_ms(self.config.save_interval_ms.max(1));
        core::mem::take(&mut self.unsaved).then_some(self.cursor)
    }

    /// When the cursor is to be made durable next.
    #[must_use]
    pub fn poll_timeout(&self) -> Tick {
        if self.unsaved {
            self.save_at
        } else {
            Tick::NEVER
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const WALL: u64 = 1_000_000_000;

    fn config() -> ScannerConfig {
        ScannerConfig {
            bytes_per_second: 1000,
            period_ms: 100_000,
            save_interval_ms: 10_000,
            suspect_hold_ms: 5_000,
            ..ScannerConfig::default()
        }
    }

    /// Reads whatever is due of these replicas until `until`; which and when.
    fn drive(
        scanner: &mut BlockScanner,
        replicas: &[(BlockId, u64)],
        mut now: Tick,
        until: Tick,
    ) -> Vec<(BlockId, Tick)> {
        let mut sorted = replicas.to_vec();
        sorted.sort_by_key(|(id, _)| mix(*id));
        let mut read = Vec::new();
        while now < until {
            match scanner.poll_step(now, WALL + now.0 / 1_000_000) {
                ScanStep::Suspect(id) => read.push((id, now)),
                ScanStep::Wait(at) => now = at,
                ScanStep::After(after) => {
                    let next = sorted
                        .iter()
                        .find(|(id, _)| after.is_none_or(|after| mix(*id) > after));
                    match next {
                        Some((id, bytes)) => {
                            read.push((*id, now));
                            scanner.handle_read(now, *bytes);
                            assert_eq!(scanner.handle_reading(Reading::Sound), Verdict::Next);
                            scanner.handle_done(*id);
                        }
                        None => drop(scanner.handle_end(WALL + now.0 / 1_000_000)),
                    }
                }
            }
        }
        read
    }

    fn replicas() -> Vec<(BlockId, u64)> {
        (1..=20).map(|id| (BlockId(id), 1000 + id)).collect()
    }

    /// every replica once in a period, no faster than the rate, and the next round no sooner than the period.
    #[test]
    fn a33_every_replica_is_read_once_a_period_within_the_rate() {
        let start = Tick(0);
        let mut scanner = BlockScanner::new(config(), None, start, WALL);
        let read = drive(&mut scanner, &replicas(), start, start.after_ms(99_999));
        let mut ids: Vec<u64> = read.iter().map(|(id, _)| id.0).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=20).collect::<Vec<u64>>());
        let mut bytes = 0;
        for (id, at) in &read {
            assert!(*at >= start.after_ms(bytes), "{id} at {at:?} after {bytes}");
            bytes += 1000 + id.0;
        }
        let (from, to) = (start.after_ms(100_000), start.after_ms(199_999));
        assert_eq!(drive(&mut scanner, &replicas(), from, to).len(), 20);
        assert_eq!(scanner.rounds(), 2);
    }

    /// A restart in the middle of a round goes on behind the saved cursor, and keeps the round's start.
    #[test]
    fn a33_a_restart_goes_on_behind_the_saved_cursor() {
        let start = Tick(0);
        let mut scanner = BlockScanner::new(config(), None, start, WALL);
        let first = drive(&mut scanner, &replicas(), start, start.after_ms(9_000));
        assert_eq!(scanner.poll_save(start.after_ms(9_999)), None);
        let saved = scanner.poll_save(start.after_ms(10_000)).expect("due");
        assert_eq!(scanner.poll_save(start.after_ms(30_000)), None, "unchanged");
        let saved = Cursor::decode(&saved.encode()).expect("reads back");
        let again = start.after_ms(12_000);
        let mut scanner = BlockScanner::new(config(), Some(saved), again, WALL + 12_000);
        let rest = drive(&mut scanner, &replicas(), again, start.after_ms(99_999));
        assert!(first.len() > 3 && first.len() + rest.len() == 20);
        assert!(
            rest.iter()
                .all(|(id, _)| first.iter().all(|(other, _)| other != id))
        );
        // The next round keeps to the grid of the first.
        let next = drive(
            &mut scanner,
            &replicas(),
            start.after_ms(100_000),
            start.after_ms(100_001),
        );
        assert_eq!(next.len(), 1);
    }

    /// Suspects come first, whatever the rate says, each once in a while, and no more than a bounded number.
    #[test]
    fn a39_suspects_come_first_and_are_bounded() {
        let now = Tick(0);
        let mut scanner = BlockScanner::new(config(), None, now, WALL);
        scanner.handle_read(now, 1 << 30);
        assert!(scanner.suspect(now, BlockId(7)));
        assert!(!scanner.suspect(now, BlockId(7)), "it waits already");
        assert_eq!(scanner.poll_step(now, WALL), ScanStep::Suspect(BlockId(7)));
        assert!(matches!(scanner.poll_step(now, WALL), ScanStep::Wait(_)));
        assert!(!scanner.suspect(now.after_ms(4_999), BlockId(7)));
        assert!(scanner.suspect(now.after_ms(5_000), BlockId(7)));
        let taken = (100..5_000).filter(|id| scanner.suspect(now, BlockId(*id)));
        assert_eq!(taken.count(), SUSPECTS_MAX - 1);
    }

    /// one bad reading is read again, two are reported; a good or interrupted second one is not.
    #[test]
    fn a39_a_replica_is_reported_when_it_is_bad_twice_over() {
        let now = Tick(0);
        let mut scanner = BlockScanner::new(config(), None, now, WALL);
        for (second, verdict) in [
            (Reading::Bad, Verdict::Report),
            (Reading::Sound, Verdict::Next),
            (Reading::Unknown, Verdict::Next),
        ] {
            scanner.poll_step(now, WALL);
            assert_eq!(scanner.handle_reading(Reading::Bad), Verdict::ReadAgain);
            assert_eq!(scanner.handle_reading(second), verdict);
        }
    }

    /// Without a rate only suspects are read; a round longer than its period says so and is followed at once; a clock set
    /// back does not stop the scanner.
    #[test]
    fn a33_odd_settings_and_clocks_do_not_stop_it() {
        let now = Tick(0);
        let off = ScannerConfig {
            bytes_per_second: 0,
            ..config()
        };
        let mut scanner = BlockScanner::new(off, None, now, WALL);
        assert_eq!(scanner.poll_step(now, WALL), ScanStep::Wait(Tick::NEVER));
        assert!(scanner.suspect(now, BlockId(1)));
        assert_eq!(scanner.poll_step(now, WALL), ScanStep::Suspect(BlockId(1)));

        let mut scanner = BlockScanner::new(config(), None, now, WALL);
        assert_eq!(scanner.handle_end(WALL + 100_500), Some(500));
        assert_eq!(
            scanner.poll_step(now, WALL + 100_500),
            ScanStep::After(None)
        );

        let ahead = Cursor {
            round_ms: WALL + 200_000,
            after: Some(5),
        };
        let mut scanner = BlockScanner::new(config(), Some(ahead), now, WALL);
        assert_eq!(scanner.poll_step(now, WALL), ScanStep::After(Some(5)));
    }

    #[test]
    fn a_cursor_that_is_not_one_is_refused() {
        let cursor = Cursor {
            round_ms: 5,
            after: Some(u64::MAX),
        };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        let mut bytes = cursor.encode();
        bytes[8] = 2;
        assert_eq!(Cursor::decode(&bytes), None);
        assert_eq!(Cursor::decode(&bytes[1..]), None);
    }

    /// C4: every file that is read as a cursor is the one that cursor is written as; any other length is refused.
    #[test]
    fn c4_rubbish_in_the_cursor_file() {
        let mut random = 88_172_645_463_325_252u64;
        let mut read = 0;
        for round in 0..20_000 {
            let mut bytes = alloc::vec::Vec::new();
            while bytes.len() < round % 24 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                bytes.push(if random.is_multiple_of(3) {
                    random as u8
                } else {
                    (random % 3) as u8
                });
            }
            if let Some(cursor) = Cursor::decode(&bytes) {
                assert_eq!(cursor.encode()[..], bytes[..]);
                read += 1;
            }
        }
        assert!(read > 50, "{read}");
    }
}
