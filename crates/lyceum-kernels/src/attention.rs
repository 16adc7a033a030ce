//! Causal attention over ragged sequences: grouped heads, an optional local window, capped scores
//! and cached prefixes.
//!
//! One row of scores at a time: `[t, t]` never exists. The backward pass recomputes them.

use rayon::prelude::*;

use crate::math;

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

/// Query rows per block of work.
const BLOCK: usize = 32;

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
            rows_forward(q, span, start, h, scores, out);
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

math::dispatch! {
    fn sequence_backward(s: &mut Sequence<'_>, h: &Heads, p: &mut Vec<f32>) {
        let (width, kv_width) = (h.width(), h.kv_width());
        let t = s.q.len() / width;
        s.dq.fill(0.0);
        s.dk.fill(0.0);
        s.dv.fill(0.0);
        let mut slopes = Vec::new();
        for head in 0..h.heads {
            let (at, kv_at) = (head * h.dim, h.kv_at(head));
            for i in 0..t {
                let row = i * width + at..i * width + at + h.dim;
                let (q, dout) = (&s.q[row.clone()], &s.dout[row.clone()]);
                let from = first_seen(i, h.window);
                p.clear();
                slopes.clear();
                for j in from..=i {
                    let product = math::dot(q, &s.k[j * kv_width + kv_at..][..h.dim]);
                    let (score, slope) = h.score(product);
                    p.push(score);
                    slopes.push(slope);
                }
                softmax(p);
                // dscore = p (dp - sum p dp), with dp = dout . v
                let mut mean = 0.0;
                let n = p.len();
                for j in from..=i {
                    let dp = math::dot(dout, &s.v[j * kv_width + kv_at..][..h.dim]);
                    mean = p[j - from].mul_add(dp, mean);
                    p.push(dp);
                    math::axpy(p[j - from], dout, &mut s.dv[j * kv_width + kv_at..][..h.dim]);
                }
                let dq = &mut s.dq[row];
                for j in from..=i {
                    let d = p[j - from] * (p[n + j - from] - mean) * slopes[j - from];
                    math::axpy(d, &s.k[j * kv_width + kv_at..][..h.dim], dq);
                    math::axpy(d, q, &mut s.dk[j * kv_width + kv_at..][..h.dim]);
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
        .for_each_init(Vec::new, |p, mut s| sequence_backward(&mut s, h, p));
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
            let lens = [1usize, 7, 40, 0, 3];
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
}
