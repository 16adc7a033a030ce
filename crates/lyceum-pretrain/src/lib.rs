//! Pre-training a base for Lyceum: the same decoder with its own weights as variables.
//!
//! Batches are ragged as everywhere: whole documents packed end to end, each from position 0, as
//! prompts are at evaluation. Their order is decided by the seed alone, so a resumed run sees what
//! an uninterrupted one would.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may"))]

mod corpus;
mod ngram;
mod overlap;
mod questions;
mod sources;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use corpus::Corpus;
use lyceum::backbone::{Decoder, GptNeo, Precision, write_folder};
use lyceum::error::{Error, Result};
use lyceum::mix::Pass;
use lyceum::model::Batch;
use lyceum::progress::Progress;
use lyceum::rng::Rng;
use lyceum::train::Schedule;
use lyceum::train::fit::{Checkpointer, Learner, Losses, MicroBatch, Objective, fit};

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
    /// Repetitions of each task row and prompt in one pass over all text.
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
        use lyceum::backbone::Span::{Global, Local};
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

    /// Returns `true` if a run of `steps` steps under `self` may continue under `other`: the same
    /// data, model and learning rates so far.
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

/// The curves and figures of a pre-training run: `pretrain.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PretrainState {
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

/// Pre-trains on `device` into the folder `out` (a Hugging Face folder plus `pretrain.json`), from
/// files below `root`; continues from the checkpoint there, if any.
///
/// # Errors
/// When data is missing, a setting is out of range, the device fails or the loss is not finite;
/// [`Error::Stopped`] when `progress` stops the run before its last step, and then the steps are
/// kept in `out`.
pub fn pretrain(
    how: &Pretrain,
    root: &Path,
    out: &Path,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<PretrainState> {
    how.check()?;
    let corpus = Corpus::open(how, root, out)?;
    let config = how.config();
    let described = config.describe()?;
    let shapes: BTreeMap<String, Vec<usize>> = described.tensors().into_iter().collect();
    let vars = initial(how, &shapes, device)?;
    let mut learner = Learner::new(vars.values().cloned().collect(), how.schedule())
        .weight_decay(how.weight_decay)
        .clip(how.clip);
    let mut state = state::resume(out, how, &vars, &mut learner)?;
    state.pass_tokens = corpus.tokens();
    state.avoided = corpus.avoided;
    let decoder = Decoder::trainable(described, &vars, how.precision)?;
    let mut documents = Documents {
        how,
        plan: corpus.plan(how.seed, how.batch_tokens, how.steps * how.accumulate),
        corpus: &corpus,
        decoder: &decoder,
    };
    let mut saver = Saver {
        how,
        out,
        config: &config,
        vars: &vars,
        corpus: &corpus,
        decoder: &decoder,
        seen: documents.plan[..how.steps * how.accumulate].concat(),
        state,
    };
    let mut learners = [learner];
    let outcome = fit(&mut learners, &mut documents, &mut saver, progress)?;
    if let Some((done, total)) = outcome.unfinished() {
        return Err(Error::Stopped(format!(
            "stopped after step {done} of {total}; the steps are kept in {}, and the same \
             pre-training goes on from there",
            out.display()
        )));
    }
    Ok(saver.state)
}

/// The documents of the corpus in the order in which a model sees them.
struct Documents<'a> {
    how: &'a Pretrain,
    corpus: &'a Corpus,
    decoder: &'a Decoder,
    /// The documents of every micro-batch.
    plan: Vec<Vec<usize>>,
}

/// The documents of a micro-batch.
struct Packed {
    batch: Batch,
    /// Targets of the whole step.
    targets: usize,
}

impl Objective for Documents<'_> {
    type Rows = Packed;

    fn skip(&mut self, _: usize, _: usize) {
        // The plan is indexed by the step.
    }

    fn deal(&mut self, step: usize, _: &[usize]) -> Result<Vec<MicroBatch<Packed>>> {
        let parts = &self.plan[step * self.how.accumulate..][..self.how.accumulate];
        let batches: Vec<Batch> = { parts.iter() }
            .map(|documents| self.corpus.batch(documents))
            .collect::<Result<_>>()?;
        let targets = batches.iter().map(|batch| batch.target_ids.len()).sum();
        let packed = |batch| MicroBatch {
            learners: vec![0],
            rows: Packed { batch, targets },
        };
        Ok(batches.into_iter().map(packed).collect())
    }

    /// Their share of the mean loss over all targets of the step.
    fn losses(&self, part: &MicroBatch<Packed>, _: usize) -> Result<Losses> {
        let Packed { batch, targets } = &part.rows;
        let sum = losses(self.decoder, batch)?.sum_all()?;
        Ok(Losses {
            values: (sum / *targets as f64)?.reshape(1)?,
            tokens: batch.tokens.len(),
        })
    }
}

/// Writes the base and a checkpoint every so many steps, and measures the held-out loss then.
struct Saver<'a> {
    how: &'a Pretrain,
    out: &'a Path,
    config: &'a GptNeo,
    vars: &'a BTreeMap<String, Var>,
    corpus: &'a Corpus,
    decoder: &'a Decoder,
    /// The documents of all steps.
    seen: Vec<usize>,
    state: PretrainState,
}

impl Checkpointer for Saver<'_> {
    fn stepped(&mut self, learners: &[Learner], finished: &[usize]) -> Result<()> {
        let done = learners[0].losses().len();
        let last = !finished.is_empty();
        if !done.is_multiple_of(self.how.save_every) && !last {
            return Ok(());
        }
        let (mean, sum) = held_out(self.decoder, self.corpus, self.how)?;
        let bits = self.corpus.bits_per_byte(sum);
        self.state.held_out.push((done, mean, bits));
        if last {
            let (train, held) = self.corpus.documents(self.seen.iter());
            let nats = ngram::nats(&train, held, self.how.vocab);
            self.state.baseline = Some(self.corpus.bits_per_byte(nats));
        }
        self.save(&learners[0])
    }

    fn stopping(&mut self, learners: &[Learner]) -> Result<()> {
        self.save(&learners[0])
    }
}

impl Saver<'_> {
    fn save(&mut self, learner: &Learner) -> Result<()> {
        self.state.losses = learner.losses().to_vec();
        let tensors = { self.vars.iter() }
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
        write_folder(self.out, self.config, &tensors, &self.corpus.tokenizer)?;
        state::save(self.out, self.how, self.vars, learner, &self.state)
    }
}

/// Cross-entropy of every target of `batch`, `[n]`, in nats.
fn losses(decoder: &Decoder, batch: &Batch) -> Result<Tensor> {
    let pass = Pass {
        tasks: &batch.tasks,
        ..Pass::new(&batch.seq_lens)
    };
    let hidden = decoder.hidden_at(&batch.tokens, &batch.target_positions, None, &pass)?;
    decoder.losses(&hidden, &batch.target_ids)
}

/// Held-out nats: per token, and over all tokens.
fn held_out(decoder: &Decoder, corpus: &Corpus, how: &Pretrain) -> Result<(f64, f64)> {
    let (mut sum, mut n) = (0.0, 0);
    for batch in corpus.held_out(how.batch_tokens)? {
        let losses = losses(decoder, &batch)?.to_vec1::<f32>()?;
        sum += losses.into_iter().map(f64::from).sum::<f64>();
        n += batch.target_ids.len();
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
