//! A base with a mixture over it: losses, logits, scores and text.

mod saved;
mod score;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lyceum_kernels::loss;

pub use saved::Saved;

use crate::backbone::{Base, Cache, Logits};
use crate::data::Tokens;
use crate::error::{Error, Result};
use crate::library::Library;
use crate::mix::{Mixing, Mixture, Pass, Probe, Segments};
use crate::name::Name;
use crate::ops;
use crate::route::RouterSpec;

/// Packed examples: tokens end to end, and which of them are targets.
#[derive(Debug, Clone)]
pub struct Batch {
    /// All tokens, `[t]`.
    pub tokens: Vec<u32>,
    /// Where one example ends and the next begins.
    pub segments: Segments,
    /// Rows whose next token is a target, `[n]`.
    pub rows: Vec<u32>,
    /// The target ids, `[n]`.
    pub ids: Arc<[u32]>,
    /// The example each target belongs to, `[n]`.
    pub owners: Vec<usize>,
    /// The task of each example.
    pub tasks: Vec<Name>,
}

impl Batch {
    /// Packs tokenised examples with their tasks.
    pub fn new<'a>(examples: impl IntoIterator<Item = (&'a Tokens, Name)>) -> Self {
        Batch::packed(examples, 0)
    }

    /// Packs examples, leaving their last `unread` tokens out of what is computed.
    fn packed<'a>(examples: impl IntoIterator<Item = (&'a Tokens, Name)>, unread: usize) -> Self {
        let (mut tokens, mut lens, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rows, mut ids, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (example, task)) in examples.into_iter().enumerate() {
            // The first token has nothing before it to be predicted from.
            for at in example.from.max(1)..example.ids.len() {
                rows.push((tokens.len() + at - 1) as u32);
                ids.push(example.ids[at]);
                owners.push(i);
            }
            let read = example.ids.len().saturating_sub(unread);
            tokens.extend_from_slice(&example.ids[..read]);
            lens.push(read);
            tasks.push(task);
        }
        Batch {
            tokens,
            segments: Segments::new(&lens),
            rows,
            ids: ids.into(),
            owners,
            tasks,
        }
    }
}

/// How text is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoding {
    /// Most new tokens per prompt.
    pub max_new: usize,
    /// Sequences decoded together.
    pub live: usize,
}

impl Default for Decoding {
    fn default() -> Self {
        Decoding {
            max_new: 128,
            live: 32,
        }
    }
}

/// Most tokens computed in one step of decoding while prompts enter, unless one alone has more;
/// bounds memory.
const ENTERING: usize = 8192;

/// A base, and the experts over it.
#[derive(Debug, Clone)]
pub struct Model {
    base: Arc<Base>,
    mixture: Option<Arc<Mixture>>,
    notes: Vec<String>,
}

impl Model {
    /// A model over `base`; no mixture is the base alone.
    pub fn new(base: Arc<Base>, mixture: Option<Mixture>) -> Self {
        Model {
            base,
            mixture: mixture.map(Arc::new),
            notes: Vec::new(),
        }
    }

    /// Routes over the experts of `library`; merged ones count where they are asked for
    /// ([`Library::members`]).
    ///
    /// # Errors
    /// See [`RouterSpec::mixture`].
    pub fn routed(
        base: Arc<Base>,
        library: &Library,
        spec: &RouterSpec,
        mixing: Mixing,
    ) -> Result<Self> {
        let mixture = spec.mixture(library, &base.host(), mixing)?;
        let mut model = Model::new(base, mixture);
        model.notes = model.trained_elsewhere(library)?;
        Ok(model)
    }

    /// A sentence per other base that its experts were trained over.
    fn trained_elsewhere(&self, library: &Library) -> Result<Vec<String>> {
        let (base, mut others) = (&self.base, BTreeMap::<_, Vec<&str>>::new());
        let names = self.mixture().map_or(&[][..], |m| m.bank.names());
        for name in names {
            let entry = library.entry(name)?;
            if let Some(own) = entry.base.filter(|own| *own != base.fingerprint) {
                let trained = (own, entry.base_name);
                others.entry(trained).or_default().push(name.as_str());
            }
        }
        let sentence = |((fingerprint, called), names): ((String, String), Vec<&str>)| {
            format!(
                "Trained over other weights of the base's architecture ({called}, \
                 {fingerprint:.12}) than the base's ({}, {:.12}): {}.",
                base.name,
                base.fingerprint,
                names.join(", ")
            )
        };
        Ok(others.into_iter().map(sentence).collect())
    }

    /// What a reader of its results should know, a sentence each: which experts were trained over
    /// other weights than the base's.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The frozen base.
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// The mixture, unless this is the base alone.
    pub fn mixture(&self) -> Option<&Mixture> {
        self.mixture.as_deref()
    }

    fn pass<'a>(&'a self, segments: &'a Segments, tasks: &'a [Name]) -> Pass<'a> {
        Pass {
            segments,
            tasks,
            mixture: self.mixture(),
            probe: None,
            recompute: false,
        }
    }

    /// Next-token logits `[t, v]` at every token of packed sequences.
    ///
    /// # Errors
    /// When a sequence is too long or the router cannot decide.
    pub fn logits(&self, tokens: &[u32], segments: &Segments, tasks: &[Name]) -> Result<Tensor> {
        let decoder = &self.base.decoder;
        let hidden = decoder.hidden(tokens, None, &self.pass(segments, tasks))?;
        decoder.logits(&hidden, Logits::All)
    }

    /// Cross-entropy of every target token, `[n]`, differentiable.
    ///
    /// # Errors
    /// When a sequence is too long or the router cannot decide.
    pub fn losses(&self, batch: &Batch, probe: Option<&dyn Probe>) -> Result<Tensor> {
        losses(&self.base.decoder, batch, self.mixture(), probe, false)
    }

    /// Continues prompts greedily, `how.live` at a time: one that ends makes room for the next. A
    /// sequence stops at a token of [`Base::stops`] or after `how.max_new` tokens. What comes out
    /// does not depend on what is decoded beside it. `each` sees every new token as it comes:
    /// (prompt, token).
    ///
    /// # Errors
    /// When a prompt is empty or too long, or the router cannot decide.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        tasks: &[Name],
        how: &Decoding,
        mut each: impl FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>> {
        self.stream(prompts, tasks, how, |prompt, token| {
            each(prompt, token);
            ControlFlow::Continue(())
        })
    }

    /// As [`Model::generate`], until `each` breaks off: then every prompt has what there is.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub fn stream(
        &self,
        prompts: &[Vec<u32>],
        tasks: &[Name],
        how: &Decoding,
        mut each: impl FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>> {
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::invalid("a prompt must hold at least one token"));
        }
        if !tasks.is_empty() && tasks.len() != prompts.len() {
            return Err(Error::invalid("name the task of every prompt, or of none"));
        }
        let decoder = &self.base.decoder;
        let longest = decoder.config().max_position_embeddings;
        let mut out = vec![Vec::new(); prompts.len()];
        let mut waiting = (0..prompts.len()).filter(|_| how.max_new > 0).peekable();
        let mut live: Vec<usize> = Vec::new();
        let mut cache: Cache = decoder.cache(0);
        loop {
            // The last token of those that go on, and the prompts of those that enter.
            let mut tokens: Vec<u32> = live
                .iter()
                .filter_map(|&i| out[i].last().copied())
                .collect();
            let mut lens = vec![1; live.len()];
            while let Some(&next) = waiting.peek() {
                let room = live.len() < how.live && tokens.len() + prompts[next].len() <= ENTERING;
                if !room && !live.is_empty() {
                    break;
                }
                waiting.next();
                live.push(next);
                lens.push(prompts[next].len());
                tokens.extend_from_slice(&prompts[next]);
                cache.enter(1);
            }
            if live.is_empty() {
                return Ok(out);
            }
            let own: Vec<Name> = live.iter().filter_map(|&i| tasks.get(i).cloned()).collect();
            // A step is many short pieces of parallel work: on a thread of the pool none of them waits
            // for another thread to wake up.
            let next = rayon::scope(|_| self.step(&tokens, &lens, &own, &mut cache))?;
            let held = cache.lens().to_vec();
            let mut stopped = false;
            let keep: Vec<bool> = (0..live.len())
                .map(|i| {
                    let (prompt, token) = (live[i], next[i]);
                    if self.base.stops.contains(&token) {
                        return false;
                    }
                    out[prompt].push(token);
                    stopped = stopped || each(prompt, token).is_break();
                    held[i] < longest && out[prompt].len() < how.max_new
                })
                .collect();
            if stopped {
                return Ok(out);
            }
            cache.retain(&keep);
            let mut flags = keep.iter();
            live.retain(|_| flags.next().copied().unwrap_or(false));
        }
    }

    /// The most likely token after each of the sequences that go on with `lens` of `tokens`.
    fn step(
        &self,
        tokens: &[u32],
        lens: &[usize],
        tasks: &[Name],
        cache: &mut Cache,
    ) -> Result<Vec<u32>> {
        let segments = Segments::after(lens, cache.lens())?;
        let ends = lens.iter().scan(0, |end, len| {
            *end += len;
            Some(*end as u32)
        });
        let rows: Vec<u32> = ends.map(|end| end - 1).collect();
        let pass = self.pass(&segments, tasks);
        let decoder = &self.base.decoder;
        let hidden = decoder.hidden_at(tokens, &rows, Some(cache), &pass)?;
        let logits = decoder.logits(&hidden, Logits::All)?;
        let v = logits.dims2()?.1;
        let logits = logits.to_device(&Device::Cpu)?;
        Ok(loss::argmax(&ops::values(&logits)?, v))
    }
}

/// Cross-entropy of every target token of `batch`, `[n]`, through any decoder and mixture.
pub(crate) fn losses(
    decoder: &crate::backbone::Decoder,
    batch: &Batch,
    mixture: Option<&Mixture>,
    probe: Option<&dyn Probe>,
    recompute: bool,
) -> Result<Tensor> {
    let pass = Pass {
        segments: &batch.segments,
        tasks: &batch.tasks,
        mixture,
        probe,
        recompute,
    };
    let hidden = decoder.hidden_at(&batch.tokens, &batch.rows, None, &pass)?;
    decoder.losses(&hidden, &batch.ids)
}
