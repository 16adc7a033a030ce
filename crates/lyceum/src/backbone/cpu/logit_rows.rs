//! Which tokens the last block has to finish: those whose logits someone asks for.

use std::sync::Arc;

use lyceum_kernels::rope::Angles;

use crate::mix::SeqLens;

/// From each sequence a stretch of consecutive tokens, possibly none.
#[derive(Debug, Clone)]
pub(super) struct LogitRows {
    /// Their rows among all tokens, rising.
    pub(super) rows: Vec<u32>,
    /// The stretches as sequences.
    pub(super) seq_lens: SeqLens,
    /// New tokens of each sequence before the stretch.
    pub(super) before: Vec<usize>,
}

impl LogitRows {
    /// The shortest stretches of `seq_lens` that hold the rows `asked`.
    pub(super) fn new(asked: &[u32], seq_lens: &SeqLens) -> Self {
        let mut sorted = asked.to_vec();
        sorted.sort_unstable();
        let (mut rows, mut lens, mut past, mut before) = (vec![], vec![], vec![], vec![]);
        let (mut start, mut next) = (0, 0);
        for (&len, &held) in seq_lens.lens().iter().zip(seq_lens.past().iter()) {
            let end = sorted[next..].partition_point(|row| (*row as usize) < start + len) + next;
            let own = &sorted[next..end];
            let from = own.first().map_or(start, |row| *row as usize);
            let to = own.last().map_or(start, |row| *row as usize + 1);
            rows.extend(from as u32..to as u32);
            lens.push(to - from);
            past.push(held + from - start);
            before.push(from - start);
            (start, next) = (start + len, end);
        }
        LogitRows {
            rows,
            seq_lens: SeqLens::known(&lens, &past),
            before,
        }
    }

    /// The places of the rows `asked` in the stretches, unless they are these very rows.
    pub(super) fn places(&self, asked: &[u32]) -> Option<Vec<u32>> {
        let place = |row: &u32| self.rows.binary_search(row).map_or(0, |at| at as u32);
        (self.rows != asked).then(|| asked.iter().map(place).collect())
    }

    /// The wanted rows of `x` `[t, d]`.
    pub(super) fn pick(&self, x: &[f32], d: usize) -> Vec<f32> {
        let mut own = Vec::with_capacity(self.rows.len() * d);
        for row in &self.rows {
            own.extend_from_slice(&x[*row as usize * d..][..d]);
        }
        own
    }

    /// The opposite: rows of `x` at their places among `t`, added to `y` `[t, d]`.
    pub(super) fn put_back(&self, x: &[f32], d: usize, y: &mut [f32]) {
        for (x, row) in x.chunks(d.max(1)).zip(&self.rows) {
            let y = &mut y[*row as usize * d..][..d];
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
    }

    /// The turns of the wanted rows.
    pub(super) fn angles(&self, all: &Arc<Angles>) -> Arc<Angles> {
        Arc::new(Angles {
            cos: self.pick(&all.cos, all.half),
            sin: self.pick(&all.sin, all.half),
            half: all.half,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_hold_what_is_asked_for() {
        let seq_lens = SeqLens::after(&[3, 2, 4], &[1, 0, 5]).unwrap();
        let wanted = LogitRows::new(&[8, 1, 6], &seq_lens);
        assert_eq!(wanted.rows, [1, 6, 7, 8]);
        assert_eq!(
            wanted.seq_lens,
            SeqLens::after(&[1, 0, 3], &[2, 0, 6]).unwrap()
        );
        assert_eq!(wanted.before, [1, 0, 1]);
        assert_eq!(wanted.places(&[8, 1, 6]), Some(vec![3, 0, 1]));
        assert_eq!(wanted.places(&[1, 6, 7, 8]), None);
        let x: Vec<f32> = (0..9).map(|i| i as f32).collect();
        assert_eq!(wanted.pick(&x, 1), [1.0, 6.0, 7.0, 8.0]);
        let mut y = vec![1.0; 9];
        wanted.put_back(&[1.0, 2.0, 3.0, 4.0], 1, &mut y);
        assert_eq!(y, [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 3.0, 4.0, 5.0]);
        assert!(LogitRows::new(&[], &seq_lens).rows.is_empty());
    }
}
