//! Inputs shared by Lyceum and its peers: bases, experts, token ids.
//!
//! `bench/peers/make.py` writes the bases, the adapters and `equal.jsonl`; [`prepare`] makes
//! libraries of the adapters and writes the token ids of every step for the peers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use lyceum::artifact::Artifact;
use lyceum::assets;
use lyceum::backbone::{Base, LoadOptions, Precision};
use lyceum::data::{Dataset, Example, Question, Split, Tokens};
use lyceum::library::Library;
use lyceum::mix::Mixing;
use lyceum::model::Model;
use lyceum::rng::Rng;
use lyceum::route::{self, Router};
use lyceum::store::Put;
use lyceum::{Name, peft, transform};
use serde_json::{Value, json};

/// Examples per training step on real tasks.
pub(crate) const RAGGED_BATCH: usize = 16;
/// Steps on real tasks in one turn.
pub(crate) const RAGGED_STEPS: usize = 2;

/// The folder `bench/run` made, and how bases are opened.
pub(crate) struct Work {
    pub(crate) dir: PathBuf,
    pub(crate) precision: Precision,
    pub(crate) device: Device,
}

impl Work {
    /// Options with which bases are opened.
    pub(crate) fn options(&self) -> LoadOptions {
        LoadOptions::new(self.precision, &self.device)
    }

    /// A base of the work folder.
    pub(crate) fn base(&self, name: &str) -> Result<Arc<Base>> {
        let base = Base::open(&self.dir.join(name), self.options())?;
        Ok(Arc::new(base))
    }

    /// The address of the library of `experts` experts.
    fn library(&self, experts: usize) -> Result<String> {
        let path = self.dir.join(format!("library-{experts}"));
        Ok(path
            .to_str()
            .context("the folder's name is not UTF-8")?
            .to_owned())
    }

    /// `base` under the router called `router` over a library of so many experts.
    pub(crate) fn routed(&self, base: &Arc<Base>, router: &str, experts: usize) -> Result<Model> {
        let takes = route::about(router)?.takes("top_k");
        let spec = Router::named(router)?.top_k(takes.then_some(2));
        let library = Library::open(&self.library(experts)?)?;
        Ok(Model::routed(
            base.clone(),
            &library,
            &spec,
            Mixing::Outputs,
        )?)
    }
}

/// Eight rows of 256 tokens under the vocabulary of `neo-words`, the last 32 of each targets.
pub(crate) fn equal(work: &Work) -> Result<Vec<Example>> {
    let data = Dataset::open(&work.dir.join("equal.jsonl"))?;
    Ok(data.split(Split::Train)?)
}

/// The training rows of a turn on real tasks, a seeded choice from all ten. Padding makes 2.6
/// tokens of one here; over all rows, in batches of 16, it makes 2.8. (The first 16 drawn have one
/// row of 787 tokens and would be padded to four times their own.)
pub(crate) fn ragged() -> Result<Vec<Example>> {
    let mut rows = assets::tasks()?.split(Split::Train)?;
    Rng::new(42).shuffle(&mut rows);
    let chosen = rows.into_iter().skip(RAGGED_BATCH);
    Ok(chosen.take(RAGGED_BATCH * RAGGED_STEPS).collect())
}

/// The questions scored on GPT-Neo-125M, and those on the embedded base.
pub(crate) fn questions(full: bool) -> Result<(Vec<Question>, Vec<Question>)> {
    let all = assets::arc_easy()?;
    let some = |n: usize| all[..n].to_vec();
    Ok((some(32), if full { all.clone() } else { some(512) }))
}

/// The first 200 tokens of each row of [`equal`].
pub(crate) fn prompts(base: &Base, work: &Work) -> Result<Vec<Vec<u32>>> {
    let rows = equal(work)?;
    let prompt = |row: &Example| Ok(base.tokenizer.training(row, 1024)?.ids[..200].to_vec());
    rows.iter().map(prompt).collect()
}

/// Every option of a question as a continuation of it.
pub(crate) fn options(base: &Base, question: &Question) -> Result<Vec<Tokens>> {
    let longest = base.decoder.config().max_position_embeddings;
    let option = |choice: &String| {
        let text = format!(" {choice}");
        Ok(base
            .tokenizer
            .continuation(&question.query, &text, longest)?)
    };
    question.choices.iter().map(option).collect()
}

/// Makes the libraries and `ids.json`.
///
/// # Errors
/// When the work folder lacks what `make.py` writes.
pub(crate) fn prepare(work: &Work) -> Result<()> {
    let words = work.base("neo-words")?;
    for experts in [10, 100] {
        if !work.dir.join(format!("library-{experts}")).exists() {
            fill(work, &words, experts)?;
        }
    }
    let ids = |tokens: &Tokens| json!({ "ids": tokens.ids, "from": tokens.from });
    let rows = |base: &Base, rows: &[Example]| -> Result<Vec<Value>> {
        let row = |row| Ok(ids(&base.tokenizer.training(row, 1024)?));
        rows.iter().map(row).collect()
    };
    let embedded = assets::base(Precision::F32)?;
    let (_, all) = questions(true)?;
    let asked = |question| -> Result<Vec<Value>> {
        Ok(options(&embedded, question)?.iter().map(ids).collect())
    };
    let asked = all.iter().map(asked).collect::<Result<Vec<_>>>()?;
    let all = json!({
        "equal": rows(&words, &equal(work)?)?,
        "ragged": rows(&embedded, &ragged()?)?,
        "questions": asked,
        "prompts": prompts(&words, work)?,
        "batch": RAGGED_BATCH,
        "steps": RAGGED_STEPS,
    });
    let path = work.dir.join("ids.json");
    std::fs::write(&path, all.to_string()).with_context(|| path.display().to_string())
}

/// A library of the first adapters of the work folder, with Arrow's prototypes and gates for
/// PhatGOOSE that are drawn, not trained: what they cost does not depend on what they say.
fn fill(work: &Work, base: &Base, experts: usize) -> Result<()> {
    let library = Library::create(&work.library(experts)?)?;
    let host = base.host();
    let kind = Name::new("phatgoose")?;
    for i in 0..experts {
        let name = Name::new(&format!("e{i:03}"))?;
        let dir = work.dir.join("adapters").join(name.as_str());
        let mut expert = peft::import(&dir, &name, Some(&host))?;
        expert.card.tasks = vec![name.clone()];
        library.add(&expert, Put::New)?;
        let drawn = |site: &lyceum::Site, width: usize| -> Result<Tensor> {
            let values = Rng::named(7, &format!("{name} {site}")).normal(width, 1.0);
            Ok(Tensor::from_vec(values, width, &Device::Cpu)?)
        };
        let vectors = { expert.loras.iter() }
            .map(|(site, lora)| Ok((site.clone(), drawn(site, lora.d_in())?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        library.put_artifact(&Artifact {
            kind: kind.clone(),
            spec: json!({ "drawn": 7 }),
            expert: name,
            made_from: expert.fingerprint().to_owned(),
            vectors,
        })?;
    }
    transform::arrow(&library)?;
    Ok(())
}
