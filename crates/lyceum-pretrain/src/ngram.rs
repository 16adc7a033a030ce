//! The baseline a base must beat: an interpolated n-gram model over the same tokens.
//!
//! Witten-Bell smoothing (Witten and Bell, 1991): a context seen `n` times with `d` different
//! followers gives `(count + d p_shorter) / (n + d)`; below unigrams stands the uniform one.

use std::collections::BTreeMap;

/// Orders above this do not help on a few million tokens.
pub(super) const ORDER: usize = 4;

type Context = [u32; ORDER - 1];

/// Counts of one order: how often a context was seen, its different followers, and each follower.
#[derive(Default)]
struct Counts {
    seen: BTreeMap<Context, (u32, u32)>,
    follower: BTreeMap<(Context, u32), u32>,
}

/// The last `order - 1` tokens before position `at`, the rest filled with a token that is none.
fn context(ids: &[u32], at: usize, order: usize) -> Option<Context> {
    let from = at.checked_sub(order - 1)?;
    let mut context = [u32::MAX; ORDER - 1];
    context[..order - 1].copy_from_slice(&ids[from..at]);
    Some(context)
}

/// Nats the model trained on `train` needs for all tokens of `held` but each document's first.
pub(super) fn nats(train: &[&[u32]], held: &[Vec<u32>], vocab: usize) -> f64 {
    let mut orders: Vec<Counts> = (0..ORDER).map(|_| Counts::default()).collect();
    for &ids in train {
        for at in 0..ids.len() {
            for (i, counts) in orders.iter_mut().enumerate() {
                let Some(context) = context(ids, at, i + 1) else {
                    break;
                };
                let follower = counts.follower.entry((context, ids[at])).or_default();
                *follower += 1;
                let seen = counts.seen.entry(context).or_default();
                seen.0 += 1;
                seen.1 += u32::from(*follower == 1);
            }
        }
    }
    let mut total = 0.0;
    for ids in held {
        for at in 1..ids.len() {
            let mut p = 1.0 / vocab as f64;
            for (i, counts) in orders.iter().enumerate() {
                let Some(context) = context(ids, at, i + 1) else {
                    break;
                };
                let Some(&(n, d)) = counts.seen.get(&context) else {
                    break;
                };
                let count = counts
                    .follower
                    .get(&(context, ids[at]))
                    .copied()
                    .unwrap_or(0);
                p = (f64::from(count) + f64::from(d) * p) / f64::from(n + d);
            }
            total -= p.ln();
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_cheap_and_probabilities_sum_to_one() {
        let train: [&[u32]; 1] = [&[1, 2, 3, 1, 2, 3, 1, 2, 4]];
        let cost = |ids: [u32; 3]| nats(&train, &[ids.to_vec()], 5);
        assert!(cost([1, 2, 3]) < cost([1, 2, 4]) && cost([1, 2, 4]) < cost([1, 3, 3]));
        // Over all last tokens after the same beginning.
        let begin = nats(&train, &[vec![1, 2]], 5);
        let sum: f64 = (0..5).map(|t| (begin - cost([1, 2, t])).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }
}
