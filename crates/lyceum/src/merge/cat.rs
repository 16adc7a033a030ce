//! An exact merge by outputs: all A's stacked, all B's side by side with weight and scale in them.
//!
//! `sum_e w_e s_e B_e A_e x = [w_1 s_1 B_1 .. w_n s_n B_n] [A_1; ..; A_n] x`.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use crate::error::{Context, Result};
use crate::expert::Expert;
use crate::lora::{Lora, LoraConfig};
use crate::name::Site;

/// The concatenation, and the configuration that says its ranks; all scales are 1.
pub(super) fn merge(
    experts: &[&Expert],
    shares: &[f64],
) -> Result<(LoraConfig, BTreeMap<Site, Lora>)> {
    let sites: BTreeSet<&Site> = experts.iter().flat_map(|e| e.loras.keys()).collect();
    let mut loras = BTreeMap::new();
    for site in sites {
        let here = || {
            let pairs = experts.iter().zip(shares);
            pairs.filter_map(|(e, w)| Some((e.loras.get(site)?, *w)))
        };
        let a: Vec<&Tensor> = here().map(|(lora, _)| &lora.a).collect();
        let b: Vec<Tensor> = here()
            .map(|(lora, w)| Ok((&lora.b * (w * lora.scale))?))
            .collect::<Result<_>>()?;
        let stacked = || -> Result<_> { Ok((Tensor::cat(&a, 0)?, Tensor::cat(&b, 1)?)) };
        let (a, b) = stacked().context(|| format!("the experts' widths at {site} differ"))?;
        loras.insert(site.clone(), Lora::new(a, b, 1.0)?);
    }
    let part = |(site, lora): (&Site, &Lora)| {
        let rank = lora.rank();
        (site.clone(), (rank, rank as f64))
    };
    let parts = loras.iter().map(part).collect();
    let targets: BTreeSet<&String> = experts.iter().flat_map(|e| &e.card.lora.targets).collect();
    let targets = targets.into_iter().cloned().collect();
    Ok((LoraConfig::of(&parts, false, targets)?, loras))
}
