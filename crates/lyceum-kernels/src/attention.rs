//! Causal attention over ragged sequences, with an optional local window and cached prefixes.
//!
//! One row of scores at a time: `[t, t]` never exists. The backward pass recomputes them.

use rayon::prelude::*;

use crate::math;

/// Shape of the heads; rows of q, k, v and the output hold `heads * dim` values.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Number of heads.
    pub heads: usize,
    /// Width of one head.
    pub dim: usize,
    /// Multiplies the scores (1 for GPT-Neo).
    pub scale: f32,
    /// How many last positions, itself included, a query sees; all when absent.
    pub window: Option<usize>,
}

/// Some keys and values, rows `[n, heads * dim]`.
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
        let width = h.heads * h.dim;
        for (i, (q, out)) in q.chunks(width).zip(out.chunks_mut(width)).enumerate() {
            let position = start + i;
            let from = first_seen(position, h.window);
            for head in 0..h.heads {
                let at = head * h.dim;
                let q = &q[at..at + h.dim];
                scores.clear();
                let mut base = 0;
                for part in &span.parts {
                    let n = part.k.len() / width;
                    for j in from.max(base)..(position + 1).min(base + n) {
                        let k = &part.k[(j - base) * width + at..][..h.dim];
                        scores.push(math::dot(q, k) * h.scale);
                    }
                    base += n;
                }
                softmax(scores);
                let out = &mut out[at..at + h.dim];
                out.fill(0.0);
                let (mut base, mut next) = (0, 0);
                for part in &span.parts {
                    let n = part.v.len() / width;
                    for j in from.max(base)..(position + 1).min(base + n) {
                        let v = &part.v[(j - base) * width + at..][..h.dim];
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
    let width = h.heads * h.dim;
    let mut jobs = Vec::new();
    let (mut q, mut out) = (q, out);
    for span in spans {
        let keys: usize = span.parts.iter().map(|p| p.k.len() / width).sum();
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

/// What one sequence's backward pass reads and writes; rows `[t, heads * dim]`.
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
        let width = h.heads * h.dim;
        let t = s.q.len() / width;
        s.dq.fill(0.0);
        s.dk.fill(0.0);
        s.dv.fill(0.0);
        for head in 0..h.heads {
            let at = head * h.dim;
            for i in 0..t {
                let row = i * width + at..i * width + at + h.dim;
                let (q, dout) = (&s.q[row.clone()], &s.dout[row.clone()]);
                let from = first_seen(i, h.window);
                p.clear();
                for j in from..=i {
                    p.push(math::dot(q, &s.k[j * width + at..][..h.dim]) * h.scale);
                }
                softmax(p);
                // dscore = p (dp - sum p dp), with dp = dout . v
                let mut mean = 0.0;
                let n = p.len();
                for j in from..=i {
                    let dp = math::dot(dout, &s.v[j * width + at..][..h.dim]);
                    mean = p[j - from].mul_add(dp, mean);
                    p.push(dp);
                    math::axpy(p[j - from], dout, &mut s.dv[j * width + at..][..h.dim]);
                }
                let dq = &mut s.dq[row];
                for j in from..=i {
                    let d = p[j - from] * (p[n + j - from] - mean) * h.scale;
                    math::axpy(d, &s.k[j * width + at..][..h.dim], dq);
                    math::axpy(d, q, &mut s.dk[j * width + at..][..h.dim]);
                }
            }
        }
    }
}

/// Gradients of [`forward`] over whole sequences of `lens` tokens packed end to end; all slices
/// are `[t, heads * dim]`.
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
    let width = h.heads * h.dim;
    let (mut dq, mut dk, mut dv) = (dq, dk, dv);
    let mut start = 0;
    let mut jobs = Vec::new();
    for len in lens {
        let n = len * width;
        let range = start..start + n;
        let (own_dq, rest_dq) = dq.split_at_mut(n);
        let (own_dk, rest_dk) = dk.split_at_mut(n);
        let (own_dv, rest_dv) = dv.split_at_mut(n);
        (dq, dk, dv) = (rest_dq, rest_dk, rest_dv);
        jobs.push(Sequence {
            q: &q[range.clone()],
            k: &k[range.clone()],
            v: &v[range.clone()],
            dout: &dout[range],
            dq: own_dq,
            dk: own_dk,
            dv: own_dv,
        });
        start += n;
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

    /// One sequence in f64, straight from the formula.
    fn naive(q: &[f32], k: &[f32], v: &[f32], h: &Heads) -> Vec<f64> {
        let width = h.heads * h.dim;
        let t = q.len() / width;
        let mut out = vec![0.0; q.len()];
        for head in 0..h.heads {
            for i in 0..t {
                let from = h.window.map_or(0, |w| (i + 1).saturating_sub(w));
                let at =
                    |m: &[f32], row: usize, c: usize| f64::from(m[row * width + head * h.dim + c]);
                let score = |j: usize| -> f64 {
                    (0..h.dim).map(|c| at(q, i, c) * at(k, j, c)).sum::<f64>() * f64::from(h.scale)
                };
                let e: Vec<f64> = (from..=i).map(|j| score(j).exp()).collect();
                let total: f64 = e.iter().sum();
                for c in 0..h.dim {
                    let sum: f64 = e.iter().zip(from..).map(|(e, j)| e * at(v, j, c)).sum();
                    out[i * width + head * h.dim + c] = sum / total;
                }
            }
        }
        out
    }

    #[test]
    fn ragged_and_windowed_attention_equals_the_formula() {
        for window in [None, Some(1), Some(3)] {
            let h = Heads {
                heads: 3,
                dim: 5,
                scale: 0.7,
                window,
            };
            let width = 15;
            let lens = [1usize, 7, 40, 0, 3];
            let t: usize = lens.iter().sum();
            let (q, k, v) = (
                values(t * width, 1),
                values(t * width, 2),
                values(t * width, 3),
            );
            let mut spans = Vec::new();
            let mut want = Vec::new();
            let mut start = 0;
            for len in lens {
                let r = start * width..(start + len) * width;
                // Split the keys in two parts, as a cache with a prefix does.
                let cut = r.start + len / 2 * width;
                let parts = vec![
                    Part {
                        k: &k[r.start..cut],
                        v: &v[r.start..cut],
                    },
                    Part {
                        k: &k[cut..r.end],
                        v: &v[cut..r.end],
                    },
                ];
                spans.push(Span { rows: len, parts });
                want.extend(naive(&q[r.clone()], &k[r.clone()], &v[r], &h));
                start += len;
            }
            let mut out = vec![0.0; t * width];
            forward(&q, &spans, &h, &mut out);
            for (a, b) in out.iter().zip(&want) {
                assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
            }
            // The last rows of a longer past.
            let last = Span {
                rows: 2,
                parts: vec![Part {
                    k: &k[15..120],
                    v: &v[15..120],
                }],
            };
            let mut tail = vec![0.0; 2 * width];
            forward(&q[90..120], &[last], &h, &mut tail);
            for (a, b) in tail.iter().zip(&want[90..120]) {
                assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let h = Heads {
            heads: 2,
            dim: 3,
            scale: 0.9,
            window: Some(3),
        };
        let (width, lens) = (6, [2usize, 5]);
        let n = 7 * width;
        let (q, k, v, w) = (values(n, 1), values(n, 2), values(n, 3), values(n, 4));
        let objective = |q: &[f32], k: &[f32], v: &[f32]| -> f64 {
            let cut = 2 * width;
            let mut out = naive(&q[..cut], &k[..cut], &v[..cut], &h);
            out.extend(naive(&q[cut..], &k[cut..], &v[cut..], &h));
            out.iter().zip(&w).map(|(o, w)| o * f64::from(*w)).sum()
        };
        let (mut dq, mut dk, mut dv) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        backward(&q, &k, &v, &w, &lens, &h, &mut dq, &mut dk, &mut dv);
        for i in 0..n {
            let nudge = |m: &[f32], by: f32| {
                let mut m = m.to_vec();
                m[i] += by;
                m
            };
            let e = 1e-2;
            let slope = |up: f64, down: f64| (up - down) / (2.0 * f64::from(e));
            let numeric = [
                slope(
                    objective(&nudge(&q, e), &k, &v),
                    objective(&nudge(&q, -e), &k, &v),
                ),
                slope(
                    objective(&q, &nudge(&k, e), &v),
                    objective(&q, &nudge(&k, -e), &v),
                ),
                slope(
                    objective(&q, &k, &nudge(&v, e)),
                    objective(&q, &k, &nudge(&v, -e)),
                ),
            ];
            for (a, b) in [dq[i], dk[i], dv[i]].into_iter().zip(numeric) {
                assert!((f64::from(a) - b).abs() < 1e-3, "{a} {b}");
            }
        }
    }
}
