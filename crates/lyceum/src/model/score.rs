//! Log-probabilities of given continuations.

use super::{Batch, Model};
use crate::backbone::Cache;
use crate::data::Tokens;
use crate::error::{Error, Result};
use crate::mix::{Pass, SeqLens};
use crate::name::Name;

impl Model {
    /// For each group, the summed log-probability of the target tokens of each of its sequences.
    /// Whatever the sequences of a group begin with in common is computed once. A sequence may
    /// have one token more than the base has positions: its last is only predicted.
    ///
    /// # Errors
    /// When a sequence has no target, no token before its first target, or too many tokens, or
    /// the router cannot decide.
    pub fn score(&self, groups: &[&[Tokens]], tasks: &[Name]) -> Result<Vec<Vec<f64>>> {
        let scored = |t: &Tokens| (1..t.ids.len()).contains(&t.from);
        if !groups.iter().copied().flatten().all(scored) {
            return Err(Error::invalid(
                "a sequence to score needs a target, and a token before the first of them",
            ));
        }
        let decoder = &self.base.decoder;
        let shared: Vec<usize> = groups.iter().map(|group| common(group)).collect();
        let mut parents = Vec::new();
        let mut own_tasks = Vec::new();
        for (g, group) in groups.iter().enumerate() {
            parents.extend(std::iter::repeat_n(g, group.len()));
            own_tasks.extend(
                tasks
                    .get(g)
                    .map(|t| vec![t.clone(); group.len()])
                    .unwrap_or_default(),
            );
        }
        let mut cache = decoder.cache(groups.len());
        self.read_shared(groups, &shared, tasks, &mut cache)?;
        let mut cache = cache.fork(&parents);
        let rest = groups.iter().zip(&shared).flat_map(|(group, &n)| {
            group.iter().map(move |t| Tokens {
                ids: t.ids[n..].to_vec(),
                from: t.from - n,
            })
        });
        let rest: Vec<Tokens> = rest.collect();
        let name = Name::new("score")?;
        let batch = Batch::packed(rest.iter().map(|tokens| (tokens, name.clone())), 1);
        let past: Vec<usize> = parents.iter().map(|&p| shared[p]).collect();
        let seq_lens = SeqLens::after(batch.seq_lens.lens(), &past)?;
        let route = self.route(&seq_lens);
        let pass = Pass {
            tasks: &own_tasks,
            routes: route.as_slice(),
            ..Pass::new(&seq_lens)
        };
        let hidden = decoder.hidden_at(
            &batch.tokens,
            &batch.target_positions,
            Some(&mut cache),
            &pass,
        )?;
        let losses = decoder
            .losses(&hidden, &batch.target_ids)?
            .to_vec1::<f32>()?;
        let mut sums = vec![0.0; rest.len()];
        for (owner, loss) in batch.target_seqs.iter().zip(losses) {
            sums[*owner] -= f64::from(loss);
        }
        let mut sums = sums.into_iter();
        Ok(groups
            .iter()
            .map(|group| sums.by_ref().take(group.len()).collect())
            .collect())
    }

    /// Puts the first `shared` tokens of each group into an empty cache of the groups.
    fn read_shared(
        &self,
        groups: &[&[Tokens]],
        shared: &[usize],
        tasks: &[Name],
        cache: &mut Cache,
    ) -> Result<()> {
        if shared.iter().all(|&n| n == 0) {
            return Ok(());
        }
        let prefix: Vec<u32> = groups
            .iter()
            .zip(shared)
            .flat_map(|(g, &n)| g[0].ids[..n].to_vec())
            .collect();
        let seq_lens = SeqLens::new(shared);
        let route = self.route(&seq_lens);
        let pass = Pass {
            tasks,
            routes: route.as_slice(),
            ..Pass::new(&seq_lens)
        };
        let decoder = &self.base.decoder;
        decoder.hidden_at(&prefix, &[], Some(cache), &pass)?;
        Ok(())
    }
}

/// The number of first tokens that all sequences of a group share, leaving each its targets and one
/// more.
fn common(group: &[Tokens]) -> usize {
    let Some(first) = group.first() else { return 0 };
    let limit = group
        .iter()
        .map(|t| t.from.saturating_sub(1))
        .min()
        .unwrap_or(0);
    (0..limit)
        .take_while(|&i| group.iter().all(|t| t.ids[i] == first.ids[i]))
        .count()
}
