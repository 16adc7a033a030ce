//! Artifacts: a vector per site that a transform derived from one expert, with its provenance.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::name::{Name, Site};
use crate::peft;

/// Vectors derived from an expert.
///
/// ```
/// use std::collections::BTreeMap;
/// use lyceum::artifact::Artifact;
/// use lyceum::{Device, Name, Site, Tensor};
///
/// let vector = Tensor::new(&[0.6_f32, 0.8], &Device::Cpu)?;
/// let artifact = Artifact {
///     kind: Name::new("arrow")?,
///     spec: serde_json::json!({ "transform": "arrow" }),
///     expert: Name::new("sums")?,
///     made_from: "0123".into(),
///     vectors: BTreeMap::from([(Site::new("model.layers.0.self_attn.q_proj"), vector)]),
/// };
/// let read = Artifact::decode(&artifact.encode()?, "sums.safetensors")?;
/// assert_eq!(read.expert, artifact.expert);
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The transform: `arrow`, `phatgoose`.
    pub kind: Name,
    /// Its settings.
    pub spec: Value,
    /// The expert.
    pub expert: Name,
    /// The expert's fingerprint when it was derived.
    pub made_from: String,
    /// `[d_in]` per site.
    pub vectors: BTreeMap<Site, Tensor>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    kind: Name,
    spec: Value,
    expert: Name,
    made_from: String,
}

impl Artifact {
    /// One safetensors file, the rest in its metadata.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let head = Head {
            kind: self.kind.clone(),
            spec: self.spec.clone(),
            expert: self.expert.clone(),
            made_from: self.made_from.clone(),
        };
        let head = serde_json::to_string(&head).map_err(|e| Error::format("artifact", e))?;
        let vectors = self
            .vectors
            .iter()
            .map(|(s, v)| (s.to_string(), v.clone()))
            .collect();
        peft::to_bytes(&vectors, BTreeMap::from([("artifact".to_owned(), head)]))
    }

    /// Reads what [`encode`](Artifact::encode) wrote; `what` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Format`] when it is something else.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let bad = |why: String| Error::format(what, why);
        let (vectors, metadata) = peft::from_bytes(bytes).map_err(|e| bad(e.to_string()))?;
        let head = metadata
            .get("artifact")
            .ok_or_else(|| bad("not an artifact".into()))?;
        let Head {
            kind,
            spec,
            expert,
            made_from,
        } = serde_json::from_str(head).map_err(|e| bad(e.to_string()))?;
        if vectors.values().any(|v| v.rank() != 1) {
            return Err(bad("an artifact holds one vector per site".into()));
        }
        let vectors = vectors
            .into_iter()
            .map(|(site, v)| (Site::new(site), v))
            .collect();
        Ok(Artifact {
            kind,
            spec,
            expert,
            made_from,
            vectors,
        })
    }
}
