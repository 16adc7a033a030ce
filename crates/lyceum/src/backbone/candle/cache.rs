//! Keys and values on a device: per layer two tensors with room for more tokens.

use candle_core::{DType, Tensor};

use super::batch::Batch;
use crate::error::Result;

/// Room grows by doubling, in whole pages of this many tokens.
const PAGE: usize = 64;

/// The keys and values of a batch of sequences, layer by layer.
#[derive(Debug)]
pub(in crate::backbone) struct Cache {
    layers: Vec<Option<Layer>>,
    /// Heads of keys.
    heads: usize,
    /// The row of each sequence in the layers' tensors; `None` for one that has just entered.
    rows: Vec<Option<usize>>,
}

/// Keys and values of one layer, `[rows * heads, room, dim]` each. They are written in place.
#[derive(Debug)]
struct Layer {
    k: Tensor,
    v: Tensor,
}

impl Cache {
    pub(super) fn new(layers: usize, heads: usize, sequences: usize) -> Self {
        Cache {
            heads,
            layers: (0..layers).map(|_| None).collect(),
            rows: vec![None; sequences],
        }
    }

    /// New sequences that each continue sequence `parents[i]`.
    pub(in crate::backbone) fn fork(self, parents: &[usize]) -> Self {
        Cache {
            rows: parents.iter().map(|&p| self.rows[p]).collect(),
            ..self
        }
    }

    /// Keeps the sequences whose index `keep` accepts.
    pub(in crate::backbone) fn retain(&mut self, keep: &[bool]) {
        let mut flags = keep.iter();
        self.rows.retain(|_| flags.next().copied().unwrap_or(false));
    }

    /// Makes room for `sequences` more, after the others.
    pub(in crate::backbone) fn enter(&mut self, sequences: usize) {
        self.rows.resize(self.rows.len() + sequences, None);
    }

    /// Moves every sequence to its own row: sequences that forked, left and entered since the last
    /// pass cost one copy together.
    pub(super) fn arrange(&mut self) -> Result<()> {
        let heads = self.heads;
        for layer in self.layers.iter_mut().flatten() {
            let held = layer.k.dim(0)? / heads;
            // What a new sequence finds in its row is written over before it is seen.
            let free = |i: usize| if i < held { i } else { 0 };
            let from = self.rows.iter().enumerate();
            let from: Vec<usize> = from.map(|(i, row)| row.unwrap_or(free(i))).collect();
            if from.iter().copied().eq(0..held) {
                continue;
            }
            let from = from.iter().flat_map(|row| row * heads..(row + 1) * heads);
            let from: Vec<u32> = from.map(|row| row as u32).collect();
            let from = Tensor::new(from, layer.k.device())?;
            layer.k = layer.k.index_select(&from, 0)?;
            layer.v = layer.v.index_select(&from, 0)?;
        }
        self.rows = (0..self.rows.len()).map(Some).collect();
        Ok(())
    }

    /// Puts keys and values `[n * heads, rows, dim]` of a layer in their places, and returns all
    /// that is then held of the layer, `[n * heads, keys, dim]`.
    pub(super) fn append(
        &mut self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        batch: &Batch<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let (n, _, dim) = k.dims3()?;
        let places = batch.places(self.heads, dim)?;
        let held = self.layers[layer].take();
        let before = match &held {
            Some(held) => held.k.dim(1)?,
            None => 0,
        };
        let room = match batch.room() <= before {
            true => before,
            false => batch.room().max(2 * before).next_multiple_of(PAGE),
        };
        let grown = |held: Option<&Tensor>, new: &Tensor| -> Result<Tensor> {
            if let (Some(held), true) = (held, room == before) {
                new_values(held, &places, new)?;
                return Ok(held.clone());
            }
            let all = Tensor::zeros((n, room, dim), DType::F32, new.device())?;
            if let Some(held) = held {
                all.slice_set(held, 1, 0)?;
            }
            new_values(&all, &places, new)?;
            Ok(all)
        };
        let held = Layer {
            k: grown(held.as_ref().map(|held| &held.k), k)?,
            v: grown(held.as_ref().map(|held| &held.v), v)?,
        };
        let seen = (
            held.k.narrow(1, 0, batch.keys)?,
            held.v.narrow(1, 0, batch.keys)?,
        );
        self.layers[layer] = Some(held);
        Ok(seen)
    }
}

/// Writes `new` `[n * heads, rows, dim]` into `all` at `places`.
fn new_values(all: &Tensor, places: &Tensor, new: &Tensor) -> Result<()> {
    Ok(all.scatter_set(places, &new.detach().contiguous()?, 1)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::mix::{Pass, SeqLens};

    /// Appends one value per place of the rectangle, and returns what is then held per sequence.
    fn append(cache: &mut Cache, lens: &[usize], past: &[usize], values: &[f32]) -> Vec<Vec<f32>> {
        let seq_lens = SeqLens::after(lens, past).unwrap();
        let pass = Pass::new(&seq_lens);
        let batch = Batch::new(&pass, None, &Device::Cpu).unwrap();
        let shape = (lens.len(), batch.queries.longest, 1);
        let k = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        cache.arrange().unwrap();
        let (k, v) = cache.append(0, &k, &(&k * 2.0).unwrap(), &batch).unwrap();
        let rows = |x: &Tensor| x.squeeze(2).unwrap().to_vec2::<f32>().unwrap();
        let (mut k, v) = (rows(&k), rows(&v));
        for (i, (k, v)) in k.iter_mut().zip(&v).enumerate() {
            k.truncate(lens[i] + past[i]);
            assert!(k.iter().zip(v).all(|(k, v)| 2.0 * k == *v), "{k:?} {v:?}");
        }
        k
    }

    #[test]
    fn sequences_keep_their_rows_as_room_grows_and_others_come_and_go() {
        let mut cache = Cache::new(1, 1, 1);
        let all: Vec<f32> = (0..70).map(|i| i as f32).collect();
        assert_eq!(append(&mut cache, &[60], &[0], &all[..60]), [&all[..60]]);
        assert_eq!(append(&mut cache, &[10], &[60], &all[60..]), [&all[..]]);
        let mut cache = cache.fork(&[0, 0]);
        let held = append(&mut cache, &[1, 2], &[70, 70], &[100.0, 0.0, 200.0, 201.0]);
        let second = [&all[..], &[200.0, 201.0]].concat();
        assert_eq!(held, [[&all[..], &[100.0]].concat(), second.clone()]);
        cache.retain(&[false, true]);
        cache.enter(1);
        let held = append(&mut cache, &[0, 1], &[72, 0], &[0.0, 300.0]);
        assert_eq!(held, [second.clone(), vec![300.0]]);
        cache.retain(&[true, false]);
        let held = append(&mut cache, &[1], &[72], &[202.0]);
        assert_eq!(held, [[&second[..], &[202.0]].concat()]);
    }
}
