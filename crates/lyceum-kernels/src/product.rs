//! The packed product, cut into jobs: blocks of rows times runs of panels.
//!
//! A job walks the inner index in blocks; for each it prepares its rows once (rounded to bf16 if
//! the panels are), then passes every panel over them. How a product is cut never changes a
//! result: each element is one chain of multiply-adds over the inner index.

mod cut;

use rayon::prelude::*;

use self::cut::Cut;
#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::cpu::Level;
use crate::gathered::Gathered;
use crate::pack::{Panels, Values};
#[cfg(target_arch = "x86_64")]
use crate::tile::Paired;
use crate::tile::{Added, At, Operand, Output, Rows, Single, Steps, Target, Widened, tile};
use crate::vector::{Plain, Vector};
#[cfg(target_arch = "x86_64")]
use crate::vector::{Wide, Widest};
use crate::view::View;

/// Rows per job, a multiple of every level's tile: a product of a multiple of so many is fastest.
pub const ROWS: usize = 48;
/// Bytes of a panel that every tile of rows reads again, from L2; the larger, the less often sums
/// are stored and reloaded.
const PANEL_BYTES: usize = 192 * 1024;
/// Row strides that are a multiple of this many values (4 KiB) alias in L1.
const PAGE: usize = 1024;

/// One product: `y = x M + added`.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) x: View<'a>,
    pub(crate) panels: &'a Panels,
    /// The rows of the panels' matrix that x stands for. With pairs of rows in a panel the first
    /// is even; with tiles they are all of them.
    inner: Interval,
    /// `true` if the result is added to the output's previous values.
    pub(crate) adds: bool,
    pub(crate) target: Target<'a>,
}

/// Half-open, as [`std::ops::Range`], but `Copy`.
#[derive(Clone, Copy)]
pub(crate) struct Interval {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Interval {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Interval { start, end }
    }

    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }
}

/// Rows and panels of one job.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) rows: Interval,
    pub(crate) panels: Interval,
}

/// Epilogue applied to rows of a result as soon as they are complete, while they are cached: it
/// receives the index of the first row, and the rows `[.., n]`.
pub type Then<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// `y = x M + added`: x `[t, k]`, result `[t, n]`.
pub(crate) fn product(level: Level, x: View<'_>, panels: &Panels, added: Added<'_>) -> Vec<f32> {
    product_then(level, x, panels, added, None)
}

/// `y = x M + added`, with `then` applied to all rows, a group at a time.
pub(crate) fn product_then(
    level: Level,
    x: View<'_>,
    panels: &Panels,
    added: Added<'_>,
    then: Option<Then<'_>>,
) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.rows * panels.n);
    let epilogue = Epilogue { added, then };
    // SAFETY: `product_at` writes every element of the buffer.
    unsafe {
        product_at(level, x, panels, epilogue, y.as_mut_ptr());
        y.set_len(x.rows * panels.n);
    }
    y
}

/// Terms added to a product, and the function applied to its rows.
struct Epilogue<'a> {
    added: Added<'a>,
    then: Option<Then<'a>>,
}

/// # Safety
/// `y` must have room for `x.rows * panels.n` values, all of which are written, none read before.
unsafe fn product_at(
    level: Level,
    x: View<'_>,
    panels: &Panels,
    epilogue: Epilogue<'_>,
    y: *mut f32,
) {
    let Epilogue { added, then } = epilogue;
    check_shapes(level, x, panels, &added);
    let n = panels.n;
    let whole = Product {
        x,
        panels,
        inner: Interval::new(0, panels.k),
        adds: false,
        target: Target {
            n,
            stride: n,
            added,
            y: Output(y),
        },
    };
    let cut = Cut::new(level, x.rows, panels, then.is_some());
    let finish = |rows: Interval| {
        if let Some(then) = then {
            let target = &whole.target;
            let from = target.y.0.wrapping_add(rows.start * n);
            // SAFETY: these rows were written, and no other job writes them.
            then(rows.start, unsafe {
                std::slice::from_raw_parts_mut(from, rows.len() * n)
            });
        }
    };
    let job = |job: Job| {
        run(level, &whole, job);
        if cut.whole_rows {
            finish(job.rows);
        }
    };
    if cut.small {
        cut.jobs.into_iter().for_each(job);
    } else {
        cut.jobs.into_par_iter().with_max_len(1).for_each(job);
    }
    if !cut.whole_rows {
        finish(Interval::new(0, x.rows));
    }
}

/// Panics unless the shapes of a product agree and its panels were packed for `level`.
fn check_shapes(level: Level, x: View<'_>, panels: &Panels, added: &Added<'_>) {
    let n = panels.n;
    assert!(x.columns == panels.k && x.inside(), "shapes must agree");
    assert!(
        added.bias.is_none_or(|b| b.len() == n),
        "one bias per column"
    );
    assert!(
        added.rows.is_none_or(|r| r.len() == x.rows * n),
        "as many rows as results"
    );
    assert!(
        level.exists() && level.lanes() == panels.lanes,
        "packed for this level"
    );
}

/// Destination of a part of a product in f32, with rows `stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct OutputTile {
    pub(crate) y: Output,
    pub(crate) stride: usize,
    /// `true` if the part is added to the previous values.
    pub(crate) adds: bool,
}

/// A block of a matrix in panels.
#[derive(Clone, Copy)]
pub(crate) struct PanelBlock {
    /// Rows of the matrix, over which a product sums; the first one is even.
    pub(crate) inner: Interval,
    /// Columns; the first one is a panel's first.
    pub(crate) columns: Interval,
}

impl PanelBlock {
    pub(crate) fn new(inner: Interval, columns: Interval) -> Self {
        PanelBlock { inner, columns }
    }
}

/// A part of a product, computed where it stands by one thread: x `[t, inner.len()]` times a block
/// of panels, which are in f32 or the level's pairs.
/// Result `(i, column)` goes to `y[i * stride + column - columns.start]`.
///
/// # Safety
/// `place` must have room for the part, which nothing else may touch meanwhile, and hold numbers
/// if the part is added.
pub(crate) unsafe fn part(
    level: Level,
    x: View<'_>,
    panels: &Panels,
    block: PanelBlock,
    place: OutputTile,
) {
    let width = 2 * panels.lanes;
    let PanelBlock { inner, columns } = block;
    assert!(
        inner.end <= panels.k && x.columns == inner.len() && x.inside(),
        "shapes must agree"
    );
    assert!(
        columns.end <= panels.n
            && columns.start.is_multiple_of(width)
            && inner.start.is_multiple_of(2),
        "whole panels"
    );
    assert!(
        level.exists()
            && level.lanes() == panels.lanes
            && (level.pairs() || matches!(panels.values, Values::F32(_))),
        "packed for this level"
    );
    let whole = Product {
        x,
        panels,
        inner,
        adds: place.adds,
        target: Target {
            n: columns.end,
            stride: place.stride,
            added: Added::default(),
            y: Output(place.y.0.wrapping_sub(columns.start)),
        },
    };
    let job = Job {
        rows: Interval::new(0, x.rows),
        panels: Interval::new(columns.start / width, columns.end.div_ceil(width)),
    };
    run(level, &whole, job);
}

fn run(level: Level, whole: &Product<'_>, job: Job) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide(whole: &Product<'_>, job: Job) {
            // SAFETY: this function is compiled for AVX2.
            unsafe { job_on::<Wide, Widened<Wide>, 6>(whole, job) }
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn widest(whole: &Product<'_>, job: Job) {
            // SAFETY: this function is compiled for AVX-512.
            unsafe { job_on::<Widest, Widened<Widest>, 12>(whole, job) }
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")]
        fn paired(whole: &Product<'_>, job: Job) {
            // SAFETY: this function is compiled for AVX512-BF16.
            unsafe { job_on::<Widest, Paired, 12>(whole, job) }
        }
        match level {
            Level::Amx if let Values::Bf16(words) = &whole.panels.values => {
                // SAFETY: `product_at` checked that the processor has the level.
                return unsafe { amx::blocks(whole, job, words) };
            }
            // SAFETY: as above.
            Level::Avx512Bf16 => return unsafe { paired(whole, job) },
            // SAFETY: as above.
            Level::Amx | Level::Avx512 => return unsafe { widest(whole, job) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { wide(whole, job) },
            Level::Portable => {}
        }
    }
    let _ = level;
    // SAFETY: the portable level runs everywhere.
    unsafe { job_on::<Plain, Widened<Plain>, 6>(whole, job) }
}

/// # Safety
/// The processor must have the level of `V`, and what `B` needs.
#[inline(always)]
unsafe fn job_on<V: Vector, B: Operand<V = V, W = u32>, const ROWS: usize>(
    whole: &Product<'_>,
    job: Job,
) {
    // SAFETY: the caller vouches for the level.
    unsafe {
        match &whole.panels.values {
            Values::F32(values) => blocks::<Single<V>, ROWS>(whole, job, values),
            Values::Bf16(words) => blocks::<B, ROWS>(whole, job, words),
        }
    }
}

/// # Safety
/// The processor must have the level of `O::V`; `values` are the panels of `whole`.
#[inline(always)]
unsafe fn blocks<O: Operand, const ROWS: usize>(whole: &Product<'_>, job: Job, values: &[O::W]) {
    let width = 2 * O::V::LANES;
    let total = whole.panels.k.div_ceil(O::DEPTH);
    let begin = whole.inner.start / O::DEPTH;
    let end = whole.inner.end.div_ceil(O::DEPTH);
    // The whole depth at once when there is no second tile of rows to reuse a panel for.
    let few = job.rows.len() <= ROWS;
    let depth = if few { end } else { PANEL_BYTES / (4 * width) }.max(1);
    let mut prepared = Vec::new();
    // One block of no steps when there is nothing to sum: the result is still written.
    for from in (begin..end.max(begin + 1)).step_by(depth) {
        let count = depth.min(end - from);
        let steps = Steps {
            count,
            first: from == begin && !whole.adds,
            last: from + count == end,
        };
        // SAFETY: rows, steps and panels are inside the product.
        unsafe {
            let x = prepare::<O>(whole, job.rows, from, count, &mut prepared);
            let panel_at = |panel: usize| values[(panel * total + from) * width..].as_ptr();
            let mut panel = job.panels.start;
            while panel < job.panels.end {
                let left = job.panels.end - panel;
                let at = At {
                    row: job.rows.start,
                    panel,
                };
                match job.rows.len() {
                    1 if left >= 4 => {
                        let four = std::array::from_fn(|i| panel_at(panel + i));
                        tile::<O, 1, 4>(&whole.target, at, steps, x, four);
                        panel += 4;
                    }
                    2 if left >= 2 => {
                        let two = std::array::from_fn(|i| panel_at(panel + i));
                        tile::<O, 2, 2>(&whole.target, at, steps, x, two);
                        panel += 2;
                    }
                    _ => {
                        let job = OnePanel {
                            rows: job.rows,
                            panel,
                            values: panel_at(panel),
                        };
                        panel_rows::<O, ROWS>(&whole.target, job, steps, x);
                        panel += 1;
                    }
                }
            }
        }
    }
}

/// The rows of a job for the steps `from..from + count`.
///
/// # Safety
/// The processor must have the level of `O::V`; the rows are inside x.
#[inline(always)]
unsafe fn prepare<O: Operand>(
    whole: &Product<'_>,
    rows: Interval,
    from: usize,
    count: usize,
    prepared: &mut Vec<O::X>,
) -> Rows<O::X> {
    let from = from * O::DEPTH - whole.inner.start;
    let to = (from + count * O::DEPTH).min(whole.inner.len());
    if let (stride, 1) = whole.x.steps
        && !stride.is_multiple_of(PAGE)
        && let Some(lying) = O::as_they_lie(whole.x.values.as_ptr())
    {
        let first = lying.wrapping_add(rows.start * stride + from);
        return Rows { first, stride };
    }
    let stride = count * O::XS;
    prepared.resize(rows.len() * stride, O::X::default());
    let mut gathered = Gathered::default();
    for (row, into) in (rows.start..rows.end).zip(prepared.chunks_mut(stride.max(1))) {
        let x = gathered.row(whole.x, row, from, to);
        // SAFETY: the caller vouches for the level.
        unsafe { O::prepare(x, into) }
    }
    Rows {
        first: prepared.as_ptr(),
        stride,
    }
}

/// Rows of a job, and one of its panels.
struct OnePanel<W> {
    rows: Interval,
    panel: usize,
    values: *const W,
}

/// # Safety
/// As [`tile`], for all rows of the job.
#[inline(always)]
unsafe fn panel_rows<O: Operand, const ROWS: usize>(
    target: &Target<'_>,
    job: OnePanel<O::W>,
    steps: Steps,
    x: Rows<O::X>,
) {
    let (rows, panel, one) = (job.rows, job.panel, [job.values]);
    let mut row = rows.start;
    // SAFETY: the rows are those of the job.
    unsafe {
        while row < rows.end {
            let (at, left) = (At { row, panel }, rows.end - row);
            let first = x.first.add((row - rows.start) * x.stride);
            let x = Rows { first, ..x };
            row += match left {
                left if left >= ROWS => {
                    tile::<O, ROWS, 1>(target, at, steps, x, one);
                    ROWS
                }
                8.. => {
                    tile::<O, 8, 1>(target, at, steps, x, one);
                    8
                }
                4.. => {
                    tile::<O, 4, 1>(target, at, steps, x, one);
                    4
                }
                2.. => {
                    tile::<O, 2, 1>(target, at, steps, x, one);
                    2
                }
                _ => {
                    tile::<O, 1, 1>(target, at, steps, x, one);
                    1
                }
            };
        }
    }
}

#[cfg(test)]
mod tests;
