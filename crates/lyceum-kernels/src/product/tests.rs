//! Products on every level beside the plain sum in f64.

use super::*;
use crate::cpu::levels;
use crate::values::values;
use proptest::prelude::*;

fn check(level: Level, (t, k, n): (usize, usize, usize), halves: bool, seed: u32) {
    let (x, m) = (values(t * k, seed), values(k * n, seed + 1));
    let round = |x: f32| half::bf16::from_f32(x).to_f32();
    let keep = |x: f32| if halves { round(x) } else { x };
    let (bias, rows) = (values(n, seed + 2), values(t * n, seed + 3));
    let panels = Panels::new(View::whole(&m, k, n), level.lanes(), halves);
    assert!((0..k).all(|i| (0..n).all(|j| panels.at(i, j) == keep(m[i * n + j]))));
    let added = Added {
        bias: Some(&bias),
        rows: Some(&rows),
    };
    let transposed: Vec<f32> = (0..t * k)
        .map(|i| x[i % t.max(1) * k + i / t.max(1)])
        .collect();
    let y = product(level, View::whole(&x, t, k), &panels, added);
    let same = product(
        level,
        View::whole(&transposed, k, t).transposed(),
        &panels,
        added,
    );
    assert_eq!(y, same, "rows read column by column");
    for (at, y) in y.iter().enumerate() {
        let (i, j) = (at / n, at % n);
        let term = |l: usize| f64::from(keep(x[i * k + l])) * f64::from(keep(m[l * n + j]));
        let want = (0..k).map(term).sum::<f64>() + f64::from(bias[j] + rows[at]);
        let bound = 1e-6 * (2.0 + k as f64).sqrt() * 8.0;
        assert!(
            (f64::from(*y) - want).abs() < bound,
            "{level:?} {t} {k} {n}: {y} {want}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_level_equals_the_plain_sum(
        t in 0usize..120, k in 0usize..70, n in 1usize..140, halves: bool, seed in 0u32..1000,
    ) {
        for level in levels() {
            check(level, (t, k, n), halves, seed);
        }
    }
}

#[test]
fn deep_products_are_cut_into_blocks() {
    for level in levels() {
        for halves in [false, true] {
            check(level, (101, 1501, 33), halves, 5);
            check(level, (1, 1500, 200), halves, 6);
            check(level, (2, 900, 70), halves, 7);
        }
    }
}

#[test]
fn what_is_done_with_finished_rows_is_done_once_to_each() {
    let level = Level::best();
    let (k, n) = (70, 1200);
    let m = values(k * n, 2);
    for (t, halves) in [
        (0, true),
        (1, true),
        (16, false),
        (17, true),
        (203, true),
        (203, false),
    ] {
        let (x, panels) = (values(t * k, 1), View::whole(&m, k, n));
        let panels = Panels::new(panels, level.lanes(), halves);
        let x = View::whole(&x, t, k);
        let bare = product(level, x, &panels, Added::default());
        let then = |first: usize, rows: &mut [f32]| {
            for (i, row) in rows.chunks_mut(n).enumerate() {
                row.iter_mut().for_each(|y| *y += (first + i) as f32);
            }
        };
        let y = product_then(level, x, &panels, Added::default(), Some(&then));
        assert!((0..t * n).all(|i| y[i] == bare[i] + (i / n) as f32), "{t}");
    }
}

#[test]
fn neither_threads_nor_the_batch_change_a_bit() {
    let level = Level::best();
    let (t, k, n) = (203, 900, 230);
    let (x, m) = (values(t * k, 1), values(k * n, 2));
    for halves in [false, true] {
        let panels = Panels::new(View::whole(&m, k, n), level.lanes(), halves);
        let run = |threads: usize, x: &[f32]| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let x = View::whole(x, x.len() / k, k);
            pool.install(|| product(level, x, &panels, Added::default()))
        };
        let all = run(1, &x);
        assert_eq!(all, run(3, &x));
        for row in [0, 7, 202] {
            assert_eq!(all[row * n..][..n], run(2, &x[row * k..][..k]));
        }
    }
}
