//! Glob patterns as Hadoop's: `*`, `?`, `[a-c]`, `[^x]`, `{one,two}` and `\` before a literal character.

/// Whether a path has a pattern in it.
pub(crate) fn is_pattern(path: &str) -> bool {
    let mut escaped = false;
    path.chars().any(|c| {
        let literal = is_escaped(&mut escaped, c);
        !literal && matches!(c, '*' | '?' | '[' | '{')
    })
}

/// Whether `c` has a backslash before it that is none's own; `escaped` is that of the next character.
fn is_escaped(escaped: &mut bool, c: char) -> bool {
    let was = *escaped;
    *escaped = c == '\\' && !was;
    was
}

/// A path without the backslashes that keep patterns from being ones.
pub(crate) fn unescape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

/// The patterns a path stands for once braces that span a `/` are spelt out. Braces inside one component are left
/// to [`Pattern`], so that their matches come in the directory's order.
pub(crate) fn spell_out(path: &str) -> Result<Vec<String>, String> {
    let mut from = 0;
    while let Some((open, close)) = braces(path, from)? {
        let inside = &path[open + 1..close];
        if !inside.contains('/') {
            from = close;
            continue;
        }
        let mut all = Vec::new();
        for choice in choices(inside) {
            all.extend(spell_out(&format!(
                "{}{choice}{}",
                &path[..open],
                &path[close + 1..]
            ))?);
        }
        return Ok(all);
    }
    Ok(vec![path.to_owned()])
}

/// The next outermost pair of braces at or behind `from`.
fn braces(path: &str, from: usize) -> Result<Option<(usize, usize)>, String> {
    let (mut depth, mut open, mut escaped) = (0, 0, false);
    for (at, c) in path.char_indices() {
        if is_escaped(&mut escaped, c) || at < from {
            continue;
        }
        match c {
            '{' => {
                if depth == 0 {
                    open = at;
                }
                depth += 1;
            }
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some((open, at)));
                }
            }
            _ => {}
        }
    }
    match depth {
        0 => Ok(None),
        _ => Err(format!(
            "Unclosed group near index {} of {path}",
            path.len()
        )),
    }
}

/// The text between braces, cut at the commas that belong to them.
fn choices(inside: &str) -> Vec<&str> {
    let (mut depth, mut start, mut escaped) = (0, 0, false);
    let mut all = Vec::new();
    for (at, c) in inside.char_indices() {
        if is_escaped(&mut escaped, c) {
            continue;
        }
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(&inside[start..]);
    all
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Literal(char),
    Any,
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern for one component of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pattern {
    alternatives: Vec<Vec<Token>>,
}

impl Pattern {
    /// Compiles a component.
    pub(crate) fn new(component: &str) -> Result<Self, String> {
        let mut plain = vec![component.to_owned()];
        let mut alternatives = Vec::new();
        while let Some(pattern) = plain.pop() {
            match braces(&pattern, 0)? {
                Some((open, close)) => {
                    for choice in choices(&pattern[open + 1..close]) {
                        plain.push(format!(
                            "{}{choice}{}",
                            &pattern[..open],
                            &pattern[close + 1..]
                        ));
                    }
                }
                None => alternatives.push(tokens(&pattern)?),
            }
        }
        Ok(Self { alternatives })
    }

    /// Whether a name fits.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        self.alternatives.iter().any(|tokens| fits(tokens, &name))
    }
}

fn tokens(pattern: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '\\' => Token::Literal(chars.next().unwrap_or('\\')),
            '?' => Token::Any,
            '*' => Token::Star,
            '[' => {
                let negated = chars.next_if(|c| matches!(c, '^' | '!')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let unclosed = || format!("Unclosed character class in {pattern}");
                    let low = match chars.next().ok_or_else(unclosed)? {
                        ']' if !ranges.is_empty() => break,
                        '\\' => chars.next().ok_or_else(unclosed)?,
                        c => c,
                    };
                    let mut ahead = chars.clone();
                    let high = match (ahead.next(), ahead.next()) {
                        (Some('-'), Some(high)) if high != ']' => {
                            chars = ahead;
                            high
                        }
                        _ => low,
                    };
                    ranges.push((low, high));
                }
                Token::Class { negated, ranges }
            }
            c => Token::Literal(c),
        });
    }
    Ok(tokens)
}

/// Greedy matching with one point to go back to: linear in practice, never exponential.
fn fits(tokens: &[Token], name: &[char]) -> bool {
    let (mut t, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        let hit = match tokens.get(t) {
            Some(Token::Star) => {
                back = Some((t + 1, n));
                t += 1;
                continue;
            }
            Some(Token::Any) => true,
            Some(Token::Literal(c)) => *c == name[n],
            Some(Token::Class { negated, ranges }) => {
                let inside = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&name[n]));
                inside != *negated
            }
            None => false,
        };
        if hit {
            t += 1;
            n += 1;
        } else if let Some((token, at)) = &mut back {
            *at += 1;
            (t, n) = (*token, *at);
        } else {
            return false;
        }
    }
    tokens[t..].iter().all(|token| *token == Token::Star)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_hadoop_s() {
        for (pattern, yes, no) in [
            ("*", vec!["", "a", ".x"], vec![]),
            ("a*b*c", vec!["abc", "aXbYc", "abbcc"], vec!["ab", "abcd"]),
            ("?x", vec!["ax", "üx"], vec!["x", "aax"]),
            ("[a-c]1", vec!["a1", "c1"], vec!["d1", "1"]),
            ("[^a-c]1", vec!["d1"], vec!["a1"]),
            ("[!a]", vec!["b"], vec!["a"]),
            ("[]-]", vec!["]", "-"], vec!["a"]),
            ("{a,b*}.txt", vec!["a.txt", "bcd.txt"], vec!["c.txt", "{a"]),
            ("x{1,{2,3}}", vec!["x1", "x2", "x3"], vec!["x", "x12"]),
            ("a\\*b", vec!["a*b"], vec!["axb"]),
            ("part-0000[0-3]", vec!["part-00002"], vec!["part-00004"]),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            for name in yes {
                assert!(compiled.matches(name), "{pattern} should match {name}");
            }
            for name in no {
                assert!(!compiled.matches(name), "{pattern} should not match {name}");
            }
        }
    }

    #[test]
    fn many_stars_end_in_time() {
        let pattern = Pattern::new(&"*a".repeat(40)).unwrap();
        assert!(!pattern.matches(&"a".repeat(39)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(200))));
        assert!(pattern.matches(&"a".repeat(200)));
    }

    #[test]
    fn unclosed_patterns_are_errors() {
        assert!(Pattern::new("[a").is_err());
        assert!(Pattern::new("{a,b").is_err());
        assert!(spell_out("/x/{a/b").is_err());
    }

    #[test]
    fn braces_over_slashes_are_spelt_out() {
        assert_eq!(
            spell_out("/{a/b,c}/{d,e}").unwrap(),
            ["/a/b/{d,e}", "/c/{d,e}"]
        );
        assert_eq!(
            spell_out("/{d,e}/{f/g,h}").unwrap(),
            ["/{d,e}/f/g", "/{d,e}/h"]
        );
    }

    #[test]
    fn escapes_make_patterns_literal() {
        assert!(is_pattern("/a/*") && is_pattern("/{a,b}") && is_pattern("/[x]"));
        assert!(!is_pattern("/a\\*b") && !is_pattern("/plain"));
        assert_eq!(unescape("/a\\*b\\\\"), "/a*b\\");
    }
}
