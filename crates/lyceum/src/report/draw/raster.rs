//! Shapes as pixels, two to a unit each way.

use ab_glyph_rasterizer::{Point, Rasterizer, point};

use super::canvas::{Canvas, Label, Paint, Shape, Side, Stroke};
use super::colour::Rgb;
use super::svg::BASELINE;
use crate::error::{Error, Result};

/// Pixels to a unit.
const SCALE: f64 = 2.0;

/// Renders `canvas` as PNG.
///
/// # Errors
/// When it cannot be encoded.
pub(super) fn png(canvas: &Canvas) -> Result<Vec<u8>> {
    let (width, height) = canvas.size();
    let mut picture = Picture::new((width * SCALE) as usize, (height * SCALE) as usize);
    for shape in &canvas.shapes {
        picture.draw(canvas, shape);
    }
    let fail = |e: png::EncodingError| Error::format("picture", e);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height() as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Plain areas and lines: what is above a pixel says most about it.
    encoder.set_filter(png::FilterType::Up);
    encoder.set_compression(png::Compression::Default);
    let mut writer = encoder.write_header().map_err(fail)?;
    writer
        .write_image_data(picture.pixels.as_flattened())
        .map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}

struct Picture {
    width: usize,
    pixels: Vec<Rgb>,
}

impl Picture {
    fn new(width: usize, height: usize) -> Self {
        Picture {
            width,
            pixels: vec![Paint::Paper.rgb(); width * height],
        }
    }

    fn height(&self) -> usize {
        self.pixels.len() / self.width.max(1)
    }

    fn draw(&mut self, canvas: &Canvas, shape: &Shape) {
        match shape {
            Shape::Rect([x, y, w, h], paint) => {
                let corners = [[*x, *y], [x + w, *y], [x + w, y + h], [*x, y + h]];
                self.fill(&[corners.map(scaled).to_vec()], paint.rgb(), 1.0);
            }
            Shape::Frame([x, y, w, h], stroke) => {
                let (right, bottom) = (x + w, y + h);
                let around = [
                    [*x, *y],
                    [right, *y],
                    [right, bottom],
                    [*x, bottom],
                    [*x, *y],
                ];
                self.stroke(&around, stroke);
            }
            Shape::Line(points, stroke) => self.stroke(points, stroke),
            Shape::Label(label) => self.text(canvas, label),
        }
    }

    fn stroke(&mut self, points: &[[f64; 2]], stroke: &Stroke) {
        let points: Vec<Point> = points.iter().copied().map(scaled).collect();
        let mut pieces: Vec<(Point, Point)> = Vec::new();
        for pair in points.windows(2) {
            match stroke.dashed {
                true => pieces.extend(dashes(pair[0], pair[1])),
                false => pieces.push((pair[0], pair[1])),
            }
        }
        let half = (stroke.width * SCALE / 2.0) as f32;
        let mut outlines: Vec<Vec<Point>> = Vec::new();
        for (from, to) in pieces {
            let (dx, dy) = (to.x - from.x, to.y - from.y);
            let length = dx.hypot(dy);
            if length > 0.0 {
                let (nx, ny) = (-dy / length * half, dx / length * half);
                outlines.push(vec![
                    point(from.x + nx, from.y + ny),
                    point(from.x - nx, from.y - ny),
                    point(to.x - nx, to.y - ny),
                    point(to.x + nx, to.y + ny),
                ]);
            }
        }
        if !stroke.dashed && points.len() > 2 {
            outlines.extend(points.iter().map(|&at| disc(at, half)));
        }
        self.fill(&outlines, stroke.paint.rgb(), stroke.opacity as f32);
    }

    /// Fills what is inside any of `outlines`, all of which turn the same way.
    fn fill(&mut self, outlines: &[Vec<Point>], colour: Rgb, opacity: f32) {
        let points = || outlines.iter().flatten();
        let low = |pick: fn(&Point) -> f32| points().map(pick).fold(f32::INFINITY, f32::min);
        let high = |pick: fn(&Point) -> f32| points().map(pick).fold(0.0, f32::max);
        let (left, top) = (low(|p| p.x).floor().max(0.0), low(|p| p.y).floor().max(0.0));
        let (right, bottom) = (high(|p| p.x).ceil(), high(|p| p.y).ceil());
        if !(right > left && bottom > top) {
            return;
        }
        let (wide, tall) = ((right - left) as usize + 1, (bottom - top) as usize + 1);
        let mut raster = Rasterizer::new(wide, tall);
        for outline in outlines {
            let moved = |i: usize| {
                let at = outline[i % outline.len()];
                point(at.x - left, at.y - top)
            };
            for i in 0..outline.len() {
                raster.draw_line(moved(i), moved(i + 1));
            }
        }
        let (left, top) = (left as i64, top as i64);
        raster.for_each_pixel_2d(|x, y, cover| {
            let at = [left + i64::from(x), top + i64::from(y)];
            self.blend(at, colour, cover.min(1.0) * opacity);
        });
    }

    fn text(&mut self, canvas: &Canvas, label: &Label) {
        let size = label.size * SCALE;
        let width = canvas.face.width(&label.text, size);
        let along = match label.side {
            Side::Start => 0.0,
            Side::Middle => -width / 2.0,
            Side::End => -width,
        };
        let (x, y) = (label.at[0] * SCALE, label.at[1] * SCALE);
        let (along, down) = (along.round() as i64, (size * BASELINE).round() as i64);
        let (x, y) = (x.round() as i64, y.round() as i64);
        let colour = label.paint.rgb();
        for glyph in canvas.face.outlines(&label.text, size) {
            let corner = glyph.px_bounds().min;
            let (left, top) = (corner.x as i64 + along, corner.y as i64 + down);
            glyph.draw(|dx, dy, cover| {
                let (dx, dy) = (left + i64::from(dx), top + i64::from(dy));
                let at = match label.turned {
                    false => [x + dx, y + dy],
                    true => [x + dy, y - dx - 1],
                };
                self.blend(at, colour, cover.min(1.0));
            });
        }
    }

    fn blend(&mut self, [x, y]: [i64; 2], colour: Rgb, share: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        if share <= 0.0 || x >= self.width {
            return;
        }
        if let Some(pixel) = self.pixels.get_mut(y * self.width + x) {
            for (old, new) in pixel.iter_mut().zip(colour) {
                let mixed = f32::from(*old) + (f32::from(new) - f32::from(*old)) * share;
                *old = mixed.round() as u8;
            }
        }
    }
}

fn scaled([x, y]: [f64; 2]) -> Point {
    point((x * SCALE) as f32, (y * SCALE) as f32)
}

/// The dashes of a straight line: 5 units drawn, 4 left out.
fn dashes(from: Point, to: Point) -> Vec<(Point, Point)> {
    let (dash, step) = (5.0 * SCALE as f32, 9.0 * SCALE as f32);
    let length = (to.x - from.x).hypot(to.y - from.y);
    let at = |way: f32| {
        let share = (way / length).min(1.0);
        point(
            from.x + (to.x - from.x) * share,
            from.y + (to.y - from.y) * share,
        )
    };
    let count = (length / step).ceil() as usize;
    (0..count)
        .map(|i| (at(i as f32 * step), at(i as f32 * step + dash)))
        .collect()
}

/// A round end or joint, turning as the sides of a stroke do.
fn disc(at: Point, radius: f32) -> Vec<Point> {
    let corner = |i: u8| {
        let angle = std::f32::consts::TAU * f32::from(i) / 8.0;
        point(at.x + radius * angle.cos(), at.y + radius * angle.sin())
    };
    (0..8).map(corner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: Rgb = [200, 0, 0];

    #[test]
    fn a_bent_line_has_no_holes_where_its_pieces_meet() {
        let mut picture = Picture::new(60, 60);
        let stroke = Stroke {
            width: 4.0,
            ..Stroke::thin(Paint::Ink)
        };
        let points = [[5.0, 25.0], [15.0, 5.0], [25.0, 25.0], [5.0, 15.0]];
        picture.stroke(&points, &stroke);
        for [x, y] in points {
            let at = (y * SCALE) as usize * 60 + (x * SCALE) as usize;
            assert_eq!(picture.pixels[at], Paint::Ink.rgb(), "{x} {y}");
        }
    }

    #[test]
    fn a_rectangle_covers_its_pixels_and_no_others() {
        let mut picture = Picture::new(10, 10);
        let corners = [[1.0, 1.0], [3.0, 1.0], [3.0, 4.0], [1.0, 4.0]];
        picture.fill(&[corners.map(scaled).to_vec()], RED, 1.0);
        for (i, pixel) in picture.pixels.iter().enumerate() {
            let inside = (2..6).contains(&(i % 10)) && (2..8).contains(&(i / 10));
            assert_eq!(*pixel == RED, inside, "{i}");
        }
    }
}
