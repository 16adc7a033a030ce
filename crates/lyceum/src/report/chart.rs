//! Charts: what is drawn is data, how it is drawn is the same for SVG and PNG.

use std::path::Path;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::error::{Error, Result};

/// A picture of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Name of its file, without ending.
    pub name: String,
    /// Its title.
    pub title: String,
    /// One or two sentences on how to read it.
    pub caption: String,
    /// What it shows.
    pub kind: Kind,
}

/// What a chart shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Horizontal bars with error whiskers.
    Bars(Vec<Bar>),
    /// A matrix of values with its rows and columns named.
    Heat(Heat),
    /// Lines over a common axis.
    Lines(Lines),
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
    /// Bars of one group share a colour.
    pub group: usize,
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
}

/// Named lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// Name of the horizontal axis.
    pub x: String,
    /// Name of the vertical axis.
    pub y: String,
    /// Each line's name and points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(33, 37, 41);
const FAINT: RGBColor = RGBColor(205, 210, 216);
/// Okabe and Ito's palette, told apart by colour-blind readers too.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
    RGBColor(170, 150, 20),
];

type Area<B> = DrawingArea<B, Shift>;

impl Chart {
    /// The picture as SVG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        font()?;
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, self.size()).into_drawing_area();
        self.draw(&area)?;
        drop(area);
        Ok(text)
    }

    /// The picture as PNG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn png(&self) -> Result<Vec<u8>> {
        font()?;
        let dir = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let path = dir.path().join("chart.png");
        let area = BitMapBackend::new(&path, self.size()).into_drawing_area();
        self.draw(&area)?;
        drop(area);
        std::fs::read(&path).map_err(|e| Error::io(&path, e))
    }

    /// Writes `name.svg` and `name.png` into `dir`.
    ///
    /// # Errors
    /// When it cannot be drawn or written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = |ending: &str| dir.join(format!("{}.{ending}", self.name));
        crate::file::write(&path("svg"), self.svg()?.as_bytes())?;
        crate::file::write(&path("png"), &self.png()?)
    }

    fn size(&self) -> (u32, u32) {
        match &self.kind {
            Kind::Bars(bars) => (900, 60 + 30 * bars.len() as u32),
            Kind::Heat(heat) => {
                let (margin, cell) = heat.layout();
                let (columns, rows) = (heat.columns.len() as i32, heat.rows.len() as i32);
                let width = margin.0 + cell.0 * columns + 40;
                let height = margin.1 + cell.1 * rows + 16;
                (width.unsigned_abs(), height.unsigned_abs())
            }
            Kind::Lines(_) => (900, 420),
        }
    }

    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        let fail = |e: DrawingAreaErrorKind<B::ErrorType>| {
            Error::invalid(format!("chart {}: {e}", self.name))
        };
        area.fill(&WHITE).map_err(fail)?;
        label(area, &self.title, (16, 20), (18, INK), HPos::Left).map_err(fail)?;
        match &self.kind {
            Kind::Bars(bars) => draw_bars(area, bars),
            Kind::Heat(heat) => draw_heat(area, heat),
            Kind::Lines(lines) => draw_lines(area, lines),
        }
        .and_then(|()| area.present())
        .map_err(fail)
    }
}

type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// The font pictures carry with them, so that they look the same on every machine.
fn font() -> Result<()> {
    static FACE: &[u8] = include_bytes!("../../../../assets/font/DejaVuSans-latin.ttf");
    static DONE: OnceLock<bool> = OnceLock::new();
    match DONE.get_or_init(|| register_font(FONT, FontStyle::Normal, FACE).is_ok()) {
        true => Ok(()),
        false => Err(Error::invalid("the charts' font could not be read")),
    }
}

fn label<B: DrawingBackend>(
    area: &Area<B>,
    text: &str,
    at: (i32, i32),
    (size, colour): (i32, RGBColor),
    side: HPos,
) -> Drawn<B> {
    let style = (FONT, size)
        .into_font()
        .color(&colour)
        .pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}

fn draw_bars<B: DrawingBackend>(area: &Area<B>, bars: &[Bar]) -> Drawn<B> {
    let (left, right, top) = (300, 800, 44);
    let most = bars.iter().map(|b| b.value + b.error);
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| left + (value.max(0.0) / most * f64::from(right - left)) as i32;
    for (i, bar) in bars.iter().enumerate() {
        let y = top + 30 * i as i32;
        let colour = PALETTE[bar.group % PALETTE.len()];
        label(area, &bar.label, (left - 8, y + 10), (14, INK), HPos::Right)?;
        let corners = [(left, y), (x(bar.value), y + 20)];
        area.draw(&Rectangle::new(corners, colour.mix(0.8).filled()))?;
        let (low, high) = (x(bar.value - bar.error), x(bar.value + bar.error));
        let mid = y + 10;
        for line in [
            [(low, mid), (high, mid)],
            [(low, mid - 4), (low, mid + 4)],
            [(high, mid - 4), (high, mid + 4)],
        ] {
            area.draw(&PathElement::new(line, INK.stroke_width(1)))?;
        }
        let digits = if most > 1.5 { 1 } else { 3 };
        let text = format!("{:.digits$} ± {:.digits$}", bar.value, bar.error);
        label(area, &text, (high + 8, mid), (12, INK), HPos::Left)?;
    }
    let bottom = top + 30 * bars.len() as i32 - 6;
    let axis = [(left, top - 4), (left, bottom)];
    area.draw(&PathElement::new(axis, FAINT.stroke_width(1)))
}

impl Heat {
    /// Room for labels (left, top) and the size of a cell, in pixels.
    fn layout(&self) -> ((i32, i32), (i32, i32)) {
        let widest = |names: &[String]| names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
        let left = 24 + 7 * widest(&self.rows).min(60) as i32;
        // Column labels are turned by a quarter.
        let top = 52 + 7 * widest(&self.columns).min(60) as i32;
        ((left, top), (46, 26))
    }
}

fn draw_heat<B: DrawingBackend>(area: &Area<B>, heat: &Heat) -> Drawn<B> {
    let ((left, top), (w, h)) = heat.layout();
    let finite = || {
        heat.values
            .iter()
            .flatten()
            .copied()
            .filter(|v| v.is_finite())
    };
    let low = finite().fold(f64::INFINITY, f64::min);
    let high = finite().fold(f64::NEG_INFINITY, f64::max);
    for (c, name) in heat.columns.iter().enumerate() {
        let at = (left + w * c as i32 + w / 2, top - 8);
        let style = (FONT, 12)
            .into_font()
            .transform(FontTransform::Rotate270)
            .color(&INK)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.clone(), at, style))?;
    }
    for (r, name) in heat.rows.iter().enumerate() {
        let y = top + h * r as i32;
        label(area, name, (left - 8, y + h / 2), (12, INK), HPos::Right)?;
        for (c, &value) in heat.values[r].iter().enumerate() {
            if !value.is_finite() {
                continue;
            }
            let share = (value - low) / (high - low).max(f64::MIN_POSITIVE);
            let x = left + w * c as i32;
            let corners = [(x, y), (x + w - 1, y + h - 1)];
            area.draw(&Rectangle::new(corners, shade(share).filled()))?;
            let ink = if share > 0.55 { WHITE } else { INK };
            let text = format!("{value:.*}", heat.digits);
            label(area, &text, (x + w / 2, y + h / 2), (11, ink), HPos::Center)?;
        }
    }
    for &(from, to) in &heat.frames {
        let (from, to) = (from as i32, to as i32);
        let corners = [
            (left + w * from - 1, top + h * from - 1),
            (left + w * to, top + h * to),
        ];
        area.draw(&Rectangle::new(corners, PALETTE[5].stroke_width(2)))?;
    }
    Ok(())
}

/// From nearly white to blue.
fn shade(share: f64) -> RGBColor {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)) as u8;
    RGBColor(mix(240.0, 0.0), mix(245.0, 84.0), mix(250.0, 148.0))
}

fn draw_lines<B: DrawingBackend>(area: &Area<B>, chart: &Lines) -> Drawn<B> {
    let points = || chart.lines.iter().flat_map(|(_, points)| points);
    let span = |pick: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = points().map(pick).filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        match values.as_slice() {
            [] => (0.0, 1.0),
            [low, .., high] if low < high => (*low, *high),
            [one, ..] => (one.min(0.0), one.max(0.0) + 1.0),
        }
    };
    let ((x0, x1), (y0, y1)) = (span(|p| p.0), span(|p| p.1));
    let pad = (y1 - y0) * 0.05;
    let (_, body) = area.split_vertically(36);
    let mut context = ChartBuilder::on(&body)
        .margin(10)
        .margin_right(if chart.lines.len() > 1 { 240 } else { 20 })
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(x0..x1, (y0.min(0.0))..(y1 + pad))?;
    context
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(FAINT.mix(0.6))
        .label_style((FONT, 12).into_font().color(&INK))
        .x_desc(&chart.x)
        .y_desc(&chart.y)
        .x_labels(8)
        .draw()?;
    for (i, (name, points)) in chart.lines.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        // Beyond the palette's length lines grow wider.
        let style = colour.stroke_width(2 + (i / PALETTE.len()) as u32);
        context.draw_series(LineSeries::new(points.iter().copied(), style))?;
        if chart.lines.len() > 1 {
            let y = 24 + 20 * i as i32;
            body.draw(&PathElement::new([(668, y), (690, y)], style))?;
            label(&body, name, (696, y), (12, INK), HPos::Left)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(kind: Kind) -> Chart {
        Chart {
            name: "c".into(),
            title: "Title".into(),
            caption: String::new(),
            kind,
        }
    }

    #[test]
    fn every_kind_is_drawn_as_svg_and_png() {
        let bar = Bar {
            label: "arrow".into(),
            value: 3.0,
            error: 0.5,
            group: 0,
        };
        let heat = Heat {
            rows: vec!["a".into(), "b".into()],
            columns: vec!["c".into(), "d".into()],
            values: vec![vec![1.0, f64::NAN], vec![0.25, 0.5]],
            digits: 2,
            frames: vec![(0, 1)],
        };
        let lines = Lines {
            x: "step".into(),
            y: "loss".into(),
            lines: vec![("l".into(), vec![(0.0, 1.0), (1.0, 0.5)])],
        };
        for kind in [Kind::Bars(vec![bar]), Kind::Heat(heat), Kind::Lines(lines)] {
            let chart = chart(kind);
            let svg = chart.svg().unwrap();
            assert!(svg.starts_with("<svg") && svg.contains("Title"), "{svg}");
            assert!(chart.png().unwrap().starts_with(b"\x89PNG"));
        }
    }

    #[test]
    fn lines_without_points_or_spread_are_drawn() {
        for points in [vec![], vec![(1.0, 2.0)]] {
            let lines = Lines {
                x: String::new(),
                y: String::new(),
                lines: vec![("l".into(), points)],
            };
            assert!(chart(Kind::Lines(lines)).svg().is_ok());
        }
    }
}
