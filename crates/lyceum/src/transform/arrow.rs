//! Arrow prototypes (arXiv:2405.11157): per expert and site the input direction that `B A`
//! stretches most.
//!
//! The top right-singular vector of `B A` comes from thin QR factors and an r x r SVD; no d x d
//! matrix, no power iteration. Its sign is free, since Arrow uses `|x . p|`; here the largest
//! component is made positive, so that the bytes repeat.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use faer::Mat;
use serde_json::json;

use crate::artifact::Artifact;
use crate::error::{Context, Error, Result};
use crate::library::Library;
use crate::lora::Lora;
use crate::name::{Name, Site};

/// Prototypes per version of the library: a run that is stopped keeps what it had.
const TOGETHER: usize = 64;

/// Derives the prototypes of every expert of `library` (merged ones count where they are asked
/// for, see [`Library::members`]) that has none or has changed since, and persists them.
/// Returns the names derived now.
///
/// ```no_run
/// use lyceum::prelude::*;
///
/// let library = Library::open("experts")?;
/// for name in transform::arrow(&library)? {
///     println!("derived {name}");
/// }
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When an expert cannot be read, or its `B` is zero (untrained: it has no direction).
pub fn arrow(library: &Library) -> Result<Vec<Name>> {
    let kind = Name::new("arrow")?;
    let entries = library.chosen()?.entries()?;
    let missing = entries.iter().filter(|(_, entry)| !entry.has(&kind));
    let missing: Vec<Name> = missing.map(|(name, _)| name.clone()).collect();
    for some in missing.chunks(TOGETHER) {
        let mut batch = library.batch()?;
        for name in some {
            batch.put_artifact(&prototypes(library, &kind, name)?)?;
        }
        batch.commit()?;
    }
    Ok(missing)
}

fn prototypes(library: &Library, kind: &Name, name: &Name) -> Result<Artifact> {
    let expert = library.expert(name)?;
    let vectors = { expert.loras.iter() }
        .map(|(site, lora)| {
            let direction = top_direction(lora)
                .context(|| format!("Arrow prototype of expert `{name}` at {site}"))?;
            Ok((site.clone(), direction))
        })
        .collect::<Result<BTreeMap<Site, Tensor>>>()?;
    Ok(Artifact {
        kind: kind.clone(),
        spec: json!({ "transform": "arrow" }),
        expert: name.clone(),
        made_from: expert.fingerprint().to_owned(),
        vectors,
    })
}

/// The unit vector `[d_in]` that `B A` stretches most.
///
/// # Errors
/// [`Error::Invalid`] when `B A` is zero.
pub fn top_direction(lora: &Lora) -> Result<Tensor> {
    // B A = (Qb Rb)(Qa Ra)^T with A^T = Qa Ra: its right-singular vectors are Qa times those of
    // Rb Ra^T, an r x r matrix.
    let a_t = matrix(&lora.a.t()?)?;
    let (qa, ra) = thin(&a_t);
    let (_, rb) = thin(&matrix(&lora.b)?);
    let core = &rb * ra.transpose();
    let bad = |e| Error::invalid(format!("the singular value decomposition failed: {e:?}"));
    let svd = core.svd().map_err(bad)?;
    let top = svd.S().column_vector()[0];
    if top.is_nan() || top <= 0.0 {
        return Err(Error::invalid(
            "B A is zero, so there is no direction to route by; train the expert first",
        ));
    }
    let v = svd.V().col(0);
    let mut direction: Vec<f64> = (0..qa.nrows())
        .map(|i| (0..qa.ncols()).map(|j| qa[(i, j)] * v[j]).sum())
        .collect();
    let norm = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
    let largest = direction
        .iter()
        .fold(0f64, |m, x| if x.abs() > m.abs() { *x } else { m });
    direction
        .iter_mut()
        .for_each(|x| *x *= largest.signum() / norm);
    let direction: Vec<f32> = direction.into_iter().map(|x| x as f32).collect();
    Ok(Tensor::from_vec(direction, lora.d_in(), &Device::Cpu)?)
}

fn matrix(tensor: &Tensor) -> Result<Mat<f64>> {
    let rows = tensor.to_vec2::<f32>()?;
    let (n, m) = tensor.dims2()?;
    Ok(Mat::from_fn(n, m, |i, j| f64::from(rows[i][j])))
}

fn thin(m: &Mat<f64>) -> (Mat<f64>, Mat<f64>) {
    let qr = m.qr();
    (qr.compute_thin_Q(), qr.thin_R().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn nothing_is_stretched_more() {
        let mut rng = Rng::new(3);
        let tensor = |rng: &mut Rng, n, m| {
            Tensor::from_vec(rng.normal(n * m, 1.0), (n, m), &Device::Cpu).unwrap()
        };
        let lora = Lora::new(tensor(&mut rng, 3, 9), tensor(&mut rng, 7, 3), 1.0).unwrap();
        let w = lora.b.matmul(&lora.a).unwrap();
        let stretch = |v: &Tensor| {
            let y = w.matmul(&v.unsqueeze(1).unwrap()).unwrap();
            y.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        let top = top_direction(&lora).unwrap();
        let best = stretch(&top);
        // A stationary point of the stretch: W^T W v = lambda v.
        let image = w
            .t()
            .unwrap()
            .matmul(&w.matmul(&top.unsqueeze(1).unwrap()).unwrap())
            .unwrap();
        let image = image.squeeze(1).unwrap().to_vec1::<f32>().unwrap();
        for (x, v) in image.iter().zip(top.to_vec1::<f32>().unwrap()) {
            assert!((x - best * v).abs() < 1e-3 * best, "{x} {}", best * v);
        }
        for _ in 0..50 {
            let v = rng.normal(9, 1.0);
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            let v: Vec<f32> = v.iter().map(|x| x / norm).collect();
            assert!(stretch(&Tensor::from_vec(v, 9, &Device::Cpu).unwrap()) <= best * 1.0001);
        }
    }

    #[test]
    fn an_untrained_expert_has_no_direction() {
        let a = Tensor::ones((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let b = Tensor::zeros((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = top_direction(&Lora::new(a, b, 1.0).unwrap()).unwrap_err();
        assert!(error.to_string().contains("no direction"));
    }
}
