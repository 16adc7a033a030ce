//! Charts as data.

/// A picture of a report.
///
/// ```
/// use lyceum::report::chart::{Bar, Bars, Chart, Kind};
///
/// let bar = |label: &str, value| Bar { label: label.into(), value, error: 1.5, group: 0 };
/// let bars = Bars {
///     x: "ROUGE-L".into(),
///     bars: vec![bar("base", 31.0), bar("arrow", 44.0)],
///     ..Bars::default()
/// };
/// let chart = Chart {
///     name: "rouge-l".into(),
///     title: "ROUGE-L".into(),
///     caption: "Higher is better.".into(),
///     kind: Kind::Bars(bars),
/// };
/// # #[cfg(feature = "report")]
/// assert!(chart.svg()?.starts_with("<svg"));
/// # Ok::<(), lyceum::Error>(())
/// ```
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
    /// Each line's name and points: x and y.
    pub lines: Vec<(String, Vec<[f64; 2]>)>,
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
    pub points: Vec<[f64; 2]>,
    /// The smoothed points.
    pub smooth: Vec<[f64; 2]>,
    /// Panels of one group share a colour.
    pub group: usize,
}
