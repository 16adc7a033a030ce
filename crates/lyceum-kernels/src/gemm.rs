//! Matrix products: with frozen matrices prepared once, and with any.
//!
//! Every element of a product is one chain of multiply-adds over the inner index, whatever the
//! number of rows or threads: a row's result does not depend on its batch. (Over a quantised
//! matrix, few rows and many are summed in another order.)

use std::sync::OnceLock;

use rayon::prelude::*;

use crate::cpu::Level;
use crate::pack::{Panels, Values};
use crate::product;
pub use crate::product::{ROWS, Then};
use crate::quantised::{Bytes, Format, Quantised};
pub use crate::tile::Added;
use crate::view::View;

/// Storage and arithmetic of the frozen matrices. Everything else is f32. Matrices that are
/// quantised on disk stay as they are; products of many rows round by this setting all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Precision {
    /// Weights and products in f32.
    #[default]
    F32,
    /// Weights and the inputs of products rounded to bf16, those of attention where that is faster,
    /// and so keys and values that are kept; sums in f32.
    Bf16,
    /// Weights rounded to eight bits, each 32 along a row to a scale of their own; products in
    /// f32.
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        })
    }
}

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
}

impl Packed {
    /// The largest size of a value that eight bits and a scale can hold.
    pub const LARGEST_INT8: f32 = crate::blocks::Q8_0::LARGEST;

    /// Keeps `w` `[n_out, n_in]` in f32.
    pub fn f32(w: impl AsRef<[f32]>, n_out: usize, n_in: usize) -> Self {
        Packed::new(w.as_ref(), n_out, n_in, false, Level::best())
    }

    /// Rounds `w` `[n_out, n_in]` to bf16; inputs of products are rounded too, sums are f32.
    pub fn bf16(w: &[f32], n_out: usize, n_in: usize) -> Self {
        Packed::new(w, n_out, n_in, true, Level::best())
    }

    /// Rounds `w` `[n_out, n_in]`, of which no value is above [`Packed::LARGEST_INT8`], to eight
    /// bits, each 32 along a row to a scale of their own (ggml's `Q8_0`); products are in f32.
    pub fn int8(w: &[f32], n_out: usize, n_in: usize) -> Self {
        Packed(Kind::Quantised(Quantised::int8(w, n_out, n_in)))
    }

    /// Packs a matrix in panels as its rows arrive, from several threads: `read` receives the index
    /// of the first row and a buffer to fill. The whole matrix is never in memory.
    pub fn read<E: Send>(
        n_out: usize,
        n_in: usize,
        precision: Precision,
        read: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let halves = match precision {
            Precision::Int8 => {
                let quantised = Quantised::read_int8(n_out, n_in, read)?;
                return Ok(Packed(Kind::Quantised(quantised)));
            }
            Precision::F32 => false,
            Precision::Bf16 => true,
        };
        let level = Level::best();
        Ok(Packed(Kind::Laid(Laid {
            forward: Panels::read(n_in, n_out, level.lanes(), halves, read)?,
            backward: OnceLock::new(),
            level,
        })))
    }

    /// Takes a quantised matrix `[n_out, n_in]`, row after row, as it lies. Values must be finite
    /// ([`Format::finite`]). `rounding` is that of products of many rows; those of few are in f32.
    pub fn quantised(
        format: Format,
        bytes: Bytes,
        n_out: usize,
        n_in: usize,
        rounding: Rounding,
    ) -> Self {
        let quantised = Quantised::new(format, bytes, n_out, n_in, rounding);
        Packed(Kind::Quantised(quantised))
    }

    fn new(w: &[f32], n_out: usize, n_in: usize, halves: bool, level: Level) -> Self {
        assert_eq!(w.len(), n_out * n_in, "as many values as the shape says");
        let matrix = View::whole(w, n_out, n_in).transposed();
        Packed(Kind::Laid(Laid {
            forward: Panels::new(matrix, level.lanes(), halves),
            backward: OnceLock::new(),
            level,
        }))
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
            Kind::Laid(laid) => match &laid.forward.values {
                Values::F32(values) => 4 * values.len(),
                Values::Bf16(words) => 4 * words.len(),
            },
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
        let laid = match &self.0 {
            Kind::Laid(laid) => laid,
            Kind::Quantised(quantised) => return quantised.rows(ids, out),
        };
        out.par_chunks_mut(self.n_in().max(1))
            .zip(ids)
            .for_each(|(out, &id)| {
                for (i, value) in out.iter_mut().enumerate() {
                    *value = laid.forward.at(i, id as usize);
                }
            });
    }

    /// `x W^T + added`: x `[t, n_in]`, result `[t, n_out]`.
    pub fn forward(&self, x: &[f32], added: Added<'_>) -> Vec<f32> {
        self.forward_then(x, added, None)
    }

    /// [`Packed::forward`], and `then` done with all rows, some at a time.
    pub fn forward_then(&self, x: &[f32], added: Added<'_>, then: Option<Then<'_>>) -> Vec<f32> {
        let x = of_width(x, self.n_in());
        match &self.0 {
            Kind::Laid(laid) => product::product_then(laid.level, x, &laid.forward, added, then),
            Kind::Quantised(quantised) => done(quantised.forward(x, added), self.n_out(), then),
        }
    }

    /// `dy W`: dy `[t, n_out]`, result `[t, n_in]`. The first call lays the matrix out for it,
    /// unless it is quantised.
    pub fn backward(&self, dy: &[f32]) -> Vec<f32> {
        self.backward_then(dy, None)
    }

    /// [`Packed::backward`], and `then` done with all rows, some at a time.
    pub fn backward_then(&self, dy: &[f32], then: Option<Then<'_>>) -> Vec<f32> {
        let dy = of_width(dy, self.n_out());
        match &self.0 {
            Kind::Laid(laid) => {
                let panels = laid.backward.get_or_init(|| laid.forward.transposed());
                product::product_then(laid.level, dy, panels, Added::default(), then)
            }
            Kind::Quantised(quantised) => done(quantised.backward(dy), self.n_in(), then),
        }
    }
}

/// `then` done with the rows of `y` `[t, width]`, which is returned.
pub fn done(mut y: Vec<f32>, width: usize, then: Option<Then<'_>>) -> Vec<f32> {
    if let Some(then) = then {
        let rows = y.par_chunks_mut(ROWS * width.max(1)).enumerate();
        rows.for_each(|(i, rows)| then(i * ROWS, rows));
    }
    y
}

/// Rows of `width` values.
fn of_width(x: &[f32], width: usize) -> View<'_> {
    let t = x.len().checked_div(width).unwrap_or(0);
    assert_eq!(x.len(), t * width, "whole rows");
    View::whole(x, t, width)
}

/// Returns `true` if `level` multiplies a small matrix like the portable one.
pub(crate) fn agrees(level: Level) -> bool {
    let (t, k, n) = (29, 37, 71);
    let value = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
    let x: Vec<f32> = (0..t * k).map(value).collect();
    let w: Vec<f32> = (0..n * k).map(|i| value(3 * i + 1)).collect();
    [false, true].into_iter().all(|halves| {
        let run = |level| Packed::new(&w, n, k, halves, level).forward(&x, Added::default());
        let (got, want) = (run(level), run(Level::Portable));
        got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-4)
    })
}

/// Rounding of a product's factors; sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Not at all.
    F32,
    /// To bf16.
    Bf16,
}

/// Shapes of the factors of [`matmul`].
#[derive(Debug, Clone, Copy)]
pub struct MatmulShape {
    /// Rows of the result.
    pub m: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// `true` if `a` is `[k, m]`, not `[m, k]`.
    pub a_transposed: bool,
    /// `true` if `b` is `[n, k]`, not `[k, n]`.
    pub b_transposed: bool,
}

impl MatmulShape {
    /// Of `a` `[m, k]` and `b` `[k, n]`.
    pub fn new(m: usize, k: usize, n: usize) -> Self {
        MatmulShape {
            m,
            k,
            n,
            a_transposed: false,
            b_transposed: false,
        }
    }
}

/// `a b`, each transposed where `shape` says so; the result is `[m, n]`.
pub fn matmul(a: &[f32], b: &[f32], shape: MatmulShape, rounding: Rounding) -> Vec<f32> {
    let MatmulShape {
        m,
        k,
        n,
        a_transposed,
        b_transposed,
    } = shape;
    assert!(a.len() == m * k && b.len() == k * n, "shapes must agree");
    let view = |values, rows, columns, transposed| match transposed {
        true => View::whole(values, columns, rows).transposed(),
        false => View::whole(values, rows, columns),
    };
    let level = Level::best();
    let b = view(b, k, n, b_transposed);
    let panels = Panels::new(b, level.lanes(), rounding == Rounding::Bf16);
    let a = view(a, m, k, a_transposed);
    product::product(level, a, &panels, Added::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::values;

    #[test]
    fn matrices_read_some_rows_at_a_time_are_the_same() {
        for (n, k) in [(1, 1), (70, 33), (300, 64)] {
            let w = values(n * k, 9);
            let read = |first: usize, rows: &mut [f32]| {
                rows.copy_from_slice(&w[first * k..][..rows.len()]);
                Ok::<(), String>(())
            };
            for (precision, want) in [
                (Precision::F32, Packed::f32(&w, n, k)),
                (Precision::Bf16, Packed::bf16(&w, n, k)),
                (Precision::Int8, Packed::int8(&w, n, k)),
            ] {
                let got = Packed::read(n, k, precision, read).unwrap();
                assert_eq!(got.weight(), want.weight(), "{precision:?} {n} {k}");
                let x = values(2 * k, 10);
                let product = |by: &Packed| by.forward(&x, Added::default());
                assert_eq!(product(&got), product(&want), "{precision:?} {n} {k}");
                // What is wrong with any row is what comes back.
                let bad = |first: usize, rows: &mut [f32]| match first + rows.len() / k == n {
                    true => Err("the last row"),
                    false => Ok(()),
                };
                assert_eq!(
                    Packed::read(n, k, precision, bad).unwrap_err(),
                    "the last row"
                );
            }
        }
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
                let shape = MatmulShape {
                    a_transposed: flags.0,
                    b_transposed: flags.1,
                    ..MatmulShape::new(m, k, n)
                };
                let out = matmul(&left, &right, shape, Rounding::F32);
                close(&out, &want, 1e-4);
                let out = matmul(&left, &right, shape, Rounding::Bf16);
                close(&out, &want, 0.05);
            }
            let packed = Packed::f32(transpose(&b, k, n), n, k);
            let bias = values(n, 3);
            let added = Added {
                bias: Some(&bias),
                rows: None,
            };
            let out = packed.forward(&a, added);
            let biased: Vec<f32> = want
                .iter()
                .enumerate()
                .map(|(i, y)| y + bias[i % n])
                .collect();
            close(&out, &biased, 1e-4);
            let dy = values(m * n, 4);
            let dx = packed.backward(&dy);
            close(&dx, &naive(&dy, &transpose(&b, k, n), (m, n, k)), 1e-4);
            let low = Packed::bf16(&packed.weight(), n, k);
            close(&low.forward(&a, Added::default()), &want, 0.05);
        }
    }
}
