//! A matrix of values as coloured cells, with a bar that says which colour is which value.

use super::canvas::{Canvas, Label, MARGIN, Paint, Shape, Side, Stroke};
use crate::report::chart::{Heat, Scale};

/// Width and height of a cell.
const CELL: (f64, f64) = (46.0, 26.0);
/// Length of the bar of colours.
const BAR: f64 = 200.0;

impl Scale {
    /// From -1 to 1: how much colour `value` has.
    fn share(&self, value: f64) -> f64 {
        let share = (value / self.most).clamp(-1.0, 1.0);
        match self.root {
            true => share.abs().sqrt().copysign(share),
            false => share,
        }
    }
}

/// Draws `heat` below the title of `canvas`.
pub(super) fn draw(canvas: &mut Canvas, heat: &Heat) {
    let left = MARGIN + canvas.widest(heat.rows.iter().map(String::as_str), 12.0) + 8.0;
    let top = names(canvas, heat, left);
    for (r, name) in heat.rows.iter().enumerate() {
        let y = top + CELL.1 * r as f64;
        let middle = y + CELL.1 / 2.0;
        canvas.text_at(name, [left - 8.0, middle], 12.0, Side::End);
        for (c, &value) in heat.values[r].iter().enumerate() {
            if !value.is_finite() {
                continue;
            }
            let share = heat.scale.share(value);
            let x = left + CELL.0 * c as f64;
            let sides = [x, y, CELL.0 - 1.0, CELL.1 - 1.0];
            canvas.rect(sides, Paint::Shade(share));
            canvas.label(Label {
                text: format!("{value:.*}", heat.digits),
                at: [x + CELL.0 / 2.0, middle],
                size: 11.0,
                paint: Paint::OnShade(share),
                side: Side::Middle,
                turned: false,
            });
        }
    }
    let stroke = Stroke {
        width: 2.0,
        ..Stroke::thin(Paint::Series(5))
    };
    for &(from, to) in &heat.frames {
        let (x, y) = (left + CELL.0 * from as f64, top + CELL.1 * from as f64);
        let count = (to - from) as f64;
        let sides = [x - 1.0, y - 1.0, CELL.0 * count + 1.0, CELL.1 * count + 1.0];
        canvas.shapes.push(Shape::Frame(sides, stroke));
    }
    let below = top + CELL.1 * heat.rows.len() as f64;
    if let Some(row) = heat.apart {
        let y = top + CELL.1 * row as f64 - 0.5;
        let right = left + CELL.0 * heat.columns.len() as f64;
        canvas.line(&[[MARGIN, y], [right, y]], Stroke::thin(Paint::Ink));
    }
    key(canvas, heat, left, below + 18.0);
}

/// The names of the columns: level where they fit, else read from the bottom up. Returns where
/// the cells begin.
fn names(canvas: &mut Canvas, heat: &Heat, left: f64) -> f64 {
    let widest = canvas.widest(heat.columns.iter().map(String::as_str), 12.0);
    let turned = widest > CELL.0 - 4.0;
    let top = if turned { 52.0 + widest } else { 64.0 };
    for (c, name) in heat.columns.iter().enumerate() {
        let x = left + CELL.0 * c as f64 + CELL.0 / 2.0;
        let (y, side) = match turned {
            true => (top - 8.0, Side::Start),
            false => (top - 12.0, Side::Middle),
        };
        canvas.label(Label {
            text: name.clone(),
            at: [x, y],
            size: 12.0,
            paint: Paint::Ink,
            side,
            turned,
        });
    }
    top
}

/// Which colour is which value.
fn key(canvas: &mut Canvas, heat: &Heat, left: f64, top: f64) {
    let low = heat.scale.least;
    let most = heat.scale.most;
    let steps = 50_u8;
    for i in 0..steps {
        let part = f64::from(i) / f64::from(steps);
        let middle = low + (most - low) * (part + 0.5 / f64::from(steps));
        let x = left + BAR * part;
        let width = BAR / f64::from(steps) + if i + 1 < steps { 0.5 } else { 0.0 };
        let share = heat.scale.share(middle);
        canvas.rect([x, top, width, 10.0], Paint::Shade(share));
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let value = low + (most - low) * part;
        let text = match value.fract() == 0.0 {
            true => format!("{value:.0}"),
            false => format!("{value}"),
        };
        let x = left + BAR * part;
        canvas.text_at(&text, [x, top + 20.0], 11.0, Side::Middle);
    }
}
