//! Ragged batches: sequences packed end to end, nothing padded.

use std::sync::Arc;

use crate::error::{Error, Result};

/// The lengths of packed sequences, and how many tokens of each came before (in a cache).
///
/// ```
/// use lyceum::mix::SeqLens;
///
/// // Two sequences: two new tokens of one that begins, one new token after five earlier ones.
/// let seq_lens = SeqLens::after(&[2, 1], &[0, 5])?;
/// assert_eq!(seq_lens.positions(), [0, 1, 5]);
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeqLens {
    lens: Arc<[usize]>,
    past: Arc<[usize]>,
}

impl SeqLens {
    /// Whole sequences of `lens` tokens.
    pub fn new(lens: &[usize]) -> Self {
        SeqLens {
            lens: lens.into(),
            past: vec![0; lens.len()].into(),
        }
    }

    /// Continuations: sequence `i` has `lens[i]` new tokens after `past[i]` earlier ones.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when there is not one of each per sequence.
    pub fn after(lens: &[usize], past: &[usize]) -> Result<Self> {
        if lens.len() != past.len() {
            return Err(Error::Mismatch(format!(
                "{} sequences have new tokens and {} have earlier ones: give both for each",
                lens.len(),
                past.len()
            )));
        }
        Ok(SeqLens::known(lens, past))
    }

    /// As [`SeqLens::after`], of lists of one length by construction.
    pub(crate) fn known(lens: &[usize], past: &[usize]) -> Self {
        SeqLens {
            lens: lens.into(),
            past: past.into(),
        }
    }

    /// The sequences `range` of these.
    pub(crate) fn part(&self, range: std::ops::Range<usize>) -> Self {
        SeqLens::known(&self.lens[range.clone()], &self.past[range])
    }

    /// New tokens per sequence.
    pub fn lens(&self) -> &Arc<[usize]> {
        &self.lens
    }

    /// Tokens of each sequence that came before.
    pub fn past(&self) -> &Arc<[usize]> {
        &self.past
    }

    /// Tokens over all sequences.
    pub fn tokens(&self) -> usize {
        self.lens.iter().sum()
    }

    /// The position of every token in its sequence, `[t]`.
    pub fn positions(&self) -> Vec<u32> {
        let pairs = self.lens.iter().zip(self.past.iter());
        pairs
            .flat_map(|(&len, &past)| (past..past + len).map(|p| p as u32))
            .collect()
    }

    /// The sequence every token belongs to, `[t]`.
    pub fn seq_ids(&self) -> impl Iterator<Item = usize> {
        self.lens
            .iter()
            .enumerate()
            .flat_map(|(i, &len)| std::iter::repeat_n(i, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_continue_after_the_past() {
        let seq_lens = SeqLens::after(&[2, 1], &[0, 5]).unwrap();
        assert_eq!(seq_lens.positions(), [0, 1, 5]);
        assert_eq!(seq_lens.seq_ids().collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!(seq_lens.tokens(), 3);
    }

    #[test]
    fn every_sequence_has_a_past() {
        for (lens, past) in [(&[2, 1][..], &[0][..]), (&[2], &[0, 5]), (&[], &[1])] {
            let error = SeqLens::after(lens, past).unwrap_err().to_string();
            assert!(error.contains("sequences have"), "{error}");
        }
    }
}
