//! A router's decision: experts and their weights.

use std::collections::BTreeSet;

use lyceum_kernels::lora::TopK;

use crate::error::{Error, Result};

/// The experts of every token and their weights; or one choice for all tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Gates {
    k: usize,
    indices: Vec<u32>,
    weights: Vec<f32>,
}

impl Gates {
    /// One weight per expert, the same for every token.
    pub fn shared(weights: &[f32]) -> Self {
        Gates {
            k: weights.len(),
            indices: (0..weights.len() as u32).collect(),
            weights: weights.to_vec(),
        }
    }

    /// Each token chooses `k` experts: `indices` of experts and `weights` are `[t, k]`. A token may
    /// choose an expert once.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when these are no `[t, k]`, or a token chooses an expert twice.
    pub fn chosen(k: usize, indices: Vec<u32>, weights: Vec<f32>) -> Result<Self> {
        let (e, w) = (indices.len(), weights.len());
        if k == 0 || e != w || e % k != 0 {
            return Err(Error::Mismatch(format!(
                "{e} experts and {w} weights are no choice of {k} per token"
            )));
        }
        for (token, own) in indices.chunks_exact(k).enumerate() {
            let mut before = own.iter().enumerate();
            let twice = before.find(|(at, expert)| own[..*at].contains(expert));
            if let Some((_, expert)) = twice {
                return Err(Error::Mismatch(format!(
                    "token {token} chooses expert {expert} twice: add up its weights"
                )));
            }
        }
        Ok(Gates::known(k, indices, weights))
    }

    /// As [`Gates::chosen`], of what is `[t, k]` and without repetition by construction.
    pub(crate) fn known(k: usize, indices: Vec<u32>, weights: Vec<f32>) -> Self {
        Gates {
            k,
            indices,
            weights,
        }
    }

    /// Choices per token.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The weights as they were given.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The indices of the experts as they were given.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Returns `true` if every choice is one of `experts` experts, and there is one for each of
    /// `tokens` tokens or for all.
    pub(super) fn fit(&self, tokens: usize, experts: usize) -> bool {
        let n = self.indices.len();
        let rows = n == self.k || n == tokens * self.k;
        rows && n == self.weights.len() && self.indices.iter().all(|e| (*e as usize) < experts)
    }

    pub(super) fn view(&self) -> TopK<'_> {
        TopK {
            k: self.k,
            indices: &self.indices,
            weights: &self.weights,
        }
    }

    /// Every choice: its row, and the expert with its weight.
    pub(super) fn choices(&self) -> impl Iterator<Item = (usize, (u32, f32))> {
        let all = self.indices.iter().zip(&self.weights).enumerate();
        all.map(|(i, (expert, weight))| (i / self.k, (*expert, *weight)))
    }

    /// The experts that some token chooses, ascending.
    pub(super) fn distinct(&self) -> Vec<u32> {
        let all: BTreeSet<u32> = self.indices.iter().copied().collect();
        all.into_iter().collect()
    }

    /// The weight of each of `experts` experts for each of `tokens` tokens, 0 where not chosen.
    pub fn rows(&self, tokens: usize, experts: usize) -> Vec<Vec<f32>> {
        let row = |at: usize| {
            let mut row = vec![0.0; experts];
            let own = at..at + self.k;
            for (e, weight) in self.indices[own.clone()].iter().zip(&self.weights[own]) {
                row[*e as usize] += weight;
            }
            row
        };
        let shared = self.indices.len() == self.k;
        let place = |token: usize| if shared { 0 } else { token * self.k };
        (0..tokens).map(|token| row(place(token))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_shown_expert_by_expert() {
        let gates = Gates::chosen(2, vec![0, 2, 1, 2], vec![0.25, 0.75, 0.5, 0.5]).unwrap();
        assert_eq!(gates.rows(2, 3), [[0.25, 0.0, 0.75], [0.0, 0.5, 0.5]]);
        assert!(gates.fit(2, 3) && !gates.fit(3, 3) && !gates.fit(2, 2));
        let gates = Gates::shared(&[0.5, 1.0]);
        assert_eq!(gates.rows(2, 2), [[0.5, 1.0], [0.5, 1.0]]);
    }

    #[test]
    fn choices_that_are_none_are_refused() {
        for (k, experts, weights, says) in [
            (0, vec![], vec![], "0 experts and 0 weights"),
            (2, vec![0, 1, 2], vec![0.5; 3], "3 experts and 3 weights"),
            (2, vec![0, 1], vec![0.5; 4], "2 experts and 4 weights"),
            (
                2,
                vec![0, 1, 4, 4],
                vec![0.5; 4],
                "token 1 chooses expert 4 twice",
            ),
            (
                3,
                vec![7, 1, 7],
                vec![0.5; 3],
                "token 0 chooses expert 7 twice",
            ),
        ] {
            let error = Gates::chosen(k, experts, weights).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(Gates::chosen(2, vec![0, 1, 1, 0], vec![0.5; 4]).is_ok());
        assert!(Gates::chosen(1, vec![], vec![]).is_ok());
    }
}
