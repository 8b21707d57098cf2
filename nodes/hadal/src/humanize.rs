//! Numbers, times and tables as Hadoop prints them.

use chrono::{DateTime, Local, Utc};

const UNITS: [(char, u32); 6] = [
    ('K', 10),
    ('M', 20),
    ('G', 30),
    ('T', 40),
    ('P', 50),
    ('E', 60),
];

/// A number with a binary prefix, Hadoop's `TraditionalBinaryPrefix.long2String`: `512`, `1 K`, `1.5 K`.
pub(crate) fn binary(number: u64, unit: &str, decimals: usize) -> String {
    let Some(mut at) = UNITS.iter().rposition(|(_, shift)| number >= 1u64 << shift) else {
        return match unit {
            "" => number.to_string(),
            _ => format!("{number} {unit}"),
        };
    };
    let shift = UNITS[at].1;
    let text = if number & ((1u64 << shift) - 1) == 0 {
        (number >> shift).to_string()
    } else {
        let scaled = |shift: u32| format!("{:.decimals$}", number as f64 / (1u64 << shift) as f64);
        let rounded = scaled(shift);
        if rounded.starts_with("1024") && at + 1 < UNITS.len() {
            at += 1;
            scaled(UNITS[at].1)
        } else {
            rounded
        }
    };
    format!("{text} {}{unit}", UNITS[at].0)
}

/// A size in a listing: bytes, or `1.5 K` with `-h`.
pub(crate) fn size(bytes: u64, human: bool) -> String {
    match human {
        true => binary(bytes, "", 1),
        false => bytes.to_string(),
    }
}

/// A size in a report: `1536 (1.50 KB)`.
pub(crate) fn described(bytes: u64) -> String {
    format!("{bytes} ({})", binary(bytes, "B", 2))
}

/// `part` of `whole` in per cent with two decimals; 0 of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "0.00%".into(),
        _ => format!("{:.2}%", part as f64 * 100.0 / whole as f64),
    }
}

/// Local time of a listing: `2026-11-21 00:04`.
pub(crate) fn listing_time(ms: u64) -> String {
    local(ms).format("%Y-%m-%d %H:%M").to_string()
}

/// Local time of a report: `Sat Nov 21 00:04:05 UTC 2026`.
pub(crate) fn report_time(ms: u64) -> String {
    let time = local(ms);
    // Java's words for zones without a name.
    let zone = match time.offset().local_minus_utc() {
        0 => "UTC".to_owned(),
        _ => time.format("GMT%:z").to_string(),
    };
    time.format(&format!("%a %b %d %H:%M:%S {zone} %Y"))
        .to_string()
}

/// UTC of `-stat %y`: `2026-11-21 00:04:05`.
pub(crate) fn stat_time(ms: u64) -> String {
    utc(ms).format("%Y-%m-%d %H:%M:%S").to_string()
}

fn utc(ms: u64) -> DateTime<Utc> {
    i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or_default()
}

fn local(ms: u64) -> DateTime<Local> {
    utc(ms).with_timezone(&Local)
}

/// Milliseconds since 1970 now.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0)
}

/// Permission bits as `rwxr-xr-t`.
pub(crate) fn permission(bits: u16) -> String {
    let mut text: String = (0..9)
        .map(|at| match bits & (0o400 >> at) {
            0 => '-',
            _ => ['r', 'w', 'x'][at % 3],
        })
        .collect();
    if bits & 0o1000 != 0 {
        text.pop();
        text.push(if bits & 1 == 0 { 'T' } else { 't' });
    }
    text
}

/// Rows of text in columns two blanks apart, Hadoop's `TableBuilder`.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table whose columns stand right (`true`) or left.
    pub(crate) fn new(right: &[bool]) -> Self {
        Self {
            rows: Vec::new(),
            right: right.to_vec(),
        }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Its lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let last = self.right.len() - 1;
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(at, cell)| {
                let width = widths[at];
                match (self.right[at], at == last) {
                    (true, _) => format!("{cell:>width$}"),
                    (false, true) => cell.clone(),
                    (false, false) => format!("{cell:<width$}"),
                }
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_binary_prefixes_as_hadoop_s_do() {
        for (number, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1 K"),
            (1536, "1.5 K"),
            (3_000_000, "2.9 M"),
            (1 << 30, "1 G"),
            ((1 << 20) - 1, "1.0 M"),
            (u64::MAX, "16.0 E"),
        ] {
            assert_eq!(binary(number, "", 1), text, "{number}");
        }
        assert_eq!(binary(24_576, "B", 2), "24 KB");
        assert_eq!(binary(100, "B", 2), "100 B");
        assert_eq!(described(1536), "1536 (1.50 KB)");
        assert_eq!(size(1536, false), "1536");
    }

    #[test]
    fn percentages_of_nothing_are_zero() {
        assert_eq!(percent(1, 0), "0.00%");
        assert_eq!(percent(1, 3), "33.33%");
    }

    #[test]
    fn permissions_show_the_sticky_bit() {
        assert_eq!(permission(0o644), "rw-r--r--");
        assert_eq!(permission(0o1777), "rwxrwxrwt");
        assert_eq!(permission(0o1770), "rwxrwx--T");
    }

    #[test]
    fn stat_times_are_utc() {
        assert_eq!(stat_time(1_795_219_445_678), "2026-11-21 00:04:05");
    }

    #[test]
    fn tables_align_their_columns() {
        let mut table = Table::new(&[true, false, false]);
        table.row(["1".into(), "22".into(), "a".into()]);
        table.row(["333".into(), "4".into(), "bb".into()]);
        assert_eq!(table.lines(), ["  1  22  a", "333  4   bb"]);
    }
}
