//! Durations and sizes as people write them in the configuration.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A length of time in milliseconds, written `"250ms"`, `"3s"`, `"10m"`, `"6h"` or `"0"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Duration(pub u64);

/// A number of bytes, written `"512"`, `"64KiB"`, `"128MiB"`, `"1GiB"`, `"2TiB"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Size(pub u64);

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..digits], text[digits..].trim())
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = split(text);
        let help = || {
            format!("`{text}' is not a duration: write a number and ms, s, m, h or d, as in \"3s\"")
        };
        let number: u64 = digits.parse().map_err(|_| help())?;
        let factor = match unit {
            "" if number == 0 => 1,
            _ => {
                DURATION_UNITS
                    .iter()
                    .find(|(name, _)| *name == unit)
                    .ok_or_else(help)?
                    .1
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(help)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = split(text);
        let help = || {
            format!(
                "`{text}' is not a size: write a number and KiB, MiB, GiB or TiB, as in \"128MiB\""
            )
        };
        let number: u64 = digits.parse().map_err(|_| help())?;
        let unit = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => "B",
            "k" | "kb" | "kib" => "KiB",
            "m" | "mb" | "mib" => "MiB",
            "g" | "gb" | "gib" => "GiB",
            "t" | "tb" | "tib" => "TiB",
            _ => return Err(help()),
        };
        let factor = SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(help)?
            .1;
        number.checked_mul(factor).map(Self).ok_or_else(help)
    }
}

fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    for (name, factor) in units {
        if value > 0 && value.is_multiple_of(*factor) {
            return write!(f, "{}{name}", value / factor);
        }
    }
    write!(f, "{value}")
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &DURATION_UNITS)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &SIZE_UNITS)
    }
}

macro_rules! as_text {
    ($($ty:ident),*) => {$(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(Duration, Size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_written() {
        for (text, ms) in [
            ("3s", 3000),
            ("250ms", 250),
            ("10m", 600_000),
            ("6h", 21_600_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Duration>(), Ok(Duration(ms)));
        }
        for (text, bytes) in [
            ("128MiB", 128 << 20),
            ("1 KiB", 1024),
            ("64k", 65_536),
            ("512", 512),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)));
        }
        assert_eq!(Duration(90_000).to_string(), "90s");
        assert_eq!(Size(128 << 20).to_string(), "128MiB");
    }

    #[test]
    fn nonsense_is_refused_with_the_right_form() {
        for text in [
            "",
            "3",
            "3 parsecs",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(
                text.parse::<Duration>()
                    .unwrap_err()
                    .contains("as in \"3s\""),
                "{text}"
            );
        }
        for text in ["", "MiB", "1 furlong", "-4", "99999999999TiB"] {
            assert!(
                text.parse::<Size>()
                    .unwrap_err()
                    .contains("as in \"128MiB\""),
                "{text}"
            );
        }
    }
}
