//! The backward pass: a block of rows of scores again, and the gradients that come through it.

use rayon::prelude::*;

use super::{BLOCK, Heads, ScoreRows, over, row_step, seen, weights};
use crate::cpu::Level;
use crate::gathered::Gathered;
use crate::math;
use crate::pack::Panels;
use crate::product::{Interval, OutputTile, PanelBlock, part};
use crate::tile::Output;
use crate::view::View;

/// One sequence in a backward pass: what is read, and where its gradients begin.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    /// Positions before the first query.
    before: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    dout: &'a [f32],
    dq: Output,
    dk: Output,
    dv: Output,
}

/// The backward pass of one head of keys and values, and of the queries it serves.
struct HeadBackward<'a> {
    level: Level,
    s: &'a Sequence<'a>,
    h: &'a Heads,
    /// Offset of the head in a row of keys or values.
    kv_at: usize,
    keys: Panels,
    keys_transposed: Panels,
    values_transposed: Panels,
    /// Gradients of keys and values as columns `[dim, t]`: sums over the queries, transposed at the
    /// end.
    dk: Vec<f32>,
    dv: Vec<f32>,
    /// Scratch of a block: its shares, their gradients and the slopes of the scores.
    p: Vec<f32>,
    d: Vec<f32>,
    slopes: Vec<f32>,
}

impl<'a> HeadBackward<'a> {
    fn new(level: Level, s: &'a Sequence<'a>, kv_head: usize, h: &'a Heads) -> Self {
        let (kv_width, dim, kv_at) = (h.kv_width(), h.dim, kv_head * h.dim);
        let t = s.k.len() / kv_width;
        let panels = |view: View<'_>| Panels::new(view, level.lanes(), h.halves(level));
        let (k, v) = (
            View::new(&s.k[kv_at..], t, dim, kv_width),
            View::new(&s.v[kv_at..], t, dim, kv_width),
        );
        HeadBackward {
            level,
            s,
            h,
            kv_at,
            keys: panels(k),
            keys_transposed: panels(k.transposed()),
            values_transposed: panels(v.transposed()),
            dk: vec![0f32; dim * t],
            dv: vec![0f32; dim * t],
            p: Vec::new(),
            d: Vec::new(),
            slopes: Vec::new(),
        }
    }

    /// Writes the gradients of the queries `from..to` of the query head that begins at `at` in a
    /// row, and adds theirs to the gradients of keys and values.
    ///
    /// # Safety
    /// The dq of the sequence must have room for these queries, whose columns of this head nothing
    /// else may touch meanwhile.
    unsafe fn block(&mut self, at: usize, from: usize, to: usize) {
        let (level, s, h) = (self.level, self.s, self.h);
        let (width, dim, t) = (h.width(), h.dim, self.keys.k);
        let (rows, start) = (to - from, s.before + from);
        let seen = seen(start, s.before + to, h, &self.keys_transposed);
        let n = seen.len();
        let step = row_step(n);
        let (p, d, slopes) = (&mut self.p, &mut self.d, &mut self.slopes);
        p.resize(rows * step, 0.0);
        d.resize(rows * step, 0.0);
        slopes.resize(if h.soft_cap.is_some() { rows * step } else { 0 }, 0.0);
        let queries = View::new(&s.q[from * width + at..], rows, dim, width);
        let douts = View::new(&s.dout[from * width + at..], rows, dim, width);
        let dq = OutputTile {
            y: Output(s.dq.0.wrapping_add(from * width + at)),
            stride: width,
            adds: false,
        };
        let sums = |sum: &mut [f32]| OutputTile {
            y: Output(sum[seen.start..].as_mut_ptr()),
            stride: t,
            adds: true,
        };
        let panels = |view: View<'_>| Panels::new(view, level.lanes(), h.halves(level));
        let head = Interval::new(0, dim);
        let (across, back) = (PanelBlock::new(head, seen), PanelBlock::new(seen, head));
        let down = PanelBlock::new(Interval::new(0, rows), Interval::new(0, n));
        let scores = ScoreRows {
            first: start,
            from: seen.start,
            n,
            step,
        };
        // SAFETY: p and d have room for a row per query, dk and dv for a row of `t` per column of
        // the head, dq says the caller.
        unsafe {
            part(level, queries, &self.keys_transposed, across, over(p, step));
            weights(p, scores, h, Some(slopes));
            part(level, douts, &self.values_transposed, across, over(d, step));
            let shares = panels(View::new(p, rows, n, step));
            part(level, douts.transposed(), &shares, down, sums(&mut self.dv));
            scores_backward(p, d, slopes, scores, h);
            let slope = View::new(d, rows, n, step);
            part(level, slope, &self.keys, back, dq);
            let slope = panels(slope);
            part(
                level,
                queries.transposed(),
                &slope,
                down,
                sums(&mut self.dk),
            );
        }
    }

    /// Writes the gradients of keys and values as rows.
    ///
    /// # Safety
    /// The dk and dv of the sequence must have room for it; nothing else may touch the columns of
    /// this head meanwhile.
    unsafe fn turn(&self) {
        let (kv_width, dim, t) = (self.h.kv_width(), self.h.dim, self.keys.k);
        for (sums, to) in [(&self.dk, self.s.dk), (&self.dv, self.s.dv)] {
            let (columns, mut gathered) = (View::whole(sums, dim, t), Gathered::default());
            for row in 0..t {
                let values = gathered.row(columns.transposed(), row, 0, dim);
                // SAFETY: these columns are this call's own, says the caller.
                unsafe {
                    let to = to.0.add(row * kv_width + self.kv_at);
                    std::ptr::copy_nonoverlapping(values.as_ptr(), to, dim);
                }
            }
        }
    }
}

/// The gradients of one head of keys and values, and of the queries it serves.
///
/// # Safety
/// The outputs of `s` must have room for the sequence, of which the columns of these heads are
/// written; nothing else may touch them meanwhile.
unsafe fn head_backward(level: Level, s: &Sequence<'_>, kv_head: usize, h: &Heads) {
    let (rows, group) = (s.q.len() / h.width(), h.heads / h.kv_heads);
    let mut head_backward = HeadBackward::new(level, s, kv_head, h);
    for head in kv_head * group..(kv_head + 1) * group {
        for from in (0..rows).step_by(BLOCK) {
            let to = rows.min(from + BLOCK);
            // SAFETY: these columns are this call's own, says the caller.
            unsafe { head_backward.block(head * h.dim, from, to) }
        }
    }
    // SAFETY: as above.
    unsafe { head_backward.turn() }
}

math::dispatch! {
    /// Turns `dp` into the gradients of the products: `p (dp - sum p dp) slope`.
    fn scores_backward(
        p: &[f32], dp: &mut [f32], slopes: &[f32], rows: ScoreRows, h: &Heads,
    ) {
        let ScoreRows { n, step, .. } = rows;
        for (i, (p, dp)) in p.chunks(step).zip(dp.chunks_mut(step)).enumerate() {
            let (p, dp) = (&p[..n], &mut dp[..n]);
            let mean = math::dot(p, dp);
            match h.soft_cap {
                None => {
                    for (p, dp) in p.iter().zip(dp) {
                        *dp = p * (*dp - mean) * h.scale;
                    }
                }
                Some(_) => {
                    for ((p, dp), slope) in p.iter().zip(dp).zip(&slopes[i * step..]) {
                        *dp = p * (*dp - mean) * slope;
                    }
                }
            }
        }
    }
}

/// Gradients of q, k and v.
#[derive(Debug)]
pub struct Gradients {
    /// `[t, heads * dim]`, t the queries.
    pub dq: Vec<f32>,
    /// `[t, kv_heads * dim]`.
    pub dk: Vec<f32>,
    /// `[t, kv_heads * dim]`.
    pub dv: Vec<f32>,
}

/// One sequence of a backward pass: of its `keys` positions the `rows` from `before` on are
/// queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Positions before the first query.
    pub before: usize,
    /// Queries.
    pub rows: usize,
    /// Keys: at least as many as there are positions up to the last query.
    pub keys: usize,
}

impl Stretch {
    /// A sequence of `len` queries and as many keys.
    pub fn whole(len: usize) -> Self {
        Stretch {
            before: 0,
            rows: len,
            keys: len,
        }
    }
}

/// Queries, keys and values of sequences packed end to end.
#[derive(Debug, Clone, Copy)]
pub struct Qkv<'a> {
    /// `[t, heads * dim]`, t the queries.
    pub q: &'a [f32],
    /// `[t, kv_heads * dim]`, t the keys.
    pub k: &'a [f32],
    /// `[t, kv_heads * dim]`, t the keys.
    pub v: &'a [f32],
}

/// Gradients of [`super::forward`] over `sequences`, for those of its result, `dout`
/// `[t, heads * dim]`, t the queries.
pub fn backward(qkv: Qkv<'_>, dout: &[f32], sequences: &[Stretch], h: &Heads) -> Gradients {
    let Qkv { q, k, v } = qkv;
    let level = Level::best();
    let queries: usize = sequences.iter().map(|s| s.rows).sum();
    let keys: usize = sequences.iter().map(|s| s.keys).sum();
    assert!(
        q.len() == queries * h.width() && dout.len() == q.len(),
        "a row per query"
    );
    assert!(
        k.len() == keys * h.kv_width() && v.len() == k.len(),
        "a row of keys and values per position"
    );
    h.check();
    // Every job writes all values of its columns.
    let mut dq: Vec<f32> = Vec::with_capacity(q.len());
    let mut dk: Vec<f32> = Vec::with_capacity(k.len());
    let mut dv: Vec<f32> = Vec::with_capacity(v.len());
    let (mut row, mut key) = (0, 0);
    let mut jobs = Vec::new();
    for own in sequences {
        assert!(own.before + own.rows <= own.keys, "a query sees itself");
        let wide = row * h.width()..(row + own.rows) * h.width();
        let range = key * h.kv_width()..(key + own.keys) * h.kv_width();
        let sequence = Sequence {
            before: own.before,
            q: &q[wide.clone()],
            k: &k[range.clone()],
            v: &v[range.clone()],
            dq: Output(dq.as_mut_ptr().wrapping_add(wide.start)),
            dout: &dout[wide],
            dk: Output(dk.as_mut_ptr().wrapping_add(range.start)),
            dv: Output(dv.as_mut_ptr().wrapping_add(range.start)),
        };
        jobs.extend((0..h.kv_heads).map(|head| (sequence, head)));
        (row, key) = (row + own.rows, key + own.keys);
    }
    let jobs = jobs.into_par_iter().with_max_len(1);
    jobs.for_each(|(sequence, head)| {
        // SAFETY: every head of every sequence has columns of its own.
        unsafe { head_backward(level, &sequence, head, h) }
    });
    // SAFETY: the jobs wrote every row's columns of every head.
    unsafe {
        dq.set_len(q.len());
        dk.set_len(k.len());
        dv.set_len(v.len());
    }
    Gradients { dq, dk, dv }
}
