//! One low-rank adapter of one linear, and how adapters are configured.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::Site;

/// `delta = scale * B A x`, in PEFT's layout.
///
/// ```
/// use lyceum::lora::Lora;
/// use lyceum::{Device, Tensor};
///
/// let a = Tensor::from_slice(&[1f32, 2., 3.], (1, 3), &Device::Cpu)?;
/// let b = Tensor::from_slice(&[1f32, -1.], (2, 1), &Device::Cpu)?;
/// let lora = Lora::new(a, b, 0.5)?;
/// assert_eq!((lora.rank(), lora.d_in(), lora.d_out()), (1, 3, 2));
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lora {
    /// `[r, d_in]`.
    pub a: Tensor,
    /// `[d_out, r]`.
    pub b: Tensor,
    /// `alpha / r`, or `alpha / sqrt(r)` for rslora.
    pub scale: f64,
}

impl Lora {
    /// Checks that the factors are matrices, fit, and are finite.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when one is no matrix, is empty, or their ranks differ;
    /// [`Error::Invalid`] for values that are not finite.
    pub fn new(a: Tensor, b: Tensor, scale: f64) -> Result<Self> {
        let matrix = |name: &str, factor: &Tensor| match *factor.dims() {
            [n, m] if n > 0 && m > 0 => Ok((n, m)),
            ref shape => Err(Error::Mismatch(format!(
                "{name} is {shape:?}, and no matrix with values"
            ))),
        };
        let ((rank, _), (_, other)) = (matrix("A", &a)?, matrix("B", &b)?);
        if rank != other {
            return Err(Error::Mismatch(format!(
                "A has rank {rank}, B has rank {other}"
            )));
        }
        for factor in [&a, &b] {
            if factor
                .flatten_all()?
                .to_vec1::<f32>()?
                .iter()
                .any(|x| !x.is_finite())
            {
                return Err(Error::invalid(
                    "an adapter holds values that are not finite",
                ));
            }
        }
        if !scale.is_finite() {
            return Err(Error::invalid("an adapter's scale is not finite"));
        }
        Ok(Lora { a, b, scale })
    }

    /// Its rank.
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// Width of its input.
    pub fn d_in(&self) -> usize {
        self.a.dims()[1]
    }

    /// Width of its output.
    pub fn d_out(&self) -> usize {
        self.b.dims()[0]
    }

    /// Frobenius norm of `scale * B A`, through r x r products: `|BA|^2 = <B^T B, A A^T>`.
    ///
    /// # Errors
    /// When a product fails.
    pub fn norm(&self) -> Result<f64> {
        let f64s = |t: &Tensor| t.to_dtype(candle_core::DType::F64);
        let (a, b) = (f64s(&self.a)?, f64s(&self.b)?);
        let square = a
            .matmul(&a.t()?)?
            .mul(&b.t()?.matmul(&b)?)?
            .sum_all()?
            .to_scalar::<f64>()?;
        Ok(self.scale.abs() * square.max(0.0).sqrt())
    }
}

/// Rank, scale and targets of an expert's adapters.
///
/// ```
/// use lyceum::Site;
/// use lyceum::lora::LoraConfig;
///
/// let config = LoraConfig::default();
/// let site = Site::new("model.layers.0.self_attn.q_proj");
/// assert!(config.adapts(&site));
/// assert_eq!(config.scale_at(&site), config.alpha / config.rank as f64);
///
/// let lora = LoraConfig::default().rank(8).alpha(16.0).targets(["q_proj", "mlp.c_fc"]);
/// assert_eq!((lora.rank, lora.targets.len()), (8, 2));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LoraConfig {
    /// Rank of every adapter, but for those in `rank_pattern`.
    pub rank: usize,
    /// Numerator of the scale, but for those in `alpha_pattern`.
    pub alpha: f64,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank`.
    #[serde(default)]
    pub rslora: bool,
    /// Last parts of the module paths to adapt: `q_proj`, `mlp.c_fc`.
    pub targets: Vec<String>,
    /// Other ranks, by last parts of module paths; the longest that fits counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other numerators of the scale, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
}

/// The rank and alpha of the adapter of one site, from which its scale follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankAlpha {
    /// The rank.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
}

impl Default for LoraConfig {
    /// The tutorial's: rank 4, alpha 1, q, k and v.
    fn default() -> Self {
        let targets = ["q_proj", "k_proj", "v_proj"].map(String::from).to_vec();
        LoraConfig {
            rank: 4,
            alpha: 1.0,
            rslora: false,
            targets,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

/// Returns `true` if `site` is `path` or ends in it after a dot (as PEFT matches names).
pub(crate) fn ends_in(site: &str, path: &str) -> bool {
    let rest = site.strip_suffix(path);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The value of the longest key that `site` ends in.
fn fitting<T: Copy>(patterns: &BTreeMap<String, T>, site: &Site) -> Option<T> {
    let fits = patterns
        .iter()
        .filter(|(key, _)| ends_in(site.as_str(), key));
    fits.max_by_key(|(key, _)| key.len())
        .map(|(_, value)| *value)
}

/// The commonest of `values` (the least of equals), and keys for the sites that have another:
/// the last part of the path where it decides alone, else the whole path.
fn patterns<T: Copy + PartialOrd>(values: &[(&Site, T)]) -> Option<(T, BTreeMap<String, T>)> {
    let count = |x: T| values.iter().filter(|(_, y)| *y == x).count();
    let mut common = values.first()?.1;
    for &(_, x) in values {
        if count(x) > count(common) || (count(x) == count(common) && x < common) {
            common = x;
        }
    }
    let mut keys = BTreeMap::new();
    for &(site, x) in values.iter().filter(|(_, x)| *x != common) {
        let last = site.last();
        let alike = values.iter().filter(|(other, _)| other.last() == last);
        let alone = alike.fold(true, |alone, (_, y)| alone && *y == x);
        let key = if alone { last } else { site.as_str() };
        keys.insert(key.to_owned(), x);
    }
    Some((common, keys))
}

impl LoraConfig {
    /// Sets the rank of every adapter that no pattern gives another.
    #[must_use]
    pub fn rank(mut self, rank: usize) -> Self {
        self.rank = rank;
        self
    }

    /// Sets the numerator of the scale, `alpha / rank`, where no pattern gives another.
    #[must_use]
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Turns the scale `alpha / sqrt(rank)` on or off.
    #[must_use]
    pub fn rslora(mut self, rslora: bool) -> Self {
        self.rslora = rslora;
        self
    }

    /// Sets the modules to adapt, by last parts of their paths: `q_proj`, `mlp.c_fc`.
    #[must_use]
    pub fn targets<T: Into<String>>(mut self, targets: impl IntoIterator<Item = T>) -> Self {
        self.targets = targets.into_iter().map(Into::into).collect();
        self
    }

    /// Sets other ranks, by last parts of module paths.
    #[must_use]
    pub fn rank_pattern(mut self, ranks: BTreeMap<String, usize>) -> Self {
        self.rank_pattern = ranks;
        self
    }

    /// Sets other numerators of the scale, by last parts of module paths.
    #[must_use]
    pub fn alpha_pattern(mut self, alphas: BTreeMap<String, f64>) -> Self {
        self.alpha_pattern = alphas;
        self
    }

    /// The configuration of the adapters `parts`, with the shortest patterns that describe them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none.
    pub fn of(
        parts: &BTreeMap<Site, RankAlpha>,
        rslora: bool,
        targets: Vec<String>,
    ) -> Result<Self> {
        let ranks: Vec<(&Site, usize)> = parts.iter().map(|(s, p)| (s, p.rank)).collect();
        let alphas: Vec<(&Site, f64)> = parts.iter().map(|(s, p)| (s, p.alpha)).collect();
        let none = || Error::invalid("there is no adapter to describe");
        let (rank, rank_pattern) = patterns(&ranks).ok_or_else(none)?;
        let (alpha, alpha_pattern) = patterns(&alphas).ok_or_else(none)?;
        let config = LoraConfig {
            rank,
            alpha,
            rslora,
            targets,
            rank_pattern,
            alpha_pattern,
        };
        config.check()?;
        let wrong = |(site, part): &(&Site, &RankAlpha)| {
            (config.rank_at(site), config.alpha_at(site)) != (part.rank, part.alpha)
        };
        match parts.iter().find(wrong) {
            None => Ok(config),
            Some((site, _)) => Err(Error::invalid(format!(
                "the rank and alpha of `{site}` are ambiguous with those of a longer path"
            ))),
        }
    }

    /// The rank at `site`.
    pub fn rank_at(&self, site: &Site) -> usize {
        fitting(&self.rank_pattern, site).unwrap_or(self.rank)
    }

    /// The numerator of the scale at `site`.
    pub fn alpha_at(&self, site: &Site) -> f64 {
        fitting(&self.alpha_pattern, site).unwrap_or(self.alpha)
    }

    /// The factor applied to `B A` at `site`.
    pub fn scale_at(&self, site: &Site) -> f64 {
        scale(self.rank_at(site), self.alpha_at(site), self.rslora)
    }

    /// Returns `true` if `site` is adapted: its path is a target or ends in one after a dot (as
    /// PEFT does).
    pub fn adapts(&self, site: &Site) -> bool {
        let target = |target: &String| ends_in(site.as_str(), target);
        self.targets.iter().any(target)
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming what is out of range.
    pub fn check(&self) -> Result<()> {
        let mut ranks = self.rank_pattern.values().chain([&self.rank]);
        if ranks.any(|rank| !(1..=4096).contains(rank)) {
            return Err(Error::invalid("lora.rank must be 1 to 4096"));
        }
        let mut alphas = self.alpha_pattern.values().chain([&self.alpha]);
        if alphas.any(|alpha| !alpha.is_finite() || *alpha == 0.0) {
            return Err(Error::invalid("lora.alpha must be a number other than 0"));
        }
        // PEFT reads these keys as regular expressions; such as these mean the same to it.
        let plain = |c: char| c.is_alphanumeric() || "_.-".contains(c);
        let mut keys = self.rank_pattern.keys().chain(self.alpha_pattern.keys());
        if let Some(key) = keys.find(|key| key.is_empty() || !key.chars().all(plain)) {
            return Err(Error::invalid(format!(
                "lora: the pattern `{key}` must be the end of a module path, like q_proj"
            )));
        }
        if self.targets.is_empty() || self.targets.iter().any(String::is_empty) {
            return Err(Error::invalid(
                "lora.targets must name the layers to adapt, like q_proj",
            ));
        }
        Ok(())
    }
}

/// The factor applied to `B A`: `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA.
pub(crate) fn scale(rank: usize, alpha: f64, rslora: bool) -> f64 {
    let rank = rank as f64;
    alpha / if rslora { rank.sqrt() } else { rank }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn targets_match_whole_parts_of_a_path() {
        let config = LoraConfig::default();
        assert!(config.adapts(&Site::new("transformer.h.0.attn.attention.q_proj")));
        assert!(!config.adapts(&Site::new("transformer.h.0.attn.attention.xq_proj")));
        assert!(!config.adapts(&Site::new("transformer.h.0.mlp.c_fc")));
    }

    #[test]
    fn the_norm_is_that_of_the_product() {
        let tensor = |v: &[f32], n, m| Tensor::from_slice(v, (n, m), &Device::Cpu).unwrap();
        let lora = Lora::new(tensor(&[3.0, 4.0], 1, 2), tensor(&[2.0, 0.0], 2, 1), 0.5).unwrap();
        assert!((lora.norm().unwrap() - 5.0).abs() < 1e-12);
        let wrong = Lora::new(tensor(&[3.0, 4.0], 2, 1), tensor(&[2.0, 0.0], 2, 1), 0.5);
        assert!(matches!(wrong, Err(Error::Mismatch(_))));
        let one = || tensor(&[3.0], 1, 1);
        for shape in [vec![0], vec![1], vec![0, 1], vec![1, 0], vec![1, 1, 1]] {
            let odd = Tensor::zeros(&shape[..], candle_core::DType::F32, &Device::Cpu).unwrap();
            let error = Lora::new(odd.clone(), one(), 1.0).unwrap_err().to_string();
            assert!(error.contains(&format!("A is {shape:?}")), "{error}");
            let error = Lora::new(one(), odd, 1.0).unwrap_err().to_string();
            assert!(error.contains(&format!("B is {shape:?}")), "{error}");
        }
    }

    #[test]
    fn other_ranks_and_alphas_are_said_shortly_and_read_back() {
        let parts = |all: &[(&str, usize, f64)]| -> BTreeMap<Site, RankAlpha> {
            let part = |&(site, rank, alpha): &(&str, usize, f64)| {
                (Site::new(site), RankAlpha { rank, alpha })
            };
            all.iter().map(part).collect()
        };
        let all = parts(&[
            ("h.0.q", 8, 16.0),
            ("h.0.k", 2, 16.0),
            ("h.1.q", 8, 4.0),
            ("h.1.k", 2, 16.0),
            ("h.1.v", 8, 16.0),
        ]);
        let config = LoraConfig::of(&all, true, vec!["q".into()]).unwrap();
        assert_eq!(config.rank_pattern, BTreeMap::from([("k".into(), 2)]));
        assert_eq!(
            config.alpha_pattern,
            BTreeMap::from([("h.1.q".into(), 4.0)])
        );
        for (site, RankAlpha { rank, alpha }) in &all {
            assert_eq!(
                (config.rank_at(site), config.alpha_at(site)),
                (*rank, *alpha)
            );
            assert_eq!(config.scale_at(site), alpha / (*rank as f64).sqrt());
        }
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<LoraConfig>(&json).unwrap(), config);
        assert!(
            !serde_json::to_string(&LoraConfig::default())
                .unwrap()
                .contains("pattern")
        );
        let config = LoraConfig {
            rank_pattern: BTreeMap::from([("q|k".into(), 2)]),
            ..LoraConfig::default()
        };
        assert!(config.check().unwrap_err().to_string().contains("q|k"));
    }
}
