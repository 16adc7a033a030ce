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
use work::{Gather, Project, Side, Spread, Stack, runs};

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
    pub law: Law,
}

/// Rule that combines the outputs of a token's experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// `sum_e g_e s_e B_e A_e x`.
    Outputs,
    /// `s (sum_f g_f B_f) (sum_e g_e A_e) x`; ranks and scales must be equal.
    Factors,
}

/// The experts each token chose, and their weights.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// Choices per token.
    pub per: usize,
    /// The experts, `[t, per]`, or `[per]` for every token.
    pub experts: &'a [u32],
    /// Their weights, of the same shape.
    pub weights: &'a [f32],
}

impl Chosen<'_> {
    /// The place in `experts` and `weights` of choice `slot` of `token`.
    #[inline(always)]
    fn at(&self, token: usize, slot: usize) -> usize {
        let row = if self.experts.len() == self.per {
            0
        } else {
            token
        };
        row * self.per + slot
    }

    #[inline(always)]
    fn expert(&self, token: usize, slot: usize) -> usize {
        self.experts[self.at(token, slot)] as usize
    }
}

impl Factors<'_> {
    /// The largest rank: values kept per token and choice.
    fn width(&self) -> usize {
        self.table.width()
    }

    /// Values kept per token.
    fn step(&self, chosen: Chosen<'_>) -> usize {
        chosen.per * self.width()
    }

    fn check(&self, t: usize, chosen: &Chosen<'_>) {
        let n = chosen.experts.len();
        let tokens = n == chosen.per || n == t * chosen.per;
        assert!(
            tokens && n == chosen.weights.len(),
            "choices for every token"
        );
        let experts = self.table.slabs().len();
        let known = chosen.experts.iter().all(|&e| (e as usize) < experts);
        assert!(known, "no choice beyond the experts");
        let even = self.law == Law::Outputs || self.table.even();
        assert!(even, "factors of one rank");
    }

    /// One side of the factors for the tokens from `first` on.
    fn side<'b>(&'b self, side: Side, chosen: Chosen<'b>, first: usize) -> Stack<'b> {
        Stack {
            table: self.table,
            side,
            chosen,
            first,
        }
    }
}

/// The update of one layer's experts, for tokens that chose some of them.
#[derive(Debug, Clone, Copy)]
pub struct Delta<'a> {
    f: Factors<'a>,
    chosen: Chosen<'a>,
    level: Level,
}

impl<'a> Delta<'a> {
    /// Of the experts `f` what the tokens have `chosen`.
    pub fn new(f: Factors<'a>, chosen: Chosen<'a>) -> Self {
        let level = Level::best();
        Delta { f, chosen, level }
    }

    /// Every choice's `A x`, `[t, per, r]` with the largest rank, of `x` `[t, d_in]`.
    pub fn project(&self, x: &[f32]) -> Vec<f32> {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let d_in = f.table.widths().0;
        let t = x.len() / d_in;
        f.check(t, &chosen);
        let step = f.step(chosen);
        let mut low = vec![0.0; t * step];
        if step == 0 {
            return low;
        }
        let block = |(i, (x, out)): (usize, (&[f32], &mut [f32]))| {
            let stack = f.side(Side::Down, chosen, i * BLOCK);
            run(level, Project { stack, x, out });
        };
        let blocks = x.par_chunks(BLOCK * d_in);
        let blocks = blocks.zip(low.par_chunks_mut(BLOCK * step)).enumerate();
        match t <= BLOCK {
            true => block((0, (x, &mut low))),
            false => blocks.for_each(block),
        }
        low
    }

    /// Adds to `y`, the outputs `[.., d_out]` of some tokens from `first` on, what the experts make
    /// of `low`, which [`Delta::project`] returned for all tokens.
    pub fn spread(&self, low: &[f32], first: usize, y: &mut [f32]) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let step = f.step(chosen);
        let mut mixed = rows_of(low, step, first, y.len() / f.table.widths().1).to_vec();
        for (token, mixed) in mixed.chunks_mut(step.max(1)).enumerate() {
            f.mix(chosen, first + token, mixed);
        }
        let (stack, low) = (f.side(Side::Up, chosen, first), mixed.as_slice());
        run(level, Spread { stack, low, y });
    }

    /// Adds to `dx`, the gradients `[.., d_in]` of some tokens' inputs from `first` on, what comes
    /// back through `dlow`, which [`Delta::project_backward`] returned for all tokens.
    pub fn spread_back(&self, dlow: &[f32], first: usize, dx: &mut [f32]) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let low = rows_of(dlow, f.step(chosen), first, dx.len() / f.table.widths().0);
        let (stack, y) = (f.side(Side::Down, chosen, first), dx);
        run(level, Spread { stack, low, y });
    }

    /// For `dy` `[t, d_out]` the gradients of every choice's `A x`, which [`Delta::project`]
    /// returned as `low`, and of the weights `[t, per]`.
    pub fn project_backward(&self, low: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let d_out = f.table.widths().1;
        let (t, per) = (dy.len() / d_out, chosen.per);
        f.check(t, &chosen);
        let step = f.step(chosen);
        assert!(
            dy.len() == t * d_out && low.len() == t * step,
            "rows of the forward pass"
        );
        let mut dweights = vec![0.0; t * per];
        let mut dlow = vec![0.0; t * step];
        if step == 0 {
            return (dlow, dweights);
        }
        let each = dlow
            .par_chunks_mut(BLOCK * step)
            .zip(dy.par_chunks(BLOCK * d_out));
        let each = each.zip(dweights.par_chunks_mut(BLOCK * per)).enumerate();
        each.for_each(|(i, ((dlow, dy), dweights))| {
            let first = i * BLOCK;
            let out = &mut *dlow;
            let (stack, x) = (f.side(Side::Up, chosen, first), dy);
            // The gradients of what was mixed, then of `A x`.
            run(level, Project { stack, x, out });
            let rows = dlow
                .chunks_mut(step)
                .zip(dweights.chunks_mut(per))
                .enumerate();
            for (token, (dlow, dweights)) in rows {
                let token = first + token;
                let low = &low[token * step..(token + 1) * step];
                f.mix_backward((chosen, token), low, dlow, dweights);
            }
        });
        (dlow, dweights)
    }

    /// The gradients of the factors, `[R, d_in]` and `[R, d_out]`, for the inputs `x` `[t, d_in]`
    /// and the outputs' gradients `dy` `[t, d_out]`, beside `low` and `dlow` of [`Delta::project`]
    /// and [`Delta::project_backward`].
    pub fn factors_backward(
        &self,
        (x, dlow): (&[f32], &[f32]),
        (low, dy): (&[f32], &[f32]),
        (ddown, dup): (&mut [f32], &mut [f32]),
    ) {
        let (f, chosen, level) = (&self.f, self.chosen, self.level);
        let (d_in, d_out) = f.table.widths();
        let step = f.step(chosen);
        assert_eq!(x.len() / d_in, dy.len() / d_out, "the inputs");
        if step == 0 {
            return;
        }
        let mut mixed = low.to_vec();
        mixed
            .par_chunks_mut(step)
            .enumerate()
            .for_each(|(t, low)| f.mix(chosen, t, low));
        rayon::join(
            || gather(level, f, chosen, (dlow, x, d_in), ddown),
            || gather(level, f, chosen, (&mixed, dy, d_out), dup),
        );
    }
}

/// The values of `t` tokens from `first` on, `step` a token.
fn rows_of(low: &[f32], step: usize, first: usize, t: usize) -> &[f32] {
    &low[first * step..(first + t) * step]
}

/// `out[row] = sum over the tokens of the row's expert of low[token, slot, rank] * x[token]`.
fn gather(
    level: Level,
    f: &Factors<'_>,
    chosen: Chosen<'_>,
    (low, x, d): (&[f32], &[f32], usize),
    out: &mut [f32],
) {
    let (t, per, width) = (x.len() / d, chosen.per, f.width());
    let slabs = f.table.slabs();
    let mut tokens = vec![Vec::new(); slabs.len()];
    for slot in 0..per {
        for (expert, from, to) in runs(chosen, slot, 0, t) {
            tokens[expert].push((slot, from, to));
        }
    }
    let parts: Vec<(usize, usize)> = (0..slabs.len())
        .flat_map(|e| (0..d).step_by(COLUMNS).map(move |from| (e, from)))
        .collect();
    let parts: Vec<(usize, usize, Vec<f32>)> = parts
        .into_par_iter()
        .map(|(expert, from)| {
            let columns = (from, d.min(from + COLUMNS));
            let mut own = vec![0.0; slabs[expert].rank() * (columns.1 - from)];
            let (tokens, out) = (tokens[expert].as_slice(), own.as_mut_slice());
            run(
                level,
                Gather {
                    d,
                    width,
                    per,
                    tokens,
                    columns,
                    low,
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

#[cfg(test)]
mod tests;
