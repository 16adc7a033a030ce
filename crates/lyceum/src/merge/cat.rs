//! An exact merge by outputs: all A's stacked, all B's side by side with weight and scale in them.
//!
//! `sum_e w_e s_e B_e A_e x = [w_1 s_1 B_1 .. w_n s_n B_n] [A_1; ..; A_n] x`.

use candle_core::Tensor;

use crate::error::{Context, Result};
use crate::lora::Lora;

/// The concatenation of adapters of one linear; its scale is 1.
pub(super) fn merge(terms: &[(&Lora, f64)]) -> Result<Lora> {
    let a: Vec<&Tensor> = terms.iter().map(|(lora, _)| &lora.a).collect();
    let b: Vec<Tensor> = { terms.iter() }
        .map(|(lora, weight)| Ok((&lora.b * (weight * lora.scale))?))
        .collect::<Result<_>>()?;
    let stacked = || -> Result<_> { Ok((Tensor::cat(&a, 0)?, Tensor::cat(&b, 1)?)) };
    let (a, b) = stacked().context(|| "the experts' widths differ".to_owned())?;
    Lora::new(a, b, 1.0)
}
