//! The model under training: on the processor by Lyceum's kernels, on a GPU by candle's operations.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use lyceum_kernels::gemm::Rounding;

use crate::backbone::{Composed, Config, Decoder, GptNeo, Source};
use crate::error::Result;
use crate::model::{self, Batch};

/// A decoder whose weights are variables.
pub(super) enum Net {
    Kernels(Box<Decoder>),
    Composed(Composed),
}

impl Net {
    /// The decoder of `vars`, which are on `device`; its configuration as a Hugging Face folder has
    /// it and as all families are described.
    pub(super) fn new(
        (config, described): (GptNeo, Config),
        vars: &BTreeMap<String, Var>,
        rounding: Rounding,
        device: &Device,
    ) -> Result<Self> {
        if device.is_cpu() {
            let decoder = Decoder::new(described, &mut Source::trained(vars, rounding))?;
            return Ok(Net::Kernels(Box::new(decoder)));
        }
        // A GPU's own rounding of factors (TF32) is finer than bf16 and costs no more.
        candle_core::cuda::set_gemm_reduced_precision_f32(rounding == Rounding::Bf16);
        Ok(Net::Composed(Composed::new(config, vars, device)))
    }

    /// Cross-entropy of the batch's targets, differentiable; further values are 0.
    pub(super) fn losses(&self, batch: &Batch) -> Result<Tensor> {
        match self {
            Net::Kernels(decoder) => model::losses(decoder, batch, None, None, false),
            Net::Composed(composed) => composed.losses(batch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::Span;
    use crate::data::Tokens;
    use crate::name::Name;
    use crate::rng::Rng;

    /// Losses, and the gradient of their mean by every variable.
    fn run(net: &Net, batch: &Batch, vars: &BTreeMap<String, Var>) -> (f32, Vec<Vec<f32>>) {
        let loss =
            (net.losses(batch).unwrap().sum_all().unwrap() / batch.ids.len() as f64).unwrap();
        let store = loss.backward().unwrap();
        let gradient = |var: &Var| {
            let gradient = store.get(var).unwrap().flatten_all().unwrap();
            gradient.to_vec1().unwrap()
        };
        (
            loss.to_scalar().unwrap(),
            vars.values().map(gradient).collect(),
        )
    }

    #[test]
    fn both_ways_give_the_same_loss_and_gradients() {
        let config = GptNeo {
            model_type: "gpt_neo".into(),
            vocab_size: 50,
            hidden_size: 16,
            num_layers: 2,
            num_heads: 2,
            intermediate_size: None,
            max_position_embeddings: 24,
            window_size: 5,
            attention_types: vec![(vec![Span::Global, Span::Local], 1)],
            layer_norm_epsilon: 1e-5,
            activation_function: "gelu_new".into(),
            tie_word_embeddings: true,
        };
        let described = config.describe().unwrap();
        let mut rng = Rng::new(1);
        let vars: BTreeMap<String, Var> = { described.tensors().into_iter() }
            .map(|(name, shape)| {
                let values = rng.normal(shape.iter().product(), 0.3);
                let values = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
                (name, Var::from_tensor(&values).unwrap())
            })
            .collect();
        let rows: Vec<Tokens> = [(24, 1), (3, 1), (11, 4)]
            .map(|(len, from)| Tokens {
                ids: (0..len).map(|i| (i * 7 + len) % 50).collect(),
                from,
            })
            .to_vec();
        let task = Name::new("text").unwrap();
        let batch = Batch::new(rows.iter().map(|row| (row, task.clone())));
        let kernels = Net::new(
            (config.clone(), described),
            &vars,
            Rounding::F32,
            &Device::Cpu,
        )
        .unwrap();
        let composed = Net::Composed(Composed::new(config, &vars, &Device::Cpu));
        let (one, other) = (run(&kernels, &batch, &vars), run(&composed, &batch, &vars));
        assert!((one.0 - other.0).abs() < 1e-5, "{} {}", one.0, other.0);
        for ((name, one), other) in vars.keys().zip(one.1).zip(other.1) {
            let size = one.iter().fold(0f32, |most, x| most.max(x.abs()));
            let apart = one.iter().zip(&other).map(|(x, y)| (x - y).abs());
            let apart = apart.fold(0f32, f32::max);
            assert!(
                size > 0.0 && apart < 1e-4 * size,
                "{name}: {apart} of {size}"
            );
        }
    }
}
