//! The experts' factors at one layer: an immutable slab for each expert, and the table of them that
//! the kernels address (as the pointer tables of Punica's SGMV, arXiv:2310.18547).

use std::sync::Arc;

/// The factors of one expert at one layer, and its scale. Clones share the values.
#[derive(Debug, Clone)]
pub struct Slab {
    /// A `[rank, d_in]`, then B transposed `[rank, d_out]`.
    values: Arc<[f32]>,
    rank: usize,
    scale: f32,
}

impl Slab {
    /// A slab of A `[rank, d_in]` and B transposed `[rank, d_out]`, both row after row; the
    /// expert's output is multiplied by `scale`.
    pub fn new(a: &[f32], b: &[f32], rank: usize, scale: f32) -> Self {
        Slab {
            values: a.iter().chain(b).copied().collect(),
            rank,
            scale,
        }
    }

    /// The slab of an expert that does not adapt the layer: rank 0.
    pub fn empty() -> Self {
        Slab::new(&[], &[], 0, 0.0)
    }

    /// A `[rank, d_in]`, then B transposed `[rank, d_out]`.
    pub fn values(&self) -> &Arc<[f32]> {
        &self.values
    }

    /// The rank; 0 where the expert does not adapt the layer.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The multiplier of the expert's output.
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

/// The slabs of all experts at one layer. An expert's place in it is its number in every choice.
#[derive(Debug, Clone)]
pub struct SlabTable {
    slabs: Vec<Slab>,
    /// Widths of the layer: in, out.
    widths: (usize, usize),
    /// The largest rank.
    width: usize,
}

impl SlabTable {
    /// A table of `slabs` for a layer from `d_in` to `d_out` values.
    ///
    /// # Panics
    /// When a slab does not hold a row of A and one of B per rank.
    pub fn new(slabs: Vec<Slab>, d_in: usize, d_out: usize) -> Self {
        let whole = |slab: &Slab| slab.values.len() == slab.rank * (d_in + d_out);
        assert!(slabs.iter().all(whole), "a row of A and of B per rank");
        let width = slabs.iter().map(|slab| slab.rank).max().unwrap_or(0);
        SlabTable {
            slabs,
            widths: (d_in, d_out),
            width,
        }
    }

    /// The slabs, in order.
    pub fn slabs(&self) -> &[Slab] {
        &self.slabs
    }

    /// Widths of the layer: in, out.
    pub fn widths(&self) -> (usize, usize) {
        self.widths
    }

    /// The sum of all ranks.
    pub fn ranks(&self) -> usize {
        self.slabs.iter().map(|slab| slab.rank).sum()
    }

    /// The largest rank: values kept per token and choice.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Returns `true` if all ranks are equal.
    pub(super) fn even(&self) -> bool {
        self.slabs.iter().all(|slab| slab.rank == self.width)
    }

    /// A of `expert`, `[rank, d_in]`.
    #[inline(always)]
    pub fn down(&self, expert: usize) -> &[f32] {
        let slab = &self.slabs[expert];
        &slab.values[..slab.rank * self.widths.0]
    }

    /// B of `expert` transposed, `[rank, d_out]`.
    #[inline(always)]
    pub fn up(&self, expert: usize) -> &[f32] {
        let slab = &self.slabs[expert];
        &slab.values[slab.rank * self.widths.0..]
    }
}
