//! Causal attention over ragged sequences: grouped heads, an optional local window, capped scores
//! and cached prefixes.
//!
//! A block of rows of scores at a time: `[t, t]` never exists. The backward pass recomputes them.

use rayon::prelude::*;

use crate::math;
use crate::strided::product;
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

impl<'a> Span<'a> {
    /// The rows of keys `from..to` in each part: the first one's number, the values, how many.
    fn keys(
        &self,
        from: usize,
        to: usize,
        width: usize,
        pick: fn(&Part<'a>) -> &'a [f32],
    ) -> impl Iterator<Item = (usize, &'a [f32], usize)> {
        let mut base = 0;
        self.parts.iter().filter_map(move |part| {
            let (values, n) = (pick(part), part.k.len() / width);
            let (first, last) = (from.max(base), to.min(base + n));
            let own = first.saturating_sub(base)..last.saturating_sub(base);
            base += n;
            (first < last).then(|| {
                (
                    first,
                    &values[own.start * width..own.end * width],
                    own.len(),
                )
            })
        })
    }
}

/// Query rows per block of work.
const BLOCK: usize = 64;
/// From so many rows on, scores are a matrix product; below, a dot product each.
const MANY: usize = 8;

fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |w| (position + 1).saturating_sub(w))
}

math::dispatch! {
    fn rows_forward(
        q: &[f32], span: &Span<'_>, start: usize, h: &Heads, scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (width, kv_width) = (h.width(), h.kv_width());
        for (i, (q, out)) in q.chunks(width).zip(out.chunks_mut(width)).enumerate() {
            let position = start + i;
            let from = first_seen(position, h.window);
            for head in 0..h.heads {
                let (at, kv_at) = (head * h.dim, h.kv_at(head));
                let q = &q[at..at + h.dim];
                scores.clear();
                let mut base = 0;
                for part in &span.parts {
                    let n = part.k.len() / kv_width;
                    for j in from.max(base)..(position + 1).min(base + n) {
                        let k = &part.k[(j - base) * kv_width + kv_at..][..h.dim];
                        scores.push(h.score(math::dot(q, k)).0);
                    }
                    base += n;
                }
                softmax(scores);
                let out = &mut out[at..at + h.dim];
                out.fill(0.0);
                let (mut base, mut next) = (0, 0);
                for part in &span.parts {
                    let n = part.v.len() / kv_width;
                    for j in from.max(base)..(position + 1).min(base + n) {
                        let v = &part.v[(j - base) * kv_width + kv_at..][..h.dim];
                        math::axpy(scores[next], v, out);
                        next += 1;
                    }
                    base += n;
                }
            }
        }
    }
}

/// [`rows_forward`] by matrix products, for many rows.
fn block_forward(
    q: &[f32],
    span: &Span<'_>,
    start: usize,
    h: &Heads,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let (width, kv_width) = (h.width(), h.kv_width());
    let rows = q.len() / width;
    let (from, to) = (first_seen(start, h.window), start + rows);
    scores.resize(rows * (to - from), 0.0);
    for head in 0..h.heads {
        let (at, kv_at) = (head * h.dim, h.kv_at(head));
        let queries = View::new(&q[at..], rows, h.dim, width);
        for (first, k, n) in span.keys(from, to, kv_width, |part| part.k) {
            let keys = View::new(&k[kv_at..], n, h.dim, kv_width);
            let out = &mut scores[first - from..];
            product(queries, keys.turned(), out, to - from, false);
        }
        weights(scores, to - from, start, from, h, None);
        let out = &mut out[at..];
        for (i, (first, v, n)) in span.keys(from, to, kv_width, |part| part.v).enumerate() {
            let shares = View::new(&scores[first - from..], rows, n, to - from);
            product(
                shares,
                View::new(&v[kv_at..], n, h.dim, kv_width),
                out,
                width,
                i > 0,
            );
        }
    }
}

math::dispatch! {
    /// Turns the products of rows `start..` with the `n` keys `from..` into weights, 0 where a row does
    /// not see; `slopes` receives the scores' slopes.
    fn weights(
        products: &mut [f32], n: usize, start: usize, from: usize, h: &Heads,
        slopes: Option<&mut [f32]>,
    ) {
        let mut slopes = slopes;
        for (i, row) in products.chunks_mut(n).enumerate() {
            let first = first_seen(start + i, h.window) - from;
            let last = start + i - from;
            row[..first].fill(0.0);
            row[last + 1..].fill(0.0);
            let seen = &mut row[first..=last];
            match (h.soft_cap, slopes.as_deref_mut()) {
                (None, _) => seen.iter_mut().for_each(|x| *x *= h.scale),
                (Some(_), None) => seen.iter_mut().for_each(|x| *x = h.score(*x).0),
                (Some(_), Some(slopes)) => {
                    let slopes = &mut slopes[i * n + first..];
                    for (x, slope) in seen.iter_mut().zip(slopes) {
                        (*x, *slope) = h.score(*x);
                    }
                }
            }
            softmax(seen);
        }
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let top = scores.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    scores.iter_mut().for_each(|x| *x = math::exp(*x - top));
    let total: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|x| *x /= total);
}

/// Attention of `q` `[t, heads * dim]`, packed in the order of `spans`, into `out` (same shape).
pub fn forward(q: &[f32], spans: &[Span<'_>], h: &Heads, out: &mut [f32]) {
    let width = h.width();
    let mut jobs = Vec::new();
    let (mut q, mut out) = (q, out);
    for span in spans {
        let keys: usize = span.parts.iter().map(|p| p.k.len() / h.kv_width()).sum();
        let mut start = keys - span.rows;
        let (own_q, rest_q) = q.split_at(span.rows * width);
        let (own_out, rest_out) = out.split_at_mut(span.rows * width);
        (q, out) = (rest_q, rest_out);
        for (q, out) in own_q
            .chunks(BLOCK * width)
            .zip(own_out.chunks_mut(BLOCK * width))
        {
            jobs.push((q, span, start, out));
            start += q.len() / width;
        }
    }
    jobs.into_par_iter()
        .for_each_init(Vec::new, |scores, (q, span, start, out)| {
            match q.len() / width {
                0..MANY => rows_forward(q, span, start, h, scores, out),
                _ => block_forward(q, span, start, h, scores, out),
            }
        });
}

/// What one sequence's backward pass reads and writes.
struct Sequence<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    dout: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// A block's weights, the gradients of its scores, and the scores' slopes.
#[derive(Default)]
struct Blocks {
    p: Vec<f32>,
    d: Vec<f32>,
    slopes: Vec<f32>,
}

fn sequence_backward(s: &mut Sequence<'_>, h: &Heads, blocks: &mut Blocks) {
    let (width, kv_width) = (h.width(), h.kv_width());
    let t = s.q.len() / width;
    s.dk.fill(0.0);
    s.dv.fill(0.0);
    for head in 0..h.heads {
        let (at, kv_at) = (head * h.dim, h.kv_at(head));
        for start in (0..t).step_by(BLOCK) {
            let (from, to) = (first_seen(start, h.window), t.min(start + BLOCK));
            let (rows, n) = (to - start, to - from);
            let queries = View::new(&s.q[start * width + at..], rows, h.dim, width);
            let douts = View::new(&s.dout[start * width + at..], rows, h.dim, width);
            let keys = View::new(&s.k[from * kv_width + kv_at..], n, h.dim, kv_width);
            let values = View::new(&s.v[from * kv_width + kv_at..], n, h.dim, kv_width);
            let Blocks { p, d, slopes } = blocks;
            p.resize(rows * n, 0.0);
            d.resize(rows * n, 0.0);
            slopes.resize(rows * n, 0.0);
            product(queries, keys.turned(), p, n, false);
            weights(p, n, start, from, h, Some(slopes));
            product(douts, values.turned(), d, n, false);
            let shares = View::new(p, rows, n, n);
            let dv = &mut s.dv[from * kv_width + kv_at..];
            product(shares.turned(), douts, dv, kv_width, true);
            scores_backward(p, d, slopes, n, h);
            let d = View::new(d, rows, n, n);
            product(d, keys, &mut s.dq[start * width + at..], width, false);
            let dk = &mut s.dk[from * kv_width + kv_at..];
            product(d.turned(), queries, dk, kv_width, true);
        }
    }
}

math::dispatch! {
    /// Turns `dp`, rows of `n`, into the gradients of the products: `p (dp - sum p dp) slope`.
    fn scores_backward(p: &[f32], dp: &mut [f32], slopes: &[f32], n: usize, h: &Heads) {
        for (i, (p, dp)) in p.chunks(n).zip(dp.chunks_mut(n)).enumerate() {
            let mean = math::dot(p, dp);
            match h.soft_cap {
                None => {
                    for (p, dp) in p.iter().zip(dp) {
                        *dp = p * (*dp - mean) * h.scale;
                    }
                }
                Some(_) => {
                    for ((p, dp), slope) in p.iter().zip(dp).zip(&slopes[i * n..]) {
                        *dp = p * (*dp - mean) * slope;
                    }
                }
            }
        }
    }
}

/// Gradients of [`forward`] over whole sequences of `lens` tokens packed end to end: `q`, `dout`
/// and `dq` are `[t, heads * dim]`, the others `[t, kv_heads * dim]`.
#[expect(
    clippy::too_many_arguments,
    reason = "three inputs, their gradients and the output's"
)]
pub fn backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    lens: &[usize],
    h: &Heads,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (mut dq, mut dk, mut dv) = (dq, dk, dv);
    let mut start = 0;
    let mut jobs = Vec::new();
    for len in lens {
        let wide = start * h.width()..(start + len) * h.width();
        let range = start * h.kv_width()..(start + len) * h.kv_width();
        let (own_dq, rest_dq) = dq.split_at_mut(wide.len());
        let (own_dk, rest_dk) = dk.split_at_mut(range.len());
        let (own_dv, rest_dv) = dv.split_at_mut(range.len());
        (dq, dk, dv) = (rest_dq, rest_dk, rest_dv);
        jobs.push(Sequence {
            q: &q[wide.clone()],
            k: &k[range.clone()],
            v: &v[range],
            dout: &dout[wide],
            dq: own_dq,
            dk: own_dk,
            dv: own_dv,
        });
        start += len;
    }
    jobs.into_par_iter()
        .for_each_init(Blocks::default, |blocks, mut s| {
            sequence_backward(&mut s, h, blocks)
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let next = |s: &mut u32| {
            *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*s >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..n).scan(seed, |s, _| next(s)).collect()
    }

    /// (heads, kv_heads, window, soft cap) of the shapes checked.
    const SHAPES: [(usize, usize, Option<usize>, Option<f32>); 6] = [
        (3, 3, None, None),
        (3, 3, Some(1), None),
        (3, 3, Some(3), None),
        (4, 2, None, None),
        (3, 1, Some(4), Some(0.8)),
        (6, 2, None, Some(2.0)),
    ];

    fn shape(
        (heads, kv_heads, window, soft_cap): (usize, usize, Option<usize>, Option<f32>),
    ) -> Heads {
        Heads {
            heads,
            kv_heads,
            dim: 5,
            scale: 0.7,
            window,
            soft_cap,
        }
    }

    /// One sequence in f64, straight from the formula.
    fn naive(q: &[f32], k: &[f32], v: &[f32], h: &Heads) -> Vec<f64> {
        let t = q.len() / h.width();
        let mut out = vec![0.0; q.len()];
        for head in 0..h.heads {
            let group = head / (h.heads / h.kv_heads);
            for i in 0..t {
                let from = h.window.map_or(0, |w| (i + 1).saturating_sub(w));
                let kv = |m: &[f32], row: usize, c: usize| {
                    f64::from(m[row * h.kv_width() + group * h.dim + c])
                };
                let q = |c: usize| f64::from(q[i * h.width() + head * h.dim + c]);
                let score = |j: usize| -> f64 {
                    let product = (0..h.dim).map(|c| q(c) * kv(k, j, c)).sum::<f64>();
                    let score = product * f64::from(h.scale);
                    let cap = h.soft_cap.map(f64::from);
                    cap.map_or(score, |cap| cap * (score / cap).tanh())
                };
                let e: Vec<f64> = (from..=i).map(|j| score(j).exp()).collect();
                let total: f64 = e.iter().sum();
                for c in 0..h.dim {
                    let sum: f64 = e.iter().zip(from..).map(|(e, j)| e * kv(v, j, c)).sum();
                    out[i * h.width() + head * h.dim + c] = sum / total;
                }
            }
        }
        out
    }

    #[test]
    fn ragged_grouped_windowed_and_capped_attention_equals_the_formula() {
        for h in SHAPES.map(shape) {
            let (width, kv) = (h.width(), h.kv_width());
            let lens = [1usize, 7, 140, 0, 3, 64];
            let t: usize = lens.iter().sum();
            let (q, k, v) = (values(t * width, 1), values(t * kv, 2), values(t * kv, 3));
            let (mut spans, mut want, mut start) = (Vec::new(), Vec::new(), 0);
            for len in lens {
                let end = start + len;
                // Split the keys in two parts, as a cache with a prefix does.
                let cut = start + len / 2;
                let part = |from: usize, to: usize| Part {
                    k: &k[from * kv..to * kv],
                    v: &v[from * kv..to * kv],
                };
                let parts = vec![part(start, cut), part(cut, end)];
                spans.push(Span { rows: len, parts });
                let whole = part(start, end);
                want.extend(naive(&q[start * width..end * width], whole.k, whole.v, &h));
                start = end;
            }
            let mut out = vec![0.0; t * width];
            forward(&q, &spans, &h, &mut out);
            for (a, b) in out.iter().zip(&want) {
                assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
            }
            // The last rows of a longer past.
            let part = Part {
                k: &k[kv..8 * kv],
                v: &v[kv..8 * kv],
            };
            let last = Span {
                rows: 2,
                parts: vec![part],
            };
            let mut tail = vec![0.0; 2 * width];
            forward(&q[6 * width..8 * width], &[last], &h, &mut tail);
            for (a, b) in tail.iter().zip(&want[6 * width..8 * width]) {
                assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        for h in SHAPES.map(shape) {
            let lens = [2usize, 5];
            let (n, m) = (7 * h.width(), 7 * h.kv_width());
            let (q, k, v, w) = (values(n, 1), values(m, 2), values(m, 3), values(n, 4));
            let objective = |q: &[f32], k: &[f32], v: &[f32]| -> f64 {
                let (cut, kv_cut) = (2 * h.width(), 2 * h.kv_width());
                let mut out = naive(&q[..cut], &k[..kv_cut], &v[..kv_cut], &h);
                out.extend(naive(&q[cut..], &k[kv_cut..], &v[kv_cut..], &h));
                out.iter().zip(&w).map(|(o, w)| o * f64::from(*w)).sum()
            };
            let (mut dq, mut dk, mut dv) = (vec![0.0; n], vec![0.0; m], vec![0.0; m]);
            backward(&q, &k, &v, &w, &lens, &h, &mut dq, &mut dk, &mut dv);
            let nudge = |m: &[f32], i: usize, by: f32| {
                let mut m = m.to_vec();
                m[i] += by;
                m
            };
            let e = 1e-2;
            let near = |a: f32, up: f64, down: f64| {
                let b = (up - down) / (2.0 * f64::from(e));
                assert!((f64::from(a) - b).abs() < 1e-3, "{h:?} {a} {b}");
            };
            for (i, dq) in dq.iter().enumerate() {
                let at = |by| objective(&nudge(&q, i, by), &k, &v);
                near(*dq, at(e), at(-e));
            }
            for (i, (dk, dv)) in dk.iter().zip(&dv).enumerate() {
                let at = |by| objective(&q, &nudge(&k, i, by), &v);
                near(*dk, at(e), at(-e));
                let at = |by| objective(&q, &k, &nudge(&v, i, by));
                near(*dv, at(e), at(-e));
            }
        }
    }

    #[test]
    fn gradients_over_several_blocks_equal_the_slope_along_a_direction() {
        for h in SHAPES.map(shape) {
            let t = BLOCK + 9;
            let (n, m) = (t * h.width(), t * h.kv_width());
            let (q, k, v, w) = (values(n, 1), values(m, 2), values(m, 3), values(n, 4));
            let (mut dq, mut dk, mut dv) = (vec![0.0; n], vec![0.0; m], vec![0.0; m]);
            backward(&q, &k, &v, &w, &[t], &h, &mut dq, &mut dk, &mut dv);
            let e = 1e-3;
            for seed in 5..8 {
                let ways = [values(n, seed), values(m, seed + 10), values(m, seed + 20)];
                let moved = |by: f32| -> f64 {
                    let along = |m: &[f32], way: &[f32]| -> Vec<f32> {
                        m.iter().zip(way).map(|(x, u)| x + by * u).collect()
                    };
                    let (q, k) = (along(&q, &ways[0]), along(&k, &ways[1]));
                    let out = naive(&q, &k, &along(&v, &ways[2]), &h);
                    out.iter().zip(&w).map(|(o, w)| o * f64::from(*w)).sum()
                };
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    let pairs = a.iter().zip(b);
                    pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
                };
                let got = dot(&dq, &ways[0]) + dot(&dk, &ways[1]) + dot(&dv, &ways[2]);
                let want = (moved(e) - moved(-e)) / (2.0 * f64::from(e));
                assert!(
                    (got - want).abs() < 2e-3 * (1.0 + want.abs()),
                    "{h:?} {got} {want}"
                );
            }
        }
    }
}
