//! A decoder's tensors as the kernels compute with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use lyceum_kernels::gemm::{Packed, Precision, Rounding};

use crate::backbone::checkpoint::{Weights, bad, variable};
use crate::error::{Error, Result};
use crate::mix::{Vector, Weight};

/// A source of a decoder's tensors.
#[derive(Clone, Copy)]
pub(in crate::backbone) enum Source<'a> {
    /// Variables, which have the right shapes; products round their factors so.
    Vars(&'a BTreeMap<String, Var>, Rounding),
    /// The frozen tensors of a checkpoint.
    Weights(&'a Weights<'a>, Precision),
}

impl Source<'_> {
    /// The rounding of products' factors.
    pub(super) fn rounding(&self) -> Rounding {
        match self {
            Source::Vars(_, rounding) => *rounding,
            Source::Weights(_, Precision::Bf16) => Rounding::Bf16,
            Source::Weights(_, Precision::F32 | Precision::Int8) => Rounding::F32,
        }
    }

    /// A matrix `[d_out, d_in]`, which lies the other way round when `transposed`.
    pub(super) fn matrix(&self, name: &str, transposed: bool) -> Result<Weight> {
        let (weights, precision) = match *self {
            Source::Vars(vars, rounding) => {
                let matrix = variable(vars, name)?;
                let matrix = if transposed { matrix.t()? } else { matrix };
                return Ok(Weight::Trained(matrix, rounding));
            }
            Source::Weights(weights, precision) => (weights, precision),
        };
        let &[mut n_out, mut n_in] = weights.shape(name)? else {
            return Err(Error::Mismatch(format!("tensor `{name}` is not a matrix")));
        };
        if let (Some((format, bytes)), false) = (weights.blocks(name)?, transposed) {
            let packed = Packed::quantised(format, bytes, n_out, n_in, self.rounding());
            return Ok(Weight::Frozen(Arc::new(packed)));
        }
        // What lies the other way round is transposed as a whole.
        let mut whole = None;
        if transposed {
            whole = Some(transpose(&weights.values(name)?, n_out, n_in));
            (n_out, n_in) = (n_in, n_out);
        }
        let read = |first: usize, rows: &mut [f32]| -> Result<()> {
            match &whole {
                Some(all) => rows.copy_from_slice(&all[first * n_in..][..rows.len()]),
                None => weights.rows(name, first, rows)?,
            }
            let fits = |w: &f32| precision != Precision::Int8 || w.abs() <= Packed::LARGEST_INT8;
            match rows.iter().all(fits) {
                true => Ok(()),
                false => Err(bad(name, "has values too large for int8")),
            }
        };
        let packed = Packed::read(n_out, n_in, precision, read)?;
        Ok(Weight::Frozen(Arc::new(packed)))
    }

    /// A bias or a norm's parameter.
    pub(super) fn vector(&self, name: &str) -> Result<Vector> {
        Ok(match self {
            Source::Vars(vars, _) => Vector::Trained(variable(vars, name)?),
            Source::Weights(weights, _) => Vector::Frozen(weights.values(name)?.into()),
        })
    }

    /// A table whose rows are looked up.
    pub(super) fn table(&self, name: &str) -> Result<Tensor> {
        match self {
            Source::Vars(vars, _) => variable(vars, name),
            Source::Weights(weights, _) => {
                let shape = weights.shape(name)?.to_vec();
                Ok(Tensor::from_vec(
                    weights.values(name)?,
                    shape,
                    &Device::Cpu,
                )?)
            }
        }
    }
}

/// `[n, m]` to `[m, n]`.
fn transpose(values: &[f32], n: usize, m: usize) -> Vec<f32> {
    let column = |j: usize| (0..n).map(move |i| values[i * m + j]);
    (0..m).flat_map(column).collect()
}
