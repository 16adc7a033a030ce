//! Activations, plain and gating.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use lyceum_kernels::activation::{self, Activation};

use super::{Op, f32s, slice};

struct Activate(Activation);
struct ActivateBack(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }
    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Op<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0.0; x.len()];
        activation::forward(self.0, x, &mut y);
        Ok(f32s(y, layout.shape()))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Op<Option<Tensor>> {
        let back = ActivateBack(self.0);
        Ok(Some(
            x.contiguous()?.apply_op2_no_bwd(&dy.contiguous()?, &back)?,
        ))
    }
}

impl CustomOp2 for ActivateBack {
    fn name(&self) -> &'static str {
        "activation-backward"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (x, dy) = (slice(x, x_layout)?, slice(dy, dy_layout)?);
        let mut dx = vec![0.0; x.len()];
        activation::backward(self.0, x, dy, &mut dx);
        Ok(f32s(dx, x_layout.shape()))
    }
}

/// `f(x)`, elementwise.
///
/// # Errors
/// When `x` is not f32.
pub fn activate(x: &Tensor, kind: Activation) -> Op<Tensor> {
    x.contiguous()?.apply_op1(Activate(kind))
}

struct Gate(Activation);

/// Gradients of [`Gate`], `[2, ..]`: for the gate, then for the value.
struct GateBack(Activation);

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (gate, x) = (slice(gate, gate_layout)?, slice(x, x_layout)?);
        let mut y = vec![0.0; x.len()];
        activation::gated(self.0, gate, x, &mut y);
        Ok(f32s(y, x_layout.shape()))
    }
    fn bwd(
        &self,
        gate: &Tensor,
        x: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Op<(Option<Tensor>, Option<Tensor>)> {
        let all = gate.apply_op3_no_bwd(x, &dy.contiguous()?, &GateBack(self.0))?;
        Ok((Some(all.get(0)?), Some(all.get(1)?)))
    }
}

impl CustomOp3 for GateBack {
    fn name(&self) -> &'static str {
        "gate-backward"
    }
    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (gate, x) = (slice(gate, gate_layout)?, slice(x, x_layout)?);
        let mut all = vec![0.0; 2 * x.len()];
        let (dgate, dx) = all.split_at_mut(x.len());
        activation::gated_backward(self.0, (gate, x), slice(dy, dy_layout)?, (dgate, dx));
        let shape: Vec<usize> = [2]
            .into_iter()
            .chain(x_layout.dims().iter().copied())
            .collect();
        Ok(f32s(all, shape))
    }
}

/// `f(gate) * x`, elementwise over equal shapes.
///
/// # Errors
/// When the shapes differ or are not f32.
pub fn gate(gate: &Tensor, x: &Tensor, kind: Activation) -> Op<Tensor> {
    if gate.shape() != x.shape() {
        candle_core::bail!("a gate {:?} over values {:?}", gate.dims(), x.dims());
    }
    gate.contiguous()?.apply_op2(&x.contiguous()?, Gate(kind))
}
