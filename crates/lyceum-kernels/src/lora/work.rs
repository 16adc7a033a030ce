//! The three products: onto an expert's rows, back from them, and summed over its tokens.

use std::ops::Range;

use super::{SlabTable, TopK};
use crate::rows::{Work, all_dots, all_sums};
use crate::vector::Vector;

/// Runs of consecutive tokens of `from..to` that chose the same expert at `slot`.
pub(super) fn segments(
    chosen: TopK<'_>,
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
    pub(super) chosen: TopK<'a>,
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
    fn segments(&self, slot: usize, t: usize) -> impl Iterator<Item = (&'a [f32], usize, usize)> {
        let own = *self;
        segments(own.chosen, slot, own.first, own.first + t)
            .map(move |(expert, from, to)| (own.of(expert), from - own.first, to - own.first))
    }
}

/// `out[token, slot, rank] = rows of the chosen expert . x[token]`.
pub(super) struct Shrink<'a> {
    pub(super) stack: Stack<'a>,
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Work for Shrink<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Shrink { stack, x, out } = self;
        let (d, width) = (stack.d(), stack.table.width());
        let step = stack.chosen.k * width;
        for slot in 0..stack.chosen.k {
            for (own, from, to) in stack.segments(slot, x.len() / d) {
                let out = &mut out[from * step + slot * width..];
                // SAFETY: the caller vouches for the level.
                unsafe { all_dots::<V>(&x[from * d..to * d], own, d, out, step) };
            }
        }
    }
}

/// `y[token] += sum over slot and rank of h[token, slot, rank] * rows of the chosen expert`.
pub(super) struct Expand<'a> {
    pub(super) stack: Stack<'a>,
    pub(super) h: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Work for Expand<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Expand { stack, h, y } = self;
        let (d, width) = (stack.d(), stack.table.width());
        let step = stack.chosen.k * width;
        for slot in 0..stack.chosen.k {
            for (own, from, to) in stack.segments(slot, y.len() / d) {
                let weight =
                    |token: usize, rank: usize| h[(from + token) * step + slot * width + rank];
                // SAFETY: the caller vouches for the level.
                unsafe { all_sums::<V>(weight, own, d, 0..d, &mut y[from * d..to * d]) };
            }
        }
    }
}

/// `out[rank] += sum over an expert's tokens of h[token, slot, rank] * x[token]`, some columns.
pub(super) struct Gather<'a> {
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) k: usize,
    /// Runs of tokens that chose the expert: slot, first, past the last.
    pub(super) tokens: &'a [(usize, usize, usize)],
    pub(super) columns: Range<usize>,
    pub(super) h: &'a [f32],
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Work for Gather<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Gather { d, width, k, .. } = self;
        for &(slot, from, to) in self.tokens {
            let at = |token: usize| ((from + token) * k + slot) * width;
            let weight = |rank: usize, token: usize| self.h[at(token) + rank];
            let x = &self.x[from * d..to * d];
            // SAFETY: the caller vouches for the level.
            unsafe { all_sums::<V>(weight, x, d, self.columns.clone(), self.out) };
        }
    }
}
