use super::*;
use crate::cpu::levels;
use crate::values::{apart, values};
use proptest::prelude::*;

/// Adds to `y` what the experts make of `x`; returns what the backward pass wants.
fn forward(f: &Factors<'_>, chosen: TopK<'_>, x: &[f32], y: &mut [f32]) -> Vec<f32> {
    forward_at(&Delta::new(*f, chosen), x, y)
}

fn forward_at(delta: &Delta<'_>, x: &[f32], y: &mut [f32]) -> Vec<f32> {
    let h = delta.shrink(x);
    // In parts, as a product finishes its rows.
    for (i, y) in y.chunks_mut(5 * delta.f.table.widths().1).enumerate() {
        delta.expand(&h, 5 * i, y);
    }
    h
}

/// Outputs computed besides the gradients of the weights.
struct Wanted<'a> {
    dx: &'a mut [f32],
    factors: (&'a mut [f32], &'a mut [f32]),
}

fn backward_at(
    delta: &Delta<'_>,
    (x, h): (&[f32], &[f32]),
    dy: &[f32],
    wanted: Wanted<'_>,
) -> Vec<f32> {
    let (dh, dweights) = delta.shrink_backward(h, dy);
    for (i, dx) in wanted
        .dx
        .chunks_mut(7 * delta.f.table.widths().0)
        .enumerate()
    {
        delta.expand_backward(&dh, 7 * i, dx);
    }
    let kept = Activations { x, h, dh: &dh, dy };
    delta.factors_backward(&kept, wanted.factors.0, wanted.factors.1);
    dweights
}

/// Experts of these ranks, all of one scale for [`Mixing::Factors`].
struct Made {
    down: Vec<f32>,
    up: Vec<f32>,
    starts: Vec<usize>,
    scales: Vec<f32>,
    widths: (usize, usize),
    mixing: Mixing,
}

impl Made {
    fn new(ranks: &[usize], widths: (usize, usize), mixing: Mixing, seed: u32) -> Self {
        let mut starts = vec![0];
        ranks
            .iter()
            .for_each(|rank| starts.push(starts[starts.len() - 1] + rank));
        let rows = starts[ranks.len()];
        let scale = |e: usize| {
            if mixing == Mixing::Outputs {
                0.5 + e as f32
            } else {
                0.7
            }
        };
        Made {
            down: values(rows * widths.0, seed),
            up: values(rows * widths.1, seed + 1),
            starts,
            scales: (0..ranks.len()).map(scale).collect(),
            widths,
            mixing,
        }
    }

    fn copy(&self) -> Self {
        Made {
            down: self.down.clone(),
            up: self.up.clone(),
            starts: self.starts.clone(),
            scales: self.scales.clone(),
            ..*self
        }
    }

    fn table(&self) -> SlabTable {
        let (d_in, d_out) = self.widths;
        let slab = |(rows, scale): (&[usize], &f32)| {
            let (from, to) = (rows[0], rows[1]);
            let (a, b) = (
                &self.down[from * d_in..to * d_in],
                &self.up[from * d_out..to * d_out],
            );
            Slab::new(a, b, to - from, *scale)
        };
        let slabs = self.starts.windows(2).zip(&self.scales).map(slab);
        SlabTable::new(slabs.collect(), d_in, d_out)
    }

    fn factors<'a>(&self, table: &'a SlabTable) -> Factors<'a> {
        let mixing = self.mixing;
        Factors { table, mixing }
    }

    /// The formula in f64 for one token: what is added, with gates `g` of its experts.
    fn formula(&self, choices: &[(usize, f64)], x: &[f64]) -> Vec<f64> {
        let (d_in, d_out) = self.widths;
        let rank = |e: usize| self.starts[e + 1] - self.starts[e];
        let h = |e: usize, r: usize| -> f64 {
            let row = &self.down[(self.starts[e] + r) * d_in..][..d_in];
            row.iter().zip(x).map(|(a, x)| f64::from(*a) * x).sum()
        };
        let mut y = vec![0.0; d_out];
        for &(e, g) in choices {
            for r in 0..rank(e) {
                let mixed = match self.mixing {
                    Mixing::Outputs => g * h(e, r),
                    Mixing::Factors => g * choices.iter().map(|(f, g)| g * h(*f, r)).sum::<f64>(),
                };
                let row = &self.up[(self.starts[e] + r) * d_out..][..d_out];
                for (y, b) in y.iter_mut().zip(row) {
                    *y += f64::from(self.scales[e]) * mixed * f64::from(*b);
                }
            }
        }
        y
    }
}

/// Choices of `t` tokens, or one row of them for all.
struct Choices {
    k: usize,
    indices: Vec<u32>,
    weights: Vec<f32>,
}

impl Choices {
    fn new(experts: usize, k: usize, rows: usize, seed: u32) -> Self {
        let draw = values(rows * k, seed);
        let pick = |x: &f32| ((x + 1.0) * 0.5 * experts as f32) as u32 % experts as u32;
        Choices {
            k,
            indices: draw.iter().map(pick).collect(),
            weights: values(rows * k, seed + 1),
        }
    }

    fn chosen(&self) -> TopK<'_> {
        let Choices {
            k,
            indices,
            weights,
        } = self;
        TopK {
            k: *k,
            indices,
            weights,
        }
    }

    fn with(&self, weights: Vec<f32>) -> Self {
        Choices {
            k: self.k,
            indices: self.indices.clone(),
            weights,
        }
    }

    fn of(&self, token: usize) -> Vec<(usize, f64)> {
        let chosen = self.chosen();
        let at = |slot| chosen.at(token, slot);
        (0..self.k)
            .map(|s| (self.indices[at(s)] as usize, f64::from(self.weights[at(s)])))
            .collect()
    }
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Experts, choices, what goes in, and the weights of the objective.
#[derive(Clone, Copy)]
struct Case<'a> {
    made: &'a Made,
    choices: &'a Choices,
    x: &'a [f32],
    w: &'a [f32],
}

impl Case<'_> {
    /// `sum w * formula`, a function of everything that has a gradient.
    fn objective(&self) -> f64 {
        let (d_in, d_out) = self.made.widths;
        let rows = self.x.chunks(d_in).zip(self.w.chunks(d_out)).enumerate();
        rows.map(|(t, (x, w))| {
            let y = self.made.formula(&self.choices.of(t), &f64s(x));
            y.iter().zip(w).map(|(y, w)| y * f64::from(*w)).sum::<f64>()
        })
        .sum()
    }

    /// The formula in f64 for every token, added to `start`.
    fn formula(&self, start: &[f32]) -> Vec<f64> {
        let (d_in, d_out) = self.made.widths;
        let rows = self.x.chunks(d_in).zip(start.chunks(d_out)).enumerate();
        rows.flat_map(|(i, (x, own))| {
            let delta = self.made.formula(&self.choices.of(i), &f64s(x));
            let own = own.iter().map(|s| f64::from(*s));
            own.zip(delta).map(|(s, d)| s + d).collect::<Vec<_>>()
        })
        .collect()
    }

    /// Checks the gradients of the objective along random directions; `h` is what the forward
    /// pass returned.
    fn check_gradients(&self, delta: &Delta<'_>, h: &[f32], seed: u32) {
        let Case {
            made,
            choices,
            x,
            w,
        } = *self;
        let n = made.starts[made.starts.len() - 1];
        let (d_in, d_out) = made.widths;
        let (mut dx, mut ddown, mut dup) = (
            vec![0.0; x.len()],
            vec![9.0; n * d_in],
            vec![9.0; n * d_out],
        );
        let wanted = Wanted {
            dx: &mut dx,
            factors: (&mut ddown, &mut dup),
        };
        let mut dweights = backward_at(delta, (x, h), w, wanted);
        if choices.weights.len() == choices.k {
            // One row of weights serves every token.
            let rows = dweights.chunks(choices.k);
            dweights = (0..choices.k)
                .map(|i| rows.clone().map(|row| row[i]).sum())
                .collect();
        }
        let (level, mixing) = (delta.level, made.mixing);
        let near =
            |what: &str, gradient: &[f32], of: &[f32], seed, at: &dyn Fn(Vec<f32>) -> f64| {
                let (got, want) = slopes(gradient, of, seed, at);
                let bound = 1e-3 * (1.0 + want.abs());
                assert!(
                    (got - want).abs() < bound,
                    "{level:?} {mixing:?} {what}: {got} {want}"
                );
            };
        let with = |made: &Made| Case { made, ..*self }.objective();
        near("x", &dx, x, seed, &|x| Case { x: &x, ..*self }.objective());
        near("down", &ddown, &made.down, seed + 1, &|down| {
            with(&Made {
                down,
                ..made.copy()
            })
        });
        near("up", &dup, &made.up, seed + 2, &|up| {
            with(&Made { up, ..made.copy() })
        });
        near(
            "weights",
            &dweights,
            &choices.weights,
            seed + 3,
            &|weights| {
                let choices = &choices.with(weights);
                Case { choices, ..*self }.objective()
            },
        );
    }
}

/// The slope of `at` at `of` along a random direction, as `gradient` has it and as it is.
fn slopes(gradient: &[f32], of: &[f32], seed: u32, at: &dyn Fn(Vec<f32>) -> f64) -> (f64, f64) {
    let (e, way) = (1e-3, values(of.len(), seed));
    let moved = |by: f32| -> Vec<f32> { of.iter().zip(&way).map(|(x, u)| x + by * u).collect() };
    // Along what was really moved: f32 rounds a small step.
    let (ahead, back) = (moved(e), moved(-e));
    let steps = ahead.iter().zip(&back).zip(gradient);
    let step = |((x, y), g): ((&f32, &f32), &f32)| (f64::from(*x) - f64::from(*y)) * f64::from(*g);
    let got = steps.map(step).sum::<f64>() / (2.0 * f64::from(e));
    let want = (at(ahead) - at(back)) / (2.0 * f64::from(e));
    (got, want)
}

fn check(ranks: &[usize], mixing: Mixing, (k, t): (usize, usize), shared: bool, seed: u32) {
    let made = Made::new(ranks, (37, 41), mixing, seed);
    let rows = if shared { 1 } else { t };
    let choices = Choices::new(ranks.len(), k, rows, seed + 2);
    let (x, start) = (values(t * 37, seed + 4), values(t * 41, seed + 5));
    let table = made.table();
    let (f, chosen) = (made.factors(&table), choices.chosen());
    let case = Case {
        made: &made,
        choices: &choices,
        x: &x,
        w: &values(t * 41, seed + 6),
    };
    let want = case.formula(&start);
    for level in levels() {
        let mut y = start.clone();
        let delta = Delta { f, chosen, level };
        let h = forward_at(&delta, &x, &mut y);
        assert!(apart(&y, &want) < 1e-4, "{level:?}: {}", apart(&y, &want));
        assert_eq!(h.len(), t * f.step(chosen));
        case.check_gradients(&delta, &h, seed + 7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn outputs_and_gradients_equal_the_formula(
        ranks in proptest::collection::vec(0usize..7, 1..6), k in 1usize..4, t in 1usize..70,
        shared: bool, seed in 0u32..1000,
    ) {
        check(&ranks, Mixing::Outputs, (k, t), shared, seed);
    }

    #[test]
    fn averaged_factors_and_gradients_equal_the_formula(
        rank in 1usize..7, experts in 1usize..6, k in 1usize..4, t in 1usize..70, shared: bool,
        seed in 0u32..1000,
    ) {
        check(&vec![rank; experts], Mixing::Factors, (k, t), shared, seed);
    }
}

#[test]
fn neither_threads_nor_the_batch_change_a_bit() {
    let made = Made::new(&[4, 3, 0, 5], (300, 290), Mixing::Outputs, 1);
    let (t, choices) = (77, Choices::new(4, 2, 77, 3));
    let (x, w) = (values(t * 300, 5), values(t * 290, 6));
    let table = made.table();
    let (f, chosen) = (made.factors(&table), choices.chosen());
    let all = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut y = vec![0.0; t * 290];
            let h = forward(&f, chosen, &x, &mut y);
            let (mut dx, mut a, mut b) =
                (vec![0.0; t * 300], vec![0.0; 12 * 300], vec![0.0; 12 * 290]);
            let wanted = Wanted {
                dx: &mut dx,
                factors: (&mut a, &mut b),
            };
            let dweights = backward_at(&Delta::new(f, chosen), (&x, &h), &w, wanted);
            [y, h, dx, a, b, dweights]
        })
    };
    let one = all(1);
    assert_eq!(one, all(3));
    for token in [0, 31, 32, 76] {
        let own = TopK {
            k: 2,
            indices: &choices.indices[token * 2..token * 2 + 2],
            weights: &choices.weights[token * 2..token * 2 + 2],
        };
        let mut y = vec![0.0; 290];
        forward(&f, own, &x[token * 300..(token + 1) * 300], &mut y);
        assert_eq!(y, one[0][token * 290..(token + 1) * 290]);
    }
}

#[test]
fn nothing_chosen_adds_nothing() {
    let made = Made::new(&[2], (5, 6), Mixing::Outputs, 1);
    let chosen = TopK {
        k: 0,
        indices: &[],
        weights: &[],
    };
    let (mut y, table) = (vec![1.0; 12], made.table());
    assert!(forward(&made.factors(&table), chosen, &[1.0; 10], &mut y).is_empty());
    assert_eq!(y, [1.0; 12]);
}
