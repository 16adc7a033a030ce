//! Whole experiments as data: train experts, cluster them, retrain on clusters, evaluate every
//! router, write the report. `recipes/tutorial.toml` is the MTTL tutorial.
//!
//! A run that was interrupted continues: experts already in a library with the same
//! specification are kept, and so is every evaluation whose inputs are the same.

mod check;
mod kept;
mod observer;
mod run;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use check::{downstream_name, is_arc_easy};
pub use observer::StageObserver;
pub use run::{RunInputs, run};

use crate::backbone::Precision;
use crate::error::{Context, Error, Result};
use crate::generate::GenerationConfig;
use crate::lora::LoraConfig;
use crate::metrics::RunKey;
use crate::mix::Mixing;
use crate::name::Name;
use crate::route::Router;
use crate::train::TrainConfig;
use crate::transform::{Mbc, Phatgoose};

/// An experiment.
///
/// ```no_run
/// use std::path::Path;
/// use lyceum::recipe::Recipe;
///
/// let recipe = Recipe::read(Path::new("recipes/tutorial.toml"))?.with_seed(7);
/// println!("{}: {} methods", recipe.title, recipe.methods.len());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Title of the report.
    pub title: String,
    /// Seed of everything; replaces the seeds below.
    pub seed: u64,
    /// Folder of the base, or `hf://owner/name`; `embedded` is the one shipped.
    pub base: PathBuf,
    /// Task file or folder, or `hf://datasets/owner/name`; `embedded` is the ten shipped.
    pub data: PathBuf,
    /// The address of its libraries: `LIBRARY/private` and `LIBRARY/mbc`, on any store. When
    /// absent,
    /// `libraries` in the folder of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// Only these tasks; all when empty.
    #[serde(default)]
    pub tasks: Vec<Name>,
    /// Arithmetic of the frozen matrices.
    #[serde(default)]
    pub precision: Precision,
    /// Rank, scale and targets of the experts.
    pub lora: LoraConfig,
    /// Training settings of the experts.
    #[serde(default)]
    pub train: TrainConfig,
    /// Settings of the clustering.
    #[serde(default)]
    pub mbc: Mbc,
    /// Training settings of the gates.
    #[serde(default)]
    pub phatgoose: Phatgoose,
    /// Settings of text generation.
    #[serde(default)]
    pub eval: GenerationConfig,
    /// The methods compared.
    pub methods: Vec<Method>,
    /// Multiple-choice file for downstream evaluation; `arc-easy` is the one shipped.
    #[serde(default)]
    pub downstream: Option<PathBuf>,
    /// Limit on the number of downstream questions.
    #[serde(default)]
    pub downstream_limit: Option<usize>,
}

/// One bar of the report, over the private and the clustered library. Its identity is the router
/// with every setting, and the mixing where it makes a difference.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// The name in the report and in file names; when absent, the router and the settings that were
    /// made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// `base`, `oracle`, `uniform`, `arrow`, `phatgoose`.
    pub router: String,
    /// Experts per token; all when absent.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Divides the logits.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// `outputs` (exact) or `factors` (the tutorial's).
    #[serde(default = "outputs")]
    pub mixing: Mixing,
    /// `true` if it is also evaluated downstream, over the private library.
    #[serde(default)]
    pub downstream: bool,
}

fn outputs() -> Mixing {
    Mixing::Outputs
}

impl Method {
    /// The router it names.
    ///
    /// # Errors
    /// When there is no such router or a knob is out of range.
    pub fn spec(&self) -> Result<Router> {
        let spec = Router::named(&self.router)?
            .top_k(self.top_k)
            .temperature(self.temperature);
        spec.check().map(|()| spec)
    }

    /// The mixing as reports show it: only where it makes a difference.
    ///
    /// # Errors
    /// As [`Method::spec`].
    pub fn mixing_label(&self) -> Result<&'static str> {
        Ok(match (self.spec()?.about().mixes(), self.mixing) {
            (false, _) => "",
            (true, Mixing::Outputs) => "outputs",
            (true, Mixing::Factors) => "factors",
        })
    }

    /// The subject of its measurements over the library called `library`; empty for none.
    ///
    /// # Errors
    /// As [`Method::spec`].
    pub fn subject(&self, library: &str) -> Result<RunKey> {
        let spec = self.spec()?;
        Ok(RunKey {
            method: self.router.clone(),
            name: match &self.name {
                Some(name) => name.to_string(),
                None => spec.to_string(),
            },
            spec: spec.to_value(),
            library: library.into(),
            mixing: self.mixing_label()?.into(),
        })
    }
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// When the file is missing or malformed; an unknown key is named with the nearest known one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let mut recipe: Recipe =
            toml::from_str(&text).map_err(|e| Error::format(path.display(), explain(&e)))?;
        recipe.train.seed = recipe.seed;
        recipe.mbc.seed = recipe.seed;
        recipe.phatgoose.seed = recipe.seed;
        recipe
            .check()
            .context(|| format!("the recipe {}", path.display()))?;
        Ok(recipe)
    }

    /// Replaces the seed everywhere.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        (self.seed, self.train.seed, self.mbc.seed) = (seed, seed, seed);
        self.phatgoose.seed = seed;
        self
    }
}

/// The error text for a TOML file, with the nearest known key for an unknown one.
pub fn explain(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let mut quoted = error.message().split('`').skip(1).step_by(2);
    let near = match (error.message().starts_with("unknown field"), quoted.next()) {
        (true, Some(unknown)) => quoted
            .map(|known| (strsim::jaro_winkler(unknown, known), known))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| format!("did you mean `{known}`?"))
            .unwrap_or_default(),
        _ => String::new(),
    };
    format!("{text}{near}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = toml::from_str::<Method>("router = \"arrow\"\ntopk = 2").unwrap_err();
        let text = explain(&error);
        assert!(
            text.contains("topk") && text.contains("did you mean `top_k`?"),
            "{text}"
        );
    }
}
