//! MTTL's auxiliary data as artifacts.
//!
//! Files are recognised by the end of their name and the configuration they record, not by the hash
//! in their name. Arrow's eigenvalues are not stored: they follow from the weights and are
//! recomputed for writing. They do show whether prototypes are older than the weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Value as Json, json};

use super::meta;
use crate::artifact::Artifact;
use crate::error::{Context, Error, Result};
use crate::expert::Expert;
use crate::lora::Lora;
use crate::name::{Name, Site};
use crate::torch::{self, Value};

/// The site under which an artifact keeps a vector of the whole expert.
pub(super) const WHOLE: &str = "*";

type Vectors = BTreeMap<Site, Tensor>;

/// The artifacts of `expert` in its data files (data type, path), and what was left out.
pub(super) fn read(
    expert: &Expert,
    files: &[(String, PathBuf)],
) -> Result<(Vec<Artifact>, Vec<String>)> {
    let mut found: BTreeMap<String, Vec<(Json, Vectors)>> = BTreeMap::new();
    let mut notes = Vec::new();
    for (data_type, path) in files {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let what = path.display().to_string();
        let value = torch::load(&bytes, &what)?;
        let bad = |why: String| Error::format(&what, why);
        let config = value
            .get("config")
            .map(meta::json)
            .transpose()
            .map_err(bad)?;
        let config = config.unwrap_or(Json::Null);
        let data = value.get("data").unwrap_or(&value);
        let Some(kind) = kind(data_type, &config) else {
            notes.push(format!("{}: unknown data, left out", file_name(path)));
            continue;
        };
        if kind == EIGENVALUES {
            continue;
        }
        let vectors = vectors(data, expert.card.name.as_str()).context(|| what.clone())?;
        if kind.starts_with("arrow") {
            let values = eigenvalues(files, data_type)?;
            if stale(expert, &vectors, values.as_ref())? {
                notes.push(format!(
                    "{}: older than the expert's weights, left out; derive arrow again",
                    file_name(path)
                ));
                continue;
            }
        }
        let known = found.entry(kind.to_owned()).or_default();
        // Arrow's vectors are its prototypes again, as numpy arrays.
        let same = |(_, other): &(Json, Vectors)| equal(other, &vectors);
        if !known.iter().any(same) {
            known.push((config, vectors));
        }
    }
    Ok((artifacts(expert, found)?, notes))
}

/// The artifacts of `expert` from the data found of each kind, of which there may be one each.
fn artifacts(
    expert: &Expert,
    found: BTreeMap<String, Vec<(Json, Vectors)>>,
) -> Result<Vec<Artifact>> {
    let mut artifacts = Vec::new();
    for (kind, mut all) in found {
        if all.len() > 1 {
            let n = all.len();
            let name = &expert.card.name;
            return Err(Error::invalid(format!(
                "expert `{name}` has {n} different sets of `{kind}` data; leave one in the folder"
            )));
        }
        if let Some((config, vectors)) = all.pop() {
            artifacts.push(Artifact {
                spec: json!({ "transform": kind, "mttl": config }),
                kind: Name::new(&kind)?,
                expert: expert.card.name.clone(),
                made_from: expert.fingerprint().to_owned(),
                vectors,
            });
        }
    }
    Ok(artifacts)
}

const EIGENVALUES: &str = "eigenvalues";

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into())
}

/// Which artifact a file is.
fn kind(data_type: &str, config: &Json) -> Option<&'static str> {
    let has = |key: &str| config.get(key).is_some();
    if has("ab_only") {
        // Scaled prototypes would be routed by as if they were unit vectors.
        let plain = config["scale"] == json!(false) && config["ab_only"] == json!(true);
        let ends = |end: &str| data_type.ends_with(end);
        return match (ends("_eigvals"), ends("_protos") || ends("_vectors")) {
            (true, _) => Some(EIGENVALUES),
            (_, true) if plain || ends("_vectors") => Some("arrow"),
            (_, true) => Some("arrow-scaled"),
            _ => None,
        };
    }
    match () {
        () if has("n_steps") => Some("phatgoose"),
        () if has("n_components") || data_type == "embeddings" => Some("svd-embedding"),
        () if has("track") => Some("hidden-state"),
        () => None,
    }
}

/// `{layer: vector}`, `{"<layer>.selector.<expert>.v": [1, d]}`, or one vector.
fn vectors(data: &Value<'_>, expert: &str) -> Result<Vectors> {
    let flat = |value: &Value<'_>, at: &str| -> Result<Tensor> {
        let Value::Tensor(stored) = value else {
            return Err(Error::invalid(format!("`{at}` is not a vector")));
        };
        let long = stored.shape().iter().filter(|n| **n != 1).count();
        if long > 1 {
            let shape = stored.shape();
            return Err(Error::invalid(format!("`{at}` is {shape:?}, not a vector")));
        }
        let vector = torch::tensor(stored)?.flatten_all()?;
        let finite = vector.to_vec1::<f32>()?.iter().all(|x| x.is_finite());
        match finite {
            true => Ok(vector),
            false => Err(Error::invalid(format!(
                "`{at}` holds values that are not finite"
            ))),
        }
    };
    // The older form of embeddings.
    let older = data.get("svd").and_then(|svd| svd.get("embeddings"));
    let data = older.unwrap_or(data);
    let Some(pairs) = data.pairs() else {
        return Ok(BTreeMap::from([(
            Site::new(WHOLE),
            flat(data, "the embedding")?,
        )]));
    };
    let mut vectors = BTreeMap::new();
    for (key, value) in pairs {
        let key = key.text().unwrap_or_default();
        let site = match key.split_once(".selector.") {
            None => key,
            Some((site, rest)) if rest == format!("{expert}.v") => site,
            Some(_) => return Err(Error::invalid(format!("`{key}` is of another expert"))),
        };
        if vectors.insert(Site::new(site), flat(value, key)?).is_some() {
            return Err(Error::invalid(format!("`{site}` is there twice")));
        }
    }
    Ok(vectors)
}

fn equal(one: &Vectors, other: &Vectors) -> bool {
    let bits = |v: &Tensor| -> Option<Vec<u32>> {
        Some(
            v.to_vec1::<f32>()
                .ok()?
                .into_iter()
                .map(f32::to_bits)
                .collect(),
        )
    };
    one.len() == other.len()
        && one
            .iter()
            .all(|(site, v)| other.get(site).is_some_and(|w| bits(v) == bits(w)))
}

/// The eigenvalues recorded with the Arrow data `data_type`.
fn eigenvalues(
    files: &[(String, PathBuf)],
    data_type: &str,
) -> Result<Option<BTreeMap<Site, f64>>> {
    let stem = data_type
        .trim_end_matches("_protos")
        .trim_end_matches("_vectors");
    let Some((_, path)) = files
        .iter()
        .find(|(name, _)| *name == format!("{stem}_eigvals"))
    else {
        return Ok(None);
    };
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let what = path.display().to_string();
    let value = torch::load(&bytes, &what)?;
    let bad = || Error::format(&what, "it holds no eigenvalue per layer");
    let pairs = value.get("data").and_then(Value::pairs).ok_or_else(bad)?;
    let pair = |(key, value): &(Value<'_>, Value<'_>)| {
        Some((Site::new(key.text()?.to_owned()), value.number()?))
    };
    pairs
        .iter()
        .map(|p| pair(p).ok_or_else(bad))
        .collect::<Result<_>>()
        .map(Some)
}

/// `|B A v|^2` for a unit vector `v` along `direction`.
pub(super) fn stretch(lora: &Lora, direction: &Tensor) -> Result<f64> {
    let column = direction.to_dtype(candle_core::DType::F64)?.unsqueeze(1)?;
    let f64s = |t: &Tensor| t.to_dtype(candle_core::DType::F64);
    let sum = |t: Tensor| t.sqr()?.sum_all()?.to_scalar::<f64>();
    let length = sum(column.clone())?;
    let moved = f64s(&lora.b)?.matmul(&f64s(&lora.a)?.matmul(&column)?)?;
    Ok(sum(moved)? / length.max(f64::MIN_POSITIVE))
}

/// Returns `true` if the prototypes do not stretch by the eigenvalues recorded with them, that is,
/// if they are older than the weights.
fn stale(expert: &Expert, vectors: &Vectors, values: Option<&BTreeMap<Site, f64>>) -> Result<bool> {
    for (site, value) in values.into_iter().flatten() {
        let (Some(lora), Some(vector)) = (expert.loras.get(site), vectors.get(site)) else {
            return Ok(true);
        };
        if vector.dims() != [lora.d_in()] {
            return Ok(true);
        }
        if (stretch(lora, vector)? - value).abs() > 1e-3 * value.abs() + 1e-12 {
            return Ok(true);
        }
    }
    Ok(false)
}
