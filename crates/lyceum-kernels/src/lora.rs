//! The low-rank update that routed adapters add to a linear layer's output, and its gradients.
//!
//! Each expert's factors lie in a slab of their own. A token touches only the slabs of the experts
//! it chose, so the cost grows with the choices, not with the experts.

mod mix;
mod slab;
mod work;

use rayon::prelude::*;

use crate::cpu::Level;
use crate::rows::run;
pub use slab::{Slab, SlabTable};
use work::{Expand, Gather, Shrink, Side, Stack, segments};

/// Tokens per job.
const BLOCK: usize = 32;
/// Columns per job where sums run over all tokens.
const COLUMNS: usize = 128;

/// The factors of all experts at one layer, and how their outputs become one.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// Each expert's factors and scale.
    pub table: &'a SlabTable,
    /// Rule that combines the experts' outputs.
    pub mixing: Mixing,
}

/// Rule that combines expert outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Mixing {
    /// `sum_e g_e s_e B_e A_e x`: exact, any ranks ("merge after"; PEFT's meaning).
    Outputs,
    /// `s (sum_f g_f B_f) (sum_e g_e A_e) x`: averages the factors ("merge before"; MTTL's
    /// default for Uniform and Arrow). It has cross terms; equal ranks and scales only.
    Factors,
}

/// The experts of every token, as a router's top k gives them.
#[derive(Debug, Clone, Copy)]
pub struct TopK<'a> {
    /// Choices per token.
    pub k: usize,
    /// The experts, `[t, k]`, or `[k]` for every token.
    pub indices: &'a [u32],
    /// Their weights, of the same shape.
    pub weights: &'a [f32],
}

impl TopK<'_> {
    /// The place in `indices` and `weights` of choice `slot` of `token`.
    #[inline(always)]
    fn at(&self, token: usize, slot: usize) -> usize {
        let row = if self.indices.len() == self.k {
            0
        } else {
            token
        };
        row * self.k + slot
    }

    #[inline(always)]
    fn expert(&self, token: usize, slot: usize) -> usize {
        self.indices[self.at(token, slot)] as usize
    }
}

impl Factors<'_> {
    /// The largest rank: values kept per token and choice.
    fn width(&self) -> usize {
        self.table.width()
    }

    /// Values kept per token.
    fn step(&self, chosen: TopK<'_>) -> usize {
        chosen.k * self.width()
    }

    fn check(&self, t: usize, chosen: &TopK<'_>) {
        let n = chosen.indices.len();
        let tokens = n == chosen.k || n == t * chosen.k;
        assert!(
            tokens && n == chosen.weights.len(),
            "choices for every token"
        );
        let experts = self.table.slabs().len();
        let known = chosen.indices.iter().all(|&e| (e as usize) < experts);
        assert!(known, "no choice beyond the experts");
        let even = self.mixing == Mixing::Outputs || self.table.even();
        assert!(even, "factors of one rank");
    }

    /// One side of the factors for the tokens from `first` on.
    fn side<'b>(&'b self, side: Side, chosen: TopK<'b>, first: usize) -> Stack<'b> {
        Stack {
            table: self.table,
            side,
            chosen,
            first,
        }
    }
}

/// The activations of one layer's experts, and their gradients.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    /// Inputs, `[t, d_in]`.
    pub x: &'a [f32],
    /// The result of [`Delta::shrink`] for `x`.
    pub h: &'a [f32],
    /// The gradients of `h`, as [`Delta::shrink_backward`] returns them.
    pub dh: &'a [f32],
    /// The gradients of the outputs, `[t, d_out]`.
    pub dy: &'a [f32],
}

/// The update of one layer's experts, for tokens that chose some of them.
#[derive(Debug, Clone, Copy)]
pub struct Delta<'a> {
    f: Factors<'a>,
    chosen: TopK<'a>,
    level: Level,
}

impl<'a> Delta<'a> {
    /// Of the experts `f` what the tokens have `chosen`.
    pub fn new(f: Factors<'a>, chosen: TopK<'a>) -> Self {
        let level = Level::best();
        Delta { f, chosen, level }
    }

    /// Every choice's `A x`, `[t, k, r]` with the largest rank, of `x` `[t, d_in]`.
    pub fn shrink(&self, x: &[f32]) -> Vec<f32> {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let d_in = f.table.widths().0;
        let t = x.len() / d_in;
        f.check(t, &chosen);
        let step = f.step(chosen);
        let mut h = vec![0.0; t * step];
        if step == 0 {
            return h;
        }
        let block = |(i, (x, out)): (usize, (&[f32], &mut [f32]))| {
            let stack = f.side(Side::Down, chosen, i * BLOCK);
            run(level, Shrink { stack, x, out });
        };
        let blocks = x.par_chunks(BLOCK * d_in);
        let blocks = blocks.zip(h.par_chunks_mut(BLOCK * step)).enumerate();
        match t <= BLOCK {
            true => block((0, (x, &mut h))),
            false => blocks.for_each(block),
        }
        h
    }

    /// Adds to `y`, the outputs `[.., d_out]` of some tokens from `first` on, what the experts make
    /// of `h`, which [`Delta::shrink`] returned for all tokens.
    pub fn expand(&self, h: &[f32], first: usize, y: &mut [f32]) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let step = f.step(chosen);
        let mut mixed = rows_of(h, step, first, y.len() / f.table.widths().1).to_vec();
        for (token, mixed) in mixed.chunks_mut(step.max(1)).enumerate() {
            f.mix(chosen, first + token, mixed);
        }
        let (stack, h) = (f.side(Side::Up, chosen, first), mixed.as_slice());
        run(level, Expand { stack, h, y });
    }

    /// Adds to `dx`, the gradients `[.., d_in]` of some tokens' inputs from `first` on, what comes
    /// back through `dh`, which [`Delta::shrink_backward`] returned for all tokens.
    pub fn expand_backward(&self, dh: &[f32], first: usize, dx: &mut [f32]) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let h = rows_of(dh, f.step(chosen), first, dx.len() / f.table.widths().0);
        let (stack, y) = (f.side(Side::Down, chosen, first), dx);
        run(level, Expand { stack, h, y });
    }

    /// For `dy` `[t, d_out]` the gradients of every choice's `A x`, which [`Delta::shrink`]
    /// returned as `h`, and of the weights `[t, k]`.
    pub fn shrink_backward(&self, h: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let d_out = f.table.widths().1;
        let (t, k) = (dy.len() / d_out, chosen.k);
        f.check(t, &chosen);
        let step = f.step(chosen);
        assert!(
            dy.len() == t * d_out && h.len() == t * step,
            "rows of the forward pass"
        );
        let mut dweights = vec![0.0; t * k];
        let mut dh = vec![0.0; t * step];
        if step == 0 {
            return (dh, dweights);
        }
        let each = dh
            .par_chunks_mut(BLOCK * step)
            .zip(dy.par_chunks(BLOCK * d_out));
        let each = each.zip(dweights.par_chunks_mut(BLOCK * k)).enumerate();
        each.for_each(|(i, ((dh, dy), dweights))| {
            let first = i * BLOCK;
            let out = &mut *dh;
            let (stack, x) = (f.side(Side::Up, chosen, first), dy);
            // The gradients of what was mixed, then of `A x`.
            run(level, Shrink { stack, x, out });
            let rows = dh.chunks_mut(step).zip(dweights.chunks_mut(k)).enumerate();
            for (token, (dh, dweights)) in rows {
                let token = first + token;
                let h = &h[token * step..(token + 1) * step];
                self.mix_backward(token, h, dh, dweights);
            }
        });
        (dh, dweights)
    }

    /// The gradients of the factors: of every A, `ddown` `[R, d_in]`, and of every B transposed,
    /// `dup` `[R, d_out]`.
    pub fn factors_backward(&self, kept: &Activations<'_>, ddown: &mut [f32], dup: &mut [f32]) {
        let (f, chosen) = (&self.f, self.chosen);
        let &Activations { x, h, dh, dy } = kept;
        let (d_in, d_out) = f.table.widths();
        let step = f.step(chosen);
        assert_eq!(x.len() / d_in, dy.len() / d_out, "the inputs");
        if step == 0 {
            return;
        }
        let mut mixed = h.to_vec();
        mixed
            .par_chunks_mut(step)
            .enumerate()
            .for_each(|(t, h)| f.mix(chosen, t, h));
        rayon::join(
            || self.gather(dh, x, d_in, ddown),
            || self.gather(&mixed, dy, d_out, dup),
        );
    }

    /// `out[row] = sum over the tokens of the row's expert of h[token, slot, rank] * x[token]`,
    /// `x` and `out` rows of `d` values.
    fn gather(&self, h: &[f32], x: &[f32], d: usize, out: &mut [f32]) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let (t, k, width) = (x.len() / d, chosen.k, f.width());
        let slabs = f.table.slabs();
        let mut tokens = vec![Vec::new(); slabs.len()];
        for slot in 0..k {
            for (expert, from, to) in segments(chosen, slot, 0, t) {
                tokens[expert].push((slot, from, to));
            }
        }
        let parts: Vec<(usize, usize)> = (0..slabs.len())
            .flat_map(|e| (0..d).step_by(COLUMNS).map(move |from| (e, from)))
            .collect();
        let parts: Vec<(usize, usize, Vec<f32>)> = parts
            .into_par_iter()
            .map(|(expert, from)| {
                let columns = from..d.min(from + COLUMNS);
                let mut own = vec![0.0; slabs[expert].rank() * columns.len()];
                let (tokens, out) = (tokens[expert].as_slice(), own.as_mut_slice());
                run(
                    level,
                    Gather {
                        d,
                        width,
                        k,
                        tokens,
                        columns,
                        h,
                        x,
                        out,
                    },
                );
                (expert, from, own)
            })
            .collect();
        let starts: Vec<usize> = { slabs.iter() }
            .scan(0, |end, slab| {
                Some(std::mem::replace(end, *end + slab.rank()))
            })
            .collect();
        for (expert, from, own) in parts {
            let columns = COLUMNS.min(d - from);
            let rows = out[starts[expert] * d..].chunks_mut(d);
            for (row, own) in rows.zip(own.chunks(columns)) {
                row[from..from + columns].copy_from_slice(own);
            }
        }
    }
}

/// The values of `t` tokens from `first` on, `step` a token.
fn rows_of(h: &[f32], step: usize, first: usize, t: usize) -> &[f32] {
    &h[first * step..(first + t) * step]
}

#[cfg(test)]
mod tests;
