//! Charts: what is drawn is data, how it is drawn is the same for SVG and PNG.

use std::path::Path;

use super::canvas::Canvas;
use super::{bars, heat, lines, raster, svg};
use crate::error::Result;

/// A picture of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Name of its file, without ending.
    pub name: String,
    /// Its title.
    pub title: String,
    /// One or two sentences on how to read it.
    pub caption: String,
    /// The type of chart and its data.
    pub kind: Kind,
}

/// The type of a chart, with its data.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Horizontal bars with error whiskers.
    Bars(Bars),
    /// A matrix of values with its rows and columns named.
    Heat(Heat),
    /// Lines over a common axis.
    Lines(Lines),
    /// Small charts of one line each, over the same vertical axis.
    Panels(Panels),
}

/// Bars from 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bars {
    /// Name of the axis.
    pub x: String,
    /// From the top.
    pub bars: Vec<Bar>,
    /// Legend entries, one for each colour.
    pub groups: Vec<String>,
    /// Values to compare with.
    pub marks: Vec<Mark>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Its label.
    pub label: String,
    /// Its length, at least 0.
    pub value: f64,
    /// Standard error.
    pub error: f64,
    /// Its place in [`Bars::groups`].
    pub group: usize,
}

/// A value to compare with, drawn as a dashed line.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// The value at which it is drawn.
    pub value: f64,
    /// Its name.
    pub label: String,
}

/// A matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat {
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// `values[row][column]`; not finite is left empty.
    pub values: Vec<Vec<f64>>,
    /// Digits shown after the point.
    pub digits: usize,
    /// Cells `from..to` on the diagonal that belong together are framed.
    pub frames: Vec<(usize, usize)>,
    /// The row above which a line is drawn.
    pub apart: Option<usize>,
    /// The colour scale.
    pub scale: Scale,
}

/// A mapping from values to colours, the same in every report so that colours compare across
/// reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// The least value of the bar of colours.
    pub least: f64,
    /// The value of the darkest colour.
    pub most: f64,
    /// Colours follow the square root, so that small values are told apart.
    pub root: bool,
}

/// Named lines.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lines {
    /// Name of the horizontal axis.
    pub x: String,
    /// Name of the vertical axis.
    pub y: String,
    /// Each line's name and points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Values to compare with.
    pub marks: Vec<Mark>,
    /// The horizontal axis counts.
    pub whole: bool,
}

/// Small charts beside and below each other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panels {
    /// Name of the horizontal axes, which count.
    pub x: String,
    /// The charts.
    pub panels: Vec<Panel>,
}

/// One small chart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panel {
    /// Its name.
    pub name: String,
    /// The measured points, drawn faintly.
    pub points: Vec<(f64, f64)>,
    /// The smoothed points.
    pub smooth: Vec<(f64, f64)>,
    /// Panels of one group share a colour.
    pub group: usize,
}

impl Chart {
    /// The picture as SVG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let canvas = self.canvas()?;
        Ok(svg::render(&canvas, &self.title, &self.caption))
    }

    /// The picture as PNG, two pixels to a unit of the SVG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn png(&self) -> Result<Vec<u8>> {
        raster::png(&self.canvas()?)
    }

    /// Writes `name.svg` and `name.png` into `dir`.
    ///
    /// # Errors
    /// When it cannot be drawn or written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let canvas = self.canvas()?;
        let path = |ending: &str| dir.join(format!("{}.{ending}", self.name));
        let text = svg::render(&canvas, &self.title, &self.caption);
        crate::file::write(&path("svg"), text.as_bytes())?;
        crate::file::write(&path("png"), &raster::png(&canvas)?)
    }

    fn canvas(&self) -> Result<Canvas> {
        let mut canvas = Canvas::new(&self.title)?;
        match &self.kind {
            Kind::Bars(chart) => bars::draw(&mut canvas, chart),
            Kind::Heat(chart) => heat::draw(&mut canvas, chart),
            Kind::Lines(chart) => lines::draw(&mut canvas, chart),
            Kind::Panels(chart) => lines::panels(&mut canvas, chart),
        }
        Ok(canvas)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::canvas::{Label, Shape};
    use super::*;

    const LONG: &str = "wiqa_what_is_the_final_step_of_the_following_process_again_and_again";

    fn chart(kind: Kind) -> Chart {
        Chart {
            name: "c".into(),
            title: "A <title> & more".into(),
            caption: "What it \"says\".".into(),
            kind,
        }
    }

    fn bars(count: usize) -> Kind {
        let bar = |i: usize| Bar {
            label: format!("{LONG} {i}"),
            value: i as f64 * 7.0,
            error: 12.0,
            group: i % 2,
        };
        let mark = |value: f64| Mark {
            value,
            label: format!("chance {value}"),
        };
        Kind::Bars(Bars {
            x: "ROUGE-L".into(),
            bars: (0..count).map(bar).collect(),
            groups: vec!["private".into(), LONG.into()],
            marks: vec![mark(25.0), mark(25.5), mark(0.0)],
        })
    }

    fn heat(count: usize) -> Kind {
        let names: Vec<String> = (0..count).map(|i| format!("{LONG}{i}")).collect();
        let value = |i: usize, j: usize| {
            if i == j {
                f64::NAN
            } else {
                i as f64 - j as f64
            }
        };
        let row = |i: usize| (0..count).map(|j| value(i, j)).collect();
        Kind::Heat(Heat {
            rows: names.clone(),
            columns: names,
            values: (0..count).map(row).collect(),
            digits: 2,
            frames: vec![(0, count / 2)],
            apart: Some(1),
            scale: Scale {
                least: -1.0,
                most: 1.0,
                root: true,
            },
        })
    }

    fn lines(count: usize) -> Kind {
        let line = |i: usize| {
            let points = (0..4).map(|x| (f64::from(x), 1.0 + i as f64 * 1e-3));
            (format!("{LONG} {i}"), points.collect())
        };
        Kind::Lines(Lines {
            x: "layer".into(),
            y: "share of tokens".into(),
            lines: (0..count).map(line).collect(),
            marks: vec![Mark {
                value: 0.2,
                label: "chance 2 / 10".into(),
            }],
            whole: true,
        })
    }

    fn panels(count: usize) -> Kind {
        let points = vec![(1.0, 3.0), (2.0, f64::NAN), (3.0, 90.0), (4.0, 1.0)];
        let panel = |i: usize| Panel {
            name: format!("{LONG}{i}"),
            smooth: points.clone(),
            points: points.clone(),
            group: i % 2,
        };
        Kind::Panels(Panels {
            x: "step".into(),
            panels: (0..count).map(panel).collect(),
        })
    }

    fn all() -> Vec<Chart> {
        let sizes = [0, 1, 2, 10, 16, 40];
        let kinds = [bars, heat, lines, panels];
        let every = sizes.iter().flat_map(|&n| kinds.map(|kind| chart(kind(n))));
        every.collect()
    }

    /// The elements of `svg`; every tag must be closed and every `&` begin an entity.
    fn parsed(svg: &str) -> usize {
        let mut open: Vec<&str> = Vec::new();
        let mut elements = 0;
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').unwrap();
            assert!(!text.contains('>'), "{piece}");
            let name = tag
                .trim_start_matches('/')
                .split([' ', '/'])
                .next()
                .unwrap();
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            for entity in piece.split('&').skip(1) {
                let entity = entity.split(';').next().unwrap();
                assert!(["amp", "lt", "gt", "quot"].contains(&entity), "{piece}");
            }
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            elements += 1;
        }
        assert!(open.is_empty(), "{open:?}");
        elements
    }

    #[test]
    fn every_kind_is_drawn_as_svg_and_png() {
        for chart in all() {
            let svg = chart.svg().unwrap();
            assert!(svg.starts_with("<svg xmlns="), "{svg}");
            assert!(svg.contains("<title>A &lt;title&gt; &amp; more</title>"));
            assert!(svg.contains("<desc>What it &quot;says&quot;.</desc>"));
            assert!(parsed(&svg) > 4);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        for kind in [bars(3), heat(3), lines(3), panels(3)] {
            assert!(chart(kind).png().unwrap().starts_with(b"\x89PNG"));
        }
    }

    #[test]
    fn everything_stands_within_the_picture_and_no_name_is_cut() {
        for chart in all() {
            let canvas = chart.canvas().unwrap();
            let (width, height) = canvas.size();
            for shape in &canvas.shapes {
                let [left, top, right, bottom] = canvas.bounds(shape);
                let inside = left >= 0.0 && top >= 0.0 && right <= width && bottom <= height;
                assert!(inside, "{shape:?} in {width} x {height}");
            }
        }
        let names = |kind: Kind| -> String {
            let canvas = chart(kind).canvas().unwrap();
            let texts = canvas.shapes.iter().filter_map(|shape| match shape {
                Shape::Label(Label { text, .. }) => Some(text.as_str()),
                _ => None,
            });
            texts.collect()
        };
        for kind in [bars(4), heat(4), lines(4), panels(4)] {
            let text = names(kind);
            assert!(text.matches(LONG).count() >= 4, "{text}");
        }
    }

    #[test]
    fn no_colour_serves_two_lines_and_no_two_names_overlap() {
        for count in [2, 9, 16, 30] {
            let canvas = chart(lines(count)).canvas().unwrap();
            let wide = canvas.shapes.iter().filter_map(|shape| match shape {
                Shape::Line(points, stroke) if points.len() == 4 => Some(stroke.paint.rgb()),
                _ => None,
            });
            let colours: BTreeSet<_> = wide.collect();
            assert_eq!(colours.len(), count);
            let mut heights: Vec<f64> = Vec::new();
            for shape in &canvas.shapes {
                if let Shape::Label(label) = shape
                    && (label.text.starts_with(LONG) || label.text.starts_with("chance"))
                {
                    heights.push(label.at.1);
                }
            }
            heights.sort_by(f64::total_cmp);
            assert_eq!(heights.len(), count + 1);
            assert!(heights.windows(2).all(|pair| pair[1] - pair[0] > 15.0));
        }
    }
}
