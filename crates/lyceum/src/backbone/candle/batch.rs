//! The packed sequences of a pass as a rectangle, and what all blocks of the pass share.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::backbone::config::Rope;
use crate::error::Result;
use crate::mix::{Pass, SeqLens};
use crate::ops::candle;

/// The inputs that all blocks of a pass share.
pub(super) struct Batch<'a> {
    pub(super) pass: &'a Pass<'a>,
    /// Cosines and sines `[t, 1, half]`; none with learned positions.
    pub(super) angles: Option<(Tensor, Tensor)>,
    pub(super) queries: Rectangle,
    /// The position in its sequence of each row of the rectangle `[n, 1, rows, 1]`.
    positions: Tensor,
    /// Most tokens of a sequence, those of the cache included.
    pub(super) keys: usize,
    /// By window: a large negative score for what a position does not see, else 0:
    /// `[n, 1, rows, keys]`.
    masks: BTreeMap<Option<usize>, Tensor>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(pass: &'a Pass<'a>, rope: Option<&Rope>, device: &Device) -> Result<Self> {
        let seq_lens = pass.seq_lens;
        let (lens, past) = (seq_lens.lens(), seq_lens.past());
        let queries = Rectangle::new(lens, device)?;
        let row = |past: &usize| (*past..past + queries.longest).map(|at| at as f32);
        let positions: Vec<f32> = past.iter().flat_map(row).collect();
        let shape = (queries.n, 1, queries.longest, 1);
        Ok(Batch {
            pass,
            angles: rope
                .map(|rope| angles(rope, seq_lens, device))
                .transpose()?,
            positions: Tensor::from_vec(positions, shape, device)?,
            keys: { lens.iter().zip(past.iter()) }
                .map(|(new, past)| new + past)
                .max()
                .unwrap_or(0),
            queries,
            masks: BTreeMap::new(),
        })
    }

    /// The places in a cache of keys of each row of the rectangle, `[n * heads, rows, dim]`.
    pub(super) fn places(&self, heads: usize, dim: usize) -> Result<Tensor> {
        let shape = (self.queries.n, heads, self.queries.longest, dim);
        let places = self.positions.to_dtype(DType::U32)?;
        Ok(places.broadcast_as(shape)?.contiguous()?.flatten(0, 1)?)
    }

    /// The first place in a cache that no row of the rectangle has.
    pub(super) fn room(&self) -> usize {
        let most = self.pass.seq_lens.past().iter().max();
        most.map_or(0, |past| past + self.queries.longest)
    }

    /// The scores `[n, 1, rows, keys]` that take away what a token does not see through `window`.
    pub(super) fn mask(&mut self, window: Option<usize>) -> Result<Tensor> {
        if let Some(mask) = self.masks.get(&window) {
            return Ok(mask.clone());
        }
        let keys: Vec<f32> = (0..self.keys).map(|key| key as f32).collect();
        let keys = Tensor::from_vec(keys, (1, 1, 1, self.keys), self.positions.device())?;
        let mut seen = keys.broadcast_le(&self.positions)?;
        if let Some(window) = window {
            let from = (&self.positions - window as f64)?;
            seen = (seen * keys.broadcast_gt(&from)?)?;
        }
        let unseen = f64::from(candle::UNSEEN);
        let mask = seen.to_dtype(DType::F32)?.affine(-unseen, unseen)?;
        self.masks.insert(window, mask.clone());
        Ok(mask)
    }
}

/// Cosines and sines `[t, 1, half]` of every token.
fn angles(rope: &Rope, seq_lens: &SeqLens, device: &Device) -> Result<(Tensor, Tensor)> {
    let angles = rope.angles(seq_lens);
    let shape = (seq_lens.tokens(), 1, angles.half);
    let cos = Tensor::from_vec(angles.cos, shape, device)?;
    Ok((cos, Tensor::from_vec(angles.sin, shape, device)?))
}

/// Packed rows of several sequences as a rectangle `[n, longest]`.
pub(super) struct Rectangle {
    pub(super) n: usize,
    pub(super) longest: usize,
    /// Indices to and from the padded layout; `None` when all sequences have one length.
    ragged: Option<Ragged>,
}

struct Ragged {
    /// The row at each place of the rectangle; at a place without one, row 0.
    ids: Tensor,
    /// 1 where there is a row, else 0: `[n * longest, 1]`.
    real: Tensor,
    /// The place of each row.
    places: Tensor,
}

impl Rectangle {
    pub(super) fn new(lens: &[usize], device: &Device) -> Result<Self> {
        let (n, longest) = (lens.len(), lens.iter().copied().max().unwrap_or(0));
        let even = lens.iter().all(|len| *len == longest);
        let lay = || -> Result<Ragged> {
            let size = n * longest;
            let (mut ids, mut real, mut places) = (vec![0u32; size], vec![0f32; size], Vec::new());
            for (i, &len) in lens.iter().enumerate() {
                for place in i * longest..i * longest + len {
                    (ids[place], real[place]) = (places.len() as u32, 1.0);
                    places.push(place as u32);
                }
            }
            let t = places.len();
            Ok(Ragged {
                ids: Tensor::from_vec(ids, size, device)?,
                real: Tensor::from_vec(real, (size, 1), device)?,
                places: Tensor::from_vec(places, t, device)?,
            })
        };
        Ok(Rectangle {
            n,
            longest,
            ragged: (!even).then(lay).transpose()?,
        })
    }

    /// Rows `[t, w]` as a rectangle `[n * longest, w]`.
    pub(super) fn lay(&self, x: &Tensor) -> Result<Tensor> {
        match &self.ragged {
            None => Ok(x.clone()),
            Some(Ragged { ids, places, .. }) => candle::spread_out(x, ids, places),
        }
    }

    /// The inverse of [`Rectangle::lay`].
    pub(super) fn pack(&self, x: &Tensor) -> Result<Tensor> {
        match &self.ragged {
            None => Ok(x.clone()),
            Some(Ragged { ids, real, places }) => candle::gather(x, ids, real, places),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_show_earlier_tokens_within_the_window() {
        let seq_lens = SeqLens::after(&[2, 1], &[1, 4]).unwrap();
        let pass = Pass::new(&seq_lens);
        let mut batch = Batch::new(&pass, None, &Device::Cpu).unwrap();
        assert_eq!((batch.keys, batch.room()), (5, 6));
        let mut seen = |window| {
            let mask = batch.mask(window).unwrap();
            let rows: Vec<Vec<f32>> = mask.reshape((4, 5)).unwrap().to_vec2().unwrap();
            let shown = |row: &Vec<f32>| row.iter().map(|x| u8::from(*x == 0.0)).collect();
            rows.iter().map(shown).collect::<Vec<Vec<u8>>>()
        };
        // The second sequence's other row is padding.
        assert_eq!(seen(None)[..3], [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1; 5]]);
        let windowed = [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]];
        assert_eq!(seen(Some(2))[..3], windowed);
    }
}
