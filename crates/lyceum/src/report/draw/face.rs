//! The font pictures carry with them, so that they look and measure the same on every machine.

use ab_glyph::{Font, FontRef, Glyph, OutlinedGlyph, PxScale, ScaleFont, point};

use crate::error::{Error, Result};

static FACE: &[u8] = include_bytes!("../../../font/DejaVuSans-latin.ttf");

/// The shipped font.
#[derive(Debug, Clone)]
pub(super) struct Face(FontRef<'static>);

impl Face {
    /// The font, read.
    ///
    /// # Errors
    /// When the shipped bytes are no font.
    pub(super) fn shipped() -> Result<Self> {
        FontRef::try_from_slice(FACE)
            .map(Face)
            .map_err(|e| Error::format("the charts' font", e))
    }

    /// Width of `text` in pixels, `size` pixels to the em.
    pub(super) fn width(&self, text: &str, size: f64) -> f64 {
        self.laid(text, size).1
    }

    /// The outlines of `text` from (0, 0), its baseline's left end.
    pub(super) fn outlines(&self, text: &str, size: f64) -> Vec<OutlinedGlyph> {
        let (glyphs, _) = self.laid(text, size);
        glyphs
            .into_iter()
            .filter_map(|glyph| self.0.outline_glyph(glyph))
            .collect()
    }

    /// `text` in lines of at most `width` pixels, broken after `_`, `/`, `-`, a space or, where
    /// there is none of them, anywhere. Nothing is left out.
    pub(super) fn wrapped(&self, text: &str, size: f64, width: f64) -> Vec<String> {
        let mut lines = vec![String::new()];
        for piece in text.split_inclusive(['_', '/', '-', ' ']) {
            let fits = |line: &str, more: &str| {
                self.width(&format!("{line}{more}"), size) <= width || line.is_empty()
            };
            let last = lines.last().map_or("", String::as_str);
            if !fits(last, piece) {
                lines.push(String::new());
            }
            for letter in piece.chars() {
                let letter = letter.to_string();
                if !lines.last().is_some_and(|line| fits(line, &letter)) {
                    lines.push(String::new());
                }
                if let Some(line) = lines.last_mut() {
                    line.push_str(&letter);
                }
            }
        }
        lines
    }

    fn laid(&self, text: &str, size: f64) -> (Vec<Glyph>, f64) {
        // ab_glyph's scale is the height of a line, not the em.
        let em = self.0.units_per_em().unwrap_or(1.0);
        let scale = PxScale::from(size as f32 * self.0.height_unscaled() / em);
        let font = self.0.as_scaled(scale);
        let (mut x, mut glyphs) = (0.0, Vec::new());
        for letter in text.chars() {
            let id = font.glyph_id(letter);
            if let Some(last) = glyphs.last().map(|glyph: &Glyph| glyph.id) {
                x += font.kern(last, id);
            }
            glyphs.push(id.with_scale_and_position(scale, point(x, 0.0)));
            x += font.h_advance(id);
        }
        (glyphs, f64::from(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_text_fits_and_loses_nothing() {
        let face = Face::shipped().unwrap();
        let name = "wiqa_what_is_the_final_step_of_the_following_process";
        for text in [name, &"x".repeat(200), "short", ""] {
            let lines = face.wrapped(text, 11.0, 120.0);
            assert_eq!(lines.concat(), text);
            assert!(lines.iter().all(|l| face.width(l, 11.0) <= 120.0));
        }
        assert!(face.wrapped(name, 11.0, 120.0).len() > 1);
    }

    #[test]
    fn widths_grow_with_text_and_size() {
        let face = Face::shipped().unwrap();
        let width = face.width("mmm", 10.0);
        // An m of DejaVu Sans is 0.974 em.
        assert!((width - 29.2).abs() < 0.1, "{width}");
        assert!((face.width("mmm", 20.0) - 2.0 * width).abs() < 1e-3);
    }
}
