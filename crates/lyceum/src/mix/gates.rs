//! What a router decides: experts and their weights.

use lyceum_kernels::delta::Chosen;

/// The experts of every token and their weights; or one choice for all tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Gates {
    per: usize,
    experts: Vec<u32>,
    weights: Vec<f32>,
}

impl Gates {
    /// One weight per expert, the same for every token.
    pub fn shared(weights: &[f32]) -> Self {
        Gates {
            per: weights.len(),
            experts: (0..weights.len() as u32).collect(),
            weights: weights.to_vec(),
        }
    }

    /// Each token chooses `per` experts: `experts` and `weights` are `[t, per]`. A token may
    /// choose an expert once.
    pub fn chosen(per: usize, experts: Vec<u32>, weights: Vec<f32>) -> Self {
        debug_assert!(experts.len() == weights.len());
        Gates {
            per,
            experts,
            weights,
        }
    }

    /// Choices per token.
    pub fn per(&self) -> usize {
        self.per
    }

    /// The weights as they were given.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The experts as they were given.
    pub fn experts(&self) -> &[u32] {
        &self.experts
    }

    /// Whether every choice is of one of `experts` experts, and there is one for each of `tokens`
    /// tokens or for all.
    pub(super) fn fit(&self, tokens: usize, experts: usize) -> bool {
        let n = self.experts.len();
        let rows = n == self.per || n == tokens * self.per;
        rows && n == self.weights.len() && self.experts.iter().all(|e| (*e as usize) < experts)
    }

    pub(super) fn view(&self) -> Chosen<'_> {
        Chosen {
            per: self.per,
            experts: &self.experts,
            weights: &self.weights,
        }
    }

    /// The weight of each of `experts` experts for each of `tokens` tokens, 0 where not chosen.
    pub fn rows(&self, tokens: usize, experts: usize) -> Vec<Vec<f32>> {
        let row = |at: usize| {
            let mut row = vec![0.0; experts];
            let own = at..at + self.per;
            for (e, weight) in self.experts[own.clone()].iter().zip(&self.weights[own]) {
                row[*e as usize] += weight;
            }
            row
        };
        let shared = self.experts.len() == self.per;
        let place = |token: usize| if shared { 0 } else { token * self.per };
        (0..tokens).map(|token| row(place(token))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_shown_expert_by_expert() {
        let gates = Gates::chosen(2, vec![0, 2, 1, 2], vec![0.25, 0.75, 0.5, 0.5]);
        assert_eq!(gates.rows(2, 3), [[0.25, 0.0, 0.75], [0.0, 0.5, 0.5]]);
        assert!(gates.fit(2, 3) && !gates.fit(3, 3) && !gates.fit(2, 2));
        let gates = Gates::shared(&[0.5, 1.0]);
        assert_eq!(gates.rows(2, 2), [[0.5, 1.0], [0.5, 1.0]]);
    }
}
