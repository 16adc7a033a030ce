//! Keys and values of earlier tokens, in the memory of the decoder's backend.

use super::{candle, cpu};
use crate::error::{Error, Result};

/// The keys and values of a batch of sequences.
#[derive(Debug)]
pub struct Cache {
    lens: Vec<usize>,
    layers: Layers,
}

/// The keys and values of every layer.
#[derive(Debug)]
pub(super) enum Layers {
    Cpu(cpu::Cache),
    Candle(candle::Cache),
}

impl Cache {
    /// An empty cache for `sequences` sequences.
    pub(super) fn new(sequences: usize, layers: Layers) -> Self {
        let lens = vec![0; sequences];
        Cache { lens, layers }
    }

    /// Tokens held per sequence.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// New sequences that each continue sequence `parents[i]`.
    pub fn fork(self, parents: &[usize]) -> Self {
        Cache {
            lens: parents.iter().map(|&p| self.lens[p]).collect(),
            layers: match self.layers {
                Layers::Cpu(own) => Layers::Cpu(own.fork(parents)),
                Layers::Candle(own) => Layers::Candle(own.fork(parents)),
            },
        }
    }

    /// Keeps the sequences whose index `keep` accepts.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut flags = keep.iter();
        self.lens.retain(|_| flags.next().copied().unwrap_or(false));
        match &mut self.layers {
            Layers::Cpu(own) => own.retain(keep),
            Layers::Candle(own) => own.retain(keep),
        }
    }

    /// Makes room for `sequences` more, after the others.
    pub fn enter(&mut self, sequences: usize) {
        self.lens.resize(self.lens.len() + sequences, 0);
        match &mut self.layers {
            Layers::Cpu(own) => own.enter(sequences),
            Layers::Candle(own) => own.enter(sequences),
        }
    }

    /// Notes that every layer has seen `lens` more tokens.
    pub(super) fn advance(&mut self, lens: &[usize]) {
        { self.lens.iter_mut().zip(lens) }.for_each(|(held, new)| *held += new);
    }

    /// # Errors
    /// When a decoder of another backend made this cache.
    pub(super) fn cpu(&mut self) -> Result<&mut cpu::Cache> {
        match &mut self.layers {
            Layers::Cpu(own) => Ok(own),
            Layers::Candle(_) => Err(foreign()),
        }
    }

    /// # Errors
    /// When a decoder of another backend made this cache.
    pub(super) fn candle(&mut self) -> Result<&mut candle::Cache> {
        match &mut self.layers {
            Layers::Candle(own) => Ok(own),
            Layers::Cpu(_) => Err(foreign()),
        }
    }
}

fn foreign() -> Error {
    Error::Mismatch("this cache was made by a decoder of another backend".into())
}
