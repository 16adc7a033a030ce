//! From the last hidden state to logits and losses.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::gemm::ROWS;
use lyceum_kernels::loss;
use lyceum_kernels::stream;

use super::norm::Norm;
use crate::error::Result;
use crate::mix::{Vector, Weight};
use crate::ops::{self, Gradient, candle};

/// Values of logits that exist at a time, and some rows' more.
const CHUNK: usize = 1 << 22;

/// The final norm and the head.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) norm: Norm,
    /// The head's matrix `[v, d]`, often the token embedding.
    pub(super) weight: Weight,
    pub(super) bias: Option<Vector>,
    /// Logits become `cap tanh(logit / cap)`.
    pub(super) cap: Option<f64>,
}

impl Head {
    /// Logits `[n, v]` of hidden states `[n, d]`, differentiable.
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let x = self.norm.over(hidden)?;
        let logits = self.weight.product(&x, self.bias.as_ref())?;
        candle::soft_cap(logits, self.cap)
    }

    /// Cross-entropy `[n]` of the tokens `ids` after hidden states `[n, d]`, differentiable. The
    /// logits and their gradient exist only some rows at a time.
    pub(super) fn losses(&self, hidden: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
        let n = ids.len();
        let x = self.norm.over(hidden)?;
        let bias = self.bias.as_ref().and_then(Vector::variable);
        let variables: Vec<Tensor> = self
            .weight
            .variable()
            .into_iter()
            .chain(bias)
            .cloned()
            .collect();
        // With nothing but x to train, its gradient for a loss's own is known right away.
        let early = x.track_op() && variables.is_empty();
        let ones = vec![1.0; n];
        let dlosses = early.then_some(ones.as_slice());
        let (losses, known) = self.some_at_a_time(&ops::values(&x)?, ids, dlosses)?;
        let (head, ids) = (self.clone(), ids.clone());
        ops::fused(&x, &variables, losses, n, move |x, dlosses, _| {
            if early {
                let mut dx = known.dx.clone().unwrap_or_default();
                stream::scale_each(dlosses, &mut dx);
                return Ok(Gradient {
                    dx: Some(dx),
                    params: Vec::new(),
                });
            }
            Ok(head.some_at_a_time(x, &ids, Some(dlosses))?.1)
        })
    }

    /// Losses, and with `dlosses` the gradients of `x`, of the matrix and of the bias.
    fn some_at_a_time(
        &self,
        x: &[f32],
        ids: &[u32],
        dlosses: Option<&[f32]>,
    ) -> Result<(Vec<f32>, Gradient)> {
        let v = self.weight.d_out()?;
        let d = x.len() / ids.len().max(1);
        let rows = (CHUNK / v.max(1)).next_multiple_of(ROWS).max(ROWS);
        let mut losses = vec![0.0; ids.len()];
        let mut dx = Vec::new();
        let mut params: Vec<Vec<f32>> = Vec::new();
        for from in (0..ids.len()).step_by(rows) {
            let own = from..ids.len().min(from + rows);
            let some = &x[own.start * d..own.end * d];
            let mut logits = self.weight.forward(some, self.bias.as_ref(), None, None)?;
            let dlosses = dlosses.map(|all| &all[own.clone()]);
            let (ids, losses) = (&ids[own.clone()], &mut losses[own]);
            loss::of_head(
                &mut logits,
                self.cap.map(|cap| cap as f32),
                ids,
                dlosses,
                losses,
            );
            if dlosses.is_none() {
                continue;
            }
            dx.extend(self.weight.backward(&logits, None)?);
            let mut own = Vec::new();
            own.extend(self.weight.gradient(some, &logits)?);
            if self.bias.as_ref().and_then(Vector::variable).is_some() {
                own.push(stream::columns(&logits, v));
            }
            match params.is_empty() {
                true => params = own,
                false => params
                    .iter_mut()
                    .zip(&own)
                    .for_each(|(sum, own)| stream::add(own, sum)),
            }
        }
        let dx = dlosses.map(|_| dx);
        Ok((losses, Gradient { dx, params }))
    }
}
