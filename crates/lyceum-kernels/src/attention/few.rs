//! Attention of a few rows, as in decoding: every row of keys and values is read once, for all
//! heads.

use super::{Heads, Part, Queries, Rows, Span, first_seen, softmax};
use crate::math::{self, Number};

math::dispatch! {
    /// Attention of the rows of `queries`, the last of `span`'s, added to `out`.
    pub(super) fn forward(
        queries: Queries<'_>, span: &Span<'_>, h: &Heads, scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let Queries { q, past: start, .. } = queries;
        let (width, kv_width) = (h.width(), h.kv_width());
        for (i, (q, out)) in q.chunks(width).zip(out.chunks_mut(width)).enumerate() {
            let (from, to) = (first_seen(start + i, h.window), start + i + 1);
            let n = to - from;
            scores.clear();
            scores.resize(h.heads * n, 0.0);
            for (at, part, rows) in pieces(span, kv_width, from, to) {
                match part.k {
                    Rows::F32(k) => all_scores(q, &k[rows], h, n, &mut scores[at..]),
                    Rows::Bf16(k) => all_scores(q, &k[rows], h, n, &mut scores[at..]),
                }
            }
            for scores in scores.chunks_mut(n) {
                softmax(scores);
            }
            for (at, part, rows) in pieces(span, kv_width, from, to) {
                match part.v {
                    Rows::F32(v) => all_values(&scores[at..], &v[rows], h, n, out),
                    Rows::Bf16(v) => all_values(&scores[at..], &v[rows], h, n, out),
                }
            }
        }
    }
}

/// The keys `from..to` of a span, part by part: how many came before, and the range of values.
#[inline(always)]
fn pieces<'a>(
    span: &'a Span<'_>,
    width: usize,
    from: usize,
    to: usize,
) -> impl Iterator<Item = (usize, &'a Part<'a>, std::ops::Range<usize>)> {
    let mut start = 0;
    span.parts.iter().filter_map(move |part| {
        let end = start + part.k.len() / width;
        let own = from.max(start)..to.min(end);
        let piece = (own.start < own.end).then(|| {
            let rows = (own.start - start) * width..(own.end - start) * width;
            (own.start - from, part, rows)
        });
        start = end;
        piece
    })
}

/// Scores of the keys `k`, those of a head `n` values after the last one's.
#[inline(always)]
fn all_scores<T: Number>(q: &[f32], k: &[T], h: &Heads, n: usize, scores: &mut [f32]) {
    for (at, k) in k.chunks(h.kv_width()).enumerate() {
        for (head, q) in q.chunks(h.dim).enumerate() {
            let product = math::dot(q, &k[h.kv_at(head)..][..h.dim]);
            scores[head * n + at] = h.similarity(product).0;
        }
    }
}

/// Adds the values `v`, weighted by scores that lie as above.
#[inline(always)]
fn all_values<T: Number>(scores: &[f32], v: &[T], h: &Heads, n: usize, out: &mut [f32]) {
    for (at, v) in v.chunks(h.kv_width()).enumerate() {
        for (head, out) in out.chunks_mut(h.dim).enumerate() {
            math::axpy(scores[head * n + at], &v[h.kv_at(head)..][..h.dim], out);
        }
    }
}
