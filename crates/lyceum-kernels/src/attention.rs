//! Causal attention over ragged sequences: grouped heads, an optional local window, capped scores
//! and cached prefixes.
//!
//! A block of rows of scores at a time: `[t, t]` never exists. The backward pass recomputes them.

use rayon::prelude::*;

use crate::cpu::Level;
use crate::gathered::Gathered;
use crate::gemm::Rounding;
use crate::math::{self, LANES};
use crate::pack::Panels;
use crate::product::{Place, part};
use crate::tile::Output;
use crate::view::View;

/// Shape of the heads: rows of q and the output hold `heads * dim` values, rows of k and v
/// `kv_heads * dim`.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub dim: usize,
    /// Multiplies the scores (1 for GPT-Neo).
    pub scale: f32,
    /// How many last positions, itself included, a query sees; all when absent.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`, if there is a cap.
    pub soft_cap: Option<f32>,
    /// How the factors of the products of many rows may be rounded: they are where that is faster.
    pub rounding: Rounding,
}

impl Heads {
    /// Values per row of q and of the output.
    pub fn width(&self) -> usize {
        self.heads * self.dim
    }

    /// Values per row of k and of v.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.dim
    }

    fn halves(&self, level: Level) -> bool {
        self.rounding == Rounding::Bf16 && level.pairs()
    }

    fn check(&self) {
        let shared = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        assert!(shared, "as many heads to each of keys and values");
    }

    /// Where the head of k and v that serves query head `head` begins in a row.
    #[inline(always)]
    fn kv_at(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads) * self.dim
    }

    /// A product of q and k as a score, and the slope of that.
    #[inline(always)]
    fn score(&self, product: f32) -> (f32, f32) {
        match self.soft_cap {
            None => (product * self.scale, self.scale),
            Some(cap) => {
                let (score, slope) = math::soft_cap(product * self.scale, cap);
                (score, slope * self.scale)
            }
        }
    }
}

/// Some keys and values, rows `[n, kv_heads * dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// One sequence: `rows` queries, and all the keys they may see. The queries are the last `rows`
/// positions of the concatenated parts.
#[derive(Debug, Clone)]
pub struct Span<'a> {
    /// Queries, in order in `q` and `out`.
    pub rows: usize,
    /// Keys and values: prefixes first, the queries' own last.
    pub parts: Vec<Part<'a>>,
}

/// Query rows per block of work.
const BLOCK: usize = 48;
/// From so many rows on, scores are a matrix product; below, a dot product each.
const MANY: usize = 16;

/// From one row of `n` scores to the next: whole spans, and no power of two, of which the rows of a
/// tile would push each other out of the first cache.
fn row_step(n: usize) -> usize {
    let whole = n.next_multiple_of(LANES);
    match whole.is_multiple_of(256) {
        true => whole + LANES,
        false => whole,
    }
}

fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |w| (position + 1).saturating_sub(w))
}

math::dispatch! {
    /// Attention of a few rows, added to `out`: every row of keys and values is read once, for all
    /// heads.
    fn rows_forward(
        q: &[f32], span: &Span<'_>, start: usize, h: &Heads, scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (width, kv_width) = (h.width(), h.kv_width());
        for (i, (q, out)) in q.chunks(width).zip(out.chunks_mut(width)).enumerate() {
            let (from, to) = (first_seen(start + i, h.window), start + i + 1);
            let n = to - from;
            scores.clear();
            scores.resize(h.heads * n, 0.0);
            let keys = span.parts.iter().flat_map(|part| part.k.chunks(kv_width));
            for (at, k) in keys.take(to).skip(from).enumerate() {
                for (head, q) in q.chunks(h.dim).enumerate() {
                    let product = math::dot(q, &k[h.kv_at(head)..][..h.dim]);
                    scores[head * n + at] = h.score(product).0;
                }
            }
            scores.chunks_mut(n).for_each(softmax);
            let values = span.parts.iter().flat_map(|part| part.v.chunks(kv_width));
            for (at, v) in values.take(to).skip(from).enumerate() {
                for (head, out) in out.chunks_mut(h.dim).enumerate() {
                    math::axpy(scores[head * n + at], &v[h.kv_at(head)..][..h.dim], out);
                }
            }
        }
    }
}

/// The keys and values of one head, packed for the products with many rows.
struct Head {
    /// Keys as columns: `[dim, n]`.
    keys: Panels,
    /// Values as rows: `[n, dim]`.
    values: Panels,
}

impl Head {
    fn new(level: Level, span: &Span<'_>, kv_at: usize, h: &Heads) -> Self {
        let (mut k, mut v) = (Vec::new(), Vec::new());
        let k = own_columns(span, |part| part.k, kv_at, h, &mut k);
        let v = own_columns(span, |part| part.v, kv_at, h, &mut v);
        Head {
            keys: Panels::new(k.turned(), level.lanes(), h.halves(level)),
            values: Panels::new(v, level.lanes(), h.halves(level)),
        }
    }
}

/// The columns `[n, dim]` from `kv_at` on of all keys, or values, of a sequence: joined in `joined`
/// if they lie in several parts.
fn own_columns<'a>(
    span: &Span<'a>,
    of: impl Fn(&Part<'a>) -> &'a [f32],
    kv_at: usize,
    h: &Heads,
    joined: &'a mut Vec<f32>,
) -> View<'a> {
    let width = h.kv_width();
    if let [one] = span.parts.as_slice() {
        let rows = of(one);
        return View::new(&rows[kv_at..], rows.len() / width, h.dim, width);
    }
    let rows = span.parts.iter().flat_map(|part| of(part).chunks(width));
    rows.for_each(|row| joined.extend_from_slice(&row[kv_at..kv_at + h.dim]));
    View::whole(joined, joined.len() / h.dim, h.dim)
}

/// The keys that the rows `start..end` may see, from a panel's first on.
fn seen(start: usize, end: usize, h: &Heads, keys: &Panels) -> (usize, usize) {
    let width = 2 * keys.lanes;
    (first_seen(start, h.window) / width * width, end)
}

/// Where a part goes that overwrites what is there.
fn over(y: &mut [f32], stride: usize) -> Place {
    Place {
        y: Output(y.as_mut_ptr()),
        stride,
        adds: false,
    }
}

/// One head's attention over one sequence: `q` and `out` begin at the head in the sequence's first
/// row; row `i` of `out` begins `i * h.width()` values on.
///
/// # Safety
/// `out` must have room for the head in every row, which nothing else may touch meanwhile.
unsafe fn head_forward(
    level: Level,
    q: &[f32],
    (rows, past): (usize, usize),
    head: &Head,
    h: &Heads,
    out: Output,
) {
    let (width, dim) = (h.width(), h.dim);
    let mut scores = Vec::new();
    for from in (0..rows).step_by(BLOCK) {
        let to = rows.min(from + BLOCK);
        let keys = seen(past + from, past + to, h, &head.keys);
        let n = keys.1 - keys.0;
        let step = row_step(n);
        scores.resize((to - from) * step, 0.0);
        let queries = View::new(&q[from * width..], to - from, dim, width);
        let own = Place {
            y: Output(out.0.wrapping_add(from * width)),
            stride: width,
            adds: false,
        };
        // SAFETY: `scores` has room for a row per query, `out` says the caller.
        unsafe {
            let place = over(&mut scores, step);
            part(level, queries, &head.keys, ((0, dim), keys), place);
            weights(&mut scores, step, past + from, keys.0, h, None);
            let shares = View::new(&scores, to - from, n, step);
            part(level, shares, &head.values, (keys, (0, dim)), own);
        }
    }
}

math::dispatch! {
    /// Turns the products of rows `start..`, `step` values apart, with the keys `from..` into
    /// weights, 0 where a row does not see; `slopes` receives the scores' slopes.
    fn weights(
        products: &mut [f32], step: usize, start: usize, from: usize, h: &Heads,
        slopes: Option<&mut [f32]>,
    ) {
        let mut slopes = slopes;
        for (i, row) in products.chunks_mut(step).enumerate() {
            let first = first_seen(start + i, h.window) - from;
            let last = start + i - from;
            let seen = &mut row[first..=last];
            match (h.soft_cap, slopes.as_deref_mut()) {
                (None, _) => seen.iter_mut().for_each(|x| *x *= h.scale),
                (Some(_), None) => seen.iter_mut().for_each(|x| *x = h.score(*x).0),
                (Some(_), Some(slopes)) => {
                    let slopes = &mut slopes[i * step + first..];
                    for (x, slope) in seen.iter_mut().zip(slopes) {
                        (*x, *slope) = h.score(*x);
                    }
                }
            }
            // Whole spans, so that no value is taken on its own.
            let spans = first / LANES * LANES..(last + 1).next_multiple_of(LANES);
            row[spans.start..first].fill(f32::NEG_INFINITY);
            row[last + 1..spans.end].fill(f32::NEG_INFINITY);
            softmax(&mut row[spans]);
            row[..first].fill(0.0);
            row[last + 1..].fill(0.0);
        }
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let top = math::largest(scores);
    for x in scores.iter_mut() {
        *x = math::exp(*x - top);
    }
    let share = 1.0 / math::sum(scores, |x| x);
    for x in scores.iter_mut() {
        *x *= share;
    }
}

/// Attention of `q` `[t, heads * dim]`, packed in the order of `spans`, `[t, heads * dim]` too.
pub fn forward(q: &[f32], spans: &[Span<'_>], h: &Heads) -> Vec<f32> {
    let width = h.width();
    let level = Level::best();
    h.check();
    let mut out: Vec<f32> = Vec::with_capacity(q.len());
    let (mut few, mut many) = (Vec::new(), Vec::new());
    let mut rest = q;
    for span in spans {
        let keys: usize = span.parts.iter().map(|p| p.k.len() / h.kv_width()).sum();
        let past = keys - span.rows;
        let own_out = Output(out.as_mut_ptr().wrapping_add(q.len() - rest.len()));
        let (own, others) = rest.split_at(span.rows * width);
        rest = others;
        match span.rows {
            0..MANY => few.push((own, span, past, own_out)),
            _ => many.extend((0..h.kv_heads).map(|kv| (own, span, past, kv, own_out))),
        }
    }
    assert!(rest.is_empty(), "a span for every query");
    few.into_par_iter()
        .for_each_init(Vec::new, |scores, (q, span, past, out)| {
            // SAFETY: these rows of the result are the span's own.
            let out = unsafe {
                out.0.write_bytes(0, q.len());
                std::slice::from_raw_parts_mut(out.0, q.len())
            };
            rows_forward(q, span, past, h, scores, out)
        });
    let many = many.into_par_iter().with_max_len(1);
    many.for_each(|(q, span, past, kv, out)| {
        let group = h.heads / h.kv_heads;
        let packed = Head::new(level, span, kv * h.dim, h);
        for head in kv * group..(kv + 1) * group {
            let at = head * h.dim;
            let out = Output(out.0.wrapping_add(at));
            // SAFETY: every head of every span has columns of its own.
            unsafe { head_forward(level, &q[at..], (span.rows, past), &packed, h, out) }
        }
    });
    // SAFETY: every span's rows were written, with the columns of all heads.
    unsafe { out.set_len(q.len()) };
    out
}

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

/// Gradients of [`forward`] over `sequences` packed end to end: `q` and `dout` are rows of
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

#[cfg(test)]
mod tests;
