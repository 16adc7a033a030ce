//! Cross-entropy over rows of logits, and the largest of each.

use rayon::prelude::*;

use crate::math;

/// `e^(x - top)` summed over a row, some at a time so that long rows lose nothing.
#[inline(always)]
fn total(row: &[f32], top: f32) -> f64 {
    let mut total = 0.0;
    for part in row.chunks(256) {
        total += f64::from(math::sum(part, |x| math::exp(x - top)));
    }
    total
}

math::dispatch! {
    fn row_loss(logits: &[f32], id: usize) -> f32 {
        let top = math::largest(logits);
        (total(logits, top).ln() + f64::from(top) - f64::from(logits[id])) as f32
    }
}

math::dispatch! {
    fn row_backward(logits: &[f32], id: usize, dloss: f32, out: &mut [f32]) {
        let top = math::largest(logits);
        let scale = (f64::from(dloss) / total(logits, top)) as f32;
        for (x, o) in logits.iter().zip(out.iter_mut()) {
            *o = math::exp(x - top) * scale;
        }
        out[id] -= dloss;
    }
}

math::dispatch! {
    /// A row of products becomes logits, its loss is returned, and, if wanted, the row becomes the
    /// gradient of the products for that of the loss.
    fn row_of_head(row: &mut [f32], id: usize, cap: Option<f32>, dloss: Option<f32>) -> f32 {
        if let (Some(cap), None) = (cap, dloss) {
            for x in row.iter_mut() {
                *x = math::soft_cap(*x, cap).0;
            }
        }
        let similarity = |x: f32| cap.map_or(x, |cap| math::soft_cap(x, cap).0);
        // With a cap the row keeps the products, whose slopes are wanted, and is capped as read.
        let capped = cap.is_some() && dloss.is_some();
        let logits: Vec<f32> = match capped {
            true => row.iter().map(|x| similarity(*x)).collect(),
            false => Vec::new(),
        };
        let read: &[f32] = if capped { &logits } else { row };
        let top = math::largest(read);
        let total = total(read, top);
        let loss = (total.ln() + f64::from(top) - f64::from(read[id])) as f32;
        let Some(dloss) = dloss else { return loss };
        let scale = (f64::from(dloss) / total) as f32;
        match cap {
            None => {
                for x in row.iter_mut() {
                    *x = math::exp(*x - top) * scale;
                }
                row[id] -= dloss;
            }
            Some(cap) => {
                for (j, (x, logit)) in row.iter_mut().zip(&logits).enumerate() {
                    let share = math::exp(logit - top) * scale;
                    let own = if j == id { share - dloss } else { share };
                    *x = own * math::soft_cap(*x, cap).1;
                }
            }
        }
        loss
    }
}

/// `losses[i] = -log softmax(logits[i])[ids[i]]`: logits `[n, v]`, ids below `v`.
pub fn cross_entropy(logits: &[f32], ids: &[u32], losses: &mut [f32]) {
    let Some(v) = logits.len().checked_div(ids.len()) else {
        return;
    };
    logits
        .par_chunks(v)
        .zip(ids)
        .zip(losses)
        .for_each(|((row, id), loss)| *loss = row_loss(row, *id as usize));
}

/// Gradient of [`cross_entropy`] for `dlosses` `[n]`, into `dlogits` `[n, v]`.
pub fn cross_entropy_backward(logits: &[f32], ids: &[u32], dlosses: &[f32], dlogits: &mut [f32]) {
    let Some(v) = logits.len().checked_div(ids.len()) else {
        return;
    };
    logits
        .par_chunks(v)
        .zip(ids)
        .zip(dlosses)
        .zip(dlogits.par_chunks_mut(v))
        .for_each(|(((row, id), dloss), out)| row_backward(row, *id as usize, *dloss, out));
}

/// [`cross_entropy`] of what a head's products `[n, v]` say, in place: logits are the products,
/// or `cap tanh(product / cap)`. With `dlosses` `[n]` the products become their gradients, else
/// the logits.
pub fn of_head(
    products: &mut [f32],
    cap: Option<f32>,
    ids: &[u32],
    dlosses: Option<&[f32]>,
    losses: &mut [f32],
) {
    let Some(v) = products.len().checked_div(ids.len()) else {
        return;
    };
    assert!(losses.len() == ids.len() && dlosses.is_none_or(|d| d.len() == ids.len()));
    let rows = products.par_chunks_mut(v).zip(ids).zip(losses).enumerate();
    rows.for_each(|(i, ((row, id), loss))| {
        *loss = row_of_head(row, *id as usize, cap, dlosses.map(|d| d[i]));
    });
}

/// The first largest value's index in every row of `v` values; NaN is never it.
pub fn argmax(rows: &[f32], v: usize) -> Vec<u32> {
    let best = |row: &[f32]| {
        let top = top_of(row);
        row.iter().position(|x| *x == top).unwrap_or(0) as u32
    };
    rows.par_chunks(v.max(1)).map(best).collect()
}

math::dispatch! {
    fn top_of(row: &[f32]) -> f32 {
        math::largest(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_gradients_equal_the_formula() {
        let (n, v) = (3, 301);
        let logits: Vec<f32> = (0..n * v)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.2)
            .collect();
        let ids = [0u32, 300, 7];
        let (mut losses, mut d) = (vec![0.0; n], vec![0.0; n * v]);
        cross_entropy(&logits, &ids, &mut losses);
        cross_entropy_backward(&logits, &ids, &[1.0, 2.0, 0.0], &mut d);
        for (i, scale) in [1.0, 2.0, 0.0].into_iter().enumerate() {
            let row: Vec<f64> = logits[i * v..][..v].iter().map(|x| f64::from(*x)).collect();
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            let loss = total.ln() - row[ids[i] as usize];
            assert!((f64::from(losses[i]) - loss).abs() < 1e-5);
            for j in 0..v {
                let one = f64::from(u8::from(j == ids[i] as usize));
                let want = scale * (row[j].exp() / total - one);
                assert!((f64::from(d[i * v + j]) - want).abs() < 1e-5);
            }
        }
        cross_entropy(&[], &[], &mut []);
    }

    #[test]
    fn heads_with_and_without_a_cap_equal_the_formula() {
        let (n, v) = (3, 77);
        let products: Vec<f32> = (0..n * v)
            .map(|i| (i * 37 % 101) as f32 * 0.3 - 15.0)
            .collect();
        let (ids, dlosses) = ([76u32, 3, 0], [1.0f32, -2.0, 0.5]);
        for cap in [None, Some(10.0f32), Some(40.0)] {
            let similarity = |x: f64| cap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh());
            let loss = |i: usize, j: usize, by: f64| {
                let row = &products[i * v..][..v];
                let moved = |(k, x): (usize, &f32)| {
                    similarity(f64::from(*x) + if k == j { by } else { 0.0 })
                };
                let row: Vec<f64> = row.iter().enumerate().map(moved).collect();
                row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[ids[i] as usize]
            };
            let (mut logits, mut losses) = (products.clone(), vec![0.0; n]);
            of_head(&mut logits, cap, &ids, None, &mut losses);
            for (got, x) in logits.iter().zip(&products) {
                assert!((f64::from(*got) - similarity(f64::from(*x))).abs() < 1e-4);
            }
            let (mut d, mut again) = (products.clone(), vec![0.0; n]);
            of_head(&mut d, cap, &ids, Some(&dlosses), &mut again);
            for i in 0..n {
                assert!(
                    (f64::from(losses[i]) - loss(i, 0, 0.0)).abs() < 1e-4,
                    "{cap:?}"
                );
                assert_eq!(losses[i], again[i]);
                for j in 0..v {
                    let slope = (loss(i, j, 1e-4) - loss(i, j, -1e-4)) / 2e-4;
                    let want = f64::from(dlosses[i]) * slope;
                    let got = f64::from(d[i * v + j]);
                    assert!((got - want).abs() < 1e-4, "{cap:?} {i} {j}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn the_first_largest_is_found_and_nan_is_not() {
        let mut row = vec![0.0; 40];
        (row[37], row[21], row[3]) = (2.0, 2.0, f32::NAN);
        assert_eq!(argmax(&row, 40), [21]);
        assert_eq!(argmax(&[1.0, 3.0, 2.0, 0.0], 2), [1, 0]);
        assert!(argmax(&[], 5).is_empty());
    }
}
