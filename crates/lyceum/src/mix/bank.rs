//! Experts stacked along the rank axis: any number, of any rank.

use std::collections::BTreeMap;

use candle_core::Tensor;
use lyceum_kernels::delta::{Delta, Factors, Law};

use super::{Gates, Mixing};
use crate::error::{Error, Result};
use crate::lora::Lora;
use crate::name::{Name, Site};
use crate::ops::{self, composed::Placed};

/// The stacked factors of all experts at one site.
#[derive(Debug, Clone)]
pub struct SiteBank {
    /// All A's, `[R, d_in]`.
    pub(super) down: Vec<f32>,
    /// All B's turned, `[R, d_out]`.
    pub(super) up: Vec<f32>,
    /// Where each expert's rows begin, and where the last one's end.
    pub(super) starts: Vec<usize>,
    /// Each expert's scale; 0 where it does not adapt this site.
    pub(super) scales: Vec<f32>,
    /// Widths of the site: in, out.
    pub(super) widths: (usize, usize),
    /// Rank and scale of each expert here; `None` where it does not adapt this site.
    parts: Vec<Option<(usize, f64)>>,
    /// `down`, then `up`, as one flat tensor, if one of them can be trained.
    params: Option<Tensor>,
    /// `down` and `up` on the device that asked for them first, if they are not trained.
    pub(super) placed: Placed<(Tensor, Tensor)>,
}

impl SiteBank {
    fn new(loras: &[Option<&Lora>], widths: (usize, usize)) -> Result<Self> {
        let here: Vec<&Lora> = loras.iter().copied().flatten().collect();
        let parts: Vec<_> = loras
            .iter()
            .map(|l| l.map(|l| (l.rank(), l.scale)))
            .collect();
        let mut starts = vec![0];
        let mut end = 0;
        for part in &parts {
            end += part.map_or(0, |(rank, _)| rank);
            starts.push(end);
        }
        let down = |lora: &&Lora| lora.a.flatten_all();
        let up = |lora: &&Lora| lora.b.t()?.contiguous()?.flatten_all();
        let mut all: Vec<Tensor> = here.iter().map(down).collect::<Result<_, _>>()?;
        all.extend(here.iter().map(up).collect::<Result<Vec<_>, _>>()?);
        let mut values = Vec::with_capacity(end * (widths.0 + widths.1));
        for part in &all {
            values.extend_from_slice(&ops::values(part)?);
        }
        let trained = here.iter().any(|l| l.a.track_op() || l.b.track_op());
        let up = values.split_off(end * widths.0);
        Ok(SiteBank {
            down: values,
            up,
            starts,
            scales: parts
                .iter()
                .map(|p| p.map_or(0.0, |(_, scale)| scale as f32))
                .collect(),
            widths,
            parts,
            params: trained.then(|| Tensor::cat(&all, 0)).transpose()?,
            placed: Placed::new(),
        })
    }

    /// Whether expert `e` adapts this site.
    pub fn has(&self, e: usize) -> bool {
        self.parts[e].is_some()
    }

    /// All A's, then all B's turned, if one of them can be trained: one flat tensor.
    pub(super) fn params(&self) -> Option<&Tensor> {
        self.params.as_ref()
    }

    fn delta<'a>(&'a self, gates: &'a Gates, mixing: Mixing) -> Delta<'a> {
        let factors = Factors {
            down: &self.down,
            up: &self.up,
            starts: &self.starts,
            scales: &self.scales,
            widths: self.widths,
            law: match mixing {
                Mixing::Outputs => Law::Outputs,
                Mixing::Factors => Law::Factors,
            },
        };
        Delta::new(factors, gates.view())
    }

    /// What the experts take in of `x` `[t, d_in]`, where outputs have `d_out` values: what the other
    /// methods call `low`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for [`Mixing::Factors`] over unequal ranks or scales, and for gates or
    /// widths that do not fit.
    pub fn project(
        &self,
        (x, d_out): (&[f32], usize),
        gates: &Gates,
        mixing: Mixing,
    ) -> Result<Vec<f32>> {
        self.check((x.len(), d_out), gates, mixing)?;
        Ok(self.delta(gates, mixing).project(x))
    }

    /// Whether `n` values of input, outputs of `d_out` values and `gates` fit these experts.
    pub(super) fn check(
        &self,
        (n, d_out): (usize, usize),
        gates: &Gates,
        mixing: Mixing,
    ) -> Result<()> {
        if mixing == Mixing::Factors {
            self.check_even()?;
        }
        let d_in = self.widths.0;
        let t = n / d_in.max(1);
        if n != t * d_in || d_out != self.widths.1 || !gates.fit(t, self.parts.len()) {
            let text = format!(
                "gates of {} experts from {d_in} to {} values over {n} values, to {d_out}",
                self.parts.len(),
                self.widths.1,
            );
            return Err(Error::Mismatch(text));
        }
        Ok(())
    }

    /// Adds to `y`, the outputs of some tokens from `first` on, what the experts make of them.
    pub fn spread(&self, low: &[f32], gates: &Gates, mixing: Mixing, first: usize, y: &mut [f32]) {
        self.delta(gates, mixing).spread(low, first, y);
    }

    /// The gradients of `low` and of the gates' weights `[t, per]` for `dy` `[t, d_out]`.
    pub(super) fn project_backward(
        &self,
        low: &[f32],
        gates: &Gates,
        mixing: Mixing,
        dy: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        self.delta(gates, mixing).project_backward(low, dy)
    }

    /// Adds to `dx`, the gradients of some tokens' inputs from `first` on, what comes through the
    /// experts.
    pub(super) fn spread_back(
        &self,
        dlow: &[f32],
        gates: &Gates,
        mixing: Mixing,
        first: usize,
        dx: &mut [f32],
    ) {
        self.delta(gates, mixing).spread_back(dlow, first, dx);
    }

    /// The gradients of the factors as [`SiteBank::params`] has them, if they can be trained.
    pub(super) fn backward(
        &self,
        (x, dlow): (&[f32], &[f32]),
        (low, dy): (&[f32], &[f32]),
        gates: &Gates,
        mixing: Mixing,
    ) -> Option<Vec<f32>> {
        self.params.as_ref()?;
        let mut params = vec![0.0; self.down.len() + self.up.len()];
        let both = params.split_at_mut(self.down.len());
        self.delta(gates, mixing)
            .factors_backward((x, dlow), (low, dy), both);
        Some(params)
    }

    fn check_even(&self) -> Result<()> {
        match self.parts.first().copied().flatten() {
            Some(part) if self.parts.iter().all(|p| *p == Some(part)) => Ok(()),
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
            let widths = first.unwrap_or_default();
            sites.insert(site.clone(), SiteBank::new(&here, widths)?);
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
    use candle_core::Device;
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
        let (x, g) = (x.to_vec2::<f32>().unwrap(), g.to_vec2::<f32>().unwrap());
        let all = (0..t).flat_map(|_| 0..e as u32).collect();
        let gates = match shared {
            true => Gates::shared(&g[0]),
            false => Gates::chosen(e, all, g.concat()).unwrap(),
        };
        let site = bank.site(&Site::new(SITE)).unwrap();
        let mut got = vec![0.0; t * 5];
        let low = site.project((&x.concat(), 5), &gates, mixing).unwrap();
        site.spread(&low, &gates, mixing, 0, &mut got);
        let got: Vec<&[f32]> = got.chunks(5).collect();
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
        let site = bank.site(&Site::new(SITE)).unwrap();
        let gates = Gates::shared(&[1.0, 1.0]);
        let error = site
            .project((&[1.0; 12], 5), &gates, Mixing::Factors)
            .unwrap_err();
        assert!(error.to_string().contains("--mixing outputs"), "{error}");
    }
}
