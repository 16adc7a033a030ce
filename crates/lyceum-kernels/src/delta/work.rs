//! The three products: onto an expert's rows, back from them, and summed over its tokens.

use super::{Chosen, SlabTable};
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

/// Which of an expert's two factors.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// A, `[rank, d_in]`.
    Down,
    /// B transposed, `[rank, d_out]`.
    Up,
}

/// One side of the experts' factors, as the tokens from `first` on choose them.
#[derive(Clone, Copy)]
pub(super) struct Stack<'a> {
    pub(super) table: &'a SlabTable,
    pub(super) side: Side,
    pub(super) chosen: Chosen<'a>,
    pub(super) first: usize,
}

impl<'a> Stack<'a> {
    /// Values per row.
    #[inline(always)]
    fn d(&self) -> usize {
        match self.side {
            Side::Down => self.table.widths().0,
            Side::Up => self.table.widths().1,
        }
    }

    #[inline(always)]
    fn of(&self, expert: usize) -> &'a [f32] {
        match self.side {
            Side::Down => self.table.down(expert),
            Side::Up => self.table.up(expert),
        }
    }

    /// Runs of `t` tokens that chose the same expert at `slot`, counted from the first.
    #[inline(always)]
    fn runs(&self, slot: usize, t: usize) -> impl Iterator<Item = (&'a [f32], usize, usize)> {
        let own = *self;
        runs(own.chosen, slot, own.first, own.first + t)
            .map(move |(expert, from, to)| (own.of(expert), from - own.first, to - own.first))
    }
}

/// `out[token, slot, rank] = rows of the chosen expert . x[token]`.
pub(super) struct Project<'a> {
    pub(super) stack: Stack<'a>,
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Work for Project<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Project { stack, x, out } = self;
        let (d, width) = (stack.d(), stack.table.width());
        let step = stack.chosen.per * width;
        for slot in 0..stack.chosen.per {
            for (own, from, to) in stack.runs(slot, x.len() / d) {
                let out = &mut out[from * step + slot * width..];
                // SAFETY: the caller vouches for the level.
                unsafe { all_dots::<V>(&x[from * d..to * d], own, d, out, step) };
            }
        }
    }
}

/// `y[token] += sum over slot and rank of low[token, slot, rank] * rows of the chosen expert`.
pub(super) struct Spread<'a> {
    pub(super) stack: Stack<'a>,
    pub(super) low: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Work for Spread<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Spread { stack, low, y } = self;
        let (d, width) = (stack.d(), stack.table.width());
        let step = stack.chosen.per * width;
        for slot in 0..stack.chosen.per {
            for (own, from, to) in stack.runs(slot, y.len() / d) {
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
