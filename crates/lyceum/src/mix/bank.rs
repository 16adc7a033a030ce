//! Experts stacked along the rank axis: any number, of any rank, in two matrix products.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{Gates, Mixing};
use crate::error::{Error, Result};
use crate::lora::Lora;
use crate::name::{Name, Site};

/// The stacked factors of all experts at one site.
#[derive(Debug, Clone)]
pub struct SiteBank {
    /// All A's, `[R, d_in]`.
    down: Tensor,
    /// All B's, `[d_out, R]`.
    up: Tensor,
    /// Scale of a column's expert in that expert's row, else 0: `[E, R]`.
    spread: Tensor,
    /// Rank and scale of each expert here; `None` where it does not adapt this site.
    parts: Vec<Option<(usize, f64)>>,
}

impl SiteBank {
    fn new(loras: &[Option<&Lora>]) -> Result<Self> {
        let here: Vec<&Lora> = loras.iter().copied().flatten().collect();
        let parts: Vec<_> = loras
            .iter()
            .map(|l| l.map(|l| (l.rank(), l.scale)))
            .collect();
        let total: usize = parts.iter().flatten().map(|(rank, _)| rank).sum();
        let mut spread = vec![0f32; parts.len() * total];
        let mut column = 0;
        for (e, part) in parts.iter().enumerate() {
            if let Some((rank, scale)) = part {
                spread[e * total + column..][..*rank].fill(*scale as f32);
                column += rank;
            }
        }
        let stack = |part: fn(&Lora) -> &Tensor, axis| -> Result<Tensor> {
            let tensors: Vec<&Tensor> = here.iter().map(|l| part(l)).collect();
            Ok(Tensor::cat(&tensors, axis)?)
        };
        Ok(SiteBank {
            down: stack(|l| &l.a, 0)?,
            up: stack(|l| &l.b, 1)?,
            spread: Tensor::from_vec(spread, (parts.len(), total), &Device::Cpu)?,
            parts,
        })
    }

    /// Whether expert `e` adapts this site.
    pub fn has(&self, e: usize) -> bool {
        self.parts[e].is_some()
    }

    /// What the experts add to the output for input `x` `[t, d_in]`: `[t, d_out]`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for [`Mixing::Factors`] over unequal ranks or scales.
    pub fn delta(&self, x: &Tensor, gates: &Gates, mixing: Mixing) -> Result<Tensor> {
        let low = x.matmul(&self.down.t()?)?; // [t, R]
        let mixed = match mixing {
            Mixing::Outputs => self.spread_outputs(&low, gates)?,
            Mixing::Factors => self.spread_factors(&low, gates)?,
        };
        Ok(mixed.matmul(&self.up.t()?)?)
    }

    fn spread_outputs(&self, low: &Tensor, gates: &Gates) -> Result<Tensor> {
        Ok(match gates {
            Gates::Shared(g) => {
                low.broadcast_mul(&g.unsqueeze(0)?.matmul(&self.spread)?)? // [1, R]
            }
            Gates::Token(g) => low.mul(&g.matmul(&self.spread)?)?,
        })
    }

    fn spread_factors(&self, low: &Tensor, gates: &Gates) -> Result<Tensor> {
        let (rank, scale) = self.uniform_parts()?;
        let (t, experts) = (low.dims2()?.0, self.parts.len());
        let g = match gates {
            Gates::Shared(g) => g.reshape((1, experts, 1))?,
            Gates::Token(g) => g.reshape((t, experts, 1))?,
        };
        let low = low.reshape((t, experts, rank))?;
        let h = low.broadcast_mul(&g)?.sum(1)?; // [t, r]: x times the mean of the A's
        let spread = h
            .unsqueeze(1)?
            .broadcast_as((t, experts, rank))?
            .broadcast_mul(&g)?;
        Ok((spread.reshape((t, experts * rank))? * scale)?)
    }

    fn uniform_parts(&self) -> Result<(usize, f64)> {
        let first = self.parts.first().copied().flatten();
        match first {
            Some(part) if self.parts.iter().all(|p| *p == Some(part)) => Ok(part),
            _ => Err(Error::Mismatch(
                "mixing `factors` averages A's and B's, so every expert must adapt the same sites \
                 with the same rank and scale; these do not: use `--mixing outputs`"
                    .into(),
            )),
        }
    }
}

/// All experts of a mixture, stacked site by site, in the order of their names.
#[derive(Debug, Clone)]
pub struct Bank {
    names: Vec<Name>,
    sites: BTreeMap<Site, SiteBank>,
}

impl Bank {
    /// Stacks `experts` (name and adapters) in the order given.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when two experts disagree about the width of a site.
    pub fn new<'a>(
        experts: impl IntoIterator<Item = (Name, &'a BTreeMap<Site, Lora>)>,
    ) -> Result<Self> {
        let (names, loras): (Vec<_>, Vec<_>) = experts.into_iter().unzip();
        let all: std::collections::BTreeSet<&Site> = loras.iter().flat_map(|l| l.keys()).collect();
        let mut sites = BTreeMap::new();
        for site in all {
            let here: Vec<Option<&Lora>> = loras.iter().map(|l| l.get(site)).collect();
            let widths = |l: &&Lora| (l.d_in(), l.d_out());
            let mut shapes = here.iter().flatten().map(widths);
            let first = shapes.next();
            if shapes.any(|shape| Some(shape) != first) {
                let text = format!("experts adapt `{site}` with different widths");
                return Err(Error::Mismatch(text));
            }
            sites.insert(site.clone(), SiteBank::new(&here)?);
        }
        Ok(Bank { names, sites })
    }

    /// The experts' names, in the order of every gate.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// The stacked factors at `site`, if any expert adapts it.
    pub fn site(&self, site: &Site) -> Option<&SiteBank> {
        self.sites.get(site)
    }

    /// The sites some expert adapts, sorted.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    const SITE: &str = "h.0.q";

    fn tensor(rng: &mut Rng, rows: usize, columns: usize) -> Tensor {
        Tensor::from_vec(
            rng.normal(rows * columns, 1.0),
            (rows, columns),
            &Device::Cpu,
        )
        .unwrap()
    }

    fn experts(rng: &mut Rng, ranks: &[usize], same_scale: bool) -> Vec<BTreeMap<Site, Lora>> {
        let one = |(i, &rank): (usize, &usize)| {
            let scale = if same_scale { 0.25 } else { 0.5 + i as f64 };
            let lora = Lora::new(tensor(rng, rank, 6), tensor(rng, 5, rank), scale).unwrap();
            BTreeMap::from([(Site::new(SITE), lora)])
        };
        ranks.iter().enumerate().map(one).collect()
    }

    fn bank(experts: &[BTreeMap<Site, Lora>]) -> Bank {
        let name = |i| Name::new(&format!("e{i}")).unwrap();
        Bank::new(experts.iter().enumerate().map(|(i, e)| (name(i), e))).unwrap()
    }

    /// `sum_e g_e s_e B_e A_e x` for one token, in plain loops.
    fn naive(loras: &[&Lora], g: &[f32], x: &[f32], mixing: Mixing) -> Vec<f32> {
        let matrix = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let mut out = vec![0.0; 5];
        for (f, up) in loras.iter().enumerate() {
            for (e, down) in loras.iter().enumerate() {
                let weight = match mixing {
                    Mixing::Outputs if e == f => g[e] * down.scale as f32,
                    Mixing::Outputs => continue,
                    Mixing::Factors => g[e] * g[f] * down.scale as f32,
                };
                let low: Vec<f32> = matrix(&down.a).iter().map(|row| dot(row, x)).collect();
                for (o, row) in out.iter_mut().zip(matrix(&up.b)) {
                    *o += weight * dot(&row, &low);
                }
            }
        }
        out
    }

    fn check(ranks: &[usize], mixing: Mixing, seed: u64, shared: bool) {
        let mut rng = Rng::new(seed);
        let experts = experts(&mut rng, ranks, mixing == Mixing::Factors);
        let bank = bank(&experts);
        let (t, e) = (3, ranks.len());
        let x = tensor(&mut rng, t, 6);
        let g = tensor(&mut rng, t, e);
        let gates = match shared {
            true => Gates::Shared(g.get(0).unwrap()),
            false => Gates::Token(g.clone()),
        };
        let site = bank.site(&Site::new(SITE)).unwrap();
        let got = site
            .delta(&x, &gates, mixing)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let (x, g) = (x.to_vec2::<f32>().unwrap(), g.to_vec2::<f32>().unwrap());
        let loras: Vec<&Lora> = experts.iter().map(|m| &m[SITE]).collect();
        for i in 0..t {
            let g = if shared { &g[0] } else { &g[i] };
            for (a, b) in got[i].iter().zip(naive(&loras, g, &x[i], mixing)) {
                assert!((a - b).abs() <= 1e-3 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn outputs_equal_the_naive_loop(
            ranks in proptest::collection::vec(1usize..5, 1..5), seed: u64, shared: bool,
        ) {
            check(&ranks, Mixing::Outputs, seed, shared);
        }

        #[test]
        fn factors_equal_the_naive_loop(
            rank in 1usize..5, e in 1usize..5, seed: u64, shared: bool,
        ) {
            check(&vec![rank; e], Mixing::Factors, seed, shared);
        }
    }

    #[test]
    fn factors_refuse_mixed_ranks() {
        let mut rng = Rng::new(1);
        let bank = bank(&experts(&mut rng, &[1, 2], true));
        let gates = Gates::Shared(Tensor::ones(2, candle_core::DType::F32, &Device::Cpu).unwrap());
        let site = bank.site(&Site::new(SITE)).unwrap();
        let error = site
            .delta(&tensor(&mut rng, 2, 6), &gates, Mixing::Factors)
            .unwrap_err();
        assert!(error.to_string().contains("--mixing outputs"), "{error}");
    }
}
