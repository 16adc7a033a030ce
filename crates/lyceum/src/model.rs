//! A base with a mixture over it: losses, logits, scores and text.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lyceum_kernels::loss;
use serde::{Deserialize, Serialize};

use crate::backbone::{Base, Cache, Logits};
use crate::data::Tokens;
use crate::error::{Error, Result};
use crate::library::{Library, Members};
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
        let (mut tokens, mut lens, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rows, mut ids, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (example, task)) in examples.into_iter().enumerate() {
            // The first token has nothing before it to be predicted from.
            for at in example.from.max(1)..example.ids.len() {
                rows.push((tokens.len() + at - 1) as u32);
                ids.push(example.ids[at]);
                owners.push(i);
            }
            tokens.extend_from_slice(&example.ids);
            lens.push(example.ids.len());
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
}

/// What a saved model says about itself: `model.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: u32,
    base_path: Option<String>,
    base_name: String,
    base_fingerprint: String,
    mixing: Mixing,
    spec: RouterSpec,
    /// The experts it routes over; all in its library where an older version did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    experts: Option<Vec<Name>>,
}

impl Model {
    /// A model over `base`; no mixture is the base alone.
    pub fn new(base: Arc<Base>, mixture: Option<Mixture>) -> Self {
        Model {
            base,
            mixture: mixture.map(Arc::new),
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
        Ok(Model::new(base, mixture))
    }

    /// The frozen base.
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// The mixture, unless this is the base alone.
    pub fn mixture(&self) -> Option<&Mixture> {
        self.mixture.as_deref()
    }

    /// Saves a routed model as a folder: its experts and artifacts as a library, and
    /// `model.json` (written last). The base itself is not copied but remembered by fingerprint.
    ///
    /// # Errors
    /// When the router's artifact is missing, or the folder cannot be written or already holds
    /// other experts.
    pub fn save(
        dir: &Path,
        library: &Library,
        base: (&Base, Option<&Path>),
        spec: RouterSpec,
        mixing: Mixing,
    ) -> Result<()> {
        let library = &library.chosen()?;
        spec.mixture(library, &base.0.host(), mixing)?;
        let uri = dir
            .to_str()
            .ok_or_else(|| Error::invalid("the folder's name is not UTF-8"))?;
        library.copy_to(&Library::create(uri)?)?;
        let saved = Saved {
            format: 1,
            base_path: base.1.map(|p| p.display().to_string()),
            base_name: base.0.name.clone(),
            base_fingerprint: base.0.fingerprint.clone(),
            mixing,
            spec,
            experts: Some(library.names()?),
        };
        let mut json =
            serde_json::to_vec_pretty(&saved).map_err(|e| Error::format("model.json", e))?;
        json.push(b'\n');
        crate::file::write(&dir.join("model.json"), &json)
    }

    /// Where the base of the model saved in `dir` was; `None` for the embedded one.
    ///
    /// # Errors
    /// When `dir` is not a saved model.
    pub fn saved_base(dir: &Path) -> Result<Option<String>> {
        Ok(saved(dir)?.base_path)
    }

    /// Opens the model saved in `dir` over `base`.
    ///
    /// # Errors
    /// When `dir` is not a saved model, or was saved over another base.
    pub fn open(dir: &Path, base: Arc<Base>) -> Result<Self> {
        let saved = saved(dir)?;
        if saved.base_fingerprint != base.fingerprint {
            return Err(Error::Mismatch(format!(
                "{} was saved over the base `{}` ({:.12}), not `{}` ({:.12}); pass --base",
                dir.display(),
                saved.base_name,
                saved.base_fingerprint,
                base.name,
                base.fingerprint
            )));
        }
        let uri = dir
            .to_str()
            .ok_or_else(|| Error::invalid("the folder's name is not UTF-8"))?;
        let members = saved.experts.map_or(Members::All, Members::Named);
        let library = Library::open(uri)?.members(&members)?;
        Model::routed(base, &library, &saved.spec, saved.mixing)
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

    /// For each group, the summed log-probability of the target tokens of each of its sequences.
    /// Whatever the sequences of a group begin with in common is computed once.
    ///
    /// # Errors
    /// When a sequence is too long or the router cannot decide.
    pub fn score(&self, groups: &[&[Tokens]], tasks: &[Name]) -> Result<Vec<Vec<f64>>> {
        let decoder = &self.base.decoder;
        let shared: Vec<usize> = groups.iter().map(|group| common(group)).collect();
        let has = shared.iter().any(|&n| n > 0);
        let mut parents = Vec::new();
        let mut own_tasks = Vec::new();
        for (g, group) in groups.iter().enumerate() {
            parents.extend(std::iter::repeat_n(g, group.len()));
            own_tasks.extend(
                tasks
                    .get(g)
                    .map(|t| vec![t.clone(); group.len()])
                    .unwrap_or_default(),
            );
        }
        let mut cache = decoder.cache(groups.len());
        if has {
            let prefix: Vec<u32> = groups
                .iter()
                .zip(&shared)
                .flat_map(|(g, &n)| g[0].ids[..n].to_vec())
                .collect();
            let segments = Segments::new(&shared);
            decoder.hidden_at(&prefix, &[], Some(&mut cache), &self.pass(&segments, tasks))?;
        }
        let mut cache = cache.fork(&parents);
        let rest = groups.iter().zip(&shared).flat_map(|(group, &n)| {
            group.iter().map(move |t| Tokens {
                ids: t.ids[n..].to_vec(),
                from: t.from - n,
            })
        });
        let rest: Vec<Tokens> = rest.collect();
        let name = Name::new("score")?;
        let batch = Batch::new(rest.iter().map(|tokens| (tokens, name.clone())));
        let past: Vec<usize> = parents.iter().map(|&p| shared[p]).collect();
        let segments = Segments::after(batch.segments.lens(), &past)?;
        let pass = self.pass(&segments, &own_tasks);
        let hidden = decoder.hidden_at(&batch.tokens, &batch.rows, Some(&mut cache), &pass)?;
        let losses = decoder.losses(&hidden, &batch.ids)?.to_vec1::<f32>()?;
        let mut sums = vec![0.0; rest.len()];
        for (owner, loss) in batch.owners.iter().zip(losses) {
            sums[*owner] -= f64::from(loss);
        }
        let mut sums = sums.into_iter();
        Ok(groups
            .iter()
            .map(|group| sums.by_ref().take(group.len()).collect())
            .collect())
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
            let keep: Vec<bool> = (0..live.len())
                .map(|i| {
                    let (prompt, token) = (live[i], next[i]);
                    if self.base.stops.contains(&token) {
                        return false;
                    }
                    out[prompt].push(token);
                    each(prompt, token);
                    held[i] < longest && out[prompt].len() < how.max_new
                })
                .collect();
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

fn saved(dir: &Path) -> Result<Saved> {
    let path = dir.join("model.json");
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::format(path.display(), e))
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

/// How many first tokens all sequences of a group share, leaving each its targets and one more.
fn common(group: &[Tokens]) -> usize {
    let Some(first) = group.first() else { return 0 };
    let limit = group
        .iter()
        .map(|t| t.from.saturating_sub(1))
        .min()
        .unwrap_or(0);
    (0..limit)
        .take_while(|&i| group.iter().all(|t| t.ids[i] == first.ids[i]))
        .count()
}
