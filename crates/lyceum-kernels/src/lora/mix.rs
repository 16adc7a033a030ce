//! Rules that combine the outputs of a token's experts.

use super::{Delta, Factors, Mixing, Slab, TopK};

impl Factors<'_> {
    /// Applies the mixing rule to the values `h` of a token, in place.
    pub(super) fn mix(&self, chosen: TopK<'_>, token: usize, h: &mut [f32]) {
        let width = self.width();
        match self.mixing {
            Mixing::Outputs => {
                for (slot, h) in h.chunks_mut(width).enumerate() {
                    let at = chosen.at(token, slot);
                    let by = chosen.weights[at] * self.scale_of(chosen.indices[at]);
                    h.iter_mut().for_each(|x| *x *= by);
                }
            }
            Mixing::Factors => {
                for rank in 0..width {
                    let weight = |slot| chosen.weights[chosen.at(token, slot)];
                    let mean: f32 = (0..chosen.k).map(|s| weight(s) * h[s * width + rank]).sum();
                    for slot in 0..chosen.k {
                        h[slot * width + rank] = self.scale() * weight(slot) * mean;
                    }
                }
            }
        }
    }

    fn scale_of(&self, expert: u32) -> f32 {
        self.table.slabs()[expert as usize].scale()
    }

    /// The scale of all experts.
    fn scale(&self) -> f32 {
        self.table.slabs().first().map_or(0.0, Slab::scale)
    }
}

impl Delta<'_> {
    /// The gradients of [`Factors::mix`]: `dmixed` becomes those of `h`; those of the weights go
    /// to `dweights`.
    pub(super) fn mix_backward(
        &self,
        token: usize,
        h: &[f32],
        dmixed: &mut [f32],
        dweights: &mut [f32],
    ) {
        let (f, chosen) = (&self.f, self.chosen);
        let width = f.width();
        match f.mixing {
            Mixing::Outputs => {
                for (slot, dweight) in dweights.iter_mut().enumerate() {
                    let (at, own) = (chosen.at(token, slot), slot * width..(slot + 1) * width);
                    let scale = f.scale_of(chosen.indices[at]);
                    let pairs = h[own.clone()].iter().zip(&dmixed[own.clone()]);
                    *dweight = scale * pairs.map(|(x, d)| x * d).sum::<f32>();
                    let by = scale * chosen.weights[at];
                    dmixed[own].iter_mut().for_each(|d| *d *= by);
                }
            }
            Mixing::Factors => {
                let (scale, slots) = (f.scale(), 0..chosen.k);
                dweights.fill(0.0);
                for rank in 0..width {
                    let weight = |slot| chosen.weights[chosen.at(token, slot)];
                    let sum = |of: &[f32]| -> f32 {
                        slots
                            .clone()
                            .map(|s| weight(s) * of[s * width + rank])
                            .sum()
                    };
                    let (mean, dmean) = (sum(h), scale * sum(dmixed));
                    for (slot, dweight) in dweights.iter_mut().enumerate() {
                        let at = slot * width + rank;
                        *dweight += scale * dmixed[at] * mean + h[at] * dmean;
                        dmixed[at] = weight(slot) * dmean;
                    }
                }
            }
        }
    }
}
