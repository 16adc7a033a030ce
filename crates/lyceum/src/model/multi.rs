//! Batches whose sequences belong to several models over one base, computed in one pass.
//!
//! An evaluation of several methods, or a server of several mixtures, needs this: the base's
//! products are computed once for all. Every sequence gets the result that its model alone computes.

use std::sync::Arc;

use candle_core::Tensor;

use super::{Batch, Model};
use crate::backbone::{Decoder, Logits};
use crate::error::{Error, Result};
use crate::mix::{Pass, Route, SeqLens};
use crate::name::Name;

/// The routes of a pass in which sequence `i` goes through the mixture of `models[i]`. Neighbours
/// of one mixture share a route; the base alone has none.
///
/// # Errors
/// [`Error::Mismatch`] when the models stand over different bases.
pub fn routes<'a>(models: &[&'a Model]) -> Result<Vec<Route<'a>>> {
    let mut routes: Vec<Route<'a>> = Vec::new();
    for (i, model) in models.iter().enumerate() {
        if !Arc::ptr_eq(&model.base, &models[0].base) {
            return Err(Error::Mismatch(
                "the models of one pass must share one base in memory".into(),
            ));
        }
        let Some(mixture) = model.mixture() else {
            continue;
        };
        match routes.last_mut() {
            Some(last) if last.sequences.end == i && std::ptr::eq(last.mixture, mixture) => {
                last.sequences.end = i + 1;
            }
            _ => routes.push(Route {
                sequences: i..i + 1,
                mixture,
            }),
        }
    }
    Ok(routes)
}

/// Next-token logits `[t, v]` at every token of packed sequences, sequence `i` by `models[i]`.
///
/// # Errors
/// When there is not one model per sequence, as [`routes`], and as [`Model::logits`].
pub fn logits(
    models: &[&Model],
    tokens: &[u32],
    seq_lens: &SeqLens,
    tasks: &[Name],
) -> Result<Tensor> {
    let decoder = decoder(models, seq_lens)?;
    let pass = Pass {
        tasks,
        routes: &routes(models)?,
        ..Pass::new(seq_lens)
    };
    decoder.logits(&decoder.hidden(tokens, None, &pass)?, Logits::All)
}

/// Cross-entropy of every target token of `batch`, `[n]`, its sequence `i` by `models[i]`;
/// differentiable.
///
/// # Errors
/// As [`logits`].
pub fn losses(models: &[&Model], batch: &Batch) -> Result<Tensor> {
    let decoder = decoder(models, &batch.seq_lens)?;
    let pass = Pass {
        tasks: &batch.tasks,
        routes: &routes(models)?,
        ..Pass::new(&batch.seq_lens)
    };
    let hidden = decoder.hidden_at(&batch.tokens, &batch.target_positions, None, &pass)?;
    decoder.losses(&hidden, &batch.target_ids)
}

/// The decoder that the models of a batch share.
fn decoder<'a>(models: &[&'a Model], seq_lens: &SeqLens) -> Result<&'a Decoder> {
    let n = seq_lens.lens().len();
    match models.first() {
        Some(model) if models.len() == n => Ok(&model.base.decoder),
        _ => Err(Error::Mismatch(format!(
            "{} models for {n} sequences: give one for each",
            models.len()
        ))),
    }
}
