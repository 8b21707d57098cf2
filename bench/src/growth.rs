//! Pictures of growth: a figure over the size it was measured at.

use crate::report::number;
use svg::node::element::{Circle, Line, Polyline, Text};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;
const LEGEND: f64 = 18.0;
const COLOURS: [&str; 5] = ["#4a7ba6", "#b5543a", "#5c8a3c", "#7d5ba6", "#8a7a3c"];

/// One line: its name and (size, figure), sizes rising.
pub type Series = (String, Vec<(f64, f64)>);

/// Draws series over one another: sizes in a logarithmic scale, figures from 0.
#[must_use]
pub fn draw(title: &str, size: &str, figure: &str, series: &[Series]) -> svg::Document {
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let least = points().map(|(x, _)| x).fold(f64::MAX, f64::min).max(1.0);
    let most = points().map(|(x, _)| x).fold(least * 1.01, f64::max);
    let top = points().map(|(_, y)| y).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let x_of =
        |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * (x.max(1.0) / least).ln() / (most / least).ln();
    let y_of = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y / top);
    let mut picture = svg::Document::new()
        .set(
            "viewBox",
            (0, 0, WIDTH, HEIGHT + LEGEND * series.len() as f64),
        )
        .set("width", WIDTH)
        .set("height", HEIGHT + LEGEND * series.len() as f64)
        .add(text(LEFT, 22.0, 15.0, "start", title))
        .add(text(LEFT, 40.0, 11.0, "start", figure))
        .add(text(WIDTH - RIGHT, HEIGHT - 12.0, 11.0, "end", size));
    for step in 0..=4 {
        let y = top * f64::from(step) / 4.0;
        picture = picture
            .add(line((LEFT, y_of(y)), (WIDTH - RIGHT, y_of(y)), "#dddddd"))
            .add(text(LEFT - 6.0, y_of(y) + 4.0, 11.0, "end", &number(y)));
    }
    let mut sizes: Vec<f64> = points().map(|(x, _)| x).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    for x in sizes {
        picture = picture
            .add(line(
                (x_of(x), HEIGHT - BOTTOM),
                (x_of(x), HEIGHT - BOTTOM + 5.0),
                "#444444",
            ))
            .add(text(
                x_of(x),
                HEIGHT - BOTTOM + 18.0,
                11.0,
                "middle",
                &number(x),
            ));
    }
    for (at, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y)))
            .collect();
        let path = Polyline::new()
            .set("points", path.join(" "))
            .set("fill", "none")
            .set("stroke", colour)
            .set("stroke-width", 2);
        picture = picture.add(path);
        for (x, y) in points {
            let dot = Circle::new()
                .set("cx", x_of(*x))
                .set("cy", y_of(*y))
                .set("r", 3.5)
                .set("fill", colour);
            picture =
                picture
                    .add(dot)
                    .add(text(x_of(*x), y_of(*y) - 7.0, 10.0, "middle", &number(*y)));
        }
        let y = HEIGHT + LEGEND * at as f64;
        picture = picture
            .add(line((LEFT, y), (LEFT + 24.0, y), colour))
            .add(text(LEFT + 30.0, y + 4.0, 12.0, "start", name));
    }
    picture
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str) -> Line {
    Line::new()
        .set("x1", from.0)
        .set("y1", from.1)
        .set("x2", to.0)
        .set("y2", to.1)
        .set("stroke", colour)
        .set("stroke-width", 1.5)
}

fn text(x: f64, y: f64, size: f64, anchor: &str, content: &str) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("font-size", size)
        .set("font-family", "sans-serif")
        .set("text-anchor", anchor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_dot_and_every_series_a_line() {
        let series = [
            (
                "full".to_owned(),
                vec![(1e5, 30.0), (1e6, 31.0), (1e7, 33.0)],
            ),
            ("<digest>".to_owned(), vec![(1e5, 0.1), (1e7, 0.1)]),
        ];
        let drawn = draw("cost", "blocks", "ns per replica", &series).to_string();
        assert_eq!(drawn.matches("<circle").count(), 5);
        assert_eq!(drawn.matches("<polyline").count(), 2);
        assert!(
            drawn.contains("&lt;digest&gt;") && !drawn.contains("NaN"),
            "{drawn}"
        );
        assert!(!draw("nothing", "", "", &[]).to_string().contains("NaN"));
    }
}
