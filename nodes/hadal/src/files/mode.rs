//! Modes of `chmod`: `755`, `1777`, `u+x,g-w`, `a=rX`.

/// What to do with permission bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// These bits, whatever was there.
    Absolute(u16),
    /// These changes, one after the other.
    Symbolic(Vec<Change>),
}

/// One clause of a symbolic mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// Shifts of the classes meant: 6 user, 3 group, 0 others.
    classes: Vec<u16>,
    operation: char,
    /// Of `rwx`, as 0 to 7.
    bits: u16,
    /// `X`: execute for directories and what has an execute bit.
    execute_if: bool,
    sticky: bool,
}

impl Mode {
    /// Reads a mode; an error is FsShell's complaint.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("chmod : mode '{text}' does not match the expected pattern.");
        let digits = text.trim().trim_start_matches('+');
        if digits.chars().all(|c| c.is_digit(8)) && matches!(digits.len(), 3 | 4) {
            let bits = u16::from_str_radix(digits, 8).map_err(|_| bad())?;
            return match bits {
                0..=0o1777 => Ok(Self::Absolute(bits)),
                _ => Err(bad()),
            };
        }
        let clauses: Vec<&str> = text.split(',').map(str::trim).collect();
        let mut changes = Vec::new();
        for clause in clauses {
            changes.extend(clause_changes(clause).ok_or_else(bad)?);
        }
        Ok(Self::Symbolic(changes))
    }

    /// The bits it makes of `bits`.
    pub(crate) fn apply(&self, bits: u16, is_dir: bool) -> u16 {
        let changes = match self {
            Self::Absolute(bits) => return *bits,
            Self::Symbolic(changes) => changes,
        };
        changes
            .iter()
            .fold(bits, |bits, change| change.apply(bits, is_dir))
    }
}

impl Change {
    fn apply(&self, bits: u16, is_dir: bool) -> u16 {
        let mut wanted = self.bits;
        if self.execute_if && (is_dir || bits & 0o111 != 0) {
            wanted |= 1;
        }
        let mut mask = self
            .classes
            .iter()
            .fold(0, |mask, shift| mask | wanted << shift);
        if self.sticky {
            mask |= 0o1000;
        }
        match self.operation {
            '+' => bits | mask,
            '-' => bits & !mask,
            _ => {
                let replaced = self.classes.iter().fold(0, |all, shift| all | 0o7 << shift);
                bits & !replaced | mask
            }
        }
    }
}

/// `ug+rw-x` is two changes of the same classes.
fn clause_changes(clause: &str) -> Option<Vec<Change>> {
    let start = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(start);
    let mut classes = Vec::new();
    for c in who.chars() {
        match c {
            'u' => classes.push(6),
            'g' => classes.push(3),
            'o' => classes.push(0),
            'a' => classes.extend([6, 3, 0]),
            _ => return None,
        }
    }
    if classes.is_empty() {
        classes.extend([6, 3, 0]);
    }
    let mut changes = Vec::new();
    while let Some(operation) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (which, after) = rest.split_at(end);
        let mut change = Change {
            classes: classes.clone(),
            operation,
            bits: 0,
            execute_if: false,
            sticky: false,
        };
        for c in which.chars() {
            match c {
                'r' => change.bits |= 4,
                'w' => change.bits |= 2,
                'x' => change.bits |= 1,
                'X' => change.execute_if = true,
                't' => change.sticky = true,
                _ => return None,
            }
        }
        // `u+` says nothing, `u=` takes everything away.
        if which.is_empty() && operation != '=' {
            return None;
        }
        changes.push(change);
        rest = after;
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, bits: u16) -> u16 {
        Mode::parse(text).unwrap().apply(bits, false)
    }

    #[test]
    fn octal_modes_replace_everything() {
        assert_eq!(file("755", 0o1000), 0o755);
        assert_eq!(file("1777", 0), 0o1777);
        assert_eq!(file("0644", 0o777), 0o644);
        assert_eq!(file("+640", 0o777), 0o640);
    }

    #[test]
    fn symbolic_modes_change_bits() {
        assert_eq!(file("u+x,g-w", 0o664), 0o744);
        assert_eq!(file("a=r", 0o777), 0o444);
        assert_eq!(file("+x", 0o644), 0o755);
        assert_eq!(file("go-rwx", 0o777), 0o700);
        assert_eq!(file("u=rwx,go=", 0o644), 0o700);
        assert_eq!(file("ug+r-x", 0o311), 0o641);
        assert_eq!(file("+t", 0o777), 0o1777);
        assert_eq!(file("-t", 0o1777), 0o777);
        assert_eq!(file("o+w", 0o1770), 0o1772);
    }

    #[test]
    fn capital_x_is_for_directories_and_executables() {
        let mode = Mode::parse("a+X").unwrap();
        assert_eq!(mode.apply(0o644, false), 0o644);
        assert_eq!(mode.apply(0o744, false), 0o755);
        assert_eq!(mode.apply(0o644, true), 0o755);
    }

    #[test]
    fn nonsense_is_refused_in_hadoop_s_words() {
        for bad in ["", "u", "99", "7777", "u+q", "z+x", "u+x,", "75", "u+"] {
            let error = Mode::parse(bad).unwrap_err();
            assert!(
                error.ends_with("does not match the expected pattern."),
                "{bad}"
            );
        }
    }
}
