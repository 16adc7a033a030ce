//! The MLP with its matrices, forward and backward.

use candle_core::Tensor;
use lyceum_kernels::activation::{self, Activation};

use super::config::MlpShape;
use crate::error::{Error, Result};
use crate::mix::{Gradients, Pass, Routed, RoutedLinear};

use lyceum_kernels::stream;

/// The MLP of one block.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    /// Gate and up, one for both, or up alone.
    pub(super) up: Vec<RoutedLinear>,
    pub(super) down: RoutedLinear,
    pub(super) shape: MlpShape,
    pub(super) activation: Activation,
}

/// Intermediates of the forward pass that the backward pass reads.
#[derive(Debug)]
pub(super) struct MlpSaved {
    /// The output of `up`: gate and up, or up alone.
    up: Vec<Vec<f32>>,
    routed: Vec<Option<Routed>>,
    down: Option<Routed>,
}

impl Mlp {
    /// The trainable tensors, in the order of the gradients.
    pub(super) fn variables(&self, pass: &Pass<'_>) -> Vec<Tensor> {
        let linears = self.up.iter().chain([&self.down]);
        linears.flat_map(|l| l.variables(pass)).collect()
    }

    /// Returns `true` if the backward pass reads the input.
    pub(super) fn reads_input(&self, pass: &Pass<'_>) -> bool {
        self.up.iter().any(|l| l.reads_input(pass))
    }

    pub(super) fn odd() -> Error {
        Error::invalid("an MLP has the wrong number of matrices")
    }

    fn inner(&self, up: &[Vec<f32>]) -> Result<Vec<f32>> {
        match up {
            [up] => Ok(activation::forward(self.activation, up)),
            [gate, up] => Ok(activation::gated(self.activation, gate, up)),
            _ => Err(Self::odd()),
        }
    }

    /// The MLP's output for `x` `[t, d]`, added to `onto`, if any.
    pub(super) fn forward(
        &self,
        x: &[f32],
        onto: Option<&[f32]>,
        pass: &Pass<'_>,
    ) -> Result<(Vec<f32>, MlpSaved)> {
        let mut up = Vec::new();
        let mut routed = Vec::new();
        for linear in &self.up {
            let (y, by) = linear.forward(x, None, pass)?;
            up.push(y);
            routed.push(by);
        }
        if let (MlpShape::Fused, [both]) = (self.shape, up.as_slice()) {
            let width = both.len() / pass.seq_lens.tokens().max(1) / 2;
            let (mut gate, mut own) = (Vec::new(), Vec::new());
            for row in both.chunks(2 * width.max(1)) {
                gate.extend_from_slice(&row[..width]);
                own.extend_from_slice(&row[width..]);
            }
            up = vec![gate, own];
        }
        let (y, down) = self.down.forward(&self.inner(&up)?, onto, pass)?;
        Ok((y, MlpSaved { up, routed, down }))
    }

    /// The gradient of `x`, if wanted, for that of the result `dy`; those of the variables are
    /// pushed. `x` is read only if [`Mlp::reads_input`] says so.
    pub(super) fn backward(
        &self,
        (x, made): (&[f32], &MlpSaved),
        dy: &[f32],
        pass: &Pass<'_>,
        wants_dx: bool,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<f32>>> {
        let mut own = Vec::new();
        let inner = match self.down.reads_input(pass) {
            true => self.inner(&made.up)?,
            false => Vec::new(),
        };
        let read = (inner.as_slice(), made.down.as_ref());
        let dinner = self.down.backward(read, dy, pass, true, &mut own)?;
        let mut dinner = dinner.ok_or_else(Self::odd)?;
        drop(inner);
        let mut dups = match made.up.as_slice() {
            [up] => {
                activation::backward(self.activation, up, &mut dinner);
                vec![dinner]
            }
            [gate, up] => {
                let both = (gate.as_slice(), up.as_slice());
                let dgate = activation::gated_backward(self.activation, both, &mut dinner);
                vec![dgate, dinner]
            }
            _ => return Err(Self::odd()),
        };
        if let (MlpShape::Fused, [dgate, dup]) = (self.shape, dups.as_slice()) {
            let width = (dup.len() / pass.seq_lens.tokens().max(1)).max(1);
            let rows = dgate.chunks(width).zip(dup.chunks(width));
            dups = vec![rows.flat_map(|(g, u)| [g, u]).flatten().copied().collect()];
        }
        let mut sum: Option<Vec<f32>> = None;
        for ((linear, by), dup) in self.up.iter().zip(&made.routed).zip(&dups) {
            let dx = linear.backward((x, by.as_ref()), dup, pass, wants_dx, gradients)?;
            match (&mut sum, dx) {
                (Some(sum), Some(dx)) => stream::add(&dx, sum),
                (None, dx) => sum = dx,
                (Some(_), None) => {}
            }
        }
        gradients.extend(own);
        Ok(sum)
    }
}
