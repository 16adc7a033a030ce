//! Shapes as SVG.

use std::fmt::Write;

use super::canvas::{Canvas, Label, Paint, Shape, Side, Stroke};
use crate::report::template::escape;

/// Renders `canvas` as SVG; `title` and `description` are the texts for screen readers.
pub(super) fn render(canvas: &Canvas, title: &str, description: &str) -> String {
    let (width, height) = canvas.size();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"DejaVu Sans, Verdana, \
         sans-serif\">\n<title>{}</title>\n<desc>{}</desc>\n",
        escape(title),
        escape(description)
    );
    let all = Shape::Rect([0.0, 0.0, width, height], Paint::Paper);
    for shape in std::iter::once(&all).chain(&canvas.shapes) {
        match shape {
            Shape::Rect(sides, paint) => {
                let _ = writeln!(out, "<rect {} {}/>", rect(sides), painted("fill", *paint));
            }
            Shape::Frame(sides, stroke) => {
                let (sides, stroke) = (rect(sides), stroked(stroke));
                let _ = writeln!(out, "<rect {sides} fill=\"none\" {stroke}/>");
            }
            Shape::Line(points, stroke) => {
                let points: Vec<String> = points
                    .iter()
                    .map(|[x, y]| format!("{},{}", number(*x), number(*y)))
                    .collect();
                let (points, stroke) = (points.join(" "), stroked(stroke));
                let _ = writeln!(
                    out,
                    "<polyline points=\"{points}\" fill=\"none\" {stroke}/>"
                );
            }
            Shape::Label(label) => text(&mut out, label),
        }
    }
    out += "</svg>\n";
    out
}

fn text(out: &mut String, label: &Label) {
    let (x, y) = (number(label.at[0]), number(label.at[1]));
    let anchor = match label.side {
        Side::Start => "start",
        Side::Middle => "middle",
        Side::End => "end",
    };
    let turn = match label.turned {
        true => format!(" transform=\"rotate(-90 {x} {y})\""),
        false => String::new(),
    };
    // Half the height of a capital letter below the middle.
    let base = number(label.at[1] + label.size * BASELINE);
    let (size, paint) = (number(label.size), painted("fill", label.paint));
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{base}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
         {paint}{turn}>{}</text>",
        escape(&label.text)
    );
}

/// From the middle of a line of text down to its baseline, in ems.
pub(super) const BASELINE: f64 = 0.36;

fn rect([x, y, w, h]: &[f64; 4]) -> String {
    let (x, y, w, h) = (number(*x), number(*y), number(*w), number(*h));
    format!("x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"")
}

fn painted(attribute: &str, paint: Paint) -> String {
    let [r, g, b] = paint.rgb();
    let class = paint
        .class()
        .map_or(String::new(), |class| format!(" class=\"{class}\""));
    format!("{attribute}=\"#{r:02x}{g:02x}{b:02x}\"{class}")
}

fn stroked(stroke: &Stroke) -> String {
    let mut text = painted("stroke", stroke.paint);
    let _ = write!(text, " stroke-width=\"{}\"", number(stroke.width));
    text += " stroke-linejoin=\"round\"";
    if stroke.dashed {
        text += " stroke-dasharray=\"5 4\"";
    }
    if stroke.opacity < 1.0 {
        let _ = write!(text, " stroke-opacity=\"{}\"", number(stroke.opacity));
    }
    text
}

/// A number with at most two digits after the point.
fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (x, text) in [(1.0, "1"), (0.25, "0.25"), (-0.001, "0"), (12.346, "12.35")] {
            assert_eq!(number(x), text);
        }
    }
}
