//! The MLP with its matrices, forward and backward.

use candle_core::Tensor;
use lyceum_kernels::activation::{self, Activation};
use lyceum_kernels::stream;

use crate::backbone::config::layout::Up;
use crate::error::Result;
use crate::mix::{Gradients, LinearInput, Pass, Routed, RoutedLinear};

/// The MLP of one block.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    pub(super) up: Up<RoutedLinear>,
    pub(super) down: RoutedLinear,
    pub(super) activation: Activation,
}

/// Intermediates of the forward pass that the backward pass reads.
#[derive(Debug)]
pub(super) struct MlpSaved {
    /// The output of the gate; empty without one.
    gate: Vec<f32>,
    /// The output of `up`.
    up: Vec<f32>,
    /// Decisions at gate and up, or at the one matrix.
    routed: [Option<Routed>; 2],
    down: Option<Routed>,
}

impl Mlp {
    /// The trainable tensors, in the order of the gradients.
    pub(super) fn variables(&self, pass: &Pass<'_>) -> Vec<Tensor> {
        let linears = self.up.linears().iter().chain([&self.down]);
        linears.flat_map(|l| l.variables(pass)).collect()
    }

    /// Returns `true` if the backward pass reads the input.
    pub(super) fn reads_input(&self, pass: &Pass<'_>) -> bool {
        self.up.linears().iter().any(|l| l.reads_input(pass))
    }

    fn inner(&self, gate: &[f32], up: &[f32]) -> Vec<f32> {
        match &self.up {
            Up::Plain(_) => activation::forward(self.activation, up),
            Up::Gated(_) | Up::Fused(_) => activation::gated(self.activation, gate, up),
        }
    }

    /// The MLP's output for `x` `[t, d]`, added to `onto`, if any.
    pub(super) fn forward(
        &self,
        x: &[f32],
        onto: Option<&[f32]>,
        pass: &Pass<'_>,
    ) -> Result<(Vec<f32>, MlpSaved)> {
        let (gate, up, routed) = match &self.up {
            Up::Plain(up) => {
                let (up, by) = up.forward(x, None, pass)?;
                (Vec::new(), up, [by, None])
            }
            Up::Gated([gate, up]) => {
                let (gate, by_gate) = gate.forward(x, None, pass)?;
                let (up, by_up) = up.forward(x, None, pass)?;
                (gate, up, [by_gate, by_up])
            }
            Up::Fused(both) => {
                let (both, by) = both.forward(x, None, pass)?;
                let width = both.len() / pass.seq_lens.tokens().max(1) / 2;
                let (mut gate, mut up) = (Vec::new(), Vec::new());
                for row in both.chunks(2 * width.max(1)) {
                    gate.extend_from_slice(&row[..width]);
                    up.extend_from_slice(&row[width..]);
                }
                (gate, up, [by, None])
            }
        };
        let (y, down) = self.down.forward(&self.inner(&gate, &up), onto, pass)?;
        let kept = MlpSaved {
            gate,
            up,
            routed,
            down,
        };
        Ok((y, kept))
    }

    /// The gradient of `x` for that of the result `dy`; those of the variables are pushed. `x` is
    /// read only if [`Mlp::reads_input`] says so.
    pub(super) fn backward(
        &self,
        x: &[f32],
        made: &MlpSaved,
        dy: &[f32],
        pass: &Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Vec<f32>> {
        let mut down = Gradients::new();
        let inner = match self.down.reads_input(pass) {
            true => self.inner(&made.gate, &made.up),
            false => Vec::new(),
        };
        let read = LinearInput {
            x: &inner,
            routed: made.down.as_ref(),
        };
        // The gradient of what the activation gives, then of `up`.
        let mut dup = Vec::new();
        self.down
            .backward(read, dy, pass, Some(&mut dup), &mut down)?;
        drop(inner);
        let dgate = match &self.up {
            Up::Plain(_) => {
                activation::backward(self.activation, &made.up, &mut dup);
                Vec::new()
            }
            Up::Gated(_) | Up::Fused(_) => {
                activation::gated_backward(self.activation, &made.gate, &made.up, &mut dup)
            }
        };
        let mut dx = Vec::new();
        let mut back = |linear: &RoutedLinear, by: &Option<Routed>, dy: &[f32], dx: &mut _| {
            let routed = by.as_ref();
            linear.backward(LinearInput { x, routed }, dy, pass, Some(dx), gradients)
        };
        let [first, second] = &made.routed;
        match &self.up {
            Up::Plain(up) => back(up, first, &dup, &mut dx)?,
            Up::Gated([gate, up]) => {
                let mut by_up = Vec::new();
                back(gate, first, &dgate, &mut dx)?;
                back(up, second, &dup, &mut by_up)?;
                stream::add(&by_up, &mut dx);
            }
            Up::Fused(both) => {
                let width = (dup.len() / pass.seq_lens.tokens().max(1)).max(1);
                let rows = dgate.chunks(width).zip(dup.chunks(width));
                let dboth: Vec<f32> = rows.flat_map(|(g, u)| [g, u]).flatten().copied().collect();
                back(both, first, &dboth, &mut dx)?;
            }
        }
        gradients.extend(down);
        Ok(dx)
    }
}
