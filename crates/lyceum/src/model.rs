//! A base with a mixture over it: losses, logits and scores; [`generate`](crate::generate) has
//! text.

pub mod multi;
mod saved;
mod score;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

pub use saved::{SaveConfig, Saved};

use crate::backbone::{Base, Logits};
use crate::data::Tokens;
use crate::error::Result;
use crate::library::Library;
use crate::mix::{Mixing, Mixture, Pass, Probe, Route, SeqLens};
use crate::name::Name;
use crate::route::Router;

/// Packed examples: tokens end to end, and which of them are targets.
///
/// ```
/// use std::sync::Arc;
/// use lyceum::model::Batch;
/// use lyceum::prelude::*;
///
/// let model = Model::new(Arc::new(lyceum::assets::base(Precision::F32)?));
/// let example = &lyceum::assets::tasks()?.examples[0];
/// let tokens = model.base().tokenizer.training(example, 128)?;
/// let batch = Batch::new([(&tokens, example.task.clone())]);
/// let losses = model.losses(&batch, None)?;
/// assert_eq!(losses.dims(), [batch.target_ids.len()]);
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Batch {
    /// All tokens, `[t]`.
    pub tokens: Vec<u32>,
    /// The boundaries of the packed examples.
    pub seq_lens: SeqLens,
    /// The positions in `tokens` whose next token is a target, `[n]`.
    pub target_positions: Vec<u32>,
    /// The token ids of the targets, `[n]`.
    pub target_ids: Arc<[u32]>,
    /// The index of each target's example, `[n]`.
    pub target_seqs: Vec<usize>,
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
        let (mut positions, mut ids, mut seqs) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (example, task)) in examples.into_iter().enumerate() {
            // The first token has nothing before it to be predicted from.
            for at in example.from.max(1)..example.ids.len() {
                positions.push((tokens.len() + at - 1) as u32);
                ids.push(example.ids[at]);
                seqs.push(i);
            }
            let read = example.ids.len().saturating_sub(unread);
            tokens.extend_from_slice(&example.ids[..read]);
            lens.push(read);
            tasks.push(task);
        }
        Batch {
            tokens,
            seq_lens: SeqLens::new(&lens),
            target_positions: positions,
            target_ids: ids.into(),
            target_seqs: seqs,
            tasks,
        }
    }
}

impl Base {
    /// The base routed by `router` over the experts of `library`, their outputs mixed exactly
    /// ([`Mixing::Outputs`]); [`Library::members`] selects experts.
    ///
    /// # Errors
    /// See [`Router::mixture`].
    pub fn route(self: &Arc<Self>, library: &Library, router: &Router) -> Result<Model> {
        Model::routed(self.clone(), library, router, Mixing::Outputs)
    }
}

/// A base, and the experts over it.
///
/// ```no_run
/// use std::sync::Arc;
/// use lyceum::prelude::*;
///
/// let base = Arc::new(lyceum::assets::base(Precision::F32)?);
/// let alone = Model::new(base.clone());
/// assert!(alone.mixture().is_none());
/// let library = Library::open("experts")?;
/// let routed = base.route(&library, &Router::arrow().top_k(2))?;
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Model {
    base: Arc<Base>,
    mixture: Option<Arc<Mixture>>,
    notes: Vec<String>,
}

impl Model {
    /// Returns `base` alone.
    pub fn new(base: Arc<Base>) -> Self {
        Model {
            base,
            mixture: None,
            notes: Vec::new(),
        }
    }

    /// Returns `base` with `mixture` in every pass.
    pub fn with_mixture(base: Arc<Base>, mixture: Mixture) -> Self {
        Model {
            mixture: Some(Arc::new(mixture)),
            ..Model::new(base)
        }
    }

    /// Routes over the experts of `library`; merged ones count where they are asked for
    /// ([`Library::members`]).
    ///
    /// # Errors
    /// See [`Router::mixture`].
    pub fn routed(
        base: Arc<Base>,
        library: &Library,
        spec: &Router,
        mixing: Mixing,
    ) -> Result<Self> {
        let mut model = match spec.mixture(library, &base.host(), mixing)? {
            Some(mixture) => Model::with_mixture(base, mixture),
            None => Model::new(base),
        };
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

    /// Warnings for whoever reads its results, one sentence each: which experts were trained over
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

    /// The route of a pass of `seq_lens` through the mixture.
    pub(crate) fn route(&self, seq_lens: &SeqLens) -> Option<Route<'_>> {
        Route::all(seq_lens, self.mixture())
    }

    /// Next-token logits `[t, v]` at every token of packed sequences.
    ///
    /// # Errors
    /// When a sequence is too long or the router cannot decide.
    pub fn logits(&self, tokens: &[u32], seq_lens: &SeqLens, tasks: &[Name]) -> Result<Tensor> {
        let decoder = &self.base.decoder;
        let route = self.route(seq_lens);
        let pass = Pass {
            tasks,
            routes: route.as_slice(),
            ..Pass::new(seq_lens)
        };
        let hidden = decoder.hidden(tokens, None, &pass)?;
        decoder.logits(&hidden, Logits::All)
    }

    /// Cross-entropy of every target token, `[n]`, differentiable.
    ///
    /// # Errors
    /// When a sequence is too long or the router cannot decide.
    pub fn losses(&self, batch: &Batch, probe: Option<&dyn Probe>) -> Result<Tensor> {
        losses(&self.base.decoder, batch, self.mixture(), probe, false)
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
    let route = Route::all(&batch.seq_lens, mixture);
    let pass = Pass {
        seq_lens: &batch.seq_lens,
        tasks: &batch.tasks,
        routes: route.as_slice(),
        probe,
        recompute,
    };
    let hidden = decoder.hidden_at(&batch.tokens, &batch.target_positions, None, &pass)?;
    decoder.losses(&hidden, &batch.target_ids)
}
