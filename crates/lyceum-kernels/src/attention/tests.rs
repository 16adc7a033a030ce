//! Attention beside the plain formula in f64.

use super::*;
use crate::values::values;

fn qkv<'a>(q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Qkv<'a> {
    Qkv { q, k, v }
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

fn shape((heads, kv_heads, window, soft_cap): (usize, usize, Option<usize>, Option<f32>)) -> Heads {
    Heads {
        heads,
        kv_heads,
        dim: 5,
        scale: 0.7,
        window,
        soft_cap,
        rounding: Rounding::F32,
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
            let similarity = |j: usize| -> f64 {
                let product = (0..h.dim).map(|c| q(c) * kv(k, j, c)).sum::<f64>();
                let similarity = product * f64::from(h.scale);
                let cap = h.soft_cap.map(f64::from);
                cap.map_or(similarity, |cap| cap * (similarity / cap).tanh())
            };
            let e: Vec<f64> = (from..=i).map(|j| similarity(j).exp()).collect();
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
                k: Rows::F32(&k[from * kv..to * kv]),
                v: Rows::F32(&v[from * kv..to * kv]),
            };
            let parts = vec![part(start, cut), part(cut, end)];
            spans.push(Span { rows: len, parts });
            let (k, v) = (&k[start * kv..end * kv], &v[start * kv..end * kv]);
            want.extend(naive(&q[start * width..end * width], k, v, &h));
            start = end;
        }
        let out = forward(&q, &spans, &h);
        for (a, b) in out.iter().zip(&want) {
            assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
        }
        // The last rows of a longer past.
        let part = Part {
            k: Rows::F32(&k[kv..8 * kv]),
            v: Rows::F32(&v[kv..8 * kv]),
        };
        let last = Span {
            rows: 2,
            parts: vec![part],
        };
        let tail = forward(&q[6 * width..8 * width], &[last], &h);
        for (a, b) in tail.iter().zip(&want[6 * width..8 * width]) {
            assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn keys_and_values_that_are_kept_rounded_are_read_as_what_they_are() {
    for h in SHAPES.map(shape) {
        for rows in [1, 3, MANY + 2] {
            let (n, kv) = (rows + 150, h.kv_width());
            let q = values(rows * h.width(), 1);
            let halves = [2, 3].map(|seed| -> Vec<bf16> {
                let all = values(n * kv, seed);
                all.into_iter().map(bf16::from_f32).collect()
            });
            let floats = halves
                .each_ref()
                .map(|all| -> Vec<f32> { all.iter().map(|x| x.to_f32()).collect() });
            // In two pages.
            let cut = 64 * kv;
            let part = |own: std::ops::Range<usize>| Part {
                k: Rows::F32(&floats[0][own.clone()]),
                v: Rows::F32(&floats[1][own]),
            };
            let half = |own: std::ops::Range<usize>| Part {
                k: Rows::Bf16(&halves[0][own.clone()]),
                v: Rows::Bf16(&halves[1][own]),
            };
            let (first, last) = (0..cut, cut..n * kv);
            let out = [
                vec![part(first.clone()), part(last.clone())],
                vec![half(first), half(last)],
            ]
            .map(|parts| forward(&q, &[Span { rows, parts }], &h));
            assert_eq!(out[0], out[1]);
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
        let Gradients { dq, dk, dv } = backward(qkv(&q, &k, &v), &w, &lens.map(Stretch::whole), &h);
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
        let Gradients { dq, dk, dv } = backward(qkv(&q, &k, &v), &w, &[Stretch::whole(t)], &h);
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

#[test]
fn gradients_for_some_queries_are_those_with_nothing_from_the_others() {
    for h in SHAPES.map(shape) {
        // Of the first sequence rows 70..140 of 150 are queries, of the second none, of the
        // third all.
        let parts = [(150, 70, 70), (9, 0, 0), (5, 0, 5)];
        let (width, kv, t) = (h.width(), h.kv_width(), 164);
        let (q, k, v) = (values(t * width, 1), values(t * kv, 2), values(t * kv, 3));
        let mut w = values(t * width, 4);
        let (mut some_q, mut some_w, mut wanted, mut at) = (vec![], vec![], vec![], 0);
        for (keys, before, rows) in parts {
            for i in 0..keys {
                let own = (at + i) * width..(at + i + 1) * width;
                if (before..before + rows).contains(&i) {
                    some_q.extend_from_slice(&q[own.clone()]);
                    some_w.extend_from_slice(&w[own.clone()]);
                    wanted.push(own);
                } else {
                    w[own].fill(0.0);
                }
            }
            at += keys;
        }
        let whole = parts.map(|(keys, ..)| Stretch::whole(keys));
        let all = backward(qkv(&q, &k, &v), &w, &whole, &h);
        let own = parts.map(|(keys, before, rows)| Stretch { before, rows, keys });
        let some = backward(qkv(&some_q, &k, &v), &some_w, &own, &h);
        let dq: Vec<f32> = wanted
            .into_iter()
            .flat_map(|own| all.dq[own].to_vec())
            .collect();
        for (a, b) in [(&some.dq, &dq), (&some.dk, &all.dk), (&some.dv, &all.dv)] {
            assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}

#[test]
fn rounded_factors_change_results_by_no_more_than_their_rounding() {
    for h in SHAPES.map(shape) {
        let rounded = Heads {
            rounding: Rounding::Bf16,
            ..h.clone()
        };
        // Odd sizes: the last row of a panel has no second.
        let t = 2 * BLOCK + 19;
        let (n, m) = (t * h.width(), t * h.kv_width());
        let (q, k, v, w) = (values(n, 1), values(m, 2), values(m, 3), values(n, 4));
        let both = |h: &Heads| {
            let (k_rows, v_rows) = (Rows::F32(&k), Rows::F32(&v));
            let part = Part {
                k: k_rows,
                v: v_rows,
            };
            let span = Span {
                rows: t,
                parts: vec![part],
            };
            let own = backward(qkv(&q, &k, &v), &w, &[Stretch::whole(t)], h);
            [forward(&q, &[span], h), own.dq, own.dk, own.dv]
        };
        let (rounded, plain) = (both(&rounded), both(&h));
        let exact = !Level::best().pairs();
        assert_eq!(rounded == plain, exact, "rounded where that is faster");
        for (got, want) in rounded.iter().zip(&plain) {
            let size = want.iter().fold(0f32, |most, x| most.max(x.abs()));
            let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs());
            let apart = apart.fold(0f32, f32::max);
            assert!(apart <= 0.01 * size, "{h:?} {apart} {size}");
        }
    }
}
