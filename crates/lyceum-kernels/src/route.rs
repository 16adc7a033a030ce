//! Which experts a token goes to: by its direction against theirs.

use rayon::prelude::*;

use crate::cpu::Level;
use crate::math;
use crate::rows::{Work, all_dots, run};
use crate::vector::Vector;

/// Tokens per job.
const BLOCK: usize = 32;

/// Similarity functions of an input and a direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Similarity {
    /// `|x . p|`.
    Absolute,
    /// `norm(x) . p`: x standardised over its width, `eps` added to its variance.
    Standardised {
        /// Added to the variance.
        eps: f32,
    },
}

/// One direction per expert.
#[derive(Debug, Clone, Copy)]
pub struct Directions<'a> {
    /// `[e, d]`.
    pub rows: &'a [f32],
    /// The experts that can be chosen.
    pub here: &'a [bool],
    /// The similarity function.
    pub similarity: Similarity,
    /// Divides the scores.
    pub temperature: f32,
}

/// Some tokens' scores and choices.
struct Choose<'a> {
    to: &'a Directions<'a>,
    sums: &'a [f32],
    x: &'a [f32],
    experts: &'a mut [u32],
    weights: &'a mut [f32],
    per: usize,
}

impl Work for Choose<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Choose {
            to,
            sums,
            x,
            experts,
            weights,
            per,
        } = self;
        let count = to.here.len();
        let d = to.rows.len() / count;
        let mut scores = vec![0.0; x.len() / d * count];
        // SAFETY: the caller vouches for the level.
        unsafe { all_dots::<V>(x, to.rows, d, &mut scores, count) };
        let rows = scores.chunks_mut(count).zip(x.chunks(d));
        let choices = experts.chunks_mut(per).zip(weights.chunks_mut(per));
        for ((scores, x), (experts, weights)) in rows.zip(choices) {
            match to.similarity {
                Similarity::Absolute => scores
                    .iter_mut()
                    .for_each(|s| *s = s.abs() / to.temperature),
                Similarity::Standardised { eps } => {
                    let (mean, inverse) = math::moments(x, eps);
                    for (similarity, sum) in scores.iter_mut().zip(sums) {
                        *similarity = (*similarity - mean * sum) * inverse / to.temperature;
                    }
                }
            }
            top(scores, to.here, experts, weights);
        }
    }
}

/// The largest `experts.len()` of the `scores` that are `here`, in the order of the experts, and
/// the softmax over them. Of equal scores the first counts as the larger.
fn top(scores: &[f32], here: &[bool], experts: &mut [u32], weights: &mut [f32]) {
    let per = experts.len();
    let mut held = 0;
    for (e, similarity) in scores.iter().enumerate().filter(|(e, _)| here[*e]) {
        // What is held is sorted, largest first; the last falls out when there is no room.
        let smaller = weights[..held].iter().position(|held| *similarity > *held);
        let at = smaller.unwrap_or(held);
        if at == per {
            continue;
        }
        held = per.min(held + 1);
        weights[at..held].rotate_right(1);
        experts[at..held].rotate_right(1);
        (weights[at], experts[at]) = (*similarity, e as u32);
    }
    let largest = weights[0];
    // In the order of the experts: insertion, for there are few.
    for i in 1..per {
        let mut at = i;
        while at > 0 && experts[at - 1] > experts[at] {
            experts.swap(at - 1, at);
            weights.swap(at - 1, at);
            at -= 1;
        }
    }
    weights.iter_mut().for_each(|w| *w = (*w - largest).exp());
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= total);
}

/// For each row of `x` `[t, d]` the `k` experts (or as many as are here) of the largest scores,
/// in the order of the experts, and the softmax of their scores: both `[t, k]`. Of equal scores
/// the expert that comes first has the larger.
pub fn choose(to: &Directions<'_>, x: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    choose_at(Level::best(), to, x, k)
}

fn choose_at(level: Level, to: &Directions<'_>, x: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    let per = k.min(to.here.iter().filter(|here| **here).count());
    let Some(d) = to
        .rows
        .len()
        .checked_div(to.here.len())
        .filter(|d| per * d > 0)
    else {
        return Default::default();
    };
    assert_eq!(to.rows.len(), d * to.here.len(), "a direction per expert");
    let sum = |row: &[f32]| row.iter().map(|x| f64::from(*x)).sum::<f64>() as f32;
    let sums: Vec<f32> = to.rows.chunks(d).map(sum).collect();
    let t = x.len() / d;
    let (mut experts, mut weights) = (vec![0; t * per], vec![0.0; t * per]);
    let block = |x: &[f32], experts: &mut [u32], weights: &mut [f32]| {
        let sums = sums.as_slice();
        run(
            level,
            Choose {
                to,
                sums,
                x,
                experts,
                weights,
                per,
            },
        );
    };
    if t <= BLOCK {
        block(x, &mut experts, &mut weights);
    } else {
        let blocks = x
            .par_chunks(BLOCK * d)
            .zip(experts.par_chunks_mut(BLOCK * per))
            .zip(weights.par_chunks_mut(BLOCK * per));
        blocks.for_each(|((x, experts), weights)| block(x, experts, weights));
    }
    (experts, weights)
}

/// `sigmoid(v . x)` of every row of `x` `[t, d]` with the row of `vectors` `[e, d]` that `owners`
/// `[t]` names: `[t]`.
pub fn gate(vectors: &[f32], owners: &[u32], x: &[f32]) -> Vec<f32> {
    let mut gates = vec![0.0; owners.len()];
    let Some(d) = x.len().checked_div(owners.len()).filter(|d| *d > 0) else {
        return gates;
    };
    let rows = x.par_chunks(d).zip(owners).with_min_len(BLOCK);
    rows.zip(&mut gates).for_each(|((x, owner), gate)| {
        *gate = sigmoid(x, &vectors[*owner as usize * d..][..d]);
    });
    gates
}

/// The arguments and the result of a call of [`gate`].
#[derive(Debug, Clone, Copy)]
pub struct GateForward<'a> {
    /// A vector per expert, `[e, d]`.
    pub vectors: &'a [f32],
    /// The expert of each token, `[t]`.
    pub owners: &'a [u32],
    /// Inputs, `[t, d]`.
    pub x: &'a [f32],
    /// The result, `[t]`.
    pub gates: &'a [f32],
}

/// Gradients of [`gate`] for `dgates` `[t]`: those of the vectors go to `dvectors`, those of the
/// inputs are added to `dx`.
pub fn gate_backward(
    forward: GateForward<'_>,
    dgates: &[f32],
    dvectors: &mut [f32],
    dx: Option<&mut [f32]>,
) {
    let GateForward {
        vectors,
        owners,
        x,
        gates,
    } = forward;
    dvectors.fill(0.0);
    // What nearly cancels decides the sign of an optimiser's first steps: the sums are f64.
    let mut sums = vec![0f64; dvectors.len()];
    let Some(d) = x.len().checked_div(owners.len()).filter(|d| *d > 0) else {
        return;
    };
    let slope = |t: usize| dgates[t] * gates[t] * (1.0 - gates[t]);
    for (t, (x, owner)) in x.chunks(d).zip(owners).enumerate() {
        add_wide(slope(t), x, &mut sums[*owner as usize * d..][..d]);
    }
    dvectors
        .iter_mut()
        .zip(&sums)
        .for_each(|(to, sum)| *to = *sum as f32);
    if let Some(dx) = dx {
        let rows = dx.par_chunks_mut(d).zip(owners).enumerate();
        rows.with_min_len(BLOCK).for_each(|(t, (dx, owner))| {
            add(slope(t), &vectors[*owner as usize * d..][..d], dx);
        });
    }
}

math::dispatch! {
    fn sigmoid(x: &[f32], v: &[f32]) -> f32 {
        1.0 / (1.0 + (-math::dot(x, v)).exp())
    }
}

math::dispatch! {
    fn add_wide(by: f32, x: &[f32], to: &mut [f64]) {
        let by = f64::from(by);
        to.iter_mut().zip(x).for_each(|(to, x)| *to += by * f64::from(*x));
    }
}

math::dispatch! {
    fn add(by: f32, x: &[f32], to: &mut [f32]) {
        math::axpy(by, x, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::levels;
    use crate::values::values;
    use proptest::prelude::*;

    /// The formula in f64: scores of one token.
    fn formula(to: &Directions<'_>, x: &[f32]) -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let similarity = |row: &[f32]| {
            let dot = |mean: f64| -> f64 {
                row.iter()
                    .zip(&x)
                    .map(|(p, x)| f64::from(*p) * (x - mean))
                    .sum()
            };
            let similarity = match to.similarity {
                Similarity::Absolute => dot(0.0).abs(),
                Similarity::Standardised { eps } => dot(mean) / (variance + f64::from(eps)).sqrt(),
            };
            similarity / f64::from(to.temperature)
        };
        to.rows.chunks(x.len()).map(similarity).collect()
    }

    fn check(d: usize, here: &[bool], k: usize, similarity: Similarity, seed: u32) {
        let rows = values(here.len() * d, seed);
        let temperature = 0.7;
        let to = Directions {
            rows: &rows,
            here,
            similarity,
            temperature,
        };
        let x: Vec<f32> = values(45 * d, seed + 1).iter().map(|x| x + 3.0).collect();
        for level in levels() {
            let (experts, weights) = choose_at(level, &to, &x, k);
            let per = k.min(here.iter().filter(|h| **h).count());
            assert_eq!((experts.len(), weights.len()), (45 * per, 45 * per));
            for (i, x) in x.chunks(d).enumerate().filter(|_| per > 0) {
                let scores = formula(&to, x);
                let own = &experts[i * per..(i + 1) * per];
                assert!(own.is_sorted() && own.iter().all(|e| here[*e as usize]));
                let least = own
                    .iter()
                    .map(|e| scores[*e as usize])
                    .fold(f64::MAX, f64::min);
                let left = (0..here.len()).filter(|e| here[*e] && !own.contains(&(*e as u32)));
                assert!(left.clone().all(|e| scores[e] < least + 1e-4), "{level:?}");
                let total: f64 = own.iter().map(|e| scores[*e as usize].exp()).sum();
                for (e, weight) in own.iter().zip(&weights[i * per..]) {
                    let want = scores[*e as usize].exp() / total;
                    assert!(
                        (f64::from(*weight) - want).abs() < 1e-4,
                        "{level:?} {weight} {want}"
                    );
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn choices_and_weights_equal_the_formula(
            d in 1usize..80, here in proptest::collection::vec(any::<bool>(), 1..9), k in 1usize..6,
            absolute: bool, seed in 0u32..1000,
        ) {
            let eps = 1e-5;
            let similarity = if absolute { Similarity::Absolute } else { Similarity::Standardised { eps } };
            check(d, &here, k, similarity, seed);
        }
    }

    #[test]
    fn gates_and_their_gradients_equal_the_formula() {
        let (t, e, d) = (70, 3, 21);
        let (v, x, w) = (values(e * d, 1), values(t * d, 2), values(t, 3));
        let owners: Vec<u32> = (0..t as u32).map(|i| i * 7 % 3).collect();
        let objective = |v: &[f32], x: &[f32]| -> f64 {
            let each = x.chunks(d).zip(&owners).zip(&w).map(|((x, o), w)| {
                let pairs = x.iter().zip(&v[*o as usize * d..]);
                let z: f64 = pairs.map(|(x, v)| f64::from(*x) * f64::from(*v)).sum();
                f64::from(*w) / (1.0 + (-z).exp())
            });
            each.sum()
        };
        let gates = gate(&v, &owners, &x);
        let got: f64 = gates
            .iter()
            .zip(&w)
            .map(|(g, w)| f64::from(*g) * f64::from(*w))
            .sum();
        assert!((got - objective(&v, &x)).abs() < 1e-5);
        let (mut dv, mut dx) = (vec![9.0; e * d], vec![1.0; t * d]);
        let forward = GateForward {
            vectors: &v,
            owners: &owners,
            x: &x,
            gates: &gates,
        };
        gate_backward(forward, &w, &mut dv, Some(&mut dx));
        let slope = |of: &[f32], way: &[f32], at: &dyn Fn(&[f32]) -> f64| {
            let moved =
                |by: f32| -> Vec<f32> { of.iter().zip(way).map(|(x, u)| x + by * u).collect() };
            (at(&moved(1e-2)) - at(&moved(-1e-2))) / 2e-2
        };
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(x, y)| f64::from(*x) * f64::from(*y))
                .sum()
        };
        let way = values(e * d, 4);
        let want = slope(&v, &way, &|v| objective(v, &x));
        assert!((dot(&dv, &way) - want).abs() < 1e-3 * (1.0 + want.abs()));
        let way = values(t * d, 5);
        dx.iter_mut().for_each(|x| *x -= 1.0);
        let want = slope(&x, &way, &|x| objective(&v, x));
        assert!((dot(&dx, &way) - want).abs() < 1e-3 * (1.0 + want.abs()));
        assert!(gate(&v, &[], &[]).is_empty());
    }

    #[test]
    fn the_softmax_runs_over_the_chosen_only_and_ties_go_to_the_first() {
        let (mut experts, mut weights) = ([0; 2], [0.0; 2]);
        top(
            &[1.0, 3.0, 2.0, 9.0],
            &[true, true, true, false],
            &mut experts,
            &mut weights,
        );
        let e = 1f32.exp();
        assert_eq!(experts, [1, 2]);
        assert!((weights[0] - e / (1.0 + e)).abs() < 1e-6);
        assert!((weights[1] - 1.0 / (1.0 + e)).abs() < 1e-6);
        top(
            &[2.0, 2.0, 2.0],
            &[true; 3],
            &mut experts[..1],
            &mut weights[..1],
        );
        assert_eq!((experts[0], weights[0]), (0, 1.0));
    }
}
