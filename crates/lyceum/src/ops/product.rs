//! Products with matrices of a model: frozen, or trained.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use lyceum_kernels::gemm::{Added, Packed, Rounding, matmul};

use super::{Op, f32s, rows_of, slice};

/// `y = x W^T + bias` with frozen `W`; x `[t, d_in]`, y `[t, d_out]`.
#[derive(Clone)]
struct Product {
    weight: Arc<Packed>,
    bias: Option<Arc<[f32]>>,
}

/// `dx = dy W`.
struct ProductBack(Arc<Packed>);

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "frozen-product"
    }
    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Op<(CpuStorage, Shape)> {
        let (t, _) = rows_of(layout)?;
        let added = Added {
            bias: self.bias.as_deref(),
            rows: None,
        };
        let y = self.weight.forward(slice(x, layout)?, added);
        Ok(f32s(y, (t, self.weight.n_out())))
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Op<Option<Tensor>> {
        Ok(Some(
            dy.contiguous()?
                .apply_op1_no_bwd(&ProductBack(self.weight.clone()))?,
        ))
    }
}

impl CustomOp1 for ProductBack {
    fn name(&self) -> &'static str {
        "frozen-product-backward"
    }
    fn cpu_fwd(&self, dy: &CpuStorage, layout: &Layout) -> Op<(CpuStorage, Shape)> {
        let (t, _) = rows_of(layout)?;
        let dx = self.0.backward(slice(dy, layout)?);
        Ok(f32s(dx, (t, self.0.n_in())))
    }
}

/// `x W^T + bias` for a frozen matrix; x `[t, d_in]`, result `[t, d_out]`. Only `dx` is computed
/// in the backward pass.
///
/// # Errors
/// When `x` is not `[t, d_in]` in f32.
pub fn product(x: &Tensor, weight: &Arc<Packed>, bias: Option<&Arc<[f32]>>) -> Op<Tensor> {
    if x.dims2()?.1 != weight.n_in() {
        candle_core::bail!(
            "a matrix of {} inputs got rows of {}",
            weight.n_in(),
            x.dims2()?.1
        );
    }
    x.contiguous()?.apply_op1(Product {
        weight: weight.clone(),
        bias: bias.cloned(),
    })
}

/// A product of two matrices, each transposed if asked.
#[derive(Clone, Copy)]
struct Plain {
    transposed: (bool, bool),
    rounding: Rounding,
}

impl Plain {
    fn of(self, a: &Tensor, b: &Tensor) -> Op<Tensor> {
        a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &self)
    }
}

impl CustomOp2 for Plain {
    fn name(&self) -> &'static str {
        "product"
    }
    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let after = |layout: &Layout, turned| {
            rows_of(layout).map(|(rows, columns)| match turned {
                true => (columns, rows),
                false => (rows, columns),
            })
        };
        let (m, k) = after(a_layout, self.transposed.0)?;
        let (inner, n) = after(b_layout, self.transposed.1)?;
        if k != inner {
            candle_core::bail!("a product of [{m}, {k}] and [{inner}, {n}]");
        }
        let (a, b) = (slice(a, a_layout)?, slice(b, b_layout)?);
        let y = matmul(a, b, (m, k, n), self.transposed, self.rounding);
        Ok(f32s(y, (m, n)))
    }
}

/// `x W^T` with a trained `W`: gradients for both.
struct Trained(Rounding);

impl CustomOp2 for Trained {
    fn name(&self) -> &'static str {
        "trained-product"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let forward = Plain {
            transposed: (false, true),
            rounding: self.0,
        };
        forward.cpu_fwd(x, x_layout, w, w_layout)
    }
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Op<(Option<Tensor>, Option<Tensor>)> {
        let product = |transposed| Plain {
            transposed,
            rounding: self.0,
        };
        let dx = product((false, false)).of(dy, w)?;
        let dw = product((true, false)).of(dy, x)?;
        Ok((Some(dx), Some(dw)))
    }
}

/// `x W^T` for a variable `w` `[d_out, d_in]`; x `[t, d_in]`, result `[t, d_out]`. Under
/// [`Rounding::Bf16`] the factors of all three products are rounded, sums and gradients are f32.
///
/// # Errors
/// When the widths do not agree.
pub fn trained_product(x: &Tensor, w: &Tensor, rounding: Rounding) -> Op<Tensor> {
    x.contiguous()?
        .apply_op2(&w.contiguous()?, Trained(rounding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use candle_core::{Device, Var};

    /// The three matrices of a product and its backward pass, by candle or by `product`.
    fn all(product: impl Fn(&Tensor, &Tensor) -> Op<Tensor>) -> Vec<Vec<Vec<f32>>> {
        let mut rng = Rng::new(7);
        let mut make = |rows: usize, columns| {
            let values = rng.normal(rows * columns, 1.0);
            Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
        };
        let x = Var::from_tensor(&make(37, 29)).unwrap();
        let w = Var::from_tensor(&make(45, 29)).unwrap();
        let y = product(&x, &w).unwrap();
        let loss = y.mul(&make(37, 45)).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        [&y, gradients.get(&x).unwrap(), gradients.get(&w).unwrap()]
            .map(|t| t.to_vec2::<f32>().unwrap())
            .into()
    }

    #[test]
    fn trained_products_equal_candles_forward_and_backward() {
        let want = all(|x, w| x.matmul(&w.t()?));
        for (rounding, bound) in [(Rounding::F32, 2e-5), (Rounding::Bf16, 0.2)] {
            let got = all(|x, w| trained_product(x, w, rounding));
            let pairs = got.iter().flatten().flatten();
            for (a, b) in pairs.zip(want.iter().flatten().flatten()) {
                assert!((a - b).abs() < bound, "{rounding:?} {a} {b}");
            }
        }
    }
}
