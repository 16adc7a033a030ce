//! Pictures and pages: how a chart is drawn is the same for SVG and PNG.

mod axis;
mod bars;
mod canvas;
mod colour;
mod face;
mod heat;
mod html;
mod lines;
mod raster;
mod svg;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::canvas::Canvas;
use super::chart::{Chart, Kind};
use crate::error::Result;

pub(super) use self::html::render as page;

/// Checks that this build draws charts and pages, which the feature `report` adds.
///
/// # Errors
/// In a build without it.
#[allow(clippy::unnecessary_wraps, reason = "in another build it is an error")]
pub fn drawable() -> Result<()> {
    Ok(())
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
