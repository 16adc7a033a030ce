//! Pre-training a base: the same decoder with its own weights as variables.
//!
//! Documents are joined by end-of-text into one stream; each step draws windows from it by the
//! seed and the step's number, so a resumed run sees what an uninterrupted one would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use super::{Schedule, Watch};
use crate::backbone::{Config, Decoder, Source, write_folder};
use crate::data::{Dataset, Split, Tokenizer, Tokens};
use crate::error::{Context, Error, Result};
use crate::model::{Batch, losses};
use crate::name::Name;
use crate::rng::Rng;

/// A pre-training recipe: `recipes/base.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Seed of initialisation and data order.
    pub seed: u64,
    /// Plain text files; paragraphs are documents.
    pub text: Vec<PathBuf>,
    /// At most this many bytes of each text file.
    pub text_bytes: usize,
    /// Task files whose training rows are used whole: prompt and answer.
    pub tasks: Vec<PathBuf>,
    /// Task files of which only the prompts are used, never the targets.
    pub prompts: Vec<PathBuf>,
    /// How often each task row and prompt stands in the stream.
    pub repeat: usize,
    /// Size of the byte-level BPE vocabulary, end-of-text included.
    pub vocab: usize,
    /// Width, blocks, heads, MLP width.
    pub width: usize,
    /// Blocks, alternating global and local attention.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Positions the model knows.
    pub positions: usize,
    /// Window of local layers.
    pub window: usize,
    /// Tokens per training window.
    pub context: usize,
    /// Windows per step.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps over which the rate rises.
    pub warmup: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub clip: f64,
    /// A checkpoint is kept every so many steps.
    pub save_every: usize,
}

impl Pretrain {
    fn config(&self) -> Config {
        use crate::backbone::Span::{Global, Local};
        Config {
            model_type: "gpt_neo".into(),
            vocab_size: self.vocab,
            hidden_size: self.width,
            num_layers: self.layers,
            num_heads: self.heads,
            intermediate_size: None,
            max_position_embeddings: self.positions,
            window_size: self.window,
            attention_types: vec![(vec![Global, Local], self.layers / 2)],
            layer_norm_epsilon: 1e-5,
            activation_function: "gelu_new".into(),
            tie_word_embeddings: true,
        }
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            self.width,
            self.layers,
            self.heads,
            self.batch,
            self.steps,
            self.save_every,
        ];
        if sizes.contains(&0)
            || !self.layers.is_multiple_of(2)
            || !self.width.is_multiple_of(self.heads)
        {
            let text = "sizes must not be 0, layers even, width a multiple of heads";
            return Err(Error::invalid(text));
        }
        if self.context < 2 || self.context > self.positions || self.vocab < 300 {
            return Err(Error::invalid(
                "context must be 2 to positions, vocab at least 300",
            ));
        }
        Ok(())
    }

    /// All documents, in a fixed order; paths are relative to `root`.
    fn documents(&self, root: &Path) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for path in &self.text {
            let path = root.join(path);
            let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
            let text = String::from_utf8_lossy(&bytes[..self.text_bytes.min(bytes.len())]);
            let mut document = String::new();
            for paragraph in text.split("\n\n") {
                document.push_str(&paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
                document.push('\n');
                if document.len() > 1200 {
                    all.push(std::mem::take(&mut document));
                }
            }
        }
        for (paths, whole) in [(&self.tasks, true), (&self.prompts, false)] {
            for path in paths {
                for example in Dataset::open(&root.join(path))?.examples {
                    if example.split == Split::Train {
                        let target = if whole { example.target.as_str() } else { "" };
                        let text = format!("{} {target}", example.source.trim_end());
                        all.extend(std::iter::repeat_n(text.trim_end().to_owned(), self.repeat));
                    }
                }
            }
        }
        Ok(all)
    }
}

/// Pre-trains into the folder `out` (a Hugging Face folder plus `pretrain.json` with the loss
/// curve); continues from the checkpoint there, if any. Returns the loss of every step.
///
/// # Errors
/// When data is missing, a setting is out of range or the loss is not finite.
pub fn pretrain(
    how: &Pretrain,
    root: &Path,
    out: &Path,
    watch: &mut dyn Watch,
) -> Result<Vec<f64>> {
    how.check()?;
    let mut documents = how.documents(root)?;
    Rng::named(how.seed, "documents").shuffle(&mut documents);
    let tokenizer = tokenizer(how, &documents, out)?;
    let stream = stream(&tokenizer, &documents)?;
    if stream.len() <= how.context {
        return Err(Error::invalid("the text is shorter than one window"));
    }
    let config = how.config();
    let shapes: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
    let vars = initial(how, &shapes)?;
    let list: Vec<Var> = vars.values().cloned().collect();
    let mut optimiser = AdamW::new(&list, how.weight_decay)?;
    let checkpoint = out.join("checkpoint.safetensors");
    let mut curve = resume(&checkpoint, &vars, &mut optimiser)?;
    let mut empty = BTreeMap::new();
    let mut source = Source::trained(&mut empty, &vars, &shapes);
    let decoder = Decoder::new(config.clone(), &mut source)?;
    let schedule = Schedule::cosine(how.lr, how.warmup, how.steps);
    for step in curve.len()..how.steps {
        let batch = windows(how, &stream, step)?;
        let loss = losses(&decoder, &batch, None, None)?.mean_all()?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(Error::invalid(format!(
                "the loss is not finite at step {}",
                step + 1
            )));
        }
        optimiser.step(&list, &loss.backward()?, schedule.rate(step), how.clip)?;
        curve.push(value);
        watch.step(step + 1, how.steps, value, batch.tokens.len());
        if (step + 1) % how.save_every == 0 || step + 1 == how.steps {
            save(&checkpoint, &vars, &optimiser, &curve)?;
            let tensors = vars
                .iter()
                .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
                .collect();
            write_folder(out, &config, &tensors, &tokenizer)?;
            let json = serde_json::json!({ "recipe": how, "steps": curve.len(), "losses": curve });
            crate::file::write(&out.join("pretrain.json"), json.to_string().as_bytes())?;
        }
    }
    Ok(curve)
}

/// Reads the tokenizer of an earlier start, or trains a byte-level BPE.
fn tokenizer(how: &Pretrain, documents: &[String], out: &Path) -> Result<Tokenizer> {
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    let path = out.join("tokenizer.json");
    if path.exists() {
        return Tokenizer::open(out);
    }
    let bad = |e: Box<dyn std::error::Error + Send + Sync>| Error::format("tokenizer training", e);
    let trainer = BpeTrainer::builder()
        .vocab_size(how.vocab)
        .show_progress(false)
        .special_tokens(vec![tokenizers::AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut bpe = tokenizers::Tokenizer::new(BPE::default());
    bpe.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    bpe.with_decoder(Some(ByteLevel::default()));
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    bpe.train(&mut trainer, documents.iter().map(String::as_str))
        .map_err(bad)?;
    let json = bpe.to_string(false).map_err(bad)?;
    crate::file::write(&path, json.as_bytes())?;
    Tokenizer::from_bytes(json.as_bytes())
}

fn stream(tokenizer: &Tokenizer, documents: &[String]) -> Result<Vec<u32>> {
    use rayon::prelude::*;
    let parts: Vec<Vec<u32>> = documents
        .par_iter()
        .map(|d| tokenizer.encode(d))
        .collect::<Result<_>>()?;
    Ok(parts
        .into_iter()
        .flat_map(|ids| ids.into_iter().chain([tokenizer.eos()]))
        .collect())
}

fn initial(how: &Pretrain, shapes: &BTreeMap<String, Vec<usize>>) -> Result<BTreeMap<String, Var>> {
    let residual = 0.02 / (2.0 * how.layers as f64).sqrt();
    let one = |(name, shape): (&String, &Vec<usize>)| {
        let n = shape.iter().product();
        let mut rng = Rng::named(how.seed, name);
        let values = match name {
            path if path.ends_with(".bias") => vec![0.0; n],
            path if path.contains("ln_") => vec![1.0; n],
            path if path.contains("out_proj") || path.contains("c_proj") => rng.normal(n, residual),
            _ => rng.normal(n, 0.02),
        };
        let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?;
        Ok((name.clone(), Var::from_tensor(&tensor)?))
    };
    shapes.iter().map(one).collect()
}

fn windows(how: &Pretrain, stream: &[u32], step: usize) -> Result<Batch> {
    let mut rng = Rng::named(how.seed, &format!("step {step}"));
    let text = Name::new("text")?;
    let rows: Vec<Tokens> = (0..how.batch)
        .map(|_| {
            let start = rng.below(stream.len() - how.context);
            Tokens {
                ids: stream[start..start + how.context].to_vec(),
                from: 1,
            }
        })
        .collect();
    Ok(Batch::new(rows.iter().map(|tokens| (tokens, text.clone()))))
}

fn save(path: &Path, vars: &BTreeMap<String, Var>, adam: &AdamW, curve: &[f64]) -> Result<()> {
    let mut all: Vec<(String, Tensor)> = Vec::new();
    for (i, (name, var)) in vars.iter().enumerate() {
        let moment = |v: &Vec<f32>| Tensor::from_slice(v, v.len(), &Device::Cpu);
        all.push((format!("weight.{name}"), var.as_tensor().clone()));
        all.push((format!("first.{name}"), moment(&adam.first[i])?));
        all.push((format!("second.{name}"), moment(&adam.second[i])?));
    }
    all.push((
        "curve".into(),
        Tensor::from_slice(curve, curve.len(), &Device::Cpu)?,
    ));
    let bytes = safetensors::serialize(all, None).map_err(|e| Error::format(path.display(), e))?;
    crate::file::write(path, &bytes)
}

fn resume(path: &Path, vars: &BTreeMap<String, Var>, adam: &mut AdamW) -> Result<Vec<f64>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let all = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .context(|| format!("reading {}", path.display()))?;
    let part = |name: String| {
        all.get(&name)
            .ok_or_else(|| Error::format(path.display(), format!("no `{name}`")))
    };
    for (i, (name, var)) in vars.iter().enumerate() {
        var.set(&part(format!("weight.{name}"))?.to_dtype(DType::F32)?)
            .context(|| format!("`{name}` of the checkpoint has another shape than the recipe"))?;
        adam.first[i] = part(format!("first.{name}"))?.to_vec1()?;
        adam.second[i] = part(format!("second.{name}"))?.to_vec1()?;
    }
    let curve: Vec<f64> = part("curve".into())?.to_vec1()?;
    adam.steps = curve.len() as u64;
    Ok(curve)
}
