//! The three products: onto an expert's rows, back from them, and summed over its tokens.

use super::Chosen;
use crate::rows::{Work, all_dots, all_sums};
use crate::vector::Vector;

/// Runs of consecutive tokens of `from..to` that chose the same expert at `slot`.
pub(super) fn runs(
    chosen: Chosen<'_>,
    slot: usize,
    from: usize,
    to: usize,
) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut next = from;
    std::iter::from_fn(move || {
        let start = next;
        if start >= to {
            return None;
        }
        let expert = chosen.expert(start, slot);
        while next < to && chosen.expert(next, slot) == expert {
            next += 1;
        }
        Some((expert, start, next))
    })
}

/// `out[token, slot, rank] = rows of the chosen expert . x[token]`.
pub(super) struct Project<'a> {
    pub(super) rows: &'a [f32],
    pub(super) starts: &'a [usize],
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) chosen: Chosen<'a>,
    pub(super) first: usize,
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Work for Project<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Project {
            rows,
            starts,
            d,
            width,
            chosen,
            first,
            x,
            out,
        } = self;
        let (step, t) = (chosen.per * width, x.len() / d);
        for slot in 0..chosen.per {
            for (expert, from, to) in runs(chosen, slot, first, first + t) {
                let own = &rows[starts[expert] * d..starts[expert + 1] * d];
                let (from, to) = (from - first, to - first);
                let out = &mut out[from * step + slot * width..];
                // SAFETY: the caller vouches for the level.
                unsafe { all_dots::<V>(&x[from * d..to * d], own, d, out, step) };
            }
        }
    }
}

/// `y[token] += sum over slot and rank of low[token, slot, rank] * rows of the chosen expert`.
pub(super) struct Spread<'a> {
    pub(super) rows: &'a [f32],
    pub(super) starts: &'a [usize],
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) chosen: Chosen<'a>,
    pub(super) first: usize,
    pub(super) low: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Work for Spread<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Spread {
            rows,
            starts,
            d,
            width,
            chosen,
            first,
            low,
            y,
        } = self;
        let (step, t) = (chosen.per * width, y.len() / d);
        for slot in 0..chosen.per {
            for (expert, from, to) in runs(chosen, slot, first, first + t) {
                let own = &rows[starts[expert] * d..starts[expert + 1] * d];
                let (from, to) = (from - first, to - first);
                let weight =
                    |token: usize, rank: usize| low[(from + token) * step + slot * width + rank];
                // SAFETY: the caller vouches for the level.
                unsafe { all_sums::<V>(weight, (own, d), (0, d), &mut y[from * d..to * d]) };
            }
        }
    }
}

/// `out[rank] += sum over an expert's tokens of low[token, slot, rank] * x[token]`, some columns.
pub(super) struct Gather<'a> {
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) per: usize,
    /// Runs of tokens that chose the expert: slot, first, past the last.
    pub(super) tokens: &'a [(usize, usize, usize)],
    pub(super) columns: (usize, usize),
    pub(super) low: &'a [f32],
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Work for Gather<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Gather { d, width, per, .. } = self;
        for &(slot, from, to) in self.tokens {
            let at = |token: usize| ((from + token) * per + slot) * width;
            let weight = |rank: usize, token: usize| self.low[at(token) + rank];
            let x = (&self.x[from * d..to * d], d);
            // SAFETY: the caller vouches for the level.
            unsafe { all_sums::<V>(weight, x, self.columns, self.out) };
        }
    }
}
