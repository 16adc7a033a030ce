//! Products with frozen matrices, and the memory they are read from.

use std::collections::BTreeMap;
use std::hint::black_box;

use anyhow::{Context, Result, bail};
use lyceum::rng::Rng;
use lyceum_kernels::gemm::{Added, Packed};
use rayon::prelude::*;

use crate::turns::{self, Done};

/// (rows, columns in, columns out) of the products of GPT-Neo-125M over 2048 tokens.
const SHAPES: [(usize, usize, usize); 4] = [
    (2048, 768, 768),
    (2048, 768, 3072),
    (2048, 3072, 768),
    (256, 768, 50257),
];
/// The matrix one row is multiplied with.
const ONE: (usize, usize) = (8192, 8192);
/// Bytes copied and read, beyond any cache.
const COPIED: usize = 1 << 28;
/// Products of a turn: enough for OpenMP's threads, which wait for some milliseconds after the
/// peer's turn on our cores, not to matter.
const REPEATS: usize = 40;

/// Matrix and input.
struct Product {
    weight: Packed,
    x: Vec<f32>,
}

impl Product {
    fn new((t, k, n): (usize, usize, usize), halves: bool) -> Self {
        let mut rng = Rng::new(1);
        let w = rng.uniform(k * n, 1.0);
        Product {
            weight: match halves {
                true => Packed::bf16(&w, n, k),
                false => Packed::f32(&w, n, k),
            },
            x: rng.uniform(t * k, 1.0),
        }
    }

    fn run(&self) -> usize {
        let t = self.x.len() / self.weight.n_in();
        for _ in 0..REPEATS {
            black_box(self.weight.forward(&self.x, Added::default()));
        }
        t * REPEATS
    }
}

pub(crate) fn serve() -> Result<()> {
    let mut products = BTreeMap::new();
    for (halves, name) in [(true, "bf16"), (false, "f32")] {
        for (t, k, n) in SHAPES {
            let product = Product::new((t, k, n), halves);
            products.insert(format!("{name} {t}x{k}x{n}"), product);
        }
        let product = Product::new((1, ONE.0, ONE.1), halves);
        products.insert(format!("{name} row"), product);
    }
    let from = vec![1u64; COPIED / 8];
    let mut to = vec![0u64; COPIED / 8];
    turns::serve(|variant| {
        let amount = match variant {
            "copy" => {
                let parts = to.par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16));
                parts.for_each(|(to, from)| to.copy_from_slice(from));
                2 * COPIED
            }
            "read" => {
                let sum: u64 = from.par_chunks(1 << 16).map(sum).sum();
                if sum != (COPIED / 8) as u64 {
                    bail!("read {sum}");
                }
                COPIED
            }
            product => {
                let product = products.get(product).context("no such variant")?;
                let rows = product.run();
                match variant.ends_with("row") {
                    true => rows * product.weight.bytes(),
                    false => 2 * rows * product.weight.n_in() * product.weight.n_out(),
                }
            }
        };
        Ok(Done {
            amount: amount as f64,
            check: Vec::new(),
        })
    })
}

fn sum(values: &[u64]) -> u64 {
    values.iter().fold(0, |sum, x| sum.wrapping_add(*x))
}
