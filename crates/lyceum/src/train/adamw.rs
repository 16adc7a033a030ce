//! AdamW (arXiv:1711.05101) as torch computes it, on slices, with clipping by the global norm.

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::error::{Error, Result};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Elements updated by one thread at a time.
const BLOCK: usize = 1 << 15;

/// Moments of a list of variables.
#[derive(Debug, Clone)]
pub(crate) struct AdamW {
    pub(crate) first: Vec<Vec<f32>>,
    pub(crate) second: Vec<Vec<f32>>,
    pub(crate) steps: u64,
    /// Decoupled weight decay.
    pub(crate) decay: f64,
}

impl AdamW {
    pub(crate) fn new(vars: &[Var], decay: f64) -> Self {
        let zeros: Vec<Vec<f32>> = vars.iter().map(|v| vec![0.0; v.elem_count()]).collect();
        AdamW {
            first: zeros.clone(),
            second: zeros,
            steps: 0,
            decay,
        }
    }

    /// Updates `vars`, the list this was made for, from gradients in their order. A variable
    /// without one (nothing depended on it) is left as it is.
    pub(crate) fn update(
        &mut self,
        vars: &[Var],
        gradients: &[Option<Vec<f32>>],
        lr: f64,
        clip: f64,
    ) -> Result<()> {
        let square = |g: &Vec<f32>| g.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        // One sum per variable, added up in their order: the same whatever the thread count.
        let given: Vec<&Vec<f32>> = gradients.iter().flatten().collect();
        let squares: Vec<f64> = given.into_par_iter().map(square).collect();
        let norm = squares.into_iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(Error::invalid(
                "the gradient is not finite; lower the learning rate",
            ));
        }
        // torch.nn.utils.clip_grad_norm_: clip / (norm + 1e-6), at most 1.
        let shrink = (clip / (norm + 1e-6)).min(1.0) as f32;
        self.steps += 1;
        let correct1 = 1.0 - BETA1.powf(self.steps as f64);
        let correct2 = (1.0 - BETA2.powf(self.steps as f64)).sqrt();
        let (step, keep) = ((lr / correct1) as f32, (1.0 - lr * self.decay) as f32);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((var, gradient), (first, second)) in vars.iter().zip(gradients).zip(moments) {
            let Some(gradient) = gradient else { continue };
            let mut values = var.flatten_all()?.to_vec1::<f32>()?;
            let blocks = values
                .par_chunks_mut(BLOCK)
                .zip(first.par_chunks_mut(BLOCK))
                .zip(second.par_chunks_mut(BLOCK))
                .zip(gradient.par_chunks(BLOCK));
            blocks.for_each(|(((values, first), second), gradient)| {
                let state = values.iter_mut().zip(first).zip(second);
                for (((x, m), v), g) in state.zip(gradient) {
                    let g = g * shrink;
                    *m += (g - *m) * (1.0 - BETA1) as f32;
                    *v = BETA2 as f32 * *v + (1.0 - BETA2) as f32 * g * g;
                    let scale = v.sqrt() / correct2 as f32 + EPSILON as f32;
                    *x = keep * *x - step * *m / scale;
                }
            });
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        }
        Ok(())
    }
}
