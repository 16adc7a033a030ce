//! The operations of a training step's graph: fused kernels as differentiable operations, and the
//! same functions composed of candle's for other devices.
//!
//! Frozen weights are held by the operation, not by the graph, so no gradient is ever computed
//! for them (candle's own matrix product always computes both).

pub(crate) mod candle;
mod fused;

use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::loss;

pub(crate) use fused::{Gradient, fused, values};

use crate::error::{Error, Result};

/// `-log softmax(logits)[id]` per row: logits `[n, v]`, result `[n]`.
///
/// # Errors
/// When there are not as many ids as rows, or an id is outside the vocabulary.
pub fn cross_entropy(logits: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
    let (n, v) = logits.dims2()?;
    if n != ids.len() || ids.iter().any(|&id| id as usize >= v) {
        return Err(Error::Mismatch(format!(
            "{} target ids for {n} rows over a vocabulary of {v}",
            ids.len()
        )));
    }
    let logits = logits.contiguous()?;
    let mut losses = vec![0.0; n];
    loss::cross_entropy(&values(&logits)?, ids, &mut losses);
    let ids = ids.clone();
    fused(&logits, &[], losses, n, move |logits, dlosses, _| {
        let mut dlogits = vec![0.0; logits.len()];
        loss::cross_entropy_backward(logits, &ids, dlosses, &mut dlogits);
        Ok(Gradient {
            dx: Some(dlogits),
            params: Vec::new(),
        })
    })
}

/// The rows of `table` `[n, d]` at `ids` `[t]`: `[t, d]`.
///
/// # Errors
/// When an id is out of range.
pub fn rows(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    Ok(table.index_select(ids, 0)?)
}
