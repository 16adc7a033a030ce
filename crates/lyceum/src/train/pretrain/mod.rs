//! Pre-training a base: the same decoder with its own weights as variables.
//!
//! Batches are ragged as everywhere: whole documents packed end to end, each from position 0, as
//! prompts are at evaluation. Their order is decided by the seed alone, so a resumed run sees what
//! an uninterrupted one would.

mod corpus;
mod ngram;
mod overlap;
mod questions;
mod sources;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use lyceum_kernels::gemm::Rounding;
use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use super::{Schedule, Watch};
use crate::backbone::{Decoder, GptNeo, Precision, Source, write_folder};
use crate::error::{Error, Result};
use crate::model::{Batch, losses};
use crate::rng::Rng;
use corpus::Corpus;

/// A pre-training recipe: `recipes/base.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Seed of initialisation and data order.
    pub seed: u64,
    /// Plain text files, a paragraph on each line; neighbouring ones form a document.
    pub text: Vec<PathBuf>,
    /// At most this many bytes of each text file.
    pub text_bytes: usize,
    /// Questions made by rule about each document of plain text, at most.
    pub questions: usize,
    /// Task files whose training rows are used whole: prompt and answer.
    pub tasks: Vec<PathBuf>,
    /// Task files of which only the prompts are used, never the targets.
    pub prompts: Vec<PathBuf>,
    /// JSON lines none of whose content may be read, whatever their split: text and task rows that
    /// share six successive words with a row are left out (`prompts` are not).
    #[serde(default)]
    pub avoid: Vec<PathBuf>,
    /// At most this many rows of each file of `tasks`; all of them without a number.
    #[serde(default)]
    pub task_rows: Option<usize>,
    /// How often each task row and prompt is seen in one pass over all text.
    pub repeat: usize,
    /// The last of so many parts of every source is held out, never trained on.
    pub hold_out: usize,
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
    /// Longest document, in tokens.
    pub context: usize,
    /// Tokens computed at once.
    pub batch_tokens: usize,
    /// Such batches per step, their gradients added up.
    pub accumulate: usize,
    /// Steps. A run may go on with more or fewer, as long as the rate has not begun to fall; so it
    /// may in another precision.
    pub steps: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps over which the rate rises.
    pub warmup: usize,
    /// Last steps, over which the rate falls along a cosine to a tenth; before, it stays at its
    /// peak. `steps - warmup` is the plain cosine schedule.
    pub decay: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub clip: f64,
    /// The factors of the matrix products, forward and backward; `bf16` is mixed precision:
    /// weights, sums, gradients and moments stay f32.
    #[serde(default)]
    pub precision: Precision,
    /// A checkpoint is kept every so many steps.
    pub save_every: usize,
}

impl Pretrain {
    fn config(&self) -> GptNeo {
        use crate::backbone::Span::{Global, Local};
        GptNeo {
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

    fn schedule(&self) -> Schedule {
        Schedule::cosine(self.lr, self.warmup, self.decay, self.steps)
    }

    /// Whether a run of `steps` steps under `self` may go on under `other`: the same data, model
    /// and learning rates so far.
    fn begins(&self, other: &Pretrain, steps: usize) -> bool {
        let like = Pretrain {
            steps: other.steps,
            decay: other.decay,
            precision: other.precision,
            save_every: other.save_every,
            ..self.clone()
        };
        let (mine, theirs) = (self.schedule(), other.schedule());
        like == *other && (0..steps).all(|step| mine.rate(step) == theirs.rate(step))
    }

    fn rounding(&self) -> Result<Rounding> {
        match self.precision {
            Precision::F32 => Ok(Rounding::F32),
            Precision::Bf16 => Ok(Rounding::Bf16),
            Precision::Int8 => Err(Error::invalid(
                "weights in 8 bits cannot be trained: precision must be f32 or bf16",
            )),
        }
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            self.width,
            self.layers,
            self.heads,
            self.batch_tokens,
            self.accumulate,
            self.steps,
            self.save_every,
            self.hold_out,
            self.repeat,
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
        if self.warmup + self.decay > self.steps {
            return Err(Error::invalid("warmup and decay must fit into steps"));
        }
        if self.precision == Precision::Int8 {
            return Err(Error::invalid(
                "a model cannot be trained in int8; use precision f32 or bf16",
            ));
        }
        Ok(())
    }
}

/// What pre-training has seen so far: `pretrain.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Loss of every step, nats per token.
    pub losses: Vec<f64>,
    /// Held-out figures: (steps done, nats per token, bits per byte).
    pub held_out: Vec<(usize, f64, f64)>,
    /// Bits per byte of an interpolated 4-gram (Witten-Bell) over the documents seen, when done.
    pub baseline: Option<f64>,
    /// Tokens of one pass over the training text.
    pub pass_tokens: usize,
    /// Documents left out because they share words with what is to be avoided.
    #[serde(default)]
    pub avoided: usize,
}

/// Pre-trains on `device` into the folder `out` (a Hugging Face folder plus `pretrain.json`);
/// continues from the checkpoint there, if any.
///
/// # Errors
/// When data is missing, a setting is out of range, the device fails or the loss is not finite.
pub fn pretrain(
    how: &Pretrain,
    (root, out): (&Path, &Path),
    device: &Device,
    watch: &mut dyn Watch,
) -> Result<Progress> {
    how.check()?;
    let corpus = Corpus::open(how, root, out)?;
    let config = how.config();
    let described = config.describe()?;
    let shapes: BTreeMap<String, Vec<usize>> = described.tensors().into_iter().collect();
    let vars = initial(how, &shapes, device)?;
    let list: Vec<Var> = vars.values().cloned().collect();
    let mut optimiser = AdamW::new(&list, how.weight_decay)?;
    let mut progress = state::resume(out, how, &vars, &mut optimiser)?;
    progress.pass_tokens = corpus.tokens();
    progress.avoided = corpus.avoided;
    let rounding = how.rounding()?;
    let on = Some(device).filter(|device| !device.is_cpu());
    if on.is_some() {
        // A GPU's own rounding of factors (TF32) is finer than bf16 and costs no more.
        candle_core::cuda::set_gemm_reduced_precision_f32(rounding == Rounding::Bf16);
    }
    let decoder = Decoder::new(described, &mut Source::trained(&vars, rounding, on))?;
    let schedule = how.schedule();
    let plan = corpus.plan(how.seed, how.batch_tokens, how.steps * how.accumulate);
    for step in progress.losses.len()..how.steps {
        let parts = &plan[step * how.accumulate..][..how.accumulate];
        let (loss, gradients, tokens) = gradients(&decoder, &corpus, parts, &list, step)?;
        optimiser.update(&list, &gradients, schedule.rate(step), how.clip)?;
        progress.losses.push(loss);
        watch.step(step + 1, how.steps, loss, tokens);
        let last = step + 1 == how.steps;
        if (step + 1) % how.save_every == 0 || last {
            let nats = held_out(&decoder, &corpus, how)?;
            progress
                .held_out
                .push((step + 1, nats.0, corpus.bits_per_byte(nats.1)));
            if last {
                let seen = plan[..how.steps * how.accumulate].iter().flatten();
                let (train, held) = corpus.documents(seen);
                let nats = ngram::nats(&train, held, how.vocab);
                progress.baseline = Some(corpus.bits_per_byte(nats));
            }
            let tensors = vars
                .iter()
                .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
                .collect();
            write_folder(out, &config, &tensors, &corpus.tokenizer)?;
            state::save(out, how, &vars, &optimiser, &progress)?;
        }
    }
    Ok(progress)
}

/// A gradient per variable, where there is one.
type Gradients = Vec<Option<Vec<f32>>>;

/// Mean loss over the targets of all `parts`, its gradient by variable, and the tokens read.
fn gradients(
    decoder: &Decoder,
    corpus: &Corpus,
    parts: &[Vec<usize>],
    vars: &[Var],
    step: usize,
) -> Result<(f64, Gradients, usize)> {
    let batches: Vec<Batch> = parts
        .iter()
        .map(|p| corpus.batch(p))
        .collect::<Result<_>>()?;
    let targets: usize = batches.iter().map(|b| b.ids.len()).sum();
    let mut sums: Gradients = vec![None; vars.len()];
    let (mut total, mut tokens) = (0.0, 0);
    for batch in &batches {
        let loss = (losses(decoder, batch, None, None, false)?.sum_all()? / targets as f64)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            let text = format!("the loss is not finite at step {}; lower lr", step + 1);
            return Err(Error::invalid(text));
        }
        total += value;
        tokens += batch.tokens.len();
        let store = loss.backward()?;
        for (sum, var) in sums.iter_mut().zip(vars) {
            let Some(gradient) = store.get(var) else {
                continue;
            };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            match sum {
                None => *sum = Some(gradient),
                Some(sum) => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
            }
        }
    }
    Ok((total, sums, tokens))
}

/// Held-out nats: per token, and over all tokens.
fn held_out(decoder: &Decoder, corpus: &Corpus, how: &Pretrain) -> Result<(f64, f64)> {
    let (mut sum, mut n) = (0.0, 0);
    for batch in corpus.held_out(how.batch_tokens)? {
        let losses = losses(decoder, &batch, None, None, false)?.to_vec1::<f32>()?;
        sum += losses.into_iter().map(f64::from).sum::<f64>();
        n += batch.ids.len();
    }
    Ok((sum / n as f64, sum))
}

fn initial(
    how: &Pretrain,
    shapes: &BTreeMap<String, Vec<usize>>,
    device: &Device,
) -> Result<BTreeMap<String, Var>> {
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
        let tensor = Tensor::from_vec(values, shape.as_slice(), device)?;
        Ok((name.clone(), Var::from_tensor(&tensor)?))
    };
    shapes.iter().map(one).collect()
}
