//! The exact weighted sum of the experts' updates, at the least rank that holds it, or cut to a
//! smaller one by a truncated singular value decomposition.
//!
//! `sum_e w_e s_e B_e A_e = B A` with the B's side by side and the A's stacked. With
//! `B = Qb Rb` and `A^T = Qa Ra` its singular values are those of the small `Rb Ra^T`; no matrix of
//! the base's widths squared is ever made. All of it is f64 until the factors are written.

use candle_core::{Device, Tensor};
use faer::Mat;

use crate::error::{Error, Result};
use crate::lora::Lora;

/// The sum at one site, and the squares of the singular values it has and those it lacks.
pub(super) struct Sum {
    pub(super) lora: Lora,
    pub(super) whole: f64,
    pub(super) lost: f64,
}

/// `sum_i w_i s_i B_i A_i` of adapters of one linear, as factors with scale 1; of at most `rank`
/// directions, the largest, when a rank is given.
///
/// # Errors
/// When there is no term, their widths differ, or a value is not finite.
pub(super) fn sum(terms: &[(&Lora, f64)], rank: Option<usize>) -> Result<Sum> {
    let (first, _) = terms.first().ok_or_else(|| Error::invalid("no adapter"))?;
    let (d_out, d_in) = (first.d_out(), first.d_in());
    if terms
        .iter()
        .any(|(l, _)| (l.d_out(), l.d_in()) != (d_out, d_in))
    {
        return Err(Error::Mismatch("the experts' widths differ".into()));
    }
    let terms: Vec<&(&Lora, f64)> = terms.iter().filter(|(_, w)| *w != 0.0).collect();
    let small = |lora: &Lora| rank.is_none_or(|rank| lora.rank() <= rank);
    match terms[..] {
        [] => {
            let zeros = |shape: (usize, usize)| Tensor::zeros(shape, first.a.dtype(), &Device::Cpu);
            let lora = Lora::new(zeros((1, d_in))?, zeros((d_out, 1))?, 1.0)?;
            uncut(lora)
        }
        // One adapter stays what it is, its weight and scale in B.
        [(lora, weight)] if small(lora) => {
            let b = (&lora.b * (weight * lora.scale))?;
            uncut(Lora::new(lora.a.clone(), b, 1.0)?)
        }
        _ => {
            let (a_t, b) = stacked(&terms)?;
            cut(&a_t, &b, rank)
        }
    }
}

/// A sum of which nothing is lost.
fn uncut(lora: Lora) -> Result<Sum> {
    let whole = lora.norm()?.powi(2);
    Ok(Sum {
        lora,
        whole,
        lost: 0.0,
    })
}

/// `A^T` `[d_in, R]` and `B` `[d_out, R]` of all terms, weights and scales in B.
fn stacked(terms: &[&(&Lora, f64)]) -> Result<(Mat<f64>, Mat<f64>)> {
    let (mut a_t, mut b) = (Vec::new(), Vec::new());
    for (lora, weight) in terms {
        let factor = weight * lora.scale;
        a_t.extend(lora.a.to_vec2::<f32>()?);
        let columns = lora.b.t()?.to_vec2::<f32>()?;
        b.extend(columns.into_iter().map(|column| (column, factor)));
    }
    let (d_in, d_out) = (a_t[0].len(), b[0].0.len());
    let a_t = Mat::from_fn(d_in, a_t.len(), |i, j| f64::from(a_t[j][i]));
    let b = Mat::from_fn(d_out, b.len(), |i, j| f64::from(b[j].0[i]) * b[j].1);
    Ok((a_t, b))
}

/// The directions of `B A` that are there, the largest `rank` of them, as balanced factors.
fn cut(a_t: &Mat<f64>, b: &Mat<f64>, rank: Option<usize>) -> Result<Sum> {
    let ((qa, ra), (qb, rb)) = (thin(a_t), thin(b));
    let core = &rb * ra.transpose();
    let bad = |e| Error::invalid(format!("the singular value decomposition failed: {e:?}"));
    let svd = core.thin_svd().map_err(bad)?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::invalid("the sum holds values that are not finite"));
    }
    // Below this a singular value is rounding of the terms, which may cancel.
    let widest = a_t.nrows().max(b.nrows()) as f64;
    let least = f64::EPSILON * widest * ra.norm_l2() * rb.norm_l2();
    let there = values.iter().filter(|value| **value > least).count();
    let kept = there.min(rank.unwrap_or(there)).max(1);
    let factor = |q: &Mat<f64>, vectors: faer::MatRef<'_, f64>| {
        let some = Mat::from_fn(vectors.nrows(), kept, |i, j| {
            let size = if values[j] > least {
                values[j].sqrt()
            } else {
                0.0
            };
            vectors[(i, j)] * size
        });
        q * some
    };
    let (a, b) = (factor(&qa, svd.V()), factor(&qb, svd.U()));
    let tensor = |m: &Mat<f64>| -> Result<Tensor> {
        let rows = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| (i, j)));
        let values: Vec<f32> = rows.map(|at| m[at] as f32).collect();
        Ok(Tensor::from_vec(
            values,
            (m.nrows(), m.ncols()),
            &Device::Cpu,
        )?)
    };
    let squares = |values: &[f64]| values.iter().map(|value| value * value).sum();
    Ok(Sum {
        lora: Lora::new(tensor(&a)?.t()?.contiguous()?, tensor(&b)?, 1.0)?,
        whole: squares(&values[..there]),
        lost: squares(&values[kept.min(there)..there]),
    })
}

/// Thin Q and R.
fn thin(m: &Mat<f64>) -> (Mat<f64>, Mat<f64>) {
    let qr = m.qr();
    (qr.compute_thin_Q(), qr.thin_R().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn lora(seed: u64, rank: usize, scale: f64) -> Lora {
        let mut rng = Rng::new(seed);
        let mut tensor =
            |n, m| Tensor::from_vec(rng.normal(n * m, 1.0), (n, m), &Device::Cpu).unwrap();
        Lora::new(tensor(rank, 9), tensor(7, rank), scale).unwrap()
    }

    fn dense(terms: &[(&Lora, f64)]) -> Tensor {
        let term = |(l, w): &(&Lora, f64)| (l.b.matmul(&l.a).unwrap() * (l.scale * w)).unwrap();
        let all: Vec<Tensor> = terms.iter().map(term).collect();
        Tensor::stack(&all, 0).unwrap().sum(0).unwrap()
    }

    fn size(t: &Tensor) -> f64 {
        let square = t.sqr().unwrap().sum_all().unwrap();
        f64::from(square.to_scalar::<f32>().unwrap()).sqrt()
    }

    #[test]
    fn any_weights_give_the_sum() {
        let (a, b, c) = (lora(1, 2, 0.5), lora(2, 3, 2.0), lora(3, 5, -1.0));
        for weights in [
            [1.0, 1.0, 1.0],
            [-1.0, 2.0, 0.5],
            [0.5, -0.5, 0.0],
            [3.0, 0.0, 0.0],
        ] {
            let terms = [(&a, weights[0]), (&b, weights[1]), (&c, weights[2])];
            let got = sum(&terms, None).unwrap();
            let want = dense(&terms);
            let off = size(&(dense(&[(&got.lora, 1.0)]) - &want).unwrap());
            assert!(off < 2e-6 * size(&want), "{weights:?}: {off}");
            assert_eq!(got.lost, 0.0);
        }
        // Ten directions into seven outputs: no more than seven are needed.
        assert_eq!(
            sum(&[(&a, 1.0), (&b, 1.0), (&c, 1.0)], None)
                .unwrap()
                .lora
                .rank(),
            7
        );
        // What is there twice needs its rank once.
        assert_eq!(sum(&[(&a, 1.0), (&a, 2.0)], None).unwrap().lora.rank(), 2);
    }

    #[test]
    fn what_cancels_is_zero() {
        let a = lora(4, 3, 0.7);
        let got = sum(&[(&a, 1.0), (&a, -1.0)], None).unwrap();
        assert_eq!(
            (got.lora.rank(), size(&dense(&[(&got.lora, 1.0)]))),
            (1, 0.0)
        );
        let got = sum(&[(&a, 0.0)], None).unwrap();
        assert_eq!(
            (got.lora.rank(), size(&dense(&[(&got.lora, 1.0)]))),
            (1, 0.0)
        );
    }

    #[test]
    fn a_cut_is_the_best_of_its_rank_and_says_what_is_lost() {
        let (a, b) = (lora(5, 3, 1.0), lora(6, 3, 1.0));
        let terms = [(&a, 1.0), (&b, -0.5)];
        let want = dense(&terms);
        let mut before = f64::INFINITY;
        for rank in 1..=6 {
            let got = sum(&terms, Some(rank)).unwrap();
            assert_eq!(got.lora.rank(), rank);
            let off = size(&(dense(&[(&got.lora, 1.0)]) - &want).unwrap()) / size(&want);
            let said = (got.lost / got.whole).sqrt();
            assert!((off - said).abs() < 1e-5, "rank {rank}: {off} {said}");
            assert!(off < before);
            before = off;
        }
        assert!(before < 1e-6);
        // One adapter above the rank is cut too.
        assert_eq!(sum(&[(&a, 2.0)], Some(2)).unwrap().lora.rank(), 2);
    }

    #[test]
    fn adapters_of_other_widths_have_no_sum() {
        let a = lora(7, 2, 1.0);
        let other = Lora::new(a.b.t().unwrap(), a.a.t().unwrap(), 1.0).unwrap();
        assert!(sum(&[(&a, 1.0), (&other, 1.0)], None).is_err());
    }
}
