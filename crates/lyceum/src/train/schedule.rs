//! Learning rates over time, and the order in which examples are seen.

use crate::error::{Error, Result};
use crate::rng::Rng;

/// A learning-rate schedule.
///
/// ```
/// use lyceum::train::Schedule;
///
/// let schedule = Schedule::linear(1e-2, 0.5, 10);
/// assert_eq!((schedule.rate(0), schedule.rate(5), schedule.total), (0.0, 1e-2, 10));
/// ```
#[derive(Debug, Clone)]
pub struct Schedule {
    peak: f64,
    warmup: usize,
    /// Updates before the rate begins to fall.
    flat: usize,
    floor: f64,
    cosine: bool,
    /// Updates in all.
    pub total: usize,
}

impl Schedule {
    /// Rises over `warmup * total` updates, then falls linearly to 0; without warm-up the last
    /// update uses `peak / total` (as MTTL's `linear_decay_with_warmup`).
    pub fn linear(peak: f64, warmup: f64, total: usize) -> Self {
        let warmup = (warmup * total as f64) as usize;
        Schedule {
            peak,
            warmup,
            flat: warmup,
            floor: 0.0,
            cosine: false,
            total,
        }
    }

    /// Rises over `warmup` updates, stays at the peak, and falls along a cosine to a tenth of it
    /// over the last `decay` updates.
    pub fn cosine(peak: f64, warmup: usize, decay: usize, total: usize) -> Self {
        Schedule {
            peak,
            warmup,
            flat: warmup.max(total.saturating_sub(decay)),
            floor: 0.1,
            cosine: true,
            total,
        }
    }

    /// The rate of update `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        let (t, flat, total) = (step as f64, self.flat as f64, self.total as f64);
        if step < self.warmup {
            return self.peak * t / self.warmup as f64;
        }
        let left = ((total - t) / (total - flat).max(1.0)).clamp(0.0, 1.0);
        let shape = if self.cosine {
            0.5 * (1.0 + ((1.0 - left) * std::f64::consts::PI).cos())
        } else {
            left
        };
        self.peak * (self.floor + (1.0 - self.floor) * shape)
    }
}

/// An endless order of examples, batch by batch.
#[derive(Debug)]
pub struct Batches {
    batches: Order,
    at: usize,
}

#[derive(Debug)]
enum Order {
    /// Reshuffled each epoch; the last batch of an epoch may be short.
    Shuffled {
        order: Vec<usize>,
        batch: usize,
        rng: Rng,
    },
    /// These, again and again.
    Given(Vec<Vec<usize>>),
}

impl Batches {
    /// Batches of `batch` out of `n` examples, in an order that belongs to `name` and `seed`.
    pub fn new(n: usize, batch: usize, seed: u64, name: &str) -> Self {
        let batches = Order::Shuffled {
            order: (0..n).collect(),
            batch,
            rng: Rng::named(seed, &format!("order of {name}")),
        };
        Batches { batches, at: n }
    }

    /// Exactly these batches of indices into `n` examples, and then again from the first.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none, one is empty or an index has no example.
    pub fn given(batches: Vec<Vec<usize>>, n: usize) -> Result<Self> {
        let bad = |batch: &Vec<usize>| batch.is_empty() || batch.iter().any(|&i| i >= n);
        if batches.is_empty() || batches.iter().any(bad) {
            let text = format!("batches must be lists of indices below {n}, and not empty");
            return Err(Error::invalid(text));
        }
        let batches = Order::Given(batches);
        Ok(Batches { batches, at: 0 })
    }

    /// The next batch's indices.
    pub fn next_batch(&mut self) -> Vec<usize> {
        match &mut self.batches {
            Order::Given(batches) => {
                let batch = batches[self.at % batches.len()].clone();
                self.at += 1;
                batch
            }
            Order::Shuffled { order, batch, rng } => {
                if self.at >= order.len() {
                    order.sort_unstable();
                    rng.shuffle(order);
                    self.at = 0;
                }
                let end = (self.at + *batch).min(order.len());
                let batch = order[self.at..end].to_vec();
                self.at = end;
                batch
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_decay_ends_above_zero_without_warmup() {
        let s = Schedule::linear(1.0, 0.0, 4);
        assert_eq!([0, 1, 2, 3].map(|t| s.rate(t)), [1.0, 0.75, 0.5, 0.25]);
        let s = Schedule::linear(1.0, 0.5, 4);
        assert_eq!([0, 1, 2, 3].map(|t| s.rate(t)), [0.0, 0.5, 1.0, 0.5]);
    }

    #[test]
    fn a_cosine_falls_over_its_last_updates() {
        let s = Schedule::cosine(1.0, 2, 4, 10);
        assert_eq!(
            [0, 1, 2, 5, 6].map(|t| s.rate(t)),
            [0.0, 0.5, 1.0, 1.0, 1.0]
        );
        assert!((s.rate(8) - 0.55).abs() < 1e-12 && s.rate(9) < 0.3 && s.rate(10) == 0.1);
        // The plain cosine schedule, whose rates a longer run would not share.
        let plain = Schedule::cosine(1.0, 2, 8, 10);
        assert!((plain.rate(6) - 0.55).abs() < 1e-12);
    }

    #[test]
    fn every_epoch_sees_every_example_once() {
        let mut batches = Batches::new(10, 4, 1, "x");
        for _ in 0..3 {
            let mut seen: Vec<usize> = (0..3).flat_map(|_| batches.next_batch()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn given_batches_come_in_order_and_again() {
        let mut batches = Batches::given(vec![vec![2, 0], vec![1]], 3).unwrap();
        let seen: Vec<Vec<usize>> = (0..3).map(|_| batches.next_batch()).collect();
        assert_eq!(seen, [vec![2, 0], vec![1], vec![2, 0]]);
        for bad in [vec![], vec![vec![]], vec![vec![3]]] {
            assert!(Batches::given(bad, 3).is_err());
        }
    }
}
