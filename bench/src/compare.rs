//! Two results side by side.

use crate::report::{Better, Document, Row, number};
use comfy_table::{CellAlignment, Table, presets};

/// One row that both results have, or that only one of them has.
#[derive(Clone, PartialEq, Debug)]
pub struct Pair<'a> {
    /// Question.
    pub question: &'a str,
    /// In the first result.
    pub first: Option<&'a Row>,
    /// In the second.
    pub second: Option<&'a Row>,
}

impl Pair<'_> {
    /// How many times better the second is: above 1 is better, whichever way the figure goes.
    #[must_use]
    pub fn gain(&self) -> Option<f64> {
        let (first, second) = (self.first?, self.second?);
        let (over, under) = match second.better {
            Better::Higher => (second.median, first.median),
            Better::Lower => (first.median, second.median),
        };
        (under != 0.0).then(|| over / under)
    }
}

/// Pairs the rows by question, figure and load: those of the first in its order, then what only the second has.
#[must_use]
pub fn pairs<'a>(first: &'a Document, second: &'a Document) -> Vec<Pair<'a>> {
    let left: Vec<(&str, &Row)> = rows(first).collect();
    let right: Vec<(&str, &Row)> = rows(second).collect();
    let same = |a: &(&str, &Row), b: &(&str, &Row)| {
        (a.0, &a.1.figure, &a.1.load, &a.1.unit) == (b.0, &b.1.figure, &b.1.load, &b.1.unit)
    };
    let mut pairs: Vec<Pair<'a>> = left
        .iter()
        .map(|mine| Pair {
            question: mine.0,
            first: Some(mine.1),
            second: right
                .iter()
                .find(|theirs| same(mine, theirs))
                .map(|(_, row)| *row),
        })
        .collect();
    let only_right = right
        .iter()
        .filter(|theirs| !left.iter().any(|mine| same(mine, theirs)));
    pairs.extend(only_right.map(|(question, row)| Pair {
        question,
        first: None,
        second: Some(row),
    }));
    pairs
}

fn rows(document: &Document) -> impl Iterator<Item = (&str, &Row)> {
    let questions = document.questions.iter();
    questions.flat_map(|question| {
        question
            .rows
            .iter()
            .map(|row| (question.name.as_str(), row))
    })
}

/// The comparison as a table. `times` is how many times better B is than A; the p99 and CPU columns are plain ratios
/// B / A, where less is better.
#[must_use]
pub fn table(first: &Document, second: &Document) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "question", "figure", "load", "unit", "A", "B", "times", "p99 B/A", "CPU B/A",
    ]);
    for pair in pairs(first, second) {
        let Some(row) = pair.first.or(pair.second) else {
            continue;
        };
        let shown = |row: Option<&Row>| row.map_or_else(|| "-".into(), |row| number(row.median));
        let ratio = |take: fn(&Row) -> Option<f64>| {
            let (first, second) = (pair.first.and_then(take), pair.second.and_then(take));
            match (first, second) {
                (Some(first), Some(second)) if first != 0.0 => format!("{:.2}", second / first),
                _ => String::new(),
            }
        };
        table.add_row([
            pair.question.to_owned(),
            row.figure.clone(),
            row.load.clone(),
            row.unit.clone(),
            shown(pair.first),
            shown(pair.second),
            pair.gain()
                .map_or_else(String::new, |gain| format!("{gain:.2}")),
            ratio(|row| row.latency.as_ref().map(|latency| latency.p99_us)),
            ratio(|row| row.cpu.as_ref().map(|cpu| cpu.seconds)),
        ]);
    }
    for column in 4..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!(
        "A: {}\nB: {}\n{table}\n",
        first.environment.line(),
        second.environment.line()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{document, row};

    #[test]
    fn a_gain_is_above_one_when_it_got_better_either_way() {
        let a = document(vec![
            row("mkdirs", &[10.0, 10.0, 10.0], Better::Higher),
            row("append", &[200.0, 200.0, 200.0], Better::Lower),
        ]);
        let b = document(vec![
            row("append", &[100.0, 100.0, 100.0], Better::Lower),
            row("mkdirs", &[40.0, 40.0, 40.0], Better::Higher),
        ]);
        let gains: Vec<_> = pairs(&a, &b).iter().map(Pair::gain).collect();
        assert_eq!(gains, [Some(4.0), Some(2.0)]);
        let back: Vec<_> = pairs(&b, &a).iter().map(Pair::gain).collect();
        assert_eq!(back, [Some(0.5), Some(0.25)]);
    }

    #[test]
    fn rows_of_one_side_only_are_shown_without_a_ratio() {
        let a = document(vec![row("mkdirs", &[10.0], Better::Higher)]);
        let b = document(vec![row("rename", &[10.0], Better::Higher)]);
        let pairs = pairs(&a, &b);
        assert_eq!(pairs.len(), 2);
        assert!(pairs[0].second.is_none() && pairs[1].first.is_none());
        assert!(pairs.iter().all(|pair| pair.gain().is_none()));
        let text = table(&a, &b);
        assert!(text.contains("mkdirs") && text.contains("rename"));
    }

    #[test]
    fn other_loads_are_other_rows() {
        let a = document(vec![row("mkdirs", &[10.0], Better::Higher)]);
        let mut b = a.clone();
        b.questions[0].rows[0].load = "1 caller".into();
        assert!(pairs(&a, &b).iter().all(|pair| pair.gain().is_none()));
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let a = document(vec![row("mkdirs", &[0.0], Better::Higher)]);
        assert_eq!(pairs(&a, &a)[0].gain(), None);
    }
}
