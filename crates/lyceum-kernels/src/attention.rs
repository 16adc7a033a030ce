//! Causal attention over ragged sequences: grouped heads, an optional local window, capped scores
//! and cached prefixes.
//!
//! A block of rows of scores at a time: `[t, t]` never exists. The backward pass recomputes them.

mod backward;
mod few;

use half::bf16;
use rayon::prelude::*;

pub use self::backward::{Gradients, Qkv, Stretch, backward};
use crate::cpu::Level;
use crate::gemm::Rounding;
use crate::math::{self, LANES, Number};
use crate::pack::Panels;
use crate::product::{Interval, OutputTile, PanelBlock, part};
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
    /// Sliding window: the number of last positions, its own included, that a query attends to; all
    /// when absent.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(similarity / cap)`, if there is a cap.
    pub soft_cap: Option<f32>,
    /// Rounding permitted in products of many rows, applied where it is faster.
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

    /// Returns `true` if products of many rows round keys and values to bf16 on this CPU, so that a
    /// cache may store them rounded.
    pub fn rounds(&self) -> bool {
        self.halves(Level::best())
    }

    fn check(&self) {
        let shared = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        assert!(shared, "as many heads to each of keys and values");
    }

    /// The offset in a row of the head of k and v that serves query head `head`.
    #[inline(always)]
    fn kv_at(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads) * self.dim
    }

    /// A product of q and k as a similarity, and the slope of that.
    #[inline(always)]
    fn similarity(&self, product: f32) -> (f32, f32) {
        match self.soft_cap {
            None => (product * self.scale, self.scale),
            Some(cap) => {
                let (similarity, slope) = math::soft_cap(product * self.scale, cap);
                (similarity, slope * self.scale)
            }
        }
    }
}

/// Keys or values, rows `[n, kv_heads * dim]`, as they are kept.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// As they were computed.
    F32(&'a [f32]),
    /// Rounded: half as much to keep and to read.
    Bf16(&'a [bf16]),
}

impl Rows<'_> {
    fn len(&self) -> usize {
        match self {
            Rows::F32(rows) => rows.len(),
            Rows::Bf16(rows) => rows.len(),
        }
    }
}

/// Some keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Keys.
    pub k: Rows<'a>,
    /// Values.
    pub v: Rows<'a>,
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
            keys: Panels::new(k.transposed(), level.lanes(), h.halves(level)),
            values: Panels::new(v, level.lanes(), h.halves(level)),
        }
    }
}

/// The columns `[n, dim]` from `kv_at` on of all keys, or values, of a sequence: joined in `joined`
/// if they lie in several parts.
fn own_columns<'a>(
    span: &Span<'a>,
    of: impl Fn(&Part<'a>) -> Rows<'a>,
    kv_at: usize,
    h: &Heads,
    joined: &'a mut Vec<f32>,
) -> View<'a> {
    let width = h.kv_width();
    let own = kv_at..kv_at + h.dim;
    for part in &span.parts {
        match of(part) {
            Rows::F32(rows) if span.parts.len() == 1 => {
                return View::new(&rows[kv_at..], rows.len() / width, h.dim, width);
            }
            Rows::F32(rows) => {
                let rows = rows.chunks(width);
                rows.for_each(|row| joined.extend_from_slice(&row[own.clone()]));
            }
            Rows::Bf16(rows) => {
                let rows = rows.chunks(width);
                let values = rows.flat_map(|row| row[own.clone()].iter().map(|x| x.value()));
                joined.extend(values);
            }
        }
    }
    View::whole(joined, joined.len() / h.dim, h.dim)
}

/// The keys that the rows `start..end` may see, from a panel's first on.
fn seen(start: usize, end: usize, h: &Heads, keys: &Panels) -> Interval {
    let width = 2 * keys.lanes;
    Interval::new(first_seen(start, h.window) / width * width, end)
}

/// The destination of a part that overwrites its elements.
fn over(y: &mut [f32], stride: usize) -> OutputTile {
    OutputTile {
        y: Output(y.as_mut_ptr()),
        stride,
        adds: false,
    }
}

/// The queries of a sequence.
#[derive(Clone, Copy)]
struct Queries<'a> {
    q: &'a [f32],
    rows: usize,
    /// Positions before the first one.
    past: usize,
}

/// A block of rows of scores.
#[derive(Clone, Copy)]
struct ScoreRows {
    /// The position of the first row's query.
    first: usize,
    /// The first key of every row.
    from: usize,
    /// Keys.
    n: usize,
    /// Values from one row to the next.
    step: usize,
}

/// One head's attention over one sequence: `q` and `out` begin at the head in the sequence's first
/// row; row `i` of `out` begins `i * h.width()` values on.
///
/// # Safety
/// `out` must have room for the head in every row, which nothing else may touch meanwhile.
unsafe fn head_forward(level: Level, queries: Queries<'_>, head: &Head, h: &Heads, out: Output) {
    let Queries { q, rows, past } = queries;
    let (width, dim) = (h.width(), h.dim);
    let mut scores = Vec::new();
    for from in (0..rows).step_by(BLOCK) {
        let to = rows.min(from + BLOCK);
        let keys = seen(past + from, past + to, h, &head.keys);
        let n = keys.len();
        let step = row_step(n);
        scores.resize((to - from) * step, 0.0);
        let queries = View::new(&q[from * width..], to - from, dim, width);
        let own = OutputTile {
            y: Output(out.0.wrapping_add(from * width)),
            stride: width,
            adds: false,
        };
        // SAFETY: `scores` has room for a row per query, `out` says the caller.
        unsafe {
            let place = over(&mut scores, step);
            let across = PanelBlock::new(Interval::new(0, dim), keys);
            part(level, queries, &head.keys, across, place);
            let rows = ScoreRows {
                first: past + from,
                from: keys.start,
                n,
                step,
            };
            weights(&mut scores, rows, h, None);
            let shares = View::new(&scores, to - from, n, step);
            let back = PanelBlock::new(keys, Interval::new(0, dim));
            part(level, shares, &head.values, back, own);
        }
    }
}

math::dispatch! {
    /// Turns products of queries and keys into weights, 0 where a row does not see; `slopes`
    /// receives the scores' slopes.
    fn weights(
        products: &mut [f32], rows: ScoreRows, h: &Heads, slopes: Option<&mut [f32]>,
    ) {
        let ScoreRows { first: start, from, step, .. } = rows;
        let mut slopes = slopes;
        for (i, row) in products.chunks_mut(step).enumerate() {
            let first = first_seen(start + i, h.window) - from;
            let last = start + i - from;
            let seen = &mut row[first..=last];
            match (h.soft_cap, slopes.as_deref_mut()) {
                (None, _) => {
                    for x in seen {
                        *x *= h.scale;
                    }
                }
                (Some(_), None) => {
                    for x in seen {
                        *x = h.similarity(*x).0;
                    }
                }
                (Some(_), Some(slopes)) => {
                    let slopes = &mut slopes[i * step + first..];
                    for (x, slope) in seen.iter_mut().zip(slopes) {
                        (*x, *slope) = h.similarity(*x);
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
            let rows = span.rows;
            few::forward(Queries { q, rows, past }, span, h, scores, out)
        });
    let many = many.into_par_iter().with_max_len(1);
    many.for_each(|(q, span, past, kv, out)| {
        let group = h.heads / h.kv_heads;
        let packed = Head::new(level, span, kv * h.dim, h);
        for head in kv * group..(kv + 1) * group {
            let at = head * h.dim;
            let out = Output(out.0.wrapping_add(at));
            let (q, rows) = (&q[at..], span.rows);
            // SAFETY: every head of every span has columns of its own.
            unsafe { head_forward(level, Queries { q, rows, past }, &packed, h, out) }
        }
    });
    // SAFETY: every span's rows were written, with the columns of all heads.
    unsafe { out.set_len(q.len()) };
    out
}

#[cfg(test)]
mod tests;
