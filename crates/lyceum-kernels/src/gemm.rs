//! Matrix products: with frozen matrices prepared once, and plain ones.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::math;

/// Rows of the left matrix per block of work.
const BLOCK: usize = 64;
/// Columns per block when there are few rows.
const COLUMNS: usize = 64;
/// Up to this many rows the product is a few dot products per weight row.
const FEW: usize = 4;

/// A frozen matrix `W` `[n_out, n_in]`.
#[derive(Debug, Clone)]
pub struct Packed {
    weight: Vec<f32>,
    n_out: usize,
    n_in: usize,
    /// Whether products round their input to bf16, as the weight was.
    rounds: bool,
}

fn round(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

math::dispatch! {
    fn few_rows(x: &[f32], weight: &[f32], n_in: usize, y: &mut [f32]) {
        // y [columns, rows]: each weight row is read once for all rows.
        let rows = x.len() / n_in;
        for (y, w) in y.chunks_mut(rows).zip(weight.chunks(n_in)) {
            for (y, x) in y.iter_mut().zip(x.chunks(n_in)) {
                *y = math::dot(x, w);
            }
        }
    }
}

impl Packed {
    /// Keeps `w` `[n_out, n_in]` in f32.
    pub fn f32(w: Vec<f32>, n_out: usize, n_in: usize) -> Self {
        assert_eq!(
            w.len(),
            n_out * n_in,
            "a matrix has as many values as its shape says"
        );
        Packed {
            weight: w,
            n_out,
            n_in,
            rounds: false,
        }
    }

    /// Rounds `w` `[n_out, n_in]` to bf16; inputs of products are rounded too, sums are f32.
    pub fn bf16(w: &[f32], n_out: usize, n_in: usize) -> Self {
        let weight = w.iter().map(|x| round(*x)).collect();
        Packed {
            rounds: true,
            ..Packed::f32(weight, n_out, n_in)
        }
    }

    /// Rows of the matrix.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Columns of the matrix.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// The values, rounded as they are used.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// Copies the rows `ids` into `out` `[ids, n_in]`.
    pub fn rows(&self, ids: &[u32], out: &mut [f32]) {
        for (out, &id) in out.chunks_mut(self.n_in).zip(ids) {
            out.copy_from_slice(&self.weight[id as usize * self.n_in..][..self.n_in]);
        }
    }

    fn input<'a>(&self, x: &'a [f32]) -> std::borrow::Cow<'a, [f32]> {
        match self.rounds {
            true => x.iter().map(|x| round(*x)).collect::<Vec<_>>().into(),
            false => x.into(),
        }
    }

    /// `y = x W^T + bias`: x `[t, n_in]`, bias `[n_out]`, y `[t, n_out]`.
    pub fn forward(&self, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let x = &*self.input(x);
        let t = x.len() / self.n_in;
        if t <= FEW {
            let mut columns = vec![0f32; t * self.n_out];
            if t > 0 {
                columns
                    .par_chunks_mut(COLUMNS * t)
                    .zip(self.weight.par_chunks(COLUMNS * self.n_in))
                    .for_each(|(y, w)| few_rows(x, w, self.n_in, y));
            }
            for (j, column) in columns.chunks(t.max(1)).enumerate() {
                for (i, value) in column.iter().enumerate() {
                    y[i * self.n_out + j] = *value;
                }
            }
        } else {
            matmul(
                x,
                &self.weight,
                (t, self.n_in, self.n_out),
                (false, true),
                y,
            );
        }
        if let Some(bias) = bias {
            for y in y.chunks_mut(self.n_out) {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }

    /// `dx = dy W`: dy `[t, n_out]`, dx `[t, n_in]`.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        let dy = &*self.input(dy);
        let t = dy.len() / self.n_out;
        matmul(
            dy,
            &self.weight,
            (t, self.n_out, self.n_in),
            (false, false),
            dx,
        );
    }
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
            let low = Packed::bf16(packed.weight(), n, k);
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
