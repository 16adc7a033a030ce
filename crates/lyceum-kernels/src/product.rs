//! The packed product: tiles of a few rows and one or more panels, all sums in registers.

use rayon::prelude::*;

use crate::cpu::Level;
use crate::gemm::Added;
use crate::pack::{Panels, Values};
use crate::vector::{Plain, Vector};
#[cfg(target_arch = "x86_64")]
use crate::vector::{Wide, Widest};

/// Rows per job: a multiple of every level's tile.
const ROWS: usize = 96;
/// Bytes of a panel that stay in the first cache while the rows of a job pass over them.
const PANEL_BYTES: usize = 24 * 1024;
/// Up to this many rows the columns are cut finer, so that all threads get some.
const FEW: usize = 16;
/// Products below this many multiplications are not worth a second thread.
const SMALL: usize = 1 << 17;

/// Where a job writes; jobs write disjoint elements.
#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: jobs write disjoint elements of one slice that outlives them.
unsafe impl Sync for Output {}
// SAFETY: as above.
unsafe impl Send for Output {}

/// One product: `y = x M + added`.
#[derive(Clone, Copy)]
struct Product<'a> {
    x: &'a [f32],
    panels: &'a Panels,
    added: Added<'a>,
    y: Output,
}

/// Rows and panels of one job.
#[derive(Clone, Copy)]
struct Job {
    rows: (usize, usize),
    panels: (usize, usize),
}

/// `y = x M + added`: x `[t, k]`, y `[t, n]`.
pub(crate) fn product(level: Level, x: &[f32], panels: &Panels, added: Added<'_>, y: &mut [f32]) {
    let (k, n) = (panels.k, panels.n);
    let t = y.len().checked_div(n).unwrap_or(0);
    assert!(x.len() == t * k && y.len() == t * n, "shapes must agree");
    assert!(
        added.bias.is_none_or(|b| b.len() == n),
        "one bias per column"
    );
    assert!(
        added.rows.is_none_or(|r| r.len() == y.len()),
        "as many rows as results"
    );
    assert!(
        level.exists() && level.lanes() == panels.lanes,
        "packed for this level"
    );
    let whole = Product {
        x,
        panels,
        added,
        y: Output(y.as_mut_ptr()),
    };
    let count = n.div_ceil(2 * panels.lanes);
    let wide = if t <= FEW { 8 } else { 32 };
    let mut jobs = Vec::new();
    for row in (0..t).step_by(ROWS) {
        for panel in (0..count).step_by(wide) {
            jobs.push(Job {
                rows: (row, (row + ROWS).min(t)),
                panels: (panel, (panel + wide).min(count)),
            });
        }
    }
    if t * k * n < SMALL {
        jobs.into_iter().for_each(|job| run(level, &whole, job));
    } else {
        jobs.into_par_iter().for_each(|job| run(level, &whole, job));
    }
}

fn run(level: Level, whole: &Product<'_>, job: Job) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide(whole: &Product<'_>, job: Job) {
            // SAFETY: this function is compiled for AVX2.
            unsafe { job_on::<Wide, 6>(whole, job) }
        }
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn widest(whole: &Product<'_>, job: Job) {
            // SAFETY: this function is compiled for AVX-512.
            unsafe { job_on::<Widest, 12>(whole, job) }
        }
        match level {
            // SAFETY: `product` checked that the processor has the level.
            Level::Avx512 => return unsafe { widest(whole, job) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { wide(whole, job) },
            Level::Portable => {}
        }
    }
    let _ = level;
    // SAFETY: the portable level runs everywhere.
    unsafe { job_on::<Plain, 6>(whole, job) }
}

/// # Safety
/// The processor must have the level of `V`.
#[inline(always)]
unsafe fn job_on<V: Vector, const ROWS: usize>(whole: &Product<'_>, job: Job) {
    // SAFETY: the caller vouches for the level.
    unsafe {
        match &whole.panels.values {
            Values::F32(values) => blocks::<V, F32, ROWS>(whole, job, values),
            Values::Bf16(words) => blocks::<V, Bf16, ROWS>(whole, job, words),
        }
    }
}

/// How a panel's rows are stored.
trait Stored {
    type Value: Copy;
    /// Values of `Value` per lane of a panel's row.
    const PER_LANE: usize;
    /// # Safety
    /// As [`Vector::load`]: `from` holds one row of a panel.
    unsafe fn row<V: Vector>(from: *const Self::Value) -> (V, V);
}

struct F32;
impl Stored for F32 {
    type Value = f32;
    const PER_LANE: usize = 2;
    #[inline(always)]
    unsafe fn row<V: Vector>(from: *const f32) -> (V, V) {
        // SAFETY: a row holds two registers.
        unsafe { (V::load(from), V::load(from.add(V::LANES))) }
    }
}

struct Bf16;
impl Stored for Bf16 {
    type Value = u32;
    const PER_LANE: usize = 1;
    #[inline(always)]
    unsafe fn row<V: Vector>(from: *const u32) -> (V, V) {
        // SAFETY: a row holds one register of words.
        unsafe { V::halves(from) }
    }
}

/// # Safety
/// The processor must have the level of `V`; `values` are the panels of `whole`.
#[inline(always)]
unsafe fn blocks<V: Vector, S: Stored, const ROWS: usize>(
    whole: &Product<'_>,
    job: Job,
    values: &[S::Value],
) {
    let k = whole.panels.k;
    let width = S::PER_LANE * V::LANES;
    // The whole depth at once when there is no second tile of rows to reuse a panel for.
    let few = job.rows.1 - job.rows.0 <= ROWS;
    let depth = if few { k } else { PANEL_BYTES / (4 * width) };
    for from in (0..k.max(1)).step_by(depth.max(1)) {
        let deep = (from, (from + depth.max(1)).min(k));
        let mut panel = job.panels.0;
        while panel < job.panels.1 {
            let rows = job.rows.1 - job.rows.0;
            let left = job.panels.1 - panel;
            let tile = |at: usize| &values[((panel + at) * k + deep.0) * width..];
            // SAFETY: rows, depth and panels are inside the product.
            unsafe {
                match (rows, left) {
                    (1, 4..) => {
                        let four = [
                            tile(0).as_ptr(),
                            tile(1).as_ptr(),
                            tile(2).as_ptr(),
                            tile(3).as_ptr(),
                        ];
                        tile_of::<V, S, 1, 4>(whole, (job.rows.0, panel), deep, four);
                        panel += 4;
                    }
                    (2, 2..) => {
                        let two = [tile(0).as_ptr(), tile(1).as_ptr()];
                        tile_of::<V, S, 2, 2>(whole, (job.rows.0, panel), deep, two);
                        panel += 2;
                    }
                    _ => {
                        panel_rows::<V, S, ROWS>(whole, (job.rows, panel), deep, tile(0).as_ptr());
                        panel += 1;
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`tile_of`], for all rows of the job.
#[inline(always)]
unsafe fn panel_rows<V: Vector, S: Stored, const ROWS: usize>(
    whole: &Product<'_>,
    (rows, panel): ((usize, usize), usize),
    deep: (usize, usize),
    values: *const S::Value,
) {
    let (mut row, one) = (rows.0, [values]);
    // SAFETY: the rows are those of the job.
    unsafe {
        while row < rows.1 {
            let at = (row, panel);
            let left = rows.1 - row;
            if left >= ROWS {
                tile_of::<V, S, ROWS, 1>(whole, at, deep, one);
                row += ROWS;
            } else if left >= 4 {
                tile_of::<V, S, 4, 1>(whole, at, deep, one);
                row += 4;
            } else if left >= 2 {
                tile_of::<V, S, 2, 1>(whole, at, deep, one);
                row += 2;
            } else {
                tile_of::<V, S, 1, 1>(whole, at, deep, one);
                row += 1;
            }
        }
    }
}

/// Adds to `R` rows and `P` panels of the result the products over the inner indices `deep`;
/// the first such range starts from zero, the last adds bias and rows.
///
/// # Safety
/// The processor must have the level of `V`; rows `at.0..at.0 + R`, panels `at.1..at.1 + P` and
/// `deep` are inside the product, and `panels` point to the panels' rows from `deep.0` on.
#[inline(always)]
unsafe fn tile_of<V: Vector, S: Stored, const R: usize, const P: usize>(
    whole: &Product<'_>,
    at: (usize, usize),
    deep: (usize, usize),
    panels: [*const S::Value; P],
) {
    let Panels { k, n, .. } = *whole.panels;
    let width = S::PER_LANE * V::LANES;
    let columns = 2 * V::LANES;
    // SAFETY: see above; every pointer stays inside its slice.
    unsafe {
        let mut sums = [[[V::splat(0.0); 2]; P]; R];
        if deep.0 > 0 {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    let from = (at.1 + p) * columns;
                    *sum = load::<V>(whole.y.0.add((at.0 + r) * n), from, n);
                }
            }
        }
        let x = whole.x.as_ptr().add(at.0 * k + deep.0);
        for i in 0..deep.1 - deep.0 {
            let mut row = [(V::splat(0.0), V::splat(0.0)); P];
            for (row, panel) in row.iter_mut().zip(&panels) {
                *row = S::row::<V>(panel.add(i * width));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*x.add(r * k + i));
                for (sum, row) in sums.iter_mut().zip(&row) {
                    sum[0] = sum[0].add_product(x, row.0);
                    sum[1] = sum[1].add_product(x, row.1);
                }
            }
        }
        let last = deep.1 == k;
        let one = V::splat(1.0);
        for (r, sums) in sums.iter().enumerate() {
            for (p, sum) in sums.iter().enumerate() {
                let (from, line) = ((at.1 + p) * columns, (at.0 + r) * n);
                let mut sum = *sum;
                if last {
                    let rows = whole.added.rows.map(|rows| rows.as_ptr().add(line));
                    let bias = whole.added.bias.map(<[f32]>::as_ptr);
                    for added in [bias, rows].into_iter().flatten() {
                        let added = load::<V>(added, from, n);
                        sum = [
                            sum[0].add_product(added[0], one),
                            sum[1].add_product(added[1], one),
                        ];
                    }
                }
                store::<V>(sum, whole.y.0.add(line), from, n);
            }
        }
    }
}

/// Two registers from column `from` of a row of `n` values, zero beyond its end.
///
/// # Safety
/// The processor must have the level of `V`; `row` holds `n` values.
#[inline(always)]
unsafe fn load<V: Vector>(row: *const f32, from: usize, n: usize) -> [V; 2] {
    // SAFETY: reads stop at `n`.
    unsafe {
        if from + 2 * V::LANES <= n {
            return [V::load(row.add(from)), V::load(row.add(from + V::LANES))];
        }
        let mut edge = [0f32; 32];
        edge[..n - from].copy_from_slice(std::slice::from_raw_parts(row.add(from), n - from));
        [V::load(edge.as_ptr()), V::load(edge.as_ptr().add(V::LANES))]
    }
}

/// The opposite of [`load`].
///
/// # Safety
/// The processor must have the level of `V`; `row` has room for `n` values.
#[inline(always)]
unsafe fn store<V: Vector>(values: [V; 2], row: *mut f32, from: usize, n: usize) {
    // SAFETY: writes stop at `n`.
    unsafe {
        if from + 2 * V::LANES <= n {
            values[0].store(row.add(from));
            values[1].store(row.add(from + V::LANES));
            return;
        }
        let mut edge = [0f32; 32];
        values[0].store(edge.as_mut_ptr());
        values[1].store(edge.as_mut_ptr().add(V::LANES));
        std::ptr::copy_nonoverlapping(edge.as_ptr(), row.add(from), n - from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::levels;
    use proptest::prelude::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let next = |s: &mut u32| {
            *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*s >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..n).scan(seed, |s, _| next(s)).collect()
    }

    fn check(level: Level, (t, k, n): (usize, usize, usize), halves: bool, seed: u32) {
        let (x, m) = (values(t * k, seed), values(k * n, seed + 1));
        let round = |x: f32| half::bf16::from_f32(x).to_f32();
        let keep = |x: f32| if halves { round(x) } else { x };
        let (bias, rows) = (values(n, seed + 2), values(t * n, seed + 3));
        let panels = Panels::new((k, n), level.lanes(), halves, |i, j| m[i * n + j]);
        assert!((0..k).all(|i| (0..n).all(|j| panels.at(i, j) == keep(m[i * n + j]))));
        let mut y = vec![f32::NAN; t * n];
        let added = Added {
            bias: Some(&bias),
            rows: Some(&rows),
        };
        product(level, &x, &panels, added, &mut y);
        for (at, y) in y.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let term = |l: usize| f64::from(x[i * k + l]) * f64::from(keep(m[l * n + j]));
            let want = (0..k).map(term).sum::<f64>() + f64::from(bias[j] + rows[at]);
            let bound = 1e-6 * (2.0 + k as f64).sqrt() * 8.0;
            assert!(
                (f64::from(*y) - want).abs() < bound,
                "{level:?} {t} {k} {n}: {y} {want}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_level_equals_the_plain_sum(
            t in 0usize..120, k in 0usize..70, n in 1usize..140, halves: bool, seed in 0u32..1000,
        ) {
            for level in levels() {
                check(level, (t, k, n), halves, seed);
            }
        }
    }

    #[test]
    fn deep_products_are_cut_into_blocks() {
        for level in levels() {
            for halves in [false, true] {
                check(level, (101, 1500, 33), halves, 5);
                check(level, (1, 1500, 200), halves, 6);
                check(level, (2, 900, 70), halves, 7);
            }
        }
    }

    #[test]
    fn neither_threads_nor_the_batch_change_a_bit() {
        let level = Level::best();
        let (t, k, n) = (203, 900, 230);
        let (x, m) = (values(t * k, 1), values(k * n, 2));
        let panels = Panels::new((k, n), level.lanes(), false, |i, j| m[i * n + j]);
        let run = |threads: usize, x: &[f32]| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut y = vec![0.0; x.len() / k * n];
            pool.install(|| product(level, x, &panels, Added::default(), &mut y));
            y
        };
        let all = run(1, &x);
        assert_eq!(all, run(3, &x));
        for row in [0, 7, 202] {
            assert_eq!(all[row * n..][..n], run(2, &x[row * k..][..k]));
        }
    }
}
