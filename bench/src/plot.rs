//! One picture of a result: a bar per row, drawn to scale within each question and unit.

use crate::report::{Document, Row, number};
use crate::stats::spread;
use anyhow::{Context, Result};
use std::path::Path;
use svg::node::element::{Line, Rectangle, Text};

const WIDTH: f64 = 1000.0;
const LABEL: f64 = 430.0;
const BARS: f64 = 400.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 34.0;

/// Draws the document.
#[must_use]
pub fn draw(document: &Document) -> svg::Document {
    let mut picture = svg::Document::new();
    let mut y = HEAD;
    picture = picture.add(text(10.0, y - 14.0, 11.0, &document.environment.line()));
    for question in &document.questions {
        picture = picture.add(text(10.0, y + 16.0, 16.0, &question.name));
        y += HEAD;
        for row in &question.rows {
            let same_unit = question.rows.iter().filter(|other| other.unit == row.unit);
            let most = same_unit.map(largest).fold(f64::MIN_POSITIVE, f64::max);
            let at = |value: f64| LABEL + BARS * (value / most).clamp(0.0, 1.0);
            let low = row.runs.iter().copied().fold(row.median, f64::min);
            let label = format!("{}, {}", row.figure, row.load);
            let bar = Rectangle::new()
                .set("x", LABEL)
                .set("y", y + 3.0)
                .set("width", at(row.median) - LABEL)
                .set("height", ROW - 6.0)
                .set("fill", "#4a7ba6");
            let range = Line::new()
                .set("x1", at(low))
                .set("x2", at(largest(row)))
                .set("y1", y + ROW / 2.0)
                .set("y2", y + ROW / 2.0)
                .set("stroke", "#1c2f40")
                .set("stroke-width", 2);
            let share = spread(&row.runs).unwrap_or(0.0) * 100.0;
            let value = format!("{} {} (spread {share:.0} %)", number(row.median), row.unit);
            picture = picture
                .add(text(10.0, y + 15.0, 12.0, &label))
                .add(bar)
                .add(range)
                .add(text(at(largest(row)) + 8.0, y + 15.0, 12.0, &value));
            y += ROW;
        }
        y += HEAD / 2.0;
    }
    picture
        .set("viewBox", (0, 0, WIDTH, y))
        .set("width", WIDTH)
        .set("height", y)
}

fn largest(row: &Row) -> f64 {
    row.runs.iter().copied().fold(row.median, f64::max)
}

fn text(x: f64, y: f64, size: f64, content: &str) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("font-size", size)
        .set("font-family", "sans-serif")
}

/// Draws the document into a file.
///
/// # Errors
/// When the file cannot be written.
pub fn save(document: &Document, path: &Path) -> Result<()> {
    svg::save(path, &draw(document)).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Better;
    use crate::report::tests::{document, row};

    #[test]
    fn every_row_has_a_bar_and_labels_are_escaped() {
        let rows = vec![
            row("mkdirs <&>", &[1.0, 2.0, 3.0], Better::Higher),
            row("rename", &[30.0, 30.0, 30.0], Better::Higher),
        ];
        let drawn = draw(&document(rows)).to_string();
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert!(drawn.contains("mkdirs &lt;&amp;&gt;"), "{drawn}");
        assert!(drawn.contains("rename"));
    }
}
