//! Banks of experts: any number, of any rank.

use std::collections::{BTreeMap, BTreeSet};

use super::site::{Adapter, SiteBank};
use crate::error::{Error, Result};
use crate::lora::Lora;
use crate::name::{Name, Site};

/// The experts of a mixture: per site a table of slabs, one for each expert, in one order.
///
/// A slab never changes, and banks share them: [`Bank::with`] and [`Bank::without`] copy no other
/// expert's values.
#[derive(Debug, Clone)]
pub struct Bank {
    names: Vec<Name>,
    sites: BTreeMap<Site, SiteBank>,
}

impl Bank {
    /// Makes a slab of each adapter of `experts` (name and adapters), in the order given.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when two experts disagree about the width of a site.
    pub fn new<'a>(
        experts: impl IntoIterator<Item = (Name, &'a BTreeMap<Site, Lora>)>,
    ) -> Result<Self> {
        let (names, loras): (Vec<_>, Vec<_>) = experts.into_iter().unzip();
        let all: BTreeSet<&Site> = loras.iter().flat_map(|l| l.keys()).collect();
        let mut sites = BTreeMap::new();
        for site in all {
            let here = || loras.iter().map(|l| l.get(site));
            let mut widths = here().flatten().map(|l| (l.d_in(), l.d_out()));
            let (d_in, d_out) = widths.next().unwrap_or_default();
            if widths.any(|own| own != (d_in, d_out)) {
                return Err(different_widths(site));
            }
            let adapters = here().map(|lora| lora.map(Adapter::new).transpose());
            let adapters = adapters.collect::<Result<_>>()?;
            sites.insert(site.clone(), SiteBank::new(adapters, d_in, d_out)?);
        }
        Ok(Bank { names, sites })
    }

    /// Returns a bank with one more expert, the last in order. The others' slabs are shared.
    ///
    /// # Errors
    /// [`Error::Exists`] when the bank has an expert of this name; [`Error::Mismatch`] when the
    /// width of a site differs.
    pub fn with(&self, name: Name, loras: &BTreeMap<Site, Lora>) -> Result<Self> {
        if self.names.contains(&name) {
            let (kind, name) = ("expert", name.to_string());
            return Err(Error::Exists { kind, name });
        }
        let mut sites = BTreeMap::new();
        for site in self.sites.keys().chain(loras.keys()) {
            if sites.contains_key(site) {
                continue;
            }
            let (here, lora) = (self.sites.get(site), loras.get(site));
            let widths = lora.map(|l| (l.d_in(), l.d_out()));
            let old = here.map(SiteBank::widths);
            if widths.is_some_and(|own| old.is_some_and(|old| old != own)) {
                return Err(different_widths(site));
            }
            let mut adapters = match here {
                Some(here) => here.adapters().to_vec(),
                None => vec![None; self.names.len()],
            };
            adapters.push(lora.map(Adapter::new).transpose()?);
            let (d_in, d_out) = widths.or(old).unwrap_or_default();
            sites.insert(site.clone(), SiteBank::new(adapters, d_in, d_out)?);
        }
        let names = self.names.iter().cloned().chain([name]).collect();
        Ok(Bank { names, sites })
    }

    /// Returns a bank without the expert `name`; those after it move up by one. Their slabs are
    /// shared.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names.
    pub fn without(&self, name: &Name) -> Result<Self> {
        let own = self.place(name)?;
        self.at(&(0..self.names.len())
            .filter(|e| *e != own)
            .collect::<Vec<_>>())
    }

    /// Returns a bank of the experts called `names`, in that order. Their slabs are shared.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names; [`Error::Invalid`] for a name given twice.
    pub fn select(&self, names: &[Name]) -> Result<Self> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(Error::invalid(format!("expert `{twice}` is named twice")));
        }
        let places: Vec<usize> = names
            .iter()
            .map(|name| self.place(name))
            .collect::<Result<_>>()?;
        self.at(&places)
    }

    /// The bank of the experts at `places`.
    fn at(&self, places: &[usize]) -> Result<Self> {
        let mut sites = BTreeMap::new();
        for (site, here) in &self.sites {
            let adapters: Vec<_> = places.iter().map(|&e| here.adapters()[e].clone()).collect();
            if adapters.iter().any(Option::is_some) {
                let (d_in, d_out) = here.widths();
                sites.insert(site.clone(), SiteBank::new(adapters, d_in, d_out)?);
            }
        }
        let names = places.iter().map(|&e| self.names[e].clone()).collect();
        Ok(Bank { names, sites })
    }

    fn place(&self, name: &Name) -> Result<usize> {
        let found = self.names.iter().position(|own| own == name);
        let names = || self.names.iter().map(Name::as_str);
        found.ok_or_else(|| Error::not_found("expert", name.as_str(), names()))
    }

    /// The experts' names, in the order of every gate.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// The factors at `site`, if any expert adapts it.
    pub fn site(&self, site: &Site) -> Option<&SiteBank> {
        self.sites.get(site)
    }

    /// The sites some expert adapts, sorted.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.keys()
    }
}

fn different_widths(site: &Site) -> Error {
    Error::Mismatch(format!("experts adapt `{site}` with different widths"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Hint;
    use crate::mix::{Gates, Mixing};
    use crate::rng::Rng;
    use candle_core::{Device, Tensor, Var};
    use proptest::prelude::*;
    use std::sync::Arc;

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
                let h: Vec<f32> = matrix(&down.a).iter().map(|row| dot(row, x)).collect();
                for (o, row) in out.iter_mut().zip(matrix(&up.b)) {
                    *o += weight * dot(&row, &h);
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
        site.check(t * 6, 5, &gates, mixing).unwrap();
        let delta = site.delta(&gates, mixing);
        delta.expand(&delta.shrink(&x.concat()), 0, &mut got);
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
        let error = site.check(12, 5, &gates, Mixing::Factors).unwrap_err();
        let outputs = Hint::Set {
            option: "mixing",
            value: "outputs",
        };
        assert_eq!(error.hints(), [outputs]);
    }

    /// The slab of an expert at the site of these tests.
    fn slab<'a>(bank: &'a Bank, expert: &str) -> &'a Arc<[f32]> {
        let place = bank.place(&Name::new(expert).unwrap()).unwrap();
        bank.sites[SITE].slab(place).unwrap()
    }

    fn outputs(bank: &Bank, gates: &Gates) -> Vec<f32> {
        let (site, mut y) = (&bank.sites[SITE], vec![0.0; 10]);
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        site.check(12, 5, gates, Mixing::Outputs).unwrap();
        let delta = site.delta(gates, Mixing::Outputs);
        delta.expand(&delta.shrink(&x), 0, &mut y);
        y
    }

    #[test]
    fn an_expert_comes_and_goes_without_a_copy_of_the_others() {
        let mut rng = Rng::new(2);
        let experts = experts(&mut rng, &[2, 3, 1], false);
        let name = |text: &str| Name::new(text).unwrap();
        let whole = bank(&experts);
        let mut one = bank(&experts[..2]);
        // At a site of its own, too.
        let mut more = experts[2].clone();
        more.insert(Site::new("h.1.q"), experts[2][SITE].clone());
        let both = one.with(name("e2"), &more).unwrap();
        assert_eq!(both.names(), whole.names());
        for expert in ["e0", "e1"] {
            assert!(Arc::ptr_eq(slab(&one, expert), slab(&both, expert)));
        }
        assert!(both.sites["h.1.q"].slab(0).is_none() && both.sites["h.1.q"].slab(2).is_some());
        let gates = Gates::chosen(2, vec![0, 2, 2, 1], vec![0.5, 2.0, 1.0, -1.0]).unwrap();
        assert_eq!(outputs(&both, &gates), outputs(&whole, &gates));
        // What goes takes its site along; the others stay where they lie.
        let rest = both.without(&name("e2")).unwrap();
        assert_eq!(
            rest.sites().collect::<Vec<_>>(),
            one.sites().collect::<Vec<_>>()
        );
        assert!(Arc::ptr_eq(slab(&rest, "e1"), slab(&one, "e1")));
        let last = both.without(&name("e0")).unwrap();
        assert_eq!(last.names(), [name("e1"), name("e2")]);
        assert!(Arc::ptr_eq(slab(&last, "e2"), slab(&both, "e2")));
        let (gates, old) = (Gates::shared(&[1.0, 2.0]), Gates::shared(&[0.0, 1.0, 2.0]));
        assert_eq!(outputs(&last, &gates), outputs(&both, &old));
        let turned = both.select(&[name("e2"), name("e0")]).unwrap();
        assert!(Arc::ptr_eq(slab(&turned, "e0"), slab(&both, "e0")));
        assert!(one.with(name("e1"), &more).is_err());
        assert!(one.without(&name("e2")).is_err());
        assert!(both.select(&[name("e2"), name("e2")]).is_err());
        // Without any expert left there is no site.
        for expert in ["e0", "e1"] {
            one = one.without(&name(expert)).unwrap();
        }
        assert_eq!(one.sites().count(), 0);
    }

    #[test]
    fn experts_under_training_join_frozen_ones() {
        let mut rng = Rng::new(3);
        let experts = experts(&mut rng, &[2, 3], false);
        let lora = &experts[1][SITE];
        let (a, b) = (
            Var::from_tensor(&lora.a).unwrap(),
            Var::from_tensor(&lora.b).unwrap(),
        );
        let trained = Lora {
            a: a.as_tensor().clone(),
            b: b.as_tensor().clone(),
            scale: lora.scale,
        };
        let trained = BTreeMap::from([(Site::new(SITE), trained)]);
        let frozen = bank(&experts[..1]);
        assert!(frozen.sites[SITE].params().is_none());
        let both = frozen.with(Name::new("e1").unwrap(), &trained).unwrap();
        let params = both.sites[SITE].params().unwrap();
        // All A's, then all B's transposed.
        let flat = |t: Tensor| {
            t.contiguous()
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let sides = [|l: &Lora| l.a.clone(), |l: &Lora| l.b.t().unwrap()];
        let all = sides.map(|side| {
            experts
                .iter()
                .flat_map(move |e| flat(side(&e[SITE])))
                .collect::<Vec<_>>()
        });
        assert_eq!(params.to_vec1::<f32>().unwrap(), all.concat());
        let gradients = params.sum_all().unwrap().backward().unwrap();
        for var in [&a, &b] {
            let gradient = flat(gradients.get(var).unwrap().clone());
            assert!(gradient.iter().all(|g| *g == 1.0) && gradient.len() == var.elem_count());
        }
    }
}
