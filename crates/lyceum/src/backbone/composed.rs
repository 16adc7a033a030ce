//! GPT-Neo in candle's own operations, forward and backward: what a GPU trains, where the kernels of
//! the other modules do not run.
//!
//! Unlike everywhere else sequences are padded here, to the longest of a batch: a GPU's time goes
//! into starting operations, and a rectangle needs fewer of them.

use std::collections::BTreeMap;

use candle_core::{D, Device, Tensor, Var};

use super::gpt::{GptNeo, Span};
use crate::error::{Error, Result};
use crate::model::Batch;

/// Far below every score, and still a number.
const UNSEEN: f32 = -1e30;

/// A decoder all of whose weights are variables of one device.
#[derive(Debug)]
pub(crate) struct Composed {
    config: GptNeo,
    weights: BTreeMap<String, Tensor>,
    device: Device,
}

impl Composed {
    /// A decoder of these variables, named as in a Hugging Face folder.
    pub(crate) fn new(config: GptNeo, vars: &BTreeMap<String, Var>, device: &Device) -> Self {
        let weights = vars.iter();
        let weights = weights.map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        Composed {
            config,
            weights: weights.collect(),
            device: device.clone(),
        }
    }

    /// Cross-entropy of the batch's targets, differentiable: one value per position of the padded
    /// batch, 0 where there is no target.
    ///
    /// # Errors
    /// When a weight is missing, a sequence is too long or the device fails.
    pub(crate) fn losses(&self, batch: &Batch) -> Result<Tensor> {
        let padded = Padded::new(batch, &self.device)?;
        let (n, longest) = padded.shape;
        let d = self.config.hidden_size;
        let tokens = self.weight("transformer.wte.weight")?;
        let places = self
            .weight("transformer.wpe.weight")?
            .narrow(0, 0, longest)?;
        let mut x = tokens
            .index_select(&padded.ids, 0)?
            .reshape((n, longest, d))?
            .broadcast_add(&places)?
            .reshape((n * longest, d))?;
        let global = self.mask(longest, longest)?;
        let local = self.mask(longest, self.config.window_size)?;
        for (i, span) in self.config.spans().into_iter().enumerate() {
            let mask = match span {
                Span::Global => &global,
                Span::Local => &local,
            };
            x = self.block(i, &x, padded.shape, mask)?;
        }
        let x = self.norm(&x, "transformer.ln_f")?;
        let head = match self.config.tie_word_embeddings {
            true => tokens,
            false => self.weight("lm_head.weight")?,
        };
        let logits = x.matmul(&head.t()?)?;
        let top = logits.max_keepdim(D::Minus1)?.detach();
        let logits = logits.broadcast_sub(&top)?;
        let total = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let losses = (total - logits.gather(&padded.targets, 1)?)?.squeeze(1)?;
        Ok((losses * padded.wanted)?)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        let missing = || Error::invalid(format!("there is no weight `{name}`"));
        self.weights.get(name).ok_or_else(missing)
    }

    /// A large negative score for what a position that sees the last `window` does not see:
    /// `[longest, longest]`.
    fn mask(&self, longest: usize, window: usize) -> Result<Tensor> {
        let score = |at: usize| {
            let (query, key) = (at / longest, at % longest);
            match key <= query && query - key < window {
                true => 0.0,
                false => UNSEEN,
            }
        };
        let scores: Vec<f32> = (0..longest * longest).map(score).collect();
        Ok(Tensor::from_vec(scores, (longest, longest), &self.device)?)
    }

    /// The stream `[n * longest, d]` after block `i`.
    fn block(&self, i: usize, x: &Tensor, shape: (usize, usize), mask: &Tensor) -> Result<Tensor> {
        let path = format!("transformer.h.{i}");
        let h = self.norm(x, &format!("{path}.ln_1"))?;
        let x = (x + self.attention(&format!("{path}.attn.attention"), &h, shape, mask)?)?;
        let h = self.norm(&x, &format!("{path}.ln_2"))?;
        let h = self.linear(&h, &format!("{path}.mlp.c_fc"))?.gelu()?;
        Ok((&x + self.linear(&h, &format!("{path}.mlp.c_proj"))?)?)
    }

    fn attention(
        &self,
        path: &str,
        h: &Tensor,
        (n, longest): (usize, usize),
        mask: &Tensor,
    ) -> Result<Tensor> {
        let d = self.config.hidden_size;
        let (heads, dim) = (self.config.num_heads, d / self.config.num_heads);
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| -> Result<Tensor> {
            let rows = h.matmul(&self.weight(&format!("{path}.{name}.weight"))?.t()?)?;
            let heads = rows.reshape((n, longest, heads, dim))?.transpose(1, 2)?;
            Ok(heads.contiguous()?)
        });
        let scores = q?.matmul(&k?.t()?)?.broadcast_add(mask)?;
        let scores = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?
            .exp()?;
        let shares = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
        let seen = shares.matmul(&v?)?.transpose(1, 2)?;
        self.linear(
            &seen.reshape((n * longest, d))?,
            &format!("{path}.out_proj"),
        )
    }

    fn linear(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let y = x.matmul(&self.weight(&format!("{path}.weight"))?.t()?)?;
        Ok(y.broadcast_add(self.weight(&format!("{path}.bias"))?)?)
    }

    /// Layer norm: candle's own has no backward pass.
    fn norm(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let spread = (variance + self.config.layer_norm_epsilon)?.sqrt()?;
        let normed = centred.broadcast_div(&spread)?;
        let scaled = normed.broadcast_mul(self.weight(&format!("{path}.weight"))?)?;
        Ok(scaled.broadcast_add(self.weight(&format!("{path}.bias"))?)?)
    }
}

/// A batch as a rectangle.
struct Padded {
    /// Sequences, and the length of the longest.
    shape: (usize, usize),
    /// Tokens `[n * longest]`; what is beyond a sequence's end is not seen by it.
    ids: Tensor,
    /// The token that follows, `[n * longest, 1]`.
    targets: Tensor,
    /// 1 where it is a target, else 0: `[n * longest]`.
    wanted: Tensor,
}

impl Padded {
    fn new(batch: &Batch, device: &Device) -> Result<Self> {
        let lens = batch.segments.lens();
        let longest = lens.iter().copied().max().unwrap_or(0);
        let size = lens.len() * longest;
        // The place in the rectangle of every token.
        let places: Vec<usize> = { lens.iter().enumerate() }
            .flat_map(|(i, &len)| i * longest..i * longest + len)
            .collect();
        let (mut ids, mut targets, mut wanted) = (vec![0; size], vec![0; size], vec![0f32; size]);
        for (&place, &id) in places.iter().zip(&batch.tokens) {
            ids[place] = id;
        }
        for (&row, &id) in batch.rows.iter().zip(batch.ids.iter()) {
            let place = places[row as usize];
            (targets[place], wanted[place]) = (id, 1.0);
        }
        Ok(Padded {
            shape: (lens.len(), longest),
            ids: Tensor::from_vec(ids, size, device)?,
            targets: Tensor::from_vec(targets, (size, 1), device)?,
            wanted: Tensor::from_vec(wanted, size, device)?,
        })
    }
}
