//! The base's own parameters: matrices and vectors, frozen or trained.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::gemm::{self, Added, MatmulShape, Packed, Rounding, Then};
use lyceum_kernels::stream;

use crate::error::{Error, Result};
use crate::ops::{self, Gradient};

/// The matrix of a linear layer.
#[derive(Clone)]
pub(crate) enum Weight {
    /// Prepared once; never trained.
    Frozen(Arc<Packed>),
    /// `[d_out, d_in]`, a variable under full training, and how products round it.
    Trained(Tensor, Rounding),
}

impl Weight {
    /// `x W^T + bias` for a tensor `x` `[t, d_in]`, differentiable.
    ///
    /// # Errors
    /// When `x` is not rows of `d_in` values.
    pub(crate) fn product(&self, x: &Tensor, bias: Option<&Vector>) -> Result<Tensor> {
        let x = x.contiguous()?;
        let t = x.dims2()?.0;
        let y = self.forward(&ops::values(&x)?, bias, None, None)?;
        let bias = bias.and_then(Vector::variable).cloned();
        let variables: Vec<Tensor> = self
            .variable()
            .cloned()
            .into_iter()
            .chain(bias.clone())
            .collect();
        let (weight, d_out) = (self.clone(), self.shape()?.0);
        ops::fused(&x, &variables, y, (t, d_out), move |x, dy, wants_dx| {
            let mut params = Vec::new();
            params.extend(weight.gradient(x, dy)?);
            params.extend(bias.as_ref().map(|_| stream::columns(dy, d_out)));
            let dx = if wants_dx {
                Some(weight.backward(dy, None)?)
            } else {
                None
            };
            Ok(Gradient { dx, params })
        })
    }

    pub(super) fn shape(&self) -> Result<(usize, usize)> {
        Ok(match self {
            Weight::Frozen(w) => (w.n_out(), w.n_in()),
            Weight::Trained(w, _) => w.dims2()?,
        })
    }

    /// Rows of the matrix.
    pub(crate) fn d_out(&self) -> Result<usize> {
        Ok(self.shape()?.0)
    }

    /// The variable, if this is one.
    pub(crate) fn variable(&self) -> Option<&Tensor> {
        match self {
            Weight::Frozen(_) => None,
            Weight::Trained(w, _) => Some(w),
        }
    }

    /// `x W^T + bias + rows`: x `[t, d_in]`, result and rows `[t, d_out]`; `then` is done with all
    /// rows of the result.
    ///
    /// # Errors
    /// When `x` is not rows of `d_in` values.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        bias: Option<&Vector>,
        rows: Option<&[f32]>,
        then: Option<Then<'_>>,
    ) -> Result<Vec<f32>> {
        let (d_out, d_in) = self.shape()?;
        let t = x.len() / d_in.max(1);
        if x.len() != t * d_in || rows.is_some_and(|rows| rows.len() != t * d_out) {
            let text = format!("a matrix of {d_in} inputs got {} values", x.len());
            return Err(Error::Mismatch(text));
        }
        let bias = bias.map(Vector::values).transpose()?;
        let bias = bias.as_deref();
        match self {
            Weight::Frozen(w) => Ok(w.forward_then(x, Added { bias, rows }, then)),
            Weight::Trained(w, rounding) => {
                let w = w.contiguous()?;
                let shape = MatmulShape {
                    b_transposed: true,
                    ..MatmulShape::new(t, d_in, d_out)
                };
                let mut y = gemm::matmul(x, &ops::values(&w)?, shape, *rounding);
                if let Some(bias) = bias {
                    stream::add_to_each(bias, &mut y);
                }
                if let Some(rows) = rows {
                    stream::add(rows, &mut y);
                }
                Ok(gemm::done(y, d_out, then))
            }
        }
    }

    /// `dy W`: dy `[t, d_out]`, result `[t, d_in]`, with all rows of which `then` is done.
    pub(crate) fn backward(&self, dy: &[f32], then: Option<Then<'_>>) -> Result<Vec<f32>> {
        let (d_out, d_in) = self.shape()?;
        let t = dy.len() / d_out.max(1);
        match self {
            Weight::Frozen(w) => Ok(w.backward_then(dy, then)),
            Weight::Trained(w, rounding) => {
                let w = w.contiguous()?;
                let shape = MatmulShape::new(t, d_out, d_in);
                let dx = gemm::matmul(dy, &ops::values(&w)?, shape, *rounding);
                Ok(gemm::done(dx, d_in, then))
            }
        }
    }

    /// `dy^T x`, the gradient of a trained matrix: x `[t, d_in]`, dy `[t, d_out]`.
    pub(crate) fn gradient(&self, x: &[f32], dy: &[f32]) -> Result<Option<Vec<f32>>> {
        let (d_out, d_in) = self.shape()?;
        let t = dy.len() / d_out.max(1);
        let shape = MatmulShape {
            a_transposed: true,
            ..MatmulShape::new(d_out, t, d_in)
        };
        Ok(match self {
            Weight::Trained(_, rounding) => Some(gemm::matmul(dy, x, shape, *rounding)),
            Weight::Frozen(_) => None,
        })
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Weight::Frozen(w) => write!(f, "Frozen[{}, {}]", w.n_out(), w.n_in()),
            Weight::Trained(w, _) => write!(f, "Trained{:?}", w.dims()),
        }
    }
}

/// A bias or a norm's parameter.
#[derive(Debug, Clone)]
pub(crate) enum Vector {
    /// Never trained.
    Frozen(Arc<[f32]>),
    /// A variable.
    Trained(Tensor),
}

impl Vector {
    /// The values `[d]`.
    pub(crate) fn values(&self) -> Result<Cow<'_, [f32]>> {
        Ok(match self {
            Vector::Frozen(v) => Cow::Borrowed(v),
            Vector::Trained(v) => Cow::Owned(v.to_vec1()?),
        })
    }

    /// The variable, if this is one.
    pub(crate) fn variable(&self) -> Option<&Tensor> {
        match self {
            Vector::Frozen(_) => None,
            Vector::Trained(v) => Some(v),
        }
    }
}
