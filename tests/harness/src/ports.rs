//! Ports nobody else uses.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// First port given out. All are below those the system gives to clients.
const FIRST: u16 = 21_000;
/// Ports in one range.
const RANGE: u16 = 100;
/// Ranges there are.
const RANGES: u16 = 80;

/// A hundred ports, kept for the one who holds this. Tests of other processes leave them alone (a locked file says so),
/// and at the beginning nobody listened on them.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _lock: File,
}

impl Ports {
    /// A free range.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn take() -> Self {
        let start = u16::try_from(std::process::id() % u32::from(RANGES)).expect("below 80");
        (0..RANGES)
            .map(|n| FIRST + (start + n) % RANGES * RANGE)
            .find_map(Self::try_take)
            .expect("a free range of ports between 21000 and 29000")
    }

    fn try_take(base: u16) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("hadal-harness-ports-{base}"));
        let lock = File::create(path).ok()?;
        lock.try_lock().ok()?;
        let is_free = |port| {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        };
        (base..base + RANGE)
            .all(is_free)
            .then_some(Self { base, _lock: lock })
    }

    /// The first of them.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// One at the end of the range, which no node of a cluster uses.
    pub fn spare(&self) -> u16 {
        self.base + RANGE - 1
    }
}
