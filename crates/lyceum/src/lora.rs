//! One low-rank adapter of one linear, and how adapters are configured.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::Site;

/// `delta = scale * B A x`, in PEFT's layout.
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
    /// Checks that the factors fit and are finite.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when ranks differ, [`Error::Invalid`] for values that are not finite.
    pub fn new(a: Tensor, b: Tensor, scale: f64) -> Result<Self> {
        let ((rank, _), (_, other)) = (a.dims2()?, b.dims2()?);
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of every adapter.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank`.
    #[serde(default)]
    pub rslora: bool,
    /// Last parts of the module paths to adapt: `q_proj`, `mlp.c_fc`.
    pub targets: Vec<String>,
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
        }
    }
}

impl LoraConfig {
    /// What `B A` is multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Whether `site` is adapted: its path is a target or ends in one after a dot (as PEFT does).
    pub fn adapts(&self, site: &Site) -> bool {
        self.targets.iter().any(|target| {
            let rest = site.as_str().strip_suffix(target.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming what is out of range.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 || self.rank > 4096 {
            return Err(Error::invalid("lora.rank must be 1 to 4096"));
        }
        if !self.alpha.is_finite() || self.alpha == 0.0 {
            return Err(Error::invalid("lora.alpha must be a number other than 0"));
        }
        if self.targets.is_empty() || self.targets.iter().any(String::is_empty) {
            return Err(Error::invalid(
                "lora.targets must name the layers to adapt, like q_proj",
            ));
        }
        Ok(())
    }
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
        assert_eq!(config.scale(), 0.25);
    }

    #[test]
    fn the_norm_is_that_of_the_product() {
        let tensor = |v: &[f32], n, m| Tensor::from_slice(v, (n, m), &Device::Cpu).unwrap();
        let lora = Lora::new(tensor(&[3.0, 4.0], 1, 2), tensor(&[2.0, 0.0], 2, 1), 0.5).unwrap();
        assert!((lora.norm().unwrap() - 5.0).abs() < 1e-12);
        let wrong = Lora::new(tensor(&[3.0, 4.0], 2, 1), tensor(&[2.0, 0.0], 2, 1), 0.5);
        assert!(matches!(wrong, Err(Error::Mismatch(_))));
    }
}
