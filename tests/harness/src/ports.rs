//! Ports nobody else uses.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;

/// Ports in one range.
const RANGE: u16 = 100;
/// Ranges that are given out, by their first ports: these, or any where the system gives these to clients.
const USUAL: Range<u16> = 21_000..29_000;
const ANY: Range<u16> = 10_000..65_000;
/// Where Linux takes the ports of clients from unless told otherwise.
const CLIENTS: (u16, u16) = (32_768, 60_999);

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
        let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let clients = told.ok().as_deref().and_then(parse).unwrap_or(CLIENTS);
        let mut bases = bases(clients);
        let start = std::process::id() as usize % bases.len();
        bases.rotate_left(start);
        let found = bases.iter().copied().find_map(Self::try_take);
        found.unwrap_or_else(|| panic!("none of {} ranges of ports is free", bases.len()))
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

/// First and last port that the system gives to clients.
fn parse(told: &str) -> Option<(u16, u16)> {
    let (low, high) = told.trim().split_once(char::is_whitespace)?;
    Some((low.parse().ok()?, high.trim().parse().ok()?))
}

/// Ranges of which the system gives no port to a client, who might have it while a node is down; all, where there are none.
fn bases((low, high): (u16, u16)) -> Vec<u16> {
    let clear = |ranges: Range<u16>| -> Vec<u16> {
        let all = ranges.step_by(usize::from(RANGE));
        all.filter(|base| base + RANGE <= low || *base > high)
            .collect()
    };
    let found = [USUAL, ANY]
        .map(clear)
        .into_iter()
        .find(|it| !it.is_empty());
    found.unwrap_or_else(|| USUAL.step_by(usize::from(RANGE)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_clients_are_left_to_them() {
        assert_eq!(parse("32768\t60999\n"), Some(CLIENTS));
        assert_eq!(parse("many"), None);
        let usual = bases(CLIENTS);
        assert_eq!((usual.len(), usual[0], usual[79]), (80, 21_000, 28_900));
        let below = bases((15_000, 65_535));
        assert_eq!((below[0], below.last()), (10_000, Some(&14_900)));
        assert_eq!(bases((1_024, 20_999))[0], 21_000);
        assert_eq!(bases((1_024, 60_000))[0], 60_100);
        assert_eq!(bases((1_024, 65_535)), usual, "no choice");
    }
}
