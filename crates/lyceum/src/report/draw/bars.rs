//! Horizontal bars with whiskers.

use super::axis::Axis;
use super::canvas::{Canvas, MARGIN, Paint, Side, Stroke};
use crate::report::chart::{Bars, Mark};

/// Height of a bar and of the room it takes.
const BAR: (f64, f64) = (20.0, 30.0);
/// Length of the longest bar.
const LONG: f64 = 460.0;

/// Draws `bars` below the title of `canvas`.
pub(super) fn draw(canvas: &mut Canvas, bars: &Bars) {
    let mut top = 52.0;
    if bars.groups.len() > 1 {
        key(canvas, &bars.groups, top);
        top += 28.0;
    }
    if !bars.marks.is_empty() {
        top += 18.0;
    }
    let left = MARGIN + canvas.widest(bars.bars.iter().map(|b| b.label.as_str()), 13.0) + 10.0;
    let ends = bars.bars.iter().map(|bar| bar.value + bar.error);
    let ends = ends.chain(bars.marks.iter().map(|mark| mark.value));
    let most = ends.filter(|v| v.is_finite()).fold(0.0, f64::max);
    let axis = Axis {
        low: 0.0,
        high: if most > 0.0 { most } else { 1.0 },
        pixels: (left, left + LONG),
    };
    let bottom = top + BAR.1 * bars.bars.len() as f64 - (BAR.1 - BAR.0) + 6.0;
    for (value, text) in axis.ticks(6, false) {
        let x = axis.at(value);
        let line = [[x, top - 6.0], [x, bottom]];
        canvas.line(&line, Stroke::thin(Paint::Faint));
        canvas.text_at(&text, [x, bottom + 12.0], 11.0, Side::Middle);
    }
    let middle = left + LONG / 2.0;
    canvas.text_at(&bars.x, [middle, bottom + 30.0], 12.0, Side::Middle);
    for (i, bar) in bars.bars.iter().enumerate() {
        let y = top + BAR.1 * i as f64;
        let mid = y + BAR.0 / 2.0;
        canvas.text_at(&bar.label, [left - 8.0, mid], 13.0, Side::End);
        let length = axis.at(bar.value) - left;
        canvas.rect([left, y, length, BAR.0], Paint::Series(bar.group));
        let (low, high) = (
            axis.at(bar.value - bar.error),
            axis.at(bar.value + bar.error),
        );
        for line in [
            [[low, mid], [high, mid]],
            [[low, mid - 4.0], [low, mid + 4.0]],
            [[high, mid - 4.0], [high, mid + 4.0]],
        ] {
            canvas.line(&line, Stroke::thin(Paint::Ink));
        }
        let text = format!("{:.1} ± {:.1}", bar.value, bar.error);
        let width = canvas.width(&text, 12.0);
        let from = clear(
            high + 8.0,
            width,
            bars.marks.iter().map(|m| axis.at(m.value)),
        );
        canvas.text_at(&text, [from, mid], 12.0, Side::Start);
    }
    marks(canvas, &bars.marks, &axis, top, bottom);
}

/// The first position from `from` on where a text of `width` is crossed by none of `lines`.
fn clear(mut from: f64, width: f64, lines: impl Iterator<Item = f64>) -> f64 {
    let mut lines: Vec<f64> = lines.collect();
    lines.sort_by(f64::total_cmp);
    for line in lines {
        if (from - 4.0..from + width + 4.0).contains(&line) {
            from = line + 6.0;
        }
    }
    from
}

/// Which colour stands for what, in one row at `y`.
fn key(canvas: &mut Canvas, groups: &[String], y: f64) {
    let mut x = MARGIN;
    for (i, name) in groups.iter().enumerate() {
        canvas.rect([x, y - 6.0, 12.0, 12.0], Paint::Series(i));
        canvas.text(name, [x + 18.0, y], 12.0, Paint::Ink);
        x += 18.0 + canvas.width(name, 12.0) + 22.0;
    }
}

/// Dashed upright lines with their names above, which do not overlap.
fn marks(canvas: &mut Canvas, marks: &[Mark], axis: &Axis, top: f64, bottom: f64) {
    let mut order: Vec<&Mark> = marks.iter().collect();
    order.sort_by(|a, b| a.value.total_cmp(&b.value));
    let mut free = MARGIN;
    for mark in order {
        let x = axis.at(mark.value);
        let line = [[x, top - 8.0], [x, bottom]];
        canvas.line(&line, Stroke::dashed(Paint::Muted));
        let width = canvas.width(&mark.label, 11.0);
        let from = (x - width / 2.0).max(free);
        canvas.text(&mark.label, [from, top - 17.0], 11.0, Paint::Muted);
        free = from + width + 12.0;
    }
}
