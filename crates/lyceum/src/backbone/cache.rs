//! Keys and values of earlier tokens, per sequence, with shared prefixes.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::attention::{self, Heads, Part};

use crate::error::Result;

/// Keys and values of one sequence in one layer: a shared prefix, then its own.
#[derive(Debug, Clone, Default)]
struct Past {
    prefix: Vec<Arc<Rows>>,
    own: Rows,
}

#[derive(Debug, Clone, Default)]
struct Rows {
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Rows {
    fn part(&self) -> Part<'_> {
        Part {
            k: &self.k,
            v: &self.v,
        }
    }
}

/// The keys and values of a batch of sequences, layer by layer.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<Vec<Past>>,
    lens: Vec<usize>,
}

impl Cache {
    /// An empty cache for `sequences` sequences.
    pub fn new(layers: usize, sequences: usize) -> Self {
        Cache {
            layers: vec![vec![Past::default(); sequences]; layers],
            lens: vec![0; sequences],
        }
    }

    /// Tokens held per sequence.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// New sequences that each continue sequence `parents[i]`, sharing its rows.
    pub fn fork(self, parents: &[usize]) -> Self {
        let lens = parents.iter().map(|&p| self.lens[p]).collect();
        let fork_layer = |layer: Vec<Past>| {
            let shared: Vec<Vec<Arc<Rows>>> = layer
                .into_iter()
                .map(|past| {
                    past.prefix
                        .into_iter()
                        .chain([Arc::new(past.own)])
                        .collect()
                })
                .collect();
            let child = |&p: &usize| Past {
                prefix: shared[p].clone(),
                own: Rows::default(),
            };
            parents.iter().map(child).collect()
        };
        Cache {
            layers: self.layers.into_iter().map(fork_layer).collect(),
            lens,
        }
    }

    /// Keeps the sequences whose index `keep` accepts.
    pub fn retain(&mut self, keep: &[bool]) {
        for layer in &mut self.layers {
            let mut flags = keep.iter();
            layer.retain(|_| flags.next().copied().unwrap_or(false));
        }
        let mut flags = keep.iter();
        self.lens.retain(|_| flags.next().copied().unwrap_or(false));
    }

    /// Appends the new rows of `layer` and attends over everything held; `lens` are the new
    /// tokens per sequence, q `[t, heads * dim]`, k and v `[t, kv_heads * dim]`.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        lens: &[usize],
        heads: &Heads,
    ) -> Result<Tensor> {
        let shape = q.dims2()?;
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let (q, k, v) = (values(q)?, values(k)?, values(v)?);
        let (mut start, width) = (0, heads.kv_width());
        for (past, len) in self.layers[layer].iter_mut().zip(lens) {
            let range = start * width..(start + len) * width;
            past.own.k.extend_from_slice(&k[range.clone()]);
            past.own.v.extend_from_slice(&v[range]);
            start += len;
        }
        let spans: Vec<attention::Span<'_>> = self.layers[layer]
            .iter()
            .zip(lens)
            .map(|(past, &rows)| {
                let prefix = past.prefix.iter().map(|rows| rows.part());
                attention::Span {
                    rows,
                    parts: prefix.chain([past.own.part()]).collect(),
                }
            })
            .collect();
        let out = attention::forward(&q, &spans, heads);
        Ok(Tensor::from_vec(out, shape, &candle_core::Device::Cpu)?)
    }

    /// Notes that every layer has seen `lens` more tokens.
    pub(super) fn advance(&mut self, lens: &[usize]) {
        self.lens
            .iter_mut()
            .zip(lens)
            .for_each(|(held, new)| *held += new);
    }
}
