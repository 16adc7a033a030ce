//! A picture as a list of shapes, which SVG and PNG are both made of.

use super::face::Face;
use crate::error::Result;

/// A colour by what it is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Paint {
    /// The background.
    Paper,
    /// Text and whiskers.
    Ink,
    /// Text of less weight, reference lines.
    Muted,
    /// Grid lines.
    Faint,
    /// The colour of a series, by its number.
    Series(usize),
    /// A value as a colour: 0 nearly white, 1 dark blue, -1 dark orange.
    Shade(f64),
    /// Text upon [`Paint::Shade`].
    OnShade(f64),
}

/// Horizontal alignment of a text relative to its point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Side {
    /// It begins there.
    Start,
    /// It is centred there.
    Middle,
    /// It ends there.
    End,
}

/// The style of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stroke {
    /// Its colour.
    pub(super) paint: Paint,
    /// Its width in pixels.
    pub(super) width: f64,
    /// `true` for a dashed line.
    pub(super) dashed: bool,
    /// 1 hides what is below it.
    pub(super) opacity: f64,
}

impl Stroke {
    /// A solid line of 1 pixel.
    pub(super) fn thin(paint: Paint) -> Self {
        Stroke {
            paint,
            width: 1.0,
            dashed: false,
            opacity: 1.0,
        }
    }

    /// A thin dashed line.
    pub(super) fn dashed(paint: Paint) -> Self {
        Stroke {
            dashed: true,
            width: 1.2,
            ..Stroke::thin(paint)
        }
    }
}

/// A word or line of text; its height is centred at `at`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Label {
    pub(super) text: String,
    pub(super) at: [f64; 2],
    /// Pixels to the em.
    pub(super) size: f64,
    pub(super) paint: Paint,
    pub(super) side: Side,
    /// `true` for text rotated to read from bottom to top.
    pub(super) turned: bool,
}

/// A part of a picture, in pixels from its left upper corner.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// A filled rectangle: left, top, width, height.
    Rect([f64; 4], Paint),
    /// The outline of one.
    Frame([f64; 4], Stroke),
    /// A line through points.
    Line(Vec<[f64; 2]>, Stroke),
    /// A text.
    Label(Label),
}

/// The shapes of a picture.
#[derive(Debug, Clone)]
pub(super) struct Canvas {
    /// The font that measures its texts.
    pub(super) face: Face,
    /// From the bottom up.
    pub(super) shapes: Vec<Shape>,
}

/// Room left around a picture.
pub(super) const MARGIN: f64 = 16.0;

impl Canvas {
    /// A picture with nothing but a title.
    ///
    /// # Errors
    /// When the font cannot be read.
    pub(super) fn new(title: &str) -> Result<Self> {
        let mut canvas = Canvas {
            face: Face::shipped()?,
            shapes: Vec::new(),
        };
        canvas.text(title, [MARGIN, 24.0], 16.0, Paint::Ink);
        Ok(canvas)
    }

    /// A text that begins at `at`.
    pub(super) fn text(&mut self, text: &str, at: [f64; 2], size: f64, paint: Paint) {
        self.label(Label {
            text: text.to_owned(),
            at,
            size,
            paint,
            side: Side::Start,
            turned: false,
        });
    }

    /// A text beside `at`.
    pub(super) fn text_at(&mut self, text: &str, at: [f64; 2], size: f64, side: Side) {
        self.label(Label {
            text: text.to_owned(),
            at,
            size,
            paint: Paint::Ink,
            side,
            turned: false,
        });
    }

    /// Any text.
    pub(super) fn label(&mut self, label: Label) {
        self.shapes.push(Shape::Label(label));
    }

    /// A filled rectangle: left, top, width, height.
    pub(super) fn rect(&mut self, sides: [f64; 4], paint: Paint) {
        self.shapes.push(Shape::Rect(sides, paint));
    }

    /// A line through `points`.
    pub(super) fn line(&mut self, points: &[[f64; 2]], stroke: Stroke) {
        if !points.is_empty() {
            self.shapes.push(Shape::Line(points.to_vec(), stroke));
        }
    }

    /// Width of `text`, `size` pixels to the em.
    pub(super) fn width(&self, text: &str, size: f64) -> f64 {
        self.face.width(text, size)
    }

    /// The widest of `texts`.
    pub(super) fn widest<'a>(&self, texts: impl IntoIterator<Item = &'a str>, size: f64) -> f64 {
        let widths = texts.into_iter().map(|text| self.width(text, size));
        widths.fold(0.0, f64::max)
    }

    /// Width and height that hold every shape and a margin.
    pub(super) fn size(&self) -> (f64, f64) {
        let mut size: (f64, f64) = (640.0, 60.0);
        for shape in &self.shapes {
            let [_, _, right, bottom] = self.bounds(shape);
            size = (size.0.max(right + MARGIN), size.1.max(bottom + MARGIN));
        }
        (size.0.ceil(), size.1.ceil())
    }

    /// Left, top, right and bottom of a shape.
    pub(super) fn bounds(&self, shape: &Shape) -> [f64; 4] {
        match shape {
            Shape::Rect([x, y, w, h], _) | Shape::Frame([x, y, w, h], _) => [*x, *y, x + w, y + h],
            Shape::Line(points, stroke) => {
                let half = stroke.width / 2.0;
                let mut all = [
                    f64::INFINITY,
                    f64::INFINITY,
                    f64::NEG_INFINITY,
                    f64::NEG_INFINITY,
                ];
                for &[x, y] in points {
                    all = [
                        all[0].min(x - half),
                        all[1].min(y - half),
                        all[2].max(x + half),
                        all[3].max(y + half),
                    ];
                }
                all
            }
            Shape::Label(label) => {
                let [x, y] = label.at;
                let width = self.width(&label.text, label.size);
                let before = match label.side {
                    Side::Start => 0.0,
                    Side::Middle => width / 2.0,
                    Side::End => width,
                };
                let half = label.size * 0.6;
                match label.turned {
                    false => [x - before, y - half, x - before + width, y + half],
                    true => [x - half, y + before - width, x + half, y + before],
                }
            }
        }
    }
}
