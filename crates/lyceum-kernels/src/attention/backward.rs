//! The backward pass: a block of rows of scores again, and the gradients that come through it.

use rayon::prelude::*;

use super::{BLOCK, Heads, over, row_step, seen, weights};
use crate::cpu::Level;
use crate::gathered::Gathered;
use crate::math;
use crate::pack::Panels;
use crate::product::{Place, part};
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

/// The gradients of one head of keys and values, and of the queries it serves.
///
/// # Safety
/// The outputs of `s` must have room for the sequence, of which the columns of these heads are
/// written; nothing else may touch them meanwhile.
unsafe fn head_backward(level: Level, s: &Sequence<'_>, kv_head: usize, h: &Heads) {
    let (width, kv_width, dim) = (h.width(), h.kv_width(), h.dim);
    let (rows, t) = (s.q.len() / width, s.k.len() / kv_width);
    let (kv_at, group) = (kv_head * dim, h.heads / h.kv_heads);
    let panels = |view: View<'_>| Panels::new(view, level.lanes(), h.halves(level));
    let (k, v) = (
        View::new(&s.k[kv_at..], t, dim, kv_width),
        View::new(&s.v[kv_at..], t, dim, kv_width),
    );
    let (keys, keys_turned, values_turned) = (panels(k), panels(k.turned()), panels(v.turned()));
    // Gradients of keys and values as columns: sums over the queries, turned at the end.
    let (mut dk, mut dv) = (vec![0f32; dim * t], vec![0f32; dim * t]);
    let (mut p, mut d, mut slopes) = (Vec::new(), Vec::new(), Vec::new());
    for head in kv_head * group..(kv_head + 1) * group {
        let at = head * dim;
        for from in (0..rows).step_by(BLOCK) {
            let to = rows.min(from + BLOCK);
            let (rows, start) = (to - from, s.before + from);
            let seen = seen(start, s.before + to, h, &keys_turned);
            let n = seen.1 - seen.0;
            let step = row_step(n);
            p.resize(rows * step, 0.0);
            d.resize(rows * step, 0.0);
            slopes.resize(if h.soft_cap.is_some() { rows * step } else { 0 }, 0.0);
            let queries = View::new(&s.q[from * width + at..], rows, dim, width);
            let douts = View::new(&s.dout[from * width + at..], rows, dim, width);
            let dq = Place {
                y: Output(s.dq.0.wrapping_add(from * width + at)),
                stride: width,
                adds: false,
            };
            let sums = |sum: &mut [f32]| Place {
                y: Output(sum[seen.0..].as_mut_ptr()),
                stride: t,
                adds: true,
            };
            // SAFETY: p and d have room for a row per query, dk and dv for a row of `t`
            // per column of the head, dq says the caller.
            unsafe {
                part(
                    level,
                    queries,
                    &keys_turned,
                    ((0, dim), seen),
                    over(&mut p, step),
                );
                weights(&mut p, step, start, seen.0, h, Some(&mut slopes));
                part(
                    level,
                    douts,
                    &values_turned,
                    ((0, dim), seen),
                    over(&mut d, step),
                );
                let shares = panels(View::new(&p, rows, n, step));
                part(
                    level,
                    douts.turned(),
                    &shares,
                    ((0, rows), (0, n)),
                    sums(&mut dv),
                );
                scores_backward(&p, &mut d, &slopes, (n, step), h);
                let slope = View::new(&d, rows, n, step);
                part(level, slope, &keys, (seen, (0, dim)), dq);
                let slope = panels(slope);
                part(
                    level,
                    queries.turned(),
                    &slope,
                    ((0, rows), (0, n)),
                    sums(&mut dk),
                );
            }
        }
    }
    for (sums, to) in [(&dk, s.dk), (&dv, s.dv)] {
        let (columns, mut gathered) = (View::whole(sums, dim, t), Gathered::default());
        for row in 0..t {
            let values = gathered.row(columns.turned(), row, (0, dim));
            // SAFETY: these columns are this call's own, says the caller.
            unsafe {
                let to = to.0.add(row * kv_width + kv_at);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, dim);
            }
        }
    }
}

math::dispatch! {
    /// Turns `dp`, rows of `n` values `step` apart, into the gradients of the products:
    /// `p (dp - sum p dp) slope`.
    fn scores_backward(
        p: &[f32], dp: &mut [f32], slopes: &[f32], row: (usize, usize), h: &Heads,
    ) {
        let (n, step) = row;
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

/// Gradients of [`super::forward`] over `sequences` packed end to end: `q` and `dout` are rows of
/// `heads * dim` values for the queries, k and v of `kv_heads * dim` for the keys.
pub fn backward(
    (q, k, v): (&[f32], &[f32], &[f32]),
    dout: &[f32],
    sequences: &[Stretch],
    h: &Heads,
) -> Gradients {
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
