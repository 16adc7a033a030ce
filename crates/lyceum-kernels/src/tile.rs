//! One tile of a packed product: a few rows times one or more panels, all sums in registers.
//!
//! The inner index is walked in *steps*: one value in f32, a pair of values in bf16.

use crate::math::round;
use crate::vector::Vector;

/// A product's output buffer.
#[derive(Clone, Copy)]
pub(crate) struct Output(pub(crate) *mut f32);
// SAFETY: jobs write disjoint elements of one buffer that outlives them.
unsafe impl Sync for Output {}
// SAFETY: as above.
unsafe impl Send for Output {}

/// Terms that a product adds to its result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Added<'a> {
    /// A bias `[n]`, added to every row.
    pub bias: Option<&'a [f32]>,
    /// Values `[t, n]`, such as a residual stream.
    pub rows: Option<&'a [f32]>,
}

/// Storage of panels and rows, and the arithmetic of one step.
pub(crate) trait Operand {
    /// The registers sums are kept in.
    type V: Vector;
    /// One value of a panel; a step holds two registers' lanes of them.
    type W: Copy + Sync;
    /// One value of a prepared row of x.
    type X: Copy + Default + Send;
    /// Values of a prepared row per step.
    const XS: usize;
    /// Inner indices per step.
    const DEPTH: usize;
    /// One step of a panel, in registers.
    type Columns: Copy;

    /// # Safety
    /// The processor must have the level of `V`; `from` holds one step of a panel.
    unsafe fn columns(from: *const Self::W) -> Self::Columns;

    /// `sum + x columns` over one step.
    ///
    /// # Safety
    /// The processor must have the level of `V`; `x` holds one step of a prepared row.
    unsafe fn add(sum: [Self::V; 2], x: *const Self::X, columns: Self::Columns) -> [Self::V; 2];

    /// Writes `x` as a prepared row; an odd end is filled up with zero.
    ///
    /// # Safety
    /// The processor must have the level of `V`.
    unsafe fn prepare(x: &[f32], row: &mut [Self::X]);

    /// Rows that are as good as prepared where they lie.
    #[inline(always)]
    fn as_they_lie(_: *const f32) -> Option<*const Self::X> {
        None
    }
}

/// Weights and rows in f32.
pub(crate) struct Single<V>(std::marker::PhantomData<V>);

impl<V: Vector> Operand for Single<V> {
    type V = V;
    type W = f32;
    type X = f32;
    const XS: usize = 1;
    const DEPTH: usize = 1;
    type Columns = (V, V);

    #[inline(always)]
    unsafe fn columns(from: *const f32) -> (V, V) {
        // SAFETY: a step holds two registers.
        unsafe { (V::load(from), V::load(from.add(V::LANES))) }
    }

    #[inline(always)]
    unsafe fn add(sum: [V; 2], x: *const f32, columns: (V, V)) -> [V; 2] {
        // SAFETY: the caller vouches for the level and for `x`.
        unsafe {
            let x = V::splat(*x);
            [
                sum[0].add_product(x, columns.0),
                sum[1].add_product(x, columns.1),
            ]
        }
    }

    #[inline(always)]
    unsafe fn prepare(x: &[f32], row: &mut [f32]) {
        row.copy_from_slice(x);
    }

    #[inline(always)]
    fn as_they_lie(x: *const f32) -> Option<*const f32> {
        Some(x)
    }
}

/// Weights in bf16, widened to f32 for each step; rows rounded to bf16.
pub(crate) struct Widened<V>(std::marker::PhantomData<V>);

impl<V: Vector> Operand for Widened<V> {
    type V = V;
    type W = u32;
    type X = f32;
    const XS: usize = 2;
    const DEPTH: usize = 2;
    /// First values of the pairs for both registers, then second values.
    type Columns = ((V, V), (V, V));

    #[inline(always)]
    unsafe fn columns(from: *const u32) -> Self::Columns {
        // SAFETY: a step holds two registers of words.
        unsafe {
            let (left, right) = (V::halves(from), V::halves(from.add(V::LANES)));
            ((left.0, right.0), (left.1, right.1))
        }
    }

    #[inline(always)]
    unsafe fn add(sum: [V; 2], x: *const f32, columns: Self::Columns) -> [V; 2] {
        // SAFETY: the caller vouches for the level and for `x`.
        unsafe {
            let sum = Single::<V>::add(sum, x, columns.0);
            Single::<V>::add(sum, x.add(1), columns.1)
        }
    }

    #[inline(always)]
    unsafe fn prepare(x: &[f32], row: &mut [f32]) {
        for (x, y) in x.iter().zip(&mut *row) {
            *y = round(*x);
        }
        row[x.len()..].fill(0.0);
    }
}

/// Weights and rows in bf16, multiplied in pairs by AVX512-BF16.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Paired;

#[cfg(target_arch = "x86_64")]
impl Operand for Paired {
    type V = crate::vector::Widest;
    type W = u32;
    type X = u32;
    const XS: usize = 1;
    const DEPTH: usize = 2;
    type Columns = (Self::V, Self::V);

    #[inline(always)]
    unsafe fn columns(from: *const u32) -> Self::Columns {
        // SAFETY: a step holds two registers of words.
        unsafe {
            let from = from.cast::<f32>();
            (Self::V::load(from), Self::V::load(from.add(16)))
        }
    }

    #[inline(always)]
    unsafe fn add(sum: [Self::V; 2], x: *const u32, columns: Self::Columns) -> [Self::V; 2] {
        // SAFETY: the caller vouches for AVX512-BF16 and for `x`.
        unsafe {
            [
                sum[0].add_pairs(*x, columns.0),
                sum[1].add_pairs(*x, columns.1),
            ]
        }
    }

    #[inline(always)]
    unsafe fn prepare(x: &[f32], row: &mut [u32]) {
        // SAFETY: the caller vouches for AVX512-BF16.
        unsafe { crate::vector::round_pairs(x, row) }
    }
}

/// Operands of a tile besides x, and its output.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Columns of the result.
    pub(crate) n: usize,
    /// Values from one row of the result to the next.
    pub(crate) stride: usize,
    pub(crate) added: Added<'a>,
    pub(crate) y: Output,
}

/// Steps of the inner index from the first of this block on.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) count: usize,
    /// `true` if the sums start at zero, not at the values of `y`.
    pub(crate) first: bool,
    /// `true` if bias and rows are added.
    pub(crate) last: bool,
}

/// Prepared rows of x: the first one, and values from one to the next.
#[derive(Clone, Copy)]
pub(crate) struct Rows<X> {
    pub(crate) first: *const X,
    pub(crate) stride: usize,
}

/// The first row and the first panel of a block of the result.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) row: usize,
    pub(crate) panel: usize,
}

/// Adds to `R` rows and `P` panels of the result their products over `steps`.
///
/// # Safety
/// The processor must have the level of `O::V`; `R` rows and `P` panels from `at` on are inside
/// the result; `x` are those rows, `panels` those panels, for all `steps`.
#[inline(always)]
pub(crate) unsafe fn tile<O: Operand, const R: usize, const P: usize>(
    target: &Target<'_>,
    at: At,
    steps: Steps,
    x: Rows<O::X>,
    panels: [*const O::W; P],
) {
    let columns = 2 * O::V::LANES;
    let n = target.n;
    // SAFETY: see above; every pointer stays inside its buffer.
    unsafe {
        let line = |r: usize| target.y.0.wrapping_add((at.row + r) * target.stride);
        let from = |p: usize| (at.panel + p) * columns;
        let whole = from(P) <= n;
        // The result comes from memory while the sums are made.
        for r in 0..R {
            for p in 0..P {
                O::V::expect(line(r).wrapping_add(from(p)));
            }
        }
        let mut sums = [[[O::V::splat(0.0); 2]; P]; R];
        if !steps.first {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = match whole {
                        true => pair(line(r).wrapping_add(from(p))),
                        false => load::<O::V>(line(r), from(p), n),
                    };
                }
            }
        }
        for i in 0..steps.count {
            let mut column = [O::columns(panels[0].add(i * columns)); P];
            for (column, panel) in column.iter_mut().zip(&panels).skip(1) {
                *column = O::columns(panel.add(i * columns));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = x.first.add(r * x.stride + i * O::XS);
                for (sum, column) in sums.iter_mut().zip(&column) {
                    *sum = O::add(*sum, x, *column);
                }
            }
        }
        if whole {
            for (r, sums) in sums.iter().enumerate() {
                for (p, sum) in sums.iter().enumerate() {
                    let y = line(r).wrapping_add(from(p));
                    sum[0].store(y);
                    sum[1].store(y.wrapping_add(O::V::LANES));
                }
            }
        } else {
            // A copy, so that the sums themselves stay in registers.
            let held = sums;
            for (r, sums) in held.iter().enumerate() {
                for (p, sum) in sums.iter().enumerate() {
                    store::<O::V>(*sum, line(r), from(p), n);
                }
            }
        }
        if steps.last && (target.added.bias.is_some() || target.added.rows.is_some()) {
            for r in 0..R {
                for p in 0..P {
                    let sum = load::<O::V>(line(r), from(p), n);
                    let sum = finish(target, sum, (at.row + r) * n, from(p));
                    store::<O::V>(sum, line(r), from(p), n);
                }
            }
        }
    }
}

/// Two registers side by side.
///
/// # Safety
/// The processor must have the level of `V`; `from` holds two registers' values.
#[inline(always)]
unsafe fn pair<V: Vector>(from: *const f32) -> [V; 2] {
    // SAFETY: the caller vouches for the level and for `from`.
    unsafe { [V::load(from), V::load(from.add(V::LANES))] }
}

/// Two finished registers of the row that begins at `line`, with what is added to them.
///
/// # Safety
/// The processor must have the level of `V`; row and column are inside the result.
#[inline(always)]
pub(crate) unsafe fn finish<V: Vector>(
    target: &Target<'_>,
    mut sum: [V; 2],
    line: usize,
    from: usize,
) -> [V; 2] {
    // SAFETY: bias and rows have the result's shape.
    unsafe {
        let one = V::splat(1.0);
        let rows = target.added.rows.map(|rows| rows.as_ptr().add(line));
        let bias = target.added.bias.map(<[f32]>::as_ptr);
        for added in [bias, rows].into_iter().flatten() {
            let added = load::<V>(added, from, target.n);
            sum = [
                sum[0].add_product(added[0], one),
                sum[1].add_product(added[1], one),
            ];
        }
        sum
    }
}

/// Two registers from column `from` of a row of `n` values, zero beyond its end.
///
/// # Safety
/// The processor must have the level of `V`; `row` holds `n` values.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector>(row: *const f32, from: usize, n: usize) -> [V; 2] {
    // SAFETY: reads stop at `n`.
    unsafe {
        if from + 2 * V::LANES <= n {
            return [
                V::load(row.wrapping_add(from)),
                V::load(row.wrapping_add(from + V::LANES)),
            ];
        }
        let mut edge = [0f32; 32];
        edge[..n - from]
            .copy_from_slice(std::slice::from_raw_parts(row.wrapping_add(from), n - from));
        [V::load(edge.as_ptr()), V::load(edge.as_ptr().add(V::LANES))]
    }
}

/// The opposite of [`load`].
///
/// # Safety
/// The processor must have the level of `V`; `row` has room for `n` values.
#[inline(always)]
pub(crate) unsafe fn store<V: Vector>(values: [V; 2], row: *mut f32, from: usize, n: usize) {
    // SAFETY: writes stop at `n`.
    unsafe {
        if from + 2 * V::LANES <= n {
            values[0].store(row.wrapping_add(from));
            values[1].store(row.wrapping_add(from + V::LANES));
            return;
        }
        let mut edge = [0f32; 32];
        values[0].store(edge.as_mut_ptr());
        values[1].store(edge.as_mut_ptr().add(V::LANES));
        std::ptr::copy_nonoverlapping(edge.as_ptr(), row.wrapping_add(from), n - from);
    }
}
