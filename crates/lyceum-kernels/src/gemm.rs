//! Matrix products: with frozen matrices prepared once, and plain ones.
//!
//! Every element of a packed product is one chain of multiply-adds over the inner index, whatever
//! the number of rows or threads: a row's result does not depend on its batch.

use std::sync::OnceLock;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::cpu::Level;
use crate::pack::{Panels, Values};
use crate::quantised::{Bytes, Format, Quantised};
use crate::{math, product};

/// Rows of the left matrix per block of work.
const BLOCK: usize = 64;
/// Values per block of elementwise work.
const VALUES: usize = 16_384;

/// A frozen matrix `W` `[n_out, n_in]`, ready for `x W^T` and `dy W`.
#[derive(Debug, Clone)]
pub struct Packed(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Laid(Laid),
    Quantised(Quantised),
}

/// Values in panels for `x W^T` and, once asked for, for `dy W`.
#[derive(Debug, Clone)]
struct Laid {
    forward: Panels,
    backward: OnceLock<Panels>,
    level: Level,
    /// Whether weights are bf16, and products round their input to bf16 too.
    rounds: bool,
}

math::dispatch! {
    fn round(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            // To nearest, ties to even; NaN stays NaN.
            let bits = x.to_bits();
            let up = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
            let quiet = (bits | 0x0040_0000) & 0xffff_0000;
            *y = f32::from_bits(if x.is_nan() { quiet } else { up });
        }
    }
}

/// What a product adds to its result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Added<'a> {
    /// The same `[n]` for every row.
    pub bias: Option<&'a [f32]>,
    /// Values `[t, n]`, such as a residual stream.
    pub rows: Option<&'a [f32]>,
}

impl Packed {
    /// Keeps `w` `[n_out, n_in]` in f32.
    pub fn f32(w: impl AsRef<[f32]>, n_out: usize, n_in: usize) -> Self {
        Packed::new(w.as_ref(), (n_out, n_in), false, Level::best())
    }

    /// Rounds `w` `[n_out, n_in]` to bf16; inputs of products are rounded too, sums are f32.
    pub fn bf16(w: &[f32], n_out: usize, n_in: usize) -> Self {
        Packed::new(w, (n_out, n_in), true, Level::best())
    }

    /// Rounds `w` `[n_out, n_in]`, of which no value is above [`Packed::LARGEST_INT8`], to eight
    /// bits, each 32 along a row to a scale of their own (ggml's `Q8_0`); products are in f32.
    pub fn int8(w: &[f32], n_out: usize, n_in: usize) -> Self {
        Packed(Kind::Quantised(Quantised::int8(w, (n_out, n_in))))
    }

    /// The largest size of a value that eight bits and a scale can hold.
    pub const LARGEST_INT8: f32 = crate::blocks::Q8_0::LARGEST;

    /// Takes a quantised matrix `[n_out, n_in]`, row after row, as it lies; products are in f32.
    /// Values must be finite ([`Format::finite`]).
    pub fn quantised(format: Format, bytes: Bytes, n_out: usize, n_in: usize) -> Self {
        Packed(Kind::Quantised(Quantised::new(
            format,
            bytes,
            (n_out, n_in),
        )))
    }

    fn new(w: &[f32], shape: (usize, usize), rounds: bool, level: Level) -> Self {
        Packed(Kind::Laid(Laid::new(w, shape, rounds, level)))
    }

    /// Rows of the matrix.
    pub fn n_out(&self) -> usize {
        match &self.0 {
            Kind::Laid(laid) => laid.forward.n,
            Kind::Quantised(quantised) => quantised.n_out,
        }
    }

    /// Columns of the matrix.
    pub fn n_in(&self) -> usize {
        match &self.0 {
            Kind::Laid(laid) => laid.forward.k,
            Kind::Quantised(quantised) => quantised.n_in,
        }
    }

    /// Bytes of one layout.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kind::Laid(laid) => laid.bytes(),
            Kind::Quantised(quantised) => quantised.bytes(),
        }
    }

    /// The values `[n_out, n_in]`, rounded as they are used.
    pub fn weight(&self) -> Vec<f32> {
        let ids: Vec<u32> = (0..self.n_out() as u32).collect();
        let mut all = vec![0.0; self.n_out() * self.n_in()];
        self.rows(&ids, &mut all);
        all
    }

    /// Copies the rows `ids` into `out` `[ids, n_in]`.
    pub fn rows(&self, ids: &[u32], out: &mut [f32]) {
        match &self.0 {
            Kind::Laid(laid) => laid.rows(ids, out),
            Kind::Quantised(quantised) => quantised.rows(ids, out),
        }
    }

    /// `y = x W^T + bias`: x `[t, n_in]`, bias `[n_out]`, y `[t, n_out]`.
    pub fn forward(&self, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        self.forward_onto(x, Added { bias, rows: None }, y);
    }

    /// `y = x W^T + added`: x `[t, n_in]`, y `[t, n_out]`.
    pub fn forward_onto(&self, x: &[f32], added: Added<'_>, y: &mut [f32]) {
        match &self.0 {
            Kind::Laid(laid) => laid.forward_onto(x, added, y),
            Kind::Quantised(quantised) => quantised.forward(x, added, y),
        }
    }

    /// `dx = dy W`: dy `[t, n_out]`, dx `[t, n_in]`. The first call lays the matrix out for it,
    /// unless it is quantised.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        match &self.0 {
            Kind::Laid(laid) => laid.backward(dy, dx),
            Kind::Quantised(quantised) => quantised.backward(dy, dx),
        }
    }
}

impl Laid {
    fn new(w: &[f32], (n_out, n_in): (usize, usize), rounds: bool, level: Level) -> Self {
        let count = n_out * n_in;
        assert_eq!(w.len(), count, "as many values as the shape says");
        let at = |row: usize, column: usize| w[column * n_in + row];
        Laid {
            forward: Panels::new((n_in, n_out), level.lanes(), rounds, at),
            backward: OnceLock::new(),
            level,
            rounds,
        }
    }

    fn bytes(&self) -> usize {
        match &self.forward.values {
            Values::F32(values) => 4 * values.len(),
            Values::Bf16(words) => 4 * words.len(),
        }
    }

    fn rows(&self, ids: &[u32], out: &mut [f32]) {
        out.par_chunks_mut(self.forward.k.max(1))
            .zip(ids)
            .for_each(|(out, &id)| {
                for (i, value) in out.iter_mut().enumerate() {
                    *value = self.forward.at(i, id as usize);
                }
            });
    }

    fn input<'a>(&self, x: &'a [f32]) -> std::borrow::Cow<'a, [f32]> {
        if !self.rounds {
            return x.into();
        }
        let mut rounded = vec![0.0; x.len()];
        let blocks = rounded.par_chunks_mut(VALUES).zip(x.par_chunks(VALUES));
        blocks.for_each(|(y, x)| round(x, y));
        rounded.into()
    }

    fn forward_onto(&self, x: &[f32], added: Added<'_>, y: &mut [f32]) {
        product::product(self.level, &self.input(x), &self.forward, added, y);
    }

    fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        let panels = self.backward.get_or_init(|| {
            let at = |row: usize, column: usize| self.forward.at(column, row);
            let shape = (self.forward.n, self.forward.k);
            Panels::new(shape, self.level.lanes(), self.rounds, at)
        });
        product::product(self.level, &self.input(dy), panels, Added::default(), dx);
    }
}

/// Whether `level` multiplies a small matrix as the portable one does.
pub(crate) fn agrees(level: Level) -> bool {
    let (t, k, n) = (29, 37, 71);
    let value = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
    let x: Vec<f32> = (0..t * k).map(value).collect();
    let w: Vec<f32> = (0..n * k).map(|i| value(3 * i + 1)).collect();
    [false, true].into_iter().all(|rounds| {
        let run = |level| {
            let packed = Packed::new(&w, (n, k), rounds, level);
            let mut y = vec![0.0; t * n];
            packed.forward(&x, None, &mut y);
            y
        };
        let (got, want) = (run(level), run(Level::Portable));
        got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-4)
    })
}

/// `out = a b`, each transposed if asked: `(m, k, n)` are the sizes after transposition, so `a` is
/// `[m, k]` (or `[k, m]`), `b` `[k, n]` (or `[n, k]`), `out` `[m, n]`.
pub fn matmul(
    a: &[f32],
    b: &[f32],
    (m, k, n): (usize, usize, usize),
    (a_transposed, b_transposed): (bool, bool),
    out: &mut [f32],
) {
    assert!(
        a.len() == m * k && b.len() == k * n && out.len() == m * n,
        "shapes must agree"
    );
    let (a_row, a_column) = if a_transposed {
        (1, m as isize)
    } else {
        (k as isize, 1)
    };
    let (b_row, b_column) = if b_transposed {
        (1, k as isize)
    } else {
        (n as isize, 1)
    };
    if m == 0 || n == 0 {
        return;
    }
    out.par_chunks_mut(BLOCK * n)
        .enumerate()
        .for_each(|(block, out)| {
            let rows = out.len() / n;
            let start = block * BLOCK;
            let a = if a_transposed {
                &a[start..]
            } else {
                &a[start * k..]
            };
            // SAFETY: the strides describe `rows` x k values inside `a`, k x n inside `b` and
            // rows x n inside `out`, as asserted above; `out` is not aliased.
            unsafe {
                gemm::gemm(
                    rows,
                    n,
                    k,
                    out.as_mut_ptr(),
                    1,
                    n as isize,
                    false,
                    a.as_ptr(),
                    a_column,
                    a_row,
                    b.as_ptr(),
                    b_column,
                    b_row,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let next = |s: &mut u32| {
            *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*s >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..n).scan(seed, |s, _| next(s)).collect()
    }

    fn naive(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f32> {
        let at = |i: usize, j: usize| -> f64 {
            (0..k)
                .map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j]))
                .sum()
        };
        (0..m * n).map(|x| at(x / n, x % n) as f32).collect()
    }

    fn transpose(a: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns)
            .map(|x| a[(x % rows) * columns + x / rows])
            .collect()
    }

    fn close(a: &[f32], b: &[f32], tolerance: f32) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "{x} {y}");
        }
    }

    #[test]
    fn products_equal_the_plain_sum() {
        for (m, k, n) in [
            (1, 5, 3),
            (3, 17, 65),
            (4, 64, 130),
            (65, 33, 7),
            (130, 16, 16),
        ] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let want = naive(&a, &b, (m, k, n));
            for flags in [(false, false), (true, false), (false, true), (true, true)] {
                let left = if flags.0 {
                    transpose(&a, m, k)
                } else {
                    a.clone()
                };
                let right = if flags.1 {
                    transpose(&b, k, n)
                } else {
                    b.clone()
                };
                let mut out = vec![9.0; m * n];
                matmul(&left, &right, (m, k, n), flags, &mut out);
                close(&out, &want, 1e-4);
            }
            let packed = Packed::f32(transpose(&b, k, n), n, k);
            let bias = values(n, 3);
            let mut out = vec![0.0; m * n];
            packed.forward(&a, Some(&bias), &mut out);
            let biased: Vec<f32> = want
                .iter()
                .enumerate()
                .map(|(i, y)| y + bias[i % n])
                .collect();
            close(&out, &biased, 1e-4);
            let dy = values(m * n, 4);
            let mut dx = vec![0.0; m * k];
            packed.backward(&dy, &mut dx);
            close(&dx, &naive(&dy, &transpose(&b, k, n), (m, n, k)), 1e-4);
            let low = Packed::bf16(&packed.weight(), n, k);
            low.forward(&a, None, &mut out);
            close(&out, &want, 0.05);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (a, packed) = (values(200 * 48, 1), Packed::f32(values(96 * 48, 2), 96, 48));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut y = vec![0.0; 200 * 96];
            pool.install(|| packed.forward(&a, None, &mut y));
            y
        };
        assert_eq!(run(1), run(2));
    }
}
