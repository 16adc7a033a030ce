//! Keys and values in the processor's memory, per sequence, in pages; prefixes are shared.

use std::sync::Arc;

use half::bf16;
use half::slice::HalfFloatSliceExt;
use lyceum_kernels::attention::{Part, Rows, Span};

/// Tokens per page: a sequence that grows copies nothing, and wastes less than a page.
const PAGE: usize = 64;

/// Keys or values.
#[derive(Debug, Clone)]
enum Kept {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Kept {
    fn with_room(values: usize, rounded: bool) -> Self {
        match rounded {
            false => Kept::F32(Vec::with_capacity(values)),
            true => Kept::Bf16(Vec::with_capacity(values)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Kept::F32(all) => all.len(),
            Kept::Bf16(all) => all.len(),
        }
    }

    fn append(&mut self, values: &[f32]) {
        match self {
            Kept::F32(all) => all.extend_from_slice(values),
            Kept::Bf16(all) => {
                let held = all.len();
                all.resize(held + values.len(), bf16::ZERO);
                all[held..].convert_from_f32_slice(values);
            }
        }
    }

    fn first(&self, values: usize) -> Rows<'_> {
        match self {
            Kept::F32(all) => Rows::F32(&all[..values]),
            Kept::Bf16(all) => Rows::Bf16(&all[..values]),
        }
    }
}

/// Keys and values of up to [`PAGE`] consecutive tokens of one sequence in one layer.
#[derive(Debug, Clone)]
struct Page {
    k: Kept,
    v: Kept,
}

/// Keys and values of one sequence in one layer: pages shared with others, then its own.
#[derive(Debug, Clone, Default)]
struct Past {
    shared: Vec<Arc<Page>>,
    own: Vec<Page>,
}

impl Past {
    fn append(&mut self, mut k: &[f32], mut v: &[f32], width: usize, rounded: bool) {
        while !k.is_empty() {
            if self
                .own
                .last()
                .is_none_or(|page| page.k.len() >= PAGE * width)
            {
                let room = || Kept::with_room(PAGE * width, rounded);
                self.own.push(Page {
                    k: room(),
                    v: room(),
                });
            }
            let Some(page) = self.own.last_mut() else {
                return;
            };
            let some = k.len().min(PAGE * width - page.k.len());
            page.k.append(&k[..some]);
            page.v.append(&v[..some]);
            (k, v) = (&k[some..], &v[some..]);
        }
    }

    fn pages(&self) -> impl Iterator<Item = &Page> {
        self.shared.iter().map(|page| &**page).chain(&self.own)
    }
}

/// The keys and values of a batch of sequences, layer by layer.
#[derive(Debug)]
pub(in crate::backbone) struct Cache {
    layers: Vec<Vec<Past>>,
    /// Values per token's key.
    width: usize,
    /// `true` if keys and values are stored in bf16.
    rounded: bool,
}

impl Cache {
    /// An empty cache for `sequences` sequences, with `width` values per token's key, kept in bf16
    /// if `rounded`.
    pub(super) fn new(layers: usize, sequences: usize, width: usize, rounded: bool) -> Self {
        Cache {
            layers: vec![vec![Past::default(); sequences]; layers],
            width,
            rounded,
        }
    }

    /// New sequences that each continue sequence `parents[i]`, sharing its pages.
    pub(in crate::backbone) fn fork(self, parents: &[usize]) -> Self {
        let fork_layer = |layer: Vec<Past>| {
            let share = |past: Past| {
                let own = past.own.into_iter().map(Arc::new);
                Past {
                    shared: past.shared.into_iter().chain(own).collect(),
                    own: Vec::new(),
                }
            };
            let shared: Vec<Past> = layer.into_iter().map(share).collect();
            parents.iter().map(|&p| shared[p].clone()).collect()
        };
        Cache {
            layers: self.layers.into_iter().map(fork_layer).collect(),
            ..self
        }
    }

    /// Keeps the sequences whose index `keep` accepts.
    pub(in crate::backbone) fn retain(&mut self, keep: &[bool]) {
        for layer in &mut self.layers {
            let mut flags = keep.iter();
            layer.retain(|_| flags.next().copied().unwrap_or(false));
        }
    }

    /// Makes room for `sequences` more, after the others.
    pub(in crate::backbone) fn enter(&mut self, sequences: usize) {
        for layer in &mut self.layers {
            layer.resize(layer.len() + sequences, Past::default());
        }
    }

    /// Appends the new rows of `layer`: `lens` per sequence, k and v `[t, width]`.
    pub(super) fn append(&mut self, layer: usize, k: &[f32], v: &[f32], lens: &[usize]) {
        let mut start = 0;
        for (past, len) in self.layers[layer].iter_mut().zip(lens) {
            let range = start * self.width..(start + len) * self.width;
            past.append(&k[range.clone()], &v[range], self.width, self.rounded);
            start += len;
        }
    }

    /// `rows` queries of a sequence in a layer, and the keys they see: all that are held but the
    /// last `after`.
    pub(super) fn span(
        &self,
        layer: usize,
        sequence: usize,
        rows: usize,
        after: usize,
    ) -> Span<'_> {
        let past = &self.layers[layer][sequence];
        let held: usize = past.pages().map(|page| page.k.len()).sum();
        let mut left = held.saturating_sub(after * self.width);
        let part = |page: &Page| {
            let own = page.k.len().min(left);
            left -= own;
            own
        };
        let lens: Vec<usize> = past.pages().map(part).collect();
        let parts = past.pages().zip(lens).filter(|(_, own)| *own > 0);
        let parts = parts.map(|(page, own)| Part {
            k: page.k.first(own),
            v: page.v.first(own),
        });
        Span {
            rows,
            parts: parts.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(span: &Span<'_>) -> Vec<f32> {
        let values = |part: &Part<'_>| match part.k {
            Rows::F32(k) => k.to_vec(),
            Rows::Bf16(k) => k.iter().map(|x| x.to_f32()).collect(),
        };
        span.parts.iter().flat_map(values).collect()
    }

    #[test]
    fn pages_hold_what_was_appended_and_are_shared() {
        // Whole numbers up to 256 are the same in bf16.
        pages(false);
        pages(true);
    }

    fn pages(rounded: bool) {
        let rows = |from: usize, n: usize| -> Vec<f32> {
            (2 * from..2 * (from + n))
                .map(|x| (x % 250) as f32)
                .collect()
        };
        let mut cache = Cache::new(1, 1, 2, rounded);
        cache.append(0, &rows(0, 100), &rows(0, 100), &[100]);
        cache.append(0, &rows(100, 50), &rows(100, 50), &[50]);
        let span = cache.span(0, 0, 3, 0);
        assert_eq!(
            (span.rows, span.parts.len(), keys(&span)),
            (3, 3, rows(0, 150))
        );
        assert_eq!(keys(&cache.span(0, 0, 3, 30)), rows(0, 120));
        let mut cache = cache.fork(&[0, 0]);
        cache.append(0, &rows(7, 3), &rows(7, 3), &[1, 2]);
        assert_eq!(
            keys(&cache.span(0, 0, 1, 0)),
            [rows(0, 150), rows(7, 1)].concat()
        );
        assert_eq!(
            keys(&cache.span(0, 1, 1, 0)),
            [rows(0, 150), rows(8, 2)].concat()
        );
        cache.retain(&[false, true]);
        cache.enter(1);
        cache.append(0, &rows(9, 1), &rows(9, 1), &[0, 1]);
        assert_eq!(keys(&cache.span(0, 1, 1, 0)), rows(9, 1));
    }
}
