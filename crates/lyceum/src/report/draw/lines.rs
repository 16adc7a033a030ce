//! Lines over a common axis, named at their ends, and small ones side by side.

use super::axis::{Axis, extent, spread};
use super::canvas::{Canvas, Label, MARGIN, Paint, Side, Stroke};
use crate::report::chart::{Lines, Panels};

/// Room for the lines of one chart.
const PLOT: (f64, f64) = (560.0, 300.0);
/// Between the names of lines.
const GAP: f64 = 16.0;

/// Draws `chart` below the title of `canvas`.
pub(super) fn draw(canvas: &mut Canvas, chart: &Lines) {
    let points = || chart.lines.iter().flat_map(|(_, points)| points);
    let marks = chart.marks.iter().map(|mark| mark.value);
    let (x0, x1) = wide(extent(points().map(|p| p[0])));
    let (y0, y1) = wide(extent(points().map(|p| p[1]).chain(marks)));
    let (y0, y1) = (y0.min(0.0), y1 + (y1 - y0.min(0.0)) * 0.05);
    let names = chart.lines.len() + chart.marks.len();
    let height = PLOT.1.max(GAP * names as f64);
    let top = 52.0;
    let mut y = Axis {
        low: y0,
        high: y1,
        pixels: (top + height, top),
    };
    let ticks = y.ticks(6, false);
    let left = MARGIN + 22.0 + canvas.widest(ticks.iter().map(|t| t.1.as_str()), 11.0) + 8.0;
    let x = Axis {
        low: x0,
        high: x1,
        pixels: (left, left + PLOT.0),
    };
    y.pixels = (top + height, top);
    frame(canvas, &x, &y, ticks);
    for (value, text) in x.ticks(8, chart.whole) {
        canvas.text_at(
            &text,
            [x.at(value), top + height + 14.0],
            11.0,
            Side::Middle,
        );
    }
    let middle = [left + PLOT.0 / 2.0, top + height + 34.0];
    canvas.text_at(&chart.x, middle, 12.0, Side::Middle);
    upright(canvas, &chart.y, [MARGIN + 8.0, top + height / 2.0]);
    let placed: Vec<Vec<[f64; 2]>> = { chart.lines.iter() }
        .map(|(_, points)| placed(points, &x, &y))
        .collect();
    for (i, points) in placed.iter().enumerate() {
        // A line below another is seen on both sides of it.
        let hidden = placed[i + 1..].iter().any(|later| covers(later, points));
        let stroke = Stroke {
            width: if hidden { 6.0 } else { 2.0 },
            ..Stroke::thin(Paint::Series(i))
        };
        canvas.line(points, stroke);
    }
    ends(canvas, chart, &x, &y);
}

/// Names beside the right end of the plot, at the height of their lines' ends where there is room.
fn ends(canvas: &mut Canvas, chart: &Lines, x: &Axis, y: &Axis) {
    let right = x.pixels.1;
    for mark in &chart.marks {
        let at = y.at(mark.value);
        let line = [[x.pixels.0, at], [right, at]];
        canvas.line(&line, Stroke::dashed(Paint::Muted));
    }
    let last = |points: &[[f64; 2]]| {
        let finite = points.iter().rev().find(|p| p[1].is_finite());
        finite.copied().unwrap_or([x.low, y.low])
    };
    let mut entries: Vec<(f64, f64, &str, Stroke)> = Vec::new();
    for (i, (name, points)) in chart.lines.iter().enumerate() {
        let [end, value] = last(points);
        let stroke = Stroke {
            width: 2.0,
            ..Stroke::thin(Paint::Series(i))
        };
        entries.push((x.at(end), y.at(value), name, stroke));
    }
    for mark in &chart.marks {
        let stroke = Stroke::dashed(Paint::Muted);
        entries.push((right, y.at(mark.value), &mark.label, stroke));
    }
    if chart.lines.len() == 1 && chart.marks.is_empty() {
        return;
    }
    let heights: Vec<f64> = entries.iter().map(|entry| entry.1).collect();
    let heights = spread(&heights, GAP, y.pixels.1, y.pixels.0);
    for ((end, at, name, stroke), height) in entries.into_iter().zip(heights) {
        // A line that stops before the plot's end is not led on.
        if end > right - 1.0 {
            let lead = [[right, at], [right + 14.0, height]];
            let thin = Stroke {
                width: 1.0,
                opacity: 0.6,
                ..stroke
            };
            canvas.line(&lead, thin);
        }
        let sample = [[right + 14.0, height], [right + 32.0, height]];
        canvas.line(&sample, stroke);
        canvas.text(name, [right + 38.0, height], 12.0, Paint::Ink);
    }
}

fn frame(canvas: &mut Canvas, x: &Axis, y: &Axis, ticks: Vec<(f64, String)>) {
    let (left, right) = x.pixels;
    for (value, text) in ticks {
        let at = y.at(value);
        canvas.line(&[[left, at], [right, at]], Stroke::thin(Paint::Faint));
        canvas.text_at(&text, [left - 8.0, at], 11.0, Side::End);
    }
    let foot = y.at(y.low);
    canvas.line(&[[left, foot], [right, foot]], Stroke::thin(Paint::Muted));
}

fn upright(canvas: &mut Canvas, text: &str, at: [f64; 2]) {
    canvas.label(Label {
        text: text.to_owned(),
        at,
        size: 12.0,
        paint: Paint::Ink,
        side: Side::Middle,
        turned: true,
    });
}

fn placed(points: &[[f64; 2]], x: &Axis, y: &Axis) -> Vec<[f64; 2]> {
    let finite = points.iter().filter(|p| p.iter().all(|v| v.is_finite()));
    let placed: Vec<[f64; 2]> = finite.map(|p| [x.at(p[0]), y.at(p[1])]).collect();
    match placed.as_slice() {
        // A single point is a dash.
        [[x, y]] => vec![[x - 4.0, *y], [x + 4.0, *y]],
        _ => placed,
    }
}

/// Returns `true` if a line through `above` hides most of the line drawn through `below` before.
fn covers(above: &[[f64; 2]], below: &[[f64; 2]]) -> bool {
    let near = |(a, b): (&[f64; 2], &[f64; 2])| (a[0] - b[0]).hypot(a[1] - b[1]) < 2.0;
    let count = above.iter().zip(below).filter(|pair| near(*pair)).count();
    above.len() == below.len() && 2 * count > below.len()
}

/// A range with a width, whatever was found.
fn wide(extent: Option<[f64; 2]>) -> (f64, f64) {
    match extent {
        None => (0.0, 1.0),
        Some([low, high]) if low < high => (low, high),
        Some([low, high]) => (low.min(0.0), high.max(0.0) + 1.0),
    }
}

/// Panels side by side, and the room for the lines of one.
const ACROSS: usize = 3;
const PANEL: (f64, f64) = (246.0, 90.0);
/// Size of a panel's name, and the height of a line of it.
const NAME: (f64, f64) = (11.0, 14.0);

/// Draws `chart` below the title of `canvas`.
pub(super) fn panels(canvas: &mut Canvas, chart: &Panels) {
    let lines = || chart.panels.iter().flat_map(|panel| &panel.smooth);
    let raw = || chart.panels.iter().flat_map(|panel| &panel.points);
    let (_, y1) = wide(extent(lines().map(|p| p[1])));
    let most = wide(extent(raw().map(|p| p[1]))).1;
    // One batch far above the rest does not make every other panel flat.
    let high = most.min(y1 * 1.6);
    let mut top = 50.0;
    for row in chart.panels.chunks(ACROSS) {
        let names: Vec<Vec<String>> = row
            .iter()
            .map(|panel| canvas.face.wrapped(&panel.name, NAME.0, PANEL.0))
            .collect();
        let tallest = names.iter().map(Vec::len).max().unwrap_or(0);
        let plot = top + NAME.1 * tallest as f64 + 4.0;
        for (i, (panel, name)) in row.iter().zip(&names).enumerate() {
            let left = MARGIN + 34.0 + (PANEL.0 + 46.0) * i as f64;
            for (line, text) in name.iter().enumerate() {
                let at = [left, top + NAME.1 * line as f64];
                canvas.text(text, at, NAME.0, Paint::Ink);
            }
            let (x0, x1) = wide(extent(panel.points.iter().map(|p| p[0])));
            let x = Axis {
                low: x0,
                high: x1,
                pixels: (left, left + PANEL.0),
            };
            let y = Axis {
                low: 0.0,
                high,
                pixels: (plot + PANEL.1, plot),
            };
            let ticks = y.ticks(3, false);
            frame(canvas, &x, &y, ticks);
            for (value, text) in x.ticks(4, true) {
                let at = [x.at(value), plot + PANEL.1 + 11.0];
                canvas.text_at(&text, at, 10.0, Side::Middle);
            }
            let colour = Paint::Series(panel.group);
            let faint = Stroke {
                opacity: 0.35,
                ..Stroke::thin(colour)
            };
            canvas.line(&placed(&panel.points, &x, &y), faint);
            let stroke = Stroke {
                width: 2.0,
                ..Stroke::thin(colour)
            };
            canvas.line(&placed(&panel.smooth, &x, &y), stroke);
        }
        top = plot + PANEL.1 + 34.0;
    }
    let middle = MARGIN + 34.0 + PANEL.0 / 2.0;
    canvas.text_at(&chart.x, [middle, top - 6.0], 11.0, Side::Middle);
}
