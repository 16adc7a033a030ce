//! Cross-entropy over rows of logits.

use rayon::prelude::*;

use crate::math;

math::dispatch! {
    fn row_loss(logits: &[f32], id: usize) -> f32 {
        let top = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let mut total = 0f64;
        for some in logits.chunks(256) {
            total += f64::from(some.iter().map(|x| math::exp(x - top)).sum::<f32>());
        }
        (total.ln() + f64::from(top) - f64::from(logits[id])) as f32
    }
}

math::dispatch! {
    fn row_backward(logits: &[f32], id: usize, dloss: f32, out: &mut [f32]) {
        let top = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let mut total = 0f32;
        for (x, o) in logits.iter().zip(out.iter_mut()) {
            *o = math::exp(x - top);
            total += *o;
        }
        let scale = dloss / total;
        out.iter_mut().for_each(|o| *o *= scale);
        out[id] -= dloss;
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
}
